"""Plans are made with the larger of what the nameplate says and what the meter shows, so that the metered cap holds."""

from __future__ import annotations

import pytest

from contract.messages import Feeder
from controller.engine.model import Params
from tests.controller.engine.build import (
    HOUR,
    MW,
    hash_bank,
    hpc_bank,
    job,
    obligation,
    of,
    off,
    on,
    override,
    run,
    site,
    targets,
)

pytestmark = pytest.mark.usefixtures("method")

A = hash_bank("hall-a")
CAP = [override("cap", mw=4)]
HPC = hpc_bank()
FROZEN = job("frozen", mw=1.0, value=10.0, state="frozen")


def test_a_meter_above_the_sum_of_its_banks_shifts_the_plan_by_the_difference() -> None:
    """5 MW of bank and 0.2 of base load, but the meter shows 5.6: 0.4 more than the nameplate knows of."""
    decision = run(site(A, base_mw=0.2, metered={"main": 5_600_000}, overrides=CAP))
    assert (targets(decision)["hall-a"], decision.planned_w) == (3.4, 4 * MW)


def test_never_with_less_than_the_nameplate_says() -> None:
    decision = run(site(A, base_mw=0.2, metered={"main": 4_000_000}, overrides=CAP))
    assert (targets(decision)["hall-a"], decision.planned_w) == (3.8, 4 * MW)


def test_a_meter_that_is_stale_or_silent_counts_for_nothing() -> None:
    silent = run(site(A, base_mw=0.2, overrides=CAP))
    stale = run(site(A, base_mw=0.2, metered={"main": 5_600_000}, overrides=CAP, age_ms=29_500))
    assert targets(silent)["hall-a"] == targets(stale)["hall-a"] == 3.8


def test_devices_that_understate_their_power_do_not_rise_through_the_cap() -> None:
    """At 1 MW the meter shows 1.1: a bias of a tenth. What it will show after the rise is what must fit: 4 MW."""
    reading = on(A, MW, available_w=5 * MW)
    decision = run(site(A, readings=[reading], metered={"main": 1_100_000}, overrides=CAP))
    target_w = of(decision, "hall-a").target_w
    assert 3_990_000 <= target_w * 1.1 <= 4 * MW
    then = run(site(A, readings=[on(A, target_w)], metered={"main": round(target_w * 1.1)}, overrides=CAP))
    assert abs(of(then, "hall-a").target_w - target_w) <= A.steps_w, "and there it rests"


def test_a_ramp_on_its_way_is_not_taken_for_a_load() -> None:
    """The meter is ahead of the devices' own figures while they boot; the setpoint explains it."""
    booting = on(A, 4 * MW, power_w=MW)
    decision = run(site(A, readings=[booting], metered={"main": 3_500_000}, overrides=CAP))
    assert targets(decision)["hall-a"] == 4.0


def test_a_sub_meter_protects_its_own_breaker() -> None:
    hall = Feeder(id="hall", parent="main", limit_w=4 * MW)
    plate = hash_bank("hall-a", feeder="hall")
    decision = run(site(plate, feeders=[hall], metered={"hall": 5_300_000}))
    assert targets(decision)["hall-a"] == 3.7


def test_power_of_a_bank_that_does_not_stop_is_made_room_for() -> None:
    """Hall A was told off an hour ago and still draws 2 MW: under a cap of 4 MW, 2 MW are left for hall B."""
    other = hash_bank("hall-b")
    readings = [off(A, power_w=2 * MW, on_for_ms=HOUR, available_w=0), on(other)]
    decision = run(site(A, other, readings=readings, overrides=CAP))
    assert (targets(decision), decision.planned_w) == ({"hall-a": 0.0, "hall-b": 2.0}, 4 * MW)
    stopping = [off(A, power_w=2 * MW, on_for_ms=5_000, available_w=0), on(other)]
    assert targets(run(site(A, other, readings=stopping, overrides=CAP)))["hall-b"] == 4.0


def test_firm_jobs_that_a_cap_left_no_room_for_find_it_again_when_the_cap_is_gone() -> None:
    """They went on all the while, as no cap stops them: 1.4 MW fit a feeder of 1.5."""
    feeder = Feeder(id="row", parent="main", limit_w=1_500_000)
    plate = hpc_bank(feeder="row")
    reading = off(plate, power_w=1_410_000, setpoint_w=400_000, on_for_ms=HOUR)
    jobs = [job("firm", mw=0.6, firm=True), job("other", mw=0.4, firm=True)]
    decision = run(site(plate, readings=[reading], jobs=jobs, feeders=[feeder], metered={"row": 1_410_000}))
    assert (targets(decision), decision.shortfalls) == ({"hpc": 1.4}, ())


