"""Many posed sites as one problem, and what the last plans left put in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR
from controller.engine.carry import EFFORT, Carry, unpack
from controller.engine.optimiser.layout import (
    F8,
    I4,
    LEVELS,
    NO_LIMIT_MW,
    OFF,
    RUN,
    U1,
    Duals,
    Problem,
    Rows,
    Sites,
    Units,
    moves,
    no_duals,
)
from controller.engine.optimiser.primal import Before
from controller.engine.optimiser.solver import Plan
from controller.engine.pose import GRID, NAMES, STEPS, Posed

CARRY_H: Final = 2.0
"""A plan older than this is not carried on."""
_MIDDLE: Final = 0.5 * (GRID.edge_h[:-1] + GRID.edge_h[1:])
_AT: Final = {name: 2 * LEVELS + i for i, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True)
class Start:
    """A last plan to carry on: what of it names what is still there, and the step each step now falls in."""

    carry: Carry
    step: I4
    units: list[tuple[int, int]]
    """(place now, place then)"""
    rows: list[tuple[int, int]]


def begin(posed: Posed) -> Start | None:
    """What to carry on; None where there is nothing, or nothing that fits."""
    carry = unpack(posed.site.snapshot.carry, STEPS)
    if carry is None:
        return None
    since_h = (posed.site.at_ms - carry.at_ms) / MS_PER_HOUR
    if not 0.0 <= since_h <= CARRY_H:
        return None
    then = {key: i for i, key in enumerate(carry.units)}
    units = [(n, then[unit.key]) for n, unit in enumerate(posed.units) if unit.key in then]
    if not units:
        return None
    then = {key: i for i, key in enumerate(carry.rows)}
    rows = [(r, then[row.key]) for r, row in enumerate(posed.rows) if row.key in then]
    step = np.searchsorted(GRID.edge_h, _MIDDLE + since_h, side="right").clip(1, STEPS) - 1
    return Start(carry, step.astype(np.int32), units, rows)


def problem(sites: Sequence[Posed]) -> Problem:
    """One problem of all of them. Each site's part of it does not depend on the others."""
    units = [unit for one in sites for unit in one.units]
    rows = [row for one in sites for row in one.rows]
    figures = np.array([unit.figures for unit in units])
    row_from = _offsets([len(one.rows) for one in sites])
    bases = np.repeat(row_from[:-1], [len(one.units) for one in sites])
    opened = np.ones((len(units), STEPS), np.uint8)
    for n, unit in enumerate(units):
        if unit.due_h < GRID.edge_h[-1]:
            opened[n, GRID.edge_h[1:] > unit.due_h + 1e-9] = 0
        if unit.barred is not None:
            opened[n, unit.barred] = 0
    column = {name: np.ascontiguousarray(figures[:, at]) for name, at in _AT.items()}
    u = Units(
        level_mw=np.ascontiguousarray(figures[:, :LEVELS]),
        level_usd_h=np.ascontiguousarray(figures[:, LEVELS : 2 * LEVELS]),
        level_rate=np.repeat(column.pop("rate")[:, None], LEVELS, axis=1),
        on=column.pop("on").astype(np.uint8),
        open=opened,
        row_from=_offsets([len(unit.rows) for unit in units]),
        rows=np.array([base + r for base, unit in zip(bases, units, strict=True) for r in unit.rows], np.int32),
        weight=np.array([w for unit in units for w in unit.weights], np.float64),
        on_weight=np.array([w for unit in units for w in unit.on_weights], np.float64),
        **column,
    )
    return Problem(
        GRID,
        Sites(
            _offsets([len(one.units) for one in sites]), row_from, np.array([one.price for one in sites]),
            np.array([one.awarded for one in sites], np.uint8),
        ),
        u,
        Rows(
            np.array([row.cap for row in rows], np.float64).reshape(len(rows), STEPS),
            np.array([row.penalty for row in rows], np.float64),
        ),
        moves(GRID, u),
    )  # fmt: skip


def carried_on(p: Problem, starts: Sequence[Start]) -> tuple[Duals, Before]:
    """The last plans' prices and paths, each shifted by its own age to where it now stands."""
    duals = no_duals(len(p.rows.penalty), len(p.units.idle_mw), len(starts), STEPS)
    phase = np.zeros((len(p.units.idle_mw), STEPS), np.uint8)
    effort = np.zeros(phase.shape, np.uint8)
    for s, start in enumerate(starts):
        duals.guess[s] = max(start.carry.guess, 1e-3)
        unit0, row0 = p.sites.unit_from[s], p.sites.row_from[s]
        if start.units:
            now, then = np.array(start.units).T
            phase[unit0 + now] = start.carry.phase[then][:, start.step]
            effort[unit0 + now] = start.carry.effort[then][:, start.step]
            duals.job[unit0 + now] = start.carry.work_price[then]
        fresh = set(range(unit0, p.sites.unit_from[s + 1])) - {int(unit0) + n for n, _ in start.units}
        if start.rows:
            now, then = np.array(start.rows).T
            was = start.carry.row_price[then][:, start.step]
            # What the last megawatt is worth stays, so a limit's price gives way to the energy's as that changes.
            moved = was + start.carry.price[start.step] - p.sites.price[s]
            if p.sites.award[s]:  # what arms a reserve is paid the more, the dearer its energy
                arms = row0 + now == p.sites.row_from[s + 1] - 1
                moved[arms] = was[arms] - start.carry.price[start.step] + p.sites.price[s]
            duals.row[row0 + now] = np.where(was > 0.0, np.maximum(moved, 0.0), 0.0)
        for n in sorted(fresh):
            if np.isfinite(p.units.work_h[n]):
                _price_work(p, n, duals)
    np.minimum(duals.job, p.units.work_usd, out=duals.job)
    np.minimum(duals.row, p.rows.penalty[:, None], out=duals.row)
    least = p.units.level_mw[:, :1]
    power = np.where(phase == RUN, least + effort / EFFORT * (p.units.level_mw[:, -1:] - least), least)
    power = np.where(phase == OFF, p.units.idle_mw[:, None], power)
    return duals, Before(np.arange(STEPS, dtype=np.int32), power, phase)


