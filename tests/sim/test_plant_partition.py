"""The simulated HPC partition: scheduling, freezing, checkpoints, power, and the stream of jobs."""

from __future__ import annotations

import itertools
import math
import statistics
from random import Random

import pytest

from sim.jobs import JobEvent, JobEventKind, JobMix, JobPhase, JobSpec, job_stream
from sim.partition import HpcPartition, JobRefused, PartitionPlan

PLAN = PartitionPlan(id="hpc", feeder="f", hall="h", nodes=10, idle_w=200, busy_w=1_000, frozen_w=250, off_w=10)


def spec(job: str, nodes: int, work_s: float, *, requested_s: float | None = None, **more: object) -> JobSpec:
    fields: dict[str, object] = {
        "id": job,
        "submit_ms": 0,
        "nodes": nodes,
        "work_s": work_s,
        "requested_s": requested_s or work_s,
        "firm": False,
        "value_usd_per_node_h": 2.0,
    }
    return JobSpec(**(fields | more))  # type: ignore[arg-type]


def partition(*jobs: JobSpec) -> tuple[HpcPartition, list[JobEvent]]:
    part = HpcPartition(PLAN, 0, jobs)
    events: list[JobEvent] = []
    part.on_event = events.append
    part.advance_to(1)
    return part, events


def phases(part: HpcPartition) -> dict[str, JobPhase]:
    return {run.spec.id: run.phase for run in part.jobs}


class TestScheduling:
    def test_jobs_start_first_in_first_out_and_complete_to_the_millisecond(self) -> None:
        part, events = partition(spec("a", 6, 100), spec("b", 4, 50))
        assert phases(part) == {"a": JobPhase.RUNNING, "b": JobPhase.RUNNING}
        part.advance_to(200_000)
        done = {event.job: event.at_ms for event in events if event.kind is JobEventKind.COMPLETED}
        assert done == {"a": pytest.approx(100_000, abs=3), "b": pytest.approx(50_000, abs=3)}

    def test_the_result_does_not_depend_on_how_often_time_is_advanced(self) -> None:
        def run(step_ms: int) -> tuple[float, list[JobEvent]]:
            stream = itertools.islice(job_stream(Random(5), 10, 0, JobMix(max_run_s=4_000)), 60)
            part = HpcPartition(PLAN, 0, stream)
            events: list[JobEvent] = []
            part.on_event = events.append
            used_j = sum(part.advance_to(at_ms) for at_ms in range(step_ms, 7_200_001, step_ms))
            return used_j, events

        fine_j, fine = run(500)
        coarse_j, coarse = run(600_000)
        assert len(fine) > 40
        assert [(e.job, e.kind) for e in fine] == [(e.job, e.kind) for e in coarse]
        assert all(abs(a.at_ms - b.at_ms) <= 5 for a, b in zip(fine, coarse, strict=True))
        assert fine_j == pytest.approx(coarse_j, rel=1e-6)

    def test_backfill_fills_the_hole_but_never_delays_the_first_in_line(self) -> None:
        part, events = partition(
            spec("running", 6, 100), spec("first", 8, 100), spec("short", 4, 90), spec("long", 4, 500)
        )
        assert phases(part) == {
            "running": JobPhase.RUNNING,
            "first": JobPhase.PENDING,
            "short": JobPhase.RUNNING,
            "long": JobPhase.PENDING,
        }
        part.advance_to(150_000)
        started = {event.job: event.at_ms for event in events if event.kind is JobEventKind.STARTED}
        assert started["first"] == pytest.approx(100_000, abs=3)
        assert "long" not in started

    def test_closed_admission_starts_nothing_and_lets_running_jobs_go_on(self) -> None:
        part, _ = partition(spec("a", 4, 100))
        part.set_admission(False)
        part.submit(spec("b", 1, 10))
        part.advance_to(50_000)
        assert phases(part) == {"a": JobPhase.RUNNING, "b": JobPhase.PENDING}
        part.advance_to(200_000)
        assert phases(part) == {"b": JobPhase.PENDING}
        part.set_admission(True)
        assert phases(part) == {"b": JobPhase.RUNNING}

    def test_a_held_job_waits_for_its_release(self) -> None:
        part, _ = partition()
        part.set_admission(False)
        part.submit(spec("a", 1, 10))
        assert part.hold("a") is None
        part.set_admission(True)
        assert phases(part) == {"a": JobPhase.PENDING}
        part.release("a")
        assert phases(part) == {"a": JobPhase.RUNNING}
        assert isinstance(part.hold("a"), JobRefused)

    def test_a_job_that_cannot_ever_run_is_turned_away(self) -> None:
        part, _ = partition()
        assert part.submit(spec("big", 11, 10)) == JobRefused("11 nodes asked for, the partition has 10")
        assert part.submit(spec("a", 1, 10)) is None
        assert part.submit(spec("a", 1, 10)) == JobRefused("job a is already known")


