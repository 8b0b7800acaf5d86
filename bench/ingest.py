"""What the controller's way in costs: reports per second of one core, and whether memory stays flat.

Real Mosquitto, the real controller daemon with its journal on disk, and synthetic agents, each in a process of its own;
a report has 20 banks. First the load publishes as fast as the broker takes it, in windows of some seconds:
`reports_per_core_s` is what the controller took in (decoded, checked, kept; not what the broker threw away) for each
second of its processor time, everything it does meanwhile included but the minute's decisions. Then a fresh controller
with its usual tick of a minute takes 1,000 reports/s from 5,000 sites for ten minutes, decides and orders them all
each minute, and its resident memory is watched: `rss_start_mb` is taken when every site has been decided once and a
further minute has gone by, `rss_end_mb` at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from bench.center import Center, center
from bench.command import arguments, main_of
from bench.figures import Noise, Run, finish, introduce, say, summary
from bench.loading import Load, load
from bench.scrape import counter
from bench.synthetic import SyntheticSite
from contract.messages import Report, decode
from sim.broker import LocalBroker

WARM_RATE: Final = 1_000
NO_TICK_S: Final = 3_600
_DRAIN_S: Final = 1.0
_BOUND_REPORTS: Final = 5_000
_REPORTS: Final = "wattshift_controller_reports_total"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments("bench.ingest", __doc__, repeats=5)
    parser.add_argument("--sites", type=int, default=5_000, help="sites that report (default 5000)")
    parser.add_argument("--banks", type=int, default=20, help="banks of each (default 20)")
    parser.add_argument("--rate", type=float, default=1_000, help="reports/s while memory is watched (default 1000)")
    parser.add_argument("--window", type=float, default=10.0, help="seconds of each flat-out run (default 10)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long memory is watched (default 10)")
    parser.add_argument("--warm", type=float, default=60.0, help="seconds from all decided to rss_start (default 60)")
    parser.add_argument("--quick", action="store_true", help="500 sites, 100 reports/s, 5 s to warm up, half a minute")
    return main_of(parser, argv, _bench)


async def _bench(options: argparse.Namespace) -> None:
    if options.quick:
        options.sites, options.rate, options.warm, options.minutes = 500, 100.0, 5.0, 0.5
    introduce(f"bench.ingest: {options.sites} sites of {options.banks} banks")
    bound = _decode_per_core_s(options.banks)
    with Noise() as noise:
        runs = await _flat_out(options)
        memory = await _memory(options)
    say(f"bound: decoding and checking such a report alone, {bound:.0f} per second of a core")
    say(f"goal: memory flat over {options.minutes:g} minutes")
    finish({**summary(runs, digits=1), **memory, "bound_per_core_s": round(bound)}, runs, noise)


async def _flat_out(options: argparse.Namespace) -> list[Run]:
    """Windows in which the load is limited by the broker alone."""
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        folder = Path(name)
        async with (
            LocalBroker(kind="mosquitto") as broker,
            center(broker, folder, tick_s=NO_TICK_S) as controller,
            load(broker, folder, sites=options.sites, banks=options.banks) as sites,
        ):
            await sites.rate(WARM_RATE)
            await sites.until_each_is_ordered(controller.process)
            for number in range(1, options.repeats + 1):
                run = await _window(controller, sites, options.window)
                say(
                    f"run {number}: {run['reports_per_core_s']:.0f} reports per second of a core, "
                    f"{run['taken_per_s']:.0f} taken in a second, {run['lost_share']:.0%} thrown away by the broker"
                )
                runs.append(run)
    return runs


async def _window(controller: Center, sites: Load, seconds: float) -> Run:
    await sites.rate(0)
    await asyncio.sleep(_DRAIN_S)
    taken, published = await counter(controller.base, _REPORTS), (await sites.stats()).published
    began_s, cpu_s = time.monotonic(), controller.process.cpu_s()
    await sites.rate(None)
    await asyncio.sleep(seconds)
    await sites.rate(0)
    wall_s = time.monotonic() - began_s
    await asyncio.sleep(_DRAIN_S)  # what is still on its way is taken in, and paid for, within the window's account
    cpu_s = controller.process.cpu_s() - cpu_s
    taken, published = await counter(controller.base, _REPORTS) - taken, (await sites.stats()).published - published
    return {
        "reports_per_core_s": taken / cpu_s,
        "taken_per_s": taken / wall_s,
        "lost_share": max(1.0 - taken / published, 0.0) if published else 0.0,
    }


async def _memory(options: argparse.Namespace) -> dict[str, float]:
    """Resident memory of a fresh controller under a steady load."""
    with tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        folder = Path(name)
        async with (
            LocalBroker(kind="mosquitto") as broker,
            center(broker, folder) as controller,
            load(broker, folder, sites=options.sites, banks=options.banks) as sites,
        ):
            await sites.rate(options.rate)
            await sites.until_each_is_ordered(controller.process)
            await asyncio.sleep(options.warm)
            return await _watch(controller, sites, options.minutes * 60)


async def _watch(controller: Center, sites: Load, seconds: float) -> dict[str, float]:
    process = controller.process
    taken, began_s, cpu_s = await counter(controller.base, _REPORTS), time.monotonic(), process.cpu_s()
    start_mb = highest_mb = process.rss_mb()
    say(f"memory at the start: {start_mb:.0f} MB")
    said = 0
    while (gone_s := time.monotonic() - began_s) < seconds:
        await asyncio.sleep(min(1.0, seconds - gone_s))
        process.check()
        highest_mb = max(highest_mb, process.rss_mb())
        if gone_s // 60 > said:
            said = int(gone_s // 60)
            say(f"memory after {said} min: {process.rss_mb():.0f} MB")
    wall_s, cpu_s, end_mb = time.monotonic() - began_s, process.cpu_s() - cpu_s, process.rss_mb()
    taken = await counter(controller.base, _REPORTS) - taken
    stats = await sites.stats()
    say(f"memory at the end: {end_mb:.0f} MB; {taken / wall_s:.0f} reports/s taken in, {stats.orders} orders in all")
    return {
        "rss_start_mb": round(start_mb, 1),
        "rss_end_mb": round(end_mb, 1),
        "rss_max_mb": round(highest_mb, 1),
        "steady_reports_s": round(taken / wall_s, 1),
        "steady_core_fraction": round(cpu_s / wall_s, 3),
        "minutes": round(wall_s / 60, 2),
    }


def _decode_per_core_s(banks: int) -> float:
    """How many such reports a core decodes and checks in a second, with nothing around it."""
    payload = SyntheticSite("bound", banks, Random(0)).report(0)
    began_s = time.process_time()
    for _ in range(_BOUND_REPORTS):
        decode(Report, payload)
    return _BOUND_REPORTS / (time.process_time() - began_s)


if __name__ == "__main__":
    raise SystemExit(main())
