"""The one report per tick, and when each was sent, so that orders that answer them can be dated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from agent.guard_model import BankHold, BankLimits, FeederFacts, GuardState, Verdict
from agent.measure import BankMeasure, Measure
from contract.messages import BankReading, FeederReading, PartitionReading, Report
from contract.units import POWER_W_MAX

REMEMBERED: Final = 1_000
"""Reports whose time of sending is kept: over a quarter of an hour at one a second."""
_AGE_MAX_MS: Final = 24 * 3_600_000
_DWELL_MAX_MS: Final = 399 * 24 * 3_600_000


class SentReports:
    """When this incarnation sent which report; the basis on which its leases are dated."""

    def __init__(self) -> None:
        self._sent_ms: OrderedDict[int, int] = OrderedDict()
        self.next_seq = 0

    def note(self, seq: int, now_ms: int) -> None:
        self._sent_ms[seq] = now_ms
        self.next_seq = seq + 1
        if len(self._sent_ms) > REMEMBERED:
            self._sent_ms.popitem(last=False)

    def sent_ms(self, seq: int) -> int | None:
        """None where no such report was sent, or too long ago."""
        return self._sent_ms.get(seq)


def build_report(
    *,
    site: str,
    boot: str,
    seq: int,
    wall_ms: int,
    feeder_ids: Sequence[str],
    limits: Sequence[BankLimits],
    state: GuardState,
    verdict: Verdict,
    measure: Measure,
    partitions: Iterable[PartitionReading],
    now_ms: int,
) -> Report:
    """Everything known now, each value with its age."""
    ambient_age_ms = measure.ambient_age_ms
    return Report(
        site=site,
        boot=boot,
        seq=seq,
        sent_at_ms=wall_ms,
        mode=verdict.mode,
        epoch=state.epoch,
        order_seq=None if verdict.order is None else verdict.order.seq,
        lease_left_ms=verdict.lease_left_ms if verdict.order is not None else None,
        feeders=tuple(
            _feeder(name, facts, now_ms) for name, facts in zip(feeder_ids, measure.facts.feeders, strict=True)
        ),
        banks=tuple(
            _bank(bank, hold, seen, now_ms)
            for bank, hold, seen in zip(limits, verdict.banks, measure.banks, strict=True)
        ),
        partitions=tuple(partitions),
        ambient_temp_mc=measure.ambient_mc,
        ambient_age_ms=None if ambient_age_ms is None else _age(ambient_age_ms + now_ms - measure.at_ms),
    )


def _feeder(name: str, facts: FeederFacts, now_ms: int) -> FeederReading:
    known = facts.power_w is not None and facts.read_ms is not None
    power_w = facts.power_w if known else None
    return FeederReading(
        id=name,
        power_w=None if power_w is None else max(-POWER_W_MAX, min(power_w, POWER_W_MAX)),
        age_ms=_age(now_ms - facts.read_ms) if known and facts.read_ms is not None else None,
    )


def _bank(limits: BankLimits, hold: BankHold, seen: BankMeasure, now_ms: int) -> BankReading:
    survey, power = seen.survey, seen.power
    known = power.power_w is not None and power.read_ms is not None
    available_w = None if survey.available_w is None else survey.available_w + seen.counted_unread_w
    if hold.interlocks:
        available_w = min(limits.floor_w, limits.rated_w)
    return BankReading(
        id=limits.id,
        power_w=min(power.power_w, POWER_W_MAX) if known and power.power_w is not None else None,
        age_ms=_age(now_ms - power.read_ms) if known and power.read_ms is not None else None,
        source=power.source,
        hashrate_ghs=survey.hashrate_ghs,
        inlet_temp_mc=seen.inlet_mc,
        chip_temp_mc=survey.hottest_chip_mc,
        devices=survey.counts,
        available_w=None if available_w is None else min(available_w, limits.rated_w),
        setpoint_w=hold.setpoint_w,
        on=hold.on,
        on_for_ms=max(0, min(now_ms - hold.since_ms, _DWELL_MAX_MS)),
        interlocks=hold.interlocks,
    )


def _age(age_ms: int) -> int:
    return max(0, min(age_ms, _AGE_MAX_MS))
