"""A tiny control channel: one JSON object a line in, one a line out, over TCP or a Unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

Operation = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Takes the request, returns the fields of the answer; raises `ControlError` to refuse."""

MAX_LINE_BYTES: Final = 65_536


class ControlError(Exception):
    """The request asks for what cannot be done; the message goes to the client."""


async def serve_control(where: str, operations: Mapping[str, Operation]) -> tuple[asyncio.AbstractServer, str]:
    """Serve `{"op": NAME, ...}` at "unix:PATH" or "HOST:PORT". Returns the server and where it listens.

    An answer is `{"ok": true, ...}` or `{"ok": false, "error": "..."}`; port 0 takes a free one.
    """

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(_answered(line, operations)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # gone, or a line beyond the limit
        finally:
            writer.close()

    if where.startswith("unix:"):
        path = where.removeprefix("unix:")
        return await asyncio.start_unix_server(converse, path, limit=MAX_LINE_BYTES), where
    host, _, port = where.rpartition(":")
    server = await asyncio.start_server(converse, host, int(port), limit=MAX_LINE_BYTES)
    return server, f"{host}:{server.sockets[0].getsockname()[1]}"


def _answered(line: bytes, operations: Mapping[str, Operation]) -> dict[str, Any]:
    try:
        request = json.loads(line)
        operation = operations.get(request["op"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {"ok": False, "error": 'expected one JSON object a line, with "op"'}
    if operation is None:
        return {"ok": False, "error": f"unknown op; known: {', '.join(sorted(operations))}"}
    try:
        return {"ok": True, **operation(request)}
    except ControlError as error:
        return {"ok": False, "error": str(error)}
