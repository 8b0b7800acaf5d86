"""What of a partition's state is the agent's own doing: that, and nothing else, is undone when power comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from agent.drivers.base import PartitionFacts
from contract.messages import JobState

ATTEMPT_MS: Final = 60_000
"""How long a freeze whose answer was lost may still turn out to have been ours."""


class Claims:
    """Jobs we froze or warned, and the admission we closed. Times are the agent's monotonic clock."""

    def __init__(self) -> None:
        self.frozen: list[str] = []
        """Jobs we froze, in that order."""
        self.admission_closed = False
        """Whether it is we who keep jobs from starting, on all nodes or on some."""
        self._warned: dict[str, int] = {}
        self._attempts: dict[str, int] = {}

    @property
    def warned(self) -> Mapping[str, int]:
        """When each job we warned was told: its notice begins then, not before."""
        return self._warned

    def freezing(self, jobs: Sequence[str], now_ms: int) -> None:
        """A freeze is on its way: also those jobs whose answer is lost may become ours, a later look tells."""
        self._attempts |= dict.fromkeys(jobs, now_ms)

    def done(self, kind: str, items: Iterable[str], now_ms: int) -> None:
        """A command of that kind has come to its end, applied to these items."""
        if kind == "freeze":  # what is thawed stays ours until a look shows it running
            self.frozen += [job for job in items if job not in self.frozen]
        elif kind == "warn":
            self._warned |= dict.fromkeys(items, now_ms)
        elif kind == "admit":
            self.admission_closed = self.admission_closed and not list(items)
        elif kind in {"close", "admit_on"}:
            self.admission_closed = True  # it may have been done in part: it is ours to undo

    def seen(self, facts: PartitionFacts, now_ms: int) -> None:
        """The partition was read: what has ended, or what somebody else let go on, is no longer ours to thaw."""
        standing = {job.id for job in facts.jobs if job.state is JobState.FROZEN}
        since_ms = now_ms - ATTEMPT_MS
        self._attempts = {job: at_ms for job, at_ms in self._attempts.items() if at_ms >= since_ms}
        self.frozen += [job for job in self._attempts if job in standing and job not in self.frozen]
        self.frozen = [job for job in self.frozen if job in standing]
        running = {job.id for job in facts.jobs if job.state is JobState.RUNNING}
        self._warned = {job: at_ms for job, at_ms in self._warned.items() if job in running}
        self.admission_closed |= facts.held_by_us  # our own state may have been lost
