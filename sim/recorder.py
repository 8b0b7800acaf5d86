"""Taps on every wire of a simulated world, and the view of it that the checkers read.

A tap passes everything through unchanged; what it saw becomes an event. The daemons cannot tell that they are watched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contract.bus import Bus, BusStats, Inbound, Will
from contract.messages import Order, Receipt, Report, WireError, decode
from contract.topics import parse_site_topic
from controller.app import Controller
from controller.engine.model import Decision, Override, OverrideKind, Snapshot
from controller.journal.base import DecisionRecord, Journal, JournalBefore, Record
from sim.checkers import (
    Cap,
    CapSource,
    DecisionMade,
    DeviceCommanded,
    Due,
    Event,
    JobHappened,
    OrderHeard,
    OrderPublished,
    PlantTruth,
    ReceiptSent,
    ReportHeard,
    ReportSent,
)
from sim.jobs import JobEvent, JobEventKind
from sim.partition import HpcPartition
from sim.plant import Commanded, CommandKind, Plant

OVERRIDDEN_AFTER_MS: Final = 60_000
"""A bank still counts as overridden this long after its override is over."""
_DOWN: Final = frozenset({OverrideKind.EMERGENCY_STOP, OverrideKind.LOCKOUT})
_STEERS: Final = frozenset({OverrideKind.FLOOR, OverrideKind.HOLD, OverrideKind.FORCE_HASH, OverrideKind.FORCE_HPC})
_JOB_RAISES: Final = {
    JobEventKind.THAWED: True,
    JobEventKind.RELEASED: True,
    JobEventKind.FROZEN: False,
    JobEventKind.HELD: False,
    JobEventKind.REQUEUED: False,
}


@dataclass(slots=True)
class Recorder:
    """Collects events. `now_ms` is true site time."""

    now_ms: Callable[[], int]
    events: list[Event] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Events by class name, since the start."""

    def add(self, event: Event) -> None:
        self.events.append(event)
        name = type(event).__name__
        self.counts[name] = self.counts.get(name, 0) + 1

    def drain(self) -> list[Event]:
        """What happened since the last call."""
        drained, self.events = self.events, []
        return drained

    def tap_plant(self, site: str, plant: Plant) -> None:
        """Note every command that reaches a machine and everything that happens to a job."""
        limits: dict[tuple[str, int], float] = {}

        def commanded(command: Commanded) -> None:
            key = (command.bank, command.device)
            raises = command.kind is CommandKind.WAKE
            if command.kind is CommandKind.LIMIT and command.power_w is not None:
                rated = plant.machine(*key).model.rated_w
                raises = command.power_w > limits.get(key, rated)
                limits[key] = command.power_w
            device = f"{command.bank}/{command.device}"
            self.add(DeviceCommanded(command.at_ms, site, command.bank, device, raises))

        plant.on_command = commanded
        for bank, partition in plant.partitions.items():
            partition.on_event = self._job_tap(site, bank, partition)

    def _job_tap(self, site: str, bank: str, partition: HpcPartition) -> Callable[[JobEvent], None]:
        def happened(event: JobEvent) -> None:
            run = partition.job(event.job)
            notice_ms = run.spec.notice_ms if run is not None else 0
            self.add(JobHappened(site, bank, event, notice_ms))
            if event.kind in _JOB_RAISES:
                self.add(DeviceCommanded(event.at_ms, site, bank, f"{bank}/{event.job}", _JOB_RAISES[event.kind]))

        return happened


