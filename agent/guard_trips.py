"""The guard's local trips: over-temperature, sensors lost, breakers overloaded, banks locked out. Pure.

A trip stays until its own cause has been gone for its own time. No order is read here, so none can lift one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from agent.guard_model import (
    BankFacts,
    BankLimits,
    BankState,
    Facts,
    FeederState,
    GuardPlan,
    GuardState,
    Trip,
)
from contract.messages import Interlock
from contract.reasons import InterlockKind

CALM_MILLI: Final = 950
"""A feeder is calm below this many thousandths of its limit."""
RECOVER_MILLI: Final = 20
"""What a calm feeder is given back at a time, in thousandths of its limit."""
RELAPSES_MAX: Final = 4
"""Doublings of the calm that is asked before anything is given back."""
RELAPSE_SPANS: Final = 2
"""Of that calm: an overload within so many of them after something was given back came of it."""
SHED_MARGIN_MILLI: Final = 10
"""What is shed beyond a metered excess, in thousandths of the limit."""
STANDING_MILLI: Final = 1_050
"""A bank stands above what it is held at where it draws this many thousandths of it: devices differ by less."""


def watch_banks(plan: GuardPlan, state: GuardState, facts: Facts, now_ms: int) -> GuardState:
    """Trip banks that are too hot, blind or locked out; release those whose cause has been gone long enough."""

    def watched(index: int) -> BankState:
        limits, bank, seen = plan.banks[index], state.banks[index], facts.banks[index]
        if seen.inlet_mc is not None:
            bank = replace(bank, sensor_ms=now_ms)
        bank = _standing(plan, limits, bank, seen.known_w, now_ms)
        trips = tuple(
            trip
            for trip in (
                _over_temperature(limits, _of(bank, InterlockKind.OVER_TEMPERATURE), seen, now_ms),
                _sensor_lost(limits, bank, now_ms),
                _locked_out(limits, state.lockouts, _of(bank, InterlockKind.OPERATOR), now_ms),
                _of(bank, InterlockKind.FEEDER_OVERLOAD),
            )
            if trip is not None
        )
        return bank if trips == bank.trips else replace(bank, trips=trips)

    return replace(state, banks=tuple(watched(index) for index in range(len(plan.banks))))


def watch_feeders(plan: GuardPlan, state: GuardState, facts: Facts, now_ms: int) -> GuardState:
    """Compare meters with limits: shed what planned watts did not foresee, and trip what stays far above."""
    feeders = list(state.feeders)
    banks = list(state.banks)
    levels_w = counted_w(plan, state)
    for feeder, metered in enumerate(plan.tree.metered):
        if not metered:
            continue
        power_w, read_ms = facts.feeders[feeder].power_w, facts.feeders[feeder].read_ms
        if (
            power_w is None or read_ms is None
        ):  # unknown: nothing is given back, and no span of overload is believed to go on
            feeders[feeder] = replace(feeders[feeder], over_ms=None, trip_ms=None, calm_ms=None)
            continue
        planned_w = plan.tree.load_w(feeder, levels_w)
        feeders[feeder] = _judge_feeder(plan, state, feeder, (power_w, read_ms), planned_w, now_ms)
        _trip_overload(plan, feeders[feeder], feeder, (power_w, read_ms), banks, now_ms)
    return replace(state, feeders=tuple(feeders), banks=tuple(banks))


def counted_w(plan: GuardPlan, state: GuardState) -> list[int]:
    """What feeders count each bank at: its level, its floor, or what it stands at."""
    return [
        max(bank.level_w, limits.floor_w, bank.standing_w) for bank, limits in zip(state.banks, plan.banks, strict=True)
    ]


def interlocks_of(bank: BankState) -> tuple[Interlock, ...]:
    """A bank's trips as they are reported."""
    return tuple(Interlock(kind=trip.kind, detail=trip.detail) for trip in bank.trips)


def _standing(plan: GuardPlan, limits: BankLimits, bank: BankState, known_w: int | None, now_ms: int) -> BankState:
    """Firm jobs, or devices that do not obey, keep a bank above its level: once it has had its time to fall, whatever
    shares a feeder with it has to make room. Unknown power proves nothing either way."""
    if known_w is None:
        return bank
    above = known_w * 1_000 > max(bank.level_w, limits.floor_w) * STANDING_MILLI
    above_ms = _since(bank.above_ms, now_ms, holds=above)
    stands = above_ms is not None and now_ms - above_ms >= plan.settle_ms
    standing_w = known_w if stands else 0
    if (above_ms, standing_w) == (bank.above_ms, bank.standing_w):
        return bank
    return replace(bank, above_ms=above_ms, standing_w=standing_w)


def _over_temperature(limits: BankLimits, trip: Trip | None, seen: BankFacts, now_ms: int) -> Trip | None:
    watched = [
        (name, limit_mc, seen_mc)
        for name, limit_mc, seen_mc in (
            ("inlet", limits.max_inlet_mc, seen.inlet_mc),
            ("chip", limits.max_chip_mc, seen.chip_mc),
        )
        if limit_mc is not None
    ]
    for name, limit_mc, seen_mc in watched:
        if seen_mc is not None and seen_mc >= limit_mc:
            detail = f"{name} {seen_mc / 1_000:.1f} C, limit {limit_mc / 1_000:.1f} C"
            return Trip(InterlockKind.OVER_TEMPERATURE, now_ms, detail)
    if trip is None:
        return None
    for name, limit_mc, seen_mc in watched:
        known_gone = name == "chip" and seen.quiet  # sleeping hash boards have no chip temperature to tell
        if seen_mc is None and not known_gone:
            return trip  # unknown: it stays tripped, whatever the time
        if seen_mc is not None and seen_mc > limit_mc - limits.hysteresis_mc:
            return replace(trip, since_ms=now_ms)
    return trip if now_ms - trip.since_ms < limits.cool_ms else None


