"""The primal side: a plan that fits. Which units run is decided by programs, how hard they run by merit order.

First every unit is placed, jobs before banks and the worthiest first, by its own program on the dual prices within the room
the others leave. Then sweeps re-plan one unit at a time on what each step is really worth with it and without it, all others
re-levelled by merit order. No sweep makes the plan worse.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.job import Offer, offer, plan_job
from controller.engine.optimiser.layout import BOOT, F8, I4, LEVELS, OFF, RUN, U1, Duals, Problem
from controller.engine.optimiser.merit import Merit, base_mw, fill, lay, merit_order, put
from controller.engine.optimiser.unit import (
    Scratch,
    charge,
    earns,
    plan_unit,
    rewards,
    rewards_within,
    scratch,
    work_rate,
)


class Desk(NamedTuple):
    """What planning one site needs at hand."""

    s: Scratch
    o: Offer
    order: I4
    """(n,) units in the order they are placed."""
    load: F8
    """(r, T) what the placed units take of each row."""
    no_price: F8
    """(R, T) zeros."""


@kernel
def desk(p: Problem, site: int) -> Desk:
    """A cleared desk for one site."""
    steps = len(p.grid.hours)
    rows = p.sites.row_from[site + 1] - p.sites.row_from[site]
    return Desk(scratch(steps), offer(steps), by_worth(p, site), np.zeros((rows, steps)), np.zeros(p.rows.cap.shape))


@kernel
def by_worth(p: Problem, site: int) -> I4:
    """Batch jobs before all else, then what earns most per MWh at the meter."""
    u = p.units
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    key = np.empty(last - first)
    for n in range(first, last):
        batch = u.work_h[n] < np.inf
        earned = u.work_usd[n] if batch else u.level_usd_h[n, LEVELS - 1]
        key[n - first] = -earned / max(u.level_mw[n, LEVELS - 1] * u.meter_share[n], 1e-9) - (1e12 if batch else 0.0)
    return (first + np.argsort(key, kind="mergesort")).astype(np.int32)


@kernel
def place(p: Problem, site: int, row_price: F8, k: Desk, power: F8, phase: U1) -> None:
    """Re-plan every unit once, in order, at `row_price` and within the room the others leave."""
    for unit in k.order:
        _load(p, site, unit, power[unit], phase[unit], k.load, -1.0)
        _room(p, site, unit, k.load, k.s.limit)
        charge(p, site, unit, row_price, k.s)
        rewards_within(p, unit, 0.0, k.s)
        if p.units.work_h[unit] < np.inf:
            _offer_within(p, unit, k.s, k.o)
            plan_job(p, unit, k.o, k.s, power[unit], phase[unit])
        else:
            plan_unit(p, unit, k.s, phase[unit])
            for t in range(len(p.grid.hours)):
                power[unit, t] = k.s.mw[t] if phase[unit, t] == RUN else base_mw(p, unit, phase[unit, t], 0.0)
        _load(p, site, unit, power[unit], phase[unit], k.load, 1.0)


@kernel
def stand_down(p: Problem, site: int, k: Desk, power: F8, phase: U1) -> None:
    """The emptiest plan: every unit off but for its dwell."""
    k.load[:] = 0.0
    for unit in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        for t in range(len(p.grid.hours)):
            phase[unit, t] = OFF
            if p.units.on[unit] == 1 and t < p.moves.locked[unit]:
                phase[unit, t] = BOOT if t < p.moves.booted[unit] else RUN
            power[unit, t] = p.units.idle_mw[unit] if phase[unit, t] == OFF else p.units.level_mw[unit, 0]
        _load(p, site, unit, power[unit], phase[unit], k.load, 1.0)


@kernel
def _load(p: Problem, site: int, unit: int, power: F8, phase: U1, load: F8, sign: float) -> None:
    u = p.units
    row0 = p.sites.row_from[site]
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        r = u.rows[k] - row0
        weight, on_weight = sign * u.weight[k], sign * u.on_weight[k]
        for t in range(len(power)):
            load[r, t] += weight * power[t] + (on_weight if phase[t] != OFF else 0.0)


@kernel
def _room(p: Problem, site: int, unit: int, load: F8, limit: F8) -> None:
    """limit[t] = the power the unit's rows have left for it when it is on."""
    u = p.units
    row0 = p.sites.row_from[site]
    limit[:] = np.inf
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        row, weight, on_weight = u.rows[k], u.weight[k], u.on_weight[k]
        for t in range(len(limit)):
            left = p.rows.cap[row, t] - load[row - row0, t] - on_weight
            if weight > 0.0:
                limit[t] = min(limit[t], left / weight)
            elif on_weight > 0.0 and left < -1e-9:
                limit[t] = 0.0


