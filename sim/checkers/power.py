"""Invariants 1, 2 and 10: caps, obligations, and energy that closes."""

from __future__ import annotations

from collections import deque
from typing import Final

from contract.messages import Nameplate, Source, Workload
from controller.engine.model import SiteDecision
from sim.checkers.base import Allowances, Checker, Kept, banks_under, shown_at_most_w, stuck_under_w
from sim.checkers.world import Cap, CapSource, DecisionMade, Due, Energy, ReportSent, SiteTruth, World

_PLANNED_TOLERANCE_W: Final = 2
"""Rounding of planned watts, up at each node."""
_LIMIT_KINDS: Final = frozenset({"site_cap", "feeder", "cooling", "obligation", "firm_load"})


class CapsHeld(Checker):
    """1: planned watts within every active cap; metered watts within it after the ramp allowance.

    Planned: the targets of every decision, banks never below their idle power, overheads by the nameplate's PUE. A
    decision that states a shortfall may exceed a cap by what it states. Metered: true watts at the cap's feeder, once
    the cap has been in force and known for the ramp allowance on a site that agent, link and meters have served for as
    long; then above it for no longer than an excursion. A breaker is the agent's own to keep: it needs no controller.
    """

    invariant = 1

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._kept = Kept(self.allow.excursion_ms)
        self._short_w: dict[tuple[str, str], int] = {}
        """The newest stated shortfall, by site and limit."""

    def observe(self, world: World) -> None:
        for event in world.events:
            if isinstance(event, DecisionMade) and event.leading:
                self._planned(event, world)
        for site, truth in world.sites.items():
            for cap in truth.caps:
                self._metered(cap, site, truth, world.now_ms)

    def _planned(self, made: DecisionMade, world: World) -> None:
        for decided in made.decided.sites:
            truth = world.sites.get(decided.site)
            if truth is None:
                continue
            for cap in truth.caps:
                short_w = _stated_w(decided, cap)
                self._short_w[decided.site, cap.id] = short_w
                known = cap.active(made.at_ms) and made.at_ms >= cap.told_ms + self.allow.clock_ms
                if not known or truth.local:
                    continue
                planned_w = _planned_w(decided, truth.plate, cap)
                over_w = planned_w - cap.limit_w - short_w
                key = ("planned", decided.site, cap.id)
                detail = f"decision {made.id} plans {planned_w} W against {cap.id} of {cap.limit_w} W, {short_w} W said"
                self.expect(over_w <= _PLANNED_TOLERANCE_W, key, made.at_ms, decided.site, detail)

    def _metered(self, cap: Cap, site: str, truth: SiteTruth, now_ms: int) -> None:
        key = (site, cap.id)
        allowed_w = _met_limit_w(cap, truth, self.allow) + self._short_w.get(key, 0)
        shown_w = truth.feeder_w(cap.feeder) if cap.bank is None else truth.bank_w(cap.bank)
        due = self._binding_since_ms(cap, truth)
        binding = due is not None and now_ms >= due and cap.active(now_ms)
        held, lasts_ms = self._kept.look(key, now_ms, binding=binding, over=shown_w > allowed_w)
        detail = f"{shown_w:.0f} W for {lasts_ms} ms against {cap.source} {cap.id} of {cap.limit_w} W"
        self.expect(held, ("metered", *key), now_ms, site, detail)

    def _binding_since_ms(self, cap: Cap, truth: SiteTruth) -> int | None:
        """From when metered power must be within the cap; None while the site cannot be held to it."""
        served = [truth.agent_since_ms, truth.sensed_since_ms]
        if cap.source is not CapSource.BREAKER:
            served.append(truth.linked_since_ms)
        if truth.local or None in served:
            return None
        starts = [cap.since_ms, cap.told_ms, *(since for since in served if since is not None)]
        return max(starts) + self.allow.shed_ms


