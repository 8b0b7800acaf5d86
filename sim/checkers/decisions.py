"""Invariants 8, 9, 11 and 12: what decisions are made from, and that they can be made again."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from contract.messages import BankReading, Report, Workload
from contract.reasons import DecisionReason
from contract.units import MS_PER_HOUR
from controller.engine.model import (
    BankDecision,
    Decision,
    Params,
    PreviousSetpoint,
    SiteDecision,
    SiteSnapshot,
    Snapshot,
    Stance,
)
from sim.checkers.base import Allowances, Checker, Spans, grain_w
from sim.checkers.world import DecisionMade, OracleDecided, OrderPublished, ReportHeard, ReportSent, SiteTruth, World

Decide = Callable[[Snapshot, Params], Decision]
T = TypeVar("T")
_STEPPED = frozenset({DecisionReason.RAMP, DecisionReason.RESTART_STAGGER, DecisionReason.HOLD_DWELL})
"""Outcomes that move on by themselves as the previous setpoint becomes history."""


class StaleNeverRaises(Checker):
    """8: unknown or stale data never raises power.

    Ages are worked out from the wires: when the controller that decided was last given a report of the site, and how
    old each bank's reading in it truly was. A bank whose reading is missing or older than the decision's own bound may
    not be given more than it was given last (by the same controller, else by any; before the first decision, more than
    what the report says it is held at, else than idle). A controller that was given no report of a site yet can order
    nothing there, for an order answers a report: what it then decides is not looked at. The same for ASICs while the
    site's price is older than the bound, unless the rules say to run on unknown prices or an operator forced it.
    """

    invariant = 8

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._sent_ms: dict[tuple[str, str, int], int] = {}
        self._heard: dict[tuple[str, str], tuple[int, Report]] = {}
        """Last report by controller and site, and when."""
        self._given_w: dict[tuple[str, str, str], int] = {}
        """By controller ("" for any), site and bank: the last target."""

    def observe(self, world: World) -> None:
        for event in world.events:
            if isinstance(event, ReportSent):
                self._sent_ms[event.report.site, event.report.boot, event.report.seq] = event.at_ms
                while len(self._sent_ms) > 20_000:
                    del self._sent_ms[next(iter(self._sent_ms))]
            elif isinstance(event, ReportHeard):
                self._heard[event.controller, event.report.site] = (event.at_ms, event.report)
            elif isinstance(event, DecisionMade) and event.leading:
                for decided in event.decided.sites:
                    truth = world.sites.get(decided.site)
                    if truth is not None:
                        self._decided(event, decided, truth)

    def _decided(self, made: DecisionMade, decided: SiteDecision, truth: SiteTruth) -> None:
        site = decided.site
        plates = {bank.id: bank for bank in truth.plate.banks}
        heard = self._heard.get((made.controller, site))
        if heard is None:
            return
        readings = {reading.id: reading for reading in heard[1].banks}
        for bank in decided.banks:
            plate = plates.get(bank.bank)
            if plate is None:
                continue
            unknown = self._unknown(made, heard, readings.get(bank.bank))
            if unknown is None and plate.workload is Workload.HASH:
                unknown = self._price_unknown(made, truth, bank)
            before_w = self._before_w(made.controller, site, bank.bank, readings.get(bank.bank), plate.idle_w)
            detail = f"decision {made.id} raises {bank.bank} from {before_w} to {bank.target_w} W although {unknown}"
            self.expect(unknown is None or bank.target_w <= before_w, (site, bank.bank), made.at_ms, site, detail)
        for bank in decided.banks:
            self._given_w[made.controller, site, bank.bank] = self._given_w["", site, bank.bank] = bank.target_w

    def _unknown(self, made: DecisionMade, heard: tuple[int, Report], reading: BankReading | None) -> str | None:
        """What of the bank's data is unknown or stale, if anything."""
        bound_ms = made.rules.stale_report_ms + self.allow.clock_ms
        heard_ms, report = heard
        if made.at_ms - heard_ms > bound_ms:
            return f"the newest report came {made.at_ms - heard_ms} ms before"
        if reading is None or reading.power_w is None or reading.age_ms is None:
            return "its power is unknown"
        sent_ms = self._sent_ms.get((report.site, report.boot, report.seq), heard_ms)
        age_ms = made.at_ms - sent_ms + reading.age_ms
        # The controller cannot see how long the report was under way: its bound counts from the arrival.
        bound_ms += heard_ms - sent_ms
        return f"its power was read {age_ms} ms before" if age_ms > bound_ms else None

    def _price_unknown(self, made: DecisionMade, truth: SiteTruth, bank: BankDecision) -> str | None:
        if made.rules.unknown_price is Stance.RUN or truth.overridden(bank.bank):
            return None
        age_ms = truth.price_age_ms
        if age_ms is None:
            return "no price was ever given"
        bound_ms = made.rules.stale_price_ms + self.allow.clock_ms + self.allow.poll_ms
        return f"the price is {age_ms} ms old" if age_ms > bound_ms else None

    def _before_w(self, controller: str, site: str, bank: str, reading: BankReading | None, idle_w: int) -> int:
        for name in (controller, ""):
            given_w = self._given_w.get((name, site, bank))
            if given_w is not None:
                return given_w
        held_w = reading.setpoint_w if reading is not None else None
        return idle_w if held_w is None else max(held_w, idle_w)


