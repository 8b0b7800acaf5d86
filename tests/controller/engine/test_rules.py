"""Every rule, and every pair of neighbours in the fixed order of priority."""

from __future__ import annotations

from typing import Any

import pytest

from contract.messages import BankPlate, Feeder, Level
from controller.engine.decide import decide
from controller.engine.facts import digest
from controller.engine.model import Params, SiteDecision, Snapshot
from controller.engine.rules import RULES, narrow
from tests.controller.engine.build import (
    AT,
    HOUR,
    MINUTE,
    MW,
    hash_bank,
    hpc_bank,
    interlocked,
    job,
    obligation,
    of,
    off,
    on,
    override,
    reasons,
    run,
    site,
    targets,
)

pytestmark = pytest.mark.usefixtures("method")

A = hash_bank("hall-a")
B = hash_bank("hall-b", j_per_th=30.0)
HPC = hpc_bank()
JOBS = (job("run", mw=1.0), job("contract", mw=0.5, value=1.0, firm=True))


def decided(*, params: Params | None = None, **how: Any) -> SiteDecision:
    how.setdefault("jobs", JOBS)
    return run(site(A, B, HPC, **how), params)


def test_nothing_in_the_way_all_that_earns_runs() -> None:
    decision = decided()
    assert targets(decision) == {"hall-a": 5.0, "hall-b": 5.0, "hpc": 1.9}
    assert decision.planned_w == 11.9 * MW
    assert decision.shortfalls == ()
    assert not decision.urgent


# ---- each rule alone


def test_an_interlocked_bank_stays_off_and_the_others_run() -> None:
    decision = decided(readings=[interlocked(A)])
    assert targets(decision) == {"hall-a": 0, "hall-b": 5.0, "hpc": 1.9}
    assert (of(decision, "hall-a").reason, of(decision, "hall-a").cause) == ("interlock", "over_temperature")


@pytest.mark.parametrize(
    ("scope", "down"),
    [
        ({}, {"hall-a", "hall-b", "hpc"}),
        ({"feeder": "east"}, {"hall-b"}),
        ({"bank": "hpc"}, {"hpc"}),
        ({"feeder": "nowhere"}, set()),
        ({"bank": "nobody"}, set()),
    ],
)
@pytest.mark.parametrize("kind", ["emergency_stop", "lockout"])
def test_a_stop_takes_down_what_it_covers_firm_work_included(kind: str, scope: dict[str, Any], down: set[str]) -> None:
    east = Feeder(id="east", parent="main", limit_w=50 * MW)
    plates = (A, B.model_copy(update={"feeder": "east"}), HPC)
    decision = run(site(*plates, jobs=JOBS, feeders=[east], overrides=[override(kind, **scope)]))
    assert {b.bank for b in decision.banks if b.target_w == 0} == down
    assert {b.bank for b in decision.banks if b.reason == kind} == down
    assert [s.short_w for s in decision.shortfalls if s.kind == "firm_load"] == ([500_000] if "hpc" in down else [])
    assert decision.urgent is (kind == "emergency_stop" and bool(down))


def test_an_obligation_sheds_the_least_valuable_first_and_spares_firm_work() -> None:
    decision = decided(obligations=[obligation(6.0)])
    assert targets(decision) == {"hall-a": 4.1, "hall-b": 0.0, "hpc": 1.9}
    assert reasons(decision) == {"hall-a": "obligation", "hall-b": "obligation", "hpc": "jobs_run"}
    assert (decision.obligation, decision.cap_w, decision.urgent) == ("dr-1", 6 * MW, True)


def test_a_cap_on_the_site_its_feeder_or_its_bank_binds_each_and_the_least_wins() -> None:
    east = Feeder(id="east", parent="main", limit_w=50 * MW)
    plates = (A.model_copy(update={"feeder": "east"}), B.model_copy(update={"feeder": "east"}), HPC)
    caps = [
        override("cap", name="site-wide", mw=9),
        override("cap", name="site-tighter", mw=8.5),
        override("cap", name="hall", feeder="east", mw=7),
        override("cap", name="one-bank", bank="hall-a", mw=3),
    ]
    decision = run(site(*plates, jobs=JOBS, feeders=[east], overrides=caps))
    assert targets(decision) == {"hall-a": 3.0, "hall-b": 3.6, "hpc": 1.9}
    assert of(decision, "hall-a").cause == "one-bank"
    assert of(decision, "hall-b").cause == "site-tighter"
    assert decision.cap_w == 8.5 * MW
    assert decision.shortfalls == ()


