"""The physics of a site: machines, heat, feeders, and energy that closes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from contract.messages import Nameplate, Report, decode, encode
from sim.jobs import JobSpec
from sim.partition import PartitionPlan
from sim.plant import (
    M50S,
    S21,
    S21_HYDRO,
    BankPlan,
    Commanded,
    CommandKind,
    FeederPlan,
    Plant,
    SitePlan,
    air_hall,
    day_and_night,
    hydro_hall,
    nameplate,
    series,
    steady,
    true_report,
    wet_bulb_c,
)
from sim.plant.weather import Ambient
from sim.ports import AsicPort, AsicState, DeviceFault

S = 1_000
MINUTE = 60 * S


def site(devices: int = 20, **more: object) -> SitePlan:
    """A hybrid site: an air hall, a water hall, an HPC partition."""
    fields: dict[str, object] = {
        "id": "west",
        "feeders": (
            FeederPlan("main", None, 500_000.0),
            FeederPlan("f-air", "main", 250_000.0),
            FeederPlan("f-water", "main", 250_000.0),
        ),
        "halls": (air_hall("air", "f-air", 90_000.0), hydro_hall("water", "f-water", 130_000.0)),
        "banks": (
            BankPlan("a-s21", "f-air", "air", S21, devices),
            BankPlan("a-m50", "f-air", "air", M50S, 5),
            BankPlan("w-s21", "f-water", "water", S21_HYDRO, devices),
        ),
        "partitions": (PartitionPlan("hpc", "f-water", "water", 20),),
        "base_load_w": 4_000.0,
        "ambient": steady(19.0, 13.0),
    }
    return SitePlan(**(fields | more))  # type: ignore[arg-type]


def job(nodes: int) -> JobSpec:
    return JobSpec("1", 0, nodes, 3_600.0, 3_600.0, False, 2.0)


@pytest.fixture
def plant() -> Plant:
    return Plant(site(), 1, 0)


class TestMachines:
    def test_a_machine_is_the_port_that_device_servers_read(self, plant: Plant) -> None:
        machine: AsicPort = plant.machine("a-s21", 3)
        assert machine.serial == "west-a-s21-00003"
        assert machine.state is AsicState.RUNNING
        assert machine.power_limit_w == S21.rated_w
        assert machine.hashrate_ghs == pytest.approx(200_000, rel=0.08)
        assert machine.chip_temp_c == pytest.approx(machine.inlet_temp_c + 42, abs=2)
        assert machine.fault is None
        assert 0.005 <= machine.latency_s <= 0.030
        with pytest.raises(IndexError, match="has 20 devices"):
            plant.machine("a-s21", 20)

    def test_a_stop_falls_to_sleep_power_within_five_seconds(self, plant: Plant) -> None:
        machine = plant.machine("a-s21", 0)
        machine.sleep()
        plant.advance_to(1 * S)
        assert machine.hashrate_ghs == 0
        assert machine.true_power_w > 500
        plant.advance_to(5 * S)
        assert machine.state is AsicState.SLEEPING
        assert machine.true_power_w == pytest.approx(S21.sleep_w, abs=15)

    def test_power_rises_before_hashrate_and_full_hashrate_comes_with_the_boot_time(self, plant: Plant) -> None:
        machine = plant.machine("a-s21", 0)
        full_ghs = machine.hashrate_ghs
        machine.sleep()
        plant.advance_to(30 * S)
        machine.wake()
        story = []
        for second in range(31, 31 + 70):
            plant.advance_to(second * S)
            story.append((second - 30, machine.true_power_w / S21.rated_w, machine.hashrate_ghs / full_ghs))
        rises = next(at for at, power, _ in story if power > 0.5)
        hashes = next(at for at, _, share in story if share > 0.02)
        full = next(at for at, _, share in story if share > 0.99)
        assert rises < hashes < full
        assert full == pytest.approx(S21.boot_s, abs=2)
        assert all(power < 0.02 for at, power, _ in story if at < 0.14 * S21.boot_s)
        assert machine.state is AsicState.RUNNING

    def test_a_lower_power_limit_draws_less_and_hashes_better_per_joule(self, plant: Plant) -> None:
        machine = plant.machine("a-s21", 0)
        before = machine.true_power_w / machine.hashrate_ghs
        machine.set_power_limit(2_400)
        plant.advance_to(20 * S)
        assert machine.power_limit_w == 2_400
        assert machine.true_power_w == pytest.approx(2_400, rel=0.03)
        gain = 1 - machine.true_power_w / machine.hashrate_ghs / before
        assert gain == pytest.approx(0.35 * (1 - 2_400 / 3_500), rel=0.1)

    def test_a_limit_is_held_to_what_the_machine_can_do(self, plant: Plant) -> None:
        machine = plant.machine("a-s21", 0)
        machine.set_power_limit(1)
        assert machine.power_limit_w == S21.min_power_w
        machine.set_power_limit(99_999)
        assert machine.power_limit_w == S21.rated_w

    def test_the_control_board_is_off_from_the_truth_by_5_to_20_percent(self) -> None:
        plant = Plant(site(devices=500), 3, 0)
        error = np.array([m.reported_power_w / m.true_power_w - 1 for m in plant.machines("a-s21")])
        assert np.abs(error).min() >= 0.049
        assert np.abs(error).max() <= 0.201
        assert 0.6 < (error < 0).mean() < 0.8

    def test_devices_of_a_model_differ_a_little_and_sum_to_the_plate(self) -> None:
        plant = Plant(site(devices=500), 3, 0)
        power = np.array([m.true_power_w for m in plant.machines("a-s21")])
        assert 0.005 < power.std() / power.mean() < 0.02
        assert power.sum() == pytest.approx(500 * 3_500, rel=0.01)

    def test_a_dead_machine_draws_nothing_and_does_what_it_was_told_when_power_is_back(self, plant: Plant) -> None:
        awake, asleep = plant.machine("a-s21", 0), plant.machine("a-s21", 1)
        asleep.sleep()
        plant.kill("a-s21", 0)
        plant.kill("a-s21", 1)
        plant.advance_to(10 * S)
        assert (awake.state, awake.true_power_w, awake.hashrate_ghs) == (AsicState.DEAD, 0, 0)
        assert plant.dead_count == 2
        awake.sleep()
        awake.wake()
        assert awake.true_power_w == 0
        plant.revive("a-s21", 0)
        plant.revive("a-s21", 1)
        plant.advance_to(3 * MINUTE)
        assert [awake.state, asleep.state] == [AsicState.RUNNING, AsicState.SLEEPING]

    def test_a_reboot_takes_the_board_s_restart_more_and_sleep_outlives_it(self, plant: Plant) -> None:
        running, asleep = plant.machine("a-s21", 0), plant.machine("a-s21", 1)
        asleep.sleep()
        plant.advance_to(10 * S)
        running.reboot()
        asleep.reboot()
        assert running.uptime_s == 0
        plant.advance_to(75 * S)
        assert [running.state, asleep.state] == [AsicState.BOOTING, AsicState.SLEEPING]
        plant.advance_to(95 * S)
        assert [running.state, asleep.state] == [AsicState.RUNNING, AsicState.SLEEPING]
        assert running.uptime_s == pytest.approx(65, abs=1)

    def test_commands_are_told_with_the_owner_s_time(self) -> None:
        now = [123]
        plant = Plant(site(), 1, 0, now_ms=lambda: now[0])
        heard: list[Commanded] = []
        plant.on_command = heard.append
        plant.machine("w-s21", 4).sleep()
        now[0] = 456
        plant.machine("w-s21", 4).set_power_limit(4_000)
        plant.machine("w-s21", 4).set_power_limit(5_000)
        plant.machine("w-s21", 5).wake()
        assert heard == [
            Commanded(123, "w-s21", 4, CommandKind.SLEEP, raises=False),
            Commanded(456, "w-s21", 4, CommandKind.LIMIT, raises=False, power_w=4_000),
            Commanded(456, "w-s21", 4, CommandKind.LIMIT, raises=True, power_w=5_000),
            Commanded(456, "w-s21", 5, CommandKind.WAKE, raises=True),
        ]
        assert plant.bank_commanded_w("w-s21") == 19 * S21_HYDRO.rated_w + S21_HYDRO.sleep_w

    def test_faults_are_seen_by_the_port_and_their_watts_are_told_apart(self, plant: Plant) -> None:
        plant.set_fault("a-s21", 2, DeviceFault.HANG)
        machine = plant.machine("a-s21", 2)
        assert [machine.fault] == [DeviceFault.HANG]
        assert plant.stuck_w("a-s21") == pytest.approx(machine.true_power_w)
        plant.set_fault("a-s21", 2, None)
        assert machine.fault is None
        assert plant.stuck_w("a-s21") == 0


class TestHeat:
    def test_fans_hold_the_setpoint_while_they_can(self, plant: Plant) -> None:
        assert plant.halls["air"].supply_c == pytest.approx(28, abs=0.3)
        assert plant.halls["water"].supply_c == pytest.approx(35, abs=0.3)
        assert plant.hall_supply_mc("air") == pytest.approx(28_000, abs=300)

    def test_fan_power_goes_with_the_cube_of_what_is_asked_of_the_fans(self) -> None:
        cool = Plant(site(ambient=steady(10.0, 8.0)), 1, 0).halls["air"]
        warm = Plant(site(ambient=steady(19.0, 8.0)), 1, 0).halls["air"]
        assert warm.flow / cool.flow == pytest.approx(2, rel=0.05)
        assert warm.power_w / cool.power_w == pytest.approx(8, rel=0.15)

    def test_hotter_weather_takes_capacity_and_costs_cooling_power(self) -> None:
        mild, hot = Plant(site(), 1, 0), Plant(site(ambient=steady(36.0, 24.0)), 1, 0)
        for hall in ("air", "water"):
            assert hot.halls[hall].capacity_w(hot.ambient) < 0.7 * mild.halls[hall].capacity_w(mild.ambient)
        assert hot.cooling_w > 1.3 * mild.cooling_w
        assert hot.halls["air"].supply_c > mild.halls["air"].supply_c + 2

    def test_shed_machines_let_the_hall_cool_and_the_fans_slow(self, plant: Plant) -> None:
        before_w = plant.cooling_w
        for machine in plant.machines("a-s21") + plant.machines("a-m50"):
            machine.sleep()
        plant.advance_to(30 * MINUTE)
        assert plant.cooling_w < 0.6 * before_w
        assert plant.halls["air"].supply_c < 28

    def test_a_failed_fan_heats_the_hall_until_the_firmware_trips_and_nothing_burns(self) -> None:
        plant = Plant(site(ambient=steady(34.0, 22.0)), 1, 0)
        plant.halls["air"].fan_limit = 0.1
        tripped_at = None
        for minute in range(1, 31):
            plant.advance_to(minute * MINUTE)
            states = {machine.state for machine in plant.machines("a-s21")}
            if tripped_at is None and AsicState.TRIPPED in states:
                tripped_at = minute
            assert plant.hottest_chip_c("a-s21") < 92 + 8
        assert tripped_at is not None
        assert plant.bank_power_w("w-s21") > 100_000

    def test_a_tripped_machine_stays_down_until_told_and_cool(self) -> None:
        plant = Plant(site(ambient=steady(34.0, 22.0)), 1, 0)
        plant.halls["air"].fan_limit = 0.1
        plant.advance_to(30 * MINUTE)
        machine = next(m for m in plant.machines("a-s21") if m.state is AsicState.TRIPPED)
        plant.halls["air"].fan_limit = 1.0
        plant.advance_to(60 * MINUTE)
        assert [machine.state] == [AsicState.TRIPPED]
        machine.wake()
        plant.advance_to(65 * MINUTE)
        assert [machine.state] == [AsicState.RUNNING]

    def test_a_heat_wave_is_felt(self, plant: Plant) -> None:
        before_w = plant.cooling_w
        plant.ambient_shift_c = 12.0
        plant.advance_to(60 * MINUTE)
        assert plant.ambient == Ambient(31.0, 13.0 + 4.8)
        assert plant.cooling_w > 1.2 * before_w

    def test_steps_of_any_size_give_the_same_heat(self) -> None:
        def run(step_ms: int) -> tuple[float, float]:
            plant = Plant(site(ambient=day_and_night(26.0, 8.0)), 1, 0)
            for machine in plant.machines("a-s21")[:10]:
                machine.sleep()
            for at_ms in range(step_ms, 3_600 * S + 1, step_ms):
                plant.advance_to(at_ms)
            return plant.halls["air"].supply_c, plant.ledger.main_mj / 3.6e9

        fine, coarse = run(500), run(60 * S)
        assert coarse[0] == pytest.approx(fine[0], abs=0.1)
        assert coarse[1] == pytest.approx(fine[1], rel=2e-4)


class TestElectrics:
    def test_a_feeder_loses_with_the_square_of_its_load(self, plant: Plant) -> None:
        full_w, full_loss_w = plant.feeder_power_w("f-water"), plant.tree.loss_w["f-water"]
        assert full_loss_w == pytest.approx(0.008 * (full_w - full_loss_w) ** 2 / 250_000, rel=1e-9)
        for machine in plant.machines("w-s21"):
            machine.sleep()
        plant.advance_to(MINUTE)
        assert plant.tree.loss_w["f-water"] < 0.05 * full_loss_w

    def test_the_main_meter_is_everything_at_every_moment(self, plant: Plant) -> None:
        rng = random.Random(4)
        plant.partitions["hpc"].submit(job(8))
        machines = [m for bank in ("a-s21", "a-m50", "w-s21") for m in plant.machines(bank)]
        for at_ms in range(700, 20 * MINUTE, 700):
            machine = rng.choice(machines)
            rng.choice([machine.sleep, machine.wake, machine.reboot])()
            plant.advance_to(at_ms)
            fed = sum(plant.bank_power_w(bank) for bank in ("a-s21", "a-m50", "w-s21", "hpc"))
            assert plant.main_power_w == pytest.approx(fed + plant.cooling_w + plant.loss_w + 4_000, rel=1e-12)
            both = plant.feeder_power_w("f-air") + plant.feeder_power_w("f-water") + 4_000 + plant.tree.loss_w["main"]
            assert plant.main_power_w == pytest.approx(both, rel=1e-12)

    def test_energy_closes_to_the_rounding_of_millijoules(self) -> None:
        plant = Plant(site(ambient=day_and_night(25.0, 8.0)), 2, 0, jobs={"hpc": [job(5)]})
        for hour in range(1, 7):
            for machine in plant.machines("w-s21")[hour::3]:
                (machine.sleep if hour % 2 else machine.wake)()
            plant.advance_to(hour * 60 * MINUTE)
        ledger = plant.ledger
        assert ledger.main_mj > 6 * 3_600 * 100_000 * 1_000
        assert abs(ledger.gap_mj) <= ledger.entries / 2
        assert ledger.feeders_mj["main"] == ledger.main_mj
        assert 0.03 < ledger.psu_loss_mj / sum(ledger.banks_mj.values()) < 0.06
        assert ledger.hash_th > 0

    def test_an_unsettled_ledger_would_not_close(self, plant: Plant) -> None:
        """The main meter is integrated on its own: energy taken away from one bank's account is missed."""
        plant.advance_to(MINUTE)
        plant.ledger.banks_mj["a-s21"] -= 1_000_000
        assert plant.ledger.gap_mj > plant.ledger.entries / 2

    def test_a_meter_shows_the_truth_and_its_energy_is_the_integral(self, plant: Plant) -> None:
        plant.advance_to(60 * MINUTE)
        reading = plant.meter("main")
        assert reading["power_w"] == plant.main_power_w
        assert reading["energy_import_wh"] == pytest.approx(plant.main_power_w, rel=0.02)

    def test_jobs_draw_power_heat_their_hall_and_a_freeze_takes_it_away(self) -> None:
        plant = Plant(site(), 1, 0)
        plant.partitions["hpc"].submit(job(10))
        plant.advance_to(MINUTE)
        assert plant.bank_power_w("hpc") == pytest.approx(10 * 900 + 10 * 220)
        plant.partitions["hpc"].freeze("1")
        plant.advance_to(2 * MINUTE)
        assert plant.bank_power_w("hpc") == pytest.approx(10 * 245 + 10 * 220)


