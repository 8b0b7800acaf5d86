"""A simulated HPC partition: nodes that draw power, and the core of a scheduler. No sockets; a server fronts it.

First in, first out with EASY backfill, as Slurm's default: the first job that does not fit gets a reservation at the
earliest moment its nodes will be free by requested wall times, and later jobs start only where they cannot delay it.
Time is the owner's: `advance_to` goes from event to event exactly, so the result does not depend on how often it is
called.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sim.jobs import JobEvent, JobEventKind, JobPhase, JobRun, JobSpec

BACKFILL_DEPTH: Final = 100
"""Pending jobs looked at in one pass, as Slurm's bf_max_job_test."""
MAX_PENDING: Final = 5_000
"""A longer queue turns submissions away, as MaxJobCount does."""
KEPT_FINISHED: Final = 2_000
"""Finished jobs remembered, newest last."""


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """What a partition is. Power per node, at the wall."""

    id: str
    feeder: str
    hall: str
    nodes: int
    idle_w: float = 220.0
    busy_w: float = 900.0
    frozen_w: float = 245.0
    """A node whose job is stopped by a signal: memory kept, clocks down; near idle."""
    off_w: float = 12.0
    """The management controller alone."""
    node_boot_s: float = 180.0
    requeue_wait_s: float = 120.0
    """A requeued job waits for its old credential to expire before it may start again (Slurm's default)."""

    @property
    def rated_w(self) -> float:
        return self.nodes * self.busy_w


@dataclass(frozen=True, slots=True)
class JobRefused:
    """A command that does not fit the job's state."""

    detail: str


@dataclass(slots=True)
class Delivered:
    """What the partition has done so far."""

    useful_node_s: float = 0.0
    """Work done that still counts."""
    lost_node_s: float = 0.0
    """Work undone by stops past a checkpoint."""
    value_usd: float = 0.0
    completed: int = 0
    late: int = 0
    """Completed after their deadline."""
    turned_away: int = 0


