"""The bounded queues of one MQTT connection. They know nothing of the library but that its messages have a topic."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from contract.bus import Inbound

_SLICE_S: Final = 0.005
"""How long the socket, then the handlers, have the loop when both have work."""


class Inbox(asyncio.Queue[Any]):
    """Takes the place of the library's queue: bounded in messages and bytes, drops the oldest, counts.

    Emptied by `deliver` and not through `get`, which therefore waits for ever: the library's iterator is then
    nothing but the sign that the link was lost.
    """

    def __init__(self, limit_messages: int, limit_bytes: int, count: Callable[[int], None]) -> None:
        super().__init__()
        self._limit_messages = limit_messages
        self._limit_bytes = limit_bytes
        self._count = count
        self._held: deque[Inbound] = deque()
        self._held_bytes = 0
        self._arrivals = 0
        self._filled = asyncio.Event()

    def put_nowait(self, item: Any) -> None:
        """Take one message of the library's kind."""
        self._held.append(Inbound(item.topic.value, item.payload, item.retain))
        self._held_bytes += len(item.payload)
        dropped = 0
        while len(self._held) > 1 and self._is_over():
            self._pop()
            dropped += 1
        self._arrivals += 1
        self._count(dropped)
        self._filled.set()

    async def get(self) -> Any:
        await asyncio.Event().wait()
        raise AssertionError("waits for ever")

    async def deliver(self, on_message: Callable[[Inbound], None]) -> None:
        """Hand every message to the handler, in order, for a slice of time at once."""
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            await self._read_first(loop.time() + _SLICE_S)
            slice_ends = loop.time() + _SLICE_S
            while self._held and loop.time() < slice_ends:
                on_message(self._pop())
            if not self._held:
                self._filled.clear()

    async def _read_first(self, until: float) -> None:
        """Give the socket its turn until it is empty.

        Else the backlog of a slow handler would stand in the broker, which keeps the stale and drops the newest.
        """
        loop = asyncio.get_running_loop()
        before = -1
        while self._arrivals != before and loop.time() < until:
            before = self._arrivals
            await asyncio.sleep(0)

    def _is_over(self) -> bool:
        return len(self._held) > self._limit_messages or self._held_bytes > self._limit_bytes

    def _pop(self) -> Inbound:
        message = self._held.popleft()
        self._held_bytes -= len(message.payload)
        return message


class Outbox:
    """What one connection has still to send. Bounded in messages and bytes; thrown away with the connection."""

    def __init__(self, limit_messages: int, limit_bytes: int) -> None:
        self._queue: asyncio.Queue[tuple[str, bytes, bool]] = asyncio.Queue()
        self._limit_messages = limit_messages
        self._room_bytes = limit_bytes
        self.unacknowledged = 0

    def offer(self, topic: str, payload: bytes, retain: bool) -> bool:
        if self.unacknowledged >= self._limit_messages or len(payload) > self._room_bytes:
            return False
        self._room_bytes -= len(payload)
        self.unacknowledged += 1
        self._queue.put_nowait((topic, payload, retain))
        return True

    async def take(self) -> tuple[str, bytes, bool]:
        return await self._queue.get()

    def done(self, payload: bytes) -> None:
        self._room_bytes += len(payload)
        self.unacknowledged -= 1
        self._queue.task_done()

    async def emptied(self) -> None:
        await self._queue.join()
