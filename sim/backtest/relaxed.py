"""The judged intervals with every shared limit priced: each bank, job and firm load on its own, solved exactly.

At any prices of the limits the sum of the units' best values plus the priced room bounds every plan from above
(Lagrange); a deflected Polyak subgradient descent looks for the prices that bound it best. The whole span is one
problem: banks run their dynamic program over all of it, each job is weighed over its own window. MW, hours, USD.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.engine.optimiser.jit import entry, kernel
from controller.engine.optimiser.layout import LEVELS

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
U1 = NDArray[np.uint8]

DEFLECT: Final = 0.7
"""Share of the last direction kept in the next."""
PATIENCE: Final = 0.98
"""What is left of the guessed gap after an iteration that did not better the bound."""
LEAST_GUESS: Final = 1e-7
MOST_USD: Final = 50_000.0
"""USD/MWh that no price of a limit goes beyond."""
CLOSE_USD: Final = 0.01
BISECTIONS: Final = 24


class Year(NamedTuple):
    """T intervals of one site. Rows: the main meter, the feeders, the halls, the partitions' nodes, in this order."""

    hours: float
    price: F8
    """(T,) USD/MWh at the main meter: energy, adder and the coincident peak's charge."""
    share: F8
    """(H, T) MW at the main meter per MW in each hall."""
    coin: F8
    """(T,) USD an hour of one PH/s."""
    cap: F8
    """(R, T) what the units may take together; what no unit takes is already off."""
    most: F8
    """(T,) USD/MWh of exceeding the main meter's row: an obligation's price where its target stands there."""
    group_hall: I4
    path_from: I4
    path: I4
    """(G,) the hall of each place a unit can stand in; (G+1,) offsets; the rows of its feeders and of its hall."""
    bank_group: I4
    bank_mw: F8
    bank_phs: F8
    """(B, LEVELS)"""
    bank_idle: F8
    bank_start: F8
    bank_boot: F8
    """(B,) hours"""
    bank_up: I4
    bank_down: I4
    """(B,) intervals, 1 at least. Every bank is on and free at the beginning."""
    firm_group: I4
    firm_mw: F8
    firm_usd: F8
    """(F,) USD/MWh of serving over giving up."""
    job_group: I4
    job_row: I4
    job_nodes: F8
    """(J,) its place, its partition's row and what it takes of that."""
    job_first: I4
    job_last: I4
    """(J,) its window in intervals, the end excluded."""
    job_mw: F8
    job_rate: F8
    """(J, LEVELS) hours of work an hour, at most what there is to do."""
    job_usd: F8
    """(J,) of an hour of work: the penalty it averts in it, its part of one start out of it."""
    job_work: F8


class Prices(NamedTuple):
    """Where a descent stands."""

    row: F8
    """(R, T) USD/MWh"""
    work: F8
    """(J,) USD per hour of a job's work."""
    toll: F8
    """(G, T) what a MW of a place costs an hour, all in."""
    use: F8
    """(R, T) what is asked of each row."""
    way: F8
    """(R, T) and"""
    job_way: F8
    job_done: F8
    """(J,) hours of work at these prices."""


class Run(NamedTuple):
    """Working memory of one bank's program."""

    run: F8
    boot: F8
    """(T+1,) prefix sums of running, and of an interval that boots all of it."""
    part: F8
    """(T,) an interval that boots in part."""
    on: F8
    off: F8
    """(T+1,) the best from t on, over idling: on and free to stop, off and free to start."""


@entry
def first_prices(y: Year, p: Prices, usual: F8) -> None:
    """Prices to begin with: each interval on its own, every bank free to start, of jobs `usual` (G, T) MW."""
    groups = len(y.group_hall)
    weight = np.zeros((len(y.cap), groups))
    for g in range(groups):
        for k in range(y.path_from[g], y.path_from[g + 1]):
            weight[y.path[k], g] = 1.0
    asked = np.empty(groups)
    for t in range(len(y.price)):
        for g in range(groups):
            weight[0, g] = y.share[y.group_hall[g], t]
        for _ in range(2):
            for row in range(len(y.cap)):
                if np.sum(weight[row]) > 0.0:
                    _first_price(y, p, t, row, weight, usual, asked)
    for j in range(len(y.job_group)):
        _fit_work(y, p, j)


