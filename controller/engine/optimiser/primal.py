"""The primal side: a plan that fits. Which units run is decided by programs, how hard they run by merit order.

First every unit is placed (`placing`), then sweeps better the plan one unit at a time (`sweep`), then nudges leave what
no single unit can better (`shake`), and sets of units are taken out and placed anew (`renew`).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.engine.optimiser.dual import Descent, close_in
from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import F8, OFF, U1, Duals, Problem
from controller.engine.optimiser.merit import Merit, fill, found, lay, merit_order
from controller.engine.optimiser.placing import Before, Desk, begin, desk
from controller.engine.optimiser.renew import renew
from controller.engine.optimiser.shake import shake
from controller.engine.optimiser.sweep import NO_NUDGE, asked, level, sweep
from controller.engine.optimiser.worth import worth

__all__ = ["Before", "plan_site"]

JOBS_FROM: Final = 3.0
"""In a plan carried on, jobs are re-planned only where the gap is this many times what is enough: they cost most."""

NUDGED: Final = 3
"""One try in so many is a nudge, the rest take a set of units out."""


@kernel
def plan_site(
    p: Problem, site: int, duals: Duals, d: Descent, before: Before, no_price: F8, refine: int, sweeps: int,
    shakes: int, enough: float, power: F8, phase: U1,
) -> float:  # fmt: skip
    """Fill power[n, t] and phase[n, t] of one site's units; returns the plan's profit, USD. `no_price` (R, T) is zeros.

    Stops where the plan is within `enough`, a share, of the bound in `d`, which `refine` more iterations may lower.
    These, `sweeps` and `shakes` are the most of each; with fewer sweeps than none only the first step's powers are
    filled, jobs carried on stay as they are, and the profit is not known.
    """
    k = desk(p, site, no_price)
    begin(p, site, duals, before, k, sweeps >= 0, power, phase)
    m = merit_order(p, site)
    if sweeps < 0:
        found(p, site, m, power, phase)
        fill(m, 0, -1, OFF, 0.0, 0.0)
        power[p.sites.unit_from[site] : p.sites.unit_from[site + 1], 0] = m.power
        return np.nan
    lay(p, site, m, power, phase)
    level(p, site, m, power)
    profit = worth(p, site, k, power, phase)
    bound = close_in(p, site, duals, d, profit, enough, refine, k.s, k.power, k.phase)
    if sweeps > 0:
        jobs_from = 1.0 if len(before.step) == 0 else JOBS_FROM
        profit = settle(p, site, m, k, sweeps, jobs_from, bound, enough, profit, power, phase)
        k.deep[0] = 1
        nudges = shakes // NUDGED
        profit = shake(p, site, m, k, nudges, bound, enough, profit, power, phase)
        profit = renew(p, site, m, k, shakes - nudges, bound, enough, profit, power, phase)
    return profit


@kernel
def settle(
    p: Problem, site: int, m: Merit, k: Desk, sweeps: int, jobs_from: float, bound: float, enough: float,
    profit: float, power: F8, phase: U1,
) -> float:  # fmt: skip
    """Sweep until nothing changes, banks alone and all in turn; returns the profit. `m` must stand as the plan does."""
    ask = asked(p, site, phase)
    for turn in range(sweeps):
        jobs = turn % 2 == 1
        if bound - profit <= (jobs_from if jobs else 1.0) * enough * abs(bound):
            break
        if not sweep(p, site, m, ask, k, jobs, NO_NUDGE, power, phase) and jobs:
            break
        level(p, site, m, power)
        profit = worth(p, site, k, power, phase)
    return profit
