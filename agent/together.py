"""Several endless jobs as one: they run, fail and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

Job = Coroutine[Any, Any, None]


async def run_together(jobs: Iterable[Job], end: Callable[[], Job]) -> None:
    """Run all until one ends, which is a bug, or until cancelled: then `end` runs beside them before they stop."""
    tasks = [asyncio.get_running_loop().create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError("a part of the agent ended by itself")
    except asyncio.CancelledError:
        await end()
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
