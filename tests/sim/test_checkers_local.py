"""Invariants 5, 6 and 7: heat, jobs, dwell and ramp.

Each checker meets a history that keeps its invariant and ones that break it.
"""

from __future__ import annotations

import pytest

from sim.checkers import (
    Cap,
    CapSource,
    Checker,
    Due,
    DwellAndRampHold,
    HeatStopsABank,
    JobHappened,
    NoJobDiesEarly,
    OrderHeard,
    ReportSent,
)
from sim.jobs import JobEventKind
from tests.sim.checker_world import (
    SITE,
    HandWorld,
    commanded,
    details,
    job_event,
    ms,
    order,
    report,
    site_cap,
)


@pytest.fixture
def world() -> HandWorld:
    return HandWorld()


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
