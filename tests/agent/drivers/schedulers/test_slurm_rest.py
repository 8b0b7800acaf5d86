"""The driver against the simulated slurmrestd: over each transport, shared by partitions, and its options."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.drivers.base import Applied, Partition, PartitionFacts, Remembers
from agent.drivers.schedulers.slurm_rest import rest_partition
from sim.clock import LoopClock
from sim.devices.slurmrestd import JOBS_APART, SlurmRestServer
from sim.jobs import JobPhase
from sim.partition import HpcPartition, PartitionPlan
from sim.virtual import run_virtual, virtual_loop
from tests.agent.drivers.schedulers.rest_world import (
    FROZEN,
    PENDING,
    RUNNING,
    SOCKET,
    START_MS,
    Rig,
    in_virtual_time,
    spec,
)


@pytest.mark.parametrize("over", ["tcp", "unix", "virtual tcp", "virtual unix"])
def test_a_partition_is_read_frozen_thawed_and_closed_over_each_transport(over: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "s.sock") if over == "unix" else SOCKET
        rig = Rig(spec("1", 2, firm=True), spec("2", 1), spec("3", 3), url=f"unix:{path}")
        if over.endswith("tcp"):
            rig.url = f"http://127.0.0.1:{await rig.server.start()}"
            rig.driver = rig.new_driver()
        else:
            await rig.server.start_unix(path)
        assert isinstance(rig.driver, Remembers)
        driver: Partition = rig.driver
        found = await rig.facts()
        assert (found.nodes_up, found.nodes_busy, found.admitting) == (4, 3, True)
        assert {job.id: (job.state, job.power_w, job.firm) for job in found.jobs} == {
            "1": (RUNNING, 1_360, True),
            "2": (RUNNING, 680, False),
            "3": (PENDING, 2_040, False),
        }
        assert await driver.freeze(["1", "2"]) == {"1": Applied(), "2": Applied()}
        assert rig.job("1").phase is JobPhase.FROZEN
        assert await rig.states() == {"1": FROZEN, "2": FROZEN, "3": PENDING}
        assert (await rig.facts()).nodes_busy == 3, "a frozen job keeps its nodes"
        assert await driver.thaw(["1", "2"]) == {"1": Applied(), "2": Applied()}
        assert await rig.states() == {"1": RUNNING, "2": RUNNING, "3": PENDING}
        assert await driver.set_admission(False) == Applied()
        assert rig.job("3").held
        assert not (await rig.facts()).admitting
        assert await driver.set_admission(True) == Applied()
        assert not rig.job("3").held
        assert (await rig.facts()).admitting
        await driver.close()
        await driver.close()
        await rig.server.stop()

    if over.startswith("virtual"):
        run_virtual(main())
    else:
        asyncio.run(main())


def test_partitions_of_one_slurmrestd_share_a_listing_and_a_session() -> None:
    async def main() -> None:
        plans = [PartitionPlan(name, "feeder", "hall", 4) for name in ("gpu", "cpu")]
        partitions = [HpcPartition(plan, START_MS) for plan in plans]
        for partition in partitions:
            partition.submit(spec("1", 2))
        server = SlurmRestServer(partitions)
        await server.start_unix(SOCKET)
        rig = Rig(url=f"unix:{SOCKET}", server=server)
        gpu, cpu = rig.driver, rig.new_driver(partition="cpu")
        reads = await asyncio.gather(gpu.read(), cpu.read())
        assert server.requests == 3, "jobs, nodes and partitions, once"
        names = [[job.id for job in read.jobs] for read in reads if isinstance(read, PartitionFacts)]
        assert names == [["1"], [str(JOBS_APART + 1)]]
        await gpu.read()
        assert server.requests == 6, "the same driver asks for something newer"
        await cpu.freeze([str(JOBS_APART + 1)])
        found = await cpu.read()
        assert isinstance(found, PartitionFacts)
        assert [job.state for job in found.jobs] == [FROZEN], "and never sees what is older than its own command"
        await gpu.close()
        assert isinstance(await cpu.read(), PartitionFacts), "the other goes on"
        await cpu.close()
        await server.stop()
        assert virtual_loop().network.connection_count == 0

    in_virtual_time(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://host"},
        {"url": "http://"},
        {"url": "http://host:99999"},
        {"url": "http://host:0"},
        {"url": "unix:relative"},
        {"partition": ""},
        {"user": "a\nb"},
        {"node_busy_w": 0},
        {"node_idle_w": 901},
        {"values": {"by_qos": {"x": float("nan")}}},
        {"colour": "blue"},
    ],
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    right = {"url": "http://host:6820", "partition": "gpu", "node_busy_w": 900, "node_idle_w": 220}
    run_virtual(_accepts(right))
    with pytest.raises(ValidationError):
        run_virtual(_accepts(right | wrong))


async def _accepts(options: dict[str, Any]) -> None:
    rest_partition(options, deadline_s=1.0, clock=LoopClock(START_MS))
