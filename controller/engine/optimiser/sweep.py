"""Sweeps: one unit after the other is re-planned on what each step is really worth with it and without it, all others
re-levelled by merit order. No sweep makes the plan worse, none makes a row exceeded by what could be off.

A nudge makes one unit stay off, or run, over some steps, so that the others may answer (see `shake`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.job import plan_job
from controller.engine.optimiser.layout import BOOT, F8, LEVELS, OFF, RUN, U1, Problem
from controller.engine.optimiser.merit import Merit, fill, is_firm, make_room, put
from controller.engine.optimiser.placing import Desk, offer_within
from controller.engine.optimiser.unit import Scratch, charge, plan_unit, rewards

SWEEP_TURNS: Final = 16
"""Run ends of a job moved at most, while sweeping."""

PRESS_USD_H: Final = 1e5
"""More than an hour of anything is worth."""


class Nudge(NamedTuple):
    """What a unit is made to try once: to stay off, or to run, over some steps."""

    unit: int
    """-1 for none."""
    run: bool
    begin: int
    end: int
    jobs_first: bool
    """Whether jobs answer to it before banks."""


NO_NUDGE: Final = Nudge(-1, False, 0, 0, False)


@kernel
def sweep(p: Problem, site: int, m: Merit, ask: F8, k: Desk, jobs: bool, nudge: Nudge, power: F8, phase: U1) -> bool:
    """Re-plan every unit once on the exact worth of each step, the others re-levelled; whether anything changed.

    What earns least gives way first; the nudged unit stays as it is. Batch jobs, which cost most to re-plan, only with
    `jobs`.
    """
    changed = False
    n = len(k.order)
    offset = 0
    if nudge.jobs_first:
        for unit in k.order:
            offset -= 1 if p.units.work_h[unit] < np.inf else 0
    for i in range(n):
        unit = k.order[n - 1 - (i + offset) % n]
        if unit != nudge.unit and (jobs or p.units.work_h[unit] == np.inf):
            changed = replan(p, site, unit, m, ask, k, NO_NUDGE, power, phase) or changed
    return changed


@kernel
def replan(
    p: Problem, site: int, unit: int, m: Merit, ask: F8, k: Desk, nudge: Nudge, power: F8, phase: U1
) -> bool:  # fmt: skip
    steps = len(p.grid.hours)
    batch = p.units.work_h[unit] < np.inf
    k.phase[:] = phase[unit]
    k.power[:] = power[unit]
    _ask(p, site, unit, k.phase, ask, -1.0)
    put(p, site, m, unit, k.phase, k.power, -1.0)
    _fits(p, site, unit, ask, k.fits)
    _room_beside(p, site, unit, m, k.s.limit)
    charge(p, site, unit, k.no_price, k.s)
    rewards(p, unit, 0.0, k.s)
    if batch:
        offer_within(p, unit, k.s, k.o)
    _marginal(p, site, unit, m, k, batch)
    if nudge.unit >= 0 and nudge.run:
        _press(p, nudge, k)
    _shut(p, unit, nudge, k.s)
    if batch:
        plan_job(p, unit, k.o, k.s, SWEEP_TURNS, k.deep[0] == 1, power[unit], phase[unit])
    else:
        plan_unit(p, unit, k.s, phase[unit])
    put(p, site, m, unit, phase[unit], power[unit], 1.0)
    _ask(p, site, unit, phase[unit], ask, 1.0)
    changed = False
    for t in range(steps):
        if phase[unit, t] != k.phase[t] or (batch and abs(power[unit, t] - k.power[t]) > 1e-9):
            m.value[t] = fill(m, t, -1, OFF, 0.0, 0.0)
            changed = True
    return changed


@kernel
def _press(p: Problem, nudge: Nudge, k: Desk) -> None:
    """Make running in the nudge's steps worth more than anything."""
    for t in range(nudge.begin, nudge.end):
        bonus = PRESS_USD_H * p.grid.hours[t]
        k.s.gain[t] += bonus
        k.s.loss[t] += bonus
        for level in range(LEVELS):
            k.o.usd[level, t] += bonus


@kernel
def _shut(p: Problem, unit: int, nudge: Nudge, s: Scratch) -> None:
    """Close the steps in which even the unit's first level has no room (`s.limit`), so that no row is exceeded by what
    could be off. A lock holds all the same; the nudge opens its steps, or closes them."""
    least = p.units.level_mw[unit, 0]
    locked = p.moves.locked[unit] if p.units.on[unit] == 1 else 0
    for t in range(len(s.limit)):
        tight = s.limit[t] < least - 1e-9
        if nudge.unit >= 0 and nudge.begin <= t < nudge.end:
            tight = not nudge.run
        closed = p.units.open[unit, t] == 0 or (tight and t >= locked)
        s.shut[t + 1] = s.shut[t] + (1 if closed else 0)


