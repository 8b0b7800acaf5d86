"""The wire of a simulated device: framing, latency and faults, the same for every firmware.

A device is one small object and one listening socket; a connection is one small object while it lasts. The first bytes
of a connection say what is spoken: an upper-case method is HTTP (where the firmware has a web API), all else the
cgminer-style socket API. So one address serves both, and a farm may give HTTP a port of its own besides.

A command acts when its request is complete; its answer leaves `port.latency_s` later. What the fault of the port does
is decided again at every exchange and, for an answer under way, again as it leaves.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final, cast

from contract.clock import Clock
from sim.devices.http import HttpAnswer, HttpError, HttpRequest, looks_like_http, rendered, take_request
from sim.devices.log import CommandLog
from sim.devices.template import spell_not_numbers
from sim.ports import AsicPort, AsicState, DeviceFault

MAX_REQUEST_BYTES: Final = 8_192
MAX_AHEAD_BYTES: Final = 262_144
"""Of HTTP requests sent ahead of their answers; who sends more is cut off."""
IDLE_S: Final = 10.0
"""A connection without a complete request is closed after this long (WhatsMiner API 2.0.5; the others are silent)."""
DRIP_S: Final = 0.1
"""Between two bytes of an answer under the SLOW fault."""
GARBAGE: Final = bytes(range(1, 32)) + b"\xff\xfe{{]}<!\x00\x9c" * 8
_RESET: Final = struct.pack("ii", 1, 0)
_DECODER: Final = json.JSONDecoder()
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?$)', re.DOTALL)
"""JSON strings, one not yet closed too."""


@dataclass(eq=False, slots=True)
class Shared:
    """What all devices of one farm share."""

    loop: asyncio.AbstractEventLoop
    clock: Clock
    log: CommandLog = field(default_factory=CommandLog)
    open: set[Connection] = field(default_factory=set)


class Device:
    """One simulated device: the protocol of a firmware in front of a port. Subclasses answer."""

    __slots__ = ("port", "shared")

    speaks_http: ClassVar[bool] = False
    speaks_text: ClassVar[bool] = False
    """Whether the socket API also takes `command|parameter` and then answers in cgminer's text form."""
    terminator: ClassVar[bytes] = b""
    """Sent after an answer of the socket API, before the connection is closed."""

    def __init__(self, port: AsicPort, shared: Shared) -> None:
        self.port = port
        self.shared = shared

    def connection(self) -> Connection:
        """The protocol factory for `loop.create_server`."""
        return Connection(self)

    def api_answer(self, request: object, client: str) -> str:
        """The answer to one request of the socket API: see `take_api_request` for what a request may be."""
        raise NotImplementedError

    def http_answer(self, request: HttpRequest) -> HttpAnswer:
        """The answer to one complete HTTP request."""
        raise NotImplementedError

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def act(self, client: str, command: str, deed: Callable[[], None]) -> bool:
        """Do a command, unless the fault is to say yes and do nothing. Returns whether the device says yes."""
        fault = self.port.fault
        obeyed = fault is not DeviceFault.OK_BUT_NOTHING
        if obeyed:
            deed()
        self.record(client, command, obeyed=obeyed)
        return fault is not DeviceFault.NO_BUT_DOES

    def record(self, client: str, command: str, *, obeyed: bool = False) -> None:
        """Write a command into the log; one the protocol refused is not obeyed."""
        self.shared.log.add(self.shared.loop.time(), self.port.serial, client, command, obeyed=obeyed)


