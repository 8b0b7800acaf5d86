"""Restarts, crashes, twins and clean ends: what one incarnation leaves to the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent.state import FileStateStore, MemoryStateStore
from agent.twin import TwinWatch
from contract.messages import Mode, ReceiptState, Status, decode
from contract.topics import site_topic
from sim.clock import LoopClock
from sim.plant import Rules
from sim.virtual import run_virtual
from tests.agent.test_site import FULL, settled
from tests.agent.world import EPOCH_MS, SITE, World

DOWN = {"hall-a": 0, "hall-b": 61_000, "gpu": 7_200}


def told(story: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with World(**options) as world:
            world.start_agent(state=MemoryStateStore())
            await world.until(lambda: world.hand.reports)
            await story(world)

    run_virtual(whole(), limit_s=36_000)


def mode(world: World) -> Mode:
    return world.agents[-1].mode


async def restart(world: World, *, crash: bool, **options: Any) -> None:
    store = world.agents[-1].store
    await world.end_agent(crash=crash)
    await asyncio.sleep(3)
    world.broker.heal("agent")
    agent = world.start_agent(state=options.pop("state", store), **options)
    await world.until(lambda: world.hand.reports[-1].boot == agent.boot, 100)


def test_a_crash_in_the_middle_of_a_curtailment_keeps_it_and_its_dwell() -> None:
    async def story(world: World) -> None:
        await settled(world, world.hand.tell(FULL))
        await settled(world, world.hand.tell(DOWN, obligation="event-1"))
        since_ms = world.clock.wall_ms()
        await asyncio.sleep(40)
        old = world.hand.order(FULL)
        await restart(world, crash=True)
        assert world.power_w("hall-a") < 2_000
        assert world.power_w("hall-b") > 55_000, "what ran goes on for the rest of the lease"
        bank = world.hand.reports[-1].banks[0]
        assert bank.on is False
        assert bank.on_for_ms == pytest.approx(world.clock.wall_ms() - since_ms, abs=7_000)
        world.hand.send(old)
        await asyncio.sleep(2)
        assert not world.hand.receipts[-1].accepted, "an order for the last incarnation"
        world.hand.tell(FULL, valid_for_ms=600_000)
        await asyncio.sleep(60)
        assert world.power_w("hall-a") < 2_000, "its minimum down time is not over"
        assert world.hand.receipts[-1].banks[0].state is ReceiptState.DISPATCHED
        await world.until(lambda: world.power_w("hall-a") > 50_000, 400)

    told(story, rules=Rules(min_down_ms=180_000, fail_safe_w={"hall-a": 0, "hall-b": 0}))


def test_a_restart_with_no_controller_goes_safe_when_the_old_lease_would_have_ended() -> None:
    async def story(world: World) -> None:
        await settled(world, world.hand.tell(FULL, valid_for_ms=60_000))
        await asyncio.sleep(20)
        await restart(world, crash=True)
        assert mode(world) is Mode.AUTO
        assert world.power_w("hall-a") > 55_000
        await asyncio.sleep(60)
        assert mode(world) is Mode.SAFE
        assert world.power_w("hall-a") < 2_000

    told(story)


def test_an_older_epoch_is_refused_by_the_next_incarnation_too() -> None:
    async def story(world: World) -> None:
        world.hand.epoch = 7
        await settled(world, world.hand.tell(FULL))
        await restart(world, crash=True)
        assert world.hand.reports[-1].epoch == 7
        refused = world.hand.tell(DOWN, epoch=6)
        await world.until(lambda: world.hand.answer(refused))
        assert not world.hand.receipts[-1].accepted

    told(story)


def test_a_lost_state_file_stops_hashing_and_counts_every_bank_as_just_changed(tmp_path: Any) -> None:
    async def story(world: World) -> None:
        await settled(world, world.hand.tell(FULL))
        path = tmp_path / "state.json"
        path.write_bytes(b"\x00\x00")
        await restart(world, crash=True, state=FileStateStore(path))
        await asyncio.sleep(20)
        assert mode(world) is Mode.SAFE
        assert world.power_w("hall-a") < 2_000
        assert world.power_w("gpu") > 1_500

    told(story)


def test_a_full_disk_is_counted_and_the_agent_goes_on(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        await world.end_agent()
        path = tmp_path / "no" / "such" / "folder" / "state.json"
        agent = world.start_agent(state=FileStateStore(path))
        await world.until(lambda: world.hand.reports[-1].boot == agent.boot)
        for _ in range(3):
            await settled(world, world.hand.tell(FULL), within_s=300)
        assert agent.store.failures >= 3
        assert sum("cannot be saved" in record.message for record in caplog.records) == 1

    with caplog.at_level(logging.ERROR, logger="agent.state"):
        told(story)


def test_a_clean_end_goes_to_the_fail_safe_and_says_offline() -> None:
    async def story(world: World) -> None:
        await settled(world, world.hand.tell(FULL))
        await world.end_agent()
        await asyncio.sleep(10)
        assert world.power_w("hall-a") < 2_000
        assert not world.hand.statuses[-1].online
        status = decode(Status, world.broker.retained[site_topic(SITE, "status")])
        assert not status.online
        assert world.hand.reports[-1].mode is Mode.SAFE

    told(story)


def test_a_clean_end_may_leave_the_banks_as_they_are() -> None:
    def hold(tables: dict[str, Any]) -> None:
        tables["fail_safe"]["on_end"] = "hold"

    async def story(world: World) -> None:
        await settled(world, world.hand.tell(FULL))
        await restart(world, crash=False)
        assert world.power_w("hall-a") > 55_000
        await settled(world, world.hand.tell(FULL))
        assert world.site.log.last is None, "nothing was told to any device"

    told(story, tables=hold)


def test_a_first_start_on_a_running_site_stops_nothing_until_the_handover_is_over() -> None:
    async def story(world: World) -> None:
        await asyncio.sleep(45)
        assert world.power_w("hall-a") > 55_000
        assert world.hand.reports[-1].banks[0].on is True
        await asyncio.sleep(45)
        assert world.agents[0].mode is Mode.SAFE
        assert world.power_w("hall-a") < 2_000

    told(story)


def test_a_first_start_on_a_standing_site_takes_it_as_standing() -> None:
    """Nothing was on, so its return is an ordinary start with dwell and stagger."""

    async def story(world: World) -> None:
        for machine in world.plant.machines("hall-a"):
            machine.sleep()
        await world.end_agent()
        await asyncio.sleep(20)
        agent = world.start_agent()
        await world.until(lambda: world.hand.reports[-1].boot == agent.boot)
        bank = world.hand.reports[-1].banks[0]
        assert (bank.on, bank.setpoint_w) == (False, 20 * 25)
        world.hand.tell(FULL, valid_for_ms=600_000)
        await asyncio.sleep(50)
        assert world.power_w("hall-a") < 2_000
        await world.until(lambda: world.power_w("hall-a") > 50_000, 200)

    told(story, rules=Rules(min_down_ms=60_000, fail_safe_w={"hall-a": 0, "hall-b": 0}))


# twins


def test_of_two_agents_of_one_site_the_later_goes_on_and_the_earlier_yields() -> None:
    async def story(world: World) -> None:
        first = world.agents[0]
        await settled(world, world.hand.tell(FULL))
        second = world.start_agent(link="agent-2")
        await world.until(lambda: first.twin.master == second.boot, 30)
        healthy, particulars = first.health()
        assert not healthy
        assert particulars["twin"] == second.boot
        assert first.mode is Mode.SAFE
        assert second.health()[0]
        count = len(world.hand.reports)
        await asyncio.sleep(30)
        assert {report.boot for report in world.hand.reports[count + 1 :]} == {second.boot}
        assert decode(Status, world.broker.retained[site_topic(SITE, "status")]).boot == second.boot
        await world.end_agent()
        world.agents.pop()
        await world.until(lambda: first.twin.master is None, 10)
        await world.until(lambda: world.hand.reports[-1].boot == first.boot, 30)
        assert world.hand.statuses[-1] == Status(site=SITE, boot=first.boot, online=True)

    told(story)


def test_an_agent_with_a_wall_clock_behind_learns_of_the_one_that_runs() -> None:
    """The broker keeps that one's word from long ago; the newcomer sorts before it and must hear it speak."""

    async def story(world: World) -> None:
        first = world.agents[0]
        behind = LoopClock(EPOCH_MS - 86_400_000)
        second = world.start_agent(link="agent-2", clock=behind)
        assert second.boot < first.boot
        await world.until(lambda: second.twin.master == first.boot, 30)
        assert first.twin.master is None
        assert second.mode is Mode.SAFE

    told(story)


