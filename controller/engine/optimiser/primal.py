"""The primal side: a plan that fits. Which units run is decided by programs, how hard they run by merit order.

First every unit is placed, jobs before banks and the worthiest first, by its own program on the dual prices within
the room the others leave. Then sweeps re-plan one unit at a time on what each step is really worth with it and
without it, all others re-levelled by merit order. No sweep makes the plan worse.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.job import Offer, allowed, offer, plan_job
from controller.engine.optimiser.layout import BOOT, F8, I4, LEVELS, OFF, RUN, U1, Duals, Problem
from controller.engine.optimiser.merit import Merit, fill, lay, make_room, merit_order, put
from controller.engine.optimiser.unit import Scratch, along, charge, plan_unit, rewards, rewards_within, scratch

PLACE_TURNS: Final = 2
SWEEP_TURNS: Final = 16
"""Run ends of a job moved at most, while placing and while sweeping."""


JOBS_FROM: Final = 3.0
"""In a plan carried on, jobs are re-planned only where the gap is this many times what is enough: they cost most."""


class Before(NamedTuple):
    """The last plan, to carry on from; with no steps, none."""

    step: I4
    """(T,) which of its steps each step now falls in."""
    power: F8
    phase: U1
    """(N, T)"""


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
    power: F8
    phase: U1
    """(T,) the unit in hand as it was."""
    fits: U1
    """(T,) where it displaces none."""


@kernel
def desk(p: Problem, site: int, no_price: F8) -> Desk:
    """A cleared desk for one site."""
    steps = len(p.grid.hours)
    rows = p.sites.row_from[site + 1] - p.sites.row_from[site]
    return Desk(
        scratch(steps), offer(steps), by_worth(p, site), np.zeros((rows, steps)), no_price, np.empty(steps),
        np.empty(steps, np.uint8), np.empty(steps, np.uint8),
    )  # fmt: skip


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
    order: I4 = (first + np.argsort(key, kind="mergesort")).astype(np.int32)
    return order


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
            plan_job(p, unit, k.o, k.s, PLACE_TURNS, power[unit], phase[unit])
        else:
            plan_unit(p, unit, k.s, phase[unit])
            idle_mw, least = p.units.idle_mw[unit], p.units.level_mw[unit, 0]
            for t in range(len(p.grid.hours)):
                off_mw = idle_mw if phase[unit, t] == OFF else least
                power[unit, t] = k.s.mw[t] if phase[unit, t] == RUN else off_mw
        _load(p, site, unit, power[unit], phase[unit], k.load, 1.0)


@kernel
def begin(p: Problem, site: int, duals: Duals, before: Before, k: Desk, power: F8, phase: U1) -> None:
    """A first plan: the last one carried on where there is one, else placed at the prices; then once more within
    room."""
    stand_down(p, site, k, power, phase)
    if len(before.step) == 0:
        place(p, site, duals.row, k, power, phase)
    else:
        carry_on(p, site, before, k, power, phase)
    place(p, site, k.no_price, k, power, phase)


@kernel
def carry_on(p: Problem, site: int, before: Before, k: Desk, power: F8, phase: U1) -> None:
    """Take each unit's path from the last plan where the unit may still run it and its rows have room for it."""
    for unit in k.order:
        for t in range(len(before.step)):
            k.phase[t] = before.phase[unit, before.step[t]]
            k.power[t] = before.power[unit, before.step[t]]
        if p.units.on[unit] == 1:
            k.phase[: p.moves.booted[unit]] = BOOT
        _load(p, site, unit, power[unit], phase[unit], k.load, -1.0)
        _room(p, site, unit, k.load, k.s.limit)
        charge(p, site, unit, k.no_price, k.s)
        rewards_within(p, unit, 0.0, k.s)
        if allowed(p, unit, k.s, k.phase):
            phase[unit] = k.phase
            for t in range(len(k.power)):
                most = max(p.units.level_mw[unit, 0], k.s.limit[t])
                power[unit, t] = min(k.power[t], most) if k.phase[t] == RUN else power[unit, t]
                if k.phase[t] != RUN:
                    power[unit, t] = p.units.idle_mw[unit] if k.phase[t] == OFF else p.units.level_mw[unit, 0]
        _load(p, site, unit, power[unit], phase[unit], k.load, 1.0)


