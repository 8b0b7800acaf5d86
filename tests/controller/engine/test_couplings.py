"""What the weather and reserves awarded bind together, in the live dispatch: by merit order and by plan alike."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from controller.engine.codec import decode, encode_snapshot
from controller.engine.decide import decide
from controller.engine.model import (
    Ambient,
    Decision,
    Hall,
    Method,
    Outlook,
    Params,
    SiteDecision,
    SiteSnapshot,
    Snapshot,
)
from tests.controller.engine.build import (
    AT,
    HOUR,
    MINUTE,
    MW,
    award,
    flat_outlook,
    hash_bank,
    hpc_bank,
    job,
    method,
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

__all__ = ["method"]
A = hash_bank("hall-a", start_cost_usd=40.0)  # breaks even at 83.33 USD/MWh
B = hash_bank("hall-b", j_per_th=30.0, start_cost_usd=40.0)  # at 69.44
HPC = hpc_bank(mw=6.0)
HOT = Hall(id="east", banks=("hall-a", "hall-b"), cooling_w=((20.0, 10 * MW), (30.0, 8 * MW), (40.0, 6 * MW)))
PLAN = Params(economics=Method.OPTIMISER, cap_margin_milli=0)


def cooled(snapshot: SiteSnapshot, ambient_c: float | None, *halls: Hall, age_ms: int = 60_000) -> SiteSnapshot:
    known = None if ambient_c is None else Ambient(dry_bulb_c=ambient_c, age_ms=age_ms)
    return snapshot.model_copy(update={"halls": halls or (HOT,), "ambient": known})


def planned(snapshot: SiteSnapshot, at_ms: int = AT) -> SiteDecision:
    return decide(Snapshot(at_ms=at_ms, sites=(snapshot,)), PLAN).sites[0]


# ---- cooling


@pytest.mark.usefixtures("method")
@pytest.mark.parametrize(("ambient_c", "carried_mw"), [(15.0, 10.0), (30.0, 8.0), (35.0, 7.0), (45.0, 6.0)])
def test_a_halls_banks_draw_no_more_together_than_its_cooling_carries_at_that_temperature(
    ambient_c: float, carried_mw: float
) -> None:
    decision = run(cooled(site(A, B), ambient_c))
    assert targets(decision) == {"hall-a": 5.0, "hall-b": carried_mw - 5.0}, "the worthier megawatts stay"


@pytest.mark.usefixtures("method")
def test_the_sentence_says_what_the_cooling_carries_and_at_what_temperature() -> None:
    decision = run(cooled(site(A, B), 35.0))
    assert reasons(decision)["hall-b"] == "cap"
    assert of(decision, "hall-b").cause == "hall:east"
    assert "Hall B gives up 3.0 MW: the cooling of East carries 7.0 MW at 35 C outside" in decision.sentence


@pytest.mark.usefixtures("method")
@pytest.mark.parametrize("age_ms", [None, 4 * HOUR])
def test_a_temperature_that_is_unknown_or_old_is_taken_for_the_hottest(age_ms: int | None) -> None:
    known = cooled(site(A, B), None if age_ms is None else 15.0, age_ms=age_ms or 0)
    decision = run(known)
    assert sum(targets(decision).values()) == 6.0
    assert "carries 6.0 MW as on its hottest day, for no temperature is known" in decision.sentence


@pytest.mark.usefixtures("method")
def test_cooling_binds_firm_work_too_and_what_it_keeps_off_is_said() -> None:
    hall = HOT.model_copy(update={"banks": ("hpc",)})
    firm = job("gold", mw=5.0, firm=True), job("iron", mw=0.3, firm=True, value=300.0)
    decision = run(cooled(site(HPC, jobs=firm), 45.0, hall.model_copy(update={"cooling_w": ((20.0, 3 * MW),)})))
    assert targets(decision) == {"hpc": 0.7}
    assert [(s.kind, s.short_w) for s in decision.shortfalls] == [("firm_load", 5 * MW)]


@pytest.mark.usefixtures("method")
def test_a_derating_below_what_cannot_be_shed_is_a_stated_shortfall() -> None:
    hall = HOT.model_copy(update={"banks": ("hpc",), "cooling_w": ((20.0, 100_000),)})
    decision = run(cooled(site(HPC, jobs=()), 25.0, hall))
    assert [(s.kind, s.id, s.short_w) for s in decision.shortfalls] == [("cooling", "hall:east", 300_000)]
    assert "300 kW over what the cooling of East carries" in decision.sentence


def test_the_plan_puts_a_job_where_the_weather_has_room_for_it() -> None:
    """2 MW of cooling in the hot afternoon, 6 MW from three hours on: the 3 MW job waits though its price is the same,
    and is not said to be late."""
    hall = HOT.model_copy(update={"banks": ("hpc",), "cooling_w": ((20.0, 6 * MW), (40.0, 2 * MW))})
    flat = flat_outlook(40.0)
    assert flat is not None
    warm = tuple(40.0 if k < 12 else 20.0 for k in range(96))
    due = job("17", mw=3.0, value=200.0, state="pending", remaining_ms=4 * HOUR, deadline_ms=AT + 9 * HOUR)
    snapshot = site(HPC, jobs=[due], price=40.0, outlook=flat.model_copy(update={"ambient_c": warm}))
    decision = planned(cooled(snapshot, 40.0, hall))
    assert targets(decision)["hpc"] == 0.4
    assert decision.shortfalls == ()
    cool = planned(cooled(snapshot, 20.0, hall, age_ms=0))
    assert targets(cool)["hpc"] == 3.4, "what is measured now outranks what was expected of now"


def test_a_job_that_the_weather_leaves_no_time_for_is_said_to_be_late() -> None:
    hall = HOT.model_copy(update={"banks": ("hpc",), "cooling_w": ((20.0, 6 * MW), (40.0, 2 * MW))})
    flat = flat_outlook(40.0)
    assert flat is not None
    due = job("17", mw=3.0, value=200.0, state="pending", remaining_ms=4 * HOUR, deadline_ms=AT + 6 * HOUR)
    hot = flat.model_copy(update={"ambient_c": (40.0,) * 96})
    decision = planned(cooled(site(HPC, jobs=[due], price=40.0, outlook=hot), 40.0, hall))
    assert [(s.kind, s.id) for s in decision.shortfalls] == [("deadline", "17")]


@pytest.mark.usefixtures("method")
def test_the_energy_bill_has_the_pue_of_the_weather() -> None:
    """At 30 J/TH and a PUE of 1.0 a bank breaks even at 69.44 USD/MWh, at 1.2 at 57.87."""
    hall = Hall(id="east", banks=("hall-b",), pue_milli=((10.0, 1_000), (30.0, 1_200)))
    mild, hot = (run(cooled(site(B, price=62.0), c, hall)) for c in (10.0, 30.0))
    assert (targets(mild), targets(hot)) == ({"hall-b": 5.0}, {"hall-b": 0.0})
    assert (of(mild, "hall-b").value_usd_per_mwh, of(hot, "hall-b").value_usd_per_mwh) == (69.44, 57.87)
    assert run(cooled(site(B, price=40.0), 30.0, hall)).planned_w == 6 * MW, "and it is what the main meter shows"


def test_the_nameplates_pue_holds_where_it_is_more_for_the_agent_holds_caps_by_it() -> None:
    plate = B.model_copy(update={"pue_milli": 1_100})
    hall = Hall(id="east", banks=("hall-b",), pue_milli=((10.0, 1_000), (30.0, 1_200)))
    assert run(cooled(site(plate), 10.0, hall)).planned_w == 5_500_000


@pytest.mark.usefixtures("method")
def test_a_hall_may_have_the_name_of_a_feeder_and_an_override_means_the_feeder() -> None:
    hall = HOT.model_copy(update={"id": "main"})
    decision = run(cooled(site(A, B, overrides=[override("cap", mw=9)]), 45.0, hall))
    assert sum(targets(decision).values()) == 6.0
    assert of(decision, "hall-b").cause == "hall:main"


def test_curves_that_rise_where_they_should_fall_are_refused() -> None:
    with pytest.raises(ValidationError, match="cooling_w: must not rise as the weather warms"):
        Hall(id="east", banks=("hall-a",), cooling_w=((20.0, 1), (30.0, 2)))
    with pytest.raises(ValidationError, match="pue_milli: must not fall as the weather warms"):
        Hall(id="east", banks=("hall-a",), pue_milli=((20.0, 1_200), (30.0, 1_100)))
    with pytest.raises(ValidationError, match="temperatures must rise strictly"):
        Hall(id="east", banks=("hall-a",), cooling_w=((20.0, 2), (20.0, 1)))


# ---- reserve awards


@pytest.mark.usefixtures("method")
def test_what_is_awarded_runs_although_its_energy_costs_more_than_it_earns() -> None:
    decision = run(site(A, B, price=120.0, obligations=[award(3.0)]))
    assert sum(targets(decision).values()) >= 3.0
    assert decision.armed_w is not None
    assert decision.armed_w >= 3 * MW
    assert reasons(decision)["hall-a"] == "award", "the bank that loses least"
    assert of(decision, "hall-a").cause == "ecrs-1"
    assert targets(decision)["hall-b"] == 0.0
    assert "running at 120 USD/MWh, above its break-even of 83: reserve award ecrs-1 needs it to shed" in (
        decision.sentence
    )
    assert "can be shed for 3.0 MW awarded (ecrs-1, " in decision.sentence
    assert not decision.shortfalls
    assert not decision.urgent


@pytest.mark.usefixtures("method")
def test_without_an_award_nothing_of_it_is_said_and_the_bytes_are_as_ever() -> None:
    decision = run(site(A, B, price=120.0))
    assert sum(targets(decision).values()) == 0.0
    assert decision.armed_w is None
    assert "armed_w" not in decision.model_dump_json()
    snapshot = site(A, B, obligations=[obligation(4.0)])
    assert not {"halls", "ambient", "award_w"} & set(snapshot.model_dump_json().replace('"', " ").split())


@pytest.mark.usefixtures("method")
def test_flexible_jobs_arm_a_reserve_firm_ones_do_not() -> None:
    work = [job("gold", mw=2.0, firm=True), job("poor", mw=1.5, value=20.0)]
    decision = run(site(HPC, jobs=work, price=40.0, obligations=[award(1.0)]))
    assert (targets(decision)["hpc"], decision.armed_w) == (3.9, 1_500_000)
    short = run(site(HPC, jobs=work, price=40.0, obligations=[award(1.8)]))
    assert [(s.kind, s.id, s.short_w) for s in short.shortfalls] == [("award", "ecrs-1", 300_000)]
    assert "300 kW short of reserve award ecrs-1" in short.sentence


@pytest.mark.usefixtures("method")
def test_an_award_outranks_no_limit_and_what_it_lacks_is_said() -> None:
    decision = run(cooled(site(A, B, price=120.0, obligations=[award(7.0)], limit_mw=4.0), 20.0))
    assert sum(targets(decision).values()) <= 4.0
    assert [s.kind for s in decision.shortfalls] == ["award"]
    stopped = run(site(A, B, price=40.0, obligations=[award(7.0)], overrides=[override("emergency_stop")]))
    assert sum(targets(stopped).values()) == 0.0


@pytest.mark.usefixtures("method")
def test_a_reserve_called_on_is_shed_and_not_said_to_be_missing() -> None:
    decision = run(site(A, B, price=40.0, obligations=[award(5.0), obligation(4.0, name="deploy")]))
    assert sum(targets(decision).values()) == 4.0
    assert not decision.shortfalls


@pytest.mark.usefixtures("method")
def test_awards_add_up_and_a_bank_down_is_started_in_time_for_one() -> None:
    slow = A.model_copy(update={"start_delay_ms": 10 * MINUTE})
    both = [award(2.0, name="ecrs-1"), award(1.5, name="nspin-1")]
    decision = run(site(slow, B, price=120.0, readings=[off(slow), off(B)], obligations=both))
    assert decision.armed_w is not None
    assert decision.armed_w >= 3_500_000
    soon = [award(2.0, starts_in=11 * MINUTE)]
    begun = run(site(slow, price=120.0, readings=[off(slow)], obligations=soon))
    assert targets(begun)["hall-a"] >= 2.0
    later = [award(2.0, starts_in=3 * HOUR)]
    assert targets(run(site(slow, price=120.0, readings=[off(slow)], obligations=later)))["hall-a"] == 0.0


def test_the_plan_keeps_a_job_for_the_hours_in_which_a_reserve_needs_it() -> None:
    """The award is in three hours, hashing is down for the price: the job that has time to wait arms it then."""
    due = job("17", mw=3.0, value=100.0, state="pending", remaining_ms=3 * HOUR, deadline_ms=AT + 9 * HOUR)
    plain = site(A, HPC, jobs=[due], price=90.0, outlook=flat_outlook(90.0), readings=[off(A), on(HPC, 400_000)])
    assert targets(planned(plain))["hpc"] == 3.4
    reserve = plain.model_copy(update={"obligations": (award(2.5, starts_in=3 * HOUR, lasts=2 * HOUR),)})
    assert targets(planned(reserve))["hpc"] == 0.4


def test_a_reserves_plan_is_carried_on_minute_by_minute_without_a_change() -> None:
    snapshot = cooled(site(A, B, HPC, price=75.0, outlook=flat_outlook(75.0), obligations=[award(6.0)]), 30.0)
    first = now = planned(snapshot)
    for minute in range(1, 4):
        now = planned(snapshot.model_copy(update={"carry": now.carry}), AT + minute * MINUTE)
        assert targets(now) == targets(first)
        assert now.plan is not None
        assert not now.plan.fallback


def test_snapshots_with_halls_and_awards_come_back_from_their_bytes() -> None:
    snapshot = Snapshot(at_ms=AT, sites=(cooled(site(A, B, obligations=[award(6.0)]), 30.0),))
    assert decode(Snapshot, encode_snapshot(snapshot)) == snapshot
    assert isinstance(decide(snapshot, PLAN), Decision)


def test_an_outlook_without_temperatures_leaves_what_is_measured() -> None:
    flat = flat_outlook(40.0)
    assert isinstance(flat, Outlook)
    assert sum(targets(planned(cooled(site(A, B, outlook=flat), 30.0))).values()) == 8.0
