"""Leaving what no single unit can better: a unit is nudged, the others answer, it is set free, all settle."""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import F8, I4, OFF, U1, Problem
from controller.engine.optimiser.merit import Merit, lay
from controller.engine.optimiser.placing import Desk
from controller.engine.optimiser.sweep import NO_NUDGE, Nudge, asked, level, replan, sweep
from controller.engine.optimiser.worth import worth

KINDS: Final = 4
"""Of nudges: off or running, banks or jobs the first to answer."""


@kernel
def shake(
    p: Problem, site: int, m: Merit, k: Desk, shakes: int, bound: float, enough: float, profit: float,
    power: F8, phase: U1,
) -> float:  # fmt: skip
    """Leave what no single unit can better: make one unit stand down or run, let the others answer, then set it free.

    Keeps the plan where that earned more, restores it where not. Ends after `shakes`, or when every unit was tried in
    every window of the plan (see `windows`) in vain.
    """
    first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
    held_power, held_phase = power[first:last].copy(), phase[first:last].copy()
    units = len(k.order)
    spans = windows(held_phase)
    vain = turn = tried = 0
    while tried < shakes and vain < KINDS * units * len(spans) and bound - profit > enough * abs(bound):
        kind = turn // units % KINDS
        begin, end = spans[turn // (KINDS * units) % len(spans)]
        nudge = Nudge(k.order[turn % units], kind % 2 == 1, begin, end, kind >= 2)
        turn += 1
        vain += 1
        if not _stirs(held_phase[nudge.unit - first], nudge):
            continue
        tried += 1
        lay(p, site, m, power, phase)
        ask = asked(p, site, phase)
        if not replan(p, site, nudge.unit, m, ask, k, nudge, power, phase):
            continue
        other = answer(p, site, m, k, nudge, ask, power, phase)
        if other > profit + 1e-6:
            profit = other
            held_power[:] = power[first:last]
            held_phase[:] = phase[first:last]
            spans = windows(held_phase)
            vain = 0
        else:
            power[first:last] = held_power
            phase[first:last] = held_phase
    return profit


@kernel
def answer(p: Problem, site: int, m: Merit, k: Desk, nudge: Nudge, ask: F8, power: F8, phase: U1) -> float:
    """Let the others answer a nudge, set its unit free and let all settle; returns the profit."""
    for _ in range(2):
        if not sweep(p, site, m, ask, k, True, nudge, power, phase):
            break
    replan(p, site, nudge.unit, m, ask, k, NO_NUDGE, power, phase)
    free = Nudge(-1, False, 0, 0, nudge.jobs_first)
    for _ in range(2):
        if not sweep(p, site, m, ask, k, True, free, power, phase):
            break
    level(p, site, m, power)
    return worth(p, site, k, power, phase)


@kernel
def _stirs(phase: U1, nudge: Nudge) -> bool:
    """Whether the unit is off anywhere it is to run, or on anywhere it is to stay off."""
    stirs = False
    for t in range(nudge.begin, nudge.end):
        stirs = stirs or (phase[t] == OFF) == nudge.run
    return stirs


@kernel
def windows(phase: U1) -> I4:
    """(W, 2) spans of steps worth a nudge: all of them, each run and each pause of a unit, and each span between two
    changes of the plan. None twice."""
    units, steps = phase.shape
    spans = np.empty((2 * units * steps + steps + 1, 2), np.int32)
    spans[0, 0], spans[0, 1] = 0, steps
    count = 1
    changed = np.zeros(steps + 1, np.uint8)
    changed[steps] = 1
    for n in range(units):
        begin = 0
        for t in range(1, steps + 1):
            if t == steps or (phase[n, t] == OFF) != (phase[n, t - 1] == OFF):
                count = _add_span(spans, count, begin, t)
                changed[t] = 1
                begin = t
    begin = 0
    for t in range(1, steps + 1):
        if changed[t] == 1:
            count = _add_span(spans, count, begin, t)
            begin = t
    return spans[:count].copy()


@kernel
def _add_span(spans: I4, count: int, begin: int, end: int) -> int:
    for i in range(count):
        if spans[i, 0] == begin and spans[i, 1] == end:
            return count
    spans[count, 0], spans[count, 1] = begin, end
    return count + 1
