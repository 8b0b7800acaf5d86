"""What a plan over the day does that the price of now alone does not, and what it says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from contract.messages import BankReading, Feeder, Job, JobState
from controller.engine import planned
from controller.engine.codec import encode_decision
from controller.engine.decide import decide
from controller.engine.economics import dispatch
from controller.engine.facts import digest
from controller.engine.model import Decision, Method, Outlook, Params, Quota, SiteDecision, SiteSnapshot, Snapshot
from controller.engine.outlook import PricePaths
from controller.engine.pose import GRID, Posed, pose
from controller.engine.rules import narrow
from controller.engine.second import worth_of
from controller.engine.wish import Wish
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
    of,
    off,
    on,
    reasons,
    site,
    targets,
)

Q = 15 * MINUTE
A = hash_bank("hall-a", start_cost_usd=40.0, start_delay_ms=3 * MINUTE)  # breaks even at 83.33 USD/MWh
B = hash_bank("hall-b", j_per_th=30.0, start_cost_usd=40.0)  # at 69.44
HPC = hpc_bank(mw=6.0)
HOW = Params(economics=Method.OPTIMISER, cap_margin_milli=0)
DUE = job("17", mw=3.0, value=60.0, state="pending", remaining_ms=4 * HOUR, deadline_ms=AT + 5 * HOUR)


def run(snapshot: SiteSnapshot, at_ms: int = AT, how: Params = HOW) -> SiteDecision:
    return decide(Snapshot(at_ms=at_ms, sites=(snapshot,)), how).sites[0]


# ---- banks


def test_a_spike_of_one_interval_is_ridden_out_where_a_restart_costs_more() -> None:
    """27 USD/MWh over 5 MW and a quarter of an hour lose 33 USD; stopping and starting 40, and more."""
    decision = run(site(A, price=110.0, outlook=flat_outlook(110.0, (Q, 40.0))))
    assert (targets(decision), reasons(decision)) == ({"hall-a": 5.0}, {"hall-a": "plan_ahead"})
    assert of(decision, "hall-a").cause == "restart"
    assert decision.sentence.startswith(
        "Hall A stays up (5.0 MW) at 110 USD/MWh, above its break-even of 83: a restart would cost more"
    )


def test_a_longer_or_a_dearer_spike_is_not() -> None:
    for spike in (flat_outlook(110.0, (2 * HOUR, 40.0)), flat_outlook(400.0, (Q, 40.0))):
        assert spike is not None
        decision = run(site(A, price=spike.usd_per_mwh[0], outlook=spike))
        assert (targets(decision), reasons(decision)) == ({"hall-a": 0.0}, {"hall-a": "price_above_break_even"})


def test_nothing_is_started_that_a_spike_to_come_would_stop_again() -> None:
    soon = flat_outlook(40.0, (Q, 300.0), (HOUR, 40.0))
    decision = run(site(A, readings=[off(A)], price=40.0, outlook=soon))
    assert (targets(decision)["hall-a"], reasons(decision)["hall-a"]) == (0.0, "plan_ahead")
    assert of(decision, "hall-a").cause == "start"
    assert "stays down at 40 USD/MWh, below its break-even of 83" in decision.sentence
    later = flat_outlook(40.0, (6 * HOUR, 300.0), (7 * HOUR, 40.0))
    assert targets(run(site(A, readings=[off(A)], price=40.0, outlook=later)))["hall-a"] == 5.0


def test_a_bank_is_not_begun_for_less_than_an_obligation_leaves_time_to_earn_back() -> None:
    """A start at 400 USD earns 23 USD/MWh for an hour and a half before it must stop for the night."""
    dear = A.model_copy(update={"start_cost_usd": 400.0})
    night = obligation(0.0, starts_in=90 * MINUTE, lasts=23 * HOUR)
    flat = flat_outlook(60.0)
    assert targets(run(site(dear, readings=[off(dear)], price=60.0, outlook=flat, obligations=[night])))["hall-a"] == 0
    assert targets(run(site(dear, readings=[off(dear)], price=20.0, outlook=flat_outlook(20.0))))["hall-a"] == 5.0


def test_what_runs_and_earns_is_never_stopped_while_there_is_room_for_it() -> None:
    for ahead in (flat_outlook(60.0, (Q, 900.0)), flat_outlook(60.0, (Q, -50.0)), flat_outlook(60.0)):
        assert targets(run(site(A, B, price=60.0, outlook=ahead))) == {"hall-a": 5.0, "hall-b": 5.0}


# ---- jobs


def test_a_job_with_time_to_spare_waits_for_cheaper_hours() -> None:
    rich = DUE.model_copy(update={"value_usd_per_node_h": 30.0})  # 100 USD/MWh
    cheap = flat_outlook(80.0, (30 * MINUTE, 30.0))
    decision = run(site(HPC, jobs=[rich], price=80.0, outlook=cheap))
    assert (targets(decision)["hpc"], of(decision, "hpc").cause) == (0.4, "wait:17")
    assert "HPC lets job 17 due 03:13 UTC wait until 22:43 UTC for cheaper hours" in decision.sentence
    flat = run(site(HPC, jobs=[rich], price=80.0, outlook=flat_outlook(80.0)))
    assert targets(flat)["hpc"] == 3.4, "for nothing it does not wait"


def test_a_job_is_held_against_the_price_once_it_must_run_to_be_done_in_time() -> None:
    must = DUE.model_copy(update={"deadline_ms": AT + 4 * HOUR + 20 * MINUTE})
    decision = run(site(A, HPC, jobs=[must], price=80.0, outlook=flat_outlook(80.0)))
    assert targets(decision) == {"hall-a": 5.0, "hpc": 3.4}
    assert (reasons(decision)["hpc"], of(decision, "hpc").cause) == ("plan_ahead", "job:17")
    assert decision.sentence.startswith("HPC holds 3.0 MW for job 17 due 02:33 UTC; Hall A runs")
    alone = decide(
        Snapshot(at_ms=AT, sites=(site(A, HPC, jobs=[must], price=80.0),)), Params(cap_margin_milli=0)
    ).sites[0]
    assert targets(alone)["hpc"] == 0.4, "the price of now alone would leave it waiting"


def test_under_a_cap_a_job_that_is_due_takes_megawatts_from_hashing_worth_more() -> None:
    must = DUE.model_copy(update={"deadline_ms": AT + 4 * HOUR + 20 * MINUTE})
    decision = run(site(A, HPC, jobs=[must], price=40.0, outlook=flat_outlook(40.0), limit_mw=6.0))
    assert targets(decision) == {"hall-a": 2.6, "hpc": 3.4}
    assert reasons(decision)["hall-a"] == "cap"


def test_a_job_that_cannot_be_done_in_time_is_said() -> None:
    late = DUE.model_copy(update={"deadline_ms": AT + 2 * HOUR})
    decision = run(site(HPC, jobs=[late], price=40.0, outlook=flat_outlook(40.0)))
    assert [(s.kind, s.id, s.short_w) for s in decision.shortfalls] == [("deadline", "17", 3 * MW)]
    assert targets(decision)["hpc"] == 3.4, "and it runs as far as it can"
    assert "job 17 (3.0 MW) will not be done in time" in decision.sentence


def test_a_running_job_is_not_stopped_for_a_spike_that_costs_less_than_its_restart() -> None:
    work = [job("r", mw=2.0, value=60.0, restart_cost_usd=300.0)]
    spike = flat_outlook(400.0, (Q, 30.0))
    decision = run(site(HPC, jobs=work, price=400.0, outlook=spike))
    assert (targets(decision)["hpc"], of(decision, "hpc").cause) == (2.4, "job:r")
    assert "HPC holds 2.0 MW for job r whose restart would cost more" in decision.sentence


# ---- when there is nothing to plan with


def test_without_an_outlook_merit_order_decides_and_says_so() -> None:
    snapshot = site(A, B, HPC, jobs=[DUE], price=75.0, readings=[off(B)])
    plain = decide(Snapshot(at_ms=AT, sites=(snapshot,)), HOW.model_copy(update={"economics": Method.MERIT_ORDER}))
    decision = run(snapshot)
    assert targets(decision) == targets(plain.sites[0])
    assert decision.plan is not None
    assert decision.plan.fallback == "outlook_unknown"
    assert of(decision, "hall-a").cause == "merit_order:outlook_unknown"
    assert "by the price of now alone, for no outlook of prices is known" in decision.sentence


@pytest.mark.parametrize("stale_ms", [-3 * 24 * HOUR, 2 * HOUR])
def test_an_outlook_that_is_over_or_not_begun_is_none(stale_ms: int) -> None:
    other = flat_outlook(40.0)
    assert other is not None
    decision = run(site(A, outlook=other.model_copy(update={"start_ms": AT + stale_ms})))
    assert decision.plan is not None
    assert decision.plan.fallback == "outlook_unknown"


def test_with_no_price_the_stance_applies_whatever_the_outlook() -> None:
    decision = run(site(A, B, readings=[off(B)], price=None, outlook=flat_outlook(20.0)))
    assert targets(decision) == {"hall-a": 5.0, "hall-b": 0.0}
    assert set(reasons(decision).values()) == {"price_stale"}


def test_a_site_too_large_to_plan_is_decided_all_the_same() -> None:
    banks = [hash_bank(f"hall-{i:03d}", mw=0.1) for i in range(330)]
    decision = run(site(*banks, outlook=flat_outlook(40.0)))
    assert decision.plan is not None
    assert decision.plan.fallback == "too_large"
    assert decision.planned_w == 33 * MW


def test_a_plan_that_is_worse_than_merit_order_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan gone wrong, all down at a good price and far from its bound: the second opinion finds it out."""
    honest = planned._anew

    def wrong(sites: Sequence[Posed]) -> list[planned._Found]:
        return [replace(found, wish=Wish(profit_usd=-100.0)) for found in honest(sites)]

    monkeypatch.setattr(planned, "_anew", wrong)
    decision = run(site(A, B, outlook=flat_outlook(40.0)))
    assert decision.plan is not None
    assert decision.plan.fallback == "plan_worse"
    assert targets(decision) == {"hall-a": 5.0, "hall-b": 5.0}


