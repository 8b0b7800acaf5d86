"""A site's link to the broker: what comes in is checked before anybody acts on it, and only the agent that speaks for
its site says anything."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from agent.report import SentReports
from agent.twin import TwinWatch
from contract.bus import Bus, Inbound, Will
from contract.clock import Clock
from contract.messages import Nameplate, Order, Receipt, Report, Status, WireError, decode, encode
from contract.topics import site_topic

_LOG = logging.getLogger(__name__)


class SiteLink:
    """See the module. Publishing never waits: what the bus cannot take is lost, and said again at the next tick."""

    def __init__(
        self,
        plate: Nameplate,
        boot: str,
        *,
        bus: Bus,
        clock: Clock,
        on_order: Callable[[Order], None],
        on_yield: Callable[[], None],
        on_up: Callable[[], None],
    ) -> None:
        """`on_yield` is told when another agent begins or ceases to speak for the site; `on_up` when the broker is
        there, and it is this agent that speaks."""
        self.site, self.boot, self.bus = plate.site, boot, bus
        self.sent = SentReports()
        self.twin = TwinWatch(plate.site, boot, clock)
        self.events: Counter[tuple[str, str]] = Counter()
        """Orders, messages and losses of the link, by what became of them."""
        self.ending = False
        """The agent is on its way out: it greets nobody any more."""
        self._plate, self._clock = plate, clock
        self._on_order, self._on_yield, self._told_up = on_order, on_yield, on_up
        self._logged: set[str] = set()

    async def run(self) -> None:
        """Hold the connection until cancelled; whatever ends it, the broker says that the site is offline."""
        will = Will(self._topic("status"), self._status(online=False))
        subscriptions = [self._topic("order"), self._topic("status")]
        await self.bus.run(subscriptions, self._on_message, self._on_up, self._on_down, will=will)

    def report(self, report: Report, now_ms: int) -> None:
        """Say it, and remember when: an order that answers it counts its lease from there."""
        if self.bus.publish(self._topic("report"), encode(report)):
            self.sent.note(report.seq, now_ms)

    def answer(self, receipt: Receipt | None) -> None:
        if receipt is not None and self.speaks:
            self.bus.publish(self._topic("receipt"), encode(receipt))

    def leave(self) -> None:
        """Say that the site is offline."""
        self.bus.publish(self._topic("status"), self._status(online=False), retain=True)

    @property
    def speaks(self) -> bool:
        """Whether it is this agent that speaks for its site."""
        return self.twin.master is None

    # messages in

    def _on_message(self, message: Inbound) -> None:
        try:
            if message.topic == self._topic("order"):
                self._on_order(decode(Order, message.payload))
            elif message.topic == self._topic("status"):
                self._on_status(decode(Status, message.payload), retained=message.retained)
        except WireError as error:
            self.events["message", error.code] += 1
            self._log_once(f"message {error.code}", "a message on %s is refused: %s", message.topic, error)

    def _on_status(self, status: Status, *, retained: bool) -> None:
        """Another agent of this site, or what the broker keeps of an earlier one."""
        was = self.twin.master
        speak = self.twin.heard(status, retained=retained)
        if self.twin.master != was:
            self._on_yield()
        if speak and not self.ending:
            self._announce()

    def _on_up(self) -> None:
        if self.speaks and not self.ending:
            self._announce()
            self._told_up()

    def _on_down(self, reason: str) -> None:
        self.events["link", "lost"] += 1
        _LOG.info("%s: broker lost: %s", self.site, reason)

    # helpers

    def _announce(self) -> None:
        self.bus.publish(self._topic("status"), self._status(online=True), retain=True)
        self.bus.publish(self._topic("nameplate"), encode(self._plate), retain=True)

    def _topic(self, kind: Any) -> str:
        return site_topic(self.site, kind)

    def _status(self, *, online: bool) -> bytes:
        return encode(Status(site=self.site, boot=self.boot, online=online))

    def _log_once(self, key: str, text: str, *args: object) -> None:
        if key not in self._logged:
            self._logged.add(key)
            _LOG.warning(text + "; further ones are only counted", *args)
