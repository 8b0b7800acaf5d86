"""Economics v1: merit order. Picks a dispatch inside the envelope, most valuable megawatt-hour first.

This is the part an optimiser replaces: `dispatch(site, envelope) -> Dispatch`; the rest of the engine does not know how
the choice was made. Lots (pieces of a bank's efficiency curve, jobs) are taken in one fixed order: firm jobs, what
overrides ask for, what must stay up, then all else by merit against the energy price. A lot is taken as far as every
feeder on its way to the main has room, so caps make hash banks and HPC jobs compete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

from contract.messages import Job, JobState
from contract.reasons import DecisionReason
from controller.engine.facts import MW_PER_W, Bank, Site
from controller.engine.lots import Class, Lot, Why, offer
from controller.engine.model import PlanNote
from controller.engine.rules import Bounds, Envelope, Floor, Limit
from controller.engine.wish import Ahead, AheadKind, Wish

_AT_A_LOSS: Final = frozenset({AheadKind.RESTART, AheadKind.EARLY, AheadKind.JOB})


class Blame(IntEnum):
    """Of two limits that refuse the same lot, the one that is blamed: DESIGN's priority."""

    OBLIGATION = 0
    CAP = 1


@dataclass(slots=True)
class Outcome:
    """What one bank is given, and what stood in its way."""

    target_w: int = 0
    jobs: dict[str, Job] = field(default_factory=dict)
    """Jobs that are to run within the target, by id."""
    kept_off: list[Job] = field(default_factory=list)
    """Firm jobs that a limit or a rule keeps from running."""
    desire_w: int = 0
    """What it would draw were there no limits: economics, overrides and dwell."""
    refused: tuple[Blame, str] | None = None
    """The strongest limit that refused it power it should have had, and its id."""
    against_price: Class | None = None
    """`ASKED` or `KEPT` where an override or dwell alone makes some of it run."""
    asked_by: str = ""
    """The feeder or site floor that made some of it run."""
    stale: bool = False
    """Work was left out because what is known of it is too old."""
    why: Why = Why.COSTS
    cause: str = ""
    """What is behind `why`, where that is not the price."""
    ahead: Ahead | None = None
    """With `Why.AHEAD`, what is to come."""
    waits: list[Job] = field(default_factory=list)
    """Jobs that would earn now and that the plan puts off."""


@dataclass(frozen=True, slots=True)
class Late:
    """A job whose work cannot all be done before it is due."""

    bank: int
    job: Job
    detail: str


@dataclass(slots=True)
class Dispatch:
    """The choice: outcomes by bank, and what each node then carries, in milliwatts."""

    outcomes: list[Outcome]
    used_mw: list[int]
    idle_mw: list[int]
    """What each node carries with every bank at its least: overheads, idle power, what cannot be steered."""
    late: list[Late] = field(default_factory=list)
    armed_mw: int = 0
    """Of the main's, what could be shed at once: hash banks above idle and flexible jobs, in milliwatts. Counted while
    a reserve is awarded."""
    note: PlanNote | None = None
    """How the plan behind it came out, where one was asked for."""
    carry: str = ""


class Economics(Protocol):
    """Anything that picks a dispatch inside an envelope. Pure, total and deterministic."""

    def __call__(self, site: Site, envelope: Envelope) -> Dispatch: ...


def dispatch(site: Site, envelope: Envelope, wish: Wish | None = None) -> Dispatch:
    """Merit order inside the envelope. Total: where not even the least fits, the least is what it answers.

    With a plan's wish, what it runs comes first of all that is chosen by merit, and what it puts off is left out.
    """
    fill = _Fill(site, envelope, wish)
    lots: list[Lot] = []
    for i, bounds in enumerate(envelope.bounds):
        lots.extend(fill.offer(i, bounds))
    lots.sort(key=lambda lot: (lot.cls, lot.rank, -lot.merit, lot.bank, lot.seq))
    first = next((i for i, lot in enumerate(lots) if lot.cls is Class.MERIT), len(lots))
    for lot in lots[:first]:
        fill.take(lot, lot.width_w)
    for floor in sorted(envelope.floors, key=lambda f: (-_depth(site, f.node), f.id)):
        if floor.bank is None:
            fill.reach(floor, lots[first:])
    fill.arm(lots[first:])
    for lot in lots[first:]:
        if lot.wanted and lot.taken_w < lot.width_w and not fill.puts_off(lot):
            fill.take(lot, lot.width_w - lot.taken_w)
    fill.settle()
    if not envelope.awards:
        return Dispatch(fill.outcomes, fill.used_mw, fill.idle_mw)
    fill.credit_award()
    return Dispatch(fill.outcomes, fill.used_mw, fill.idle_mw, armed_mw=fill.armed_mw())


