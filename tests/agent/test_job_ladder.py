"""Which jobs are frozen, thawed and let start: nothing others did is undone, firm work is touched only by leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.drivers.base import PartitionFacts
from agent.job_ladder import Aim, Doings, Ladder, Moves, Nodes, below_idle, draw_w, plan_moves
from contract.messages import Job, JobState

NODES = Nodes(count=10, rated_w=1_000, idle_w=100)


def job(name: str, state: JobState = JobState.RUNNING, **changes: Any) -> Job:
    fields: dict[str, Any] = {"nodes": 1, "power_w": 900, "value_usd_per_node_h": 1.0}
    return Job(id=name, state=state, **fields | changes)


def facts(*jobs: Job) -> PartitionFacts:
    busy = sum(one.nodes for one in jobs if one.state is not JobState.PENDING)
    return PartitionFacts(nodes_up=10, nodes_busy=min(busy, 10), admitting=True, jobs=jobs)


def moves(
    made: PartitionFacts,
    setpoint_w: int,
    *,
    ladder: Ladder | None = None,
    frozen: tuple[str, ...] = (),
    may_raise: bool = True,
    excess_w: int = 0,
    **aim: Any,
) -> Moves:
    return plan_moves(made, Aim(setpoint_w, may_raise, **aim), NODES, ladder or Ladder(), Doings(frozen), excess_w)


THREE = facts(
    job("1", value_usd_per_node_h=5.0), job("2", value_usd_per_node_h=1.0), job("3", value_usd_per_node_h=3.0)
)


def test_the_draw_is_idle_nodes_and_running_jobs() -> None:
    assert draw_w(facts(job("1"), job("2", JobState.FROZEN), job("3", JobState.PENDING)), NODES) == 1_900


def test_down_the_ladder_first_then_the_least_value_per_watt() -> None:
    assert moves(THREE, 2_800).freeze == ("2",)
    assert moves(THREE, 2_800, ladder=Ladder(jobs=("1",))).freeze == ("1",)
    assert moves(THREE, 1_900, ladder=Ladder(jobs=("1",))).freeze == ("1", "2")
    assert moves(THREE, 0).freeze == ("2", "3", "1")
    assert not moves(THREE, 0).admit


def test_firm_jobs_are_frozen_only_by_leave_and_last() -> None:
    made = facts(job("1", firm=True, value_usd_per_node_h=0.1), job("2", firm=True), job("3", value_usd_per_node_h=9.0))
    assert moves(made, 0).freeze == ("3",)
    assert moves(made, 0, firm=frozenset({"2"})).freeze == ("3", "2")
    assert moves(made, 0, any_firm=True).freeze == ("3", "1", "2")
    assert moves(made, 2_800, any_firm=True).freeze == ("3",)


def test_thaw_in_reverse_and_only_what_we_froze() -> None:
    made = facts(*(job(name, JobState.FROZEN) for name in "1234"))
    assert moves(made, 2_800, frozen=("2", "4")).thaw == ("4", "2")
    assert moves(made, 1_950, frozen=("2", "4")).thaw == ("4",)
    assert moves(made, 10_000).thaw == ()


def test_a_small_job_does_not_overtake_one_that_was_frozen_after_it() -> None:
    made = facts(job("1", JobState.FROZEN, power_w=100), job("2", JobState.FROZEN, power_w=5_000))
    assert moves(made, 1_500, frozen=("1", "2")) == Moves()


def test_without_leave_to_raise_nothing_is_thawed_or_let_in() -> None:
    made = facts(job("1", JobState.FROZEN), job("2", JobState.PENDING))
    assert moves(made, 10_000, frozen=("1",), may_raise=False) == Moves()


def test_at_full_power_all_may_start() -> None:
    assert moves(facts(job("1", JobState.PENDING, power_w=10**6)), 10_000).admit


def test_below_full_power_the_largest_that_waits_must_fit() -> None:
    made = facts(job("1"), job("2", JobState.PENDING, power_w=1_800), job("3", JobState.PENDING))
    assert moves(made, 3_700).admit
    assert not moves(made, 3_699).admit


def test_under_a_cap_all_that_waits_must_fit() -> None:
    made = facts(job("1"), job("2", JobState.PENDING, power_w=1_800), job("3", JobState.PENDING))
    assert not moves(made, 4_599, strict=True).admit
    assert moves(made, 4_600, strict=True).admit


def test_what_a_meter_shows_above_the_account_is_shed_too() -> None:
    assert moves(THREE, 3_700).freeze == ()
    assert moves(THREE, 3_700, excess_w=500).freeze == ("2",)


jobs_of = st.builds(
    job,
    st.integers(1, 20).map(str),
    st.sampled_from(list(JobState)),
    power_w=st.integers(1, 3_000),
    value_usd_per_node_h=st.floats(0, 10),
    firm=st.booleans(),
)


@given(st.lists(jobs_of, max_size=12, unique_by=lambda one: one.id), st.integers(0, 20_000), st.booleans())
def test_moves_lead_to_the_setpoint_or_as_near_as_leave_allows(
    jobs: list[Job], setpoint_w: int, any_firm: bool
) -> None:
    made = facts(*jobs)
    ours = tuple(one.id for one in jobs if one.state is JobState.FROZEN)[::2]
    planned = moves(made, setpoint_w, frozen=ours, any_firm=any_firm)
    assert set(planned.thaw) <= set(ours)
    assert not (planned.freeze and (planned.thaw or planned.admit))
    gone, back = set(planned.freeze), set(planned.thaw)
    after = draw_w(made, NODES) + sum(one.power_w * ((one.id in back) - (one.id in gone)) for one in jobs)
    left = [one for one in jobs if one.state is JobState.RUNNING and one.id not in gone and (any_firm or not one.firm)]
    assert after <= setpoint_w or not left
    if not any_firm:
        assert not any(one.firm and one.id in gone for one in jobs)


def test_firm_work_is_not_touched_for_what_a_meter_shows_beyond_the_account() -> None:
    made = facts(job("1", firm=True), job("2"))
    assert moves(made, 1_900, any_firm=True, excess_w=5_000).freeze == ("2",)
    assert moves(made, 2_500, any_firm=True, excess_w=5_000).freeze == ("2",)
    assert moves(made, 1_000, any_firm=True, excess_w=5_000).freeze == ("2", "1")


def test_firm_work_is_touched_for_what_was_ordered_and_not_for_what_the_guard_takes_off_it_for_a_cap() -> None:
    made = facts(job("1", firm=True), job("2"))
    assert moves(made, 500, any_firm=True, firm_w=1_900).freeze == ("2",)
    assert moves(made, 500, any_firm=True, firm_w=1_800).freeze == ("2", "1")


DEEP = Nodes(count=10, rated_w=1_000, idle_w=100, off_w=10)


def deep(made: PartitionFacts, setpoint_w: int, doings: Doings, **aim: Any) -> Moves:
    return plan_moves(made, Aim(setpoint_w, may_raise=True, **aim), DEEP, Ladder(), doings)


def test_a_job_that_must_not_stand_still_is_warned_first_and_requeued_when_its_notice_is_over() -> None:
    made = replace(facts(job("1", notice_ms=1_000)), unfreezable=frozenset({"1"}), requeueable=frozenset({"1"}))
    assert deep(made, 1_000, Doings(now_ms=0)) == Moves(warn=("1",))
    assert deep(made, 1_000, Doings(warned={"1": 0}, now_ms=999)) == Moves(), "not inside its notice"
    assert deep(made, 1_000, Doings(warned={"1": 0}, now_ms=1_000)) == Moves(requeue=("1",))
    assert deep(replace(made, requeueable=frozenset()), 1_000, Doings()) == Moves(), "then it is left alone"


def test_while_a_notice_runs_others_are_frozen_for_it_but_no_more_are_warned_than_are_needed() -> None:
    jobs = [job(str(number), value_usd_per_node_h=float(number), notice_ms=1_000) for number in range(1, 4)]
    made = replace(
        facts(*jobs, job("9", value_usd_per_node_h=9.0)),
        unfreezable=frozenset({"1", "2", "3"}),
        requeueable=frozenset({"1", "2", "3"}),
    )
    assert deep(made, 3_700, Doings()) == Moves(warn=("1",), freeze=("9",))


def test_below_idle_nodes_are_powered_down_and_frozen_jobs_requeued_only_where_that_has_lasted() -> None:
    frozen = job("1", JobState.FROZEN, nodes=2, power_w=1_800)
    notice = job("2", JobState.FROZEN, notice_ms=1)
    idle = tuple(f"n{number}" for number in range(7))
    made = replace(facts(frozen, notice), admitting=False, idle_nodes=idle, requeueable=frozenset({"1", "2"}))
    assert below_idle(made, Aim(500, may_raise=False), DEEP)
    assert deep(made, 500, Doings()) == Moves()
    assert deep(made, 500, Doings(deep=True)) == Moves(power_down=idle[:6])
    assert deep(made, 0, Doings(deep=True)) == Moves(power_down=idle, requeue=("1",)), "no job is run for its notice"
    assert deep(replace(made, admitting=True), 0, Doings(deep=True)) == Moves(), "a job might start on such a node"


def test_nodes_are_powered_up_after_jobs_are_thawed_and_before_any_may_start() -> None:
    made = PartitionFacts(
        nodes_up=6, nodes_busy=1, admitting=False, jobs=(job("1", JobState.FROZEN),), off_nodes=("a", "b", "c", "d")
    )
    assert draw_w(made, DEEP) == 640
    assert deep(made, 1_700, Doings(frozen=("1",))) == Moves(thaw=("1",), power_up=("a",))
    assert deep(made, 1_600, Doings(frozen=("1",))) == Moves(thaw=("1",))
    assert deep(made, 10_000, Doings(frozen=("1",))) == Moves(thaw=("1",), power_up=("a", "b", "c", "d"), admit=True)
    waits = replace(made, jobs=(job("1", JobState.PENDING),))
    assert not deep(waits, 1_600, Doings(), strict=True).admit, "Slurm would wake a node for it"


def test_half_taken_nodes_count_with_what_is_left_of_them() -> None:
    made = facts(*(job(str(number), power_w=450) for number in range(10)))
    assert not moves(made, 6_000).admit, "ten halves of nodes are free, and the largest job may take a node"
    assert moves(made, 9_990, strict=True).admit is False
    assert moves(made, 10_000, strict=True).admit
