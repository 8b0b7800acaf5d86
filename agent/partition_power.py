"""What an HPC bank knows of its partition's power: the scheduler's account by the nameplate, and as learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from agent.drivers.base import PartitionFacts
from agent.job_account import Account, Nodes, draw_w
from agent.node_power import Learned, NodePower
from contract.messages import JobState

TOLD: Final = 0.95
"""Of the nameplate's idle power: what was learned is told where it is below that. Nearer it may be a meter's error."""


class PartitionPower:
    """Keeps the last facts; `take` gives new ones, `mark` what has been done since."""

    def __init__(self, plate: Nodes, settle_ms: int) -> None:
        self.plate = plate
        """The nameplate."""
        self._settle_ms = settle_ms
        self._nodes_learned = NodePower(plate.rated_w, plate.idle_w)
        self._raw: PartitionFacts | None = None
        self._scaled: tuple[int, PartitionFacts] | None = None
        """The facts as learned, and with how many thousandths."""
        self._steady_ms = 0
        """Since when the same jobs run on the same nodes under the same caps."""
        self._signature: object = None
        self._candidate: tuple[int, int] | None = None
        """Metered watts and when, to be learned from if the next reading of the partition shows that nothing has
        changed: a job may have ended since the last."""
        self._heard_ms = 0

    @property
    def known(self) -> bool:
        return self._raw is not None

    @property
    def up_nodes(self) -> tuple[str, ...]:
        return () if self._raw is None else self._raw.up_nodes

    @property
    def memory(self) -> dict[str, str]:
        return self._nodes_learned.save()

    @memory.setter
    def memory(self, saved: Mapping[str, str]) -> None:
        self._nodes_learned.load(saved)

    def learned(self, now_s: int) -> Learned:
        """`now_s` is the wall clock's, here and below."""
        return self._nodes_learned.learned(now_s)

    def nodes(self, now_s: int) -> Nodes:
        """As learned; the rated power stays that of the nameplate, for what starts next may draw it."""
        learned = self.learned(now_s)
        off_w = min(self.plate.off_w, learned.idle_w)
        return replace(self.plate, idle_w=learned.idle_w, off_w=off_w, capped_milli=learned.capped_milli)

    def told_idle_w(self, now_s: int) -> int | None:
        """All nodes idle, where they were found to draw less than their nameplate says."""
        idle_w = self.learned(now_s).idle_w
        return idle_w * self.plate.count if idle_w < TOLD * self.plate.idle_w else None

    def facts(self, now_s: int) -> PartitionFacts | None:
        """The last ones, with the power of jobs that have started as learned. What waits keeps its nameplate power:
        nobody has seen it draw less."""
        if self._raw is None:
            return None
        milli = self.learned(now_s).busy_milli
        if milli == 1_000:
            return self._raw
        if self._scaled is None or self._scaled[0] != milli:
            jobs = tuple(
                job
                if job.state is JobState.PENDING
                else job.model_copy(update={"power_w": job.power_w * milli // 1_000})
                for job in self._raw.jobs
            )
            self._scaled = milli, replace(self._raw, jobs=jobs)
        return self._scaled[1]

    def claimed_w(self, caps: Mapping[str, int]) -> int | None:
        """What the scheduler's account comes to by the nameplate. It moves when jobs do and never by what was learned
        from a meter, so that it may speak against that meter."""
        return None if self._raw is None else draw_w(self._raw, self.plate, caps)

    def take(self, facts: PartitionFacts, caps: Mapping[str, int], read_ms: int, now_s: int) -> None:
        """A reading of the partition."""
        self._raw, self._scaled = facts, None
        running = frozenset(job.id for job in facts.jobs if job.state is JobState.RUNNING)
        signature = (running, facts.nodes_up, facts.booting, facts.off_nodes, dict(caps))
        if signature != self._signature:
            self._signature = signature
            self._steady_ms = read_ms
        elif self._candidate is not None:
            self._learn(facts, self._candidate[0], caps, now_s)
        self._candidate = None

    def mark(self, jobs: Iterable[str], state: JobState) -> None:
        """Believe that jobs are in this state, until the next reading."""
        done = frozenset(jobs)
        if self._raw is not None and done:
            believed = (job.model_copy(update={"state": state}) if job.id in done else job for job in self._raw.jobs)
            self._raw, self._scaled = replace(self._raw, jobs=tuple(believed)), None

    def disturbed(self, now_ms: int) -> None:
        """A command went out: what is metered until it has settled says nothing of steady power."""
        self._steady_ms = now_ms
        self._signature = self._candidate = None

    def hear(self, metered_w: int, read_ms: int) -> None:
        """What a meter, or the hosts all together, show; each reading once, and only of steady power."""
        if self._signature is None or read_ms <= self._heard_ms:
            return
        self._heard_ms = read_ms
        if read_ms - self._steady_ms >= self._settle_ms:
            self._candidate = metered_w, read_ms

    def contradicted(self, shown_w: int, caps: Mapping[str, int]) -> None:
        """A settled meter shows at least so much, which is more than was learned. Where the nameplate explains it, that
        holds again until there is more to go by."""
        if self._raw is not None and draw_w(self._raw, self.plate, caps) >= shown_w:
            self._nodes_learned.forget()
            self._scaled = None

    def _learn(self, facts: PartitionFacts, metered_w: int, caps: Mapping[str, int], now_s: int) -> None:
        count = facts.nodes_up
        if not count or facts.booting:
            return
        free_w, capped_w = Account(facts, self.plate, caps).split_w
        off_w = self.plate.off_w * len(facts.off_nodes)
        self._nodes_learned.learn((metered_w - off_w) / count, free_w / count, capped_w / count, now_s)