@kernel
def _marginal(p: Problem, site: int, unit: int, m: Merit, k: Desk, batch: bool) -> None:
    """Where the unit would displace another, replace its rewards by the step with it less the step without it.

    A batch job's are replaced level by level, in its offer. The unit must be out of the steps' base.
    """
    u = p.units
    n = unit - p.sites.unit_from[site]
    idle_mw, least, usd_h, share = u.idle_mw[unit], u.level_mw[unit, 0], u.level_usd_h[unit, 0], u.meter_share[unit]
    boots = p.moves.boot[unit] >= 0 or p.moves.booted[unit] > 0
    for t in range(len(k.fits)):
        if k.fits[t] == 1:
            continue
        state, bare = k.phase[t], -m.price[t] * share
        make_room(m, t)
        off = m.value[t] if state == OFF else fill(m, t, n, OFF, idle_mw, bare * idle_mw)
        if boots:
            _seat(p, site, unit, t, m)
            k.s.loss[t] = (m.value[t] if state == BOOT else fill(m, t, n, BOOT, least, bare * least)) - off
        if not batch:
            _seat(p, site, unit, t, m)
            run = m.value[t] if state == RUN else fill(m, t, n, RUN, least, usd_h + bare * least)
            k.s.gain[t] = run - off
            continue
        for level in range(LEVELS):
            _seat(p, site, unit, t, m)
            mw = k.o.mw[level, t]
            k.o.usd[level, t] = fill(m, t, n, RUN, mw, bare * mw) - off


@kernel
def _room_beside(p: Problem, site: int, unit: int, m: Merit, limit: F8) -> None:
    """limit[t] = the power the unit's rows have left for it when firm load is served and all others give way to their
    first level. For firm load there is no such limit."""
    u = p.units
    row0 = p.sites.row_from[site]
    limit[:] = np.inf
    if is_firm(p, unit):
        return
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        r, weight, on_weight = u.rows[k] - row0, u.weight[k], u.on_weight[k]
        if weight > 0.0:
            for t in range(len(limit)):
                limit[t] = min(limit[t], (m.left[t, r] - m.firm[t, r] - on_weight) / weight)
        elif on_weight > 0.0:
            for t in range(len(limit)):
                if m.left[t, r] < on_weight - 1e-9:
                    limit[t] = -np.inf


@kernel
def _seat(p: Problem, site: int, unit: int, t: int, m: Merit) -> None:
    """The rows of step t as the base leaves them, less what the unit takes by being on."""
    make_room(m, t)
    row0 = p.sites.row_from[site]
    for k in range(p.units.row_from[unit], p.units.row_from[unit + 1]):
        m.room[p.units.rows[k] - row0] -= p.units.on_weight[k]


@kernel
def asked(p: Problem, site: int, phase: U1) -> F8:
    """(r, T) the most that the units now on could take of each row: where that fits, no unit displaces another."""
    ask = np.zeros((p.sites.row_from[site + 1] - p.sites.row_from[site], len(p.grid.hours)))
    for unit in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        _ask(p, site, unit, phase[unit], ask, 1.0)
    return ask


@kernel
def _ask(p: Problem, site: int, unit: int, phase: U1, ask: F8, sign: float) -> None:
    u = p.units
    row0 = p.sites.row_from[site]
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        r, weight = u.rows[k] - row0, u.weight[k]
        on = weight * u.level_mw[unit, LEVELS - 1 if weight > 0.0 else 0] + u.on_weight[k]
        off = weight * u.idle_mw[unit]
        for t in range(len(phase)):
            ask[r, t] += sign * (off if phase[t] == OFF else on)


@kernel
def _fits(p: Problem, site: int, unit: int, ask: F8, fits: U1) -> None:
    """fits[t] = 1 where all of the unit's rows hold, with it or without it, beside all that the others could ask for,
    or where the unit may not run: there it displaces none."""
    u = p.units
    row0 = p.sites.row_from[site]
    fits[:] = 1
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        row = u.rows[k]
        most = max(0.0, u.weight[k] * u.level_mw[unit, LEVELS - 1] + u.on_weight[k])
        for t in range(len(fits)):
            if ask[row - row0, t] + most > p.rows.cap[row, t]:
                fits[t] = 1 - u.open[unit, t]


@kernel
def level(p: Problem, site: int, m: Merit, power: F8) -> None:
    """Write the merit order's dispatch of every step into power."""
    first = p.sites.unit_from[site]
    for t in range(len(p.grid.hours)):
        fill(m, t, -1, OFF, 0.0, 0.0)
        for n in range(len(m.power)):
            power[first + n, t] = m.power[n]
