"""The suite of checkers as a whole, and the truth read from a plant."""

from __future__ import annotations

import pytest

from controller.engine.decide import decide
from sim.checkers import (
    Cap,
    CapSource,
    Due,
    HeatStopsABank,
    OrderHeard,
    PlantTruth,
    ReportSent,
    SiteTruth,
    Suite,
    World,
)
from sim.jobs import JobSpec
from sim.partition import PartitionPlan
from sim.plant import S21, BankPlan, FeederPlan, Plant, SitePlan, air_hall, nameplate
from sim.ports import DeviceFault
from tests.sim.checker_world import (
    SITE,
    START_MS,
    HandSite,
    HandWorld,
    ms,
    order,
    report,
)


@pytest.fixture
def world() -> HandWorld:
    return HandWorld()


class TestSuite:
    def test_it_holds_one_checker_for_each_invariant_in_order(self) -> None:
        assert [checker.invariant for checker in Suite(decide, 1).checkers] == list(range(1, 13))

    def test_a_quiet_world_violates_nothing_and_a_broken_one_is_told_in_order_of_time(self, world: HandWorld) -> None:
        suite = Suite(decide, 1)
        world.now_ms, world.events = START_MS, (ReportSent(ms(0), report(1, 0)), OrderHeard(ms(0), SITE, order(1, 1)))
        suite.observe(world)
        assert suite.violations == []
        world.events = ()
        world.site.inlet = 50.0
        for second in range(1, 400):
            world.now_ms = ms(second)
            suite.observe(world)
        assert [violation.invariant for violation in suite.violations] == [5, 4]
        assert suite.count == 2

    def test_violations_are_bounded_and_all_are_counted(self, world: HandWorld) -> None:
        checker = HeatStopsABank()
        for number in range(1_200):
            checker.flag(number, START_MS, SITE, "made up")
        assert (len(checker.violations), checker.count) == (1_000, 1_200)


class TestPlantTruth:
    """The adapter from a real plant satisfies the protocol and tells its truth."""

    def build(self) -> tuple[Plant, PlantTruth]:
        plan = SitePlan(
            SITE,
            (FeederPlan("main", None, 200_000.0),),
            (air_hall("hall", "main", 120_000.0),),
            (BankPlan("asics", "main", "hall", S21, 20),),
            (PartitionPlan("hpc", "main", "hall", 10),),
        )
        jobs = [
            JobSpec("1", START_MS, 4, 9_000.0, 9_000.0, True, 3.0),
            JobSpec("2", START_MS, 2, 9_000.0, 9_000.0, False, 1.0),
        ]
        plant = Plant(plan, 1, START_MS, jobs={"hpc": jobs})
        plant.advance_to(START_MS + 5_000)
        return plant, PlantTruth(plant, nameplate(plan), inlet_limits_c={"asics": 40.0})

    def test_it_is_a_site_truth_and_agrees_with_the_plant(self) -> None:
        plant, truth = self.build()
        site: SiteTruth = truth
        assert site.feeder_w("main") == plant.main_power_w
        assert site.bank_w("asics") + site.bank_w("hpc") < site.feeder_w("main")
        assert site.commanded_w("asics") == site.steerable_w("asics") == 20 * S21.rated_w
        assert site.firm_w("hpc") == pytest.approx(10 * 220 + 4 * 680)
        assert site.live_jobs("hpc") == {"1", "2"}
        assert site.inlet_limit_c("asics") == 40.0
        assert site.inlet_limit_c("hpc") is None
        assert site.inlet_c("hpc") == plant.halls["hall"].supply_c
        assert [cap.source for cap in site.caps] == [CapSource.BREAKER]
        assert abs(site.energy.main_mj - site.energy.fed_mj) <= site.energy.roundings / 2

    def test_faulty_and_dead_devices_are_stuck_until_a_minute_after(self) -> None:
        plant, truth = self.build()
        plant.set_fault("asics", 0, DeviceFault.HANG)
        plant.kill("asics", 1)
        truth.step()
        assert truth.steerable_w("asics") == 18 * S21.rated_w
        assert truth.stuck_w("asics") == pytest.approx(
            plant.machine("asics", 0).true_power_w + plant.machine("asics", 1).true_power_w
        )
        plant.set_fault("asics", 0, None)
        plant.revive("asics", 1)
        plant.advance_to(START_MS + 30_000)
        truth.step()
        assert truth.stuck_w("asics") > 0
        plant.advance_to(START_MS + 90_000)
        truth.step()
        assert truth.stuck_w("asics") == 0
        assert truth.steerable_w("asics") == 20 * S21.rated_w

    def test_a_feeder_is_known_at_every_step_and_not_only_where_the_checkers_look(self) -> None:
        plant, truth = self.build()
        truth.step()
        stood_w = truth.feeder_w("main")
        plant.partitions["hpc"].freeze("1")
        plant.advance_to(START_MS + 5_500)
        dipped_w = truth.feeder_w("main")
        plant.partitions["hpc"].thaw("1")
        plant.advance_to(START_MS + 6_000)
        truth.step()
        assert dipped_w < stood_w - 1_000
        least_w, most_w = truth.feeder_span_w("main")
        assert least_w == dipped_w
        assert most_w == truth.feeder_w("main") > dipped_w
        truth.step()
        assert truth.feeder_span_w("main") == (most_w, most_w), "that was before the last look"

    def test_what_is_over_is_dropped(self) -> None:
        plant, truth = self.build()
        truth.caps.append(Cap("c", CapSource.OVERRIDE, 1, "main", START_MS, START_MS + 60_000, START_MS))
        truth.dues.append(Due("d", 1, START_MS, START_MS, START_MS + 60_000))
        truth.step()
        assert (len(truth.caps), len(truth.dues)) == (2, 1)
        plant.advance_to(START_MS + 60_000)
        truth.step()
        assert (len(truth.caps), len(truth.dues)) == (1, 0)


def test_the_hand_made_world_is_a_world() -> None:
    world: World = HandWorld()
    assert isinstance(world.sites[SITE], HandSite)
