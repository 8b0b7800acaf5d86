"""The simulation's clocks. Both are a `contract.clock.Clock`, so the daemons cannot tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sim.virtual import TIMER_GRAIN_S

_NS_PER_MS = 1_000_000
_GRAIN_MS = 2 * TIMER_GRAIN_S * 1_000


class LoopClock:
    """Site time that is the running loop's time: virtual under `sim.virtual`, the machine's otherwise.

    Every daemon of a simulated world has one of its own: wall clocks need not agree, and two incarnations' monotonic
    clocks begin anywhere, as after a reboot.
    """

    def __init__(
        self, epoch_ms: int, *, mono_origin_ms: int = 0, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """`epoch_ms` is the wall time at loop time 0; `mono_origin_ms` what the monotonic clock shows then."""
        self._loop = loop if loop is not None else asyncio.get_running_loop()
        self._wall_offset_ms = epoch_ms
        self._mono_origin_ms = mono_origin_ms

    def wall_ms(self) -> int:
        return self._wall_offset_ms + self._elapsed_ms()

    def mono_ms(self) -> int:
        return self._mono_origin_ms + self._elapsed_ms()

    async def sleep_ms(self, duration_ms: int) -> None:
        await asyncio.sleep(max(duration_ms, 0) / 1_000)

    def shift_wall(self, delta_ms: int) -> None:
        """Make the wall clock jump, as a wrong or corrected NTP source does; the monotonic one goes on."""
        self._wall_offset_ms += delta_ms

    def _elapsed_ms(self) -> int:
        # A timer set to a whole millisecond may fire one timer grain early, and must not show the one before it.
        return int(self._loop.time() * 1_000 + _GRAIN_MS)


class ScaledClock:
    """Site time that runs `speed` times faster than the machine's, for the demo.

    Clocks made with one `anchor_ns` agree across processes of one machine.
    """

    def __init__(
        self,
        speed: float,
        start_wall_ms: int,
        *,
        anchor_ns: int | None = None,
        ticks_ns: Callable[[], int] = time.monotonic_ns,  # noqa: TID251  the demo's time is the machine's, scaled
    ) -> None:
        """At the moment `anchor_ns` of the machine's monotonic clock (default: now) the wall shows `start_wall_ms`."""
        if not speed > 0:
            raise ValueError(f"speed must be above 0, got {speed}")
        self.speed = speed
        self._ticks_ns = ticks_ns
        self._start_wall_ms = start_wall_ms
        self.anchor_ns = ticks_ns() if anchor_ns is None else anchor_ns

    def wall_ms(self) -> int:
        return self._start_wall_ms + self.mono_ms()

    def mono_ms(self) -> int:
        return int((self._ticks_ns() - self.anchor_ns) * self.speed) // _NS_PER_MS

    async def sleep_ms(self, duration_ms: int) -> None:
        await asyncio.sleep(max(duration_ms, 0) / 1_000 / self.speed)