class TapBus:
    """A `Bus` that notes what goes through it. `who` names one incarnation of one process; `site` is an agent's."""

    def __init__(self, inner: Bus, recorder: Recorder, who: str, site: str | None = None) -> None:
        self._inner = inner
        self._recorder = recorder
        self._who = who
        self._site = site

    async def run(
        self,
        subscriptions: Sequence[str],
        on_message: Callable[[Inbound], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        *,
        will: Will | None = None,
    ) -> None:
        def heard(message: Inbound) -> None:
            self._note_heard(message)
            on_message(message)

        await self._inner.run(subscriptions, heard, on_up, on_down, will=will)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        sent = self._inner.publish(topic, payload, retain=retain)
        if sent:
            self._note_sent(topic, payload)
        return sent

    @property
    def connected(self) -> bool:
        return self._inner.connected

    @property
    def stats(self) -> BusStats:
        return self._inner.stats

    def _note_sent(self, topic: str, payload: bytes) -> None:
        parsed, now_ms = parse_site_topic(topic), self._recorder.now_ms()
        match parsed.kind if parsed else None:
            case "report":
                self._recorder.add(ReportSent(now_ms, decode(Report, payload)))
            case "receipt":
                self._recorder.add(ReceiptSent(now_ms, decode(Receipt, payload)))
            case "order":
                self._recorder.add(OrderPublished(now_ms, self._who, decode(Order, payload)))
            case _:
                return

    def _note_heard(self, message: Inbound) -> None:
        """What is no message is the daemon's to refuse."""
        parsed, now_ms = parse_site_topic(message.topic), self._recorder.now_ms()
        if parsed is None:
            return
        try:
            if parsed.kind == "order" and self._site is not None:
                self._recorder.add(OrderHeard(now_ms, self._site, decode(Order, message.payload)))
            elif parsed.kind == "report":
                self._recorder.add(ReportHeard(now_ms, self._who, decode(Report, message.payload)))
        except WireError:
            return


class TapJournal(JournalBefore):
    """A `Journal` that notes each site's decision as the bytes it is made of."""

    def __init__(self, inner: Journal, recorder: Recorder, who: str, leads: Callable[[], bool] = lambda: True) -> None:
        """`leads`: whether this controller is the one that agents obey."""
        super().__init__(inner)
        self._recorder = recorder
        self._who = who
        self._leads = leads

    def write(self, record: Record) -> bool:
        if isinstance(record, DecisionRecord):
            snapshot = Snapshot(at_ms=record.at_ms, sites=(record.snapshot,))
            decision = Decision(at_ms=record.at_ms, sites=(record.decision,))
            self._recorder.add(
                DecisionMade(
                    at_ms=self._recorder.now_ms(),
                    controller=self._who,
                    id=record.id,
                    leading=self._leads(),
                    snapshot=snapshot.model_dump_json().encode(),
                    params=record.params.model_dump_json().encode(),
                    decision=decision.model_dump_json().encode(),
                )
            )
        return self._inner.write(record)


@dataclass
class RecordedWorld:
    """`sim.checkers.World` at one step."""

    now_ms: int
    sites: Mapping[str, PlantTruth]
    events: Sequence[Event]
    healed_ms: int | None


class Told:
    """What senders and ops have imposed, as the leading controller acknowledged it: caps and dues for the truth."""

    def __init__(self) -> None:
        self._steered_until_ms: dict[tuple[str, str], int] = {}

    def follow(self, controller: Controller, truths: Mapping[str, PlantTruth], now_ms: int) -> None:
        """Take in what is new, let what was lifted end now."""
        overrides = {each.id: each for each in controller.overrides.all(now_ms)}
        for site, truth in truths.items():
            known = {cap.id for cap in truth.caps if cap.source is not CapSource.BREAKER}
            mine = {key: each for key, each in overrides.items() if each.site == site}
            for key, each in mine.items():
                if not any(have.split("/")[0] == key for have in known):
                    truth.caps.extend(caps_of(each, truth))
            truth.caps = [
                cap
                for cap in truth.caps
                if cap.source not in {CapSource.OVERRIDE, CapSource.STOP} or _base(cap) in mine
            ]
            self._follow_dues(controller, site, truth, now_ms)
            self._follow_steering(mine.values(), truth, now_ms)

    def _follow_dues(self, controller: Controller, site: str, truth: PlantTruth, now_ms: int) -> None:
        standing = {each.id: each for each in controller.signals.of(site, now_ms)}
        have = {due.id for due in truth.dues}
        truth.dues = [due for due in truth.dues if due.id in standing]
        for key, each in standing.items():
            if key in have:
                continue
            truth.dues.append(
                Due(key, each.target_w, each.received_at_ms, each.starts_at_ms, each.ends_at_ms, each.firm_too)
            )

    def _follow_steering(self, overrides: Any, truth: PlantTruth, now_ms: int) -> None:
        site = truth.plate.site
        for each in overrides:
            if each.kind in _STEERS and each.starts_at_ms <= now_ms:
                for bank in truth.plate.banks:
                    if covers(each, bank.id, bank.feeder, truth):
                        self._steered_until_ms[site, bank.id] = now_ms + OVERRIDDEN_AFTER_MS
        truth.overridden_banks = {
            bank.id for bank in truth.plate.banks if self._steered_until_ms.get((site, bank.id), 0) >= now_ms
        }


def _base(cap: Cap) -> str:
    return cap.id.split("/")[0]


def caps_of(override: Override, truth: PlantTruth) -> list[Cap]:
    """The limits an override means: one at its feeder or bank, one for each bank it takes down."""
    span = (override.starts_at_ms, override.ends_at_ms, override.created_at_ms)
    if override.kind is OverrideKind.CAP and override.value_w is not None:
        feeder = override.feeder or truth.plate.main.id
        return [Cap(override.id, CapSource.OVERRIDE, override.value_w, feeder, *span, bank=override.bank)]
    if override.kind not in _DOWN:
        return []
    return [
        Cap(f"{override.id}/{bank.id}", CapSource.STOP, bank.idle_w, bank.feeder, *span, bank=bank.id)
        for bank in truth.plate.banks
        if covers(override, bank.id, bank.feeder, truth)
    ]


def covers(override: Override, bank: str, feeder: str, truth: PlantTruth) -> bool:
    if override.bank is not None:
        return override.bank == bank
    if override.feeder is None:
        return True
    parents = {each.id: each.parent for each in truth.plate.feeders}
    node: str | None = feeder
    while node is not None:
        if node == override.feeder:
            return True
        node = parents[node]
    return False
