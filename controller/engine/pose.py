"""One site, as the rules leave it, put to the optimiser: its units, its limits, its price.

A unit is a hash bank or a flexible job that the economics are free to choose; all else (overheads, idle nodes, firm
work, what is held, forced, frozen or stuck) only takes of the limits. Limits that can never bind are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.messages import Job, JobState
from contract.reasons import DecisionReason
from contract.units import MS_PER_HOUR, W_PER_MW
from controller.engine import halls, value
from controller.engine.economics import plan_cap_mw
from controller.engine.facts import MW_PER_W, Bank, Site
from controller.engine.optimiser.layout import F8, LEVELS, NO_LIMIT_MW, Grid, grid
from controller.engine.rules import Bounds, Envelope, arm_from_ms, limit_of, shed_from_ms

GRID: Final[Grid] = grid()
STEPS: Final = len(GRID.hours)
JOBS_MAX: Final = 48
"""Flexible jobs planned on one site, the largest; merit order chooses of the rest."""
UNITS_MAX: Final = 320
"""A larger site is not planned: a sweep takes time with the square of its units."""
METER_PENALTY: Final = 20_000.0
FEEDER_PENALTY: Final = 50_000.0
NODE_PENALTY: Final = 50_000.0
AWARD_PENALTY: Final = 5_000.0
"""USD/MWh of exceeding the main meter's limits, a feeder's or a hall's cooling, the nodes there are, and of what is
not armed of a reserve awarded: see docs/optimiser.md."""
AWARD: Final = "award"
EDGE_H: Final = 1e-9
"""Steps are summed up: where one ends and a window does, they are this near."""
PART: Final = 2
"""Of a bank whose limits bind, one part in so many of its lowest level is the least it is planned at: some of its
devices may stay down."""
MILLIWATTS: Final = W_PER_MW * MW_PER_W
_HARD: Final = frozenset(
    {
        DecisionReason.INTERLOCK,
        DecisionReason.EMERGENCY_STOP,
        DecisionReason.LOCKOUT,
        DecisionReason.CAP,
        DecisionReason.DATA_STALE,
    }
)
"""Rules whose upper bounds are planned with. A ramp's is gone the next minute, a coming obligation's is a row."""

Figures = tuple[float, ...]
"""4 levels' MW, 4 levels' USD/h, then `NAMES`."""
NAMES: Final = (
    "rate", "idle_mw", "meter_share", "start_usd", "boot_h", "min_up_h", "min_down_h", "work_h", "work_usd", "miss_usd",
    "on", "locked_h", "booting_h",
)  # fmt: skip


@dataclass(slots=True)
class Unit:
    """One unit and where it stands."""

    key: str
    bank: int
    job: Job | None
    least_w: int
    most_w: int
    figures: Figures = ()
    rows: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    on_weights: list[float] = field(default_factory=list)
    due_h: float = np.inf
    """A batch job's deadline."""
    locked: bool = False
    """Its dwell keeps it as it is."""
    barred: NDArray[np.intp] | None = None
    """Steps in which there are not even the nodes for it alone."""


@dataclass(slots=True)
class Row:
    """One limit on what units take together."""

    key: str
    cap: F8
    """(T,) MW, or nodes."""
    penalty: float


@dataclass(slots=True)
class Posed:
    """A site's problem."""

    site: Site
    units: list[Unit]
    rows: list[Row]
    price: F8
    """(T,) USD/MWh at the main meter."""
    rest_mw: F8
    """(T,) at the main meter, of all that is no unit."""
    load: Load

    @property
    def awarded(self) -> bool:
        """Whether a reserve is awarded within the horizon; its row is then the last."""
        return bool(self.rows) and self.rows[-1].key == AWARD


class TooLargeError(Exception):
    """The site has more units than can be planned in time."""


def pose(site: Site, envelope: Envelope, price: F8, *, meter: bool = False) -> Posed:
    """The problem of one site. With `meter` its first row is the main meter's even where that can never bind. Raises
    `TooLargeError`."""
    load = Load(site)
    units: list[Unit] = []
    for i, (bank, bounds) in enumerate(zip(site.banks, envelope.bounds, strict=True)):
        units.extend(_units(i, bank, bounds, load))
    if len(units) > UNITS_MAX:
        raise TooLargeError
    rows = _rows(site, envelope, units, load, meter=meter)
    mean_usd = float(price @ GRID.hours / GRID.hours.sum())
    for unit in units:
        bank = site.banks[unit.bank]
        if unit.job is None:
            unit.figures = _bank_figures(site, bank, envelope.bounds[unit.bank], unit, mean_usd)
        else:
            unit.figures = _job_figures(site, bank, unit.job, unit)
    return Posed(site, units, rows, price, -load.left(site.root, np.zeros(STEPS)), load)


