"""What has happened, for those who watch: a bounded ring of events that any number of readers follow, each at its pace.

A reader has a place in the ring and nothing else, so one that reads slowly costs nothing; one that has fallen out of
the ring is told so and starts anew.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from controller.journal.base import (
    DecisionRecord,
    EventRecord,
    Journal,
    JournalBefore,
    OrderRecord,
    OverrideRecord,
    ReceiptRecord,
    Record,
    SignalRecord,
)

RING: Final = 8_192
_OF_THE_WIRE: Final = {"schema_version", "boot", "seq"}


@dataclass(slots=True)
class Event:
    """One thing that happened. `n` rises by one from event to event; `text` is one line of JSON."""

    n: int
    kind: str
    site: str | None
    text: str
    _wire: bytes = b""

    def wire(self, epoch: int) -> bytes:
        """As it is sent: made once, however many follow. Its id says of which epoch the number is."""
        if not self._wire:
            self._wire = f"id: {epoch}-{self.n}\nevent: {self.kind}\ndata: {self.text}\n\n".encode()
        return self._wire


class Events:
    """The ring. One writer, the event loop's thread."""

    def __init__(self, ring: int = RING) -> None:
        self._ring: deque[Event] = deque(maxlen=ring)
        self._waiter: asyncio.Future[None] | None = None
        self.last = 0
        """The number of the newest event."""

    @property
    def before(self) -> int:
        """The number before the oldest event that is still there."""
        return self._ring[0].n - 1 if self._ring else self.last

    def publish(self, kind: str, site: str | None, text: str) -> None:
        """Add an event. `text` is one line of JSON: it takes a tenth of the room of what it tells."""
        self.last += 1
        self._ring.append(Event(self.last, kind, site, text))
        if self._waiter is not None:
            self._waiter.set_result(None)
            self._waiter = None

    def since(self, n: int, limit: int) -> list[Event] | None:
        """Up to `limit` events after number `n`, oldest first; None where some of them are no longer there."""
        if n >= self.last:
            return []
        first = self._ring[0].n
        if n + 1 < first:
            return None
        begin = n + 1 - first
        return [self._ring[place] for place in range(begin, min(begin + limit, len(self._ring)))]

    async def beyond(self, n: int) -> None:
        """Wait until there is an event after number `n`."""
        while self.last <= n:
            if self._waiter is None:
                self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiter)


class WatchedJournal(JournalBefore):
    """A `Journal` that makes an event of what is written to another one."""

    def __init__(self, inner: Journal, events: Events) -> None:
        super().__init__(inner)
        self._events = events

    def write(self, record: Record) -> bool:
        written = self._inner.write(record)
        told = _told(record)
        if told is not None:
            self._events.publish(*told)
        return written


def _told(record: Record) -> tuple[str, str | None, str] | None:
    """Kind, site and text. Overrides are told by those who know what became of them, see `controller.api.stream`."""
    match record:
        case DecisionRecord():
            return "decision", record.decision.site, _line(_decision(record))
        case OrderRecord():
            names = ("site", "at_ms", "epoch", "seq", "decision_id", "valid_for_ms", "published")
            return "order", record.site, _line({name: getattr(record, name) for name in names})
        case ReceiptRecord():
            return "receipt", record.receipt.site, record.receipt.model_dump_json(exclude=_OF_THE_WIRE)
        case SignalRecord():
            what = record.obligation
            data = {"at_ms": record.at_ms, "action": record.action} | what.model_dump(mode="json")
            return "signal", what.site, _line(data)
        case EventRecord():
            data = {"at_ms": record.at_ms, "kind": record.kind, "site": record.site, "detail": record.detail}
            return "event", record.site, _line(data)
        case OverrideRecord():
            return None


def _decision(record: DecisionRecord) -> dict[str, Any]:
    decision = record.decision
    return {
        "site": decision.site,
        "at_ms": record.at_ms,
        "id": record.id,
        "trigger": record.trigger,
        "sentence": decision.sentence,
        "planned_w": decision.planned_w,
        "cap_w": decision.cap_w,
        "obligation": decision.obligation,
        "urgent": decision.urgent,
        "margin_usd_per_h": decision.margin_usd_per_h,
        "short_w": sum(short.short_w for short in decision.shortfalls),
    }


def _line(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))
