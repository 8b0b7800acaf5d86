"""The solver's face: carrying over, threads, the fleet, the shed, assembly and bad input."""

from __future__ import annotations

import highspy
import numpy as np
import pytest

from bench.problems import fleet, hard_problem
from bench.referee import judge
from controller.engine.optimiser.assemble import assemble, average, least, peak_adder, ramp_cap, windows
from controller.engine.optimiser.fleet import meter_mw, plan_fleet, share_out
from controller.engine.optimiser.layout import check, grid
from controller.engine.optimiser.shed import Tree, dearest_first, shed
from controller.engine.optimiser.solver import carried, dispatch, plan, shift


def test_threads_and_company_change_no_byte() -> None:
    """Forty sites together on two threads plan exactly as on one."""
    p = assemble(*fleet(40))
    one = plan(p, iterations=10, sweeps=1)
    two = plan(p, iterations=10, sweeps=1, threads=2)
    assert one.power_mw.tobytes() == two.power_mw.tobytes()
    assert one.bound_usd.tobytes() == two.bound_usd.tobytes()


def test_a_plan_carried_on_with_nothing_changed_keeps_its_dispatch() -> None:
    """No chatter: the same problem again moves no unit."""
    for seed in range(6):
        p = hard_problem(seed, banks=6, jobs=2)
        first = plan(p, iterations=200, sweeps=20)
        again = plan(p, shift(first.duals, p.grid, 0.0), carried(first, p.grid, 0.0), iterations=3, sweeps=20)
        assert again.profit_usd[0] >= first.profit_usd[0] - 1e-6 * abs(first.profit_usd[0])
        if again.profit_usd[0] <= first.profit_usd[0] + 1e-6 * abs(first.profit_usd[0]):
            assert (again.phase[:, 0] == first.phase[:, 0]).all()


def test_a_dispatch_is_within_the_limits_of_the_first_step() -> None:
    """Three iterations and the merit order of one step: no curve and no row is exceeded."""
    p = assemble(*fleet(8))
    made = plan(p, iterations=100, sweeps=1)
    now = dispatch(p, shift(made.duals, p.grid, 1.0), carried(made, p.grid, 1.0))
    owner = np.repeat(np.arange(len(p.units.idle_mw)), np.diff(p.units.row_from))
    used = np.bincount(p.units.rows, p.units.weight * now.power_mw[owner])
    assert (used <= p.rows.cap[:, 0] + 1e-6).all()
    assert (now.power_mw <= p.units.level_mw[:, -1] + 1e-9).all()


def test_a_fleet_keeps_its_cap_and_its_bound_holds() -> None:
    """Ten sites under 85 % of what they would use: quotas sum to the cap, plans keep them, and little is lost."""
    p = assemble(*fleet(10))
    alone = plan(p, iterations=150, sweeps=1)
    cap = 0.85 * meter_mw(p, alone.power_mw).sum(axis=0)
    made = plan_fleet(p, cap, iterations=150)
    assert (meter_mw(p, made.plan.power_mw).sum(axis=0) <= cap + 1e-6).all()
    assert (made.quota_mw.sum(axis=0) <= cap + 1e-6).all()
    profit = float(made.plan.profit_usd.sum())
    assert not judge(p, made.plan.power_mw, made.plan.phase).faults
    assert profit <= made.bound_usd
    assert profit >= 0.98 * made.bound_usd


def test_last_quotas_stand_while_they_serve_and_never_pass_the_cap() -> None:
    """Carried on, a fleet loses nothing; under a cap that fell its quotas fall with it."""
    p = assemble(*fleet(6))
    alone = plan(p, iterations=150, sweeps=1)
    cap = 0.9 * meter_mw(p, alone.power_mw).sum(axis=0)
    first = plan_fleet(p, cap, iterations=150)
    kept = carried(first.plan, p.grid, 0.0)
    again = plan_fleet(p, cap, first.duals, first.price, kept, first.quota_mw, iterations=12, sweeps=1, rounds=1)
    assert again.plan.profit_usd.sum() >= (1.0 - 1e-4) * first.plan.profit_usd.sum()
    lower = plan_fleet(p, 0.8 * cap, again.duals, again.price, kept, again.quota_mw, iterations=40, sweeps=1)
    for cap_mw, made in ((cap, again), (0.8 * cap, lower)):
        assert (made.quota_mw.sum(axis=0) <= cap_mw + 1e-6).all()
        assert (meter_mw(p, made.plan.power_mw).sum(axis=0) <= cap_mw + 1e-6).all()
        assert made.plan.profit_usd.sum() <= made.bound_usd


