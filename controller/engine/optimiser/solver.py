"""The solver's face: a plan, a dispatch, and what carries over to the next minute. Pure and deterministic.

Anytime: more `iterations` tighten the bound, more `sweeps` and `shakes` better the plan, and after any number of each
the plan fits its limits (or says by how much not) and the bound holds. Sites are independent and their order does not
matter; `threads` only spreads them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np

from controller.engine.optimiser.dual import Descent, descend, descent
from controller.engine.optimiser.jit import entry
from controller.engine.optimiser.layout import (
    F8,
    I4,
    LEVELS,
    OFF,
    RUN,
    U1,
    Duals,
    Grid,
    Problem,
    Rows,
    Sites,
    Units,
    check,
    grid,
    moves,
    no_duals,
)
from controller.engine.optimiser.placing import Before
from controller.engine.optimiser.primal import plan_site
from controller.engine.optimiser.unit import scratch

ENOUGH: Final = 1e-4
"""A plan this near to its bound, as a share of it, is left as it is."""

BLOCK: Final = 32
"""Sites a thread takes at a time."""


class Plan(NamedTuple):
    """A feasible plan and what is proven about it."""

    power_mw: F8
    """(N, T)"""
    phase: U1
    """(N, T) OFF, BOOT or RUN."""
    profit_usd: F8
    """(S,) over the horizon; what a limit is exceeded by is charged at its penalty."""
    bound_usd: F8
    """(S,) no plan of this problem earns more."""
    duals: Duals


class Dispatch(NamedTuple):
    """What every unit does in the first step."""

    power_mw: F8
    """(N,)"""
    phase: U1
    """(N,)"""
    duals: Duals


def plan(
    p: Problem,
    duals: Duals | None = None,
    before: Before | None = None,
    *,
    iterations: int = 200,
    sweeps: int = 4,
    shakes: int = 0,
    refine: int = 0,
    enough: float | F8 = ENOUGH,
    threads: int = 1,
) -> Plan:
    """Plan every site over the whole horizon.

    `duals` (from the last minute's plan, see `shift`) are improved in place; None begins cold, and needs some two
    hundred iterations where a warm start needs three. `before` (see `carried`) is the last plan: what still fits of
    it is kept unless something else earns more, so a plan changes for a reason only. Where the first plan is not within
    `enough` of its bound (a share, one for all sites or one a site), up to `refine` more iterations lower the bound,
    then `sweeps` and `shakes` better the plan.
    """
    last = before if before is not None else _none_before()
    duals = duals if duals is not None else cold(p)
    power, phase, profit, bound = _solve(p, duals, last, (iterations, refine, sweeps, shakes), enough, threads)
    return Plan(power, phase, profit, bound, duals)


def dispatch(
    p: Problem, duals: Duals, before: Before | None = None, *, iterations: int = 3, threads: int = 1
) -> Dispatch:
    """The first step alone, by merit order among the units whose profit now and cost-to-go want them on.

    For a deadline too short for `plan`. `duals` are improved in place.
    """
    last = before if before is not None else _none_before()
    power, phase, _, _ = _solve(p, duals, last, (iterations, 0, -1, 0), 0.0, threads)
    return Dispatch(np.ascontiguousarray(power[:, 0]), np.ascontiguousarray(phase[:, 0]), duals)


def excess_mw(p: Problem, power_mw: F8, phase: U1) -> F8:
    """(R, T) what a plan exceeds each row by; 0 where the row holds. The shortfall that is to be stated."""
    owner = np.repeat(np.arange(len(p.units.idle_mw)), np.diff(p.units.row_from))
    use = np.zeros(p.rows.cap.shape)
    taken = p.units.weight[:, None] * power_mw[owner] + p.units.on_weight[:, None] * (phase[owner] != OFF)
    np.add.at(use, p.units.rows, taken)
    return np.maximum(use - p.rows.cap, 0.0)


def undone_h(p: Problem, power_mw: F8, phase: U1) -> F8:
    """(N,) hours of work each batch job is left with at the end of the plan; 0 for all else."""
    u = p.units
    left = np.zeros(len(u.work_h))
    for n in np.flatnonzero(np.isfinite(u.work_h)):
        rate = np.interp(power_mw[n], u.level_mw[n], u.level_rate[n])
        left[n] = max(0.0, u.work_h[n] - float(p.grid.hours @ (rate * (phase[n] == RUN))))
    return left


def _solve(
    p: Problem, duals: Duals, last: Before, effort: tuple[int, int, int, int], enough: float | F8, threads: int
) -> tuple[F8, U1, F8, F8]:
    d = descent(p)
    units, steps = p.units.open.shape
    power, phase = np.empty((units, steps)), np.empty((units, steps), np.uint8)
    profit = np.empty(len(p.sites.price))
    no_price = np.zeros(p.rows.cap.shape)
    near = np.full(len(profit), enough) if isinstance(enough, float) else enough
    iterations, refine, sweeps, shakes = effort

    def block(low: int, high: int) -> None:
        _block(p, low, high, duals, last, d, no_price, iterations, refine, sweeps, shakes, near, power, phase, profit)

    spread(block, len(profit), threads)
    return power, phase, profit, d.bound


def cold(p: Problem) -> Duals:
    """The prices to begin with where there was no last minute."""
    return no_duals(len(p.rows.penalty), len(p.units.idle_mw), len(p.sites.price), len(p.grid.hours))


def shift(duals: Duals, g: Grid, minutes: float) -> Duals:
    """The prices as they stand `minutes` later: each step takes the price that held at its middle."""
    source = _step_at(g, minutes)
    return Duals(np.ascontiguousarray(duals.row[:, source]), duals.job.copy(), np.maximum(duals.guess, 1e-3))


def carried(last: Plan, g: Grid, minutes: float) -> Before:
    """The last plan as `before` for one made `minutes` later of the same units."""
    return Before(_step_at(g, minutes), last.power_mw, last.phase)


def _step_at(g: Grid, minutes: float) -> I4:
    """(T,) the step in which each step's middle falls, counted from `minutes` ago."""
    middle = 0.5 * (g.edge_h[:-1] + g.edge_h[1:]) + minutes / 60.0
    return (np.searchsorted(g.edge_h, middle, side="right").clip(1, len(g.hours)) - 1).astype(np.int32)


def _none_before() -> Before:
    return Before(np.empty(0, np.int32), np.empty((0, 0)), np.empty((0, 0), np.uint8))


def spread(block: Callable[[int, int], None], sites: int, threads: int) -> None:
    """Call block(low, high) over ranges that cover all sites, on up to `threads` threads."""
    if threads <= 1 or sites <= BLOCK:
        block(0, sites)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(block, low, min(low + BLOCK, sites)) for low in range(0, sites, BLOCK)]:
            done.result()


