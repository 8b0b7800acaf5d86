"""The simulated API server says no where a real one does: a driver that passes its tests has kept to the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from contract.clock import SystemClock
from sim.devices.kube_api import KubeApiServer
from sim.devices.kube_cluster import KubeCluster

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
KUEUE = "/apis/kueue.x-k8s.io/v1beta1"
JOB = "/apis/batch/v1/namespaces/hpc/jobs/first"
POD = "/api/v1/namespaces/hpc/pods/web"


@pytest.fixture
async def server() -> AsyncIterator[KubeApiServer]:
    clock = SystemClock()
    cluster = KubeCluster(lambda: clock.wall_ms() / 1_000)
    cluster.add_node("n1")
    cluster.add_queue("gpu", "hpc/batch")
    cluster.add_job("hpc/first")
    cluster.add_pod("hpc/web", "n1", app="web")
    made = KubeApiServer(cluster, token="right")
    made.name = f"http://127.0.0.1:{await made.start()}"
    yield made
    await made.stop()


async def ask(
    server: KubeApiServer, method: str, path: str, body: Any = None, kind: str = MERGE, user: str = "right"
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {user}", "Content-Type": kind}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, server.name + path, json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


def eviction(name: str = "web", version: str = "policy/v1") -> dict[str, Any]:
    return {"apiVersion": version, "kind": "Eviction", "metadata": {"name": name, "namespace": "hpc"}}


SUSPEND = {"spec": {"suspend": True}}
ASKED: list[tuple[str, str, Any, str, int]] = [
    ("GET", "/api/v1/nodes", None, MERGE, 200),
    ("GET", "/api/v1/jobs", None, MERGE, 404),
    ("GET", "/apis/batch/v1/namespaces/hpc/jobs", None, MERGE, 200),
    ("GET", "/apis/batch/v1/jobs/first", None, MERGE, 404),
    ("GET", "/apis/batch/v1/namespaces/hpc/jobs?watch=1", None, MERGE, 400),
    ("GET", f"{KUEUE}/clusterqueues/none", None, MERGE, 404),
    ("DELETE", JOB, None, MERGE, 405),
    ("PUT", JOB, {}, "application/json", 405),
    ("PATCH", "/api/v1/nodes", {}, MERGE, 405),
    ("PATCH", JOB, SUSPEND, "application/json", 415),
    ("PATCH", JOB, SUSPEND, STRATEGIC, 200),
    ("PATCH", f"{KUEUE}/clusterqueues/gpu", {"spec": {"stopPolicy": "Hold"}}, STRATEGIC, 415),
    ("PATCH", f"{KUEUE}/clusterqueues/gpu", {"spec": {"stopPolicy": "hold"}}, MERGE, 422),
    ("PATCH", JOB, {"spec": {"parallelism": 3}}, MERGE, 422),
    ("PATCH", JOB, {"spec": {"suspend": "yes"}}, MERGE, 422),
    ("PATCH", JOB, {"metadata": {"annotations": {"a": 1}}}, MERGE, 422),
    ("PATCH", JOB, {"status": {}}, MERGE, 422),
    ("PATCH", JOB, {"metadata": {"resourceVersion": "1"}, **SUSPEND}, MERGE, 409),
    ("PATCH", JOB, [], MERGE, 400),
    ("POST", f"{POD}/eviction", eviction(), "application/json", 201),
    ("POST", f"{POD}/eviction", eviction(version="policy/v1beta1"), "application/json", 400),
    ("POST", f"{POD}/eviction", eviction("other"), "application/json", 400),
    ("POST", f"{JOB}/eviction", eviction(), "application/json", 404),
]


@pytest.mark.parametrize(("method", "path", "body", "kind", "status"), ASKED)
async def test_requests_are_checked(
    server: KubeApiServer, method: str, path: str, body: Any, kind: str, status: int
) -> None:
    assert (await ask(server, method, path, body, kind))[0] == status


async def test_a_budget_that_is_used_up_is_a_429_and_the_pod_stays(server: KubeApiServer) -> None:
    server.cluster.budgets["web"] = 0
    status, said = await ask(server, "POST", f"{POD}/eviction", eviction())
    assert (status, said["reason"]) == (429, "TooManyRequests")
    assert "deletionTimestamp" not in server.cluster.get("pods", "hpc/web")["metadata"]


async def test_a_wrong_token_and_a_missing_right_change_nothing(server: KubeApiServer) -> None:
    assert (await ask(server, "PATCH", JOB, SUSPEND, user="wrong"))[0] == 401
    server.rights = {("get", "jobs")}
    assert (await ask(server, "PATCH", JOB, SUSPEND))[0] == 403
    assert server.cluster.get("jobs", "hpc/first")["spec"]["suspend"] is False


async def test_a_version_that_is_current_is_taken_and_the_object_has_a_new_one(server: KubeApiServer) -> None:
    _, job = await ask(server, "GET", JOB)
    version = job["metadata"]["resourceVersion"]
    status, changed = await ask(server, "PATCH", JOB, {"metadata": {"resourceVersion": version}, **SUSPEND})
    assert status == 200
    assert changed["metadata"]["resourceVersion"] != version
    assert changed["spec"]["suspend"] is True


async def test_selectors_and_pages(server: KubeApiServer) -> None:
    for number in range(5):
        server.cluster.add_job(f"hpc/j{number}", queue="batch")
    jobs = "/apis/batch/v1/jobs?limit=2&labelSelector="
    _, first = await ask(server, "GET", f"{jobs}kueue.x-k8s.io/queue-name%3Dbatch")
    assert len(first["items"]) == 2
    _, rest = await ask(server, "GET", f"{jobs}kueue.x-k8s.io/queue-name&continue={first['metadata']['continue']}")
    assert [len(rest["items"]), rest["metadata"]["continue"]] == [2, "4"]
    _, plain = await ask(server, "GET", f"{jobs}%21kueue.x-k8s.io/queue-name")
    assert [job["metadata"]["name"] for job in plain["items"]] == ["first"]
    _, pods = await ask(server, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1,status.phase%21%3DFailed")
    assert {"web"} <= {pod["metadata"]["name"] for pod in pods["items"]}


async def test_kueue_starts_again_at_once_what_only_the_jobs_own_field_suspends(server: KubeApiServer) -> None:
    server.cluster.add_job("hpc/queued", queue="batch")
    path = "/apis/batch/v1/namespaces/hpc/jobs/queued"
    await ask(server, "PATCH", path, SUSPEND)
    assert (await ask(server, "GET", path))[1]["spec"]["suspend"] is False
    workload = f"{KUEUE}/namespaces/hpc/workloads/job-queued"
    await ask(server, "PATCH", workload, {"spec": {"active": False}})
    assert (await ask(server, "GET", path))[1]["spec"]["suspend"] is True
