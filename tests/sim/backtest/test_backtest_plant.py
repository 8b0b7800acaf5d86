"""The plant enforces what machines enforce, counts what was asked against the rules, and its books add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.backtest.model import Energy, Obligation
from sim.backtest.physics import at_ambient, at_degrees, peak_usd_per_mw
from sim.backtest.thresholds import BreakEvenPolicy
from tests.sim.backtest.worlds import HOUR_MS, START_MS, STEP_MS, act, job, lived, run, site, timeline, wild_timeline

BANKS_FULL = (6.0, 4.0)
HASH_USD_H = 70.0 / 24.0


def test_a_bank_in_its_minimum_down_or_up_time_stays_as_it_is_and_the_asking_is_counted() -> None:
    plan = site(banks=(site().banks[0],))
    plan = replace(plan, banks=(replace(plan.banks[0], min_down_h=0.5, min_up_h=0.5),))
    asked = [0.0, 6.0, 6.0, 0.0, 0.0]
    books, trace, _ = lived(plan, timeline([30.0] * 5), [act([mw]) for mw in asked])
    assert trace.bank_mw[:, 0].tolist() == [0.0, 0.0, 6.0, 3.0, 0.0]
    assert books.violations == {"dwell": 2}
    assert books.starts_per_bank == 1


def test_what_boots_earns_nothing_for_that_part_of_the_interval_and_pays_its_energy_and_its_start() -> None:
    plan = site(banks=(replace(site().banks[0], boot_h=0.4),), partitions=(), firm_loads=())
    books, trace, _ = lived(plan, timeline([40.0] * 5), [act([mw]) for mw in (0.0, 6.0, 6.0, 6.0, 6.0)])
    phs = 6_000.0 / 17.0
    assert books.hash_revenue_usd == pytest.approx(phs * HASH_USD_H * 0.25 * (0 + 0 + 0.4 + 1 + 1))
    assert books.penalties_usd == pytest.approx(48.0)
    assert trace.meter_mw.tolist() == pytest.approx([0.2 + 0.05 * 1.05] + [0.2 + 6.0 * 1.05] * 4)
    assert books.energy_cost_usd == pytest.approx(float(trace.meter_mw.sum()) * 0.25 * 45.0)


def test_revenue_is_interpolated_on_the_curve() -> None:
    plan = site(partitions=(), firm_loads=())
    books, _, _ = lived(plan, timeline([0.0]), [act([4.5, 0.0])])
    assert books.hash_revenue_usd == pytest.approx(6_000 / 17 * (0.78 + 0.90) / 2 * HASH_USD_H * 0.25)


@pytest.mark.parametrize("seed", range(6))
def test_profit_is_the_sum_of_its_parts_and_the_meter_sees_every_unit(seed: int) -> None:
    plan = site(energy=Energy(5.0, 4.0, 35.0, 60_000.0, (6,)))
    line = wild_timeline(seed)
    books, trace, actions = run(BreakEvenPolicy(), plan, line)
    parts = books.hash_revenue_usd + books.hpc_revenue_usd + books.resale_usd
    assert books.profit_usd == pytest.approx(parts - books.energy_cost_usd - books.penalties_usd)
    assert books.profit_usd == pytest.approx(float(trace.profit_usd.sum()))
    assert line.ambient_c is not None
    for k, action in enumerate(actions):
        air = 1.05 + 0.05 * min(max((line.ambient_c[k] - 20) / 20, 0), 1)
        data = 1.2 + 0.2 * min(max((line.ambient_c[k] - 20) / 20, 0), 1)
        hashing = sum(mw if mw > 0 else 0.05 for mw in trace.bank_mw[k])
        served = 1.0 if action.firm_mw is None else action.firm_mw[0]
        hpc = 20 * 0.02 + sum(action.job_mw.values()) + served
        assert trace.meter_mw[k] == pytest.approx(0.2 + hashing * air + hpc * data, abs=1e-9)
        assert trace.hpc_mw[k] == pytest.approx(hpc, abs=1e-9)


def test_a_block_is_paid_for_whole_and_what_is_not_used_is_resold_at_real_time() -> None:
    plan = site(energy=Energy(5.0, 4.0, 35.0, 0.0, ()), partitions=(), firm_loads=())
    books, trace, _ = lived(plan, timeline([200.0, -50.0]), [act([0.0, 0.0]), act(BANKS_FULL)])
    low, high = trace.meter_mw.tolist()
    assert low < 4.0 < high
    assert books.resale_usd == pytest.approx((4.0 - low) * 200.0 * 0.25)
    bought = 2 * 4.0 * 35.0 + (high - 4.0) * -50.0 + (low + high) * 5.0
    assert books.energy_cost_usd == pytest.approx(bought * 0.25)


def test_a_job_earns_by_the_hour_done_and_pays_for_what_is_undone_at_its_deadline() -> None:
    line = timeline([30.0] * 6, jobs=(job("a", 0, work_h=1.0, window=2),))
    full = line.jobs[0].level_mw[-1]
    books, _, plant = lived(site(firm_loads=()), line, [act(BANKS_FULL, {0: full})] * 2 + [act(BANKS_FULL)] * 4)
    assert books.hpc_revenue_usd == pytest.approx(0.5 * 20.0)
    assert books.penalties_usd == pytest.approx(0.5 * 20.0 + 5.0)
    assert books.jobs_missed == 1
    assert plant.state.open_jobs == []


def test_a_job_done_early_is_paid_for_its_work_and_no_more() -> None:
    line = timeline([30.0] * 4, jobs=(job("a", 0, work_h=0.3),))
    full = line.jobs[0].level_mw[-1]
    books, _, _ = lived(site(firm_loads=()), line, [act(BANKS_FULL, {0: full})] * 2 + [act(BANKS_FULL)] * 2)
    assert books.hpc_revenue_usd == pytest.approx(0.3 * 20.0)
    assert books.jobs_missed == 0


def test_a_job_outside_its_window_does_not_run_and_one_without_nodes_neither() -> None:
    jobs = (job("a", 0, nodes=15), job("b", 0, nodes=15), job("later", 2))
    mw = {k: each.level_mw[-1] for k, each in enumerate(jobs)}
    books, _, plant = lived(site(), timeline([30.0], jobs=jobs), [act(BANKS_FULL, mw)])
    assert books.violations == {"nodes": 1, "job_window": 1}
    assert plant.state.running == {0}


def test_a_job_whose_window_holds_no_whole_interval_is_missed_and_paid_for() -> None:
    short = replace(job("a", 1), deadline_ms=START_MS + 2 * STEP_MS - 1)
    books, _, _ = lived(site(), timeline([30.0] * 4, jobs=(short,)), [act(BANKS_FULL)] * 4)
    assert books.jobs_missed == 1
    assert books.penalties_usd == pytest.approx(20.0)


def test_a_job_due_after_the_end_owes_nothing() -> None:
    books, _, _ = lived(site(), timeline([30.0], jobs=(job("a", 0),)), [act(BANKS_FULL)])
    assert books.jobs_missed == 0


def test_stopping_a_firm_job_is_a_violation_only_while_something_flexible_draws_power() -> None:
    line = timeline([30.0] * 2, jobs=(job("a", 0, firm=True, work_h=3.0),))
    first = {0: line.jobs[0].level_mw[-1]}
    assert lived(site(), line, [act(BANKS_FULL, first), act(BANKS_FULL)])[0].violations == {"firm_job_stopped": 1}
    assert lived(site(), line, [act(BANKS_FULL, first), act([0.0, 0.0])])[0].violations == {}


def test_firm_load_shed_costs_its_penalty_and_is_a_violation_while_something_flexible_draws_power() -> None:
    line = timeline([30.0])
    books, _, _ = lived(site(), line, [act(BANKS_FULL, None, [0.4])])
    assert books.penalties_usd == pytest.approx(0.6 * 2_000.0 * 0.25)
    assert books.hpc_revenue_usd == pytest.approx(0.4 * 140.0 * 0.25)
    assert books.violations == {"firm_load_shed": 1}
    assert lived(site(), line, [act([0.0, 0.0], None, [0.4])])[0].violations == {}


def test_each_limit_exceeded_is_one_violation_an_interval() -> None:
    hot = timeline([30.0], ambient_c=np.array([40.0]))
    books, _, _ = lived(site(), hot, [act([6.0, 6.0])])
    assert books.violations == {"cap": 1, "cooling": 1, "feeder": 1}


def test_an_obligation_missed_costs_money_and_is_a_violation_where_something_flexible_still_ran() -> None:
    due = Obligation("o", START_MS, START_MS, START_MS + STEP_MS // 3, 3.0)
    line = timeline([30.0], obligations=(due,))
    books, trace, _ = lived(site(), line, [act([6.0, 0.0])])
    assert books.penalties_usd == pytest.approx((trace.meter_mw[0] - 3.0) * 5_000.0 / 12)
    assert books.violations == {"obligation": 1}
    tight = replace(line, obligations=(replace(due, target_mw=1.0),))
    assert lived(site(), tight, [act([0.0, 0.0])])[0].violations == {}


def test_the_coincident_peak_is_charged_on_the_highest_load_of_each_month_judged() -> None:
    count = 96 * 45
    load = np.full(count, 50_000.0)
    load[96 * 10 + 64 : 96 * 10 + 68] = 80_000.0
    load[96 * 2] = 90_000.0
    load[96 * 40] = 70_000.0
    line = timeline([30.0] * count, history=96 * 5, load_mw=load)
    cost = peak_usd_per_mw(site(energy=Energy(0.0, 0.0, 0.0, 60_000.0, (6, 7))), line)
    hit = np.flatnonzero(cost)
    assert hit.tolist() == [*range(96 * 10 + 64, 96 * 10 + 68), 96 * 40]
    assert cost[hit].tolist() == [7_500.0] * 4 + [30_000.0]


def test_a_setpoint_that_is_no_power_of_the_machine_is_counted_and_never_followed() -> None:
    books, trace, _ = lived(site(), timeline([30.0] * 3), [act([2.0, 3.0]), act([float("nan"), 3.0]), act([0.0, -1.0])])
    assert trace.bank_mw[0].tolist() == [3.0, 3.0]
    assert trace.bank_mw[1].tolist() == [0.0, 3.0]
    assert books.violations["setpoint"] == 3
    assert np.isfinite(books.profit_usd)


def test_curtailed_energy_counts_what_there_was_room_for() -> None:
    plan = site(partitions=(), firm_loads=(), cap_mw=9.0)
    books, _, _ = lived(plan, timeline([30.0]), [act([0.0, 0.0])])
    # The second bank would need 3 MW at least; behind 9 MW there are 8.8 / 1.05 less the first one's 6.
    assert books.curtailed_mwh == pytest.approx(6.0 * 0.25)


def test_an_hour_has_hours() -> None:
    """The same quarter hours as whole hours of one price give the same money."""
    plan = site(partitions=(), banks=tuple(replace(b, boot_h=0.0, start_usd=0.0) for b in site().banks))
    quarter, _, _ = lived(plan, timeline([50.0] * 8), [act(BANKS_FULL)] * 8)
    hourly = timeline([50.0] * 2, interval_ms=HOUR_MS)
    hour, _, _ = lived(plan, hourly, [act(BANKS_FULL)] * 2)
    assert hour.profit_usd == pytest.approx(quarter.profit_usd)


def test_a_halls_curve_is_the_same_of_one_temperature_as_of_many() -> None:
    points = ((10.0, 9.0), (20.0, 8.0), (40.0, 2.0))
    degrees = np.array([-5.0, 10.0, 13.0, 20.0, 27.5, 40.0, 55.0])
    assert at_ambient(points, degrees).tolist() == pytest.approx([at_degrees(points, float(c)) for c in degrees])
    assert at_degrees(points, None) == float(at_ambient(points, None))
