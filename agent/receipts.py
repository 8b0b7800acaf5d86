"""How far each bank's part of an order has come. Pure: what is measured comes in, states and reasons come out.

`pending -> dispatched -> confirmed | partial | refused | unreachable`, and `confirmed -> drifted` when it no longer
holds. Only measured power confirms: a device's own yes never does, and a reading taken before the order arrived proves
nothing about it. A bank that settles late is still confirmed late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from contract.messages import BankReceipt, ReceiptState, Source
from contract.reasons import ReceiptReason

_REFUSALS: Final = frozenset({ReceiptReason.INTERLOCK, ReceiptReason.LOCAL_MODE})
_CUTS: Final = frozenset({ReceiptReason.CLAMPED, ReceiptReason.FEEDER_LIMIT})
_WAITS: Final = frozenset({ReceiptReason.DWELL, ReceiptReason.RAMPING})
_PROVEN: Final = frozenset({ReceiptState.CONFIRMED, ReceiptState.DRIFTED})


@dataclass(frozen=True, slots=True)
class Tally:
    """What stands between a bank and its targets, counted in devices (or jobs)."""

    unmet: int = 0
    """Not yet what they are to be; the figures below are parts of it."""
    refused: int = 0
    unreachable: int = 0
    unsupported: int = 0
    """They cannot be steered at all."""


NO_TALLY: Final = Tally()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of one bank at one moment."""

    obeyed_w: int
    why: ReceiptReason | None
    """What keeps `obeyed_w` below the target, by the guard."""
    low_w: int
    """In band from here ..."""
    high_w: int
    """... to here, tolerance included."""
    power_w: int | None
    upper_w: int | None
    """The same with whatever is unread at its most; both must be in band."""
    read_ms: int | None
    """When the oldest part of `power_w` was read."""
    source: Source
    devices_in_band: bool = False
    """Whether the devices' own figures claim the band."""
    tally: Tally = NO_TALLY
    any_sent: bool = False
    """Whether any command of this order has gone out, met or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankTrack:
    """Where one bank's part of the order stands."""

    bank: str
    target_w: int
    state: ReceiptState = ReceiptState.PENDING
    reason: ReceiptReason = ReceiptReason.COMMANDED
    obeyed_w: int = 0
    power_w: int | None = None
    source: Source | None = None
    changed_ms: int = 0
    due_ms: int = 0
    """By then power must have said so."""
    proven: bool = False
    """It has been in band under this setpoint."""
    out_ms: int | None = None
    """Since when a proven bank has been out of band."""


def begin(
    targets: Sequence[tuple[str, int]], before: Mapping[str, BankTrack], obeyed_w: Mapping[str, int], now_ms: int
) -> dict[str, BankTrack]:
    """Tracks for a new order of `(bank, target_w)`. A bank that goes on under the same setpoint keeps its proof."""
    tracks = {}
    for bank, target_w in targets:
        old = before.get(bank)
        goes_on = old is not None and old.state in _PROVEN and old.obeyed_w == obeyed_w.get(bank)
        tracks[bank] = BankTrack(
            bank=bank,
            target_w=target_w,
            obeyed_w=obeyed_w.get(bank, 0),
            changed_ms=now_ms,
            due_ms=now_ms,
            proven=goes_on,
            out_ms=old.out_ms if old is not None and goes_on else None,
        )
    return tracks


def advance(
    track: BankTrack, progress: Progress, now_ms: int, *, arrived_ms: int, within_ms: int, drift_after_ms: int
) -> BankTrack:
    """The track after one look. Power is given `within_ms` to follow a setpoint, and `drift_after_ms` out of band."""
    if progress.obeyed_w != track.obeyed_w or track.due_ms <= arrived_ms:
        proven = track.proven and progress.obeyed_w == track.obeyed_w
        track = replace(track, obeyed_w=progress.obeyed_w, due_ms=now_ms + within_ms, proven=proven)
    fresh = progress.power_w is not None and progress.read_ms is not None and progress.read_ms >= arrived_ms
    in_band = fresh and _in_band(progress)
    out_ms = None if in_band or not fresh else (track.out_ms if track.out_ms is not None else now_ms)
    track = replace(track, out_ms=out_ms)
    state, reason = _judge(track, progress, now_ms, in_band=in_band, fresh=fresh, drift_after_ms=drift_after_ms)
    return replace(
        track,
        state=state,
        reason=reason,
        proven=track.proven or state is ReceiptState.CONFIRMED,
        power_w=progress.power_w if fresh else track.power_w,
        source=progress.source if fresh else track.source,
        changed_ms=track.changed_ms if state is track.state else now_ms,
    )


