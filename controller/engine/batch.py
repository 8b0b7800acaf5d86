"""Many posed sites as one problem, and what the last plans left put in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR
from controller.engine.carry import Carry, pack, unpack
from controller.engine.optimiser.layout import (
    I4,
    LEVELS,
    OFF,
    RUN,
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
            np.zeros(len(sites), np.uint8),
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
    for s, start in enumerate(starts):
        duals.guess[s] = max(start.carry.guess, 1e-3)
        unit0, row0 = p.sites.unit_from[s], p.sites.row_from[s]
        if start.units:
            now, then = np.array(start.units).T
            phase[unit0 + now] = start.carry.phase[then][:, start.step]
            duals.job[unit0 + now] = start.carry.work_price[then]
        if start.rows:
            now, then = np.array(start.rows).T
            duals.row[row0 + now] = start.carry.row_price[then][:, start.step]
    np.minimum(duals.job, p.units.work_usd, out=duals.job)
    np.minimum(duals.row, p.rows.penalty[:, None], out=duals.row)
    power = np.where(phase == RUN, p.units.level_mw[:, -1:], p.units.level_mw[:, :1])
    power = np.where(phase == OFF, p.units.idle_mw[:, None], power)
    return duals, Before(np.arange(STEPS, dtype=np.int32), power, phase)


def left_of(posed: Posed, made: Plan, units: slice, rows: slice, site: int) -> str:
    """What the next plan begins with."""
    return pack(
        Carry(
            at_ms=posed.site.at_ms,
            guess=min(1.0, max(0.0, float(made.duals.guess[site]))),
            units=tuple(unit.key for unit in posed.units),
            rows=tuple(row.key for row in posed.rows),
            work_price=made.duals.job[units],
            phase=made.phase[units],
            row_price=made.duals.row[rows],
        )
    )


def _offsets(counts: Sequence[int]) -> I4:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
