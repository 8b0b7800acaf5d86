"""One request and one answer over one TCP connection: how every lean driver talks to its device.

A plain asyncio Protocol: the framing, the limit on size and the abort need no stream's buffer between. Measured with
2 kB of JSON parsed as well: 0.19 ms of CPU per exchange on asyncio's own loop, 0.10 ms on uvloop. The connection is
always made with `asyncio.get_running_loop().create_connection(factory, host, port)` and nothing else, so that a
simulated loop can stand in-memory devices behind any address.

Deadlines are instants of the loop's own clock (`until_s`, see `deadline`), so that an operation of several exchanges
has one total deadline, and a device that drips a byte at a time gains nothing by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from agent.drivers.base import Failure, Unreachable

MAX_ANSWER_BYTES: Final = 262_144
"""Far above the longest answer of any firmware known here (about 20 kB); what is longer is cut off and refused."""

Complete = Callable[[bytearray], bool]
"""Whether the bytes so far are the whole answer. An answer also ends where the device closes the connection."""


def deadline(after_s: float) -> float:
    """The instant of loop time `after_s` seconds from now, for `exchange`'s `until_s`."""
    return asyncio.get_running_loop().time() + after_s


def ends_with_nul(data: bytearray) -> bool:
    """The cgminer framing: a NUL byte after the JSON. Some firmwares leave it out and only close."""
    return data[-1] == 0


async def exchange(
    host: str,
    port: int,
    request: bytes,
    *,
    until_s: float,
    max_bytes: int = MAX_ANSWER_BYTES,
    complete: Complete = ends_with_nul,
) -> bytes | Unreachable:
    """Connect, send `request`, and return all bytes of the answer, its NUL included.

    Never raises for what a device or network does. `Unreachable` says why: `CONNECT` (refused, no route, reset while
    connecting), `TIMEOUT` (loop time reached `until_s`), `CLOSED` (the peer ended without a byte, or reset the
    connection in mid-answer), `OVERSIZED` (more than `max_bytes`). The connection is gone when this returns.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes | Unreachable] = loop.create_future()
    protocol = _OneAnswer(request, answer, max_bytes, complete)
    connected = False
    try:
        async with asyncio.timeout_at(until_s):
            await loop.create_connection(lambda: protocol, host, port)
            connected = True
            return await answer
    except TimeoutError:
        return Unreachable(Failure.TIMEOUT, "no full answer in time" if connected else "no connection in time")
    except OSError as error:
        return Unreachable(Failure.CONNECT, error.strerror or str(error))
    finally:
        protocol.drop()


class _OneAnswer(asyncio.Protocol):
    """Sends the request as soon as it is connected, collects until the answer is complete, and settles once."""

    __slots__ = ("_answer", "_complete", "_data", "_max_bytes", "_request", "_transport")

    def __init__(
        self, request: bytes, answer: asyncio.Future[bytes | Unreachable], max_bytes: int, complete: Complete
    ) -> None:
        self._request = request
        self._answer = answer
        self._max_bytes = max_bytes
        self._complete = complete
        self._data = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What create_connection promises; no isinstance, for uvloop's transport does not derive from asyncio's.
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > self._max_bytes:
            self._settle(Unreachable(Failure.OVERSIZED, f"more than {self._max_bytes} bytes"))
        elif self._complete(self._data):
            self._settle(bytes(self._data))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._settle(Unreachable(Failure.CLOSED, str(exc) or type(exc).__name__))
        elif not self._data:
            self._settle(Unreachable(Failure.CLOSED, "closed without an answer"))
        else:
            self._settle(bytes(self._data))

    def drop(self) -> None:
        """Free the socket at once; whatever else the device would say is not wanted."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _settle(self, answer: bytes | Unreachable) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)
        self.drop()
