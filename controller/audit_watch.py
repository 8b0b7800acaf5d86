"""Whether the audit log on disk still is what was written: the whole chain walked again, a slice at a time.

A log that nobody verifies proves nothing. So the controller does, soon after its start and then every hour, and tells
the outcome as metrics. The walk takes a few per cent of a core and keeps nothing waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from contract.clock import Clock
from controller.audit import GENESIS, AuditError, AuditLog, Head, follow

_LOG = logging.getLogger(__name__)
EVERY_S: Final = 3_600.0
FIRST_AFTER_S: Final = 10.0
_SLICE_LINES: Final = 200
_REST_S: Final = 0.05
_LINE_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome of one walk. `fault` is None where the chain is whole."""

    head: Head
    mono_ms: int
    fault: str | None


class AuditWatch:
    """Walks one log, again and again. `run` it beside the server."""

    def __init__(
        self, log: AuditLog, clock: Clock, *, every_s: float = EVERY_S, first_s: float = FIRST_AFTER_S
    ) -> None:
        self._log = log
        self._clock = clock
        self._every_s = every_s
        self._first_s = first_s
        self.last: Verified | None = None
        self.walks = 0

    @property
    def log(self) -> AuditLog:
        return self._log

    async def lifetime(self, _app: object) -> AsyncIterator[None]:
        """For `app.cleanup_ctx`: walks while the server runs."""
        task = asyncio.create_task(self.run(), name="audit watch")
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def run(self) -> None:
        """Until cancelled."""
        wait_s = self._first_s
        while True:
            await asyncio.sleep(wait_s)
            await self.verify()
            wait_s = self._every_s

    async def verify(self) -> Verified:
        """Walk everything that was on the disk when it began."""
        goal, before, head, fault = self._log.written, self.last, Head(0, GENESIS), None
        try:
            head = await self._walk(goal)
        except AuditError as error:
            fault = str(error)
        except OSError as error:
            fault = f"it cannot be read: {error.strerror}"
        self.last = Verified(head, self._clock.mono_ms(), fault)
        self.walks += 1
        if fault is not None and (before is None or before.fault is None):
            _LOG.error("audit log %s: %s", self._log.path, fault)
        return self.last

    async def _walk(self, goal: Head) -> Head:
        """The head at the goal's place. Raises `AuditError` where the log does not lead there."""
        head = Head(0, GENESIS)
        file = await asyncio.to_thread(self._log.path.open, "rb")
        with file:
            while head.lines < goal.lines:
                after = await asyncio.to_thread(_slice, file, head, min(_SLICE_LINES, goal.lines - head.lines))
                if after.lines == head.lines:
                    raise AuditError(f"it ends at line {head.lines}, {goal.lines} were written: its end was cut off")
                head = after
                await asyncio.sleep(_REST_S)
        if head != goal:
            raise AuditError(f"line {head.lines} is not what was written there: the log was exchanged")
        return head


def _slice(file: BinaryIO, head: Head, lines: int) -> Head:
    for _ in range(lines):
        raw = file.readline(_LINE_MAX)
        if not raw:
            break
        head = follow(raw, head)
    return head
