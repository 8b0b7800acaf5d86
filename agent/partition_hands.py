"""Commands on their way to one partition and its hosts, so many at once as there are things to do.

None waits for another: a new setpoint acts on what is free at once, whatever hangs. Each job, node and the admission
has at most one command under way, which is the bound of all this.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from agent.contain import Containment
from agent.drivers.base import Outcome, PartitionFacts, Refused, Unreachable
from agent.job_ladder import Moves
from agent.receipts import Tally
from contract.messages import JobState

ADMISSION: Final = "admission"
NODE: Final = "node:"
"""Before a node's name where jobs are named too."""
BECOMES: Final = {"freeze": JobState.FROZEN, "thaw": JobState.RUNNING, "requeue": JobState.PENDING}
"""What a job is believed to be once a command was applied, until the next look."""
Done = Callable[[str, Mapping[str, Outcome]], None]


class Hands:
    """Sends commands as tasks of a group, and keeps account of them."""

    def __init__(self, contain: Containment, deadline_s: float, what: object, done: Done) -> None:
        """`deadline_s` is that of a command for many; `done` is told the kind and an outcome for each item."""
        self._contain = contain
        self._deadline_s = deadline_s
        self._what = what
        self._done = done
        self._under_way: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self.ended = 0
        """Commands that have come to their end."""
        self.commands: Counter[tuple[str, str]] = Counter()
        self._undone: dict[tuple[str, str], Outcome] = {}

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    @property
    def kept(self) -> frozenset[str]:
        """What has a command under way, or has failed to take one since the last look."""
        return frozenset(self._under_way) | frozenset(self._failed)

    def under_way(self, kind: str) -> frozenset[str]:
        """What has a command of this kind under way."""
        return frozenset(item for item, its in self._under_way.items() if its == kind)

    def has(self, *kinds: str) -> bool:
        """Whether a command of one of these kinds is under way."""
        return any(kind in kinds for kind in self._under_way.values())

    def free(self, items: Sequence[str]) -> list[str]:
        return [item for item in items if item not in self._under_way]

    def send(
        self,
        group: asyncio.TaskGroup,
        kind: str,
        items: Sequence[str],
        operation: Awaitable[Mapping[str, Outcome] | Outcome],
    ) -> None:
        """Begin a command for items that have none under way."""
        self._under_way |= dict.fromkeys(items, kind)
        group.create_task(self._run(kind, tuple(items), operation))

    def looked(self) -> None:
        """The partition was read: what has failed may be tried again."""
        self._failed.clear()

    def believed(self, facts: PartitionFacts) -> PartitionFacts:
        """The facts with what is under way done."""
        if not self._under_way:
            return facts
        becomes = {item: BECOMES[kind] for item, kind in self._under_way.items() if kind in BECOMES}
        jobs = (job.model_copy(update={"state": becomes[job.id]}) if job.id in becomes else job for job in facts.jobs)
        return replace(facts, jobs=tuple(jobs)) if becomes else facts

    @property
    def tally(self) -> Tally:
        """What was last not done."""
        refused = sum(isinstance(outcome, Refused) for outcome in self._undone.values())
        unreachable = sum(isinstance(outcome, Unreachable) for outcome in self._undone.values())
        return Tally(unmet=refused + unreachable, refused=refused, unreachable=unreachable)

    def wanted(self, items: set[tuple[str, str]]) -> None:
        """The kinds and items that the present plan asks for: of no other is it counted that it is not done."""
        kept = items | {(kind, item) for item, kind in self._under_way.items()}
        self._undone = {each: outcome for each, outcome in self._undone.items() if each in kept}

    async def _run(
        self, kind: str, items: Sequence[str], operation: Awaitable[Mapping[str, Outcome] | Outcome]
    ) -> None:
        try:
            said = await self._contain.run(operation, self._deadline_s, self._what)
        finally:
            for item in items:
                self._under_way.pop(item, None)
        self.ended += 1
        found = said if isinstance(said, Mapping) else dict.fromkeys(items, said)
        outcomes = {item: found.get(item, Refused("no outcome")) for item in items}
        for item, outcome in outcomes.items():
            self.commands[kind, type(outcome).__name__.lower()] += 1
            if isinstance(outcome, (Refused, Unreachable)):
                self._failed[item] = kind
                self._undone[kind, item] = outcome
            else:
                self._undone.pop((kind, item), None)
        self._done(kind, outcomes)


def items_of(moves: Moves) -> set[tuple[str, str]]:
    """The kinds and items of a plan."""
    jobs = {"freeze": moves.freeze, "warn": moves.warn, "requeue": moves.requeue, "thaw": moves.thaw}
    nodes = {"cap": tuple(moves.cap), "uncap": moves.uncap, "raise": tuple(moves.raised)}
    nodes |= {"power_down": moves.power_down, "power_up": moves.power_up}
    kinds = ("admit", "admit_on") if moves.admit else ("close",)
    return (
        {(kind, job) for kind, items in jobs.items() for job in items}
        | {(kind, f"{NODE}{node}") for kind, items in nodes.items() for node in items}
        | {(kind, ADMISSION) for kind in kinds}
    )


async def of_nodes(operation: Awaitable[Mapping[str, Outcome]]) -> Mapping[str, Outcome]:
    """The outcomes by node as outcomes by item."""
    return {f"{NODE}{node}": outcome for node, outcome in (await operation).items()}


def one_for_all(
    act: Callable[[Sequence[str]], Awaitable[Outcome]],
) -> Callable[[Sequence[str]], Awaitable[Mapping[str, Outcome]]]:
    """One outcome for all items as one for each."""

    async def each(items: Sequence[str]) -> Mapping[str, Outcome]:
        return dict.fromkeys(items, await act(items))

    return each
