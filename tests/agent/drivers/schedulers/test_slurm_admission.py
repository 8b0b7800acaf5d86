"""Starts let in node by node, on a real Slurm: a reservation of our own, which harms nobody and is gone afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agent.drivers.base import Applied, Refused
from contract.messages import JobState
from sim.slurm import SlurmCluster, SlurmError, missing_for_slurm
from tests.agent.drivers.schedulers.slurm_world import Drivers, facts, partition_state, until_true

_MISSING = missing_for_slurm()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(_MISSING is not None, reason=f"no Slurm: {_MISSING}"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[SlurmCluster]:
    partitions = {"hpc": "Nodes=node[1-3] Default=YES", "one": "Nodes=node4", "two": "Nodes=node4"}
    async with SlurmCluster(nodes=4, cpus=4, partitions=partitions) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: SlurmCluster) -> AsyncIterator[SlurmCluster]:
    yield running
    for name in await reservations(running):
        await running.command("scontrol", "delete", f"reservationname={name}")
    await running.command("scontrol", "update", "partitionname=hpc", "state=up")
    await running.clear()


@pytest_asyncio.fixture(loop_scope="module")
async def drivers(cluster: SlurmCluster) -> AsyncIterator[Drivers]:
    made = Drivers(cluster)
    yield made
    await made.close()


async def reservations(cluster: SlurmCluster) -> list[str]:
    try:
        printed = await cluster.command("scontrol", "show", "reservation", "--oneliner")
    except SlurmError:
        return []
    return [word.partition("=")[2] for word in printed.split() if word.startswith("ReservationName=")]


async def whole_node(cluster: SlurmCluster, *options: str) -> str:
    return await cluster.submit("exec sleep 300", "-N1", "-n4", *options)


async def where(cluster: SlurmCluster) -> dict[str, str]:
    """The node of each job that runs."""
    printed = await cluster.command("squeue", "--noheader", "--states=RUNNING", "--format=%i %N")
    return dict(line.split() for line in printed.splitlines())


async def test_jobs_start_on_the_open_nodes_alone_and_on_all_when_it_is_over(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    there = await whole_node(cluster, "--nodelist=node3")
    await cluster.until(there, "RUNNING")
    assert (await facts(driver)).placed == {there: ("node3",)}
    assert (await facts(driver)).steps
    assert isinstance(await driver.set_admission(False), Applied)
    assert isinstance(await driver.admit_on({"node1"}), Applied)
    read = await facts(driver)
    assert (read.admitting, read.barred) == (True, frozenset({"node2", "node3"}))
    waiting = [await whole_node(cluster) for _ in range(3)]
    await until_true(lambda: _runs(cluster, 2))
    await asyncio.sleep(2.5)  # the scheduler looks for room every second
    assert set((await where(cluster)).values()) == {"node1", "node3"}
    assert there in await where(cluster), "what runs on a barred node goes on"
    assert isinstance(await driver.admit_on({"node1", "node2"}), Applied)
    await until_true(lambda: _runs(cluster, 3))
    await cluster.command("scancel", there)
    await asyncio.sleep(2.5)
    assert set((await where(cluster)).values()) == {"node1", "node2"}
    assert isinstance(await driver.set_admission(True), Applied)
    await until_true(lambda: _runs(cluster, 3))
    assert set(await where(cluster)) == set(waiting)
    assert await reservations(cluster) == []
    assert (await facts(driver)).barred == frozenset()


async def test_it_outlives_slurmctld_and_the_agent_and_is_undone_by_the_next_incarnation(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    assert isinstance(await driver.admit_on({"node2"}), Applied)
    await cluster.stop_controller()
    await cluster.start_controller()
    again = drivers.managed()
    again.memory = driver.memory
    read = await facts(again)
    assert read.barred == frozenset({"node1", "node3"})
    assert await reservations(cluster) == ["wattshift_hpc"]
    assert isinstance(await again.set_admission(True), Applied)
    assert await reservations(cluster) == []


async def test_an_operator_may_reserve_the_same_nodes_and_keeps_what_is_theirs(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    assert isinstance(await driver.admit_on({"node1"}), Applied)
    words = ("reservationname=ops", "starttime=now", "duration=60", "user=nobody", "nodes=node3")
    await cluster.command("scontrol", "create", "reservation", *words)
    assert isinstance(await driver.set_admission(True), Applied)
    assert await reservations(cluster) == ["ops"]


async def test_a_reservation_that_an_operator_deleted_is_made_again_at_the_next_word(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    assert isinstance(await driver.admit_on({"node1"}), Applied)
    await cluster.command("scontrol", "delete", "reservationname=wattshift_hpc")
    assert isinstance(await driver.admit_on({"node1", "node2"}), Applied)
    assert await reservations(cluster) == ["wattshift_hpc"]
    await cluster.command("scontrol", "delete", "reservationname=wattshift_hpc")
    assert isinstance(await driver.set_admission(True), Applied)


async def test_a_partition_that_an_operator_closed_is_not_opened_by_it(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.managed()
    await cluster.command("scontrol", "update", "partitionname=hpc", "state=inactive")
    assert isinstance(await driver.admit_on({"node1"}), Applied)
    assert await partition_state(cluster) == "inactive"
    await driver.set_admission(True)
    assert await partition_state(cluster) == "inactive"


async def test_a_node_that_another_partition_has_too_is_not_ours_to_bar(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed(partition="one")
    assert not (await facts(driver)).steps
    assert isinstance(await driver.admit_on(set()), Refused)
    assert await reservations(cluster) == []


async def test_jobs_that_we_held_are_let_go_with_the_first_open_node(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.managed()
    moved = await whole_node(cluster, "--requeue")
    await cluster.until(moved, "RUNNING")
    await driver.set_admission(False)
    assert isinstance((await driver.requeue([moved]))[moved], Applied)
    await cluster.until(moved, "PENDING")
    assert isinstance(await driver.admit_on({"node2"}), Applied)
    await cluster.until(moved, "RUNNING", timeout_s=40.0)  # once its old credential has expired
    assert await where(cluster) == {moved: "node2"}
    assert [found.state for found in (await facts(driver)).jobs] == [JobState.RUNNING]


async def _runs(cluster: SlurmCluster, count: int) -> bool:
    return len(await where(cluster)) == count
