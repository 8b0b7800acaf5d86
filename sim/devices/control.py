"""A tiny control channel: one JSON object a line in, one a line out, over TCP or a Unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

Operation = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Takes the request, returns the fields of the answer; raises `ControlError` to refuse."""

MAX_LINE_BYTES: Final = 65_536


class ControlError(Exception):
    """The request asks for what cannot be done; the message goes to the client."""


async def serve_control(where: str, operations: Mapping[str, Operation]) -> tuple[asyncio.Server, str]:
    """Serve `{"op": NAME, ...}` at "unix:PATH" or "HOST:PORT". Returns the server and where it listens.

    An answer is `{"ok": true, ...}` or `{"ok": false, "error": "..."}`; port 0 takes a free one. A line beyond
    `MAX_LINE_BYTES` ends the connection.
    """
    loop = asyncio.get_running_loop()
    if where.startswith("unix:"):
        server = await loop.create_unix_server(lambda: _Conversation(operations), where.removeprefix("unix:"))
        return server, where
    host, _, port = where.rpartition(":")
    server = await loop.create_server(lambda: _Conversation(operations), host, int(port))
    return server, f"{host}:{server.sockets[0].getsockname()[1]}"


class _Conversation(asyncio.Protocol):
    """One client. Takes no further request while it does not read its answers."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self._operations = operations
        self._data = b""
        self._full = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._answer_lines()

    def pause_writing(self) -> None:
        self._full = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._answer_lines()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        self._transport = None

    def _answer_lines(self) -> None:
        while b"\n" in self._data and not self._full and self._transport is not None:
            line, _, self._data = self._data.partition(b"\n")
            self._transport.write(json.dumps(_answered(line, self._operations)).encode() + b"\n")
        if len(self._data) > MAX_LINE_BYTES and not self._full and self._transport is not None:
            self._transport.abort()


def _answered(line: bytes, operations: Mapping[str, Operation]) -> dict[str, Any]:
    try:
        request = json.loads(line)
        operation = operations.get(request["op"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"ok": False, "error": 'expected one JSON object a line, with "op"'}
    if operation is None:
        return {"ok": False, "error": f"unknown op; known: {', '.join(sorted(operations))}"}
    try:
        return {"ok": True, **operation(request)}
    except ControlError as error:
        return {"ok": False, "error": str(error)}
