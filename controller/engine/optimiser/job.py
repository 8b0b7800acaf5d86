"""A batch job against fixed neighbours: when it runs, and how hard, so that its work is done and no more than done.

The work is priced: a low price runs too much, a high one too little, and a bisection closes in on it. As a path can jump
from too much to none, every path met is settled: its levels are chosen to hit the work exactly, its run ends moved while
that earns more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import BOOT, F8, LEVELS, OFF, RUN, U1, Problem
from controller.engine.optimiser.unit import Scratch, plan_unit

BISECTIONS: Final = 12
LEVELLING: Final = 24
MOVES: Final = 24
"""Run ends moved in one settlement, at most."""


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


@kernel
def offer(steps: int) -> Offer:
    """Room for one."""
    return Offer(
        np.empty((LEVELS, steps)), np.empty((LEVELS, steps)), np.empty((LEVELS, steps)), np.empty(steps),
        np.empty(steps), np.empty(steps, np.uint8), np.empty(steps, np.uint8),
    )  # fmt: skip


@kernel
def plan_job(p: Problem, unit: int, o: Offer, s: Scratch, power: F8, phase: U1) -> float:
    """Plan a job on the offer in `o` (`s.loss`, `s.shut` set): fills power and phase, those in being its present plan.

    Returns its value over being off, work earned up to `work_h`. Never worse than the pattern it came with.
    """
    work_usd = p.units.work_usd[unit]
    o.best_phase[:] = phase
    best = _settle(p, unit, o, s, o.best_phase, o.best_power) if allowed(p, unit, s, phase) else -np.inf
    low, high, price = 0.0, work_usd, 0.0
    for turn in range(BISECTIONS):
        _price(p, unit, o, s, work_usd - price)
        plan_unit(p, unit, s, o.phase)
        done = 0.0
        for t in range(len(phase)):
            done += o.work[_level(o, t, work_usd - price), t] if o.phase[t] == RUN else 0.0
        value = _improve(p, unit, o, s)
        if value > best + 1e-9:
            best = value
            o.best_phase[:] = o.phase
            o.best_power[:] = o.power
        if done > p.units.work_h[unit]:
            low = price
        elif turn == 0:
            break
        else:
            high = price
        price = 0.5 * (low + high)
    phase[:] = o.best_phase
    power[:] = o.best_power
    return best


@kernel
def _price(p: Problem, unit: int, o: Offer, s: Scratch, work_usd: float) -> None:
    """The rewards of every step where an hour of work is worth `work_usd`."""
    for t in range(len(s.gain)):
        level = _level(o, t, work_usd)
        s.mw[t] = o.mw[level, t]
        s.gain[t] = o.usd[level, t] + work_usd * o.work[level, t]


@kernel
def _level(o: Offer, t: int, work_usd: float) -> int:
    best = 0
    for level in range(1, LEVELS):
        if o.usd[level, t] + work_usd * o.work[level, t] > o.usd[best, t] + work_usd * o.work[best, t]:
            best = level
    return best


@kernel
def _settle(p: Problem, unit: int, o: Offer, s: Scratch, phase: U1, power: F8) -> float:
    """Choose the levels of a path exactly, the last one mixed; fills power, returns the path's value over being off."""
    full = p.units.work_usd[unit]
    work = p.units.work_h[unit]
    low, high = 0.0, full
    if _done(o, phase, full) > work:
        for _ in range(LEVELLING):
            price = 0.5 * (low + high)
            if _done(o, phase, full - price) > work:
                low = price
            else:
                high = price
    else:
        high = 0.0
    over = _done(o, phase, full - low) - work
    value = -p.units.start_usd[unit] * _starts(p, unit, phase)
    done = 0.0
    for t in range(len(phase)):
        power[t] = p.units.idle_mw[unit]
        if phase[t] == BOOT:
            power[t] = p.units.level_mw[unit, 0]
            value += s.loss[t]
        if phase[t] != RUN:
            continue
        hard, soft = _level(o, t, full - low), _level(o, t, full - high)
        less = o.work[hard, t] - o.work[soft, t]
        share = 0.0 if less <= 0.0 or over <= 0.0 else min(1.0, over / less)
        over -= share * less
        power[t] = o.mw[hard, t] + share * (o.mw[soft, t] - o.mw[hard, t])
        value += o.usd[hard, t] + share * (o.usd[soft, t] - o.usd[hard, t])
        done += o.work[hard, t] - share * less
    return value + full * min(work, done)


@kernel
def _done(o: Offer, phase: U1, work_usd: float) -> float:
    done = 0.0
    for t in range(len(phase)):
        if phase[t] == RUN:
            done += o.work[_level(o, t, work_usd), t]
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
def _improve(p: Problem, unit: int, o: Offer, s: Scratch) -> float:
    """Settle the path in `o.phase`, then shorten or lengthen its runs by a step while that earns more."""
    steps = len(o.phase)
    value = _settle(p, unit, o, s, o.phase, o.power)
    for _ in range(MOVES):
        best, at = value + 1e-9, -1
        for t in range(p.moves.locked[unit], steps):
            if not _edge(o.phase, t):
                continue
            was = o.phase[t]
            o.phase[t] = OFF if was == RUN else RUN
            if allowed(p, unit, s, o.phase):
                other = _settle(p, unit, o, s, o.phase, o.power)
                if other > best:
                    best, at = other, t
            o.phase[t] = was
        if at < 0:
            break
        value = best
        o.phase[at] = OFF if o.phase[at] == RUN else RUN
    return _settle(p, unit, o, s, o.phase, o.power)


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
