"""The guard, rule by rule: what is admitted, what silence does, what limits cut, and how banks come back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.guard import adopt, planned_w, set_local
from contract.messages import Mode, ShedStep
from contract.reasons import ReceiptReason
from tests.agent.guarding import HPC, MAIN, A, B, Site, held, plan

# admission


def test_an_order_for_another_site_comes_first_of_all_checks() -> None:
    site = Site(plan())
    assert site.admit(site.order(site="south"), sent_ms=None).detail.startswith("for site south")


def test_an_order_that_answers_no_report_of_ours_is_refused_and_leaves_no_trace() -> None:
    site = Site(plan())
    before = site.state
    assert site.admit(site.order(epoch=9), sent_ms=None).reason is ReceiptReason.BASIS_UNKNOWN
    assert site.state == before, "an unknown basis must not move the fence"


def test_a_lower_epoch_is_refused_whatever_its_sequence() -> None:
    site = Site(plan())
    site.tell(a=500, epoch=5)
    refusal = site.admit(site.order(epoch=4, seq=10**6))
    assert refusal.reason is ReceiptReason.EPOCH_OLD


def test_an_older_sequence_is_refused_and_a_repeat_is_only_a_duplicate() -> None:
    site = Site(plan())
    first = site.order(a=500)
    second = site.order(a=700)
    assert site.admit(second).accepted
    late = site.admit(first)
    assert (late.reason, late.duplicate) == (ReceiptReason.SEQ_OLD, False)
    again = site.admit(second)
    assert (again.accepted, again.duplicate) == (False, True)
    forged = site.admit(second.model_copy(update={"cap_w": 1}))
    assert (forged.accepted, forged.duplicate) == (False, False), "the same number with other content is no duplicate"


def test_a_new_epoch_begins_its_own_sequence() -> None:
    site = Site(plan())
    site.tell(a=500, epoch=1, seq=900)
    assert site.admit(site.order(epoch=2, seq=0)).accepted
    assert (site.state.epoch, site.state.seq) == (2, 0)


def test_an_order_is_dated_by_the_report_it_answers() -> None:
    site = Site(plan())
    expired = site.admit(site.order(valid_for_ms=30_000), sent_ms=site.at - 30_000)
    assert expired.reason is ReceiptReason.LEASE_EXPIRED
    assert site.admit(site.order(valid_for_ms=30_000), sent_ms=site.at - 29_999).accepted
    assert site.state.lease_until_ms == site.at + 1


def test_an_expired_order_still_moves_the_fence() -> None:
    """It is the newest; one older than it must not act afterwards."""
    site = Site(plan())
    older, newer = site.order(a=900), site.order(a=100, valid_for_ms=1)
    assert site.admit(newer, sent_ms=site.at - 10).reason is ReceiptReason.LEASE_EXPIRED
    assert site.admit(older).reason is ReceiptReason.SEQ_OLD


def test_local_control_refuses_orders_and_keeps_hands_off() -> None:
    site = Site(plan(), level_w=1_000, on=True)
    site.tell(a=1_000, b=1_000, hpc=1_000)
    site.state = set_local(site.plan, site.state, site.facts, site.at, local=True)
    assert site.admit(site.order()).reason is ReceiptReason.LOCAL_MODE
    verdict = site.step(10**7)
    assert verdict.mode is Mode.LOCAL
    assert held(verdict) == [None, None, None]


def test_after_local_control_the_site_is_held_as_found_until_an_order_or_the_handover_is_over() -> None:
    site = Site(plan(handover_ms=60_000), level_w=1_000, on=True)
    site.state = set_local(site.plan, site.state, site.facts, site.at, local=True)
    site.see(A, standing_w=10)
    site.see(B, standing_w=600)
    site.state = set_local(site.plan, site.state, site.facts, site.at, local=False)
    verdict = site.step(1_000)
    assert (verdict.mode, held(verdict)) == (Mode.AUTO, [10, 600, 1_000])
    assert not any(bank.may_raise for bank in verdict.banks)
    assert site.step(60_000).mode is Mode.SAFE


# what is wanted


def test_a_bank_that_the_order_does_not_name_stands_down() -> None:
    site = Site(plan(), level_w=1_000, on=True)
    order = site.order(a=500)
    assert site.admit(order.model_copy(update={"setpoints": order.setpoints[:1]})).accepted
    assert held(site.step()) == [500, 0, 0]


def test_a_setpoint_of_the_wrong_workload_stands_the_bank_down() -> None:
    site = Site(plan(), level_w=1_000, on=True)
    order = site.order(a=500)
    swapped = tuple(setpoint.model_copy(update={"workload": "hpc"}) for setpoint in order.setpoints)
    assert site.admit(order.model_copy(update={"setpoints": swapped})).accepted
    assert held(site.step())[A] == 0


def test_silence_means_the_fail_safe_and_never_more_than_before() -> None:
    site = Site(plan(a={"fail_safe_w": 300}, b={"fail_safe_w": 900}))
    site.tell(a=1_000, b=500, hpc=700)
    assert site.step(59_999).mode is Mode.AUTO
    verdict = site.step(1)
    assert (verdict.mode, held(verdict)) == (Mode.SAFE, [300, 500, 700])
    assert verdict.order is None
    assert not any(bank.may_raise for bank in verdict.banks)


def test_after_the_lease_the_site_waits_its_configured_time_without_raising() -> None:
    site = Site(plan(fail_safe_after_ms=20_000, a={"ramp_up_w_per_s": 10}))
    site.tell(a=1_000)
    site.step(30_000)
    level = held(site.step(29_999))[A]
    verdict = site.step(10_000)
    assert verdict.mode is Mode.AUTO
    assert held(verdict)[A] == level, "no rise without a lease"
    assert site.step(10_001).mode is Mode.SAFE


def test_an_order_after_silence_brings_banks_back() -> None:
    site = Site(plan())
    site.tell(a=1_000)
    site.step(60_000)
    site.see(A, upper_w=10)
    assert held(site.tell(a=1_000))[A] == 1_000


# limits


def test_planned_watts_stay_within_every_feeder_down_the_orders_ladder() -> None:
    site = Site(plan(main_w=2_000, row_w=900))
    ladder = (ShedStep(bank="hpc", frees_w=1_000), ShedStep(bank="a", frees_w=1_000))
    verdict = site.tell(a=1_000, b=1_000, hpc=1_000, ladder=ladder)
    assert held(verdict) == [900, 900, 199]
    assert [bank.why for bank in verdict.banks] == [ReceiptReason.FEEDER_LIMIT] * 3
    assert planned_w(site.plan, verdict, MAIN) <= 2_000


def test_without_a_ladder_the_least_efficient_goes_first_and_hpc_last() -> None:
    site = Site(plan(main_w=1_500))
    assert held(site.tell(a=1_000, b=1_000, hpc=1_000)) == [489, 10, 1_000]


def test_the_orders_cap_binds_the_main_and_stays_when_the_lease_is_gone() -> None:
    site = Site(plan(a={"fail_safe_w": 1_000}))
    verdict = site.tell(a=1_000, b=1_000, hpc=1_000, cap_w=2_000)
    assert planned_w(site.plan, verdict, MAIN) <= 2_000
    assert verdict.banks[B].why is ReceiptReason.CLAMPED
    verdict = site.step(60_000)
    assert verdict.mode is Mode.SAFE
    assert planned_w(site.plan, verdict, MAIN) <= 2_000


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({}, False),
        ({"urgent": True}, True),
        ({"obligation": "event-1"}, True),
    ],
)
def test_firm_work_is_touched_only_where_an_urgent_order_marks_it(changes: dict[str, Any], marked: bool) -> None:
    site = Site(plan(), level_w=1_000, on=True)
    ladder = (ShedStep(bank="hpc", job="7", frees_w=500, firm=True),)
    assert site.tell(hpc=500, ladder=ladder, **changes).banks[HPC].firm_too is marked


@pytest.mark.parametrize(
    ("reason", "cut"), [("lockout", True), ("emergency_stop", True), ("price_above_break_even", False)]
)
def test_firm_work_goes_for_as_long_as_ops_keep_its_bank_down(reason: str, cut: bool) -> None:
    """A level and not an edge: also orders that repeat it, which are not urgent, give leave."""
    site = Site(plan())
    ladder = (ShedStep(bank="hpc", job="7", frees_w=500, firm=True),)
    for urgent in (True, False, False):
        order = site.order(ladder=ladder, urgent=urgent and cut)
        down = tuple(setpoint.model_copy(update={"reason": reason}) for setpoint in order.setpoints)
        assert site.admit(order.model_copy(update={"setpoints": down})).accepted
        assert site.step().banks[HPC].firm_too is cut


def test_a_cap_gives_no_leave_to_touch_firm_work_and_a_breaker_does() -> None:
    site = Site(plan(), level_w=1_000, on=True)
    assert not site.tell(a=1_000, b=1_000, hpc=1_000, cap_w=500).banks[HPC].firm_too
    site = Site(plan(main_w=500), level_w=1_000, on=True)
    assert site.tell(a=1_000, b=1_000, hpc=1_000).banks[HPC].firm_too


# rises


def test_a_bank_rises_only_into_room_that_another_has_been_seen_to_give_back() -> None:
    """Break before make: what was lowered occupies its feeder until power says that it has fallen."""
    site = Site(plan(main_w=1_020))
    site.tell(a=1_000)
    site.see(A, upper_w=1_000)
    verdict = site.tell(b=990)
    assert held(verdict)[:2] == [0, 10], "no more than it draws standing still"
    assert verdict.banks[B].why is ReceiptReason.FEEDER_LIMIT
    site.see(A, upper_w=400)
    assert held(site.step(1_000))[B] == 610
    site.see(A, upper_w=None)
    assert held(site.step(1_000))[B] == 610, "unknown power gives nothing back"
    site.see(A, upper_w=10)
    assert held(site.step(1_000))[B] == 990


def test_a_rise_is_ramped_and_a_fall_is_not() -> None:
    site = Site(plan(a={"ramp_up_w_per_s": 100}))
    assert held(site.tell(a=1_000))[A] == 10
    assert held(site.step(1_000))[A] == 110
    assert held(site.step(2_500))[A] == 360
    assert site.step().banks[A].why is ReceiptReason.RAMPING
    assert held(site.tell(a=0))[A] == 0


def test_a_ramp_loses_nothing_to_rounding_however_often_it_is_asked() -> None:
    site = Site(plan(a={"ramp_up_w_per_s": 7}))
    site.tell(a=1_000)
    for _ in range(1_000):
        verdict = site.step(10)
    assert held(verdict)[A] == 10 + 70


def test_a_bank_stays_down_its_minimum_time() -> None:
    site = Site(plan(a={"min_down_ms": 20_000}))
    site.tell(a=1_000)
    site.tell(a=0)
    verdict = site.tell(a=1_000)
    assert (held(verdict)[A], verdict.banks[A].why) == (0, ReceiptReason.DWELL)
    assert held(site.step(19_999))[A] == 0
    assert held(site.step(1))[A] == 1_000


def test_the_minimum_time_counts_from_when_the_last_device_was_seen_to_stop() -> None:
    site = Site(plan(a={"min_down_ms": 20_000}))
    site.tell(a=1_000)
    site.see(A, fell_ms=site.at + 30_000)
    site.tell(a=0)
    site.step(30_000)
    assert held(site.tell(a=1_000))[A] == 0, "a straggler stopped only now"
    assert held(site.step(20_000))[A] == 1_000


def test_a_fall_is_never_delayed_by_dwell() -> None:
    site = Site(plan(a={"min_down_ms": 10**6}))
    site.tell(a=1_000)
    assert held(site.tell(a=0))[A] == 0


def test_starts_are_staggered_by_chance_that_is_handed_in() -> None:
    site = Site(plan(stagger_ms=10_000))
    site.chance = 0.5
    assert held(site.tell(a=1_000))[A] == 0
    assert held(site.step(4_999))[A] == 0
    assert held(site.step(1))[A] == 1_000


def test_a_bank_that_runs_is_raised_without_stagger() -> None:
    site = Site(plan(stagger_ms=10_000), level_w=500, on=True)
    site.chance = 0.9
    assert held(site.tell(a=1_000))[A] == 1_000


def test_a_blind_meter_holds_everything_behind_it() -> None:
    site = Site(plan(metered=True))
    site.tell(a=500, b=500)
    site.meter(1, None)
    verdict = site.tell(a=1_000, b=1_000)
    assert held(verdict)[:2] == [500, 1_000]
    assert verdict.banks[A].why is ReceiptReason.POWER_UNKNOWN
    assert held(site.tell(a=100, b=1_000))[A] == 100, "down is always possible"


def test_where_configured_planned_watts_alone_decide_without_the_meter() -> None:
    site = Site(plan(metered=True, on_meter_lost="plan"))
    site.meter(MAIN, None)
    assert held(site.tell(a=1_000))[A] == 1_000


def test_a_first_start_takes_the_site_as_it_is_found() -> None:
    site = Site(plan(), level_w=1_000, on=True)
    site.see(A, standing_w=10)
    site.see(B, standing_w=None)
    state = adopt(site.plan, site.state, site.facts, site.at)
    assert [bank.level_w for bank in state.banks] == [10, 1_000, 1_000]
    assert [bank.on for bank in state.banks] == [False, True, True]
    assert state.banks[A].since_ms == site.at


def test_a_yielding_agent_is_safe_and_obeys_nobody() -> None:
    site = Site(plan())
    site.tell(a=1_000)
    site.state = replace(site.state, yielded=True)
    verdict = site.step()
    assert (verdict.mode, held(verdict)[A]) == (Mode.SAFE, 0)
    assert not site.admit(site.order(a=1_000)).accepted


# what truly runs


def test_a_bank_whose_last_device_had_to_stop_rests_its_minimum_time_though_its_level_stays() -> None:
    """Its setpoint leaves no room for a single device, and a moment later does: that is a stop and a start."""
    site = Site(plan(a={"min_down_ms": 20_000}))
    site.tell(a=1_000)
    site.see(A, runs=True, turned_ms=site.at)
    assert site.step(1_000).banks[A].may_raise
    site.see(A, runs=False, turned_ms=site.at + 2_000)
    verdict = site.step(2_000)
    assert (verdict.banks[A].setpoint_w, verdict.banks[A].on) == (1_000, False)
    assert not verdict.banks[A].may_raise
    assert verdict.banks[A].why is ReceiptReason.DWELL
    assert not site.step(19_999).banks[A].may_raise
    assert site.step(1).banks[A].may_raise
    site.see(A, runs=True, turned_ms=site.at + 500)
    verdict = site.step(1_000)
    assert (verdict.banks[A].on, verdict.banks[A].since_ms) == (True, site.at - 500), "on since its first device runs"


def test_a_bank_that_is_off_for_want_of_room_starts_nothing_until_its_level_is_enough() -> None:
    """Silent devices that a meter proves to draw nothing may leave room for one: that is no start."""
    site = Site(plan(a={"least_run_w": 500}))
    verdict = site.tell(a=499)
    assert (verdict.banks[A].on, verdict.banks[A].may_raise) == (False, False)
    verdict = site.tell(a=500)
    assert (verdict.banks[A].on, verdict.banks[A].may_raise) == (True, True)


def test_what_ran_before_a_level_was_set_says_nothing_of_it() -> None:
    site = Site(plan(a={"min_down_ms": 20_000}))
    site.see(A, runs=False, turned_ms=site.at - 1_000)
    verdict = site.tell(a=1_000)
    assert verdict.banks[A].may_raise
    assert site.step(1_000).banks[A].on


def test_a_bank_found_running_after_a_restart_is_on_once_its_rest_is_over() -> None:
    site = Site(plan(a={"min_down_ms": 20_000}), level_w=1_000, since_ms=100_000)
    site.see(A, runs=True)
    assert not site.tell(a=1_000).banks[A].on
    assert site.step(20_000).banks[A].on


# what does not come down


def test_a_bank_that_stays_above_its_level_makes_others_leave_it_room() -> None:
    """Firm jobs draw on whatever is asked: what shares their feeder comes down before the breaker says so."""
    site = Site(plan(main_w=2_000, settle_ms=20_000))
    site.tell(a=1_000, b=900, hpc=10, valid_for_ms=10**6)
    site.see(HPC, known_w=600)
    assert held(site.step(1_000)) == [1_000, 900, 10], "it is given its time to fall"
    assert held(site.step(19_999))[B] == 900
    assert held(site.step(1)) == [1_000, 400 - 1, 10]
    site.see(HPC, known_w=None)
    assert held(site.step(1_000))[B] == 399, "unknown power gives nothing back"
    site.see(HPC, known_w=10)
    assert held(site.step(1_000))[B] == 900


def test_a_few_percent_above_its_level_are_a_bank_that_follows() -> None:
    site = Site(plan(main_w=2_000, settle_ms=20_000))
    site.tell(a=500, b=1_000, hpc=499, valid_for_ms=10**6)
    site.see(A, known_w=525)
    site.step(1_000)
    assert held(site.step(60_000)) == [500, 1_000, 499]


def test_firm_work_that_stands_is_cut_only_when_nothing_else_is_left() -> None:
    site = Site(plan(main_w=700, settle_ms=20_000))
    site.tell(a=300, b=300, hpc=10, valid_for_ms=10**6)
    site.see(HPC, known_w=680)
    site.step(1_000)
    verdict = site.step(20_000)
    assert held(verdict)[:2] == [10, 10]
    assert not verdict.banks[HPC].firm_too
    site.see(HPC, known_w=690)
    assert site.step(1_000).banks[HPC].firm_too
