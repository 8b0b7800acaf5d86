"""Invariants 3 and 4: only rightful orders act, and silence means safe."""

from __future__ import annotations

from dataclasses import dataclass

from contract.messages import BankPlate, Receipt, Workload
from sim.checkers.base import Allowances, Checker, Kept, Spans, grain_w, path, shown_at_most_w
from sim.checkers.lease import Good, Leases
from sim.checkers.world import CapSource, DeviceCommanded, ReceiptSent, SiteTruth, World


@dataclass(frozen=True, slots=True)
class _Unlimited:
    """A bank that was raised above what its orders allow, and may yet be limited."""

    since_ms: int
    ceiling_w: float
    detail: str


class OnlyRightfulOrdersAct(Checker):
    """3: no bank acts on an expired, older-epoch or lower-sequence order.

    Three ways to see it. An agent's receipt accepts an order that was not rightful when it arrived. A device was
    raised, and the bank thereby commanded above what any order rightfully in force within the last commanding time lets
    it draw; where the bank may run, and its devices at less than their rated power, it has to stay so for longer than
    a limit takes that follows a wake. A device was lowered, and the bank thereby commanded below what every such order
    asks, on a site where nothing local (a breaker near its limit, heat, a cap, a fault, a person) has given reason to
    for a quarter of an hour.
    """

    invariant = 3

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._leases = Leases(self.allow.clock_ms)
        self._before_w: dict[tuple[str, str], float] = {}
        self._unlimited: dict[tuple[str, str], _Unlimited] = {}
        self._calm = Spans()

    def observe(self, world: World) -> None:
        raised: dict[tuple[str, str], bool] = {}
        lowered: dict[tuple[str, str], bool] = {}
        for event in world.events:
            self._leases.take(event)
            if isinstance(event, ReceiptSent):
                self._accepted(event.receipt, event.at_ms)
            elif isinstance(event, DeviceCommanded):
                (raised if event.raises else lowered)[event.site, event.bank] = True
        for site, truth in world.sites.items():
            for bank in truth.plate.banks:
                key = (site, bank.id)
                calm_ms = self._calm.lasts_ms(key, world.now_ms, so=_calm(truth, bank, self.allow))
                if key in raised:
                    self._raised(site, truth, bank, world.now_ms)
                self._limited(site, truth, bank, world.now_ms)
                if key in lowered and calm_ms >= self.allow.calm_ms:
                    self._lowered(site, truth, bank, world.now_ms)
                self._before_w[key] = truth.commanded_w(bank.id)

    def _accepted(self, receipt: Receipt, at_ms: int) -> None:
        """An order that was never delivered cannot be accepted either."""
        if not receipt.accepted:
            return
        order = (receipt.epoch, receipt.order_seq)
        wrong = self._leases.of(receipt.site).verdicts.get(order, "it was never delivered")
        detail = f"order {receipt.epoch}/{receipt.order_seq} was accepted although {wrong}"
        self.expect(wrong is None, ("accepted", receipt.site, order), at_ms, receipt.site, detail)

    def _raised(self, site: str, truth: SiteTruth, bank: BankPlate, now_ms: int) -> None:
        now_w = truth.commanded_w(bank.id)
        if truth.local or (bank.workload is Workload.HASH and now_w <= self._before_w.get((site, bank.id), 0.0)):
            return
        rightful = self._leases.of(site).between(now_ms - self.allow.command_ms, now_ms)
        most_w = max((good.allows_w(bank.id, bank.workload) for good in rightful), default=0)
        slack_w = grain_w(bank) + self.allow.power_share * bank.rated_w
        detail = f"{bank.id} was raised to {now_w:.0f} W commanded; {_said(rightful)} at most {most_w} W"
        if bank.workload is Workload.HPC:
            holds = most_w > 0
        else:
            ceiling_w = max(most_w, bank.idle_w) + slack_w
            holds = now_w <= ceiling_w + truth.stuck_w(bank.id)
            if not holds and most_w > bank.idle_w and len(bank.levels) > 1:
                self._unlimited.setdefault((site, bank.id), _Unlimited(now_ms, ceiling_w, detail))
                return
        self.expect(holds, ("raised", site, bank.id), now_ms, site, detail)

    def _limited(self, site: str, truth: SiteTruth, bank: BankPlate, now_ms: int) -> None:
        """Whether devices that were woken too high have been limited, or stay so."""
        waits = self._unlimited.get((site, bank.id))
        if waits is None:
            return
        if truth.local or truth.commanded_w(bank.id) <= waits.ceiling_w + truth.stuck_w(bank.id):
            del self._unlimited[site, bank.id]
        elif now_ms - waits.since_ms > self.allow.limit_ms:
            del self._unlimited[site, bank.id]
            self.flag(("raised", site, bank.id), waits.since_ms, site, waits.detail)

    def _lowered(self, site: str, truth: SiteTruth, bank: BankPlate, now_ms: int) -> None:
        now_w = truth.commanded_w(bank.id)
        lease, from_ms = self._leases.of(site), now_ms - self.allow.command_ms - self.allow.poll_ms
        if bank.workload is Workload.HPC or now_w >= self._before_w.get((site, bank.id), 0.0):
            return
        if not lease.covers(from_ms, now_ms):
            return
        least_w = min(good.allows_w(bank.id, bank.workload) for good in lease.between(from_ms, now_ms))
        slack_w = grain_w(bank) + 2 * self.allow.power_share * bank.rated_w
        detail = f"{bank.id} was lowered to {now_w:.0f} W commanded; every order in force asks at least {least_w} W"
        self.expect(now_w >= least_w - slack_w, ("lowered", site, bank.id), now_ms, site, detail)


