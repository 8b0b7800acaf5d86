"""A batch job against fixed neighbours: when it runs, and how hard, so that its work is done and no more than done.

The work is priced: a low price runs too much, a high one too little, and a bisection closes in on it. As a path can
jump from too much to none, every path met is settled: its levels are chosen to hit the work exactly, its run ends
moved while that earns more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import BOOT, F8, LEVELS, OFF, RUN, U1, Problem
from controller.engine.optimiser.unit import Scratch, plan_unit

BISECTIONS: Final = 12
LEVELLING: Final = 10
TRIES: Final = 3
"""How many run ends are tried before a turn ends in vain."""


class Offer(NamedTuple):
    """What each level of a job would take, earn and do in every step, its neighbours fixed."""

    mw: F8
    """(LEVELS, T)"""
    usd: F8
    """(LEVELS, T) over being off, work not counted."""
    work: F8
    """(LEVELS, T) hours."""
    power: F8
    """(T,) the path now settled."""
    best_power: F8
    """(T,) and the best one so far."""
    phase: U1
    best_phase: U1
    much: U1
    less: U1
    """(T,) the last paths met that do more than the work, and no more."""
    promise: F8
    """(T,) what moving a run end by this step may gain."""
    price: F8
    """(1,) USD per hour of work in the path last settled."""


@kernel
def offer(steps: int) -> Offer:
    """Room for one."""
    return Offer(
        np.empty((LEVELS, steps)), np.empty((LEVELS, steps)), np.empty((LEVELS, steps)), np.empty(steps),
        np.empty(steps), np.empty(steps, np.uint8), np.empty(steps, np.uint8),
        np.empty(steps, np.uint8), np.empty(steps, np.uint8), np.empty(steps), np.zeros(1),
    )  # fmt: skip


@kernel
def plan_job(p: Problem, unit: int, o: Offer, s: Scratch, turns: int, deep: bool, power: F8, phase: U1) -> float:
    """Plan a job on the offer in `o` (`s.loss`, `s.shut` set): fills power and phase, those in being its present plan.

    Returns its value over being off, work earned up to `work_h`. At most `turns` run ends are moved. Never worse than
    the pattern it came with. With `deep` every start is tried for the work in one run, at full and at least level.
    """
    o.best_phase[:] = phase
    best = _settle(p, unit, o, s, o.best_phase, o.best_power) if allowed(p, unit, s, phase) else -np.inf
    work_usd = p.units.work_usd[unit]
    low, high, price = 0.0, -1.0, 0.0
    for _ in range(BISECTIONS):
        _price(o, s, work_usd - price)
        plan_unit(p, unit, s, o.phase)
        if _done(o.usd, o.work, o.phase, work_usd - price) > p.units.work_h[unit]:
            low = price
            o.much[:] = o.phase
        else:
            high = price
            o.less[:] = o.phase
            if price <= 0.0:
                break
        price = 0.5 * (low + (high if high >= 0.0 else work_usd))
    if high >= 0.0:
        best = _improve(p, unit, o, s, turns, o.less, best)
    if high != 0.0:
        best = _improve(p, unit, o, s, turns, o.much, best)
    if deep and _best_run(p, unit, o, s, best):
        best = _improve(p, unit, o, s, turns, o.less, best)
    phase[:] = o.best_phase
    power[:] = o.best_power
    return best


@kernel
def _price(o: Offer, s: Scratch, work_usd: float) -> None:
    """The rewards of every step where an hour of work is worth `work_usd`."""
    for t in range(len(s.gain)):
        level = _level(o.usd, o.work, t, work_usd)
        s.mw[t] = o.mw[level, t]
        s.gain[t] = o.usd[level, t] + work_usd * o.work[level, t]


@kernel
def _level(usd: F8, work: F8, t: int, work_usd: float) -> int:
    best = 0
    for level in range(1, LEVELS):
        if usd[level, t] + work_usd * work[level, t] > usd[best, t] + work_usd * work[best, t]:
            best = level
    return best


@kernel
def _settle(p: Problem, unit: int, o: Offer, s: Scratch, phase: U1, power: F8) -> float:
    """Choose the levels of a path exactly, the last one mixed; fills power, returns the path's value over being off."""
    full = p.units.work_usd[unit]
    work = p.units.work_h[unit]
    low, high = 0.0, full
    if _done(o.usd, o.work, phase, full) > work:
        for _ in range(LEVELLING):
            price = 0.5 * (low + high)
            if _done(o.usd, o.work, phase, full - price) > work:
                low = price
            else:
                high = price
    else:
        high = 0.0
    o.price[0] = 0.5 * (low + high)
    over = _done(o.usd, o.work, phase, full - low) - work
    value = -p.units.start_usd[unit] * _starts(p, unit, phase)
    done = 0.0
    for t in range(len(phase)):
        power[t] = p.units.idle_mw[unit]
        if phase[t] == BOOT:
            power[t] = p.units.level_mw[unit, 0]
            value += s.loss[t]
        if phase[t] != RUN:
            continue
        hard, soft = _level(o.usd, o.work, t, full - low), _level(o.usd, o.work, t, full - high)
        less = o.work[hard, t] - o.work[soft, t]
        share = 0.0 if less <= 0.0 or over <= 0.0 else min(1.0, over / less)
        over -= share * less
        power[t] = o.mw[hard, t] + share * (o.mw[soft, t] - o.mw[hard, t])
        value += o.usd[hard, t] + share * (o.usd[soft, t] - o.usd[hard, t])
        done += o.work[hard, t] - share * less
    return float(value + full * min(work, done))