class Load:
    """What takes of the nodes besides the units, in milliwatts, and the firm jobs among it that will end."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.fixed_mw = [node.overhead_w * MW_PER_W for node in site.nodes]
        self.ends: list[tuple[Bank, int, float]] = []
        """(bank, watts, hours from now)"""
        self.hash_w = self.hpc_w = 0
        """Of all that was added, at the banks."""
        self.armed_mw = 0
        """Of it, what could be shed at once, in milliwatts at the main meter."""

    def add(self, bank: Bank, watts: int) -> None:
        if bank.hash:
            self.hash_w += watts
        else:
            self.hpc_w += watts
        for node in bank.path:
            self.fixed_mw[node] += watts * self._site.factor(node, bank)

    def add_job(self, bank: Bank, job: Job) -> None:
        self.add(bank, job.power_w)
        if job.remaining_ms is not None:
            self.ends.append((bank, job.power_w, job.remaining_ms / MS_PER_HOUR))

    def left(self, node: int, cap_mw: F8) -> F8:
        """(T,) MW that are left of a node's cap for units."""
        left = cap_mw - self.fixed_mw[node] / MILLIWATTS
        for bank, watts, end_h in self.ends:
            if node in bank.path and end_h < GRID.edge_h[-1]:
                left[int(np.searchsorted(GRID.edge_h[:-1], end_h)) :] += (
                    watts * self._site.factor(node, bank) / MILLIWATTS
                )
        return left


def _units(index: int, bank: Bank, bounds: Bounds, load: Load) -> Iterable[Unit]:
    idle_w = bank.plate.idle_w
    if bounds.frozen_w is not None:
        load.add(bank, max(bounds.frozen_w, idle_w + bank.stuck_w))
        return
    if bank.work is None:
        most_w = min([bank.natural_w, *(n.watts for n in bounds.trace if n.rule in _HARD)])
        fixed = bounds.lo_w >= bounds.hi_w and (bounds.hold or bounds.force)
        if fixed or most_w <= idle_w or not bank.segments:
            load.add(bank, max(bounds.lo_w if fixed else 0, idle_w) + bank.stuck_w)
            load.armed_mw += max(0, bounds.lo_w - idle_w if fixed else 0) * bank.plate.pue_milli
            return
        load.add(bank, bank.stuck_w)
        yield Unit(bank.id, index, None, idle_w, most_w)
        return
    load.add(bank, idle_w + bank.stuck_w - sum(watts for job, watts in bank.kept_w.items() if job not in bank.frozen_w))
    if not bank.work.known or bounds.hold:
        load.add(bank, max(0, min(bounds.hi_w, bounds.lo_w if bounds.hold else bank.ceiling_w) - idle_w))
        return
    yield from _job_units(index, bank, bounds, load)


def _job_units(index: int, bank: Bank, bounds: Bounds, load: Load) -> Iterable[Unit]:
    firm, flexible = _jobs(bank, bounds)
    for job in firm:
        load.add_job(bank, job)
    flexible.sort(key=lambda job: (-job.power_w, job.id))
    for job in flexible[JOBS_MAX:]:
        if job.state is JobState.RUNNING:
            load.add(bank, job.power_w)
            load.armed_mw += job.power_w * bank.plate.pue_milli
    for job in sorted(flexible[:JOBS_MAX], key=lambda job: job.id):
        yield Unit(f"{bank.id}/{job.id}", index, job, job.power_w, job.power_w)


