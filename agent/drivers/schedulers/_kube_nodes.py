"""A Kubernetes partition whose site lets the driver power nodes down: cordon, drain, shut down, and the way back.

A node goes `drain`, then `off` once no pod is left that a drain moves, and is shut down then by the bank's hosts where
those may switch; without them the site's own automation does it, or the node idles empty. Back it goes `up` until it is
Ready, and is uncordoned then. The stage stands in an annotation on the node. A drain waits as long as a
PodDisruptionBudget asks (429), and is tried again at every reading; nothing is ever deleted past one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agent.drivers.base import Applied, Outcome, Refused, Unreachable
from agent.drivers.hosts.group import HostGroup
from agent.drivers.schedulers._kube_changes import GONE, Change, uncordon, worst
from agent.drivers.schedulers._kube_facts import ADMISSION, DRAIN, NODE, OFF, UP, Mark, Tables
from agent.drivers.schedulers._kube_link import KubeLink, outcome_of
from agent.drivers.schedulers._kube_listing import LIVE
from agent.drivers.schedulers._kube_options import KubeOptions
from agent.drivers.schedulers._kube_records import Node, Pod
from agent.drivers.schedulers.kubernetes import KubernetesPartition
from contract.clock import Clock

MAX_EVICTIONS: Final = 64
"""Pods asked to leave one node at one reading."""
MAX_NODES: Final = 16
"""Nodes whose drain or rise goes on after one reading."""
BOOT_S: Final = 60
"""A node that was just told to go up may still look Ready from before."""


class KubernetesNodes(KubernetesPartition):
    """Implements `NodePower` besides."""

    def __init__(self, options: KubeOptions, link: Callable[[], KubeLink], *, deadline_s: float, clock: Clock) -> None:
        super().__init__(options, link, deadline_s=deadline_s, clock=clock)
        self._hosts: HostGroup | None = None

    def use_hosts(self, hosts: HostGroup) -> None:
        """Shut drained nodes down by these, where they may."""
        self._hosts = hosts

    @property
    def node_off_w(self) -> int:
        """What a node draws that is powered down."""
        return self._options.node_off_w or 0

    async def power_down(self, nodes: Sequence[str]) -> Outcome:
        """Those of these nodes that are idle, by a listing of now, and only while nothing may start. Refused tells what
        keeps a node; its drain goes on."""
        tables = await self._bounded(self._listed(), self._by())
        if isinstance(tables, Unreachable):
            return tables
        if not tables.closed:
            return Refused("the partition is open: a job may start on the node")
        known = {node.metadata.name: node for node in tables.nodes}
        busy = {pod.spec.nodeName for pod in tables.pods if pod.status.phase == "Running"}
        fit = [name for name in nodes if name in known and name not in busy and _may_drain(known[name])]
        if not fit:
            return Refused("no longer idle")

        async def one(name: str) -> Outcome:
            outcome = await self._mark(name, known[name], DRAIN, if_was=(None, ADMISSION))
            return outcome if not isinstance(outcome, Applied) else await self._drain(name)

        return worst((await self._each(fit, one)).values())

    async def power_up(self, nodes: Sequence[str]) -> Outcome:
        """Those of these nodes that we had powered down."""
        tables = await self._bounded(self._listed(), self._by())
        if isinstance(tables, Unreachable):
            return tables
        ours = {node.metadata.name: node for node in tables.nodes if _stage(node) in {DRAIN, OFF}}

        async def one(name: str) -> Outcome:
            node = ours.get(name)
            return Applied("not ours") if node is None else await self._raise(node)

        return worst((await self._each(nodes, one)).values())

    async def _keep_up(self, tables: Tables) -> None:
        await super()._keep_up(tables)
        draining = [node.metadata.name for node in tables.nodes if _stage(node) == DRAIN][:MAX_NODES]
        await self._each(draining, self._drain)
        rising = {node.metadata.name: node for node in tables.nodes if _stage(node) == UP and self._is_back(node)}

        async def arrive(name: str) -> Outcome:
            return await self._arrived(rising[name])

        await self._each(list(rising)[:MAX_NODES], arrive)

    # -- one node ----------------------------------------------------------------------------------------------------

    async def _drain(self, name: str) -> Outcome:
        """Ask what is on the node to leave. Once nothing is, it is off."""
        pods = await self._open().listed("/api/v1/pods", Pod, fieldSelector=f"spec.nodeName={name},{LIVE}")
        if isinstance(pods, Unreachable):
            return pods
        if job := next((pod for pod in pods if pod.of_job and pod.metadata.deletionTimestamp is None), None):
            await self._change(self._places.node(name), Node, None, uncordon)
            return Refused(f"no longer idle: {job.key} has started there")
        staying = [pod for pod in pods if pod.evictable]
        asked = [pod for pod in staying if pod.metadata.deletionTimestamp is None][:MAX_EVICTIONS]
        outcomes = [await self._evict(pod) for pod in asked]
        if staying:
            outcome = worst(outcomes)
            return Applied("its pods are leaving") if isinstance(outcome, Applied) else outcome
        return await self._shut_down(name)

    async def _evict(self, pod: Pod) -> Outcome:
        named = {"name": pod.metadata.name, "namespace": pod.metadata.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": named}
        answer = await self._open().post(f"{self._places.pod(pod)}/eviction", body)
        if isinstance(answer, Unreachable):
            return answer
        if answer.status == 404:
            return GONE
        if answer.status == 429:
            self._faults["disruption_budget"] += 1
            self._say_once(f"a PodDisruptionBudget keeps {pod.key} where it is: the drain waits for it")
            return Refused(f"a PodDisruptionBudget keeps {pod.key}")
        return outcome_of(answer)

    async def _shut_down(self, name: str) -> Outcome:
        if self._hosts is not None and name in self._hosts.nodes:
            outcome = (await self._hosts.power_off([name]))[name]
            if not isinstance(outcome, Applied):
                self._faults["not_shut_down"] += 1
                self._say_once(f"node {name} was drained, but its host was not shut down: {outcome.detail}")
                return outcome
        return await self._mark(name, None, OFF, if_was=(DRAIN,))

    async def _raise(self, node: Node) -> Outcome:
        name = node.metadata.name
        if self._hosts is not None and name in self._hosts.nodes:
            outcome = (await self._hosts.power_on([name]))[name]
            if not isinstance(outcome, Applied):
                return outcome
            return await self._mark(name, node, UP, if_was=(DRAIN, OFF))
        if node.ready:  # nobody has shut it down
            return await self._arrived(node)
        return await self._mark(name, node, UP, if_was=(DRAIN, OFF))

    async def _arrived(self, node: Node) -> Outcome:
        """It is there again: uncordoned, or, where cordons are what keeps jobs from starting, cordoned for that."""
        if not self._site.by_kueue and (self._admitting is False or not self._may_open(node)):
            return await self._mark(node.metadata.name, node, ADMISSION, if_was=(UP, DRAIN, OFF))
        return await self._change(self._places.node(node.metadata.name), Node, node, uncordon)

    async def _mark(self, name: str, known: Node | None, why: str, *, if_was: Iterable[str | None]) -> Outcome:
        """Cordon a node for a reason, where it stands in one of these stages now."""
        stages = frozenset(if_was)
        mark = {NODE: f"{why} {self._now_s()}"}

        def decide(now: Node) -> Change:
            if _stage(now) not in stages or (_stage(now) is None and now.spec.unschedulable):
                return Refused("cordoned, or uncordoned, by somebody else")
            return {"metadata": mark, "spec": {"unschedulable": True}}

        return await self._change(self._places.node(name), Node, known, decide)

    def _is_back(self, node: Node) -> bool:
        mark = Mark.of(node)
        since_s = 0 if mark is None else mark.since_s
        return node.ready and (self._hosts is None or self._now_s() - since_s >= BOOT_S)


def _stage(node: Node) -> str | None:
    mark = Mark.of(node)
    return None if mark is None else mark.why


def _may_drain(node: Node) -> bool:
    return _stage(node) == ADMISSION or not node.spec.unschedulable
