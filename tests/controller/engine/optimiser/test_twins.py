"""The kernels against plain Python that does the same by other means."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from bench.problems import hard_problem
from bench.referee import judge
from controller.engine.optimiser.layout import BOOT, LEVELS, NO_LIMIT_MW, OFF, RUN, Duals, Problem
from controller.engine.optimiser.solver import cold, plan

SHORT = (5, 10, 5, 15, 20, 30, 15, 60)


def _alone(p: Problem, unit: int) -> Problem:
    """The problem with every other unit closed, unlocked and no row in the way."""
    opened = np.zeros_like(p.units.open)
    opened[unit] = p.units.open[unit]
    others = np.arange(len(opened)) != unit
    units = p.units._replace(
        open=opened, on=np.where(others, 0, p.units.on).astype(np.uint8), miss_usd=np.where(others, 0, p.units.miss_usd)
    )
    moves = p.moves._replace(
        locked=np.where(others, 0, p.moves.locked).astype(np.int32),
        booted=np.where(others, 0, p.moves.booted).astype(np.int32),
    )
    rows = p.rows._replace(cap=np.full_like(p.rows.cap, NO_LIMIT_MW))
    return p._replace(units=units, moves=moves, rows=rows, sites=p.sites._replace(award=np.zeros(1, np.uint8)))


def _best_by_trial(p: Problem, unit: int) -> float:
    """The most any pattern of phases earns: all are tried, and the checker throws out those that break a rule."""
    u, hours, price = p.units, p.grid.hours, p.sites.price[0]
    best = -np.inf
    power = np.repeat(u.idle_mw[:, None], len(hours), axis=1)
    phase = np.zeros(power.shape, np.uint8)
    for pattern in product(
        (OFF, BOOT, RUN) if u.boot_h[unit] + u.booting_h[unit] > 0 else (OFF, RUN), repeat=len(hours)
    ):
        phase[unit] = pattern
        for t, state in enumerate(pattern):
            net = u.level_usd_h[unit] - price[t] * u.meter_share[unit] * u.level_mw[unit]
            hard = u.level_mw[unit, int(np.argmax(net))]
            power[unit, t] = (u.idle_mw[unit], u.level_mw[unit, 0], hard)[state]
        verdict = judge(p, power, phase)
        if not verdict.faults:
            best = max(best, verdict.profit_usd)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_one_unit_is_planned_exactly(seed: int) -> None:
    """A bank on its own earns what the best of all possible paths earns, and the bound says so."""
    whole = hard_problem(seed, banks=1, jobs=0, minutes=SHORT[: 7 if seed % 2 else 8])
    p = _alone(whole, 0)
    made = plan(p, iterations=1, sweeps=1)
    assert made.profit_usd[0] == pytest.approx(_best_by_trial(p, 0), abs=1e-6)
    assert made.bound_usd[0] == pytest.approx(made.profit_usd[0], abs=1e-6)


def _program(p: Problem, n: int, price: list[float], on_price: list[float], work_usd: float) -> float:
    """The unit's best value at the prices by recursion over (step, state, dwell, boot): no prefix sums, no jumps."""
    u, hours, edge = p.units, p.grid.hours, p.grid.edge_h
    steps = len(hours)
    worth = [
        max(u.level_usd_h[n, k] + u.level_rate[n, k] * work_usd - price[t] * u.level_mw[n, k] for k in range(LEVELS))
        for t in range(steps)
    ]

    def first_at(when: float) -> int:
        return next((k for k in range(steps) if edge[k] >= when - 1e-9), steps)

    @cache
    def best(t: int, on: bool, held: int, booted: int) -> float:
        if t == steps:
            return 0.0
        values = []
        for turn in (on, not on):
            if turn != on and t < held:
                continue
            now_held, now_booted, value = held, booted, 0.0
            if turn != on:
                now_booted = first_at(edge[t] + u.boot_h[n]) if turn else 0
                now_held = max(first_at(edge[t] + (u.min_up_h[n] if turn else u.min_down_h[n])), now_booted)
                value -= u.start_usd[n] if turn else 0.0
            if turn and not u.open[n, t]:
                continue
            if not turn:
                value -= hours[t] * price[t] * u.idle_mw[n]
            else:
                boots = t < now_booted
                value += hours[t] * ((-price[t] * u.level_mw[n, 0] if boots else worth[t]) - on_price[t])
            values.append(value + best(t + 1, turn, now_held, now_booted))
        return max(values, default=-np.inf)

    return float(best(0, bool(u.on[n]), int(p.moves.locked[n]), int(p.moves.booted[n])))


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_is_the_lagrangian_at_its_prices(seed: int) -> None:
    """At random prices the dual function equals the one added up from recursions and priced capacity."""
    p = hard_problem(seed, banks=4, jobs=3)
    rng = np.random.default_rng(seed)
    duals = cold(p)
    duals.row[:] = rng.uniform(0, 40, duals.row.shape) * (p.rows.cap < NO_LIMIT_MW)
    duals.job[:] = rng.uniform(0, 1, len(duals.job)) * p.units.work_usd
    at = Duals(duals.row.copy(), duals.job.copy(), duals.guess.copy())
    bound = plan(p, duals, iterations=1, sweeps=0).bound_usd[0]
    u = p.units
    value = float((p.grid.hours * at.row * p.rows.cap).sum())
    for n in range(len(u.idle_mw)):
        price, on_price = p.sites.price[0] * u.meter_share[n], np.zeros(len(p.grid.hours))
        for k in range(u.row_from[n], u.row_from[n + 1]):
            price = price + u.weight[k] * at.row[u.rows[k]]
            on_price = on_price + u.on_weight[k] * at.row[u.rows[k]]
        batch = bool(np.isfinite(u.work_h[n]))
        value += _program(p, n, list(price), list(on_price), float(u.work_usd[n] - at.job[n]) if batch else 0.0)
        value += float(at.job[n] * u.work_h[n] - u.miss_usd[n]) if batch else 0.0
    assert bound == pytest.approx(value, rel=1e-9, abs=1e-6)
