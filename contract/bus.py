"""The seam to the message broker. `bus_mqtt` implements it over MQTT 3.1.1; the simulation implements it in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message as it came: nothing of it is trusted yet."""

    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we vanish."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class BusStats:
    """Counters since the start, for metrics."""

    connects: int
    published: int
    publish_dropped: int
    """Not sent because the link was down or the bounded outbound queue was full."""
    received: int
    receive_dropped: int
    """Dropped oldest-first because the handler fell behind the bounded inbound queue."""


class Bus(Protocol):
    """A link to the broker that heals itself.

    `run` owns the connection until cancelled: it connects, subscribes, calls `on_up`, delivers every message to
    `on_message` in order, and on loss calls `on_down`, backs off with full jitter and begins again with a new client.
    Handlers are synchronous, must not block and must not raise.
    """

    async def run(
        self,
        subscriptions: Sequence[str],
        on_message: Callable[[Inbound], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        *,
        will: Will | None = None,
    ) -> None: ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Queue one QoS 1 message without waiting. False where it was dropped (link down, queue full); counted.

        Only an application receipt proves that anything arrived.
        """
        ...

    @property
    def connected(self) -> bool: ...

    @property
    def stats(self) -> BusStats: ...
