"""`wattshift backtest` as its user runs it: on the shipped sample, on files of his own, and with what he gets wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli import backtest as command
from cli.backtest import HELP
from cli.main import app, main
from tests.sim.backtest.test_sitefile import SITE

EXAMPLES = Path(__file__).parents[2] / "examples"
HYBRID = str(EXAMPLES / "hybrid-40mw.toml")
SIMPLE = ["--policy", "always-on", "--policy", "break-even", "--no-bound"]
DAY = ["--start", "2023-08-17", "--end", "2023-08-18"]
BOOKS = {
    "profit_usd", "energy_cost_usd", "hash_revenue_usd", "hpc_revenue_usd", "resale_usd", "penalties_usd",
    "curtailed_mwh", "starts_per_bank", "jobs_missed", "invariant_violations", "flex_capture", "decision_ms",
}  # fmt: skip


def wattshift(*words: str) -> Result:
    return CliRunner().invoke(app, ["backtest", *words])


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run as the installed command does; exit code 2 and one line to read."""
    monkeypatch.setattr("sys.argv", ["wattshift", "backtest", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr().err
    assert stop.value.code == 2, told
    assert told.startswith("wattshift: ")
    assert told.count("\n") == 1
    return told


def last_json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_the_sample_runs_with_no_file_of_the_user_and_says_the_books_of_each_policy() -> None:
    said = last_json(wattshift("--site", HYBRID, "--json", *DAY, *SIMPLE))
    assert set(said) == {"bound_usd", "bound_gap", "policies"}
    assert list(said["policies"]) == ["always-on", "break-even"]
    for books in said["policies"].values():
        assert set(books) >= BOOKS
        parts = books["hash_revenue_usd"] + books["hpc_revenue_usd"] + books["resale_usd"]
        assert books["profit_usd"] == pytest.approx(parts - books["energy_cost_usd"] - books["penalties_usd"], abs=0.05)
        assert books["invariant_violations"] == 0
        assert books["decision_ms"]["p50"] > 0
    # 2023-08-17: real-time prices up to 4,900 USD/MWh in the evening.
    assert said["policies"]["break-even"]["profit_usd"] > said["policies"]["always-on"]["profit_usd"] + 100_000


def test_the_table_for_people_names_every_policy_and_money() -> None:
    result = wattshift("--site", HYBRID, *DAY, *SIMPLE)
    assert result.exit_code == 0, result.output
    assert "always-on" in result.stdout
    assert "thousands of USD" in result.stdout


def test_files_of_the_user_and_a_late_price(tmp_path: Path) -> None:
    site, rt = tmp_path / "site.toml", tmp_path / "rt.csv"
    site.write_text(SITE)
    prices = [20.0] * 10 + [9_000.0] * 4 + [-35.0] * 10
    rows = "".join(f"2023-06-01T{h:02}:00Z,{usd}\n" for h, usd in enumerate(prices))
    rt.write_text("interval_start_utc,rt_usd_per_mwh\n" + rows)
    words = ["--site", str(site), "--rt", str(rt), "--hashprice", "70", "--jobs", "none", "--json", *SIMPLE]
    soon, late = (last_json(wattshift(*words, "--price-lag", lag))["policies"]["break-even"] for lag in ("0", "1"))
    assert late["profit_usd"] < soon["profit_usd"] - 10_000


def test_a_fleet_says_its_sites_besides() -> None:
    said = last_json(wattshift("--site", str(EXAMPLES / "fleet-5.toml"), "--json", *DAY, *SIMPLE))
    assert len(said["sites"]) == 5
    whole = said["policies"]["break-even"]["profit_usd"]
    parts = [site["policies"]["break-even"]["profit_usd"] for site in said["sites"].values()]
    assert whole == pytest.approx(sum(parts), abs=0.1)
    assert said["policies"]["break-even"]["violations"] == {}


def test_a_report_is_written(tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    result = wattshift("--site", HYBRID, *DAY, *SIMPLE, "--html", str(html))
    assert result.exit_code == 0, result.output
    assert html.read_text().startswith("<!doctype html>")


def test_the_help_names_every_option_and_column_form() -> None:
    told = re.sub(r"\x1b\[[0-9;]*m", "", wattshift("--help").stdout)
    for option in ("site", "rt", "da", "btc", "weather", "load", "jobs", "signals", "start", "end", "policy", "json"):
        assert f"--{option}" in told
    for word in ("rt_usd_per_mwh", "lmp_usd_per_mwh", "hour_ending_central", "settlement_point", "Example"):
        assert word in HELP


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--policy", "clever"], "--policy clever: no such policy. Fix: one of always-on"),
        (["--start", "soon"], "--start soon: no ISO 8601 time. Fix:"),
        (["--start", "2023-08-20", "--end", "2023-08-19"], "is empty. Fix: give an --end after --start"),
        (["--start", "2022-08-20", "--end", "2022-08-21"], "is not in it. Fix: choose a window within it"),
        (["--jobs", "/nowhere/jobs.csv"], "/nowhere/jobs.csv: cannot be read"),
        (["--signals", "/nowhere/signals.csv"], "/nowhere/signals.csv: cannot be read"),
        (["--da", "da.csv"], "--rt is missing. Fix:"),
        (["--rt", "/nowhere/rt.csv"], "/nowhere/rt.csv: cannot be read"),
        (["--html", "/nowhere/report.html"], "/nowhere is no folder. Fix: create it"),
    ],
)
def test_a_bad_option_is_one_line_with_a_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert told in refused(monkeypatch, capsys, "--site", HYBRID, *words)


def test_a_bad_site_file_is_one_line_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.toml"
    site.write_text(SITE.replace("ths = ", "# ths = "))
    assert "model.s19.ths: is missing. Fix: add ths" in refused(monkeypatch, capsys, "--site", str(site))
    assert "cannot be read" in refused(monkeypatch, capsys, "--site", str(tmp_path / "none.toml"))


def test_ctrl_c_ends_it_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "backtest", interrupted)
    result = wattshift("--site", HYBRID, *DAY, *SIMPLE)
    assert result.exit_code == 130
    assert "stopped" in result.stderr