class DecideIsBlind(Checker):
    """9: `decide` is idempotent and blind to input order.

    Every journalled snapshot (one in `every`, where decisions are many) is decided again with everything in it shuffled
    that has no order of its own: the bytes must be the journal's. And it is decided with its own outcome as what was
    decided before: every target must stay, but where a ramp or dwell lets it move on.
    """

    invariant = 9

    def __init__(self, decide: Decide, seed: int, allow: Allowances | None = None, *, every: int = 1) -> None:
        super().__init__(allow)
        self._decide = decide
        self._rng = Random(seed)
        self._every = every
        self._seen = 0

    def observe(self, world: World) -> None:
        for event in world.events:
            if isinstance(event, DecisionMade):
                self._seen += 1
                if self._seen % self._every == 0:
                    self._check(event)

    def _check(self, made: DecisionMade) -> None:
        permuted = shuffled(made.frozen, self._rng)
        again = self._decide(permuted, made.rules)
        sites = ", ".join(site.site for site in made.decided.sites)
        self.expect(
            again.model_dump_json().encode() == made.decision,
            ("order", made.controller, sites), made.at_ms, sites,
            f"decision {made.id} changes with the order of its input: {_difference(made.decided, again)}",
        )  # fmt: skip
        fed_back = self._decide(with_outcome(made.frozen, made.decided), made.rules)
        moved = _moved(made.decided, fed_back)
        detail = f"decision {made.id} moves when decided again: {moved}"
        self.expect(moved is None, ("again", made.controller, sites), made.at_ms, sites, detail)


class PlanReturnsToOracle(Checker):
    """11: after the faults heal, the plan equals the oracle's within N ticks.

    The oracle decides on a snapshot built from the truth. From `ticks_to_oracle` ticks after the last fault healed,
    each of its decisions is held against the newest one of the leading controller: every target equal to within one
    device or two hundredths of the rating; or the decision worth as much over the horizon (ADR 6). What differs
    for less than a tick is seen by the next decision: a job that came or ended, or a dwell that ran out, between the
    agent's look and the oracle's. A controller that decides nothing for two ticks has no plan to compare.
    """

    invariant = 11
    EQUAL_SHARE = 0.02

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._newest: dict[str, tuple[int, SiteDecision]] = {}
        self._off = Spans()
        """Since when every comparison differed, by site and bank."""

    def observe(self, world: World) -> None:
        oracles: list[OracleDecided] = []
        for event in world.events:
            if isinstance(event, DecisionMade) and event.leading:
                for decided in event.decided.sites:
                    self._newest[decided.site] = (event.at_ms, decided)
            elif isinstance(event, OracleDecided):
                oracles.append(event)
        if world.healed_ms is None:
            return
        from_ms = world.healed_ms + self.allow.ticks_to_oracle * self.allow.tick_ms
        for oracle in oracles:
            for told in oracle.decision.sites:
                truth = world.sites.get(told.site)
                if truth is not None and oracle.at_ms >= from_ms:
                    self._compare(oracle, told, truth)

    def _compare(self, oracle: OracleDecided, told: SiteDecision, truth: SiteTruth) -> None:
        at_ms, site = oracle.at_ms, told.site
        newest = self._newest.get(site)
        silent = newest is None or at_ms - newest[0] > 2 * self.allow.tick_ms
        self.expect(
            not silent, ("silent", site), at_ms, site, "nothing was decided for two ticks after the faults healed"
        )
        if newest is None or silent:
            return
        targets_w = {bank.bank: bank.target_w for bank in newest[1].banks}
        oracle_w = {bank.bank: bank.target_w for bank in told.banks}
        as_good = self._as_good(oracle, told)
        for bank in truth.plate.banks:
            ours_w, theirs_w = targets_w.get(bank.id, 0), oracle_w.get(bank.id, 0)
            near = abs(ours_w - theirs_w) <= max(grain_w(bank), self.EQUAL_SHARE * bank.rated_w)
            off_ms = self._off.lasts_ms((site, bank.id), at_ms, so=not near and not as_good)
            detail = f"{bank.id} is planned at {ours_w} W, by the truth it ought to be {theirs_w} W"
            self.expect(off_ms < self.allow.tick_ms, ("plan", site, bank.id), at_ms, site, detail)

    def _as_good(self, oracle: OracleDecided, told: SiteDecision) -> bool:
        """Whether the decision loses less, by the truth and over the horizon, than a small share of a tick's margin."""
        if oracle.ours_usd is None or oracle.theirs_usd is None or told.margin_usd_per_h is None:
            return False
        tick_usd = abs(told.margin_usd_per_h) * self.allow.tick_ms / MS_PER_HOUR
        return oracle.theirs_usd - oracle.ours_usd <= self.EQUAL_SHARE * tick_usd


