"""Local trips: nothing remote lifts them, and each ends only when its own cause has been gone for its own time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.guard import set_local
from agent.guard_model import FeederState
from contract.messages import Mode
from contract.reasons import InterlockKind, ReceiptReason
from tests.agent.guarding import HPC, MAIN, ROW_A, A, B, Site, held, plan

HOT = {"max_inlet_mc": 40_000, "max_chip_mc": 90_000, "hysteresis_mc": 5_000, "cool_ms": 60_000}


def hot_site() -> Site:
    site = Site(plan(a=HOT))
    site.see(A, inlet_mc=30_000, chip_mc=70_000)
    site.tell(a=1_000, b=1_000, valid_for_ms=10**6)
    assert held(site.step())[A] == 1_000
    return site


@pytest.mark.parametrize("seen", [{"inlet_mc": 40_000}, {"chip_mc": 90_000}])
def test_a_bank_that_is_too_hot_stops_at_once_and_alone(seen: dict[str, int]) -> None:
    site = hot_site()
    site.see(A, **seen)
    verdict = site.step()
    assert held(verdict)[:2] == [0, 1_000]
    assert verdict.banks[A].interlocks[0].kind is InterlockKind.OVER_TEMPERATURE
    assert verdict.banks[A].why is ReceiptReason.INTERLOCK
    assert not verdict.banks[A].may_raise


def test_no_order_lifts_a_trip_and_no_local_control_either() -> None:
    site = hot_site()
    site.see(A, inlet_mc=45_000)
    site.step()
    site.see(A, inlet_mc=39_000)
    for urgent in (False, True):
        assert held(site.tell(a=1_000, urgent=urgent, epoch=5, valid_for_ms=10**6))[A] == 0
    site.state = set_local(site.plan, site.state, site.facts, site.at, local=True)
    verdict = site.step(10**6)
    assert (verdict.mode, held(verdict)) == (Mode.LOCAL, [0, None, None])


def test_a_trip_ends_below_the_hysteresis_after_the_cool_time() -> None:
    site = hot_site()
    site.see(A, inlet_mc=41_000)
    site.step()
    site.see(A, inlet_mc=36_000)
    assert held(site.step(59_000))[A] == 0
    site.see(A, inlet_mc=35_000)
    assert held(site.step(59_999))[A] == 0, "the cool time began when it was last above the hysteresis"
    assert held(site.step(1))[A] == 1_000


def test_a_trip_does_not_end_while_the_temperature_is_unknown() -> None:
    site = hot_site()
    site.see(A, inlet_mc=41_000)
    site.step()
    site.see(A, inlet_mc=None, quiet=True)
    assert held(site.step(500_000))[A] == 0


def test_sleeping_boards_have_no_chip_temperature_and_may_come_back() -> None:
    site = hot_site()
    site.see(A, chip_mc=95_000)
    site.step()
    site.see(A, chip_mc=None, quiet=False)
    assert held(site.step(70_000))[A] == 0, "silent is not cool"
    site.see(A, quiet=True)
    assert held(site.step(60_000))[A] == 1_000


def test_a_lost_sensor_holds_the_bank_or_stops_it_as_configured() -> None:
    for policy, stopped in (("hold", False), ("stop", True)):
        own = HOT | {"inlet_sensor": True, "on_sensor_lost": policy, "sensor_lost_after_ms": 30_000}
        site = Site(plan(a=own))
        site.see(A, inlet_mc=30_000)
        site.tell(a=500, valid_for_ms=10**6)
        site.see(A, inlet_mc=None)
        assert held(site.tell(a=1_000, valid_for_ms=10**6))[A] == 500, "blind, nothing is raised"
        verdict = site.step(30_000)
        assert held(verdict)[A] == (0 if stopped else 500)
        assert [lock.kind for lock in verdict.banks[A].interlocks] == [InterlockKind.SENSOR_LOST] * stopped
        site.see(A, inlet_mc=30_000)
        assert held(site.step(1_000))[A] == 1_000


def test_a_lockout_holds_for_as_long_as_a_person_wants() -> None:
    site = Site(plan())
    site.tell(a=1_000, b=1_000, valid_for_ms=10**6)
    site.state = replace(site.state, lockouts=frozenset({"a"}))
    verdict = site.step()
    assert held(verdict)[:2] == [0, 1_000]
    assert verdict.banks[A].interlocks[0].kind is InterlockKind.OPERATOR
    site.state = replace(site.state, lockouts=frozenset())
    assert held(site.step(1_000))[A] == 1_000


# overloads


def metered(**changes: int) -> Site:
    site = Site(plan(metered=True, overload_after_ms=3_000, settle_ms=10_000, recover_ms=60_000, **changes))
    site.tell(a=1_000, b=1_000, hpc=1_000, valid_for_ms=10**7)
    return site


def run(site: Site, feeder: int, power_w: int, span_ms: int) -> None:
    for _ in range(span_ms // 1_000):
        site.at += 1_000
        for other in range(3):
            site.meter(other, power_w if other == feeder else 0)
        site.step()


def test_a_short_excess_sheds_nothing() -> None:
    site = metered()
    run(site, MAIN, 3_100, 3_000)
    run(site, MAIN, 2_900, 1_000)
    run(site, MAIN, 3_100, 3_000)
    assert held(site.step()) == [1_000, 1_000, 1_000]


def test_metered_watts_over_the_limit_shed_the_excess_down_the_ladder() -> None:
    site = metered()
    run(site, MAIN, 3_100, 4_000)
    assert held(site.step()) == [1_000, 1_000 - 100 - 30 - 1, 1_000], "the least efficient gives excess and margin"
    run(site, MAIN, 3_100, 9_000)
    assert held(site.step())[B] == 869, "a shed is given its time to show"
    run(site, MAIN, 3_100, 3_000)
    assert (held(site.step())[B] or 0) < 869, "and then more is shed"


def test_what_an_overload_took_is_given_back_slowly_and_only_by_a_calm_meter() -> None:
    site = metered()
    run(site, MAIN, 3_100, 4_000)
    low = held(site.step())[B] or 0
    run(site, MAIN, 2_900, 200_000)
    assert held(site.step())[B] == low, "below the limit is not calm"
    run(site, MAIN, 2_000, 61_000)
    once = held(site.step())[B] or 0
    assert low < once <= low + 60
    run(site, MAIN, 2_000, 300_000)
    assert held(site.step())[B] == 1_000
    memory = site.state.feeders[MAIN]
    assert memory == replace(
        FeederState(),
        calm_ms=memory.calm_ms,
        acted_ms=memory.acted_ms,
        lowered_ms=memory.lowered_ms,
        given_ms=memory.given_ms,
    )


def _calm_until_given_back(site: Site) -> int:
    """Seconds of calm until something is given back."""
    low = site.state.feeders[MAIN].derate_w
    for second in range(1, 3_000):
        run(site, MAIN, 2_000, 1_000)
        if site.state.feeders[MAIN].derate_w < low:
            return second
    raise AssertionError("nothing was ever given back")


def test_what_does_not_fit_is_not_switched_off_and_on_for_ever() -> None:
    site = metered()
    waits = []
    for _ in range(7):
        run(site, MAIN, 3_100, 16_000)
        waits.append(_calm_until_given_back(site))
    assert waits == [61, 121, 241, 481, 961, 961, 961], "twice as long after each relapse, up to sixteen times"
    run(site, MAIN, 2_900, 2_000_000)
    run(site, MAIN, 3_100, 16_000)
    assert _calm_until_given_back(site) == 61, "long after, it is another overload"


def test_a_cap_is_kept_at_the_meter_too() -> None:
    site = metered()
    site.tell(a=1_000, b=1_000, hpc=1_000, cap_w=2_000, valid_for_ms=10**7)
    planned = sum(level or 0 for level in held(site.step()))
    run(site, MAIN, 2_200, 15_000)
    assert sum(level or 0 for level in held(site.step())) < planned - 200


def test_a_feeder_far_over_its_limit_trips_everything_under_it_and_nothing_else() -> None:
    site = metered(trip_after_ms=5_000, trip_hold_ms=60_000)
    run(site, ROW_A, 1_150, 7_000)
    verdict = site.step()
    assert held(verdict)[A] == 0
    assert held(verdict)[B] == 1_000
    assert verdict.banks[A].interlocks[0].kind is InterlockKind.FEEDER_OVERLOAD
    assert held(site.tell(a=1_000, b=1_000, hpc=1_000, urgent=True, valid_for_ms=10**7))[A] == 0
    run(site, ROW_A, 970, 100_000)
    assert held(site.step())[A] == 0, "not calm yet"
    run(site, ROW_A, 10, 61_000)
    assert (held(site.step())[A] or 0) > 0


def test_one_wild_reading_before_a_silence_trips_nothing() -> None:
    site = metered(trip_after_ms=5_000)
    site.meter(ROW_A, 50_000)
    for _ in range(20):
        verdict = site.step(1_000)
    assert verdict.banks[A].interlocks == ()


def test_a_tripped_hpc_bank_may_freeze_firm_work() -> None:
    site = Site(plan(hpc=HOT))
    site.tell(hpc=1_000)
    site.see(HPC, inlet_mc=41_000)
    verdict = site.step()
    assert (held(verdict)[HPC], verdict.banks[HPC].firm_too) == (0, True)


def test_a_few_watts_less_told_again_and_again_do_not_keep_an_overload_from_being_shed() -> None:
    """A controller that trims a setpoint every few seconds sheds nothing that a meter would show."""
    site = metered()
    for second in range(1, 15):
        run(site, MAIN, 3_100, 1_000)
        site.tell(a=1_000, b=1_000 - second, hpc=1_000, valid_for_ms=10**7)
    assert (held(site.step())[B] or 0) < 900