@kernel
def _first_price(y: Year, p: Prices, t: int, row: int, weight: F8, usual: F8, asked: F8) -> None:
    """The least price of one limit at which no more is asked of it than there is."""
    p.row[row, t] = 0.0
    if _asked(y, p, t, row, weight, usual, asked) <= y.cap[row, t]:
        return
    low, high = 0.0, min(y.most[t] if row == 0 else MOST_USD, MOST_USD)
    while high - low > CLOSE_USD:
        p.row[row, t] = low + (0.5 if high < 2_000.0 else 0.1) * (high - low)
        if _asked(y, p, t, row, weight, usual, asked) > y.cap[row, t]:
            low = p.row[row, t]
        else:
            high = p.row[row, t]


@kernel
def _asked(y: Year, p: Prices, t: int, row: int, weight: F8, usual: F8, asked: F8) -> float:
    """What a row is asked for at p.row[:, t], starts and boots left out."""
    for g in range(len(asked)):
        toll = y.price[t] * weight[0, g]
        for r in range(len(weight)):
            toll += p.row[r, t] * weight[r, g]
        asked[g] = usual[g, t]
        p.toll[g, t] = toll
    for b in range(len(y.bank_group)):
        g = y.bank_group[b]
        k = _level(y.coin[t], y.bank_phs[b], y.bank_mw[b], p.toll[g, t])
        mw, idle = y.bank_mw[b, k], y.bank_idle[b]
        asked[g] += mw if y.coin[t] * y.bank_phs[b, k] > p.toll[g, t] * (mw - idle) else idle
    for f in range(len(y.firm_group)):
        g = y.firm_group[f]
        asked[g] += y.firm_mw[f] if y.firm_usd[f] > p.toll[g, t] else 0.0
    total = 0.0
    for g in range(len(asked)):
        total += weight[row, g] * asked[g]
    return float(total)


@kernel
def _fit_work(y: Year, p: Prices, j: int) -> None:
    """A job's price of work where the bound is least at the tolls as they are: by bisection."""
    low, high = 0.0, y.job_usd[j]
    p.work[j] = 0.0
    for _ in range(BISECTIONS):
        _job(y, p, j, p.toll[y.job_group[j]], False)
        if p.job_done[j] > y.job_work[j]:
            low = p.work[j]
        else:
            high = p.work[j]
        if high <= 0.0:
            break
        p.work[j] = 0.5 * (low + high)


@entry
def descend(y: Year, p: Prices, iterations: int) -> float:
    """Lower the bound by `iterations` steps; returns the lowest met, whose prices stay in `p`."""
    guess, best = 1e-2, np.inf
    best_row, best_work = p.row.copy(), p.work.copy()
    r = _memory(len(y.price))
    for _ in range(iterations):
        value = _answer(y, p, r)
        if value < best - 1e-9:
            best = value
            best_row[:] = p.row
            best_work[:] = p.work
        else:
            guess = max(LEAST_GUESS, PATIENCE * guess)
        length = _turn(y, p)
        if length <= 1e-12:
            break
        _step(y, p, max(value - best + guess * (abs(best) + 1.0), 0.0) / length)
    p.row[:] = best_row
    p.work[:] = best_work
    return best


@entry
def answer(y: Year, p: Prices) -> float:
    """The bound at the prices in `p`, valid whatever they are; fills p.toll, p.use and p.job_done."""
    return _answer(y, p, _memory(len(y.price)))


@kernel
def _memory(steps: int) -> Run:
    return Run(np.empty(steps + 1), np.empty(steps + 1), np.empty(steps), np.empty(steps + 1), np.empty(steps + 1))


