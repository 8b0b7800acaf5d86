"""The dual side: what each limit is worth. Deflected Polyak subgradient on the prices of rows and of remaining work.

For given prices the problem falls apart into one dynamic program a unit; their values plus the priced capacity bound
every plan from above. The prices of the last minute, shifted in time, are where the next minute begins.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import F8, LEVELS, OFF, RUN, U1, Duals, Problem
from controller.engine.optimiser.unit import Scratch, along, charge, plan_unit, rewards

DEFLECT: Final = 0.6
"""Share of the last direction kept in the next."""

PATIENCE: Final = 0.7
"""What is left of the guessed gap after an iteration that found no better bound."""

LEAST_GUESS: Final = 1e-5

ROUND: Final = 25
RESTART: Final = 0.01
IN_VAIN: Final = 0.01
"""Of `close_in`: iterations a round, the gap guessed as it begins, and the part of the gap below which it is vain."""


class Descent(NamedTuple):
    """The state of a descent, over all sites."""

    use: F8
    """(R, T) what the units ask of each row at the prices of the last iteration."""
    direction: F8
    """(R, T) where the prices go next."""
    best: F8
    """(R, T) the prices of the best bound met."""
    done: F8
    """(N,) hours of work each batch job does at the prices."""
    job_direction: F8
    job_best: F8
    """(N,)"""
    value: F8
    """(S,) the bound at the prices of the last iteration."""
    bound: F8
    """(S,) the best bound met."""


def descent(p: Problem) -> Descent:
    """A descent about to begin."""
    rows, units, sites = len(p.rows.penalty), len(p.units.idle_mw), len(p.sites.price)
    shape = (rows, len(p.grid.hours))
    return Descent(
        np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(units), np.zeros(units), np.zeros(units),
        np.zeros(sites), np.full(sites, np.inf),
    )  # fmt: skip


@kernel
def descend(p: Problem, site: int, duals: Duals, d: Descent, iterations: int, s: Scratch, power: F8, phase: U1) -> None:
    """Take one site's prices down `iterations` steps; `d.bound` is then the best bound met and `duals` its prices.

    `power` and `phase` (T,) are scratch.
    """
    row0, row1 = p.sites.row_from[site], p.sites.row_from[site + 1]
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    if iterations <= 0:
        return
    for turn in range(iterations):
        price_out(p, site, duals, d, s, power, phase)
        if d.value[site] < d.bound[site] - 1e-9:
            d.bound[site] = d.value[site]
            d.best[row0:row1] = duals.row[row0:row1]
            d.job_best[first:last] = duals.job[first:last]
        else:
            duals.guess[site] = max(LEAST_GUESS, PATIENCE * duals.guess[site])
        if turn + 1 == iterations or not move(p, site, duals, d):
            break
    duals.row[row0:row1] = d.best[row0:row1]
    duals.job[first:last] = d.job_best[first:last]


@kernel
def close_in(
    p: Problem, site: int, duals: Duals, d: Descent, profit: float, near: float, iterations: int, s: Scratch,
    power: F8, phase: U1,
) -> float:  # fmt: skip
    """Take the prices further down where the best bound is above a plan's profit by more than `near`, a share of it.

    A descent whose steps have become small may stand far off: each round begins with long ones again. Returns the best
    bound met.
    """
    row0, row1 = p.sites.row_from[site], p.sites.row_from[site + 1]
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    left = iterations
    while left > 0 and d.bound[site] - profit > near * abs(d.bound[site]):
        before = d.bound[site]
        for r in range(row0, row1):
            d.direction[r, :] = 0.0
        for n in range(first, last):
            d.job_direction[n] = 0.0
        duals.guess[site] = RESTART
        descend(p, site, duals, d, min(left, ROUND), s, power, phase)
        left -= ROUND
        if before - d.bound[site] < IN_VAIN * (before - profit):
            break
    return float(d.bound[site])


@kernel
def price_out(p: Problem, site: int, duals: Duals, d: Descent, s: Scratch, power: F8, phase: U1) -> None:
    """Let every unit answer the present prices: fills `d.value`, `d.use` and `d.done` of the site."""
    u = p.units
    steps = len(p.grid.hours)
    row0, row1 = p.sites.row_from[site], p.sites.row_from[site + 1]
    for r in range(row0, row1):
        for t in range(steps):
            d.use[r, t] = 0.0
    bound = 0.0
    for unit in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        bound += respond(p, site, unit, duals, d, s, power, phase)
        for k in range(u.row_from[unit], u.row_from[unit + 1]):
            r = u.rows[k]
            weight, on_weight = u.weight[k], u.on_weight[k]
            for t in range(steps):
                d.use[r, t] += weight * power[t]
            if on_weight != 0.0:
                for t in range(steps):
                    d.use[r, t] += on_weight * (1.0 if phase[t] != OFF else 0.0)
    for r in range(row0, row1):
        for t in range(steps):
            bound += p.grid.hours[t] * duals.row[r, t] * p.rows.cap[r, t]
    d.value[site] = bound


@kernel
def respond(p: Problem, site: int, unit: int, duals: Duals, d: Descent, s: Scratch, power: F8, phase: U1) -> float:
    """The unit's best answer to the prices: fills power[t], phase[t] and `d.done`; returns its value, idle included."""
    u = p.units
    charge(p, site, unit, duals.row, s)
    batch = u.work_h[unit] < np.inf
    rewards(p, unit, u.work_usd[unit] - duals.job[unit] if batch else 0.0, s)
    value = plan_unit(p, unit, s, phase)
    idle, least = u.idle_mw[unit], u.level_mw[unit, 0]
    for t in range(len(phase)):
        power[t] = s.mw[t] if phase[t] == RUN else (idle if phase[t] == OFF else least)
    if idle > 0.0:
        for t in range(len(phase)):
            value -= p.grid.hours[t] * s.price[t] * idle
    if batch:
        done = 0.0
        mw, rate = u.level_mw[unit], u.level_rate[unit]
        for t in range(len(phase)):
            if phase[t] == RUN:
                done += p.grid.hours[t] * along(mw, rate, s.mw[t])
        d.done[unit] = done
        value += duals.job[unit] * u.work_h[unit] - u.miss_usd[unit]
    return value


