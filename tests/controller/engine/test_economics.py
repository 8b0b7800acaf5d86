"""Merit order: what runs, what stands down, and what keeps it from chattering."""

from __future__ import annotations

from typing import Any

import pytest

from contract.messages import Feeder, Level
from controller.engine.model import Params, Stance
from tests.controller.engine.build import (
    HOUR,
    MINUTE,
    MW,
    hash_bank,
    hpc_bank,
    job,
    of,
    off,
    on,
    override,
    reasons,
    run,
    site,
    targets,
)

A = hash_bank("hall-a")  # breaks even at 83.33 USD/MWh
HPC = hpc_bank()
LEVELS = (
    Level(power_w=3 * MW, hashrate_ghs=3 * MW * 50),  # 20 J/TH: 104.17
    Level(power_w=4 * MW, hashrate_ghs=3 * MW * 50 + MW * 35),  # the fourth MW at 28.6 J/TH: 72.92
    Level(power_w=5 * MW, hashrate_ghs=3 * MW * 50 + MW * 35 + MW * 20),  # the fifth at 50 J/TH: 41.67
)
TUNED = A.model_copy(update={"levels": LEVELS})


@pytest.mark.parametrize(
    ("price", "mw", "reason"),
    [
        (-500.0, 5.0, "price_below_break_even"),
        (0.0, 5.0, "price_below_break_even"),
        (83.0, 5.0, "price_below_break_even"),
        (84.0, 5.0, "hold_hysteresis"),
        (86.0, 5.0, "hold_hysteresis"),
        (86.5, 0.0, "price_above_break_even"),
        (5_000.0, 0.0, "price_above_break_even"),
    ],
)
def test_a_running_bank_stays_up_until_the_price_is_a_band_above_its_break_even(
    price: float, mw: float, reason: str
) -> None:
    decision = run(site(A, price=price))
    assert (targets(decision)["hall-a"], reasons(decision)["hall-a"]) == (mw, reason)
    assert of(decision, "hall-a").value_usd_per_mwh == 83.33


@pytest.mark.parametrize(
    ("price", "mw", "reason"),
    [
        (80.0, 5.0, "price_below_break_even"),
        (80.5, 0.0, "hold_hysteresis"),
        (84.0, 0.0, "price_above_break_even"),
    ],
)
def test_a_stopped_bank_starts_only_a_band_below_its_break_even(price: float, mw: float, reason: str) -> None:
    decision = run(site(A, price=price, readings=[off(A)]))
    assert (targets(decision)["hall-a"], reasons(decision)["hall-a"]) == (mw, reason)


def test_a_start_must_pay_its_wear_and_its_boot_back_within_the_payback_time() -> None:
    """20 USD over 2.5 MWh are 8 USD/MWh; 3 minutes of 30 lost to the boot are a tenth of 83.33. With the band: 64."""
    plate = A.model_copy(update={"start_cost_usd": 20.0, "start_delay_ms": 3 * MINUTE})
    assert targets(run(site(plate, readings=[off(plate)], price=63.9)))["hall-a"] == 5.0
    waits = run(site(plate, readings=[off(plate)], price=64.1))
    assert (targets(waits)["hall-a"], reasons(waits)["hall-a"]) == (0.0, "hold_hysteresis")
    assert targets(run(site(plate, price=86.0)))["hall-a"] == 5.0, "what runs already pays no start"


@pytest.mark.parametrize(("price", "mw"), [(30.0, 5.0), (50.0, 4.0), (90.0, 3.0), (108.0, 0.0)])
def test_each_level_is_weighed_by_what_its_own_increment_earns(price: float, mw: float) -> None:
    assert targets(run(site(TUNED, price=price)))["hall-a"] == mw


def test_break_evens_and_prices_meet_at_the_main_meter() -> None:
    """At a PUE of 1.25 the meter sees 1.25 MW for each, so the break-even falls to 66.67."""
    plate = A.model_copy(update={"pue_milli": 1_250})
    assert of(run(site(plate, price=60.0)), "hall-a").value_usd_per_mwh == 66.67
    assert targets(run(site(plate, price=75.0)))["hall-a"] == 0.0


def test_a_negative_price_runs_even_what_earns_nothing() -> None:
    assert targets(run(site(A, price=-10.0, hashprice=0.0)))["hall-a"] == 5.0
    assert targets(run(site(A, price=10.0, hashprice=0.0)))["hall-a"] == 0.0