@kernel
def _answer(y: Year, p: Prices, r: Run) -> float:
    steps, groups = len(y.price), len(y.group_hall)
    _tolls(y, p)
    p.use[:] = 0.0
    asked = np.zeros((groups, steps))
    value = 0.0
    for b in range(len(y.bank_group)):
        g = y.bank_group[b]
        _bank_program(y, b, p.toll[g], r)
        value += _bank_path(y, b, p.toll[g], r, asked[g])
    for f in range(len(y.firm_group)):
        g, mw, usd = y.firm_group[f], y.firm_mw[f], y.firm_usd[f]
        for t in range(steps):
            net = usd - p.toll[g, t]
            if net > 0.0:
                asked[g, t] += mw
                value += y.hours * net * mw
    for j in range(len(y.job_group)):
        value += _job(y, p, j, asked[y.job_group[j]], True)
    for g in range(groups):
        hall = y.group_hall[g]
        for t in range(steps):
            p.use[0, t] += y.share[hall, t] * asked[g, t]
        for k in range(y.path_from[g], y.path_from[g + 1]):
            for t in range(steps):
                p.use[y.path[k], t] += asked[g, t]
    return float(value + y.hours * np.sum(p.row * y.cap))


@kernel
def _tolls(y: Year, p: Prices) -> None:
    for g in range(len(y.group_hall)):
        hall = y.group_hall[g]
        for t in range(len(y.price)):
            p.toll[g, t] = (y.price[t] + p.row[0, t]) * y.share[hall, t]
        for k in range(y.path_from[g], y.path_from[g + 1]):
            for t in range(len(y.price)):
                p.toll[g, t] += p.row[y.path[k], t]


@kernel
def _level(usd: float, worth: F8, mw: F8, toll: float) -> int:
    """The level whose worth times `usd`, less its power, is highest."""
    best = 0
    for k in range(1, LEVELS):
        if usd * worth[k] - toll * mw[k] > usd * worth[best] - toll * mw[best]:
            best = k
    return best


@kernel
def _bank_program(y: Year, b: int, toll: F8, r: Run) -> None:
    """Fill `r` from the last interval back. A bank may be stopped while it boots where its minimum up time allows."""
    steps, h = len(toll), y.hours
    mw, phs, idle = y.bank_mw[b], y.bank_phs[b], y.bank_idle[b]
    whole = int(np.floor(y.bank_boot[b] / h + 1e-9))
    rest = y.bank_boot[b] - whole * h
    boots = whole + (1 if rest > 1e-9 else 0)
    up, down = y.bank_up[b], y.bank_down[b]
    r.run[0] = 0.0
    r.boot[0] = 0.0
    for t in range(steps):
        q, coin = toll[t], y.coin[t]
        k = _level(coin, phs, mw, q)
        r.run[t + 1] = r.run[t] + h * (coin * phs[k] - q * (mw[k] - idle))
        least = mw[0] if q >= 0.0 else mw[LEVELS - 1]
        r.boot[t + 1] = r.boot[t] - h * q * (least - idle)
        part = coin * (1.0 - rest / h)
        k = _level(part, phs, mw, q)
        r.part[t] = h * (part * phs[k] - q * (mw[k] - idle))
    r.on[steps] = 0.0
    r.off[steps] = 0.0
    for t in range(steps - 1, -1, -1):
        free = min(t + max(up, boots), steps)
        flat, booted = min(t + whole, steps), min(t + boots, steps)
        start = r.boot[flat] - r.boot[t] + r.run[free] - r.run[booted] + r.on[free]
        if booted > flat:
            start += r.part[flat]
        for cut in range(up, boots):
            if t + cut < steps:
                start = max(start, r.boot[t + min(cut, whole)] - r.boot[t] + r.off[min(t + cut + down, steps)])
        r.off[t] = max(r.off[t + 1], start - y.bank_start[b])
        r.on[t] = max(r.run[t + 1] - r.run[t] + r.on[t + 1], r.off[min(t + down, steps)])


