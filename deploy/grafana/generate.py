"""The dashboards, as code: `generate.py --write` rewrites dashboards/*.json, `--check` tells what has drifted.

Every panel says what it shows, has a unit and names its data source by variable. Verified: JSON by this SDK's types,
every expression parsed, every query run against a real Prometheus that scrapes the real daemons
(tests/deploy/test_grafana.py). Never loaded in a Grafana server: none could be had where this was built.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DashboardLink, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

FOLDER: Final = Path(__file__).parent / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="$datasource")
WIDTH: Final = 24
URL: Final = "http://127.0.0.1:8480"
"""Where the controller is, unless said otherwise."""
SITE: Final = 'site=~"$site"'


@dataclass(frozen=True, slots=True)
class Q:
    """One query of a panel and how its series are named."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Graph:
    """A panel over time."""

    title: str
    about: str
    unit: str
    queries: tuple[Q, ...]
    width: int = 12
    stacked: bool = False
    steps: bool = False
    dashed: tuple[str, ...] = ()
    """Names of series drawn as a dashed line on top of a stack: caps and limits."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure, now. `warn` and `bad` colour it from there on; reversed where low is bad."""

    title: str
    about: str
    unit: str
    query: Q
    warn: float | None = None
    bad: float | None = None
    width: int = 4


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    about: str
    rows: tuple[tuple[str, tuple[Graph | Tile, ...]], ...]
    by_site: bool = True
    tags: tuple[str, ...] = field(default=("wattshift",))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit status 1 where committed files differ from what is generated."""
    parser = argparse.ArgumentParser(prog="deploy/grafana/generate.py", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="rewrite deploy/grafana/dashboards")
    what.add_argument("--check", action="store_true", help="say what differs")
    parser.add_argument("--url", default=URL, help="where people reach the controller: dashboards link there")
    options = parser.parse_args(argv)
    made = {f"{board.uid}.json": render(board, options.url.rstrip("/")) for board in BOARDS}
    if options.write:
        FOLDER.mkdir(exist_ok=True)
        for name, text in made.items():
            (FOLDER / name).write_text(text, encoding="utf-8")
        return 0
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    for name in sorted(made.keys() | there.keys()):
        if made.get(name) != there.get(name):
            sys.stderr.write(f"{name} is not what generate.py makes; run: python deploy/grafana/generate.py --write\n")
    return int(made != there)


def render(board: Board, url: str = URL) -> str:
    """The dashboard's JSON, with its keys sorted. Links to console and runbooks begin with `url`."""
    made = (
        Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(list(board.tags))
        .refresh("10s")
        .time("now-3h", "now")
        .timezone("browser")
        .editable()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .link(_link("Wattshift dashboards", DashboardLinkType.DASHBOARDS, tags=["wattshift"]))
        .link(_link("Runbooks", DashboardLinkType.LINK, url="${wattshift_url}/runbooks"))
        .link(_link("Console", DashboardLinkType.LINK, url="${wattshift_url}/"))
        .with_variable(dashboard.ConstantVariable("wattshift_url").value(url))
    )
    if board.by_site:
        made = made.with_variable(
            QueryVariable("site")
            .label("Site")
            .datasource(SOURCE)
            .query("label_values(wattshift_site_online, site)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    for heading, panels in board.rows:
        made = made.with_row(Row(heading))
        for panel in panels:
            made = made.with_panel(_graph(panel) if isinstance(panel, Graph) else _tile(panel))
    tree = json.loads(JSONEncoder(sort_keys=True, indent=2).encode(made.build()))
    _lay_out(tree)
    return json.dumps(tree, sort_keys=True, indent=2) + "\n"


def _graph(panel: Graph) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.about)
        .datasource(SOURCE)
        .unit(panel.unit)
        .height(8)
        .span(panel.width)
        .legend(legend)
        .draw_style(GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(40 if panel.stacked else 0)
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL if panel.stacked else StackingMode.NONE))
    )
    if panel.unit in ("watt", "percentunit"):
        made = made.axis_soft_min(0)
    if panel.steps:
        made = made.line_interpolation(LineInterpolation.STEP_AFTER)
    for name in panel.dashed:
        made = made.override_by_name(
            name,
            [
                DynamicConfigValue("custom.stacking", {"mode": "none"}),
                DynamicConfigValue("custom.fillOpacity", 0),
                DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
            ],
        )
    for place, query in enumerate(panel.queries):
        made = made.with_target(_target(query, place))
    return made


