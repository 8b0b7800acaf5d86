"""Side by side: the same plant for all, flex capture between always-on and the bound, a fleet under one cap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from sim.backtest import run as runner
from sim.backtest.model import F8, Fleet, Seen, Site, Timeline, Trace
from sim.backtest.run import ProRata, backtest, registry, run_policy
from sim.backtest.thresholds import AlwaysOnPolicy, BreakEvenPolicy
from tests.sim.backtest.worlds import job, site, timeline, wild_timeline


def _quiet(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total, what


def _pair(cap_mw: float | None) -> tuple[Fleet, list[Timeline]]:
    second = replace(site(), id="pecos", cap_mw=10.0)
    line = timeline([30.0, 200.0, 30.0, -5.0] * 6, jobs=(job("a", 2),))
    return Fleet("pair", (site(), second), cap_mw), [line, replace(line, jobs=())]


def test_every_policy_is_there_by_name() -> None:
    assert list(registry())[:3] == ["always-on", "break-even", "hysteresis"]


def test_flex_capture_is_the_share_of_what_perfect_foresight_adds_to_always_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def foresee(site: Site, timeline: Timeline) -> tuple[float, float, Trace | None]:
        return bound, 0.001, None

    fleet = Fleet("one", (site(),), None)
    line = wild_timeline(4)
    names = ["break-even", "hysteresis"]
    bound = 0.0
    without = backtest(fleet, [line], ["always-on", *names], 0, _quiet, with_bound=False)
    base, even, _ = (books.profit_usd for books in without.total)
    assert without.bound_usd is None
    assert all(books.flex_capture is None for books in without.total)
    bound = even + 0.25 * (even - base)
    monkeypatch.setattr(runner, "foresight", lambda: foresee)
    outcome = backtest(fleet, [line], names, 0, _quiet)
    assert [books.policy for books in outcome.total] == names
    assert outcome.total[0].flex_capture == pytest.approx(0.8)
    assert outcome.judged[0].books[0].flex_capture == pytest.approx(0.8)
    assert outcome.bound_usd == pytest.approx(bound)
    assert outcome.bound_gap == pytest.approx(0.001)


def test_a_run_twice_is_the_same_run() -> None:
    first, second = (
        backtest(
            Fleet("one", (site(),), None),
            [wild_timeline(9)],
            ["break-even"],
            1,
            _quiet,
            with_bound=False,
            stopwatch=count().__next__,
        )
        for _ in range(2)
    )
    assert first.total == second.total


@pytest.mark.parametrize("cap_mw", [None, 16.0])
def test_a_fleet_keeps_its_cap_and_its_books_are_the_sum_of_its_sites(cap_mw: float | None) -> None:
    fleet, lines = _pair(cap_mw)
    outcome = backtest(fleet, lines, ["always-on", "break-even"], 0, _quiet, with_bound=False)
    for at, total in enumerate(outcome.total):
        assert total.profit_usd == pytest.approx(sum(one.books[at].profit_usd for one in outcome.judged))
        assert total.violations == {}
        meters = np.sum([one.traces[at].meter_mw for one in outcome.judged], axis=0)
        if cap_mw is not None:
            assert meters.max() <= cap_mw + 1e-6
    free = max(float(np.sum([one.traces[0].meter_mw for one in outcome.judged], axis=0).max()), 0.0)
    assert (free > 16.0) is (cap_mw is None)


def test_a_policy_may_bring_its_own_way_to_share_a_fleets_cap_and_exceeding_it_is_counted() -> None:
    class Generous:
        def share(self, seen: Sequence[Seen], cap_mw: float) -> F8:
            assert [s.cap_mw for s in seen] == [15.0, 10.0]
            return np.array([15.0, 10.0])

    class Own(AlwaysOnPolicy):
        def sharer(self, fleet: Fleet) -> Generous:
            return Generous()

    fleet, lines = _pair(16.0)
    _, over = run_policy(fleet, lines, [Own(), Own()], 0, _quiet)
    assert over == len(lines[0].price)
    _, none = run_policy(fleet, lines, [BreakEvenPolicy(), BreakEvenPolicy()], 0, _quiet)
    assert none == 0
    assert ProRata(fleet).share([], 10.0).tolist() == pytest.approx([6.0, 4.0])


def test_the_bound_of_a_fleet_is_lower_under_a_cap_that_binds_and_no_policy_exceeds_it() -> None:
    free, lines = _pair(None)
    capped, _ = _pair(12.0)
    names = ["always-on", "break-even"]
    without, within = (backtest(fleet, lines, names, 0, _quiet) for fleet in (free, capped))
    assert without.bound_usd is not None
    assert within.bound_usd is not None
    assert within.bound_usd < without.bound_usd
    for books in within.total:
        assert books.violations.get("fleet_cap", 0) == 0
        assert books.profit_usd <= within.bound_usd
    loose, _ = _pair(1_000.0)
    assert backtest(loose, lines, names, 0, _quiet).bound_usd == pytest.approx(without.bound_usd)


def test_a_block_bought_ahead_is_resold_at_the_markets_price_and_not_at_the_caps() -> None:
    """What the block earns or costs is the same whoever runs: it moves the bound by just that."""
    fleet, lines = _pair(12.0)
    first = fleet.sites[0]
    energy = replace(first.energy, block_mw=5.0, block_usd_per_mwh=40.0)
    bought = replace(fleet, sites=(replace(first, energy=energy), *fleet.sites[1:]))
    plain, block = (backtest(each, lines, ["always-on"], 0, _quiet).bound_usd for each in (fleet, bought))
    assert plain is not None
    assert block is not None
    line = lines[0]
    resold = 5.0 * line.interval_ms / 3_600_000 * float((line.price[line.history :] - 40.0).sum())
    assert block - plain == pytest.approx(resold, abs=1e-3 * abs(plain))
