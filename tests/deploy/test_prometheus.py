"""Every alert fires on what it is for and is quiet otherwise, by promtool itself; every one has its runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import yaml

from agent.config import AgentConfig
from agent.metrics import registry_of
from agent.site import SiteAgent
from agent.state import MemoryStateStore
from contract.bus_mqtt import MqttBus
from contract.clock import SystemClock

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy/prometheus/rules/wattshift.yml"
RUNBOOKS: Final = ROOT / "docs/runbooks.md"

C, A = {"instance": "c:8480", "job": "wattshift-controller"}, {"instance": "a:9481", "job": "wattshift-agent"}
Case = tuple[list[tuple[str, dict[str, str], str]], str, dict[str, str]]
CASES: Final[dict[str, Case]] = {
    # alert: (series, the values each takes every 10 s), when to look, labels expected besides alert and severity
    "WattshiftObligationShort": (
        [("wattshift_site_shortfall_watts", {"site": "n", "kind": "obligation"}, "0 0 5000x60")], "1m", {"site": "n"},
    ),
    "WattshiftObligationUnmet": (
        [
            ("wattshift_site_metered_watts", {"site": "n"}, "103000x60"),
            ("wattshift_site_cap_watts", {"site": "n"}, "100000x60"),
            ("wattshift_site_obligation_open", {"site": "n"}, "1x60"),
        ],
        "50s",
        {"site": "n"},
    ),
    "WattshiftCapBreach": (
        [
            ("wattshift_site_metered_watts", {"site": "n"}, "103000x60"),
            ("wattshift_site_cap_watts", {"site": "n"}, "100000x60"),
        ],
        "2m",
        {"site": "n"},
    ),
    "WattshiftFeederDerated": (
        [("wattshift_agent_feeder_derate_watts", {"feeder": "row-a"}, "0 9000x60")], "1m", {"feeder": "row-a"},
    ),
    "WattshiftBankNotFollowing": (
        [("wattshift_site_receipt_banks", {"site": "n", "state": "drifted"}, "1x60")], "6m", {"site": "n"},
    ),
    "WattshiftThermalTrip": (
        [("wattshift_agent_bank_interlock", {"bank": "b", "kind": "over_temperature"}, "0 1x60")], "1m",
        {"bank": "b", "kind": "over_temperature"},
    ),
    "WattshiftInterlock": (
        [("wattshift_agent_bank_interlock", {"bank": "b", "kind": "operator"}, "1x60")], "2m",
        {"bank": "b", "kind": "operator"},
    ),
    "WattshiftSiteStale": ([("wattshift_site_report_age_seconds", {"site": "n"}, "0+10x60")], "3m", {"site": "n"}),
    "WattshiftFailSafe": ([("wattshift_agent_mode", {**A, "mode": "fail_safe"}, "1x60")], "3m", {"mode": "fail_safe"}),
    "WattshiftLocalControl": ([("wattshift_agent_mode", {**A, "mode": "local"}, "0 1x60")], "1m", {"mode": "local"}),
    "WattshiftTwoAgents": ([("wattshift_site_boot_conflict", {"site": "n"}, "0 1x60")], "1m", {"site": "n"}),
    "WattshiftSiteFenced": ([("wattshift_site_fenced", {"site": "n"}, "1x60")], "2m", {"site": "n"}),
    "WattshiftGaugeLost": ([("wattshift_agent_gauge_ok", {"gauge": "main"}, "0x60")], "6m", {"gauge": "main"}),
    "WattshiftControllerDown": ([("up", C, "0x60")], "2m", C),
    "WattshiftAgentDown": ([("up", A, "0x60")], "3m", A),
    "WattshiftNoTick": ([("wattshift_controller_ticks_total", C, "7x90")], "7m", C),
    "WattshiftFailover": ([("wattshift_controller_epoch", C, "1 1 2x60")], "1m", C),
    "WattshiftDecideCrash": ([("wattshift_controller_decide_crashes_total", C, "0 0 1x60")], "1m", C),
    "WattshiftDecisionSlow": (
        [
            ("wattshift_controller_decision_seconds_bucket", {**C, "le": "1"}, "0x120"),
            ("wattshift_controller_decision_seconds_bucket", {**C, "le": "2"}, "0+1x120"),
            ("wattshift_controller_decision_seconds_bucket", {**C, "le": "+Inf"}, "0+1x120"),
        ],
        "9m",
        {"instance": "c:8480"},
    ),
    "WattshiftJournalLosing": ([("wattshift_controller_journal_dropped_total", C, "0 0 3x60")], "1m", C),
    "WattshiftJournalBehind": ([("wattshift_controller_journal_queue_rows", C, "6000x60")], "6m", C),
    "WattshiftAuditBroken": ([("wattshift_controller_audit_chain_ok", C, "1 0x60")], "1m", C),
    "WattshiftAuditLosing": ([("wattshift_controller_audit_failures_total", C, "0 0 3x60")], "2m", C),
    "WattshiftAuditUnverified": ([("wattshift_controller_audit_verified_age_seconds", C, "11000x60")], "1m", C),
    "WattshiftPriceStale": ([("wattshift_energy_price_age_seconds", {"feed": "p"}, "1300x60")], "2m", {"feed": "p"}),
    "WattshiftFeedDown": ([("wattshift_feed_ok", {"feed": "p"}, "0x120")], "16m", {"feed": "p"}),
}  # fmt: skip

MORE: Final[list[tuple[str, Case]]] = [
    ("WattshiftAuditBroken", ([("wattshift_controller_audit_entries", C, "900 901 12x60")], "1m", C)),
    ("WattshiftAuditLosing", ([("wattshift_controller_audit_dropped_total", C, "0 0 3x60")], "2m", C)),
]
"""Other ways to fire."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on this machine: install the package prometheus"
)