def _jobs(bank: Bank, bounds: Bounds) -> tuple[list[Job], list[Job]]:
    """The jobs that are served whatever they cost, and those there is a choice about. Of firm jobs that wait only those
    that there are nodes for: what cannot start draws nothing."""
    work = bank.work
    assert work is not None  # noqa: S101  the callers looked
    known, free = bank.fresh and work.fresh, work.free_nodes
    served: list[Job] = []
    flexible: list[Job] = []
    for job in work.jobs:
        if job.id in bounds.barred or not (job.state is JobState.RUNNING or known):
            continue
        if job.firm or bounds.force:
            if job.state is not JobState.PENDING or job.nodes <= free:
                served.append(job)
                free -= job.nodes if job.state is JobState.PENDING else 0
        elif job.power_w > 0:
            flexible.append(job)
    return served, flexible


def _rows(site: Site, envelope: Envelope, units: list[Unit], load: Load, *, meter: bool) -> list[Row]:
    """The rows that may bind, the main meter's first; each unit learns which it counts in."""
    below: list[list[tuple[Unit, float]]] = [[] for _ in site.nodes]
    for unit in units:
        bank = site.banks[unit.bank]
        for node in bank.path:
            below[node].append((unit, site.factor(node, bank) / MW_PER_W))
    rows: list[Row] = []
    for node in [site.root, *(i for i in range(len(site.nodes)) if i != site.root)]:
        if not below[node]:
            continue
        limits = _limits(site, envelope, node)
        lowest_mw, cooled = float(min(mw for mw, _, _ in limits)), None
        if site.nodes[node].hall is not None:
            cooled = _cooled_mw(site, node)
            lowest_mw = min(lowest_mw, float(cooled.min()) * MILLIWATTS)
        least_mw = lowest_mw - load.fixed_mw[node]
        asked = meter and node == site.root
        if asked or sum(unit.most_w * weight for unit, weight in below[node]) * MW_PER_W > least_mw:
            penalty = METER_PENALTY if node == site.root else FEEDER_PENALTY
            cap = load.left(node, cooled if cooled is not None else _over_time(site, limits))
            _bind(rows, f"node:{site.nodes[node].id}", cap, penalty, site, below[node])
    for i in range(len(site.banks)):
        mine = [unit for unit in units if unit.bank == i and unit.job is not None]
        if mine:
            _partition_rows(rows, site, i, envelope.bounds[i], mine)
    if site.awards and units:
        _award_row(rows, site, units, load)
    return rows


def _award_row(rows: list[Row], site: Site, units: list[Unit], load: Load) -> None:
    """Reserves awarded: what runs and can be shed stays above them, each in its window."""
    need_mw = np.zeros(STEPS)
    margin = 1.0 + site.params.cap_margin_milli / MW_PER_W
    for award in site.awards:
        # As long as any part of a step is in its window; from now on where it is to be armed by now.
        begin_h = (arm_from_ms(site, award) - site.at_ms) / MS_PER_HOUR + EDGE_H
        end_h = (award.ends_at_ms - site.at_ms) / MS_PER_HOUR - EDGE_H
        first = max(0, int(np.searchsorted(GRID.edge_h, begin_h, side="right")) - 1)
        need_mw[first : int(np.searchsorted(GRID.edge_h, end_h, side="left"))] += (award.award_w or 0) / W_PER_MW
    need_mw *= margin
    due = need_mw > 0.0
    if not due.any():
        return
    idle_mw = 0.0
    for unit in units:
        plate = site.banks[unit.bank].plate
        share = plate.pue_milli / MW_PER_W
        idle_mw += (plate.idle_w if unit.job is None else 0) * share / W_PER_MW
        unit.rows.append(len(rows))
        unit.weights.append(-share)
        unit.on_weights.append(0.0)
    rows.append(Row(AWARD, np.where(due, load.armed_mw / MILLIWATTS - need_mw - idle_mw, NO_LIMIT_MW), AWARD_PENALTY))


def _bind(rows: list[Row], key: str, cap: F8, penalty: float, site: Site, units: Iterable[tuple[Unit, float]]) -> None:
    """Add the row. All units idle must fit it, or every plan would exceed it."""
    least_mw = 0.0
    for unit, weight in units:
        least_mw += (site.banks[unit.bank].plate.idle_w if unit.job is None else 0) * weight
        unit.rows.append(len(rows))
        unit.weights.append(weight)
        unit.on_weights.append(0.0)
    rows.append(Row(key, np.maximum(cap, least_mw / W_PER_MW), penalty))


