"""The fleet: bounded, commands before readings, and a device that hangs costs nobody else a thing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from random import Random

from agent.allocate import STOP, Standing
from agent.contain import Containment
from agent.device import Action, Answer, Device
from agent.drivers.base import Applied, DeviceState, Failure, MinerReading, Outcome, Refused, Unreachable
from agent.fleet import BankRules, Fleet, FleetBounds
from sim.clock import LoopClock
from sim.virtual import run_virtual


class Asic:
    """A device behind the driver's Protocol, in memory: the fleet sees nothing but the Protocol."""

    def __init__(self, latency_s: float = 0.02) -> None:
        self.latency_s = latency_s
        self.state = DeviceState.RUNNING
        self.hangs = self.raises = self.ignores = False
        self.says_no = False
        self.calls: list[tuple[float, str]] = []
        self.at_once = 0
        self.most_at_once = 0

    async def read(self) -> MinerReading | Unreachable:
        if not await self._answers("read"):
            return Unreachable(Failure.TIMEOUT)
        watts = 3_000 if self.state is DeviceState.RUNNING else 20
        return MinerReading(state=self.state, power_w=watts, hashrate_ghs=100_000)

    async def stop(self) -> Outcome:
        return await self._told("stop", DeviceState.STOPPED)

    async def resume(self) -> Outcome:
        return await self._told("resume", DeviceState.RUNNING)

    async def close(self) -> None:
        return None

    async def _told(self, what: str, state: DeviceState) -> Outcome:
        if not await self._answers(what):
            return Unreachable(Failure.TIMEOUT)
        if not self.ignores:
            self.state = state
        return Refused("no") if self.says_no else Applied()

    async def _answers(self, what: str) -> bool:
        self.calls.append((asyncio.get_running_loop().time(), what))
        if self.raises:
            raise KeyError("a bug in the driver")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(3.0 if self.hangs else self.latency_s)
        finally:
            self.at_once -= 1
        return not self.hangs

    def times(self, what: str) -> list[float]:
        return [at for at, call in self.calls if call == what]


class Stand:
    """A fleet over such devices."""

    def __init__(self, count: int, **bounds: int) -> None:
        self.asics = [Asic() for _ in range(count)]
        self.clock = LoopClock(0)
        self.contain = Containment()
        self.changed: list[int] = []
        self.fleet = Fleet(
            [BankRules(3.0)],
            FleetBounds(**bounds),
            clock=self.clock,
            rng=Random(1),
            on_change=self.changed.append,
            on_command=lambda _bank: None,
            contain=self.contain,
        )
        self.devices = [Device(f"a/{place}", 0, asic, 3_000, 20) for place, asic in enumerate(self.asics)]

    def aim(self, target_w: int) -> None:
        for device in self.devices:
            device.aim(target_w)
        self.fleet.command(self.devices)

    async def until(self, condition: Callable[[], object], within_s: float = 100.0) -> float:
        began = asyncio.get_running_loop().time()
        while not condition():
            assert asyncio.get_running_loop().time() - began < within_s
            await asyncio.sleep(0.005)
        return asyncio.get_running_loop().time() - began


def test_a_sweep_reads_everything_within_its_bound() -> None:
    async def story() -> None:
        stand = Stand(200, in_flight=50, polls_in_flight=10)
        stand.fleet.poll(stand.devices)
        await stand.until(lambda: stand.fleet.polls["ok"] == 200)
        assert all(device.standing is Standing.UP for device in stand.devices)
        assert stand.fleet.in_flight == 0, "no worker outlives its work"

    run_virtual(story())


def test_never_more_at_once_than_allowed() -> None:
    async def story() -> None:
        stand = Stand(100, in_flight=12, polls_in_flight=5)
        busy: list[int] = []
        stand.fleet.poll(stand.devices)
        while stand.fleet.polls["ok"] < 100:
            busy.append(sum(asic.at_once for asic in stand.asics))
            await asyncio.sleep(0.003)
        assert max(busy) == 5
        stand.aim(STOP)
        busy.clear()
        while stand.fleet.commands["stop", "applied"] < 100:
            busy.append(sum(asic.at_once for asic in stand.asics))
            await asyncio.sleep(0.003)
        assert max(busy) == 12
        assert max(asic.most_at_once for asic in stand.asics) == 1, "one operation per device at a time"

    run_virtual(story())


def test_a_shed_does_not_wait_for_readings_and_hung_devices_do_not_delay_it() -> None:
    """Half of the fleet hangs in the middle of being read; the other half is stopped in its own latency."""

    async def story() -> None:
        stand = Stand(200, in_flight=150, polls_in_flight=100)
        for asic in stand.asics[::2]:
            asic.hangs = True
        stand.fleet.poll(stand.devices)
        await asyncio.sleep(0.5)
        stand.aim(STOP)
        sound = stand.asics[1::2]
        took_s = await stand.until(lambda: all(asic.state is DeviceState.STOPPED for asic in sound))
        assert took_s < 0.2

    run_virtual(story())


