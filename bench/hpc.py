"""Power targets on real Slurm: 16 virtual nodes whose jobs are real processes, beside simulated ASICs on real sockets.

Four hybrid sites of four nodes and eight miners each run the real agent daemon under the real controller over
Mosquitto, and are given unannounced curtailment targets of 5 to 60 % over HTTP. A target is met where the plant's true
power is at most 2 % of what the site drew above it within 5 s, and stays so to the target's end. The plant is what
the kernel says: a node's share is busy while the job's process on it runs, idle once it is stopped or gone. Then one
site of all 16 nodes and no miner is asked for 30 %; 256 jobs are frozen and requeued; 1,000 jobs on 100 nodes are read.
`--only` runs some of these parts, and the last line then has their figures alone.

The nodes share one kernel, so Slurm's `proctrack/linuxproc` would have each of them walk the processes of all for every
signal; the bench runs with `pgid`, whose cost does not grow with the other nodes, and part `many_linuxproc` takes the
freeze and the requeue with the other besides.

A miner stops with a time constant of 1 s and boots in 8 s, as LuxOS does by its vendor's word. A job is lost unless its
result is there and right at the end; a firm job is touched where its process is seen stopped, or was started twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from bench.center import Center, center
from bench.command import arguments, main_of
from bench.figures import Noise, finish, introduce, percentile, say
from bench.hpc_jobs import WORK, Feeder
from bench.hpc_many import freeze_and_requeue, reading
from bench.hpc_site import site_agent
from bench.hpc_targets import RECOVERED, Result, Targets, depths
from bench.process import BenchError
from sim.broker import LocalBroker
from sim.process_meter import ProcessMeter, Seen
from sim.slurm import SlurmCluster, missing_for_slurm
from sim.slurm_site import CPUS, HybridSite, hybrid_site, scheduler

SITES: Final = 4
NODES_PER_SITE: Final = 4
ASICS: Final = 8
WITHIN_S: Final = 5.0
ALONE_WITHIN_S: Final = 10.0
PARTS: Final = ("read", "many", "many_linuxproc", "hybrid", "alone")
PROCTRACK: Final = "pgid"
_ALL: Final = {"all": "Nodes=ALL Default=YES"}
_SUMMED: Final = frozenset({"jobs", "jobs_requeued", "jobs_lost", "firm_touched"})
"""Over the parts."""
_TICK_S: Final = 5
_LOOK_S: Final = 0.05
_FULL_S: Final = 90.0
_DRAIN_S: Final = 240.0


@dataclass(slots=True)
class Eye:
    """Looks at the processes all the time, and remembers what must not happen."""

    meter: ProcessMeter
    seen: Seen = field(default_factory=lambda: Seen((), ()))
    firm: set[str] = field(default_factory=set)
    """Firm jobs whose process was seen to stand still."""

    async def run(self) -> None:
        while True:
            self.seen = self.meter.look()
            self.firm |= {worker.name for worker in self.seen.stopped if "-firm" in worker.name}
            await asyncio.sleep(_LOOK_S)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments("bench.hpc", __doc__, repeats=1)
    parser.add_argument("--targets", type=int, default=200, help="targets over all hybrid sites (default 200)")
    parser.add_argument("--alone", type=int, default=5, help="targets for the site without miners (default 5)")
    parser.add_argument("--jobs", type=int, default=256, help="jobs frozen and requeued at once (default 256)")
    parser.add_argument("--listed", type=int, default=1_000, help="jobs listed on 100 nodes (default 1000)")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.set_defaults(work_s=(20.0, 60.0))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a tiny run, to see that it works")
    return main_of(parser, argv, _bench)


async def _bench(options: argparse.Namespace) -> None:
    if (missing := missing_for_slurm()) is not None:
        raise BenchError(f"no Slurm: {missing}")
    if options.quick:
        options.targets, options.alone, options.jobs, options.listed, options.work_s = 4, 1, 16, 50, (6.0, 12.0)
    introduce(f"bench.hpc: {options.targets} targets for {SITES} sites on {SITES * NODES_PER_SITE} nodes")
    rng = Random(options.seed)
    with Noise() as noise, tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        figures = await _targets(Path(name), options, rng)
        figures |= await _many(options)
        if "read" in options.only:
            read = await reading(options.listed, 100, scheduler)
            say(f"reading {options.listed} jobs and 100 nodes: {read['read_cpu_ms']} ms of the agent's processor time")
            figures |= read
    finish(figures, [{}], noise)


def _cluster(proctrack: str, partitions: Mapping[str, str]) -> SlurmCluster:
    return SlurmCluster(nodes=SITES * NODES_PER_SITE, cpus=CPUS, partitions=partitions, proctrack=proctrack)


async def _many(options: argparse.Namespace) -> dict[str, float]:
    """Many jobs frozen and requeued, on nodes of their own kind."""
    figures: dict[str, float] = {}
    for part, proctrack, suffix in (("many", PROCTRACK, ""), ("many_linuxproc", "linuxproc", "_linuxproc")):
        if part in options.only:
            async with _cluster(proctrack, _ALL) as cluster:
                many = await freeze_and_requeue(cluster, scheduler(cluster, "all"), options.jobs)
            say(f"proctrack/{proctrack}: " + ", ".join(f"{key} {took_s:.2f}" for key, took_s in many.items()))
            figures |= {key.removesuffix("_s") + f"{suffix}_s": took_s for key, took_s in many.items()}
    return figures


async def _targets(folder: Path, options: argparse.Namespace, rng: Random) -> dict[str, Any]:
    """The parts with sites, each on a cluster of its own. No node is in two partitions, as on a site that lets its
    agent admit jobs node by node."""
    figures: dict[str, Any] = {}
    of_sites = {f"s{number}": f"Nodes=node[{first}-{first + NODES_PER_SITE - 1}]" for number, first in _firsts()}
    for part, partitions, run in (("hybrid", of_sites, _sites), ("alone", _ALL, _alone)):
        if part not in options.only:
            continue
        feeders: list[Feeder] = []
        async with _cluster(PROCTRACK, partitions) as cluster, LocalBroker(kind="mosquitto") as broker:
            (cluster.folder / "out").mkdir()
            (cluster.folder / "work.py").write_text(WORK)
            (folder / part).mkdir()
            eye = Eye(ProcessMeter(cluster.folder))
            async with _beside(eye.run()), center(broker, folder / part, tick_s=_TICK_S) as controller:
                results = await run(cluster, broker, controller, folder / part, options, eye, feeders, rng)
            found = _figures(results, feeders, eye)
        figures |= {key: figures.get(key, 0) + value if key in _SUMMED else value for key, value in found.items()}
    return figures


async def _sites(
    cluster: SlurmCluster,
    broker: LocalBroker,
    controller: Center,
    folder: Path,
    options: argparse.Namespace,
    eye: Eye,
    feeders: list[Feeder],
    rng: Random,
) -> list[Result]:
    """The hybrid sites, all at once."""
    async with contextlib.AsyncExitStack() as stack:
        sites, feeding = [], contextlib.AsyncExitStack()
        for number, first in _firsts():
            nodes = frozenset(f"node{node}" for node in range(first, first + NODES_PER_SITE))
            site = await _site(stack, f"site-{number}", f"s{number}", nodes, ASICS, cluster, broker, folder, eye)
            feeder = Feeder(cluster, site.partition, options.seed * 100 + number, work_s=options.work_s)
            await feeding.enter_async_context(_beside(feeder.run()))
            sites.append(site)
            feeders.append(feeder)
        async with feeding:
            await _until_full(sites, controller)
            targets = [Targets(site, controller, Random(rng.random())) for site in sites]
            plans = [depths(options.targets // SITES, rng) for _ in sites]
            telling = asyncio.create_task(_tell(targets, options.targets))
            await asyncio.gather(*(one.run(plan) for one, plan in zip(targets, plans, strict=True)))
            telling.cancel()
        await _drain(feeders)
    return [result for one in targets for result in one.results]


async def _alone(
    cluster: SlurmCluster,
    broker: LocalBroker,
    controller: Center,
    folder: Path,
    options: argparse.Namespace,
    eye: Eye,
    feeders: list[Feeder],
    rng: Random,
) -> list[Result]:
    """One site of all nodes and no miners."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = frozenset(f"node{node}" for node in range(1, SITES * NODES_PER_SITE + 1))
        site = await _site(stack, "alone", "all", nodes, 0, cluster, broker, folder, eye)
        feeder = Feeder(cluster, "all", options.seed * 100, waiting=8, work_s=options.work_s)
        feeders.append(feeder)
        async with _beside(feeder.run()):
            await _until_full([site], controller)
            targets = Targets(site, controller, rng)
            await targets.run([0.30] * options.alone)
        await _drain([feeder])
    return targets.results


