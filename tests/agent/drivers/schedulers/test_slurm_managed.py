"""What the driver does with `scontrol`, on a real Slurm: closing a partition, requeueing, powering nodes down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from agent.drivers.base import Applied, Refused
from contract.messages import JobState
from sim.slurm import SlurmCluster, missing_for_slurm
from tests.agent.drivers.schedulers.slurm_world import (
    COUNT,
    Drivers,
    described,
    facts,
    job,
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

STEPS = 1_500
"""Three seconds of COUNT."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[SlurmCluster]:
    async with SlurmCluster(nodes=4, cpus=4, power_saving=True) as cluster:
        (cluster.folder / "count.py").write_text(COUNT)
        (cluster.folder / "spin.py").write_text("import time\nwhile True:\n time.sleep(0.01)\n")
        (cluster.folder / "deaf.py").write_text(
            "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n time.sleep(0.01)\n"
        )
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: SlurmCluster) -> AsyncIterator[SlurmCluster]:
    yield running
    await running.command("scontrol", "update", "partitionname=hpc", "state=up")
    await running.clear()


@pytest_asyncio.fixture(loop_scope="module")
async def drivers(cluster: SlurmCluster) -> AsyncIterator[Drivers]:
    made = Drivers(cluster)
    yield made
    await made.close()


async def counting(cluster: SlurmCluster, name: str, *options: str, steps: int = STEPS) -> str:
    """A counting job that runs."""
    script = f"exec python3 {cluster.folder}/count.py {cluster.folder}/{name} {steps}"
    submitted = await cluster.submit(script, "-n1", "--time=10", *options)
    await until((cluster.folder / f"{name}.starts").exists)
    return submitted


@pytest.mark.parametrize("kind", ["slurm_rest", "slurm"])
async def test_a_job_submitted_during_an_event_waits_and_starts_afterwards(
    cluster: SlurmCluster, drivers: Drivers, kind: str
) -> None:
    driver = drivers.managed(kind)
    assert await driver.set_admission(False) == Applied()
    late = await cluster.submit("true", "-n1")
    await asyncio.sleep(1.5)  # the scheduler looks for work every second
    assert await cluster.state(late) == "PENDING"
    assert not (await facts(driver)).admitting
    assert await driver.set_admission(False) == Applied("closed"), "asserted again, it changes nothing"
    assert await driver.set_admission(True) == Applied()
    await cluster.until(late, "COMPLETED", "")
    assert (await facts(driver)).admitting


