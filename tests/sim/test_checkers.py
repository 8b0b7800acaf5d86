"""Each invariant's checker against a history that keeps it and against histories that break it."""

from __future__ import annotations

from random import Random

import pytest

from contract.messages import Setpoint, Workload
from contract.reasons import DecisionReason
from controller.engine.decide import decide
from controller.engine.model import Decision, EnergyPrice, Params, PreviousSetpoint, Shortfall, Snapshot, Stance
from sim.checkers import (
    Allowances,
    Cap,
    CapsHeld,
    CapSource,
    Checker,
    DecideIsBlind,
    Due,
    DwellAndRampHold,
    Energy,
    EnergyCloses,
    Event,
    HeatStopsABank,
    JobHappened,
    JournalReplays,
    NoJobDiesEarly,
    ObligationsMet,
    OnlyRightfulOrdersAct,
    OracleDecided,
    OrderHeard,
    OrderPublished,
    PlanReturnsToOracle,
    PlantTruth,
    ReceiptSent,
    ReportHeard,
    ReportSent,
    SilenceIsSafe,
    SiteTruth,
    StaleNeverRaises,
    Suite,
    World,
)
from sim.checkers.decisions import shuffled
from sim.jobs import JobEventKind, JobSpec
from sim.partition import PartitionPlan
from sim.plant import S21, BankPlan, FeederPlan, Plant, SitePlan, air_hall, nameplate
from sim.ports import DeviceFault
from tests.sim.checker_world import (
    SITE,
    START_MS,
    HandSite,
    HandWorld,
    breaker,
    commanded,
    decision,
    details,
    job_event,
    made,
    ms,
    order,
    plate,
    receipt,
    report,
    site_cap,
    snapshot,
)

ALLOW = Allowances()
SHED_S = ALLOW.shed_ms / 1_000


@pytest.fixture
def world() -> HandWorld:
    return HandWorld()


def leased(world: HandWorld, checker: Checker, *orders: Event, at: float = 0.0) -> None:
    """A report sent, and an order for it heard a second later."""
    world.at(checker, at, ReportSent(ms(at), report(1, at)), OrderHeard(ms(at + 1), SITE, order(1, 1)), *orders)


