"""`wattshift backtest`: policies side by side on one simulated plant, on prices of your own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.client import EXIT_INTERRUPTED, EXIT_USAGE, ApiError
from sim.backtest.csvfile import SeriesError
from sim.backtest.model import Books, Timeline
from sim.backtest.run import BOUND, Outcome, backtest, registry
from sim.backtest.sample import SAMPLE_START, sample_files, sample_jobs
from sim.backtest.series import Files, Window, load_timeline, moment
from sim.backtest.sitefile import FleetPlan, SiteFileError, load

_NO_JOBS = "none"

HELP = """Judge policies on a year of real prices: what each earns on the very same plant, and what was possible.

Runs `always-on`, `break-even`, `hysteresis` and `wattshift` side by side. Each sees only what was known at the time.
The perfect-foresight bound says what nobody can exceed. Without --rt it runs on a shipped sample, August 2023.

\b
Columns (CSV, plain or .gz, one header row; more columns may stand beside them):
  --rt       rt_usd_per_mwh or lmp_usd_per_mwh, any interval from 5 minutes to an hour
  --da       da_usd_per_mwh; a local day's hours are known from 13:30 of the day before
  --btc      hashprice_usd_per_ph_day, daily          --weather  temperature_c, hourly
  --load     ercot_load_mw or load_mw, hourly: bills the coincident peaks; known an hour late
  --jobs     job_id,partition,qos,nodes_req,wallclock_req_s,run_time_s,submit_time
  --signals  told_utc,starts_utc,ends_utc,target_mw[,id][,site]: obligations
\b
Time is one of these columns:
  interval_start_utc | hour_utc | date_utc        ISO 8601, start of the interval
  interval_start_central                          US Central wall time, start
  hour_ending_central                             US Central, end of the hour, 24:00 and DST as published
  delivery_date_central + hour_ending             the same in two columns, 1 to 24
A file with a settlement_point column holds several hubs: choose with --hub, or `hub` in the site file.
\b
Example:
  wattshift backtest --site examples/hybrid-40mw.toml --rt ercot_rt.csv.gz --da ercot_da.csv.gz \\
    --btc btc.csv.gz --weather houston.csv.gz --load load.csv.gz --start 2023-01-01 --end 2024-01-01
