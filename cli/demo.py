"""`wattshift demo`: the main job here and now, narrated."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.client import EXIT_FAILED, EXIT_INTERRUPTED
from sim.demo.run import DEFAULT_START, Demo, DemoEvent, DemoOptions
from sim.demo.sites import NAMES
from sim.demo.slurm import SlurmDemo, SlurmSummary
from sim.demo.summary import Summary
from sim.slurm import missing_for_slurm

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0}
_STYLE = {
    "price": "cyan",
    "decision": "default",
    "confirmed": "green",
    "obligation_met": "green",
    "signal": "yellow",
    "override": "yellow",
    "device": "yellow",
    "refused": "red",
    "violation": "bold red",
    "picture": "dim",
    "log": "dim",
}


def demo(
    sites: Annotated[int, typer.Option("--sites", min=1, max=len(NAMES), help="how many sites")] = 2,
    miners: Annotated[int, typer.Option("--miners", min=3, max=5_000, help="simulated ASICs per site")] = 60,
    speed: Annotated[float, typer.Option("--speed", min=1, max=240, help="site seconds per second")] = 30.0,
    start: Annotated[str, typer.Option("--start", help="moment of August 2023 to begin at, ISO 8601, UTC")] = (
        DEFAULT_START.strftime("%Y-%m-%dT%H:%M")
    ),
    span: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="end by itself after this long: 60s, 5m, 1h")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="chance: devices' spread, jobs, delays")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="events as NDJSON; the last line is the summary")] = False,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="one site with a real Slurm of its own, in real time (needs Slurm and root)")
    ] = False,
    narration: Annotated[bool, typer.Option("--narration/--no-narration", help="tell what happens")] = True,
) -> None:
    """Run broker, controller and simulated hybrid sites through a real ERCOT scarcity afternoon, faster than life.

    Miners, meters and the HPC scheduler are simulated devices that speak their real protocols on real sockets; agents,
    controller and broker are the real ones. Ends on Ctrl-C, after --for, or at the end of the sample. Exit code 0 only
    where no invariant was violated.
    """
    if slurm:
        _run_slurm(_seconds(span), seed, as_json=as_json, narration=narration)
        return
    options = DemoOptions(sites, miners, speed, _start(start), _seconds(span), seed)
    teller = _json_teller(narration) if as_json else _word_teller(narration)
    summary = asyncio.run(_run(Demo(options, teller), teller, quiet=as_json))
    if summary is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        print(json.dumps({"summary": summary.as_json()}), flush=True)
    else:
        _print_summary(summary)
    if summary.invariant_violations:
        raise typer.Exit(EXIT_FAILED)


async def _run(demo: Demo, teller: Any, *, quiet: bool) -> Summary | None:
    """None where it was interrupted before it began."""
    log = _tell_warnings(teller, demo.clock.wall_ms)
    _end_on_signals()
    with suppress(asyncio.CancelledError):
        async with demo:
            if not quiet:
                _print_access(demo)
            with suppress(asyncio.CancelledError):
                await demo.until_done()
            log.setLevel(logging.ERROR)  # what the daemons warn of while they end is what was asked for
            demo.say("end", None, "The demo ends: the agents take every bank to its fail-safe and say goodbye.")
            return demo.summary()
    return None


def _tell_warnings(teller: Any, clock: Callable[[], int]) -> logging.Handler:
    handler = _Tells(teller, clock)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    return handler


def _end_on_signals() -> None:
    """The first Ctrl-C ends the run; those after it find it ending, which takes a few seconds and is bounded."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101  asyncio.run always runs in a task
    asked = False

    def end() -> None:
        nonlocal asked
        if not asked:
            asked = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)


def _run_slurm(for_s: float | None, seed: int, *, as_json: bool, narration: bool) -> None:
    """Exit code 0 only where no result is wrong and no firm job was touched."""
    if (missing := missing_for_slurm()) is not None:
        raise typer.BadParameter(f"there is no Slurm to run: {missing}", param_hint="--slurm")
    summary = asyncio.run(_slurm(_json_teller(narration) if as_json else _word_teller(narration), for_s, seed))
    if summary is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        print(json.dumps({"summary": summary.as_json()}), flush=True)
    else:
        console = Console(highlight=False)
        console.print(f"\n{summary.decisions} decisions; {summary.jobs} jobs came, {summary.jobs_done} are done.")
        console.print(f"At most {summary.jobs_frozen_most} stood still at once, {summary.firm_touched} of them firm.")
        halls = (summary.hall_empty_queue_w, summary.hall_full_queue_w, summary.hall_given_back_w)
        told = ", ".join("-" if power_w is None else f"{power_w / 1e3:.1f}" for power_w in halls)
        console.print(f"The halls drew {told} kW without a queue, with one, and after it.")
        console.print(
            f"The plant was above the {summary.cap_w / 1e3:.1f} kW of its connection for {summary.over_cap_s} s."
        )
    if summary.jobs_wrong or summary.firm_touched or summary.event_met is False:
        raise typer.Exit(EXIT_FAILED)