def from_nothing(p: Problem) -> Duals:
    """The prices a cold plan begins with: at the main meter what merit order would pay for its last megawatt, and for a
    job's work what its dearest hour costs. A descent from zero stays far from its bound where work has time to spare.
    """
    duals = no_duals(len(p.rows.penalty), len(p.units.idle_mw), len(p.sites.price), STEPS)
    u = p.units
    batch = np.isfinite(u.work_h)
    share = np.where(batch, np.minimum(u.work_h / np.maximum(u.open @ GRID.hours, 1e-9), 1.0), 1.0)
    full_mw = u.level_mw[:, -1] * u.meter_share
    worth = np.maximum(u.level_usd_h[:, -1], u.work_usd) / np.maximum(full_mw, 1e-9)
    for s in range(len(p.sites.price)):
        row0, row1 = p.sites.row_from[s : s + 2]
        if row0 < row1:
            _price_meter(p, s, row0, worth, full_mw * share, duals)
        if p.sites.award[s]:
            _price_award(p, s, row1 - 1, worth, full_mw * share, duals)
    for n in np.flatnonzero(batch):
        _price_work(p, int(n), duals)
    return duals


def _price_meter(p: Problem, s: int, row: int, worth: F8, mw: F8, duals: Duals) -> None:
    """The first row's price where it binds: what the last unit that fits it is worth, less the energy's price."""
    units = np.arange(p.sites.unit_from[s], p.sites.unit_from[s + 1])
    units = units[np.isin(units, _owners(p)[p.units.rows == row])]
    if not len(units) or (p.units.weight[p.units.rows == row] <= 0.0).any():
        return
    order = units[np.argsort(-worth[units], kind="stable")]
    last = np.searchsorted(np.cumsum(mw[order]), p.rows.cap[row], side="left")
    dearest = np.append(worth[order], 0.0)[last]
    duals.row[row] = np.clip(dearest - p.sites.price[s], 0.0, p.rows.penalty[row])


def _price_award(p: Problem, s: int, row: int, worth: F8, mw: F8, duals: Duals) -> None:
    """A reserve's price: what the last unit loses that is needed to arm it, those that lose least first."""
    units = np.arange(p.sites.unit_from[s], p.sites.unit_from[s + 1])
    order = units[np.argsort(-worth[units], kind="stable")]
    need = np.where(p.rows.cap[row] < NO_LIMIT_MW, -p.rows.cap[row], 0.0)
    last = np.searchsorted(np.cumsum(mw[order]), need, side="left").clip(0, len(order) - 1)
    loss = p.sites.price[s] - worth[order][last]
    duals.row[row] = np.where(need > 0.0, np.clip(loss, 0.0, p.rows.penalty[row]), 0.0)


def _price_work(p: Problem, n: int, duals: Duals) -> None:
    """What an hour of a job's work is worth beyond the dearest of the hours that it needs, limits priced in."""
    u = p.units
    mw = u.level_mw[n, -1]
    s = int(np.searchsorted(p.sites.unit_from, n, side="right")) - 1
    cost = p.sites.price[s] * u.meter_share[n] * mw
    for k in range(u.row_from[n], u.row_from[n + 1]):
        cost = cost + duals.row[u.rows[k]] * (u.weight[k] * mw + u.on_weight[k])
    steps = np.flatnonzero(u.open[n])
    if not len(steps):
        return
    order = steps[np.argsort(cost[steps], kind="stable")]
    needed = min(int(np.searchsorted(np.cumsum(GRID.hours[order]), u.work_h[n] - 1e-9)), len(order) - 1)
    duals.job[n] = min(max(0.0, float(u.work_usd[n] - cost[order[needed]])), float(u.work_usd[n]))


def _owners(p: Problem) -> I4:
    """(as `rows`) whose entry each is."""
    return np.repeat(np.arange(len(p.units.idle_mw), dtype=np.int32), np.diff(p.units.row_from))


def left_of(p: Problem, posed: Posed, made: Plan, units: slice, rows: slice, site: int, gap: float) -> Carry:
    """What the next plan begins with."""
    return Carry(
        at_ms=posed.site.at_ms,
        gap=gap,
        guess=min(1.0, max(0.0, float(made.duals.guess[site]))),
        units=tuple(unit.key for unit in posed.units),
        rows=tuple(row.key for row in posed.rows),
        work_price=made.duals.job[units],
        phase=made.phase[units],
        effort=_effort(p, made, units) if posed.rows else np.zeros(made.phase[units].shape, np.uint8),
        row_price=made.duals.row[rows],
        price=posed.price,
    )


def _effort(p: Problem, made: Plan, units: slice) -> U1:
    """How far up its curve each unit is planned, rounded down so that all of it fits again."""
    least, full = p.units.level_mw[units, :1], p.units.level_mw[units, -1:]
    share = (made.power_mw[units] - least) / np.maximum(full - least, 1e-12)
    return np.asarray(np.clip(share * EFFORT + 1e-6, 0.0, EFFORT).astype(np.uint8))


def _offsets(counts: Sequence[int]) -> I4:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
