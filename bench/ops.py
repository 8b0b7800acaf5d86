"""What watching and steering cost the controller: a scrape, ten open consoles, the first paint, an override.

Every participant is a process of its own: Mosquitto, the controller daemon with its journal on disk, the agent of one
site with simulated miners, and the load that reports for the other sites every five seconds.

`scrape_ms` is one GET of /metrics with all sites known. `stall_ms` is the longest that a bare /healthz, asked without
pause meanwhile, had to wait for the event loop (the same without scrapes beside it as `calm_stall_ms`). `consoles_core`
is what ten consoles add to the controller's processor time: each reads what the page reads, as often, and follows the
events; `consoles_stall_ms` is the longest wait of /healthz beside them. `override_p50_ms` is from the POST of a cap
until the agent's first command reaches a miner. `paint_ms` is Chromium's own figure for the page's first contentful
paint, where Chromium and playwright are installed. `status_ms`, `doctor_ms` and `list_ms` are whole commands from start
to end against that controller, `python_ms` an interpreter that does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.center import Center, center
from bench.command import arguments, main_of
from bench.figures import Noise, Run, finish, introduce, percentile, say, summary
from bench.latency import until_all_run
from bench.loading import load
from bench.process import BenchError
from bench.signals import Signals
from bench.site import SITE, SiteShape, agent, plant
from cli.client import EXIT_DEGRADED
from sim.broker import LocalBroker

CONSOLES: Final = 10
REPORT_EVERY_S: Final = 5
_SCRAPES: Final = 20
_CALM_S: Final = 3.0
_PAGE_EVERY_S: Final = 2.0
_SPARE: Final = 1.3
_STARTS: Final = 7
_COMMANDS: Final = {
    "python": ["-c", "pass"],
    "status": ["-m", "cli.main", "status"],
    "doctor": ["-m", "cli.main", "doctor"],
    "list": ["-m", "cli.main", "override", "list"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments("bench.ops", __doc__, repeats=3)
    parser.add_argument("--sites", type=int, default=100, help="sites that report (default 100)")
    parser.add_argument("--banks", type=int, default=20, help="banks of each (default 20)")
    parser.add_argument("--samples", type=int, default=50, help="overrides in each run (default 50)")
    parser.add_argument("--window", type=float, default=20.0, help="seconds the consoles are watched (default 20)")
    return main_of(parser, argv, _bench)


async def _bench(options: argparse.Namespace) -> None:
    introduce(f"bench.ops: {options.sites} sites of {options.banks} banks, {CONSOLES} consoles")
    shape = SiteShape(
        miners=int(options.repeats * options.samples * _SPARE) + 20, banks=1, firmware="braiins", latency_ms=20.0
    )
    with Noise() as noise, tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        folder = Path(name)
        async with (
            LocalBroker(kind="mosquitto") as broker,
            center(broker, folder) as controller,
            plant(shape, folder) as miners,
            agent(miners, broker.settings("unused"), folder) as process,
            load(broker, folder, sites=options.sites, banks=options.banks) as sites,
        ):
            await sites.rate(options.sites / REPORT_EVERY_S)
            await sites.until_each_is_ordered(controller.process, process)
            await until_all_run(controller, shape, process)
            overrides = Signals(controller, miners, "overrides")
            runs = [await _run(controller, overrides, options) for _ in range(options.repeats)]
            paint_ms = await asyncio.to_thread(_paint_ms, controller)
    say("goal: scrape and stalls under 50 ms, consoles under 10 % of a core, override p50 under 50 ms, paint under 1 s")
    say("goal: status under 300 ms")
    finish({**summary(runs), "sites": options.sites, "paint_ms": paint_ms}, runs, noise)


async def _run(controller: Center, overrides: Signals, options: argparse.Namespace) -> Run:
    calm_ms = await _worst_wait_ms(controller, asyncio.sleep(_CALM_S))
    took_ms: list[float] = []
    stall_ms = await _worst_wait_ms(controller, _scrapes(controller, took_ms))
    alone = await _cores(controller, options.window)
    async with _consoles(controller):
        watched = await _cores(controller, options.window)
        consoles_stall_ms = await _worst_wait_ms(controller, asyncio.sleep(options.window))
    commands = {
        f"{name}_ms": await asyncio.to_thread(_command_ms, controller, words) for name, words in _COMMANDS.items()
    }
    override_s = await overrides.sample(options.samples)
    run = {
        "scrape_ms": percentile(took_ms, 0.5),
        "stall_ms": stall_ms,
        "calm_stall_ms": calm_ms,
        "consoles_core": max(watched - alone, 0.0),
        "consoles_stall_ms": consoles_stall_ms,
        **commands,
        "override_p50_ms": 1e3 * percentile(override_s, 0.5),
        "override_p99_ms": 1e3 * percentile(override_s, 0.99),
    }
    say(", ".join(f"{key} {value:.3g}" for key, value in run.items()))
    return run


async def _scrapes(controller: Center, took_ms: list[float]) -> None:
    async with controller.session() as session:
        for _ in range(_SCRAPES):
            began_s = time.monotonic()
            async with session.get("/metrics") as answer:
                await answer.read()
            took_ms.append(1e3 * (time.monotonic() - began_s))
            await asyncio.sleep(0.05)


async def _worst_wait_ms(controller: Center, meanwhile: Any) -> float:
    """The longest answer of /healthz, asked over one connection without pause while something else goes on."""
    worst_s = 0.0
    task = asyncio.ensure_future(meanwhile)
    async with aiohttp.ClientSession(controller.base) as session:
        while not task.done():
            began_s = time.monotonic()
            async with session.get("/healthz") as answer:
                await answer.read()
            worst_s = max(worst_s, time.monotonic() - began_s)
            await asyncio.sleep(0.002)
    await task
    return 1e3 * worst_s


def _command_ms(controller: Center, words: Sequence[str]) -> float:
    """From start to end of a command, the median of a few."""
    env = {**os.environ, "WATTSHIFT_URL": controller.base, "WATTSHIFT_TOKEN_FILE": str(controller.token_file)}
    took_ms: list[float] = []
    for _ in range(_STARTS):
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, *words], env=env, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode not in (0, EXIT_DEGRADED):
            raise BenchError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-300:]}")
        took_ms.append(1e3 * (time.monotonic() - began_s))
    return percentile(took_ms, 0.5)


async def _cores(controller: Center, window_s: float) -> float:
    began_s, cpu_s = time.monotonic(), controller.process.cpu_s()
    await asyncio.sleep(window_s)
    return (controller.process.cpu_s() - cpu_s) / (time.monotonic() - began_s)


@contextlib.asynccontextmanager
async def _consoles(controller: Center) -> AsyncIterator[None]:
    """Ten readers that do what the page does, each over its own kept connections."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_console(controller, place / CONSOLES)) for place in range(CONSOLES)]
        await asyncio.sleep(2 * _PAGE_EVERY_S)
        yield
        for task in tasks:
            task.cancel()


