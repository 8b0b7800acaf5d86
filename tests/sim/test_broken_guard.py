"""A guard that is broken on purpose is caught by the checker of the sentence it breaks; whole, the same history passes.

Each test breaks one part of the agent's guard (one: of the engine's) in a whole simulated world: real agent, real
controller, devices on their own protocols, the plant's true power.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest

import agent.guard
import agent.site
import controller.engine.rules
from agent.guard_model import Admission, Facts, GuardPlan, GuardState
from agent.limits import FeederTree, Rung
from contract.messages import Mode, Order, Workload
from controller.engine.decide import decide
from controller.engine.model import Decision, Params, Snapshot
from sim.checkers import Violation
from sim.faults import FaultKind
from sim.simulation import Scene, simulate
from tests.sim.scenes import CHEAP, DEAR, fault, scene

Break = Callable[[pytest.MonkeyPatch], None]


def ignore_lease(patch: pytest.MonkeyPatch) -> None:
    """Once ordered, always ordered."""
    whole = agent.guard.mode_of

    def mode_of(plan: GuardPlan, state: GuardState, now_ms: int) -> Mode:
        return Mode.AUTO if state.order is not None else whole(plan, state, now_ms)

    patch.setattr(agent.guard, "mode_of", mode_of)
    patch.setattr(agent.site, "mode_of", mode_of)


def ignore_fencing(patch: pytest.MonkeyPatch) -> None:
    """Any order is good: of an older epoch, of a lower sequence, late."""

    def admit(
        _plan: GuardPlan, state: GuardState, order: Order, basis_ms: int | None, now_ms: int
    ) -> tuple[GuardState, Admission]:
        until_ms = (now_ms if basis_ms is None else basis_ms) + order.valid_for_ms
        taken = replace(
            state,
            order=order,
            epoch=order.epoch,
            seq=order.seq,
            arrived_ms=now_ms,
            lease_until_ms=until_ms,
            hold_until_ms=None,
        )
        return taken, Admission(True)

    patch.setattr(agent.site, "admit", admit)


def ignore_heat(patch: pytest.MonkeyPatch) -> None:
    """No bank ever trips."""

    def watch_banks(_plan: GuardPlan, state: GuardState, _facts: Facts, _now_ms: int) -> GuardState:
        return state

    patch.setattr(agent.guard, "watch_banks", watch_banks)


def ignore_feeders(patch: pytest.MonkeyPatch) -> None:
    """Breakers carry anything, and their meters are not looked at."""

    def fit(
        _tree: FeederTree,
        wanted_w: Sequence[int],
        _floors: Sequence[int],
        _limits: Sequence[int],
        _rungs: Iterable[Rung],
        _standing: Sequence[int] | None = None,
    ) -> tuple[list[int], list[int | None]]:
        return list(wanted_w), [None] * len(wanted_w)

    def watch_feeders(_plan: GuardPlan, state: GuardState, _facts: Facts, _now_ms: int) -> GuardState:
        return state

    patch.setattr(agent.guard, "fit", fit)
    patch.setattr(agent.guard, "room_w", lambda *_: 10**9)
    patch.setattr(agent.guard, "watch_feeders", watch_feeders)


def ignore_staleness(patch: pytest.MonkeyPatch) -> None:
    """The engine believes reports of any age."""
    rules = tuple(rule for rule in controller.engine.rules.RULES if rule is not controller.engine.rules._stale)
    patch.setattr(controller.engine.rules, "RULES", rules)


def greedy(snapshot: Snapshot, params: Params) -> Decision:
    """A controller gone wrong: every hash bank at its rated power, whatever the feeders carry."""
    decided = decide(snapshot, params)
    rated_w = {bank.id: bank.rated_w for site in snapshot.sites for bank in site.nameplate.banks}
    return decided.model_copy(
        update={
            "sites": tuple(
                site.model_copy(
                    update={
                        "cap_w": None,
                        "banks": tuple(
                            bank.model_copy(update={"target_w": rated_w[bank.bank], "workload": Workload.HASH})
                            if bank.bank != "gpu"
                            else bank
                            for bank in site.banks
                        ),
                    }
                )
                for site in decided.sites
            )
        }
    )


def silence() -> Scene:
    """The controller dies, and nobody replaces it for longer than a lease."""
    return scene(8, faults=(fault(FaultKind.CONTROLLER_CRASH, 120, 470, None),))


def twins() -> Scene:
    """A leader is cut off with an order under way and replaced; its line heals before anybody gave it up, and the order
    arrives after the new leader's."""
    return scene(4, faults=(fault(FaultKind.STALE_TWIN, 117.5, 122.3, None),))


def heat() -> Scene:
    """The fans of a hall fail on a hot day."""
    base = scene(8)
    hall = base.sites[0].kit.plan.banks[0].hall
    return scene(
        8,
        faults=(
            fault(FaultKind.FAN_FAILURE, 120, 470, target=hall, amount=0.1),
            fault(FaultKind.HEAT_WAVE, 120, 470, amount=12.0),
        ),
    )


def crowd() -> Scene:
    """More nameplate than the main carries."""
    return scene(6)


def deaf() -> Scene:
    """The site falls silent while it is stopped for its price, and then the price falls."""
    return scene(12, faults=(fault(FaultKind.LINK_CUT, 240, 700),), prices=(DEAR, CHEAP))


@pytest.mark.parametrize(
    ("history", "broken", "invariant"),
    [
        pytest.param(silence, ignore_lease, 4, id="a lease that never ends"),
        pytest.param(twins, ignore_fencing, 3, id="older epochs and expired orders"),
        pytest.param(heat, ignore_heat, 5, id="no over-temperature trip"),
        pytest.param(deaf, ignore_staleness, 8, id="stale data raises power"),
    ],
)
def test_the_broken_part_is_caught_and_the_whole_one_is_not(
    history: Callable[[], Scene], broken: Break, invariant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the very same faults at the very same moments."""
    assert simulate(history()).violations == []
    broken(monkeypatch)
    assert invariant in {violation.invariant for violation in simulate(history()).violations}


def test_the_guard_keeps_breakers_that_a_mad_controller_does_not_and_without_it_they_are_exceeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every order asks for more than the main carries. What is planned is wrong; what is drawn stays within."""
    with_guard = simulate(crowd(), decides=greedy).violations
    assert any("plans" in violation.detail for violation in with_guard)
    assert _metered(with_guard) == []
    ignore_feeders(monkeypatch)
    assert _metered(simulate(crowd(), decides=greedy).violations) != []


def _metered(violations: Iterable[Violation]) -> list[Violation]:
    """True watts above a breaker's limit."""
    return [each for each in violations if each.invariant == 1 and "against breaker" in each.detail]
