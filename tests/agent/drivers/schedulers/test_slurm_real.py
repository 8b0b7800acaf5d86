"""The driver on a real Slurm: what the simulated slurmrestd cannot prove, least of all that processes stand still."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agent.drivers.base import Applied, Failure, PartitionFacts, Unreachable
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from agent.drivers.schedulers.slurm_rest import rest_partition
from contract.clock import SystemClock
from contract.messages import JobState
from sim.slurm import SlurmCluster, marked_processes, missing_for_slurm
from tests.agent.drivers.schedulers.slurm_world import PATIENCE_S, described, facts, job, scripts, states, until

_MISSING = missing_for_slurm()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(_MISSING is not None, reason=f"no Slurm: {_MISSING}"),
    pytest.mark.asyncio(loop_scope="module"),
]

PARTITIONS = {"hpc": "Nodes=node[1-3] Default=YES", "aux": "Nodes=node4"}
COUNT = "import sys,time\nn=0\nfor i in range(400):\n n+=i\n time.sleep(0.002)\nopen(sys.argv[1],'w').write(str(n))\n"
"""A second of work with a result."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[SlurmCluster]:
    async with SlurmCluster(nodes=4, cpus=4, partitions=PARTITIONS) as cluster:
        (cluster.folder / "spin.py").write_text("while True:\n pass\n")
        (cluster.folder / "count.py").write_text(COUNT)
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: SlurmCluster) -> AsyncIterator[SlurmCluster]:
    """The module's cluster, without jobs."""
    yield running
    await running.clear()


class Drivers:
    """Makes drivers and closes them."""

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster
        self._made: list[SlurmPartition] = []

    def new(self, *, deadline_s: float = 5.0, scancel: bool = True, **options: Any) -> SlurmPartition:
        cluster = self._cluster
        options = {
            "url": cluster.url,
            "partition": "hpc",
            "user": cluster.user,
            "token_file": cluster.token_file,
            "node_busy_w": 900,
            "node_idle_w": 100,
        } | options
        if scancel:
            options |= {"scancel": shutil.which("scancel"), "slurm_conf": cluster.folder / "slurm.conf"}
        driver = rest_partition(options, deadline_s=deadline_s, clock=SystemClock())
        self._made.append(driver)
        return driver

    async def close(self) -> None:
        for driver in self._made:
            await driver.close()


@pytest_asyncio.fixture(loop_scope="module")
async def drivers(cluster: SlurmCluster) -> AsyncIterator[Drivers]:
    made = Drivers(cluster)
    yield made
    await made.close()


async def test_what_runs_and_what_waits_is_read_as_it_is(cluster: SlurmCluster, drivers: Drivers) -> None:
    whole = await cluster.submit("sleep 60", "-N1", "-n4", "--time=60", "--comment=wattshift value=4 firm")
    quarter = await cluster.submit("sleep 60", "-N1", "-n1", "--time=60", "--comment=wattshift value=4")
    waits = await cluster.submit("sleep 60", "-N3", "-n12")
    held = await cluster.submit("sleep 60", "--hold")
    await cluster.until(quarter, "RUNNING")
    read = await facts(drivers.new())
    jobs = {found.id: found for found in read.jobs}
    assert (read.nodes_up, read.nodes_busy, read.admitting) == (3, 2, True)
    assert {name: found.state for name, found in jobs.items()} == {
        whole: JobState.RUNNING,
        quarter: JobState.RUNNING,
        waits: JobState.PENDING,
    }
    assert held not in jobs
    assert (jobs[whole].power_w, jobs[whole].value_usd_per_node_h, jobs[whole].firm) == (800, 4.0, True)
    assert (jobs[quarter].power_w, jobs[quarter].value_usd_per_node_h, jobs[quarter].firm) == (200, 1.0, False)
    assert jobs[waits].power_w == 2_400
    left_ms = jobs[whole].remaining_ms
    assert left_ms is not None
    assert 3_500_000 < left_ms <= 3_600_000