def _tile(panel: Tile) -> stat.Panel:
    steps = [Threshold(value=None, color="text")]
    if panel.warn is not None:
        steps.append(Threshold(value=panel.warn, color="orange"))
    if panel.bad is not None:
        steps.append(Threshold(value=panel.bad, color="red"))
    return (
        stat.Panel()
        .title(panel.title)
        .description(panel.about)
        .datasource(SOURCE)
        .unit(panel.unit)
        .height(4)
        .span(panel.width)
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_target(panel.query, 0))
    )


def _target(query: Q, place: int) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .ref_id(chr(ord("A") + place))
        .datasource(SOURCE)
        .range()
    )


def _link(title: str, kind: DashboardLinkType, *, url: str = "", tags: list[str] | None = None) -> DashboardLink:
    return DashboardLink(title).type(kind).url(url).tags(tags or []).as_dropdown(True).keep_time(True)


def _lay_out(tree: dict[str, Any]) -> None:
    """Number the panels and place them row by row: the SDK leaves the first undone and the second half done."""
    x = y = tallest = 0
    for number, panel in enumerate(tree["panels"], start=1):
        panel["id"] = number
        row = panel["type"] == "row"
        width, height = (WIDTH, 1) if row else (panel["gridPos"]["w"], panel["gridPos"]["h"])
        if row or x + width > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        panel["gridPos"] = {"x": x, "y": y, "w": width, "h": height}
        x, tallest = x + width, max(tallest, height)


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


def _quantiles(metric: str, by: str = "") -> tuple[Q, ...]:
    return tuple(
        Q(f"histogram_quantile({q}, sum by (le{by}) (rate({metric}_bucket[$__rate_interval])))", f"p{round(100 * q)}")
        for q in (0.5, 0.9, 0.99)
    )


FLEET: Final = Board(
    "wattshift-fleet",
    "Wattshift / Fleet",
    "Every site at a glance: what is drawn, by which workload, what it earns, and who needs a look.",
    (
        ("Now", (
            Tile("Metered", "Power at all main meters", "watt", Q("sum(wattshift_site_metered_watts)", "")),
            Tile("Hashing", "Reported power of all hash banks", "watt",
                 Q('sum(wattshift_site_measured_watts{workload="hash"})', "")),
            Tile("HPC", "Reported power of all HPC partitions", "watt",
                 Q('sum(wattshift_site_measured_watts{workload="hpc"})', "")),
            Tile("Margin", "Revenue minus energy of the present dispatch", "currencyUSD",
                 Q("sum(wattshift_site_margin_usd_per_hour)", "")),
            Tile("Curtailments open", "Sites with an obligation in force", "none",
                 Q("sum(wattshift_site_obligation_open)", ""), warn=1),
            Tile("Sites silent", "Sites not heard for a minute", "none",
                 Q("count(wattshift_site_report_age_seconds > 60) or vector(0)", ""), bad=1),
        )),
        ("Power", (
            Graph("Power by workload", "What all banks draw as the agents report it", "watt",
                  (Q("sum by (workload) (wattshift_site_measured_watts)", "{{workload}}"),), stacked=True),
            Graph("Metered power by site", "At each main meter", "watt",
                  (Q("wattshift_site_metered_watts", "{{site}}"),), stacked=True),
            Graph("Energy price and break-even", "The newest price, and where the best and worst hash bank earn 0",
                  "currencyUSD", (
                      Q("wattshift_energy_price_usd_per_mwh", "price {{feed}}"),
                      Q('max(wattshift_site_break_even_usd_per_mwh{bank="best"})', "break-even, best bank"),
                      Q('min(wattshift_site_break_even_usd_per_mwh{bank="worst"})', "break-even, worst bank"),
                  ), steps=True),
            Graph("Margin by site", "Revenue minus energy, USD per hour", "currencyUSD",
                  (Q("wattshift_site_margin_usd_per_hour", "{{site}}"),)),
        )),
        ("Health", (
            Graph("Age of the newest report", "A site that is silent runs into its fail-safe", "s",
                  (Q("wattshift_site_report_age_seconds", "{{site}}"),)),
            Graph("Banks by receipt", "How far orders are proven by the meter", "none",
                  (Q("sum by (state) (wattshift_site_receipt_banks)", "{{state}}"),), stacked=True),
        )),
    ),
    by_site=False,
)  # fmt: skip

