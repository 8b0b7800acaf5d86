"""What the tests on a real Slurm share: drivers, and what its processes do."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from agent.drivers.base import PartitionFacts
from agent.drivers.schedulers import REGISTRY
from agent.drivers.schedulers._slurm_managed import ManagedSlurm, PoweredSlurm
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from contract.clock import SystemClock
from contract.messages import Job, JobState
from sim.slurm import SlurmCluster, marked_processes

PATIENCE_S: Final = 30.0
"""Far longer than anything here takes: only a broken test waits so long."""
COUNT: Final = """\
import signal, sys, time
path, steps = sys.argv[1], int(sys.argv[2])
try:
    n, i = map(int, open(path + ".saved").read().split())
except OSError:
    n, i = 0, 0
def save(*_):
    open(path + ".saved", "w").write(f"{n} {i}")
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
open(path + ".starts", "a").write("x")
while i < steps:
    n, i = n + i, i + 1
    time.sleep(0.002)
open(path, "w").write(str(n))
"""
"""Work with a result, that goes on from a checkpoint which it writes when it is told to end."""


class Drivers:
    """Makes drivers and closes them."""

    def __init__(self, cluster: SlurmCluster) -> None:
        self.cluster = cluster
        self._made: list[SlurmPartition] = []

    def new(self, kind: str = "slurm_rest", *, deadline_s: float = 5.0, **options: Any) -> SlurmPartition:
        cluster = self.cluster
        shape: dict[str, Any] = {
            "partition": "hpc",
            "token_file": cluster.token_file,
            "node_busy_w": 900,
            "node_idle_w": 100,
            "slurm_conf": cluster.folder / "slurm.conf",
            "scancel": shutil.which("scancel"),
            "scontrol": shutil.which("scontrol"),
        }
        if kind == "slurm_rest":
            shape |= {"url": cluster.url, "user": cluster.user}
        driver = REGISTRY[kind](shape | options, deadline_s=deadline_s, clock=SystemClock())
        assert isinstance(driver, SlurmPartition)
        self._made.append(driver)
        return driver

    def managed(self, kind: str = "slurm_rest", **options: Any) -> ManagedSlurm:
        driver = self.new(kind, **options)
        assert isinstance(driver, ManagedSlurm)
        return driver

    def powered(self, **options: Any) -> PoweredSlurm:
        driver = self.new(node_off_w=10, **options)
        assert isinstance(driver, PoweredSlurm)
        return driver

    async def close(self) -> None:
        for driver in self._made:
            await driver.close()


async def facts(driver: SlurmPartition) -> PartitionFacts:
    read = await driver.read()
    assert isinstance(read, PartitionFacts), read
    return read


async def states(driver: SlurmPartition) -> dict[str, JobState]:
    return {job.id: job.state for job in (await facts(driver)).jobs}


async def job(driver: SlurmPartition, name: str) -> Job:
    return next(found for found in (await facts(driver)).jobs if found.id == name)


def scripts(cluster: SlurmCluster, script: str) -> list[str]:
    """The states of all processes that run a Python script, sorted: R runs, S sleeps, T is stopped."""
    found = []
    for pid in marked_processes(cluster.folder):
        process = Path(f"/proc/{pid}")
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if len(words) > 1 and words[1] == str(cluster.folder / script).encode():
            found.append(state)
    return sorted(found)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  other processes' states
            await asyncio.sleep(0.02)


async def until_true(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110  other processes' states
            await asyncio.sleep(0.05)


async def described(cluster: SlurmCluster, name: str) -> str:
    return await cluster.command("scontrol", "show", "job", "--oneliner", name)


async def partition_state(cluster: SlurmCluster) -> str:
    return (await cluster.command("sinfo", "--noheader", "--partition=hpc", "--format=%a")).strip()


def total(steps: int) -> str:
    """What COUNT comes to."""
    return str(sum(range(steps)))
