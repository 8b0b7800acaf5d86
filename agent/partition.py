"""The HPC bank: one partition of a scheduler, held at its setpoint by what may start and what is stopped.

Down: no new starts, then nodes are capped where their hosts can be, then jobs are frozen down the order's shed ladder,
the rest by value per watt; those that must not stand still are warned, and requeued when their notice is over. Where
all that is frozen and idle still draws too much for `deep_after_ms`, frozen jobs are requeued and idle nodes powered
down. Firm jobs only where the guard says so. Up, in reverse: thaw what we froze, last frozen first, power nodes up,
raise the caps, then let pending jobs start, on as many nodes as fit. Only what the agent itself did is undone.

Nothing waits for anything it need not: a new aim acts at once, whatever command or reading is still under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from agent.bank import UNTOLD, Survey, Turn
from agent.contain import Containment
from agent.drivers.base import (
    AdmitsPart,
    Applied,
    CountsFaults,
    NodePower,
    Outcome,
    Partition,
    PartitionFacts,
    Remembers,
    Requeues,
    Unreachable,
)
from agent.guard_model import BankHold
from agent.job_ladder import Aim, Doings, Ladder, Moves, Nodes, below_idle, draw_w, plan_moves
from agent.node_power import Learned
from agent.partition_claims import Claims
from agent.partition_hands import ADMISSION, BECOMES, NODE, Hands, items_of, of_nodes, one_for_all
from agent.partition_hosts import PartitionHosts
from agent.partition_power import PartitionPower
from contract.clock import Clock
from contract.messages import DeviceCounts, JobState, Order, PartitionReading, Source
from contract.reasons import ReceiptReason

_LOG = logging.getLogger(__name__)
ROUNDS_MAX: Final = 3
"""Looks at the partition in a row after acting on it, before the next regular one."""
READS_MAX: Final = 3
"""Readings in a row, where each was overtaken by a command of ours."""
BATCH_DEADLINES: Final = 4
"""Deadlines that an operation on many jobs may take; the driver works on several at once."""
CONTRADICTS: Final = 0.05
"""Of the account, by which a settled meter must be above it to say that what was learned is wrong."""
_SHOWN: Final = frozenset({"freeze", "requeue", "power_down", "thaw", "power_up", "admit"})
"""Commands after which a new look is due."""
_RISING: Final = ("thaw", "power_up", "raise", "admit")


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
        hosts: PartitionHosts | None = None,
    ) -> None:
        self.name = name
        self.partition = partition
        self.first_command_ms: int | None = None
        self.claims = Claims()
        if isinstance(partition, NodePower):
            nodes = replace(nodes, off_w=min(partition.node_off_w, nodes.idle_w))
        self._hosts = hosts
        self._power = PartitionPower(nodes, settle_ms)
        self._hands = Hands(contain, BATCH_DEADLINES * deadline_s, partition, self._ended)
        self._deadline_s = deadline_s
        self._stale_ms = stale_ms
        self._settle_ms = settle_ms
        self._deep_after_ms = deep_after_ms
        self._deep_since_ms: int | None = None
        self._clock = clock
        self._contain = contain
        self._on_change = on_change
        self._wake = asyncio.Event()
        self._look_due = False
        self._looking = False
        self._rounds = 0
        self._asserted: object = None
        """What admission was last told since the last look."""
        self._aim: Aim | None = None
        self._ladder = Ladder()
        self._strict = False
        self._read_ms = 0
        self._acted_ms: int | None = None
        self._failed = False
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
            self.look()

    def correct(self, metered_w: int, read_ms: int, tolerance_w: int) -> None:
        """Tell it what its own meter shows: an excess that stays is shed too, and the nodes' power is learned."""
        self._metered_w = (metered_w - tolerance_w, read_ms)
        self._power.hear(metered_w, read_ms)

    @property
    def turn(self) -> Turn:
        """It starts no bank: its scheduler starts jobs."""
        return UNTOLD

    def keeps_w(self, unread_w: int | None) -> int | None:  # noqa: ARG002  the same holds here
        return None

    @property
    def settled(self) -> bool:
        """Whether it has acted on its present aim."""
        return not self._wake.is_set() and not self._looking and not self._hands.busy

    @property
    def commands(self) -> Counter[tuple[str, str]]:
        """By kind and outcome."""
        return self._hands.commands

    @property
    def node_power(self) -> Learned:
        """What its nodes draw, as learned."""
        return self._power.learned(self._clock.wall_ms() // 1_000)

    @property
    def memory(self) -> dict[str, str]:
        """What its drivers remember, and what was learned."""
        return self._drivers_memory | self._power.memory

    @memory.setter
    def memory(self, saved: Mapping[str, str]) -> None:
        if isinstance(self.partition, Remembers):
            self.partition.memory = dict(saved)
        if self._hosts is not None:
            self._hosts.group.memory = dict(saved)
        self._power.memory = dict(saved)

    @property
    def faults(self) -> Mapping[str, int]:
        """What its drivers put up with, by kind."""
        own = dict(self.partition.faults) if isinstance(self.partition, CountsFaults) else {}
        of_hosts = {} if self._hosts is None else self._hosts.group.faults
        return own | {f"host_{kind}": count for kind, count in of_hosts.items()}

    @property
    def footprint(self) -> object:
        """All of it that must survive a restart; changes when that does. What was learned is saved with the rest."""
        return tuple(self.claims.frozen), self.claims.admission_closed, self._drivers_memory

    @property
    def _drivers_memory(self) -> dict[str, str]:
        own = dict(self.partition.memory) if isinstance(self.partition, Remembers) else {}
        return own | ({} if self._hosts is None else self._hosts.group.memory)

    @property
    def _caps(self) -> Mapping[str, int]:
        return {} if self._hosts is None else self._hosts.caps

    def look(self) -> None:
        """Act on what is known, and read the partition, at the next opportunity."""
        self._rounds = 0
        self._look_due = True
        self._wake.set()

    async def run(self) -> None:
        """Hold the partition at its aim until cancelled."""
        if self._hosts is None:
            _LOG.info(
                "%s: no hosts are configured, so nothing is capped: starts are blocked, then jobs frozen", self.name
            )
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    self._act(group)  # at once, on what is known; the look that follows corrects it
                    if self._look_due and not self._looking:
                        self._look_due, self._looking = False, True
                        group.create_task(self._look())
                    if self._hosts is not None and self._hosts.begins(self._clock.mono_ms()):
                        group.create_task(self._look_at_hosts(self._hosts))
        finally:
            await self._contain.run(self.partition.close(), self._deadline_s, self.partition)

    def survey(self, now_ms: int) -> Survey:
        nodes = self._power.plate
        facts = self._facts
        if facts is None or not self._fresh(now_ms):
            counts = DeviceCounts(unreachable=nodes.count) if self._failed else DeviceCounts(unknown=nodes.count)
            return Survey(counts=counts, source=Source.MODEL, tally=self._hands.tally)
        power_w = draw_w(facts, self._nodes, self._caps)
        up = min(facts.nodes_up, nodes.count)
        busy = min(facts.nodes_busy, up)
        return Survey(
            counts=DeviceCounts(running=busy, stopped=up - busy, unreachable=nodes.count - up),
            power_w=power_w,
            upper_w=power_w,
            standing_w=power_w,
            claimed_w=self._power.claimed_w(self._caps),
            source=Source.MODEL,
            read_ms=self._read_ms,
            available_w=up * nodes.rated_w,
            planned_w=power_w,
            tally=self._hands.tally,
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
            idle_w=self._power.told_idle_w(self._clock.wall_ms() // 1_000),
        )

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def _facts(self) -> PartitionFacts | None:
        """The last ones, with the power of jobs as learned."""
        return self._power.facts(self._clock.wall_ms() // 1_000)

    @property
    def _nodes(self) -> Nodes:
        return self._power.nodes(self._clock.wall_ms() // 1_000)

    def _fresh(self, now_ms: int) -> bool:
        return self._power.known and now_ms - self._read_ms <= self._stale_ms

    async def _look(self) -> None:
        """Read the partition."""
        facts = await self._read()
        self._failed = isinstance(facts, Unreachable)
        if not isinstance(facts, Unreachable):
            self._take(facts)
        self._looking = False
        self._wake.set()
        self._on_change()

    async def _look_at_hosts(self, hosts: PartitionHosts) -> None:
        """What its hosts say stands in for a meter where there is none."""
        await self._contain.run(hosts.read(), hosts.batch_s, hosts)
        drawn = hosts.drawn_w(self._power.up_nodes)
        if drawn is not None and self._metered_w is None:
            self._power.hear(*drawn)
        self._wake.set()

    async def _read(self) -> PartitionFacts | Unreachable:
        for _ in range(READS_MAX):
            ended = self._hands.ended
            facts = await self._contain.run(self.partition.read(), self._deadline_s, self.partition)
            if isinstance(facts, Unreachable) or ended == self._hands.ended:
                break  # else a command of ours has come to its end meanwhile, which this may not show
        return facts

    def _take(self, facts: PartitionFacts) -> None:
        self._read_ms = self._clock.mono_ms()
        self._power.take(facts, self._caps, self._read_ms, self._clock.wall_ms() // 1_000)
        self._asserted = None
        self._hands.looked()
        self.claims.seen(facts, self._read_ms)

    # -- acting ------------------------------------------------------------------------------------------------------

    def _act(self, group: asyncio.TaskGroup) -> None:
        """Begin what is to be done and has not been begun."""
        aim, known = self._aim, self._facts
        if aim is None or known is None or not self._fresh(self._clock.mono_ms()):
            return
        facts, nodes = self._hands.believed(known), self._nodes
        moves = plan_moves(facts, aim, nodes, self._ladder, self._doings(facts, aim), self._excess_w(facts))
        self._hands.wanted(items_of(moves))
        self._admit_or_close(group, facts, moves)
        self._command(group, "freeze", moves.freeze, self._freeze)
        if isinstance(self.partition, Requeues):
            self._command(group, "warn", moves.warn, self.partition.warn)
            self._command(group, "requeue", moves.requeue, self.partition.requeue)
        if isinstance(self.partition, NodePower):
            self._command(group, "power_down", moves.power_down, one_for_all(self.partition.power_down), node=True)
        if self._hosts is not None:
            self._command(group, "cap", tuple(moves.cap), self._hosts.setter(moves.cap), node=True)
            self._command(group, "uncap", moves.uncap, self._hosts.clear, node=True)
        self._rise(group, moves)

    def _rise(self, group: asyncio.TaskGroup, moves: Moves) -> None:
        """One rung after another."""
        if not self._hands.has(*_RISING):
            self._command(group, "thaw", moves.thaw, self.partition.thaw)
        if isinstance(self.partition, NodePower) and not self._hands.has(*_RISING):
            self._command(group, "power_up", moves.power_up, one_for_all(self.partition.power_up), node=True)
        if self._hosts is not None and not self._hands.has(*_RISING):
            self._command(group, "raise", tuple(moves.raised), self._hosts.setter(moves.raised), node=True)

    def _admit_or_close(self, group: asyncio.TaskGroup, facts: PartitionFacts, moves: Moves) -> None:
        """Stated again after every look: a scheduler that was restarted has forgotten it."""
        wanted: object = (moves.admit_on or "all") if moves.admit else "none"
        if wanted == self._asserted or not self._hands.free([ADMISSION]):
            return
        if not moves.admit:
            if not facts.admitting and not self.claims.admission_closed:
                return
            kind, operation = "close", self.partition.set_admission(False)
        elif self._hands.has(*_RISING) or moves.thaw or moves.power_up or moves.raised:
            return
        elif moves.admit_on is None or not isinstance(self.partition, AdmitsPart):
            if not self.claims.admission_closed and not facts.barred:
                return
            kind, operation = "admit", self.partition.set_admission(True)
        else:
            stands = frozenset(facts.up_nodes) - facts.barred == moves.admit_on & frozenset(facts.up_nodes)
            if not (self.claims.admission_closed or facts.admitting) or (facts.admitting and facts.barred and stands):
                return
            kind, operation = "admit", self.partition.admit_on(moves.admit_on)
        self._asserted = wanted
        if kind == "admit" or not self.claims.admission_closed:
            self._note_command()
        self._hands.send(
            group, kind if moves.admit_on is None or kind == "close" else "admit_on", [ADMISSION], operation
        )

    def _command(
        self,
        group: asyncio.TaskGroup,
        kind: str,
        items: Sequence[str],
        act: Callable[[Sequence[str]], Awaitable[Mapping[str, Outcome]]],
        *,
        node: bool = False,
    ) -> None:
        keys = self._hands.free([f"{NODE}{item}" if node else item for item in items])
        if not keys:
            return
        if kind != "warn":
            self._note_command()
        named = [key.removeprefix(NODE) for key in keys]
        self._hands.send(group, kind, keys, of_nodes(act(named)) if node else act(named))

    def _freeze(self, jobs: Sequence[str]) -> Awaitable[Mapping[str, Outcome]]:
        self.claims.freezing(jobs, self._clock.mono_ms())
        return self.partition.freeze(jobs)

    def _ended(self, kind: str, outcomes: Mapping[str, Outcome]) -> None:
        """A command has come to its end: until the next look, believe what was applied, so as not to do it twice."""
        done = [item for item, outcome in outcomes.items() if isinstance(outcome, Applied)]
        if (becomes := BECOMES.get(kind)) is not None:  # a thaw too, though it may be accepted and not carried out
            self._power.mark(done, becomes)
        self.claims.done(kind, done, self._clock.mono_ms())
        if kind in _SHOWN | {"admit_on"} and self._rounds < ROUNDS_MAX:
            self._rounds += 1
            self._look_due = True
        self._wake.set()
        self._on_change()

    def _doings(self, facts: PartitionFacts, aim: Aim) -> Doings:
        now_ms = self._clock.mono_ms()
        if not below_idle(facts, aim, self._nodes) or not isinstance(self.partition, NodePower):
            self._deep_since_ms = None
        elif self._deep_since_ms is None:
            self._deep_since_ms = now_ms
        deep = self._deep_since_ms is not None and now_ms - self._deep_since_ms >= self._deep_after_ms
        kept, warning = self._hands.kept, self._hands.under_way("warn")
        cappable: Iterable[str] = () if self._hosts is None else self._hosts.cappable(now_ms)
        return Doings(
            frozen=self.claims.frozen,
            warned={**dict.fromkeys(warning, now_ms), **self.claims.warned},
            now_ms=now_ms,
            deep=deep,
            busy=kept - warning,
            caps=self._caps,
            cappable=frozenset(node for node in cappable if f"{NODE}{node}" not in kept),
            steps=facts.steps and isinstance(self.partition, AdmitsPart),
        )

    def _excess_w(self, facts: PartitionFacts) -> int:
        """What the meter shows above the scheduler's account, once the last action has had its time to show."""
        if self._metered_w is None:
            return 0
        metered_w, read_ms = self._metered_w
        if self._acted_ms is not None and read_ms - self._acted_ms < self._settle_ms:
            return 0
        drawn_w = draw_w(facts, self._nodes, self._caps)
        excess_w = max(metered_w - drawn_w, 0)
        if excess_w > CONTRADICTS * drawn_w and self.node_power.readings:
            self._power.contradicted(metered_w, self._caps)
        return excess_w

    def _note_command(self) -> None:
        self._acted_ms = self._clock.mono_ms()
        self._power.disturbed(self._acted_ms)
        if self.first_command_ms is None:
            self.first_command_ms = self._acted_ms
