"""From a site, what is expected and how the plant stands to the optimiser's `Problem`.

Units are the banks, then the firm loads, then the open jobs; rows the main meter, obligations, the feeders, the halls'
cooling and the partitions' nodes. Several price paths may be planned side by side: each is one of the problem's sites,
all alike but for the price.

What the optimiser cannot say is brought as near as one number allows: a unit's share at the main meter is the one that
holds now, and the price of later steps is corrected by what the halls' PUE then is over what it is now; a start costs
what the bank does not earn while it boots besides. The interval that runs is exact in both.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from contract.units import MS_PER_HOUR
from controller.engine.optimiser.layout import (
    F8,
    I4,
    LEVELS,
    NO_LIMIT_MW,
    U1,
    Grid,
    Problem,
    Rows,
    Sites,
    Units,
    moves,
)
from controller.forecast.known import Outlook
from sim.backtest.model import Job, Obligation, Site, State, Timeline
from sim.backtest.physics import AMBIENT_UNKNOWN_C, HOURS_PER_DAY, feeder_paths, firm_usd_per_mwh, steps_of

METER_PENALTY: Final = 20_000.0
NODE_PENALTY: Final = 50_000.0
FEEDER_PENALTY: Final = 50_000.0
MARGIN_MW: Final = 1e-7
"""Kept from every limit, for rounding."""
NEAR_STEPS: Final = 8
DAY_H: Final = 24.0
FAR_H: Final = 72.0
FAR_STEP_H: Final = 6.0
NODE_OVER_IDLE: Final = 3.0
"""What a node draws for its work, as a multiple of its idle power: only for the scale of a row."""


def planning_grid(interval_h: float, near: int = NEAR_STEPS) -> Grid:
    """`near` steps of an interval, hours up to a day from now, six-hour steps up to three: long jobs may wait."""
    lengths = [interval_h] * near
    done = near * interval_h
    rest = (-done) % 1.0
    if rest > 1e-9:
        lengths.append(rest)
    lengths += [1.0] * round(DAY_H - sum(lengths))
    lengths += [FAR_STEP_H] * round((FAR_H - DAY_H) / FAR_STEP_H)
    hours = np.array(lengths)
    return Grid(hours, np.concatenate([[0.0], np.cumsum(hours)]))


class JobTable(NamedTuple):
    """Every job of a time line as arrays, so that the open ones are picked by index."""

    partition: I4
    nodes: F8
    level_mw: F8
    level_rate: F8
    usd_per_h: F8
    miss_per_h: F8
    start_usd: F8
    min_up_h: F8
    deadline_ms: F8
    firm: U1

    @classmethod
    def of(cls, jobs: tuple[Job, ...]) -> JobTable:
        """The table of `jobs`, in their order."""

        def f8(values: list[float]) -> F8:
            return np.array(values, dtype=np.float64)

        return cls(
            np.array([j.partition for j in jobs], np.int32),
            f8([j.nodes for j in jobs]),
            f8([x for j in jobs for x in j.level_mw]).reshape(-1, LEVELS),
            f8([x for j in jobs for x in j.level_rate]).reshape(-1, LEVELS),
            f8([j.usd_per_h for j in jobs]),
            f8([j.miss_usd / j.work_h for j in jobs]),
            f8([j.start_usd for j in jobs]),
            f8([j.min_up_h for j in jobs]),
            f8([j.deadline_ms for j in jobs]),
            np.array([j.firm for j in jobs], np.uint8),
        )  # fmt: skip


class Model:
    """What stays of a site from interval to interval, and `problem`, what is asked anew in each."""

    def __init__(self, site: Site, timeline: Timeline) -> None:
        self.site = site
        self.interval_h = timeline.interval_ms / MS_PER_HOUR
        self.interval_ms = timeline.interval_ms
        self.grid = planning_grid(self.interval_h)
        self.table = JobTable.of(timeline.jobs)
        self.steps = round(self.grid.edge_h[-1] / self.interval_h)
        self.average = _weights(self.grid, self.interval_h, self.steps)
        banks, firm = site.banks, site.firm_loads
        self.banks, self.fixed = len(banks), len(banks) + len(firm)
        self.bank_mw = np.array([b.level_mw for b in banks]).reshape(-1, LEVELS)
        self.bank_phs = np.array([b.level_phs for b in banks]).reshape(-1, LEVELS)
        self.boot_h = np.array([b.boot_h for b in banks])
        self.bank_start = np.array([b.start_usd for b in banks])
        self.up = np.array([steps_of(b.min_up_h, self.interval_h) for b in banks], np.int64)
        self.down = np.array([steps_of(b.min_down_h, self.interval_h) for b in banks], np.int64)
        share = np.array([0.0, 0.4, 0.8, 1.0])
        self.firm_mw = np.array([f.mw for f in firm]).reshape(-1, 1) * share
        self.firm_usd = np.array([firm_usd_per_mwh(f) for f in firm])
        self.idle_mw = np.concatenate([np.array([b.idle_mw for b in banks]), np.zeros(len(firm))])
        self._rows(site)
        self._halls(site)

    def _rows(self, site: Site) -> None:
        """Which rows a unit of each place counts in."""
        paths = feeder_paths(site)
        self.row_due = 1
        self.row_feeder = 2
        self.row_hall = self.row_feeder + len(site.feeders)
        self.row_nodes = self.row_hall + len(site.halls)
        self.rows = self.row_nodes + len(site.partitions)
        self.penalty = np.full(self.rows, FEEDER_PENALTY)
        self.penalty[0] = METER_PENALTY
        self.penalty[1] = max(site.obligation_usd_per_mwh, 1.0)
        self.limit = np.array([f.limit_mw for f in site.feeders])
        self.node_idle = np.array([p.nodes * p.node_idle_mw for p in site.partitions])
        self.partition_hall = np.array([p.hall for p in site.partitions], np.int32)
        # A node counts as about the MW it works with, so that the prices of nodes and of power come down alike.
        self.node_mw = np.array([max(NODE_OVER_IDLE * p.node_idle_mw, 1e-4) for p in site.partitions])
        self.node_rows = np.array([p.nodes for p in site.partitions]) * self.node_mw
        for q, part in enumerate(site.partitions):
            for f in paths[part.feeder]:
                self.limit[f] -= self.node_idle[q]
        places = [(b.feeder, b.hall) for b in site.banks] + [(f.feeder, f.hall) for f in site.firm_loads]
        self.hall_of = np.array([hall for _, hall in places], np.int32)

        def rows_of(feeder: int, hall: int) -> list[int]:
            return [0, 1, *(self.row_feeder + f for f in paths[feeder]), self.row_hall + hall]

        self._unit_rows = [rows_of(feeder, hall) for feeder, hall in places]
        self._job_rows = [[*rows_of(p.feeder, p.hall), self.row_nodes + q] for q, p in enumerate(site.partitions)]
        self._from_fixed = np.concatenate([[0], np.cumsum([len(r) for r in self._unit_rows])]).astype(np.int32)
        self._fixed_rows = np.array([r for rows in self._unit_rows for r in rows], np.int32)

    def _halls(self, site: Site) -> None:
        """Curves of the halls, and each one's usual part of the site's power."""
        self._pue = [
            (np.array([p[0] for p in h.pue_points]), np.array([p[1] for p in h.pue_points])) for h in site.halls
        ]
        self._cool = [
            (np.array([p[0] for p in h.limit_points]), np.array([p[1] for p in h.limit_points])) for h in site.halls
        ]
        usual = np.zeros(max(len(site.halls), 1))
        for b in site.banks:
            usual[b.hall] += b.level_mw[-1]
        if usual.sum() <= 0:
            usual[:] = 1.0
        self._usual = usual / usual.sum()

    def share_and_cooling(self, ambient: F8 | None, now_c: float | None) -> tuple[F8, F8]:
        """(H, T) each hall's PUE and what its cooling takes away, the first step at what is measured now."""
        steps = len(self.grid.hours)
        if ambient is None:
            path = np.full(steps, AMBIENT_UNKNOWN_C if now_c is None else now_c)
        else:
            path = self.average @ _fit(ambient, self.steps)
        if now_c is not None:
            path[0] = now_c
        halls = len(self._pue)
        pue, cool = np.empty((halls, steps)), np.empty((halls, steps))
        for h in range(halls):
            pue[h] = np.interp(path, *self._pue[h])
            cool[h] = np.interp(path, *self._cool[h])
        return pue, cool

    def ratio(self, pue: F8) -> F8:
        """(T,) the site's usual PUE at each step over that of now."""
        if not len(pue):
            return np.ones(len(self.grid.hours))
        usual = self._usual @ pue
        out: F8 = usual / max(float(usual[0]), 1e-9)
        return out

    def paths(self, outlook: Outlook) -> tuple[F8, F8]:
        """(steps,) USD/MWh at the meter by interval: energy and adder; the chance of a coincident peak times its
        charge."""
        usd = _fit(outlook.usd_per_mwh, self.steps) + self.site.energy.adder_usd_per_mwh
        energy, peak = self.site.energy, np.zeros(self.steps)
        if energy.peak_charge_usd_per_mw_year > 0 and energy.peak_months:
            charge = energy.peak_charge_usd_per_mw_year / len(energy.peak_months)
            peak = _pad(outlook.peak, self.steps) * (charge / self.interval_h)
        return usd, peak

    def problem(
        self, prices: F8, pue: F8, cool: F8, hashprice: float, obligations: tuple[Obligation, ...], cap_mw: float,
        now_ms: int, state: State, jobs: list[int],
    ) -> Problem:  # fmt: skip
        """The problem at `now_ms`. `prices` (K, T) as `price_path` gives them, one row for each path; `jobs` the open
        ones with work left."""
        t, g, h = self.table, self.grid, self.interval_h
        index = np.array(jobs, np.int64)
        count, steps = len(index), len(g.hours)
        n = self.fixed + count
        part = t.partition[index]
        share = np.empty(n)
        share[: self.fixed] = pue[self.hall_of, 0]
        share[self.fixed :] = pue[self.partition_hall[part], 0]
        left = np.array([state.left_h[j] for j in jobs])
        due_h = (t.deadline_ms[index] - now_ms) / MS_PER_HOUR
        running = np.array([j in state.running for j in jobs], np.uint8)
        ran = np.array([state.ran_h.get(j, 0.0) for j in jobs])
        coin = hashprice / HOURS_PER_DAY
        usd = np.zeros((n, LEVELS))
        usd[: self.banks] = self.bank_phs * coin
        usd[self.banks : self.fixed] = self.firm_mw * self.firm_usd[:, None]
        mw = np.concatenate([self.bank_mw, self.firm_mw, t.level_mw[index]])
        rate = np.zeros((n, LEVELS))
        rate[self.fixed :] = t.level_rate[index]
        opened = np.ones((n, steps), np.uint8)
        opened[self.fixed :] = g.edge_h[None, 1:] <= np.maximum(due_h, h)[:, None] + 1e-9
        firm = t.firm[index] == 1
        up_h, down_h = np.zeros(n), np.zeros(n)
        up_h[: self.banks], down_h[: self.banks] = self.up * h, self.down * h
        up_h[self.fixed :] = np.where(firm, np.minimum(left, due_h), t.min_up_h[index])
        locked = np.zeros(n)
        on = np.ones(n, np.uint8)
        on[: self.banks] = state.on
        dwell = np.where(state.on == 1, self.up, self.down)
        locked[: self.banks] = np.maximum(dwell - state.since, 0) * h
        locked[self.banks : self.fixed] = g.edge_h[-1]
        on[self.fixed :] = running
        locked[self.fixed :] = np.where(
            running == 1, np.where(firm, left, np.maximum(t.min_up_h[index] - ran, 0.0)), 0.0
        )
        start = np.zeros(n)
        start[: self.banks] = self.bank_start + coin * self.bank_phs[:, -1] * self.boot_h
        start[self.fixed :] = t.start_usd[index]
        zeros, idle = np.zeros(n), np.zeros(n)
        idle[: self.fixed] = self.idle_mw
        work, work_usd, miss = np.full(n, np.inf), np.zeros(n), np.zeros(n)
        work[self.fixed :] = left
        work_usd[self.fixed :] = t.usd_per_h[index] + t.miss_per_h[index]
        miss[self.fixed :] = t.miss_per_h[index] * left
        rows, weight, on_weight, offsets = self.coefficients(part, t.nodes[index], share)
        alone = Units(
            level_mw=mw, level_usd_h=usd, level_rate=rate, idle_mw=idle, meter_share=share, start_usd=start,
            boot_h=zeros, min_up_h=up_h, min_down_h=down_h, work_h=work, work_usd=work_usd, miss_usd=miss, on=on,
            locked_h=locked, booting_h=zeros, open=opened, row_from=offsets, rows=rows, weight=weight,
            on_weight=on_weight,
        )  # fmt: skip
        cap = self.caps(pue, cool, obligations, cap_mw, now_ms)
        return _side_by_side(g, alone, cap, self.penalty, np.ascontiguousarray(prices * self.ratio(pue)))

    def caps(self, pue: F8, cool: F8, obligations: tuple[Obligation, ...], cap_mw: float, now_ms: int) -> F8:
        """(R, T) what the units may take together. The main meter counts at each step's own PUE brought to now's."""
        g = self.grid
        cap = np.empty((self.rows, len(g.hours)))
        fixed = self.site.base_load_mw + self.node_idle @ pue[self.partition_hall]
        ratio = self.ratio(pue)
        cap[0] = (cap_mw - fixed) / ratio
        cap[1] = NO_LIMIT_MW
        for due in obligations:
            begin, end = (due.starts_ms - now_ms) / MS_PER_HOUR, (due.ends_ms - now_ms) / MS_PER_HOUR
            inside = (g.edge_h[1:] > begin + 1e-9) & (g.edge_h[:-1] < end - 1e-9)
            cap[1] = np.where(inside, np.minimum(cap[1], (due.target_mw - fixed) / ratio), cap[1])
        cap[self.row_feeder : self.row_hall] = self.limit[:, None]
        cap[self.row_hall : self.row_nodes] = cool
        for q in range(len(self.node_idle)):
            cap[self.row_hall + self.partition_hall[q]] -= self.node_idle[q]
        cap[self.row_nodes :] = self.node_rows[:, None]
        return cap

    def room_now(self, pue: F8, cool: F8, cap_mw: float) -> F8:
        """(R,) what the units may take together in the interval that runs; `pue` and `cool` (H,)."""
        cap = np.empty(self.rows)
        cap[0] = cap_mw - self.site.base_load_mw - self.node_idle @ pue[self.partition_hall]
        cap[1] = np.inf
        cap[self.row_feeder : self.row_hall] = self.limit
        cap[self.row_hall : self.row_nodes] = cool
        for q, hall in enumerate(self.partition_hall):
            cap[self.row_hall + hall] -= self.node_idle[q]
        cap -= MARGIN_MW
        cap[self.row_nodes :] = self.node_rows + MARGIN_MW
        return cap

    def coefficients(self, part: I4, nodes: F8, share: F8) -> tuple[I4, F8, F8, I4]:
        """Rows, weights and on-weights of every unit, and the offsets into them."""
        pieces = [self._fixed_rows]
        lengths = [len(self._job_rows[q]) for q in part.tolist()]
        pieces += [np.array(self._job_rows[q], np.int32) for q in part.tolist()]
        rows = np.concatenate(pieces)
        offsets = np.concatenate([self._from_fixed, self._from_fixed[-1] + np.cumsum(lengths)]).astype(np.int32)
        owner = np.repeat(np.arange(len(share)), np.diff(offsets))
        weight = np.where(rows < self.row_feeder, share[owner], np.where(rows >= self.row_nodes, 0.0, 1.0))
        on_weight = np.zeros(len(rows))
        ends = offsets[self.fixed + 1 :] - 1
        on_weight[ends] = nodes * self.node_mw[part]
        return rows, weight, on_weight, offsets