def _partition_rows(rows: list[Row], site: Site, index: int, bounds: Bounds, units: list[Unit]) -> None:
    """What a partition may draw for flexible jobs, and the nodes it has for those that wait."""
    bank = site.banks[index]
    assert bank.work is not None  # noqa: S101  the caller looked
    firm, _ = _jobs(bank, bounds)
    taken_w = bank.plate.idle_w + sum(job.power_w for job in firm)
    most_w = min([bank.natural_w, *(n.watts for n in bounds.trace if n.rule in _HARD)]) - taken_w
    if sum(unit.most_w for unit in units) > most_w:
        cap = np.full(STEPS, max(0, most_w) / W_PER_MW)
        for job in firm:
            if job.remaining_ms is not None:
                cap[int(np.searchsorted(GRID.edge_h[:-1], job.remaining_ms / MS_PER_HOUR)) :] += job.power_w / W_PER_MW
        _bind(rows, f"bank:{bank.id}", cap, FEEDER_PENALTY, site, [(unit, 1.0) for unit in units])
    waiting = [unit for unit in units if unit.job is not None and unit.job.state is JobState.PENDING]
    if sum(unit.job.nodes for unit in waiting if unit.job is not None) <= bank.work.free_nodes:
        return
    nodes = np.full(STEPS, float(bank.work.free_nodes))
    for job in bank.work.jobs:
        if job.state is JobState.RUNNING and job.remaining_ms is not None:
            nodes[int(np.searchsorted(GRID.edge_h[:-1], job.remaining_ms / MS_PER_HOUR)) :] += job.nodes
    for unit in waiting:
        needs = float(unit.job.nodes if unit.job is not None else 0)
        unit.barred = np.flatnonzero(nodes < needs)
        unit.rows.append(len(rows))
        unit.weights.append(0.0)
        unit.on_weights.append(needs)
    rows.append(Row(f"nodes:{bank.id}", nodes, NODE_PENALTY))


def _limits(site: Site, envelope: Envelope, node: int) -> list[tuple[int, int, int | None]]:
    """A node's limits: milliwatts that may be planned, from when and until when, the coming obligations' included."""
    ends = {override.id: override.ends_at_ms for override in site.overrides}
    ends |= {obligation.id: obligation.ends_at_ms for obligation in site.obligations}
    found = [
        (plan_cap_mw(site, node, [limit]), site.at_ms, None if limit.kind == "feeder" else ends.get(limit.id))
        for limit in envelope.limits[node]
    ]
    if node == site.root:
        in_force = {obligation.id for obligation in envelope.obligations}
        for coming in site.obligations:
            if coming.id not in in_force:
                limit = limit_of(site, "obligation", coming.id, coming.target_w)
                found.append((plan_cap_mw(site, node, [limit]), shed_from_ms(site, coming), coming.ends_at_ms))
    return found


def _cooled_mw(site: Site, node: int) -> F8:
    """(T,) MW that a hall's banks may be planned at together, by the weather expected."""
    hall = site.nodes[node].hall
    assert hall is not None  # noqa: S101  the caller looked
    watts = halls.cooling_w(hall, GRID, site.at_ms, site.ambient_c, site.snapshot.outlook)
    return np.asarray(watts / W_PER_MW * (1.0 - site.params.cap_margin_milli / MW_PER_W), np.float64)


def _over_time(site: Site, limits: list[tuple[int, int, int | None]]) -> F8:
    """(T,) MW: the least of the limits, each while it holds; one that holds for part of a step holds for all of it."""
    cap = np.full(STEPS, np.inf)
    for cap_mw, from_ms, until_ms in limits:
        begin_h = (from_ms - site.at_ms) / MS_PER_HOUR
        first = max(0, int(np.searchsorted(GRID.edge_h, begin_h, side="right")) - 1)
        last = STEPS
        if until_ms is not None:
            last = int(np.searchsorted(GRID.edge_h, (until_ms - site.at_ms) / MS_PER_HOUR, side="left"))
        cap[first:last] = np.minimum(cap[first:last], cap_mw / MILLIWATTS)
    return cap


