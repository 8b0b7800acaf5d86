"""The bound beside the agent's figures: the same bytes to the same miners, by a client that does nothing else.

It checks nothing, has no deadlines, keeps no state and knows no bank; what it takes is asyncio's and the kernel's own.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from bench.conversation import PlantControl

Address = tuple[str, int]
READ: Final = {
    "luxos": b'{"command":"summary+power+temps+config"}',
    "braiins": b'{"command":"summary+temps+tunerstatus+devdetails"}',
}
"""What the agent's drivers send to read a miner."""
_SESSION: Final = re.compile(rb'"SessionID":\s*"(\w+)"')


@dataclass(frozen=True, slots=True)
class LeanFigures:
    """What the bare minimum took, wall clock and processor time of this process."""

    wall_s: float
    cpu_s: float


async def shed(firmware: str, devices: Sequence[Address], control: PlantControl, *, at_once: int) -> LeanFigures:
    """Stop every miner; the end is when the last one was commanded. The sessions it opened are given back, untimed."""
    sessions: dict[Address, bytes] = {}

    async def luxos(address: Address) -> None:
        found = _SESSION.search(await _ask(address, b'{"command":"logon"}'))
        sessions[address] = found.group(1) if found else b""
        await _ask(address, b'{"command":"curtail","parameter":"%s,sleep"}' % sessions[address])

    async def braiins(address: Address) -> None:
        await _ask(address, b'{"command":"pause"}')

    async def log_off(address: Address) -> None:
        await _ask(address, b'{"command":"logoff","parameter":"%s"}' % sessions[address])

    before = await control.newest()
    loop = asyncio.get_running_loop()
    began_s, began_cpu_s = loop.time(), time.process_time()
    await _each(devices, {"luxos": luxos, "braiins": braiins}[firmware], at_once)
    cpu_s = time.process_time() - began_cpu_s
    last_s = max(sighting.at_s for sighting in await control.commands_since(before) if sighting.obeyed)
    await _each(list(sessions), log_off, at_once)
    return LeanFigures(last_s - began_s, cpu_s)


async def read(firmware: str, devices: Sequence[Address], *, at_once: int) -> LeanFigures:
    """Read and parse every miner once."""

    async def one(address: Address) -> None:
        json.loads((await _ask(address, READ[firmware])).rstrip(b"\0"))

    began_s, began_cpu_s = time.monotonic(), time.process_time()
    await _each(devices, one, at_once)
    return LeanFigures(time.monotonic() - began_s, time.process_time() - began_cpu_s)


async def _each(devices: Sequence[Address], act: Callable[[Address], Awaitable[None]], at_once: int) -> None:
    left = iter(devices)

    async def work() -> None:
        for address in left:
            await act(address)

    await asyncio.gather(*(work() for _ in range(at_once)))


async def _ask(address: Address, request: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    await loop.create_connection(lambda: _Once(request, answer), *address)
    return await answer


class _Once(asyncio.Protocol):
    """One question, one answer: sent when connected, answered when the miner closes."""

    __slots__ = ("_answer", "_data", "_request")

    def __init__(self, request: bytes, answer: asyncio.Future[bytes]) -> None:
        self._request = request
        self._answer = answer
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        if not self._answer.done():
            self._answer.set_result(self._data)
