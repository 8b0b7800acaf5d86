"""A second opinion where a plan is not proven good: what merit order's first minute would be worth, planned on from."""

from __future__ import annotations

from controller.engine.batch import from_nothing, problem
from controller.engine.economics import Dispatch
from controller.engine.optimiser import solver
from controller.engine.optimiser.layout import moves
from controller.engine.pose import GRID, Posed

ITERATIONS = 60
SWEEPS = 2


def worth_of(posed: Posed, chosen: Dispatch) -> float:
    """USD over the horizon of the best plan found that begins with the dispatch: what it runs runs, starts included,
    and what it has down is down for the first step."""
    p = problem([posed])
    u = p.units
    on, opened = u.on.copy(), u.open.copy()
    locked, booting = u.locked_h.copy(), u.booting_h.copy()
    starts_usd = 0.0
    for n, unit in enumerate(posed.units):
        outcome, bank = chosen.outcomes[unit.bank], posed.site.banks[unit.bank]
        runs = outcome.target_w > bank.plate.idle_w if unit.job is None else unit.job.id in outcome.jobs
        if not runs:
            opened[n, 0], locked[n] = 0, 0.0
        elif on[n]:
            locked[n] = max(locked[n], GRID.hours[0])
        else:
            on[n], booting[n] = 1, u.boot_h[n]
            locked[n] = max(u.min_up_h[n], u.boot_h[n], GRID.hours[0])
            starts_usd += float(u.start_usd[n])
    forced = u._replace(on=on, open=opened, locked_h=locked, booting_h=booting)
    p = p._replace(units=forced, moves=moves(GRID, forced))
    made = solver.plan(p, from_nothing(p), iterations=ITERATIONS, sweeps=SWEEPS, enough=0.0)
    return float(made.profit_usd[0]) - starts_usd
