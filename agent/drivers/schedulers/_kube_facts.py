"""From Kubernetes' own objects to what the agent's core knows of a partition. Pure.

What the agent did stands in annotations on the objects themselves, set by the very patch that did it: they are the
ledger, and outlive the agent and its state file. What is suspended, held or cordoned without them is somebody else's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.drivers.base import PartitionFacts
from agent.drivers.schedulers._kube_records import KubeJob, Node, Pod, Queue, Workload, quantity
from agent.drivers.schedulers.job_terms import JobTerms, ValueMap
from contract.messages import Job, JobState
from contract.units import POWER_W_MAX

PREFIX: Final = "wattshift.io/"
HELD: Final = f"{PREFIX}held"
"""On a queue: its stop policy before ours."""
SUSPENDED: Final = f"{PREFIX}suspended"
"""On a Job, or with Kueue on its Workload: when, in Unix seconds."""
NODE: Final = f"{PREFIX}node"
"""On a node that we cordoned: why, and since when."""
REQUEUE_AT: Final = f"{PREFIX}requeue-at"
"""On a pod: when its job will be suspended, in Unix seconds."""
ADMISSION: Final = "admission"
DRAIN: Final = "drain"
OFF: Final = "off"
UP: Final = "up"

SUSPEND_S: Final = 15
"""How long after a suspension pods may still stand unmarked for their end: the Job controller's own time."""
TERMINATE_S: Final = 10
"""How long beyond its grace a pod may take to go."""
DRAIN_S: Final = 60
"""A node that was begun to be drained counts as on its way down for so long."""
MAX_JOBS: Final = 10_000
MAX_ID: Final = 64
_MOST_NODES: Final = 1_000_000
_LONGEST_MS: Final = 366 * 86_400_000
_TERMS: Final = {
    "value-usd-per-node-hour": "value",
    "firm": "firm",
    "deadline": "deadline",
    "checkpoint-seconds": "checkpoint",
    "restart-usd": "restart",
    "notice-seconds": "notice",
}
_YES: Final = frozenset({"true", "yes", "1"})
_LETS_BE: Final = frozenset({"CronJob"})
"""What makes Jobs and then leaves them to themselves."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the config says of the partition."""

    by_kueue: bool
    resource: str
    node_above_idle_w: int
    values: ValueMap
    suspend_all: bool
    powers: bool


@dataclass(frozen=True, slots=True)
class Tables:
    """One listing of the partition."""

    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    """Of Jobs, in the partition's namespaces, that have not ended."""
    jobs: tuple[KubeJob, ...]
    """Of the partition."""
    queue: Queue | None
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    """By the uid of the job."""

    @property
    def closed(self) -> bool:
        """Whether nothing may start, whoever has seen to it."""
        if self.queue is not None:
            return self.queue.policy != "None"
        return all(node.spec.unschedulable for node in self.nodes if node.ready)


@dataclass(frozen=True, slots=True)
class Seen:
    """One job and what holds for it."""

    raw: KubeJob
    workload: Workload | None
    running: tuple[Pod, ...]
    state: JobState | None
    """None: it has ended, or somebody else has suspended it. It wants no power, and is not told."""
    ours: bool
    """Suspended by us."""
    ignoring: bool
    """Suspended by us, and its pods run all the same."""
    stale: bool
    """It has our mark, but somebody else has let it go on."""

    @property
    def id(self) -> str:
        return self.raw.key if len(self.raw.key) <= MAX_ID else self.raw.metadata.uid[:MAX_ID]


@dataclass(frozen=True, slots=True)
class Mark:
    """What we did to a node."""

    why: str
    since_s: int

    @classmethod
    def of(cls, node: Node) -> Mark | None:
        """None where the node is not ours: it has no mark, or somebody uncordoned it."""
        why, _, since = node.metadata.annotations.get(NODE, "").partition(" ")
        if why not in {ADMISSION, DRAIN, OFF, UP} or not node.spec.unschedulable:
            return None
        return cls(why, int(since) if since.isdigit() and len(since) < 12 else 0)


