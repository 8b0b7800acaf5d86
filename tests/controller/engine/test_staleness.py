"""What is not known, or not known freshly, and sites that do not follow."""

from __future__ import annotations

from typing import Any

import pytest

from contract.messages import Mode
from controller.engine.model import Params
from tests.controller.engine.build import (
    HOUR,
    MINUTE,
    MW,
    flat_outlook,
    hash_bank,
    hpc_bank,
    interlocked,
    job,
    obligation,
    of,
    off,
    on,
    override,
    reasons,
    run,
    site,
    targets,
)

pytestmark = pytest.mark.usefixtures("method")

A = hash_bank("hall-a")
HPC = hpc_bank()

STALE_SITE: list[dict[str, Any]] = [
    {"age_ms": 30_001},
    {"age_ms": 29_500},  # with the reading's own second it is too old
    {"age_ms": None},
    {"age_ms": 10 * HOUR},
    {"online": False},
]


@pytest.mark.parametrize("how", STALE_SITE)
def test_a_stopped_bank_is_not_started_on_stale_data(how: dict[str, Any]) -> None:
    decision = run(site(A, readings=[off(A)], price=-100.0, **how))
    assert (targets(decision)["hall-a"], reasons(decision)["hall-a"]) == (0.0, "data_stale")


@pytest.mark.parametrize("how", STALE_SITE)
def test_a_running_bank_is_held_but_not_raised_on_stale_data(how: dict[str, Any]) -> None:
    decision = run(site(A, readings=[on(A, 2 * MW)], **how))
    assert (targets(decision)["hall-a"], reasons(decision)["hall-a"]) == (2.0, "data_stale")


def test_stale_data_may_lower_power() -> None:
    assert targets(run(site(A, age_ms=60_000, price=900.0)))["hall-a"] == 0.0
    assert targets(run(site(A, age_ms=60_000, obligations=[obligation(1.0)])))["hall-a"] == 1.0


def test_one_bank_without_a_reading_is_held_while_the_others_rise() -> None:
    other = hash_bank("hall-b")
    blind = on(A, 2 * MW, power_w=None, age_ms=None)
    decision = run(site(A, other, readings=[blind, off(other)]))
    assert targets(decision) == {"hall-a": 2.0, "hall-b": 5.0}
    assert reasons(decision) == {"hall-a": "data_stale", "hall-b": "price_below_break_even"}


def test_held_means_the_lower_of_what_it_was_told_and_what_it_says_it_holds() -> None:
    blind = on(A, 4 * MW, power_w=None)
    assert targets(run(site(A, readings=[blind], previous={"hall-a": 3 * MW})))["hall-a"] == 3.0
    assert targets(run(site(A, readings=[blind], previous={"hall-a": 5 * MW})))["hall-a"] == 4.0
    assert targets(run(site(A, no_report=True, previous={"hall-a": 5 * MW})))["hall-a"] == 5.0
    assert targets(run(site(A, no_report=True)))["hall-a"] == 0.0


def test_no_job_is_started_or_thawed_on_a_stale_partition_and_what_runs_goes_on() -> None:
    work = [job("runs"), job("waits", state="pending"), job("frozen", state="frozen")]
    decision = run(site(HPC, jobs=work, age_ms=60_000))
    assert (targets(decision)["hpc"], reasons(decision)["hpc"]) == (0.9, "data_stale")


def test_a_silent_scheduler_leaves_its_partition_what_it_holds_as_if_it_were_firm() -> None:
    readings = [on(HPC, 2 * MW)]
    held = run(site(A, HPC, jobs=None, readings=readings))
    assert (targets(held), reasons(held)["hpc"]) == ({"hall-a": 5.0, "hpc": 2.0}, "data_stale")
    due = run(site(A, HPC, jobs=None, readings=readings, obligations=[obligation(1.0)]))
    assert targets(due) == {"hall-a": 0.0, "hpc": 2.0}
    assert [(s.kind, s.short_w) for s in due.shortfalls] == [("obligation", MW)]
    capped = run(site(A, HPC, jobs=None, readings=readings, overrides=[override("cap", mw=1)]))
    assert targets(capped) == {"hall-a": 0.0, "hpc": 1.0}, "a hard cap binds firm work too"


def test_an_offline_site_is_stated_as_held_and_whatever_it_may_break_is_said() -> None:
    calm = run(site(A, readings=[on(A, 2 * MW)], online=False, price=900.0))
    assert (targets(calm)["hall-a"], reasons(calm)["hall-a"]) == (2.0, "data_stale")
    assert "offline" in calm.sentence
    due = run(site(A, online=False, obligations=[obligation(1.0)]))
    assert targets(due)["hall-a"] == 1.0, "the order to shed goes out, should the site hear it after all"
    assert [(s.kind, s.short_w) for s in due.shortfalls] == [("obligation", 4 * MW)]


def test_a_site_in_local_control_is_stated_as_it_is_and_what_it_breaks_is_said() -> None:
    decision = run(site(A, mode=Mode.LOCAL, price=900.0, obligations=[obligation(1.0)]))
    assert (targets(decision)["hall-a"], reasons(decision)["hall-a"]) == (5.0, "local_mode")
    assert [(s.kind, s.short_w) for s in decision.shortfalls] == [("obligation", 4 * MW)]
    assert not decision.urgent
    stopped = run(site(A, mode=Mode.LOCAL, overrides=[override("emergency_stop")]))
    assert targets(stopped)["hall-a"] == 0.0


def test_an_upcoming_obligation_of_a_site_in_local_control_is_said_to_be_missed() -> None:
    decision = run(site(A, mode=Mode.LOCAL, obligations=[obligation(1.0, starts_in=5 * HOUR)]))
    assert [(s.kind, s.short_w) for s in decision.shortfalls] == [("obligation", 4 * MW)]


def test_an_agent_in_fail_safe_is_brought_back_by_fresh_data() -> None:
    assert targets(run(site(A, mode=Mode.SAFE, readings=[off(A)])))["hall-a"] == 5.0


def test_an_interlock_in_a_stale_report_still_holds() -> None:
    decision = run(site(A, readings=[interlocked(A)], age_ms=10 * HOUR, previous={"hall-a": 5 * MW}))
    assert (targets(decision)["hall-a"], reasons(decision)["hall-a"]) == (0.0, "interlock")


@pytest.mark.parametrize(("setpoint_w", "on_now", "mw"), [(None, None, 5.0), (2 * MW, None, 2.0)])
def test_where_the_agent_says_less_the_last_target_and_the_power_stand_in(
    setpoint_w: int | None, on_now: bool | None, mw: float
) -> None:
    """At a price within the band for a while only what runs goes on, so the target shows what was taken to run."""
    reading = on(A, setpoint_w=setpoint_w, on=on_now)
    spike = flat_outlook(85.0, (15 * MINUTE, 40.0))
    assert targets(run(site(A, readings=[reading], price=85.0, outlook=spike)))["hall-a"] == mw


def test_a_reading_older_than_the_limit_is_stale_though_the_report_is_fresh() -> None:
    old = off(A, age_ms=40_000)
    assert reasons(run(site(A, readings=[old])))["hall-a"] == "data_stale"
    patient = run(site(A, readings=[old]), Params(stale_report_ms=60_000))
    assert of(patient, "hall-a").target_w == 5 * MW
