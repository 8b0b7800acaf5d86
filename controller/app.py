"""The controller: all its parts put together, and what the outside may ask of it.

It runs unmodified on any event loop, clock, bus and journal: those of production, and those of a simulation in virtual
time. It starts no thread and opens no socket of its own; the HTTP server stands beside it, see `controller.daemon`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from random import Random
from typing import Final

from contract.bus import Bus
from contract.clock import Clock
from contract.messages import Nameplate, Order, Receipt
from contract.topics import AGENT_KINDS, all_sites
from controller.asks import Rejected
from controller.config import ControllerConfig
from controller.dispatch import Decide, Dispatched, Dispatcher
from controller.engine.decide import decide as engine_decide
from controller.engine.model import MODEL_VERSION, Obligation, SiteDecision
from controller.events import Events, WatchedJournal
from controller.feeds.base import Feeds
from controller.feeds.mqtt import MqttPrices
from controller.freeze import Freezer
from controller.ingest import Ingest
from controller.journal.base import EventRecord, Journal, OverrideRecord, SignalRecord
from controller.loop import ControlLoop
from controller.metrics import Metrics
from controller.outlooks import Aside
from controller.overrides import OverrideAsk, Overrides, OverrideSet
from controller.overrides_model import Imposed
from controller.publish import Publisher
from controller.quotas import Quotas
from controller.reactions import Reactions
from controller.signals import Accepted, SignalAsk, Signals
from controller.state import Decided, Fleet

_LOG = logging.getLogger(__name__)
_LOOP_LATE_MS: Final = 15_000
CONFLICT_ALARM_MS: Final = 600_000
"""Two agents for one site stay an alarm this long after they were last seen."""


@dataclass(frozen=True, slots=True)
class SignalOutcome:
    """A signal that was taken, and what follows from it."""

    accepted: Accepted
    now: Dispatched | None
    """Decided and ordered at once; None where the site cannot be decided yet, or nothing was new."""
    expected: SiteDecision | None
    """What would be decided when it begins, with what is known now."""


@dataclass(frozen=True, slots=True)
class OverrideOutcome:
    """An override that was taken, and what follows from it."""

    override: Imposed
    created: bool
    now: Dispatched | None


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of being ready."""

    name: str
    ok: bool
    detail: str