async def _slurm(teller: Any, for_s: float | None, seed: int) -> SlurmSummary | None:
    """As `_run`."""
    demo = SlurmDemo(teller, for_s=for_s, seed=seed)
    log = _tell_warnings(teller, demo.clock.wall_ms)
    _end_on_signals()
    with suppress(asyncio.CancelledError):
        async with demo:
            with suppress(asyncio.CancelledError):
                await demo.until_done()
            log.setLevel(logging.ERROR)
            return demo.summary()
    return None


class _Tells(logging.Handler):
    """The daemons' own warnings, told as events."""

    def __init__(self, teller: Any, clock: Callable[[], int]) -> None:
        super().__init__()
        self._teller = teller
        self._clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        self._teller(DemoEvent("log", None, self._clock(), record.getMessage(), {"logger": record.name}))


def _print_access(demo: Demo) -> None:
    console = Console(highlight=False)
    sites = ", ".join(site.kit.plan.id for site in demo.sites)
    console.print(f"[bold]Wattshift demo[/bold]: sites {sites}; {demo.options.speed:g} times faster than life.")
    token = demo.token_file.read_text(encoding="utf-8").strip()
    console.print("The console, in a browser:", style="dim")
    console.print(f"  {demo.url}/#token={token}", markup=False, soft_wrap=True)
    console.print("In another terminal:", style="dim")
    for line in (
        f"export WATTSHIFT_URL={demo.url} WATTSHIFT_TOKEN_FILE={demo.token_file}",
        "wattshift status",
        f"wattshift replay {demo.journal_file}",
        f"wattshift audit verify {demo.audit_file}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print("With a Prometheus of yours, and in Grafana with deploy/grafana/dashboards:", style="dim")
    store = demo.prometheus_file.with_name("prometheus")
    command = f"prometheus --config.file={demo.prometheus_file} --storage.tsdb.path={store}"
    command += " --enable-feature=exemplar-storage"
    console.print(f"  {command}", markup=False, soft_wrap=True)
    console.print("Ctrl-C ends it.\n", style="dim")


def _word_teller(narration: bool) -> Any:
    console = Console(highlight=False)

    def tell(event: DemoEvent) -> None:
        if not narration or event.kind == "ready":
            return
        at = datetime.fromtimestamp(event.at_ms / 1_000, UTC).strftime("%H:%M:%S")
        text = event.text if event.site is None or event.text.startswith(event.site) else f"{event.site}: {event.text}"
        console.print(f"[dim]{at}[/dim]  ", end="")
        console.print(text, style=_STYLE.get(event.kind, "default"), markup=False, soft_wrap=True)

    return tell


def _json_teller(narration: bool) -> Any:
    def tell(event: DemoEvent) -> None:
        line: dict[str, Any] = {"event": event.kind, "site": event.site, "at_ms": event.at_ms}
        if narration:
            line["text"] = event.text
        print(json.dumps(line | {"data": event.data}), flush=True)

    return tell


def _print_summary(summary: Summary) -> None:
    console = Console(highlight=False)
    proven = ", ".join(f"{count} {state}" for state, count in summary.receipts.items())
    gain = summary.profit_usd - summary.always_on_usd
    console.print(f"\n[bold]{summary.site_minutes:.0f} minutes of site time[/bold]")
    for line in (
        f"{summary.decisions} decisions, {summary.orders} orders; receipts bank by bank: {proven}.",
        f"Energy in MWh: hash {summary.hash_mwh:.3f}, HPC {summary.hpc_mwh:.3f}; shed {summary.curtailed_mwh:.3f}.",
        f"Profit {summary.profit_usd:,.2f} USD; always-on would have made {summary.always_on_usd:,.2f} ({gain:+,.2f}).",
    ):
        console.print(line, soft_wrap=True)
    if summary.invariant_violations:
        console.print(f"{summary.invariant_violations} violations of invariants:", style="bold red")
        for each in summary.violations:
            console.print(f"  {each}", markup=False)
    else:
        console.print("No invariant was violated.", style="green")


def _seconds(span: str | None) -> float | None:
    if span is None:
        return None
    found = _SPAN.fullmatch(span.strip())
    if found is None or float(found[1]) <= 0:
        raise typer.BadParameter(f"{span!r} is no time span: give 60s, 5m or 1h", param_hint="--for")
    return float(found[1]) * _SECONDS[found[2]]


def _start(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no ISO 8601 moment", param_hint="--start") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not (moment.year == 2023 and moment.month == 8):
        raise typer.BadParameter("the sample holds August 2023 only", param_hint="--start")
    return moment


if __name__ == "__main__":
    sys.exit("run: wattshift demo")
