"""The one exchange that every lean driver stands on; what a device can do to it is in the suite, per driver."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest

from agent.drivers.base import Failure, Unreachable
from agent.drivers.transport import deadline, exchange


async def test_a_host_that_swallows_the_connection_attempt_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    began = time.monotonic()
    outcome = await exchange("192.0.2.1", 4_028, b"{}", until_s=deadline(0.1))
    assert outcome == Unreachable(Failure.TIMEOUT, "no connection in time")
    assert time.monotonic() - began < 2


async def test_a_name_that_resolves_to_nothing_cannot_be_connected_to() -> None:
    outcome = await exchange("miner.invalid", 4_028, b"{}", until_s=deadline(5))
    assert isinstance(outcome, Unreachable)
    assert outcome.failure in (Failure.CONNECT, Failure.TIMEOUT)


async def test_a_deadline_already_over_sends_nothing() -> None:
    async with Listener(lambda _: b"{}") as listener:
        outcome = await exchange("127.0.0.1", listener.port, b"{}", until_s=deadline(-1))
        assert outcome == Unreachable(Failure.TIMEOUT, "no connection in time")
        assert listener.requests == []


@pytest.mark.parametrize(("size", "fits"), [(999, True), (1_000, True), (1_001, False)])
async def test_the_limit_on_size_is_exact(size: int, fits: bool) -> None:
    async with Listener(lambda _: b"x" * size) as listener:
        outcome = await exchange("127.0.0.1", listener.port, b"{}", until_s=deadline(10), max_bytes=1_000)
        assert outcome == (b"x" * size if fits else Unreachable(Failure.OVERSIZED, "more than 1000 bytes"))


async def test_a_complete_answer_is_returned_while_the_device_keeps_the_connection_open() -> None:
    async with Listener(lambda _: b"all\x00", close=False) as listener:
        assert await exchange("127.0.0.1", listener.port, b"{}", until_s=deadline(10)) == b"all\x00"


async def test_after_the_deadline_the_device_sees_the_connection_gone() -> None:
    async with Listener(lambda _: b"half", close=False) as listener:
        outcome = await exchange("127.0.0.1", listener.port, b"{}", until_s=deadline(0.1))
        assert outcome == Unreachable(Failure.TIMEOUT, "no full answer in time")
        async with asyncio.timeout(10):
            await listener.client_gone.wait()


async def test_framing_is_the_callers() -> None:
    async with Listener(lambda _: b"a.b.c", close=False) as listener:
        answer = await exchange(
            "127.0.0.1", listener.port, b"{}", until_s=deadline(10), complete=lambda data: data.count(b".") == 2
        )
        assert answer == b"a.b.c"


async def test_five_hundred_exchanges_at_once_each_get_their_own_answer() -> None:
    async with Listener(lambda request: b"<" + request + b">\x00") as listener:
        answers = await asyncio.gather(
            *(exchange("127.0.0.1", listener.port, b"%d" % i, until_s=deadline(20)) for i in range(500))
        )
        assert answers == [b"<%d>\x00" % i for i in range(500)]


class Listener:
    """A bare TCP server on loopback that answers whatever it gets."""

    def __init__(self, answer: Callable[[bytes], bytes], *, close: bool = True) -> None:
        self.requests: list[bytes] = []
        self.client_gone = asyncio.Event()
        self._answer = answer
        self._close = close

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1_024)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(1_024)
        if request:
            self.requests.append(request)
            writer.write(self._answer(request))
        if not self._close:
            await _until_gone(reader)
            self.client_gone.set()
        writer.close()


async def _until_gone(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()