def test_a_first_minute_is_worth_what_the_best_plan_from_there_on_earns() -> None:
    """Standing down at a good price costs the minute and the start that follows; going on costs nothing."""
    facts = digest(site(A, outlook=flat_outlook(40.0)), HOW, AT)
    envelope = narrow(facts, [], None)
    price = PricePaths(GRID).of(facts)
    assert price is not None
    posed = pose(facts, envelope, price)
    runs = dispatch(facts, envelope)
    stands = dispatch(facts, envelope)
    stands.outcomes[0].target_w = 0
    lost_usd = worth_of(posed, runs) - worth_of(posed, stands)
    minute_usd = (83.33 - 40.0) * 5.0 / 60.0
    boot_usd = 83.33 * 5.0 * 3 / 60.0
    assert lost_usd == pytest.approx(minute_usd + boot_usd + posed.units[0].figures[11], rel=0.02)


# ---- what is carried from one plan to the next


def test_a_plan_is_carried_on_and_the_dispatch_rests() -> None:
    """An hour of minutes at a level price: no target moves, and the plan stays near its bound."""
    work = [
        job("x", mw=1.0, value=200.0, remaining_ms=6 * HOUR, deadline_ms=AT + 20 * HOUR),
        job("y", mw=0.5, value=90.0),
    ]
    snapshot = site(A, B, HPC, jobs=work, limit_mw=9.0, outlook=flat_outlook(40.0, (3 * HOUR, 120.0), (5 * HOUR, 40.0)))
    seen = set()
    for minute in range(60):
        decision = run(snapshot, AT + minute * MINUTE)
        seen.add(tuple(sorted(targets(decision).items())))
        assert decision.plan is not None
        assert decision.plan.gap is not None
        assert decision.plan.gap < 0.02
        assert len(decision.carry) < 4_000
        snapshot = snapshot.model_copy(update={"carry": decision.carry})
    assert len(seen) == 1


