"""A configuration is checked whole; an error names the file, the key and the fix, and ends the daemon with 2."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agent.addresses import Address, parse_addresses
from agent.compiled import guard_plan, nameplate
from agent.config import AgentConfig, HashBankSettings
from agent.config_file import load_config, parse_config
from agent.config_rules import ConfigError
from agent.daemon import main
from contract.messages import Workload

SAMPLE = Path(__file__).parents[2] / "deploy" / "config" / "agent.sample.toml"
MINIMAL = """
[site]
id = "north"
[mqtt]
host = "broker"
[feeders.main]
limit_w = 1_000_000
[banks.hall-a]
feeder = "main"
driver = "luxos"
devices = ["10.1.0.10-10.1.0.13"]
device_rated_w = 3_000
device_idle_w = 25
device_hashrate_ghs = 100_000
"""


def parse(text: str) -> AgentConfig:
    return parse_config(text.encode(), "agent.toml", Path("/etc/wattshift"))


def test_the_sample_is_valid_and_every_driver_and_option_in_it_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(SAMPLE), "--check"]) == 0
    assert "3 banks, 683 miners, 4 gauges" in capsys.readouterr().out


def test_defaults_written_in_the_samples_comments_are_the_defaults() -> None:
    """Uncomment every `# key = value` of the sample: nothing changes."""
    text = SAMPLE.read_text(encoding="utf-8")
    shown = tomllib.loads(
        re.sub(r"^# (?=[a-z_]+ = [\d\"])", "", re.sub(r"# (username|password_file|ca).*", "", text), flags=re.MULTILINE)
    )
    plain = load_config(SAMPLE)
    for table in ("fail_safe", "timing", "limits", "tolerance"):
        assert getattr(plain, table) == type(getattr(plain, table)).model_validate(shown[table])
    assert shown["mqtt"]["identifier"] == plain.mqtt.identifier


def test_a_minimal_file_compiles_to_a_nameplate_and_a_plan() -> None:
    config = parse(MINIMAL)
    plate = nameplate(config, "boot")
    bank = plate.banks[0]
    assert (bank.devices, bank.rated_w, bank.idle_w, bank.steps_w, bank.fail_safe_w) == (4, 12_000, 100, 3_000, 0)
    assert bank.levels[-1].hashrate_ghs == 400_000
    plan = guard_plan(config)
    assert plan.banks[0].j_per_th == 30.0
    assert plan.banks[0].least_run_w == 100 + 2_975
    assert config.mqtt.identifier == "wattshift-agent-north"


def test_an_hpc_bank_keeps_its_running_jobs_by_default() -> None:
    plate = nameplate(load_config(SAMPLE), "boot")
    gpu = next(bank for bank in plate.banks if bank.id == "gpu")
    assert (gpu.workload, gpu.fail_safe_w, gpu.rated_w) == (Workload.HPC, 920_000, 920_000)


def test_relative_paths_are_relative_to_the_file() -> None:
    assert parse('state_file = "state.json"\n' + MINIMAL).state_file == Path("/etc/wattshift/state.json")


def test_a_device_that_differs_counts_with_its_own_power() -> None:
    text = MINIMAL.replace('["10.1.0.10-10.1.0.13"]', '["10.1.0.10", {host = "10.1.0.11", rated_w = 1_500}]')
    bank = nameplate(parse(text), "boot").banks[0]
    assert (bank.rated_w, bank.levels[-1].hashrate_ghs) == (4_500, 150_000)


@pytest.mark.parametrize(
    ("text", "hosts", "first", "last"),
    [
        ("10.1.0.10", 1, Address("10.1.0.10", None), Address("10.1.0.10", None)),
        ("rack-3.example:4029", 1, Address("rack-3.example", 4_029), Address("rack-3.example", 4_029)),
        ("10.1.0.250-10.1.1.3", 10, Address("10.1.0.250", None), Address("10.1.1.3", None)),
        ("10.1.0.10-10.1.0.11:80", 2, Address("10.1.0.10", 80), Address("10.1.0.11", 80)),
        ("127.0.0.1:20001-20500", 500, Address("127.0.0.1", 20_001), Address("127.0.0.1", 20_500)),
    ],
)
def test_addresses_and_ranges(text: str, hosts: int, first: Address, last: Address) -> None:
    found = parse_addresses(text)
    assert (len(found), found[0], found[-1]) == (hosts, first, last)


WRONG = [
    ("limit_w = 1_000_000", 'limit_w = "much"', r"feeders\.main\.limit_w: .*got 'much'; fix: correct limit_w"),
    ("limit_w = 1_000_000", "", r"feeders\.main\.limit_w: is missing; fix: add limit_w = \.\.\."),
    ("device_idle_w", "device_idel_w", r"banks\.hall-a\.device_idel_w: is not a key here; fix: write device_idle_w"),
    ('feeder = "main"', 'feeder = "mian"', r"banks\.hall-a\.feeder: there is no 'mian'; fix: write 'main'"),
    ("10.1.0.10-10.1.0.13", "10.1.0.13-10.1.0.10", r"banks\.hall-a\.devices\[0\]\.host: .*ends before.*; fix: put"),
    ("10.1.0.10-10.1.0.13", "10.1.0.999", r"devices\[0\]\.host: '10\.1\.0\.999' is no IPv4 address; fix: four numbers"),
    ("10.1.0.10-10.1.0.13", "10.0.0.1-10.9.0.1", r"devices\[0\]\.host: .* has 589825 addresses; fix: at most 65536"),
    ("10.1.0.10-10.1.0.13", "host:99999", r"devices\[0\]\.host: '99999' is no range of ports; fix: 1 to 65535"),
    (
        '["10.1.0.10-10.1.0.13"]',
        '["10.1.0.10", {host = "10.1.0.10"}]',
        r"devices\[1\]\.host: 10\.1\.0\.10 already stands at banks\.hall-a\.devices\[0\]\.host; fix: list each",
    ),
    (
        '["10.1.0.10-10.1.0.13"]',
        '["10.1.0.10", {host = "10.1.0.11", rated_w = 0}]',
        r"banks\.hall-a\.devices\[1\]\.rated_w: .*greater than or equal to 1, got 0",
    ),
    ("device_hashrate_ghs = 100_000", "", r"banks\.hall-a: its efficiency is unknown; fix: give either"),
    (
        "device_idle_w = 25",
        "device_idle_w = 4_000",
        r"banks\.hall-a\.device_idle_w: is above device_rated_w; fix: lower",
    ),
    (
        "device_idle_w = 25",
        "fail_safe_w = 99_000",
        r"hall-a\.fail_safe_w: is above the bank's 12000 W; fix: at most 12000",
    ),
    ('id = "north"', 'id = "North Yard"', r"site\.id: string should match pattern"),
    ("[site]", "[sites]", r"site: is missing; fix: add site = \.\.\. \(and 1 more\)"),
    ("[site]", "[site", r"agent\.toml: is not TOML: .*; fix: correct the place"),
    ('host = "broker"', "", r"mqtt\.host: is missing"),
    ("limit_w = 1_000_000", 'limit_w = 1\nmeter = "m1"', r"feeders\.main\.meter: there is no 'm1'; fix: one of: none"),
    (
        "[banks.hall-a]",
        "[feeders.x]\nlimit_w = 1\n[banks.hall-a]",
        r"feeders\.x\.parent: is missing, as it is for main",
    ),
    (
        "[banks.hall-a]",
        '[feeders.x]\nlimit_w = 1\nparent = "y"\n[feeders.y]\nlimit_w = 1\nparent = "x"\n[banks.hall-a]',
        r"feeders\.x\.parent: the feeder is its own ancestor; fix: lead it up to the main",
    ),
    ("[banks.hall-a]", "[timing]\nstale_ms = 10\n[banks.hall-a]", r"timing\.stale_ms: every reading would be stale"),
    (
        "[banks.hall-a]",
        '[sensors.s]\ndriver = "x"\nhost = "h"\nbank = "hall-a"\n[banks.hall-a]',
        r"banks\.hall-a\.max_inlet_mc: is missing though a sensor watches this bank; fix: give the limit",
    ),
    (
        "[banks.hall-a]",
        '[sensors.s]\ndriver = "x"\nhost = "h"\n[banks.hall-a]',
        r"sensors\.s: it must watch one thing; fix: give bank",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_an_error_names_file_key_and_fix(old: str, new: str, message: str) -> None:
    assert old in MINIMAL
    with pytest.raises(ConfigError) as caught:
        parse(MINIMAL.replace(old, new, 1))
    text = str(caught.value)
    assert text.startswith("agent.toml: ")
    assert "; fix: " in text
    assert re.search(message, text), text
    assert "\n" not in text


DRIVER_WRONG = [
    (
        'driver = "luxos"',
        'driver = "luxor"',
        r"banks\.hall-a\.driver: there is no driver 'luxor'; fix: one of: antminer",
    ),
    ("device_idle_w = 25", "options = {profile = 3}", r"banks\.hall-a\.options\.profile: unknown to this firmware"),
    ("device_idle_w = 25", "options = {min_power_w = 3}", r"banks\.hall-a\.options\.max_power_w: must stand beside"),
]


@pytest.mark.parametrize(("old", "new", "message"), DRIVER_WRONG)
def test_the_daemon_ends_with_2_and_one_message(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(MINIMAL.replace(old, new, 1), encoding="utf-8")
    for arguments in (["--check"], []):
        assert main(["--config", str(path), *arguments]) == 2
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert error.count("\n") == 1
        assert error.startswith("agent.toml: ")


def test_a_file_that_is_not_there_ends_the_daemon_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "/nowhere/agent.toml"]) == 2
    assert "/nowhere/agent.toml: cannot be read: No such file or directory; fix: " in capsys.readouterr().err


def test_levels_below_rated_need_power_limits() -> None:
    table: dict[str, Any] = {
        "feeder": "main",
        "driver": "luxos",
        "devices": ["10.1.0.10"],
        "device_rated_w": 3_000,
        "device_levels": [{"power_w": 2_000, "hashrate_ghs": 1}, {"power_w": 3_000, "hashrate_ghs": 2}],
    }
    with pytest.raises(ValueError, match='below_full = "limit"'):
        HashBankSettings.model_validate(table)
    assert HashBankSettings.model_validate(table | {"below_full": "limit"}).levels()[0].power_w == 2_000