ONE_SITE: Final = Board(
    "wattshift-site",
    "Wattshift / Site",
    "One site: power against its cap, feeders, workloads, orders and receipts.",
    (
        ("Power", (
            Graph("Power by workload against the cap", "Reported by the agent; the cap in force at the main meter",
                  "watt", (
                      Q(f"sum by (workload) (wattshift_site_measured_watts{{{SITE}}})", "{{workload}}"),
                      Q(f"sum(wattshift_site_cap_watts{{{SITE}}})", "cap"),
                  ), width=24, stacked=True, dashed=("cap",)),
            Graph("Planned and metered", "What the dispatch expects at the meter, and what it shows", "watt", (
                Q(f"wattshift_site_planned_watts{{{SITE}}}", "{{site}} planned"),
                Q(f"wattshift_site_metered_watts{{{SITE}}}", "{{site}} metered"),
            )),
            Graph("Feeders", "Power of every feeder that is metered or reckoned", "watt",
                  (Q(f"wattshift_feeder_watts{{{SITE}}}", "{{site}} {{feeder}} ({{source}})"),)),
        )),
        ("Money", (
            Graph("Break-even against price", "Above its break-even a bank loses money at each megawatt-hour",
                  "currencyUSD", (
                      Q("wattshift_energy_price_usd_per_mwh", "price {{feed}}"),
                      Q(f"wattshift_site_break_even_usd_per_mwh{{{SITE}}}", "{{site}} {{bank}}"),
                  ), steps=True),
            Graph("Margin", "Revenue minus energy of the dispatch, USD per hour", "currencyUSD",
                  (Q(f"wattshift_site_margin_usd_per_hour{{{SITE}}}", "{{site}}"),)),
        )),
        ("Orders", (
            Graph("Drawn by class of bank", "Each model of machine, as the agents report it", "watt",
                  (Q(f"sum by (workload, class) (wattshift_site_class_measured_watts{{{SITE}}})",
                     "{{workload}} {{class}}"),), stacked=True),
            Graph("Ordered by class of bank", "Each model of machine", "watt",
                  (Q(f"sum by (workload, class) (wattshift_site_class_target_watts{{{SITE}}})",
                     "{{workload}} {{class}}"),), stacked=True),
            Graph("Target by workload", "What was ordered", "watt",
                  (Q(f"sum by (workload) (wattshift_site_target_watts{{{SITE}}})", "{{workload}}"),), stacked=True),
            Graph("Banks by receipt", "How far each is proven", "none",
                  (Q(f"sum by (state) (wattshift_site_receipt_banks{{{SITE}}})", "{{state}}"),), stacked=True),
        )),
    ),
)  # fmt: skip