async def _console(controller: Center, phase: float) -> None:
    async with controller.session() as one, aiohttp.ClientSession(controller.base, headers=one.headers) as session:
        follow = asyncio.create_task(_follow(session))
        await asyncio.sleep(phase * _PAGE_EVERY_S)
        last_ms, planned = 0, None
        try:
            while True:
                for path in ("/v1/sites", f"/v1/sites/{SITE}", f"/v1/sites/{SITE}/history?since_ms={last_ms}"):
                    async with session.get(path) as answer:
                        told = await answer.json()
                    decided = told.get("decision_id", planned)
                last_ms = max([last_ms, *told["at_ms"][-1:]])
                if decided != planned:
                    planned = decided
                    async with session.get(f"/v1/sites/{SITE}/plan") as answer:
                        await answer.read()
                await asyncio.sleep(_PAGE_EVERY_S)
        finally:
            follow.cancel()


async def _follow(session: aiohttp.ClientSession) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    async with session.get(f"/v1/events?recent=true&site={SITE}", timeout=timeout) as answer:
        async for _ in answer.content.iter_any():
            pass


def _paint_ms(controller: Center) -> float | None:
    """The first contentful paint of the page, the median of five; None where there is no Chromium to ask."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        play = importlib.import_module("playwright.sync_api")
    except ImportError:
        play = None
    if chromium is None or play is None:
        say("paint_ms: no chromium or no playwright on this machine")
        return None
    ask = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
    with play.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found: list[float] = []
        for _ in range(5):
            page = browser.new_page()
            page.goto(f"{controller.base}/#token={controller.token}")
            page.wait_for_selector(".sentence")
            found.append(page.evaluate(ask))
            page.close()
        browser.close()
    return round(percentile(found, 0.5), 1)


if __name__ == "__main__":
    raise SystemExit(main())