class JournalReplays(Checker):
    """12: replaying the journal reproduces every decision byte for byte; and no order goes out that is not in it."""

    invariant = 12

    def __init__(self, decide: Decide, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._decide = decide
        self._journal: dict[tuple[str, str], dict[str, SiteDecision]] = {}
        """By controller and decision id, then site."""

    def observe(self, world: World) -> None:
        for event in world.events:
            if isinstance(event, DecisionMade):
                self._replay(event)
        for event in world.events:
            if isinstance(event, OrderPublished):
                self._ordered(event)

    def _replay(self, made: DecisionMade) -> None:
        parts = self._journal.setdefault((made.controller, made.id), {})
        parts.update({decided.site: decided for decided in made.decided.sites})
        while len(self._journal) > 5_000:
            del self._journal[next(iter(self._journal))]
        again = self._decide(made.frozen, made.rules)
        same = again.model_dump_json().encode() == made.decision
        sites = ", ".join(site.site for site in made.decided.sites)
        detail = f"decision {made.id} does not replay: {_difference(made.decided, again)}"
        self.expect(same, ("replay", made.controller, sites), made.at_ms, sites, detail)

    def _ordered(self, event: OrderPublished) -> None:
        order = event.order
        decided = self._journal.get((event.controller, order.decision), {}).get(order.site)
        name = f"order {order.epoch}/{order.seq}"
        detail = f"{name} names decision {order.decision!r}, which the journal does not hold"
        self.expect(decided is not None, ("unknown", order.site), event.at_ms, order.site, detail)
        if decided is None:
            return
        ordered = [(setpoint.bank, setpoint.target_w, setpoint.workload) for setpoint in order.setpoints]
        planned = [(bank.bank, bank.target_w, bank.workload) for bank in decided.banks]
        same = sorted(ordered) == sorted(planned) and order.shed_ladder == decided.shed_ladder
        same = same and order.cap_w == decided.cap_w
        detail = f"{name} is not what decision {order.decision} says"
        self.expect(same, ("other", order.site), event.at_ms, order.site, detail)


def shuffled(snapshot: Snapshot, rng: Random) -> Snapshot:
    """The same snapshot, everything in it that has no order of its own in another. Efficiency levels keep theirs."""

    def mix(items: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(rng.sample(items, len(items)))

    def report(one: Report) -> Report:
        partitions = tuple(part.model_copy(update={"jobs": mix(part.jobs)}) for part in one.partitions)
        banks = tuple(bank.model_copy(update={"interlocks": mix(bank.interlocks)}) for bank in one.banks)
        return one.model_copy(update={"feeders": mix(one.feeders), "banks": mix(banks), "partitions": mix(partitions)})

    def site(one: SiteSnapshot) -> SiteSnapshot:
        plate = one.nameplate
        return one.model_copy(
            update={
                "nameplate": plate.model_copy(update={"feeders": mix(plate.feeders), "banks": mix(plate.banks)}),
                "report": None if one.report is None else report(one.report),
                "obligations": mix(one.obligations),
                "overrides": mix(one.overrides),
                "previous": mix(one.previous),
            }
        )

    return snapshot.model_copy(update={"sites": mix(tuple(site(one) for one in snapshot.sites))})


def with_outcome(snapshot: Snapshot, decision: Decision) -> Snapshot:
    """The same snapshot, as if its decision had been the one before."""
    decided = {site.site: site for site in decision.sites}

    def previous(one: SiteSnapshot) -> tuple[PreviousSetpoint, ...]:
        outcome = decided.get(one.site)
        banks = outcome.banks if outcome is not None else ()
        return tuple(PreviousSetpoint(bank=bank.bank, target_w=bank.target_w, reason=bank.reason) for bank in banks)

    sites = tuple(one.model_copy(update={"previous": previous(one)}) for one in snapshot.sites)
    return snapshot.model_copy(update={"sites": sites})


def _moved(before: Decision, after: Decision) -> str | None:
    """The first target that a second decision changes, without a reason to."""
    then = {(site.site, bank.bank): bank for site in after.sites for bank in site.banks}
    for site in before.sites:
        for bank in site.banks:
            other = then.get((site.site, bank.bank))
            if other is None:
                return f"{bank.bank} of {site.site} is gone"
            if other.target_w != bank.target_w and not {bank.reason, other.reason} & _STEPPED:
                return f"{bank.bank} of {site.site} from {bank.target_w} to {other.target_w} W ({other.reason})"
    return None


def _difference(before: Decision, after: Decision) -> str:
    """Where two decisions first differ, in words."""
    if [site.site for site in before.sites] != [site.site for site in after.sites]:
        return "the sites"
    for one, other in zip(before.sites, after.sites, strict=True):
        for name in type(one).model_fields:
            if getattr(one, name) != getattr(other, name):
                return f"{name} of {one.site}"
    return "the encoding"
