"""What the tests of the driver against the simulated slurmrestd share: a rig, on the real loop or in virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from agent.drivers.base import PartitionFacts
from agent.drivers.schedulers import REGISTRY
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from contract.clock import Clock
from contract.messages import JobState
from sim.clock import LoopClock
from sim.devices.slurmrestd import SlurmRestServer
from sim.jobs import JobRun, JobSpec
from sim.partition import HpcPartition, PartitionPlan
from sim.virtual import run_virtual

START_MS = 1_795_000_000_000

DEADLINE_S = 2.0
SOCKET = "/slurmrestd.sock"
RUNNING, FROZEN, PENDING = JobState.RUNNING, JobState.FROZEN, JobState.PENDING


def spec(name: str, nodes: int = 1, **more: Any) -> JobSpec:
    shape: dict[str, Any] = {"work_s": 3_600.0, "requested_s": 7_200.0, "firm": False, "value_usd_per_node_h": 2.5}
    return JobSpec(name, START_MS, nodes, **(shape | more))


class Rig:
    """A partition of four nodes, its slurmrestd, and drivers that come and go."""

    def __init__(
        self, *specs: JobSpec, url: str, server: SlurmRestServer | None = None, clock: Clock | None = None
    ) -> None:
        self.clock = clock or LoopClock(START_MS)
        self.partition = HpcPartition(PartitionPlan("gpu", "feeder", "hall", 4), START_MS)
        for one in specs:
            self.partition.submit(one)
        self.server = server or SlurmRestServer(self.partition)
        self.url = url
        self.driver = self.new_driver()

    def new_driver(self, *, deadline_s: float = DEADLINE_S, **options: Any) -> SlurmPartition:
        shape = {"url": self.url, "partition": "gpu", "node_busy_w": 900, "node_idle_w": 220}
        driver = REGISTRY["slurm_rest"](shape | options, deadline_s=deadline_s, clock=self.clock)
        assert isinstance(driver, SlurmPartition)
        return driver

    async def restart_agent(self) -> None:
        """A new driver with nothing but what the old one asked to have kept."""
        kept = json.loads(json.dumps(self.driver.memory))
        await self.driver.close()
        self.driver = self.new_driver()
        self.driver.memory = kept

    async def facts(self) -> PartitionFacts:
        read = await self.driver.read()
        assert isinstance(read, PartitionFacts), read
        return read

    async def states(self) -> dict[str, JobState]:
        return {job.id: job.state for job in (await self.facts()).jobs}

    def job(self, name: str) -> JobRun:
        run = self.partition.job(name)
        assert run is not None
        return run

    def commands(self) -> list[str]:
        return [command.command for command in self.server.log.since(0)]


@asynccontextmanager
async def virtual(*specs: JobSpec) -> AsyncIterator[Rig]:
    rig = Rig(*specs, url=f"unix:{SOCKET}")
    await rig.server.start_unix(SOCKET)
    yield rig
    await rig.driver.close()
    await rig.server.stop()


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    run_virtual(main, seed=3)
