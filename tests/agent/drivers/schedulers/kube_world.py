"""A simulated cluster behind an API server on a real loopback socket, and the driver in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agent.drivers.base import PartitionFacts
from agent.drivers.schedulers.kubernetes import KubernetesPartition, kubernetes_partition
from contract.clock import SystemClock
from contract.messages import Job, JobState
from sim.devices.kube_api import KubeApiServer
from sim.devices.kube_cluster import KubeCluster

DEADLINE_S = 3.0
CLOCK = SystemClock()
MAY = {"wattshift.io/requeue": "true"}
KUEUE = {"cluster_queue": "gpu"}
PLAIN = {"namespace": "hpc"}


@dataclass
class KubeWorld:
    cluster: KubeCluster
    server: KubeApiServer
    url: str
    drivers: list[KubernetesPartition] = field(default_factory=list)

    def driver(self, **options: Any) -> KubernetesPartition:
        """A new one, as after a restart of the agent."""
        deadline_s = options.pop("deadline_s", DEADLINE_S)
        if not {"cluster_queue", "namespace"} & options.keys():
            options |= KUEUE
        if not {"kubeconfig", "in_cluster"} & options.keys():
            options = {"url": self.url} | options
        given = {"node_selector": "pool=gpu", "node_busy_w": 1_000, "node_idle_w": 200} | options
        made = kubernetes_partition(given, deadline_s=deadline_s, clock=CLOCK)
        self.drivers.append(made)
        return made

    def commands(self) -> list[str]:
        return [command.command for command in self.server.log.since(0) if command.obeyed]

    def settled_running(self, key: str) -> int:
        """Pods of a job that run by now."""
        self.cluster.reconcile()
        return self.cluster.running(key)

    def annotations(self, kind: str, key: str) -> dict[str, str]:
        found: dict[str, str] = self.cluster.get(kind, key)["metadata"]["annotations"]
        return found


@asynccontextmanager
async def kube(nodes: int = 4, **options: Any) -> AsyncIterator[KubeWorld]:
    cluster = KubeCluster(lambda: CLOCK.wall_ms() / 1_000)
    for number in range(1, nodes + 1):
        cluster.add_node(f"n{number}")
    cluster.add_node("login", cpu=8, labels={"pool": "login"})
    cluster.add_queue("gpu", "research/batch", "hpc/batch")
    cluster.add_queue("other", "research/cheap")
    server = KubeApiServer(cluster, **options)
    world = KubeWorld(cluster, server, f"http://127.0.0.1:{await server.start()}")
    try:
        yield world
    finally:
        for driver in world.drivers:
            await driver.close()
        await server.stop()


async def facts_of(driver: KubernetesPartition) -> PartitionFacts:
    found = await driver.read()
    assert isinstance(found, PartitionFacts), found
    return found


async def job_of(driver: KubernetesPartition, key: str) -> Job | None:
    return next((job for job in (await facts_of(driver)).jobs if job.id == key), None)


async def state_of(driver: KubernetesPartition, key: str) -> JobState | None:
    job = await job_of(driver, key)
    return None if job is None else job.state


async def until(so: Callable[[], bool]) -> None:
    """Wait until it is so, for long on a loaded machine."""
    async with asyncio.timeout(15):
        while not so():  # noqa: ASYNC110  what is waited for is the cluster's state
            await asyncio.sleep(0.02)
