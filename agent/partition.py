"""The HPC bank: one partition of a scheduler, held at its setpoint by what may start and what is stopped.

Down: no new starts, then jobs are frozen down the order's shed ladder, the rest by value per watt; those that must not
stand still are warned, and requeued when their notice is over. Where all that is frozen and idle still draws too much
for `deep_after_ms`, frozen jobs are requeued and idle nodes powered down. Firm jobs only where the guard says so. Up,
in reverse: thaw what we froze, last frozen first, power nodes up, then let pending jobs start. Only what the agent
itself did is undone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from agent.bank import UNTOLD, Survey, Turn
from agent.contain import Containment
from agent.drivers.base import (
    Applied,
    CountsFaults,
    NodePower,
    Outcome,
    Partition,
    PartitionFacts,
    Refused,
    Remembers,
    Requeues,
    Unreachable,
)
from agent.guard_model import BankHold
from agent.job_ladder import Aim, Doings, Ladder, Moves, Nodes, below_idle, draw_w, plan_moves
from agent.receipts import Tally
from contract.clock import Clock
from contract.messages import DeviceCounts, JobState, Order, PartitionReading, Source
from contract.reasons import ReceiptReason

ROUNDS_MAX: Final = 3
"""Looks at the partition in a row after acting on it, before the next regular one."""
BATCH_DEADLINES: Final = 4
"""Deadlines that an operation on many jobs may take; the driver works on several at once."""
ATTEMPT_MS: Final = 60_000
"""How long a freeze whose answer was lost may still turn out to have been ours."""


class HpcBank:
    """See the module. `run` acts; everything else only says what is wanted or known."""

    def __init__(
        self,
        name: str,
        partition: Partition,
        nodes: Nodes,
        *,
        deadline_s: float,
        stale_ms: int,
        settle_ms: int,
        deep_after_ms: int = 60_000,
        clock: Clock,
        contain: Containment,
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.partition = partition
        self.first_command_ms: int | None = None
        self.frozen: list[str] = []
        """Jobs we froze, in that order."""
        self.admission_closed = False
        """Whether it is we who keep jobs from starting."""
        self.commands: Counter[tuple[str, str]] = Counter()
        if isinstance(partition, NodePower):
            nodes = replace(nodes, off_w=min(partition.node_off_w, nodes.idle_w))
        self._nodes = nodes
        self._deadline_s = deadline_s
        self._stale_ms = stale_ms
        self._settle_ms = settle_ms
        self._deep_after_ms = deep_after_ms
        self._deep_since_ms: int | None = None
        self._warned: dict[str, int] = {}
        self._clock = clock
        self._contain = contain
        self._on_change = on_change
        self._attempts: dict[str, int] = {}
        self._acting = False
        self._wake = asyncio.Event()
        self._aim: Aim | None = None
        self._ladder = Ladder()
        self._strict = False
        self._facts: PartitionFacts | None = None
        self._read_ms = 0
        self._acted_ms: int | None = None
        self._failed = False
        self._tally = Tally()
        self._metered_w: tuple[int, int] | None = None

    def new_order(self, order: Order) -> None:
        self.first_command_ms = None
        self._ladder = Ladder.of(order, self.name)
        self._strict = order.cap_w is not None or order.obligation is not None

    def hold(self, hold: BankHold, unread_w: int | None) -> None:  # noqa: ARG002  a scheduler knows all its nodes
        aim = None
        if hold.setpoint_w is not None:
            any_firm = hold.firm_too and (
                bool(hold.interlocks) or hold.why is ReceiptReason.FEEDER_LIMIT or self._ladder.all_firm
            )
            firm = self._ladder.firm if hold.firm_too else frozenset()
            local = bool(hold.interlocks) or hold.why is ReceiptReason.FEEDER_LIMIT
            # An order's cap is held by a meter too, which shows what is on its way down: no firm job stops for that.
            firm_w = hold.setpoint_w if local else max(hold.setpoint_w, hold.wanted_w)
            aim = Aim(hold.setpoint_w, hold.may_raise, firm, any_firm, firm_w, self._strict)
        if aim != self._aim:
            self._aim = aim
            self._wake.set()

    def correct(self, metered_w: int, read_ms: int, tolerance_w: int) -> None:
        """Tell it what its own meter shows: an excess that stays is shed too."""
        self._metered_w = (metered_w - tolerance_w, read_ms)

    @property
    def turn(self) -> Turn:
        """It starts no bank: its scheduler starts jobs."""
        return UNTOLD

    def keeps_w(self, unread_w: int | None) -> int | None:  # noqa: ARG002  the same holds here
        return None

    @property
    def settled(self) -> bool:
        """Whether it has acted on its present aim."""
        return not self._wake.is_set() and not self._acting

    @property
    def memory(self) -> dict[str, str]:
        """What its driver remembers."""
        return dict(self.partition.memory) if isinstance(self.partition, Remembers) else {}

    @property
    def faults(self) -> Mapping[str, int]:
        """What its driver put up with, by kind."""
        return dict(self.partition.faults) if isinstance(self.partition, CountsFaults) else {}

    @property
    def footprint(self) -> object:
        """All of it that must survive a restart; changes when that does."""
        return tuple(self.frozen), self.admission_closed, self.memory

    def look(self) -> None:
        """Read the partition at the next opportunity."""
        self._wake.set()

    async def run(self) -> None:
        """Hold the partition at its aim until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._acting = True
                if self._fresh(self._clock.mono_ms()):
                    await self._act()  # at once, on what is known; the look that follows corrects it
                for _ in range(ROUNDS_MAX):
                    await self._read()
                    if not await self._act():
                        break
                self._acting = False
                self._on_change()
        finally:
            await self._contain.run(self.partition.close(), self._deadline_s, self.partition)

    def survey(self, now_ms: int) -> Survey:
        facts, nodes = self._facts, self._nodes
        if facts is None or not self._fresh(now_ms):
            counts = DeviceCounts(unreachable=nodes.count) if self._failed else DeviceCounts(unknown=nodes.count)
            return Survey(counts=counts, source=Source.MODEL, tally=self._tally)
        power_w = draw_w(facts, nodes)
        up = min(facts.nodes_up, nodes.count)
        busy = min(facts.nodes_busy, up)
        return Survey(
            counts=DeviceCounts(running=busy, stopped=up - busy, unreachable=nodes.count - up),
            power_w=power_w,
            upper_w=power_w,
            standing_w=power_w,
            claimed_w=power_w,
            source=Source.MODEL,
            read_ms=self._read_ms,
            available_w=up * nodes.rated_w,
            planned_w=power_w,
            tally=self._tally,
        )

    def reading(self, now_ms: int, jobs_max: int) -> PartitionReading | None:
        """The partition as it is reported; None where it was never read. Of a long queue its head is told."""
        facts = self._facts
        if facts is None:
            return None
        jobs = facts.jobs
        if len(jobs) > jobs_max:  # those that draw power first, then those that wait, in their order
            jobs = tuple(sorted(jobs, key=lambda job: job.state is JobState.PENDING)[:jobs_max])
        return PartitionReading(
            bank=self.name,
            nodes_up=facts.nodes_up,
            nodes_busy=facts.nodes_busy,
            admitting=facts.admitting,
            age_ms=max(now_ms - self._read_ms, 0),
            jobs=jobs,
        )

    def _fresh(self, now_ms: int) -> bool:
        return self._facts is not None and now_ms - self._read_ms <= self._stale_ms

    async def _read(self) -> None:
        facts = await self._contain.run(self.partition.read(), self._deadline_s, self.partition)
        self._failed = isinstance(facts, Unreachable)
        if isinstance(facts, Unreachable):
            return
        self._facts = facts
        self._read_ms = self._clock.mono_ms()
        standing = {job.id for job in facts.jobs if job.state is JobState.FROZEN}
        since_ms = self._read_ms - ATTEMPT_MS
        self._attempts = {job: at_ms for job, at_ms in self._attempts.items() if at_ms >= since_ms}
        self.frozen += [job for job in self._attempts if job in standing and job not in self.frozen]
        # What has ended, or what somebody else let go on, is no longer ours to thaw.
        self.frozen = [job for job in self.frozen if job in standing]
        running = {job.id for job in facts.jobs if job.state is JobState.RUNNING}
        self._warned = {job: at_ms for job, at_ms in self._warned.items() if job in running}

    async def _act(self) -> bool:
        """One round of moves on what is known. Whether anything was done that a new look should show."""
        aim, facts = self._aim, self._facts
        if aim is None or facts is None or not self._fresh(self._clock.mono_ms()):
            return False
        moves = plan_moves(facts, aim, self._nodes, self._ladder, self._doings(facts, aim), self._excess_w(facts))
        closes = not moves.admit and (facts.admitting or self.admission_closed)
        outcomes = dict(await self._down(moves, closes=closes)) | dict(await self._up(moves))
        self._count(moves, outcomes, closes=closes)
        opens = moves.admit and not facts.admitting and self.admission_closed
        return bool(moves.freeze or moves.requeue or moves.power_down or moves.thaw or moves.power_up) or opens

    def _doings(self, facts: PartitionFacts, aim: Aim) -> Doings:
        now_ms = self._clock.mono_ms()
        if not below_idle(facts, aim, self._nodes) or not isinstance(self.partition, NodePower):
            self._deep_since_ms = None
        elif self._deep_since_ms is None:
            self._deep_since_ms = now_ms
        deep = self._deep_since_ms is not None and now_ms - self._deep_since_ms >= self._deep_after_ms
        return Doings(self.frozen, self._warned, now_ms, deep)

    async def _down(self, moves: Moves, *, closes: bool) -> Mapping[str, Outcome]:
        """Close admission, freeze, warn and requeue, all at once: none waits for another's hanging."""
        if not (closes or moves.freeze or moves.warn or moves.requeue or moves.power_down):
            return {}
        if moves.freeze or moves.requeue or not self.admission_closed:
            self._note_command()
        admission, *done = await asyncio.gather(
            self._close(closes=closes),
            self._freeze(moves.freeze),
            self._warn(moves.warn),
            self._requeue(moves.requeue),
            self._power(moves.power_down, up=False),
        )
        outcomes = dict(admission)
        for each in done:
            outcomes |= each
        return outcomes

    async def _close(self, *, closes: bool) -> Mapping[str, Outcome]:
        return {"admission": await self._admission(open_=False)} if closes else {}

    async def _warn(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        if not jobs or not isinstance(self.partition, Requeues):
            return {}
        outcomes = await self._each(self.partition.warn(jobs), jobs)
        now_ms = self._clock.mono_ms()  # its notice begins when it is told, not before
        self._warned |= {job: now_ms for job in jobs if isinstance(outcomes.get(job), Applied)}
        return outcomes

    async def _requeue(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        if not jobs or not isinstance(self.partition, Requeues):
            return {}
        outcomes = await self._each(self.partition.requeue(jobs), jobs)
        self._mark(jobs, JobState.PENDING, outcomes)
        return outcomes

    async def _power(self, nodes: Sequence[str], *, up: bool) -> Mapping[str, Outcome]:
        if not nodes or not isinstance(self.partition, NodePower):
            return {}
        operation = self.partition.power_up(nodes) if up else self.partition.power_down(nodes)
        return {"nodes": await self._contain.run(operation, BATCH_DEADLINES * self._deadline_s, self.partition)}

    async def _freeze(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        if not jobs:
            return {}
        now_ms = self._clock.mono_ms()
        self._attempts |= dict.fromkeys(jobs, now_ms)  # also those whose answer is lost: a later look tells
        outcomes = await self._each(self.partition.freeze(jobs), jobs)
        self._mark(jobs, JobState.FROZEN, outcomes)
        return outcomes

    async def _up(self, moves: Moves) -> Mapping[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        if moves.thaw:
            self._note_command()
            outcomes |= await self._each(self.partition.thaw(moves.thaw), moves.thaw)
            self._mark(moves.thaw, JobState.RUNNING, outcomes)
        outcomes |= await self._power(moves.power_up, up=True)
        if moves.admit and self.admission_closed:
            self._note_command()
            outcomes["admission"] = await self._admission(open_=True)
        return outcomes

    async def _admission(self, *, open_: bool) -> Outcome:
        operation = self.partition.set_admission(open_)
        outcome = await self._contain.run(operation, BATCH_DEADLINES * self._deadline_s, self.partition)
        if isinstance(outcome, Applied):
            self.admission_closed = not open_
        elif not open_:
            self.admission_closed = True  # it may have been done in part: it is ours to undo
        return outcome

    async def _each(self, operation: Awaitable[Mapping[str, Outcome]], jobs: Sequence[str]) -> Mapping[str, Outcome]:
        outcomes = await self._contain.run(operation, BATCH_DEADLINES * self._deadline_s, self.partition)
        return dict.fromkeys(jobs, outcomes) if isinstance(outcomes, Unreachable) else outcomes

    def _mark(self, jobs: Sequence[str], state: JobState, outcomes: Mapping[str, Outcome]) -> None:
        """Until the next look, believe what was applied, so that it is not done twice."""
        done = {job for job in jobs if isinstance(outcomes.get(job), Applied)}
        if self._facts is not None and done:
            believed = (job.model_copy(update={"state": state}) if job.id in done else job for job in self._facts.jobs)
            self._facts = replace(self._facts, jobs=tuple(believed))
        if state is JobState.FROZEN:
            self.frozen += [job for job in jobs if job in done and job not in self.frozen]
        # A thawed job stays ours until a look shows it running: a scheduler may accept a thaw and not carry it out.

    def _excess_w(self, facts: PartitionFacts) -> int:
        """What the meter shows above the scheduler's account, once the last action has had its time to show."""
        if self._metered_w is None:
            return 0
        metered_w, read_ms = self._metered_w
        settled = self._acted_ms is None or read_ms - self._acted_ms >= self._settle_ms
        return max(metered_w - draw_w(facts, self._nodes), 0) if settled else 0

    def _note_command(self) -> None:
        self._acted_ms = self._clock.mono_ms()
        if self.first_command_ms is None:
            self.first_command_ms = self._acted_ms

    def _count(self, moves: Moves, outcomes: Mapping[str, Outcome], *, closes: bool) -> None:
        kinds = dict.fromkeys(moves.freeze, "freeze") | dict.fromkeys(moves.thaw, "thaw")
        kinds |= dict.fromkeys(moves.warn, "warn") | dict.fromkeys(moves.requeue, "requeue")
        kinds |= {
            "admission": "close" if closes else "admit",
            "nodes": "power_down" if moves.power_down else "power_up",
        }
        refused = unreachable = 0
        for what, outcome in outcomes.items():
            self.commands[kinds.get(what, "freeze"), type(outcome).__name__.lower()] += 1
            refused += isinstance(outcome, Refused)
            unreachable += isinstance(outcome, Unreachable)
        self._tally = Tally(unmet=refused + unreachable, refused=refused, unreachable=unreachable)