def test_devices_that_have_stopped_answering_are_told_last_and_take_a_quarter_of_the_slots() -> None:
    async def story() -> None:
        stand = Stand(60, in_flight=8, polls_in_flight=4, poll_every_ms=100)
        for asic in stand.asics[:30]:
            asic.hangs = True
        for _ in range(3):
            stand.fleet.poll(stand.devices)
            await asyncio.sleep(40)
        stand.aim(STOP)
        sound = stand.asics[30:]
        assert await stand.until(lambda: all(asic.state is DeviceState.STOPPED for asic in sound)) < 0.5
        await asyncio.sleep(1)
        assert sum(asic.at_once for asic in stand.asics[:30]) == 2

    run_virtual(story())


def test_a_silent_device_is_read_ever_more_rarely_but_never_given_up() -> None:
    async def story() -> None:
        stand = Stand(1, poll_every_ms=5_000, reassert_max_ms=60_000)
        stand.asics[0].hangs = True
        for _ in range(600):
            stand.fleet.poll(stand.devices)
            await asyncio.sleep(1)
        reads = stand.asics[0].times("read")
        gaps = [later - earlier for earlier, later in pairwise(reads)]
        assert len(reads) < 40
        assert 30 <= max(gaps) <= 65
        stand.asics[0].hangs = False
        await asyncio.sleep(65)
        stand.fleet.poll(stand.devices)
        await asyncio.sleep(1)
        assert stand.devices[0].fails == 0

    run_virtual(story())


def test_a_command_that_did_not_take_is_given_again_later_and_later() -> None:
    """A device that says yes and does nothing is told again by the level, not by a retry of the request."""

    async def story() -> None:
        stand = Stand(1, poll_every_ms=1_000, reassert_ms=2_000, reassert_max_ms=16_000)
        stand.asics[0].ignores = True
        stand.aim(STOP)
        for _ in range(120):
            stand.fleet.poll(stand.devices)
            await asyncio.sleep(1)
        stops = stand.asics[0].times("stop")
        gaps = [later - earlier for earlier, later in pairwise(stops)]
        assert gaps[0] < 4
        assert all(gap <= 18 for gap in gaps)
        assert 8 <= len(stops) <= 14

    run_virtual(story())


def test_a_device_that_comes_back_running_is_stopped_again() -> None:
    async def story() -> None:
        stand = Stand(1)
        stand.fleet.poll(stand.devices)
        await asyncio.sleep(1)
        stand.aim(STOP)
        await stand.until(lambda: stand.asics[0].state is DeviceState.STOPPED)
        stand.fleet.poll(stand.devices)
        await asyncio.sleep(10)
        stand.asics[0].state = DeviceState.RUNNING  # somebody pressed its button
        stand.fleet.poll(stand.devices)
        await asyncio.sleep(1)
        stand.fleet.command(stand.devices)  # as its bank's next step does
        await stand.until(lambda: stand.asics[0].state is DeviceState.STOPPED, 5)

    run_virtual(story())


def test_a_device_that_says_it_sleeps_and_draws_its_full_power_is_stopped_again() -> None:
    device = Device("a/1", 0, Asic(), 3_000, 20)
    device.aim(STOP)
    device.take(MinerReading(state=DeviceState.STOPPED, power_w=2_800), 1_000, None, None)
    assert device.standing is Standing.UP
    assert device.unmet()


def test_a_resumed_device_counts_as_running_whatever_it_answers() -> None:
    """So that a stop that comes meanwhile is not thought unnecessary."""

    async def story() -> None:
        stand = Stand(1)
        asic, device = stand.asics[0], stand.devices[0]
        asic.state = DeviceState.STOPPED
        stand.fleet.poll(stand.devices)
        await asyncio.sleep(1)
        asic.says_no = True
        stand.aim(3_000)
        await asyncio.sleep(0.01)
        stand.aim(STOP)
        await stand.until(lambda: asic.times("stop") and asic.state is DeviceState.STOPPED, 1)
        await asyncio.sleep(0.1)
        assert device.answer is Answer.REFUSED

    run_virtual(story())


def test_nothing_is_resumed_that_has_not_been_read_as_stopped() -> None:
    async def story() -> None:
        stand = Stand(5)
        stand.aim(3_000)
        await asyncio.sleep(30)
        assert not any(asic.calls for asic in stand.asics)

    run_virtual(story())