@kernel
def stand_down(p: Problem, site: int, k: Desk, power: F8, phase: U1) -> None:
    """The emptiest plan: every unit off but for its dwell."""
    k.load[:] = 0.0
    for unit in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        idle(p, unit, power[unit], phase[unit])
        _load(p, site, unit, power[unit], phase[unit], k.load, 1.0)


@kernel
def idle(p: Problem, unit: int, power: F8, phase: U1) -> None:
    """The unit off as soon as its dwell allows."""
    locked = p.moves.locked[unit] if p.units.on[unit] == 1 else 0
    for t in range(len(phase)):
        phase[t] = OFF if t >= locked else (BOOT if t < p.moves.booted[unit] else RUN)
        power[t] = p.units.idle_mw[unit] if phase[t] == OFF else p.units.level_mw[unit, 0]


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
    hours, idle_mw, least = p.grid.hours, p.units.idle_mw[unit], p.units.level_mw[unit, 0]
    mws, rates = p.units.level_mw[unit], p.units.level_rate[unit]
    for level in range(LEVELS):
        full, rate = mws[level], rates[level]
        for t in range(len(hours)):
            mw = full
            o.work[level, t] = hours[t] * rate
            if s.limit[t] < full:
                mw = max(least, s.limit[t])
                o.work[level, t] = hours[t] * along(mws, rates, mw)
            o.mw[level, t] = mw
            o.usd[level, t] = hours[t] * (s.price[t] * (idle_mw - mw) - s.on_price[t])


@kernel
def sweep(p: Problem, site: int, m: Merit, ask: F8, k: Desk, jobs: bool, last: int, power: F8, phase: U1) -> bool:
    """Re-plan every unit once on the exact worth of each step, the others re-levelled; whether anything changed.

    What earns least gives way first; `last` (-1 for none) comes after all others. Batch jobs, which cost most to
    re-plan, only with `jobs`.
    """
    changed = False
    for i in range(len(k.order)):
        unit = k.order[len(k.order) - 1 - i]
        if unit != last and (jobs or p.units.work_h[unit] == np.inf):
            changed = _replan(p, site, unit, m, ask, k, power, phase) or changed
    if last >= 0:
        changed = _replan(p, site, last, m, ask, k, power, phase) or changed
    return changed


@kernel
def _replan(p: Problem, site: int, unit: int, m: Merit, ask: F8, k: Desk, power: F8, phase: U1) -> bool:
    steps = len(p.grid.hours)
    batch = p.units.work_h[unit] < np.inf
    k.phase[:] = phase[unit]
    k.power[:] = power[unit]
    _ask(p, site, unit, k.phase, ask, -1.0)
    put(p, site, m, unit, k.phase, k.power, -1.0)
    _fits(p, site, unit, ask, k.fits)
    charge(p, site, unit, k.no_price, k.s)
    rewards(p, unit, 0.0, k.s)
    if batch:
        k.s.limit[:] = np.inf
        _offer_within(p, unit, k.s, k.o)
        _marginal(p, site, unit, m, k, True)
        plan_job(p, unit, k.o, k.s, SWEEP_TURNS, power[unit], phase[unit])
    else:
        _marginal(p, site, unit, m, k, False)
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
def _marginal(p: Problem, site: int, unit: int, m: Merit, k: Desk, batch: bool) -> None:
    """Where the unit would displace another, replace its rewards by the step with it less the step without it.

    A batch job's are replaced level by level, in its offer. The unit must be out of the steps' base.
    """
    u = p.units
    n = unit - p.sites.unit_from[site]
    idle_mw, least, usd_h, share = u.idle_mw[unit], u.level_mw[unit, 0], u.level_usd_h[unit, 0], u.meter_share[unit]
    boots = p.moves.boot[unit] >= 0 or p.moves.booted[unit] > 0
    mws = u.level_mw[unit]
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
            k.o.usd[level, t] = fill(m, t, n, RUN, mws[level], bare * mws[level]) - off


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