async def test_a_reconfigured_slurm_forgets_that_it_was_closed_and_is_seen_to_and_closed_again(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    assert await driver.set_admission(False) == Applied()
    await cluster.command("scontrol", "reconfigure")
    assert (await facts(driver)).admitting
    assert await driver.set_admission(False) == Applied()
    assert await partition_state(cluster) == "down"
    assert await driver.set_admission(True) == Applied()
    assert await partition_state(cluster) == "up"


@pytest.mark.parametrize("theirs", ["down", "drain", "inactive"])
async def test_a_partition_that_an_operator_closed_stays_as_found(
    cluster: SlurmCluster, drivers: Drivers, theirs: str
) -> None:
    driver = drivers.managed()
    await cluster.command("scontrol", "update", "partitionname=hpc", f"state={theirs}")
    assert isinstance(await driver.set_admission(False), Applied)
    assert await driver.set_admission(True) == Applied()
    await facts(driver)
    assert (await partition_state(cluster)).startswith(theirs[:5])


async def test_what_we_closed_is_opened_after_our_own_restart_but_not_what_an_operator_set_meanwhile(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    first = drivers.managed()
    assert await first.set_admission(False) == Applied()
    second = drivers.managed()
    second.memory = json.loads(json.dumps(first.memory))
    assert await second.set_admission(True) == Applied()
    assert await partition_state(cluster) == "up"
    assert await second.set_admission(False) == Applied()
    await cluster.command("scontrol", "update", "partitionname=hpc", "state=inactive")
    assert isinstance(await second.set_admission(True), Applied)
    assert (await partition_state(cluster)).startswith("inact")


async def test_an_operators_drained_node_is_neither_used_nor_powered_nor_undrained_also_over_our_restart(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.powered()
    await cluster.command("scontrol", "update", "nodename=node4", "state=drain", "reason=fans")
    try:
        await driver.set_admission(False)
        read = await facts(driver)
        assert read.idle_nodes == ("node1", "node2", "node3")
        assert isinstance(await driver.power_down(["node4"]), Refused)
        assert await driver.power_up(["node4"]) == Applied("not ours")
        again = drivers.powered()
        again.memory = json.loads(json.dumps(driver.memory))  # our own restart, in mid-shed
        assert (await facts(again)).off_nodes == ()
        assert await again.power_up(["node4"]) == Applied("not ours")
        await again.set_admission(True)
        shown = await cluster.command("scontrol", "show", "node", "node4")
        assert "IDLE+DRAIN" in shown
        assert "Reason=fans" in shown
    finally:
        await cluster.command("scontrol", "update", "nodename=node4", "state=resume")


@pytest.mark.parametrize("kind", ["slurm_rest", "slurm"])
async def test_a_requeued_job_waits_held_and_finishes_with_the_right_output(
    cluster: SlurmCluster, drivers: Drivers, kind: str
) -> None:
    driver = drivers.managed(kind)
    name = await counting(cluster, f"requeued-{kind}")
    assert (await facts(driver)).requeueable == {name}
    await asyncio.sleep(0.3)  # some of the work is done
    assert await driver.set_admission(False) == Applied()
    assert await driver.requeue([name]) == {name: Applied()}
    await until(lambda: scripts(cluster, "count.py") == [])
    await cluster.until(name, "PENDING")
    assert "requeued_in_held_state" in await described(cluster, name)
    again = drivers.managed(kind)
    again.memory = json.loads(json.dumps(driver.memory))
    assert isinstance(await again.set_admission(True), Applied), "at once, while its old credential still stands"
    assert "JobHeld" not in await described(cluster, name)
    await cluster.until(name, "COMPLETED", "", timeout_s=40.0)
    result = cluster.folder / f"requeued-{kind}"
    assert result.read_text() == total(STEPS)
    assert result.with_suffix(".starts").read_text() == "xx"
    done = int(result.with_suffix(".saved").read_text().split()[1])
    assert done > 0, "it went on from its checkpoint"


async def test_a_frozen_job_that_is_requeued_writes_its_checkpoint_first(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    name = await counting(cluster, "frozen", steps=20_000)
    assert await driver.freeze([name]) == {name: Applied()}
    await until(lambda: scripts(cluster, "count.py") == ["T"])
    assert await states(driver) == {name: JobState.FROZEN}
    assert await driver.requeue([name]) == {name: Applied()}
    await until(lambda: scripts(cluster, "count.py") == [])
    assert (cluster.folder / "frozen.saved").exists(), "Slurm let it go on for its TERM"
    await cluster.until(name, "PENDING")
    assert (await facts(driver)).nodes_busy == 0
    assert "frozen" in driver.memory["ledger"]


async def test_a_job_that_may_not_be_requeued_goes_on(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.managed()
    name = await counting(cluster, "kept", "--no-requeue")
    assert (await facts(driver)).requeueable == frozenset()
    assert await driver.requeue([name, "999999"]) == {
        name: Refused("Slurm may not requeue it"),
        "999999": Applied("no longer there"),
    }
    await cluster.until(name, "COMPLETED", "")
    assert (cluster.folder / "kept").read_text() == total(STEPS)


async def test_a_job_that_ignores_term_is_off_its_node_after_kill_wait_and_back_in_the_queue(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    driver = drivers.managed()
    name = await cluster.submit(f"trap '' TERM; python3 {cluster.folder}/deaf.py", "-n1")
    await until(lambda: scripts(cluster, "deaf.py") != [])
    assert await driver.requeue([name]) == {name: Applied()}
    await until(lambda: scripts(cluster, "deaf.py") == [])
    await cluster.until(name, "PENDING")


async def test_a_warning_reaches_the_batch_script_and_nothing_else(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.managed()
    told = cluster.folder / "told"
    script = f"trap 'echo x >>{told}' USR1; python3 {cluster.folder}/spin.py & while true; do wait; done"
    name = await cluster.submit(script, "-n1", "--comment=wattshift notice=30")
    await until(lambda: scripts(cluster, "spin.py") != [])
    assert (await job(driver, name)).notice_ms == 30_000
    assert await driver.warn([name]) == {name: Applied()}
    await until(told.exists)
    assert len(scripts(cluster, "spin.py")) == 1, "Python would have died of the signal"


async def test_terms_come_from_the_sites_map_and_an_unmapped_qos_is_counted_and_takes_the_default(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    mapped = {"default_usd_per_node_h": 0.5, "by_account": {"physics": 3.0}, "firm_accounts": ["clinic"]}
    terms = {"terms_by_account": {"physics": {"notice_s": 60, "checkpoint_s": 600, "freeze": False}}}
    driver = drivers.managed(values=mapped | terms)
    known = await cluster.submit("sleep 60", "-n1", "--account=physics")
    stray = await cluster.submit("sleep 60", "-n1", "--account=unheard")
    await cluster.until(stray, "RUNNING")
    read = await facts(driver)
    jobs = {found.id: found for found in read.jobs}
    assert (jobs[known].notice_ms, jobs[known].checkpoint_every_ms) == (60_000, 600_000)
    assert read.unfreezable == {known}
    assert (jobs[stray].value_usd_per_node_h, jobs[stray].firm) == (0.125, False), "a quarter of a node's default"
    await facts(driver)
    assert driver.faults["unmapped_qos"] == 1, "each job once"


async def test_nodes_are_powered_down_and_up_again_and_take_jobs_then(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.powered()
    busy = await cluster.submit("sleep 60", "-n1", "--nodelist=node1")
    await cluster.until(busy, "RUNNING")
    power = asyncio.create_task(cluster.follow_power())
    try:
        assert isinstance(await driver.power_down(["node3"]), Refused), "not while jobs may start on it"
        await driver.set_admission(False)
        assert await driver.power_down(["node1"]) == Refused("no longer idle"), "Slurm would wait for its job"
        assert await driver.power_down(["node1", "node3", "node4"]) == Applied()

        async def down() -> bool:
            read = await facts(driver)
            return read.off_nodes == ("node3", "node4") and read.nodes_up == 2

        await until_true(down)
        again = drivers.powered()
        again.memory = json.loads(json.dumps(driver.memory))
        assert (await facts(again)).off_nodes == ("node3", "node4"), "ours also after our own restart"

        async def up() -> bool:
            read = await facts(again)
            if read.off_nodes:
                await again.power_up(read.off_nodes)
            return read.nodes_up == 4 and not read.booting

        await until_true(up)
        assert (await facts(again)).off_nodes == ()
        await again.set_admission(True)
        late = await cluster.submit("true", "-N3", "--exclude=node1")
        await cluster.until(late, "COMPLETED", "")
    finally:
        power.cancel()
        with suppress(asyncio.CancelledError):
            await power


async def test_a_licence_reservation_that_an_operator_made_is_left_alone(
    cluster: SlurmCluster, drivers: Drivers
) -> None:
    """Such a reservation blocks starts by itself; jobs it keeps waiting are nobody's of ours to release."""
    driver = drivers.managed()
    made = await cluster.command(
        "scontrol", "create", "reservation", "reservationname=kw", "starttime=now", "duration=60", "user=root",
        "nodes=node4",
    )  # fmt: skip
    assert "kw" in made
    try:
        await driver.set_admission(False)
        await driver.set_admission(True)
        assert "ReservationName=kw" in await cluster.command("scontrol", "show", "reservation")
    finally:
        await cluster.command("scontrol", "delete", "reservationname=kw")


async def test_both_ways_to_slurm_see_the_same(cluster: SlurmCluster, drivers: Drivers) -> None:
    running = await cluster.submit("sleep 60", "-N1", "-n4", "--time=60", "--comment=wattshift value=4 firm")
    await cluster.submit("sleep 60", "-N4", "-n16")
    await cluster.until(running, "RUNNING")
    by_rest, by_programs = await facts(drivers.managed()), await facts(drivers.managed("slurm"))
    left = {"remaining_ms": None}
    assert [one.model_copy(update=left) for one in by_rest.jobs] == [
        one.model_copy(update=left) for one in by_programs.jobs
    ]
    assert (by_rest.nodes_up, by_rest.nodes_busy, by_rest.admitting, by_rest.requeueable) == (
        by_programs.nodes_up,
        by_programs.nodes_busy,
        by_programs.admitting,
        by_programs.requeueable,
    )


async def test_the_programs_freeze_and_thaw_script_and_steps(cluster: SlurmCluster, drivers: Drivers) -> None:
    driver = drivers.managed("slurm")
    script = f"python3 {cluster.folder}/spin.py & srun -n1 python3 {cluster.folder}/spin.py"
    name = await cluster.submit(script, "-n1")
    await until(lambda: len(scripts(cluster, "spin.py")) == 2)
    assert await driver.freeze([name]) == {name: Applied()}
    await until(lambda: scripts(cluster, "spin.py") == ["T", "T"])
    assert await states(driver) == {name: JobState.FROZEN}
    assert await driver.thaw([name]) == {name: Applied()}
    await until(lambda: "T" not in scripts(cluster, "spin.py"))


async def test_a_program_that_is_not_there_or_prints_no_json_is_unreachable(
    cluster: SlurmCluster, drivers: Drivers, tmp_path: Path
) -> None:
    for name, text in (("squeue", 'echo \'{"jobs": [{"job_id": 1, "job_st\''), ("sinfo", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    broken = await drivers.managed("slurm", bin=tmp_path).read()
    assert "not in the v0.0.38 form" in str(broken), "as an older squeue prints it"
    (tmp_path / "squeue").write_text("#!/bin/sh\necho squeue: unrecognized option --json >&2; exit 1\n")
    assert "unrecognized option" in str(await drivers.managed("slurm", bin=tmp_path).read())
    assert "No such file" in str(await drivers.managed("slurm", bin=tmp_path / "nowhere").read())