def test_jobs_that_do_not_stop_are_made_room_for() -> None:
    """A megawatt of flexible jobs goes on an hour after its bank was told to be off: it is not given to hall A too."""
    reading = off(HPC, power_w=1_400_000, on_for_ms=HOUR)
    stays = job("stays", mw=1.0, value=1.0)
    decision = run(site(A, HPC, readings=[reading], jobs=[stays], price=80.0, overrides=CAP))
    assert targets(decision) == {"hall-a": 2.6, "hpc": 0.4}


@pytest.mark.parametrize("shows_mw", [0.45, 0.95])
def test_what_frozen_jobs_keep_is_made_room_for_at_once(shows_mw: float) -> None:
    """0.4 MW of idle nodes show 0.05 more, seconds after the freeze; and so they do beside a job that runs."""
    running = [job("running", mw=0.5)] if shows_mw > 0.9 else []
    told = round((0.4 + 0.5 * len(running)) * MW)
    reading = on(HPC, told, power_w=round(shows_mw * MW), on=bool(running), on_for_ms=5_000)
    decision = run(site(A, HPC, readings=[reading], jobs=[FROZEN, *running], overrides=CAP))
    assert targets(decision) == {"hall-a": round(4.0 - shows_mw, 6), "hpc": told / MW}
    assert decision.planned_w == 4 * MW


def test_a_freeze_that_the_meter_has_not_shown_yet_is_not_taken_for_what_stays() -> None:
    reading = off(HPC, power_w=1_400_000, on_for_ms=1_000)
    decision = run(site(A, HPC, readings=[reading], jobs=[FROZEN], overrides=CAP))
    assert targets(decision)["hall-a"] == 3.45, "0.15 of the megawatt that falls"


def test_an_obligation_that_frozen_jobs_stand_in_the_way_of_is_said_short() -> None:
    reading = off(HPC, power_w=450_000, on_for_ms=1_000)
    decision = run(site(HPC, readings=[reading], jobs=[FROZEN], obligations=[obligation(0.42)]))
    assert [(s.kind, s.id, s.short_w) for s in decision.shortfalls] == [("obligation", "dr-1", 30_000)]


def test_what_a_frozen_job_keeps_is_no_reason_not_to_let_it_run() -> None:
    """It is within its own power: 1.4 MW is room enough for 0.4 of idle nodes and the job's 1.0, frozen or not."""
    firm = FROZEN.model_copy(update={"firm": True})
    for on_for_ms in (1_000, HOUR):
        reading = off(HPC, power_w=450_000, on_for_ms=on_for_ms)
        decision = run(site(HPC, readings=[reading], jobs=[firm], overrides=[override("cap", mw=1.4)]))
        assert (targets(decision)["hpc"], decision.planned_w, decision.shortfalls) == (1.4, 1_400_000, ())


def test_what_frozen_jobs_keep_stops_no_firm_work_but_is_said() -> None:
    firm = job("firm", mw=1.0, firm=True)
    reading = on(HPC, 1_400_000, power_w=1_450_000)
    decision = run(site(HPC, readings=[reading], jobs=[firm, FROZEN], overrides=[override("cap", mw=1.4)]))
    assert targets(decision)["hpc"] == 1.4
    assert [(s.kind, s.id, s.short_w) for s in decision.shortfalls] == [("site_cap", "o-1", 50_000)]


def test_noise_of_the_meter_lowers_once_and_does_not_flutter() -> None:
    """With the excess swinging between 0 and 30 kW under a 4 MW cap, the target falls to the worst seen and stays."""
    how, watts, seen = Params(cap_margin_milli=10), 5 * MW, []
    for excess_w in (0, 30_000, 10_000, 0, 30_000, 0):
        snapshot = site(A, readings=[on(A, watts)], metered={"main": watts + excess_w}, overrides=CAP)
        watts = of(run(snapshot, how), "hall-a").target_w
        seen.append(watts)
    assert seen[0] == 3_960_000
    assert len(set(seen[1:])) == 1
    assert seen[1] < seen[0]
