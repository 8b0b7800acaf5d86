"""Ruin and recreate (Schrimpf et al., 2000): a set of units is taken out of a window and placed anew, in another order.

It finds what no nudge of one unit does: several that must give way at once for one that does not fit beside any of
them. Which set, which window and which order follow one fixed sequence of numbers, the same for every site and call.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import F8, LEVELS, OFF, U1, Problem
from controller.engine.optimiser.merit import Merit, lay
from controller.engine.optimiser.placing import Desk
from controller.engine.optimiser.shake import windows
from controller.engine.optimiser.sweep import NO_NUDGE, asked, level, replan, sweep
from controller.engine.optimiser.worth import worth

SEED: Final = 88172645463325252
SLACK: Final = 2e-3
"""A plan worse than the best by no more than this share is gone on from."""
LEAST_SHARE: Final = 0.15
SPAN_SHARE: Final = 0.6
"""Of the units, this much at least and this much more at most is taken out."""
WHOLE: Final = 0.5
"""How often over the whole horizon, not over a window of the plan."""
NOISE: Final = 3.0
"""How far, in the logarithm of what they earn, the order is thrown about at most."""
SWEEPS: Final = 3
RESTS: Final = 1e-6

State = NDArray[np.uint64]


@kernel
def renew(
    p: Problem, site: int, m: Merit, k: Desk, tries: int, bound: float, enough: float, profit: float,
    power: F8, phase: U1,
) -> float:  # fmt: skip
    """Better the plan by up to `tries` sets of units taken out and placed anew; returns the profit of the best plan."""
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    best_power, best_phase = power[first:last].copy(), phase[first:last].copy()
    held_power, held_phase = best_power.copy(), best_phase.copy()
    best = held = profit
    spans = _in_order(windows(held_phase))
    state = np.full(1, SEED, np.uint64)
    key = np.empty(last - first)
    for _ in range(tries):
        if bound - best <= enough * abs(bound):
            break
        _take_out(p, k, spans, state, key, power, phase)
        other = _place_anew(p, site, m, k, key, power, phase)
        if other <= held - SLACK * abs(best) or other <= best - SLACK * abs(best):
            power[first:last] = held_power
            phase[first:last] = held_phase
            continue
        held = other
        held_power[:] = power[first:last]
        held_phase[:] = phase[first:last]
        spans = _in_order(windows(held_phase))
        if other > best + RESTS:
            best = other
            best_power[:] = held_power
            best_phase[:] = held_phase
    power[first:last] = best_power
    phase[first:last] = best_phase
    return best


@kernel
def _take_out(p: Problem, k: Desk, spans: NDArray[np.int32], state: State, key: F8, power: F8, phase: U1) -> None:
    """Take some units out over a window; key[i] says how early the i-th of the desk's order is to come back, infinity
    for one that stays. In the window they may break their dwell: each is placed anew before anything is judged."""
    u = p.units
    share = LEAST_SHARE + SPAN_SHARE * _number(state)
    noise = NOISE * _number(state)
    jobs_first = _number(state) < 0.5
    begin, end = 0, phase.shape[1]
    if _number(state) >= WHOLE:
        begin, end = spans[int(_number(state) * len(spans))]
    for i in range(len(k.order)):
        unit = k.order[i]
        key[i] = np.inf
        if _number(state) >= share:
            continue
        batch = u.work_h[unit] < np.inf
        earned = u.work_usd[unit] if batch else u.level_usd_h[unit, LEVELS - 1]
        worth_usd = earned / max(u.level_mw[unit, LEVELS - 1] * u.meter_share[unit], 1e-9)
        key[i] = (
            noise * (_number(state) - 0.5) - np.log(max(worth_usd, 1e-3)) - (100.0 if batch and jobs_first else 0.0)
        )
        for t in range(max(begin, p.moves.locked[unit] if u.on[unit] == 1 else 0), end):
            phase[unit, t] = OFF
            power[unit, t] = u.idle_mw[unit]


@kernel
def _place_anew(p: Problem, site: int, m: Merit, k: Desk, key: F8, power: F8, phase: U1) -> float:
    """Place the units taken out, in the order of their keys, and let all settle; returns the plan's profit."""
    lay(p, site, m, power, phase)
    ask = asked(p, site, phase)
    for i in np.argsort(key):
        if key[i] == np.inf:
            break
        replan(p, site, k.order[i], m, ask, k, NO_NUDGE, power, phase)
    for _ in range(SWEEPS):
        if not sweep(p, site, m, ask, k, True, NO_NUDGE, power, phase):
            break
    level(p, site, m, power)
    return worth(p, site, k, power, phase)


@kernel
def _in_order(spans: NDArray[np.int32]) -> NDArray[np.int32]:
    """By where they begin and end: the order in which units are named says nothing."""
    by = np.argsort(spans[:, 0] * 10_000 + spans[:, 1], kind="mergesort")
    ordered: NDArray[np.int32] = spans[by]
    return ordered


@kernel
def _number(state: State) -> float:
    """The next of Marsaglia's 64-bit xorshift, from 0 up to 1."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return float(x >> np.uint64(11)) / 9007199254740992.0