class ObligationsMet(Checker):
    """2: an obligation is met by its deadline, or the shortfall is said before it.

    Met: true watts at the main at or below the target from its start (or, told late, from the ramp allowance after it
    was told) to its end, but for excursions. Said: a decision made by then states a shortfall for it that covers what
    is missing. What began while agent, link or meters were down is owed the ramp allowance after they are back. Where
    firm work is spared, such work as came only after the deadline could not be said before it: it excuses its own
    power, once a decision has said so much short.
    """

    invariant = 2

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._kept = Kept(self.allow.excursion_ms)
        self._said: dict[tuple[str, str], deque[tuple[int, int]]] = {}
        """When and what was said short, by site and obligation."""
        self._firm_w: dict[tuple[str, str], float] = {}
        """What firm work drew at the main at the deadline."""

    def observe(self, world: World) -> None:
        for event in world.events:
            if isinstance(event, DecisionMade) and event.leading:
                for decided in event.decided.sites:
                    for short in decided.shortfalls:
                        if short.kind == "obligation":
                            said = self._said.setdefault((decided.site, short.id), deque(maxlen=2_000))
                            said.append((event.at_ms, short.short_w))
        for site, truth in world.sites.items():
            for due in truth.dues:
                self._check(due, site, truth, world.now_ms)

    def _check(self, due: Due, site: str, truth: SiteTruth, now_ms: int) -> None:
        main = truth.plate.main.id
        deadline_ms = max(due.starts_ms, due.told_ms + self.allow.shed_ms)
        served = (truth.agent_since_ms, truth.linked_since_ms, truth.sensed_since_ms)
        back = [since for since in served if since is not None and since > due.told_ms]
        owed_ms = max([deadline_ms, *(since + self.allow.shed_ms for since in back)])
        binding = None not in served and not truth.local and owed_ms <= now_ms < due.ends_ms
        shown_w = truth.feeder_w(main)
        allowed_w = due.target_w * (1 + self.allow.cap_share) + stuck_under_w(truth, main)
        said_w = [short_w for at_ms, short_w in self._said.get((site, due.id), ()) if at_ms <= owed_ms]
        limit_w = truth.plate.main.limit_w
        said_more_w = max(said_w, default=0) + (self.allow.said_share * limit_w if any(said_w) else 0.0)
        late_w = 0.0 if due.firm_too else self._late_firm_w(due, site, truth, now_ms, owed_ms)
        over = shown_w > allowed_w + said_more_w + late_w
        held, lasts_ms = self._kept.look((site, due.id), now_ms, binding=binding, over=over)
        detail = f"{shown_w:.0f} W for {lasts_ms} ms, {due.id} allows {due.target_w} W since {due.starts_ms} ms"
        detail += f", {max(said_w)} W said short in time" if said_w else ", nothing said in time"
        self.expect(held, (site, due.id), now_ms, site, detail)

    def _late_firm_w(self, due: Due, site: str, truth: SiteTruth, now_ms: int, owed_ms: int) -> float:
        """What firm work draws more than at the deadline, as far as it was said short since."""
        banks = [bank for bank in truth.plate.banks if bank.workload is Workload.HPC]
        firm_w = sum(max(0.0, truth.firm_w(bank.id) - bank.idle_w) * bank.pue_milli / 1_000 for bank in banks)
        then_w = self._firm_w.setdefault((site, due.id), firm_w)
        if now_ms <= owed_ms:
            then_w = self._firm_w[site, due.id] = firm_w
        said_w = (short_w for at_ms, short_w in self._said.get((site, due.id), ()) if at_ms > owed_ms)
        return min(max(0.0, firm_w - then_w), max(said_w, default=0))


