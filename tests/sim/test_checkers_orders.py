"""Invariants 3 and 4: only rightful orders act, and silence is safe.

Each checker meets a history that keeps its invariant and ones that break it.
"""

from __future__ import annotations

import pytest

from sim.checkers import (
    Allowances,
    Checker,
    Event,
    OnlyRightfulOrdersAct,
    OrderHeard,
    ReceiptSent,
    ReportSent,
    SilenceIsSafe,
)
from tests.sim.checker_world import (
    SITE,
    START_MS,
    HandWorld,
    commanded,
    details,
    ms,
    order,
    receipt,
    report,
    site_cap,
)

ALLOW = Allowances()


@pytest.fixture
def world() -> HandWorld:
    return HandWorld()


def leased(world: HandWorld, checker: Checker, *orders: Event, at: float = 0.0) -> None:
    """A report sent, and an order for it heard a second later."""
    world.at(checker, at, ReportSent(ms(at), report(1, at)), OrderHeard(ms(at + 1), SITE, order(1, 1)), *orders)


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
        world.through(checker, 7, 12)
        assert "to 70000 W commanded; the orders in force (1/1) allow at most 50000 W" in details(checker)

    @pytest.mark.parametrize(("limited_at", "caught"), [(10.0, False), (13.0, True)])
    def test_devices_that_are_limited_after_their_wake_pass_and_late_ones_are_caught(
        self, world: HandWorld, limited_at: float, caught: bool
    ) -> None:
        """Some firmwares take no limit while they stand: the bank is told its rated power for an exchange."""
        checker = OnlyRightfulOrdersAct()
        world.site.draw(1_000)
        world.at(checker, 0, ReportSent(ms(0), report(1, 0)), OrderHeard(ms(1), SITE, order(1, 1, asics_w=60_000)))
        world.site.draw(90_000)
        world.at(checker, 6, commanded(6, raises=True))
        world.through(checker, 7, limited_at - 1)
        world.site.draw(60_000)
        world.through(checker, limited_at, 30)
        assert bool(checker.violations) is caught

    def test_a_bank_without_power_limits_is_not_waited_for(self, world: HandWorld) -> None:
        checker = OnlyRightfulOrdersAct()
        banks = tuple(bank.model_copy(update={"levels": bank.levels[-1:]}) for bank in world.site.plate.banks)
        world.site.plate = world.site.plate.model_copy(update={"banks": banks})
        world.site.draw(1_000)
        world.at(checker, 0, ReportSent(ms(0), report(1, 0)), OrderHeard(ms(1), SITE, order(1, 1, asics_w=60_000)))
        world.site.draw(90_000)
        world.at(checker, 6, commanded(6, raises=True))
        assert "to 90000 W commanded" in details(checker)

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
        world.through(checker, 401, 435)
        assert "hpc draws 20000 W, safe is 8000 W" in details(checker)

    def test_a_new_job_in_a_partition_that_was_safe_is_an_excursion_and_no_more(self, world: HandWorld) -> None:
        """Its scheduler starts what is submitted; the agent can only stop it when it sees it."""
        checker = SilenceIsSafe()
        banks = tuple(bank.model_copy(update={"fail_safe_w": 8_000}) for bank in world.site.plate.banks)
        world.site.plate = world.site.plate.model_copy(update={"banks": banks})
        leased(world, checker)
        world.site.draw(8_000, 8_000)
        world.at(checker, 400)
        world.site.draw(8_000, 10_000)
        world.through(checker, 401, 431)
        world.site.draw(8_000, 8_000)
        world.at(checker, 432)
        assert checker.violations == []
        world.site.draw(8_000, 10_000)
        world.through(checker, 433, 464)
        assert "hpc draws 10000 W, safe is 8000 W" in details(checker)

    def test_a_partition_that_was_never_safe_has_no_excursion(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        banks = tuple(bank.model_copy(update={"fail_safe_w": 8_000}) for bank in world.site.plate.banks)
        world.site.plate = world.site.plate.model_copy(update={"banks": banks})
        leased(world, checker)
        world.site.draw(8_000, 10_000)
        world.at(checker, self.SAFE_S + 1)
        assert "hpc draws 10000 W, safe is 8000 W" in details(checker)

    def test_a_hash_bank_has_no_excursion(self, world: HandWorld) -> None:
        checker = SilenceIsSafe()
        leased(world, checker)
        world.site.draw(1_000)
        world.at(checker, 400)
        world.site.draw(5_000)
        world.at(checker, 401)
        assert "asics draws 5000 W, safe is 1000 W" in details(checker)
