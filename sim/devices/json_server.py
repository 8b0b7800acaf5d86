"""A simulated service that answers JSON over HTTP/1.1, and how it lies, stalls or breaks: what those that stand in for
a BMC and for a Kubernetes API server have in common.

A command acts when its request is complete, or `acts_after_s` later whether or not anybody still waits for it; the
answer leaves `latency_s` after that.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from sim.devices.log import CommandLog
from sim.devices.wire import DRIP_S, GARBAGE
from sim.ports import DeviceFault

JSON: Final = "application/json"
_STOP_S: Final = 0.2
_CHANGES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class JsonServer:
    """Subclasses answer. `name` is what its commands are logged as."""

    def __init__(self, name: str, *, log: CommandLog | None = None, latency_s: float = 0.0) -> None:
        self.name = name
        self.log = CommandLog() if log is None else log
        self.fault: DeviceFault | None = None
        self.latency_s = latency_s
        self.acts_after_s = 0.0
        self.requests = 0
        self._web: web.Server | None = None
        self._server: asyncio.AbstractServer | None = None
        self._late: set[asyncio.Task[Reply]] = set()

    def answer(self, request: web.BaseRequest, sent: bytes) -> Reply:
        """What the service says to one request, and what the request does."""
        raise NotImplementedError

    def commands(self, request: web.BaseRequest) -> bool:
        """Whether a request would change what the service is in front of."""
        return request.method in _CHANGES

    def pretend(self, request: web.BaseRequest, sent: bytes) -> Reply:  # noqa: ARG002  subclasses may look
        """What it says to a change that it does not carry out (`OK_BUT_NOTHING`)."""
        return Reply(200, {})

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Serve; returns the port."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, host, port, ssl=tls)
        return port or int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop every connection. It may be started again."""
        server, self._server = self._server, None
        served, self._web = self._web, None
        if server is not None:
            server.close()
        if served is not None:
            await served.shutdown(_STOP_S)
        if server is not None:
            await server.wait_closed()
        for task in self._late:
            task.cancel()

    def note(self, request: web.BaseRequest, command: str, *, obeyed: bool) -> None:
        """Log a command."""
        now_s = asyncio.get_running_loop().time()
        self.log.add(now_s, self.name, request.remote or "", command, obeyed=obeyed)

    def _accept(self) -> asyncio.Protocol:
        if self.fault is DeviceFault.REFUSE_CONNECTION:
            return _Refusal()
        if self._web is None:
            self._web = web.Server(self._serve, handler_cancellation=True, access_log=None)
        return self._web()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        sent = await request.read()
        match self.fault:
            case DeviceFault.HANG:
                await asyncio.get_running_loop().create_future()
            case DeviceFault.REFUSE_CONNECTION:
                return _cut_off(request, b"")
            case DeviceFault.GARBAGE:
                return _cut_off(request, GARBAGE)
        if self.acts_after_s and self.commands(request):
            late = asyncio.create_task(self._reply_late(request, sent))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            reply = await asyncio.shield(late)
        else:
            reply = self._reply(request, sent)
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        body = b"" if reply.body is None else json.dumps(reply.body).encode()
        match self.fault:
            case DeviceFault.SLOW:
                return await _drip(request, reply, body)
            case DeviceFault.CUT_SHORT:
                head = f"HTTP/1.1 {reply.status} \r\nContent-Length: {len(body)}\r\nContent-Type: {JSON}\r\n\r\n"
                return _cut_off(request, head.encode() + body[: len(body) // 2])
        kind = JSON if body else None
        return web.Response(status=reply.status, body=body, headers=dict(reply.headers), content_type=kind)

    async def _reply_late(self, request: web.BaseRequest, sent: bytes) -> Reply:
        await asyncio.sleep(self.acts_after_s)
        return self._reply(request, sent)

    def _reply(self, request: web.BaseRequest, sent: bytes) -> Reply:
        if not self.commands(request):
            self.log.reads += 1
            return self.answer(request, sent)
        if self.fault is DeviceFault.OK_BUT_NOTHING:
            self.note(request, f"{request.method} {request.path}", obeyed=False)
            return self.pretend(request, sent)
        reply = self.answer(request, sent)
        if self.fault is DeviceFault.NO_BUT_DOES and reply.status < 300:
            return Reply(400, {"message": "it cannot be done now"})
        return reply


def fields_of(sent: bytes) -> dict[str, Any] | None:
    """The JSON object that was sent; None for all else."""
    try:
        sent_fields = json.loads(sent)
    except (ValueError, RecursionError):
        return None
    return sent_fields if isinstance(sent_fields, dict) else None


class _Refusal(asyncio.Protocol):
    """A connection that is reset as it is made, the nearest thing to a refusal once a kernel has accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def _cut_off(request: web.BaseRequest, last_words: bytes) -> web.StreamResponse:
    """Send raw bytes, none perhaps, and end the connection; with none it is reset."""
    transport = request.transport
    if transport is not None and last_words:
        transport.write(last_words)
        transport.close()
    elif transport is not None:
        transport.abort()
    return web.Response()


async def _drip(request: web.BaseRequest, reply: Reply, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers={"Content-Type": JSON, **reply.headers})
    response.content_length = len(body)
    with suppress(ConnectionError):  # the client has had enough
        await response.prepare(request)
        for at in range(len(body)):
            await response.write(body[at : at + 1])
            await asyncio.sleep(DRIP_S)
    return response