@kernel
def _bank_path(y: Year, b: int, toll: F8, r: Run, asked: F8) -> float:
    """Walk a best path, or where a boot would be cut short one as good for the descent: what it draws is added to
    `asked`. Returns the program's own value, idle power paid for."""
    steps, h = len(toll), y.hours
    mw, phs, idle = y.bank_mw[b], y.bank_phs[b], y.bank_idle[b]
    boots = int(np.ceil(y.bank_boot[b] / h - 1e-9))
    on, held, since = True, 0, 1 << 30
    paid = 0.0
    for t in range(steps):
        if t >= held and on and r.off[min(t + y.bank_down[b], steps)] > r.run[t + 1] - r.run[t] + r.on[t + 1]:
            on, held, since = False, t + y.bank_down[b], 0
        elif t >= held and not on and r.off[t] > r.off[t + 1]:
            on, held, since = True, t + max(y.bank_up[b], boots), 0
        q = toll[t]
        paid += h * q * idle
        power = idle
        if on:
            boot = min(max(y.bank_boot[b] - since * h, 0.0), h) / h
            power = mw[_level(y.coin[t] * (1.0 - boot), phs, mw, q)]
        asked[t] += power
        since += 1
    return float(r.on[0] - paid)


@kernel
def _job(y: Year, p: Prices, j: int, power: F8, asks: bool) -> float:
    """A job at its place's toll and the price of its work: fills p.job_done, returns its worth; with `asks`, adds
    what it takes to `power` and p.use. It may be stopped and started freely: one start is in its work's worth."""
    h, row, nodes = y.hours, y.job_row[j], y.job_nodes[j]
    mw, rate, worth = y.job_mw[j], y.job_rate[j], y.job_usd[j] - p.work[j]
    toll, node_usd = p.toll[y.job_group[j]], p.row[row]
    value, done = p.work[j] * y.job_work[j], 0.0
    for t in range(y.job_first[j], y.job_last[j]):
        k = _level(worth, rate, mw, toll[t])
        net = worth * rate[k] - toll[t] * mw[k] - nodes * node_usd[t]
        if net > 0.0:
            value += h * net
            done += h * rate[k]
            if asks:
                power[t] += mw[k]
                p.use[row, t] += nodes
    p.job_done[j] = done
    return float(value)


@kernel
def _turn(y: Year, p: Prices) -> float:
    """Set the deflected direction from what is asked for beyond the limits; returns its squared length."""
    length = 0.0
    for row in range(len(p.row)):
        for t in range(len(y.price)):
            way = p.use[row, t] - y.cap[row, t] + DEFLECT * p.way[row, t]
            p.way[row, t] = 0.0 if p.row[row, t] <= 0.0 and way < 0.0 else way
            length += y.hours * p.way[row, t] * p.way[row, t]
    for j in range(len(y.job_group)):
        way = p.job_done[j] - y.job_work[j] + DEFLECT * p.job_way[j]
        p.job_way[j] = 0.0 if p.work[j] <= 0.0 and way < 0.0 else way
        length += _metric(y, j) * p.job_way[j] * p.job_way[j]
    return length


@kernel
def _step(y: Year, p: Prices, length: float) -> None:
    """Move the prices along the direction, within 0 and what exceeding the limit costs."""
    for row in range(len(p.row)):
        for t in range(len(y.price)):
            if p.way[row, t] != 0.0:
                most = y.most[t] if row == 0 else MOST_USD
                p.row[row, t] = min(max(0.0, p.row[row, t] + length * p.way[row, t]), most)
    for j in range(len(y.job_group)):
        p.work[j] = min(max(0.0, p.work[j] + length * _metric(y, j) * p.job_way[j]), max(y.job_usd[j], 0.0))


@kernel
def _metric(y: Year, j: int) -> float:
    """How far a job's work price moves per hour of overwork: as a row of the job's own power would."""
    mw = y.job_mw[j, LEVELS - 1]
    return float(mw * mw / max(y.job_work[j], 0.25))
