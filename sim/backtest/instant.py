"""The interval that runs: what the prices of limits and the programs say of it, and the dispatch made of that.

`look` takes the optimiser's dual prices down a few steps and asks every unit's program what it is worth to be on rather
than off when the interval is over, start costs and dwell counted, averaged over the price paths planned side by side.
`decide` then picks who is on and how hard, within the limits exactly as they are now: merit order fills any choice of
units on, and the choice is bettered by turning single units over, and by exchanging two.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.engine.optimiser.dual import Descent, descend
from controller.engine.optimiser.jit import entry, kernel
from controller.engine.optimiser.layout import F8, I4, LEVELS, RUN, U1, Duals, Problem
from controller.engine.optimiser.unit import Scratch, along, charge, cost_to_go, plan_unit, rewards, scratch

OVER_USD: Final = 1e6
"""USD per MW and hour beyond a limit: more than anything earns."""
FIRST_USD: Final = 5e5
"""USD/MWh by which serving firm load goes before all that is free, and after every limit."""
ROUNDS: Final = 4
EXCHANGES: Final = 6
"""At most, an interval."""
BISECTIONS: Final = 9


class Now(NamedTuple):
    """The interval, N units in the problem's order."""

    hours: float
    on: U1
    """(N,) the state now."""
    must: I4
    """(N,) 1 stays on, -1 stays off, 0 free; 2 a firm job: on but for a limit that nothing else can keep."""
    mw: F8
    usd_h: F8
    """(N, LEVELS) power and what an hour at it earns in this interval, energy unpaid; concave."""
    toll: F8
    """(N,) USD/MWh of the unit's own power."""
    idle: F8
    then: F8
    """(N,) USD of being on rather than off when the interval is over, the start paid."""
    share: F8
    """(N,) at the main meter."""
    firm: U1
    """(N,) 1 for a firm load: served as far as there is room."""
    row_from: I4
    rows: I4
    weight: F8
    on_weight: F8
    cap: F8
    """(R,)"""


@entry
def look(p: Problem, duals: Duals, d: Descent, iterations: int, then: F8, work_usd: F8) -> None:
    """Fill `then` (N,) and `work_usd` (N,), what an hour of each job's work now is worth; `duals` improved in place.

    `then` counts the problem's own start costs. The price of a job's work is sought anew by bisection.
    """
    u, steps = p.units, len(p.grid.hours)
    s, path, state = scratch(steps), np.empty(steps), np.empty(steps, np.uint8)
    sites = len(p.sites.price)
    then[:] = 0.0
    work_usd[:] = 0.0
    for site in range(sites):
        first, last = p.sites.unit_from[site], p.sites.unit_from[site + 1]
        descend(p, site, duals, d, iterations, s, path, state)
        for unit in range(first, last):
            charge(p, site, unit, duals.row, s)
            worth = 0.0
            if u.work_h[unit] < np.inf:
                duals.job[unit] = _work_price(p, unit, s, state)
                worth = max(u.work_usd[unit] - duals.job[unit], 0.0)
            rewards(p, unit, worth, s)
            cost_to_go(p, unit, s)
            then[unit - first] += _advantage(p, unit, s) / sites
            work_usd[unit - first] += worth / sites


@entry
def again(p: Problem, duals: Duals, units: int, then: F8) -> None:
    """Fill then[:units] anew from the prices as they stand: the programs of the first units, jobs excluded."""
    s = scratch(len(p.grid.hours))
    sites = len(p.sites.price)
    then[:units] = 0.0
    for site in range(sites):
        first = p.sites.unit_from[site]
        for unit in range(first, first + units):
            charge(p, site, unit, duals.row, s)
            rewards(p, unit, 0.0, s)
            cost_to_go(p, unit, s)
            then[unit - first] += _advantage(p, unit, s) / sites


@kernel
def _work_price(p: Problem, unit: int, s: Scratch, state: U1) -> float:
    """The price of a job's work just low enough that it would rather do more than its work than less.

    A path can jump from too much work to none; on the dear side of that jump a running job would be stopped in vain.
    """
    u = p.units
    low, high, price = 0.0, u.work_usd[unit], 0.0
    for _ in range(BISECTIONS):
        rewards(p, unit, u.work_usd[unit] - price, s)
        plan_unit(p, unit, s, state)
        done = 0.0
        for t in range(len(state)):
            if state[t] == RUN:
                done += p.grid.hours[t] * along(u.level_mw[unit], u.level_rate[unit], s.mw[t])
        if done > u.work_h[unit]:
            low = price
        else:
            high = price
            if price <= 0.0:
                break
        price = 0.5 * (low + high)
    return low


