"""Invariants 5, 6 and 7: heat, jobs, dwell and ramp."""

from __future__ import annotations

from collections.abc import Iterable

from contract.messages import BankPlate, Workload
from sim.checkers.base import Allowances, Checker, Spans, grain_w, path, shown_at_most_w
from sim.checkers.lease import Leases
from sim.checkers.world import CapSource, DeviceCommanded, JobHappened, SiteTruth, World
from sim.jobs import JobEventKind


class HeatStopsABank(Checker):
    """5: over-temperature stops a bank locally.

    Where the hottest true inlet has stood above the agent's limit (and what its sensor may miss) for as long as a look,
    a command and a fall take, the bank draws its idle power, controller or none; and nothing wakes a machine of it.
    """

    invariant = 5

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._hot = Spans()

    def observe(self, world: World) -> None:
        woken = {(e.site, e.bank) for e in world.events if isinstance(e, DeviceCommanded) and e.raises}
        due_ms = self.allow.poll_ms + self.allow.command_ms + self.allow.fall_ms
        for site, truth in world.sites.items():
            for bank in truth.plate.banks:
                key = (site, bank.id)
                hot_ms = self._hot.lasts_ms(key, world.now_ms, so=self._is_hot(truth, bank))
                limit_w = shown_at_most_w(bank, 0, self.allow) + truth.stuck_w(bank.id)
                shown_w = truth.bank_w(bank.id)
                detail = f"{bank.id} draws {shown_w:.0f} W at {truth.inlet_c(bank.id):.1f} C, hot for {hot_ms} ms"
                self.expect(hot_ms < due_ms or shown_w <= limit_w, ("draws", *key), world.now_ms, site, detail)
                woke = hot_ms >= due_ms and key in woken
                self.expect(not woke, ("woken", *key), world.now_ms, site, f"{bank.id} was raised, hot for {hot_ms} ms")

    def _is_hot(self, truth: SiteTruth, bank: BankPlate) -> bool:
        limit_c = truth.inlet_limit_c(bank.id)
        if limit_c is None or truth.local or truth.agent_since_ms is None or truth.sensed_since_ms is None:
            return False
        return truth.inlet_c(bank.id) > limit_c + self.allow.temp_c


class NoJobDiesEarly(Checker):
    """6: no HPC job dies inside its notice, but for 1 and 5; none is lost.

    A stop is a requeue, or a cancellation that the job's owner did not ask for. It needs the job's whole notice since
    its warning, or a breaker or cap that is exceeded, or heat. A job is lost where the scheduler no longer holds it
    though it neither completed nor was cancelled by its owner; what a node's own failure requeues is not lost.
    """

    invariant = 6

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._known: dict[tuple[str, str], set[str]] = {}
        self._grave_ms: dict[tuple[str, str], int] = {}
        """When last 1 or 5 bore on a partition."""

    def observe(self, world: World) -> None:
        for site, truth in world.sites.items():
            for bank in _partitions(truth):
                if _grave(truth, bank, world.now_ms):
                    self._grave_ms[site, bank.id] = world.now_ms
        for event in world.events:
            if isinstance(event, JobHappened):
                self._happened(event)
        for site, truth in world.sites.items():
            for bank in _partitions(truth):
                live = truth.live_jobs(bank.id)
                for job in sorted(self._known.get((site, bank.id), set()) - set(live)):
                    self.flag(("lost", site, bank.id, job), world.now_ms, site, f"{bank.id} lost job {job}")

    def _happened(self, happened: JobHappened) -> None:
        event, site = happened.event, happened.site
        known = self._known.setdefault((site, happened.bank), set())
        if event.kind is JobEventKind.SUBMITTED:
            known.add(event.job)
        elif event.kind is JobEventKind.COMPLETED or (event.kind is JobEventKind.CANCELLED and happened.by_owner):
            known.discard(event.job)
        elif event.kind in {JobEventKind.REQUEUED, JobEventKind.CANCELLED}:
            had_ms = event.notice_ms or 0
            grave_ms = self._grave_ms.get((site, happened.bank))
            excused = grave_ms is not None and event.at_ms - grave_ms <= self.allow.shed_ms
            detail = f"job {event.job} of {happened.bank} was {event.kind} {had_ms} ms after its warning"
            detail += f", it is owed {happened.notice_ms} ms"
            early = had_ms < happened.notice_ms - self.allow.clock_ms and not excused
            self.expect(not early, ("died", site, event.job), event.at_ms, site, detail)
            if event.kind is JobEventKind.CANCELLED:
                detail = f"job {event.job} of {happened.bank} was cancelled, not by its owner"
                self.flag(("cancelled", site, event.job), event.at_ms, site, detail)


