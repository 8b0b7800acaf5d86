"""The wattshift policy: keeps the plant's rules whatever happens, sees no future, and earns more where it should."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from sim.backtest.bound import bound_usd
from sim.backtest.model import Action, Energy, FirmLoad, Obligation, Timeline
from sim.backtest.thresholds import BreakEvenPolicy
from sim.backtest.wattshift import Params, WattshiftPolicy
from tests.sim.backtest.worlds import START_MS, STEP_MS, bank, job, run, site, timeline, wild_timeline

CHARGED = Energy(5.0, 3.0, 40.0, 60_000.0, (6,))


@pytest.mark.parametrize("seed", range(6))
def test_no_rule_of_the_plant_is_broken(seed: int) -> None:
    """Prices of -50 to 9,000, 0 to 45 C from one interval to the next, obligations, jobs that cannot be done."""
    when = wild_timeline(seed, 160, history=seed % 2 * 40)
    when = replace(when, ambient_c=np.repeat(np.asarray(when.ambient_c)[::32], 32)[: len(when.price)])
    books, _, _ = run(WattshiftPolicy(), site(energy=CHARGED), when, seed % 3)
    assert _avoidable(books.violations) == {}
    assert books.profit_usd <= bound_usd(site(energy=CHARGED), when, 50)


@pytest.mark.parametrize("minutes", [5, 60])
def test_any_interval_from_five_minutes_to_an_hour(minutes: int) -> None:
    """A week's worth of intervals of either length, with -250 and 9,000 USD/MWh among the prices."""
    rng = Random(minutes)
    price = [rng.choice((-250.0, 9_000.0, 25.0, 60.0, 90.0)) for _ in range(120)]
    jobs = tuple(replace(job(f"j{k}", 0, work_h=2.0), deadline_ms=START_MS + 40 * minutes * 60_000) for k in range(3))
    when = timeline(price, interval_ms=minutes * 60_000, jobs=jobs)
    books, _, _ = run(WattshiftPolicy(), site(), when)
    assert books.violations == {}


@pytest.mark.parametrize("lag", [0, 1])
def test_a_shuffled_future_changes_no_decision(lag: int) -> None:
    """Everything after an interval is turned round; all that was decided up to it stays as it was."""
    when = wild_timeline(11, 120, history=20)
    cut = 70
    first = _acts(when, lag)
    second = _acts(_shuffled(when, cut), lag)
    for k in range(cut - when.history):
        assert np.array_equal(first[k].bank_mw, second[k].bank_mw), k
        assert first[k].job_mw == second[k].job_mw, k


def test_the_same_run_twice_decides_the_same() -> None:
    """Deterministic, and a policy prepared anew remembers nothing."""
    when = wild_timeline(3, 60)
    policy = WattshiftPolicy()
    first, second = run(policy, site(), when)[2], run(policy, site(), when)[2]
    assert all(
        np.array_equal(a.bank_mw, b.bank_mw) and a.job_mw == b.job_mw for a, b in zip(first, second, strict=True)
    )


def test_an_obligation_is_met_and_dwell_does_not_stand_in_its_way() -> None:
    """No bank starts that its minimum up time would carry into the window."""
    due = Obligation("o", START_MS, START_MS + 20 * STEP_MS, START_MS + 28 * STEP_MS, 3.0)
    price = [500.0] * 18 + [20.0] * 30
    where = replace(site(), banks=(bank("new", 17.0, up_h=1.0), bank("old", 30.0, up_h=1.0)))
    books, trace, _ = run(WattshiftPolicy(), where, timeline(price, obligations=(due,)))
    assert books.violations == {}
    assert trace.meter_mw[20:28].max() <= 3.0


def test_a_cap_below_firm_load_sheds_it_and_runs_nothing_else() -> None:
    """The shortfall is shed, paid for, and no limit is broken."""
    where = replace(site(), cap_mw=1.2)
    books, trace, actions = run(WattshiftPolicy(), where, timeline([30.0] * 12))
    assert trace.meter_mw[2:].max() <= 1.2 + 1e-6
    assert actions[-1].firm_mw is not None
    assert float(actions[-1].firm_mw[0]) < 1.0
    assert books.violations.get("firm_load_shed", 0) == 0


def test_firm_load_is_given_up_for_money_only_where_all_that_is_flexible_stands_still() -> None:
    """At 9,000 USD/MWh it costs more than its penalty; at 1,000 it does not."""
    price = [30.0] * 6 + [9_000.0] * 6 + [1_000.0] * 6
    books, _, actions = run(WattshiftPolicy(), site(), timeline(price))
    assert books.violations == {}
    given_up = [a.firm_mw is not None and float(a.firm_mw[0]) < 0.5 for a in actions]
    assert any(given_up[6:12])
    assert not any(given_up[:6])
    assert not any(given_up[12:])