@kernel
def _advantage(p: Problem, unit: int, s: Scratch) -> float:
    """USD of being on after the first step over being off after it, by the program in `s`."""
    m = p.moves
    if p.units.on[unit] == 1:
        return float(s.value_on[1] - s.value_off[m.jump[m.down[unit], 0]])
    free = m.jump[m.up[unit], 0]
    if s.shut[free] != s.shut[0]:
        free = 1
    return float(s.run[free] - s.run[1] + s.value_on[free] - p.units.start_usd[unit] - s.value_off[1])


class Fill(NamedTuple):
    """Pieces of the units' curves, steepest first, and room to work in."""

    unit: I4
    span: F8
    net: F8
    room: F8
    power: F8


@entry
def decide(w: Now, chosen: U1, power: F8) -> float:
    """Fill `chosen` (N,), who is on, and `power` (N,), MW, 0 where off; returns the dispatch's worth by the model.

    Two beginnings are bettered: what is on now, and the worthiest first; the better one is taken, the first on a tie.
    """
    f = _pieces(w)
    n = len(w.on)
    for i in range(n):
        chosen[i] = _forced(w, i) if w.must[i] != 0 else w.on[i]
    kept = chosen.copy()
    best = _better(w, f, chosen)
    other = kept
    for i in range(n):
        other[i] = _forced(w, i)
    alone = _alone(w)
    for i in np.argsort(-alone, kind="mergesort"):
        if w.must[i] == 0 and alone[i] > 0.0:
            other[i] = 1
            if not _fits(w, f, other):
                other[i] = 0
    value = _better(w, f, other)
    if value > best + 1e-6:
        best = value
        chosen[:] = other
    best = _relieve(w, f, chosen, best)
    _worth(w, f, chosen)
    power[:] = f.power
    best = _give_up(w, f, chosen, power, best)
    for i in range(n):
        if chosen[i] == 0:
            power[i] = 0.0
    return best


@kernel
def _forced(w: Now, i: int) -> int:
    return 1 if w.must[i] > 0 else 0


@kernel
def _pieces(w: Now) -> Fill:
    n = len(w.on)
    unit, span, net, key = np.empty(3 * n, np.int32), np.empty(3 * n), np.empty(3 * n), np.empty(3 * n)
    i = 0
    for u in range(n):
        for k in range(1, LEVELS):
            wide = w.mw[u, k] - w.mw[u, k - 1]
            if wide <= 1e-12:
                continue
            worth = (w.usd_h[u, k] - w.usd_h[u, k - 1]) / wide - w.toll[u]
            if w.firm[u] == 1:
                worth += FIRST_USD
            if worth <= 0.0:
                continue
            unit[i], span[i], net[i], key[i] = u, wide, worth, -worth / max(w.share[u], 1e-9)
            i += 1
    by = np.argsort(key[:i], kind="mergesort")
    return Fill(unit[by], span[by], net[by], np.empty(len(w.cap)), np.empty(n))


@kernel
def _base(w: Now, f: Fill, chosen: U1) -> float:
    """Everything on at its first level, the rest idle: fills f.room, f.power; the worth of it, excess charged."""
    f.room[:] = w.cap
    value = 0.0
    for i in range(len(w.on)):
        mw = w.mw[i, 0] if chosen[i] == 1 else w.idle[i]
        f.power[i] = mw
        if chosen[i] == 1:
            value += w.hours * (w.usd_h[i, 0] - w.toll[i] * (mw - w.idle[i])) + w.then[i]
        for k in range(w.row_from[i], w.row_from[i + 1]):
            f.room[w.rows[k]] -= w.weight[k] * mw + (w.on_weight[k] if chosen[i] == 1 else 0.0)
    for r in range(len(f.room)):
        if f.room[r] < 0.0:
            value += w.hours * OVER_USD * f.room[r]
    return value


@kernel
def _fits(w: Now, f: Fill, chosen: U1) -> bool:
    _base(w, f, chosen)
    return bool(np.min(f.room) >= 0.0)


@kernel
def _worth(w: Now, f: Fill, chosen: U1) -> float:
    """USD of this choice at its best levels; f.power is the dispatch."""
    value = _base(w, f, chosen)
    for k in range(len(f.unit)):
        i = f.unit[k]
        if chosen[i] == 0:
            continue
        value += w.hours * f.net[k] * _take(w, f, i, f.span[k])
    return value


@kernel
def _take(w: Now, f: Fill, i: int, span: float) -> float:
    """As much of `span` as the unit's rows have room for, taken; MW."""
    take = span
    for q in range(w.row_from[i], w.row_from[i + 1]):
        if w.weight[q] > 0.0:
            take = min(take, f.room[w.rows[q]] / w.weight[q])
    if take <= 0.0:
        return 0.0
    f.power[i] += take
    for q in range(w.row_from[i], w.row_from[i + 1]):
        f.room[w.rows[q]] -= w.weight[q] * take
    return take


