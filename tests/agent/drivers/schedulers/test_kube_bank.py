"""The agent's bank over a Kubernetes partition: it sheds the least valuable jobs by suspending them, leaves firm ones
alone, and brings all back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from agent.contain import Containment
from agent.drivers.schedulers.kubernetes import KubernetesPartition
from agent.guard_model import BankHold
from agent.job_ladder import Nodes
from agent.partition import HpcBank
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
async def bank_over(driver: KubernetesPartition) -> AsyncIterator[HpcBank]:
    """Looking at its partition five times a second."""
    bank = HpcBank(
        "gpu",
        driver,
        Nodes(4, 1_000, 200),
        deadline_s=3.0,
        stale_ms=3_000,
        settle_ms=2_000,
        clock=CLOCK,
        contain=Containment(),
        on_change=lambda: None,
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
            assert bank.admission_closed
            bank.hold(hold(4_000), None)
            await until(lambda: running(world) == {"cheap", "dear", "firm", "late"})
            assert world.cluster.restarts["research/firm"] == 1
            await until(lambda: world.annotations("clusterqueues", "gpu") == {})
        assert world.cluster.get("clusterqueues", "gpu")["spec"]["stopPolicy"] == "None"
        assert bank.frozen == [], "nothing was ever asked to freeze"
        assert ("freeze", "refused") not in bank.commands


async def test_a_restarted_agent_brings_back_what_the_one_before_suspended() -> None:
    async with kube() as world:
        submit(world, "cheap", 1.0)
        submit(world, "dear", 9.0)
        async with bank_over(world.driver()) as bank:
            bank.hold(hold(IDLE_W), None)
            await until(lambda: running(world) == set())
        async with bank_over(world.driver()) as bank:
            bank.admission_closed = True  # what its state file says
            bank.hold(hold(4_000), None)
            await until(lambda: running(world) == {"cheap", "dear"})
        assert world.commands().count("patch clusterqueues/gpu stopPolicy=None") == 1
