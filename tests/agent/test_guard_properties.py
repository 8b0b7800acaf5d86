"""What no history of orders, faults and readings can make the guard do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.guard import allowed_w, planned_w
from contract.messages import Mode, ShedStep
from contract.reasons import InterlockKind
from tests.agent.guarding import A, Site, held, plan

OWN = {
    "max_inlet_mc": 40_000,
    "hysteresis_mc": 5_000,
    "cool_ms": 30_000,
    "min_down_ms": 20_000,
    "ramp_up_w_per_s": 50,
    "inlet_sensor": True,
}
BANK = st.integers(0, 2)
WATTS = st.integers(0, 1_200)
MAYBE_WATTS = st.none() | st.integers(0, 1_500)


class GuardMachine(RuleBasedStateMachine):
    """Orders good and bad, silence, heat, blindness and overload in any order, and the guard's promises after each."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site(plan(main_w=2_200, row_w=900, metered=True, stagger_ms=5_000, a=OWN, b={"fail_safe_w": 200}))
        self.site.see(A, inlet_mc=30_000)
        self.verdict = self.site.step()
        self.before = self.verdict
        self.accepted: tuple[int, int] | None = None
        self.ordered = False
        self.off_since = [-(10**9)] * 3

    def look(self, after_ms: int = 0) -> None:
        self.before = self.verdict
        self.verdict = self.site.step(after_ms)

    @rule(
        a=WATTS,
        b=WATTS,
        hpc=WATTS,
        epoch=st.integers(1, 4),
        seq=st.integers(0, 50),
        urgent=st.booleans(),
        cap=st.none() | st.integers(0, 2_500),
        age=st.integers(0, 70_000),
        basis=st.booleans(),
    )
    def order(
        self, a: int, b: int, hpc: int, epoch: int, seq: int, urgent: bool, cap: int | None, age: int, basis: bool
    ) -> None:
        """Whatever comes, only a newer order of a known basis with time left acts."""
        ladder = (ShedStep(bank="hpc", job="1", frees_w=300), ShedStep(bank="b", frees_w=1_000))
        made = self.site.order(a, b, hpc, epoch=epoch, seq=seq, urgent=urgent, cap_w=cap, ladder=ladder)
        before = self.site.state
        admission = self.site.admit(made, sent_ms=self.site.at - age if basis else None)
        newer = self.accepted is None or (epoch, seq) > self.accepted
        assert admission.accepted == (basis and newer and age < 60_000 and not before.local and not before.yielded)
        if not admission.accepted:
            assert self.site.state.order == before.order
            assert self.site.state.lease_until_ms == before.lease_until_ms
        if basis and newer:
            self.accepted = (epoch, seq)
        self.ordered = admission.accepted
        self.look()

    @rule(span_ms=st.integers(1, 40_000))
    def wait(self, span_ms: int) -> None:
        self.ordered = False
        self.look(span_ms)

    @rule(bank=BANK, upper=MAYBE_WATTS)
    def power(self, bank: int, upper: int | None) -> None:
        self.site.see(bank, upper_w=upper)

    @rule(inlet=st.none() | st.integers(20_000, 50_000), quiet=st.booleans())
    def heat(self, inlet: int | None, quiet: bool) -> None:
        self.ordered = False
        self.site.see(A, inlet_mc=inlet, quiet=quiet)
        self.look(100)

    @rule(feeder=BANK, power=st.none() | st.integers(0, 3_000))
    def meter(self, feeder: int, power: int | None) -> None:
        self.ordered = False
        self.site.meter(feeder, power)
        self.look(1_000)

    @rule(locked=st.booleans())
    def lockout(self, locked: bool) -> None:
        self.ordered = False
        self.site.state = replace(self.site.state, lockouts=frozenset({"b"}) if locked else frozenset())
        self.look()

    @precondition(lambda self: not self.site.state.yielded)
    @rule()
    def yields(self) -> None:
        self.ordered = False
        self.site.state = replace(self.site.state, yielded=True)
        self.look()

    @precondition(lambda self: self.site.state.yielded)
    @rule()
    def speaks_again(self) -> None:
        self.site.state = replace(self.site.state, yielded=False, lease_until_ms=None)
        self.look()

    @invariant()
    def planned_power_is_within_every_limit(self) -> None:
        made = self.site.plan
        for feeder, limit_w in enumerate(allowed_w(made, self.site.state)):
            floors = made.tree.load_w(feeder, [bank.floor_w for bank in made.banks])
            assert planned_w(made, self.verdict, feeder) <= max(limit_w, floors)

    @invariant()
    def a_trip_means_nothing(self) -> None:
        for hold in self.verdict.banks:
            assert not hold.interlocks or hold.setpoint_w == 0

    @invariant()
    def heat_trips(self) -> None:
        inlet_mc = self.site.facts.banks[A].inlet_mc
        if inlet_mc is not None and inlet_mc >= 40_000:
            kinds = {lock.kind for lock in self.verdict.banks[A].interlocks}
            assert InterlockKind.OVER_TEMPERATURE in kinds

    @invariant()
    def nothing_rises_on_silence_or_unknown_data(self) -> None:
        made, facts = self.site.plan, self.site.facts
        for bank, (now, before) in enumerate(zip(held(self.verdict), held(self.before), strict=True)):
            if (now or 0) <= (before or 0):
                continue
            assert self.verdict.mode is Mode.AUTO
            assert self.site.state.lease_until_ms is not None
            assert self.site.at < self.site.state.lease_until_ms
            assert all(facts.feeders[feeder].power_w is not None for feeder in made.tree.above[bank])
            assert bank != A or facts.banks[A].inlet_mc is not None

    @invariant()
    def silence_is_safe(self) -> None:
        lease_ms = self.site.state.lease_until_ms
        if lease_ms is None or self.site.at >= lease_ms:
            assert self.verdict.mode is Mode.SAFE
            for hold, limits in zip(self.verdict.banks, self.site.plan.banks, strict=True):
                assert (hold.setpoint_w or 0) <= limits.fail_safe_w

    @invariant()
    def no_bank_is_held_above_what_is_wanted(self) -> None:
        for hold in self.verdict.banks:
            assert (hold.setpoint_w or 0) <= max(hold.wanted_w, 0)

    @invariant()
    def a_stopped_bank_stays_down_its_minimum_time(self) -> None:
        on, was_on = self.verdict.banks[A].on, self.before.banks[A].on
        if on and not was_on:
            assert self.site.at - self.off_since[A] >= 20_000
        if was_on and not on:
            self.off_since[A] = self.site.at


TestGuardMachine: Any = GuardMachine.TestCase
TestGuardMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
