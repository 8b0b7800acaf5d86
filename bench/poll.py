"""What reading a whole site costs: every miner's power, hashrate, temperatures and state within a 5 s tick.

Real Mosquitto, the real agent daemon with its own defaults and simulated miners behind real sockets, each in a process
of its own. `cycle_s` is the time in which as many readings succeed as there are miners, in steady state;
`core_fraction` is the agent's whole processor time meanwhile, reports, meters and guard included, as a part of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from agent.config import Limits
from bench import lean
from bench.command import arguments, main_of
from bench.figures import Noise, Run, finish, introduce, say, summary
from bench.process import BenchError, Child
from bench.scrape import counter, devices
from bench.site import Plant, SiteShape, agent, http_of, plant
from sim.broker import LocalBroker

TICK_S: Final = 5.0
DEVICES_PER_BANK: Final = 500
POLLS_IN_FLIGHT: Final = Limits().polls_in_flight
"""The agent's default, given to the lean client too."""
_FIRST_PASS_S: Final = 120.0
_LOOK_S: Final = 0.05
_COMMANDS_PER_READ: Final = 4
"""A combined read counts as so many in the miners' log."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments("bench.poll", __doc__, repeats=5)
    parser.add_argument("--miners", type=int, default=10_000, metavar="N", help="simulated miners (default 10000)")
    parser.add_argument("--firmware", choices=sorted(lean.READ), default="luxos", help="whose protocol they speak")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="how long a miner takes to answer (default 20)")
    parser.add_argument("--ticks", type=int, default=6, help="ticks of 5 s that a run measures (default 6)")
    return main_of(parser, argv, _bench)


async def _bench(options: argparse.Namespace) -> None:
    introduce(f"bench.poll: {options.miners} miners, {options.firmware}, {options.latency_ms:g} ms to answer")
    shape = SiteShape(
        miners=options.miners,
        banks=max(1, options.miners // DEVICES_PER_BANK),
        firmware=options.firmware,
        latency_ms=options.latency_ms,
        loop=options.miners_loop,
    )
    runs: list[Run] = []
    with Noise() as noise:
        for number in range(1, options.repeats + 1):
            run = await _run(shape, options.ticks)
            say(
                f"run {number}: a cycle in {run['cycle_s']:.2f} s, {run['core_fraction']:.1%} of a core "
                f"(bound {run['bound_core_fraction']:.1%}), oldest reading {run['oldest_s']:.2f} s, "
                f"first pass flat out in {run['first_pass_s']:.2f} s, {run['rss_mb']:.0f} MB"
            )
            runs.append(run)
    say("bound: a lean asyncio client that reads and parses the same miners and does nothing else, per 5 s")
    say("goal: 10,000 within a tick of 5 s on under 60 % of one core")
    finish({"miners": shape.miners, **summary(runs, digits=4)}, runs, noise)


async def _run(shape: SiteShape, ticks: int) -> Run:
    with tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        folder = Path(name)
        async with LocalBroker(kind="mosquitto") as broker, plant(shape, folder) as miners:
            bound = await lean.read(shape.firmware, miners.devices, at_once=POLLS_IN_FLIGHT)
            await miners.control.reset()
            async with agent(miners, broker.settings("unused"), folder) as process:
                first_pass_s = await _first_pass(miners, process)
                await asyncio.sleep(TICK_S)
                run = await _steady(miners, process, ticks)
    return run | {"first_pass_s": first_pass_s, "bound_core_fraction": bound.cpu_s / TICK_S}


async def _first_pass(miners: Plant, process: Child) -> float:
    """How long the first reading of every miner takes, as the miners see it; 0 where it is over at the first look."""
    began_s: float | None = None
    async with asyncio.timeout(_FIRST_PASS_S):
        while (reads := await miners.control.reads()) < _COMMANDS_PER_READ * miners.shape.miners:
            process.check()
            if reads and began_s is None:
                began_s = time.monotonic()
            await asyncio.sleep(_LOOK_S)
    return 0.0 if began_s is None else time.monotonic() - began_s


async def _steady(miners: Plant, process: Child, ticks: int) -> dict[str, float]:
    base = await http_of(process)
    async with _counted(base, process) as counted:
        await asyncio.sleep(ticks * TICK_S)
    count = miners.shape.miners
    if counted.ok < count:
        raise BenchError(f"only {counted.ok:.0f} readings of {count} miners succeeded in {ticks} ticks")
    seen = await devices(base)
    ages_ms = [each["age_ms"] for each in seen if each["age_ms"] is not None]
    if len(ages_ms) < count:
        raise BenchError(f"{count - len(ages_ms)} miners have never been read")
    return {
        "cycle_s": count * counted.wall_s / counted.ok,
        "core_fraction": counted.cpu_s / counted.wall_s,
        "oldest_s": max(ages_ms) / 1_000,
        "rss_mb": process.peak_rss_mb(),
    }


class _Counted:
    """What happened within a window."""

    wall_s = cpu_s = ok = 0.0


@contextlib.asynccontextmanager
async def _counted(base: str, process: Child) -> AsyncIterator[_Counted]:
    """Readings and processor time over the block. The two scrapes stand outside of what they count."""
    counted = _Counted()
    ok = await counter(base, "wattshift_agent_polls_total", outcome="ok")
    began_s, cpu_s = time.monotonic(), process.cpu_s()
    yield counted
    counted.wall_s, counted.cpu_s = time.monotonic() - began_s, process.cpu_s() - cpu_s
    counted.ok = await counter(base, "wattshift_agent_polls_total", outcome="ok") - ok


if __name__ == "__main__":
    raise SystemExit(main())