CURTAILMENT: Final = Board(
    "wattshift-curtailment",
    "Wattshift / Curtailment and M&V",
    "Obligations against the meter: target, baseline, what was shed, how fast, and what fell short.",
    (
        ("Obligations", (
            Tile("Open", "Sites with an obligation in force", "none",
                 Q(f"sum(wattshift_site_obligation_open{{{SITE}}})", ""), warn=1),
            Tile("Short", "What cannot be met, stated before it is due", "watt",
                 Q(f'sum(wattshift_site_shortfall_watts{{kind="obligation",{SITE}}}) or vector(0)', ""), bad=1),
            Tile("Shed now", "Baseline minus meter, where an obligation is open", "watt",
                 Q(f"sum(wattshift_site_obligation_baseline_watts{{{SITE}}} - on (site) wattshift_site_metered_watts)"
                   " or vector(0)", ""), width=8),
        )),
        ("Proof", (
            Graph("Meter against target", "At or below the target while the obligation is open", "watt", (
                Q(f"wattshift_site_metered_watts{{{SITE}}}", "{{site}} metered"),
                Q(f"wattshift_site_obligation_target_watts{{{SITE}}}", "{{site}} target"),
                Q(f"wattshift_site_obligation_baseline_watts{{{SITE}}}", "{{site}} baseline"),
            ), width=24),
            Graph("Signal to order", "From a signal or override taken in to its order on the bus", "s",
                  _quantiles("wattshift_controller_signal_to_order_seconds")),
            Graph("Order to confirmed at the meter", "Until every bank was confirmed by measured power", "s",
                  _quantiles("wattshift_controller_order_confirmed_seconds")),
            Graph("Shortfalls", "Limits and obligations that cannot be met, by kind", "watt",
                  (Q(f"wattshift_site_shortfall_watts{{{SITE}}}", "{{site}} {{kind}}"),)),
            Graph("Receipts", "Changes of a bank's receipt, each second", "ops",
                  (Q(_rate("wattshift_controller_receipts_total", "state"), "{{state}}"),)),
        )),
    ),
)  # fmt: skip

HPC: Final = Board(
    "wattshift-hpc",
    "Wattshift / HPC",
    "Partitions beside the halls: nodes, jobs, power, and what hashing gives way for.",
    (
        ("Work", (
            Graph("Jobs", "By state, firm or flexible", "none",
                  (Q(f"sum by (state, kind) (wattshift_site_hpc_jobs{{{SITE}}})", "{{kind}} {{state}}"),),
                  stacked=True),
            Graph("Nodes", "In service, and busy", "none",
                  (Q(f"sum by (state) (wattshift_site_hpc_nodes{{{SITE}}})", "{{state}}"),)),
        )),
        ("Power", (
            Graph("HPC and hashing", "What each draws", "watt",
                  (Q(f"sum by (workload) (wattshift_site_measured_watts{{{SITE}}})", "{{workload}}"),), stacked=True),
            Graph("HPC: ordered and drawn", "Admission follows power: the order leads, the draw follows", "watt", (
                Q(f'sum(wattshift_site_target_watts{{workload="hpc",{SITE}}})', "ordered"),
                Q(f'sum(wattshift_site_measured_watts{{workload="hpc",{SITE}}})', "drawn"),
            )),
        )),
    ),
)  # fmt: skip

