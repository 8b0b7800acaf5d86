"""What is measured, put together as facts for the guard, the report and the receipts.

A bank's own meter comes first, then a feeder's that carries this bank alone, then the devices' own figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.bank import Survey
from agent.config import AgentConfig
from agent.gauges import Gauge
from agent.guard_model import BankFacts, Facts, FeederFacts, GuardPlan
from contract.messages import Source, Workload


@dataclass(frozen=True, slots=True)
class Power:
    """One power figure of a bank. `upper_w` counts what is unknown at its most."""

    power_w: int | None
    upper_w: int | None
    read_ms: int | None
    source: Source


@dataclass(frozen=True, slots=True)
class BankMeasure:
    """All that is measured of one bank at one moment."""

    survey: Survey
    power: Power
    inlet_mc: int | None
    """Of its own sensors, and of the devices' inlets, the hotter."""
    unread_w: int | None
    """The most a meter leaves for devices that cannot be read; None where none tells."""

    @property
    def counted_unread_w(self) -> int:
        """What unreadable devices count for."""
        return self.survey.unread_w if self.unread_w is None else min(self.survey.unread_w, self.unread_w)


@dataclass(frozen=True, slots=True)
class Measure:
    """All that is measured of the site at one moment."""

    at_ms: int
    facts: Facts
    banks: tuple[BankMeasure, ...]
    ambient_mc: int | None
    ambient_age_ms: int | None


