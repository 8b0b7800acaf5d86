"""All twelve checkers together."""

from __future__ import annotations

from collections.abc import Sequence

from sim.checkers.base import Allowances, Checker, Violation
from sim.checkers.decisions import Decide, DecideIsBlind, JournalReplays, PlanReturnsToOracle, StaleNeverRaises
from sim.checkers.local import DwellAndRampHold, HeatStopsABank, NoJobDiesEarly
from sim.checkers.orders import OnlyRightfulOrdersAct, SilenceIsSafe
from sim.checkers.power import CapsHeld, EnergyCloses, ObligationsMet
from sim.checkers.world import World


class Suite:
    """Shows every step to every checker, in the order of the invariants."""

    def __init__(self, decide: Decide, seed: int, allow: Allowances | None = None, *, permute_every: int = 1) -> None:
        """`decide` is the engine's own, pure; `permute_every` thins the costliest check (9)."""
        self.checkers: Sequence[Checker] = (
            CapsHeld(allow),
            ObligationsMet(allow),
            OnlyRightfulOrdersAct(allow),
            SilenceIsSafe(allow),
            HeatStopsABank(allow),
            NoJobDiesEarly(allow),
            DwellAndRampHold(allow),
            StaleNeverRaises(allow),
            DecideIsBlind(decide, seed, allow, every=permute_every),
            EnergyCloses(allow),
            PlanReturnsToOracle(allow),
            JournalReplays(decide, allow),
        )

    def observe(self, world: World) -> None:
        for checker in self.checkers:
            checker.observe(world)

    @property
    def violations(self) -> list[Violation]:
        """All so far, in order of time."""
        found = [violation for checker in self.checkers for violation in checker.violations]
        return sorted(found, key=lambda violation: (violation.at_ms, violation.invariant))

    @property
    def count(self) -> int:
        """Episodes of violation, also those beyond what is kept."""
        return sum(checker.count for checker in self.checkers)
