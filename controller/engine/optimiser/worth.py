"""What a plan is worth: its profit, step by step, excess charged."""

from __future__ import annotations

import numpy as np

from controller.engine.optimiser.jit import kernel
from controller.engine.optimiser.layout import F8, OFF, RUN, U1, Problem
from controller.engine.optimiser.placing import Desk, load_with
from controller.engine.optimiser.unit import along


@kernel
def worth(p: Problem, site: int, k: Desk, power: F8, phase: U1) -> float:
    """Profit of a site's plan, USD, what it exceeds a row by charged at the row's penalty."""
    u = p.units
    row0 = p.sites.row_from[site]
    value = 0.0
    k.load[:] = 0.0
    for unit in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        load_with(p, site, unit, power[unit], phase[unit], k.load, 1.0)
        done = 0.0
        was_on = u.on[unit] == 1
        mws, usds, rates = u.level_mw[unit], u.level_usd_h[unit], u.level_rate[unit]
        for t in range(len(p.grid.hours)):
            hours, mw = p.grid.hours[t], power[unit, t]
            value -= hours * p.sites.price[site, t] * u.meter_share[unit] * mw
            if phase[unit, t] != OFF and not was_on:
                value -= u.start_usd[unit]
            was_on = phase[unit, t] != OFF
            if phase[unit, t] == RUN:
                value += hours * along(mws, usds, mw)
                done += hours * along(mws, rates, mw)
        if u.work_h[unit] < np.inf:
            value += u.work_usd[unit] * min(done, u.work_h[unit]) - u.miss_usd[unit]
    for r in range(k.load.shape[0]):
        for t in range(len(p.grid.hours)):
            over = k.load[r, t] - p.rows.cap[row0 + r, t]
            if over > 0.0:
                value -= p.grid.hours[t] * p.rows.penalty[row0 + r] * over
    return value
