"""One unit on its own: the exact dynamic program over off, starting and on, and the rewards it runs on.

States and moves follow unit commitment with minimum up and down times (Rajan and Takriti, 2005): a start commits the
unit for `min_up_h`, a stop for `min_down_h`, and during `boot_h` after a start it draws level 1 and earns nothing.
Because a commitment only shifts the index the recursion jumps to, prefix sums make the program O(T).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import BOOT, F8, I4, LEVELS, OFF, RUN, U1, Problem


class Scratch(NamedTuple):
    """Working memory of one unit's program, made once a thread."""

    price: F8
    """(T,) USD/MWh of the unit's own power, limits priced in."""
    on_price: F8
    """(T,) USD/h of being on at all."""
    limit: F8
    """(T,) MW the unit may take."""
    shut: I4
    """(T+1,) how many steps before t are closed."""
    gain: F8
    """(T,) USD of running in step t over being off."""
    loss: F8
    """(T,) USD of booting in step t over being off."""
    run: F8
    boot: F8
    """(T+1,) prefix sums of `gain` and `loss`."""
    mw: F8
    """(T,) power if running."""
    value_on: F8
    value_off: F8
    """(T+1,) best from t on, free to stop, or free to start."""


@kernel
def scratch(steps: int) -> Scratch:
    """Room for one unit's program over `steps` steps."""
    return Scratch(
        np.empty(steps),
        np.empty(steps),
        np.full(steps, np.inf),
        np.empty(steps + 1, np.int32),
        np.empty(steps),
        np.empty(steps),
        np.empty(steps + 1),
        np.empty(steps + 1),
        np.empty(steps),
        np.empty(steps + 1),
        np.empty(steps + 1),
    )


@kernel
def charge(p: Problem, site: int, unit: int, row_price: F8, s: Scratch) -> None:
    """Fill `s.price` and `s.on_price`: the meter's price by the unit's share, plus every row it counts in."""
    u = p.units
    share = u.meter_share[unit]
    bare = p.sites.price[site]
    for t in range(len(bare)):
        s.price[t] = bare[t] * share
    s.on_price[:] = 0.0
    for k in range(u.row_from[unit], u.row_from[unit + 1]):
        row = row_price[u.rows[k]]
        weight, on_weight = u.weight[k], u.on_weight[k]
        if weight != 0.0:
            for t in range(len(bare)):
                s.price[t] += weight * row[t]
        if on_weight != 0.0:
            for t in range(len(bare)):
                s.on_price[t] += on_weight * row[t]


@kernel
def rewards(p: Problem, unit: int, work_usd: float, s: Scratch) -> None:
    """Fill `s.gain`, `s.loss`, `s.mw`: the best level of each step at `s.price`, an hour of work worth `work_usd`."""
    u = p.units
    hours = p.grid.hours
    idle = u.idle_mw[unit]
    mw0, mw1, mw2, mw3 = u.level_mw[unit, 0], u.level_mw[unit, 1], u.level_mw[unit, 2], u.level_mw[unit, 3]
    usd0 = u.level_usd_h[unit, 0] + u.level_rate[unit, 0] * work_usd
    usd1 = u.level_usd_h[unit, 1] + u.level_rate[unit, 1] * work_usd
    usd2 = u.level_usd_h[unit, 2] + u.level_rate[unit, 2] * work_usd
    usd3 = u.level_usd_h[unit, 3] + u.level_rate[unit, 3] * work_usd
    for t in range(len(hours)):
        price = s.price[t]
        best, mw = usd0 - price * mw0, mw0
        other = usd1 - price * mw1
        mw = mw1 if other > best else mw
        best = max(best, other)
        other = usd2 - price * mw2
        mw = mw2 if other > best else mw
        best = max(best, other)
        other = usd3 - price * mw3
        mw = mw3 if other > best else mw
        best = max(best, other)
        s.mw[t] = mw
        s.gain[t] = hours[t] * (best + price * idle - s.on_price[t])
        s.loss[t] = hours[t] * (price * (idle - mw0) - s.on_price[t])
    _close(p, unit, s)


@kernel
def rewards_within(p: Problem, unit: int, work_usd: float, s: Scratch) -> None:
    """As `rewards`, with power at most `s.limit[t]`; where that is below level 1 the unit may not run.

    A locked unit runs all the same, at level 1: its excess shows in the rows.
    """
    u = p.units
    hours = p.grid.hours
    rewards(p, unit, work_usd, s)
    idle, least = u.idle_mw[unit], u.level_mw[unit, 0]
    mw, usd, rate = u.level_mw[unit], u.level_usd_h[unit], u.level_rate[unit]
    narrowed = False
    for t in range(len(hours)):
        if s.limit[t] >= s.mw[t]:
            continue
        narrowed = True
        power = max(least, s.limit[t])
        best = along(mw, usd, power) + work_usd * along(mw, rate, power) - s.price[t] * power
        s.mw[t] = power
        s.gain[t] = hours[t] * (best + s.price[t] * idle - s.on_price[t])
    if narrowed:
        shut_within(p, unit, s)