@kernel
def plan_site(
    p: Problem, site: int, duals: Duals, before: Before, no_price: F8, sweeps: int, shakes: int, bound: float,
    enough: float, power: F8, phase: U1,
) -> float:  # fmt: skip
    """Fill power[n, t] and phase[n, t] of one site's units; returns the plan's profit, USD. `no_price` (R, T) is zeros.

    Stops where the plan is within `enough`, a share, of `bound`. `sweeps` and `shakes` are the most of each; with fewer
    sweeps than none only the first step's powers are filled, and the profit is not known.
    """
    k = desk(p, site, no_price)
    begin(p, site, duals, before, k, power, phase)
    m = merit_order(p, site)
    lay(p, site, m, power, phase)
    if sweeps < 0:
        fill(m, 0, -1, OFF, 0.0, 0.0)
        power[p.sites.unit_from[site] : p.sites.unit_from[site + 1], 0] = m.power
        return np.nan
    level(p, site, m, power)
    profit = worth(p, site, k, power, phase)
    if sweeps > 0:
        jobs_from = 1.0 if len(before.step) == 0 else JOBS_FROM
        profit = settle(p, site, m, k, sweeps, jobs_from, -1, bound, enough, profit, power, phase)
        profit = shake(p, site, m, k, shakes, bound, enough, profit, power, phase)
    return profit


@kernel
def settle(
    p: Problem, site: int, m: Merit, k: Desk, sweeps: int, jobs_from: float, last: int, bound: float, enough: float,
    profit: float, power: F8, phase: U1,
) -> float:  # fmt: skip
    """Sweep until nothing changes, banks alone and all in turn; returns the profit. `m` must stand as the plan does."""
    ask = asked(p, site, phase)
    for turn in range(sweeps):
        jobs = last >= 0 or turn % 2 == 1
        if bound - profit <= (jobs_from if jobs else 1.0) * enough * abs(bound):
            break
        if not sweep(p, site, m, ask, k, jobs, last, power, phase) and jobs:
            break
        level(p, site, m, power)
        profit = worth(p, site, k, power, phase)
    return profit


@kernel
def shake(
    p: Problem, site: int, m: Merit, k: Desk, shakes: int, bound: float, enough: float, profit: float,
    power: F8, phase: U1,
) -> float:  # fmt: skip
    """Leave what no single unit can better: stand one unit down, let the others take its place, let it come back last.

    Keeps the plan where that earned more, restores it where not. Ends after `shakes`, or when every unit was tried in
    vain.
    """
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    held_power, held_phase = power[first:last].copy(), phase[first:last].copy()
    vain = 0
    for turn in range(shakes):
        if vain >= len(k.order) or bound - profit <= enough * abs(bound):
            break
        unit = k.order[turn % len(k.order)]
        idle(p, unit, power[unit], phase[unit])
        lay(p, site, m, power, phase)
        other = settle(p, site, m, k, 2, 1.0, unit, np.inf, 0.0, -np.inf, power, phase)
        if other > profit + 1e-6:
            profit = other
            held_power[:] = power[first:last]
            held_phase[:] = phase[first:last]
            vain = 0
        else:
            power[first:last] = held_power
            phase[first:last] = held_phase
            vain += 1
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
        mws, usds, rates = u.level_mw[unit], u.level_usd_h[unit], u.level_rate[unit]
        for t in range(len(p.grid.hours)):
            hours, mw = p.grid.hours[t], power[unit, t]
            value -= hours * p.sites.price[site, t] * u.meter_share[unit] * mw
            if phase[unit, t] != OFF and not was_on:
                value -= u.start_usd[unit]
            was_on = phase[unit, t] != OFF
            if phase[unit, t] == RUN:
                value += hours * along(mws, usds, mw)
                done += hours * along(mws, rates, mw)
        if u.work_h[unit] < np.inf:
            value += u.work_usd[unit] * min(done, u.work_h[unit]) - u.miss_usd[unit]
    for r in range(k.load.shape[0]):
        for t in range(len(p.grid.hours)):
            over = k.load[r, t] - p.rows.cap[row0 + r, t]
            if over > 0.0:
                value -= p.grid.hours[t] * p.rows.penalty[row0 + r] * over
    return value