def test_a_breaker_limits_the_sum_of_all_below_it() -> None:
    outer = Feeder(id="outer", parent="main", limit_w=8 * MW)
    inner = Feeder(id="inner", parent="outer", limit_w=4 * MW)
    plates = (A.model_copy(update={"feeder": "inner"}), B.model_copy(update={"feeder": "outer"}), HPC)
    decision = run(site(*plates, jobs=JOBS, feeders=[outer, inner]))
    assert targets(decision) == {"hall-a": 4.0, "hall-b": 4.0, "hpc": 1.9}
    assert (of(decision, "hall-a").cause, of(decision, "hall-b").cause) == ("inner", "outer")
    assert reasons(decision)["hall-a"] == "cap"


def test_pue_and_base_load_count_at_the_main_meter_and_not_at_a_feeder() -> None:
    hall = Feeder(id="hall", parent="main", limit_w=5 * MW)
    plate = A.model_copy(update={"feeder": "hall", "pue_milli": 1_100})
    free = run(site(plate, feeders=[hall], base_mw=0.2))
    assert (of(free, "hall-a").target_w, free.planned_w) == (5 * MW, 5_700_000)
    capped = run(site(plate, feeders=[hall], base_mw=0.2, overrides=[override("cap", mw=4.6)]))
    assert (of(capped, "hall-a").target_w, capped.planned_w) == (4 * MW, 4_600_000)


def test_a_plan_stays_below_a_cap_by_the_margin() -> None:
    decision = decided(params=Params(cap_margin_milli=20), overrides=[override("cap", mw=10)])
    assert 9.79 * MW < decision.planned_w <= 9.8 * MW


def test_a_floor_runs_a_bank_against_the_price() -> None:
    decision = decided(price=500.0, overrides=[override("floor", bank="hall-b", mw=2)])
    assert targets(decision) == {"hall-a": 0, "hall-b": 2.0, "hpc": 0.9}
    assert reasons(decision)["hall-b"] == "override"


def test_a_floor_on_the_site_runs_the_best_first_until_the_meter_shows_it() -> None:
    decision = decided(price=500.0, overrides=[override("floor", mw=8)])
    assert targets(decision) == {"hall-a": 5.0, "hall-b": 1.1, "hpc": 1.9}
    assert decision.planned_w == 8 * MW
    assert decision.shortfalls == ()


def test_a_floor_that_cannot_be_reached_says_so() -> None:
    decision = decided(price=500.0, overrides=[override("floor", name="f", mw=30)])
    assert [(s.kind, s.id, s.short_w) for s in decision.shortfalls] == [("floor", "f", 30 * MW - 11_900_000)]


def test_a_hold_keeps_what_is_whatever_the_price_and_the_queue() -> None:
    waiting = (*JOBS, job("next", value=900.0, state="pending"))
    kept = {"hall-a": 3.3, "hall-b": 0.0, "hpc": 2.2}
    readings = [on(A, 3_300_000), off(B), on(HPC, 2_200_000)]
    for price in (-200.0, 40.0, 5_000.0):
        decision = decided(price=price, readings=readings, jobs=waiting, overrides=[override("hold")])
        assert targets(decision) == kept
        assert set(reasons(decision).values()) == {"override"}


def test_forced_hashing_and_forced_hpc_run_whatever_the_price() -> None:
    decision = decided(price=9_000.0, overrides=[override("force_hash")])
    assert targets(decision) == {"hall-a": 5.0, "hall-b": 5.0, "hpc": 0.9}
    decision = decided(price=9_000.0, overrides=[override("force_hpc")])
    assert targets(decision) == {"hall-a": 0.0, "hall-b": 0.0, "hpc": 1.9}
    assert reasons(decision)["hpc"] == "override"