def _bank_figures(site: Site, bank: Bank, bounds: Bounds, unit: Unit, mean_usd: float) -> Figures:
    plate, idle_w = bank.plate, bank.plate.idle_w
    lowest_w = bank.segments[0].to_w
    if unit.rows:
        lowest_w = idle_w + max(1, (lowest_w - idle_w) // PART)
    unit.least_w = min(max(lowest_w, bounds.lo_w), unit.most_w)
    powers = _four(bank, unit.least_w, unit.most_w)
    mw = [w / W_PER_MW for w in powers]
    hashprice = site.hashprice or 0.0
    earns = {w: value.hash_revenue_usd_per_h(hashprice, value.hashrate_ghs(bank.segments, w)) for w in set(powers)}
    usd_h = [earns[w] for w in powers]
    on = bank.up_w > idle_w
    boot_h = plate.start_delay_ms / MS_PER_HOUR
    min_up_h, min_down_h = plate.min_up_ms / MS_PER_HOUR, plate.min_down_ms / MS_PER_HOUR
    locked_h = booting_h = 0.0
    if bank.on_for_ms is not None:
        for_h = bank.on_for_ms / MS_PER_HOUR
        locked_h = max(0.0, (min_up_h if on else min_down_h) - for_h)
        booting_h = max(0.0, boot_h - for_h) if on else 0.0
    unit.locked = locked_h > 0.0
    share = plate.pue_milli / 1_000.0
    wear_usd = plate.start_cost_usd * (unit.most_w / max(plate.rated_w, 1))
    boot_usd = max(0.0, mean_usd) * (mw[-1] - mw[0]) * share * min(boot_h, 1.0)  # the plan boots at its least power
    start_usd = wear_usd + boot_usd + _unrest_usd(site, mw[-1] * share)
    return (
        *mw, *usd_h, 0.0, idle_w / W_PER_MW, share, start_usd, boot_h, min_up_h, min_down_h, np.inf, 0.0, 0.0,
        float(on), locked_h, booting_h,
    )  # fmt: skip


def _four(bank: Bank, least_w: int, most_w: int) -> list[int]:
    """Four powers of a bank's curve: its ends, and two of its levels between them where there are so many."""
    inside = [s.to_w for s in bank.segments if least_w < s.to_w < most_w]
    if len(inside) > LEVELS - 2:
        inside = [inside[len(inside) // 3], inside[2 * len(inside) // 3]]
    powers = [least_w, *inside, most_w]
    return powers + [most_w] * (LEVELS - len(powers))


def _job_figures(site: Site, bank: Bank, job: Job, unit: Unit) -> Figures:
    """A job with a deadline that it can meet may be put off; any other earns by the hour that it runs."""
    mw, share = job.power_w / W_PER_MW, bank.plate.pue_milli / 1_000.0
    usd_h = value.job_revenue_usd_per_h(job)
    running = job.state is JobState.RUNNING
    start_usd = _unrest_usd(site, mw * share) + (job.restart_cost_usd if running else 0.0)
    work_h, work_usd, miss_usd, earned = np.inf, 0.0, 0.0, usd_h
    due_h, left_h = due_and_left_h(site, job)
    if due_h is not None and left_h is not None and 0.0 < left_h <= due_h:
        unit.due_h, work_h, earned = due_h, left_h, 0.0
        miss_usd = usd_h * left_h * site.params.miss_share if due_h <= GRID.edge_h[-1] else 0.0
        work_usd = usd_h + miss_usd / left_h
    return (
        mw, mw, mw, mw, earned, earned, earned, earned, 1.0 if work_h < np.inf else 0.0, 0.0, share, start_usd, 0.0,
        0.0, 0.0, work_h, work_usd, miss_usd, float(running), 0.0, 0.0,
    )  # fmt: skip


def due_and_left_h(site: Site, job: Job) -> tuple[float | None, float | None]:
    """Hours until a job is due, None where that is over or never; and hours of work it has left, None if unknown."""
    due_h = None if job.deadline_ms is None else (job.deadline_ms - site.at_ms) / MS_PER_HOUR
    left_h = None if job.remaining_ms is None else job.remaining_ms / MS_PER_HOUR
    return (due_h if due_h is not None and due_h > 0.0 else None), left_h


def _unrest_usd(site: Site, meter_mw: float) -> float:
    """What a start must earn beyond its cost, so that a plan does not turn on a whim: the hysteresis band both ways
    over the payback time."""
    return 2.0 * site.params.hysteresis_usd_per_mwh * meter_mw * site.params.start_payback_ms / MS_PER_HOUR
