"""One persistent Modbus TCP connection per gateway, shared by every unit behind it.

`pymodbus` frames and parses; this file decides when it may. Its own retries and reconnects are off, its log is kept
quiet, and what it cannot promise is added: a hard deadline over everything, an answer that is checked against its
question before pymodbus sees it, a connection that is dropped after a timeout so that a late answer meets nobody, and
a dead unit that gives way to the units queueing behind it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from agent.drivers.base import Failure, MissingExtraError, Unreachable
from agent.drivers.meters.registers import Block, BlockAnswer

if TYPE_CHECKING:
    from agent.drivers.meters.connection import Connection

MAX_DEADLINE_S: Final = 60.0
MAX_WAITING: Final = 256
"""Reads that may queue for one gateway; the next is told so at once."""

BACKOFF_S: Final = (0.05, 0.2)
"""Pauses before the second and the third try of a read, while its deadline has room for them."""

_FAIR_SHARE: Final = 0.5
"""The part of what is left of its deadline that a silent unit may hold the gateway for while others queue."""
_SLOW_SHARE: Final = 0.25
"""The same, for a unit that was silent the last time as well."""
_LEAST_TURN_S: Final = 0.01


def require_pymodbus() -> None:
    """Raise `MissingExtraError` where `pymodbus` is not installed; keep its per-failure log quiet unless configured."""
    try:
        import pymodbus.client  # noqa: F401  asked for only where a Modbus device is configured
    except ImportError:
        raise MissingExtraError("Modbus meters and sensors need pymodbus: pip install wattshift[modbus]") from None
    log = logging.getLogger("pymodbus.logging")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)


def shared_link(host: str, port: int) -> ModbusLink:
    """The running loop's link to a gateway. It lives as long as someone holds it."""
    links = _links.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    link = links.get((host, port))
    if link is None:
        link = links[host, port] = ModbusLink(host, port)
    return link


_links: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[tuple[str, int], ModbusLink]] = (
    WeakKeyDictionary()
)


class ModbusLink:
    """The connection to one gateway. One exchange at a time, first come first served but for units that were silent."""

    def __init__(self, host: str, port: int) -> None:
        self.where = f"{host}:{port}"
        self.connects = 0
        """Connections opened so far."""
        self._host, self._port = host, port
        self._holders: set[int] = set()
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._silent_units: set[int] = set()
        self._failed_at_s = float("-inf")
        self._last_failure: Unreachable | None = None

    def retain(self, holder: object) -> None:
        """Keep the connection open for `holder` until it releases it."""
        self._holders.add(id(holder))

    def release(self, holder: object) -> None:
        """Give up a hold; the last one closes the connection."""
        self._holders.discard(id(holder))
        if not self._holders:
            self._drop()

    async def read(self, unit_id: int, blocks: Sequence[Block], deadline_s: float) -> list[BlockAnswer]:
        """Read the blocks in order and answer one result for each, all within `deadline_s`.

        A declined block does not stop the ones behind it; an `Unreachable` one does, and stands for them too.
        """
        answers: list[BlockAnswer] = []
        failure: Unreachable | None = None
        if self._waiting >= MAX_WAITING:
            failure = self._unreachable(Failure.TIMEOUT, unit_id, f"{MAX_WAITING} reads are queueing already")
        else:
            try:
                async with asyncio.timeout(deadline_s) as deadline, self._my_turn(unit_id):
                    failure = await self._read_blocks(unit_id, blocks, deadline_s, deadline.when() or 0.0, answers)
            except TimeoutError:
                failure = self._unreachable(Failure.TIMEOUT, unit_id, f"no answer within {deadline_s:g} s")
        if failure is not None:
            answers.extend([failure] * (len(blocks) - len(answers)))
        return answers

    @asynccontextmanager
    async def _my_turn(self, unit_id: int) -> AsyncIterator[None]:
        """Hold the gateway. A unit that was silent the last time lets those who ask at the same moment go first."""
        self._waiting += 1
        try:
            if unit_id in self._silent_units:
                await asyncio.sleep(0)
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def _read_blocks(
        self, unit_id: int, blocks: Sequence[Block], deadline_s: float, ends_at_s: float, answers: list[BlockAnswer]
    ) -> Unreachable | None:
        if self._last_failure is not None and self._failed_at_s > ends_at_s - deadline_s:
            # A reader ahead in the queue could not connect, after this one had asked: that is the news.
            return self._last_failure
        for block in blocks:
            answer = await self._ask(unit_id, block, ends_at_s)
            if isinstance(answer, Unreachable):
                return answer
            answers.append(answer)
        return None

    async def _ask(self, unit_id: int, block: Block, ends_at_s: float) -> BlockAnswer:
        """One block, tried again with back-off while the connection fails and the deadline has room."""
        loop = asyncio.get_running_loop()
        for pause_s in (*BACKOFF_S, None):
            answer = await self._ask_once(unit_id, block, ends_at_s)
            if not isinstance(answer, Unreachable) or answer.failure not in (Failure.CONNECT, Failure.CLOSED):
                break
            if pause_s is None or loop.time() + pause_s >= ends_at_s:
                if answer.failure is Failure.CONNECT:
                    self._failed_at_s, self._last_failure = loop.time(), answer
                break
            await asyncio.sleep(pause_s)
        return answer

    async def _ask_once(self, unit_id: int, block: Block, ends_at_s: float) -> BlockAnswer:
        answered = False
        try:
            connection = await self._connected()
            if connection is None:
                return self._unreachable(Failure.CONNECT, unit_id, "refused or no route")
            request = asyncio.ensure_future(connection.ask(unit_id, block))
            try:
                in_time = await self._wait(request, connection, unit_id, ends_at_s)
                if not in_time:
                    return self._unreachable(Failure.TIMEOUT, unit_id, "silent; gave way to the units behind it")
                answer = request.result() if request.done() else connection.broken.result()
                if isinstance(answer, Unreachable):
                    return self._unreachable(answer.failure, unit_id, answer.detail)
                self._silent_units.discard(unit_id)
                answered = True
                return answer
            finally:
                request.cancel()
        finally:
            if not answered:  # also where the deadline cancels us: whatever comes late must find nobody
                self._drop()

    async def _wait(
        self, request: asyncio.Future[BlockAnswer], connection: Connection, unit_id: int, ends_at_s: float
    ) -> bool:
        """Wait for the answer or the end of the connection. False where a silent unit must give way."""
        share = _SLOW_SHARE if unit_id in self._silent_units else _FAIR_SHARE
        turn_s = max(_LEAST_TURN_S, share * (ends_at_s - asyncio.get_running_loop().time()))
        self._silent_units.add(unit_id)  # until it answers
        ends: set[asyncio.Future[Any]] = {request, connection.broken}
        while True:
            done, _ = await asyncio.wait(ends, timeout=turn_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return True
            if self._waiting:
                return False

    async def _connected(self) -> Connection | None:
        if self._connection is not None and not self._connection.usable:
            self._drop()
        if self._connection is None:
            from agent.drivers.meters.connection import Connection  # needs the extra

            connection = self._connection = Connection(self._host, self._port)
            if not await connection.open():
                return None
            self.connects += 1
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unreachable(self, failure: Failure, unit_id: int, detail: str) -> Unreachable:
        return Unreachable(failure, f"{self.where} unit {unit_id}: {detail}")