class Measurer:
    """Knows which gauge measures what."""

    def __init__(self, config: AgentConfig, plan: GuardPlan, gauges: Mapping[str, Gauge]) -> None:
        names = list(config.banks)
        self._plan = plan
        self._stale_ms = config.timing.meter_stale_ms
        self._lag_ms = config.timing.device_stale_ms
        self._feeder_meters = [gauges.get(f"meters.{feeder.meter}") for feeder in config.feeders.values()]
        self._bank_meters = [
            gauges.get(f"meters.{bank.meter}") or self._isolating(place)
            for place, bank in enumerate(config.banks.values())
        ]
        self._inlets: list[list[Gauge]] = [[] for _ in names]
        self._ambient: list[Gauge] = []
        for name, sensor in config.sensors.items():
            if sensor.bank is None:
                self._ambient.append(gauges[f"sensors.{name}"])
            else:
                self._inlets[names.index(sensor.bank)].append(gauges[f"sensors.{name}"])

    def measure(self, surveys: Sequence[Survey], now_ms: int) -> Measure:
        """Everything now, from the newest readings and surveys."""
        self._watch_for_frozen(surveys, now_ms)
        powers = [self._power(place, survey, now_ms) for place, survey in enumerate(surveys)]
        feeders = tuple(self._feeder_facts(meter, now_ms) for meter in self._feeder_meters)
        banks = tuple(
            BankMeasure(
                survey=survey,
                power=powers[place],
                inlet_mc=self._inlet(place, survey, now_ms),
                unread_w=self._unread(place, surveys, powers, feeders),
            )
            for place, survey in enumerate(surveys)
        )
        ambient = [gauge for gauge in self._ambient if gauge.fresh(now_ms, self._stale_ms) is not None]
        return Measure(
            at_ms=now_ms,
            facts=Facts(
                banks=tuple(
                    self._bank_facts(bank, hpc=limits.workload is Workload.HPC)
                    for bank, limits in zip(banks, self._plan.banks, strict=True)
                ),
                feeders=feeders,
            ),
            banks=banks,
            ambient_mc=ambient[0].value if ambient else None,
            ambient_age_ms=now_ms - (ambient[0].read_ms or 0) if ambient else None,
        )

    def metered(self, place: int, now_ms: int) -> tuple[int, int] | None:
        """A bank's metered power and when it was read; None where no fresh meter measures it alone."""
        gauge = self._bank_meters[place]
        value = gauge.fresh(now_ms, self._stale_ms) if gauge is not None else None
        return None if gauge is None or value is None or gauge.read_ms is None else (max(value, 0), gauge.read_ms)

    def _isolating(self, place: int) -> Gauge | None:
        """The meter of the nearest feeder that carries this bank alone, and at the main nothing else either."""
        tree = self._plan.tree
        for feeder in tree.above[place]:
            if tree.banks_under[feeder] != (place,):
                return None
            if feeder == tree.root and (tree.base_load_w or tree.pue_milli[place] != 1_000):
                return None
            if (gauge := self._feeder_meters[feeder]) is not None:
                return gauge
        return None

    def _power(self, place: int, survey: Survey, now_ms: int) -> Power:
        if (metered := self.metered(place, now_ms)) is not None:
            power_w, read_ms = metered
            return Power(power_w, power_w, read_ms, Source.METER)
        return Power(survey.power_w, survey.upper_w, survey.read_ms, survey.source)

    def _unread(
        self, place: int, surveys: Sequence[Survey], powers: Sequence[Power], feeders: Sequence[FeederFacts]
    ) -> int | None:
        """What the nearest meter shows above everything that is known behind it."""
        survey, power, tree = surveys[place], powers[place], self._plan.tree
        if not survey.unread_w:
            return None
        if power.source is Source.METER and power.power_w is not None:
            return max(power.power_w - _read_w(survey), 0)
        for feeder in tree.above[place]:
            metered_w = feeders[feeder].power_w
            if metered_w is None:
                continue
            known_w = tree.base_load_w if feeder == tree.root else 0
            for bank in tree.banks_under[feeder]:
                own = powers[bank]
                metered = own.power_w if own.source is Source.METER else None
                known_w += tree.seen_w(feeder, bank, _read_w(surveys[bank]) if metered is None else metered)
            return max(metered_w - known_w, 0)
        return None

    def _inlet(self, place: int, survey: Survey, now_ms: int) -> int | None:
        """The hotter of sensors and devices. Where sensors are fitted, devices cannot stand in for all of them."""
        sensors = self._inlets[place]
        seen = [value for gauge in sensors if (value := gauge.fresh(now_ms, self._stale_ms)) is not None]
        if sensors and not seen:
            return None
        if survey.inlet_mc is not None:
            seen.append(survey.inlet_mc)
        return max(seen, default=None)

    def _feeder_facts(self, meter: Gauge | None, now_ms: int) -> FeederFacts:
        if meter is None:
            return FeederFacts()
        return FeederFacts(meter.fresh(now_ms, self._stale_ms), meter.read_ms)

    @staticmethod
    def _bank_facts(bank: BankMeasure, *, hpc: bool) -> BankFacts:
        upper_w = bank.power.upper_w
        if bank.power.source is not Source.METER and (upper_w is not None or bank.unread_w is not None):
            upper_w = _read_w(bank.survey) + bank.counted_unread_w
        survey = bank.survey
        return BankFacts(
            upper_w=upper_w,
            known_w=bank.power.power_w if hpc or bank.power.source is Source.METER else None,
            standing_w=survey.standing_w,
            fell_ms=survey.fell_ms,
            inlet_mc=bank.inlet_mc,
            chip_mc=survey.chip_mc,
            quiet=survey.quiet,
        )

    def _watch_for_frozen(self, surveys: Sequence[Survey], now_ms: int) -> None:
        """Tell each meter what the devices behind it claim."""
        claims = [survey.claimed_w for survey in surveys]
        for gauge, claim in zip(self._bank_meters, claims, strict=True):
            if gauge is not None:
                gauge.expect(claim, now_ms, self._lag_ms)
        tree = self._plan.tree
        for feeder, gauge in enumerate(self._feeder_meters):
            if gauge is None or gauge in self._bank_meters:
                continue
            behind = [claims[bank] for bank in tree.banks_under[feeder]]
            known = [claim for claim in behind if claim is not None]
            gauge.expect(sum(known) if len(known) == len(behind) else None, now_ms, self._lag_ms)


def _read_w(survey: Survey) -> int:
    """What the devices that can be read draw at most."""
    return 0 if survey.upper_w is None else survey.upper_w - survey.unread_w