@pytest.mark.parametrize("seed", [3, 6, 11])
def test_a_plan_searched_for_after_the_price_has_changed_is_left_with_the_prices_that_prove_it(seed: int) -> None:
    """Where a new plan is no better than the one carried on, its bound is: without it the gap looked many times as wide
    from then on, and a plan that lost a fifth of its worth would not have been noticed."""
    rng = Random(seed)
    work = [
        job(
            f"j{place}",
            mw=rng.choice((0.5, 1.0, 2.0)),
            value=rng.uniform(60, 400),
            state="running" if place < 3 else "pending",
            remaining_ms=rng.randint(1, 5) * HOUR,
            deadline_ms=AT + rng.randint(6, 20) * HOUR,
        )
        for place in range(8)
    ]
    outlook = flat_outlook(300.0, (HOUR, 60.0))
    snapshot = site(A, B, HPC, jobs=work, limit_mw=9.0, price=300.0, readings=[off(A), off(B)], outlook=outlook)
    for minute in range(12):
        if minute == 5:
            snapshot = snapshot.model_copy(update={"outlook": flat_outlook(20.0, (2 * HOUR, 60.0))})
        decision = run(snapshot, AT + minute * MINUTE)
        assert decision.plan is not None
        assert decision.plan.gap is not None
        assert decision.plan.gap < 0.02
        snapshot = snapshot.model_copy(update={"carry": decision.carry})


