"""One step at a time: how hard the running units run, by merit order, and what the step is then worth.

Every unit that is on takes its first level; the rest of the room goes to the steepest part of any curve that its rows
still have room for. Batch jobs stay at the power their own plan gave them, for it is their work that it shares out.

A site's steps are copied into a record of their own, so that the innermost loop reads little and close memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import F8, I4, LEVELS, OFF, RUN, U1, Problem


class Merit(NamedTuple):
    """One site's steps. Units and rows count from the site's first."""

    unit: I4
    span_mw: F8
    slope: F8
    share: F8
    """The increments between levels of the units that may flex: whose, how wide, USD/MWh of the unit's power, its
    share at the meter; steepest per MWh at the meter first, ties by unit."""
    row_from: I4
    rows: I4
    weight: F8
    """The rows each unit counts in."""
    armed: U1
    """(1,) 0, or 1 where the site has a reserve award, for which an increment may run that does not pay for itself; 2
    where missing an award costs more than anything earns, so that it is armed before any other takes the room."""
    taken: F8
    """As `unit`: MW of each increment that arming has taken of the step last filled."""
    penalty: F8
    """(r,)"""
    hours: F8
    price: F8
    """(T,)"""
    state: U1
    """(T, n) phase of every unit."""
    base: F8
    """(T, n) power of every unit before any increment."""
    left: F8
    """(T, r) what the rows have left beside that."""
    firm: F8
    """(T, r) what firm load takes of each row when it is served in full; it counts in `left` at its first level, 0."""
    bare: F8
    """(T,) USD/h of the base alone, penalties excluded; a batch job's work counts in the job's own plan."""
    value: F8
    """(T,) USD of the step as the plan now stands."""
    room: F8
    """(r,) and"""
    power: F8
    """(n,) of the step last filled."""


@kernel
def merit_order(p: Problem, site: int) -> Merit:
    """The increments of one site, and room for its steps."""
    u = p.units
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    row0, rows = p.sites.row_from[site], p.sites.row_from[site + 1] - p.sites.row_from[site]
    units, steps = last - first, len(p.grid.hours)
    most = units * (LEVELS - 1)
    key, slope, span_mw, share = np.empty(most), np.empty(most), np.empty(most), np.empty(most)
    unit = np.empty(most, np.int32)
    i = 0
    for n in range(first, last):
        for level in range(1, LEVELS):
            span = u.level_mw[n, level] - u.level_mw[n, level - 1]
            if u.work_h[n] < np.inf or span <= 0.0:
                continue
            unit[i], span_mw[i], share[i] = n - first, span, u.meter_share[n]
            slope[i] = (u.level_usd_h[n, level] - u.level_usd_h[n, level - 1]) / span
            key[i] = -slope[i] / share[i]
            i += 1
    by = np.argsort(key[:i], kind="mergesort")
    k0, k1 = u.row_from[first], u.row_from[last]
    armed = p.sites.award[site : site + 1].copy()
    if armed[0] == 1 and (i == 0 or _dearest(p, first, last) > np.max(slope[:i] / share[:i])):
        armed[0] = 2
    return Merit(
        unit[by], span_mw[by], slope[by], share[by], u.row_from[first : last + 1] - k0, u.rows[k0:k1] - row0,
        u.weight[k0:k1].copy(), armed, np.zeros(i), p.rows.penalty[row0 : row0 + rows].copy(),
        p.grid.hours, p.sites.price[site].copy(), np.zeros((steps, units), np.uint8), np.zeros((steps, units)),
        np.zeros((steps, rows)), firm_load(p, site), np.zeros(steps), np.zeros(steps), np.zeros(rows),
        np.zeros(units), )  # fmt: skip


@kernel
def firm_load(p: Problem, site: int) -> F8:
    """(T, r) what the site's firm load takes of each row when served in full."""
    u = p.units
    row0 = p.sites.row_from[site]
    load = np.zeros((len(p.grid.hours), p.sites.row_from[site + 1] - row0))
    for n in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        if not is_firm(p, n):
            continue
        for k in range(u.row_from[n], u.row_from[n + 1]):
            if u.weight[k] > 0.0:
                for t in range(load.shape[0]):
                    load[t, u.rows[k] - row0] += u.weight[k] * u.level_mw[n, LEVELS - 1] * u.open[n, t]
    return load


@kernel
def is_firm(p: Problem, unit: int) -> bool:
    """Whether a unit is firm load: on and locked to the end, its first level 0 MW, so that it may be cut at will."""
    u = p.units
    return bool(
        u.on[unit] == 1 and u.level_mw[unit, 0] <= 0.0 and u.locked_h[unit] >= p.grid.edge_h[len(p.grid.hours)] - 1e-9
    )


@kernel
def _dearest(p: Problem, first: int, last: int) -> float:
    """USD/MWh that the cheapest award of these units costs to miss."""
    least = np.inf
    for k in range(p.units.row_from[first], p.units.row_from[last]):
        if p.units.weight[k] < 0.0:
            least = min(least, p.rows.penalty[p.units.rows[k]])
    return least


@kernel
def lay(p: Problem, site: int, m: Merit, power: F8, phase: U1) -> None:
    """Set every step from the phases of all units and the power of the batch jobs, and what it is worth."""
    found(p, site, m, power, phase)
    for t in range(len(m.hours)):
        m.value[t] = fill(m, t, -1, OFF, 0.0, 0.0)


