"""The dispatch problem as typed records of arrays, every site of a fleet packed one behind the other.

Units inside the optimiser: MW, hours, USD. One `Grid` of `T` uneven steps is shared by all sites. Sites own contiguous
ranges of units and rows (`unit_from[s]:unit_from[s+1]`). A unit is a hash bank, an elastic or a batch HPC job, or a
site's firm load; a row is one limit on a sum of powers: the main meter, an obligation, a feeder, a hall's cooling,
the nodes of a partition, or a reserve award.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
U1 = NDArray[np.uint8]

LEVELS: Final = 4
"""Levels of a unit's power curve; one with fewer repeats its last."""

OFF: Final = 0
BOOT: Final = 1
RUN: Final = 2
"""Phases of a unit in a step."""

NO_LIMIT_MW: Final = 1e6
"""A row's cap where nothing limits."""

STEP_MINUTES: Final = (1,) * 15 + (5,) * 21 + (15,) * 16 + (60,) * 18
"""24 hours in 70 steps, fine where it is near."""


class Grid(NamedTuple):
    """The planning steps, counted from now."""

    hours: F8
    """(T,) length of each step."""
    edge_h: F8
    """(T+1,) start of each step and the end of the last, hours from now."""


class Units(NamedTuple):
    """N units. Levels mix continuously, so between levels 1 and 4 any power may be planned."""

    level_mw: F8
    """(N, LEVELS) power when running, ascending."""
    level_usd_h: F8
    """(N, LEVELS) what an hour at that level earns before energy, concave in power. 0 for a batch job."""
    level_rate: F8
    """(N, LEVELS) hours of work an hour at that level does; 1 at full level, 0 for all but batch jobs."""
    idle_mw: F8
    """(N,) power when off."""
    meter_share: F8
    """(N,) MW at the main meter per MW of the unit: its part of cooling and losses."""
    start_usd: F8
    """(N,) cost of one start: wear, or the work a restart repeats."""
    boot_h: F8
    """(N,) after a start, hours at level 1's power that earn nothing."""
    min_up_h: F8
    min_down_h: F8
    work_h: F8
    """(N,) hours at full level a batch job has left; infinite for all else. Work beyond it earns nothing."""
    work_usd: F8
    """(N,) what an hour of a batch job's work earns, the penalty it averts included."""
    miss_usd: F8
    """(N,) what a batch job costs where none of its work is done in its window; in proportion for a part."""
    on: U1
    """(N,) state now."""
    locked_h: F8
    """(N,) hours for which dwell keeps the state as it is; a closed step ends it."""
    booting_h: F8
    """(N,) hours of boot left, for a unit that is on."""
    open: U1
    """(N, T) whether the unit may run in that step: release, deadline, lockout, interlock."""
    row_from: I4
    """(N+1,) offsets into `rows`: the rows a unit counts in."""
    rows: I4
    weight: F8
    """As `rows`: what one MW of the unit takes of that row. Negative in a reserve award's row: running units arm it."""
    on_weight: F8
    """As `rows`: what the unit takes of that row whenever it is on, whatever its power: a job's nodes."""


class Rows(NamedTuple):
    """R limits."""

    cap: F8
    """(R, T) what the units may take together, all that is no unit already off. `NO_LIMIT_MW` where none.

    An award's row has minus the awarded MW, less what its units draw when idle: that much cannot be shed."""
    penalty: F8
    """(R,) USD/MWh of exceeding it where nothing else is left; orders the limits by priority."""


class Sites(NamedTuple):
    """S sites."""

    unit_from: I4
    """(S+1,)"""
    row_from: I4
    """(S+1,)"""
    price: F8
    """(S, T) USD/MWh at the main meter, coincident-peak risk included."""
    award: U1
    """(S,) whether a row of the site is a reserve award's, one with negative weights."""


class Moves(NamedTuple):
    """The same times counted in steps: where each commitment of a unit ends. Made by `moves`."""

    jump: I4
    """(K, T) the first step that begins at least the k-th span after t does; T where none."""
    up: I4
    down: I4
    boot: I4
    """(N,) which row of `jump` holds; -1 for no boot."""
    locked: I4
    booted: I4
    """(N,) the first step in which the unit is free of its dwell, and of its boot."""


class Problem(NamedTuple):
    """All of it."""

    grid: Grid
    sites: Sites
    units: Units
    rows: Rows
    moves: Moves


class Duals(NamedTuple):
    """What carries over from one minute to the next."""

    row: F8
    """(R, T) USD/MWh of each row, at least 0."""
    job: F8
    """(N,) USD per hour of each batch job's remaining work."""
    guess: F8
    """(S,) how far below the bound, as a share of it, the best value is thought to be."""


