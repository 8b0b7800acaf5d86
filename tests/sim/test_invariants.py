"""DESIGN's twelve invariants hold over many seeds of whole simulated worlds, faults included.

`WATTSHIFT_SEEDS=1000` runs more of them; `python -m sim.simulate --seed N --minutes 26 --trace` tells one's history.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from sim.faults import FaultKind
from sim.simulation import Options, draw, simulate

SEEDS = int(os.environ.get("WATTSHIFT_SEEDS", "50"))
MINUTES = 26
"""Three to find each other, eleven of faults and asks, twelve to come to rest."""


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_every_invariant_holds_whatever_goes_wrong(seed: int) -> None:
    """And something did go wrong, was asked, obeyed and proven by power, and the oracle had its say."""
    outcome = simulate(Options(seed=seed, minutes=MINUTES))
    assert outcome.violations == [], str(outcome)
    assert len(outcome.faults) >= 2
    assert outcome.asks_taken >= 1
    assert outcome.orders_obeyed >= 10
    assert outcome.receipts["confirmed"] >= 10
    assert outcome.events["DeviceCommanded"] >= 1
    assert outcome.curtailed_mwh > 0.0
    assert outcome.oracles >= 5


def test_without_faults_nothing_is_refused_and_everything_is_confirmed() -> None:
    """What the seeds with faults are to be held against."""
    outcome = simulate(Options(seed=3, minutes=MINUTES, sites=1, faults=False))
    assert outcome.violations == [], str(outcome)
    assert not outcome.faults
    assert not [name for name in outcome.receipts if name.startswith("refused")]
    assert outcome.receipts["confirmed"] > outcome.receipts["pending"] / 4
    assert outcome.receipts["unreachable"] == 0


def test_a_seed_is_one_history() -> None:
    """Event for event, byte for byte; and another seed is another one."""
    options = Options(seed=5, minutes=16)
    first, again = simulate(options), simulate(options)
    assert first.digest == again.digest
    assert first.events == again.events
    assert simulate(Options(seed=6, minutes=16)).digest != first.digest


def test_the_seeds_draw_every_fault_and_every_kind_of_ask() -> None:
    """Of the first fifty, without running them."""
    scenes = [draw(Options(seed=seed, minutes=MINUTES)) for seed in range(1, 51)]
    struck = Counter(fault.kind for scene in scenes for fault in scene.faults)
    assert set(struck) == set(FaultKind)
    asked = Counter(str(getattr(ask.what, "kind", "signal")) for scene in scenes for ask in scene.asks)
    assert set(asked) == {
        "signal",
        "cap",
        "lockout",
        "emergency_stop",
        "floor",
        "hold",
        "force_hash",
        "force_hpc",
    }
    assert {len(scene.sites) for scene in scenes} == {1, 2}
