"""How long the controller's event loop stands still while its garbage is collected.

Mosquitto, the controller daemon with its journal on disk, and the load that reports for all sites every five seconds,
each a process of its own. The daemon collects once a tick of ten seconds here, not each hour; a collection walks what
is kept of all sites, whenever it comes. `collect_ms` is the longest of a run as the daemon tells it, `found` how many
objects in cycles it freed: what is replaced is to make none.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.center import Center, center
from bench.command import arguments, main_of
from bench.figures import Noise, Run, finish, introduce, say, summary
from bench.loading import load
from bench.process import until
from sim.broker import LocalBroker

_REPORT_EVERY_S = 5
_TICK_S = 10
_WITHIN_S = 240.0
_TOLD = re.compile(r"garbage: (\d+) objects in cycles, (\d+) ms")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments("bench.garbage", __doc__, repeats=3)
    parser.add_argument("--sites", type=int, default=100, help="sites that report (default 100)")
    parser.add_argument("--banks", type=int, default=20, help="banks of each (default 20)")
    return main_of(parser, argv, _bench)


async def _bench(options: argparse.Namespace) -> None:
    introduce(f"bench.garbage: {options.sites} sites of {options.banks} banks")
    with Noise() as noise, tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        folder = Path(name)
        async with (
            LocalBroker(kind="mosquitto") as broker,
            center(broker, folder, tick_s=_TICK_S, module="bench.collecting") as controller,
            load(broker, folder, sites=options.sites, banks=options.banks) as sites,
        ):
            await sites.rate(options.sites / _REPORT_EVERY_S)
            await sites.until_each_is_ordered(controller.process)
            await asyncio.sleep(2 * _REPORT_EVERY_S)
            before = len(_told(controller))
            runs = [await _run(controller, before + 1 + count) for count in range(options.repeats)]
    say("goal: under 50 ms at 100 sites")
    finish({**summary(runs), "sites": options.sites}, runs, noise)


async def _run(controller: Center, count: int) -> Run:
    """The next collection."""

    def next_one() -> Run | None:
        told = _told(controller)
        return {"collect_ms": told[count - 1][1], "found": told[count - 1][0]} if len(told) >= count else None

    run = await until(next_one, "a collection", _WITHIN_S, controller.process)
    say(", ".join(f"{key} {value:.3g}" for key, value in run.items()))
    return run


def _told(controller: Center) -> list[tuple[float, float]]:
    """Objects and milliseconds of each collection so far."""
    return [(float(found), float(took)) for found, took in _TOLD.findall(controller.process.log_text())]


if __name__ == "__main__":
    raise SystemExit(main())