def warm_up() -> None:
    """Compile every kernel, or load it from the cache: tens of seconds once, about a second after that."""
    p = _tiny()
    check(p)
    first = plan(p, iterations=2, sweeps=2, shakes=2, enough=0.0)
    dispatch(p, shift(first.duals, p.grid, 1.0), carried(first, p.grid, 1.0))


@entry
def _block(
    p: Problem, low: int, high: int, duals: Duals, last: Before, d: Descent, no_price: F8, iterations: int, refine: int,
    sweeps: int, shakes: int, near: F8, power: F8, phase: U1, profit: F8,
) -> None:  # fmt: skip
    steps = len(p.grid.hours)
    s, path, state = scratch(steps), np.empty(steps), np.empty(steps, np.uint8)
    for site in range(low, high):
        descend(p, site, duals, d, iterations, s, path, state)
        profit[site] = plan_site(p, site, duals, d, last, no_price, refine, sweeps, shakes, near[site], power, phase)


def _tiny() -> Problem:
    """One site with a bank and a job: the least that meets every kernel."""
    g = grid((1, 1, 5, 60))
    each = np.ones(2)
    u = Units(
        level_mw=np.array([[0.6, 0.8, 0.9, 1.0]] * 2),
        level_usd_h=np.array([[40.0, 50.0, 54.0, 56.0], [0.0] * LEVELS]),
        level_rate=np.array([[0.0] * LEVELS, [0.7, 0.85, 0.95, 1.0]]),
        idle_mw=0.01 * each,
        meter_share=1.1 * each,
        start_usd=3.0 * each,
        boot_h=np.array([0.02, 0.0]),
        min_up_h=0.1 * each,
        min_down_h=0.1 * each,
        work_h=np.array([np.inf, 0.5]),
        work_usd=np.array([0.0, 90.0]),
        miss_usd=np.array([0.0, 10.0]),
        on=np.array([1, 0], np.uint8),
        locked_h=np.zeros(2),
        booting_h=np.zeros(2),
        open=np.ones((2, 4), np.uint8),
        row_from=np.array([0, 1, 2], np.int32),
        rows=np.zeros(2, np.int32),
        weight=1.1 * each,
        on_weight=np.zeros(2),
    )
    sites = Sites(np.array([0, 2], np.int32), np.array([0, 1], np.int32), np.full((1, 4), 30.0), np.zeros(1, np.uint8))
    return Problem(g, sites, u, Rows(np.full((1, 4), 1.7), np.array([2e4])), moves(g, u))
