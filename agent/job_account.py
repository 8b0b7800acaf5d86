"""What an HPC partition draws by its scheduler's account: idle nodes, running jobs, and caps on nodes. Pure.

A cap binds only where the jobs of a node want more than it leaves them above idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.drivers.base import PartitionFacts
from contract.messages import Job, JobState


@dataclass(frozen=True, slots=True)
class Nodes:
    """A partition on paper, or as learned from telemetry."""

    count: int
    rated_w: int
    """Of one node."""
    idle_w: int
    off_w: int = 0
    """Of one that is powered down, where that can be done."""
    capped_w: int | None = None
    """The least that one may be capped at; None where none can be."""
    capped_milli: int = 1_000
    """What jobs draw on capped nodes of what their caps leave them."""

    @property
    def above_w(self) -> int:
        """What a busy node draws above an idle one."""
        return max(self.rated_w - self.idle_w, 0)


class Account:
    """The draw of a partition, kept while jobs are stopped and started and nodes capped on paper."""

    def __init__(self, facts: PartitionFacts, nodes: Nodes, caps: Mapping[str, int] | None = None) -> None:
        self._facts = facts
        self._nodes = nodes
        self.caps = dict(caps or {})
        """Watts of each node that is capped."""
        self._wanted: dict[str, float] = {}
        """By node: what its running jobs would draw above idle."""
        up_w = nodes.idle_w * (facts.nodes_up + facts.booting) + nodes.off_w * len(facts.off_nodes)
        self._total_w = float(up_w)
        for job in facts.jobs:
            if job.state is JobState.RUNNING:
                self.start(job)

    @property
    def draw_w(self) -> int:
        return round(self._total_w)

    def start(self, job: Job) -> int:
        """A job runs from now on; what that adds."""
        return self._move(job, 1.0)

    def stop(self, job: Job) -> int:
        """A running job stands still; what that saves."""
        return -self._move(job, -1.0)

    def cap(self, caps: Mapping[str, int]) -> int:
        """Cap nodes, or cap them otherwise; what that saves."""
        before_w = self._total_w
        for node, cap_w in caps.items():
            given_w = self._given_w(node)
            self.caps[node] = cap_w
            self._total_w += self._given_w(node) - given_w
        return round(before_w - self._total_w)

    def uncap(self, nodes: Iterable[str]) -> int:
        """Take caps away; what that adds."""
        before_w = self._total_w
        for node in nodes:
            given_w = self._given_w(node)
            self.caps.pop(node, None)
            self._total_w += self._given_w(node) - given_w
        return round(self._total_w - before_w)

    def level_for(self, nodes: Iterable[str], budget_w: float) -> int:
        """The highest cap, from `capped_w` to the rated power, under which what these nodes draw above idle is at most
        `budget_w`; `capped_w` where none is."""
        wanted = [self._wanted.get(node, 0.0) for node in nodes]
        low_w, high_w = self._least_w, self._nodes.rated_w
        while low_w < high_w:
            middle_w = -(-(low_w + high_w) // 2)
            leaves_w = middle_w - self._nodes.idle_w
            if sum(min(load_w, leaves_w) for load_w in wanted) <= budget_w:
                low_w = middle_w
            else:
                high_w = middle_w - 1
        return low_w

    def given_w(self, nodes: Iterable[str]) -> float:
        """What these nodes draw above idle."""
        return sum(map(self._given_w, nodes))

    @property
    def split_w(self) -> tuple[float, float]:
        """What running jobs draw above idle: on free nodes, and on capped ones."""
        idle_w = self._nodes.idle_w * (self._facts.nodes_up + self._facts.booting)
        capped_w = self.given_w(self.caps)
        return self._total_w - idle_w - self._nodes.off_w * len(self._facts.off_nodes) - capped_w, capped_w

    def spare_w(self, node: str) -> float:
        """What a node would draw more if jobs filled it."""
        most_w = max(self._nodes.above_w, self._wanted.get(node, 0.0))
        return max(min(most_w, self._leaves_w(node)) - self._given_w(node), 0.0)

    @property
    def _least_w(self) -> int:
        capped_w = self._nodes.rated_w if self._nodes.capped_w is None else self._nodes.capped_w
        return min(max(capped_w, self._nodes.idle_w), self._nodes.rated_w)

    def _move(self, job: Job, sign: float) -> int:
        before_w = self._total_w
        places = self._facts.placed.get(job.id, ())
        if not places:
            self._total_w += sign * job.power_w
        for node in places:
            given_w = self._given_w(node)
            self._wanted[node] = max(self._wanted.get(node, 0.0) + sign * job.power_w / len(places), 0.0)
            self._total_w += self._given_w(node) - given_w
        return round(self._total_w - before_w)

    def _given_w(self, node: str) -> float:
        wanted_w = self._wanted.get(node, 0.0)
        if node not in self.caps:
            return wanted_w
        return min(wanted_w, self._leaves_w(node)) * self._nodes.capped_milli / 1_000

    def _leaves_w(self, node: str) -> float:
        cap_w = self.caps.get(node)
        return float("inf") if cap_w is None else max(cap_w - self._nodes.idle_w, 0)


def draw_w(facts: PartitionFacts, nodes: Nodes, caps: Mapping[str, int] | None = None) -> int:
    """What the partition draws by its scheduler's account."""
    return Account(facts, nodes, caps).draw_w
