"""The backtest's problem for the optimiser: fits together, says what the plant says, and refuses nothing lawful."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.engine.optimiser.layout import NO_LIMIT_MW, Problem, check
from controller.forecast.known import Outlook
from sim.backtest.model import Obligation, Site, Timeline
from sim.backtest.plant import Plant
from sim.backtest.problem import Model, planning_grid, shifted
from tests.sim.backtest.worlds import START_MS, STEP_MS, job, site, timeline


@pytest.mark.parametrize("minutes", [5, 10, 15, 20, 30, 60])
def test_the_grid_covers_three_days_and_meets_whole_hours(minutes: int) -> None:
    """Fine where it is near; a day from now is an edge whatever the interval."""
    g = planning_grid(minutes / 60.0)
    assert g.edge_h[-1] == pytest.approx(72.0)
    assert g.hours[0] == pytest.approx(minutes / 60.0)
    assert np.isclose(g.edge_h, 24.0).any()
    assert len(g.hours) < 60


def test_the_problem_is_one_the_optimiser_takes() -> None:
    """Shapes, units and penalties pass the optimiser's own check, one path or three."""
    when = timeline([40.0] * 12, jobs=(job("a", 0), job("b", 0, firm=True)))
    for paths in (1, 3):
        p = _problem(site(), when, paths=paths)
        check(p)
        assert len(p.sites.price) == paths
        assert len(p.units.idle_mw) == paths * 5


def test_limits_are_the_sites_less_what_no_unit_draws() -> None:
    """Idle nodes and base load are off the cap, the feeders and the hall."""
    model, p = Model(site(), timeline([40.0] * 4)), _problem(site(), timeline([40.0] * 4))
    idle = 20 * 0.02
    assert p.rows.cap[0, 0] == pytest.approx(15.0 - 0.2 - idle * 1.2)
    assert p.rows.cap[model.row_feeder + 2, 0] == pytest.approx(5.0 - idle)
    assert p.rows.cap[model.row_feeder + 1, 0] == pytest.approx(11.0)
    assert p.rows.cap[model.row_hall + 1, 0] == pytest.approx(4.0 - idle)


def test_an_obligation_binds_inside_its_window_alone() -> None:
    """Known from when it is told, at the main meter."""
    due = Obligation("o", START_MS, START_MS + 4 * STEP_MS, START_MS + 6 * STEP_MS, 5.0)
    p = _problem(site(), timeline([40.0] * 4), obligations=(due,))
    assert (p.rows.cap[1, :4] == NO_LIMIT_MW).all()
    assert (p.rows.cap[1, 4:6] < 5.0).all()
    assert (p.rows.cap[1, 6:] == NO_LIMIT_MW).all()


def test_a_job_may_not_run_past_its_deadline_nor_a_firm_one_stop() -> None:
    """Closed steps after the deadline; a running firm job is locked for the work it has left."""
    when = timeline([40.0] * 12, jobs=(job("a", 0, window=6), job("b", 0, work_h=2.0, firm=True)))
    plant = Plant(site(), when)
    plant.state.running.update({0, 1})
    plant.state.ran_h.update({0: 1.0, 1: 1.0})
    p = _problem(site(), when, plant=plant)
    assert p.units.open[3, :6].all()
    assert not p.units.open[3, 6:].any()
    assert p.units.locked_h[4] == pytest.approx(2.0)
    assert p.units.locked_h[3] == 0.0


def test_price_counts_the_adder_and_the_chance_of_a_peak() -> None:
    """A tenth of a chance in an hour of four peaks at 60,000 USD a MW and year is 1,500 USD/MWh."""
    energy = replace(site().energy, peak_charge_usd_per_mw_year=60_000.0, peak_months=(6, 7, 8, 9))
    model = Model(site(energy=energy), timeline([40.0] * 4, interval_ms=3_600_000))
    flat = np.full(24, 30.0)
    outlook = Outlook(START_MS, 3_600_000, flat, np.zeros(24), np.where(np.arange(24) == 3, 0.1, 0.0))
    path, peak = model.paths(outlook)
    assert path[0] == pytest.approx(35.0)
    assert peak[3] == pytest.approx(1_500.0)
    assert peak[30] == 0.0


def test_later_prices_are_weighed_by_the_pue_of_their_time() -> None:
    """A hotter afternoon makes the same price dearer; now is exact."""
    when = timeline([40.0] * 4)
    model = Model(site(), when)
    hot = np.concatenate([np.full(4, 20.0), np.full(284, 40.0)])
    pue, cool = model.share_and_cooling(hot, 20.0)
    price = np.full((1, len(model.grid.hours)), 50.0)
    p = model.problem(price, pue, cool, 70.0, (), 15.0, START_MS, Plant(site(), when).state, [])
    assert p.sites.price[0, 0] == pytest.approx(50.0)
    assert p.sites.price[0, -1] == pytest.approx(50.0 * 1.10 / 1.05)


def test_nothing_to_plan_is_a_problem_too() -> None:
    """Zero banks, no jobs, no partitions."""
    bare = replace(site(), banks=(), firm_loads=(), partitions=())
    p = _problem(bare, timeline([40.0] * 4))
    assert len(p.units.idle_mw) == 0


def test_prices_of_limits_move_on_with_time() -> None:
    """Each step takes the price that held at its middle."""
    g = planning_grid(0.25)
    row = np.arange(len(g.hours), dtype=np.float64)[None, :]
    assert shifted(row, g, 0.25)[0, :7].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert shifted(row, g, 1000.0)[0, 0] == row[0, -1]


def _problem(
    where: Site,
    when: Timeline,
    *,
    paths: int = 1,
    obligations: tuple[Obligation, ...] = (),
    plant: Plant | None = None,
) -> Problem:
    model = Model(where, when)
    pue, cool = model.share_and_cooling(None, 20.0)
    state = (plant or Plant(where, when)).state
    price = np.full((paths, len(model.grid.hours)), 45.0)
    return model.problem(
        price, pue, cool, 70.0, obligations, where.cap_mw, START_MS, state, list(state.open_jobs)
    )  # fmt: skip
