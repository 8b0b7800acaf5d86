"""A temperature module's inputs are read one by one; a faulty probe is never a temperature."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from agent.drivers.base import Failure, Sensor, Unreachable
from agent.drivers.meters.profile import ProfileError, load_profile, parse_profile
from agent.drivers.sensors import REGISTRY
from agent.drivers.sensors.modbus import PROFILES
from contract.clock import SystemClock
from sim.devices.modbus import MeterFault, MeterFaultKind, ModbusMeterServer

HOST = "127.0.0.1"
SENECA = load_profile(PROFILES, "seneca_z_4rtd")


def _sensor(port: int, options: Mapping[str, object], *, driver: str = "seneca_z_4rtd") -> Sensor:
    return REGISTRY[driver](HOST, port, 1, options, deadline_s=10.0, clock=SystemClock())


@asynccontextmanager
async def _module(truth: Mapping[str, float | None], *faults: MeterFault) -> AsyncIterator[ModbusMeterServer]:
    server = ModbusMeterServer(SENECA, lambda: truth, fault=lambda: faults[0] if faults else None)
    await server.start()
    yield server
    await server.stop()


async def test_four_inputs_are_told_apart_over_one_connection() -> None:
    truth = {"channel_1_mc": 23_500.0, "channel_2_mc": -5_000.0, "channel_3_mc": 0.0, "channel_4_mc": 84_900.0}
    async with _module(truth) as server:
        sensors = [_sensor(server.port, {"channel": channel}) for channel in (1, 2, 3, 4)]
        assert await asyncio.gather(*(sensor.read_mc() for sensor in sensors)) == [23_500, -5_000, 0, 84_900]
        assert server.accepted == 1
        for sensor in sensors:
            await sensor.close()


async def test_a_faulty_probe_is_unreachable_and_leaves_its_neighbours_alone() -> None:
    async with _module({"channel_1_mc": 20_000.0, "channel_2_mc": None}) as server:
        well, faulty = _sensor(server.port, {"channel": 1}), _sensor(server.port, {"channel": "channel_2"})
        assert await well.read_mc() == 20_000
        reading = await faulty.read_mc()
        assert isinstance(reading, Unreachable)
        assert reading.failure is Failure.GARBAGE
        assert "channel_2: the module calls its probe faulty" in reading.detail
        await well.close()
        await faulty.close()


async def test_a_temperature_that_no_site_has_is_garbage() -> None:
    async with _module({"channel_1_mc": 850_100.0}) as server:
        sensor = _sensor(server.port, {"channel": 1})
        reading = await sensor.read_mc()
        await sensor.close()
    assert isinstance(reading, Unreachable)
    assert "850.1 degC is no temperature of a site" in reading.detail


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        (MeterFaultKind.REFUSE, Failure.CLOSED),
        (MeterFaultKind.GARBAGE, Failure.GARBAGE),
        (MeterFaultKind.EXCEPTION, Failure.GARBAGE),
        (MeterFaultKind.NAN, Failure.GARBAGE),
    ],
)
async def test_a_module_that_misbehaves_is_unreachable(kind: MeterFaultKind, failure: Failure) -> None:
    async with _module({"channel_1_mc": 20_000.0}, MeterFault(kind)) as server:
        sensor = _sensor(server.port, {"channel": 1})
        reading = await sensor.read_mc()
        await sensor.close()
    assert isinstance(reading, Unreachable)
    assert reading.failure is failure


async def test_a_single_register_from_the_config_needs_no_channel() -> None:
    """A Fahrenheit probe in an input register."""
    shape = {"registers": {"outlet": {"address": 9, "type": "int16", "unit": "degF", "table": "input", "scale": 0.1}}}
    profile = parse_profile({"name": "generic", "kind": "sensor", **shape}, "test")
    server = ModbusMeterServer(profile, lambda: {"outlet_mc": 37_500.0})
    sensor = _sensor(await server.start(), shape, driver="modbus")
    assert await sensor.read_mc() == 37_500
    await sensor.close()
    await server.stop()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "options.channel: is missing; use one of channel_1, channel_2, channel_3, channel_4"),
        ({"channel": 5}, "options.channel: 5 is no register of seneca_z_4rtd"),
        ({"channel": "inlet"}, "options.channel: 'inlet' is no register"),
        ({"channel": 1, "invert": True}, "options: invert: is not a key here"),
    ],
)
def test_wrong_options_name_key_and_fix(options: dict[str, object], said: str) -> None:
    with pytest.raises(ProfileError) as caught:
        _sensor(502, options)
    assert said in str(caught.value)


def test_a_meters_profile_does_not_make_a_sensor(tmp_path: object) -> None:
    with pytest.raises(ProfileError, match="no profile is named 'abb_b23_b24'"):
        _sensor(502, {"profile": "abb_b23_b24"}, driver="modbus")