class TestPlans:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"feeders": (FeederPlan("a", None, 1.0), FeederPlan("b", None, 1.0))}, "exactly one feeder"),
            ({"feeders": (FeederPlan("main", None, 1.0), FeederPlan("b", "no", 1.0))}, "unknown parent no"),
            ({"banks": (BankPlan("x", "main", "no", S21, 1),)}, "x names an unknown feeder or hall"),
            ({"banks": (BankPlan("x", "main", "air", S21, 0),)}, "x has no device"),
            ({"banks": (BankPlan("hpc", "main", "air", S21, 1),)}, "an id stands twice"),
        ],
    )
    def test_a_plan_that_does_not_hang_together_is_refused(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            site(**change)  # type: ignore[arg-type]

    def test_the_same_seed_gives_the_same_plant_and_another_another(self) -> None:
        def run(seed: int) -> tuple[int, float]:
            plant = Plant(site(), seed, 0)
            for machine in plant.machines("a-s21")[::2]:
                machine.sleep()
            plant.advance_to(10 * MINUTE)
            return plant.ledger.main_mj, plant.hottest_chip_c("a-s21")

        assert run(5) == run(5)
        assert run(5) != run(6)

    def test_time_that_has_passed_changes_nothing(self, plant: Plant) -> None:
        plant.advance_to(MINUTE)
        energy_mj = plant.ledger.main_mj
        plant.advance_to(30 * S)
        assert (plant.time_ms, plant.ledger.main_mj) == (MINUTE, energy_mj)


class TestTruth:
    def test_the_nameplate_and_report_are_valid_messages_and_agree_with_the_plant(self, plant: Plant) -> None:
        plant.partitions["hpc"].submit(job(4))
        for machine in plant.machines("a-s21")[:5]:
            machine.sleep()
        plant.kill("a-s21", 19)
        plant.advance_to(MINUTE)
        plate = decode(Nameplate, encode(nameplate(plant.plan)))
        report = decode(Report, encode(true_report(plant)))
        bank = next(bank for bank in plate.banks if bank.id == "a-s21")
        assert (bank.rated_w, bank.idle_w, bank.steps_w) == (70_000, 500, 3_500)
        assert bank.levels[-1].hashrate_ghs == 20 * 200_000
        reading = next(reading for reading in report.banks if reading.id == "a-s21")
        counts = reading.devices
        assert (counts.running, counts.stopped, counts.unreachable) == (14, 5, 1)
        assert reading.available_w == 19 * 3_500
        assert reading.power_w == round(plant.bank_power_w("a-s21"))
        assert report.feeders[0].power_w == round(plant.main_power_w)
        assert [j.nodes for j in report.partitions[0].jobs] == [4]
        assert report.partitions[0].nodes_busy == 4

    def test_the_plate_s_overhead_is_what_the_plant_draws_on_a_design_day(self) -> None:
        plant = Plant(site(ambient=steady(18.0, 12.0), partitions=()), 1, 0)
        plate = nameplate(plant.plan)
        planned_w = sum(bank.rated_w * bank.pue_milli / 1_000 for bank in plate.banks) + plate.base_load_w
        assert plant.main_power_w == pytest.approx(planned_w, rel=0.03)


class TestWeather:
    def test_a_series_is_straight_between_its_readings_and_held_at_its_ends(self) -> None:
        at = series(1_000, 100, [(10.0, 5.0), (20.0, 5.0)])
        assert at(0).dry_bulb_c == 10
        assert at(1_050).dry_bulb_c == 15
        assert at(9_999).dry_bulb_c == 20
        with pytest.raises(ValueError, match="needs readings"):
            series(0, 100, [])

    def test_wet_bulb_agrees_with_the_psychrometric_tables(self) -> None:
        """Stull's formula is good to 1 K; the figures are of sea-level tables."""
        for dry_c, dew_c, wet_c in ((20.0, 9.3, 13.7), (35.0, 24.0, 26.9), (30.0, 30.0, 30.0), (10.0, 0.0, 5.5)):
            assert wet_bulb_c(dry_c, dew_c) == pytest.approx(wet_c, abs=1.0)

    def test_the_day_is_hottest_at_2300_utc(self) -> None:
        at = day_and_night(25.0, 7.0)
        hours = [at(hour * 3_600_000).dry_bulb_c for hour in range(24)]
        assert hours.index(max(hours)) == 23
        assert max(hours) - min(hours) == pytest.approx(14, abs=0.1)
