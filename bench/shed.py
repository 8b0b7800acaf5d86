"""How fast a site sheds: from the order's publication until the last miner is commanded, and until the meters confirm.

Real Mosquitto, the real agent daemon and simulated miners behind real sockets, each in a process of its own. A bare
publisher orders every bank down to nothing. "Commanded" is when a miner has the whole command that makes it sleep, by
its own log; "confirmed" is when the publisher has the receipt in which every bank is confirmed by its meter. A miner's
power falls with a time constant of 2 s and meters are read once a second, so confirmation is physics, not software.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.config import Limits
from bench import lean
from bench.command import arguments, main_of
from bench.figures import Noise, Run, finish, introduce, say, summary
from bench.hand import Hand, hand
from bench.process import BenchError, Child, until
from bench.site import SITE, Plant, SiteShape, agent, plant
from contract.messages import Report
from sim.broker import LocalBroker

DEVICES_PER_BANK: Final = 500
IN_FLIGHT: Final = Limits().in_flight
"""The agent's default, given to the lean client too."""
PEER: Final = (
    "peer: the nearest open-source curtailment server takes 31 to 38 s at 1,000 miners on such a machine (quoted, "
    "measured when the field was surveyed)"
)
_SIGHT_S: Final = 60.0
_COMMAND_S: Final = 120.0
_CONFIRM_S: Final = 120.0
_LOOK_S: Final = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments("bench.shed", __doc__, repeats=5)
    parser.add_argument("--miners", type=int, default=1_000, metavar="N", help="simulated miners (default 1000)")
    parser.add_argument("--firmware", choices=sorted(lean.READ), default="luxos", help="whose protocol they speak")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="how long a miner takes to answer (default 20)")
    return main_of(parser, argv, _bench)


async def _bench(options: argparse.Namespace) -> None:
    introduce(f"bench.shed: {options.miners} miners, {options.firmware}, {options.latency_ms:g} ms to answer")
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
            run = await _run(shape)
            say(
                f"run {number}: last command after {run['to_last_command_s']:.3f} s (bound {run['bound_s']:.3f} s, "
                f"first {run['to_first_command_s']:.3f} s), confirmed after {run['to_confirmed_s']:.2f} s, "
                f"agent {run['rss_mb']:.0f} MB and {run['agent_cpu_s']:.2f} s of processor time"
            )
            runs.append(run)
    say("bound: a lean asyncio client that sends the same bytes to the same miners and does nothing else")
    say(PEER)
    say(f"goal: under {'1 s at 1,000' if shape.miners <= 1_000 else '5 s at 10,000'} to the last command, under 150 MB")
    figures = {"miners": shape.miners, **summary(runs)}
    finish(figures, runs, noise)


async def _run(shape: SiteShape) -> Run:
    """One shed with everything fresh."""
    with tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        folder = Path(name)
        async with (
            LocalBroker(kind="mosquitto") as broker,
            plant(shape, folder) as miners,
            hand(broker.settings("bench-hand"), SITE) as orders,
        ):
            bound = await lean.shed(shape.firmware, miners.devices, miners.control, at_once=IN_FLIGHT)
            await miners.control.reset()
            async with agent(miners, broker.settings("unused"), folder) as process:
                await _settle(miners, orders, process)
                return await _shed(miners, orders, process) | {"bound_s": bound.wall_s, "bound_cpu_s": bound.cpu_s}


async def _settle(miners: Plant, orders: Hand, process: Child) -> None:
    """Until the agent has read every miner, and an order to run at full power is confirmed."""
    count = miners.shape.miners
    await until(lambda: _all_run(orders.report, count), f"a report of {count} running miners", _SIGHT_S, process)
    full_w = dict(zip(miners.shape.bank_names(), miners.shape.bank_rated_w(), strict=True))
    seq, _ = orders.order(full_w, urgent=False)
    await until(lambda: orders.confirmed_at_s.get(seq), "full power to be confirmed", _CONFIRM_S, process)


async def _shed(miners: Plant, orders: Hand, process: Child) -> dict[str, float]:
    before = await miners.control.newest()
    cpu_before_s = process.cpu_s()
    seq, published_s = orders.order(dict.fromkeys(miners.shape.bank_names(), 0), urgent=True)
    await _all_commanded(miners, before, process)
    cpu_s = process.cpu_s() - cpu_before_s
    confirmed_s = await until(lambda: orders.confirmed_at_s.get(seq), "the shed's receipt", _CONFIRM_S, process)
    first_at_s: dict[str, float] = {}
    for sighting in await miners.control.commands_since(before):
        if sighting.obeyed:
            first_at_s.setdefault(sighting.device, sighting.at_s)
    if len(first_at_s) != miners.shape.miners:
        raise BenchError(f"{miners.shape.miners - len(first_at_s)} miners were never commanded")
    return {
        "to_last_command_s": max(first_at_s.values()) - published_s,
        "to_confirmed_s": confirmed_s - published_s,
        "rss_mb": process.peak_rss_mb(),
        "to_first_command_s": min(first_at_s.values()) - published_s,
        "agent_cpu_s": cpu_s,
    }


async def _all_commanded(miners: Plant, before: int, process: Child) -> None:
    """Wait, asking rarely and little, for the questions cost the miners' process time too."""
    async with asyncio.timeout(_COMMAND_S):
        while await miners.control.newest() - before < miners.shape.miners:
            process.check()
            await asyncio.sleep(_LOOK_S)


def _all_run(report: Report | None, count: int) -> bool | None:
    running = 0 if report is None else sum(bank.devices.running for bank in report.banks)
    return True if running == count else None


if __name__ == "__main__":
    raise SystemExit(main())
