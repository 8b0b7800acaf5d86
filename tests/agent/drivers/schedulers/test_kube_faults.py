"""What goes wrong between the driver and an API server: each fault is named, bounded in time, and loses nothing."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from agent.drivers.base import Applied, Failure, Outcome, PartitionFacts, Refused, Unreachable
from agent.drivers.schedulers import _kube_facts
from contract.messages import JobState
from sim.ports import DeviceFault
from tests.agent.drivers.schedulers.kube_world import MAY, PLAIN, facts_of, kube, state_of, until

FIRST = "research/first"


def failure_of(outcome: Outcome | PartitionFacts) -> Failure:
    assert isinstance(outcome, Unreachable), outcome
    return outcome.failure


@pytest.mark.parametrize(
    ("fault", "failures"),
    [
        (DeviceFault.HANG, {Failure.TIMEOUT}),
        (DeviceFault.SLOW, {Failure.TIMEOUT}),
        (DeviceFault.REFUSE_CONNECTION, {Failure.CLOSED, Failure.CONNECT}),
        (DeviceFault.GARBAGE, {Failure.GARBAGE, Failure.CLOSED}),
        (DeviceFault.CUT_SHORT, {Failure.CLOSED, Failure.GARBAGE}),
        (DeviceFault.NAN, {Failure.GARBAGE}),
    ],
)
async def test_every_fault_is_named_within_the_deadline(fault: DeviceFault, failures: set[Failure]) -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch", annotations=MAY)
        driver = world.driver(deadline_s=0.5)
        await facts_of(driver)
        world.server.fault = fault
        began_s = asyncio.get_running_loop().time()
        assert failure_of(await driver.read()) in failures
        assert failure_of(await driver.set_admission(False)) in failures
        requeued = (await driver.requeue([FIRST]))[FIRST]
        assert isinstance(requeued, Applied) if fault is DeviceFault.NAN else failure_of(requeued) in failures
        assert asyncio.get_running_loop().time() - began_s < 3 * 0.5 + 2.0  # a loaded machine
        world.server.fault = None
        await facts_of(driver)
        assert isinstance(await driver.set_admission(False), Applied)


async def test_a_server_that_is_down_is_said_once_and_once_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    async with kube() as world:
        driver = world.driver()
        port = int(world.url.rpartition(":")[2])
        await facts_of(driver)
        await world.server.stop()
        with caplog.at_level(logging.INFO, logger="agent.drivers.schedulers.kubernetes"):
            for _ in range(3):
                assert failure_of(await driver.read()) in {Failure.CONNECT, Failure.CLOSED}
            await world.server.start(port=port)
            for _ in range(2):
                await facts_of(driver)
        assert [record.message.partition(":")[0] for record in caplog.records if record.levelno >= logging.INFO] == [
            "partition gpu cannot be read",
            "partition gpu is read again",
        ]
        assert driver.faults["connect"] + driver.faults["closed"] == 3


async def test_an_expired_token_is_an_auth_failure_and_a_renewed_file_needs_no_restart(tmp_path: Path) -> None:
    async with kube(token="fresh") as world:
        file = tmp_path / "token"
        file.write_text("stale")
        driver = world.driver(token_file=str(file))
        assert failure_of(await driver.read()) is Failure.AUTH
        file.write_text("fresh\n")
        assert isinstance(await driver.set_admission(False), Applied)
        world.server.token = "newer"
        assert failure_of(await driver.set_admission(True)) is Failure.AUTH
        file.unlink()
        assert failure_of(await driver.read()) is Failure.AUTH


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: site
contexts: [{{name: site, context: {{cluster: here, user: wattshift}}}}]
clusters: [{{name: here, cluster: {{server: "{url}"}}}}]
users: [{{name: wattshift, user: {{token: {token}}}}}]
"""


async def test_a_kubeconfig_is_read_anew_once_its_token_is_no_longer_taken(tmp_path: Path) -> None:
    async with kube(token="fresh") as world:
        file = tmp_path / "kubeconfig"
        file.write_text(KUBECONFIG.format(url=world.url, token="stale"))
        driver = world.driver(kubeconfig=str(file))
        assert failure_of(await driver.read()) is Failure.AUTH
        file.write_text(KUBECONFIG.format(url=world.url, token="fresh"))
        assert (await facts_of(driver)).nodes_up == 4
        for broken in ("nonsense: [", "{}", ""):
            (tmp_path / "broken").write_text(broken)
            assert failure_of(await world.driver(kubeconfig=str(tmp_path / "broken")).read()) is Failure.AUTH


async def test_outside_a_cluster_in_cluster_says_so() -> None:
    async with kube() as world:
        failed = await world.driver(in_cluster=True).read()
        assert failure_of(failed) is Failure.AUTH


async def test_rights_that_are_missing_are_named() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch", annotations=MAY)
        driver = world.driver()
        kinds = ("nodes", "pods", "jobs", "localqueues", "workloads")
        world.server.rights = {("list", kind) for kind in kinds} | {("get", "clusterqueues")}
        await facts_of(driver)
        refused = await driver.set_admission(False)
        assert refused == Refused('HTTP 403 User "wattshift" cannot patch resource "clusterqueues"')
        assert isinstance((await driver.requeue([FIRST]))[FIRST], Refused)
        world.server.rights.discard(("list", "pods"))
        unread = await driver.read()
        assert failure_of(unread) is Failure.AUTH
        assert isinstance(unread, Unreachable)
        assert 'cannot list resource "pods"' in unread.detail


