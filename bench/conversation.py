"""The client of a control channel (`sim.devices.control`), and what a plant can be asked over it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, NamedTuple, Self

from bench.process import BenchError

LINE_BYTES: Final = 8 * 2**20
ANSWER_S: Final = 30.0
_PAGE: Final = 5_000


class Conversation:
    """One question at a time, each with its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, where: str) -> Self:
        """Talk to "HOST:PORT"."""
        host, _, port = where.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=LINE_BYTES))

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer's fields. Raises `BenchError` where it is a refusal."""
        self._writer.write(json.dumps({"op": op, **fields}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_S):
            line = await self._reader.readline()
        answer: dict[str, Any] = json.loads(line or b"{}")
        if not answer.get("ok"):
            raise BenchError(f"{op} was refused: {answer.get('error', 'the other side has ended')}")
        return answer


class Sighting(NamedTuple):
    """One command as a device received it; `at_s` is the machine's monotonic clock."""

    at_s: float
    device: str
    command: str
    obeyed: bool


class PlantControl(Conversation):
    """What a plant can be asked: see `sim.devices.standalone`."""

    async def reset(self) -> None:
        """All machines run at full power again, and the log is empty."""
        await self.ask("reset")

    async def newest(self) -> int:
        """The number of the newest command."""
        return int((await self.ask("commands_since", limit=0))["seq"])

    async def reads(self) -> int:
        """Requests since the last reset that were no commands."""
        return int((await self.ask("commands_since", limit=0))["reads"])

    async def commands_since(self, seq: int) -> list[Sighting]:
        """All commands after number `seq`."""
        found: list[Sighting] = []
        while True:
            answer = await self.ask("commands_since", seq=seq, limit=_PAGE)
            if answer["lost"]:
                raise BenchError("the plant's log of commands ran over")
            for each in answer["commands"]:
                found.append(Sighting(each["at_s"], each["device"], each["command"], each["obeyed"]))
                seq = each["seq"]
            if len(answer["commands"]) < _PAGE:
                return found
