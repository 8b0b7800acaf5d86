"""Which jobs are frozen, thawed and let start: nothing others did is undone, firm work is touched only by leave."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.drivers.base import PartitionFacts
from agent.job_ladder import Aim, Ladder, Moves, Nodes, draw_w, plan_moves
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
    return plan_moves(made, Aim(setpoint_w, may_raise, **aim), NODES, ladder or Ladder(), frozen, excess_w)


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