def grid(minutes: tuple[int, ...] = STEP_MINUTES) -> Grid:
    """The grid of the given step lengths."""
    hours = np.asarray(minutes, dtype=np.float64) / 60.0
    return Grid(hours=hours, edge_h=np.concatenate([[0.0], np.cumsum(hours)]))


def no_duals(rows: int, units: int, sites: int, steps: int) -> Duals:
    """Where a cold start begins."""
    return Duals(np.zeros((rows, steps)), np.zeros(units), np.full(sites, 0.02))


def moves(g: Grid, u: Units) -> Moves:
    """Count the units' times in steps."""
    spans = np.unique(np.concatenate([np.maximum(u.min_up_h, 1e-6), np.maximum(u.min_down_h, 1e-6), u.boot_h]))
    jump = (
        np.searchsorted(g.edge_h, g.edge_h[None, :-1] + spans[:, None] - 1e-9).clip(max=len(g.hours)).astype(np.int32)
    )
    boot = np.searchsorted(spans, u.boot_h).astype(np.int32)
    boot[u.boot_h <= 0.0] = -1
    locked, booted = clocks(g, u)
    return Moves(
        jump=jump,
        up=np.searchsorted(spans, np.maximum(u.min_up_h, 1e-6)).astype(np.int32),
        down=np.searchsorted(spans, np.maximum(u.min_down_h, 1e-6)).astype(np.int32),
        boot=boot,
        locked=locked,
        booted=booted,
    )


def clocks(g: Grid, u: Units) -> tuple[I4, I4]:
    """`Moves.locked` and `Moves.booted`, the part of `moves` that changes from minute to minute."""
    steps = len(g.hours)
    shut = np.where(u.open.all(axis=1), steps, np.argmin(u.open, axis=1))
    locked = np.searchsorted(g.edge_h, u.locked_h - 1e-9).clip(max=steps)
    booted = np.searchsorted(g.edge_h, u.booting_h - 1e-9).clip(max=steps)
    on = u.on == 1
    locked = np.where(on, np.minimum(np.maximum(locked, np.where(on, booted, 0)), shut), locked)
    booted = np.where(on, np.minimum(booted, shut), 0)
    return locked.astype(np.int32), booted.astype(np.int32)


def check(p: Problem) -> None:
    """Raise ValueError, naming the field, where arrays do not fit together or a value cannot be meant."""
    steps, units, rows, sites = len(p.grid.hours), len(p.units.idle_mw), len(p.rows.penalty), len(p.sites.price)
    u = p.units
    shapes = {
        "edge_h": (p.grid.edge_h, (steps + 1,)),
        "price": (p.sites.price, (sites, steps)),
        "unit_from": (p.sites.unit_from, (sites + 1,)),
        "row_from": (p.sites.row_from, (sites + 1,)),
        "cap": (p.rows.cap, (rows, steps)),
        "open": (u.open, (units, steps)),
        "units.row_from": (u.row_from, (units + 1,)),
        "weight": (u.weight, (len(u.rows),)),
        "on_weight": (u.on_weight, (len(u.rows),)),
        **{name: (getattr(u, name), (units, LEVELS)) for name in ("level_mw", "level_usd_h", "level_rate")},
        **{name: (getattr(u, name), (units,)) for name in _PER_UNIT},
    }
    for name, (array, shape) in shapes.items():
        if array.shape != shape or not array.flags.c_contiguous:
            raise ValueError(f"{name}: shape {array.shape}, expected a contiguous {shape}")
    for name in _FINITE:
        if not np.isfinite(shapes[name][0]).all():
            raise ValueError(f"{name}: not a finite number; a row without a limit has a cap of {NO_LIMIT_MW:.0f}")
    if len(u.rows) and (u.rows.min() < 0 or u.rows.max() >= rows):
        raise ValueError(f"rows: a unit counts in a row that is none of the {rows}")
    if (np.diff(u.level_mw, axis=1) < 0).any() or (u.level_mw[:, 0] < 0).any():
        raise ValueError("level_mw: levels must ascend from 0 or more")
    if (u.work_h <= 0).any() or np.isnan(u.work_h).any():
        raise ValueError("work_h: a job with no work left is no unit")
    if (p.rows.penalty <= 0).any():
        raise ValueError("penalty: every row needs one above 0")


_PER_UNIT: Final = (
    "idle_mw", "meter_share", "start_usd", "boot_h", "min_up_h", "min_down_h", "work_h", "work_usd", "miss_usd", "on",
    "locked_h", "booting_h",
)  # fmt: skip

_FINITE: Final = (
    "price", "cap", "level_mw", "level_usd_h", "level_rate", "weight", "on_weight",
    *(name for name in _PER_UNIT if name != "work_h"),
)  # fmt: skip
