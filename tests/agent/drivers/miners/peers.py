"""Devices on real loopback sockets that answer with the recorded fixtures, keep the state a command changes, and can be
made to fail in every way a network device fails."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any, ClassVar, Self

FIXTURES = Path(__file__).parent / "fixtures"


class Fault(Enum):
    """How a device fails at its socket. What it does to its own state is not a matter of these."""

    NONE = auto()
    HANG = auto()
    """Accepts and never answers."""
    GARBAGE = auto()
    MUTE = auto()
    """Closes without a byte."""
    CUT = auto()
    """Closes in the middle of the answer."""
    RESET = auto()
    """Resets the connection in the middle of the answer."""
    SPLIT = auto()
    """A whole answer in many small pieces."""
    DRIP = auto()
    """A byte every 50 ms, for ever."""
    OVERSIZED = auto()


@functools.cache
def fixture(firmware: str, scene: str) -> Mapping[str, Any]:
    """One recorded fixture: `answers` by command or path (an object, or text to send as it is), and the `reading`."""
    loaded: Mapping[str, Any] = json.loads((FIXTURES / firmware / f"{scene}.json").read_text())
    return loaded


def scenes(firmware: str) -> list[str]:
    """Every fixture recorded for a firmware."""
    return sorted(path.stem for path in (FIXTURES / firmware).glob("*.json"))


class Peer:
    """One device. Use as an async context manager; `port` is the driver's."""

    firmware: ClassVar[str]

    def __init__(self) -> None:
        self.scene = "running"
        self.refuses = False
        """Says no to every change."""
        self.fault = Fault.NONE
        self.healthy_exchanges = 0
        """How many exchanges go well before the fault sets in."""
        self.latency_s = 0.0
        self.spoil: Callable[[str], str] = lambda body: body
        """Done to the text of every answer before it is sent."""
        self.asked: list[str] = []
        """Every command or path, in order."""
        self._port = 0
        self._busy: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return self._port

    def place(self, port: int) -> Mapping[int, Peer]:
        """Stand in memory instead of on a socket: this device and what belongs to it, by port."""
        self._port = port
        return {port: self}

    @property
    def options(self) -> dict[str, str | int | float]:
        """What a driver needs to talk to it."""
        return {}

    @property
    def mode(self) -> str:
        """What a stop must not make it forget: profile, work mode, configuration."""
        raise NotImplementedError

    def forget_clients(self) -> None:
        """Forget sessions, tokens and nonces, as time or a reboot does."""

    def answer(self, request: bytes) -> bytes:
        """The bytes that answer one request, and what it does to the device."""
        raise NotImplementedError

    async def receive(self, reader: asyncio.StreamReader) -> bytes:
        """One whole request: the cgminer API's is one piece of JSON."""
        request = b""
        while chunk := await reader.read(4_096):
            request += chunk
            if _is_json(request):
                break
        return request

    def recorded(self, name: str) -> str:
        """The recorded answer's text."""
        answer = fixture(self.firmware, self.scene)["answers"][name]
        return answer if isinstance(answer, str) else json.dumps(answer)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            await self._exchange(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client has enough, or the test has
        finally:
            writer.close()
            self._busy.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await self.receive(reader)
        if not request:
            return
        fault = self.fault if self.healthy_exchanges == 0 else Fault.NONE
        self.healthy_exchanges = max(self.healthy_exchanges - 1, 0)
        await asyncio.sleep(self.latency_s)
        match fault:
            case Fault.NONE:
                writer.write(self.answer(request))
            case Fault.HANG:
                await reader.read()
            case Fault.GARBAGE:
                writer.write(b"<html>\xff\xfe 404 ]]]\x00\x01{")
            case Fault.MUTE:
                return
            case Fault.CUT:
                writer.write(_half(self.answer(request)))
            case Fault.RESET:
                writer.write(_half(self.answer(request)))
                await writer.drain()
                await asyncio.sleep(0.02)
                writer.transport.abort()
            case Fault.SPLIT:
                await _in_pieces(writer, self.answer(request), size=97, pause_s=0.0005)
            case Fault.DRIP:
                await _in_pieces(writer, b'{"STATUS":"' + b"x" * 1_000, size=1, pause_s=0.05)
            case Fault.OVERSIZED:
                await _in_pieces(writer, b'{"STATUS":"' + b"x" * 2_000_000, size=65_536, pause_s=0)
        await writer.drain()


class CgminerPeer(Peer):
    """The plain cgminer API, with the endings that firmwares give their answers."""

    firmware = "cgminer"

    def __init__(self) -> None:
        super().__init__()
        self.ending = b"\x00"
        self.combines = True

    def answer(self, request: bytes) -> bytes:
        asked = json.loads(request)
        name = asked.get("command") or asked["cmd"]
        self.asked.append(name)
        if "+" in name and self.combines:
            parts = ",".join(f'"{part}":[{self.reply(part, "")}]' for part in name.split("+"))
            return self.spoil(f'{{{parts},"id":1}}').encode() + self.ending
        return self.spoil(self.reply(name, asked.get("parameter", ""))).encode() + self.ending

    def reply(self, name: str, parameter: str) -> str:
        """The reply to one command: recorded for a read, and said to be invalid for anything else."""
        if name in fixture(self.firmware, self.scene)["answers"]:
            return self.recorded(name)
        return said("E", 14, "invalid cmd")


class HttpPeer(Peer):
    """A device with a web interface; `respond` gets method, path, headers and body."""

    async def receive(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        length = int(dict(headers_of(head)).get("content-length", "0"))
        return head + await reader.readexactly(length)

    def answer(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        status, headers, content = self.respond(method, path, dict(headers_of(head)), body)
        content = self.spoil(content.decode()).encode()
        lines = [f"HTTP/1.1 {status} Word", "Connection: close", *headers, f"Content-Length: {len(content)}"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + content

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, list[str], bytes]:
        raise NotImplementedError


def said(letter: str, code: int, message: str, **sections: object) -> str:
    """A reply with a STATUS."""
    row = {"STATUS": letter, "When": 1, "Code": code, "Msg": message, "Description": "peer"}
    return json.dumps({"STATUS": [row], **sections, "id": 1})


def headers_of(head: bytes) -> list[tuple[str, str]]:
    """The header lines of an HTTP head, names in lower case."""
    lines = (line.partition(":") for line in head.decode("latin-1").strip().split("\r\n")[1:])
    return [(name.lower(), value.strip()) for name, _, value in lines]


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


async def _in_pieces(writer: asyncio.StreamWriter, data: bytes, *, size: int, pause_s: float) -> None:
    for at in range(0, len(data), size):
        writer.write(data[at : at + size])
        await writer.drain()
        await asyncio.sleep(pause_s)
