"""One partition of a Kubernetes cluster: what a Kueue ClusterQueue or LocalQueue admits, or the Jobs of a namespace
that no Kueue manages, on the nodes of a label selector.

* admission the queue's `stopPolicy: Hold`, and back to what it was; without Kueue the partition's nodes are cordoned
* freeze    there is none: Kubernetes cannot stop a container and keep its place. Refused, and every job is told as one
            that must not stand still
* requeue   `Job.spec.suspend`; with Kueue `Workload.spec.active = false`, for Kueue would start again at once a Job
            that only its own field suspends. Pods get their TERM and their grace, in which to checkpoint
* nodes     idle ones are cordoned and drained by eviction, which honours PodDisruptionBudgets, and then shut down by
            `[banks.NAME.hosts]` where that may switch (`KubernetesNodes`)

The ledger is annotations, each set by the patch that does the thing, on condition that the object is as it was read: a
409 is answered by another look, never by force. What was suspended, held or cordoned by others is left as found.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from agent.drivers.base import Applied, Failure, Outcome, PartitionFacts, Refused, Unreachable
from agent.drivers.schedulers._batch import BATCH_DEADLINES, bounded, each
from agent.drivers.schedulers._kube_changes import (
    GONE,
    HOLD,
    Change,
    cordon,
    hold,
    resume,
    suspend,
    uncordon,
    unhold,
    unmark_job,
    unmark_node,
    unmark_queue,
    worst,
)
from agent.drivers.schedulers._kube_facts import (
    ADMISSION,
    HELD,
    NODE,
    REQUEUE_AT,
    Mark,
    Seen,
    Site,
    Tables,
    is_unmapped,
    may_suspend,
    partition_facts,
    seen_jobs,
    terms_of,
)
from agent.drivers.schedulers._kube_link import Access, KubeLink, NotThere, need_client, open_link, outcome_of
from agent.drivers.schedulers._kube_listing import Places, tables_of
from agent.drivers.schedulers._kube_options import KubeOptions
from agent.drivers.schedulers._kube_records import KubeJob, Node, Queue, Workload, marked
from contract.clock import Clock
from contract.messages import JobState

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
O = TypeVar("O", KubeJob, Node, Queue, Workload)  # noqa: E741  an object

CONFLICTS_MAX: Final = 3
"""Looks at an object that others keep changing, before it is left for the next statement."""
MAX_SAID: Final = 50
MAX_WARNED_PODS: Final = 64
MAX_TIDIED: Final = 16
"""Left-over marks taken away after one reading."""
_LATE: Final = Unreachable(Failure.TIMEOUT, "the API server did not answer in time")


class KubernetesPartition:
    """Implements `Partition`, `Requeues`, `AdmitsPart` (told only where cordons are what closes it) and
    `CountsFaults`."""

    def __init__(self, options: KubeOptions, link: Callable[[], KubeLink], *, deadline_s: float, clock: Clock) -> None:
        self._options = options
        self._make_link = link
        self._link: KubeLink | None = None
        self._deadline_s = deadline_s
        self._clock = clock
        self._places = Places.of(options)
        self._site = Site(
            by_kueue=options.by_kueue,
            resource=options.resource,
            node_above_idle_w=options.node_busy_w - options.node_idle_w,
            values=options.values.map(),
            suspend_all=options.suspend == "all",
            powers=options.node_off_w is not None,
        )
        self._admitting: bool | None = None
        """What we were told last."""
        self._only: frozenset[str] | None = None
        """The nodes on which jobs may start, where that is not all of them."""
        self._one_admission = asyncio.Lock()
        self._tables: Tables | None = None
        self._jobs: dict[str, Seen] = {}
        self._faults: Counter[str] = Counter()
        self._failing: Failure | None = None
        self._said: set[str] = set()
        self._unmapped: frozenset[str] = frozenset()
        self._ignoring: frozenset[str] = frozenset()

    @property
    def faults(self) -> Mapping[str, int]:
        """What was put up with: readings by failure; `unmapped_queue` and `ignores_suspend` count jobs, each once;
        `conflict` and `disruption_budget` answers of the API server."""
        return self._faults

    async def read(self) -> PartitionFacts | Unreachable:
        """Nodes and jobs of the partition. What earlier commands left to do is done in what is left of the deadline."""
        by_s = self._by()
        tables = await self._bounded(self._listed(), by_s)
        self._note(tables)
        if isinstance(tables, Unreachable):
            return tables
        facts = partition_facts(tables, self._jobs, self._site, self._now_s())
        await self._bounded(self._keep_up(tables), by_s)
        return facts

    async def set_admission(self, admitting: bool) -> Outcome:
        """Hold the queue or cordon the nodes; or undo our own hold, and let go on what we suspended."""
        return await self._command_admission(admitting, None)

    async def admit_on(self, nodes: Collection[str]) -> Outcome:
        """Without Kueue: the other nodes are cordoned. A queue opens for all of its nodes at once."""
        if self._site.by_kueue:
            return Refused("a queue opens for all of its nodes at once")
        return await self._command_admission(True, frozenset(nodes))

    async def _command_admission(self, admitting: bool, only: frozenset[str] | None) -> Outcome:
        self._admitting, self._only = admitting, only
        by_s = asyncio.get_running_loop().time() + BATCH_DEADLINES * self._deadline_s
        tables = await self._bounded(self._listed(), self._by())
        if isinstance(tables, Unreachable):
            return tables
        return await self._bounded(self._admit(tables, admitting), by_s)

    async def freeze(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Refused, all of them: see the module."""
        return dict.fromkeys(jobs, Refused("Kubernetes cannot stop a job in place; it can be suspended"))

    async def thaw(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        return dict.fromkeys(jobs, Applied("was not frozen"))

    async def warn(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Write on the jobs' pods when they will be asked to end; a pod sees it through the downward API."""

        async def one(key: str) -> Outcome:
            seen = self._jobs.get(key)
            if seen is None:
                return GONE
            at_s = self._now_s() + terms_of(seen.raw, self._site).notice_ms // 1_000
            change = {"metadata": {"annotations": {REQUEUE_AT: str(at_s)}}}
            outcomes = [await self._patched(self._places.pod(pod), change) for pod in seen.running[:MAX_WARNED_PODS]]
            return worst(outcomes)

        return await self._each(jobs, one)

    async def requeue(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Suspend jobs that run and may be suspended; all others answer Refused and go on."""
        return await self._each(jobs, self._suspend)

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def _suspend(self, key: str) -> Outcome:
        seen = self._jobs.get(key)
        if seen is None:
            return GONE
        if seen.ours:
            return Applied("suspended already")
        if seen.state is JobState.PENDING:
            return Applied("waits already")
        if not may_suspend(seen, self._site):
            return Refused("it does not say that it may be suspended (wattshift.io/requeue)")
        return await self._change_job(seen, partial(suspend, at_s=self._now_s()))

    async def _resume(self, key: str) -> Outcome:
        """Let go on what we suspended."""
        seen = self._jobs.get(key)
        if seen is None:
            return GONE
        if self._admitting is False:
            return Refused("overtaken by another command")
        return await self._change_job(seen, resume)

    async def _unmark(self, key: str) -> Outcome:
        seen = self._jobs.get(key)
        return GONE if seen is None else await self._change_job(seen, unmark_job)

    async def _change_job(self, seen: Seen, decide: Callable[[KubeJob | Workload], Change]) -> Outcome:
        """The Job; with Kueue its Workload."""
        if not self._site.by_kueue:
            return await self._change(self._places.job(seen.raw), KubeJob, seen.raw, decide)
        if seen.workload is None:
            return Refused("Kueue has no Workload for it")
        return await self._change(self._places.workload(seen.workload), Workload, seen.workload, decide)

    # -- admission ---------------------------------------------------------------------------------------------------

    async def _close_down(self, tables: Tables) -> Outcome:
        if tables.queue is not None:
            return await self._change(self._places.queue, Queue, tables.queue, hold)
        nodes = [node for node in tables.nodes if not node.spec.unschedulable]
        return await self._each_node(nodes, partial(cordon, at_s=self._now_s()))

    async def _admit(self, tables: Tables, admitting: bool) -> Outcome:
        """One after the other: an opening that is overtaken by a closing ends early, and the closing goes last."""
        async with self._one_admission:
            if admitting is not self._admitting:
                return Refused("overtaken by another command")
            return await (self._open_up(tables) if admitting else self._close_down(tables))

    async def _open_up(self, tables: Tables) -> Outcome:
        barred = await self._bar(tables)
        resumed = worst(
            (await self._each([key for key, seen in self._jobs.items() if seen.ours], self._resume)).values()
        )
        if self._admitting is False:
            return Refused("overtaken by another command")
        if tables.queue is not None:
            opened = await self._change(self._places.queue, Queue, tables.queue, unhold)
        else:
            ours = [node for node in tables.nodes if (mark := Mark.of(node)) is not None and mark.why == ADMISSION]
            opened = await self._each_node([node for node in ours if self._may_open(node)], uncordon)
        return worst((barred, resumed, opened))

    async def _bar(self, tables: Tables) -> Outcome:
        """Cordon the nodes on which nothing may start."""
        nodes = [node for node in tables.nodes if not node.spec.unschedulable and not self._may_open(node)]
        return await self._each_node(nodes, partial(cordon, at_s=self._now_s()))

    def _may_open(self, node: Node) -> bool:
        return self._only is None or node.metadata.name in self._only

    async def _each_node(self, nodes: Iterable[Node], decide: Callable[[Node], Change]) -> Outcome:
        by_name = {node.metadata.name: node for node in nodes}

        async def one(name: str) -> Outcome:
            return await self._change(self._places.node(name), Node, by_name[name], decide)

        return worst((await self._each(list(by_name), one)).values())

    async def _keep_up(self, tables: Tables) -> None:
        """What an earlier command left to do; and marks of ours on what somebody else has undone go, lest a later hold
        of theirs be taken for ours."""
        ours = any(seen.ours for seen in self._jobs.values())
        held = tables.queue is not None and HELD in tables.queue.metadata.annotations
        if self._admitting and (ours or held) and not self._one_admission.locked():
            await self._admit(tables, admitting=True)
        stale = [key for key, seen in self._jobs.items() if seen.stale][:MAX_TIDIED]
        await self._each(stale, self._unmark)
        undone = [node for node in tables.nodes if NODE in node.metadata.annotations and not node.spec.unschedulable]
        await self._each_node(undone[:MAX_TIDIED], unmark_node)
        if tables.queue is not None and tables.queue.policy != HOLD:
            await self._change(self._places.queue, Queue, tables.queue, unmark_queue)

    # -- the API server ----------------------------------------------------------------------------------------------

    async def _listed(self) -> Tables | Unreachable:
        tables = await tables_of(self._open(), self._places, self._options)
        if isinstance(tables, Unreachable):
            return tables
        self._tables = tables
        self._jobs = seen_jobs(tables, self._site, self._now_s())
        self._note_jobs()
        return tables

    async def _change(self, path: str, kind: type[O], known: O | None, decide: Callable[[O], Change]) -> Outcome:
        """Change an object, on condition that it is as it was when that was decided; else, or where it is not `known`,
        look and decide anew."""
        now = known
        for _ in range(CONFLICTS_MAX):
            if now is None:
                found = await self._open().got(path, kind)
                if isinstance(found, Unreachable):
                    return GONE if isinstance(found, NotThere) else found
                now = found
            change = decide(now)
            if not isinstance(change, dict):
                return change
            patch = {**change, "metadata": marked(change["metadata"], now.metadata.resourceVersion)}
            answer = await self._open().patch(path, patch)
            if isinstance(answer, Unreachable) or answer.status not in {404, 409}:
                return outcome_of(answer)
            if answer.status == 404:
                return GONE
            self._faults["conflict"] += 1
            now = None
        return Refused("others keep changing it")

    async def _patched(self, path: str, change: Mapping[str, Any]) -> Outcome:
        answer = await self._open().patch(path, change)
        return GONE if not isinstance(answer, Unreachable) and answer.status == 404 else outcome_of(answer)

    async def _each(self, keys: Sequence[str], act: Callable[[str], Awaitable[Outcome]]) -> dict[str, Outcome]:
        return await each(keys, act, self._deadline_s, _LATE)

    async def _bounded(self, work: Awaitable[T], by_s: float) -> T | Unreachable:
        return await bounded(work, by_s, _LATE)

    def _open(self) -> KubeLink:
        if self._link is None:
            self._link = self._make_link()
        return self._link

    def _by(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline_s

    def _now_s(self) -> int:
        return self._clock.wall_ms() // 1_000

    # -- what is said ------------------------------------------------------------------------------------------------

    def _note(self, tables: Tables | Unreachable) -> None:
        failure = tables.failure if isinstance(tables, Unreachable) else None
        if failure is not None:
            self._faults[failure] += 1
        if failure is self._failing:
            return
        self._failing = failure
        if isinstance(tables, Unreachable):
            _LOG.warning("partition %s cannot be read: %s", self._places.name, tables.detail)
        else:
            _LOG.info("partition %s is read again", self._places.name)

    def _note_jobs(self) -> None:
        unmapped = {key for key, seen in self._jobs.items() if seen.state and is_unmapped(seen.raw, self._site)}
        self._faults["unmapped_queue"] += len(unmapped - self._unmapped)
        self._unmapped = frozenset(unmapped)
        for key in sorted(unmapped):
            raw = self._jobs[key].raw
            where = raw.queue or f"namespace {raw.metadata.namespace}"
            self._say_once(f"queue {where} is in no map: its jobs take the default value and are not firm")
        ignoring = {key for key, seen in self._jobs.items() if seen.ignoring}
        self._faults["ignores_suspend"] += len(ignoring - self._ignoring)
        self._ignoring = frozenset(ignoring)
        for key in sorted(ignoring):
            self._say_once(f"job {key} was suspended and runs on: it counts as running")

    def _say_once(self, text: str) -> None:
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            _LOG.warning("partition %s: %s", self._places.name, text)


def kubernetes_partition(options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> KubernetesPartition:
    """The registry's factory. Raises `MissingExtraError` without the extra `kubernetes`."""
    from agent.drivers.schedulers._kube_nodes import KubernetesNodes

    checked = KubeOptions.model_validate(dict(options))
    need_client()
    access = Access(
        checked.kubeconfig, checked.in_cluster, checked.url, checked.context, checked.token_file, checked.ca
    )
    kind = KubernetesPartition if checked.node_off_w is None else KubernetesNodes
    return kind(checked, partial(open_link, access), deadline_s=deadline_s, clock=clock)
