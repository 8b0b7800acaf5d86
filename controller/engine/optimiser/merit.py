"""One step at a time: how hard the running units run, by merit order, and what the step is then worth.

Every unit that is on takes its first level; the rest of the room goes to the steepest part of any curve that its rows still
have room for. Batch jobs stay at the power their own plan gave them, for it is their work that it shares out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import F8, I4, LEVELS, OFF, RUN, U1, Problem


class Merit(NamedTuple):
    """One site's steps in merit order. `n` counts the site's own units, `r` its own rows."""

    unit: I4
    span_mw: F8
    slope: F8
    """The increments between levels of the units that may flex: whose, how wide, USD/MWh of the unit's power; steepest per
    MWh at the meter first, ties by unit."""
    base: F8
    """(T, n) power of every unit before any increment."""
    left: F8
    """(T, r) what the rows have left beside that."""
    value: F8
    """(T,) USD of the step as the plan now stands."""
    bare: F8
    """(T,) USD of the step's base alone, penalties excluded."""
    room: F8
    """(r,) and"""
    power: F8
    """(n,) scratch: the step last filled."""


@kernel
def merit_order(p: Problem, site: int) -> Merit:
    """The increments of one site, and room for its steps."""
    u = p.units
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    count = 0
    for n in range(first, last):
        count += LEVELS - 1 if u.work_h[n] == np.inf else 0
    key, slope, span_mw = np.empty(count), np.empty(count), np.empty(count)
    unit = np.empty(count, np.int32)
    i = 0
    for n in range(first, last):
        if u.work_h[n] < np.inf:
            continue
        for level in range(1, LEVELS):
            span = u.level_mw[n, level] - u.level_mw[n, level - 1]
            usd = u.level_usd_h[n, level] - u.level_usd_h[n, level - 1]
            unit[i], span_mw[i] = n, span
            slope[i] = usd / span if span > 0.0 else -np.inf
            key[i] = -slope[i] / u.meter_share[n]
            i += 1
    by = np.argsort(key, kind="mergesort")
    steps, rows, units = len(p.grid.hours), p.sites.row_from[site + 1] - p.sites.row_from[site], last - first
    return Merit(
        unit[by], span_mw[by], slope[by], np.zeros((steps, units)), np.zeros((steps, rows)), np.zeros(steps),
        np.zeros(steps), np.zeros(rows), np.zeros(units),
    )  # fmt: skip


@kernel
def lay(p: Problem, site: int, m: Merit, power: F8, phase: U1) -> None:
    """Set the base of every step from the phases of all units and the power of the batch jobs."""
    row0, first = p.sites.row_from[site], p.sites.unit_from[site]
    for t in range(len(p.grid.hours)):
        m.bare[t] = 0.0
        for r in range(m.left.shape[1]):
            m.left[t, r] = p.rows.cap[row0 + r, t]
        for n in range(first, p.sites.unit_from[site + 1]):
            put(p, site, t, m, n, phase[n, t], power[n, t], 1.0)
        m.value[t] = fill(p, site, t, m, phase, -1, OFF, 0.0)


@kernel
def put(p: Problem, site: int, t: int, m: Merit, unit: int, state: int, job_mw: float, sign: float) -> None:
    """Add a unit to the base of step t (`sign` 1) or take it out (-1). `job_mw` is a batch job's running power."""
    u = p.units
    row0, first = p.sites.row_from[site], p.sites.unit_from[site]
    mw = base_mw(p, unit, state, job_mw)
    m.base[t, unit - first] = mw if sign > 0.0 else 0.0
    m.bare[t] += sign * base_usd_h(p, site, unit, t, state, mw)
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        take = u.weight[k] * mw + (u.on_weight[k] if state != OFF else 0.0)
        m.left[t, u.rows[k] - row0] -= sign * take


@kernel
def base_mw(p: Problem, unit: int, state: int, job_mw: float) -> float:
    """Power before any increment."""
    u = p.units
    if state == OFF:
        return u.idle_mw[unit]
    return job_mw if state == RUN and u.work_h[unit] < np.inf else u.level_mw[unit, 0]


@kernel
def base_usd_h(p: Problem, site: int, unit: int, t: int, state: int, mw: float) -> float:
    """What a unit's base earns an hour, energy paid; a batch job's work is counted by the job, not by the step."""
    earned = p.units.level_usd_h[unit, 0] if state == RUN and p.units.work_h[unit] == np.inf else 0.0
    return earned - p.sites.price[site, t] * p.units.meter_share[unit] * mw


@kernel
def fill(p: Problem, site: int, t: int, m: Merit, phase: U1, unit: int, state: int, job_mw: float) -> float:
    """USD of step t by merit order, with `unit` (-1 for none) added to the base in `state`; `m.power` is the dispatch."""
    u = p.units
    row0, first = p.sites.row_from[site], p.sites.unit_from[site]
    price = p.sites.price[site, t]
    rows = len(m.room)
    usd_h = m.bare[t]
    for r in range(rows):
        m.room[r] = m.left[t, r]
    for n in range(len(m.power)):
        m.power[n] = m.base[t, n]
    if unit >= 0:
        mw = base_mw(p, unit, state, job_mw)
        m.power[unit - first] = mw
        usd_h += base_usd_h(p, site, unit, t, state, mw)
        for k in range(u.row_from[unit], u.row_from[unit + 1]):
            m.room[u.rows[k] - row0] -= u.weight[k] * mw + (u.on_weight[k] if state != OFF else 0.0)
    armed = p.sites.award[site]
    for i in range(len(m.unit)):
        n = m.unit[i]
        net = m.slope[i] - price * u.meter_share[n]
        if net <= 0.0 and not armed:
            break
        if (state if n == unit else phase[n, t]) == RUN:
            usd_h += _take(p, row0, m, n, first, m.span_mw[i], net)
    for r in range(rows):
        if m.room[r] < 0.0:
            usd_h += p.rows.penalty[row0 + r] * m.room[r]
    return p.grid.hours[t] * usd_h


@kernel
def _take(p: Problem, row0: int, m: Merit, n: int, first: int, span: float, net: float) -> float:
    """Take an increment as far as its rows have room and it pays; returns USD/h.

    In the row of an award that is short it pays for more than itself: it arms what is missing.
    """
    u = p.units
    take, arms = span, net > 0.0
    for k in range(u.row_from[n], u.row_from[n + 1]):
        weight = u.weight[k]
        room = m.room[u.rows[k] - row0]
        if weight > 0.0:
            take = min(take, room / weight)
        elif net <= 0.0 and weight < 0.0 and room < 0.0 and net > p.rows.penalty[u.rows[k]] * weight:
            take = min(take, room / weight)
            arms = True
    if take <= 0.0 or not arms:
        return 0.0
    m.power[n - first] += take
    for k in range(u.row_from[n], u.row_from[n + 1]):
        m.room[u.rows[k] - row0] -= u.weight[k] * take
    return net * take