async def test_a_list_without_items_is_no_reading_and_touches_nothing() -> None:
    async with kube() as world:
        driver = world.driver()
        world.server.malformed = True
        assert failure_of(await driver.read()) is Failure.GARBAGE
        assert failure_of(await driver.set_admission(False)) is Failure.GARBAGE
        assert world.commands() == []


async def test_a_queue_that_is_not_there_is_said() -> None:
    async with kube() as world:
        assert await world.driver(cluster_queue="gpus").read() == Unreachable(
            Failure.GARBAGE, "there is no queue gpus, or no Kueue"
        )


async def test_a_change_made_meanwhile_is_looked_at_and_not_overwritten() -> None:
    async with kube() as world:
        world.cluster.add_job("hpc/first", annotations=MAY)
        driver = world.driver(**PLAIN)
        await facts_of(driver)
        job = world.cluster.get("jobs", "hpc/first")
        world.cluster.merge(job, {"spec": {"suspend": True}})  # an operator, after our reading
        outcome = (await driver.requeue(["hpc/first"]))["hpc/first"]
        assert isinstance(outcome, Applied)
        assert "wattshift.io/suspended" not in world.annotations("jobs", "hpc/first")
        await driver.set_admission(True)
        assert job["spec"]["suspend"] is True


async def test_conflicts_are_answered_by_another_look_a_bounded_number_of_times() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch", annotations=MAY)
        driver = world.driver()
        await facts_of(driver)
        world.server.conflicts = 2
        assert isinstance((await driver.requeue([FIRST]))[FIRST], Applied)
        assert driver.faults["conflict"] == 2
        world.server.conflicts = 100
        assert await driver.set_admission(False) == Refused("others keep changing it")
        assert world.server.conflicts == 97


async def test_a_command_whose_answer_was_lost_is_known_by_its_mark_and_undone() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch", annotations=MAY)
        driver = world.driver(deadline_s=0.5)
        await facts_of(driver)
        world.server.acts_after_s = 3.0
        assert failure_of((await driver.requeue([FIRST]))[FIRST]) is Failure.TIMEOUT
        assert failure_of(await driver.set_admission(False)) is Failure.TIMEOUT
        world.server.acts_after_s = 0.0
        await until(lambda: len(world.commands()) == 2)
        after = world.driver()
        assert (await facts_of(after)).admitting is False
        assert isinstance(await after.set_admission(True), Applied)
        assert await state_of(after, FIRST) is JobState.RUNNING
        assert world.annotations("clusterqueues", "gpu") == {}


async def test_a_resumption_that_failed_is_made_up_for_by_the_next_readings() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch", annotations=MAY)
        driver = world.driver()
        await facts_of(driver)
        await driver.set_admission(False)
        await driver.requeue([FIRST])
        world.server.conflicts = 6
        assert isinstance(await driver.set_admission(True), Refused)
        world.server.conflicts = 0
        await facts_of(driver)
        assert await state_of(driver, FIRST) is JobState.RUNNING
        assert (await facts_of(driver)).admitting is True


async def test_a_job_that_ignores_its_suspension_counts_as_running_again_and_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_kube_facts, "TERMINATE_S", 0)
    async with kube() as world:
        world.cluster.stuck.add(FIRST)
        world.cluster.add_job(FIRST, queue="batch", pods=2, annotations=MAY)
        driver = world.driver()
        await facts_of(driver)
        await driver.requeue([FIRST])
        states = [await state_of(driver, FIRST)]
        while states[-1] is JobState.PENDING and len(states) < 200:
            await asyncio.sleep(0.05)
            states.append(await state_of(driver, FIRST))
        assert states[0] is JobState.PENDING, "within its grace it is believed to go"
        found = await facts_of(driver)
        job = found.jobs[0]
        assert (job.state, job.power_w) == (JobState.RUNNING, 1_600)
        assert found.requeueable == frozenset(), "to ask again would change nothing"
        assert driver.faults["ignores_suspend"] == 1


async def test_long_lists_come_page_by_page() -> None:
    async with kube(nodes=1, page=7) as world:
        for number in range(20):
            world.cluster.add_job(f"research/j{number}", queue="batch")
        found = await facts_of(world.driver())
        assert len(found.jobs) == 20
        assert sum(path.endswith("/jobs") for _, path in world.server.seen) == 3


async def test_many_jobs_are_suspended_within_the_bound_of_a_batch() -> None:
    async with kube(nodes=64) as world:
        keys = [f"research/j{number}" for number in range(64)]
        for key in keys:
            world.cluster.add_job(key, queue="batch", annotations=MAY)
        driver = world.driver()
        assert len((await facts_of(driver)).requeueable) == 64
        outcomes = await driver.requeue(keys)
        assert set(outcomes) == set(keys)
        assert all(isinstance(outcome, Applied) for outcome in outcomes.values())
        await until(lambda: sum(map(world.settled_running, keys)) == 0)