\b
Exit codes: 0 judged, 2 a file or an option cannot be used, 130 stopped by Ctrl-C.
"""


def backtest_command(
    site: Annotated[Path, typer.Option("--site", metavar="FILE.toml", help="the site or the fleet")],
    rt: Annotated[Path | None, typer.Option("--rt", metavar="CSV", help="real-time prices")] = None,
    da: Annotated[Path | None, typer.Option("--da", metavar="CSV", help="day-ahead prices")] = None,
    btc: Annotated[Path | None, typer.Option("--btc", metavar="CSV", help="hashprice by day")] = None,
    weather: Annotated[Path | None, typer.Option("--weather", metavar="CSV", help="dry-bulb temperature")] = None,
    system_load: Annotated[Path | None, typer.Option("--load", metavar="CSV", help="system load")] = None,
    jobs: Annotated[
        str | None, typer.Option("--jobs", metavar="CSV", help="job trace; `none` for no jobs; default: the sample")
    ] = None,
    signals: Annotated[Path | None, typer.Option("--signals", metavar="CSV", help="obligations")] = None,
    start: Annotated[
        str | None, typer.Option("--start", metavar="ISO", help="begin; without an offset local to the market")
    ] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="ISO", help="end, not included")] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", metavar="NAME", help="one to run; may be repeated; default: all")
    ] = None,
    price_lag: Annotated[
        int, typer.Option("--price-lag", min=0, max=1_000, help="0: the price of the running interval is known")
    ] = 0,
    hub: Annotated[str | None, typer.Option("--hub", help="settlement point to read")] = None,
    hashprice: Annotated[
        float | None, typer.Option("--hashprice", min=0.01, max=10_000, help="USD/PH/s/day, in place of --btc")
    ] = None,
    history: Annotated[
        int, typer.Option("--history", min=0, max=365, help="days before --start to tune and train on")
    ] = 365,
    bound: Annotated[bool, typer.Option("--bound/--no-bound", help="reckon the perfect-foresight bound")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, the last line")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write a report to read")] = None,
) -> None:
    """Replaced by `HELP` where the command is registered."""
    try:
        names = _policies(policy)
        plan = load(site)
        files = _files(plan, rt, da, btc, weather, system_load, jobs, signals, hub, hashprice)
        if rt is None and start is None:
            start = SAMPLE_START
        window = _window(plan, start, end)
        _writable(html)
        timelines, said = _timelines(plan, files, window, history)
        outcome = _run(plan, timelines, names, price_lag, bound)
    except (SiteFileError, SeriesError) as error:
        raise ApiError(str(error), EXIT_USAGE) from None
    except KeyboardInterrupt:
        typer.echo("wattshift: stopped; nothing was written", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if html is not None:
        _write_html(html, plan, outcome, said)
    for line in said:
        typer.echo(line, err=True)
    if as_json:
        typer.echo(json.dumps(as_object(outcome)))
    else:
        _print(plan, timelines, outcome)


def as_object(outcome: Outcome) -> dict[str, Any]:
    """What --json prints. A fleet has its sites' figures besides, by id."""
    out: dict[str, Any] = {
        "bound_usd": _rounded(outcome.bound_usd, 2),
        "bound_gap": _rounded(outcome.bound_gap, 6),
        "policies": {books.policy: _books(books) for books in outcome.total},
    }
    if len(outcome.judged) > 1:
        out["sites"] = {
            one.site.id: {
                "bound_usd": _rounded(one.bound_usd, 2),
                "bound_gap": _rounded(one.bound_gap, 6),
                "policies": {books.policy: _books(books) for books in one.books},
            }
            for one in outcome.judged
        }
    return out


def _books(books: Books) -> dict[str, Any]:
    return {
        "profit_usd": round(books.profit_usd, 2),
        "energy_cost_usd": round(books.energy_cost_usd, 2),
        "hash_revenue_usd": round(books.hash_revenue_usd, 2),
        "hpc_revenue_usd": round(books.hpc_revenue_usd, 2),
        "resale_usd": round(books.resale_usd, 2),
        "penalties_usd": round(books.penalties_usd, 2),
        "curtailed_mwh": round(books.curtailed_mwh, 3),
        "starts_per_bank": round(books.starts_per_bank, 3),
        "jobs_missed": books.jobs_missed,
        "invariant_violations": books.invariant_violations,
        "flex_capture": _rounded(books.flex_capture, 6),
        "decision_ms": {"p50": round(books.decision_p50_ms, 4), "p99": round(books.decision_p99_ms, 4)},
        "violations": books.violations,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _policies(asked: list[str] | None) -> list[str]:
    known = list(registry())
    for name in asked or ():
        if name not in known:
            raise ApiError(f"--policy {name}: no such policy. Fix: one of {', '.join(known)}", EXIT_USAGE)
    return list(dict.fromkeys(asked or known))


def _files(
    plan: FleetPlan,
    rt: Path | None,
    da: Path | None,
    btc: Path | None,
    weather: Path | None,
    system_load: Path | None,
    jobs: str | None,
    signals: Path | None,
    hub: str | None,
    hashprice: float | None,
) -> Files:
    """What was given; the shipped sample where no prices were."""
    has_jobs = any(one.jobs is not None for one in plan.plans)
    trace = None if jobs == _NO_JOBS else Path(jobs) if jobs else sample_jobs() if has_jobs else None
    if rt is None:
        if da or btc or weather or system_load:
            raise ApiError("--rt is missing. Fix: give real-time prices with the other files", EXIT_USAGE)
        return sample_files(trace, signals, hashprice)
    return Files(rt, da, btc, weather, system_load, trace, signals, hashprice, hub)


def _window(plan: FleetPlan, start: str | None, end: str | None) -> Window:
    zone = plan.fleet.sites[0].timezone
    moments = []
    for name, text in (("--start", start), ("--end", end)):
        try:
            moments.append(None if text is None else moment(text, zone))
        except ValueError:
            raise ApiError(f"{name} {text}: no ISO 8601 time. Fix: write 2023-01-01", EXIT_USAGE) from None
    return Window(moments[0], moments[1])


def _writable(html: Path | None) -> None:
    if html is not None and not html.resolve().parent.is_dir():
        raise ApiError(f"--html {html}: {html.resolve().parent} is no folder. Fix: create it", EXIT_USAGE)


def _timelines(plan: FleetPlan, files: Files, window: Window, history: int) -> tuple[list[Timeline], list[str]]:
    timelines, said = [], []
    for one in plan.plans:
        timeline, told = load_timeline(one, files, window, history)
        timelines.append(timeline)
        said += told
    return timelines, list(dict.fromkeys(said))


def _run(plan: FleetPlan, timelines: Sequence[Timeline], names: Sequence[str], lag: int, bound: bool) -> Outcome:
    columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=quiet) as bar:
        rows: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            name = what.partition(" ")[0]
            if name not in rows:
                rows[name] = bar.add_task(what, total=total)
            bar.update(rows[name], description=what, completed=done, total=total)

        return backtest(plan.fleet, timelines, names, lag, tell, with_bound=bound)