@pytest.mark.parametrize(
    ("stance", "running", "stopped"), [(Stance.HOLD, 5.0, 0.0), (Stance.RUN, 5.0, 5.0), (Stance.STOP, 0.0, 0.0)]
)
@pytest.mark.parametrize("unknown", ["price", "hashprice", "old_price", "old_hashprice", "ageless"])
def test_with_no_price_the_configured_stance_applies(
    stance: Stance, running: float, stopped: float, unknown: str
) -> None:
    other = hash_bank("hall-b")
    snapshot = site(A, other, readings=[off(other)])
    energy, hashes = snapshot.energy, snapshot.hashprice
    changes: dict[str, dict[str, Any]] = {
        "price": {"energy": energy.model_copy(update={"usd_per_mwh": None})},
        "old_price": {"energy": energy.model_copy(update={"age_ms": 20 * MINUTE + 1})},
        "ageless": {"energy": energy.model_copy(update={"age_ms": None})},
        "hashprice": {"hashprice": hashes.model_copy(update={"usd_per_ph_day": None})},
        "old_hashprice": {"hashprice": hashes.model_copy(update={"age_ms": 72 * HOUR + 1})},
    }
    decision = run(snapshot.model_copy(update=changes[unknown]), Params(unknown_price=stance))
    assert targets(decision) == {"hall-a": running, "hall-b": stopped}
    assert set(reasons(decision).values()) == {"price_stale"}
    assert (decision.margin_usd_per_h is None) or unknown.endswith("hashprice")


def test_under_a_cap_hashing_and_hpc_compete_by_what_a_megawatt_hour_earns() -> None:
    work = [job("dear", mw=1.0, value=400.0), job("cheap", mw=1.0, value=60.0)]
    decision = run(site(A, HPC, jobs=work, limit_mw=6.4))
    assert targets(decision) == {"hall-a": 5.0, "hpc": 1.4}, "the cheap job is shed before the hash bank"
    tighter = run(site(A, HPC, jobs=work, limit_mw=3.4))
    assert targets(tighter) == {"hall-a": 2.0, "hpc": 1.4}, "the hash bank before the dear job"


def test_a_waiting_job_worth_more_than_hashing_pulls_megawatts_from_asics() -> None:
    work = [job("next", mw=2.0, value=400.0, state="pending")]
    decision = run(site(A, HPC, jobs=work, limit_mw=6.0))
    assert targets(decision) == {"hall-a": 3.6, "hpc": 2.4}
    poor = run(site(A, HPC, jobs=[job("next", mw=2.0, value=70.0, state="pending")], limit_mw=6.0))
    assert targets(poor) == {"hall-a": 5.0, "hpc": 0.4}


