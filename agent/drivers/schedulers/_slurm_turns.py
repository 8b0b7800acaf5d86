"""Whose turn it is: signals to one job go out one after another, those to different jobs beside one another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager


class Turns:
    """Each waiter takes all its jobs at once or none, so that no two wait for each other."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._change = asyncio.Event()

    @asynccontextmanager
    async def of(self, jobs: Sequence[str]) -> AsyncIterator[None]:
        """Wait until none of these jobs is another's, and keep them for the length of the block."""
        while not self._busy.isdisjoint(jobs):
            await self._change.wait()
        self._busy.update(jobs)
        try:
            yield
        finally:
            self._busy.difference_update(jobs)
            self._change.set()
            self._change = asyncio.Event()

    def free(self, jobs: Iterable[str]) -> list[str]:
        """Those of these jobs that are nobody's now, in order."""
        return sorted(job for job in jobs if job not in self._busy)
