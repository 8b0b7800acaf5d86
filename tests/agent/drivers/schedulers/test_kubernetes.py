"""The Kubernetes driver through the real kubernetes-asyncio client: it reads, holds, suspends and lets go on, and
undoes only what it did itself, also after a restart; what an operator did stays as found."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from agent.drivers.base import AdmitsPart, Applied, NodePower, Refused, Requeues
from agent.drivers.schedulers.kubernetes import kubernetes_partition
from contract.messages import JobState
from sim.devices.json_server import Reply
from tests.agent.drivers.schedulers.kube_world import CLOCK, KUEUE, MAY, PLAIN, facts_of, job_of, kube, state_of, until

FIRST, SECOND, QUEUED = "research/first", "research/second", "research/queued"


async def test_a_partition_is_what_its_cluster_queue_admits_on_its_nodes() -> None:
    async with kube() as world:
        world.cluster.add_job(
            FIRST, queue="batch", pods=2, annotations={"wattshift.io/value-usd-per-node-hour": "12.5"}
        )
        world.cluster.add_job(SECOND, queue="batch", cpu=16, limit_s=3_600)
        world.cluster.add_job("research/elsewhere", queue="cheap")
        world.cluster.add_job("research/alone")
        found = await facts_of(world.driver())
        assert (found.nodes_up, found.nodes_busy, found.admitting) == (4, 4, True), "one with another queue's job"
        jobs = {job.id: job for job in found.jobs}
        assert set(jobs) == {FIRST, SECOND}
        assert (jobs[FIRST].state, jobs[FIRST].nodes, jobs[FIRST].power_w) == (JobState.RUNNING, 2, 1_600)
        assert jobs[FIRST].value_usd_per_node_h == 12.5
        assert (jobs[SECOND].nodes, jobs[SECOND].power_w) == (1, 200), "a quarter of a node"
        assert 3_500_000 < (jobs[SECOND].remaining_ms or 0) <= 3_601_000
        assert found.unfreezable == {FIRST, SECOND}
        assert found.requeueable == frozenset(), "neither says that it may be"
        assert {key: len(nodes) for key, nodes in found.placed.items()} == {FIRST: 2, SECOND: 1}
        assert found.up_nodes == ("n1", "n2", "n3", "n4")


async def test_partitions_of_one_cluster_share_their_lists_and_see_nothing_older_than_a_command() -> None:
    async with kube() as world:
        world.cluster.add_job("research/a", queue="batch", annotations=MAY)
        world.cluster.add_job("research/b", queue="cheap", annotations=MAY)
        gpu, other = world.driver(), world.driver(cluster_queue="other")
        asked: list[str] = []
        answer = world.server.answer

        def counted(request: web.BaseRequest, sent: bytes) -> Reply:
            asked.append(request.path)
            return answer(request, sent)

        world.server.answer = counted  # type: ignore[method-assign]
        found, others = await asyncio.gather(facts_of(gpu), facts_of(other))
        assert ([job.id for job in found.jobs], [job.id for job in others.jobs]) == (["research/a"], ["research/b"])
        lists = [path for path in asked if "/clusterqueues/" not in path]
        assert len(lists) == len(set(lists)) == 5, "nodes, pods, jobs, local queues and workloads, once"
        await facts_of(gpu)
        assert len(asked) == 2 * 5 + 3, "the same partition asks for something newer"
        await other.requeue(["research/b"])
        seen = await facts_of(other)
        assert [job.state for job in seen.jobs] == [JobState.PENDING]
        await gpu.close()
        assert len((await facts_of(other)).jobs) == 1, "the other goes on"


async def test_a_partition_may_be_one_local_queue_or_a_namespace_without_kueue() -> None:
    async with kube() as world:
        world.cluster.add_job("hpc/queued", queue="batch")
        world.cluster.add_job("hpc/plain")
        world.cluster.add_job(FIRST, queue="batch")
        local = await facts_of(world.driver(namespace="hpc", local_queue="batch"))
        assert [job.id for job in local.jobs] == ["hpc/queued"]
        plain = await facts_of(world.driver(**PLAIN))
        assert [job.id for job in plain.jobs] == ["hpc/plain"]


async def test_what_a_job_says_and_the_price_list_make_its_terms() -> None:
    said = {
        "wattshift.io/firm": "true",
        "wattshift.io/deadline": "1760000000",
        "wattshift.io/checkpoint-seconds": "600",
        "wattshift.io/notice-seconds": "120",
        "wattshift.io/restart-usd": "4.5",
        "wattshift.io/value-usd-per-node-hour": "not a number",
    }
    values = {"default_usd_per_node_h": 1.0, "by_queue": {"batch": 3.0}, "firm_namespaces": ["hpc"]}
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch", annotations=said)
        driver = world.driver(values=values)
        job = await job_of(driver, FIRST)
        assert job is not None
        assert (job.value_usd_per_node_h, job.firm, job.deadline_ms) == (3.0, True, 1_760_000_000_000)
        assert (job.checkpoint_every_ms, job.notice_ms, job.restart_cost_usd) == (600_000, 120_000, 4.5)
        assert (await facts_of(driver)).requeueable == {FIRST}, "it says that it checkpoints"
        untrusted = await job_of(world.driver(values=values | {"trust_annotations": False}), FIRST)
        assert untrusted is not None
        assert (untrusted.firm, untrusted.notice_ms) == (False, 0)


async def test_a_queue_that_no_map_names_is_counted_once_a_job_and_takes_the_default() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch")
        driver = world.driver(values={"default_usd_per_node_h": 0.5, "by_queue": {"cheap": 0.1}, "firm_queues": ["x"]})
        for _ in range(3):
            job = await job_of(driver, FIRST)
        assert job is not None
        assert (job.value_usd_per_node_h, job.firm) == (0.5, False)
        assert driver.faults["unmapped_queue"] == 1


async def test_capabilities_are_what_kubernetes_can_do() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch")
        driver = world.driver()
        assert isinstance(driver, Requeues)
        assert not isinstance(driver, NodePower)
        assert isinstance(world.driver(node_off_w=20), NodePower)
        await facts_of(driver)
        refused = (await driver.freeze([FIRST]))[FIRST]
        assert isinstance(refused, Refused)
        assert "cannot stop a job in place" in refused.detail
        assert world.commands() == []


async def test_admission_holds_the_queue_and_gives_it_back_after_a_restart() -> None:
    async with kube() as world:
        assert isinstance(await world.driver().set_admission(False), Applied)
        queue = world.cluster.get("clusterqueues", "gpu")
        assert queue["spec"]["stopPolicy"] == "Hold"
        assert world.annotations("clusterqueues", "gpu") == {"wattshift.io/held": "None"}
        world.cluster.add_job(QUEUED, queue="batch")
        after = world.driver()
        assert (await facts_of(after)).admitting is False
        assert await state_of(after, QUEUED) is JobState.PENDING
        assert await after.set_admission(False) == Applied("held already")
        assert isinstance(await after.set_admission(True), Applied)
        assert (queue["spec"]["stopPolicy"], world.annotations("clusterqueues", "gpu")) == ("None", {})
        assert await state_of(after, QUEUED) is JobState.RUNNING


@pytest.mark.parametrize("policy", ["Hold", "HoldAndDrain"])
async def test_a_queue_that_an_operator_holds_stays_held(policy: str) -> None:
    async with kube() as world:
        queue = world.cluster.get("clusterqueues", "gpu")
        queue["spec"]["stopPolicy"] = policy
        driver = world.driver()
        assert await driver.set_admission(False) == Applied("held by somebody else")
        assert isinstance(await driver.set_admission(True), Applied)
        await facts_of(driver)
        assert queue["spec"]["stopPolicy"] == policy
        assert world.commands() == []


async def test_what_an_operator_sets_while_we_hold_stands() -> None:
    async with kube() as world:
        driver = world.driver()
        await driver.set_admission(False)
        queue = world.cluster.get("clusterqueues", "gpu")
        queue["spec"]["stopPolicy"] = "HoldAndDrain"
        world.cluster.touch(queue)
        assert isinstance(await driver.set_admission(True), Applied)
        assert queue["spec"]["stopPolicy"] == "HoldAndDrain"
        assert world.annotations("clusterqueues", "gpu") == {}


async def test_a_mark_left_on_what_an_operator_opened_goes_so_that_his_next_hold_is_his() -> None:
    async with kube() as world:
        driver = world.driver()
        await driver.set_admission(False)
        queue = world.cluster.get("clusterqueues", "gpu")
        queue["spec"]["stopPolicy"] = "None"
        world.cluster.touch(queue)
        await facts_of(driver)
        assert world.annotations("clusterqueues", "gpu") == {}
        queue["spec"]["stopPolicy"] = "Hold"
        world.cluster.touch(queue)
        await driver.set_admission(True)
        assert queue["spec"]["stopPolicy"] == "Hold"


async def test_without_kueue_admission_is_a_cordon_and_an_operators_cordon_stays() -> None:
    async with kube() as world:
        world.cluster.get("nodes", "n1")["spec"]["unschedulable"] = True
        driver = world.driver(**PLAIN)
        assert (await facts_of(driver)).admitting is True
        assert isinstance(await driver.set_admission(False), Applied)
        world.cluster.add_job("hpc/later")
        assert (await facts_of(driver)).admitting is False
        assert await state_of(driver, "hpc/later") is JobState.PENDING
        assert not world.cluster.get("nodes", "login")["spec"].get("unschedulable")
        after = world.driver(**PLAIN)
        assert isinstance(await after.set_admission(True), Applied)
        cordoned = {name for (_, name), node in world.cluster.objects["nodes"].items() if node["spec"]}
        assert cordoned == {"n1"}
        assert await state_of(after, "hpc/later") is JobState.RUNNING


async def test_without_kueue_jobs_may_start_on_some_nodes_alone() -> None:
    async with kube() as world:
        world.cluster.get("nodes", "n4")["spec"]["unschedulable"] = True
        driver = world.driver(**PLAIN)
        assert isinstance(driver, AdmitsPart)
        assert (await facts_of(driver)).steps
        await driver.set_admission(False)
        for name in ("a", "b"):
            world.cluster.add_job(f"hpc/{name}")
        assert isinstance(await driver.admit_on(["n2", "n4"]), Applied)
        found = await facts_of(driver)
        assert found.admitting
        assert found.barred == {"n1", "n3"}
        assert found.placed == {"hpc/a": ("n2",)}, "n4 is an operator's own"
        assert isinstance(await driver.admit_on(["n1"]), Applied)
        found = await facts_of(driver)
        assert found.barred == {"n2", "n3"}
        assert found.placed == {"hpc/a": ("n2",), "hpc/b": ("n1",)}, "what runs goes on"
        assert isinstance(await driver.set_admission(True), Applied)
        assert (await facts_of(driver)).barred == frozenset()
        assert world.cluster.get("nodes", "n4")["spec"]["unschedulable"] is True


async def test_a_queue_opens_for_all_of_its_nodes_at_once() -> None:
    async with kube() as world:
        driver = world.driver()
        assert not (await facts_of(driver)).steps
        assert isinstance(await driver.admit_on(["n1"]), Refused)
        assert world.commands() == []


SUSPENSIONS: list[tuple[dict[str, Any], str, str | None]] = [(KUEUE, FIRST, "batch"), (PLAIN, "hpc/first", None)]


@pytest.mark.parametrize(("options", "key", "queue"), SUSPENSIONS, ids=["kueue", "plain"])
async def test_a_job_is_suspended_waits_and_goes_on_also_after_a_restart(
    options: dict[str, Any], key: str, queue: str | None
) -> None:
    async with kube() as world:
        world.cluster.add_job(key, queue=queue, pods=2, annotations=MAY)
        driver = world.driver(**options)
        assert (await facts_of(driver)).requeueable == {key}
        await driver.set_admission(False)
        assert isinstance((await driver.requeue([key]))[key], Applied)
        assert await state_of(driver, key) is JobState.PENDING, "its pods are on their way out"
        await until(lambda: world.settled_running(key) == 0)
        assert world.cluster.get("jobs", key)["spec"]["suspend"] is True
        assert (await facts_of(driver)).nodes_busy == 0
        assert (await driver.requeue([key]))[key] == Applied("suspended already")
        after = world.driver(**options)
        await facts_of(after)
        assert isinstance(await after.set_admission(True), Applied)
        assert await state_of(after, key) is JobState.RUNNING
        assert world.cluster.restarts[key] == 4
        kind = "workloads" if queue else "jobs"
        name = "research/job-first" if queue else key
        assert "wattshift.io/suspended" not in world.annotations(kind, name)
        assert not any(command.startswith("evict") for command in world.commands())
        assert {method for method, _ in world.server.seen} == {"GET", "PATCH"}, "nothing is ever deleted"


async def test_with_kueue_the_job_itself_is_not_touched_for_kueue_would_start_it_again() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch", annotations=MAY)
        driver = world.driver()
        await facts_of(driver)
        await driver.requeue([FIRST])
        assert world.commands() == ["patch workloads/job-first active=False"]
        world.cluster.reconcile()
        assert world.cluster.get("jobs", FIRST)["spec"]["suspend"] is True


@pytest.mark.parametrize(("options", "key", "queue"), SUSPENSIONS, ids=["kueue", "plain"])
async def test_a_job_that_an_operator_suspended_is_not_told_and_never_started(
    options: dict[str, Any], key: str, queue: str | None
) -> None:
    async with kube() as world:
        world.cluster.add_job(key, queue=queue, annotations=MAY)
        if queue:
            world.cluster.merge(world.cluster.get("workloads", "research/job-first"), {"spec": {"active": False}})
        else:
            world.cluster.merge(world.cluster.get("jobs", key), {"spec": {"suspend": True}})
        driver = world.driver(**options)
        assert await state_of(driver, key) is None
        await driver.set_admission(False)
        await driver.set_admission(True)
        await facts_of(driver)
        assert world.cluster.get("jobs", key)["spec"]["suspend"] is True


@pytest.mark.parametrize(("options", "key", "queue"), SUSPENSIONS, ids=["kueue", "plain"])
async def test_a_job_that_an_operator_started_again_is_his_when_he_suspends_it_next(
    options: dict[str, Any], key: str, queue: str | None
) -> None:
    async with kube() as world:
        world.cluster.add_job(key, queue=queue, annotations=MAY)
        own = world.cluster.get("workloads", "research/job-first") if queue else world.cluster.get("jobs", key)
        field, stopped = ("active", False) if queue else ("suspend", True)
        driver = world.driver(**options)
        await facts_of(driver)
        await driver.requeue([key])
        assert own["metadata"]["annotations"].keys() >= {"wattshift.io/suspended"}
        world.cluster.merge(own, {"spec": {field: not stopped}})
        await facts_of(driver)
        assert "wattshift.io/suspended" not in own["metadata"]["annotations"]
        world.cluster.merge(own, {"spec": {field: stopped}})
        await driver.set_admission(True)
        assert own["spec"][field] is stopped


async def test_a_job_that_may_not_be_suspended_is_refused_and_goes_on() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch")
        world.cluster.add_job(SECOND, queue="batch", annotations={"wattshift.io/requeue": "false"})
        driver = world.driver()
        await facts_of(driver)
        assert isinstance((await driver.requeue([FIRST]))[FIRST], Refused)
        bold = world.driver(suspend="all")
        assert (await facts_of(bold)).requeueable == {FIRST}
        assert isinstance((await bold.requeue([SECOND]))[SECOND], Refused)
        assert await bold.requeue(["research/ghost"]) == {"research/ghost": Applied("no longer there")}
        assert (await facts_of(bold)).nodes_busy == 2


async def test_a_job_that_another_controller_keeps_is_not_suspended_for_it_would_be_started_again() -> None:
    async with kube() as world:
        for name, kind in (("child", "JobSet"), ("nightly", "CronJob")):
            world.cluster.add_job(f"hpc/{name}", annotations=MAY)
            owner = {"kind": kind, "uid": f"{kind}-1", "name": name}
            world.cluster.get("jobs", f"hpc/{name}")["metadata"]["ownerReferences"] = [owner]
        driver = world.driver(**PLAIN)
        assert (await facts_of(driver)).requeueable == {"hpc/nightly"}
        assert isinstance((await driver.requeue(["hpc/child"]))["hpc/child"], Refused)


async def test_a_warning_stands_on_the_pods_with_the_time_of_the_end() -> None:
    async with kube() as world:
        world.cluster.add_job(
            FIRST,
            queue="batch",
            pods=2,
            annotations={"wattshift.io/notice-seconds": "90", "wattshift.io/requeue": "true"},
        )
        driver = world.driver()
        await facts_of(driver)
        before_s = CLOCK.wall_ms() // 1_000
        assert isinstance((await driver.warn([FIRST]))[FIRST], Applied)
        pods = list(world.cluster.objects["pods"].values())
        at_s = {int(pod["metadata"]["annotations"]["wattshift.io/requeue-at"]) for pod in pods}
        assert len(pods) == 2
        assert all(90 <= when_s - before_s <= 100 for when_s in at_s)
        assert await state_of(driver, FIRST) is JobState.RUNNING


async def test_an_ended_job_is_not_told() -> None:
    async with kube() as world:
        world.cluster.add_job(FIRST, queue="batch")
        driver = world.driver()
        assert await state_of(driver, FIRST) is JobState.RUNNING
        world.cluster.finish(FIRST)
        assert await state_of(driver, FIRST) is None


async def test_a_job_that_runs_on_other_nodes_is_not_the_partitions() -> None:
    async with kube(nodes=1) as world:
        world.cluster.get("nodes", "n1")["spec"]["unschedulable"] = True
        world.cluster.add_job("hpc/small", cpu=4)
        found = await facts_of(world.driver(**PLAIN))
        assert (found.jobs, found.nodes_busy) == ((), 0)


async def test_a_dead_node_is_not_up() -> None:
    async with kube() as world:
        world.cluster.get("nodes", "n2")["status"]["conditions"][0]["status"] = "Unknown"
        assert (await facts_of(world.driver())).nodes_up == 3


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "names no partition"),
    ({"cluster_queue": "gpu", "namespace": "hpc"}, "cluster_queue alone"),
    ({**KUEUE, "in_cluster": True}, "one way to the API server"),
    ({**KUEUE, "url": "kube"}, "no http:// or https:// address"),
    ({**KUEUE, "node_off_w": 300}, "node_off_w is above node_idle_w"),
    ({**KUEUE, "context": "x"}, "context goes with kubeconfig"),
    ({**KUEUE, "colour": 1}, "Extra inputs"),
]


@pytest.mark.parametrize(("options", "what"), WRONG)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], what: str) -> None:
    given = {"url": "http://k", "node_selector": "pool=gpu", "node_busy_w": 1_000, "node_idle_w": 200} | options
    with pytest.raises(ValidationError, match=what):
        kubernetes_partition(given, deadline_s=1.0, clock=CLOCK)
