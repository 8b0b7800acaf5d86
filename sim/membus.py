"""The message bus in memory, for the simulation in virtual time: the promises of MQTT, and its faults on demand.

It behaves as an MQTT 3.1.1 broker with clean sessions does: in order on one connection, retained messages, last wills,
take-over of a name. A cut line behaves as TCP does: what is under way waits, and arrives late if the line heals before
either end gives the connection up; so a stale order is delivered, as in life. On top of that a link may lose, repeat
and reorder. Every delay and fault comes from the one seed; time is the running loop's.

To crash a client, cut its link and then cancel its `run`: its will follows when the broker's keepalive is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Generic, TypeVar

from contract.bus import BusStats, Inbound, Will

T = TypeVar("T")
_APART_S: Final = 1e-6
"""Between two messages that would land at once: a loop's timers keep no order among equal times."""


@dataclass(frozen=True, slots=True)
class LinkQuality:
    """What one link does to a message, each way. Shares of 1, per message."""

    delay_ms: tuple[float, float] = (1.0, 5.0)
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_ms: tuple[float, float] = (20.0, 2_000.0)
    """How much longer a message takes that is overtaken."""


class MemoryBroker:
    """The broker and all links to it. `chance` seeds every link in the order in which they are made."""

    def __init__(
        self,
        chance: Random,
        *,
        quality: LinkQuality | None = None,
        keepalive_ms: int = 5_000,
        backoff_base_ms: int = 500,
        backoff_cap_ms: int = 15_000,
        in_flight: int = 8_192,
    ) -> None:
        self.keepalive_s: Final = keepalive_ms / 1_000
        self.backoff_base_s: Final = backoff_base_ms / 1_000
        self.backoff_cap_s: Final = backoff_cap_ms / 1_000
        self.in_flight: Final = in_flight
        """The most messages that one link holds each way."""
        self.lost = self.duplicated = self.reordered = 0
        """Faults dealt out so far, over all links."""
        self._chance = chance
        self._running = True
        self._default_quality = quality or LinkQuality()
        self._qualities: dict[str, LinkQuality] = {}
        self._cut: set[str] = set()
        self._retained: dict[str, bytes] = {}
        self._connections: dict[str, _Connection] = {}
        self._by_topic: dict[str, dict[str, _Connection]] = {}  # subscriptions without wildcards, by topic and link

    def bus(self, link: str) -> MemoryBus:
        """A bus over the link of that name, which is its MQTT identifier. Two of one name throw each other out."""
        return MemoryBus(self, link, Random(self._chance.getrandbits(64)))

    @property
    def retained(self) -> Mapping[str, bytes]:
        """What a late subscriber would be given, by topic."""
        return self._retained

    def quality(self, link: str) -> LinkQuality:
        return self._qualities.get(link, self._default_quality)

    def set_quality(self, link: str, quality: LinkQuality) -> None:
        """From now on; what is under way is not touched."""
        self._qualities[link] = quality

    def reaches(self, link: str) -> bool:
        """Whether a packet would get through now."""
        return self._running and link not in self._cut

    def cut(self, link: str) -> None:
        """Let nothing through, both ways. Each end notices by its keepalive, unless the line heals first."""
        self._cut.add(link)
        if (connection := self._connections.get(link)) is not None:
            connection.line_cut()

    def heal(self, link: str) -> None:
        """Let everything through again, also what waited, where both ends still hold the connection."""
        self._cut.discard(link)
        if (connection := self._connections.get(link)) is not None:
            connection.line_healed()

    def drop(self, link: str) -> None:
        """Reset the connection: the client knows at once, its will is published, it comes back after its backoff."""
        if (connection := self._connections.get(link)) is not None:
            connection.client_loses("connection reset")
            self.loses(connection)

    def stop(self, *, keep_retained: bool = False) -> None:
        """The broker dies. No will is published, and what was retained is gone unless the broker had persisted it."""
        self._running = False
        for connection in list(self._connections.values()):
            self._forget(connection)
            connection.client_loses("the broker is gone")
        if not keep_retained:
            self._retained.clear()

    def start(self) -> None:
        """The broker is back; clients return by themselves."""
        self._running = True

    # -- for the connections -----------------------------------------------------------------------------------------

    def accept(self, connection: _Connection) -> None:
        """A client has connected and subscribed: throw out an older one of its name, hand over what is retained."""
        older = self._connections.get(connection.link)
        if older is not None:
            older.client_loses("the broker closed the connection")
            self.loses(older)
        self._connections[connection.link] = connection
        for topic in connection.exact:
            self._by_topic.setdefault(topic, {})[connection.link] = connection
        for topic, payload in self._retained.items():
            if connection.wants(topic):
                connection.down.send(Inbound(topic, payload, retained=True))

    def leave(self, connection: _Connection) -> None:
        """A client has said goodbye: no will."""
        self._forget(connection)

    def loses(self, connection: _Connection) -> None:
        """The broker gives a connection up without a goodbye: its will is due."""
        if self._forget(connection) and connection.will is not None:
            self.route(connection.will.topic, connection.will.payload, retain=True)

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """A message has reached the broker: keep it if it is to be retained, send it to all who want it."""
        if retain and payload:
            self._retained[topic] = payload
        elif retain:
            self._retained.pop(topic, None)
        message = Inbound(topic, payload)
        plain = self._by_topic.get(topic, {})
        for connection in plain.values():
            connection.down.send(message)
        for connection in self._connections.values():
            if connection.patterns and connection.link not in plain and connection.wants(topic):
                connection.down.send(message)

    def _forget(self, connection: _Connection) -> bool:
        """False where the broker no longer held it."""
        if self._connections.get(connection.link) is not connection:
            return False
        del self._connections[connection.link]
        for topic in connection.exact:
            del self._by_topic[topic][connection.link]
        connection.broker_closes()
        return True


