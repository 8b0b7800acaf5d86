"""What to do to the jobs and nodes of an HPC partition, so that it keeps its setpoint. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
    firm_w: int | None = None
    """Firm work is touched only to come down to this, where it is above the setpoint."""
    strict: bool = False
    """A cap or an obligation is in force: jobs start only where all that could start would fit."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do now, in the order in which it is done."""

    freeze: tuple[str, ...] = ()
    warn: tuple[str, ...] = ()
    """Jobs to be requeued when their notice is over: it begins now."""
    requeue: tuple[str, ...] = ()
    power_down: tuple[str, ...] = ()
    """Nodes."""
    thaw: tuple[str, ...] = ()
    power_up: tuple[str, ...] = ()
    admit: bool = False


@dataclass(frozen=True, slots=True)
class Nodes:
    """A partition on paper."""

    count: int
    rated_w: int
    """Of one node."""
    idle_w: int
    off_w: int = 0
    """Of one that is powered down, where that can be done."""


@dataclass(frozen=True, slots=True)
class Doings:
    """What the agent has done to the partition, and how far it may go."""

    frozen: Sequence[str] = ()
    """Jobs we froze, in that order."""
    warned: Mapping[str, int] = field(default_factory=dict)
    """When each job that is to be requeued was warned."""
    now_ms: int = 0
    deep: bool = False
    """Whether jobs may be requeued and nodes powered down because frozen jobs on idle nodes draw too much still: where
    that has lasted, for both take minutes to undo."""


def draw_w(facts: PartitionFacts, nodes: Nodes) -> int:
    """What the partition draws by its scheduler's account."""
    up_w = nodes.idle_w * (facts.nodes_up + facts.booting) + nodes.off_w * len(facts.off_nodes)
    return up_w + sum(job.power_w for job in facts.jobs if job.state is JobState.RUNNING)


def plan_moves(
    facts: PartitionFacts, aim: Aim, nodes: Nodes, ladder: Ladder, doings: Doings, excess_w: int = 0
) -> Moves:
    """What brings the partition to its aim. Pure. `excess_w` is what a meter shows above the scheduler's account.

    Down: no new starts; freeze; requeue what must not stand still, after its notice; and where all that is not enough
    for long, requeue what is frozen and power idle nodes down. Up in reverse.
    """
    room_w = aim.setpoint_w - draw_w(facts, nodes) - max(excess_w, 0)
    if room_w < 0:
        return _down(facts, aim, nodes, ladder, doings, room_w)
    return _up(facts, aim, nodes, doings, room_w) if aim.may_raise else Moves()


def below_idle(facts: PartitionFacts, aim: Aim, nodes: Nodes) -> bool:
    """Whether the aim is below what the partition draws with every job that may be touched stopped in place."""
    untouched_w = sum(job.power_w for job in facts.jobs if job.state is JobState.RUNNING and not _may_touch(job, aim))
    up_w = nodes.idle_w * (facts.nodes_up + facts.booting) + nodes.off_w * len(facts.off_nodes)
    return up_w + untouched_w > aim.setpoint_w