def seen_jobs(tables: Tables, site: Site, now_s: int) -> dict[str, Seen]:
    """The partition's jobs by the name that the agent gives them."""
    nodes = {node.metadata.name for node in tables.nodes}
    running: dict[str, list[Pod]] = defaultdict(list)
    elsewhere: set[str] = set()
    for pod in tables.pods:
        if pod.status.phase == "Running":
            if pod.spec.nodeName in nodes:
                running[pod.owner].append(pod)
            else:
                elsewhere.add(pod.owner)
    found = {}
    for raw in tables.jobs[:MAX_JOBS]:
        if raw.metadata.uid in elsewhere and raw.metadata.uid not in running:
            continue  # it runs on nodes that are not the partition's
        seen = _seen(raw, tables.workloads.get(raw.metadata.uid), running.get(raw.metadata.uid, ()), site, now_s)
        found[seen.id] = seen
    return found


def partition_facts(tables: Tables, jobs: Mapping[str, Seen], site: Site, now_s: int) -> PartitionFacts:
    by_name = {node.metadata.name: node for node in tables.nodes}
    marks = {name: Mark.of(node) for name, node in by_name.items()}
    off = {name for name, mark in marks.items() if mark is not None and _is_off(mark, now_s)}
    rising = {name for name, mark in marks.items() if mark is not None and mark.why == UP}
    up = {name for name, node in by_name.items() if node.ready and name not in off}
    busy = {pod.spec.nodeName for pod in tables.pods if pod.status.phase == "Running"} & up
    told = [_job(seen, by_name, site, now_s) for seen in jobs.values() if seen.state is not None]
    told.sort(key=lambda job: job.state is JobState.PENDING)
    return PartitionFacts(
        nodes_up=len(up),
        nodes_busy=len(busy),
        admitting=not tables.closed,
        jobs=tuple(told),
        requeueable=frozenset(key for key, seen in jobs.items() if may_suspend(seen, site)),
        unfreezable=frozenset(key for key, seen in jobs.items() if seen.state is JobState.RUNNING),
        idle_nodes=tuple(sorted(_idle(up - busy, by_name, marks))) if site.powers else (),
        off_nodes=tuple(sorted(off)),
        booting=len(rising - up),
        up_nodes=tuple(sorted(up)),
        placed={
            key: tuple(sorted({pod.spec.nodeName for pod in seen.running}))
            for key, seen in jobs.items()
            if seen.state is JobState.RUNNING
        },
        barred=frozenset(name for name in up if (mark := marks[name]) is not None and mark.why == ADMISSION),
        steps=not site.by_kueue,
        held_by_us=any(seen.ours for seen in jobs.values())
        or any(mark is not None and mark.why == ADMISSION for mark in marks.values())
        or (tables.queue is not None and HELD in tables.queue.metadata.annotations and tables.queue.policy == "Hold"),
    )


def may_suspend(seen: Seen, site: Site) -> bool:
    """Whether it may be stopped and started again: it says that it can, or the site says so of all. One that another
    controller keeps (a JobSet's) would be started again by that."""
    kept = any(owner.kind not in _LETS_BE for owner in seen.raw.metadata.ownerReferences)
    if seen.state is not JobState.RUNNING or seen.ignoring or kept:
        return False
    said = seen.raw.metadata.annotations
    word = said.get(f"{PREFIX}requeue", "").lower()
    return word in _YES or (not word and (site.suspend_all or f"{PREFIX}checkpoint-seconds" in said))


def is_unmapped(raw: KubeJob, site: Site) -> bool:
    """Whether the site's price list says nothing of its queue or namespace."""
    return not site.values.maps(raw.queue, raw.metadata.namespace)


def terms_of(raw: KubeJob, site: Site) -> JobTerms:
    """What it is worth, in the words that every scheduler's comment has."""
    said = raw.metadata.annotations
    words = [
        f"{word}={value.split()[0]}" for key, word in _TERMS.items() if (value := said.get(PREFIX + key, "").strip())
    ]
    return JobTerms.of(" ".join(["wattshift", *words]), raw.queue, raw.metadata.namespace, site.values)


