"""A site whose plan takes long holds nobody up: it is decided aside, and what cannot wait overtakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from controller.loop import LARGE_BANKS
from tests.controller.kit import RATED_W, StubBus, StubClock, make_controller, plate, report


class Aside:
    """Work that is done when the gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = 0

    async def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self.asked += 1
        await self.gate.wait()
        return work(*arguments)


def _controller(aside: Aside | None) -> Any:
    """A large site and a small one, both reporting."""
    controller = make_controller(StubBus(), StubClock(), aside=aside)
    for name, banks in (("large", LARGE_BANKS + 1), ("small", 2)):
        state = controller.fleet.learn(name)
        state.online, state.boot, state.main = True, "b1", "main"
        state.nameplate = plate(name, banks=banks)
        state.report = report(name, bank_w=[RATED_W] * banks)
        state.report_at_ms = controller.clock.mono_ms()
    return controller


async def _turn(controller: Any) -> None:
    """What the loop does at a turn that has no beat."""
    if controller.loop._backlog:
        controller.loop._decide_backlog()
    controller.loop._decide_large()
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_large_site_is_decided_aside_while_the_others_are_decided() -> None:
    aside = Aside()
    controller = _controller(aside)
    controller.loop._tick()
    await _turn(controller)
    large, small = controller.fleet.get("large"), controller.fleet.get("small")
    assert small.decided is not None
    assert large.decided is None
    assert aside.asked == 1
    aside.gate.set()
    await _turn(controller)
    assert controller.fleet.get("large").decided.trigger == "tick"


async def test_what_was_decided_meanwhile_stands() -> None:
    """An event's decision is made at once; the older one that comes after it is thrown away."""
    aside = Aside()
    controller = _controller(aside)
    controller.loop._tick()
    await _turn(controller)
    large = controller.fleet.get("large")
    controller.dispatcher.dispatch([large], "signal")
    urgent = large.decided
    aside.gate.set()
    await _turn(controller)
    assert large.decided is urgent


async def test_without_a_thread_a_large_site_is_decided_like_any_other() -> None:
    controller = _controller(None)
    controller.loop._tick()
    for _ in range(3):
        await _turn(controller)
    assert controller.fleet.get("large").decided is not None