async def test_a_frozen_job_keeps_its_nodes_stands_still_and_ends_right_once_thawed(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.new()
    result = cluster.folder / "count.txt"
    works = await cluster.submit(f"python3 {cluster.folder}/count.py {result}", "-N3", "-n12", "--time=10")
    await until(lambda: scripts(cluster, "count.py") != [])
    waits = await cluster.submit("true", "-N1")
    assert await driver.freeze([works]) == {works: Applied()}
    assert await driver.freeze([works]) == {works: Applied()}, "twice is as once"
    await until(lambda: scripts(cluster, "count.py") == ["T"])
    assert await states(driver) == {works: JobState.FROZEN, waits: JobState.PENDING}
    await cluster.command("scontrol", "reconfigure")  # makes the scheduler look for work at once
    await asyncio.sleep(1.2)
    assert await cluster.state(waits) == "PENDING", "its nodes are held, so nothing backfills"
    assert not result.exists()
    assert (await facts(driver)).nodes_busy == 3
    assert await driver.thaw([works]) == {works: Applied()}
    await cluster.until(works, "COMPLETED")
    assert result.read_text() == str(sum(range(400)))
    await cluster.until(waits, "COMPLETED")


async def test_what_srun_launches_is_stopped_by_scancel_and_by_nothing_that_rest_can_do(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver, rest_alone = drivers.new(), drivers.new(scancel=False)
    launches = await cluster.submit(f"srun -n2 python3 {cluster.folder}/spin.py", "-N2", "-n2")
    await until(lambda: scripts(cluster, "spin.py") == ["R", "R"])
    assert await rest_alone.freeze([launches]) == {launches: Applied()}
    await cluster.until(launches, "STOPPED")
    assert scripts(cluster, "spin.py") == ["R", "R"], "Slurm says STOPPED, and both tasks draw their power"
    assert await rest_alone.thaw([launches]) == {launches: Applied()}
    assert await driver.freeze([launches]) == {launches: Applied()}
    await until(lambda: scripts(cluster, "spin.py") == ["T", "T"])
    assert await states(driver) == {launches: JobState.FROZEN}
    assert await driver.thaw([launches]) == {launches: Applied()}
    await until(lambda: scripts(cluster, "spin.py") == ["R", "R"])


async def test_a_heterogeneous_job_is_one_job_frozen_in_all_its_parts(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.new()
    script = f"srun --het-group=0,1 python3 {cluster.folder}/spin.py"
    leader = await cluster.submit(script, "-n1", ":", "-n2", "-N2")
    await until(lambda: len(scripts(cluster, "spin.py")) == 3)
    found = await job(driver, leader)
    assert (found.nodes, found.power_w) == (3, 600)
    assert await driver.freeze([leader]) == {leader: Applied()}
    await until(lambda: scripts(cluster, "spin.py") == ["T", "T", "T"])
    assert await states(driver) == {leader: JobState.FROZEN}
    assert await driver.thaw([leader]) == {leader: Applied()}
    await until(lambda: "T" not in scripts(cluster, "spin.py"))


async def test_one_task_of_an_array_is_frozen_without_the_others(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.new()
    array = await cluster.submit(f"python3 {cluster.folder}/spin.py", "-n1", "--array=1-3")
    await until(lambda: len(scripts(cluster, "spin.py")) == 3)
    last = f"{array}_3"  # its own id is the array's, and a signal to that would stop all of them
    assert await driver.freeze([last]) == {last: Applied()}
    await until(lambda: "T" in scripts(cluster, "spin.py"))
    assert await states(driver) == {
        f"{array}_1": JobState.RUNNING,
        f"{array}_2": JobState.RUNNING,
        last: JobState.FROZEN,
    }
    assert scripts(cluster, "spin.py").count("T") == 1


async def test_the_time_a_job_stood_still_is_given_back_to_its_limit(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.new()
    name = await cluster.submit(f"python3 {cluster.folder}/spin.py", "-N1", "--time=10")
    await until(lambda: scripts(cluster, "spin.py") == ["R"])
    await driver.freeze([name])
    frozen = await job(driver, name)
    assert frozen.remaining_ms is not None
    assert 590_000 <= frozen.remaining_ms <= 600_000
    assert "TimeLimit=1-00:10:00" in await described(cluster, name), "Slurm would end a stopped job at its limit"
    again = await job(driver, name)
    assert again.remaining_ms == frozen.remaining_ms, "what is left of a frozen job does not melt"
    await driver.thaw([name])
    own = re.compile(r"TimeLimit=00:1[01]:00")  # ten minutes, and the one it stood still if the clock struck a second
    async with asyncio.timeout(PATIENCE_S):
        while not own.search(await described(cluster, name)):
            await facts(driver)
            await asyncio.sleep(0.05)


async def test_an_operators_hold_stays_also_over_a_restart_of_the_agent(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    first = drivers.new()
    theirs = await cluster.submit("sleep 60", "--hold")
    fills = await cluster.submit("sleep 60", "-N3", "-n12")
    await cluster.until(fills, "RUNNING")
    waits = await cluster.submit("sleep 60", "-N1")
    assert await first.set_admission(False) == Applied()
    assert "JobHeldAdmin" in await described(cluster, waits)
    read = await facts(first)
    assert not read.admitting
    assert {found.id for found in read.jobs} == {fills, waits}, "what we hold wants power, what they hold does not"
    second = drivers.new()
    second.memory = json.loads(json.dumps(first.memory))
    assert await second.set_admission(True) == Applied()
    assert "JobHeld" not in await described(cluster, waits)
    assert "JobHeldUser" in await described(cluster, theirs)


async def test_an_array_is_held_and_released_but_for_the_task_that_an_operator_holds(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.new()
    fills = await cluster.submit("sleep 60", "-N3", "-n12")
    await cluster.until(fills, "RUNNING")
    array = await cluster.submit("sleep 60", "-n1", "--array=1-4")
    await cluster.command("scontrol", "hold", f"{array}_2")
    assert await driver.set_admission(False) == Applied()
    for task in range(1, 5):
        assert "JobHeld" in await described(cluster, f"{array}_{task}")
    read = await facts(driver)
    assert {found.id for found in read.jobs} == {fills, f"{array}_1", f"{array}_3", f"{array}_4"}
    assert not read.admitting
    assert await driver.set_admission(True) == Applied()
    reasons = {task: await described(cluster, f"{array}_{task}") for task in range(1, 5)}
    assert [task for task, text in reasons.items() if "JobHeld" in text] == [2]


async def test_a_job_that_ended_after_it_was_read_counts_as_frozen(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.new()
    name = await cluster.submit("sleep 60", "-N1")
    await cluster.until(name, "RUNNING")
    assert name in await states(driver)
    await cluster.command("scancel", name)
    await cluster.until(name, "CANCELLED")
    outcomes = await driver.freeze([name, "999999"])
    assert all(isinstance(outcome, Applied) for outcome in outcomes.values()), outcomes
    assert await states(driver) == {}


async def test_a_partition_that_an_operator_closed_does_not_admit(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.new()
    await cluster.command("scontrol", "update", "partitionname=hpc", "state=down")
    try:
        assert not (await facts(driver)).admitting
    finally:
        await cluster.command("scontrol", "update", "partitionname=hpc", "state=up")
    assert (await facts(driver)).admitting
    unknown = await drivers.new(partition="nosuch").read()
    assert isinstance(unknown, Unreachable)
    assert "nosuch" in unknown.detail


async def test_a_token_that_has_expired_is_said_to_be_the_trouble(
    cluster: SlurmCluster, drivers: Drivers, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("SLURM_JWT=" + await cluster.token(lifespan_s=2))
    driver = drivers.new(token_file=token_file)
    assert isinstance(await driver.read(), PartitionFacts), "good while it lasts"
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(read := await driver.read(), Unreachable):  # noqa: ASYNC110  a server's state
            await asyncio.sleep(0.1)
    assert read.failure is Failure.AUTH
    outcomes = await driver.freeze(["1"])
    assert isinstance(outcomes["1"], Unreachable)
    assert await driver.set_admission(False) == read
    token_file.write_text(await cluster.token(lifespan_s=60))
    assert isinstance(await driver.read(), PartitionFacts), "a renewed token needs no restart"


async def test_slurmctld_gone_is_unreachable_and_then_read_again() -> None:
    async with SlurmCluster(nodes=1) as cluster:
        drivers = Drivers(cluster)
        driver = drivers.new(deadline_s=0.5, url=cluster.unix_url)
        name = await cluster.submit("sleep 60", "-N1")
        await cluster.until(name, "RUNNING")
        assert await states(driver) == {name: JobState.RUNNING}
        await cluster.stop_controller()
        assert isinstance(await driver.read(), Unreachable)
        assert isinstance((await driver.freeze([name]))[name], Unreachable)
        await cluster.start_controller()
        async with asyncio.timeout(PATIENCE_S):
            while isinstance(read := await driver.read(), Unreachable):  # noqa: ASYNC110  a server's state
                await asyncio.sleep(0.05)
        assert [found.id for found in read.jobs] == [name]
        await drivers.close()


async def test_a_cluster_leaves_nothing_behind() -> None:
    async with SlurmCluster(nodes=1) as cluster:
        folder = cluster.folder
        name = await cluster.submit("srun sleep 1000")
        await cluster.until(name, "RUNNING")
        await cluster.command("scancel", "--signal=STOP", name)
        assert marked_processes(folder)
    assert marked_processes(folder) == []
    assert not folder.exists()
