"""HPC jobs of the simulation, and a seeded stream of them shaped like a real machine's."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_MS: Final = 1_000
MIN_RUN_S: Final = 60.0
MAX_RUN_S: Final = 172_800.0


class JobPhase(StrEnum):
    """Where a job stands in the simulated scheduler."""

    PENDING = "pending"
    RUNNING = "running"
    FROZEN = "frozen"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    """By its owner. Nothing that Wattshift does ends here."""


class JobEventKind(StrEnum):
    """What happened to a job; the checkers read these and nothing the agent says."""

    SUBMITTED = "submitted"
    STARTED = "started"
    WARNED = "warned"
    """Told that it will be stopped: its notice begins."""
    FROZEN = "frozen"
    THAWED = "thawed"
    HELD = "held"
    RELEASED = "released"
    REQUEUED = "requeued"
    """Stopped and put back; it goes on from its last checkpoint."""
    NODE_FAILED = "node_failed"
    """Stopped because a node of its lost power; requeued by the scheduler."""
    COMPLETED = "completed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a user submits."""

    id: str
    submit_ms: int
    nodes: int
    work_s: float
    """Run time undisturbed."""
    requested_s: float
    """The wall time asked for; the scheduler plans backfill with it."""
    firm: bool
    value_usd_per_node_h: float
    deadline_ms: int | None = None
    intensity: float = 1.0
    """Power above idle, as a share of the node's busy power above idle."""
    checkpoint_every_s: float | None = None
    notice_ms: int = 0
    restart_cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to one job."""

    at_ms: int
    job: str
    kind: JobEventKind
    lost_s: float = 0.0
    """Work undone because it was past the last checkpoint."""
    notice_ms: int | None = None
    """At a stop: how long before it the job was warned; None where it was not."""


@dataclass(slots=True)
class JobRun:
    """A job in the scheduler."""

    spec: JobSpec
    phase: JobPhase = JobPhase.PENDING
    held: bool = False
    node_ids: tuple[int, ...] = ()
    done_s: float = 0.0
    saved_s: float = 0.0
    """Work safe in the last checkpoint."""
    started_ms: int | None = None
    eligible_ms: int = 0
    """A requeued job may not start before this."""
    warned_ms: int | None = None
    requeues: int = 0

    @property
    def left_s(self) -> float:
        return max(self.spec.work_s - self.done_s, 0.0)


@dataclass(frozen=True, slots=True)
class JobMix:
    """What a stream of jobs is like. Values and firmness are assumptions of the simulation, not of the trace."""

    load: float = 0.9
    """Node-seconds asked for, as a share of what the partition has."""
    firm_share: float = 0.3
    value_usd_per_node_h: tuple[float, float] = (0.4, 3.0)
    firm_value_usd_per_node_h: tuple[float, float] = (2.0, 6.0)
    deadline_share: float = 0.3
    deadline_slack: tuple[float, float] = (1.5, 6.0)
    """Deadline after submission, in requested wall times."""
    intensity: tuple[float, float] = (0.6, 1.0)
    checkpoint_every_s: float = 1_800.0
    checkpoint_share: float = 0.7
    notice_ms: int = 60_000
    max_run_s: float = MAX_RUN_S


@dataclass(frozen=True, slots=True)
class _Shape:
    """Log-normal fits of one class of jobs: mean and deviation of the natural logarithm."""

    run_s: tuple[float, float]
    over_request: tuple[float, float]
    """Requested over used wall time."""
    nodes: tuple[float, float] | None


# Fitted to 1,000 Slurm jobs of NREL's Eagle of January 2019 (github.com/NREL/eagle-jobs, BSD-3-Clause). Half ask for
# one node and run for hours, half ask for many and run for minutes: one log-normal of each would lose that.
_SINGLE: Final = _Shape(run_s=(9.25, 1.26), over_request=(1.18, 0.90), nodes=None)
_MULTI: Final = _Shape(run_s=(6.41, 1.67), over_request=(1.98, 1.42), nodes=(3.11, 0.83))
_SINGLE_SHARE: Final = 0.497
_BATCH_MEAN: Final = 5.3
"""Jobs submitted in one second: 81 % of the gaps in the trace are zero."""
_GAP_SIGMA: Final = 1.0
_REQUEST_GRAIN_S: Final = 300.0


def job_stream(rng: random.Random, nodes: int, start_ms: int, mix: JobMix | None = None) -> Iterator[JobSpec]:
    """Jobs without end, in order of submission, that ask for `mix.load` of `nodes` in the long run.

    A job asks for at most half of the nodes, as a machine's limits see to.
    """
    mix = mix or JobMix()
    number = 0
    at_ms = float(start_ms)
    while True:
        demand_node_s = 0.0
        for _ in range(_batch(rng)):
            number += 1
            spec = _draw(rng, f"{number}", int(at_ms), nodes, mix)
            demand_node_s += spec.nodes * spec.work_s
            yield spec
        mean_gap_s = demand_node_s / (nodes * mix.load)
        at_ms += _MS * mean_gap_s * rng.lognormvariate(-(_GAP_SIGMA**2) / 2, _GAP_SIGMA)


def _batch(rng: random.Random) -> int:
    """Jobs in a batch, geometric."""
    return min(1 + int(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / _BATCH_MEAN)), 60)


def _draw(rng: random.Random, job: str, submit_ms: int, nodes: int, mix: JobMix) -> JobSpec:
    shape = _SINGLE if rng.random() < _SINGLE_SHARE else _MULTI
    wanted = 1 if shape.nodes is None else max(2, round(rng.lognormvariate(*shape.nodes)))
    work_s = min(max(rng.lognormvariate(*shape.run_s), MIN_RUN_S), mix.max_run_s)
    over = max(rng.lognormvariate(*shape.over_request), 1.05)
    requested_s = math.ceil(min(work_s * over, 2 * MAX_RUN_S) / _REQUEST_GRAIN_S) * _REQUEST_GRAIN_S
    firm = rng.random() < mix.firm_share
    value = rng.uniform(*(mix.firm_value_usd_per_node_h if firm else mix.value_usd_per_node_h))
    has_deadline = rng.random() < mix.deadline_share
    deadline_ms = submit_ms + round(_MS * requested_s * rng.uniform(*mix.deadline_slack)) if has_deadline else None
    return JobSpec(
        id=job,
        submit_ms=submit_ms,
        nodes=max(1, min(wanted, nodes // 2)),
        work_s=work_s,
        requested_s=requested_s,
        firm=firm,
        value_usd_per_node_h=round(value, 4),
        deadline_ms=deadline_ms,
        intensity=round(rng.uniform(*mix.intensity), 3),
        checkpoint_every_s=mix.checkpoint_every_s if rng.random() < mix.checkpoint_share else None,
        notice_ms=mix.notice_ms,
        restart_cost_usd=0.0,
    )
