"""What the meter tests share: a plant whose truth can be set, and meters on loopback sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agent.drivers.base import Meter, Unreachable
from agent.drivers.meters import REGISTRY
from agent.drivers.meters.modbus import PROFILES
from agent.drivers.meters.profile import Profile, available_profiles, load_profile
from contract.clock import SystemClock
from sim.devices.modbus import MeterFault, ModbusMeterServer

HOST = "127.0.0.1"
METERS = available_profiles(PROFILES)


def meter_profile(name: str) -> Profile:
    return load_profile(PROFILES, name)


@dataclass
class Plant:
    """The truth, and what is wrong with the meter that shows it."""

    power_w: float | None = 1_234_560.0
    energy_import_wh: float | None = 98_765_432_000.0
    energy_export_wh: float | None = 5_000.0
    voltage_mv: float | None = 480_200.0
    frequency_mhz: float | None = 59_980.0
    fault: MeterFault | None = None
    extra: dict[str, float | None] = field(default_factory=dict)

    def truth(self) -> dict[str, float | None]:
        return {
            "power_w": self.power_w,
            "energy_import_wh": self.energy_import_wh,
            "energy_export_wh": self.energy_export_wh,
            "voltage_mv": self.voltage_mv,
            "frequency_mhz": self.frequency_mhz,
            **self.extra,
        }


def make_meter(
    port: int, options: Mapping[str, object], *, unit_id: int = 1, deadline_s: float = 10.0, driver: str = "modbus"
) -> Meter:
    return REGISTRY[driver](HOST, port, unit_id, options, deadline_s=deadline_s, clock=SystemClock())


@asynccontextmanager
async def wired(
    profile: str = "abb_b23_b24", *, deadline_s: float = 10.0, **options: object
) -> AsyncIterator[tuple[Plant, Meter, ModbusMeterServer]]:
    """A plant, the meter driver that reads it and the simulated meter between them."""
    plant = Plant()
    server = ModbusMeterServer(meter_profile(profile), plant.truth, fault=lambda: plant.fault)
    port = await server.start()
    meter = make_meter(port, options, deadline_s=deadline_s, driver=profile)
    try:
        yield plant, meter, server
    finally:
        await meter.close()
        await server.stop()


async def power_w(meter: Meter) -> int | None:
    """The power read. Fails where the meter is unreachable."""
    reading = await meter.read()
    assert not isinstance(reading, Unreachable), reading
    return reading.power_w


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, generously but not for ever."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the conditions are figures of the code under test
            await asyncio.sleep(0.005)
