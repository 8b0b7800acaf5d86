"""What breaks in mid-shed, on a real Slurm: the agent's HPC bank over the real driver, and processes that tell the
truth. No job may be lost, and nothing that somebody else did may be undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from agent.contain import Containment
from agent.drivers.base import Applied, PartitionFacts, Refused, Unreachable
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from agent.guard_model import BankHold
from agent.job_ladder import Nodes
from agent.partition import HpcBank
from contract.clock import SystemClock
from contract.messages import JobState
from sim.process_meter import ProcessMeter
from sim.slurm import SlurmCluster, missing_for_slurm
from tests.agent.drivers.schedulers.slurm_world import (
    COUNT,
    Drivers,
    facts,
    partition_state,
    scripts,
    states,
    total,
    until,
    until_true,
)

_MISSING = missing_for_slurm()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(_MISSING is not None, reason=f"no Slurm: {_MISSING}"),
    pytest.mark.asyncio(loop_scope="module"),
]

STEPS = 1_000
FULL_W, IDLE_W = 3 * 900, 3 * 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[SlurmCluster]:
    async with SlurmCluster(
        nodes=3, cpus=4, more_config="SlurmdTimeout=6\nLicenses=kw:100\nKillOnBadExit=0\n"
    ) as cluster:
        (cluster.folder / "count.py").write_text(COUNT)
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: SlurmCluster) -> AsyncIterator[SlurmCluster]:
    yield running
    await running.command("scontrol", "update", "partitionname=hpc", "state=up")
    await running.clear()
    for path in running.folder.glob("job*"):
        path.unlink()


@pytest_asyncio.fixture(loop_scope="module")
async def drivers(cluster: SlurmCluster) -> AsyncIterator[Drivers]:
    made = Drivers(cluster)
    yield made
    await made.close()


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
async def bank_over(
    driver: SlurmPartition, *, deadline_s: float = 5.0, settle_ms: int = 2_000
) -> AsyncIterator[HpcBank]:
    """The agent's bank, looking at its partition three times a second."""
    bank = HpcBank(
        "hpc",
        driver,
        Nodes(3, 900, 100),
        deadline_s=deadline_s,
        stale_ms=3_000,
        settle_ms=settle_ms,
        clock=SystemClock(),
        contain=Containment(),
        on_change=lambda: None,
    )

    async def look() -> None:
        while True:
            bank.look()
            await asyncio.sleep(0.3)

    tasks = [asyncio.create_task(bank.run()), asyncio.create_task(look())]
    try:
        yield bank
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def counting(cluster: SlurmCluster, name: str, *options: str, steps: int = STEPS) -> str:
    script = f"exec python3 {cluster.folder}/count.py {cluster.folder}/job-{name} {steps}"
    return await cluster.submit(script, "-N1", "-n4", "--time=10", *options)


async def ended_right(cluster: SlurmCluster, *names: str, steps: int = STEPS) -> None:
    await until(lambda: all((cluster.folder / f"job-{name}").exists() for name in names))
    assert {(cluster.folder / f"job-{name}").read_text() for name in names} == {total(steps)}


