"""How long a curtailment signal takes: from the HTTP request until the agent's first command reaches a device.

Every participant is a process of its own, as in production: Mosquitto, the controller daemon with its journal on disk,
the agent daemon, the simulated miners, and the load. Each sample posts `/v1/signals` over a new connection, with a
target a little lower than the last; its end is when a miner has the whole of the first command, by its own log. The
miners speak Braiins OS by default, which needs no session: with LuxOS a command is preceded by one exchange for a
session, and the miner's own 20 ms to answer it would stand in the figure.

Loaded means 1,000 reports/s of 20 banks each from 5,000 other sites through the same broker to the same controller,
which also decides and orders all of them once a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import lean
from bench.bounds import broker_hop_s, http_round_trip_s
from bench.center import Center, center
from bench.command import arguments, main_of
from bench.figures import Noise, Run, finish, introduce, percentile, say, summary
from bench.loading import Load, load
from bench.process import BenchError, Child
from bench.signals import Signals
from bench.site import SITE, SiteShape, agent, plant
from sim.broker import LocalBroker

SPARE: Final = 1.2
"""Miners beyond one for each sample: a lower target may stop two. All are in one bank, for where one of several is used
up, a lower target may need no command."""
_READY_S: Final = 90.0
_SETTLE_S: Final = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments("bench.latency", __doc__, repeats=5)
    parser.add_argument("--samples", type=int, default=100, help="signals in each run, idle and loaded (default 100)")
    parser.add_argument("--rate", type=int, default=1_000, help="reports/s while loaded (default 1000)")
    parser.add_argument("--sites", type=int, default=5_000, help="sites that the load reports for (default 5000)")
    parser.add_argument("--banks", type=int, default=20, help="banks of each of those sites (default 20)")
    parser.add_argument("--firmware", choices=sorted(lean.READ), default="braiins", help="the miners' protocol")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="how long a miner takes to answer (default 20)")
    return main_of(parser, argv, _bench)


async def _bench(options: argparse.Namespace) -> None:
    introduce(
        f"bench.latency: {options.firmware}, {options.latency_ms:g} ms to answer, {options.samples} samples a run"
    )
    wanted = 2 * options.repeats * options.samples
    shape = SiteShape(
        miners=max(int(wanted * SPARE), 20),
        banks=1,
        firmware=options.firmware,
        latency_ms=options.latency_ms,  # on asyncio's own loop, whose clock is exact
    )
    with Noise() as noise, tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        runs, more = await _measure(shape, options, Path(name))
    say(f"bound: one HTTP request and one hop over the broker, {more['bound_p50_ms']:.1f} ms")
    say("goal: p50 under 20 ms and p99 under 100 ms, also loaded")
    finish({**summary(runs), **more}, runs, noise)


async def _measure(shape: SiteShape, options: argparse.Namespace, folder: Path) -> tuple[list[Run], dict[str, float]]:
    async with (
        LocalBroker(kind="mosquitto") as broker,
        center(broker, folder) as controller,
        plant(shape, folder) as miners,
        agent(miners, broker.settings("unused"), folder) as process,
    ):
        await until_all_run(controller, shape, process)
        hop_s = await broker_hop_s(broker, options.samples)
        request_s = await http_round_trip_s(controller, options.samples)
        signals = Signals(controller, miners)
        idle = await _rounds("idle", signals, options)
        async with load(broker, folder, sites=options.sites, banks=options.banks) as sites:
            await sites.rate(options.rate)
            await sites.until_each_is_ordered(controller.process, process)
            await asyncio.sleep(_SETTLE_S)
            before = await _Moment.of(controller.process, process, sites)
            busy = await _rounds("loaded", signals, options)
            more = (await _Moment.of(controller.process, process, sites)).since(before)
            if more["loaded_reports_s"] < 0.95 * options.rate:
                say(f"note: the load reached {more['loaded_reports_s']:.0f} reports/s only, for want of processor time")
            await sites.rate(0)
    more["bound_p50_ms"] = round(1e3 * (hop_s + request_s), 3)
    return [_run(one, two) for one, two in zip(idle, busy, strict=True)], more


async def until_all_run(controller: Center, shape: SiteShape, process: Child) -> None:
    """Until the controller has ordered the site to full power, and the meters confirm it."""
    async with asyncio.timeout(_READY_S):
        while True:
            process.check()
            found = [each["site"] for each in (await controller.get("/v1/sites"))["sites"]]
            site = await controller.get(f"/v1/sites/{SITE}") if SITE in found else {}
            order = site.get("order") or {}
            full = (site.get("planned_w") or 0) >= shape.rated_w
            if full and order.get("banks_by_state", {}).get("confirmed") == shape.banks:
                return
            await asyncio.sleep(0.2)


async def _rounds(name: str, signals: Signals, options: argparse.Namespace) -> list[Sequence[float]]:
    rounds = []
    for number in range(1, options.repeats + 1):
        took_s = await signals.sample(options.samples)
        p50_ms, p99_ms = (1e3 * percentile(took_s, share) for share in (0.50, 0.99))
        say(f"{name} run {number}: p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, worst {1e3 * max(took_s):.1f} ms")
        rounds.append(took_s)
    return rounds


def _run(idle_s: Sequence[float], loaded_s: Sequence[float]) -> Run:
    return {
        "p50_ms": 1e3 * percentile(idle_s, 0.50),
        "p99_ms": 1e3 * percentile(idle_s, 0.99),
        "loaded_p50_ms": 1e3 * percentile(loaded_s, 0.50),
        "loaded_p99_ms": 1e3 * percentile(loaded_s, 0.99),
    }


class _Moment:
    """Counters at one moment of the loaded part."""

    def __init__(self, at_s: float, controller_s: float, agent_s: float, published: int) -> None:
        self._at_s, self._controller_s, self._agent_s, self._published = at_s, controller_s, agent_s, published

    @classmethod
    async def of(cls, controller: Child, agent: Child, sites: Load) -> _Moment:
        stats = await sites.stats()
        if stats.dropped:
            raise BenchError(f"the load dropped {stats.dropped} messages")
        return cls(time.monotonic(), controller.cpu_s(), agent.cpu_s(), stats.published)

    def since(self, before: _Moment) -> dict[str, float]:
        wall_s = self._at_s - before._at_s
        return {
            "loaded_reports_s": round((self._published - before._published) / wall_s),
            "loaded_controller_cores": round((self._controller_s - before._controller_s) / wall_s, 3),
            "loaded_agent_cores": round((self._agent_s - before._agent_s) / wall_s, 3),
        }


if __name__ == "__main__":
    raise SystemExit(main())
