"""What a Kubernetes partition and its nodes' BMCs cost the agent: a reading of every job and node, 256 jobs suspended,
a reading and a limit of every BMC.

A simulated API server with Kueue and simulated Redfish services on real sockets, in a process of their own; the real
drivers through the real kubernetes-asyncio in this one, whose processor time is what is taken. `read_core` and
`hosts_core` are parts of a core at the default ticks of 5 s and 10 s. Simulated objects are smaller than real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from agent.drivers.base import Applied, PartitionFacts
from agent.drivers.hosts.group import HostGroup
from agent.drivers.hosts.host import Host, HostReading
from agent.drivers.hosts.redfish import redfish_host
from agent.drivers.schedulers.kubernetes import KubernetesPartition, kubernetes_partition
from bench.command import arguments, main_of
from bench.figures import Noise, Run, finish, introduce, say, summary
from bench.process import BenchError
from contract.clock import SystemClock
from sim.devices.kube_api import KubeApiServer
from sim.devices.kube_cluster import KubeCluster
from sim.devices.redfish import RedfishServer

TICK_S: Final = 5.0
HOSTS_TICK_S: Final = 10.0
SUSPENDED: Final = 256
READINGS: Final = 5
DEADLINE_S: Final = 20.0
CPUS: Final = 64
_PATIENCE_S: Final = 60.0
_SETTLE_S: Final = 0.5
"""So often the simulated controllers look at all their objects: their time is not what is measured."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of the cluster."""

    jobs: int
    nodes: int
    hosts: int


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments("bench.kube", __doc__, repeats=3)
    parser.add_argument("--jobs", type=int, default=1_000, metavar="N", help="Jobs that run (default 1000)")
    parser.add_argument("--nodes", type=int, default=100, metavar="N", help="nodes of the partition (default 100)")
    parser.add_argument("--hosts", type=int, default=100, metavar="N", help="BMCs (default 100)")
    return main_of(parser, argv, _bench)


async def _bench(options: argparse.Namespace) -> None:
    size = Size(options.jobs, options.nodes, options.hosts)
    introduce(f"bench.kube: {size.jobs} jobs on {size.nodes} nodes, {size.hosts} BMCs")
    runs: list[Run] = []
    with Noise() as noise:
        for number in range(1, options.repeats + 1):
            run = await _run(size)
            say(
                f"run {number}: read with {run['read_core']:.1%} of a core, {SUSPENDED} jobs suspended in "
                f"{run['suspend_s']:.2f} s, BMCs read with {run['hosts_core']:.1%} of a core, limited in "
                f"{run['limit_s']:.2f} s"
            )
            runs.append(run)
    say("goal: 1,000 jobs and 100 nodes under 5 % of a core at the default tick; no goal is set for the rest")
    finish({"jobs": size.jobs, "nodes": size.nodes, "hosts": size.hosts, **summary(runs, digits=4)}, runs, noise)


async def _run(size: Size) -> Run:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_peers, args=(there, size), daemon=True)
    process.start()
    try:
        if not await asyncio.to_thread(here.poll, _PATIENCE_S):
            raise BenchError("the simulated cluster did not start")
        url, ports = here.recv()
        return {**await _of_jobs(url), **await _of_hosts(ports)}
    finally:
        process.kill()
        await asyncio.to_thread(process.join)


async def _of_jobs(url: str) -> Run:
    options = {"url": url, "cluster_queue": "gpu", "node_selector": "pool=gpu", "suspend": "all"}
    powers = {"node_busy_w": 1_000, "node_idle_w": 200}
    driver = kubernetes_partition(options | powers, deadline_s=DEADLINE_S, clock=SystemClock())
    facts = await _read(driver)
    began_s = time.process_time()
    for _ in range(READINGS):
        facts = await _read(driver)
    read_core = (time.process_time() - began_s) / READINGS / TICK_S
    jobs = sorted(facts.requeueable)[:SUSPENDED]
    began_s = time.monotonic()
    outcomes = await driver.requeue(jobs)
    suspend_s = time.monotonic() - began_s
    await driver.close()
    if not all(isinstance(outcome, Applied) for outcome in outcomes.values()):
        raise BenchError("a job was not suspended")
    return {"read_core": read_core, "suspend_s": suspend_s}


async def _of_hosts(ports: Sequence[int]) -> Run:
    with tempfile.TemporaryDirectory(prefix="wattshift-bench-") as name:
        file = Path(name) / "password"
        file.write_text("secret", encoding="utf-8")
        given = {"username": "admin", "password_file": str(file)}
        hosts: dict[str, Host] = {
            f"n{port}": redfish_host(f"http://127.0.0.1:{port}", given, deadline_s=DEADLINE_S, clock=SystemClock())
            for port in ports
        }
        group = HostGroup(hosts, deadline_s=DEADLINE_S)
        await group.read()
        began_s = time.process_time()
        for _ in range(READINGS):
            found = await group.read()
        hosts_core = (time.process_time() - began_s) / READINGS / HOSTS_TICK_S
        began_s = time.monotonic()
        outcomes = await group.set_limits_w(dict.fromkeys(group.nodes, 500))
        limit_s = time.monotonic() - began_s
        await group.close()
    if not all(isinstance(reading, HostReading) for reading in found.values()):
        raise BenchError("a BMC was not read")
    if not all(isinstance(outcome, Applied) for outcome in outcomes.values()):
        raise BenchError("a BMC was not limited")
    return {"hosts_core": hosts_core, "limit_s": limit_s}


async def _read(driver: KubernetesPartition) -> PartitionFacts:
    found = await driver.read()
    if not isinstance(found, PartitionFacts):
        raise BenchError(f"the partition was not read: {found.detail}")
    return found


def _peers(answer: Connection, size: Size) -> None:
    """The other process: it serves until it is killed."""
    asyncio.run(_serve(answer, size))


async def _serve(answer: Connection, size: Size) -> None:
    clock = SystemClock()
    cluster = KubeCluster(lambda: clock.wall_ms() / 1_000, settle_s=_SETTLE_S)
    for number in range(size.nodes):
        cluster.add_node(f"n{number}", cpu=CPUS)
    cluster.add_queue("gpu", "research/batch")
    cpus = max(1, size.nodes * CPUS // size.jobs)
    cluster.add_jobs([f"research/j{number}" for number in range(size.jobs)], queue="batch", cpu=cpus)
    server = KubeApiServer(cluster)
    url = f"http://127.0.0.1:{await server.start()}"
    bmcs = [RedfishServer() for _ in range(size.hosts)]
    answer.send((url, [await bmc.start() for bmc in bmcs]))
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    raise SystemExit(main())
