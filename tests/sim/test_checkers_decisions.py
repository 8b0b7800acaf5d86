"""Invariants 8, 9, 11 and 12: decisions, their data, their oracle and their replay.

Each checker meets a history that keeps its invariant and ones that break it.
"""

from __future__ import annotations

from random import Random

import pytest

from contract.messages import Setpoint, Workload
from contract.reasons import DecisionReason
from controller.engine.decide import decide
from controller.engine.model import Decision, EnergyPrice, Params, PreviousSetpoint, Snapshot, Stance
from sim.checkers import (
    Checker,
    DecideIsBlind,
    JournalReplays,
    OracleDecided,
    OrderPublished,
    PlanReturnsToOracle,
    ReportHeard,
    ReportSent,
    StaleNeverRaises,
)
from sim.checkers.decisions import shuffled
from tests.sim.checker_world import (
    HandWorld,
    decision,
    details,
    made,
    ms,
    order,
    report,
    snapshot,
)


@pytest.fixture
def world() -> HandWorld:
    return HandWorld()


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

    def test_a_new_controller_is_looked_at_from_its_first_report_on(self, world: HandWorld) -> None:
        """Before it, it has nothing to answer with an order; what it heard is its own, not what another did."""
        checker = StaleNeverRaises()
        self.hear(world, checker, 0)
        world.at(checker, 1, made(1, decision(50_000)))
        world.at(checker, 5, made(5, decision(60_000), controller="c2"))
        assert checker.violations == []
        late = ReportHeard(ms(6), "c2", report(1, 0))
        world.at(checker, 6, late)
        world.at(checker, 50, made(50, decision(70_000), controller="c2"))
        assert "raises asics from 50000 to 70000 W although the newest report came 44000 ms before" in details(checker)

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
        self.run(world, checker, 0, 100_000, 300)
        assert checker.violations == []
        self.run(world, checker, 0, 100_000, 360)
        assert "asics is planned at 0 W, by the truth it ought to be 100000 W" in details(checker)

    @pytest.mark.parametrize(
        ("ours_usd", "margin_usd", "caught"),
        [(130.0, 6.0, False), (99.9981, 6.0, False), (99.9979, 6.0, True), (99.9981, None, True), (None, 6.0, True)],
        ids=["worth more", "as much", "less", "margin unknown", "worth unknown"],
    )
    def test_another_plan_passes_where_it_is_worth_as_much(
        self, world: HandWorld, ours_usd: float | None, margin_usd: float | None, caught: bool
    ) -> None:
        """Two hundredths of what a minute earns at 6 USD/h are 0.002 USD."""
        checker = PlanReturnsToOracle()
        world.healed_ms = ms(0)
        (site,) = decision(100_000).sites
        theirs = Decision(at_ms=ms(0), sites=(site.model_copy(update={"margin_usd_per_h": margin_usd}),))
        for at in (300, 360):
            told = OracleDecided(ms(at), theirs, ours_usd, 100.0)
            world.at(checker, at, made(at, decision(0, at=at)), told)
        assert bool(checker.violations) is caught

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
