"""The guard's minimum up time: what a young bank is kept at, and what ends it at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.guard_model import Verdict
from contract.messages import Order
from contract.reasons import ReceiptReason
from tests.agent.guarding import HPC, MAIN, ROW_A, A, Site, held, plan


def young(**changes: Any) -> Site:
    site = Site(plan(a={"min_up_ms": 300_000} | changes))
    site.tell(a=1_000, valid_for_ms=10**6)
    return site


def stop(site: Site, reason: str, **changes: Any) -> Order:
    order = site.order(valid_for_ms=10**6, **changes)
    setpoints = tuple(setpoint.model_copy(update={"reason": reason}) for setpoint in order.setpoints)
    return order.model_copy(update={"setpoints": setpoints})


MONEY = [
    "price_below_break_even",
    "price_above_break_even",
    "plan_ahead",
    "price_stale",
    "hold_dwell",
    "hold_hysteresis",
]


@pytest.mark.parametrize("reason", MONEY)
def test_a_bank_that_merely_does_not_pay_stays_up_its_minimum_time_at_its_least(reason: str) -> None:
    site = young()
    assert site.admit(stop(site, reason)).accepted
    verdict = site.step(1_000)
    assert (verdict.banks[A].setpoint_w, verdict.banks[A].why) == (110, ReceiptReason.DWELL)
    assert held(site.step(298_999))[A] == 110
    assert held(site.step(1))[A] == 0


@pytest.mark.parametrize("reason", ["obligation", "cap", "emergency_stop", "lockout", "override", "interlock", "other"])
def test_any_other_reason_stops_it_at_once(reason: str) -> None:
    site = young()
    assert site.admit(stop(site, reason)).accepted
    assert held(site.step(1_000))[A] == 0


@pytest.mark.parametrize("changes", [{"urgent": True}, {"obligation": "event-1"}, {"cap_w": 3_000}])
def test_no_bank_is_kept_up_under_an_urgent_order_an_obligation_or_a_cap(changes: dict[str, Any]) -> None:
    site = young()
    assert site.admit(stop(site, "price_above_break_even", **changes)).accepted
    assert held(site.step(1_000))[A] == 0


def test_the_minimum_up_time_yields_to_silence_to_heat_and_to_a_breaker() -> None:
    site = young(max_inlet_mc=40_000)
    assert site.admit(stop(site, "price_above_break_even")).accepted
    site.see(A, inlet_mc=41_000)
    assert held(site.step(1_000))[A] == 0
    site = young()
    silent = stop(site, "price_above_break_even").model_copy(update={"valid_for_ms": 5_000})
    assert site.admit(silent).accepted
    assert held(site.step(1_000))[A] == 110
    assert held(site.step(4_000))[A] == 0
    site = Site(plan(row_w=50, a={"min_up_ms": 300_000}), level_w=1_000, on=True, since_ms=99_000)
    assert site.admit(stop(site, "price_above_break_even")).accepted
    assert held(site.step())[A] == 50


def lower(site: Site, a: int, reason: str = "price_below_break_even", **changes: Any) -> Verdict:
    order = site.order(a=a, valid_for_ms=10**6, **changes)
    setpoints = tuple(setpoint.model_copy(update={"reason": reason}) for setpoint in order.setpoints)
    assert site.admit(order.model_copy(update={"setpoints": setpoints})).accepted
    return site.step(1_000)


def test_money_does_not_stop_a_young_bank_by_leaving_too_little_beside_a_silent_device() -> None:
    """What the silent one may draw is left free for it, and the rest is too little for the only one that runs: it is
    kept at what that one needs, nothing else is started in it, and its minimum time over it obeys."""
    site = young()
    site.see(A, keeps_w=700)
    verdict = lower(site, 400)
    assert (verdict.banks[A].setpoint_w, verdict.banks[A].why) == (700, ReceiptReason.DWELL)
    assert not verdict.banks[A].may_raise
    site.see(A, keeps_w=200)
    verdict = site.step(1_000)
    assert (verdict.banks[A].setpoint_w, verdict.banks[A].why) == (400, None), "it is heard of again"
    assert verdict.banks[A].may_raise
    site.see(A, keeps_w=700)
    verdict = site.step(1_000)
    assert (verdict.banks[A].setpoint_w, verdict.banks[A].may_raise) == (700, False), "it falls silent under the order"
    assert held(site.step(296_999))[A] == 700
    assert held(site.step(1))[A] == 400


def test_a_young_bank_is_kept_up_beside_a_silent_device_only_against_money_and_within_its_breakers() -> None:
    site = young()
    site.see(A, keeps_w=700)
    assert held(lower(site, 400, "cap"))[A] == 400
    site = young()
    site.see(A, keeps_w=700)
    assert held(lower(site, 400, cap_w=3_000))[A] == 400
    site = Site(plan(row_w=600, a={"min_up_ms": 300_000}), level_w=500, on=True, since_ms=99_000)
    site.see(A, keeps_w=700)
    verdict = lower(site, 400)
    assert (verdict.banks[A].setpoint_w, verdict.banks[A].why) == (600, ReceiptReason.FEEDER_LIMIT)


def crowded(main_meter_w: int | None, *, min_up_ms: int = 300_000, **changes: Any) -> Verdict:
    """A partition stands 600 W above what it is held at, and the order's other banks no longer fit beside it."""
    site = Site(plan(main_w=2_000, settle_ms=20_000, metered=True, a={"min_up_ms": min_up_ms}, b={"j_per_th": 10.0}))
    site.state = replace(site.state, banks=tuple(replace(b, since_ms=site.at) for b in site.state.banks))
    site.tell(a=500, b=900, hpc=300, valid_for_ms=10**6, **changes)
    site.see(A, keeps_w=400 if min_up_ms else None)
    site.see(HPC, known_w=900)
    for _ in range(25):
        site.meter(ROW_A, 400)
        site.meter(MAIN, main_meter_w)
        verdict = site.step(1_000)
    return verdict


def test_a_young_bank_makes_room_for_one_that_stands_only_when_a_meter_shows_that_it_must() -> None:
    """Another bank is still starting, and what stands may yet fall: the last device runs on at its least. Whatever is
    owed to a breaker that is full, to a cap or to an obligation comes first; and so does what no meter shows."""
    verdict = crowded(1_500)
    assert (held(verdict)[A], verdict.banks[A].why) == (400, ReceiptReason.FEEDER_LIMIT)
    assert held(crowded(1_500, min_up_ms=0))[A] == 200 - 1
    assert held(crowded(1_970))[A] == 200 - 1
    assert held(crowded(None))[A] == 200 - 1
    for changes in ({"urgent": True}, {"obligation": "event-1"}, {"cap_w": 2_000}):
        assert held(crowded(1_500, **changes))[A] == 200 - 1
