"""Seeded days of faults, restarts and changes of mind: in the end the driver has undone its own doing and no more."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from agent.drivers.base import PartitionFacts
from agent.drivers.schedulers._slurm_ledger import DOUBT_S
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from agent.drivers.schedulers.slurm_rest import rest_partition
from contract.messages import JobState
from sim.clock import LoopClock
from sim.devices.slurmrestd import SlurmFault, SlurmRestServer
from sim.jobs import JobPhase, JobSpec
from sim.partition import HpcPartition, PartitionPlan
from sim.ports import DeviceFault
from sim.virtual import run_virtual

START_MS = 1_795_000_000_000
SOCKET = "/slurmrestd.sock"
STEPS = 80
THEIRS = ("1", "2", "16")
"""Stopped, stopped and held by an operator."""
FAULTS = (*DeviceFault, *SlurmFault)


class Day:
    """One seed's day."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = LoopClock(START_MS)
        self.partition = HpcPartition(PartitionPlan("gpu", "feeder", "hall", 8), START_MS)
        for number in range(1, 16):
            nodes = 1 if number < 8 else self.rng.randint(1, 3)
            work_s = self.rng.choice((300.0, 1e6))
            self.partition.submit(JobSpec(str(number), START_MS, nodes, work_s, 1e6, self.rng.random() < 0.3, 1.0))
        self.partition.freeze("1")
        self.partition.freeze("2")
        self.partition.submit(JobSpec("16", START_MS, 8, 1e6, 1e6, firm=False, value_usd_per_node_h=1.0))
        self.partition.hold("16")
        self.server = SlurmRestServer(self.partition)
        self.driver = self.new_driver()
        self.seen: PartitionFacts | None = None

    def new_driver(self) -> SlurmPartition:
        options = {"url": f"unix:{SOCKET}", "partition": "gpu", "node_busy_w": 900, "node_idle_w": 220}
        return rest_partition(options, deadline_s=1.0, clock=self.clock)

    async def run(self) -> None:
        await self.server.start_unix(SOCKET)
        await self.look()
        for _ in range(STEPS):
            await self.rng.choice(
                (self.look, self.freeze, self.thaw, self.admission, self.restart, self.fault, self.live)
            )()
        self.server.fault, self.server.latency_s = None, 0.0
        await asyncio.sleep(DOUBT_S + 1)
        for _ in range(3):
            await self.look()
            await self.driver.thaw(self.in_state(JobState.FROZEN))
            await self.driver.set_admission(True)
        await self.look()
        self.judge()
        await self.driver.close()
        await self.server.stop()

    def judge(self) -> None:
        assert self.seen is not None
        assert self.seen.admitting
        for run in self.partition.jobs:
            touched = run.phase is JobPhase.FROZEN or run.held
            assert touched == (run.spec.id in THEIRS), run
        kept = json.loads(self.driver.memory["ledger"])
        assert (kept["frozen"], kept["held"], kept["waking"], kept["admitting"]) == ({}, [], [], True)

    def in_state(self, state: JobState) -> list[str]:
        return [job.id for job in self.seen.jobs if job.state is state] if self.seen is not None else []

    async def look(self) -> None:
        self.partition.advance_to(self.clock.wall_ms())
        read = await self.driver.read()
        self.seen = read if isinstance(read, PartitionFacts) else self.seen

    async def freeze(self) -> None:
        running = self.in_state(JobState.RUNNING)
        await self.driver.freeze(self.rng.sample(running, self.rng.randint(0, len(running))))

    async def thaw(self) -> None:
        await self.driver.thaw(self.in_state(JobState.FROZEN))

    async def admission(self) -> None:
        await self.driver.set_admission(self.rng.random() < 0.5)

    async def restart(self) -> None:
        kept = self.driver.memory
        await self.driver.close()
        self.driver = self.new_driver()
        self.driver.memory = kept

    async def fault(self) -> None:
        self.server.fault = self.rng.choice(FAULTS) if self.rng.random() < 0.6 else None
        self.server.latency_s = self.rng.choice((0.0, 0.0, 0.02, 1.5))

    async def live(self) -> None:
        await asyncio.sleep(self.rng.choice((0.1, 5.0, 90.0)))


@pytest.mark.parametrize("seed", range(40))
def test_in_the_end_all_of_ours_is_undone_and_nothing_of_theirs(seed: int) -> None:
    async def main() -> None:
        await Day(seed).run()

    run_virtual(main(), seed=seed)
