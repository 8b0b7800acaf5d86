"""From Slurm's listing to what the agent reports of a partition. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agent.drivers.base import PartitionFacts
from agent.drivers.schedulers._slurm_ledger import POWERED_DOWN, Ledger
from agent.drivers.schedulers._slurm_records import (
    Listing,
    SlurmJob,
    SlurmNode,
    at_once,
    node_share,
    per_node,
    tasks,
)
from agent.drivers.schedulers.job_terms import JobTerms, ValueMap
from contract.messages import MAX_JOBS, Job, JobState
from contract.units import POWER_W_MAX

STOPPED: Final = frozenset({"STOPPED", "SUSPENDED"})
SIGNALING: Final = "SIGNALING"
"""A signal is under way, to stop or to go on; which it comes to is not known before it is through."""
_RUNNING: Final = frozenset({"RUNNING", "CONFIGURING", "RESIZING", SIGNALING})
_BUSY: Final = frozenset({"allocated", "mixed"})
_OUT: Final = frozenset(
    {"DRAIN", "NOT_RESPONDING", "POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN", "FAIL", "MAINTENANCE", "REBOOT_ISSUED"}
)
POWERING_UP: Final = "POWERING_UP"
_OPEN: Final = frozenset({"UP", "DRAIN"})
"""A partition in DRAIN takes no new jobs and starts those it has."""
_LONGEST_MS: Final = 400 * 24 * 3_600_000
_MOST_NODES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Site:
    """What the site's config says of a partition."""

    partition: str
    node_above_idle_w: int
    values: ValueMap
    managed: bool = False
    """Whether the driver closes partitions and can requeue; else it holds jobs."""
    powers: bool = False
    """Whether it can power nodes down."""


def partition_facts(listing: Listing, site: Site, ledger: Ledger, now_ms: int) -> PartitionFacts:
    """`now_ms` is the wall clock's. Jobs that hold power come first, so that none of them is ever cut off."""
    nodes = [node for node in listing.nodes if site.partition in node.partitions]
    mine = jobs_of(listing, site.partition)
    builder = _Builder(site, ledger, per_node(nodes), _components(mine), now_ms)
    placed = [job for raw in mine if (job := builder.placed(raw)) is not None]
    waiting = builder.waiting(mine, len(nodes), MAX_JOBS - len(placed))
    is_open = any(part.name == site.partition and part.state in _OPEN for part in listing.partitions)
    return PartitionFacts(
        nodes_up=sum(map(_is_up, nodes)),
        nodes_busy=sum(node.state in _BUSY for node in nodes),
        admitting=is_open and (site.managed or ledger.admitting or any(may_start(raw, now_ms) for raw in mine)),
        jobs=(*placed, *waiting)[:MAX_JOBS],
        requeueable=frozenset(raw.key for raw in mine if may_requeue(raw)) if site.managed else frozenset(),
        unfreezable=frozenset(
            raw.key for raw in mine if is_live(raw) and not raw.pending and not _terms(raw, site).freeze
        ),
        idle_nodes=tuple(node.name for node in nodes if node.state == "idle" and _is_up(node)) if site.powers else (),
        off_nodes=tuple(node.name for node in nodes if node.name in ledger.off and node.state_flags & POWERED_DOWN),
        booting=sum(POWERING_UP in node.state_flags for node in nodes),
        up_nodes=tuple(node.name for node in nodes if _is_up(node)),
        placed=builder.places(mine),
        barred=frozenset(ledger.barred) if is_open else frozenset(),
        steps=site.managed and all(node.partitions == (site.partition,) for node in nodes),
    )


def is_live(raw: SlurmJob) -> bool:
    """Whether it waits or holds nodes; Slurm lists what has ended for some minutes more."""
    return raw.pending or raw.job_state in _RUNNING or raw.job_state in STOPPED


def may_requeue(raw: SlurmJob) -> bool:
    """Whether Slurm would put it back in the queue: a batch job that its owner has not kept from it."""
    holds_nodes = raw.job_state in _RUNNING or raw.job_state in STOPPED
    return holds_nodes and raw.requeue is True and raw.batch_flag is not False and not raw.het_job_id


def jobs_of(listing: Listing, partition: str) -> list[SlurmJob]:
    return [job for job in listing.jobs if job.is_in(partition)]


def may_start(raw: SlurmJob, now_ms: int) -> bool:
    """Whether the scheduler could start a job now, if its partition lets it."""
    return raw.pending and not raw.held and _is_due(raw, now_ms)


def stopped_by_others(jobs: Iterable[SlurmJob], ledger: Ledger) -> frozenset[str]:
    """Jobs that somebody else stopped or suspended: theirs to let go on."""
    return frozenset(job.key for job in jobs if job.job_state in STOPPED and job.key not in ledger.frozen)


