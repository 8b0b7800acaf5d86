"""The agent's bank over a Kubernetes partition: it sheds the least valuable jobs by suspending them, leaves firm ones
alone, and brings all back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agent.contain import Containment
from agent.drivers.hosts.group import HostGroup
from agent.drivers.hosts.host import Host
from agent.drivers.schedulers.kubernetes import KubernetesPartition
from agent.guard_model import BankHold
from agent.job_ladder import Nodes
from agent.partition import HpcBank
from agent.partition_hosts import PartitionHosts
from sim.devices.redfish import Machine, RedfishServer
from tests.agent.drivers.hosts.bmc import driver as redfish
from tests.agent.drivers.schedulers.kube_world import CLOCK, KubeWorld, kube, until

IDLE_W = 800


def hold(setpoint_w: int) -> BankHold:
    return BankHold(
        setpoint_w=setpoint_w,
        wanted_w=setpoint_w,
        may_raise=True,
        firm_too=False,
        on=True,
        since_ms=0,
        why=None,
        interlocks=(),
    )


@asynccontextmanager
async def bank_over(driver: KubernetesPartition, hosts: HostGroup | None = None) -> AsyncIterator[HpcBank]:
    """Looking at its partition five times a second."""
    group = None if hosts is None else PartitionHosts(hosts, deadline_s=3.0, every_ms=300, clock=CLOCK)
    bank = HpcBank(
        "gpu",
        driver,
        Nodes(4, 1_000, 200, capped_w=None if hosts is None else 500),
        deadline_s=3.0,
        stale_ms=3_000,
        settle_ms=2_000,
        clock=CLOCK,
        contain=Containment(),
        on_change=lambda: None,
        hosts=group,
    )

    async def look() -> None:
        while True:
            bank.look()
            await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(bank.run()), asyncio.create_task(look())]
    try:
        yield bank
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def submit(world: KubeWorld, name: str, value: float, **more: str) -> None:
    said = {"wattshift.io/value-usd-per-node-hour": str(value), "wattshift.io/requeue": "true"}
    said |= {f"wattshift.io/{key}": text for key, text in more.items()}
    world.cluster.add_job(f"research/{name}", queue="batch", annotations=said)


def running(world: KubeWorld) -> set[str]:
    names = ("cheap", "dear", "firm", "late")
    known = {key[1] for key in world.cluster.objects["jobs"]}
    return {name for name in names if name in known and world.settled_running(f"research/{name}")}


async def test_jobs_are_shed_by_value_and_all_come_back() -> None:
    async with kube() as world:
        submit(world, "cheap", 1.0)
        submit(world, "dear", 9.0)
        submit(world, "firm", 0.1, firm="true")
        async with bank_over(world.driver()) as bank:
            bank.hold(hold(4_000), None)
            await until(lambda: bank.survey(CLOCK.mono_ms()).power_w == IDLE_W + 3 * 800)
            bank.hold(hold(IDLE_W + 2 * 800), None)
            await until(lambda: running(world) == {"dear", "firm"})
            assert world.cluster.get("clusterqueues", "gpu")["spec"]["stopPolicy"] == "Hold"
            submit(world, "late", 5.0)
            bank.hold(hold(0), None)
            await until(lambda: running(world) == {"firm"})
            assert bank.claims.admission_closed
            bank.hold(hold(4_000), None)
            await until(lambda: running(world) == {"cheap", "dear", "firm", "late"})
            assert world.cluster.restarts["research/firm"] == 1
            await until(lambda: world.annotations("clusterqueues", "gpu") == {})
        assert world.cluster.get("clusterqueues", "gpu")["spec"]["stopPolicy"] == "None"
        assert bank.claims.frozen == [], "nothing was ever asked to freeze"
        assert ("freeze", "refused") not in bank.commands


async def test_an_agent_that_has_lost_its_state_brings_back_what_the_one_before_suspended() -> None:
    """The marks on the objects say what was ours."""
    async with kube() as world:
        submit(world, "cheap", 1.0)
        submit(world, "dear", 9.0)
        async with bank_over(world.driver()) as bank:
            bank.hold(hold(IDLE_W), None)
            await until(lambda: running(world) == set())
        async with bank_over(world.driver()) as bank:
            assert not bank.claims.admission_closed
            bank.hold(hold(4_000), None)
            await until(lambda: running(world) == {"cheap", "dear"})
        assert world.commands().count("patch clusterqueues/gpu stopPolicy=None") == 1


@asynccontextmanager
async def bmcs(folder: Path) -> AsyncIterator[tuple[dict[str, RedfishServer], HostGroup]]:
    """A BMC for each node, on sockets of their own."""
    demands_w = {"n1": 1_000, "n2": 1_000, "n3": 200, "n4": 200}
    servers = {name: RedfishServer(Machine(demand_w=demand_w)) for name, demand_w in demands_w.items()}
    hosts: dict[str, Host] = {name: redfish(await server.start(), folder) for name, server in servers.items()}
    group = HostGroup(hosts, deadline_s=3.0)
    try:
        yield servers, group
    finally:
        await group.close()
        for server in servers.values():
            await server.stop()


async def test_nodes_are_capped_by_their_bmcs_before_a_job_is_suspended_and_uncapped_after(tmp_path: Path) -> None:
    async with kube() as world, bmcs(tmp_path) as (servers, group):
        submit(world, "cheap", 1.0)
        submit(world, "dear", 9.0)
        async with bank_over(world.driver(), group) as bank:
            bank.hold(hold(4_000), None)
            await until(lambda: bank.survey(CLOCK.mono_ms()).power_w == IDLE_W + 2 * 800)
            await until(lambda: bank._hosts is not None and len(bank._hosts.cappable(CLOCK.mono_ms())) == 4)
            bank.hold(hold(1_800), None)
            await until(lambda: any(server.machine.in_force_w for server in servers.values()))
            await until(lambda: (bank.survey(CLOCK.mono_ms()).power_w or 9_999) <= 1_800)
            assert running(world) == {"cheap", "dear"}, "caps were enough"
            assert all((server.machine.in_force_w or 500) >= 500 for server in servers.values())
            bank.hold(hold(4_000), None)
            await until(lambda: not any(server.machine.in_force_w for server in servers.values()))
            assert not group.limited_by_us
        assert world.cluster.restarts == {"research/cheap": 1, "research/dear": 1}