@pytest.mark.parametrize("text", ["", "nonsense", "bm90IHpsaWI=", "\u00e9", "eJwDAAAAAAE="])
def test_a_carry_that_is_damaged_is_as_good_as_none(text: str) -> None:
    snapshot = site(A, B, outlook=flat_outlook(40.0))
    assert run(snapshot.model_copy(update={"carry": text})) == run(snapshot)


def test_a_carry_of_another_plant_is_as_good_as_none() -> None:
    other = run(site(hash_bank("elsewhere"), outlook=flat_outlook(40.0), limit_mw=2.0)).carry
    snapshot = site(A, B, outlook=flat_outlook(40.0), limit_mw=8.0)
    assert run(snapshot.model_copy(update={"carry": other})) == run(snapshot)


@pytest.mark.parametrize("later_ms", [-HOUR, 3 * HOUR])
def test_a_clock_that_jumps_begins_the_plan_anew(later_ms: int) -> None:
    snapshot = site(A, B, outlook=flat_outlook(40.0), limit_mw=8.0)
    carried = snapshot.model_copy(update={"carry": run(snapshot, AT + later_ms if later_ms < 0 else AT).carry})
    at_ms = AT if later_ms < 0 else AT + later_ms
    assert run(carried, at_ms) == run(snapshot, at_ms) or later_ms < 0
    assert targets(run(carried, at_ms)) == targets(run(snapshot, at_ms))


def test_a_site_is_decided_alone_as_in_company_byte_for_byte() -> None:
    """So that one site of a tick can be replayed by itself: cold and with a plan carried on."""
    sites = []
    for place in range(7):
        banks = [
            hash_bank(f"hall-{i}", mw=1.0 + i, j_per_th=20.0 + 2 * i + place, start_cost_usd=5.0 * i) for i in range(3)
        ]
        work = [
            job(f"j{i}", mw=0.4 * (i + 1), value=50.0 + 20 * i, deadline_ms=AT + (i + 2) * HOUR, remaining_ms=HOUR)
            for i in range(place)
        ]
        outlook = flat_outlook(30.0 + 10 * place, (HOUR, 120.0), (2 * HOUR, 10.0))
        one = site(*banks, HPC, jobs=work, limit_mw=4.0 + place, price=30.0 + 10 * place, outlook=outlook)
        sites.append(one.model_copy(update={"site": f"s{place}"}))
    for minute in range(3):
        at_ms = AT + minute * MINUTE
        together = decide(Snapshot(at_ms=at_ms, sites=tuple(sites)), HOW)
        for one, decision in zip(sites, together.sites, strict=True):
            alone = decide(Snapshot(at_ms=at_ms, sites=(one,)), HOW)
            assert encode_decision(alone) == encode_decision(Decision(at_ms=at_ms, sites=(decision,)))
        sites = [one.model_copy(update={"carry": d.carry}) for one, d in zip(sites, together.sites, strict=True)]


def test_a_decision_without_a_plan_has_the_bytes_it_had_before_there_were_plans() -> None:
    snapshot = Snapshot(at_ms=AT, sites=(site(A),))
    text = encode_decision(decide(snapshot, Params()))
    assert b'"carry"' not in text
    assert b'"plan"' not in text


# ---- limits


