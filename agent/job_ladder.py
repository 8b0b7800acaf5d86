"""Which jobs of an HPC partition to freeze, thaw or let start, so that it keeps its setpoint. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.drivers.base import PartitionFacts
from contract.messages import Job, JobState, Order


@dataclass(frozen=True, slots=True)
class Ladder:
    """What the order says of this bank's jobs."""

    jobs: tuple[str, ...] = ()
    """In the order they are shed."""
    firm: frozenset[str] = frozenset()
    """Firm jobs it gives leave to freeze."""
    all_firm: bool = False

    @classmethod
    def of(cls, order: Order, bank: str) -> Ladder:
        steps = [step for step in order.shed_ladder if step.bank == bank]
        return cls(
            jobs=tuple(step.job for step in steps if step.job is not None),
            firm=frozenset(step.job for step in steps if step.firm and step.job is not None),
            all_firm=any(step.firm and step.job is None for step in steps),
        )


@dataclass(frozen=True, slots=True)
class Aim:
    """What the partition is to be held at."""

    setpoint_w: int
    may_raise: bool
    firm: frozenset[str] = frozenset()
    """Firm jobs that may be frozen for it ..."""
    any_firm: bool = False
    """... or all of them."""
    strict: bool = False
    """A cap or an obligation is in force: jobs start only where all that could start would fit."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do now."""

    freeze: tuple[str, ...] = ()
    thaw: tuple[str, ...] = ()
    admit: bool = False


@dataclass(frozen=True, slots=True)
class Nodes:
    """A partition on paper."""

    count: int
    rated_w: int
    """Of one node."""
    idle_w: int


def draw_w(facts: PartitionFacts, nodes: Nodes) -> int:
    """What the partition draws by its scheduler's account."""
    return nodes.idle_w * facts.nodes_up + sum(job.power_w for job in facts.jobs if job.state is JobState.RUNNING)


def plan_moves(
    facts: PartitionFacts, aim: Aim, nodes: Nodes, ladder: Ladder, frozen: Sequence[str], excess_w: int = 0
) -> Moves:
    """What brings the partition to its aim. Pure. `frozen` are the jobs we froze, in that order; `excess_w` is what a
    meter shows above the scheduler's account."""
    room_w = aim.setpoint_w - draw_w(facts, nodes) - max(excess_w, 0)
    jobs = {job.id: job for job in facts.jobs}
    if room_w < 0:
        chosen = []
        for job in _shed_order(facts, aim, ladder):
            if room_w >= 0:
                break
            chosen.append(job.id)
            room_w += job.power_w
        return Moves(freeze=tuple(chosen))
    if not aim.may_raise:
        return Moves()
    thaw: list[str] = []
    waiting = [jobs[job] for job in reversed(frozen) if job in jobs and jobs[job].state is JobState.FROZEN]
    for job in waiting:
        if job.power_w > room_w:
            return Moves(thaw=tuple(thaw))  # in order: a small job does not overtake one that was frozen after it
        thaw.append(job.id)
        room_w -= job.power_w
    return Moves(thaw=tuple(thaw), admit=_may_admit(facts, aim, nodes, room_w))


def _shed_order(facts: PartitionFacts, aim: Aim, ladder: Ladder) -> list[Job]:
    """Running jobs that may be frozen: down the ladder, then the least value per watt; firm ones last."""
    place = {job: index for index, job in enumerate(ladder.jobs)}

    def rank(job: Job) -> tuple[bool, int, float, str]:
        worth = job.value_usd_per_node_h * job.nodes / max(job.power_w, 1)
        return job.firm, place.get(job.id, len(place)), worth, job.id

    may = [job for job in facts.jobs if not job.firm or aim.any_firm or job.id in aim.firm]
    return sorted((job for job in may if job.state is JobState.RUNNING and job.power_w), key=rank)


def _may_admit(facts: PartitionFacts, aim: Aim, nodes: Nodes, room_w: int) -> bool:
    """Whether jobs may start by themselves. Which one does is the scheduler's choice, so the largest must fit; under
    a cap or an obligation, all that could start at once must."""
    if aim.setpoint_w >= nodes.count * nodes.rated_w:
        return True
    pending = [job.power_w for job in facts.jobs if job.state is JobState.PENDING]
    node_w = nodes.rated_w - nodes.idle_w
    free_w = max(facts.nodes_up - facts.nodes_busy, 0) * node_w
    if free_w <= room_w:
        return True
    if aim.strict:
        return bool(pending) and min(sum(pending), free_w) <= room_w
    return max(pending, default=node_w) <= room_w
