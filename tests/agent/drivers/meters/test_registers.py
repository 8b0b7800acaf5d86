"""Requests are few, and raw registers, written here by hand, become the right figures."""

from __future__ import annotations

import pytest

from agent.drivers.meters.modbus import PROFILES
from agent.drivers.meters.profile import Profile, RegisterSpec, load_profile, parse_profile
from agent.drivers.meters.registers import Block, decode, plan_blocks
from agent.drivers.sensors.modbus import PROFILES as SENSOR_PROFILES


def _words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def _decode(spec: RegisterSpec, words: str) -> int | None:
    return decode(spec, Block(spec.table, spec.address, spec.words, ()), _words(words))


@pytest.mark.parametrize(
    ("profile", "name", "address", "words", "expected"),
    [
        ("abb_b23_b24", "power", 0x5B14, "0001 86A0", 1_000),  # 100,000 x 0.01 W
        ("abb_b23_b24", "power", 0x5B14, "FFFE 7960", -1_000),
        ("abb_b23_b24", "power", 0x5B14, "7FFF FFFF", None),
        ("abb_b23_b24", "power", 0x5B14, "7FFF FFFE", 21_474_836),
        ("abb_b23_b24", "voltage", 0x5B00, "0000 08FF", 230_300),
        ("abb_b23_b24", "frequency", 0x5B2C, "1388", 50_000),
        ("abb_b23_b24", "frequency", 0x5B2C, "FFFF", None),
        ("abb_b23_b24", "energy_import", 0x5000, "0000 0000 0000 0064", 1_000),
        ("abb_b23_b24", "energy_import", 0x5000, "FFFF FFFF FFFF FFFF", None),
        ("abb_m4m20", "power", 0x5B1A, "FFFF FF9C", -1),
        ("abb_m4m20", "power", 0x5B1A, "7FFF FFFF", None),
        ("abb_m4m20_mv", "power", 0xCB1A, "0151 8C00", 22_121_472),
        ("schneider_pm5340", "power", 3059, "447A 0000", 1_000_000),  # 1000.0 kW
        ("schneider_pm5340", "power", 3059, "C47A 0000", -1_000_000),
        ("schneider_pm5340", "power", 3059, "7FC0 0000", None),
        ("schneider_pm5340", "power", 3059, "FFC0 0000", None),
        ("schneider_pm5340", "power", 3059, "7F80 0000", None),  # infinity
        ("schneider_pm5340", "frequency", 3109, "4248 0000", 50_000),
        ("schneider_pm5340", "energy_import", 3203, "0000 0000 0001 0000", 65_536),
        ("schneider_pm5340", "energy_import", 3203, "8000 0000 0000 0000", None),
        ("satec_pm180", "power", 14336, "0001 0000", 1_000),  # the low word first, in kW
        ("satec_pm180", "power", 14336, "FFFF FFFF", -1_000),
        ("satec_pm180", "power", 14336, "0000 0001", 65_536_000),
        ("satec_pm180", "energy_import", 14720, "0002 0000", 2_000),
    ],
)
def test_a_meters_registers_decode_as_its_map_says(
    profile: str, name: str, address: int, words: str, expected: int | None
) -> None:
    spec = load_profile(PROFILES, profile).registers[name]
    assert spec.address == address
    assert spec.table == "holding"
    assert _decode(spec, words) == expected


@pytest.mark.parametrize(("words", "expected"), [("00EB", 23_500), ("FFCE", -5_000), ("2134", None)])
def test_the_senecas_channels_are_tenths_of_a_degree_and_850_is_a_fault(words: str, expected: int | None) -> None:
    profile = load_profile(SENSOR_PROFILES, "seneca_z_4rtd")
    assert [spec.address for spec in profile.registers.values()] == [2, 3, 4, 5]
    assert _decode(profile.registers["channel_3"], words) == expected


@pytest.mark.parametrize(
    ("unit", "words", "expected"), [("degF", "0020", 0), ("degF", "00D4", 100_000), ("K", "0111", -150)]
)
def test_other_temperature_units_convert(unit: str, words: str, expected: int) -> None:
    spec = RegisterSpec(address=0, type="int16", unit=unit)
    assert _decode(spec, words) == expected


def test_offset_carries_a_scaled_16_bit_register() -> None:
    """Satec's basic set: 0 to 9999 stands for -Pmax to Pmax."""
    p_max_kw = 1_000.0
    spec = RegisterSpec(address=275, type="uint16", unit="kW", scale=2 * p_max_kw / 9_999, offset=-p_max_kw)
    assert _decode(spec, "0000") == -1_000_000
    assert _decode(spec, "270F") == 1_000_000


def _plan(profile: Profile) -> list[tuple[str, int, int, tuple[str, ...]]]:
    return [(block.table, block.address, block.count, block.names) for block in plan_blocks(profile, ("power", *_REST))]


_REST = ("voltage", "frequency", "energy_import")


def test_neighbours_share_a_request_and_power_comes_first() -> None:
    assert _plan(load_profile(PROFILES, "abb_b23_b24")) == [
        ("holding", 0x5B00, 45, ("voltage", "power", "frequency")),
        ("holding", 0x5000, 4, ("energy_import",)),
    ]
    assert [block[1:3] for block in _plan(load_profile(PROFILES, "schneider_pm5340"))] == [(3025, 86), (3203, 4)]
    satec = _plan(load_profile(PROFILES, "satec_pm180"))
    assert [names for *_, names in satec] == [("power",), ("voltage",), ("frequency",), ("energy_import",)]


def test_a_request_never_passes_the_limit_nor_mixes_tables() -> None:
    profile = parse_profile(
        {
            "name": "mine",
            "kind": "meter",
            "max_gap": 125,
            "max_registers": 20,
            "registers": {
                "power": {"address": 0, "type": "int32", "unit": "W"},
                "voltage": {"address": 18, "type": "uint32", "unit": "V"},
                "frequency": {"address": 30, "type": "uint16", "unit": "Hz"},
                "energy_import": {"address": 20, "type": "uint64", "unit": "Wh", "table": "input"},
            },
        },
        "mine.toml",
    )
    assert _plan(profile) == [
        ("holding", 0, 20, ("power", "voltage")),
        ("holding", 30, 1, ("frequency",)),
        ("input", 20, 4, ("energy_import",)),
    ]