def _side_by_side(g: Grid, units: Units, cap: F8, penalty: F8, prices: F8) -> Problem:
    """One site for every price path, the same units and rows in each."""
    paths, n, r = len(prices), len(units.idle_mw), len(penalty)
    if paths > 1:
        many = {
            name: np.concatenate([getattr(units, name)] * paths)
            for name in Units._fields
            if name not in ("row_from", "rows")
        }
        rows = np.concatenate([units.rows + k * r for k in range(paths)]).astype(np.int32)
        last = len(units.rows)
        offsets = np.concatenate([units.row_from[:-1] + k * last for k in range(paths)] + [np.array([paths * last])])
        units = Units(**many, rows=rows, row_from=offsets.astype(np.int32))
        cap, penalty = np.concatenate([cap] * paths), np.concatenate([penalty] * paths)
    sites = Sites(
        np.arange(0, paths * n + 1, n, dtype=np.int32) if n else np.zeros(paths + 1, np.int32),
        np.arange(0, paths * r + 1, r, dtype=np.int32), prices, np.zeros(paths, np.uint8),
    )  # fmt: skip
    return Problem(g, sites, units, Rows(cap, penalty), moves(g, units))


def _weights(g: Grid, interval_h: float, steps: int) -> F8:
    """(T, steps) what each interval counts in the mean over each planning step."""
    starts = np.arange(steps) * interval_h
    overlap = np.minimum(starts[None, :] + interval_h, g.edge_h[1:, None]) - np.maximum(
        starts[None, :], g.edge_h[:-1, None]
    )
    weights: F8 = np.maximum(overlap, 0.0) / g.hours[:, None]
    return weights


def _fit(path: F8, steps: int) -> F8:
    """A path brought to `steps` values: the last day of it comes again."""
    if len(path) >= steps:
        return path[:steps]
    out: F8 = np.resize(path, steps)
    return out


def _pad(path: F8, steps: int) -> F8:
    """A path brought to `steps` values, 0 where it does not reach."""
    out = np.zeros(steps)
    out[: min(len(path), steps)] = path[:steps]
    return out


def shifted(row: F8, g: Grid, hours: float) -> F8:
    """(R, T) dual prices as they stand `hours` later: each step takes the one that held at its middle."""
    middle = 0.5 * (g.edge_h[:-1] + g.edge_h[1:]) + hours
    at = np.searchsorted(g.edge_h, middle, side="right").clip(1, len(g.hours)) - 1
    return np.ascontiguousarray(row[:, at])
