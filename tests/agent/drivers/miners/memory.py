"""A loop whose connections end in memory: what the simulation does to the drivers, in its smallest form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.agent.drivers.miners.peers import Peer


def connect_in_memory(monkeypatch: pytest.MonkeyPatch, peers: Mapping[int, Peer]) -> list[asyncio.BaseTransport]:
    """Replace the running loop's `create_connection`: each port leads to a peer and any other is refused.

    Gives the list that all transports made from then on are put into.
    """
    made: list[asyncio.BaseTransport] = []

    async def create_connection(
        factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
        await asyncio.sleep(0)
        if port not in peers:
            raise ConnectionRefusedError(111, f"nobody at {host}:{port}")
        protocol = factory()
        transport = _MemoryTransport(protocol, peers[port])
        made.append(transport)
        protocol.connection_made(transport)
        return transport, protocol

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
    return made


class _MemoryTransport(asyncio.Transport):
    """Hands each request to the peer, and its answer back in two pieces before it closes."""

    def __init__(self, protocol: asyncio.Protocol, peer: Peer) -> None:
        super().__init__()
        self._protocol = protocol
        self._peer = peer
        self._open = True

    def write(self, data: Any) -> None:
        asyncio.get_running_loop().call_soon(self._answer, bytes(data))

    def abort(self) -> None:
        self._open = False

    def is_closing(self) -> bool:
        return not self._open

    def _answer(self, request: bytes) -> None:
        answer = self._peer.answer(request)
        for piece in (answer[:40], answer[40:]):
            if piece and self._open:
                self._protocol.data_received(piece)
        if self._open:
            self._protocol.connection_lost(None)