def test_a_quota_is_a_cap_at_the_main_meter_while_it_holds() -> None:
    snapshot = site(A, B, outlook=flat_outlook(40.0)).model_copy(update={"quota": Quota(cap_w=6 * MW, until_ms=AT + Q)})
    decision = run(snapshot)
    assert (decision.planned_w, decision.cap_w) == (6 * MW, 6 * MW)
    assert of(decision, "hall-b").cause == "fleet"
    assert run(snapshot, AT + Q).planned_w == 10 * MW


def test_a_feeder_with_nothing_to_plan_below_it_is_no_limit_of_the_plan() -> None:
    """Here the pumps': it has its breaker, a meter, and no bank. The plan is proven all the same."""
    pumps = Feeder(id="pumps", parent="main", limit_w=MW)
    snapshot = site(A, B, feeders=[pumps], metered={"pumps": 900_000}, limit_mw=8.0, outlook=flat_outlook(40.0))
    decision = run(snapshot)
    assert decision.plan is not None
    assert decision.plan.gap is not None
    assert decision.plan.gap < 1e-3


# ---- worth


def test_over_a_day_of_short_spikes_the_plan_earns_more_than_the_price_of_now() -> None:
    """A closed loop of five-minute steps, prices known in their interval, start costs paid, one set of rules."""
    prices = [40.0 + (75.0 if k % 9 == 4 else 0.0) + (900.0 if 60 <= k < 66 else 0.0) for k in range(96)]
    earned = {method: _a_day(method, prices) for method in Method}
    assert earned[Method.OPTIMISER] > 1.01 * earned[Method.MERIT_ORDER]


def _a_day(method: Method, prices: list[float]) -> float:
    """USD of hall A over the day, by five-minute steps."""
    how = HOW.model_copy(update={"economics": method})
    usd, up, since_ms, carry = 0.0, True, AT - 24 * HOUR, ""
    for step in range(288):
        at_ms, quarter = AT + step * 5 * MINUTE, step // 3
        outlook = Outlook(start_ms=AT + quarter * Q, step_ms=Q, usd_per_mwh=tuple((prices * 2)[quarter : quarter + 96]))
        reading: BankReading = (on if up else off)(A, on_for_ms=at_ms - since_ms)
        snapshot = site(A, readings=[reading], price=prices[quarter], outlook=outlook)
        decision = run(snapshot.model_copy(update={"carry": carry}), at_ms, how)
        runs, carry = of(decision, "hall-a").target_w > 0, decision.carry
        if runs != up:
            up, since_ms = runs, at_ms
            usd -= A.start_cost_usd if runs else 0.0
        booting_h = max(0.0, (A.start_delay_ms - (at_ms - since_ms)) / HOUR) if runs else 0.0
        usd += 5.0 * runs * (83.33 * (5 / 60 - min(booting_h, 5 / 60)) - prices[quarter] * 5 / 60)
    return usd


def test_the_states_a_job_may_be_in_are_all_planned() -> None:
    for state in JobState:
        work: list[Job] = [DUE.model_copy(update={"state": state})]
        decision = run(site(HPC, jobs=work, price=20.0, outlook=flat_outlook(20.0)))
        assert targets(decision)["hpc"] == 3.4


# ---- a partition's firm work


def test_firm_jobs_that_wait_for_nodes_take_no_power_of_those_that_run() -> None:
    """Three firm jobs of 2 MW wait for ten nodes each and none is free: what runs has the partition to itself."""
    running = [job(str(n), mw=1.0, value=300.0, remaining_ms=8 * HOUR) for n in (1, 2)]
    waiting = [job(str(n), mw=2.0, state="pending", firm=True, remaining_ms=HOUR) for n in (3, 4, 5)]
    snapshot = site(HPC, price=40.0, outlook=flat_outlook(40.0), jobs=[*running, *waiting], nodes_up=20)
    decision = run(snapshot)
    assert targets(decision) == {"hpc": 2.4}
    facts = digest(snapshot, HOW, AT)
    envelope = narrow(facts, [], None)
    price = PricePaths(GRID).of(facts)
    assert price is not None
    caps = {row.key: row.cap.min() for row in pose(facts, envelope, price).rows}
    assert caps.get("bank:hpc", 2.0) >= 2.0
