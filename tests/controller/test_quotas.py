"""The controller issues every site its part of the fleet's cap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from controller.config import ControllerConfig
from controller.engine.decide import decide
from tests.controller.kit import StubBus, StubClock, make_controller, plate, report, until

CAP_MW = 2.5


def _config(**fleet: Any) -> ControllerConfig:
    return ControllerConfig.model_validate({"fleet": fleet})


def _controller(config: ControllerConfig, **more: Any) -> Any:
    controller = make_controller(StubBus(), StubClock(), config=config, decide=decide, **more)
    for name in ("alpha", "beta"):
        state = controller.fleet.learn(name)
        state.online, state.nameplate, state.main = True, plate(name), "main"
        state.report, state.report_at_ms = report(name), controller.clock.mono_ms()
    return controller


async def test_quotas_sum_to_the_cap_at_most_and_reach_orders_as_a_cap() -> None:
    """Two sites that draw 2 MW each under 2.5 MW: both are cut at once, and decided within it."""
    controller = _controller(_config(cap_mw=CAP_MW))
    controller.quotas.tick()
    quotas = [state.quota.cap_w for state in controller.fleet]
    assert 0 < sum(quotas) <= CAP_MW * 1e6
    done = controller.dispatcher.dispatch(list(controller.fleet), "tick")
    for state in controller.fleet:
        decision = done[state.site].decided.decision
        assert decision.cap_w == state.quota.cap_w
        assert decision.planned_w <= state.quota.cap_w
        assert "its share of the fleet's cap" in decision.sentence


def test_a_fleet_without_a_cap_has_no_quotas() -> None:
    controller = _controller(ControllerConfig())
    controller.quotas.tick()
    assert [state.quota for state in controller.fleet] == [None, None]


def test_a_site_that_went_away_keeps_its_part() -> None:
    """Nobody else is given what it may still draw."""
    controller = _controller(_config(cap_mw=CAP_MW))
    controller.quotas.tick()
    before = controller.fleet.get("beta").quota.cap_w
    controller.fleet.get("beta").online = False
    for _ in range(3):
        controller.quotas.tick()
    assert controller.fleet.get("alpha").quota.cap_w + before <= CAP_MW * 1e6


async def test_the_event_loop_waits_for_no_plan_and_a_failure_leaves_the_last_shares() -> None:
    """The plan is made aside; until it is there, and where it fails, quotas are issued all the same."""
    gate = asyncio.Event()

    async def aside(work: Callable[[], Any]) -> Any:
        await gate.wait()
        return work()

    controller = _controller(_config(cap_mw=CAP_MW), aside=aside)
    controller.quotas.tick()
    assert controller.quotas.shares is None
    assert sum(state.quota.cap_w for state in controller.fleet) <= CAP_MW * 1e6
    gate.set()
    await until(lambda: controller.quotas.shares is not None)
    kept = controller.quotas.shares

    async def broken(_work: Callable[[], Any]) -> Any:
        raise RuntimeError("a bug")

    controller.quotas._aside = broken
    await asyncio.sleep(0.01)
    controller.quotas.tick()
    await until(lambda: controller.quotas.failures)
    assert controller.quotas.shares is kept
    assert sum(state.quota.cap_w for state in controller.fleet) <= CAP_MW * 1e6