@kernel
def shut_within(p: Problem, unit: int, s: Scratch) -> None:
    """Fill `s.shut`: closed where the unit may not run, or not even its first level fits `s.limit`. A lock holds."""
    least = p.units.level_mw[unit, 0]
    locked = p.moves.locked[unit] if p.units.on[unit] == 1 else 0
    s.shut[0] = 0
    for t in range(len(p.grid.hours)):
        closed = p.units.open[unit, t] == 0 or (s.limit[t] < least - 1e-9 and t >= locked)
        s.shut[t + 1] = s.shut[t] + (1 if closed else 0)


@kernel
def along(mw: F8, curve: F8, power: float) -> float:
    """A unit's curve (LEVELS,) at a power between levels 1 and 4."""
    for level in range(1, LEVELS):
        low, high = mw[level - 1], mw[level]
        if power <= high or level == LEVELS - 1:
            share = min(1.0, max(0.0, (power - low) / (high - low))) if high > low else 1.0
            return float(curve[level - 1] + share * (curve[level] - curve[level - 1]))
    return 0.0


@kernel
def _close(p: Problem, unit: int, s: Scratch) -> None:
    s.shut[0] = 0
    for t in range(len(p.grid.hours)):
        s.shut[t + 1] = s.shut[t] + 1 - p.units.open[unit, t]


@kernel
def cost_to_go(p: Problem, unit: int, s: Scratch) -> None:
    """Fill `s.value_on` and `s.value_off` from the rewards in `s`."""
    m = p.moves
    steps = len(p.grid.hours)
    down_to, up_to = m.jump[m.down[unit]], m.jump[m.up[unit]]
    boot_row = m.boot[unit]
    start_usd = p.units.start_usd[unit]
    s.run[0] = 0.0
    s.boot[0] = 0.0
    for t in range(steps):
        s.run[t + 1] = s.run[t] + s.gain[t]
        s.boot[t + 1] = s.boot[t] + s.loss[t]
    s.value_on[steps] = 0.0
    s.value_off[steps] = 0.0
    for t in range(steps - 1, -1, -1):
        stay_off = s.value_off[t + 1]
        booted = m.jump[boot_row, t] if boot_row >= 0 else t
        free = max(up_to[t], booted)
        start = -np.inf
        if s.shut[free] == s.shut[t]:
            start = s.boot[booted] - s.boot[t] + s.run[free] - s.run[booted] - start_usd + s.value_on[free]
        s.value_off[t] = max(stay_off, start)
        stop = s.value_off[down_to[t]]
        s.value_on[t] = stop if s.shut[t + 1] != s.shut[t] else max(s.gain[t] + s.value_on[t + 1], stop)


@kernel
def follow(p: Problem, unit: int, s: Scratch, phase: U1) -> float:
    """Walk the best path of the values in `s` into `phase`; returns its value over being off throughout."""
    u, m = p.units, p.moves
    steps = len(phase)
    down_to, up_to = m.jump[m.down[unit]], m.jump[m.up[unit]]
    boot_row = m.boot[unit]
    on = u.on[unit] == 1
    value = 0.0
    t = 0
    while t < m.locked[unit]:
        phase[t] = OFF
        if on:
            phase[t] = BOOT if t < m.booted[unit] else RUN
            value += s.loss[t] if t < m.booted[unit] else s.gain[t]
        t += 1
    while t < steps:
        if on:
            shut = s.shut[t + 1] != s.shut[t]
            if not shut and s.gain[t] + s.value_on[t + 1] >= s.value_off[down_to[t]]:
                phase[t] = RUN
                value += s.gain[t]
                t += 1
                continue
            on = False
            phase[t : down_to[t]] = OFF
            t = down_to[t]
            continue
        if s.value_off[t] <= s.value_off[t + 1]:
            phase[t] = OFF
            t += 1
            continue
        booted = m.jump[boot_row, t] if boot_row >= 0 else t
        free = max(up_to[t], booted)
        on = True
        value += s.boot[booted] - s.boot[t] + s.run[free] - s.run[booted] - u.start_usd[unit]
        phase[t:booted] = BOOT
        phase[booted:free] = RUN
        t = free
    return value


@kernel
def plan_unit(p: Problem, unit: int, s: Scratch, phase: U1) -> float:
    """The unit's best path for the rewards in `s`; returns its value over being off throughout."""
    cost_to_go(p, unit, s)
    return follow(p, unit, s, phase)