def _write_html(path: Path, plan: FleetPlan, outcome: Outcome, said: Sequence[str]) -> None:
    from sim.backtest.report import report

    try:
        path.write_text(report(outcome.judged, title=f"Backtest of {plan.fleet.id}", notes=said), encoding="utf-8")
    except OSError as error:
        raise ApiError(f"--html {path}: cannot be written ({error.strerror})", EXIT_USAGE) from None


def _print(plan: FleetPlan, timelines: Sequence[Timeline], outcome: Outcome) -> None:
    timeline = timelines[0]
    count = len(timeline.price) - timeline.history
    console = Console(width=None if sys.stdout.isatty() else 100)
    days = count * timeline.interval_ms / 86_400_000
    money = Table(title=f"{plan.fleet.id}: {days:g} days of {timeline.interval_ms / 60_000:g} min, thousands of USD")
    for head in ("policy", "profit", "hash", "HPC", "resale", "energy", "penalties", "flex capture"):
        money.add_column(head, justify="left" if head == "policy" else "right")
    work = Table(title="what it did")
    for head in ("policy", "curtailed MWh", "starts a bank", "jobs missed", "violations", "ms p50", "ms p99"):
        work.add_column(head, justify="left" if head == "policy" else "right")
    for b in outcome.total:
        earned = (b.profit_usd, b.hash_revenue_usd, b.hpc_revenue_usd, b.resale_usd)
        capture = "-" if b.flex_capture is None else f"{b.flex_capture:.4f}"
        sums = (f"{usd / 1_000:,.1f}" for usd in (*earned, -b.energy_cost_usd, -b.penalties_usd))
        money.add_row(b.policy, *sums, capture)
        work.add_row(
            b.policy,
            f"{b.curtailed_mwh:,.0f}",
            f"{b.starts_per_bank:.1f}",
            str(b.jobs_missed),
            str(b.invariant_violations),
            f"{b.decision_p50_ms:.2f}",
            f"{b.decision_p99_ms:.2f}",
        )
    console.print(money)
    console.print(work)
    if outcome.bound_usd is not None:
        gap = f", the best plan known stays {outcome.bound_gap:.3%} below" if outcome.bound_gap is not None else ""
        console.print(f"{BOUND}: no policy can earn more than {outcome.bound_usd / 1_000:,.1f}{gap}")
    for b in outcome.total:
        if b.violations:
            console.print(f"{b.policy}: " + ", ".join(f"{count} {kind}" for kind, count in b.violations.items()))
