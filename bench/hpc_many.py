"""The parts of the HPC bench without a site: what a driver takes to reach many jobs, and what it costs to read many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agent.config import Timing
from agent.drivers.base import Applied, PartitionFacts
from agent.drivers.schedulers._slurm_managed import ManagedSlurm
from agent.drivers.schedulers.slurm_rest import rest_partition
from bench.process import BenchError
from contract.clock import SystemClock
from sim.slurm import SlurmCluster, marked_processes

READS: Final = 5
_SUBMIT_AT_ONCE: Final = 4
_WAIT_S: Final = 120.0
_LOOK_S: Final = 0.01
_GONE: Final = frozenset("ZX")


async def freeze_and_requeue(cluster: SlurmCluster, options: dict[str, Any], count: int) -> dict[str, float]:
    """Seconds from the driver's command until the last process of so many jobs stands still, and until it is gone."""
    partition = str(options["partition"])
    script = ("exec sleep 900", "-n1", f"--partition={partition}", "--requeue")
    jobs = await _submit(cluster, count, *script)
    pids = await _pids(cluster, count)
    driver = rest_partition(options, deadline_s=10.0, clock=SystemClock())
    assert isinstance(driver, ManagedSlurm)  # noqa: S101  it was given scontrol
    try:
        await driver.read()
        frozen_s = await _until(lambda: driver.freeze(jobs), pids, lambda states: all(state == "T" for state in states))
        await driver.thaw(jobs)
        await asyncio.sleep(1.0)
        await driver.set_admission(False)
        requeued_s = await _until(lambda: driver.requeue(jobs), pids, lambda states: set(states) <= _GONE)
    finally:
        await driver.close()
        await cluster.command("scontrol", "update", f"partitionname={partition}", "state=up")
        await cluster.clear()
    return {f"freeze{count}_s": round(frozen_s, 3), f"requeue{count}_s": round(requeued_s, 3)}


async def reading(jobs: int, nodes: int, make: Callable[[SlurmCluster, str], dict[str, Any]]) -> dict[str, float]:
    """The agent's processor time for one reading of so many jobs and nodes, over its default tick."""
    place = f"NodeAddr=127.0.0.1 Port=[{_DARK_PORT}-{_DARK_PORT + nodes - 2}]"
    dark = f"NodeName=dark[1-{nodes - 1}] NodeHostname=dark[1-{nodes - 1}] {place} CPUs=16 State=DOWN"
    async with SlurmCluster(nodes=1, cpus=16, partitions={"hpc": "Nodes=ALL Default=YES"}, more_config=dark) as cluster:
        await _submit(cluster, jobs, "true", "-N1", "--hold", "--time=60", "--comment=wattshift value=2")
        await cluster.command("scontrol", "update", "partitionname=hpc", "state=down")
        await cluster.command("scontrol", "release", ",".join(map(str, range(1, jobs + 1))))
        driver = rest_partition(make(cluster, "hpc"), deadline_s=10.0, clock=SystemClock())
        try:
            await driver.read()
            began_s = time.process_time()
            found = [await driver.read() for _ in range(READS)]
            used_s = (time.process_time() - began_s) / READS
        finally:
            await driver.close()
    if any(not isinstance(facts, PartitionFacts) or len(facts.jobs) != jobs for facts in found):
        raise BenchError(f"not all of {jobs} jobs were read: {str(found[-1])[:200]}")
    tick_s = Timing().poll_every_ms / 1_000
    return {"read_cpu_ms": round(1e3 * used_s, 1), "read_core_share": round(used_s / tick_s, 4)}


_DARK_PORT: Final = 21_000
"""Nodes that are down have ports that nobody asks."""


async def _submit(cluster: SlurmCluster, count: int, script: str, *options: str) -> list[str]:
    gate = asyncio.Semaphore(_SUBMIT_AT_ONCE)

    async def one() -> str:
        async with gate:
            return await cluster.submit(script, *options)

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def _pids(cluster: SlurmCluster, count: int) -> list[int]:
    """The processes of the jobs, once all are there."""
    async with asyncio.timeout(_WAIT_S):
        while True:
            found = [pid for pid in marked_processes(cluster.folder) if _words(pid)[:2] == ["sleep", "900"]]
            if len(found) == count:
                return found
            await asyncio.sleep(0.2)


async def _until(act: Callable[[], Any], pids: Sequence[int], holds: Callable[[Sequence[str]], bool]) -> float:
    """Seconds from the command until the kernel shows it of every process."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    acting = asyncio.ensure_future(act())
    async with asyncio.timeout(_WAIT_S):
        while not holds([_state(pid) for pid in pids]):  # noqa: ASYNC110  other processes' states
            await asyncio.sleep(_LOOK_S)
    took_s = loop.time() - began_s
    outcomes = await acting
    if bad := [outcome for outcome in outcomes.values() if not isinstance(outcome, Applied)]:
        raise BenchError(f"{len(bad)} of {len(outcomes)} jobs: {bad[0]}")
    return took_s


def _state(pid: int) -> str:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    return "X"


def _words(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    return []
