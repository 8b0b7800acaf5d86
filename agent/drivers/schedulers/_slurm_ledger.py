"""What this driver did to which job, so that it undoes that and nothing else. Slurm does not say who stopped or held a
job. Pure; times are seconds of the wall clock, as they are kept over restarts and compared with Slurm's; where that
clock is stepped, `shift` moves them along.

An entry is made before the command is sent: where the answer is lost, the job may be stopped, and must be ours to thaw.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import BaseModel, Field, ValidationError

from agent.drivers.schedulers._slurm_records import SlurmJob, SlurmNode

DOUBT_S: Final = 60
"""How long a command whose answer was lost may still come into force."""
LONGEST_FREEZE_MIN: Final = 30 * 24 * 60
LIMIT_MARGIN_S: Final = 3_600
"""A frozen job whose time limit is nearer than this is given more ..."""
LIMIT_STEP_MIN: Final = 24 * 60
"""... by so much. What is too much of it is taken back when the job goes on."""
POWERED_DOWN: Final = frozenset({"POWER_DOWN", "POWERING_DOWN", "POWERED_DOWN"})
"""The flags of a node that is down by command, or on its way there."""
_KEY: Final = "ledger"
_JOB: Final = re.compile(r"[0-9]{1,10}(_[0-9]{1,10})?")
_NOT_WAKING: Final = frozenset({"STOPPED", "SUSPENDED", "PENDING"})
"""A job that is still stopped as a whole is told again by whoever wants it to run, and by nobody else."""


class Frozen(BaseModel):
    """A job we stopped."""

    since_s: Annotated[int, Field(ge=0, le=2**53)]
    limit_min: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """The time limit it had then; None until it is seen, and where it has none."""


class _Saved(BaseModel):
    frozen: dict[str, Frozen] = {}
    waking: list[str] = []
    stopping: list[str] = []
    owed_min: dict[str, int] = {}
    ahead_s: dict[str, Annotated[int, Field(ge=0, lt=60)]] = {}
    held: list[str] = []
    doubt_until_s: dict[str, int] = {}
    admitting: bool = True
    closed_from: str | None = None
    off: list[str] = []
    off_doubt_until_s: int = 0
    barred: list[str] = []


@dataclass(slots=True)
class Ledger:
    """Jobs by their request keys."""

    frozen: dict[str, Frozen] = field(default_factory=dict)
    waking: set[str] = field(default_factory=set)
    """Jobs told to go on, some part of which has not said yes: Slurm shows RUNNING as soon as one part has. Such a job
    stays in `frozen` until it is seen to run: for some milliseconds after the signal it is not."""
    stopping: set[str] = field(default_factory=set)
    """Jobs told to stop, some part of which has not said yes: Slurm shows STOPPED from the first signal on, whether or
    not any process had it."""
    owed_min: dict[str, int] = field(default_factory=dict)
    """Time limits that jobs we let go on are still to be given."""
    ahead_s: dict[str, int] = field(default_factory=dict)
    """What jobs we let go on were given too much, as Slurm counts limits in minutes. It is set off against the next
    freeze, or else every one would lengthen the job by half a minute."""
    held: set[str] = field(default_factory=set)
    """Jobs and, for all their tasks, arrays."""
    doubt_until_s: dict[str, int] = field(default_factory=dict)
    """Jobs that a command of ours may still stop or hold, though no listing shows it."""
    admitting: bool = True
    closed_from: str | None = None
    """The state that the partition had when we closed it; None while it is not we who keep it closed."""
    off: set[str] = field(default_factory=set)
    """Nodes that we had powered down."""
    off_doubt_until_s: int = 0
    """Until when a command of ours may still power one down."""
    barred: set[str] = field(default_factory=set)
    """Nodes in our reservation, which keeps jobs from starting there."""

    # -- memory ------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, str]:
        return {
            _KEY: _Saved(
                frozen=self.frozen,
                waking=sorted(self.waking),
                stopping=sorted(self.stopping),
                owed_min=self.owed_min,
                ahead_s=self.ahead_s,
                held=sorted(self.held),
                doubt_until_s=self.doubt_until_s,
                admitting=self.admitting,
                closed_from=self.closed_from,
                off=sorted(self.off),
                off_doubt_until_s=self.off_doubt_until_s,
                barred=sorted(self.barred),
            ).model_dump_json()
        }

    @classmethod
    def load(cls, memory: Mapping[str, str]) -> Ledger:
        """A ledger from a memory of whatever origin: what does not parse is forgotten."""
        try:
            saved = _Saved.model_validate_json(memory.get(_KEY, "{}"))
        except ValidationError:
            return cls()
        return cls(
            frozen={key: entry for key, entry in saved.frozen.items() if is_job(key)},
            waking=set(filter(is_job, saved.waking)),
            stopping=set(filter(is_job, saved.stopping)),
            owed_min={key: owed for key, owed in saved.owed_min.items() if is_job(key)},
            ahead_s={key: ahead_s for key, ahead_s in saved.ahead_s.items() if is_job(key)},
            held=set(filter(is_job, saved.held)),
            doubt_until_s={key: until for key, until in saved.doubt_until_s.items() if is_job(key)},
            admitting=saved.admitting,
            closed_from=saved.closed_from,
            off=set(saved.off),
            off_doubt_until_s=saved.off_doubt_until_s,
            barred=set(saved.barred),
        )

    # -- commands ----------------------------------------------------------------------------------------------------

    def freezing(self, keys: Sequence[str], now_s: int) -> Mapping[str, int]:
        """About to stop jobs. Returns what `done` wants to have."""
        for key in keys:
            self.waking.discard(key)
            self.stopping.add(key)
            if key not in self.frozen:
                self.frozen[key] = Frozen(since_s=max(now_s, 0))
                self.owed_min.pop(key, None)
        return self._begin(keys, now_s)

    def holding(self, keys: Sequence[str], now_s: int) -> Mapping[str, int]:
        """About to hold jobs. Returns what `done` wants to have."""
        self.held.update(keys)
        return self._begin(keys, now_s)

    def unheld(self, keys: Iterable[str]) -> None:
        """Slurm said no, and nothing is held."""
        for key in keys:
            self.held.discard(key)
            self.doubt_until_s.pop(key, None)

    def powering_down(self, nodes: Iterable[str], now_s: int) -> None:
        """About to power nodes down."""
        self.off.update(nodes)
        self.off_doubt_until_s = now_s + DOUBT_S

    def done(self, keys: Iterable[str], before: Mapping[str, int]) -> None:
        """Slurm said yes: from now on a listing tells, but for an earlier command whose answer was lost. A no counts as
        no answer, for it has been known to be done."""
        for key in keys:
            self.doubt_until_s.pop(key, None)
            if key in before:
                self.doubt_until_s[key] = before[key]

    def holds(self, job: SlurmJob) -> bool:
        """Whether a hold on this job is ours."""
        return not self.held.isdisjoint(job.names)

    def shift(self, by_s: int) -> None:
        """The wall clock was stepped by so much. What lies between a time kept here and now stays as long as it was."""
        self.frozen = {
            key: Frozen(since_s=max(entry.since_s + by_s, 0), limit_min=entry.limit_min)
            for key, entry in self.frozen.items()
        }
        self.doubt_until_s = {key: until_s + by_s for key, until_s in self.doubt_until_s.items()}
        self.off_doubt_until_s += by_s

    # -- what is seen ------------------------------------------------------------------------------------------------

    def observe(self, jobs: Sequence[SlurmJob], now_s: int) -> None:
        """Forget what has ended and what somebody else undid. `jobs` must be a settled listing of the partition."""
        by_key = {job.key: job for job in jobs}
        self.doubt_until_s = {key: until for key, until in self.doubt_until_s.items() if until > now_s}
        for key in [key for key in self.frozen if key not in self.doubt_until_s]:
            job = by_key.get(key)
            if job is None or job.pending:
                del self.frozen[key]
            elif job.job_state == "RUNNING":
                self._goes_on(key, now_s)
        for key, entry in self.frozen.items():
            job = by_key.get(key)
            if job is not None and entry.limit_min is None and job.limit_min is not None:
                self.frozen[key] = Frozen(since_s=entry.since_s, limit_min=job.limit_min)
        self.stopping &= self.frozen.keys()
        self.waking = {key for key in self.waking if key in by_key and by_key[key].job_state not in _NOT_WAKING}
        standing = set().union(*(job.names for job in jobs if job.held)) if self.held else set()
        self.held = {key for key in self.held if key in standing or key in self.doubt_until_s}
        self.owed_min = {key: owed for key, owed in self.owed_min.items() if _differs(by_key.get(key), owed)}
        self.ahead_s = {
            key: ahead_s for key, ahead_s in self.ahead_s.items() if key in by_key and not by_key[key].pending
        }

    def observe_nodes(self, nodes: Iterable[SlurmNode], now_s: int) -> None:
        """Forget nodes that are up again, whoever saw to it."""
        if self.off and now_s >= self.off_doubt_until_s:
            self.off &= {node.name for node in nodes if node.state_flags & POWERED_DOWN}

    def _begin(self, keys: Sequence[str], now_s: int) -> Mapping[str, int]:
        before = {key: self.doubt_until_s[key] for key in keys if key in self.doubt_until_s}
        self.doubt_until_s.update(dict.fromkeys(keys, now_s + DOUBT_S))
        return before

    def _goes_on(self, key: str, now_s: int) -> None:
        """A job runs again, and is owed its own time limit and the time it stood still."""
        entry = self.frozen.pop(key)
        if entry.limit_min is not None:
            due_s = now_s - entry.since_s - self.ahead_s.pop(key, 0)
            more_min = min(max(-(-due_s // 60), 0), LONGEST_FREEZE_MIN)
            self.owed_min[key] = entry.limit_min + more_min
            self.ahead_s[key] = min(max(60 * more_min - due_s, 0), 59)

    def unpaid(self, key: str) -> None:
        """Slurm moves no limit for us."""
        self.owed_min.pop(key, None)
        self.ahead_s.pop(key, None)

    def limits_due(self, jobs: Iterable[SlurmJob], now_s: int) -> dict[str, int]:
        """Time limits to set now, in minutes: Slurm ends a stopped job at its limit like any other."""
        due = dict(self.owed_min)
        for job in jobs:
            if job.key in self.frozen and job.limit_min is not None and (job.end_time or 0) < now_s + LIMIT_MARGIN_S:
                due[job.key] = job.limit_min + LIMIT_STEP_MIN
        return due

    def left_s(self, job: SlurmJob) -> int | None:
        """What was left of a frozen job's time limit when it was stopped."""
        entry = self.frozen.get(job.key)
        limit_min = None if entry is None else entry.limit_min or job.limit_min
        if entry is None or limit_min is None or not job.start_time:
            return None
        return max(job.start_time + 60 * limit_min - self.ahead_s.get(job.key, 0) - entry.since_s, 0)


def is_job(key: str) -> bool:
    """Whether a text names a job, or a task of an array."""
    return _JOB.fullmatch(key) is not None


def _differs(job: SlurmJob | None, owed_min: int) -> bool:
    return job is not None and not job.pending and job.limit_min is not None and job.limit_min != owed_min