class Controller:
    """The central daemon without its sockets.

    `decide` is the engine's unless a test puts its own in; `heartbeat` is called at every turn of the control loop,
    which is what a watchdog should be fed by; `history` bounds `orders` and `receipts`. Forecasts learn `aside`, on a
    thread, or where there is none on the event loop, in virtual time.
    """

    def __init__(
        self,
        config: ControllerConfig,
        *,
        bus: Bus,
        clock: Clock,
        rng: Random,
        journal: Journal,
        feeds: Feeds | None = None,
        decide: Decide = engine_decide,
        heartbeat: Callable[[], None] = lambda: None,
        history: int = 256,
        aside: Aside | None = None,
    ) -> None:
        self.config = config
        self.bus = bus
        self.clock = clock
        self.events = Events()
        journal = self.journal = WatchedJournal(journal, self.events)
        self.feeds = feeds or Feeds()
        self.metrics = Metrics()
        self.fleet = Fleet()
        self.signals = Signals(rng)
        self.overrides = Overrides(rng, self._plate_of)
        self.freezer = Freezer(config, self.feeds, self.signals, self.overrides, aside)
        self.publisher = Publisher(bus, clock, journal, self.metrics, history=history)
        self.dispatcher = Dispatcher(
            config, self.freezer, decide, self.publisher, journal, clock, self.metrics, engine=_engine_version()
        )
        self.quotas = Quotas(config, self.fleet, self.freezer, clock, self.dispatcher.params_of, aside)
        self.loop = ControlLoop(
            config,
            self.fleet,
            self.feeds,
            self.signals,
            self.overrides,
            self.dispatcher,
            self.publisher,
            clock,
            self.metrics,
            heartbeat,
            self.quotas,
            aside,
        )
        reactions = Reactions(self.publisher, self.signals, journal, clock, self.loop.request)
        listening = [feed for feed in self.feeds.prices.values() if isinstance(feed, MqttPrices)]
        self.ingest = Ingest(
            self.fleet,
            clock,
            reactions,
            allowed=config.ingest.sites,
            sites_max=config.ingest.sites_max,
            market={feed.topic: feed.on_payload for feed in listening},
        )
        self._subscriptions = [*map(all_sites, AGENT_KINDS), *(feed.topic for feed in listening)]
        self._started = False

    async def run(self) -> None:
        """Restore, then run until cancelled. Raises `JournalError` where the journal cannot be opened."""
        await self._restore()
        await self.freezer.outlooks.prepare(sorted({"", *self.config.sites, *self.fleet.ids()}), self.clock.wall_ms())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    self.bus.run(self._subscriptions, self.ingest.on_message, self._on_up, self._on_down), name="bus"
                )
                group.create_task(self.loop.run(), name="loop")
                for price in self.feeds.prices.values():
                    group.create_task(price.run(), name=f"feed {price.name}")
                for hashprice in self.feeds.hashprices.values():
                    group.create_task(hashprice.run(), name=f"feed {hashprice.name}")
        finally:
            self._started = False
            self._event("controller_stopped", f"epoch {self.epoch}")
            await self.journal.close()

    def signal(self, ask: SignalAsk) -> SignalOutcome | Rejected:
        """Take a curtailment signal: the order is with the bus when this returns."""
        state = self.fleet.get(ask.site)
        accepted = self.signals.accept(ask, state, self.clock.wall_ms(), self.clock.mono_ms())
        if isinstance(accepted, Rejected):
            return accepted
        now = None
        if accepted.created:
            now = self._dispatch(ask.site, "signal")
            self.journal.write(SignalRecord(accepted.obligation.received_at_ms, "accept", accepted.obligation))
        expected = now.decided.decision if now else None
        if state is not None and accepted.obligation.starts_at_ms > self.clock.wall_ms():
            expected = self.dispatcher.preview(state, accepted.obligation.starts_at_ms)
        return SignalOutcome(accepted, now, expected)

    def withdraw_signal(self, key: str) -> Obligation | None:
        """Take an obligation off and decide its site at once; None where there is none."""
        obligation = self.signals.withdraw(key)
        if obligation is not None:
            self._dispatch(obligation.site, "signal")
            self.journal.write(SignalRecord(self.clock.wall_ms(), "withdraw", obligation))
        return obligation

    def impose(self, ask: OverrideAsk) -> OverrideOutcome | Rejected:
        """Put an override in force: the order is with the bus when this returns."""
        done = self.overrides.impose(ask, self.fleet.get(ask.site), self.clock.wall_ms())
        if not isinstance(done, OverrideSet):
            return done
        now = None
        if done.created:
            now = self._dispatch(ask.site, "override")
            self.journal.write(OverrideRecord(self.clock.wall_ms(), "set", done.override))
        return OverrideOutcome(done.override, done.created, now)

    def extend_override(
        self, key: str, ends_at_ms: int, *, reason: str, by: str = "", ticket: str | None = None
    ) -> Imposed | Rejected:
        """Give an override another end. Nothing is decided for it: what is in force now stays so."""
        now_ms = self.clock.wall_ms()
        done = self.overrides.extend(key, ends_at_ms, now_ms, reason=reason, by=by, ticket=ticket)
        if isinstance(done, Imposed):
            self.journal.write(OverrideRecord(now_ms, "set", done))
        return done

    def lift_override(self, key: str, *, by: str = "", reason: str = "") -> Imposed | None:
        """Revoke an override and decide its site at once; None where there is none that is not over."""
        override = self.overrides.revoke(key, self.clock.wall_ms(), by=by, reason=reason)
        if override is not None:
            self._dispatch(override.site, "override")
            self.journal.write(OverrideRecord(self.clock.wall_ms(), "lift", override))
        return override

    @property
    def epoch(self) -> int:
        return self.publisher.epoch

    @property
    def latest(self) -> Mapping[str, SiteDecision]:
        """The last decision of each site."""
        return {state.site: state.decided.decision for state in self.fleet if state.decided is not None}

    @property
    def orders(self) -> Sequence[Order]:
        """The newest orders that went out, oldest first; bounded."""
        return self.publisher.orders

    @property
    def receipts(self) -> Sequence[Receipt]:
        """The newest receipts, oldest first; bounded."""
        return self.publisher.receipts

    @property
    def receipt_counts(self) -> Mapping[str, int]:
        """Changes of receipt state by state, since the start."""
        return self.publisher.receipt_counts

    def checks(self) -> list[Check]:
        """What must hold for the controller to be ready to lead."""
        late_ms = self.clock.mono_ms() - self.loop.beat_at_ms
        health = self.journal.health
        fenced = sorted(state.site for state in self.fleet if state.fenced)
        if fenced:
            seen = [state.report.epoch for state in self.fleet if state.fenced and state.report is not None]
            highest = max(seen, default=self.epoch)
            told = f"{len(fenced)} sites obey a higher epoch, {fenced[0]} among them: another controller leads, or the "
            told += f"journal is lost or an old copy, and then [journal] epoch_floor = {highest} must be set"
        else:
            told = "no site obeys a higher epoch"
        return [
            Check("started", self._started, f"epoch {self.epoch}" if self._started else "not restored yet"),
            Check("bus", self.bus.connected, "connected" if self.bus.connected else "no link to the broker"),
            Check("journal", health.ok, health.detail),
            Check("loop", late_ms <= _LOOP_LATE_MS, f"last turn {late_ms} ms ago"),
            Check("leading", not fenced, told),
        ]

    def _dispatch(self, site: str, trigger: str) -> Dispatched | None:
        state = self.fleet.get(site)
        return None if state is None else self.dispatcher.dispatch([state], trigger).get(site)

    def _plate_of(self, site: str) -> Nameplate | None:
        state = self.fleet.get(site)
        return None if state is None else state.nameplate

    async def _restore(self) -> None:
        now_ms = self.clock.wall_ms()
        restored = await self.journal.open(now_ms)
        self.publisher.epoch = restored.epoch
        self.signals.restore(restored.obligations)
        self.overrides.restore(restored.overrides)
        allowed = self.config.ingest.sites
        for site, decision in restored.decisions.items():
            if allowed is None or site in allowed:
                # Not an order yet: the site is decided when it reports, with this as what was decided last.
                self.fleet.learn(site).decided = Decided("restored", now_ms, "restored", decision)
        self._started = True
        alive = sum(not each.is_over(now_ms) for each in self.overrides.entries())
        told = f"{len(restored.obligations)} signals, {alive} overrides"
        _LOG.info("started: epoch %d, restored %s", restored.epoch, told)
        self._event("controller_started", f"epoch {restored.epoch}, restored {told}")

    def _event(self, kind: str, detail: str) -> None:
        self.journal.write(EventRecord(self.clock.wall_ms(), kind, None, detail))

    def _on_up(self) -> None:
        _LOG.info("broker: connected")

    def _on_down(self, why: str) -> None:
        _LOG.warning("broker: lost: %s", why)
        self._event("broker_lost", why[:400])


def _engine_version() -> str:
    try:
        return f"{version('wattshift')}/{MODEL_VERSION}"
    except PackageNotFoundError:
        return f"unknown/{MODEL_VERSION}"
