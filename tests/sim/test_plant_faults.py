"""The schedule of faults: seeded, bounded, healed in time, and carried out on the plant."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from sim.faults import MAX_FAULTS, RANGES, Fault, FaultKind, busiest, edges, schedule, strike
from sim.partition import PartitionPlan
from sim.plant import S21, BankPlan, FeederPlan, Plant, SitePlan, air_hall
from sim.ports import AsicState, DeviceFault

HOUR = 3_600_000


def plan(site: str) -> SitePlan:
    return SitePlan(
        site,
        (FeederPlan("main", None, 200_000.0), FeederPlan("f", "main", 120_000.0)),
        (air_hall("hall", "f", 100_000.0),),
        (BankPlan("asics", "f", "hall", S21, 20),),
        (PartitionPlan("hpc", "f", "hall", 10),),
    )


PLANS = (plan("east"), plan("west"))


def test_the_same_seed_gives_the_same_schedule_and_another_another() -> None:
    assert schedule(Random(1), PLANS, 0, HOUR, 20) == schedule(Random(1), PLANS, 0, HOUR, 20)
    assert schedule(Random(1), PLANS, 0, HOUR, 20) != schedule(Random(2), PLANS, 0, HOUR, 20)


def test_all_is_healed_in_time_and_within_its_kind_s_ranges() -> None:
    for seed in range(50):
        for fault in schedule(Random(seed), PLANS, 1_000, HOUR, 30):
            shape = RANGES[fault.kind]
            assert 1_000 <= fault.begins_ms < fault.ends_ms <= HOUR
            assert shape.seconds[0] <= (fault.ends_ms - fault.begins_ms) / 1_000 + 0.001
            assert (fault.ends_ms - fault.begins_ms) / 1_000 <= shape.seconds[1] + 0.001
            assert shape.amount[0] <= fault.amount <= shape.amount[1]


def test_fifty_seeds_meet_every_kind_on_every_site_and_every_device_fault() -> None:
    kinds: Counter[FaultKind] = Counter()
    device_faults: Counter[DeviceFault | None] = Counter()
    sites: Counter[str | None] = Counter()
    for seed in range(50):
        faults = schedule(Random(seed), PLANS, 0, HOUR, 25)
        kinds.update(fault.kind for fault in faults)
        device_faults.update(fault.device_fault for fault in faults if fault.kind is FaultKind.DEVICE)
        sites.update(fault.site for fault in faults)
    assert set(kinds) == set(FaultKind)
    assert min(kinds.values()) >= 10
    assert set(device_faults) == set(DeviceFault)
    assert {"east", "west", None} == set(sites)


def test_what_would_undo_another_fault_does_not_overlap_it() -> None:
    for seed in range(30):
        faults = schedule(Random(seed), PLANS, 0, HOUR, 60)
        for index, one in enumerate(faults):
            for other in faults[index + 1 :]:
                if one.ends_ms < other.begins_ms or other.ends_ms < one.begins_ms:
                    continue
                assert (one.kind, one.site, one.target, one.device) != (
                    other.kind,
                    other.site,
                    other.target,
                    other.device,
                )
                crashes = {
                    FaultKind.CONTROLLER_CRASH,
                    FaultKind.STALE_TWIN,
                    FaultKind.AGENT_CRASH,
                    FaultKind.BROKER_DOWN,
                }
                assert not {one.kind, other.kind} <= crashes


def test_only_the_kinds_asked_for_come() -> None:
    faults = schedule(Random(1), PLANS, 0, HOUR, 20, kinds=[FaultKind.LINK_CUT])
    assert {fault.kind for fault in faults} == {FaultKind.LINK_CUT}
    assert {fault.site for fault in faults} == {"east", "west"}


def test_a_window_too_short_for_a_kind_is_left_without_it() -> None:
    assert schedule(Random(1), PLANS, 0, 1_000, 20) == ()
    with pytest.raises(ValueError, match="must be after"):
        schedule(Random(1), PLANS, 5, 5, 1)
    with pytest.raises(ValueError, match=f"from 0 to {MAX_FAULTS}"):
        schedule(Random(1), PLANS, 0, HOUR, MAX_FAULTS + 1)


def test_edges_are_in_order_and_ends_come_before_beginnings() -> None:
    first = Fault(0, 100, FaultKind.LINK_CUT, "east")
    second = Fault(100, 200, FaultKind.LINK_CUT, "east")
    assert [(edge.at_ms, edge.begins) for edge in edges([second, first])] == [
        (0, True),
        (100, False),
        (100, True),
        (200, False),
    ]
    assert busiest([first, second]) == 1
    assert busiest([first, Fault(50, 60, FaultKind.HEAT_WAVE, "east")]) == 2
    assert busiest([]) == 0


def test_the_plant_s_own_faults_are_carried_out_and_healed() -> None:
    plant = Plant(PLANS[0], 1, 0)
    hang = Fault(0, 1, FaultKind.DEVICE, "east", "asics", 3, DeviceFault.HANG)
    dead = Fault(0, 1, FaultKind.DEVICE_DEAD, "east", "asics", 4)
    heat = Fault(0, 1, FaultKind.HEAT_WAVE, "east", amount=9.0)
    fan = Fault(0, 1, FaultKind.FAN_FAILURE, "east", "hall", amount=0.3)
    assert all(strike(plant, fault, begins=True) for fault in (hang, dead, heat, fan))
    assert [plant.machine("asics", 3).fault] == [DeviceFault.HANG]
    assert [plant.machine("asics", 4).state] == [AsicState.DEAD]
    assert (plant.ambient_shift_c, plant.halls["hall"].fan_limit) == (9.0, 0.3)
    assert all(strike(plant, fault, begins=False) for fault in (hang, dead, heat, fan))
    assert [plant.machine("asics", 3).fault] == [None]
    assert [plant.machine("asics", 4).state] == [AsicState.BOOTING]
    assert (plant.ambient_shift_c, plant.halls["hall"].fan_limit) == (0.0, 1.0)


def test_what_is_not_the_plant_s_is_left_to_others() -> None:
    plant = Plant(PLANS[0], 1, 0)
    assert not strike(plant, Fault(0, 1, FaultKind.BROKER_DOWN), begins=True)
    assert not strike(plant, Fault(0, 1, FaultKind.METER_FROZEN, "east", "main"), begins=True)
