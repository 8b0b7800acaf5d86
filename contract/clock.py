"""Time as an argument.

Site time (what decisions, leases and prices run on) comes from a `Clock`; I/O deadlines run on the event loop's own
time. Production uses `SystemClock`; the simulation has clocks of its own that run scaled or virtual.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where site time comes from."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC. May jump: never measure a duration with it."""
        ...

    def mono_ms(self) -> int:
        """Milliseconds on a clock that never goes back. Leases, ages and dwell are measured with this one."""
        ...

    async def sleep_ms(self, duration_ms: int) -> None:
        """Sleep for a span of site time."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000  # noqa: TID251  the one place that reads the machine's clock

    def mono_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000  # noqa: TID251  the one place that reads the machine's clock

    async def sleep_ms(self, duration_ms: int) -> None:
        await asyncio.sleep(max(duration_ms, 0) / 1_000)