@kernel
def found(p: Problem, site: int, m: Merit, power: F8, phase: U1) -> None:
    """As `lay`, without what the steps are worth."""
    row0, first = p.sites.row_from[site], p.sites.unit_from[site]
    m.bare[:] = 0.0
    for r in range(m.left.shape[1]):
        for t in range(len(m.hours)):
            m.left[t, r] = p.rows.cap[row0 + r, t]
    for n in range(first, p.sites.unit_from[site + 1]):
        put(p, site, m, n, phase[n], power[n], 1.0)


@kernel
def put(p: Problem, site: int, m: Merit, unit: int, phase: U1, power: F8, sign: float) -> None:
    """Add a unit to the base of all steps (`sign` 1) or take it out (-1)."""
    u = p.units
    n, row0 = unit - p.sites.unit_from[site], p.sites.row_from[site]
    batch = u.work_h[unit] < np.inf
    idle, least, usd_h, share = u.idle_mw[unit], u.level_mw[unit, 0], u.level_usd_h[unit, 0], u.meter_share[unit]
    for t in range(len(phase)):
        running = phase[t] == RUN
        mw = power[t] if batch and running else (idle if phase[t] == OFF else least)
        earned = usd_h if running and not batch else 0.0
        m.state[t, n] = phase[t] if sign > 0.0 else OFF
        m.base[t, n] = mw if sign > 0.0 else 0.0
        m.bare[t] += sign * (earned - m.price[t] * share * mw)
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        r, weight, on_weight = u.rows[k] - row0, sign * u.weight[k], sign * u.on_weight[k]
        for t in range(len(phase)):
            mw = power[t] if batch and phase[t] == RUN else (idle if phase[t] == OFF else least)
            m.left[t, r] -= weight * mw + (on_weight if phase[t] != OFF else 0.0)


@kernel
def fill(m: Merit, t: int, n: int, state: int, mw: float, usd_h: float) -> float:
    """USD of step t by merit order; `m.power` is the dispatch.

    With n >= 0, a unit taken out of the base takes part in `state` at base power `mw`, which earns `usd_h`, energy
    paid. What it takes of its rows by being on must be off `m.room` already (see `make_room`).
    """
    if n < 0:
        make_room(m, t)
    total = m.bare[t] + usd_h
    m.power[:] = m.base[t]
    price, states = m.price[t], m.state[t]
    if n >= 0:
        m.power[n] = mw
        for k in range(m.row_from[n], m.row_from[n + 1]):
            m.room[m.rows[k]] -= m.weight[k] * mw
    if m.armed[0] == 2:
        total += _arm_first(m, t, n, state)
    for i in range(len(m.unit)):
        j = m.unit[i]
        net = m.slope[i] - price * m.share[i]
        if net <= 0.0 and m.armed[0] == 0:
            break
        if (state if j == n else states[j]) != RUN or (net <= 0.0 and not _arms(m, j, net)):
            continue
        take = min(m.span_mw[i] - m.taken[i], _room_for(m, j, net))
        if take <= 0.0:
            continue
        total += net * take
        m.power[j] += take
        for k in range(m.row_from[j], m.row_from[j + 1]):
            m.room[m.rows[k]] -= m.weight[k] * take
    for r in range(len(m.room)):
        total += m.penalty[r] * min(0.0, m.room[r])
    return float(m.hours[t] * total)


@kernel
def _arm_first(m: Merit, t: int, n: int, state: int) -> float:
    """Give what an award is short of before the merit order begins; returns USD/h, notes it in `m.taken`."""
    total = 0.0
    for i in range(len(m.unit)):
        j = m.unit[i]
        net = m.slope[i] - m.price[t] * m.share[i]
        m.taken[i] = 0.0
        if (state if j == n else m.state[t, j]) != RUN or not _arms(m, j, net):
            continue
        take = min(m.span_mw[i], _room_for(m, j, -1.0))
        if take <= 0.0:
            continue
        m.taken[i] = take
        total += net * take
        m.power[j] += take
        for k in range(m.row_from[j], m.row_from[j + 1]):
            m.room[m.rows[k]] -= m.weight[k] * take
    return total


@kernel
def make_room(m: Merit, t: int) -> None:
    """Begin a step: every row as the base leaves it."""
    m.room[:] = m.left[t]


@kernel
def _room_for(m: Merit, n: int, net: float) -> float:
    """MW the unit's rows have left for it; where it runs only to arm an award, no more than that is short of."""
    room = np.inf
    for k in range(m.row_from[n], m.row_from[n + 1]):
        if m.weight[k] > 0.0 or (m.weight[k] < 0.0 and net <= 0.0):
            room = min(room, m.room[m.rows[k]] / m.weight[k])
    return room


@kernel
def _arms(m: Merit, n: int, net: float) -> bool:
    """Whether an increment that does not pay for itself arms what an award is short of, and that is worth it."""
    for k in range(m.row_from[n], m.row_from[n + 1]):
        if m.weight[k] < 0.0 and m.room[m.rows[k]] < 0.0 and net > m.penalty[m.rows[k]] * m.weight[k]:
            return True
    return False
