"""The perfect-foresight bound exceeds every policy and the optimum of HiGHS; its plan keeps the rules of the plant."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from bench.referee import optimum
from controller.engine.optimiser.layout import Grid, Problem
from sim.backtest.bound import bound_usd, foresee
from sim.backtest.model import Energy, Obligation, Site, Timeline
from sim.backtest.physics import HOURS_PER_DAY
from sim.backtest.plant import Plant
from sim.backtest.problem import Model
from sim.backtest.thresholds import AlwaysOnPolicy, BreakEvenPolicy
from tests.sim.backtest.worlds import HOUR_MS, START_MS, STEP_MS, bank, job, run, site, timeline, wild_timeline

STEPS = 24


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_above_what_highs_finds_best(seed: int) -> None:
    """One problem of a few banks and jobs, stated twice: to HiGHS over whole intervals and to the bound."""
    where, when = _small(seed)
    best = optimum(_as_problem(where, when), limit_s=20.0, gap=1e-4)
    fixed = _fixed_usd(where, when)
    assert bound_usd(where, when) >= best.profit_usd + fixed - 1e-6 * abs(best.profit_usd)
    assert bound_usd(where, when) <= best.bound_usd + fixed + 0.05 * abs(best.profit_usd) + 100.0


@pytest.mark.parametrize("seed", range(6))
def test_no_policy_earns_more_than_the_bound(seed: int) -> None:
    """On wild prices, weather, obligations and jobs; whatever the number of iterations."""
    when = wild_timeline(seed, 200)
    where = site(energy=Energy(5.0, 3.0, 40.0, 60_000.0 * (seed % 2), (6,)))
    most = max(run(policy, where, when)[0].profit_usd for policy in (AlwaysOnPolicy(), BreakEvenPolicy()))
    assert bound_usd(where, when, 0) >= most
    assert bound_usd(where, when, 200) >= most


def test_the_bound_of_a_lone_bank_is_its_best_plan() -> None:
    """Without couplings nothing is relaxed: a bank that runs at a known price earns the bound to the cent."""
    where = replace(site(), banks=(bank("one", 20.0, boot_h=0.0),), partitions=(), firm_loads=())
    when = timeline([30.0] * 48)
    books, _, _ = run(BreakEvenPolicy(), where, when)
    assert bound_usd(where, when) == pytest.approx(books.profit_usd, rel=1e-9)


def test_the_plan_is_the_plants_own_and_below_the_bound() -> None:
    """Gap and trace come from a run of the plant."""
    rng = Random(5)
    price = [rng.choice((30.0, 45.0, 300.0)) for _ in range(96)]
    when = timeline(price, jobs=tuple(job(f"j{k}", 4 * k, window=20) for k in range(12)))
    told = foresee(site(), when)
    assert told.trace is not None
    profit = float(told.trace.profit_usd.sum())
    assert 0.0 <= told.gap < 0.03
    assert told.gap == pytest.approx((told.bound_usd - profit) / abs(told.bound_usd))


def test_obligations_are_priced_as_the_plant_prices_them() -> None:
    """A target below what cannot be shed costs the same in the bound as in the books."""
    where = replace(site(), banks=(), firm_loads=())
    due = Obligation("o", START_MS, START_MS + 4 * STEP_MS, START_MS + 8 * STEP_MS, 0.1)
    when = timeline([40.0] * 16, obligations=(due,))
    plant = Plant(where, when)
    books, _, _ = run(AlwaysOnPolicy(), where, when)
    assert plant.state.open_jobs == []
    assert bound_usd(where, when) >= books.profit_usd - 1e-6


def test_nothing_to_run_is_no_error() -> None:
    """Zero banks, no jobs, no firm load."""
    where = replace(site(), banks=(), firm_loads=(), partitions=())
    when = timeline([40.0] * 8)
    assert bound_usd(where, when) == pytest.approx(-0.2 * 45.0 * 2.0)


def _small(seed: int) -> tuple[Site, Timeline]:
    """Constant PUE and no boot, so that the optimiser's problem says exactly what the plant does."""
    rng = Random(seed)
    whole = site()
    halls = tuple(replace(hall, pue_points=((20.0, hall.pue_points[0][1]),)) for hall in whole.halls)
    banks = tuple(bank(f"b{k}", rng.uniform(16, 34), boot_h=0.0) for k in range(3))
    where = replace(whole, halls=halls, banks=banks, cap_mw=rng.uniform(9, 15))
    price = [rng.choice((rng.uniform(-20, 60), rng.uniform(40, 90), rng.uniform(60, 900))) for _ in range(STEPS)]
    jobs = [job(f"j{k}", 0, nodes=rng.randrange(3, 12), work_h=rng.uniform(0.5, 4), window=20) for k in range(3)]
    return where, timeline(price, jobs=tuple(jobs))


def _as_problem(where: Site, when: Timeline) -> Problem:
    model = Model(where, when)
    hours = np.full(STEPS, model.interval_h)
    model.grid = Grid(hours, np.concatenate([[0.0], np.cumsum(hours)]))
    pue, cool = model.share_and_cooling(None, 20.0)
    plant = Plant(where, when)
    price = (when.price + where.energy.adder_usd_per_mwh)[None, :]
    jobs = list(plant.state.open_jobs)
    return model.problem(price, pue, cool, 70.0, (), where.cap_mw, START_MS, plant.state, jobs)


def _fixed_usd(where: Site, when: Timeline) -> float:
    """What the problem leaves out: base load, idle nodes, the firm load's penalty when it is served in full."""
    hours = STEP_MS / HOUR_MS
    node = sum(p.nodes * p.node_idle_mw * where.halls[p.hall].pue_points[0][1] for p in where.partitions)
    energy = float((when.price + where.energy.adder_usd_per_mwh).sum()) * hours
    shed = sum(f.mw * f.shed_usd_per_mwh for f in where.firm_loads) * hours * STEPS
    assert HOURS_PER_DAY == 24.0
    return -energy * (where.base_load_mw + node) - shed
