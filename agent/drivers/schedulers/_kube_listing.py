"""Where a partition's objects are in the API, and one listing of them all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import quote

from agent.drivers.base import Failure, Unreachable
from agent.drivers.schedulers._kube_facts import Tables
from agent.drivers.schedulers._kube_link import KubeLink, NotThere
from agent.drivers.schedulers._kube_options import KubeOptions
from agent.drivers.schedulers._kube_records import QUEUE_LABEL, KubeJob, Node, Pod, Queue, Workload

R = TypeVar("R")
JOB_PODS: Final = "job-name"
"""The label that every pod of a Job has, in every version."""
LIVE: Final = "status.phase!=Succeeded,status.phase!=Failed"


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of the API."""

    name: str
    """Of the partition, for the log."""
    queue: str
    """Empty without Kueue."""
    kueue: str
    namespace: str | None

    @classmethod
    def of(cls, options: KubeOptions) -> Places:
        kueue = f"/apis/kueue.x-k8s.io/{options.kueue_version}"
        if options.cluster_queue is not None:
            return cls(options.cluster_queue, f"{kueue}/clusterqueues/{options.cluster_queue}", kueue, None)
        own = options.namespace or ""
        if options.local_queue is not None:
            queue = f"{kueue}/namespaces/{own}/localqueues/{options.local_queue}"
            return cls(f"{own}/{options.local_queue}", queue, kueue, own)
        return cls(own, "", kueue, own)

    def within(self, base: str, kind: str) -> str:
        """A collection, of the partition's namespace or of all."""
        return f"{base}/{kind}" if self.namespace is None else f"{base}/namespaces/{self.namespace}/{kind}"

    def job(self, job: KubeJob) -> str:
        return f"/apis/batch/v1/namespaces/{job.metadata.namespace}/jobs/{quote(job.metadata.name)}"

    def workload(self, own: Workload) -> str:
        return f"{self.kueue}/namespaces/{own.metadata.namespace}/workloads/{quote(own.metadata.name)}"

    def pod(self, pod: Pod) -> str:
        return f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{quote(pod.metadata.name)}"

    def node(self, name: str) -> str:
        return f"/api/v1/nodes/{quote(name)}"


async def tables_of(link: KubeLink, places: Places, options: KubeOptions) -> Tables | Unreachable:
    """All that is needed of the partition, asked for at once. `places`, the object itself, is who asks: what another
    partition of the cluster has just been told is not asked for again."""
    nodes, pods, jobs, queue, queues, workloads = await asyncio.gather(
        link.shared(places, "/api/v1/nodes", Node, labelSelector=options.node_selector),
        link.shared(places, places.within("/api/v1", "pods"), Pod, labelSelector=JOB_PODS, fieldSelector=LIVE),
        link.shared(places, places.within("/apis/batch/v1", "jobs"), KubeJob, labelSelector=_selector(options)),
        _queue(link, places),
        _listed_where(link, options.cluster_queue is not None, places, "localqueues", Queue),
        _listed_where(link, options.by_kueue, places, "workloads", Workload),
    )
    for part in (nodes, pods, jobs, queue, queues, workloads):
        if isinstance(part, Unreachable):
            return part
    assert not isinstance(nodes, Unreachable)  # noqa: S101  all looked at above
    assert not isinstance(pods, Unreachable)  # noqa: S101
    assert not isinstance(jobs, Unreachable)  # noqa: S101
    assert not isinstance(queue, Unreachable)  # noqa: S101
    assert not isinstance(queues, Unreachable)  # noqa: S101
    assert not isinstance(workloads, Unreachable)  # noqa: S101
    mine = tuple(_of_partition(jobs, queues, options))
    return Tables(nodes, pods, mine, queue, {own.owner: own for own in workloads})


def _selector(options: KubeOptions) -> str:
    if options.local_queue is not None:
        return f"{QUEUE_LABEL}={options.local_queue}"
    return QUEUE_LABEL if options.cluster_queue is not None else f"!{QUEUE_LABEL}"


def _of_partition(jobs: Iterable[KubeJob], queues: Iterable[Queue], options: KubeOptions) -> Iterable[KubeJob]:
    """With a ClusterQueue, the jobs whose LocalQueue leads to it."""
    if options.cluster_queue is None:
        return jobs
    leading = {queue.key for queue in queues if queue.spec.clusterQueue == options.cluster_queue}
    return [job for job in jobs if f"{job.metadata.namespace}/{job.queue}" in leading]


async def _queue(link: KubeLink, places: Places) -> Queue | Unreachable | None:
    if not places.queue:
        return None
    queue = await link.got(places.queue, Queue)
    if isinstance(queue, NotThere):
        return Unreachable(Failure.GARBAGE, f"there is no queue {places.name}, or no Kueue")
    return queue


async def _listed_where(
    link: KubeLink, wanted: bool, places: Places, what: str, kind: type[R]
) -> tuple[R, ...] | Unreachable:
    return await link.shared(places, places.within(places.kueue, what), kind) if wanted else ()