def _sensor_lost(limits: BankLimits, bank: BankState, now_ms: int) -> Trip | None:
    if limits.max_inlet_mc is None or not limits.inlet_sensor or limits.on_sensor_lost == "hold":
        return None
    silent_ms = now_ms - bank.sensor_ms
    if silent_ms < limits.sensor_lost_after_ms:
        return None
    return _of(bank, InterlockKind.SENSOR_LOST) or Trip(
        InterlockKind.SENSOR_LOST, now_ms, f"inlet unknown for {limits.sensor_lost_after_ms // 1_000} s"
    )


def _locked_out(limits: BankLimits, lockouts: frozenset[str], trip: Trip | None, now_ms: int) -> Trip | None:
    if limits.id not in lockouts:
        return None
    return trip or Trip(InterlockKind.OPERATOR, now_ms, "locked out by a person on site")


def _judge_feeder(
    plan: GuardPlan, state: GuardState, feeder: int, reading: tuple[int, int], planned_w: int, now_ms: int
) -> FeederState:
    """One metered feeder's clocks, and what its limit is lowered by.

    Spans are measured from reading to reading, so that one odd reading before a silence is not taken for a span.
    """
    power_w, read_ms = reading
    memory, breaker_w = state.feeders[feeder], plan.tree.limits_w[feeder]
    limit_w = breaker_w
    if feeder == plan.tree.root and state.order is not None and state.order.cap_w is not None:
        limit_w = min(limit_w, state.order.cap_w)
    far_over = power_w * 1_000 >= breaker_w * plan.trip_milli
    over = power_w > limit_w
    calm = power_w * 1_000 < limit_w * CALM_MILLI
    memory = replace(
        memory,
        trip_ms=_since(memory.trip_ms, read_ms, holds=far_over),
        over_ms=_since(memory.over_ms, read_ms, holds=over),
        calm_ms=_since(memory.calm_ms, read_ms, holds=calm),
    )
    if memory.over_ms is not None and read_ms - memory.over_ms >= plan.overload_after_ms:
        if now_ms - max(_times(memory.acted_ms, memory.lowered_ms), default=now_ms - plan.settle_ms) >= plan.settle_ms:
            shed_to_w = planned_w - (power_w - limit_w) - breaker_w * SHED_MARGIN_MILLI // 1_000
            derate_w = min(max(limit_w - shed_to_w, memory.derate_w), breaker_w)
            relapses = _relapses(plan, memory, now_ms)
            memory = replace(memory, derate_w=derate_w, acted_ms=now_ms, relapses=relapses, given_ms=None)
    elif memory.derate_w and memory.calm_ms is not None and read_ms - memory.calm_ms >= _patience_ms(plan, memory):
        given_back_w = max(breaker_w * RECOVER_MILLI // 1_000, 1)
        derate_w = max(memory.derate_w - given_back_w, 0)
        memory = replace(memory, derate_w=derate_w, calm_ms=read_ms, given_ms=now_ms)
    return memory


def _relapses(plan: GuardPlan, memory: FeederState, now_ms: int) -> int:
    """An overload soon after something was given back is one more; one long after is the first of its kind."""
    if memory.given_ms is None:
        return memory.relapses
    soon = now_ms - memory.given_ms < RELAPSE_SPANS * _patience_ms(plan, memory)
    return min(memory.relapses + 1, RELAPSES_MAX) if soon else 0


def _patience_ms(plan: GuardPlan, memory: FeederState) -> int:
    return plan.recover_ms << memory.relapses


def _trip_overload(
    plan: GuardPlan, memory: FeederState, feeder: int, reading: tuple[int, int], banks: list[BankState], now_ms: int
) -> None:
    """Set or lift the overload trip of every bank under one feeder."""
    power_w, read_ms = reading
    mark = f"feeder {plan.tree.ids[feeder]}: "
    limit_w = plan.tree.limits_w[feeder]
    tripping = memory.trip_ms is not None and read_ms - memory.trip_ms >= plan.trip_after_ms
    calm = power_w * 1_000 < limit_w * CALM_MILLI
    for index in plan.tree.banks_under[feeder]:
        trip = _of(banks[index], InterlockKind.FEEDER_OVERLOAD)
        if tripping:
            if trip is None or trip.detail.startswith(mark):
                detail = f"{mark}{power_w} W, limit {limit_w} W" if trip is None else trip.detail
                banks[index] = _with(banks[index], Trip(InterlockKind.FEEDER_OVERLOAD, now_ms, detail))
        elif trip is not None and trip.detail.startswith(mark):
            if not calm:
                banks[index] = _with(banks[index], replace(trip, since_ms=now_ms))
            elif now_ms - trip.since_ms >= plan.trip_hold_ms:
                banks[index] = replace(banks[index], trips=tuple(t for t in banks[index].trips if t is not trip))


def _of(bank: BankState, kind: InterlockKind) -> Trip | None:
    return next((trip for trip in bank.trips if trip.kind is kind), None)


def _with(bank: BankState, trip: Trip) -> BankState:
    return replace(bank, trips=(*(other for other in bank.trips if other.kind is not trip.kind), trip))


def _since(since_ms: int | None, now_ms: int, *, holds: bool) -> int | None:
    """Since when a condition holds; None where it does not."""
    if not holds:
        return None
    return now_ms if since_ms is None else since_ms


def _times(*times_ms: int | None) -> Iterable[int]:
    return [time_ms for time_ms in times_ms if time_ms is not None]