class Connection(asyncio.Protocol):
    """One accepted connection."""

    __slots__ = ("_busy", "_data", "_device", "_ended", "_http", "_idle", "_transport")

    def __init__(self, device: Device) -> None:
        self._device = device
        self._data = b""
        self._busy = False
        self._ended = False
        self._http: bool | None = None
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What create_server promises; no isinstance, for not every loop's transport derives from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        device = self._device
        device.shared.open.add(self)
        if device.port.fault is DeviceFault.REFUSE_CONNECTION:
            self._reset()
        elif not self._mute():
            self._idle = device.shared.loop.call_later(IDLE_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._mute() or self._transport is None or (self._busy and not self._http):
            return
        self._data = self._data + data if self._data else data
        if len(self._data) > MAX_AHEAD_BYTES:
            self.abort()
        elif not self._busy:
            self._take(ended=False)

    def eof_received(self) -> bool:
        if self._mute():
            return False
        self._ended = True
        if self._data and not self._busy:
            self._take(ended=True)
        return self._busy

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        self._device.shared.open.discard(self)
        self._transport = None
        self._stop_idling()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _take_next(self) -> None:
        if self._data and not self._busy and self._ready() is not None:
            self._take(ended=self._ended)

    def _take(self, *, ended: bool) -> None:
        if self._http is None:
            self._http = self._device.speaks_http and looks_like_http(self._data)
        if self._http:
            self._take_http()
        else:
            self._take_api(ended=ended)

    def _take_api(self, *, ended: bool) -> None:
        taken = take_api_request(self._data, ended=ended)
        if taken is None:
            return
        self._data = b""
        device = self._device
        answer = device.api_answer(taken[0], self._client())
        if device.port.fault is DeviceFault.NAN:
            answer = spell_not_numbers(answer)
        self._answer(answer.encode() + device.terminator, last=True)

    def _take_http(self) -> None:
        try:
            taken = take_request(self._data, self._client())
        except HttpError as error:
            self._data = b""
            self._answer(rendered(HttpAnswer(error.status), keep_alive=False), last=True)
            return
        if taken is None:
            return
        request, length = taken
        self._data = self._data[length:]
        device = self._device
        answer = device.http_answer(request)
        if device.port.fault is DeviceFault.NAN:
            body = spell_not_numbers(answer.body.decode()).encode()
            answer = HttpAnswer(answer.status, body, answer.content_type, answer.headers)
        raw = rendered(answer, keep_alive=request.keep_alive, with_body=request.method != "HEAD")
        self._answer(raw, last=not request.keep_alive)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, raw: bytes, *, last: bool) -> None:
        self._stop_idling()
        self._busy = True
        latency_s = self._device.port.latency_s
        if latency_s > 0.0:
            self._device.shared.loop.call_later(latency_s, self._send, raw, last)
        else:
            self._send(raw, last)

    def _send(self, raw: bytes, last: bool) -> None:
        transport = self._ready()
        if transport is None:
            return
        match self._device.port.fault:
            case None:
                transport.write(raw)
            case DeviceFault.REFUSE_CONNECTION:
                self._reset()
                return
            case DeviceFault.GARBAGE:
                transport.write(GARBAGE)
                last = True
            case DeviceFault.CUT_SHORT:
                transport.write(raw[: len(raw) // 2])
                last = True
            case DeviceFault.SLOW:
                self._drip(raw, 0, last)
                return
            case _:
                transport.write(raw)
        self._sent(last)

    def _drip(self, raw: bytes, at: int, last: bool) -> None:
        transport = self._ready()
        if transport is None:
            return
        if at == len(raw):
            self._sent(last)
            return
        transport.write(raw[at : at + 1])
        self._device.shared.loop.call_later(DRIP_S, self._drip, raw, at + 1, last)

    def _ready(self) -> asyncio.Transport | None:
        """The transport, if the device can still say something on it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return None
        if self._mute():
            if self._ended:
                transport.close()
            return None
        return transport

    def _sent(self, last: bool) -> None:
        transport = self._transport
        if transport is None:
            return
        if last or (self._ended and not self._data):
            transport.close()  # still busy: whatever comes now is not looked at
            return
        self._busy = False
        self._idle = self._device.shared.loop.call_later(IDLE_S, self._give_up)
        if self._data:
            # Not at once: a client may have sent hundreds of requests ahead, and a stack is short.
            self._device.shared.loop.call_soon(self._take_next)

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _mute(self) -> bool:
        port = self._device.port
        return port.fault is DeviceFault.HANG or port.state is AsicState.DEAD

    def _reset(self) -> None:
        """End with a reset, the nearest thing to a refusal once a kernel has accepted."""
        transport = self._transport
        if transport is None:
            return
        endpoint = transport.get_extra_info("socket")
        if endpoint is not None:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def _give_up(self) -> None:
        self._idle = None
        if self._transport is not None and not self._mute():
            self._transport.close()

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _client(self) -> str:
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if isinstance(peer, tuple) and peer else ""


def take_api_request(data: bytes, *, ended: bool) -> tuple[object] | None:
    """The one request of a socket API connection as (request,), or None while it may go on.

    A request is the parsed JSON object, or a str where it is no JSON object, or None where it is malformed or longer
    than `MAX_REQUEST_BYTES`. A JSON object ends with itself; text ends with a newline, a NUL or the end of file. What
    follows is not looked at, as the connection is closed after one answer.
    """
    data = data.lstrip(b" \t\r\n")
    if data.startswith(b"{"):
        return _take_object(data, ended=ended)
    end = min((at for at in (data.find(b"\n"), data.find(b"\0")) if at >= 0), default=-1)
    if end < 0 and not ended:
        return None if len(data) <= MAX_REQUEST_BYTES else (None,)
    text = data if end < 0 else data[:end]
    return (text.decode("utf-8", "replace").strip() if len(text) <= MAX_REQUEST_BYTES else None,)


def _take_object(data: bytes, *, ended: bool) -> tuple[object] | None:
    if b"}" in data[:MAX_REQUEST_BYTES]:
        try:
            return (_DECODER.raw_decode(data[:MAX_REQUEST_BYTES].decode("utf-8", "replace"))[0],)
        except (ValueError, RecursionError):
            ended = ended or _balanced(data)
    return (None,) if ended or data.endswith(b"\0") or len(data) > MAX_REQUEST_BYTES else None


def _balanced(data: bytes) -> bool:
    """Whether every brace outside of strings is closed, so that more bytes cannot mend what does not parse."""
    bare = _STRINGS.sub(b"", data)
    return bare.count(b"{") <= bare.count(b"}")