async def _site(
    stack: contextlib.AsyncExitStack,
    name: str,
    partition: str,
    nodes: frozenset[str],
    asics: int,
    cluster: SlurmCluster,
    broker: LocalBroker,
    folder: Path,
    eye: Eye,
) -> HybridSite:
    """A site and its agent, for the life of the stack."""
    time_s = asyncio.get_running_loop().time
    site = await stack.enter_async_context(hybrid_site(name, partition, nodes, asics, lambda: eye.seen, time_s))
    await stack.enter_async_context(site_agent(site, cluster, broker.settings("unused"), folder))
    return site


async def _until_full(sites: Sequence[HybridSite], controller: Center) -> None:
    """Until the controller has ordered every site, and every site draws most of what it can."""
    try:
        async with asyncio.timeout(_FULL_S):
            while not await _ordered(sites, controller):  # noqa: ASYNC110  another process's
                await asyncio.sleep(0.2)
            while any(site.power_w < RECOVERED * site.full_w for site in sites):  # noqa: ASYNC110  physics
                await asyncio.sleep(0.2)
    except TimeoutError:
        drawn = ", ".join(f"{site.name} {site.power_w:.0f} of {site.full_w} W" for site in sites)
        raise BenchError(f"not at full load after {_FULL_S:.0f} s: {drawn}") from None


