"""Register profiles: what ships loads and names its source; what is wrong is said with file, key and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.drivers.meters import REGISTRY
from agent.drivers.meters.modbus import PROFILES as METER_PROFILES
from agent.drivers.meters.profile import (
    ProfileError,
    available_profiles,
    load_profile,
    load_profile_file,
    parse_profile,
)
from agent.drivers.sensors import REGISTRY as SENSOR_REGISTRY
from agent.drivers.sensors.modbus import PROFILES as SENSOR_PROFILES

SHIPPED = [(folder, name) for folder in (METER_PROFILES, SENSOR_PROFILES) for name in available_profiles(folder)]
GOOD = {
    "name": "mine",
    "kind": "meter",
    "registers": {"power": {"address": 10, "type": "int32", "unit": "W"}},
}


def test_the_promised_makes_ship() -> None:
    promised = {"abb_b23_b24", "abb_m4m20", "schneider_pm5340", "satec_pm180"}
    assert promised <= set(available_profiles(METER_PROFILES))
    assert promised | {"modbus"} <= set(REGISTRY)
    assert set(SENSOR_REGISTRY) == {"modbus", "seneca_z_4rtd"}


@pytest.mark.parametrize(("folder", "name"), SHIPPED)
def test_a_shipped_profile_loads_and_names_its_source_and_its_doubts(folder: Path, name: str) -> None:
    profile = load_profile(folder, name)
    assert profile.source
    assert profile.models
    assert profile.verified != "no"
    assert profile.unverified, "nothing here ran against the hardware, so every profile has a doubt to state"


def test_every_shipped_profile_stands_in_the_documentation() -> None:
    text = (Path(__file__).parents[4] / "docs" / "meters.md").read_text(encoding="utf-8")
    for _, name in SHIPPED:
        assert f"`{name}`" in text


def test_registers_inherit_table_word_order_and_sentinels_and_may_override_them() -> None:
    profile = parse_profile(
        {
            "name": "mine",
            "kind": "meter",
            "table": "input",
            "word_order": "little",
            "invalid": {"int32": [0x7FFFFFFF], "uint64": ["0xFFFFFFFFFFFFFFFF"]},
            "registers": {
                "power": {"address": 10, "type": "int32", "unit": "W"},
                "energy_import": {"address": 20, "type": "uint64", "unit": "Wh", "table": "holding", "invalid": []},
            },
        },
        "mine.toml",
    )
    power, energy = profile.registers["power"], profile.registers["energy_import"]
    assert (power.table, power.word_order, power.invalid) == ("input", "little", (0x7FFFFFFF,))
    assert (energy.table, energy.word_order, energy.invalid) == ("holding", "little", ())


def _power(**changes: object) -> dict[str, object]:
    return {**GOOD, "registers": {"power": {**GOOD["registers"]["power"], **changes}}}  # type: ignore[index]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (_power(type="int33"), ["registers.power.type", "'int33'", "use one of 'int16'"]),
        (_power(addres=3), ["registers.power.addres", "correct its spelling"]),
        (_power(address=70_000), ["registers.power.address", "70000", "65535"]),
        (_power(address=0xFFFF), ["registers.power", "address", "no room for the 2 registers of a int32"]),
        (_power(unit="V"), ["registers.power.unit", "V is no unit of power", "W, kW, MW"]),
        (_power(unit="horse"), ["registers.power.unit", "'horse'"]),
        (_power(word_order="middle"), ["registers.power.word_order", "'big' or 'little'"]),
        (_power(scale=0), ["scale", "resolution"]),
        (_power(scale=float("nan")), ["registers.power.scale", "finite"]),
        (_power(invalid=["zero"]), ["registers.power.invalid.0", "'zero'", "0x7FFFFFFF"]),
        (_power(invalid=[0x1_0000_0000]), ["invalid", "wider than a int32"]),
        ({**GOOD, "registers": {}}, ["registers", "at least 1"]),
        ({**GOOD, "registers": {"power": 5}}, ["registers.power"]),
        ({**GOOD, "registers": {"voltage": {"address": 1, "type": "int16", "unit": "V"}}}, ["registers.power", "add"]),
        (
            {**GOOD, "registers": {"torque": {"address": 1, "type": "int16", "unit": "V"}}},
            ["registers.torque", "use power"],
        ),
        ({**GOOD, "max_registers": 1}, ["max_registers", "raise it"]),
        ({**GOOD, "kind": "clock"}, ["kind", "'meter' or 'sensor'"]),
        ({"kind": "meter"}, ["name: is missing", "registers: is missing"]),
    ],
)
def test_an_invalid_profile_names_file_key_and_fix(data: dict[str, object], said: list[str]) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profile(data, "mine.toml")
    text = str(caught.value)
    assert text.startswith("mine.toml: ")
    assert "\n" not in text
    for part in said:
        assert part in text


def test_a_profile_file_that_is_not_toml_or_not_there_or_misnamed_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = 5 5", encoding="utf-8")
    with pytest.raises(ProfileError, match=r"^broken.toml: is not TOML: .*line 1,"):
        load_profile_file(broken)
    with pytest.raises(ProfileError, match=r"^gone.toml: cannot be read: No such file"):
        load_profile_file(tmp_path / "gone.toml")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"name = '\xe9'")
    with pytest.raises(ProfileError, match=r"^latin.toml: is not UTF-8"):
        load_profile_file(latin)
    other = tmp_path / "other.toml"
    other.write_text(
        'name = "mine"\nkind = "meter"\n[registers.power]\naddress = 1\ntype = "int16"\nunit = "W"\n', encoding="utf-8"
    )
    with pytest.raises(ProfileError, match=r"^other.toml: name: is 'mine', the file's is 'other'"):
        load_profile_file(other)


def test_an_unknown_profile_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ProfileError, match="did you mean 'abb_b23_b24'"):
        load_profile(METER_PROFILES, "abb_b23")
    with pytest.raises(ProfileError, match="there are abb_b23_b24, "):
        load_profile(METER_PROFILES, "zzz")
