"""Many sites under one cap: a price of the fleet's megawatts, issued to the sites as quotas.

The fleet's price descends together with every site's own prices, so it costs no more than planning the sites alone.
What the sites would use at it becomes their quota, what is left over goes to those it still binds, and each site then
plans on its own within its quota at the bare energy price: no site needs to know another.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from controller.engine.optimiser.dual import DEFLECT, PATIENCE, Descent, descent, price_out, step_along, turn_to
from controller.engine.optimiser.jit import entry
from controller.engine.optimiser.layout import F8, Duals, Problem
from controller.engine.optimiser.primal import Before
from controller.engine.optimiser.solver import Plan, _tiny, carried, cold, plan, spread
from controller.engine.optimiser.unit import scratch

COLD_ITERATIONS: Final = 100
"""Iterations of the sites alone before the first one together, where there are no prices to begin with."""

FIRST_GUESS: Final = 0.02

FLEET_ENOUGH: Final = 3e-3
"""Quotas whose plan is this near to the fleet's bound, as a share of it, stand."""


class FleetPlan(NamedTuple):
    """A plan whose sites together keep the fleet's cap."""

    plan: Plan
    """`bound_usd` in it is each site's alone, within its quota."""
    bound_usd: float
    """No plan of the fleet under its cap earns more."""
    price: F8
    """(T,) USD/MWh of the fleet's megawatts; begin with it the next minute, shifted."""
    quota_mw: F8
    """(S, T)"""
    duals: Duals
    """The sites' prices beside the fleet's; begin with them the next minute."""


def plan_fleet(
    p: Problem,
    cap_mw: F8,
    duals: Duals | None = None,
    price: F8 | None = None,
    before: Before | None = None,
    quota_mw: F8 | None = None,
    *,
    iterations: int = 40,
    sweeps: int = 2,
    rounds: int = 2,
    enough: float = 1e-3,
    threads: int = 1,
) -> FleetPlan:
    """Plan all sites under `cap_mw` (T,) of the sum of their main meters.

    The first row of every site must be its main meter. `duals` are improved in place; `price`, `before` and `quota_mw`
    (S, T) are the last minute's, carried on. The last quotas stand, but for what is left over or too much, while the
    plan within them is nearer than `FLEET_ENOUGH` to the fleet's bound; else the sites are asked anew at the price of
    the fleet's megawatts, and the better plan is taken.
    """
    if duals is None:
        duals = cold(p)
        plan(p, duals, iterations=COLD_ITERATIONS, sweeps=-1, threads=threads)
    toll = price.copy() if price is not None else np.zeros(len(cap_mw))
    bound = _descend_together(p, cap_mw, duals, toll, iterations, threads)
    meter = p.sites.row_from[:-1]
    most = p.rows.cap[meter]
    inner = _copy(duals)
    inner.row[meter] += toll

    def within(quota: F8, kept: Before) -> FleetPlan:
        caps = p.rows.cap.copy()
        caps[meter] = quota
        limited = p._replace(rows=p.rows._replace(cap=caps))
        made = plan(limited, _copy(inner), kept, iterations=1, sweeps=sweeps, enough=enough, threads=threads)
        return FleetPlan(made, bound, toll, quota, duals)

    standing = None
    if quota_mw is not None and before is not None:
        standing = within(share_out(np.minimum(quota_mw, most), most, cap_mw), before)
        if bound - _profit(standing) <= FLEET_ENOUGH * abs(bound):
            return standing
    priced = p._replace(sites=p.sites._replace(price=p.sites.price + toll))
    asked = plan(priced, _copy(duals), before, iterations=1, sweeps=sweeps, enough=enough, threads=threads)
    found = FleetPlan(asked, bound, toll, meter_mw(p, asked.power_mw), duals)
    for _ in range(max(1, rounds)):
        shares = share_out(meter_mw(p, found.plan.power_mw), most, cap_mw)
        found = within(shares, carried(found.plan, p.grid, 0.0))
    return standing if standing is not None and _profit(standing) > _profit(found) else found


def _profit(found: FleetPlan) -> float:
    return float(found.plan.profit_usd.sum())


def warm_up() -> None:
    """Compile what a fleet's plan needs beyond the sites' own, or load it from the cache."""
    p = _tiny()
    plan_fleet(p, np.full(len(p.grid.hours), 1.5), iterations=2, sweeps=1, rounds=1)


def meter_mw(p: Problem, power_mw: F8) -> F8:
    """(S, T) each site's units at its main meter."""
    starts = p.sites.unit_from[:-1]
    return np.add.reduceat(power_mw * p.units.meter_share[:, None], starts, axis=0)


def share_out(used_mw: F8, most_mw: F8, cap_mw: F8) -> F8:
    """(S, T) quotas that sum to the cap: what each uses, and of the rest (or of the excess) a part in proportion."""
    left = cap_mw - used_mw.sum(axis=0)
    room = np.maximum(most_mw - used_mw, 0.0) + 1e-9
    more = used_mw + np.maximum(left, 0.0) * room / room.sum(axis=0)
    scale = 1.0 + np.minimum(left, 0.0) / np.maximum(used_mw.sum(axis=0), 1e-9)
    return np.ascontiguousarray(np.minimum(np.where(left >= 0.0, more, used_mw * scale), most_mw))


def _descend_together(p: Problem, cap_mw: F8, duals: Duals, toll: F8, iterations: int, threads: int) -> float:
    """Take the sites' prices and the fleet's down together, in place; returns the best bound met, whose prices stay.

    One Polyak step for all of them. The fleet's overuse is a sum over sites, so its price moves by the mean.
    """
    d = descent(p)
    sites, hours, meter = len(p.sites.price), p.grid.hours, p.sites.row_from[:-1]
    best, best_duals, best_toll = np.inf, _copy(duals), toll.copy()
    way, lengths, step, guess = np.zeros(len(cap_mw)), np.zeros(sites), 0.0, FIRST_GUESS
    for _ in range(iterations):
        priced = p._replace(sites=p.sites._replace(price=p.sites.price + toll))

        def block(low: int, high: int, at: Problem = priced, by: float = step) -> None:
            _joint_block(at, low, high, duals, d, by, lengths)

        spread(block, sites, threads)
        value = float(d.value.sum() + (hours * toll) @ cap_mw)
        if value < best:
            best, best_duals, best_toll = value, _copy(duals), toll.copy()
        else:
            guess = max(PATIENCE * guess, 1e-5)
        way = d.use[meter].sum(axis=0) - cap_mw + DEFLECT * way
        way[(toll <= 0.0) & (way < 0.0)] = 0.0
        length = float(lengths.sum() + hours @ (way * way) / sites)
        if length <= 1e-12:
            break
        step = max(value - best + guess * abs(best), 0.0) / length
        toll[:] = np.maximum(0.0, toll + step / sites * way)
    duals.row[:], duals.job[:], toll[:] = best_duals.row, best_duals.job, best_toll
    return best


def _copy(duals: Duals) -> Duals:
    return Duals(duals.row.copy(), duals.job.copy(), duals.guess.copy())


@entry
def _joint_block(p: Problem, low: int, high: int, duals: Duals, d: Descent, step: float, lengths: F8) -> None:
    """Take the step due since the last iteration, answer the prices, and turn to the next direction."""
    steps = len(p.grid.hours)
    s, path, state = scratch(steps), np.empty(steps), np.empty(steps, np.uint8)
    for site in range(low, high):
        step_along(p, site, duals, d, step)
        price_out(p, site, duals, d, s, path, state)
        lengths[site] = turn_to(p, site, duals, d)