class _Fill:
    """The state of one pass over the lots of a site: what every node carries and every bank has."""

    def __init__(self, site: Site, envelope: Envelope, wish: Wish | None) -> None:
        self.site, self.envelope, self.wish = site, envelope, wish
        self.outcomes = [Outcome() for _ in site.banks]
        self.idle_mw = [node.overhead_w * MW_PER_W for node in site.nodes]
        self.frozen_mw = [0] * len(site.nodes)
        """The part of it that frozen jobs keep."""
        for bank, bounds in zip(site.banks, envelope.bounds, strict=True):
            self._load(self.frozen_mw, bank, sum(bank.frozen_w.values()))
            least_w = bank.plate.idle_w + bank.stuck_w
            self._load(self.idle_mw, bank, max(least_w, bounds.frozen_w or 0))
        self.used_mw = list(self.idle_mw)
        self.demand_mw = self.used_mw[site.root]
        """What the main would carry had it refused nothing: tells which of its limits a lot fell to."""
        nodes = range(len(site.nodes))
        self.firm_cap_mw = [plan_cap_mw(site, i, [x for x in envelope.limits[i] if x.firm]) for i in nodes]
        self.cap_mw = [plan_cap_mw(site, i, envelope.limits[i]) for i in nodes]
        self.taken_w = [0] * len(site.banks)
        """By bank, above idle."""
        self.free_nodes = [bank.work.free_nodes if bank.work else 0 for bank in site.banks]

    def offer(self, index: int, bounds: Bounds) -> Sequence[Lot]:
        """The lots of a bank; what its outcome knows of them is noted. None from a bank that takes no orders."""
        outcome = self.outcomes[index]
        if bounds.frozen_w is not None:
            outcome.target_w = outcome.desire_w = bounds.frozen_w
            work = self.site.banks[index].work
            outcome.jobs = {job.id: job for job in work.jobs if job.state is JobState.RUNNING} if work else {}
            return ()
        brought = offer(self.site, index, bounds, self.wish)
        outcome.desire_w, outcome.why, outcome.stale = brought.desire_w, brought.why, brought.stale
        outcome.ahead = brought.ahead
        outcome.kept_off.extend(brought.left_out)
        if brought.barred is not None:
            outcome.refused = (Blame.OBLIGATION, brought.barred)
        return brought.lots

    def take(self, lot: Lot, want_w: int, floor: Floor | None = None) -> None:
        """Give a lot what its bank's bounds and its path leave of `want_w`, a job whole or not at all."""
        bank, bounds = self.site.banks[lot.bank], self.envelope.bounds[lot.bank]
        if lot.job is not None and lot.job.state is JobState.PENDING and self.free_nodes[lot.bank] < lot.job.nodes:
            return
        top_w = bounds.hi_w
        if lot.cls is Class.MERIT and floor is None and bounds.rise_w is not None:
            top_w = min(top_w, bounds.rise_w)
        inside_w = min(want_w, max(0, top_w - bank.plate.idle_w - self.taken_w[lot.bank]))
        if lot.job is not None and (inside_w < want_w or top_w < bank.plate.idle_w):
            self._note_refusal(lot, bank, want_w, None)
            self._keep_off(lot)
            return
        if inside_w < want_w:
            self._note_refusal(lot, bank, want_w, None)
        room_w, node = self._room(lot, bank)
        given_w = min(inside_w, room_w)
        if given_w < inside_w:
            self._note_refusal(lot, bank, inside_w, node)
            if lot.job is not None:
                self._keep_off(lot)
                given_w = 0
            elif lot.cls is Class.MERIT and not lot.up and floor is None and self._too_little(node, bank, given_w):
                given_w = 0
        at_main_w = inside_w if node == self.site.root else given_w
        self.demand_mw += at_main_w * bank.plate.pue_milli
        if given_w or given_w == inside_w:
            self._give(lot, bank, given_w, floor)

    def puts_off(self, lot: Lot) -> bool:
        """Whether the plan leaves this out although there is room for it. Where there is none, merit order gives it
        what is left, and blames what it lacks."""
        if lot.put_off_w is None:
            return False
        bank, bounds, outcome = self.site.banks[lot.bank], self.envelope.bounds[lot.bank], self.outcomes[lot.bank]
        job = lot.job
        top_w = min([bank.natural_w, *(n.watts for n in bounds.trace if n.rule is not DecisionReason.RAMP)])
        fits = top_w - bank.plate.idle_w - self.taken_w[lot.bank] >= lot.put_off_w and bounds.rise_w is None
        fits = fits and self._room(lot, bank)[0] >= lot.put_off_w
        if job is not None and job.state is JobState.PENDING:
            fits = fits and self.free_nodes[lot.bank] >= job.nodes
        if not fits:
            outcome.desire_w = outcome.desire_w + lot.width_w if job is not None else max(outcome.desire_w, lot.top_w)
            return False
        if job is not None:
            outcome.waits.append(job)
        if not self.taken_w[lot.bank] and outcome.why is not Why.AHEAD:
            outcome.why, outcome.ahead = Why.AHEAD, lot.ahead
        return True

    def reach(self, floor: Floor, lots: Sequence[Lot]) -> None:
        """Take lots below a floor's node, best first and whatever the price, until the node carries the floor."""
        for lot in lots:
            bank = self.site.banks[lot.bank]
            missing_mw = floor.watts * MW_PER_W - self.used_mw[floor.node]
            if missing_mw <= 0:
                return
            if floor.node in bank.path and lot.taken_w < lot.width_w:
                need_w = -(-missing_mw // self.site.factor(floor.node, bank))
                left_w = lot.width_w - lot.taken_w
                self.take(lot, left_w if lot.job is not None else min(left_w, need_w), floor)

    def arm(self, lots: Sequence[Lot]) -> None:
        """Take lots, best first and whatever the price, until what could be shed makes up the reserves awarded."""
        need_mw = self._reserve_mw()
        if not need_mw:
            return
        award = Floor(self.envelope.awards[0].id, self.envelope.reserve_w, self.site.root)
        for lot in lots:
            missing_mw = need_mw - self.armed_mw()
            if missing_mw <= 0:
                return
            bank, left_w = self.site.banks[lot.bank], lot.width_w - lot.taken_w
            if left_w > 0 and (lot.job is None or not lot.job.firm):
                need_w = -(-missing_mw // bank.plate.pue_milli)
                self.take(lot, left_w if lot.job is not None else min(left_w, need_w), award)

    def credit_award(self) -> None:
        """A bank that a plan runs against the price, and that the reserve would be short without, runs for it."""
        spare_mw = self.armed_mw() - self._reserve_mw()
        for bank, outcome in zip(self.site.banks, self.outcomes, strict=True):
            ahead = outcome.ahead.kind if outcome.why is Why.AHEAD and outcome.ahead is not None else None
            drawn_mw = max(0, outcome.target_w - bank.plate.idle_w) * bank.plate.pue_milli
            if ahead in _AT_A_LOSS and 0 < drawn_mw > spare_mw:
                outcome.against_price, outcome.asked_by = Class.ASKED, self.envelope.awards[0].id

    def armed_mw(self) -> int:
        """What of the main's could be shed at once, in milliwatts: hash banks above idle, and flexible jobs."""
        armed_mw = 0
        for i, (bank, outcome) in enumerate(zip(self.site.banks, self.outcomes, strict=True)):
            if bank.work is None:
                frozen = self.envelope.bounds[i].frozen_w is not None
                watts = 0 if frozen else self.taken_w[i]
            else:
                watts = sum(job.power_w for job in outcome.jobs.values() if not job.firm)
            armed_mw += watts * bank.plate.pue_milli
        return armed_mw

    def _reserve_mw(self) -> int:
        """What is to be armed, and a margin for what the meter will not show of it."""
        return self.envelope.reserve_w * (MW_PER_W + self.site.params.cap_margin_milli)

    def settle(self) -> None:
        """Set the targets; a hash bank's in whole devices."""
        for i, (bank, bounds) in enumerate(zip(self.site.banks, self.envelope.bounds, strict=True)):
            outcome = self.outcomes[i]
            if bounds.frozen_w is not None:
                continue
            if bank.work is not None:
                outcome.target_w = min(bounds.hi_w, bank.plate.idle_w + self.taken_w[i])
                continue
            wish_w = bank.plate.idle_w + self.taken_w[i] if self.taken_w[i] else 0
            outcome.target_w = _whole_devices(bank, bounds, wish_w)
            if outcome.target_w == 0 and wish_w < bank.plate.steps_w and outcome.refused is None:
                outcome.target_w = wish_w  # its lowest level is less than one device at full power
            if outcome.asked_by and outcome.target_w < wish_w:
                self._round_up(outcome, bank, bounds, wish_w)
            used_w = max(outcome.target_w - bank.plate.idle_w, 0)
            self._load(self.used_mw, bank, used_w - self.taken_w[i])
            self.taken_w[i] = used_w

    def _round_up(self, outcome: Outcome, bank: Bank, bounds: Bounds, wish_w: int) -> None:
        """A floor is reached with one device more rather than missed with one less, where there is room."""
        target_w = outcome.target_w + bank.plate.steps_w
        rise_w = target_w - wish_w
        fits = all(self.used_mw[n] + rise_w * self.site.factor(n, bank) <= self.cap_mw[n] for n in bank.path)
        if fits and target_w <= bounds.hi_w:
            outcome.target_w = target_w

    def _room(self, lot: Lot, bank: Bank) -> tuple[int, int]:
        """The bank watts that still fit, and the node that has least room, the deepest of equals. What a frozen job
        keeps is room for itself; and for firm work that runs, which is not stopped for so little that may yet fall."""
        caps = self.firm_cap_mw if lot.cls <= Class.FIRM_PENDING else self.cap_mw
        spare_mw = self.frozen_mw if lot.cls is Class.FIRM_RUNNING else [0] * len(caps)
        rooms = [(caps[n] - self.used_mw[n] + spare_mw[n]) // self.site.factor(n, bank) for n in bank.path]
        least_w = min(rooms)
        return max(0, least_w + _kept_w(lot, bank)), bank.path[rooms.index(least_w)]

    def _too_little(self, node: int, bank: Bank, given_w: int) -> bool:
        """A rise that a limit trims to less than that limit's own margin is not made: it would follow meter noise."""
        margin_mw = min(x.watts * MW_PER_W - x.plan_mw for x in self.envelope.limits[node])
        return given_w * self.site.factor(node, bank) < margin_mw

    def _note_refusal(self, lot: Lot, bank: Bank, want_w: int, node: int | None) -> None:
        """Blame the strongest limit a refused lot would have broken; `node` is None where its own bounds refused."""
        if not lot.wanted and lot.cls is Class.MERIT:
            return
        firm = lot.cls <= Class.FIRM_PENDING
        would_mw = self.demand_mw + want_w * bank.plate.pue_milli
        at_main = [x for x in self.envelope.limits[self.site.root] if x.kind == "obligation"]
        broken = [x for x in at_main if x.plan_mw < would_mw and (x.firm or not firm)]
        if not broken and node is not None:
            broken = [x for x in self.envelope.limits[node] if x.firm or not firm]
        if not broken:
            return
        tightest = min(broken, key=lambda x: (x.plan_mw, x.kind != "obligation", x.id))
        blamed = (Blame.OBLIGATION if tightest.kind == "obligation" else Blame.CAP, tightest.id)
        outcome = self.outcomes[lot.bank]
        outcome.refused = min(outcome.refused, blamed) if outcome.refused else blamed

    def _keep_off(self, lot: Lot) -> None:
        if lot.job is not None and lot.job.firm:
            self.outcomes[lot.bank].kept_off.append(lot.job)

    def _give(self, lot: Lot, bank: Bank, given_w: int, floor: Floor | None) -> None:
        outcome = self.outcomes[lot.bank]
        self._load(self.used_mw, bank, given_w - _kept_w(lot, bank))
        self.taken_w[lot.bank] += given_w
        lot.taken_w += given_w
        if lot.job is not None:
            outcome.jobs[lot.job.id] = lot.job
            if lot.job.state is JobState.PENDING:
                self.free_nodes[lot.bank] -= lot.job.nodes
        if not lot.wanted and given_w:
            outcome.against_price = Class.ASKED if floor or lot.cls is Class.ASKED else outcome.against_price or lot.cls
        if floor is not None and not lot.wanted:
            outcome.asked_by = floor.id

    def _load(self, used_mw: list[int], bank: Bank, power_w: int) -> None:
        for node in bank.path:
            used_mw[node] += power_w * self.site.factor(node, bank)


def _kept_w(lot: Lot, bank: Bank) -> int:
    """What a lot's job draws already, frozen or in a bank told to be off."""
    return bank.kept_w.get(lot.job.id, 0) if lot.job is not None else 0


def plan_cap_mw(site: Site, node: int, limits: Sequence[Limit]) -> int:
    """What may be planned at a node. Above what it carries now, the room shrinks by what its meter adds to a rise."""
    cap_mw = min(limit.plan_mw for limit in limits)
    facts = site.nodes[node]
    present_mw = facts.overhead_w * MW_PER_W + facts.present_mw
    if facts.spread_milli and cap_mw > present_mw:
        cap_mw = present_mw + (cap_mw - present_mw) * 1_000 // (1_000 + facts.spread_milli)
    return cap_mw


def _whole_devices(bank: Bank, bounds: Bounds, wish_w: int) -> int:
    """The largest setpoint not above the wish that is a whole number of devices, or stands exactly as it did."""
    step_w = bank.plate.steps_w
    if step_w == 0 or wish_w == 0:
        return wish_w
    exact = [w for w in (bank.natural_w, bank.up_w, bounds.lo_w, bounds.keep_w) if w <= wish_w]
    target_w = max(wish_w // step_w * step_w, *exact, 0)
    return target_w if target_w > bank.plate.idle_w else 0


def _depth(site: Site, node: int) -> int:
    depth, parent = 0, site.nodes[node].parent
    while parent is not None:
        depth, parent = depth + 1, site.nodes[parent].parent
    return depth