def test_a_driver_that_raises_is_counted_and_said_once_and_hurts_nobody_else() -> None:
    async def story() -> None:
        stand = Stand(10)
        stand.asics[0].raises = True
        for _ in range(3):
            stand.fleet.poll(stand.devices)
            await asyncio.sleep(1)
        assert stand.contain.faults == 3
        assert stand.fleet.polls["ok"] == 27
        assert stand.devices[0].failure is Failure.GARBAGE
        assert stand.fleet.crash is None

    run_virtual(story())


def test_a_driver_that_breaks_its_deadline_is_cut_off() -> None:
    async def story() -> None:
        stand = Stand(1)
        stand.asics[0].latency_s = 1_000.0
        stand.fleet.poll(stand.devices)
        await asyncio.sleep(6)
        assert stand.contain.faults == 1
        assert not stand.devices[0].busy

    run_virtual(story())


def test_a_stale_reading_of_a_running_device_goes_dark_before_that_of_a_stopped_one() -> None:
    running, stopped = (Device(f"a/{place}", 0, Asic(), 3_000, 20) for place in range(2))
    running.take(MinerReading(state=DeviceState.RUNNING, power_w=3_000), 1_000, None, None)
    stopped.take(MinerReading(state=DeviceState.STOPPED, power_w=20), 1_000, None, None)
    assert running.darken(16_001, 15_000)
    assert not stopped.darken(16_001, 15_000)
    assert stopped.darken(61_001, 15_000)


def test_a_hot_chip_stops_its_device_until_it_has_cooled() -> None:
    device = Device("a/1", 0, Asic(), 3_000, 20)
    for chip_mc, hot in ((94_000, False), (95_000, True), (91_000, True), (90_000, False)):
        device.take(MinerReading(state=DeviceState.RUNNING, chip_temp_mc=chip_mc), 1_000, 95_000, 90_000)
        assert device.hot is hot


class Limited(Asic):
    """One whose power can be set."""

    power_range_w = (1_500, 3_000)

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []
        self.limit_when_awake = self.limit_never = False

    async def set_power_w(self, power_w: int) -> Outcome:
        if self.limit_never or (self.limit_when_awake and self.state is DeviceState.STOPPED):
            return Refused("not now")
        self.limits.append(power_w)
        return Applied()


def limited(power_w: int | None, stated_w: int | None, *, target_w: int = 2_000, set_w: int | None = 2_000) -> Device:
    device = Device("a/1", 0, Limited(), 3_000, 20)
    device.limit_w = set_w
    device.aim(target_w)
    device.take(MinerReading(state=DeviceState.RUNNING, power_w=power_w, power_limit_w=stated_w), 1_000, None, None)
    return device


def test_a_limit_is_set_again_only_where_power_says_that_it_does_not_hold() -> None:
    assert limited(2_900, 3_000, set_w=None).need() is Action.LIMIT
    assert limited(2_050, 3_000).need() is None, "it states its nameplate, and keeps the limit"
    assert limited(2_900, 3_000).need() is Action.LIMIT, "it said yes and did nothing"
    assert limited(None, None).need() is None
    assert limited(2_900, 2_050, set_w=None).need() is None, "after a restart: it already has the limit"


def test_a_limit_of_ours_is_lifted_and_one_of_others_is_left() -> None:
    assert limited(2_000, 2_000, target_w=3_000).need() is Action.LIMIT
    assert limited(2_000, 2_000, target_w=3_000, set_w=None).need() is None


def test_a_firmware_that_takes_a_limit_only_when_awake_gets_it_right_after_its_resume() -> None:
    async def story() -> None:
        asic = Limited()
        asic.limit_when_awake, asic.state = True, DeviceState.STOPPED
        device = Device("a/1", 0, asic, 3_000, 20)
        device.take(MinerReading(state=DeviceState.STOPPED, power_w=20), 1_000, None, None)
        device.aim(2_000)
        assert device.need() is Action.RESUME
        assert await device.act(Action.RESUME, 0) == Applied()
        assert asic.state is DeviceState.RUNNING
        assert asic.limits == [2_000]
        assert device.limit_w == 2_000
        assert device.least_w == 1_500

    run_virtual(story())


def test_a_firmware_that_refuses_limits_is_not_asked_for_a_while() -> None:
    async def story() -> None:
        asic = Limited()
        asic.limit_never = True
        device = Device("a/1", 0, asic, 3_000, 20)
        running = MinerReading(state=DeviceState.RUNNING, power_w=3_000)
        device.take(running, 1_000, None, None)
        device.aim(2_000)
        assert isinstance(await device.act(Action.LIMIT, 0), Refused)
        assert device.least_w == 0
        assert not device.take(running, 2_000, None, None)
        assert device.take(running, 602_001, None, None), "its bank is allocated anew"
        assert device.least_w == 1_500

    run_virtual(story())
