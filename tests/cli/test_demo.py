"""The demo as its user runs it: a process of its own, with broker, devices and API on real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

WATTSHIFT = [sys.executable, "-m", "cli.main"]


class Running(NamedTuple):
    """A demo under way."""

    process: subprocess.Popen[str]
    env: dict[str, str]
    journal: Path
    audit: Path
    prometheus: Path


def wattshift(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WATTSHIFT, *words], capture_output=True, text=True, timeout=90, env=env or dict(os.environ), check=False
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    command = [*WATTSHIFT, "demo", "--json", "--miners", "20", "--speed", "10", "--for", "10m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        access = next(event for event in _events(process) if event.get("event") == "ready")["data"]
        next(event for event in _events(process) if event.get("event") == "confirmed")
        env = os.environ | {"WATTSHIFT_URL": access["url"], "WATTSHIFT_TOKEN_FILE": access["token_file"]}
        yield Running(process, env, *(Path(access[name]) for name in ("journal", "audit", "prometheus")))
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=30)
            summary = json.loads(rest.strip().splitlines()[-1])["summary"]
            assert summary["invariant_violations"] == 0, summary["violations"]
            assert process.returncode == 0


def _events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def test_the_demo_ends_with_a_summary_confirmed_receipts_and_no_violation() -> None:
    ended = wattshift(
        "demo", "--for", "15s", "--speed", "10", "--json", "--miners", "20", "--sites", "1", "--seed", "3"
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout[-2_000:]
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    summary = lines[-1]["summary"]
    assert summary["invariant_violations"] == 0
    assert summary["receipts"]["confirmed"] > 0
    assert summary["decisions"] > 0
    assert summary["orders"] > 0
    assert summary["hash_mwh"] > 0
    assert summary["always_on_usd"] != 0
    named = {"decisions", "orders", "receipts", "invariant_violations", "hash_mwh", "hpc_mwh", "curtailed_mwh"}
    assert named | {"profit_usd", "always_on_usd"} <= summary.keys()
    assert summary["receipts"].keys() == {"confirmed", "partial", "refused", "unreachable"}
    told = {line["event"] for line in lines[:-1]}
    assert {"broker", "ready", "price", "decision", "confirmed"} <= told


def test_ctrl_c_at_the_terminal_ends_it_cleanly() -> None:
    """The terminal sends it to the whole group, the broker's process not being one of it."""
    command = [*WATTSHIFT, "demo", "--miners", "9", "--sites", "1", "--speed", "10"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "is confirmed" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    told = "".join(said) + rest
    assert process.returncode == 0, told
    assert "The demo ends" in rest
    assert "No invariant was violated." in rest
    assert "Traceback" not in told
    assert "lost after" not in rest, "the broker outlives its clients"


def test_status_shows_both_sites(running: Running) -> None:
    answer = wattshift("status", "--json", env=running.env)
    sites = {each["site"]: each for each in json.loads(answer.stdout)["sites"]}
    assert sorted(sites) == ["brazos", "pecos"]
    assert all(each["online"] for each in sites.values())
    assert all(each["metered_w"] > 0 for each in sites.values())


def test_explain_gives_one_sentence_and_a_reason_for_every_bank(running: Running) -> None:
    answer = wattshift("explain", "brazos", env=running.env)
    assert answer.returncode == 0, answer.stderr
    assert "site at" in answer.stdout
    for bank in ("gpu", "hall-a", "hall-b", "hydro"):
        assert bank in answer.stdout
    assert "draws" not in answer.stdout, "a decision comes before what is drawn"
    now = wattshift("status", "brazos", env=running.env)
    assert "draws" in now.stdout


def test_an_override_is_imposed_listed_and_lifted(running: Running) -> None:
    made = wattshift(
        "override", "create", "brazos", "lockout", "--bank", "hydro", "--reason", "work on the loop", "--for", "5",
        "--json", env=running.env,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    hydro = next(bank for bank in answer["decision"]["banks"] if bank["bank"] == "hydro")
    assert hydro["reason"] == "lockout"
    key = answer["override"]["id"]
    assert key in wattshift("override", "list", env=running.env).stdout
    assert wattshift("override", "lift", key, env=running.env).returncode == 0
    assert key not in wattshift("override", "list", env=running.env).stdout


def test_a_signal_makes_an_obligation(running: Running) -> None:
    made = wattshift("signal", "pecos", "--reduce-mw", "0.005", "--for", "3", "--json", env=running.env)
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    assert answer["obligation"]["target_w"] == answer["baseline"]["power_w"] - 5_000


def test_what_is_done_through_the_api_stands_in_an_audit_log_that_verifies(running: Running) -> None:
    words = ("override", "create", "brazos", "hold", "--for", "1", "--reason", "look", "--yes", "--no-wait")
    done = wattshift(*words, env=running.env)
    assert done.returncode == 0, done.stderr
    answer = wattshift("audit", "verify", str(running.audit), "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["lines"] >= 1
    assert "POST /v1/overrides" in running.audit.read_text()


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on this machine: install the package prometheus"
)
def test_its_prometheus_configuration_with_the_alert_rules_is_one(running: Running) -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(running.prometheus)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_the_journal_replays_byte_for_byte_while_it_is_written(running: Running) -> None:
    answer = wattshift("replay", str(running.journal), "--json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    result = json.loads(answer.stdout)
    assert result["first"] is None
    assert result["sites"] > 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["status", "--url", "http://127.0.0.1:9"], 6, "no answer from"),
        (["override", "create", "nowhere", "cap", "--mw", "1", "--reason", "x"], 2, "site"),
        (["override", "create", "brazos", "cap", "--reason", "x"], 2, "value_w"),
        (["override", "create", "brazos", "cap", "--mw", "-1", "--reason", "x"], 2, "--mw"),
        (["signal", "brazos"], 2, "--reduce-mw"),
        (["signal", "brazos", "--target-mw", "0.1", "--at", "yesterday"], 2, "starts_at"),
        (["replay", "no-such-file"], 2, "no such journal"),
        (["demo", "--for", "soon"], 2, "--for"),
        (["demo", "--start", "2024-01-01"], 2, "August 2023"),
        (["demo", "--sites", "0"], 2, "--sites"),
    ],
)
def test_a_mistake_gets_one_clear_message(running: Running, words: list[str], code: int, told: str) -> None:
    answer = wattshift(*words, env=running.env)
    assert answer.returncode == code, answer.stdout + answer.stderr
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_wrong_token_is_refused(running: Running, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 32, encoding="utf-8")
    answer = wattshift("status", "--token-file", str(token), env=running.env)
    assert answer.returncode == 4, answer.stderr
