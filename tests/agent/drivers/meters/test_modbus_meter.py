"""The driver reads the plant's truth through a real socket, from every profile and from registers in the config."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.drivers.base import Failure, MeterReading, Unreachable
from agent.drivers.meters.modbus import modbus_meter
from agent.drivers.meters.profile import UNITS, ProfileError, parse_profile
from contract.clock import SystemClock
from sim.devices.modbus import ModbusMeterServer
from sim.virtual import run_virtual
from tests.agent.drivers.meters.plant import HOST, METERS, Plant, make_meter, meter_profile, power_w, wired

LARGEST_W = {
    "abb_b23_b24": 21_400_000.0,
    "abb_m4m20": 21_400_000.0,
    "abb_m4m20_mv": 2_000_000_000.0,
    "schneider_pm5340": 5_000_000_000.0,
    "satec_pm180": 15_000_000_000.0,
}


def _slack(profile: str, name: str, value: float) -> float:
    """Half of the register's resolution in canonical units, and what a 32-bit float cannot tell apart."""
    spec = meter_profile(profile).registers[name]
    if spec.type == "float32":
        return abs(value) * 2**-24 + 1
    return spec.scale * UNITS[spec.unit].factor / 2 + 1e-6 * abs(value) + 0.5


@pytest.mark.parametrize("profile", METERS)
async def test_true_watts_come_through_every_profile(profile: str) -> None:
    """Zero, small, large, export: what the plant draws is what the driver says, to the register's resolution."""
    async with wired(profile) as (plant, meter, _):
        for truth_w in (0.0, 1_000.0, 1_234_560.0, -56_780.0, LARGEST_W[profile], -LARGEST_W[profile]):
            plant.power_w = truth_w
            read_w = await power_w(meter)
            assert read_w is not None
            assert abs(read_w - truth_w) <= _slack(profile, "power", truth_w)


@pytest.mark.parametrize("profile", METERS)
async def test_energy_voltage_and_frequency_come_through_every_profile(profile: str) -> None:
    async with wired(profile) as (plant, meter, _):
        reading = await meter.read()
        assert isinstance(reading, MeterReading)
        for name, value, truth in (
            ("energy_import", reading.energy_import_wh, plant.energy_import_wh),
            ("voltage", reading.voltage_mv, plant.voltage_mv),
            ("frequency", reading.frequency_mhz, plant.frequency_mhz),
        ):
            assert value is not None
            assert truth is not None
            assert abs(value - truth) <= _slack(profile, name, truth), name


@pytest.mark.parametrize("profile", [name for name in METERS if name != "satec_pm180"])
async def test_the_makes_own_not_available_value_is_none_and_never_zero(profile: str) -> None:
    async with wired(profile) as (plant, meter, _):
        plant.power_w = plant.energy_import_wh = None
        reading = await meter.read()
        assert isinstance(reading, MeterReading)
        assert reading.power_w is None
        assert reading.energy_import_wh is None
        assert reading.frequency_mhz == 59_980
        plant.power_w = 7_000.0
        assert await power_w(meter) == 7_000


async def test_power_beyond_the_register_overflows_into_unknown_not_into_a_wrong_figure() -> None:
    async with wired("abb_m4m20") as (plant, meter, _):
        plant.power_w = 25_000_000.0
        assert await power_w(meter) is None


async def test_a_meter_reads_the_plant_at_the_moment_of_the_read() -> None:
    async with wired() as (plant, meter, server):
        for step in range(5):
            plant.power_w = 1_000.0 * step
            assert await power_w(meter) == 1_000 * step
        assert server.accepted == 1, "the connection persists"
        assert server.unit.requests == 10, "two requests a reading"


async def test_invert_turns_the_sign_and_takes_the_export_counter_for_import() -> None:
    """A CT mounted the wrong way round: the meter sees export."""
    async with wired(invert=True) as (plant, meter, _):
        plant.power_w, plant.energy_export_wh = -2_500_000.0, 14_931_075_990.0
        reading = await meter.read()
        assert isinstance(reading, MeterReading)
        assert reading.power_w == 2_500_000
        assert reading.energy_import_wh == 14_931_075_990


async def test_ct_ratio_multiplies_power_and_energy_but_not_voltage() -> None:
    async with wired(ct_ratio=400) as (plant, meter, _):
        plant.power_w, plant.energy_import_wh = 2_500.25, 1_000.0
        reading = await meter.read()
        assert isinstance(reading, MeterReading)
        assert reading.power_w == 1_000_000
        assert reading.energy_import_wh == 400_000
        assert reading.voltage_mv == 480_200


