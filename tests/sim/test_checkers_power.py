"""Invariants 1, 2 and 10: caps, obligations and energy.

Each checker meets a history that keeps its invariant and ones that break it.
"""

from __future__ import annotations

import pytest

from controller.engine.model import Shortfall
from sim.checkers import (
    Allowances,
    Cap,
    CapsHeld,
    CapSource,
    Due,
    Energy,
    EnergyCloses,
    ObligationsMet,
    ReportSent,
)
from tests.sim.checker_world import (
    HandWorld,
    breaker,
    decision,
    details,
    made,
    ms,
    plate,
    report,
    site_cap,
)

ALLOW = Allowances()
SHED_S = ALLOW.shed_ms / 1_000


@pytest.fixture
def world() -> HandWorld:
    return HandWorld()


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

    @pytest.mark.parametrize(
        ("firm_too", "said_w", "kept"), [(False, 12_000, True), (False, 0, False), (True, 12_000, False)]
    )
    def test_firm_work_that_comes_after_the_deadline_is_excused_where_it_is_spared_and_said(
        self, world: HandWorld, firm_too: bool, said_w: int, kept: bool
    ) -> None:
        checker = ObligationsMet()
        world.site.dues = [Due("ob-1", 60_000, ms(0), ms(600), ms(1_200), firm_too)]
        world.site.draw(38_000, 20_000)
        world.site.firm = 20_000
        world.through(checker, 590, 700)
        world.site.draw(38_000, 32_000)
        world.site.firm = 32_000
        short = Shortfall(kind="obligation", id="ob-1", short_w=said_w)
        world.at(checker, 701, made(701, decision(38_000, 32_000, shortfalls=(short,) if said_w else ())))
        world.through(checker, 702, 740)
        assert (checker.violations == []) is kept
        world.site.draw(50_000, 32_000)
        world.through(checker, 741, 780)
        assert len(checker.violations) == 1, "and no more than its own power"

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

    def test_what_was_read_between_two_looks_and_gone_by_the_next_is_the_truth(self, world: HandWorld) -> None:
        """One bank rises while another still falls: a meter that is read then shows more than either look does."""
        checker = EnergyCloses()
        world.through(checker, 0, 30)
        world.site.spans["main"] = (125_000.0, 140_000.0)
        world.at(checker, 31, ReportSent(ms(31), report(1, 31, main_w=139_000)))
        assert checker.violations == []
        world.at(checker, 32, ReportSent(ms(32), report(2, 32, main_w=150_000)))
        assert "says 150000 W, the truth was 125000 to 140000 W" in details(checker)

    def test_a_zero_that_is_no_measurement_is_caught(self, world: HandWorld) -> None:
        checker = EnergyCloses()
        world.through(checker, 0, 30)
        world.at(checker, 31, ReportSent(ms(31), report(1, 31, main_w=0)))
        assert "says 0 W" in details(checker)