class HpcPartition:
    """See the module. Commands act at the last time advanced to."""

    def __init__(self, plan: PartitionPlan, start_ms: int, arrivals: Iterable[JobSpec] = ()) -> None:
        """`arrivals` in order of submission, without end if need be."""
        self.plan = plan
        self.now_ms = start_ms
        self.admitting = True
        self.delivered = Delivered()
        self.on_event: Callable[[JobEvent], None] | None = None
        self._arrivals: Iterator[JobSpec] = iter(arrivals)
        self._next: JobSpec | None = next(self._arrivals, None)
        self._live: dict[str, JobRun] = {}
        """Pending, running and frozen jobs, in order of submission."""
        self._holding: dict[str, JobRun] = {}
        """Those of them that hold nodes: running or frozen."""
        self._eligible_ms: set[int] = set()
        """Moments at which a requeued job may start again."""
        self._finished: deque[JobRun] = deque(maxlen=KEPT_FINISHED)
        self._free: list[int] = list(range(plan.nodes))
        """Idle nodes, ascending."""
        self._off: set[int] = set()
        self._booting: dict[int, int] = {}
        """Node to the moment it is up."""
        self._energy_j = 0.0

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[JobRun]:
        """Pending, running and frozen jobs, in order of submission."""
        return list(self._live.values())

    @property
    def finished(self) -> list[JobRun]:
        return list(self._finished)

    def job(self, job: str) -> JobRun | None:
        """A job by id, live or lately finished."""
        live = self._live.get(job)
        return live if live is not None else next((run for run in self._finished if run.spec.id == job), None)

    @property
    def nodes_up(self) -> int:
        return self.plan.nodes - len(self._off) - len(self._booting)

    @property
    def nodes_busy(self) -> int:
        """Nodes with a running or frozen job."""
        return self.nodes_up - len(self._free)

    @property
    def nodes_down(self) -> frozenset[int]:
        """Nodes without power or booting: they take no job."""
        return frozenset(self._off.union(self._booting))

    @property
    def power_w(self) -> float:
        """Power at this moment."""
        plan = self.plan
        power_w = plan.off_w * len(self._off) + plan.idle_w * (len(self._free) + len(self._booting))
        for run in self._holding.values():
            if run.phase is JobPhase.RUNNING:
                power_w += self._job_power_w(run.spec) + plan.idle_w * len(run.node_ids)
            else:
                power_w += plan.frozen_w * len(run.node_ids)
        return power_w

    def above_idle_w(self, job: str) -> float:
        """What a job draws, or would draw, above idle nodes."""
        return self._job_power_w(self._live[job].spec)

    # -- time --------------------------------------------------------------------------------------------------------

    def advance_to(self, time_ms: int) -> float:
        """Go to a moment, event by event. Returns the energy used since the last call, in joules."""
        while self.now_ms < time_ms:
            event_ms = min(self._next_event_ms(), time_ms)
            self._progress(event_ms)
            self._nodes_come_up()
            self._finish_done()
            self._take_arrivals()
            self._schedule()
        used_j, self._energy_j = self._energy_j, 0.0
        return used_j

    def submit(self, spec: JobSpec) -> JobRefused | None:
        if spec.id in self._live:
            return JobRefused(f"job {spec.id} is already known")
        if spec.nodes > self.plan.nodes:
            return JobRefused(f"{spec.nodes} nodes asked for, the partition has {self.plan.nodes}")
        if len(self._live) >= MAX_PENDING:
            self.delivered.turned_away += 1
            return JobRefused("the queue is full")
        self._live[spec.id] = JobRun(spec)
        self._tell(spec.id, JobEventKind.SUBMITTED)
        self._schedule()
        return None

    # -- commands ----------------------------------------------------------------------------------------------------

    def set_admission(self, admitting: bool) -> None:
        """Let pending jobs start, or block new starts. Running jobs go on."""
        self.admitting = admitting
        self._schedule()

    def warn(self, job: str) -> JobRefused | None:
        """Tell a job that it will be stopped. The first warning counts, until it runs again."""
        run = self._live.get(job)
        if run is None or run.phase is JobPhase.PENDING:
            return JobRefused(f"job {job} is not running")
        if run.warned_ms is None:
            run.warned_ms = self.now_ms
            self._tell(job, JobEventKind.WARNED)
        return None

    def freeze(self, job: str) -> JobRefused | None:
        """Stop a job in place, as SIGSTOP does: its nodes are held, so nothing backfills. Idempotent."""
        run = self._live.get(job)
        if run is None or run.phase is JobPhase.PENDING:
            return JobRefused(f"job {job} is not running")
        if run.phase is JobPhase.RUNNING:
            run.phase = JobPhase.FROZEN
            self._tell(job, JobEventKind.FROZEN)
        return None

    def thaw(self, job: str) -> JobRefused | None:
        """Let a frozen job go on. Idempotent."""
        run = self._live.get(job)
        if run is None or run.phase is JobPhase.PENDING:
            return JobRefused(f"job {job} is not frozen")
        if run.phase is JobPhase.FROZEN:
            run.phase = JobPhase.RUNNING
            run.warned_ms = None
            self._tell(job, JobEventKind.THAWED)
        return None

    def hold(self, job: str) -> JobRefused | None:
        """Keep a pending job from starting."""
        run = self._live.get(job)
        if run is None or run.phase is not JobPhase.PENDING:
            return JobRefused(f"job {job} is not pending")
        if not run.held:
            run.held = True
            self._tell(job, JobEventKind.HELD)
        return None

    def release(self, job: str) -> JobRefused | None:
        run = self._live.get(job)
        if run is None or run.phase is not JobPhase.PENDING:
            return JobRefused(f"job {job} is not pending")
        if run.held:
            run.held = False
            self._tell(job, JobEventKind.RELEASED)
            self._schedule()
        return None

    def requeue(self, job: str, *, checkpoint: bool) -> JobRefused | None:
        """Stop a job and put it back in the queue, from a checkpoint made now or from its last one."""
        run = self._live.get(job)
        if run is None or run.phase is JobPhase.PENDING:
            return JobRefused(f"job {job} is not running")
        if checkpoint and run.spec.checkpoint_every_s is None:
            return JobRefused(f"job {job} cannot checkpoint")
        if checkpoint:
            run.saved_s = run.done_s
        self._stop(run, JobEventKind.REQUEUED)
        self._schedule()
        return None

    def cancel(self, job: str) -> JobRefused | None:
        """Its owner cancels it."""
        run = self._live.get(job)
        if run is None:
            return JobRefused(f"job {job} is unknown")
        self._finish(run, JobPhase.CANCELLED, JobEventKind.CANCELLED)
        self._schedule()
        return None

    def power_off(self, nodes: Iterable[int]) -> None:
        """Nodes lose power. A job on one of them is requeued from its last checkpoint."""
        lost = {node for node in nodes if 0 <= node < self.plan.nodes}
        for run in list(self._holding.values()):
            if not lost.isdisjoint(run.node_ids):
                self._stop(run, JobEventKind.NODE_FAILED)
        self._off |= lost
        for node in lost:
            self._booting.pop(node, None)
        self._free = [node for node in self._free if node not in lost]
        self._schedule()

    def power_on(self, nodes: Iterable[int]) -> None:
        """Nodes boot; they take jobs after `node_boot_s`."""
        for node in sorted(set(nodes) & self._off):
            self._off.discard(node)
            self._booting[node] = self.now_ms + round(self.plan.node_boot_s * 1_000)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _next_event_ms(self) -> int:
        """The next moment at which anything can change by itself; at least one millisecond ahead."""
        moments = [*self._booting.values(), *self._eligible_ms]
        if self._next is not None:
            moments.append(self._next.submit_ms)
        running = (run for run in self._holding.values() if run.phase is JobPhase.RUNNING)
        moments.extend(self.now_ms + int(run.left_s * 1_000) + 1 for run in running)
        return max(min(moments, default=2**62), self.now_ms + 1)

    def _progress(self, to_ms: int) -> None:
        """All work and energy between now and a moment before which nothing changes."""
        span_s = (to_ms - self.now_ms) / 1_000
        self._energy_j += self.power_w * span_s
        for run in self._holding.values():
            if run.phase is JobPhase.RUNNING:
                step_s = min(span_s, run.left_s)
                run.done_s += step_s
                self._credit(run, step_s)
                every_s = run.spec.checkpoint_every_s
                if every_s is not None:
                    run.saved_s = max(run.saved_s, run.done_s // every_s * every_s)
        self.now_ms = to_ms
        if self._eligible_ms:
            self._eligible_ms = {moment for moment in self._eligible_ms if moment > to_ms}

    def _nodes_come_up(self) -> None:
        for node in [node for node, up_ms in self._booting.items() if up_ms <= self.now_ms]:
            del self._booting[node]
            bisect.insort(self._free, node)

    def _finish_done(self) -> None:
        for run in [run for run in self._holding.values() if run.phase is JobPhase.RUNNING and run.left_s <= 0]:
            self.delivered.completed += 1
            if run.spec.deadline_ms is not None and self.now_ms > run.spec.deadline_ms:
                self.delivered.late += 1
            self._finish(run, JobPhase.COMPLETED, JobEventKind.COMPLETED)

    def _take_arrivals(self) -> None:
        while self._next is not None and self._next.submit_ms <= self.now_ms:
            self.submit(self._next)
            self._next = next(self._arrivals, None)

    def _schedule(self) -> None:
        """Start what may start: first in, first out, then backfill behind the first that does not fit."""
        if not self.admitting or not self._free:
            return
        ready = [
            run
            for run in self._live.values()
            if run.phase is JobPhase.PENDING and not run.held and run.eligible_ms <= self.now_ms
        ][:BACKFILL_DEPTH]
        for place, run in enumerate(ready):
            if run.spec.nodes > len(self._free):
                self._backfill(run, ready[place + 1 :])
                return
            self._start(run)

    def _backfill(self, blocked: JobRun, behind: list[JobRun]) -> None:
        shadow_ms, spare = self._reservation(blocked.spec.nodes)
        for run in behind:
            if run.spec.nodes > len(self._free):
                continue
            ends_ms = self.now_ms + self._requested_left_s(run) * 1_000
            if ends_ms <= shadow_ms:
                self._start(run)
            elif run.spec.nodes <= spare:
                spare -= run.spec.nodes
                self._start(run)

    def _reservation(self, nodes: int) -> tuple[float, int]:
        """When so many nodes are free by requested wall times, and how many are to spare then."""
        free = len(self._free)
        for run in sorted(self._holding.values(), key=self._requested_left_s):
            free += len(run.node_ids)
            if free >= nodes:
                return self.now_ms + self._requested_left_s(run) * 1_000, free - nodes
        return float("inf"), 0

    def _start(self, run: JobRun) -> None:
        run.node_ids, self._free = tuple(self._free[: run.spec.nodes]), self._free[run.spec.nodes :]
        run.phase = JobPhase.RUNNING
        run.started_ms = self.now_ms
        run.warned_ms = None
        self._holding[run.spec.id] = run
        self._tell(run.spec.id, JobEventKind.STARTED)

    def _stop(self, run: JobRun, kind: JobEventKind) -> None:
        """Off its nodes and back in the queue, where its last checkpoint is what is left of it."""
        lost_s = run.done_s - run.saved_s
        self._credit(run, -lost_s)
        self.delivered.lost_node_s += lost_s * run.spec.nodes
        run.done_s = run.saved_s
        warned_ms, run.warned_ms = run.warned_ms, None
        self._give_back(run)
        run.phase = JobPhase.PENDING
        run.requeues += 1
        run.eligible_ms = self.now_ms + round(self.plan.requeue_wait_s * 1_000)
        self._eligible_ms.add(run.eligible_ms)
        notice_ms = None if warned_ms is None else self.now_ms - warned_ms
        self._tell(run.spec.id, kind, lost_s=lost_s, notice_ms=notice_ms)

    def _finish(self, run: JobRun, phase: JobPhase, kind: JobEventKind) -> None:
        self._give_back(run)
        run.phase = phase
        del self._live[run.spec.id]
        self._finished.append(run)
        self._tell(run.spec.id, kind)

    def _give_back(self, run: JobRun) -> None:
        for node in run.node_ids:
            if node not in self._off:
                bisect.insort(self._free, node)
        run.node_ids = ()
        self._holding.pop(run.spec.id, None)

    def _credit(self, run: JobRun, work_s: float) -> None:
        node_s = work_s * run.spec.nodes
        self.delivered.useful_node_s += node_s
        self.delivered.value_usd += node_s / 3_600 * run.spec.value_usd_per_node_h

    def _requested_left_s(self, run: JobRun) -> float:
        return max(run.spec.requested_s - run.done_s, 0.0)

    def _job_power_w(self, spec: JobSpec) -> float:
        return spec.nodes * spec.intensity * (self.plan.busy_w - self.plan.idle_w)

    def _tell(self, job: str, kind: JobEventKind, *, lost_s: float = 0.0, notice_ms: int | None = None) -> None:
        if self.on_event is not None:
            self.on_event(JobEvent(self.now_ms, job, kind, lost_s, notice_ms))