def test_more_iterations_lower_the_bound_where_the_plan_is_far_from_it_and_nowhere_else() -> None:
    """`refine` costs nothing where the plan is near enough; elsewhere the bound falls and stays above every plan."""
    p = assemble(*fleet(12, seed=3))
    plain = plan(p, iterations=40, sweeps=0)
    gap = (plain.bound_usd - plain.profit_usd) / plain.bound_usd
    near = np.full(12, float(np.median(gap)))
    refined = plan(p, iterations=40, refine=100, sweeps=0, enough=near)
    assert (refined.profit_usd == plain.profit_usd).all()
    assert (refined.bound_usd[gap <= near] == plain.bound_usd[gap <= near]).all()
    assert (refined.bound_usd <= plain.bound_usd).all()
    assert (refined.bound_usd < plain.bound_usd).any()
    best = plan(p, iterations=40, sweeps=4, enough=0.0)
    assert (refined.bound_usd >= best.profit_usd - 1e-6).all()


def test_quotas_give_what_is_left_and_take_what_is_over() -> None:
    """In both cases they sum to the cap, and no site gets more than its own limit."""
    used, most = np.array([[2.0, 6.0], [4.0, 6.0]]), np.full((2, 2), 8.0)
    quota = share_out(used, most, np.array([10.0, 9.0]))
    assert quota.sum(axis=0) == pytest.approx([10.0, 9.0])
    assert (quota[:, 0] >= used[:, 0]).all()
    assert quota[:, 1] == pytest.approx([4.5, 4.5])


@pytest.mark.parametrize("seed", range(30))
def test_a_shed_loses_as_little_as_the_linear_program(seed: int) -> None:
    """Bottom-up greed over a random feeder tree equals HiGHS, and says what cannot be met."""
    rng = np.random.default_rng(seed)
    feeders, units = int(rng.integers(1, 7)), int(rng.integers(1, 15))
    parent = np.array([-1] + [int(rng.integers(0, f)) for f in range(1, feeders)], np.int32)
    feeder = rng.integers(0, feeders, units).astype(np.int32)
    mw, cost = rng.uniform(0.1, 3, units), rng.uniform(1, 100, units)
    below = np.array([[_is_below(parent, int(feeder[n]), f) for n in range(units)] for f in range(feeders)])
    need = np.where(rng.random(feeders) < 0.6, rng.uniform(0, 4, feeders), 0.0)
    got = shed(Tree(parent, feeder, dearest_first(cost)), mw, np.zeros(units), need)
    reachable = np.minimum(need, below @ mw)
    assert (below @ got.mw >= reachable - 1e-9).all()
    assert got.short_mw == pytest.approx(np.maximum(need - below @ mw, 0.0), abs=1e-9)
    assert float(cost @ got.mw) == pytest.approx(_least_cost(cost, mw, below, reachable), abs=1e-6)


def test_a_shed_trims_to_whole_devices_and_never_sheds_less_than_asked() -> None:
    """The last bank gives up whole devices, at most one more than it had to."""
    mw = np.array([1.0, 1.0])
    got = shed(Tree(np.array([-1], np.int32), np.zeros(2, np.int32), np.array([1, 0], np.int32)), mw,
               np.array([0.3, 0.3]), np.array([0.5]))  # fmt: skip
    assert got.mw == pytest.approx([0.7, 0.0])
    whole = shed(Tree(np.array([-1], np.int32), np.zeros(2, np.int32), np.array([1, 0], np.int32)), mw,
                 np.full(2, np.inf), np.array([0.5]))  # fmt: skip
    assert whole.mw == pytest.approx([1.0, 0.0])