def alerts() -> dict[str, dict[str, Any]]:
    """The rules file's alerts by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_every_alert_has_a_case_a_severity_and_a_runbook_that_exists() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in RUNBOOKS.read_text().splitlines()
        if line.startswith("#")
    }
    for name, rule in alerts().items():
        assert name in CASES
        assert rule["labels"]["severity"] in ("page", "ticket", "info")
        url = rule["annotations"]["runbook_url"]
        assert url == '{{ or (index $externalLabels "wattshift_url") "http://127.0.0.1:8480" }}/runbooks/' + name
        assert name.lower() in headings, name


@needs_promtool
@pytest.mark.parametrize(
    ("labels", "base"),
    [({"wattshift_url": "https://watts.example"}, "https://watts.example"), ({}, "http://127.0.0.1:8480")],
)
def test_a_runbook_is_linked_where_the_external_label_says_or_else_on_this_host(
    labels: dict[str, str], base: str, tmp_path: Path
) -> None:
    group = {"name": "g", "rules": [alerts()["WattshiftTwoAgents"]]}
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"groups": [group]}))
    fired = {
        "exp_labels": {"site": "n", "severity": "page"},
        "exp_annotations": {
            "summary": "Two agents speak for n",
            "runbook_url": f"{base}/runbooks/WattshiftTwoAgents",
        },
    }
    test = {
        "interval": "10s",
        "external_labels": labels,
        "input_series": [{"series": 'wattshift_site_boot_conflict{site="n"}', "values": "1x10"}],
        "alert_rule_test": [{"alertname": "WattshiftTwoAgents", "eval_time": "1m", "exp_alerts": [fired]}],
    }
    (tmp_path / "t.yml").write_text(yaml.safe_dump({"rule_files": ["own.yml"], "tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", "t.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(("name", "case"), [*sorted(CASES.items()), *MORE])
def test_an_alert_fires_on_what_it_is_for_and_is_quiet_otherwise(name: str, case: Case, tmp_path: Path) -> None:
    series, at, labels = case
    rule = alerts()[name]
    quiet = {"alertname": name, "eval_time": at, "exp_alerts": []}
    fired = {"exp_labels": {**labels, "severity": rule["labels"]["severity"]}}
    firing = [{"series": _series(metric, tags), "values": values} for metric, tags, values in series]
    calm = [{"series": _series(metric, tags), "values": _calm(metric)} for metric, tags, _ in series]
    own = {"rule_files": ["own.yml"], "evaluation_interval": "10s"}
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [_bare(rule)]}]}))
    loud_test = {"interval": "10s", "input_series": firing,
                 "alert_rule_test": [{**quiet, "exp_alerts": [_with_series_labels(fired, name, series)]}]}  # fmt: skip
    calm_test = {"interval": "10s", "input_series": calm, "alert_rule_test": [quiet]}
    (tmp_path / "t.yml").write_text(yaml.safe_dump({**own, "tests": [loud_test, calm_test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", "t.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_the_agent_that_an_alert_names_is_one_it_has_with_that_label() -> None:
    """What is watched of the controller is asked of it by a real Prometheus in test_grafana."""
    bank = {
        "feeder": "main", "driver": "luxos", "devices": ["127.0.0.1:9"], "device_rated_w": 5, "device_hashrate_ghs": 1,
    }  # fmt: skip
    config = AgentConfig.model_validate(
        {"site": {"id": "n"}, "mqtt": {"host": "x"}, "feeders": {"main": {"limit_w": 10}}, "banks": {"a": bank}}
    )
    bus = MqttBus(config.mqtt.model_copy(update={"identifier": "n"}), Random(1))
    agent = SiteAgent(config, bus=bus, clock=SystemClock(), rng=Random(1), state=MemoryStateStore())
    has = {family.name: getattr(family, "_labelnames", ()) for family in registry_of(agent).collect()}
    named = [
        each for rule in alerts().values() for each in re.findall(r"(wattshift_agent_\w+)(?:\{(\w+))?", rule["expr"])
    ]
    assert len(named) >= 6
    for name, label in named:
        assert name in has
        assert not label or label in has[name]


@needs_promtool
def test_the_configuration_and_the_rules_are_what_prometheus_takes() -> None:
    for kind, path in (("config", RULES.parent.parent / "prometheus.yml"), ("rules", RULES)):
        done = subprocess.run(
            ["promtool", "check", kind, str(path)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    shutil.which("amtool") is None, reason="no amtool on this machine: install the package prometheus-alertmanager"
)
def test_alertmanager_takes_its_configuration_and_pages_go_to_the_pager() -> None:
    path = ROOT / "deploy/alertmanager/alertmanager.yml"
    done = subprocess.run(
        ["amtool", "check-config", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for severity, receiver in (("page", "pager"), ("ticket", "tickets"), ("info", "log")):
        routed = subprocess.run(
            ["amtool", "config", "routes", "test", f"--config.file={path}", f"severity={severity}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert routed.stdout.strip() == receiver


def _series(metric: str, tags: dict[str, str]) -> str:
    return metric + "{" + ",".join(f'{key}="{value}"' for key, value in tags.items()) + "}"


def _calm(metric: str) -> str:
    """The same series when all is well."""
    if metric == "up" or metric.endswith("_ok"):
        return "1x120"
    if metric.endswith(("_ticks_total", "_bucket")):
        return "0+10x120"
    return "1x120" if metric.endswith(("_epoch", "_cap_watts")) else "0x120"


def _bare(rule: dict[str, Any]) -> dict[str, Any]:
    """The rule without its words, which promtool would compare too."""
    return {key: value for key, value in rule.items() if key != "annotations"}


def _with_series_labels(
    fired: dict[str, Any], name: str, series: list[tuple[str, dict[str, str], str]]
) -> dict[str, Any]:
    """The labels an alert carries: of its series, but where the expression aggregates them away."""
    aggregated = any(word in alerts()[name]["expr"] for word in ("by (", "sum(", "max("))
    own = {} if aggregated else series[0][1]
    return {"exp_labels": {**own, **fired["exp_labels"]}}
