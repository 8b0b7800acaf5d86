"""What the driver remembers of its own doing: enough to undo it, and nothing of anybody else's."""

from __future__ import annotations

import pytest

from agent.drivers.schedulers._slurm_ledger import DOUBT_S, LIMIT_STEP_MIN, Frozen, Ledger
from agent.drivers.schedulers._slurm_records import SlurmJob
from tests.agent.drivers.schedulers.records import NOW_S, job


def frozen_ledger(**more: int) -> Ledger:
    return Ledger(frozen={"1": Frozen(since_s=NOW_S - 300, **more)})


def test_memory_survives_and_foreign_memory_does_no_harm() -> None:
    ledger = Ledger(
        frozen={"1": Frozen(since_s=5, limit_min=60), "5_2": Frozen(since_s=6)},
        waking={"7"},
        owed_min={"8": 90},
        held={"3", "5"},
        admitting=False,
    )
    assert Ledger.load(ledger.save()) == ledger
    for foreign in ({}, {"ledger": ""}, {"ledger": "[]"}, {"ledger": '{"frozen": 5}'}, {"other": "x"}):
        assert Ledger.load(foreign) == Ledger()
    assert Ledger.load({"ledger": '{"held": ["1", "../2", "3_[4]", "5_6"]}'}).held == {"1", "5_6"}


@pytest.mark.parametrize(
    ("state", "stays"), [("STOPPED", True), ("SIGNALING", True), ("RUNNING", False), ("PENDING", False)]
)
def test_a_frozen_job_is_ours_until_it_is_seen_to_go_on(state: str, stays: bool) -> None:
    ledger = frozen_ledger()
    ledger.observe([job(1, state)], NOW_S)
    assert ("1" in ledger.frozen) is stays


def test_a_job_that_has_ended_is_forgotten() -> None:
    ledger = Ledger(
        frozen={"1": Frozen(since_s=5)}, waking={"2"}, owed_min={"3": 60}, held={"4", "5_1"}, admitting=False
    )
    ledger.observe([], NOW_S)
    assert ledger == Ledger(admitting=False)


def test_a_command_whose_answer_was_lost_may_still_be_done_and_is_ours_for_a_minute() -> None:
    ledger = Ledger()
    ledger.freezing(["1"], NOW_S)
    ledger.holding(["2"], NOW_S)
    running, waiting = job(1), job(2, "PENDING")
    ledger = Ledger.load(ledger.save())
    ledger.observe([running, waiting], NOW_S + DOUBT_S - 1)
    assert (set(ledger.frozen), ledger.held) == ({"1"}, {"2"})
    ledger.observe([running, waiting], NOW_S + DOUBT_S)
    assert (ledger.frozen, ledger.held) == ({}, set())


def test_a_command_that_was_done_is_judged_by_the_next_listing() -> None:
    ledger = Ledger()
    ledger.done(["1"], ledger.freezing(["1"], NOW_S))
    ledger.done(["2", "3"], ledger.holding(["2", "3"], NOW_S))
    ledger.observe([job(1, "STOPPED"), job(2, "PENDING", priority=0), job(3, "PENDING")], NOW_S)
    assert (set(ledger.frozen), ledger.held) == ({"1"}, {"2"}), "an operator released 3"


def test_a_yes_to_a_second_command_says_nothing_of_the_first_that_was_lost() -> None:
    ledger = Ledger()
    ledger.freezing(["1"], NOW_S)
    ledger.done(["1"], ledger.freezing(["1"], NOW_S + 10))
    ledger.observe([job(1)], NOW_S + 20)
    assert "1" in ledger.frozen, "the first may come to stop it yet"
    ledger.observe([job(1)], NOW_S + DOUBT_S)
    assert ledger.frozen == {}


def test_a_hold_of_an_array_is_known_by_any_of_its_tasks() -> None:
    held = job(9, "PENDING", array_job_id=9, array_task_string="3-4", priority=0)
    for name in ("9", "9_3"):
        ledger = Ledger(held={name})
        ledger.observe([held], NOW_S)
        assert ledger.held == {name}
        assert ledger.holds(held)
    assert not Ledger(held={"9_5", "8"}).holds(held)


def test_a_job_gets_back_the_minutes_it_stood_still() -> None:
    ledger = frozen_ledger()
    stopped, running = job(1, "STOPPED"), job(1)
    ledger.observe([stopped], NOW_S - 290)
    assert ledger.frozen["1"].limit_min == 60
    ledger.observe([running], NOW_S)
    assert ledger.owed_min == {"1": 65}
    assert ledger.limits_due([running], NOW_S) == {"1": 65}
    ledger.observe([job(1, time_limit=65)], NOW_S)
    assert ledger.owed_min == {}, "it is as it should be"