CONTROLLER: Final = Board(
    "wattshift-controller",
    "Wattshift / Controller",
    "The controller itself: how fast it decides, what it takes in, its journal, feeds and links.",
    (
        ("Deciding", (
            Graph("Decision time", "Freeze, decide and publish of one call", "s",
                  _quantiles("wattshift_controller_decision_seconds")),
            Graph("Decisions", "By what triggered them, each second", "ops",
                  (Q(_rate("wattshift_controller_decisions_total", "trigger"), "{{trigger}}"),), stacked=True),
            Graph("Faults of deciding", "Crashes and ticks that came before the last was done", "ops", (
                Q(_rate("wattshift_controller_decide_crashes_total", "instance"), "crashes"),
                Q(_rate("wattshift_controller_tick_overruns_total", "instance"), "overruns"),
            )),
            Graph("Orders", "By what became of them at the bus, each second", "ops",
                  (Q(_rate("wattshift_controller_orders_total", "result"), "{{result}}"),)),
        )),
        ("Taking in", (
            Graph("Reports", "Taken in each second", "ops",
                  (Q(_rate("wattshift_controller_reports_total", "instance"), "{{instance}}"),)),
            Graph("Messages dropped", "Lost in a full queue or a dead link", "ops", (
                Q(_rate("wattshift_controller_bus_receive_dropped_total", "instance"), "received"),
                Q(_rate("wattshift_controller_bus_publish_dropped_total", "instance"), "published"),
            )),
        )),
        ("Keeping", (
            Graph("Journal queue", "Rows that wait for the disk", "none",
                  (Q("wattshift_controller_journal_queue_rows", "{{instance}}"),)),
            Graph("Journal", "Rows written, lost, and writes tried again, each second", "ops", (
                Q(_rate("wattshift_controller_journal_rows_total", "instance"), "written"),
                Q(_rate("wattshift_controller_journal_dropped_total", "instance"), "lost"),
                Q(_rate("wattshift_controller_journal_failures_total", "instance"), "failures"),
            )),
            Graph("Conditions", "1 while each condition of being ready holds", "none", (
                Q("wattshift_controller_bus_ok", "bus"),
                Q("wattshift_controller_journal_ok", "journal"),
                Q("wattshift_controller_loop_ok", "loop"),
                Q("wattshift_controller_leading_ok", "leading"),
                Q("wattshift_feed_ok", "feed {{feed}}"),
            ), steps=True),
            Graph("Queues", "What waits: rows for the journal as a share of what may, audit entries, sites to decide",
                  "none", (
                      Q("wattshift_controller_journal_queue_rows / wattshift_controller_journal_queue_max_rows",
                        "journal, share"),
                      Q("wattshift_controller_audit_queue_entries", "audit entries"),
                      Q("wattshift_controller_undecided_sites", "sites to decide"),
                  )),
            Graph("Journal's disk", "Size of its file with what waits in its log", "bytes",
                  (Q("wattshift_controller_journal_size_bytes", "{{instance}}"),)),
            Graph("Journal commit", "Until the newest batch was durable", "s",
                  (Q("wattshift_controller_journal_commit_seconds", "{{instance}}"),)),
            Graph("Event readers", "Consoles that follow /v1/events, and those that stopped reading", "none", (
                Q("wattshift_controller_event_clients", "following"),
                Q("wattshift_controller_event_clients_dropped_total", "dropped, in all"),
            )),
            Graph("Epoch", "Rises when another controller takes the lead", "none",
                  (Q("wattshift_controller_epoch", "{{instance}}"),), steps=True),
        )),
        ("Audit", (
            Tile("Chain", "1 where the audit log was whole when last walked", "none",
                 Q("min(wattshift_controller_audit_chain_ok)", "")),
            Tile("Entries", "Length of the chain on disk", "none", Q("sum(wattshift_controller_audit_entries)", "")),
            Tile("Verified", "Entries found whole by the last walk", "none",
                 Q("sum(wattshift_controller_audit_verified_entries)", "")),
            Tile("Since verified", "Time since the chain was last walked, hourly when all is well", "s",
                 Q("max(wattshift_controller_audit_verified_age_seconds)", ""), warn=7_200, bad=10_800),
            Tile("Not written", "Writes that failed and were tried again, and entries lost, since the start", "none",
                 Q("sum(wattshift_controller_audit_failures_total + wattshift_controller_audit_dropped_total)", ""),
                 bad=1, width=8),
        )),
    ),
    by_site=False,
)  # fmt: skip

BOARDS: Final = (FLEET, ONE_SITE, CURTAILMENT, HPC, CONTROLLER)

if __name__ == "__main__":
    sys.exit(main())