def test_a_ramp_lets_a_bank_rise_so_far_until_the_next_decision() -> None:
    slow = A.model_copy(update={"ramp_up_w_per_s": 10_000})
    first = run(site(slow, readings=[off(slow)]))
    assert (of(first, "hall-a").target_w, of(first, "hall-a").reason) == (600_000, "ramp")
    then = run(site(slow, readings=[on(slow, 600_000)]))
    assert of(then, "hall-a").target_w == 1_200_000
    booting = run(site(slow, readings=[on(slow, 1_200_000, power_w=300_000)]))
    assert of(booting, "hall-a").target_w == 1_200_000, "a bank that lags behind is not lowered by its ramp"


def test_a_fall_is_never_held_back_by_a_ramp() -> None:
    slow = A.model_copy(update={"ramp_up_w_per_s": 1})
    assert of(run(site(slow, price=900.0)), "hall-a").target_w == 0


def test_dwell_keeps_a_bank_up_at_its_lowest_level_or_down() -> None:
    levels = (Level(power_w=3 * MW, hashrate_ghs=3 * MW * 45), Level(power_w=5 * MW, hashrate_ghs=5 * MW * 40))
    plate = A.model_copy(update={"min_up_ms": HOUR, "min_down_ms": HOUR, "levels": levels})
    up = run(site(plate, price=900.0, readings=[on(plate, on_for_ms=MINUTE)]))
    assert (of(up, "hall-a").target_w, of(up, "hall-a").reason) == (3 * MW, "hold_dwell")
    down = run(site(plate, price=1.0, readings=[off(plate, on_for_ms=MINUTE)]))
    assert (of(down, "hall-a").target_w, of(down, "hall-a").reason) == (0, "hold_dwell")
    rested = run(site(plate, price=1.0, readings=[off(plate, on_for_ms=HOUR)]))
    assert of(rested, "hall-a").target_w == 5 * MW


# ---- neighbours in the order of priority


def test_interlock_beats_emergency_stop() -> None:
    decision = decided(readings=[interlocked(A)], overrides=[override("emergency_stop")])
    assert reasons(decision) == {"hall-a": "interlock", "hall-b": "emergency_stop", "hpc": "emergency_stop"}


def test_emergency_stop_beats_an_obligation_that_would_leave_power() -> None:
    decision = decided(obligations=[obligation(6.0)], overrides=[override("emergency_stop")])
    assert set(reasons(decision).values()) == {"emergency_stop"}
    assert set(targets(decision).values()) == {0.0}


def test_obligation_beats_lockout_for_the_blame_and_both_hold() -> None:
    both = decided(obligations=[obligation(2.0)], overrides=[override("lockout", bank="hall-b")])
    assert reasons(both)["hall-b"] == "obligation", "it would be down for the obligation alone"
    assert targets(both)["hall-b"] == 0
    roomy = decided(obligations=[obligation(50.0)], overrides=[override("lockout", bank="hall-b")])
    assert reasons(roomy)["hall-b"] == "lockout"


def test_lockout_beats_cap() -> None:
    decision = decided(overrides=[override("lockout", bank="hall-a"), override("cap", name="c", bank="hall-a", mw=2)])
    assert (targets(decision)["hall-a"], reasons(decision)["hall-a"]) == (0, "lockout")


def test_obligation_and_cap_together_the_tighter_binds_and_each_is_blamed_for_its_part() -> None:
    decision = decided(obligations=[obligation(10.0)], overrides=[override("cap", name="c", mw=6.5)])
    assert targets(decision) == {"hall-a": 4.6, "hall-b": 0.0, "hpc": 1.9}
    assert reasons(decision) == {"hall-a": "cap", "hall-b": "obligation", "hpc": "jobs_run"}


def test_cap_beats_floor_hold_and_force_and_the_floor_says_what_it_lacks() -> None:
    cap = override("cap", name="c", mw=4)
    for manual in ("hold", "force_hash"):
        decision = decided(overrides=[cap, override(manual)])
        assert decision.planned_w <= 4 * MW
        assert reasons(decision)["hall-b"] == "cap"
    floored = decided(overrides=[cap, override("floor", name="f", mw=7)])
    assert floored.planned_w == 4 * MW
    assert [(s.kind, s.short_w) for s in floored.shortfalls] == [("floor", 3 * MW)]


