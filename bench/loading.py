"""The load as a bench handles it: started, told its rate, watched for what it could not deliver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.conversation import Conversation
from bench.process import BenchError, Child, child
from sim.broker import LocalBroker

_LOOK_S: Final = 0.1
_EACH_DECIDED_S: Final = 600.0
"""5,000 sites planned from nothing take some 20 s of a core; a busy machine has less than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStats:
    """What the load has done so far, see `bench.load`."""

    published: int
    acknowledged: int
    dropped: int
    orders: int
    behind: int


class Load:
    """A running load of synthetic agents."""

    def __init__(self, process: Child, control: Conversation, sites: int) -> None:
        self.process = process
        self.sites = sites
        self._control = control

    async def rate(self, per_s: float | None) -> None:
        """Report at this rate; 0 pauses, None is as fast as the broker takes it."""
        await self._control.ask("rate", per_s=per_s)

    async def stats(self) -> LoadStats:
        answer = await self._control.ask("stats")
        if answer["connects"] != 1:
            raise BenchError("the load lost its link to the broker")
        return LoadStats(**{key: answer[key] for key in LoadStats.__dataclass_fields__})

    async def until_each_is_ordered(self, *beside: Child) -> None:
        """Until the controller has decided every site at least once."""
        try:
            async with asyncio.timeout(_EACH_DECIDED_S):
                while (await self.stats()).orders < self.sites:
                    for process in (self.process, *beside):
                        process.check()
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise BenchError(f"not every one of {self.sites} sites was decided") from None


@contextlib.asynccontextmanager
async def load(broker: LocalBroker, folder: Path, *, sites: int, banks: int) -> AsyncIterator[Load]:
    """Announce that many sites; they report nothing until they are told a rate."""
    flags = ("--port", str(broker.port), "--sites", str(sites), "--banks", str(banks))
    async with child("load", folder, "bench.load", *flags) as process:
        control = await Conversation.open((await process.ready_line())["control"])
        try:
            yield Load(process, control, sites)
        finally:
            await control.close()
