"""The cgminer API that LuxOS, Braiins OS, WhatsMiner and many others speak: one JSON command per TCP connection.

`{"command": "a+b"}` asks for several read commands at once; the answer then holds `{"a": [reply], "b": [reply]}`.
An answer ends with a NUL byte, or only with the connection. Source: cgminer's API-README.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from agent.drivers.base import Failure, Unreachable
from agent.drivers.miners._values import Json, decode, record
from agent.drivers.transport import exchange

PORT: Final = 4028


@dataclass(frozen=True, slots=True)
class Status:
    """What the STATUS of a reply says. `ok` also for a warning, as cgminer means it."""

    ok: bool
    code: int | None
    message: str


def command(name: str, parameter: str | None = None) -> bytes:
    """The bytes that ask for one command, or for several read commands joined by `+`."""
    asked = {"command": name} if parameter is None else {"command": name, "parameter": parameter}
    return json.dumps(asked, separators=(",", ":")).encode()


async def ask(host: str, port: int, request: bytes, until_s: float) -> Json | Unreachable:
    """One exchange, decoded. `GARBAGE` where the answer is no JSON object."""
    raw = await exchange(host, port, request, until_s=until_s)
    if isinstance(raw, Unreachable):
        return raw
    reply = decode(raw)
    if reply is None:
        return Unreachable(Failure.GARBAGE, f"no JSON object: {raw[:60]!r}")
    return reply


def part(reply: Json, name: str) -> Json:
    """The reply to one command of a combined answer; empty where it is missing."""
    return record(reply, name)


def status(reply: Json) -> Status:
    """The STATUS of a reply to one command. What carries none is not ok."""
    row = record(reply, "STATUS")
    letter, source = (row.get("STATUS"), row) if row else (reply.get("STATUS"), reply)
    code, message = source.get("Code"), source.get("Msg")
    return Status(
        ok=letter in ("S", "W", "I"),
        code=code if isinstance(code, int) else None,
        message=message if isinstance(message, str) else "",
    )