class SilenceIsSafe(Checker):
    """4: when the controller has been gone for one lease, every bank is safe.

    By the reference lease, not the agent's: once the last rightful order's lease is over, and the nameplate's
    `fail_safe_after_ms` with it, a running agent has `safe_ms` to bring every bank's true power to its fail-safe. A
    restarted agent has its handover first. Safe is the fail-safe power, never below idle, nor below what firm jobs
    draw: those are touched by interlocks, stops and obligations only. A partition that was safe may leave it for an
    excursion: a scheduler that can only hold the jobs it has starts a new one, and the agent stops it on sight.
    """

    invariant = 4

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._leases = Leases(self.allow.clock_ms)
        self._kept = Kept(self.allow.excursion_ms)

    def observe(self, world: World) -> None:
        for event in world.events:
            self._leases.take(event)
        for site, truth in world.sites.items():
            late_ms = self._late_ms(site, truth, world.now_ms)
            for bank in truth.plate.banks:
                safe_w = max(bank.fail_safe_w, bank.idle_w, round(truth.firm_w(bank.id)))
                most_w = shown_at_most_w(bank, safe_w, self.allow) + truth.stuck_w(bank.id)
                shown_w = truth.bank_w(bank.id)
                detail = f"{bank.id} draws {shown_w:.0f} W, safe is {safe_w} W; no lease, {late_ms} ms late"
                due, above = late_ms is not None and late_ms > 0, shown_w > most_w
                kept, _ = self._kept.look((site, bank.id), world.now_ms, binding=due, over=above)
                safe = kept if bank.workload is Workload.HPC else not (due and above)
                self.expect(safe, (site, bank.id), world.now_ms, site, detail)

    def _late_ms(self, site: str, truth: SiteTruth, now_ms: int) -> int | None:
        """How long the site ought to have been safe; None where it ought not yet, or nobody is there to see to it."""
        if truth.agent_since_ms is None or truth.local:
            return None
        starts = [truth.agent_since_ms + self.allow.handover_ms]
        ends_ms = self._leases.of(site).ends_ms
        if ends_ms is not None:
            starts.append(ends_ms + truth.plate.fail_safe_after_ms)
        return now_ms - (max(starts) + self.allow.safe_ms)


def _calm(truth: SiteTruth, bank: BankPlate, allow: Allowances) -> bool:
    """Whether nothing on the site itself gives reason to lower a bank below its order."""
    if truth.local or truth.agent_since_ms is None or truth.sensed_since_ms is None:
        return False
    if any(cap.source is not CapSource.BREAKER for cap in truth.caps) or truth.dues or truth.stuck_w(bank.id) > 0:
        return False
    limit_c = truth.inlet_limit_c(bank.id)
    if limit_c is not None and truth.inlet_c(bank.id) > limit_c - 3 * allow.temp_c:
        return False
    limits_w = {feeder.id: feeder.limit_w for feeder in truth.plate.feeders}
    near = 1 - 5 * allow.cap_share
    return all(truth.feeder_w(node) < near * limits_w[node] for node in path(truth.plate, bank.feeder))


def _said(rightful: list[Good]) -> str:
    if not rightful:
        return "no order was in force, which allows"
    names = ", ".join(f"{good.order.epoch}/{good.order.seq}" for good in rightful[-3:])
    return f"the orders in force ({names}) allow"