class MemoryBus:
    """`contract.bus.Bus` over one link of a `MemoryBroker`.

    `stats.published` counts what was accepted for sending; faults dealt out on the way are counted by the broker.
    """

    def __init__(self, broker: MemoryBroker, link: str, chance: Random) -> None:
        self.link: Final = link
        self._broker = broker
        self._chance = chance
        self._running = False
        self._connection: _Connection | None = None
        self._connects = self._published = self._publish_dropped = self._received = self._receive_dropped = 0

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.client_open

    @property
    def stats(self) -> BusStats:
        return BusStats(self._connects, self._published, self._publish_dropped, self._received, self._receive_dropped)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """See `Bus.publish`. True also on a line that is cut and not yet known to be: only a receipt is proof."""
        connection = self._connection
        if connection is None or not connection.client_open or connection.up.in_flight >= self._broker.in_flight:
            self._publish_dropped += 1
            return False
        self._published += 1
        connection.up.send(lambda: self._broker.route(topic, payload, retain=retain))
        return True

    async def run(
        self,
        subscriptions: Sequence[str],
        on_message: Callable[[Inbound], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        *,
        will: Will | None = None,
    ) -> None:
        """See `Bus.run`. Cancelling says goodbye, so that no will is published, unless the line is cut."""
        if self._running:
            raise RuntimeError("this bus is already running")
        self._running = True
        loop = asyncio.get_running_loop()
        attempt = 0
        try:
            while True:
                began = loop.time()
                if await self._greeted():
                    connection = _Connection(self._broker, self.link, subscriptions, will, self._chance)
                    on_down(await self._session(connection, on_message, on_up))
                if loop.time() - began >= 2 * self._broker.backoff_cap_s:
                    attempt = 0  # it stood long enough to count as sound
                await asyncio.sleep(self._backoff_s(attempt))
                attempt += 1
        finally:
            self._running = False

    async def _greeted(self) -> bool:
        """One attempt to connect: there and back."""
        low, high = self._broker.quality(self.link).delay_ms
        await asyncio.sleep(2 * self._chance.uniform(low, high) / 1_000)
        return self._broker.reaches(self.link)

    async def _session(
        self, connection: _Connection, on_message: Callable[[Inbound], None], on_up: Callable[[], None]
    ) -> str:
        """One connection. Returns the reason of its loss."""
        self._connection = connection
        self._connects += 1
        self._broker.accept(connection)
        try:
            on_up()
            while True:
                arrived = await connection.inbox.get()
                if isinstance(arrived, str):
                    return arrived
                self._received += 1
                on_message(arrived)
        finally:
            self._connection = None
            connection.client_leaves()
            self._receive_dropped += connection.down.overflowed

    def _backoff_s(self, attempt: int) -> float:
        ceiling = self._broker.backoff_base_s * 2.0 ** min(attempt, 16)
        return self._chance.uniform(0.0, min(self._broker.backoff_cap_s, ceiling))


class _Connection:
    """One connection with its two ends, of which one may hold it when the other has given it up."""

    def __init__(
        self, broker: MemoryBroker, link: str, subscriptions: Sequence[str], will: Will | None, chance: Random
    ) -> None:
        self.link = link
        self.will = will
        self.client_open = True
        self.inbox: asyncio.Queue[Inbound | str] = asyncio.Queue()
        """What arrived; a text, which is the reason of the loss, is always the last. Bounded by `down`."""
        self.up: _Lane[Callable[[], None]] = _Lane(broker, link, chance, lambda act: act())
        self.down: _Lane[Inbound] = _Lane(broker, link, chance, self._arrived)
        self._broker = broker
        self._chance = chance
        self._leaving = False
        self.exact = tuple(dict.fromkeys(topic for topic in subscriptions if "+" not in topic and "#" not in topic))
        self.patterns = tuple(topic for topic in subscriptions if topic not in self.exact)
        self._client_notices: asyncio.TimerHandle | None = None
        self._broker_notices: asyncio.TimerHandle | None = None

    def wants(self, topic: str) -> bool:
        return topic in self.exact or any(matches(pattern, topic) for pattern in self.patterns)

    def line_cut(self) -> None:
        if self._broker_notices is not None:
            return  # cut already
        loop, keepalive_s = asyncio.get_running_loop(), self._broker.keepalive_s
        notices_s = keepalive_s * self._chance.uniform(1.0, 2.0)
        self._client_notices = loop.call_later(notices_s, self.client_loses, "no answer within the keepalive")
        self._broker_notices = loop.call_later(1.5 * keepalive_s, self._broker.loses, self)

    def line_healed(self) -> None:
        if not self.client_open and not self._leaving:
            self._broker.loses(self)  # the client's machine answers with a reset
            return
        for notice in (self._client_notices, self._broker_notices):
            if notice is not None:
                notice.cancel()
        self._client_notices = self._broker_notices = None
        self.up.release()
        self.down.release()

    def client_loses(self, reason: str) -> None:
        """The client's end is gone: nothing more arrives at it."""
        if not self.client_open:
            return
        self.client_open = False
        self.down.close()
        self.inbox.put_nowait(reason)

    def client_leaves(self) -> None:
        """The client is done with its end. After a loss there is nothing to say, else there is a goodbye."""
        if not self.client_open:
            return
        self.client_open = False
        self._leaving = True
        self.down.close()
        self.up.send(lambda: self._broker.leave(self), surely=True)

    def broker_closes(self) -> None:
        """The broker's end is gone. On a cut line the client does not know, until its own keepalive tells it."""
        self.up.close()
        if self._broker_notices is not None:
            self._broker_notices.cancel()
        if self._client_notices is not None and not self.client_open:
            self._client_notices.cancel()

    def _arrived(self, message: Inbound) -> None:
        self.inbox.put_nowait(message)


class _Lane(Generic[T]):
    """One direction of a connection: first in, first out, but for the faults of the link."""

    def __init__(self, broker: MemoryBroker, link: str, chance: Random, land: Callable[[T], None]) -> None:
        self.overflowed = 0
        """Dropped oldest-first, because more was under way than the bound allows."""
        self._broker = broker
        self._link = link
        self._chance = chance
        self._land = land
        self._closed = False
        self._free_at = 0.0
        self._flying: dict[int, tuple[asyncio.TimerHandle | None, T]] = {}  # by number, in order; None where held up
        self._next = 0

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def send(self, item: T, *, surely: bool = False) -> None:
        """Let one item go; `surely` spares it the faults."""
        quality = self._broker.quality(self._link)
        if self._closed:
            return
        if not surely and self._happens(quality.loss):
            self._broker.lost += 1
            return
        overtaken_s = 0.0
        if not surely and self._happens(quality.reorder):
            self._broker.reordered += 1
            overtaken_s = self._chance.uniform(*quality.reorder_ms) / 1_000
        self._launch(item, overtaken_s)
        if not surely and self._happens(quality.duplicate):
            self._broker.duplicated += 1
            self._launch(item, 0.0)

    def release(self) -> None:
        """The line is whole again: what was held up goes on its way, in order."""
        held = [(number, item) for number, (timer, item) in self._flying.items() if timer is None]
        for number, item in held:
            del self._flying[number]
            self._launch(item, 0.0)

    def close(self) -> None:
        """Nothing lands any more."""
        self._closed = True
        for timer, _ in self._flying.values():
            if timer is not None:
                timer.cancel()
        self._flying.clear()

    def _launch(self, item: T, overtaken_s: float) -> None:
        number = self._next
        self._next += 1
        timer = None
        if self._broker.reaches(self._link):
            loop = asyncio.get_running_loop()
            at = loop.time() + self._chance.uniform(*self._broker.quality(self._link).delay_ms) / 1_000
            at = max(at, self._free_at)
            if overtaken_s:
                at += overtaken_s
            else:
                self._free_at = at + _APART_S
            timer = loop.call_at(at, self._lands, number)
        self._flying[number] = (timer, item)
        if len(self._flying) > self._broker.in_flight:
            self._drop_oldest()

    def _lands(self, number: int) -> None:
        _, item = self._flying[number]
        if not self._broker.reaches(self._link):
            self._flying[number] = (None, item)  # the line was cut under it
            return
        del self._flying[number]
        self._land(item)

    def _drop_oldest(self) -> None:
        number = next(iter(self._flying))
        timer, _ = self._flying.pop(number)
        if timer is not None:
            timer.cancel()
        self.overflowed += 1

    def _happens(self, share: float) -> bool:
        return share > 0.0 and self._chance.random() < share


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT subscription with wildcards takes a topic (MQTT 3.1.1, section 4.7)."""
    if topic.startswith("$") and not pattern.startswith("$"):
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels) or level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)