def test_zero_banks_and_empty_jobs() -> None:
    """A site with nothing to decide, and one with jobs alone."""
    bare = replace(site(), banks=(), firm_loads=(), partitions=())
    assert run(WattshiftPolicy(), bare, timeline([40.0] * 6))[0].violations == {}
    jobs = (job("j", 0),)
    books, _, _ = run(WattshiftPolicy(), replace(site(), banks=()), timeline([40.0] * 16, jobs=jobs))
    assert books.violations == {}
    assert books.jobs_missed == 0


def test_a_steady_price_turns_nothing_over() -> None:
    """No chatter: what runs at the beginning runs at the end, and jobs start once."""
    jobs = tuple(job(f"j{k}", 2 * k, work_h=1.5, window=24, start_usd=20.0) for k in range(4))
    books, trace, actions = run(WattshiftPolicy(), site(), timeline([35.0] * 40, jobs=jobs))
    assert books.starts_per_bank == 0
    assert books.jobs_missed == 0
    starts = sum(j not in before.job_mw for before, after in itertools.pairwise(actions) for j in after.job_mw)
    assert starts + len(actions[0].job_mw) == len(jobs)
    assert trace.profit_usd.min() > 0


def test_it_earns_more_than_break_even_where_restarts_cost_and_jobs_compete() -> None:
    """Three days of short spikes on a tight cap: the peers' rule turns over and runs every job flat out. Eight such
    worlds together, for prices nobody can foresee make one alone a matter of luck."""
    jobs = tuple(job(f"j{k}", 5 * k, nodes=8, work_h=3.0, window=40) for k in range(48))
    where, ours, theirs = site(cap_mw=11.0), 0.0, 0.0
    for seed in range(2, 10):
        rng = Random(seed)
        when = timeline([rng.choice((30.0, 30.0, 40.0, 75.0, 400.0)) for _ in range(288)], jobs=jobs)
        books, _, _ = run(WattshiftPolicy(), where, when)
        assert books.violations == {}
        assert books.profit_usd <= bound_usd(where, when)
        ours += books.profit_usd
        theirs += run(BreakEvenPolicy(), where, when)[0].profit_usd
    assert ours > theirs


def test_every_forecast_by_name() -> None:
    """The forecast is an argument; a name that is none is refused."""
    when = wild_timeline(1, 60)
    for name in ("persistence", "day_ahead", "blended"):
        books, _, _ = run(WattshiftPolicy(Params(forecast=name)), site(), when, 1)
        assert np.isfinite(books.profit_usd)
    with pytest.raises(ValueError, match="no forecast"):
        run(WattshiftPolicy(Params(forecast="tea leaves")), site(), when)


def test_two_firm_loads_the_dearer_to_shed_is_served_first() -> None:
    """Behind one feeder that holds one of them."""
    loads = (FirmLoad("cheap", 2, 1, 1.0, 100.0, 500.0), FirmLoad("dear", 2, 1, 1.0, 100.0, 3_000.0))
    where = replace(site(), banks=(), partitions=(), firm_loads=loads, cap_mw=1.5)
    _, _, actions = run(WattshiftPolicy(), where, timeline([30.0] * 3))
    served = actions[-1].firm_mw
    assert served is not None
    assert served[1] == pytest.approx(1.0)
    assert served[0] < 0.5


def _avoidable(kinds: dict[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in kinds.items() if count}


def _acts(when: Timeline, lag: int) -> list[Action]:
    return run(WattshiftPolicy(), site(energy=CHARGED), when, lag)[2]


def _shuffled(when: Timeline, cut: int) -> Timeline:
    """What is known only after interval `cut` is turned round; published day-ahead prices and told duties stay."""
    known_ms = when.start_ms + cut * when.interval_ms
    assert when.day_ahead_known is not None
    assert when.day_ahead is not None
    ahead = when.day_ahead.copy()
    secret = np.maximum.accumulate(when.day_ahead_known) > known_ms
    ahead[secret] = ahead[secret][::-1]

    def turned(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[:cut], values[cut:][::-1]])

    return replace(
        when,
        price=turned(when.price),
        hashprice=turned(when.hashprice),
        ambient_c=turned(np.asarray(when.ambient_c)),
        load_mw=turned(np.asarray(when.load_mw)),
        day_ahead=ahead,
        jobs=tuple(
            j if j.submit_ms < known_ms else replace(j, nodes=1, work_h=0.1, level_mw=(0.01, 0.02, 0.03, 0.05))
            for j in when.jobs
        ),
        obligations=tuple(o for o in when.obligations if o.told_ms < known_ms),
    )