async def test_registers_given_in_the_config_are_read() -> None:
    """The generic profile: input table, low word first, a float, and nothing but power and frequency."""
    shape: dict[str, object] = {
        "table": "input",
        "word_order": "little",
        "registers": {
            "power": {"address": 100, "type": "float32", "unit": "MW"},
            "frequency": {"address": 7, "type": "uint16", "unit": "Hz", "scale": 0.1, "table": "holding"},
        },
    }
    plant = Plant(power_w=12_500_000.0, frequency_mhz=60_100.0)
    profile = parse_profile({"name": "generic", "kind": "meter", **shape}, "test")
    server = ModbusMeterServer(profile, plant.truth, unit_id=17)
    port = await server.start()
    meter = make_meter(port, shape, unit_id=17)
    try:
        assert await meter.read() == MeterReading(power_w=12_500_000, frequency_mhz=60_100)
    finally:
        await meter.close()
        await server.stop()


async def test_a_register_the_device_does_not_have_leaves_its_field_unknown_and_power_known() -> None:
    bare = parse_profile({"name": "bare", "kind": "meter", "registers": {"power": _POWER}}, "test")
    server = ModbusMeterServer(bare, Plant(power_w=5_000.0).truth)
    port = await server.start()
    richer = {"registers": {"power": _POWER, "voltage": {"address": 500, "type": "uint16", "unit": "V"}}}
    meter = make_meter(port, richer)
    try:
        assert await meter.read() == MeterReading(power_w=5_000)
    finally:
        await meter.close()
        await server.stop()


_POWER: Mapping[str, object] = {"address": 0, "type": "int32", "unit": "W"}


async def test_a_power_no_site_draws_is_garbage_with_a_hint_not_a_reading() -> None:
    """A wrong unit in the config must not become watts."""
    async with wired("satec_pm180") as (plant, _, server):
        plant.power_w = 70_000_000.0
        power = {"address": 14336, "type": "int32", "unit": "MW", "word_order": "little"}
        wrong = make_meter(server.port, {"registers": {"power": power}})
        reading = await wrong.read()
        await wrong.close()
    assert isinstance(reading, Unreachable)
    assert reading.failure is Failure.GARBAGE
    assert "70000000000 W is no site's power; check type, word_order and scale of registers.power" in reading.detail


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "options: give one of profile, profile_file, registers"),
        ({"profile": "abb_b23_b24", "registers": {"power": _POWER}}, "given: profile and registers"),
        ({"profile": "abb_b23"}, "did you mean 'abb_b23_b24'"),
        ({"profile": "abb_b23_b24", "ct": 5}, "options: ct: is not a key here"),
        ({"profile": "abb_b23_b24", "ct_ratio": 0}, "options: ct_ratio: 0"),
        ({"profile": "abb_b23_b24", "invert": "perhaps"}, "options: invert: 'perhaps'"),
        (
            {"registers": {"power": {"address": 0, "type": "int8", "unit": "W"}}},
            "options: registers.power.type: 'int8'",
        ),
    ],
)
def test_wrong_options_name_key_and_fix(options: dict[str, object], said: str) -> None:
    with pytest.raises(ProfileError) as caught:
        make_meter(502, options)
    assert said in str(caught.value)


def test_the_examples_in_the_documentation_make_meters() -> None:
    text = (Path(__file__).parents[4] / "docs" / "meters.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        make_meter(502, tomllib.loads(example)["meters"]["options"])


@pytest.mark.parametrize(
    ("host", "port", "unit_id", "deadline_s", "said"),
    [
        (HOST, None, 256, 1.0, "unit_id: 256"),
        (HOST, None, 1, 0.0, "deadline_s: 0"),
        (HOST, None, 1, 61.0, "deadline_s: 61"),
        (HOST, 0, 1, 1.0, "port: 0"),
        (HOST, 65_536, 1, 1.0, "port: 65536"),
        ("", None, 1, 1.0, "host: ''"),
        ("meter 1", None, 1, 1.0, "host: 'meter 1'"),
        (".meter", None, 1, 1.0, "host: '.meter'"),
    ],
)
def test_a_wrong_address_or_deadline_is_said_when_the_meter_is_made(
    host: str, port: int | None, unit_id: int, deadline_s: float, said: str
) -> None:
    with pytest.raises(ProfileError, match=f"^{said}"):
        modbus_meter(host, port, unit_id, {"profile": "abb_b23_b24"}, deadline_s=deadline_s, clock=SystemClock())


def test_a_host_name_that_nobody_knows_is_a_failure_to_connect() -> None:
    """In virtual time, where a look-up fails as it does without a name server."""

    async def run() -> MeterReading | Unreachable:
        meter = modbus_meter(
            "no-such-meter.invalid", None, 1, {"profile": "abb_b23_b24"}, deadline_s=2.0, clock=SystemClock()
        )
        return await meter.read()

    reading = run_virtual(run())
    assert isinstance(reading, Unreachable)
    assert reading.failure is Failure.CONNECT