async def test_slurmctld_restarted_in_mid_shed_forgets_the_closing_and_loses_no_job(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed(deadline_s=1.0)
    for name in ("a", "b", "c"):
        await counting(cluster, name)
    await until(lambda: len(scripts(cluster, "count.py")) == 3)
    async with bank_over(driver, deadline_s=1.0) as bank:
        bank.hold(hold(IDLE_W), None)
        await until(lambda: scripts(cluster, "count.py") == ["T", "T", "T"])
        await until_true(lambda: _is(cluster, "down"))
        late = await counting(cluster, "late")
        await cluster.stop_controller()
        await asyncio.sleep(1.5)
        assert scripts(cluster, "count.py") == ["T", "T", "T"], "what stands still needs no slurmctld for it"
        await cluster.start_controller()
        await until_true(lambda: _is(cluster, "down"))  # slurm.conf says UP
        assert await cluster.state(late) == "PENDING"
        bank.hold(hold(FULL_W), None)
        await ended_right(cluster, "a", "b", "c", "late")
        await until(lambda: not bank.claims.admission_closed)
    assert await partition_state(cluster) == "up"


async def test_slurmctld_restarted_while_a_requeued_job_waits_loses_nothing_of_it(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    name = await counting(cluster, "back", "--requeue", steps=3_000)
    await until((cluster.folder / "job-back.starts").exists)
    assert await driver.set_admission(False) == Applied()
    assert await driver.requeue([name]) == {name: Applied()}
    await until(lambda: scripts(cluster, "count.py") == [])
    await cluster.stop_controller()
    assert isinstance(await driver.set_admission(True), Unreachable)
    await cluster.start_controller()
    assert isinstance(await driver.set_admission(True), Applied)
    await ended_right(cluster, "back", steps=3_000)
    assert (cluster.folder / "job-back.starts").read_text() == "xx"


async def test_a_slow_slurmctld_costs_one_deadline_and_what_it_did_late_is_still_ours_to_undo(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed(deadline_s=0.5)
    name = await counting(cluster, "slow")
    await until(lambda: scripts(cluster, "count.py") != [])
    assert await states(driver) == {name: JobState.RUNNING}
    loop = asyncio.get_running_loop()
    cluster.pause_controller()
    try:
        began_s = loop.time()
        assert isinstance(await driver.read(), Unreachable)
        assert loop.time() - began_s < 1.5
        assert isinstance((await driver.freeze([name]))[name], Unreachable)
        assert isinstance(await driver.set_admission(False), Unreachable)
        assert isinstance((await driver.requeue([name]))[name], Unreachable)
        assert loop.time() - began_s < 12.0
    finally:
        cluster.resume_controller()
    patient = drivers.managed(deadline_s=5.0)
    patient.memory = driver.memory
    assert isinstance(await patient.read(), PartitionFacts)
    assert await patient.thaw([name]) == {name: Applied()}
    assert isinstance(await patient.set_admission(True), Applied)
    await ended_right(cluster, "slow")
    assert await partition_state(cluster) == "up"


async def test_targets_that_come_while_slurmctld_stands_still_are_met_when_it_goes_on(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed(deadline_s=1.0)
    for name in ("a", "b", "c"):
        await counting(cluster, name, steps=3_000)
    await until(lambda: len(scripts(cluster, "count.py")) == 3)
    async with bank_over(driver, deadline_s=1.0) as bank:
        bank.hold(hold(FULL_W), None)
        await until(lambda: bank.settled)
        cluster.pause_controller()
        try:
            bank.hold(hold(IDLE_W + 2 * 800), None)
            await asyncio.sleep(0.5)
            bank.hold(hold(IDLE_W), None)
            await asyncio.sleep(2.0)
        finally:
            cluster.resume_controller()
        await until(lambda: scripts(cluster, "count.py") == ["T", "T", "T"])
        bank.hold(hold(FULL_W), None)
        await ended_right(cluster, "a", "b", "c", steps=3_000)
        await until(lambda: not bank.claims.admission_closed)
    assert await partition_state(cluster) == "up"


async def test_a_token_that_expires_in_mid_shed_wakes_nothing_and_its_successor_undoes_all(
    cluster: SlurmCluster, drivers: Drivers, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(await cluster.token(lifespan_s=600))
    driver = drivers.managed(token_file=token_file)
    await counting(cluster, "kept")
    await until(lambda: scripts(cluster, "count.py") != [])
    async with bank_over(driver) as bank:
        bank.hold(hold(IDLE_W), None)
        await until(lambda: scripts(cluster, "count.py") == ["T"])
        await until_true(lambda: _is(cluster, "down"))
        old = await cluster.token(lifespan_s=1)
        await asyncio.sleep(2.1)
        token_file.write_text(old)
        bank.hold(hold(FULL_W), None)
        await until(lambda: bank.faults.get("auth", 0) > 0)
        assert scripts(cluster, "count.py") == ["T"]
        token_file.write_text(await cluster.token(lifespan_s=600))
        await ended_right(cluster, "kept")
        await until(lambda: not bank.claims.admission_closed)
    assert await partition_state(cluster) == "up"


async def test_what_nodes_draw_is_learned_from_a_meter_over_real_jobs(cluster: SlurmCluster, drivers: Drivers) -> None:
    """The meter shows what the kernel says of the jobs' processes: an idle node draws 80 W and a busy one 700, and the
    nameplate says 100 and 900."""
    driver = drivers.managed()
    (cluster.folder / "work.py").write_text("import time\ntime.sleep(600)\n")
    meter, every = ProcessMeter(cluster.folder), frozenset({"node1", "node2", "node3"})
    async with bank_over(driver, settle_ms=500) as bank:
        bank.hold(hold(FULL_W), None)

        async def metered() -> None:
            while True:
                power_w = 3 * 80 + 620 * meter.look().busy_cpus(every) // 4
                bank.correct(power_w, SystemClock().mono_ms(), 20)
                await asyncio.sleep(0.1)

        metering = asyncio.create_task(metered())
        try:
            for jobs in (3, 1, 0):
                await cluster.clear()
                for _ in range(jobs):
                    work = f"exec python3 {cluster.folder}/work.py {cluster.folder}/job-x"
                    await cluster.submit(work, "-N1", "--ntasks-per-node=1", "--cpus-per-task=4", "--time=10")
                await until(partial(_running_work, cluster, jobs))
                seen = bank.node_power.readings
                await until(partial(_has_read, bank, seen + 30))
        finally:
            metering.cancel()
        assert bank.node_power.idle_w == pytest.approx(80, abs=12)
        assert bank.node_power.busy_milli == pytest.approx(1_000 * 620 / 800, abs=50)
        assert (bank.survey(SystemClock().mono_ms()).power_w or 0) == pytest.approx(240, abs=40)
        told = bank.reading(SystemClock().mono_ms(), 10)
        assert told is not None
        assert told.idle_w == pytest.approx(240, abs=40), "and the controller is told so"


async def test_a_node_that_dies_takes_its_job_back_to_the_queue_and_the_rest_of_the_shed_stands(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    dies = await counting(cluster, "dies", "--nodelist=node3", "--requeue")
    await counting(cluster, "stays", "--nodelist=node1")
    await until(lambda: len(scripts(cluster, "count.py")) == 2)
    async with bank_over(driver) as bank:
        bank.hold(hold(IDLE_W), None)
        await until(lambda: scripts(cluster, "count.py") == ["T", "T"])
        await cluster.kill_node("node3")
        await cluster.command("scontrol", "update", "nodename=node3", "state=down", "reason=dead")
        await cluster.until(dies, "PENDING")
        await until(lambda: bank.claims.frozen != [] and dies not in bank.claims.frozen)
        await until(lambda: nodes_up(bank) == 2)
        assert scripts(cluster, "count.py") == ["T"]
        await cluster.start_node("node3")
        await cluster.command("scontrol", "update", "nodename=node3", "state=resume")
        bank.hold(hold(FULL_W), None)
        await ended_right(cluster, "dies", "stays")


async def test_jobs_that_come_by_during_an_event_start_only_when_it_is_over(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    await counting(cluster, "there")
    await until(lambda: len(scripts(cluster, "count.py")) == 1)
    async with bank_over(driver) as bank:
        bank.hold(hold(IDLE_W), None)
        await until(lambda: scripts(cluster, "count.py") == ["T"])
        await until_true(lambda: _is(cluster, "down"))
        for name in ("x", "y", "z"):
            await counting(cluster, name)
        await asyncio.sleep(1.5)
        assert scripts(cluster, "count.py") == ["T"]
        bank.hold(hold(FULL_W), None)
        await ended_right(cluster, "there", "x", "y", "z")


async def test_what_an_operator_suspended_is_neither_counted_nor_woken(cluster: SlurmCluster, drivers: Drivers) -> None:
    """`suspend` gives the job's CPUs away, which is why the driver never uses it."""
    driver = drivers.managed()
    theirs = await counting(cluster, "theirs")
    await until(lambda: scripts(cluster, "count.py") != [])
    await cluster.command("scontrol", "suspend", theirs)
    await until(lambda: scripts(cluster, "count.py") == ["T"])
    read = await facts(driver)
    assert read.jobs == ()
    assert await driver.freeze([theirs]) == {theirs: Applied("stopped by somebody else")}
    assert isinstance((await driver.thaw([theirs]))[theirs], Refused)
    await cluster.command("scontrol", "resume", theirs)
    await ended_right(cluster, "theirs")


async def test_a_thaw_straight_after_a_freeze_does_not_wait(cluster: SlurmCluster, drivers: Drivers) -> None:
    """Where a resume within two seconds of a suspend would be queued."""
    driver = drivers.managed()
    name = await counting(cluster, "quick", steps=3_000)
    await until(lambda: scripts(cluster, "count.py") != [])
    assert await driver.freeze([name]) == {name: Applied()}
    await until(lambda: scripts(cluster, "count.py") == ["T"])
    began_s = asyncio.get_running_loop().time()
    assert await driver.thaw([name]) == {name: Applied()}
    await until(lambda: "T" not in scripts(cluster, "count.py"))
    assert asyncio.get_running_loop().time() - began_s < 1.9


async def test_an_operators_licence_reservation_keeps_its_jobs_waiting_through_our_event(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    words = ("reservationname=kw", "starttime=now", "duration=60", "user=nobody", "flags=ANY_NODES", "nodecnt=1")
    await cluster.command("scontrol", "create", "reservation", *words, "licenses=kw:100")
    try:
        waits = await cluster.submit("true", "-n1", "--licenses=kw:10")
        await asyncio.sleep(1.2)
        assert await cluster.state(waits) == "PENDING"
        assert await driver.set_admission(False) == Applied()
        assert await driver.set_admission(True) == Applied()
        await asyncio.sleep(1.2)
        assert await cluster.state(waits) == "PENDING"
    finally:
        await cluster.command("scontrol", "delete", "reservationname=kw")
    await cluster.until(waits, "COMPLETED", "")


def _running_work(cluster: SlurmCluster, count: int) -> bool:
    return len(scripts(cluster, "work.py")) == count


def _has_read(bank: HpcBank, count: int) -> bool:
    return bank.node_power.readings >= count


def nodes_up(bank: HpcBank) -> int | None:
    reading = bank.reading(SystemClock().mono_ms(), 10)
    return None if reading is None else reading.nodes_up


async def _is(cluster: SlurmCluster, state: str) -> bool:
    return await partition_state(cluster) == state