def test_the_word_of_a_dead_incarnation_yields_nothing_and_its_late_will_is_put_right() -> None:
    clock_ms = 0

    class Still:
        def wall_ms(self) -> int:
            return clock_ms

        mono_ms = wall_ms

        async def sleep_ms(self, duration_ms: int) -> None:
            raise AssertionError(duration_ms)

    watch = TwinWatch("north", "5", Still())

    def master() -> str | None:
        return watch.master

    assert watch.heard(Status(site="north", boot="9", online=True), retained=True), "ours is said over it"
    assert master() is None
    assert watch.heard(Status(site="north", boot="4", online=False), retained=False), "a late will is put right"
    assert watch.heard(Status(site="north", boot="5", online=False), retained=False), "even our own"
    assert not watch.heard(Status(site="north", boot="5", online=True), retained=False)
    assert not watch.heard(Status(site="south", boot="9", online=True), retained=False)
    assert watch.heard(Status(site="north", boot="3", online=True), retained=False), "an earlier one is answered"
    assert not watch.heard(Status(site="north", boot="3", online=True), retained=False), "but not for every word"
    assert not watch.heard(Status(site="north", boot="7", online=True), retained=False)
    assert master() == "7"
    assert not watch.heard(Status(site="north", boot="4", online=False), retained=False)
    assert watch.heard(Status(site="north", boot="7", online=False), retained=False)
    assert master() is None


def test_a_later_incarnation_sorts_after_an_earlier_one_whatever_the_wall_clock_does() -> None:
    async def story(world: World) -> None:
        first = world.agents[0]
        await restart(world, crash=True, clock=LoopClock(EPOCH_MS - 10**9))
        assert world.agents[-1].boot > first.boot

    told(story)