@kernel
def _offer_within(p: Problem, unit: int, s: Scratch, o: Offer) -> None:
    """A job's levels at the prices in `s`, each cut to the room in `s.limit`."""
    u = p.units
    for level in range(LEVELS):
        for t in range(len(p.grid.hours)):
            mw = max(u.level_mw[unit, 0], min(u.level_mw[unit, level], s.limit[t]))
            o.mw[level, t] = mw
            o.usd[level, t] = p.grid.hours[t] * (s.price[t] * (u.idle_mw[unit] - mw) - s.on_price[t])
            o.work[level, t] = p.grid.hours[t] * work_rate(p, unit, mw)


@kernel
def sweep(p: Problem, site: int, m: Merit, ask: F8, k: Desk, power: F8, phase: U1) -> bool:
    """Re-plan every unit once on the exact worth of each step, the others re-levelled; whether anything changed."""
    changed = False
    for place_ in range(len(k.order)):
        unit = k.order[len(k.order) - 1 - place_]
        changed = _replan(p, site, unit, m, ask, k, power, phase) or changed
    return changed


@kernel
def _replan(p: Problem, site: int, unit: int, m: Merit, ask: F8, k: Desk, power: F8, phase: U1) -> bool:
    steps = len(p.grid.hours)
    batch = p.units.work_h[unit] < np.inf
    before, before_mw = phase[unit].copy(), power[unit].copy()
    _ask(p, site, unit, before, ask, -1.0)
    for t in range(steps):
        put(p, site, t, m, unit, before[t], before_mw[t], -1.0)
    charge(p, site, unit, k.no_price, k.s)
    rewards(p, unit, 0.0, k.s)
    if batch:
        _offer_marginal(p, site, unit, m, ask, k, phase)
        plan_job(p, unit, k.o, k.s, power[unit], phase[unit])
    else:
        _marginal(p, site, unit, m, ask, k.s, phase)
        plan_unit(p, unit, k.s, phase[unit])
    changed = False
    for t in range(steps):
        put(p, site, t, m, unit, phase[unit, t], power[unit, t], 1.0)
        if phase[unit, t] != before[t] or (batch and abs(power[unit, t] - before_mw[t]) > 1e-9):
            m.value[t] = fill(p, site, t, m, phase, -1, OFF, 0.0)
            changed = True
    _ask(p, site, unit, phase[unit], ask, 1.0)
    return changed


@kernel
def _marginal(p: Problem, site: int, unit: int, m: Merit, ask: F8, s: Scratch, phase: U1) -> None:
    """Where the unit would displace another, replace its rewards by the step with it less the step without it."""
    for t in range(len(p.grid.hours)):
        if p.units.open[unit, t] == 0 or _fits(p, site, unit, t, ask):
            continue
        state = phase[unit, t]
        off = m.value[t] if state == OFF else fill(p, site, t, m, phase, unit, OFF, 0.0)
        s.gain[t] = (m.value[t] if state == RUN else fill(p, site, t, m, phase, unit, RUN, 0.0)) - off
        if p.moves.boot[unit] >= 0:
            s.loss[t] = (m.value[t] if state == BOOT else fill(p, site, t, m, phase, unit, BOOT, 0.0)) - off


