"""The rung between blocking starts and freezing: nodes are capped where they can be, and starts let in node by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.drivers.base import PartitionFacts
from agent.job_account import Account, Nodes, draw_w
from agent.job_ladder import Aim, Doings, Ladder, Moves, plan_moves
from contract.messages import Job, JobState

NODES = Nodes(count=4, rated_w=1_000, idle_w=100, capped_w=600)
NAMES = tuple(f"n{number}" for number in range(1, 5))


def job(name: str, state: JobState = JobState.RUNNING, **changes: Any) -> Job:
    fields: dict[str, Any] = {"nodes": 1, "power_w": 900, "value_usd_per_node_h": 1.0}
    return Job(id=name, state=state, **fields | changes)


def facts(*jobs: Job, places: Mapping[str, tuple[str, ...]] | None = None, **more: Any) -> PartitionFacts:
    """Jobs 1, 2, ... on nodes n1, n2, ... unless told otherwise."""
    running = [one for one in jobs if one.state is not JobState.PENDING]
    placed = {one.id: (f"n{one.id}",) for one in running} if places is None else places
    shape: dict[str, Any] = {"admitting": True, "up_nodes": NAMES, "steps": True}
    return PartitionFacts(nodes_up=4, nodes_busy=len(running), jobs=jobs, placed=placed, **shape | more)


def plan(
    made: PartitionFacts, setpoint_w: int, *, caps: Mapping[str, int] | None = None, nodes: Nodes = NODES, **more: Any
) -> Moves:
    aim = Aim(setpoint_w, may_raise=True, strict=True, **more.pop("aim", {}))
    shape: dict[str, Any] = {"cappable": frozenset(NAMES), "steps": made.steps}
    return plan_moves(made, aim, nodes, Ladder(), Doings(caps=caps or {}, **shape | more))


FULL = facts(*(job(str(number), value_usd_per_node_h=float(number)) for number in range(1, 5)))


def test_a_cap_binds_only_what_draws_above_it() -> None:
    made = facts(job("1"), job("2", power_w=300))
    assert draw_w(made, NODES) == 400 + 1_200
    assert draw_w(made, NODES, {"n1": 600, "n2": 600, "n3": 600}) == 400 + 500 + 300


def test_two_jobs_share_what_a_capped_node_has_left() -> None:
    made = facts(job("1", power_w=450), job("2", power_w=450), places={"1": ("n1",), "2": ("n1",)})
    account = Account(made, NODES, {"n1": 600})
    assert account.draw_w == 900
    assert account.stop(made.jobs[0]) == 50, "the other is given what this one leaves"
    assert account.stop(made.jobs[1]) == 450


def test_nodes_are_capped_before_anything_is_frozen_and_no_lower_than_need_be() -> None:
    moves = plan(FULL, 3_200)
    assert moves.cap == dict.fromkeys(NAMES, 800)
    assert moves.freeze == ()
    assert not moves.admit


def test_what_caps_cannot_save_is_frozen_the_cheapest_first() -> None:
    moves = plan(FULL, 2_000)
    assert moves.cap == dict.fromkeys(NAMES, 600)
    assert moves.freeze == ("1",)


def test_where_nothing_can_be_capped_the_rung_is_skipped() -> None:
    bare = Nodes(count=4, rated_w=1_000, idle_w=100)
    for moves in (plan(FULL, 3_200, nodes=bare), plan(FULL, 3_200, cappable=frozenset())):
        assert moves.cap == {}
        assert moves.freeze == ("1",)


def test_a_node_whose_cap_has_just_failed_is_left_and_jobs_are_frozen_for_it() -> None:
    moves = plan(FULL, 2_700, cappable=frozenset({"n4"}), caps={"n1": 600})
    assert set(moves.cap) == {"n4"}
    assert moves.freeze


def test_firm_work_is_never_capped_and_freed_where_it_starts_on_a_capped_node() -> None:
    made = facts(job("1", firm=True), job("2"), job("3"))
    moves = plan(made, 2_800)
    assert "n1" not in moves.cap
    assert {"n2", "n3"} <= moves.cap.keys()
    moves = plan(made, 2_800, caps={"n1": 600, "n2": 600})
    assert moves.uncap == ("n1",)
    assert plan(made, 10_000, caps={"n1": 600}, aim={}).uncap == ("n1",)


def test_by_leave_firm_work_is_capped_once_all_flexible_work_is_down_and_frozen_last() -> None:
    made, leave = facts(job("1", firm=True), job("2"), job("3")), {"any_firm": True}
    moves = plan(made, 2_100, aim=leave)
    assert (set(moves.cap), moves.freeze) == ({"n2", "n3", "n4"}, ("2",)), "caps, then the cheapest, were enough"
    moves = plan(made, 1_000, aim=leave)
    assert (moves.freeze, moves.cap["n1"]) == (("2", "3"), 700)
    moves = plan(made, 700, aim=leave)
    assert (set(moves.freeze), moves.cap["n1"]) == ({"1", "2", "3"}, 600)


def test_a_cap_on_firm_work_stands_for_as_long_as_it_is_needed_and_no_longer() -> None:
    frozen = [job(name, JobState.FROZEN) for name in ("2", "3")]
    made, leave = facts(job("1", firm=True), *frozen), {"any_firm": True}
    caps = {"n1": 700, "n2": 600, "n3": 600, "n4": 600}
    moves = plan(made, 1_000, aim=leave, caps=caps)
    assert (dict(moves.cap), moves.uncap, moves.freeze) == ({}, (), ()), "nothing to say anew"
    assert plan(made, 1_000, aim=leave, caps=caps, cappable=frozenset()).uncap == ()
    assert "n1" in plan(made, 1_300, aim=leave, caps=caps).uncap
    assert plan(made, 1_000, caps=caps).uncap == ("n1",), "the leave is over"


def test_up_in_reverse_thaw_first_then_the_caps_then_starts() -> None:
    caps = dict.fromkeys(NAMES, 600)
    made = facts(*(job(str(number), JobState.FROZEN if number == 1 else JobState.RUNNING) for number in range(1, 5)))
    moves = plan(made, 1_900, caps=caps, frozen=("1",))
    assert (moves.thaw, moves.raised, moves.uncap) == ((), {}, ())
    moves = plan(made, 2_500, caps=caps, frozen=("1",))
    assert moves.thaw == ("1",)
    assert set(moves.raised.values()) <= {625}
    moves = plan(made, 4_000, caps=caps, frozen=("1",))
    assert moves.thaw == ("1",)
    assert set(moves.uncap) == set(NAMES)


def test_a_cap_is_not_raised_for_a_few_watts() -> None:
    caps = dict.fromkeys(NAMES, 600)
    assert plan(FULL, 2_404, caps=caps).raised == {}
    assert plan(FULL, 2_800, caps=caps).raised == dict.fromkeys(NAMES, 700)


def test_while_jobs_wait_capped_nodes_take_them_before_the_caps_are_raised() -> None:
    made = facts(job("1"), job("2"), job("9", JobState.PENDING))
    moves = plan(made, 2_400, caps=dict.fromkeys(NAMES, 600))
    assert moves.raised == {}
    assert (moves.admit, moves.admit_on) == (True, None)


def test_half_a_cap_serves_half_the_partition() -> None:
    made = facts(*(job(str(number), JobState.PENDING) for number in range(1, 9)))
    moves = plan(made, 400 + 2 * 900)
    assert moves.admit
    assert moves.admit_on == frozenset({"n1", "n2"})
    assert plan(made, 400 + 899).admit is False
    assert plan(made, 4_000).admit_on is None


def test_nodes_that_are_full_already_cost_nothing_to_leave_open() -> None:
    made = facts(job("3"), job("4", power_w=450), job("9", JobState.PENDING))
    assert plan(made, 400 + 900 + 450 + 450).admit_on == frozenset({"n3", "n4"})


def test_the_open_nodes_stay_as_they_are_while_they_fit() -> None:
    """So that an ending job does not move the reservation about."""
    made = facts(job("1"), job("9", JobState.PENDING), barred=frozenset({"n1", "n2"}))
    assert plan(made, 400 + 3 * 900).admit_on == frozenset({"n3", "n4"})
    assert plan(made, 400 + 2 * 900).admit_on == frozenset({"n1", "n2"})


def test_where_nodes_cannot_be_told_apart_all_that_could_start_must_fit() -> None:
    made = facts(job("8", JobState.PENDING), job("9", JobState.PENDING), steps=False)
    assert not plan(made, 400 + 900).admit
    assert plan(made, 400 + 1_800).admit


def test_a_job_with_a_command_under_way_is_left_alone() -> None:
    bare = Nodes(count=4, rated_w=1_000, idle_w=100)
    assert plan(FULL, 3_200, nodes=bare, busy=frozenset({"1"})).freeze == ("2",)


@given(
    loads=st.lists(st.integers(0, 900), min_size=4, max_size=4),
    firm=st.lists(st.booleans(), min_size=4, max_size=4),
    setpoint_w=st.integers(0, 4_500),
    level_w=st.none() | st.integers(600, 1_000),
)
@pytest.mark.parametrize("cappable", [frozenset[str](), frozenset(NAMES)])
def test_a_plan_never_leaves_more_than_the_setpoint_unless_all_that_may_be_shed_is(
    loads: list[int], firm: list[bool], setpoint_w: int, level_w: int | None, cappable: frozenset[str]
) -> None:
    jobs = [job(str(place + 1), power_w=loads[place], firm=firm[place]) for place in range(4)]
    made = facts(*jobs)
    caps = {} if level_w is None else dict.fromkeys(NAMES, level_w)
    moves = plan(made, setpoint_w, caps=caps, cappable=cappable)
    account = Account(made, NODES, caps)
    account.uncap(moves.uncap)
    account.cap(dict(moves.cap))
    account.cap(dict(moves.raised))
    for one in jobs:
        if one.id in moves.freeze:
            account.stop(one)
    flexible = {one.id for one in jobs if not one.firm and one.power_w}
    assert account.draw_w <= setpoint_w + 1 or set(moves.freeze) == flexible
    assert not set(moves.freeze) - flexible
    assert all(600 <= cap_w <= 1_000 for cap_w in (*moves.cap.values(), *moves.raised.values()))