@dataclass(frozen=True, slots=True)
class _Builder:
    site: Site
    ledger: Ledger
    of_node: dict[str, float]
    components: dict[int, list[SlurmJob]]
    now_ms: int

    def placed(self, raw: SlurmJob) -> Job | None:
        """A job that holds nodes. None for one that waits or has ended, and for one that somebody else stopped: it
        wants no power, and nothing here may wake it."""
        if raw.is_component and raw.het_job_id in self.components:
            return None  # counted with its leader
        if raw.job_state in STOPPED and raw.key in self.ledger.frozen:
            left_s = self.ledger.left_s(raw)
            return self._job(raw, raw.key, JobState.FROZEN, None if left_s is None else left_s * 1_000)
        if raw.job_state not in _RUNNING:
            return None
        if not raw.limit_min or not raw.end_time:
            return self._job(raw, raw.key, JobState.RUNNING, None)
        ends_s = raw.end_time - self.ledger.ahead_s.get(raw.key, 0)
        return self._job(raw, raw.key, JobState.RUNNING, ends_s * 1_000 - self.now_ms)

    def places(self, jobs: Iterable[SlurmJob]) -> dict[str, tuple[str, ...]]:
        """The nodes of each job that holds some."""
        return {
            raw.key: tuple(host for part in (raw, *self.components.get(raw.job_id, ())) for host in part.hosts)
            for raw in jobs
            if raw.nodes and (raw.job_state in _RUNNING or raw.job_state in STOPPED)
        }

    def waiting(self, jobs: Sequence[SlurmJob], nodes: int, most: int) -> list[Job]:
        """Jobs that could start, each waiting task of an array by itself but no more than could start at once. A job
        that its owner or an operator holds, or that waits for another or for a date, wants no power yet."""
        found: list[Job] = []
        for raw in jobs:
            if len(found) >= most:
                break
            ours = raw.held and self.ledger.holds(raw)
            if not raw.pending or (raw.held and not ours) or not _is_due(raw, self.now_ms):
                continue
            if raw.is_component and raw.het_job_id in self.components:
                continue
            found.extend(self._waiting_tasks(raw, nodes, most - len(found)))
        return found

    def _waiting_tasks(self, raw: SlurmJob, nodes: int, most: int) -> Iterator[Job]:
        limit_ms = raw.limit_min * 60_000 if raw.limit_min else None
        bound = min(max(nodes, 1), at_once(raw.array_task_string) or nodes, most)
        numbers = tasks(raw.array_task_string, bound) if raw.array_task_string else []
        for key in [f"{raw.array}_{number}" for number in numbers] or [raw.key]:
            yield self._job(raw, key, JobState.PENDING, limit_ms)

    def _job(self, raw: SlurmJob, key: str, state: JobState, left_ms: int | None) -> Job:
        parts = [raw, *self.components.get(raw.job_id, ())]
        nodes = min(sum(max(1, part.node_count or 1) for part in parts), _MOST_NODES)
        share = sum(node_share(part, self.of_node) for part in parts)
        terms = _terms(raw, self.site)
        after_s = raw.submit_time + terms.deadline_after_s if raw.submit_time and terms.deadline_after_s else None
        deadline_s = terms.deadline_s or raw.deadline or after_s
        return Job(
            id=key,
            state=state,
            nodes=nodes,
            power_w=min(round(share * self.site.node_above_idle_w), POWER_W_MAX),
            value_usd_per_node_h=terms.value_usd_per_node_h * min(share / nodes, 1.0),
            firm=terms.firm,
            remaining_ms=None if left_ms is None else min(max(left_ms, 0), _LONGEST_MS),
            deadline_ms=int(deadline_s) * 1_000 if deadline_s and deadline_s > 0 else None,
            checkpoint_every_ms=terms.checkpoint_every_ms,
            restart_cost_usd=terms.restart_cost_usd,
            notice_ms=terms.notice_ms,
        )


def _terms(raw: SlurmJob, site: Site) -> JobTerms:
    return JobTerms.of(raw.comment, raw.qos, raw.account, site.values)


def _components(jobs: Iterable[SlurmJob]) -> dict[int, list[SlurmJob]]:
    """The other parts of each heterogeneous job whose leader is in the partition, by the leader's id."""
    parts: dict[int, list[SlurmJob]] = {}
    for job in jobs:
        if job.het_job_id and not job.is_component:
            parts.setdefault(job.job_id, [])
    for job in jobs:
        if job.is_component and job.het_job_id in parts:
            parts[job.het_job_id].append(job)
    return parts


def _is_due(raw: SlurmJob, now_ms: int) -> bool:
    """Neither waits for another job nor for a date."""
    return not raw.dependency and (raw.eligible_time or 0) * 1_000 <= now_ms


def _is_up(node: SlurmNode) -> bool:
    """Runs a job, or would take one."""
    return node.state in _BUSY or (node.state == "idle" and not node.state_flags & _OUT)
