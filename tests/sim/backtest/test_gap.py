"""What a policy leaves to the bound is accounted for: no part earns against the prices, a known cause has its part."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from sim.backtest.gap import Gap, gap_of
from sim.backtest.model import Policy, Site, Timeline
from sim.backtest.thresholds import AlwaysOnPolicy, BreakEvenPolicy
from sim.backtest.wattshift import WattshiftPolicy
from tests.sim.backtest.worlds import bank, job, site, timeline


@pytest.mark.parametrize("policy", [AlwaysOnPolicy, BreakEvenPolicy, WattshiftPolicy])
@pytest.mark.parametrize("seed", range(3))
def test_no_unit_does_better_than_its_best_answer(policy: type[Policy], seed: int) -> None:
    """Nor does a plan within the limits use room that is not there: every part but a start's is nothing or a loss."""
    rng = Random(seed)
    price = [rng.choice((-15.0, 30.0, 45.0, 300.0, 2_000.0)) for _ in range(192)]
    jobs = tuple(job(f"j{k}", 5 * k, window=12 + rng.randrange(20)) for k in range(24))
    gap = _gap(site(), timeline(price, jobs=jobs), policy())
    assert gap.bound_usd > gap.profit_usd
    for usd in (gap.power_usd, gap.nodes_usd, gap.hours_usd, gap.undone_usd, gap.restarts_usd, gap.rest_usd):
        assert usd >= -1e-6 * abs(gap.bound_usd), gap


def test_a_bank_that_runs_through_a_spike_is_the_rest() -> None:
    """Alone, at known prices, break-even leaves nothing and always-on the whole of the spike."""
    where = replace(site(), banks=(bank("one", 20.0, boot_h=0.0),), partitions=(), firm_loads=())
    when = timeline([30.0] * 24 + [5_000.0] * 4 + [30.0] * 20)
    none, all_of_it = _gap(where, when, BreakEvenPolicy()), _gap(where, when, AlwaysOnPolicy())
    assert none.rest_usd == pytest.approx(0.0, abs=200.0)  # the restart, and an interval that boots
    assert all_of_it.rest_usd == pytest.approx(all_of_it.bound_usd - all_of_it.profit_usd)
    assert all_of_it.rest_usd > 0.8 * where.banks[0].level_mw[-1] * 5_000.0


def _gap(where: Site, when: Timeline, policy: Policy) -> Gap:
    return gap_of(where, when, policy, 0, 400)