@kernel
def _alone(w: Now) -> F8:
    """(N,) what each unit is worth on its own per MW at the meter."""
    out = np.empty(len(w.on))
    for i in range(len(w.on)):
        best = -np.inf
        for k in range(LEVELS):
            value = w.hours * (w.usd_h[i, k] - w.toll[i] * (w.mw[i, k] - w.idle[i])) + w.then[i]
            best = max(best, value)
        out[i] = best / max(w.mw[i, 0] * w.share[i], 1e-6)
    return out


@kernel
def _better(w: Now, f: Fill, chosen: U1) -> float:
    """Turn units over, one at a time, and where none helps one for another, while that earns more."""
    best = _worth(w, f, chosen)
    alone = _alone(w)
    order = np.argsort(alone, kind="mergesort")
    for _ in range(ROUNDS):
        moved = False
        for i in order:
            if w.must[i] != 0 or (chosen[i] == 0 and alone[i] <= 0.0):
                continue
            chosen[i] = 1 - chosen[i]
            value = _worth(w, f, chosen)
            if value > best + 1e-6:
                best, moved = value, True
            else:
                chosen[i] = 1 - chosen[i]
        if not moved:
            value = _exchange(w, f, chosen, order, alone, best)
            if value <= best:
                break
            best = value
    return best


@kernel
def _exchange(w: Now, f: Fill, chosen: U1, order: NDArray[np.intp], alone: F8, best: float) -> float:
    """The worthiest that are off in the place of as many of the least worthy as stand in their way."""
    was = chosen.copy()
    left = EXCHANGES
    for a in order[::-1]:
        if chosen[a] == 1 or w.must[a] != 0 or alone[a] <= 0.0:
            continue
        if left <= 0:
            break
        left -= 1
        was[:] = chosen
        chosen[a] = 1
        for b in order:
            if _fits(w, f, chosen):
                break
            if b != a and chosen[b] == 1 and w.must[b] == 0 and _in_the_way(w, f, b):
                chosen[b] = 0
        value = _worth(w, f, chosen)
        if value > best + 1e-6:
            best = value
        else:
            chosen[:] = was
    return best


@kernel
def _in_the_way(w: Now, f: Fill, i: int) -> bool:
    """Whether a unit that is on takes of a row that is exceeded; f.room as `_base` left it."""
    for k in range(w.row_from[i], w.row_from[i + 1]):
        if f.room[w.rows[k]] < 0.0 and w.weight[k] + w.on_weight[k] > 0.0:
            return True
    return False


@kernel
def _relieve(w: Now, f: Fill, chosen: U1, best: float) -> float:
    """Where a limit is still exceeded, firm jobs give way, the least worth first."""
    if _fits(w, f, chosen):
        return best
    best = _worth(w, f, chosen)
    for i in np.argsort(_alone(w), kind="mergesort"):
        if w.must[i] == 2 and chosen[i] == 1:
            chosen[i] = 0
            value = _worth(w, f, chosen)
            if value > best + 1e-6:
                best = value
            else:
                chosen[i] = 1
    return best


@kernel
def _give_up(w: Now, f: Fill, chosen: U1, power: F8, best: float) -> float:
    """Firm load may be given up for money where everything flexible stands still with it: taken if that earns more.

    Fills `chosen` and `power` if so; returns the worth either way, the precedence of firm load taken out again.
    """
    served = 0.0
    for i in range(len(w.on)):
        served += power[i] if w.firm[i] == 1 else 0.0
    best -= w.hours * FIRST_USD * served
    dear = False
    for i in range(len(w.on)):
        dear = dear or (w.firm[i] == 1 and w.usd_h[i, LEVELS - 1] < w.toll[i] * w.mw[i, LEVELS - 1])
    if not dear:
        return best
    still = chosen.copy()
    for i in range(len(w.on)):
        still[i] = chosen[i] if w.must[i] > 0 else 0
    value = _base(w, f, still)
    for k in range(len(f.unit)):
        i = f.unit[k]
        if still[i] == 0 or (w.must[i] != 2 and w.firm[i] == 0):
            continue
        net = f.net[k] - (FIRST_USD if w.firm[i] == 1 else 0.0)
        take = _take(w, f, i, f.span[k]) if net > 0.0 else 0.0
        value += w.hours * net * take
    if value > best + 1e-6:
        best = value
        chosen[:] = still
        power[:] = f.power
    return best
