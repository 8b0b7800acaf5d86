"""Meters and temperature sensors, each read by itself, so that one that hangs delays none; the newest reading is kept.

A meter that shows the same figure to the watt while what it measures has clearly changed is frozen: its reading then
counts as stale.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from agent.contain import Containment
from agent.drivers.base import Failure, Meter, MeterReading, Sensor, Unreachable
from contract.clock import Clock

_LOG = logging.getLogger(__name__)
FROZEN_AFTER_MS: Final = 15_000
"""How long a meter may stand still after what it measures has clearly changed."""
FROZEN_CHANGE: Final = 0.1
"""The share by which devices' own figures must have moved for a still meter to be frozen."""


class _Closes(Protocol):
    async def close(self) -> None: ...


class Gauge:
    """One meter (watts) or sensor (thousandths of a degree)."""

    __slots__ = (
        "_doubted_ms",
        "_moved_ms",
        "_still_w",
        "busy",
        "deadline_s",
        "failure",
        "frozen",
        "meter",
        "name",
        "read_ms",
        "sensor",
        "value",
    )

    def __init__(
        self, name: str, deadline_s: float, *, meter: Meter | None = None, sensor: Sensor | None = None
    ) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self.meter = meter
        self.sensor = sensor
        self.value: int | None = None
        self.read_ms: int | None = None
        self.failure: Failure | None = None
        self.frozen = False
        self.busy = False
        self._moved_ms: int | None = None
        """When the value last changed."""
        self._still_w: int | None = None
        """What the devices said while the value was still new."""
        self._doubted_ms: int | None = None

    async def read(self) -> int | Unreachable | None:
        """The value now; None where the meter answers and has none."""
        if self.meter is not None:
            reading = await self.meter.read()
            return reading.power_w if isinstance(reading, MeterReading) else reading
        assert self.sensor is not None  # noqa: S101  one of the two is given
        return await self.sensor.read_mc()

    def take(self, value: int | Unreachable | None, now_ms: int) -> None:
        if isinstance(value, Unreachable):
            self.failure = value.failure
        elif value is not None:
            if value != self.value:
                self._moved_ms, self._still_w = now_ms, None
                self._frozen(now=False)
            self.failure = None
            self.value = value
            self.read_ms = now_ms
        else:
            self.failure = Failure.GARBAGE

    def fresh(self, now_ms: int, stale_ms: int) -> int | None:
        """The value, where it is to be believed."""
        if self.value is None or self.read_ms is None or self.frozen or now_ms - self.read_ms > stale_ms:
            return None
        return self.value

    def expect(self, expected_w: int | None, now_ms: int, lag_ms: int) -> None:
        """Tell a meter what the devices behind it say they draw, so that it is noticed when it freezes.

        Devices' figures follow by up to `lag_ms`: only a move that begins after a longer stillness speaks against it.
        """
        if expected_w is None or self.value is None or self._moved_ms is None:
            return
        if self._still_w is None or now_ms - self._moved_ms <= lag_ms:
            self._still_w, self._doubted_ms = expected_w, None
        elif abs(expected_w - self._still_w) <= FROZEN_CHANGE * max(abs(self.value), self._still_w, 1):
            self._doubted_ms = None
            self._frozen(now=False)  # the devices are back where they were: what it shows is so again
        elif self._doubted_ms is None:
            self._doubted_ms = now_ms
        elif not self.frozen and now_ms - self._doubted_ms > FROZEN_AFTER_MS and self.failure is None:
            self._frozen(now=True)

    def _frozen(self, *, now: bool) -> None:
        if now != self.frozen:
            self.frozen = now
            _LOG.warning("meter %s %s", self.name, "is frozen; it is not believed" if now else "moves again")


class Gauges:
    """All gauges of a site. `on_reading` is called after each reading that brought a value."""

    def __init__(
        self, gauges: Iterable[Gauge], clock: Clock, contain: Containment, on_reading: Callable[[], None]
    ) -> None:
        self.by_name: Mapping[str, Gauge] = {gauge.name: gauge for gauge in gauges}
        self._clock = clock
        self._contain = contain
        self._on_reading = on_reading
        self._tasks: set[asyncio.Task[None]] = set()

    def tick(self) -> None:
        """Start a reading of every gauge that is not still busy with its last one."""
        for gauge in self.by_name.values():
            if not gauge.busy:
                gauge.busy = True
                task = asyncio.get_running_loop().create_task(self._read(gauge))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for gauge in self.by_name.values():
            driver: _Closes | None = gauge.meter or gauge.sensor
            if driver is not None:
                await self._contain.run(driver.close(), gauge.deadline_s, driver)

    async def _read(self, gauge: Gauge) -> None:
        try:
            value = await self._contain.run(gauge.read(), gauge.deadline_s, gauge.meter or gauge.sensor)
        finally:
            gauge.busy = False
        gauge.take(value, self._clock.mono_ms())
        if gauge.failure is None:
            self._on_reading()