def test_a_manual_override_beats_the_economics_and_dwell() -> None:
    plate = A.model_copy(update={"min_down_ms": HOUR})
    forced = run(site(plate, price=900.0, readings=[off(plate, on_for_ms=0)], overrides=[override("force_hash")]))
    assert (of(forced, "hall-a").target_w, of(forced, "hall-a").reason) == (5 * MW, "override")


def test_stale_data_beats_a_manual_override() -> None:
    blind = off(A, power_w=None, age_ms=None)
    forced = run(site(A, readings=[blind], overrides=[override("force_hash")]))
    assert (of(forced, "hall-a").target_w, of(forced, "hall-a").reason) == (0, "data_stale")


@pytest.mark.parametrize(
    "stronger",
    [
        {"readings": [interlocked(A)]},
        {"overrides": [override("emergency_stop")]},
        {"obligations": [obligation(0.0)]},
        {"overrides": [override("lockout")]},
        {"overrides": [override("cap", mw=0)]},
    ],
)
def test_dwell_yields_to_every_stronger_rule(stronger: dict[str, Any]) -> None:
    plate = A.model_copy(update={"min_up_ms": 24 * HOUR})
    decision = run(site(plate, **({"readings": [on(plate, on_for_ms=MINUTE)]} | stronger)))
    assert of(decision, "hall-a").target_w == 0


# ---- overrides among themselves


def test_of_one_kind_the_most_specific_stands_then_the_newest() -> None:
    floors = [
        override("floor", name="old", bank="hall-a", mw=4, created_at_ms=AT - 2),
        override("floor", name="new", bank="hall-a", mw=2, created_at_ms=AT - 1),
    ]
    decision = decided(price=900.0, overrides=floors)
    assert (targets(decision)["hall-a"], of(decision, "hall-a").cause) == (2.0, "new")
    holds = [
        override("hold", name="wide", created_at_ms=AT),
        override("hold", name="feeder", feeder="main", created_at_ms=AT - 1),
        override("hold", name="bank", bank="hall-a", created_at_ms=AT - 2),
    ]
    decision = decided(overrides=holds)
    assert (of(decision, "hall-a").cause, of(decision, "hall-b").cause) == ("bank", "feeder")


def test_a_hold_is_stronger_than_a_forced_workload_even_a_more_specific_one() -> None:
    decision = decided(readings=[off(A)], overrides=[override("hold", name="h"), override("force_hash", bank="hall-a")])
    assert (targets(decision)["hall-a"], of(decision, "hall-a").cause) == (0, "h")


def test_orders_for_another_site_change_nothing() -> None:
    stray = override("emergency_stop", site="east")
    due = obligation(0.0).model_copy(update={"site": "east"})
    assert decided(overrides=[stray], obligations=[due]) == decided()


# ---- the envelope itself


def test_rules_only_narrow() -> None:
    """Each rule, run after those before it, leaves every upper bound where it was or lower."""
    overrides = [
        override("cap", name="c", bank="hall-a", mw=3),
        override("floor", name="f", bank="hall-a", mw=2),
        override("hold", name="h", bank="hall-b"),
        override("lockout", name="l", bank="hpc"),
    ]
    facts = digest(site(A, B, HPC, readings=[on(B, 4 * MW)], overrides=overrides), Params(), AT)
    bounds = narrow(facts, [], None).bounds
    by_bank = dict(zip([b.id for b in facts.banks], bounds, strict=True))
    assert [(n.rule.value, n.cause, n.watts) for n in by_bank["hall-a"].trace] == [
        ("cap", "c", 3 * MW),
        ("override", "f", 2 * MW),
    ]
    for bank, bound in zip(facts.banks, bounds, strict=True):
        assert 0 <= bound.lo_w <= bound.hi_w <= bank.natural_w
        ceilings = [n.watts for n in bound.trace if n is not bound.forced]
        assert ceilings == sorted(ceilings, reverse=True)
    assert len(RULES) == 10


def test_a_duplicate_that_no_honest_sender_makes_is_settled_by_content_not_order() -> None:
    one, two = override("cap", name="same", mw=3), override("cap", name="same", mw=6)
    plates: tuple[BankPlate, ...] = (A, B)
    first = decide(Snapshot(at_ms=AT, sites=(site(*plates, overrides=[one, two]),)), Params())
    second = decide(Snapshot(at_ms=AT, sites=(site(*plates, overrides=[two, one]),)), Params())
    assert first == second