@kernel
def _done(usd: F8, work: F8, phase: U1, work_usd: float) -> float:
    """Hours of work a path does at each step's best level."""
    done = 0.0
    for t in range(len(phase)):
        if phase[t] == RUN:
            done += work[_level(usd, work, t, work_usd), t]
    return done


@kernel
def _starts(p: Problem, unit: int, phase: U1) -> int:
    was_on = p.units.on[unit] == 1
    starts = 0
    for t in range(len(phase)):
        starts += 1 if phase[t] != OFF and not was_on else 0
        was_on = phase[t] != OFF
    return starts


@kernel
def _improve(p: Problem, unit: int, o: Offer, s: Scratch, turns: int, path: U1, best: float) -> float:
    """Settle a path, then shorten or lengthen its runs by a step while that earns more; keeps it if it beats `best`.

    At each turn the step that promises most at the price of work is tried, then the next, `TRIES` at most.
    """
    o.phase[:] = path
    value = _settle(p, unit, o, s, o.phase, o.power)
    for _ in range(turns):
        _promise(p, unit, o)
        moved = False
        for _ in range(TRIES):
            t = int(np.argmax(o.promise))
            if o.promise[t] == -np.inf:
                break
            o.promise[t] = -np.inf
            was = o.phase[t]
            o.phase[t] = OFF if was == RUN else RUN
            if allowed(p, unit, s, o.phase):
                other = _settle(p, unit, o, s, o.phase, o.power)
                if other > value + 1e-9:
                    value, moved = other, True
                    break
            o.phase[t] = was
        if not moved:
            break
    if value <= best + 1e-9:
        return best
    o.best_phase[:] = o.phase
    return _settle(p, unit, o, s, o.phase, o.best_power)


@kernel
def _best_run(p: Problem, unit: int, o: Offer, s: Scratch, best: float) -> bool:
    """Leave in `o.less` the best path that does all the work in one run; whether one is worth at least `best`'s
    neighbourhood, that is all but a start."""
    steps = len(o.phase)
    most, found = best - p.units.start_usd[unit] - 1e-9, False
    for begin in range(p.moves.locked[unit], steps):
        if s.shut[begin + 1] != s.shut[begin]:
            continue
        for level in (0, LEVELS - 1):
            _one_run(p, unit, o, begin, level)
            if allowed(p, unit, s, o.phase):
                value = _settle(p, unit, o, s, o.phase, o.power)
                if value > most:
                    most, found = value, True
                    o.less[:] = o.phase
    return found


@kernel
def _one_run(p: Problem, unit: int, o: Offer, begin: int, level: int) -> None:
    """Fill `o.phase`: off but for its lock, then from `begin` on until the work is done at the level."""
    locked = p.moves.locked[unit] if p.units.on[unit] == 1 else 0
    booted = begin
    if p.moves.boot[unit] >= 0 and not (p.units.on[unit] == 1 and begin == locked):
        booted = p.moves.jump[p.moves.boot[unit], begin]
    left = p.units.work_h[unit]
    for t in range(len(o.phase)):
        o.phase[t] = OFF
        if t < locked:
            o.phase[t] = BOOT if t < p.moves.booted[unit] else RUN
            left -= o.work[level, t] if o.phase[t] == RUN else 0.0
        elif t >= begin and left > 1e-9:
            o.phase[t] = BOOT if t < booted else RUN
            left -= o.work[level, t] if t >= booted else 0.0


@kernel
def _promise(p: Problem, unit: int, o: Offer) -> None:
    """Fill `o.promise`: what a run end moved by each step gains at the price of work last settled."""
    work_usd = p.units.work_usd[unit] - o.price[0]
    for t in range(len(o.phase)):
        o.promise[t] = -np.inf
        if t >= p.moves.locked[unit] and _edge(o.phase, t):
            level = _level(o.usd, o.work, t, work_usd)
            gain = o.usd[level, t] + work_usd * o.work[level, t]
            o.promise[t] = -gain if o.phase[t] == RUN else gain


@kernel
def _edge(phase: U1, t: int) -> bool:
    """Whether step t is the first or last of a run, or borders on one."""
    if phase[t] == BOOT:
        return False
    before = t > 0 and (phase[t - 1] == OFF) != (phase[t] == OFF)
    after = t + 1 < len(phase) and (phase[t + 1] == OFF) != (phase[t] == OFF)
    return before or after or (phase[t] == RUN and (t == 0 or t + 1 == len(phase)))


@kernel
def allowed(p: Problem, unit: int, s: Scratch, phase: U1) -> bool:
    """Whether a path keeps the unit's dwell, boot and closed steps (`s.shut`)."""
    m = p.moves
    steps = len(phase)
    on = p.units.on[unit] == 1
    for t in range(m.locked[unit]):
        if phase[t] != (OFF if not on else (BOOT if t < m.booted[unit] else RUN)):
            return False
    was_on = on
    hold = booted = m.locked[unit]
    for t in range(m.locked[unit], steps):
        is_on = phase[t] != OFF
        if is_on and s.shut[t + 1] != s.shut[t]:
            return False
        if is_on != was_on:
            if t < hold:
                return False
            hold = m.jump[m.up[unit], t] if is_on else m.jump[m.down[unit], t]
            booted = t
            if is_on and m.boot[unit] >= 0:
                booted = m.jump[m.boot[unit], t]
                hold = max(hold, booted)
        if is_on and (phase[t] == BOOT) != (t < booted):
            return False
        was_on = is_on
    return True
