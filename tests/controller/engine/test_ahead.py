"""The plan as it is shown: step by step what was decided, and nothing where nothing was planned."""

from __future__ import annotations

import numpy as np

from controller.engine.ahead import NO_PLAN, NOT_ASKED, NOT_FOLLOWING, Path, path_of
from controller.engine.codec import encode_decision
from controller.engine.decide import decide
from controller.engine.model import Method, Params, SiteDecision, SiteSnapshot, Snapshot
from tests.controller.engine.build import (
    AT,
    HOUR,
    MINUTE,
    MW,
    flat_outlook,
    hash_bank,
    hpc_bank,
    job,
    obligation,
    on,
    site,
)

A = hash_bank("hall-a", start_cost_usd=40.0)  # breaks even at 83.33 USD/MWh
HPC = hpc_bank(mw=6.0)
HOW = Params(economics=Method.OPTIMISER, cap_margin_milli=0)


def decided(snapshot: SiteSnapshot, how: Params = HOW) -> SiteDecision:
    return decide(Snapshot(at_ms=AT, sites=(snapshot,)), how).sites[0]


def shown(snapshot: SiteSnapshot, after_ms: int = 0) -> Path:
    found = decided(snapshot)
    path = path_of(snapshot.model_copy(update={"carry": found.carry}), HOW, AT + after_ms, found.plan)
    assert isinstance(path, Path), path
    return path


def at(path: Path, ms: int) -> int:
    """The step in which the moment falls."""
    return int(np.searchsorted(path.at_ms, ms, side="right")) - 1


def test_a_dear_spell_ahead_is_a_dip_in_the_path_and_now_is_what_was_decided() -> None:
    dear = flat_outlook(40.0, (2 * HOUR, 400.0), (4 * HOUR, 40.0))
    snapshot = site(A, price=40.0, outlook=dear)
    path, now = shown(snapshot), decided(snapshot)
    assert abs(path.power_w[0] - now.planned_w) < 0.01 * now.planned_w
    assert path.power_w[at(path, AT + 3 * HOUR)] < 0.1 * now.planned_w
    assert path.power_w[at(path, AT + 9 * HOUR)] > 0.9 * now.planned_w
    assert path.usd_per_mwh[at(path, AT + 3 * HOUR)] > 300.0
    assert list(path.at_ms) == sorted(path.at_ms)
    assert path.ends_ms == AT + 24 * HOUR


def test_a_minute_later_the_dip_stands_where_it_stood() -> None:
    snapshot = site(A, price=40.0, outlook=flat_outlook(40.0, (2 * HOUR, 400.0), (4 * HOUR, 40.0)))
    early, late = shown(snapshot), shown(snapshot, after_ms=5 * MINUTE)
    for hours in (1, 3, 5, 9):
        assert abs(early.power_w[at(early, AT + hours * HOUR)] - late.power_w[at(late, AT + hours * HOUR)]) < 0.01 * MW


def test_a_coming_curtailment_is_kept_by_the_path() -> None:
    curtailed = obligation(2.0, starts_in=HOUR, lasts=HOUR)
    path = shown(site(A, price=40.0, outlook=flat_outlook(40.0), obligations=(curtailed,)))
    assert path.power_w[0] > 4 * MW
    assert path.power_w[at(path, AT + HOUR + 20 * MINUTE)] <= 2.0 * MW + 1
    assert path.power_w[at(path, AT + 4 * HOUR)] > 4 * MW


def test_workloads_are_told_apart_and_firm_work_that_ends_leaves_the_path() -> None:
    firm = job("9", mw=2.0, firm=True, state="running", remaining_ms=3 * HOUR)
    path = shown(site(A, HPC, price=40.0, outlook=flat_outlook(40.0), jobs=[firm], readings=[on(HPC, 2 * MW)]))
    before, after = at(path, AT + HOUR), at(path, AT + 5 * HOUR)
    assert abs(path.hpc_w[before] - path.hpc_w[after] - 2 * MW) < 1
    assert path.hash_w[before] > 4 * MW
    assert (path.power_w >= path.hash_w + path.hpc_w - 1).all()


def test_where_nothing_was_planned_the_reason_is_told() -> None:
    snapshot = site(A, price=40.0, outlook=flat_outlook(40.0))
    found = decided(snapshot)
    left = snapshot.model_copy(update={"carry": found.carry})
    assert path_of(left, Params(), AT, found.plan) == NOT_ASKED
    assert path_of(snapshot, HOW, AT, found.plan) == NO_PLAN
    assert path_of(left.model_copy(update={"online": False}), HOW, AT, found.plan) == NOT_FOLLOWING
    blind = decided(site(A, price=40.0))
    assert path_of(left, HOW, AT, blind.plan) == "outlook_unknown"


def test_looking_changes_no_byte_of_what_is_decided_next() -> None:
    snapshot = site(A, price=40.0, outlook=flat_outlook(40.0, (2 * HOUR, 400.0), (4 * HOUR, 40.0)))
    first = decided(snapshot)
    nxt = Snapshot(at_ms=AT + MINUTE, sites=(snapshot.model_copy(update={"carry": first.carry}),))
    before = encode_decision(decide(nxt, HOW))
    path_of(nxt.sites[0], HOW, nxt.at_ms, first.plan)
    assert encode_decision(decide(nxt, HOW)) == before