class TestFreezing:
    def test_a_frozen_job_holds_its_nodes_does_no_work_and_draws_near_idle(self) -> None:
        part, _ = partition(spec("a", 5, 100))
        part.advance_to(40_000)
        assert part.power_w == 5 * 1_000 + 5 * 200
        part.freeze("a")
        part.submit(spec("b", 8, 10))
        assert phases(part) == {"a": JobPhase.FROZEN, "b": JobPhase.PENDING}
        assert part.power_w == 5 * 250 + 5 * 200
        part.advance_to(1_000_000)
        run = part.job("a")
        assert run is not None
        assert run.done_s == pytest.approx(40, abs=0.01)
        part.thaw("a")
        part.advance_to(1_061_000)
        assert phases(part) == {"b": JobPhase.RUNNING}

    def test_freezing_twice_and_thawing_twice_changes_nothing(self) -> None:
        part, events = partition(spec("a", 1, 100))
        assert [part.freeze("a"), part.freeze("a"), part.thaw("a"), part.thaw("a")] == [None] * 4
        assert [event.kind for event in events][2:] == [JobEventKind.FROZEN, JobEventKind.THAWED]

    def test_commands_on_jobs_that_are_not_running_are_refused(self) -> None:
        part, _ = partition()
        for command in (part.freeze, part.thaw, part.warn, part.hold, part.cancel):
            assert isinstance(command("ghost"), JobRefused)
        assert isinstance(part.requeue("ghost", checkpoint=False), JobRefused)


class TestCheckpoints:
    def test_a_requeued_job_goes_on_from_its_last_checkpoint_and_waits_for_its_credential(self) -> None:
        part, events = partition(spec("a", 2, 1_000, checkpoint_every_s=300.0))
        part.advance_to(700_000)
        part.requeue("a", checkpoint=False)
        run = part.job("a")
        assert run is not None
        assert run.done_s == 600
        assert events[-1].lost_s == pytest.approx(100, abs=0.01)
        assert part.delivered.lost_node_s == pytest.approx(200, abs=0.02)
        part.advance_to(819_000)
        assert phases(part) == {"a": JobPhase.PENDING}
        part.advance_to(821_000)
        assert phases(part) == {"a": JobPhase.RUNNING}
        part.advance_to(1_300_000)
        assert part.delivered.completed == 1
        assert part.delivered.useful_node_s == pytest.approx(2_000, abs=0.1)

    def test_a_checkpoint_made_now_loses_nothing(self) -> None:
        part, events = partition(spec("a", 2, 1_000, checkpoint_every_s=300.0), spec("b", 1, 1_000))
        part.advance_to(700_000)
        assert part.requeue("a", checkpoint=True) is None
        assert events[-1].lost_s == 0
        assert isinstance(part.requeue("b", checkpoint=True), JobRefused)

    def test_the_notice_a_job_had_is_told_with_its_stop(self) -> None:
        part, events = partition(spec("a", 1, 1_000), spec("b", 1, 1_000))
        part.warn("a")
        part.advance_to(30_001)
        part.warn("a")
        part.requeue("a", checkpoint=False)
        part.requeue("b", checkpoint=False)
        stops = {event.job: event.notice_ms for event in events if event.kind is JobEventKind.REQUEUED}
        assert stops == {"a": 30_000, "b": None}