@kernel
def move(p: Problem, site: int, duals: Duals, d: Descent) -> bool:
    """Take one Polyak step along the deflected direction; False where there is none to take."""
    length = turn_to(p, site, duals, d)
    if length <= 1e-12:
        return False
    aim = d.bound[site] - duals.guess[site] * (abs(d.bound[site]) + 1.0)
    step_along(p, site, duals, d, max(d.value[site] - aim, 0.0) / length)
    return True


@kernel
def turn_to(p: Problem, site: int, duals: Duals, d: Descent) -> float:
    """Set the deflected direction from what is asked for beyond the limits; returns its squared length."""
    u = p.units
    length = 0.0
    for r in range(p.sites.row_from[site], p.sites.row_from[site + 1]):
        for t in range(len(p.grid.hours)):
            way = d.use[r, t] - p.rows.cap[r, t] + DEFLECT * d.direction[r, t]
            way = 0.0 if duals.row[r, t] <= 0.0 and way < 0.0 else way
            d.direction[r, t] = way
            length += p.grid.hours[t] * way * way
    for n in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        if u.work_h[n] == np.inf:
            continue
        way = d.done[n] - u.work_h[n] + DEFLECT * d.job_direction[n]
        way = 0.0 if duals.job[n] <= 0.0 and way < 0.0 else way
        d.job_direction[n] = way
        length += _metric(p, n) * way * way
    return length


@kernel
def step_along(p: Problem, site: int, duals: Duals, d: Descent, step: float) -> None:
    """Move the prices along the direction, within 0 and what exceeding the limit costs."""
    u = p.units
    for r in range(p.sites.row_from[site], p.sites.row_from[site + 1]):
        most = p.rows.penalty[r]
        for t in range(len(p.grid.hours)):
            duals.row[r, t] = min(max(0.0, duals.row[r, t] + step * d.direction[r, t]), most)
    for n in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        if u.work_h[n] < np.inf:
            price = duals.job[n] + step * _metric(p, n) * d.job_direction[n]
            duals.job[n] = min(max(0.0, price), u.work_usd[n])


@kernel
def _metric(p: Problem, unit: int) -> float:
    """How far a job's work price moves per hour of overwork: as a row of the job's own power would."""
    mw = p.units.level_mw[unit, LEVELS - 1]
    return float(mw * mw / max(p.units.work_h[unit], 0.25))