def receipt_of(track: BankTrack, arrived_ms: int) -> BankReceipt:
    """The wire form."""
    return BankReceipt(
        bank=track.bank,
        state=track.state,
        reason=track.reason,
        target_w=track.target_w,
        obeyed_w=track.obeyed_w,
        measured_w=None if track.power_w is None else max(track.power_w, 0),
        source=track.source,
        after_ms=max(track.changed_ms - arrived_ms, 0),
    )


def _in_band(progress: Progress) -> bool:
    if progress.power_w is None or progress.upper_w is None:
        return False
    return progress.power_w >= progress.low_w and progress.upper_w <= progress.high_w


def _judge(
    track: BankTrack, progress: Progress, now_ms: int, *, in_band: bool, fresh: bool, drift_after_ms: int
) -> tuple[ReceiptState, ReceiptReason]:
    if progress.why in _REFUSALS and progress.obeyed_w < track.target_w:
        return ReceiptState.REFUSED, progress.why
    if progress.why in _WAITS:  # not yet at its setpoint by the guard's own will: power cannot confirm it
        return ReceiptState.DISPATCHED, progress.why
    if in_band:
        return ReceiptState.CONFIRMED, progress.why if progress.why in _CUTS else ReceiptReason.IN_BAND
    if track.proven:
        if track.out_ms is not None and now_ms - track.out_ms >= drift_after_ms:
            return ReceiptState.DRIFTED, _miss(progress)
        held = track.state is not ReceiptState.PENDING or not fresh
        return (track.state, track.reason) if held else (ReceiptState.DISPATCHED, ReceiptReason.RAMPING)
    if now_ms < track.due_ms:
        if progress.any_sent or not progress.tally.unmet:
            return ReceiptState.DISPATCHED, ReceiptReason.RAMPING
        return ReceiptState.PENDING, ReceiptReason.COMMANDED
    return _overdue(progress, fresh=fresh)


def _overdue(progress: Progress, *, fresh: bool) -> tuple[ReceiptState, ReceiptReason]:
    """What to say when power has not followed in time: the devices' reasons first, then what power shows."""
    tally = progress.tally
    if tally.unmet and tally.unsupported == tally.unmet:
        return ReceiptState.REFUSED, ReceiptReason.UNSUPPORTED
    if tally.unmet and tally.unreachable == tally.unmet:
        return ReceiptState.UNREACHABLE, ReceiptReason.DEVICES_UNREACHABLE
    if tally.unmet and tally.refused == tally.unmet:
        return ReceiptState.REFUSED, ReceiptReason.DEVICES_REFUSED
    if not fresh:
        return ReceiptState.PARTIAL, ReceiptReason.POWER_UNKNOWN
    if tally.unreachable:
        return ReceiptState.PARTIAL, ReceiptReason.DEVICES_UNREACHABLE
    if tally.refused:
        return ReceiptState.PARTIAL, ReceiptReason.DEVICES_REFUSED
    return ReceiptState.PARTIAL, _miss(progress)


def _miss(progress: Progress) -> ReceiptReason:
    """On which side power is out of its band, and whether only the meter says so."""
    if progress.source is Source.METER and progress.devices_in_band:
        return ReceiptReason.METER_DISAGREES
    if progress.upper_w is not None and progress.upper_w > progress.high_w:
        return ReceiptReason.POWER_ABOVE_SETPOINT
    return ReceiptReason.POWER_BELOW_SETPOINT