class TestNodes:
    def test_a_node_that_loses_power_requeues_its_job_and_boots_before_it_works_again(self) -> None:
        part, events = partition(spec("a", 4, 1_000))
        part.advance_to(10_000)
        part.power_off(range(2))
        assert events[-1].kind is JobEventKind.NODE_FAILED
        assert (part.nodes_up, part.nodes_busy) == (8, 0)
        assert part.power_w == 2 * 10 + 8 * 200
        part.power_on(range(2))
        part.advance_to(100_000)
        assert part.nodes_up == 8
        part.advance_to(200_000)
        assert part.nodes_up == 10

    def test_energy_is_the_integral_of_power(self) -> None:
        part, _ = partition(spec("a", 5, 100))
        used_j = part.advance_to(200_000)
        assert used_j == pytest.approx(100 * (5 * 1_000 + 5 * 200) + 100 * 10 * 200, rel=1e-3)

    def test_value_is_credited_by_useful_node_hours(self) -> None:
        part, _ = partition(spec("a", 5, 3_600, deadline_ms=10))
        part.advance_to(4_000_000)
        assert part.delivered.value_usd == pytest.approx(10.0)
        assert part.delivered.late == 1


class TestStream:
    def test_the_stream_is_the_same_for_a_seed(self) -> None:
        first = list(itertools.islice(job_stream(Random(3), 64, 0), 200))
        assert first == list(itertools.islice(job_stream(Random(3), 64, 0), 200))
        assert first != list(itertools.islice(job_stream(Random(4), 64, 0), 200))

    def test_the_stream_has_the_trace_s_shape(self) -> None:
        """Half single-node for hours, half multi-node for minutes, wider jobs shorter, submitted in batches."""
        jobs = list(itertools.islice(job_stream(Random(1), 720, 0), 8_000))
        single = [job for job in jobs if job.nodes == 1]
        multi = [job for job in jobs if job.nodes > 1]
        assert len(single) / len(jobs) == pytest.approx(0.497, abs=0.03)
        assert statistics.median(job.work_s for job in single) == pytest.approx(math.exp(9.25), rel=0.1)
        assert statistics.median(job.work_s for job in multi) == pytest.approx(math.exp(6.41), rel=0.12)
        assert statistics.median(job.nodes for job in multi) == pytest.approx(math.exp(3.11), rel=0.1)
        gaps = [after.submit_ms - before.submit_ms for before, after in itertools.pairwise(jobs)]
        assert sum(gap == 0 for gap in gaps) / len(gaps) == pytest.approx(0.81, abs=0.05)
        assert all(job.requested_s >= job.work_s for job in jobs)
        assert all(gap >= 0 for gap in gaps)

    def test_the_stream_asks_for_the_load_it_was_given(self) -> None:
        jobs = list(itertools.islice(job_stream(Random(2), 100, 0, JobMix(load=0.8)), 20_000))
        offered = sum(job.nodes * job.work_s for job in jobs) / (100 * jobs[-1].submit_ms / 1_000)
        assert offered == pytest.approx(0.8, rel=0.15)
        assert max(job.nodes for job in jobs) <= 50

    def test_a_partition_fed_by_the_stream_is_busy_and_loses_no_job(self) -> None:
        part = HpcPartition(PLAN, 0, itertools.islice(job_stream(Random(9), 10, 0, JobMix(max_run_s=7_200)), 300))
        known: dict[str, JobEventKind] = {}
        part.on_event = lambda event: known.__setitem__(event.job, event.kind)
        rng = Random(1)
        for at_ms in range(60_000, 86_400_000, 60_000):
            part.advance_to(at_ms)
            for run in part.jobs:
                if run.phase is JobPhase.RUNNING and rng.random() < 0.02:
                    part.requeue(run.spec.id, checkpoint=False)
            assert part.nodes_busy <= 10
            assert sum(len(run.node_ids) for run in part.jobs) == part.nodes_busy
        unfinished = {job for job, kind in known.items() if kind is not JobEventKind.COMPLETED}
        assert unfinished == {run.spec.id for run in part.jobs}
        assert part.delivered.useful_node_s > 0.5 * 10 * 86_400
