"""Receipts walk from pending to what power proves; a device's own yes proves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.receipts import BankTrack, Progress, Tally, advance, begin, receipt_of
from contract.messages import ReceiptState, Source
from contract.reasons import ReceiptReason

ARRIVED = 10_000
DUE = 20_000
DRIFT = 30_000


def progress(
    power_w: int | None,
    *,
    read_ms: int | None = None,
    why: ReceiptReason | None = None,
    source: Source = Source.METER,
    tally: Tally | None = None,
    obeyed_w: int = 1_000,
    any_sent: bool = True,
    devices_in_band: bool = False,
    upper_w: int | None = None,
) -> Progress:
    return Progress(
        obeyed_w=obeyed_w,
        why=why,
        low_w=900,
        high_w=1_100,
        power_w=power_w,
        upper_w=power_w if upper_w is None else upper_w,
        read_ms=read_ms,
        source=source,
        devices_in_band=devices_in_band,
        tally=tally or Tally(),
        any_sent=any_sent,
    )


def start(target_w: int = 1_000, before: dict[str, BankTrack] | None = None, at_ms: int = ARRIVED) -> BankTrack:
    return begin([("a", target_w)], before or {}, {"a": 1_000}, at_ms)["a"]


def look(track: BankTrack, seen: Progress, now_ms: int, arrived_ms: int = ARRIVED) -> BankTrack:
    return advance(track, seen, now_ms, arrived_ms=arrived_ms, within_ms=DUE, drift_after_ms=DRIFT)


def test_an_order_begins_pending_and_is_dispatched_by_its_first_command() -> None:
    track = start()
    assert track.state is ReceiptState.PENDING
    waiting = look(track, progress(5_000, read_ms=9_000, any_sent=False, tally=Tally(unmet=3)), 10_100)
    assert waiting.state is ReceiptState.PENDING
    sent = look(waiting, progress(5_000, read_ms=9_000), 10_200)
    assert (sent.state, sent.reason) == (ReceiptState.DISPATCHED, ReceiptReason.RAMPING)


def test_only_power_read_after_the_order_confirms() -> None:
    stale = look(start(), progress(1_000, read_ms=ARRIVED - 1), 10_500)
    assert stale.state is ReceiptState.DISPATCHED, "in band, but read before the order came"
    proven = look(stale, progress(1_000, read_ms=ARRIVED + 600), 10_700)
    assert (proven.state, proven.reason) == (ReceiptState.CONFIRMED, ReceiptReason.IN_BAND)
    assert receipt_of(proven, ARRIVED).after_ms == 700
    assert receipt_of(proven, ARRIVED).source is Source.METER


def test_unread_devices_must_fit_the_band_at_their_most() -> None:
    seen = progress(1_000, upper_w=4_000, read_ms=11_000, source=Source.DEVICES)
    assert look(start(), seen, 11_000).state is ReceiptState.DISPATCHED


OVERDUE = [
    (progress(None, read_ms=None), ReceiptState.PARTIAL, ReceiptReason.POWER_UNKNOWN),
    (progress(2_000, read_ms=40_000), ReceiptState.PARTIAL, ReceiptReason.POWER_ABOVE_SETPOINT),
    (progress(100, read_ms=40_000), ReceiptState.PARTIAL, ReceiptReason.POWER_BELOW_SETPOINT),
    (progress(2_000, read_ms=40_000, devices_in_band=True), ReceiptState.PARTIAL, ReceiptReason.METER_DISAGREES),
    (
        progress(2_000, read_ms=40_000, tally=Tally(unmet=4, unreachable=4)),
        ReceiptState.UNREACHABLE,
        ReceiptReason.DEVICES_UNREACHABLE,
    ),
    (
        progress(2_000, read_ms=40_000, tally=Tally(unmet=4, unreachable=1)),
        ReceiptState.PARTIAL,
        ReceiptReason.DEVICES_UNREACHABLE,
    ),
    (
        progress(2_000, read_ms=40_000, tally=Tally(unmet=4, refused=4)),
        ReceiptState.REFUSED,
        ReceiptReason.DEVICES_REFUSED,
    ),
    (
        progress(2_000, read_ms=40_000, tally=Tally(unmet=4, refused=2)),
        ReceiptState.PARTIAL,
        ReceiptReason.DEVICES_REFUSED,
    ),
    (
        progress(2_000, read_ms=40_000, tally=Tally(unmet=4, unsupported=4)),
        ReceiptState.REFUSED,
        ReceiptReason.UNSUPPORTED,
    ),
]


@pytest.mark.parametrize(("seen", "state", "reason"), OVERDUE)
def test_when_time_is_up_the_receipt_says_what_is_wrong(
    seen: Progress, state: ReceiptState, reason: ReceiptReason
) -> None:
    track = look(start(), seen, 10_500)
    assert track.state is ReceiptState.DISPATCHED
    track = look(track, seen, 10_500 + DUE)
    assert (track.state, track.reason) == (state, reason)


def test_a_bank_that_settles_late_is_confirmed_late() -> None:
    track = look(look(start(), progress(2_000, read_ms=10_500), 10_500), progress(2_000, read_ms=31_000), 31_000)
    assert track.state is ReceiptState.PARTIAL
    assert look(track, progress(1_050, read_ms=33_000), 33_000).state is ReceiptState.CONFIRMED


def test_a_confirmed_bank_drifts_only_after_a_while_and_comes_back() -> None:
    track = look(start(), progress(1_000, read_ms=11_000), 11_000)
    track = look(track, progress(2_000, read_ms=12_000), 12_000)
    assert track.state is ReceiptState.CONFIRMED, "one reading is no drift"
    track = look(track, progress(2_000, read_ms=42_000), 12_000 + DRIFT)
    assert (track.state, track.reason) == (ReceiptState.DRIFTED, ReceiptReason.POWER_ABOVE_SETPOINT)
    assert look(track, progress(1_000, read_ms=50_000), 50_000).state is ReceiptState.CONFIRMED


@pytest.mark.parametrize("why", [ReceiptReason.INTERLOCK, ReceiptReason.LOCAL_MODE])
def test_a_local_trip_refuses_what_it_keeps_down(why: ReceiptReason) -> None:
    track = look(start(), progress(0, read_ms=11_000, why=why, obeyed_w=0), 11_000)
    assert (track.state, track.reason) == (ReceiptState.REFUSED, why)


@pytest.mark.parametrize("why", [ReceiptReason.DWELL, ReceiptReason.RAMPING])
def test_a_bank_on_its_way_is_not_confirmed_by_power_at_an_interim_level(why: ReceiptReason) -> None:
    track = look(start(2_000), progress(1_000, read_ms=11_000, why=why), 11_000)
    assert (track.state, track.reason) == (ReceiptState.DISPATCHED, why)


@pytest.mark.parametrize("why", [ReceiptReason.CLAMPED, ReceiptReason.FEEDER_LIMIT])
def test_a_clamped_bank_in_band_is_confirmed_with_the_clamp_as_reason(why: ReceiptReason) -> None:
    track = look(start(2_000), progress(1_000, read_ms=11_000, why=why), 11_000)
    assert (track.state, track.reason) == (ReceiptState.CONFIRMED, why)
    assert receipt_of(track, ARRIVED).obeyed_w == 1_000
    assert receipt_of(track, ARRIVED).target_w == 2_000


def test_the_same_setpoint_again_keeps_its_proof_so_that_a_lapse_is_drift() -> None:
    proven = look(start(), progress(1_000, read_ms=11_000), 11_000)
    again = start(before={"a": proven}, at_ms=70_000)
    assert again.state is ReceiptState.PENDING
    assert again.proven
    track = look(again, progress(2_000, read_ms=71_000), 71_000, arrived_ms=70_000)
    track = look(track, progress(2_000, read_ms=101_000), 71_000 + DRIFT, arrived_ms=70_000)
    assert track.state is ReceiptState.DRIFTED


def test_another_setpoint_needs_another_proof() -> None:
    proven = look(start(), progress(1_000, read_ms=11_000), 11_000)
    other = begin([("a", 500)], {"a": proven}, {"a": 500}, 70_000)["a"]
    assert not other.proven
    track = look(other, replace(progress(2_000, read_ms=71_000), obeyed_w=500), 71_000, arrived_ms=70_000)
    assert track.state is ReceiptState.DISPATCHED
