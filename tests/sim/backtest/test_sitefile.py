"""A site file is checked whole: every error names the file, the key and what to do."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sim.backtest.sitefile import SiteFileError, load

EXAMPLES = Path(__file__).parents[3] / "examples"
SITE = """
[site]
id = "one"
cap_mw = 10.0
[[feeder]]
id = "main"
limit_mw = 12.0
[[feeder]]
id = "west"
parent = "main"
limit_mw = 6.0
[[hall]]
id = "air"
cooling_mw = [[20, 9.0], [40, 6.0]]
pue = [[20, 1.05], [40, 1.10]]
[model.s19]
watts = [2000, 2400, 2800, 3000]
ths = [80, 91, 100, 104]
[[bank]]
id = "a"
feeder = "west"
hall = "air"
model = "s19"
machines = 1000
[[partition]]
id = "gpu"
feeder = "west"
hall = "air"
nodes = 10
node_idle_w = 1000
node_full_w = 6000
[[jobs.class]]
name = "all"
to = "gpu"
usd_per_node_h = 4.0
miss_usd_per_node_h = 4.0
slack = 2.0
"""


def test_a_site_file_becomes_megawatts_and_hours(tmp_path: Path) -> None:
    plan = load(_written(tmp_path, SITE))
    (site,) = plan.fleet.sites
    assert plan.fleet.cap_mw is None
    bank = site.banks[0]
    assert bank.level_mw == (2.0, 2.4, 2.8, 3.0)
    assert bank.level_phs == (80.0, 91.0, 100.0, 104.0)
    assert (bank.feeder, bank.hall, bank.min_up_h, bank.boot_h) == (1, 0, 0.25, 5 / 60)
    assert site.feeders[1].parent == 0
    assert site.partitions[0].node_idle_mw == 0.001
    assert plan.plans[0].node_full_mw == (0.006,)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("cap_mw = 10.0", "cap_mv = 10.0", "site.cap_mw: is missing"),
        ("cap_mw = 10.0", "cap_mw = 10.0\ncap_mv = 3", "site.cap_mv: is not a key. Fix: remove it, or correct"),
        ("cap_mw = 10.0", "cap_mw = -1", "site.cap_mw: Input should be greater than 0"),
        ("cap_mw = 10.0", "cap_mw = nan", "site.cap_mw"),
        ("cap_mw = 10.0", 'cap_mw = 10.0\ntimezone = "Texas"', "site.timezone: 'Texas' is no IANA time zone"),
        ('parent = "main"', 'parent = "west"', "feeder.1.parent: 'west' hangs in a circle"),
        ('parent = "main"', "", "feeder: exactly one has no parent"),
        ('parent = "main"', 'parent = "mian"', "feeder.1.parent: 'mian' is unknown; did you mean 'main'?"),
        ('feeder = "west"\nhall = "air"\nmodel', 'feeder = "east"\nhall = "air"\nmodel', "bank.0.feeder: 'east'"),
        ('hall = "air"\nmodel', 'hall = "ice"\nmodel', "bank.0.hall: 'ice' is unknown; known: air"),
        ('model = "s19"', 'model = "s20"', "bank.0.model: 's20' is no model with a power curve; known: s19"),
        ('model = "s19"\n', "", "bank.0.model: is missing. Fix: add model"),
        ("ths = [80, 91, 100, 104]", "", "model.s19.ths: is missing. Fix: add ths"),
        ("[80, 91, 100, 104]", "[80, 91, 100]", "model.s19.ths: List should have at least 4 items"),
        ("[80, 91, 100, 104]", "[80, 90, 100, 111]", "model.s19.ths: not concave"),
        ("[2000, 2400, 2800, 3000]", "[2000, 2400, 2400, 3000]", "model.s19.watts: values must ascend"),
        ("[[20, 1.05], [40, 1.10]]", "[[20, 0.9]]", "hall.0.pue: below 1"),
        ("[[20, 9.0], [40, 6.0]]", "[[40, 9.0], [20, 6.0]]", "hall.0.cooling_mw: values must ascend"),
        ("node_full_w = 6000", "node_full_w = 900", "partition.0.node_full_w: not above node_idle_w"),
        ('to = "gpu"', 'to = "cpu"', "jobs.class.0.to: 'cpu' is unknown; did you mean 'gpu'?"),
        ("slack = 2.0", "slack = 0.5", "jobs.class.0.slack"),
        ("slack = 2.0", "slack = 2.0\nslak = 1", "jobs.class.0.slak: is not a key. Fix: remove it, or correct"),
        ('id = "west"', 'id = "main"', "feeder.1.id: 'main' is used twice"),
        ("[site]", "[site", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_key_and_a_fix(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert SITE.count(old) >= 1
    path = _written(tmp_path, SITE.replace(old, new, 1))
    with pytest.raises(SiteFileError) as error:
        load(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)
    assert "Fix: " in str(error.value)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SiteFileError, match=r"none\.toml: cannot be read"):
        load(tmp_path / "none.toml")


def test_limits_that_contradict_each_other_are_said_and_zero_banks_are_lawful(tmp_path: Path) -> None:
    firm = (
        '[[firm_load]]\nid = "colo"\nfeeder = "main"\nhall = "air"\nmw = 11.0\nusd_per_mwh = 1\nshed_usd_per_mwh = 1\n'
    )
    tight = SITE.replace("limit_mw = 6.0", "limit_mw = 1.5") + firm
    said = load(_written(tmp_path, tight)).plans[0].said
    assert any("exceed the cap of 10.00 MW" in line for line in said)
    assert any("bank a cannot run" in line for line in said)
    tree = SITE[: SITE.index("[[bank]]")] + SITE[SITE.index("[[partition]]") :]
    assert load(_written(tmp_path, tree)).fleet.sites[0].banks == ()


def test_a_fleet_takes_whole_sites_and_other_files(tmp_path: Path) -> None:
    _written(tmp_path, SITE)
    tables = re.sub(r"(?m)^(\[+)", r"\1member.", SITE.replace("one", "two"))
    path = tmp_path / "fleet.toml"
    path.write_text(f'[fleet]\nid = "pair"\ncap_mw = 15.0\n[[member]]\nfile = "site.toml"\n[[member]]\n{tables}')
    plan = load(path)
    assert [site.id for site in plan.fleet.sites] == ["one", "two"]
    assert plan.fleet.cap_mw == 15.0
    path.write_text('[fleet]\nid = "pair"\n[[member]]\nfile = "site.toml"\n[[member]]\nfile = "site.toml"\n')
    with pytest.raises(SiteFileError, match="same id"):
        load(path)
    path.write_text('[fleet]\nid = "pair"\n')
    with pytest.raises(SiteFileError, match="member: is missing"):
        load(path)


def test_the_shipped_examples_load_and_their_caps_bind() -> None:
    hybrid = load(EXAMPLES / "hybrid-40mw.toml").fleet.sites[0]
    plates = sum(bank.level_mw[-1] for bank in hybrid.banks) + sum(firm.mw for firm in hybrid.firm_loads)
    tree = tomllib.loads((EXAMPLES / "hybrid-40mw.toml").read_text())
    plates += sum(part["nodes"] * part["node_full_w"] / 1e6 for part in tree["partition"])
    assert plates > hybrid.cap_mw
    fleet = load(EXAMPLES / "fleet-5.toml").fleet
    assert len(fleet.sites) == 5
    assert fleet.cap_mw is not None
    assert fleet.cap_mw < sum(site.cap_mw for site in fleet.sites)


def _written(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path
