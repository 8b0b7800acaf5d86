"""A first plan: every unit in turn takes its program's path within the room the others leave, firm load and jobs first.

With a last plan at hand its paths are carried on where they are still allowed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.job import Offer, allowed, offer, plan_job
from controller.engine.optimiser.layout import BOOT, F8, I4, LEVELS, OFF, RUN, U1, Duals, Problem
from controller.engine.optimiser.merit import is_firm
from controller.engine.optimiser.unit import Scratch, along, charge, plan_unit, rewards_within, scratch, shut_within

PLACE_TURNS: Final = 2
"""Run ends of a job moved at most, while placing."""


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
    kept: U1
    """(n,) whether a unit's path was carried on, by its place in the site."""
    deep: U1
    """(1,) 1 while a search looks at every run of a job's work, not at those alone that prices lead to."""


@kernel
def desk(p: Problem, site: int, no_price: F8) -> Desk:
    """A cleared desk for one site."""
    steps = len(p.grid.hours)
    rows = p.sites.row_from[site + 1] - p.sites.row_from[site]
    units = p.sites.unit_from[site + 1] - p.sites.unit_from[site]
    return Desk(
        scratch(steps), offer(steps), by_worth(p, site), np.zeros((rows, steps)), no_price, np.empty(steps),
        np.empty(steps, np.uint8), np.empty(steps, np.uint8), np.zeros(units, np.uint8), np.zeros(1, np.uint8),
    )  # fmt: skip


@kernel
def by_worth(p: Problem, site: int) -> I4:
    """Firm load first, then batch jobs, then the rest; among these what earns most per MWh at the meter."""
    u = p.units
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    key = np.empty(last - first)
    for n in range(first, last):
        batch = u.work_h[n] < np.inf
        earned = u.work_usd[n] if batch else u.level_usd_h[n, LEVELS - 1]
        key[n - first] = -earned / max(u.level_mw[n, LEVELS - 1] * u.meter_share[n], 1e-9) - (1e12 if batch else 0.0)
        key[n - first] -= 1e15 if is_firm(p, n) else 0.0
    order: I4 = (first + np.argsort(key, kind="mergesort")).astype(np.int32)
    return order


@kernel
def begin(p: Problem, site: int, duals: Duals, before: Before, k: Desk, jobs: bool, power: F8, phase: U1) -> None:
    """A first plan: the last one carried on where there is one, else placed at the prices; then once more within
    room. Without `jobs`, batch jobs carried on stay as they are."""
    stand_down(p, site, k, power, phase)
    if len(before.step) == 0:
        place(p, site, duals.row, k, True, power, phase)
    else:
        carry_on(p, site, before, k, power, phase)
    place(p, site, k.no_price, k, jobs, power, phase)


@kernel
def place(p: Problem, site: int, row_price: F8, k: Desk, jobs: bool, power: F8, phase: U1) -> None:
    """Re-plan every unit once, in order, at `row_price` and within the room the others leave.

    What was carried on stays as it is where it may arm an award, which no price here tells of; batch jobs carried on
    stay without `jobs`.
    """
    first = p.sites.unit_from[site]
    for unit in k.order:
        batch = p.units.work_h[unit] < np.inf
        if k.kept[unit - first] == 1 and (p.sites.award[site] == 1 or (batch and not jobs)):
            continue
        load_with(p, site, unit, power[unit], phase[unit], k.load, -1.0)
        _room(p, site, unit, k.load, k.s.limit)
        charge(p, site, unit, row_price, k.s)
        rewards_within(p, unit, 0.0, k.s)
        if p.units.work_h[unit] < np.inf:
            offer_within(p, unit, k.s, k.o)
            plan_job(p, unit, k.o, k.s, PLACE_TURNS, False, power[unit], phase[unit])
        else:
            plan_unit(p, unit, k.s, phase[unit])
            idle_mw, least = p.units.idle_mw[unit], p.units.level_mw[unit, 0]
            for t in range(len(p.grid.hours)):
                off_mw = idle_mw if phase[unit, t] == OFF else least
                power[unit, t] = k.s.mw[t] if phase[unit, t] == RUN else off_mw
        load_with(p, site, unit, power[unit], phase[unit], k.load, 1.0)


@kernel
def carry_on(p: Problem, site: int, before: Before, k: Desk, power: F8, phase: U1) -> None:
    """Take each unit's path from the last plan where the unit may still run it and its rows have room for it."""
    for unit in k.order:
        for t in range(len(before.step)):
            k.phase[t] = before.phase[unit, before.step[t]]
            k.power[t] = before.power[unit, before.step[t]]
        if p.units.on[unit] == 1:
            k.phase[: p.moves.booted[unit]] = BOOT
        load_with(p, site, unit, power[unit], phase[unit], k.load, -1.0)
        _room(p, site, unit, k.load, k.s.limit)
        shut_within(p, unit, k.s)
        if allowed(p, unit, k.s, k.phase):
            k.kept[unit - p.sites.unit_from[site]] = 1
            phase[unit] = k.phase
            for t in range(len(k.power)):
                most = max(p.units.level_mw[unit, 0], k.s.limit[t])
                power[unit, t] = min(k.power[t], most) if k.phase[t] == RUN else power[unit, t]
                if k.phase[t] != RUN:
                    power[unit, t] = p.units.idle_mw[unit] if k.phase[t] == OFF else p.units.level_mw[unit, 0]
        load_with(p, site, unit, power[unit], phase[unit], k.load, 1.0)


@kernel
def stand_down(p: Problem, site: int, k: Desk, power: F8, phase: U1) -> None:
    """The emptiest plan: every unit off but for its dwell."""
    k.load[:] = 0.0
    for unit in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        idle(p, unit, power[unit], phase[unit])
        load_with(p, site, unit, power[unit], phase[unit], k.load, 1.0)


@kernel
def idle(p: Problem, unit: int, power: F8, phase: U1) -> None:
    """The unit off as soon as its dwell allows."""
    locked = p.moves.locked[unit] if p.units.on[unit] == 1 else 0
    for t in range(len(phase)):
        phase[t] = OFF if t >= locked else (BOOT if t < p.moves.booted[unit] else RUN)
        power[t] = p.units.idle_mw[unit] if phase[t] == OFF else p.units.level_mw[unit, 0]


@kernel
def load_with(p: Problem, site: int, unit: int, power: F8, phase: U1, load: F8, sign: float) -> None:
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
def offer_within(p: Problem, unit: int, s: Scratch, o: Offer) -> None:
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