def _down(facts: PartitionFacts, aim: Aim, nodes: Nodes, ladder: Ladder, doings: Doings, room_w: int) -> Moves:
    """`now_w` is the room once what we do now shows; `soon_w` when those that were warned are gone as well. What a
    meter shows beyond the account may be a job that is slow to stop: firm work is never touched for that."""
    now_w = soon_w = room_w
    spared_w = max(aim.setpoint_w, aim.firm_w or 0) - draw_w(facts, nodes) - room_w
    freeze: list[str] = []
    warn: list[str] = []
    requeue: list[str] = []
    for job in _shed_order(facts, aim, ladder):
        if now_w >= 0 or (job.firm and now_w + spared_w >= 0):
            break
        if job.id not in facts.unfreezable:
            freeze.append(job.id)
            now_w += job.power_w
            soon_w += job.power_w
        elif soon_w < 0 and job.id in facts.requeueable:
            soon_w += job.power_w
            if _is_ripe(job, doings):
                requeue.append(job.id)
                now_w += job.power_w
            elif job.id not in doings.warned:
                warn.append(job.id)
    power_down: tuple[str, ...] = ()
    if now_w < 0 and doings.deep and not facts.admitting and nodes.off_w < nodes.idle_w:
        short = -(now_w // (nodes.idle_w - nodes.off_w))  # nodes, rounded up
        power_down = facts.idle_nodes[:short]
        requeue += _deeper(facts, aim, ladder, short - len(power_down))
    return Moves(tuple(freeze), tuple(warn), tuple(requeue), power_down)


def _deeper(facts: PartitionFacts, aim: Aim, ladder: Ladder, nodes: int) -> Iterator[str]:
    """Frozen jobs to requeue so that so many nodes fall idle. One with a notice stays: it would have to run for it."""
    for job in _shed_order(facts, aim, ladder, JobState.FROZEN):
        if nodes <= 0:
            return
        if job.id in facts.requeueable and not job.notice_ms:
            nodes -= job.nodes
            yield job.id


def _up(facts: PartitionFacts, aim: Aim, nodes: Nodes, doings: Doings, room_w: int) -> Moves:
    jobs = {job.id: job for job in facts.jobs}
    thaw: list[str] = []
    waiting = [jobs[job] for job in reversed(doings.frozen) if job in jobs and jobs[job].state is JobState.FROZEN]
    for job in waiting:
        if job.power_w > room_w:
            return Moves(thaw=tuple(thaw))  # in order: a small job does not overtake one that was frozen after it
        thaw.append(job.id)
        room_w -= job.power_w
    node_w = nodes.idle_w - nodes.off_w
    power_up = facts.off_nodes[: room_w // node_w] if node_w > 0 else facts.off_nodes
    room_w -= len(power_up) * node_w
    return Moves(thaw=tuple(thaw), power_up=power_up, admit=_may_admit(facts, aim, nodes, room_w))


def _is_ripe(job: Job, doings: Doings) -> bool:
    """Whether its notice is over, if it has one."""
    warned_ms = doings.warned.get(job.id)
    return not job.notice_ms or (warned_ms is not None and doings.now_ms - warned_ms >= job.notice_ms)


def _may_touch(job: Job, aim: Aim) -> bool:
    return not job.firm or aim.any_firm or job.id in aim.firm


def _shed_order(facts: PartitionFacts, aim: Aim, ladder: Ladder, state: JobState = JobState.RUNNING) -> list[Job]:
    """Jobs that may be shed: down the ladder, then the least value per watt; firm ones last."""
    place = {job: index for index, job in enumerate(ladder.jobs)}

    def rank(job: Job) -> tuple[bool, int, float, str]:
        worth = job.value_usd_per_node_h * job.nodes / max(job.power_w, 1)
        return job.firm, place.get(job.id, len(place)), worth, job.id

    may = [job for job in facts.jobs if _may_touch(job, aim)]
    return sorted((job for job in may if job.state is state and job.power_w), key=rank)


def _may_admit(facts: PartitionFacts, aim: Aim, nodes: Nodes, room_w: int) -> bool:
    """Whether jobs may start by themselves. Which one does is the scheduler's choice, so the largest must fit; under
    a cap or an obligation, all that could start at once must."""
    if aim.setpoint_w >= nodes.count * nodes.rated_w:
        return True
    node_w, boot_w = nodes.rated_w - nodes.idle_w, nodes.idle_w - nodes.off_w
    asleep = len(facts.off_nodes)  # a scheduler wakes them by itself for jobs that it may start
    pending = [job.power_w + boot_w * min(job.nodes, asleep) for job in facts.jobs if job.state is JobState.PENDING]
    taken_w = sum(job.power_w for job in facts.jobs if job.state is not JobState.PENDING)
    free_w = max((facts.nodes_up + facts.booting + asleep) * node_w - taken_w, 0) + asleep * boot_w
    if free_w <= room_w:
        return True
    if aim.strict:
        return bool(pending) and min(sum(pending), free_w) <= room_w
    return max(pending, default=node_w) <= room_w