def _seen(raw: KubeJob, own: Workload | None, running: Sequence[Pod], site: Site, now_s: int) -> Seen:
    held = raw if not site.by_kueue else own
    since = "" if held is None else held.metadata.annotations.get(SUSPENDED, "")
    is_suspended = raw.spec.suspend if not site.by_kueue else own is not None and not own.spec.active
    ours = is_suspended and since != ""
    pods = tuple(running)
    ignoring = ours and any(_stays(pod, int(since) if since.isdigit() else 0, now_s) for pod in pods)
    state: JobState | None
    if raw.ended or raw.metadata.deletionTimestamp is not None or (is_suspended and not ours):
        state = None
    elif ours:
        state = JobState.RUNNING if ignoring else JobState.PENDING
    else:
        state = JobState.RUNNING if any(pod.metadata.deletionTimestamp is None for pod in pods) else JobState.PENDING
    return Seen(raw, own, pods, state, ours, ignoring, stale=since != "" and not is_suspended)


def _stays(pod: Pod, since_s: int, now_s: int) -> bool:
    """Whether a pod of a job that was suspended then runs longer than it may."""
    gone_by = pod.metadata.deletionTimestamp
    return now_s > (since_s + SUSPEND_S if gone_by is None else gone_by.timestamp() + TERMINATE_S)


def _is_off(mark: Mark, now_s: int) -> bool:
    return mark.why == OFF or (mark.why == DRAIN and now_s - mark.since_s <= DRAIN_S)


def _idle(names: Iterable[str], nodes: Mapping[str, Node], marks: Mapping[str, Mark | None]) -> Iterable[str]:
    """Those that may be powered down: not cordoned by somebody else, nor on their way down or up."""
    for name in names:
        mark = marks[name]
        if (not nodes[name].spec.unschedulable) if mark is None else mark.why == ADMISSION:
            yield name


def _job(seen: Seen, nodes: Mapping[str, Node], site: Site, now_s: int) -> Job:
    raw = seen.raw
    if seen.state is JobState.RUNNING:
        share = sum(_share(pod, nodes.get(pod.spec.nodeName), site) for pod in seen.running)
        count = len({pod.spec.nodeName for pod in seen.running})
    else:
        share = raw.spec.parallelism * _wanted_share(raw, nodes, site)
        count = math.ceil(share)
    count = min(max(count, 1), _MOST_NODES)
    terms = terms_of(raw, site)
    return Job(
        id=seen.id,
        state=seen.state or JobState.PENDING,
        nodes=count,
        power_w=min(round(share * site.node_above_idle_w), POWER_W_MAX),
        value_usd_per_node_h=terms.value_usd_per_node_h * min(share / count, 1.0),
        firm=terms.firm,
        remaining_ms=_remaining_ms(raw, now_s),
        deadline_ms=_deadline_ms(raw, terms),
        checkpoint_every_ms=terms.checkpoint_every_ms,
        restart_cost_usd=terms.restart_cost_usd,
        notice_ms=terms.notice_ms,
    )


def _deadline_ms(raw: KubeJob, terms: JobTerms) -> int | None:
    created = raw.metadata.creationTimestamp
    if terms.deadline_s is not None:
        return terms.deadline_s * 1_000
    if terms.deadline_after_s is None or created is None:
        return None
    return int(created.timestamp() + terms.deadline_after_s) * 1_000


def _remaining_ms(raw: KubeJob, now_s: int) -> int | None:
    """What is left of its own time limit; a suspension sets that back."""
    limit_s, started = raw.spec.activeDeadlineSeconds, raw.status.startTime
    if limit_s is None:
        return None
    ran_s = 0.0 if started is None or raw.spec.suspend else now_s - started.timestamp()
    return min(max(int((limit_s - ran_s) * 1_000), 0), _LONGEST_MS)


def _share(pod: Pod, node: Node | None, site: Site) -> float:
    """The part of a node that a pod takes; all of it where either does not say."""
    wanted = pod.spec.requested(site.resource)
    there = None if node is None else quantity(node.status.allocatable.get(site.resource))
    return 1.0 if wanted is None or not there else min(wanted / there, 1.0)


def _wanted_share(raw: KubeJob, nodes: Mapping[str, Node], site: Site) -> float:
    wanted = raw.spec.template.spec.requested(site.resource)
    there = max((quantity(node.status.allocatable.get(site.resource)) or 0.0 for node in nodes.values()), default=0.0)
    return 1.0 if wanted is None or not there else min(wanted / there, 1.0)