@kernel
def _offer_marginal(p: Problem, site: int, unit: int, m: Merit, ask: F8, k: Desk, phase: U1) -> None:
    """A job's levels, each with the others re-levelled around it."""
    u = p.units
    k.s.limit[:] = np.inf
    _offer_within(p, unit, k.s, k.o)
    for t in range(len(p.grid.hours)):
        if u.open[unit, t] == 0 or _fits(p, site, unit, t, ask):
            continue
        off = fill(p, site, t, m, phase, unit, OFF, 0.0)
        for level in range(LEVELS):
            k.o.usd[level, t] = fill(p, site, t, m, phase, unit, RUN, u.level_mw[unit, level]) - off
        if p.moves.boot[unit] >= 0:
            k.s.loss[t] = fill(p, site, t, m, phase, unit, BOOT, 0.0) - off


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
def _fits(p: Problem, site: int, unit: int, t: int, ask: F8) -> bool:
    """Whether all of the unit's rows hold, with it or without it, beside all that the others could ask for."""
    u = p.units
    row0 = p.sites.row_from[site]
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        rest, cap = ask[u.rows[k] - row0, t], p.rows.cap[u.rows[k], t]
        if rest > cap or rest + u.weight[k] * u.level_mw[unit, LEVELS - 1] + u.on_weight[k] > cap:
            return False
    return True


@kernel
def level(p: Problem, site: int, m: Merit, power: F8, phase: U1) -> None:
    """Write the merit order's dispatch of every step into power."""
    first = p.sites.unit_from[site]
    for t in range(len(p.grid.hours)):
        fill(p, site, t, m, phase, -1, OFF, 0.0)
        for n in range(len(m.power)):
            power[first + n, t] = m.power[n]


@kernel
def plan_site(
    p: Problem, site: int, duals: Duals, sweeps: int, bound: float, enough: float, power: F8, phase: U1
) -> float:
    """Fill power[n, t] and phase[n, t] of one site's units; returns the plan's profit, USD.

    Sweeps end when nothing changes or when the plan is within `enough`, a share, of `bound`.
    """
    k = desk(p, site)
    stand_down(p, site, k, power, phase)
    place(p, site, duals.row, k, power, phase)
    place(p, site, k.no_price, k, power, phase)
    m = merit_order(p, site)
    lay(p, site, m, power, phase)
    level(p, site, m, power, phase)
    profit = worth(p, site, k, power, phase)
    ask = asked(p, site, phase)
    for _ in range(sweeps):
        if bound - profit <= enough * abs(bound) or not sweep(p, site, m, ask, k, power, phase):
            break
        level(p, site, m, power, phase)
        profit = worth(p, site, k, power, phase)
    return profit


@kernel
def worth(p: Problem, site: int, k: Desk, power: F8, phase: U1) -> float:
    """Profit of a site's plan, USD, what it exceeds a row by charged at the row's penalty."""
    u = p.units
    row0 = p.sites.row_from[site]
    value = 0.0
    k.load[:] = 0.0
    for unit in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        _load(p, site, unit, power[unit], phase[unit], k.load, 1.0)
        done = 0.0
        was_on = u.on[unit] == 1
        for t in range(len(p.grid.hours)):
            hours, mw = p.grid.hours[t], power[unit, t]
            value -= hours * p.sites.price[site, t] * u.meter_share[unit] * mw
            if phase[unit, t] != OFF and not was_on:
                value -= u.start_usd[unit]
            was_on = phase[unit, t] != OFF
            if phase[unit, t] == RUN:
                value += hours * earns(p, unit, 0.0, mw)
                done += hours * work_rate(p, unit, mw)
        if u.work_h[unit] < np.inf:
            value += u.work_usd[unit] * min(done, u.work_h[unit]) - u.miss_usd[unit]
    for r in range(k.load.shape[0]):
        for t in range(len(p.grid.hours)):
            over = k.load[r, t] - p.rows.cap[row0 + r, t]
            if over > 0.0:
                value -= p.grid.hours[t] * p.rows.penalty[row0 + r] * over
    return value