def test_what_idle_nodes_were_found_to_draw_is_planned_with_and_never_more_than_the_nameplate() -> None:
    work = [job("next", mw=2.0, value=400.0, state="pending")]
    decision = run(site(A, HPC, jobs=work, limit_mw=6.0, idle_w=MW // 10))
    assert targets(decision) == {"hall-a": 3.9, "hpc": 2.1}, "0.3 MW more to hash with"
    assert targets(run(site(A, HPC, jobs=work, limit_mw=6.0, idle_w=MW))) == {"hall-a": 3.6, "hpc": 2.4}


def test_no_headroom_is_left_for_a_job_that_has_no_nodes_to_run_on() -> None:
    work = [job("big", mw=2.0, state="pending", nodes=60), job("now", mw=1.0, nodes=50)]
    assert targets(run(site(A, HPC, jobs=work, limit_mw=6.4)))["hpc"] == 1.4
    assert targets(run(site(A, HPC, jobs=work, limit_mw=6.4, nodes_up=110)))["hpc"] == 3.4


def test_firm_work_outlasts_every_hash_bank_and_all_flexible_work() -> None:
    work = [job("contract", mw=1.0, value=1.0, firm=True), job("dear", mw=1.0, value=900.0)]
    decision = run(site(A, HPC, jobs=work, limit_mw=1.4))
    assert targets(decision) == {"hall-a": 0.0, "hpc": 1.4}
    assert [(s.job, s.frees_w) for s in decision.shed_ladder if s.job] == [("dear", 0), ("contract", MW)]
    assert decision.shortfalls == ()


def test_firm_work_runs_whatever_the_price() -> None:
    decision = run(site(HPC, jobs=[job("contract", mw=1.0, value=1.0, firm=True)], price=5_000.0))
    assert targets(decision)["hpc"] == 1.4


def test_a_running_job_is_worth_what_its_restart_would_cost_as_well() -> None:
    """30 USD over the half MWh of the payback time: 60 USD/MWh more than the job itself."""
    assert targets(run(site(HPC, jobs=[job("j", mw=1.0, value=50.0)], price=60.0)))["hpc"] == 0.4
    costly = job("j", mw=1.0, value=50.0, restart_cost_usd=30.0)
    assert targets(run(site(HPC, jobs=[costly], price=60.0)))["hpc"] == 1.4
    waiting = costly.model_copy(update={"state": "pending"})
    assert targets(run(site(HPC, jobs=[waiting], price=60.0)))["hpc"] == 0.4, "what has not begun loses nothing"


def test_equal_merit_is_broken_by_id() -> None:
    twins = [hash_bank(f"hall-{x}") for x in "dcba"]
    decision = run(site(*twins, limit_mw=10.0))
    assert targets(decision) == {"hall-a": 5.0, "hall-b": 5.0, "hall-c": 0.0, "hall-d": 0.0}


def test_of_near_equals_under_a_cap_the_one_that_runs_goes_on() -> None:
    """Hall B earns 1 USD/MWh more, less than a swap is worth."""
    better = hash_bank("hall-b", j_per_th=24.7)
    kept = run(site(A, better, readings=[off(better)], limit_mw=5.0))
    assert targets(kept) == {"hall-a": 5.0, "hall-b": 0.0}
    best = hash_bank("hall-b", j_per_th=20.0)
    swapped = run(site(A, best, readings=[off(best)], limit_mw=5.0))
    assert targets(swapped) == {"hall-a": 0.0, "hall-b": 5.0}


def test_targets_are_whole_devices() -> None:
    plate = A.model_copy(update={"steps_w": 3_250})
    target_w = of(run(site(plate, limit_mw=4.0)), "hall-a").target_w
    assert target_w % 3_250 == 0
    assert 4 * MW - 3_250 < target_w <= 4 * MW
    assert of(run(site(plate)), "hall-a").target_w == 5 * MW, "all of it is whole, whatever the rating divides by"


def test_a_rise_that_a_limit_trims_to_less_than_its_own_margin_is_not_made() -> None:
    how = Params(cap_margin_milli=10)
    near = run(site(A, readings=[on(A, 3_930_000)], limit_mw=4.0), how)
    assert targets(near)["hall-a"] == 3.93, "30 kW of room are within the noise of a 4 MW limit"
    far = run(site(A, readings=[on(A, 3_900_000)], limit_mw=4.5), how)
    assert targets(far)["hall-a"] == 4.455


def test_what_is_not_available_is_not_planned_with() -> None:
    part = on(A, 2 * MW, available_w=2 * MW)
    assert targets(run(site(A, readings=[part])))["hall-a"] == 2.0
    gone = run(site(A, readings=[off(A, available_w=0)]))
    assert (targets(gone)["hall-a"], reasons(gone)["hall-a"]) == (0.0, "unavailable")


def test_the_feeder_with_room_takes_what_the_full_one_cannot() -> None:
    full = Feeder(id="full", parent="main", limit_w=2 * MW)
    best = hash_bank("best", j_per_th=15.0, feeder="full")
    decision = run(site(best, A, feeders=[full], limit_mw=6.0))
    assert targets(decision) == {"best": 2.0, "hall-a": 4.0}


def test_the_margin_is_revenue_less_the_energy_of_the_whole_meter() -> None:
    """5 MW at 25 J/TH are 200 PH/s: 416.67 USD/h; a job of 400 USD/h; 6.5 MW at 40 USD/MWh cost 260."""
    decision = run(site(A, HPC, jobs=[job("j", mw=1.0, value=400.0)], base_mw=0.1))
    assert decision.planned_w == 6.5 * MW
    assert decision.margin_usd_per_h == pytest.approx(416.67 + 400.0 - 260.0, abs=0.01)


def test_an_idle_partition_says_it_has_no_work_and_counts_its_idle_nodes() -> None:
    decision = run(site(HPC, jobs=[]))
    assert (targets(decision)["hpc"], reasons(decision)["hpc"], decision.planned_w) == (0.4, "no_work", 400_000)


def test_the_ladder_goes_from_the_least_valuable_to_the_most_and_frees_what_the_site_draws() -> None:
    worse = hash_bank("hall-b", j_per_th=30.0)
    work = [job("low", value=75.0), job("high", value=900.0), job("contract", value=5.0, firm=True)]
    decision = run(site(A, worse, HPC, jobs=work))
    assert [(s.bank, s.job, s.firm) for s in decision.shed_ladder] == [
        ("hall-b", None, False),
        ("hpc", "low", False),
        ("hall-a", None, False),
        ("hpc", "high", False),
        ("hpc", "contract", True),
        ("hpc", None, True),
    ]
    assert sum(s.frees_w for s in decision.shed_ladder) == decision.planned_w - HPC.idle_w


def test_a_floor_takes_over_from_merit_only_as_far_as_it_must() -> None:
    decision = run(site(TUNED, A.model_copy(update={"id": "hall-b"}), price=90.0, overrides=[override("floor", mw=6)]))
    assert targets(decision) == {"hall-a": 3.0, "hall-b": 3.0}
    assert reasons(decision) == {"hall-a": "price_below_break_even", "hall-b": "override"}
