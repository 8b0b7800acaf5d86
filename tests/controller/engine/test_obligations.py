"""A curtailment from its notice to its end."""

from __future__ import annotations

import pytest

from controller.engine.model import Params
from tests.controller.engine.build import (
    HOUR,
    MINUTE,
    MW,
    hash_bank,
    hpc_bank,
    job,
    obligation,
    of,
    off,
    on,
    reasons,
    run,
    site,
    targets,
)

pytestmark = pytest.mark.usefixtures("method")

A = hash_bank("hall-a")
HPC = hpc_bank()
HOW = Params(cap_margin_milli=0, obligation_lead_ms=2 * MINUTE)


@pytest.mark.parametrize(
    ("starts_in", "lasts", "sheds"),
    [
        (2 * MINUTE + 1, HOUR, False),
        (2 * MINUTE, HOUR, True),
        (0, HOUR, True),
        (-HOUR + 1, HOUR, True),
        (-HOUR, HOUR, False),
        (-MINUTE, 0, False),
    ],
)
def test_the_shed_begins_a_lead_before_the_start_and_ends_with_the_obligation(
    starts_in: int, lasts: int, sheds: bool
) -> None:
    decision = run(site(A, obligations=[obligation(0.5, starts_in=starts_in, lasts=lasts)]), HOW)
    assert of(decision, "hall-a").target_w == (500_000 if sheds else 5 * MW)
    assert decision.obligation == ("dr-1" if sheds else None)
    assert decision.cap_w == (500_000 if sheds else None)
    assert decision.urgent is sheds


def test_once_shed_it_is_no_longer_urgent() -> None:
    decision = run(site(A, readings=[off(A)], obligations=[obligation(0.0)]), HOW)
    assert (of(decision, "hall-a").reason, decision.urgent) == ("obligation", False)


def test_the_target_is_met_at_the_main_meter_with_pue_and_base_load() -> None:
    plate = A.model_copy(update={"pue_milli": 1_200})
    decision = run(site(plate, base_mw=0.4, obligations=[obligation(1.6)]), HOW)
    assert (of(decision, "hall-a").target_w, decision.planned_w) == (MW, 1_600_000)


def test_of_two_at_once_the_tighter_counts() -> None:
    both = [obligation(3.0, name="loose"), obligation(2.0, name="tight")]
    decision = run(site(A, obligations=both), HOW)
    assert (decision.obligation, decision.planned_w, of(decision, "hall-a").cause) == ("tight", 2 * MW, "tight")


def test_firm_work_is_spared_and_the_shortfall_said() -> None:
    work = [job("contract", mw=1.0, firm=True), job("flexible", mw=1.0, value=900.0)]
    decision = run(site(A, HPC, jobs=work, obligations=[obligation(1.0)]), HOW)
    assert targets(decision) == {"hall-a": 0.0, "hpc": 1.4}
    assert [(s.kind, s.id, s.short_w) for s in decision.shortfalls] == [("obligation", "dr-1", 400_000)]
    assert decision.cap_w == 1_400_000, "the agent must not shed the firm job to reach what cannot be reached"


def test_a_legal_order_cuts_firm_work_too_and_says_how_much() -> None:
    work = [job("contract", mw=1.0, firm=True)]
    decision = run(site(A, HPC, jobs=work, obligations=[obligation(1.0, firm_too=True)]), HOW)
    assert (targets(decision)["hpc"], decision.cap_w) == (0.4, MW)
    assert targets(decision)["hall-a"] == 0.6, "the job cannot run on what is left, hashing can"
    assert [(s.kind, s.short_w) for s in decision.shortfalls] == [("firm_load", MW)]


def test_what_cannot_be_met_is_said_as_soon_as_it_is_known() -> None:
    work = [job("contract", mw=1.0, firm=True)]
    due = obligation(1.0, starts_in=20 * HOUR)
    decision = run(site(A, HPC, jobs=work, obligations=[due]), HOW)
    assert [(s.kind, s.short_w) for s in decision.shortfalls] == [("obligation", 400_000)]
    assert targets(decision) == {"hall-a": 5.0, "hpc": 1.4}, "nothing is shed before its time"
    legal = run(site(A, HPC, jobs=work, obligations=[due.model_copy(update={"firm_too": True})]), HOW)
    assert legal.shortfalls == ()


@pytest.mark.parametrize(("starts_in", "starts"), [(20 * MINUTE, False), (31 * MINUTE, False), (33 * MINUTE, True)])
def test_no_bank_is_started_that_would_have_to_stop_again_at_once(starts_in: int, starts: bool) -> None:
    """The payback time is 30 minutes, the lead 2."""
    decision = run(site(A, readings=[off(A)], obligations=[obligation(0.0, starts_in=starts_in)]), HOW)
    assert (of(decision, "hall-a").target_w > 0) is starts
    assert starts or of(decision, "hall-a").reason == "obligation"
    assert not decision.urgent


def test_what_runs_goes_on_until_the_shed_begins() -> None:
    decision = run(site(A, obligations=[obligation(0.0, starts_in=20 * MINUTE)]), HOW)
    assert targets(decision)["hall-a"] == 5.0


def test_a_bank_that_the_obligation_will_leave_running_may_start_as_far_as_it_will_run() -> None:
    other = hash_bank("hall-b", j_per_th=20.0)
    decision = run(site(A, other, readings=[off(A), off(other)], obligations=[obligation(6.0, starts_in=20 * MINUTE)]))
    assert targets(decision) == {"hall-a": 1.0, "hall-b": 5.0}


def test_a_waiting_job_that_would_be_cut_at_once_is_not_started_but_a_short_one_is() -> None:
    long = job("long", mw=1.0, state="pending", remaining_ms=5 * HOUR)
    short = job("short", mw=0.5, state="pending", remaining_ms=5 * MINUTE)
    decision = run(site(HPC, jobs=[long, short], obligations=[obligation(0.4, starts_in=20 * MINUTE)]), HOW)
    assert targets(decision)["hpc"] == 0.9
    assert reasons(decision)["hpc"] == "obligation"


@pytest.mark.parametrize(("starts_in", "runs"), [(13 * MINUTE, True), (11 * MINUTE, False)])
def test_a_job_with_notice_is_shed_that_much_earlier(starts_in: int, runs: bool) -> None:
    work = [job("noticed", mw=1.0, notice_ms=10 * MINUTE), job("plain", mw=1.0)]
    decision = run(site(HPC, jobs=work, obligations=[obligation(0.4, starts_in=starts_in)]), HOW)
    assert targets(decision)["hpc"] == (2.4 if runs else 1.4)


def test_after_the_end_the_economics_bring_it_back_once_its_down_time_is_over() -> None:
    plate = A.model_copy(update={"min_down_ms": HOUR})
    over = obligation(0.0, starts_in=-HOUR, lasts=HOUR)
    early = run(site(plate, readings=[off(plate, on_for_ms=30 * MINUTE)], obligations=[over]), HOW)
    assert reasons(early)["hall-a"] == "hold_dwell"
    later = run(site(plate, readings=[off(plate, on_for_ms=HOUR)], obligations=[over]), HOW)
    assert targets(later)["hall-a"] == 5.0


def test_a_zero_length_or_finished_obligation_is_nothing() -> None:
    gone = [obligation(0.0, name="gone", starts_in=-2 * HOUR), obligation(0.0, name="empty", starts_in=0, lasts=0)]
    assert run(site(A, readings=[on(A)], obligations=gone), HOW) == run(site(A, readings=[on(A)]), HOW)
