"""The garbage collector never runs in the middle of anything, and yet nothing is left lying for long."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from controller import garbage
from controller.garbage import EVERY_S, Garbage
from sim.virtual import run_virtual
from tests.controller.test_loop import MINUTE_MS, World

TICK_S = MINUTE_MS / 1_000


class Knot:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    """Off, as in the daemon, and on again."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_cycle_is_gone_after_an_hour_once_a_tick_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_peak", lambda: 100)

    async def story() -> None:
        async with World() as world:
            knot = weakref.ref(Knot())
            task = asyncio.create_task(Garbage(world.controller.loop).run())
            await asyncio.sleep(EVERY_S - 1)
            assert knot() is not None
            await asyncio.sleep(TICK_S + 2)
            assert knot() is None
            task.cancel()

    run_virtual(story())


def test_growth_of_memory_calls_for_a_collection_long_before_the_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = 100
    monkeypatch.setattr(garbage, "_peak", lambda: peak)

    async def story() -> None:
        nonlocal peak
        async with World() as world:
            knot = weakref.ref(Knot())
            collector = Garbage(world.controller.loop)
            task = asyncio.create_task(collector.run())
            await asyncio.sleep(3 * TICK_S)
            assert knot() is not None
            peak = 125
            await asyncio.sleep(TICK_S + 1)
            assert knot() is None
            await asyncio.sleep(3 * TICK_S)
            assert collector.collections == 1, "what has grown once is not grown for ever"
            task.cancel()

    run_virtual(story())


def test_a_minute_of_reports_decisions_orders_and_receipts_leaves_no_cycles() -> None:
    """Else memory would grow until the next collection."""

    async def story() -> None:
        async with World(sites=20) as world:
            await asyncio.sleep(2 * TICK_S + 5)
            gc.collect()
            ordered = len(world.controller.orders)
            await asyncio.sleep(2 * TICK_S)
            assert len(world.controller.orders) >= ordered + 20
            assert gc.collect() == 0

    run_virtual(story())
