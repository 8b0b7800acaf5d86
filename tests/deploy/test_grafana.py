"""The dashboards are what the generator makes, every panel is complete, and every query gets an answer from a real
Prometheus that scrapes the real daemons of a running demo. No Grafana server is asked: none is at hand."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
BOARDS: Final = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
VARIABLES: Final = {"$site": ".*", "$__rate_interval": "30s"}
QUIET: Final = {"Shortfalls": "nothing falls short in the demo", "Feeders": "reported where a feeder is metered"}
"""Panels that may be empty when all is well."""
WAIT_S: Final = 90.0

needs_sdk = pytest.mark.skipif(
    importlib.util.find_spec("grafana_foundation_sdk") is None,
    reason="no grafana-foundation-sdk: install the dev extra",
)


def panels(board: Path) -> list[dict[str, Any]]:
    """All panels but rows."""
    return [panel for panel in json.loads(board.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str, str]]:
    """(dashboard, panel, expression with the variables filled in)."""
    out = []
    for board in BOARDS:
        for panel in panels(board):
            for target in panel["targets"]:
                expr = target["expr"]
                for name, value in VARIABLES.items():
                    expr = expr.replace(name, value)
                out.append((board.stem, panel["title"], expr))
    return out


@needs_sdk
def test_what_is_committed_is_what_the_generator_makes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy/grafana/generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_panel_says_what_it_shows_in_which_unit_from_which_source_and_none_overlap() -> None:
    assert [board.stem for board in BOARDS] == [
        f"wattshift-{name}" for name in ("controller", "curtailment", "fleet", "hpc", "site")
    ]
    for board in BOARDS:
        tree = json.loads(board.read_text())
        cells: set[tuple[int, int]] = set()
        ids = [panel["id"] for panel in tree["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in tree["panels"]:
            at = panel["gridPos"]
            own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not own & cells, (board.stem, panel["title"])
            assert at["x"] + at["w"] <= 24
            cells |= own
        for panel in panels(board):
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["datasource"]["uid"] == "$datasource"
            assert all(target["datasource"]["uid"] == "$datasource" for target in panel["targets"])


def test_every_expression_parses() -> None:
    parser = pytest.importorskip("promql_parser", reason="no promql-parser: install the dev extra")
    for board, panel, expr in queries():
        try:
            parser.parse(expr)
        except ValueError as error:
            pytest.fail(f"{board}, {panel}: {expr}: {error}")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base address of a Prometheus that scrapes a demo under way, with a curtailment open."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on this machine: install the package prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    command = [sys.executable, "-m", "cli.main", "demo", "--json", "--miners", "20", "--speed", "10", "--for", "10m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        access = next(event["data"] for event in map(json.loads, demo.stdout) if event.get("event") == "ready")
        port = _free_port()
        targets = [access["url"], *access.get("agents", [])]
        config = folder / "prometheus.yml"
        config.write_text(json.dumps(_config(targets, access["token_file"])))
        server = subprocess.Popen(
            [
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", "--log.level=error", "--enable-feature=exemplar-storage",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        env = os.environ | {"WATTSHIFT_URL": access["url"], "WATTSHIFT_TOKEN_FILE": access["token_file"]}
        try:
            _curtail(env)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=20)
            demo.send_signal(signal.SIGINT)
            demo.communicate(timeout=40)


def test_every_query_gets_series_from_the_real_daemons(prometheus: str) -> None:
    left = {(panel, expr) for _, panel, expr in queries() if panel not in QUIET}
    until = time.monotonic() + WAIT_S
    while left and time.monotonic() < until:
        left = {(panel, expr) for panel, expr in left if not _ask(prometheus, expr)}
        time.sleep(1.0)
    assert not left, f"no series within {WAIT_S:.0f} s"


def test_an_exemplar_names_the_order_behind_a_latency(prometheus: str) -> None:
    """Prometheus asks for OpenMetrics by itself, and keeps exemplars with --enable-feature=exemplar-storage."""
    until, query = time.monotonic() + WAIT_S, "wattshift_controller_signal_to_order_seconds_bucket"
    path = "/api/v1/query_exemplars?" + urllib.parse.urlencode(
        {"query": query, "start": time.time() - 600, "end": time.time() + 600}
    )
    while not (found := _get(prometheus, path)):
        assert time.monotonic() < until
        time.sleep(1.0)
    labels = found[0]["exemplars"][0]["labels"]
    assert set(labels) == {"decision_id", "order"}


RARE: Final = {"wattshift_site_shortfall_watts"}
"""What only a site in want of something has."""


def test_every_metric_that_an_alert_names_is_one_that_the_real_controller_has(prometheus: str) -> None:
    """promtool shows that a rule fires on the series it is given; this, that there are such series. The agents of the
    demo are not scraped: for theirs see test_prometheus."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules/wattshift.yml").read_text())["groups"]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    found = [each for expr in rules for each in re.findall(r"(wattshift_\w+)(?:\{(\w+))?", expr)]
    names: dict[str, str] = dict(sorted(found))
    assert len(names) > 18
    left = {name for name in names if not name.startswith("wattshift_agent_")} - RARE
    until = time.monotonic() + WAIT_S
    while left and time.monotonic() < until:
        left = {name for name in left if not any(_has(each, names[name]) for each in _ask(prometheus, name))}
        time.sleep(0.5)
    assert not left


def _has(series: Any, label: str) -> bool:
    return not label or label in series["metric"]


def _curtail(env: dict[str, str]) -> None:
    """Signal a curtailment, once the site has been heard long enough for a baseline."""
    words = [sys.executable, "-m", "cli.main", "signal", "pecos", "--reduce-mw", "0.005", "--for", "60"]
    until = time.monotonic() + WAIT_S
    while (done := subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)).returncode:
        assert time.monotonic() < until, done.stderr
        time.sleep(1.0)


def _ask(base: str, expr: str) -> list[Any]:
    found = _get(base, "/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
    result: list[Any] = found["result"] if found else []
    return result


def _get(base: str, path: str) -> Any:
    """The data of an answer; None where there is none yet."""
    try:
        with urllib.request.urlopen(base + path, timeout=5) as got:  # noqa: S310  http, loopback
            answer: dict[str, Any] = json.load(got)
    except OSError:
        return None
    assert answer["status"] == "success", answer
    return answer["data"]


def _config(urls: list[str], token_file: str) -> dict[str, Any]:
    """As deploy/prometheus/prometheus.yml, at a pace for tests."""
    hosts = [re.sub(r"^http://|/$", "", url) for url in urls]
    jobs = [{"job_name": "wattshift-controller", "authorization": {"credentials_file": token_file}}]
    scrapes = [{**jobs[0], "static_configs": [{"targets": hosts[:1]}]}]
    if hosts[1:]:
        scrapes.append({"job_name": "wattshift-agent", "static_configs": [{"targets": hosts[1:]}]})
    return {"global": {"scrape_interval": "2s", "scrape_timeout": "2s"}, "scrape_configs": scrapes}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