class TestCapsHeld:
    """Invariant 1."""

    def test_a_plan_and_a_meter_within_the_caps_pass(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [breaker(), site_cap(130_000, 10)]
        world.at(checker, 20, made(20, decision(100_000)))
        world.through(checker, 21, 200)
        assert checker.violations == []

    def test_a_plan_above_a_cap_is_caught(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [site_cap(110_000, 10)]
        world.at(checker, 20, made(20, decision(100_000)))
        assert "plans 122000 W against cap-1 of 110000 W" in details(checker)

    def test_a_plan_counts_idle_power_base_load_and_overheads_at_the_main(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.plate = plate(pue_milli=1_100)
        world.site.caps = [site_cap(109_000, 10)]
        world.at(checker, 20, made(20, decision(90_000, 0)))
        assert checker.violations == []
        world.at(checker, 30, made(30, decision(91_000, 0)))
        assert "plans 110100 W" in details(checker)

    def test_a_cap_that_was_not_told_yet_binds_no_plan(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [site_cap(110_000, 10, told=30)]
        world.at(checker, 20, made(20, decision(100_000)))
        assert checker.violations == []

    def test_a_stale_twin_s_plan_is_not_judged(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [site_cap(110_000, 10)]
        world.at(checker, 20, made(20, decision(100_000), leading=False))
        assert checker.violations == []

    def test_a_stated_shortfall_excuses_what_it_states_and_no_more(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [site_cap(110_000, 10)]
        world.site.draw(100_000)
        short = Shortfall(kind="site_cap", id="cap-1", short_w=12_000)
        world.at(checker, 20, made(20, decision(100_000, shortfalls=(short,))))
        assert checker.violations == []
        world.at(checker, 80, made(80, decision(100_000, 21_000, shortfalls=(short,))))
        assert len(checker.violations) == 1

    def test_metered_power_above_a_cap_after_the_ramp_allowance_is_caught(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [site_cap(110_000, 10)]
        world.through(checker, 0, 10 + SHED_S - 1)
        assert checker.violations == []
        world.through(checker, 10 + SHED_S, 10 + SHED_S + 1)
        assert "against override cap-1 of 110000 W" in details(checker)

    def test_a_short_excursion_passes_and_a_long_one_is_caught_once(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [breaker()]
        world.through(checker, 0, 60)
        world.site.draw(125_000)
        world.through(checker, 61, 61 + 29)
        assert checker.violations == []
        world.through(checker, 91, 300)
        assert len(checker.violations) == 1
        world.site.draw(100_000)
        world.through(checker, 301, 310)
        world.site.draw(125_000)
        world.through(checker, 311, 400)
        assert checker.count == 2

    def test_what_no_command_reaches_is_allowed_for(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [site_cap(110_000, 10)]
        world.site.stuck = 15_000
        world.through(checker, 0, 200)
        assert checker.violations == []

    def test_a_cut_link_excuses_a_site_cap_but_never_a_breaker(self, world: HandWorld) -> None:
        world.site.linked_since_ms = None
        world.site.caps = [site_cap(110_000, 10)]
        checker = CapsHeld()
        world.through(checker, 0, 200)
        assert checker.violations == []
        world.site.caps = [breaker(90_000)]
        world.through(checker, 201, 300)
        assert "against breaker f-hash" in details(checker)

    def test_a_bank_that_is_stopped_may_draw_its_idle_power_only(self, world: HandWorld) -> None:
        checker = CapsHeld()
        world.site.caps = [Cap("stop-1", CapSource.STOP, 0, "f-hash", ms(0), None, ms(0), bank="asics")]
        world.site.draw(1_000)
        world.through(checker, 0, 100)
        assert checker.violations == []
        world.site.draw(5_000)
        world.through(checker, 101, 140)
        assert "against stop stop-1 of 0 W" in details(checker)


class TestObligationsMet:
    """Invariant 2."""

    DUE = Due("ob-1", 60_000, ms(0), ms(600), ms(1_200))

    def test_an_obligation_met_at_its_start_and_held_passes(self, world: HandWorld) -> None:
        checker = ObligationsMet()
        world.site.dues = [self.DUE]
        world.through(checker, 0, 590, 10)
        world.site.draw(30_000)
        world.through(checker, 591, 1_300)
        assert checker.violations == []

    def test_one_not_met_at_its_start_is_caught_at_once(self, world: HandWorld) -> None:
        checker = ObligationsMet()
        world.site.dues = [self.DUE]
        world.through(checker, 0, 599)
        assert checker.violations == []
        world.at(checker, 600)
        assert "125000 W for 0 ms, ob-1 allows 60000 W" in details(checker)
        assert "nothing said in time" in details(checker)

    def test_a_shortfall_said_before_the_deadline_excuses_as_much_as_it_says(self, world: HandWorld) -> None:
        checker = ObligationsMet()
        world.site.dues = [self.DUE]
        short = Shortfall(kind="obligation", id="ob-1", short_w=10_000)
        world.at(checker, 500, made(500, decision(40_000, shortfalls=(short,))))
        world.site.draw(40_000, 27_000)
        world.through(checker, 600, 700)
        assert checker.violations == []
        world.site.draw(60_000, 27_000)
        world.through(checker, 701, 760)
        assert "10000 W said short in time" in details(checker)

    def test_a_shortfall_said_after_the_deadline_excuses_nothing(self, world: HandWorld) -> None:
        checker = ObligationsMet()
        world.site.dues = [self.DUE]
        short = Shortfall(kind="obligation", id="ob-1", short_w=90_000)
        world.through(checker, 0, 599)
        world.at(checker, 602, made(602, decision(100_000, shortfalls=(short,))))
        assert "nothing said in time" in details(checker)

    def test_one_told_late_is_owed_the_ramp_allowance(self, world: HandWorld) -> None:
        checker = ObligationsMet()
        world.site.dues = [Due("ob-1", 60_000, ms(590), ms(600), ms(1_200))]
        world.through(checker, 590, 590 + SHED_S - 1)
        assert checker.violations == []
        world.at(checker, 590 + SHED_S)
        assert len(checker.violations) == 1

    def test_a_site_that_comes_back_in_the_middle_is_owed_the_ramp_allowance(self, world: HandWorld) -> None:
        checker = ObligationsMet()
        world.site.dues = [self.DUE]
        world.site.agent_since_ms = None
        world.through(checker, 0, 700)
        world.site.agent_since_ms = ms(700)
        world.through(checker, 701, 700 + SHED_S - 1)
        assert checker.violations == []
        world.through(checker, 700 + SHED_S, 740)
        assert len(checker.violations) == 1

    def test_after_its_end_it_binds_no_longer(self, world: HandWorld) -> None:
        checker = ObligationsMet()
        world.site.dues = [self.DUE]
        world.through(checker, 1_200, 1_300)
        assert checker.violations == []


class TestOnlyRightfulOrdersAct:
    """Invariant 3."""

    def test_accepting_a_rightful_order_passes_also_when_it_comes_twice(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        leased(world, checker, ReceiptSent(ms(1), receipt(1, 1)))
        world.at(checker, 5, OrderHeard(ms(5), SITE, order(1, 1)), ReceiptSent(ms(5), receipt(1, 1)))
        assert checker.violations == []

    @pytest.mark.parametrize(
        ("bad", "second", "why"),
        [
            (order(1, 3), 152.0, "its lease had run out 2000 ms before"),
            (order(0, 9), 10.0, "its epoch is below 1"),
            (order(1, 0), 10.0, "its sequence is not above 1"),
            (order(1, 2, basis=77), 10.0, "it answers report 77 of boot b1"),
            (order(1, 2, boot="b0"), 10.0, "it answers report 1 of boot b0"),
            (order(1, 2, site="east"), 10.0, "it is for site east"),
        ],
    )
    def test_accepting_a_wrong_order_is_caught(self, world: HandWorld, bad: object, second: float, why: str) -> None:
        checker = OnlyRightfulOrdersAct()
        leased(world, checker)
        wrong = OrderHeard(ms(second), SITE, bad)  # type: ignore[arg-type]
        answer = ReceiptSent(ms(second), receipt(wrong.order.epoch, wrong.order.seq))
        world.at(checker, second, wrong, answer)
        assert why in details(checker)

    def test_refusing_a_wrong_order_passes(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        leased(world, checker)
        stale = OrderHeard(ms(10), SITE, order(0, 9))
        world.at(checker, 10, stale, ReceiptSent(ms(10), receipt(0, 9, accepted=False)))
        assert checker.violations == []

    def test_an_order_of_the_incarnation_before_is_caught(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        leased(world, checker)
        world.at(checker, 20, ReportSent(ms(20), report(1, 20, boot="b2")))
        late = OrderHeard(ms(21), SITE, order(1, 2))
        world.at(checker, 21, late, ReceiptSent(ms(21), receipt(1, 2)))
        assert "not one of this incarnation's" in details(checker)

    def test_accepting_what_was_never_delivered_is_caught(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        leased(world, checker, ReceiptSent(ms(1), receipt(1, 8)))
        assert "it was never delivered" in details(checker)

    def test_a_raise_under_a_rightful_order_passes(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        world.site.draw(1_000)
        leased(world, checker)
        world.site.draw(100_000)
        world.at(checker, 5, commanded(5, raises=True))
        assert checker.violations == []

    def test_a_raise_after_the_lease_is_over_is_caught_whatever_receipts_say(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        world.site.draw(1_000)
        leased(world, checker)
        world.at(checker, 299)
        world.site.draw(50_000)
        world.at(checker, 300, commanded(300, raises=True))
        assert "asics was raised to 50000 W commanded; no order was in force" in details(checker)

    def test_a_raise_that_only_a_stale_leader_s_order_asks_for_is_caught(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        world.site.draw(1_000)
        world.at(checker, 0, ReportSent(ms(0), report(1, 0)), OrderHeard(ms(1), SITE, order(5, 1, asics_w=0)))
        world.at(checker, 20, OrderHeard(ms(20), SITE, order(4, 99, asics_w=100_000)))
        world.site.draw(60_000)
        world.at(checker, 22, commanded(22, raises=True))
        assert "allow at most 0 W" in details(checker)

    def test_a_raise_above_the_order_s_target_is_caught_and_to_within_a_device_not(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        world.site.draw(1_000)
        world.at(checker, 0, ReportSent(ms(0), report(1, 0)), OrderHeard(ms(1), SITE, order(1, 1, asics_w=50_000)))
        world.site.draw(51_000)
        world.at(checker, 5, commanded(5, raises=True))
        assert checker.violations == []
        world.site.draw(70_000)
        world.at(checker, 6, commanded(6, raises=True))
        assert "to 70000 W commanded; the orders in force (1/1) allow at most 50000 W" in details(checker)

    def test_a_thaw_without_a_lease_is_caught(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        leased(world, checker)
        world.at(checker, 400, commanded(400, raises=True, bank="hpc"))
        assert "hpc was raised" in details(checker)

    def calm(self, world: HandWorld, checker: Checker, until: float) -> None:
        """Orders that keep the lease alive at full power, every minute, for long."""
        for number in range(1, int(until // 60) + 1):
            at = number * 60.0
            sent = ReportSent(ms(at), report(number, at))
            world.at(checker, at, sent, OrderHeard(ms(at + 0.5), SITE, order(1, number, basis=number)))

    def test_a_stop_that_no_order_and_nothing_local_asks_for_is_caught(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        self.calm(world, checker, 1_200)
        world.site.draw(40_000)
        world.at(checker, 1_210, commanded(1_210, raises=False))
        assert "asics was lowered to 40000 W commanded; every order in force asks at least 100000 W" in details(checker)

    @pytest.mark.parametrize("cause", ["heat", "breaker", "cap", "fault", "order", "agent"])
    def test_a_stop_with_a_cause_passes(self, world: HandWorld, cause: str) -> None:
        checker = OnlyRightfulOrdersAct()
        self.calm(world, checker, 1_200)
        match cause:
            case "heat":
                world.site.inlet = 39.0
            case "breaker":
                world.site.watts["f-hash"] = 119_000
            case "cap":
                world.site.caps = [site_cap(80_000, 1_205)]
            case "fault":
                world.site.stuck = 500.0
            case "agent":
                world.site.agent_since_ms = None
            case _:
                world.at(checker, 1_205, OrderHeard(ms(1_205), SITE, order(1, 99, basis=20, asics_w=40_000)))
        world.site.commanded["asics"] = 40_000
        world.at(checker, 1_210, commanded(1_210, raises=False))
        assert checker.violations == []


class TestSilenceIsSafe:
    """Invariant 4."""

    SAFE_S = 150 + ALLOW.safe_ms / 1_000

    def test_banks_at_their_fail_safe_when_the_lease_is_over_pass(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        leased(world, checker)
        world.through(checker, 2, 151)
        world.site.draw(1_000)
        world.through(checker, 152, 400)
        assert checker.violations == []

    def test_a_bank_that_runs_on_is_caught_as_soon_as_its_allowance_is_over(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        leased(world, checker)
        world.through(checker, 2, self.SAFE_S)
        assert checker.violations == []
        world.at(checker, self.SAFE_S + 1)
        assert "asics draws 100000 W, safe is 1000 W" in details(checker)
        assert "hpc" not in details(checker)

    def test_the_lease_runs_from_the_report_not_from_the_order(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        world.site.agent_since_ms = START_MS
        world.at(checker, 0, ReportSent(ms(0), report(1, 0)))
        world.at(checker, 140, OrderHeard(ms(140), SITE, order(1, 1)))
        world.at(checker, self.SAFE_S + 1)
        assert len(checker.violations) == 1

    def test_a_refused_order_renews_nothing(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        leased(world, checker)
        world.at(checker, 100, ReportSent(ms(100), report(2, 100)))
        world.at(checker, 101, OrderHeard(ms(101), SITE, order(0, 50, basis=2)))
        world.at(checker, self.SAFE_S + 1)
        assert len(checker.violations) == 1

    def test_a_renewed_lease_runs_on(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        leased(world, checker)
        world.at(checker, 100, ReportSent(ms(100), report(2, 100)), OrderHeard(ms(101), SITE, order(1, 2, basis=2)))
        world.through(checker, 102, self.SAFE_S + 50, 5)
        assert checker.violations == []

    def test_the_owner_s_extra_time_and_a_restarted_agent_s_handover_are_granted(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        world.site.plate = world.site.plate.model_copy(update={"fail_safe_after_ms": 60_000})
        leased(world, checker)
        world.through(checker, 2, self.SAFE_S + 60, 5)
        assert checker.violations == []
        world.site.agent_since_ms = ms(self.SAFE_S + 60)
        world.through(checker, self.SAFE_S + 61, self.SAFE_S + 60 + 60 + 20, 5)
        assert checker.violations == []
        world.at(checker, self.SAFE_S + 60 + 60 + 40)
        assert len(checker.violations) == 1

    def test_a_dead_agent_and_local_control_are_not_held_to_it(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        world.site.agent_since_ms = None
        world.through(checker, 0, 600, 10)
        world.site.agent_since_ms, world.site.local = START_MS, True
        world.through(checker, 601, 900, 10)
        assert checker.violations == []

    def test_firm_jobs_and_stuck_devices_are_allowed_for(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        banks = tuple(bank.model_copy(update={"fail_safe_w": 8_000}) for bank in world.site.plate.banks)
        world.site.plate = world.site.plate.model_copy(update={"banks": banks})
        leased(world, checker)
        world.site.draw(9_000, 20_000)
        world.site.stuck, world.site.firm = 1_000, 20_000
        world.at(checker, 400)
        assert checker.violations == []
        world.site.firm = 0
        world.at(checker, 401)
        assert "hpc draws 20000 W, safe is 8000 W" in details(checker)


class TestHeatStopsABank:
    """Invariant 5."""

    def test_a_hot_bank_that_stops_passes(self, world: HandWorld) -> None:
        checker = HeatStopsABank()
        world.site.inlet = 45.0
        world.through(checker, 0, 20)
        world.site.draw(1_000)
        world.through(checker, 21, 200)
        assert checker.violations == []

    def test_a_hot_bank_that_runs_on_is_caught_controller_or_none(self, world: HandWorld) -> None:
        checker = HeatStopsABank()
        world.site.linked_since_ms = None
        world.site.inlet = 45.0
        world.through(checker, 0, 30)
        assert "asics draws 100000 W at 45.0 C" in details(checker)

    def test_waking_a_hot_bank_is_caught(self, world: HandWorld) -> None:
        checker = HeatStopsABank()
        world.site.inlet = 45.0
        world.site.draw(1_000)
        world.through(checker, 0, 60)
        world.at(checker, 61, commanded(61, raises=True))
        assert "asics was raised, hot for 61000 ms" in details(checker)

    def test_within_what_the_sensor_may_miss_or_blind_it_is_not_held_to_it(self, world: HandWorld) -> None:
        checker = HeatStopsABank()
        world.site.inlet = 42.0
        world.through(checker, 0, 60)
        world.site.inlet, world.site.sensed_since_ms = 60.0, None
        world.through(checker, 61, 120)
        assert checker.violations == []


class TestNoJobDiesEarly:
    """Invariant 6."""

    def happened(
        self, second: float, kind: JobEventKind, *, had: int | None = None, owner: bool = False
    ) -> JobHappened:
        return JobHappened(SITE, "hpc", job_event(second, kind, notice_ms=had), notice_ms=60_000, by_owner=owner)

    def begin(self, world: HandWorld, checker: Checker) -> None:
        world.site.jobs = {"7"}
        world.at(checker, 0, self.happened(0, JobEventKind.SUBMITTED))

    def test_a_requeue_after_its_notice_passes(self, world: HandWorld) -> None:
        checker = NoJobDiesEarly()
        self.begin(world, checker)
        world.at(checker, 100, self.happened(100, JobEventKind.REQUEUED, had=60_000))
        assert checker.violations == []

    @pytest.mark.parametrize("had", [None, 0, 40_000])
    def test_a_requeue_inside_its_notice_is_caught(self, world: HandWorld, had: int | None) -> None:
        checker = NoJobDiesEarly()
        self.begin(world, checker)
        world.at(checker, 100, self.happened(100, JobEventKind.REQUEUED, had=had))
        assert f"was requeued {had or 0} ms after its warning, it is owed 60000 ms" in details(checker)

    @pytest.mark.parametrize("cause", ["cap", "heat", "stop"])
    def test_a_limit_exceeded_heat_or_a_stop_excuses_it(self, world: HandWorld, cause: str) -> None:
        checker = NoJobDiesEarly()
        self.begin(world, checker)
        match cause:
            case "cap":
                world.site.caps = [site_cap(110_000, 90)]
            case "heat":
                world.site.inlet_limit = 20.0
            case _:
                world.site.caps = [Cap("stop", CapSource.STOP, 0, "main", ms(90), None, ms(90), bank="hpc")]
        world.at(checker, 99)
        world.at(checker, 100, self.happened(100, JobEventKind.REQUEUED))
        assert checker.violations == []

    def test_an_obligation_does_not_excuse_it(self, world: HandWorld) -> None:
        checker = NoJobDiesEarly()
        self.begin(world, checker)
        world.site.caps = [Cap("ob-1", CapSource.OBLIGATION, 10_000, "main", ms(90), None, ms(90))]
        world.at(checker, 100, self.happened(100, JobEventKind.REQUEUED))
        assert len(checker.violations) == 1

    def test_a_job_that_completes_or_whose_owner_cancels_is_not_lost(self, world: HandWorld) -> None:
        for end, owner in ((JobEventKind.COMPLETED, False), (JobEventKind.CANCELLED, True)):
            checker = NoJobDiesEarly()
            self.begin(world, checker)
            world.site.jobs = set()
            world.at(checker, 100, self.happened(100, end, owner=owner))
            assert checker.violations == []

    def test_a_job_that_vanishes_is_caught_once(self, world: HandWorld) -> None:
        checker = NoJobDiesEarly()
        self.begin(world, checker)
        world.site.jobs = set()
        world.through(checker, 1, 20)
        assert details(checker) == f"invariant 6 at {ms(1)} ms, west: hpc lost job 7"

    def test_a_cancellation_that_its_owner_did_not_ask_for_is_caught(self, world: HandWorld) -> None:
        checker = NoJobDiesEarly()
        self.begin(world, checker)
        world.at(checker, 100, self.happened(100, JobEventKind.CANCELLED, had=90_000))
        assert "job 7 of hpc was cancelled, not by its owner" in details(checker)


class TestDwellAndRampHold:
    """Invariant 7. The bank's least up time is 600 s, its least down time 300 s, its ramp 1 kW/s."""

    def keep_lease(self, world: HandWorld, checker: Checker, at: float, asics_w: int = 100_000) -> None:
        number = int(at) + 1
        sent = ReportSent(ms(at), report(number, at))
        world.at(
            checker, at, sent, OrderHeard(ms(at), SITE, order(1, number, basis=number, asics_w=asics_w, valid_s=9_999))
        )

    def stop(self, world: HandWorld, checker: Checker, at: float) -> None:
        world.site.draw(1_000)
        world.at(checker, at, commanded(at, raises=False))

    def start(self, world: HandWorld, checker: Checker, at: float) -> None:
        world.site.draw(2_000)
        world.at(checker, at, commanded(at, raises=True))

    def test_long_stays_pass(self, world: HandWorld) -> None:
        checker = DwellAndRampHold()
        self.keep_lease(world, checker, 0)
        self.stop(world, checker, 10)
        self.start(world, checker, 311)
        self.stop(world, checker, 912)
        assert checker.violations == []

    def test_a_start_within_the_least_down_time_is_caught(self, world: HandWorld) -> None:
        checker = DwellAndRampHold()
        self.keep_lease(world, checker, 0)
        self.stop(world, checker, 10)
        self.start(world, checker, 300)
        assert "asics was started after 290000 ms down, the least is 300000 ms" in details(checker)

    def test_a_restart_of_the_agent_excuses_no_early_start(self, world: HandWorld) -> None:
        checker = DwellAndRampHold()
        self.keep_lease(world, checker, 0)
        self.stop(world, checker, 10)
        world.site.agent_since_ms = None
        world.through(checker, 20, 30)
        world.site.agent_since_ms = ms(30)
        self.start(world, checker, 60)
        assert "asics was started after 50000 ms down" in details(checker)

    def test_a_stop_within_the_least_up_time_is_caught(self, world: HandWorld) -> None:
        checker = DwellAndRampHold()
        self.keep_lease(world, checker, 0)
        self.stop(world, checker, 10)
        self.start(world, checker, 400)
        self.stop(world, checker, 700)
        assert "asics was stopped after 300000 ms up, the least is 600000 ms" in details(checker)

    @pytest.mark.parametrize("cause", ["cap", "obligation", "heat", "breaker", "override", "sensors", "lease"])
    def test_what_stands_above_economics_excuses_an_early_stop(self, world: HandWorld, cause: str) -> None:
        checker = DwellAndRampHold()
        self.keep_lease(world, checker, 0)
        self.stop(world, checker, 10)
        self.start(world, checker, 400)
        match cause:
            case "cap":
                world.site.caps = [site_cap(80_000, 690)]
            case "obligation":
                world.site.dues = [Due("ob", 50_000, ms(500), ms(800), ms(900))]
            case "heat":
                world.site.inlet = 41.0
            case "breaker":
                world.site.watts["main"] = 199_000
            case "override":
                world.site.forced = True
            case "sensors":
                world.site.sensed_since_ms = None
            case _:
                world.at(checker, 600, ReportSent(ms(600), report(2, 600)))
                world.at(checker, 601, OrderHeard(ms(601), SITE, order(2, 1, basis=2, valid_s=50)))
        world.through(checker, 680, 699)
        self.stop(world, checker, 700)
        assert checker.violations == []

    def test_machines_that_die_are_no_stop_and_their_return_no_start(self, world: HandWorld) -> None:
        checker = DwellAndRampHold()
        self.keep_lease(world, checker, 0)
        self.stop(world, checker, 10)
        self.start(world, checker, 400)
        world.site.steerable = 0.0
        world.at(checker, 450)
        world.site.steerable = None
        world.at(checker, 460, commanded(460, raises=True))
        assert checker.violations == []

    def test_a_rise_along_the_ramp_passes_and_one_ahead_of_it_is_caught(self, world: HandWorld) -> None:
        checker = DwellAndRampHold()
        self.keep_lease(world, checker, 0)
        world.site.draw(1_000)
        world.at(checker, 10)
        for second in range(11, 60):
            world.site.draw(1_000 + (second - 10) * 1_000)
            world.at(checker, second)
        assert checker.violations == []
        world.site.draw(90_000)
        world.at(checker, 60)
        assert "ahead of its ramp of 1000 W/s" in details(checker)

    def test_many_small_grants_too_soon_add_up(self, world: HandWorld) -> None:
        checker = DwellAndRampHold()
        world.site.draw(1_000)
        world.at(checker, 0)
        for second in range(1, 40):
            world.site.draw(1_000 + second * 1_500)
            world.at(checker, second)
        assert "ahead of its ramp" in details(checker)


class TestStaleNeverRaises:
    """Invariant 8."""

    def hear(self, world: HandWorld, checker: Checker, at: float, **more: object) -> None:
        one = report(int(at) + 1, at, **more)  # type: ignore[arg-type]
        world.at(checker, at, ReportSent(ms(at), one), ReportHeard(ms(at), "c1", one))

    def test_raising_on_a_fresh_report_passes(self, world: HandWorld) -> None:
        checker = StaleNeverRaises()
        self.hear(world, checker, 0)
        world.at(checker, 1, made(1, decision(0)))
        world.at(checker, 20, made(20, decision(100_000)))
        assert checker.violations == []

    def test_raising_on_an_old_report_is_caught_whatever_the_snapshot_believes(self, world: HandWorld) -> None:
        checker = StaleNeverRaises()
        self.hear(world, checker, 0)
        world.at(checker, 1, made(1, decision(50_000)))
        world.at(checker, 61, made(61, decision(60_000), frozen=snapshot(61)))
        assert "raises asics from 50000 to 60000 W although the newest report came 61000 ms before" in details(checker)

    def test_holding_or_lowering_on_an_old_report_passes(self, world: HandWorld) -> None:
        checker = StaleNeverRaises()
        self.hear(world, checker, 0)
        world.at(checker, 1, made(1, decision(50_000)))
        world.at(checker, 61, made(61, decision(50_000)))
        world.at(checker, 121, made(121, decision(10_000)))
        assert checker.violations == []

    def test_a_bank_whose_reading_is_missing_or_old_may_not_rise_in_a_fresh_report(self, world: HandWorld) -> None:
        for reading, why in (
            ({"asics_w": None}, "its power is unknown"),
            ({"age_ms": 40_000}, "was read 41000 ms before"),
        ):
            checker = StaleNeverRaises()
            self.hear(world, checker, 0)
            world.at(checker, 1, made(1, decision(50_000)))
            self.hear(world, checker, 100, **reading)
            world.at(checker, 101, made(101, decision(60_000)))
            assert why in details(checker)

    def test_a_new_controller_knows_nothing_and_may_raise_nothing(self, world: HandWorld) -> None:
        checker = StaleNeverRaises()
        self.hear(world, checker, 0)
        world.at(checker, 1, made(1, decision(50_000)))
        world.at(checker, 5, made(5, decision(60_000), controller="c2"))
        assert "this controller was given no report of west" in details(checker)

    def test_before_any_decision_what_the_report_holds_is_the_measure(self, world: HandWorld) -> None:
        checker = StaleNeverRaises()
        self.hear(world, checker, 0, setpoint_w=30_000)
        world.at(checker, 90, made(90, decision(30_000, 8_000)))
        assert checker.violations == []
        fresh = StaleNeverRaises()
        self.hear(world, fresh, 0, setpoint_w=30_000)
        world.at(fresh, 90, made(90, decision(31_000, 8_000)))
        assert "from 30000 to 31000 W" in details(fresh)

    def test_raising_on_an_unknown_or_old_price_is_caught(self, world: HandWorld) -> None:
        for age_ms, why in ((None, "no price was ever given"), (3_600_000, "the price is 3600000 ms old")):
            checker = StaleNeverRaises()
            self.hear(world, checker, 0)
            world.at(checker, 1, made(1, decision(0)))
            world.site.price_age_ms = age_ms
            world.at(checker, 2, made(2, decision(100_000)))
            assert why in details(checker)

    def test_where_the_rules_or_an_operator_say_to_run_on_unknown_prices_it_passes(self, world: HandWorld) -> None:
        checker = StaleNeverRaises()
        self.hear(world, checker, 0)
        world.site.price_age_ms = None
        world.at(checker, 1, made(1, decision(0)))
        world.at(checker, 2, made(2, decision(100_000), params=Params(unknown_price=Stance.RUN)))
        world.at(checker, 3, made(3, decision(0)))
        world.site.forced = True
        world.at(checker, 4, made(4, decision(100_000)))
        assert checker.violations == []


def two_banks_by_order(frozen: Snapshot, _params: Params) -> Decision:
    """Broken on purpose: the first bank of the nameplate gets the power."""
    first = frozen.sites[0].nameplate.banks[0].id
    return decision(100_000, 8_000) if first == "asics" else decision(0, 40_000)


def creeping(frozen: Snapshot, _params: Params) -> Decision:
    """Broken on purpose: every decision takes back half of the one before."""
    before = [one.target_w for one in frozen.sites[0].previous if one.bank == "asics"]
    return decision(before[0] // 2 if before else 100_000)


def steady(_frozen: Snapshot, _params: Params) -> Decision:
    return decision(100_000)


class TestDecideIsBlind:
    """Invariant 9."""

    def test_the_engine_passes_on_a_snapshot_with_much_in_it(self, world: HandWorld) -> None:
        checker = DecideIsBlind(decide, seed=1)
        for second, price in enumerate((5.0, 83.0, 900.0, None)):
            frozen = snapshot(second, energy=EnergyPrice(usd_per_mwh=price, age_ms=None if price is None else 0))
            decided = decide(frozen, Params())
            world.at(checker, second, made(second, decided, frozen=frozen))
        assert checker.violations == []

    def test_a_decision_that_depends_on_the_input_s_order_is_caught(self, world: HandWorld) -> None:
        checker = DecideIsBlind(two_banks_by_order, seed=1)
        for second in range(12):
            world.at(checker, second, made(second, two_banks_by_order(snapshot(), Params()), number=f"d{second}"))
        assert "changes with the order of its input: banks of west" in details(checker)

    def test_a_decision_that_moves_when_it_is_made_again_is_caught(self, world: HandWorld) -> None:
        checker = DecideIsBlind(creeping, seed=1)
        world.at(checker, 0, made(0, creeping(snapshot(), Params())))
        assert "moves when decided again: asics of west from 100000 to 50000 W" in details(checker)

    def test_a_ramp_may_move_on(self, world: HandWorld) -> None:
        def ramping(frozen: Snapshot, _params: Params) -> Decision:
            before = [one.target_w for one in frozen.sites[0].previous if one.bank == "asics"]
            return decision(before[0] + 10_000 if before else 10_000, reason=DecisionReason.RAMP)

        checker = DecideIsBlind(ramping, seed=1)
        world.at(checker, 0, made(0, ramping(snapshot(), Params())))
        assert checker.violations == []

    def test_shuffling_moves_everything_that_has_no_order_and_keeps_the_content(self) -> None:
        previous = tuple(
            PreviousSetpoint(bank=bank, target_w=1, reason=DecisionReason.CAP) for bank in ("asics", "hpc")
        )
        frozen = snapshot(previous=previous)
        moved = [shuffled(frozen, Random(seed)) for seed in range(8)]
        sites = [one.sites[0] for one in moved]
        assert {site.nameplate.banks[0].id for site in sites} == {"asics", "hpc"}
        assert {site.nameplate.feeders[0].id for site in sites} == {"main", "f-hash"}
        assert {site.report.banks[0].id for site in sites if site.report} == {"asics", "hpc"}
        assert {site.previous[0].bank for site in sites} == {"asics", "hpc"}
        levels = frozen.sites[0].nameplate.banks[0].levels
        assert all(bank.levels == levels for site in sites for bank in site.nameplate.banks if bank.id == "asics")


class TestEnergyCloses:
    """Invariant 10."""

    def test_sums_that_close_within_their_roundings_pass(self, world: HandWorld) -> None:
        checker = EnergyCloses()
        world.at(checker, 0)
        world.site.energy = Energy(2_000_000_050, 2_000_000_000, 20_000_000, 100)
        world.at(checker, 1)
        assert checker.violations == []

    @pytest.mark.parametrize(
        ("energy", "why"),
        [
            (Energy(2_000_000_500, 2_000_000_000, 10_000_000, 100), "counts 500 mJ more than all it feeds"),
            (Energy(2_000_000_000, 2_000_000_000, 150_000_000, 100), "lines lost 150000000 of 2000000000 mJ"),
            (Energy(900_000_000, 900_000_000, 10_000_000, 100), "an energy counter went back"),
        ],
    )
    def test_a_gap_a_loss_beyond_reason_or_a_counter_that_goes_back_is_caught(
        self, world: HandWorld, energy: Energy, why: str
    ) -> None:
        checker = EnergyCloses()
        world.at(checker, 0)
        world.site.energy = energy
        world.at(checker, 1)
        assert why in details(checker)

    def test_a_reported_meter_that_tells_the_truth_of_its_age_passes(self, world: HandWorld) -> None:
        checker = EnergyCloses()
        world.through(checker, 0, 30)
        world.site.draw(1_000)
        world.through(checker, 31, 40)
        aged = report(1, 40, main_w=125_000, age_ms=12_000)
        world.at(checker, 41, ReportSent(ms(41), aged))
        assert checker.violations == []

    def test_a_reported_meter_that_is_off_is_caught_and_a_faulty_one_is_excused(self, world: HandWorld) -> None:
        checker = EnergyCloses()
        world.through(checker, 0, 30)
        world.at(checker, 31, ReportSent(ms(31), report(1, 31, main_w=110_000)))
        assert "main: report 1 says 110000 W, the truth was 125000 to 125000 W" in details(checker)
        excused = EnergyCloses()
        world.site.sensed_since_ms = None
        world.through(excused, 0, 30)
        world.at(excused, 31, ReportSent(ms(31), report(1, 31, main_w=110_000)))
        assert excused.violations == []

    def test_a_zero_that_is_no_measurement_is_caught(self, world: HandWorld) -> None:
        checker = EnergyCloses()
        world.through(checker, 0, 30)
        world.at(checker, 31, ReportSent(ms(31), report(1, 31, main_w=0)))
        assert "says 0 W" in details(checker)


class TestPlanReturnsToOracle:
    """Invariant 11. Five ticks of a minute after the faults healed."""

    def run(self, world: HandWorld, checker: Checker, ours: int, theirs: int, at: float) -> None:
        world.at(checker, at, made(at, decision(ours, at=at)), OracleDecided(ms(at), decision(theirs, at=at)))

    def test_the_oracle_s_plan_or_one_device_off_it_passes(self, world: HandWorld) -> None:
        checker = PlanReturnsToOracle()
        world.healed_ms = ms(0)
        self.run(world, checker, 100_000, 100_000, 300)
        self.run(world, checker, 51_000, 50_000, 360)
        assert checker.violations == []

    def test_another_plan_is_caught_after_n_ticks_and_not_before(self, world: HandWorld) -> None:
        checker = PlanReturnsToOracle()
        world.healed_ms = ms(0)
        self.run(world, checker, 0, 100_000, 240)
        assert checker.violations == []
        self.run(world, checker, 0, 100_000, 300)
        assert "asics is planned at 0 W, by the truth it ought to be 100000 W" in details(checker)

    def test_while_a_fault_is_in_force_nothing_is_compared(self, world: HandWorld) -> None:
        checker = PlanReturnsToOracle()
        self.run(world, checker, 0, 100_000, 9_000)
        assert checker.violations == []

    def test_a_controller_that_stays_silent_is_caught(self, world: HandWorld) -> None:
        checker = PlanReturnsToOracle()
        world.healed_ms = ms(0)
        world.at(checker, 100, made(100, decision(100_000)))
        world.at(checker, 300, OracleDecided(ms(300), decision(100_000)))
        assert "nothing was decided for two ticks" in details(checker)

    def test_a_stale_twin_s_plan_does_not_count(self, world: HandWorld) -> None:
        checker = PlanReturnsToOracle()
        world.healed_ms = ms(0)
        twin = made(300, decision(100_000), leading=False)
        world.at(checker, 300, twin, OracleDecided(ms(300), decision(100_000)))
        assert "nothing was decided" in details(checker)


class TestJournalReplays:
    """Invariant 12."""

    def test_the_engine_s_own_decision_replays_byte_for_byte(self, world: HandWorld) -> None:
        checker = JournalReplays(decide)
        decided = decide(snapshot(), Params())
        world.at(checker, 0, made(0, decided, frozen=snapshot()))
        assert checker.violations == []

    def test_one_byte_less_in_the_journal_is_caught(self, world: HandWorld) -> None:
        checker = JournalReplays(steady)
        other = made(0, decision(99_999))
        world.at(checker, 0, other)
        assert "decision d1 does not replay: banks of west" in details(checker)

    def test_another_encoding_of_the_same_decision_is_caught(self, world: HandWorld) -> None:
        checker = JournalReplays(steady)
        event = made(0, decision(100_000))
        spaced = type(event)(**{**vars(event), "decision": event.decision.replace(b":", b": ", 1)})
        world.at(checker, 0, spaced)
        assert "does not replay: the encoding" in details(checker)

    def test_an_engine_that_is_not_deterministic_is_caught(self, world: HandWorld) -> None:
        rng = Random(1)
        checker = JournalReplays(lambda _frozen, _params: decision(rng.randrange(100_000)))
        world.at(checker, 0, made(0, decision(5)))
        assert len(checker.violations) == 1

    def ordered(self, **more: object) -> OrderPublished:
        setpoints = (
            Setpoint(bank="hpc", workload=Workload.HPC, target_w=20_000, reason="jobs_run"),
            Setpoint(bank="asics", workload=Workload.HASH, target_w=100_000, reason="x"),
        )
        return OrderPublished(ms(1), "c1", order(1, 1, **({"decision": "d1", "setpoints": setpoints} | more)))  # type: ignore[arg-type]

    def test_an_order_that_says_what_its_decision_says_passes(self, world: HandWorld) -> None:
        checker = JournalReplays(steady)
        world.at(checker, 1, self.ordered(), made(0, decision(100_000)))
        world.at(checker, 60, self.ordered())
        assert checker.violations == []

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"decision": "d9"}, "names decision 'd9', which the journal does not hold"),
            ({"cap_w": 5}, "is not what decision d1 says"),
            ({"setpoints": ()}, "is not what decision d1 says"),
        ],
    )
    def test_an_order_that_no_journalled_decision_says_is_caught(
        self, world: HandWorld, change: dict[str, object], why: str
    ) -> None:
        checker = JournalReplays(steady)
        world.at(checker, 1, made(0, decision(100_000)), self.ordered(**change))
        assert why in details(checker)


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
