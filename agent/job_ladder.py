"""What to do to the jobs and nodes of an HPC partition, so that it keeps its setpoint. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.drivers.base import PartitionFacts
from agent.job_account import Account, Nodes, draw_w
from contract.messages import Job, JobState, Order

CAP_STEP: Final = 0.05
"""A cap is raised by at least so much of what lies between the least and the rated power, or to its end."""
__all__ = ["Aim", "Doings", "Ladder", "Moves", "Nodes", "below_idle", "draw_w", "plan_moves"]


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
    """What to do now. Down, all at once; up, one after another in this order."""

    cap: Mapping[str, int] = field(default_factory=dict)
    """Nodes to cap, or to cap lower, and at how many watts."""
    uncap: tuple[str, ...] = ()
    """Nodes that have a cap of ours which must go: firm work runs there, or all fits."""
    freeze: tuple[str, ...] = ()
    warn: tuple[str, ...] = ()
    """Jobs to be requeued when their notice is over: it begins now."""
    requeue: tuple[str, ...] = ()
    power_down: tuple[str, ...] = ()
    """Nodes."""
    thaw: tuple[str, ...] = ()
    power_up: tuple[str, ...] = ()
    raised: Mapping[str, int] = field(default_factory=dict)
    """Nodes to cap higher."""
    admit: bool = False
    admit_on: frozenset[str] | None = None
    """The nodes on which jobs may start, where not all of them fit; None for all."""


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
    busy: frozenset[str] = frozenset()
    """Jobs that have a command under way, or have just failed to take one: left alone until the next look."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """Watts of each node under a cap of ours."""
    cappable: frozenset[str] = frozenset()
    """Nodes whose power can be capped now."""
    steps: bool = False
    """Whether jobs can be let start on some nodes alone."""


def plan_moves(
    facts: PartitionFacts, aim: Aim, nodes: Nodes, ladder: Ladder, doings: Doings, excess_w: int = 0
) -> Moves:
    """What brings the partition to its aim. Pure. `excess_w` is what a meter shows above the scheduler's account.

    Down: no new starts; cap nodes; freeze; requeue what must not stand still, after its notice; and where all that is
    not enough for long, requeue what is frozen and power idle nodes down. Up in reverse.
    """
    account = Account(facts, nodes, doings.caps)
    firm_nodes = _firm_nodes(facts)
    freed = tuple(
        sorted(firm_nodes & account.caps.keys())
    )  # a firm job has started on a capped node, or all fits again
    account.uncap(freed)
    room_w = aim.setpoint_w - account.draw_w - max(excess_w, 0)
    planner = _Planner(facts, aim, nodes, ladder, doings, account, freed)
    if room_w < 0:
        return planner.down(room_w, firm_nodes)
    return planner.up(room_w, firm_nodes) if aim.may_raise else Moves(uncap=freed)


def below_idle(facts: PartitionFacts, aim: Aim, nodes: Nodes) -> bool:
    """Whether the aim is below what the partition draws with every job that may be touched stopped in place."""
    untouched_w = sum(job.power_w for job in facts.jobs if job.state is JobState.RUNNING and not _may_touch(job, aim))
    up_w = nodes.idle_w * (facts.nodes_up + facts.booting) + nodes.off_w * len(facts.off_nodes)
    return up_w + untouched_w > aim.setpoint_w


@dataclass(slots=True)
class _Planner:
    """One plan on its way; `account` moves along with it."""

    facts: PartitionFacts
    aim: Aim
    nodes: Nodes
    ladder: Ladder
    doings: Doings
    account: Account
    uncap: tuple[str, ...]

    def down(self, room_w: int, firm_nodes: frozenset[str]) -> Moves:
        """`now_w` is the room once what we do now shows; `soon_w` when those that were warned are gone as well. What a
        meter shows beyond the account may be a job that is slow to stop: firm work is never touched for that. Where it
        may be touched at all, its nodes are capped when all flexible work is down, and only then is it frozen."""
        aim, facts = self.aim, self.facts
        firm_caps: dict[str, int] | None = None
        spared_w = max(aim.setpoint_w, aim.firm_w or 0) - self.account.draw_w - room_w
        caps = self._lower_caps(room_w, firm_nodes)
        now_w = soon_w = room_w + self.account.cap(caps)
        freeze: list[str] = []
        warn: list[str] = []
        requeue: list[str] = []
        for job in _shed_order(facts, aim, self.ladder, self.doings.busy):
            if job.firm and now_w + spared_w < 0 and firm_caps is None:
                firm_caps = self._firm_caps(now_w + spared_w, firm_nodes)
                saved_w = self.account.cap(firm_caps)
                now_w += saved_w
                soon_w += saved_w
            if now_w >= 0 or (job.firm and now_w + spared_w >= 0):
                break
            if job.id not in facts.unfreezable:
                saved_w = self.account.stop(job)
                freeze.append(job.id)
                now_w += saved_w
                soon_w += saved_w
            elif soon_w < 0 and job.id in facts.requeueable:
                saved_w = self.account.stop(job)
                soon_w += saved_w
                if _is_ripe(job, self.doings):
                    requeue.append(job.id)
                    now_w += saved_w
                elif job.id not in self.doings.warned:
                    warn.append(job.id)
        power_down: tuple[str, ...] = ()
        if now_w < 0 and self.doings.deep and not facts.admitting and self.nodes.off_w < self.nodes.idle_w:
            short = -(now_w // (self.nodes.idle_w - self.nodes.off_w))  # nodes, rounded up
            power_down = facts.idle_nodes[:short]
            requeue += self._deeper(short - len(power_down))
        kept = firm_caps or {}
        caps |= {node: cap_w for node, cap_w in kept.items() if self.doings.caps.get(node) != cap_w}
        uncap = tuple(node for node in self.uncap if node not in kept)
        return Moves(caps, uncap, tuple(freeze), tuple(warn), tuple(requeue), power_down)

    def up(self, room_w: int, firm_nodes: frozenset[str]) -> Moves:
        jobs = {job.id: job for job in self.facts.jobs}
        thaw: list[str] = []
        waiting = [jobs[job] for job in reversed(self.doings.frozen) if job in jobs]
        for job in waiting:
            if job.state is not JobState.FROZEN:
                continue
            if job.id in self.doings.busy:
                room_w -= job.power_w
                continue
            added_w = self.account.start(job)
            if added_w > room_w:  # in order: a small job does not overtake one that was frozen after it
                return Moves(uncap=self.uncap, thaw=tuple(thaw))
            thaw.append(job.id)
            room_w -= added_w
        node_w = self.nodes.idle_w - self.nodes.off_w
        off = self.facts.off_nodes
        power_up = off[: room_w // node_w] if node_w > 0 else off
        room_w -= len(power_up) * node_w
        raised, uncap = self._raise_caps(room_w, firm_nodes)
        room_w -= self.account.uncap(uncap) - self.account.cap(raised)
        admit, admit_on = self._admission(room_w)
        return Moves(
            uncap=(*self.uncap, *uncap),
            thaw=tuple(thaw),
            power_up=power_up,
            raised=raised,
            admit=admit,
            admit_on=admit_on,
        )

    # -- caps --------------------------------------------------------------------------------------------------------

    def _lower_caps(self, room_w: int, firm_nodes: frozenset[str]) -> dict[str, int]:
        """One level for every node that may be capped, as high as the setpoint allows. Nothing is raised."""
        if self.nodes.capped_w is None:
            return {}
        may = [node for node in self.facts.up_nodes if node in self.doings.cappable and node not in firm_nodes]
        level_w = self.account.level_for(may, self.account.given_w(may) + room_w)
        return {node: level_w for node in may if self.account.caps.get(node, self.nodes.rated_w) > level_w}

    def _firm_caps(self, room_w: int, firm_nodes: frozenset[str]) -> dict[str, int]:
        """The same for nodes with firm work that may be touched. A cap that one of them has already is not raised on
        the way down."""
        if self.nodes.capped_w is None:
            return {}
        ours, spared = self.doings.caps, _firm_nodes(self.facts, self.aim)
        may = [node for node in self.facts.up_nodes if node in firm_nodes - spared]
        may = [node for node in may if node in self.doings.cappable or node in ours]
        level_w = self.account.level_for(may, self.account.given_w(may) + room_w)
        caps = {
            node: min(level_w, ours.get(node, level_w)) if node in self.doings.cappable else ours[node] for node in may
        }
        return {node: cap_w for node, cap_w in caps.items() if cap_w < self.nodes.rated_w}

    def _raise_caps(self, room_w: int, firm_nodes: frozenset[str]) -> tuple[dict[str, int], tuple[str, ...]]:
        """Nodes to cap higher, and nodes to free. While jobs wait, a cap stays so low that all nodes fit when full:
        more work is done in a watt by many capped nodes than by few free ones."""
        ours = [node for node in self.account.caps if node not in firm_nodes]
        nodes, least_w = self.nodes, self.nodes.capped_w
        if not ours or least_w is None:  # of a cap that no setting knows any more, nothing is kept
            return {}, self._lost_caps(ours, room_w)
        lowest_w = min(self.account.caps[node] for node in ours)
        budget_w = self.account.given_w(ours) + room_w
        if any(job.state is JobState.PENDING for job in self.facts.jobs):
            others_w = sum(self.account.spare_w(node) for node in self.facts.up_nodes if node not in self.account.caps)
            level_w = nodes.idle_w + int((budget_w - others_w) // len(ours))
            level_w = min(max(level_w, least_w), nodes.rated_w)
        else:
            level_w = self.account.level_for(ours, budget_w)
        if level_w >= nodes.rated_w:
            return {}, tuple(ours)
        if level_w - lowest_w < CAP_STEP * (nodes.rated_w - least_w):
            return {}, ()
        return {node: level_w for node in ours if self.account.caps[node] < level_w}, ()

    def _lost_caps(self, ours: Sequence[str], room_w: int) -> tuple[str, ...]:
        """Caps to take away where the settings allow none any more, as soon as that fits."""
        trial = Account(self.facts, self.nodes, self.account.caps)
        return tuple(ours) if trial.uncap(ours) <= room_w else ()

    # -- starts ------------------------------------------------------------------------------------------------------

    def _admission(self, room_w: int) -> tuple[bool, frozenset[str] | None]:
        """Whether jobs may start by themselves, and on which nodes. Which one does is the scheduler's choice, so the
        largest must fit, or the nodes when full; under a cap or an obligation the nodes, or where it knows none all
        that could start at once."""
        facts, nodes = self.facts, self.nodes
        if self.aim.setpoint_w >= nodes.count * nodes.rated_w:
            return True, None
        node_w, boot_w = nodes.above_w, nodes.idle_w - nodes.off_w
        asleep = len(facts.off_nodes)  # a scheduler wakes them by itself for jobs that it may start
        pending = [job.power_w + boot_w * min(job.nodes, asleep) for job in facts.jobs if job.state is JobState.PENDING]
        if self.doings.steps and facts.up_nodes and (self.aim.strict or not 0 < max(pending, default=0) <= room_w):
            return self._steps(room_w)
        taken_w = sum(job.power_w for job in facts.jobs if job.state is not JobState.PENDING)
        free_w = max((facts.nodes_up + facts.booting + asleep) * node_w - taken_w, 0) + asleep * boot_w
        if free_w <= room_w:
            return True, None
        if self.aim.strict:
            return bool(pending) and min(sum(pending), free_w) <= room_w, None
        return max(pending, default=node_w) <= room_w, None

    def _steps(self, room_w: int) -> tuple[bool, frozenset[str] | None]:
        """As many nodes as fit when full, the fullest first; those that jobs may start on already, as long as they
        fit and take as much."""
        facts, nodes = self.facts, self.nodes
        asleep_w = nodes.above_w + nodes.idle_w - nodes.off_w
        needs_w = {node: self.account.spare_w(node) for node in facts.up_nodes}
        needs_w |= dict.fromkeys(facts.off_nodes, float(asleep_w))
        room_w -= facts.booting * nodes.above_w
        fits: set[str] = set()
        left_w = float(room_w)
        for node in sorted(needs_w, key=lambda node: (needs_w[node], node)):
            if needs_w[node] > left_w:
                break
            left_w -= needs_w[node]
            fits.add(node)
        if len(fits) == len(needs_w):
            return True, None
        stands = needs_w.keys() - facts.barred
        if facts.barred and room_w - left_w <= sum(needs_w[node] for node in stands) <= room_w:
            fits = set(stands)
        return any(needs_w[node] for node in fits), frozenset(fits)

    def _deeper(self, nodes: int) -> Iterator[str]:
        """Frozen jobs to requeue so that so many nodes fall idle. One with a notice stays: it would have to run."""
        for job in _shed_order(self.facts, self.aim, self.ladder, self.doings.busy, JobState.FROZEN):
            if nodes <= 0:
                return
            if job.id in self.facts.requeueable and not job.notice_ms:
                nodes -= job.nodes
                yield job.id


def _is_ripe(job: Job, doings: Doings) -> bool:
    """Whether its notice is over, if it has one."""
    warned_ms = doings.warned.get(job.id)
    return not job.notice_ms or (warned_ms is not None and doings.now_ms - warned_ms >= job.notice_ms)


def _may_touch(job: Job, aim: Aim) -> bool:
    return not job.firm or aim.any_firm or job.id in aim.firm


def _firm_nodes(facts: PartitionFacts, aim: Aim | None = None) -> frozenset[str]:
    """Nodes on which firm work runs; with an aim, those where it may not be touched."""
    running = (job for job in facts.jobs if job.state is JobState.RUNNING and job.firm)
    kept = (job for job in running if aim is None or not _may_touch(job, aim))
    return frozenset(node for job in kept for node in facts.placed.get(job.id, ()))


def _shed_order(
    facts: PartitionFacts, aim: Aim, ladder: Ladder, busy: frozenset[str], state: JobState = JobState.RUNNING
) -> list[Job]:
    """Jobs that may be shed: down the ladder, then the least value per watt; firm ones last."""
    place = {job: index for index, job in enumerate(ladder.jobs)}

    def rank(job: Job) -> tuple[bool, int, float, str]:
        worth = job.value_usd_per_node_h * job.nodes / max(job.power_w, 1)
        return job.firm, place.get(job.id, len(place)), worth, job.id

    may = [job for job in facts.jobs if _may_touch(job, aim) and job.id not in busy]
    return sorted((job for job in may if job.state is state and job.power_w), key=rank)