def test_a_clock_that_jumps_gives_no_job_the_world() -> None:
    for since_s in (NOW_S + 10**6, NOW_S - 10**9):
        ledger = Ledger(frozen={"1": Frozen(since_s=max(since_s, 0), limit_min=60)})
        ledger.observe([job(1)], NOW_S)
        assert 60 <= ledger.owed_min.get("1", 60) <= 60 + 30 * 24 * 60


def test_minutes_rounded_up_are_not_given_anew_by_every_freeze() -> None:
    """Twelve freezes of five seconds each: one minute, not twelve."""
    ledger, limit_min, now_s = Ledger(), 60, NOW_S
    for number in range(1, 13):
        ledger.done(["1"], ledger.freezing(["1"], now_s))
        stopped = job(1, "STOPPED", time_limit=limit_min)
        ledger.observe([stopped], now_s + 1)
        left_s = ledger.left_s(stopped)
        assert left_s is not None
        assert left_s == (stopped.start_time or 0) + 3_600 + 5 * (number - 1) - now_s
        now_s += 5
        ledger.observe([job(1, time_limit=limit_min)], now_s)
        limit_min = ledger.owed_min.get("1", limit_min)
        ledger = Ledger.load(ledger.save())
        now_s += 20
    assert limit_min == 61


def test_what_was_given_too_much_is_forgotten_with_the_limit_and_with_the_job() -> None:
    ledger = frozen_ledger(limit_min=60)
    ledger.observe([job(1)], NOW_S + 10)
    assert (ledger.owed_min, ledger.ahead_s) == ({"1": 66}, {"1": 50})
    ledger.unpaid("1")
    assert (ledger.owed_min, ledger.ahead_s) == ({}, {}), "Slurm would not move it"
    for jobs in ([], [job(1, "PENDING")]):
        ledger = Ledger(ahead_s={"1": 50})
        ledger.observe(jobs, NOW_S)
        assert ledger.ahead_s == {}


def test_a_step_of_the_clock_takes_the_kept_times_along() -> None:
    ledger = frozen_ledger(limit_min=60)
    ledger.freezing(["2"], NOW_S)
    ledger.powering_down(["n1"], NOW_S)
    ledger.shift(3_157)
    assert ledger.left_s(job(1, "STOPPED")) == 3_300 - 3_157, "as long as Slurm's clock is behind"
    ledger.observe([job(1, "STOPPED"), job(2)], NOW_S + 3_157 + DOUBT_S - 1)
    assert set(ledger.frozen) == {"1", "2"}, "it is in doubt for a minute by any clock"
    ledger.observe([job(1), job(2)], NOW_S + 3_157 + DOUBT_S)
    assert ledger.owed_min == {"1": 66, "2": 61}
    ledger.shift(-(10**12))
    assert Ledger.load(ledger.save()) == ledger


@pytest.mark.parametrize(
    ("record", "due"),
    [
        (job(1, "STOPPED"), {"1": 60 + LIMIT_STEP_MIN}),
        (job(1, "STOPPED", end_time=NOW_S + 7_200), {}),
        (job(1, "STOPPED", time_limit=None), {}),
        (job(1, "STOPPED", time_limit=525_600), {}),
        (job(2, "STOPPED"), {}),
    ],
)
def test_a_frozen_job_is_given_more_before_its_limit_ends_it(record: SlurmJob, due: dict[str, int]) -> None:
    ledger = frozen_ledger()
    assert ledger.limits_due([record], NOW_S) == due


def test_what_is_left_of_a_frozen_job_does_not_melt_nor_grow() -> None:
    ledger = frozen_ledger()
    stopped = job(1, "STOPPED")
    assert ledger.left_s(stopped) == 3_300
    ledger.observe([stopped], NOW_S)
    extended = job(1, "STOPPED", time_limit=60 + LIMIT_STEP_MIN, end_time=NOW_S + 90_000)
    assert ledger.left_s(extended) == 3_300
    assert ledger.left_s(job(2)) is None


def test_a_job_that_is_half_awake_is_remembered_until_it_is_stopped_as_a_whole_again() -> None:
    ledger = Ledger(frozen={"1": Frozen(since_s=5)}, waking={"1", "2", "3"})
    ledger.observe([job(1), job(2, "STOPPED"), job(3, "PENDING")], NOW_S)
    assert ledger.waking == {"1"}
    ledger.freezing(["1"], NOW_S)
    assert ledger.waking == set()