class EnergyCloses(Checker):
    """10: banks and all else that the site feeds add up to its main meter, lines lose what lines may, and a metered
    figure in a report is what the meter's feeder truly carried when it was read."""

    invariant = 10
    LOSS_SHARE: Final = 0.05
    """Lines and transformers of a site lose 1 to 4 % at full load; more is an error of the account."""
    READ_SHARE: Final = 0.02
    """A class 1 meter with its converters."""
    WINDOW_MS: Final = 3_000
    """Within which a stamped reading was taken; the truth may move meanwhile."""

    def __init__(self, allow: Allowances | None = None) -> None:
        super().__init__(allow)
        self._past: dict[tuple[str, str], deque[tuple[int, float, float]]] = {}
        self._last: dict[str, Energy] = {}

    def observe(self, world: World) -> None:
        for site, truth in world.sites.items():
            self._close(site, truth.energy, world.now_ms)
            for feeder in truth.plate.feeders:
                past = self._past.setdefault((site, feeder.id), deque(maxlen=600))
                past.append((world.now_ms, *truth.feeder_span_w(feeder.id)))
        for event in world.events:
            if isinstance(event, ReportSent):
                self._reported(event, world)

    def _close(self, site: str, energy: Energy, now_ms: int) -> None:
        gap_mj = energy.main_mj - energy.fed_mj
        detail = f"the main meter counts {gap_mj} mJ more than all it feeds after {energy.main_mj} mJ"
        self.expect(abs(gap_mj) <= energy.roundings / 2 + 1, ("close", site), now_ms, site, detail)
        lossy = energy.loss_mj > self.LOSS_SHARE * max(energy.main_mj, 1)
        self.expect(not lossy, ("loss", site), now_ms, site, f"lines lost {energy.loss_mj} of {energy.main_mj} mJ")
        before = self._last.get(site)
        back = before is not None and (energy.main_mj < before.main_mj or energy.fed_mj < before.fed_mj)
        self.expect(not back, ("back", site), now_ms, site, "an energy counter went back")
        self._last[site] = energy

    def _reported(self, event: ReportSent, world: World) -> None:
        report = event.report
        truth = world.sites.get(report.site)
        if truth is None or truth.sensed_since_ms is None:
            return
        for reading in report.feeders:
            if reading.power_w is None or reading.age_ms is None or reading.source is not Source.METER:
                continue
            read_ms = event.at_ms - reading.age_ms
            window_ms = max(self.WINDOW_MS, self.allow.clock_ms)
            if read_ms - window_ms < truth.sensed_since_ms:
                continue
            near = [
                power_w
                for at_ms, *span_w in self._past.get((report.site, reading.id), ())
                if abs(at_ms - read_ms) <= window_ms
                for power_w in span_w
            ]
            if not near:
                continue
            slack_w = self.READ_SHARE * max(near) + 10
            right = min(near) - slack_w <= reading.power_w <= max(near) + slack_w
            detail = f"report {report.seq} says {reading.power_w} W, the truth was {min(near):.0f} to {max(near):.0f} W"
            self.expect(right, ("read", report.site, reading.id), event.at_ms, report.site, f"{reading.id}: {detail}")


def _planned_w(decided: SiteDecision, plate: Nameplate, cap: Cap) -> int:
    """What a decision plans at a cap's place. Overheads follow the bank's PUE at the main, where they are metered."""
    target_w = {bank.bank: bank.target_w for bank in decided.banks}
    if cap.bank is not None:
        return target_w.get(cap.bank, 0)
    at_main = cap.feeder == plate.main.id
    planned_mw = 1_000 * plate.base_load_w if at_main else 0
    for bank in banks_under(plate, cap.feeder):
        planned_mw += (bank.pue_milli if at_main else 1_000) * max(target_w.get(bank.id, 0), bank.idle_w)
    return -(-planned_mw // 1_000)


def _met_limit_w(cap: Cap, truth: SiteTruth, allow: Allowances) -> float:
    """The most that true power may show at a cap."""
    if cap.bank is not None:
        bank = next(bank for bank in truth.plate.banks if bank.id == cap.bank)
        return shown_at_most_w(bank, cap.limit_w, allow) + truth.stuck_w(bank.id)
    return cap.limit_w * (1 + allow.cap_share) + stuck_under_w(truth, cap.feeder)


def _stated_w(decided: SiteDecision, cap: Cap) -> int:
    """What a decision says it falls short of a cap: by its id, or of its feeder."""
    names = {cap.id, cap.feeder}
    short_w = [s.short_w for s in decided.shortfalls if s.kind in _LIMIT_KINDS and s.id in names]
    return max(short_w, default=0)
