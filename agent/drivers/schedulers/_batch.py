"""Commands to a scheduler, many at once: each has its deadline, and all have a few of them together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from agent.drivers.base import Outcome, Unreachable

T = TypeVar("T")

IN_FLIGHT: Final = 16
"""Commands that one scheduler is given at once. slurmctld serves them one after another, some 500 a second, and more at
once are no faster."""
BATCH_DEADLINES: Final = 3
"""A command for many ends within so many deadlines; what it did not come to is answered as unreachable."""


async def each(
    keys: Iterable[str], act: Callable[[str], Awaitable[Outcome]], deadline_s: float, late: Unreachable
) -> dict[str, Outcome]:
    """One command per key, a bounded number at once. `late` is what becomes of one that there was no time for."""
    gate = asyncio.Semaphore(IN_FLIGHT)
    outcomes: dict[str, Outcome] = dict.fromkeys(keys, late)
    loop = asyncio.get_running_loop()
    end_s = loop.time() + (BATCH_DEADLINES - 1) * deadline_s

    async def one(key: str) -> None:
        async with gate:
            if loop.time() < end_s + deadline_s:
                outcomes[key] = await bounded(act(key), min(loop.time(), end_s) + deadline_s, late)

    async with asyncio.TaskGroup() as group:
        for key in outcomes:
            group.create_task(one(key))
    return outcomes


async def bounded(work: Awaitable[T], by_s: float, late: Unreachable) -> T | Unreachable:
    """What the work gives, or `late` where it has not by then; `by_s` is loop time."""
    try:
        async with asyncio.timeout_at(by_s):
            return await work
    except TimeoutError:
        return late