def _is_below(parent: np.ndarray, at: int, feeder: int) -> float:
    while at >= 0:
        if at == feeder:
            return 1.0
        at = int(parent[at])
    return 0.0


def _least_cost(cost: np.ndarray, mw: np.ndarray, below: np.ndarray, need: np.ndarray) -> float:
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    columns = [solver.addVariable(0.0, float(most), float(usd)) for most, usd in zip(mw, cost, strict=True)]
    for f, least_mw in enumerate(need):
        solver.addConstr(sum(float(below[f, n]) * columns[n] for n in range(len(mw))) + 0.0 >= float(least_mw) - 1e-12)
    solver.run()
    return float(solver.getInfo().objective_function_value)


def test_a_spike_late_in_an_interval_bills_the_average_of_all_of_it() -> None:
    """Steps take the interval they lie in, coarse steps the mean of several, and the last value holds."""
    g = grid((5, 10, 30, 60))
    assert average(g, np.array([[10.0, 40.0, 70.0]]), 0.25)[0] == pytest.approx([10.0, 10.0, 55.0, 70.0])
    assert average(g, np.array([[10.0, 40.0, 70.0]]), 0.25, 0.125)[0, 1] == pytest.approx(0.25 * 10 + 0.75 * 40)


def test_a_cap_that_falls_within_a_step_holds_for_all_of_it() -> None:
    """Never above either hour's limit."""
    assert least(grid((30, 60, 60)), np.array([[5.0, 3.0, 9.0]]))[0] == pytest.approx([5.0, 3.0, 3.0])


def test_windows_open_whole_steps_only() -> None:
    """A step that begins before the release or ends after the deadline stays closed."""
    g = grid((15, 15, 30, 60))
    assert windows(g, np.array([-np.inf, 0.25]), np.array([np.inf, 1.5])).tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]


def test_a_ramp_limits_the_fine_steps_and_a_peak_adds_to_the_price() -> None:
    """Power now plus the ramp of the minutes gone by; a charge by its chance."""
    g = grid((1, 1, 60))
    assert ramp_cap(g, np.full(3, 10.0), 2.0, 1.5) == pytest.approx([3.5, 5.0, 10.0])
    assert peak_adder(np.array([0.1]), 5_000.0, np.array([0.25])) == pytest.approx([2_000.0])


def test_a_problem_that_cannot_be_meant_is_refused_by_name() -> None:
    """A clear error instead of a wrong plan."""
    p = hard_problem(1, banks=2, jobs=1)
    with pytest.raises(ValueError, match="price"):
        check(p._replace(sites=p.sites._replace(price=np.full_like(p.sites.price, np.nan))))
    with pytest.raises(ValueError, match="level_mw"):
        check(p._replace(units=p.units._replace(level_mw=-p.units.level_mw)))
    with pytest.raises(ValueError, match="work_h"):
        check(p._replace(units=p.units._replace(work_h=np.zeros_like(p.units.work_h))))
    with pytest.raises(ValueError, match="open"):
        check(p._replace(units=p.units._replace(open=p.units.open[:, :-1])))


def test_a_site_without_units_earns_nothing_and_plans() -> None:
    """Zero banks and no job: profit and bound are 0."""
    p = hard_problem(1, banks=2, jobs=1)
    sites = p.sites._replace(
        unit_from=np.array([0, 3, 3], np.int32), row_from=np.append(p.sites.row_from, p.sites.row_from[-1]),
        price=np.repeat(p.sites.price, 2, axis=0), award=np.zeros(2, np.uint8),
    )  # fmt: skip
    made = plan(p._replace(sites=sites), iterations=5, sweeps=2)
    assert made.profit_usd[1] == 0.0
    assert made.bound_usd[1] == 0.0