async def _ordered(sites: Sequence[HybridSite], controller: Center) -> bool:
    known = {each["site"] for each in (await controller.get("/v1/sites"))["sites"]}
    if not known.issuperset(site.name for site in sites):
        return False
    return all([(await controller.get(f"/v1/sites/{site.name}")).get("order") for site in sites])


async def _drain(feeders: Sequence[Feeder]) -> None:
    """Until every job that was ever started has ended by itself."""
    for feeder in feeders:
        await feeder.cancel_waiting()
    for feeder in feeders:
        await feeder.until_done(_DRAIN_S)


async def _tell(targets: Sequence[Targets], wanted: int) -> None:
    while True:
        await asyncio.sleep(30.0)
        results = [result for one in targets for result in one.results]
        say(f"{len(results)} of {wanted} targets, {sum(result.met(WITHIN_S) for result in results)} met")


def _figures(results: Sequence[Result], feeders: Sequence[Feeder], eye: Eye) -> dict[str, Any]:
    for result in results:
        if not result.met(ALONE_WITHIN_S if result.site == "alone" else WITHIN_S):
            say(f"not met: {result}")
    lost = [job for feeder in feeders for job in feeder.lost()]
    for job in lost[:10]:
        say(f"lost: {job}")
    restarts: Counter[str] = Counter()
    for feeder in feeders:
        restarts.update(feeder.restarts())
    alone = all(result.site == "alone" for result in results)
    return (_alone_figures(results) if alone else _hybrid_figures(results)) | {
        "jobs": sum(len(feeder.jobs) for feeder in feeders),
        "jobs_requeued": restarts["moves"],
        "jobs_lost": len(lost),
        "firm_touched": len(eye.firm) + restarts["firm"],
    }


def _hybrid_figures(results: Sequence[Result]) -> dict[str, Any]:
    firsts = [WITHIN_S if result.first_action_s is None else result.first_action_s for result in results]
    thirty = [result for result in results if result.depth == 0.30]
    return {
        "targets": len(results),
        "met": sum(result.met(WITHIN_S) for result in results),
        "first_action_p50_s": round(percentile(firsts, 0.5), 3),
        "first_action_p99_s": round(percentile(firsts, 0.99), 3),
        "reached_p99_s": round(percentile([_or(result.reached_s) for result in results], 0.99), 2),
        "shed30_s": _slowest(thirty),
    }


def _alone_figures(results: Sequence[Result]) -> dict[str, Any]:
    return {
        "shed30_hpc_only_s": _slowest(results),
        "hpc_only_met": sum(result.met(ALONE_WITHIN_S) for result in results),
    }


def _slowest(results: Sequence[Result]) -> float | None:
    """None where no target was of that kind."""
    return round(max(_or(result.reached_s) for result in results), 2) if results else None


def _or(reached_s: float | None) -> float:
    return 999.0 if reached_s is None else reached_s


def _firsts() -> list[tuple[int, int]]:
    """Each site's number and first node."""
    return [(number, 1 + NODES_PER_SITE * (number - 1)) for number in range(1, SITES + 1)]


@contextlib.asynccontextmanager
async def _beside(work: Any) -> AsyncIterator[None]:
    """Run this for the length of the block; what it raises is raised."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    raise SystemExit(main())