class DwellAndRampHold(Checker):
    """7: dwell and ramp limits hold across restarts.

    Dwell by commands that devices received: a bank begins to run with the first wake while it was off, and stops when
    none of its machines that take commands is left running. It may not begin within its minimum down time, whatever
    asks; nor stop within its minimum up time but for what stands above economics: a cap, stop or obligation in force or
    near, no lease, heat, a breaker near its limit, an operator's word, sensors gone. A bank of which a faulty
    device runs, or was told to, is not off: what its other devices do beside it is no start. Ramp:
    commanded watts may outrun the ramp by no more than one grant of it and one device.
    """

    invariant = 7

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._leases = Leases(self.allow.clock_ms)
        self._on: dict[tuple[str, str], tuple[bool, int | None]] = {}
        """Whether a bank runs, and since when; None where that is from before we looked."""
        self._urgent_ms: dict[tuple[str, str], int] = {}
        """When last something above economics bore on a bank."""
        self._level: dict[tuple[str, str], tuple[int, float, float]] = {}
        """Moment, commanded watts, and how far they have outrun the ramp."""

    def observe(self, world: World) -> None:
        told: set[tuple[str, str, bool]] = set()
        for event in world.events:
            self._leases.take(event)
            if isinstance(event, DeviceCommanded):
                told.add((event.site, event.bank, event.raises))
        for site, truth in world.sites.items():
            for bank in truth.plate.banks:
                if bank.workload is Workload.HASH:
                    woken, stopped = (site, bank.id, True) in told, (site, bank.id, False) in told
                    self._dwell(site, truth, bank, world.now_ms, woken=woken, stopped=stopped)
                    self._ramp(site, truth, bank, world.now_ms)

    def _dwell(self, site: str, truth: SiteTruth, bank: BankPlate, now_ms: int, *, woken: bool, stopped: bool) -> None:
        key = (site, bank.id)
        runs = truth.steerable_w(bank.id) > 0
        if truth.stuck_w(bank.id) > 0.0:
            runs = runs or truth.commanded_w(bank.id) > bank.idle_w or truth.stuck_w(bank.id) > grain_w(bank) / 4
        on, since_ms = self._on.setdefault(key, (runs, None))
        if self._urgent(site, truth, bank, now_ms):
            self._urgent_ms[key] = now_ms
        lasted_ms = None if since_ms is None else now_ms - since_ms
        if not on and woken and runs:
            self._on[key] = (True, now_ms)
            early = lasted_ms is not None and lasted_ms < bank.min_down_ms - self.allow.clock_ms and not truth.local
            detail = f"{bank.id} was started after {lasted_ms} ms down, the least is {bank.min_down_ms} ms"
            self.expect(not early, ("down", *key), now_ms, site, detail)
        elif on and not runs and not stopped:
            self._on[key] = (False, None)  # its machines died or hang; nobody stopped it
        elif on and not runs:
            self._on[key] = (False, now_ms)
            early = lasted_ms is not None and lasted_ms < bank.min_up_ms - self.allow.clock_ms
            grace_ms = self.allow.command_ms + self.allow.poll_ms
            excused = now_ms - self._urgent_ms.get(key, -grace_ms - 1) <= grace_ms
            detail = f"{bank.id} was stopped after {lasted_ms} ms up, the least is {bank.min_up_ms} ms"
            self.expect(not early or excused, ("up", *key), now_ms, site, detail)

    def _urgent(self, site: str, truth: SiteTruth, bank: BankPlate, now_ms: int) -> bool:
        """Whether something that may end a minimum up time bears on the bank now."""
        if truth.local or truth.overridden(bank.id) or truth.sensed_since_ms is None:
            return True
        if not self._leases.of(site).covers(now_ms - self.allow.clock_ms, now_ms):
            return True
        lead_ms = self.allow.lead_ms
        caps = [cap for cap in truth.caps if cap.source is not CapSource.BREAKER]
        if any(cap.since_ms - lead_ms <= now_ms and (cap.until_ms is None or now_ms < cap.until_ms) for cap in caps):
            return True
        if any(due.starts_ms - lead_ms <= now_ms < due.ends_ms for due in truth.dues):
            return True
        return _hot(truth, bank, -3 * self.allow.temp_c) or _near_breaker(truth, bank, 1 - 3 * self.allow.cap_share)

    def _ramp(self, site: str, truth: SiteTruth, bank: BankPlate, now_ms: int) -> None:
        key, now_w = (site, bank.id), truth.commanded_w(bank.id)
        at_ms, was_w, ahead_w = self._level.get(key, (now_ms, now_w, 0.0))
        rate = bank.ramp_up_w_per_s
        ahead_w = max(ahead_w + now_w - was_w - rate * (now_ms - at_ms) / 1_000, 0.0)
        self._level[key] = (now_ms, now_w, ahead_w)
        if rate == 0 or truth.local:
            return
        burst_w = rate * self.allow.ramp_burst_ms / 1_000 + grain_w(bank) + self.allow.power_share * bank.rated_w
        detail = f"{bank.id} was commanded {ahead_w:.0f} W ahead of its ramp of {rate} W/s, {burst_w:.0f} W are allowed"
        self.expect(ahead_w <= burst_w, ("ramp", *key), now_ms, site, detail)


def _partitions(truth: SiteTruth) -> Iterable[BankPlate]:
    return (bank for bank in truth.plate.banks if bank.workload is Workload.HPC)


def _grave(truth: SiteTruth, bank: BankPlate, now_ms: int) -> bool:
    """Whether 1 or 5 bears on a partition now: a limit above it exceeded, a stop in force, or heat. Obligations do not:
    they yield to a job's notice."""
    above = path(truth.plate, bank.feeder)
    for cap in truth.caps:
        if (
            not cap.active(now_ms)
            or cap.source is CapSource.OBLIGATION
            or (cap.bank is not None and cap.bank != bank.id)
            or cap.feeder not in above
        ):
            continue
        shown_w = truth.bank_w(bank.id) if cap.bank is not None else truth.feeder_w(cap.feeder)
        if cap.source is CapSource.STOP or shown_w > cap.limit_w:
            return True
    return _hot(truth, bank, 0.0)


def _hot(truth: SiteTruth, bank: BankPlate, margin_c: float) -> bool:
    limit_c = truth.inlet_limit_c(bank.id)
    return limit_c is not None and truth.inlet_c(bank.id) > limit_c + margin_c


def _near_breaker(truth: SiteTruth, bank: BankPlate, share: float) -> bool:
    limits_w = {feeder.id: feeder.limit_w for feeder in truth.plate.feeders}
    return any(truth.feeder_w(node) > share * limits_w[node] for node in path(truth.plate, bank.feeder))
