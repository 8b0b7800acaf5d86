"""The simple policies keep every limit, see no future, and do what their names say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from sim.backtest.model import F8, Energy, Obligation, Policy, Timeline
from sim.backtest.seen import Eyes, past
from sim.backtest.thresholds import AlwaysOnPolicy, BreakEvenPolicy, HysteresisPolicy, Thresholds
from tests.sim.backtest.worlds import START_MS, STEP_MS, job, run, site, timeline, wild_timeline

POLICIES: list[Callable[[], Policy]] = [AlwaysOnPolicy, BreakEvenPolicy, HysteresisPolicy]
FORCED = {"obligation", "cooling", "cap"}
"""What nobody can help who is told of a limit while dwell holds a bank or nodes idle."""


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize("seed", range(8))
def test_no_rule_of_the_plant_is_broken_whatever_the_weather_and_the_price(
    make: Callable[[], Policy], seed: int
) -> None:
    books, _, _ = run(make(), site(), wild_timeline(seed), lag=seed % 3)
    assert set(books.violations) <= FORCED
    assert np.isfinite(books.profit_usd)


@pytest.mark.parametrize("make", POLICIES)
def test_with_steady_weather_and_notice_nothing_at_all_is_violated(make: Callable[[], Policy]) -> None:
    line = wild_timeline(5)
    books, _, _ = run(make(), site(), replace(line, ambient_c=np.full(len(line.price), 38.0), obligations=()))
    assert books.violations == {}


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize(("cut", "lag"), [(300, 0), (301, 1), (350, 3)])
def test_a_shuffled_future_changes_no_decision_before_it(make: Callable[[], Policy], cut: int, lag: int) -> None:
    line = wild_timeline(11, count=400, history=200)
    whole = run(make(), site(), line, lag)[2]
    other = run(make(), site(), _shuffled(line, cut), lag)[2]
    for k in range(cut - line.history):
        assert whole[k].bank_mw.tolist() == other[k].bank_mw.tolist(), k
        assert whole[k].job_mw == other[k].job_mw, k


def test_the_shuffle_of_that_test_does_change_what_comes_later() -> None:
    line = wild_timeline(11, count=400, history=200)
    whole, other = (run(BreakEvenPolicy(), site(), each)[2] for each in (line, _shuffled(line, 300)))
    assert [a.bank_mw.tolist() for a in whole] != [a.bank_mw.tolist() for a in other]


def _shuffled(line: Timeline, cut: int) -> Timeline:
    """Everything from interval `cut` on in another order, and jobs and obligations known later gone."""
    order = np.arange(len(line.price))
    tail = order[cut:].tolist()
    Random(1).shuffle(tail)
    order[cut:] = tail
    now = line.start_ms + cut * line.interval_ms
    known = line.day_ahead_known
    assert line.day_ahead is not None
    assert known is not None
    published = known <= now - line.interval_ms
    day_ahead = np.where(published, line.day_ahead, line.day_ahead[order])

    def mixed(values: F8 | None) -> F8 | None:
        return None if values is None else values[order]

    return replace(
        line,
        price=line.price[order],
        day_ahead=day_ahead,
        hashprice=line.hashprice[order],
        ambient_c=mixed(line.ambient_c),
        load_mw=mixed(line.load_mw),
        jobs=tuple(each for each in line.jobs if each.submit_ms < now),
        obligations=tuple(due for due in line.obligations if due.told_ms < now),
    )


def test_what_is_seen_ends_at_the_present() -> None:
    line = wild_timeline(2)
    for lag, k in ((0, 0), (0, 57), (2, 1), (2, 200)):
        known = Eyes(line, lag).known(k)
        now = line.start_ms + k * STEP_MS
        assert known.at_ms == now
        assert known.price.end_ms == now + (1 - lag) * STEP_MS or len(known.price.values) == 0
        assert known.load_mw is not None
        assert known.load_mw.end_ms <= now - 3 * STEP_MS or len(known.load_mw.values) == 0
        assert known.day_ahead is not None
        assert line.day_ahead_known is not None
        assert len(known.day_ahead.values) == int((line.day_ahead_known <= now).sum())


def test_what_is_seen_cannot_be_written_to() -> None:
    known = Eyes(timeline([1.0, 2.0]), 0).known(1)
    with pytest.raises(ValueError, match="read-only"):
        known.price.values[0] = 5.0


def test_always_on_never_looks_at_the_price() -> None:
    cheap, dear = (run(AlwaysOnPolicy(), site(), timeline([usd] * 20, jobs=(job("a", 2),)))[2] for usd in (-50.0, 9e3))
    assert [a.bank_mw.tolist() for a in cheap] == [a.bank_mw.tolist() for a in dear]
    assert [a.job_mw for a in cheap] == [a.job_mw for a in dear]


def test_always_on_uses_the_whole_cap_for_the_worthiest_first() -> None:
    books, trace, _ = run(AlwaysOnPolicy(), site(partitions=(), cap_mw=10.0), timeline([30.0] * 3))
    assert trace.meter_mw.tolist() == pytest.approx([10.0] * 3, abs=1e-5)
    new, old = trace.bank_mw[0]
    assert new > old >= 3.0
    assert books.curtailed_mwh < 6.0


def test_break_even_stops_where_hashing_earns_less_than_the_price_and_throttles_before() -> None:
    # 30 J/TH at half power and 0.62 of the hashrate: 24.2 J/TH, 120 USD/MWh; the last MW of it 58 USD/MWh.
    plan = site(
        partitions=(), firm_loads=(), cap_mw=40.0, feeders=(site().feeders[0], replace(site().feeders[1], limit_mw=20))
    )
    _, trace, _ = run(BreakEvenPolicy(), plan, timeline([10.0, 80.0, 150.0, 400.0] + [-30.0] * 3))
    assert trace.bank_mw[:, 1].tolist() == pytest.approx([6.0, 4.0, 0.0, 0.0, 6.0, 6.0, 6.0])
    assert trace.bank_mw[:, 0].tolist() == pytest.approx([6.0, 6.0, 4.0, 0.0, 6.0, 6.0, 6.0])


def test_a_late_price_is_answered_late() -> None:
    prices = [10.0] * 4 + [2_000.0] * 4 + [10.0] * 8
    soon, late = (run(BreakEvenPolicy(), site(), timeline(prices), lag)[1] for lag in (0, 1))
    assert np.flatnonzero(soon.bank_mw.sum(axis=1) == 0)[0] == 4
    assert np.flatnonzero(late.bank_mw.sum(axis=1) == 0)[0] == 5


def test_hysteresis_stays_off_while_the_price_is_between_its_thresholds() -> None:
    prices = [10.0] * 2 + [300.0] + [120.0] * 4 + [10.0] * 4
    plan = site(partitions=(), firm_loads=())
    even = run(BreakEvenPolicy(), plan, timeline(prices))[1]
    slow = run(HysteresisPolicy(Thresholds(stop=1.2, start=0.5, wait=1)), plan, timeline(prices))[1]
    assert (even.bank_mw[3:7, 0] > 0).all()
    assert (slow.bank_mw[2:8] == 0).all()
    assert (slow.bank_mw[8:, 0] > 0).all()


def test_hysteresis_is_tuned_on_the_history_and_on_nothing_after_it() -> None:
    line = wild_timeline(3, count=1_400, history=1_200)
    tuned, other = HysteresisPolicy(), HysteresisPolicy()
    tuned.prepare(site(), line, 0)
    other.prepare(site(), replace(line, price=np.where(np.arange(1_400) < 1_200, line.price, 1.0)), 0)
    assert tuned.thresholds == other.thresholds
    assert len(past(line).price) == 1_200


def test_hysteresis_without_a_history_says_its_defaults() -> None:
    policy = HysteresisPolicy()
    policy.prepare(site(), timeline([30.0] * 4), 0)
    assert policy.thresholds == HysteresisPolicy().thresholds


@pytest.mark.parametrize("make", POLICIES)
def test_a_cap_below_firm_load_sheds_firm_load_and_says_what_it_costs(make: Callable[[], Policy]) -> None:
    plan = site(cap_mw=1.2)
    books, trace, _ = run(make(), plan, timeline([30.0] * 4))
    assert trace.meter_mw.max() <= 1.2
    assert books.penalties_usd > 0
    assert books.violations == {}


@pytest.mark.parametrize("make", POLICIES)
def test_a_site_without_banks_serves_its_jobs(make: Callable[[], Policy]) -> None:
    books, _, _ = run(make(), site(banks=()), timeline([30.0] * 8, jobs=(job("a", 1),)))
    assert books.hpc_revenue_usd == pytest.approx(20.0 + 8 * 0.25 * 140.0)
    assert books.starts_per_bank == 0
    assert books.jobs_missed == 0


@pytest.mark.parametrize("make", POLICIES)
def test_a_job_that_cannot_meet_its_deadline_is_worked_on_and_its_rest_paid_for(make: Callable[[], Policy]) -> None:
    books, _, _ = run(make(), site(firm_loads=()), timeline([5.0] * 8, jobs=(job("a", 0, work_h=4.0, window=4),)))
    assert books.jobs_missed == 1
    assert books.hpc_revenue_usd == pytest.approx(20.0)
    assert books.penalties_usd == pytest.approx(3 * 20.0 + 5.0)


def test_an_obligation_with_notice_is_met_and_the_least_efficient_bank_goes_first() -> None:
    due = Obligation("o", START_MS, START_MS + 4 * STEP_MS, START_MS + 8 * STEP_MS, 9.0)
    books, trace, _ = run(AlwaysOnPolicy(), site(), timeline([30.0] * 12, obligations=(due,)))
    assert books.violations == {}
    assert (trace.meter_mw[4:8] <= 9.0).all()
    assert (trace.bank_mw[4:8, 0] > trace.bank_mw[4:8, 1]).all()


def test_break_even_stands_down_when_the_system_nears_its_peak() -> None:
    load = np.full(96 * 3, 60_000.0)
    for day in range(3):
        load[96 * day + 56 : 96 * day + 80] = 80_000.0
    line = timeline([30.0] * (96 * 3), load_mw=load)
    plan = site(energy=Energy(5.0, 0.0, 0.0, 70_000.0, (6,)))
    books, trace, _ = run(BreakEvenPolicy(), plan, line)
    off = np.flatnonzero(trace.bank_mw.sum(axis=1) == 0)
    assert len(off) > 0
    assert {int(k) % 96 // 4 for k in off} <= {14, 15, 16, 17, 18}
    assert books.profit_usd > run(AlwaysOnPolicy(), plan, line)[0].profit_usd


def test_a_wide_job_that_can_wait_no_longer_gets_its_nodes() -> None:
    small = [job(f"s{k}", k % 3, nodes=4, work_h=6.0, window=40, start_usd=1.0) for k in range(6)]
    wide = job("wide", 2, nodes=20, work_h=0.5, window=12)
    jobs = tuple(sorted([*small, wide], key=lambda each: each.submit_ms))
    books, _, _ = run(AlwaysOnPolicy(), site(), timeline([30.0] * 60, jobs=jobs))
    assert books.jobs_missed == 0
