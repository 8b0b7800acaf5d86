"""When a hash bank truly runs: by what its devices were told, not by its setpoint."""

from __future__ import annotations

import asyncio
from random import Random

from agent.allocate import STOP, Standing
from agent.bank import HashBank
from agent.contain import Containment
from agent.device import Action, Device
from agent.drivers.base import Applied, DeviceState, MinerReading, Outcome, Unreachable
from agent.fleet import BankRules, Fleet, FleetBounds
from agent.guard_model import BankHold
from agent.stall import Stall
from sim.clock import LoopClock
from sim.virtual import run_virtual


class Miner:
    """Behind the driver's Protocol, in memory: it does what it is told."""

    def __init__(self) -> None:
        self.runs = True

    async def read(self) -> MinerReading | Unreachable:
        return MinerReading(state=DeviceState.RUNNING if self.runs else DeviceState.STOPPED)

    async def stop(self) -> Outcome:
        self.runs = False
        return Applied()

    async def resume(self) -> Outcome:
        self.runs = True
        return Applied()

    async def close(self) -> None:
        return None


class Hall:
    """Two devices of 3 kW, read once; `hold` is what the guard says."""

    def __init__(self) -> None:
        self.clock = LoopClock(0)
        self.devices = [Device(f"a/{place}", 0, Miner(), 3_000, 20) for place in range(2)]
        fleet = Fleet(
            [BankRules(1.0)],
            FleetBounds(),
            clock=self.clock,
            rng=Random(1),
            on_change=lambda _bank: None,
            on_command=lambda _bank: None,
            contain=Containment(),
        )
        self.bank = HashBank(
            "a",
            self.devices,
            fleet,
            clock=self.clock,
            stale_ms=15_000,
            settle_ms=20_000,
            hot_share_milli=100,
            spread=False,
        )
        for device in self.devices:
            self.read(device, DeviceState.RUNNING)

    def read(self, device: Device, state: DeviceState) -> None:
        device.take(MinerReading(state=state), self.clock.mono_ms(), None, None)
        self.bank.dirty = True

    def hold(self, setpoint_w: int | None, unread_w: int | None = None, *, may_raise: bool = True) -> None:
        held = BankHold(
            setpoint_w=setpoint_w,
            wanted_w=setpoint_w or 0,
            may_raise=may_raise,
            firm_too=False,
            on=True,
            since_ms=0,
            why=None,
            interlocks=(),
        )
        self.bank.hold(held, unread_w)

    def turned(self) -> tuple[bool | None, int | None]:
        return self.bank.turn.runs, self.bank.turn.turned_ms


def test_a_bank_runs_from_its_first_device_to_its_last() -> None:
    async def story() -> None:
        hall = Hall()
        assert hall.turned() == (None, None), "before anything is allotted, nobody knows"
        hall.hold(6_000)
        assert hall.turned() == (True, None)
        await hall.clock.sleep_ms(5_000)
        hall.hold(3_100)
        assert hall.turned() == (True, None), "one is left"
        stopped_ms = hall.clock.mono_ms()
        hall.hold(2_000)
        assert hall.turned() == (False, stopped_ms), "its setpoint has room for none"
        await hall.clock.sleep_ms(5_000)
        for device in hall.devices:
            hall.read(device, DeviceState.STOPPED)
        hall.hold(6_000, may_raise=False)
        assert hall.turned() == (False, stopped_ms), "and while nothing may rise it stays so"
        hall.hold(6_000)
        assert hall.turned() == (True, hall.clock.mono_ms())
        hall.hold(None)
        assert hall.turned() == (None, None), "in local control it is not ours to say"

    run_virtual(story())


def test_a_device_that_cannot_be_read_runs_only_if_it_did_and_was_not_stopped() -> None:
    async def story() -> None:
        hall = Hall()
        silent, other = hall.devices
        hall.read(other, DeviceState.STOPPED)
        hall.hold(3_100)
        await hall.clock.sleep_ms(10_000)
        hall.read(other, DeviceState.STOPPED)
        await hall.clock.sleep_ms(10_000)
        assert hall.bank.survey(hall.clock.mono_ms()).unread_w == 3_000
        hall.hold(3_100, unread_w=3_000)
        assert hall.turned() == (True, None)
        stopped_ms = hall.clock.mono_ms()
        hall.hold(3_100)
        hall.hold(2_000)
        assert hall.turned() == (False, stopped_ms), "it was told to stop, though nobody saw it do so"
        hall.hold(3_100, unread_w=3_000, may_raise=False)
        assert silent.target_w == 3_000
        assert hall.turned() == (False, stopped_ms), "that it may run does not say that it does"

    run_virtual(story())


def test_what_a_silent_device_may_draw_is_counted_in_what_keeps_the_other_running() -> None:
    async def story() -> None:
        hall = Hall()
        running, _silent = hall.devices
        hall.hold(6_000)
        assert hall.bank.keeps_w(None) == 3_020, "both are heard: one may stop, which leaves 20 W"
        await hall.clock.sleep_ms(10_000)
        hall.read(running, DeviceState.RUNNING)
        await hall.clock.sleep_ms(10_000)
        hall.bank.survey(hall.clock.mono_ms())
        assert hall.bank.keeps_w(None) == 6_000
        assert hall.bank.keeps_w(500) == 3_500, "a meter leaves it no more"
        hall.hold(6_000, may_raise=False)
        assert running.target_w == 3_000
        hall.hold(5_999, may_raise=False)
        assert running.target_w == 0
        assert hall.bank.keeps_w(None) is None, "nothing is known to run"

    run_virtual(story())


def test_a_device_tells_its_efficiency_once_its_hashrate_has_risen() -> None:
    """While it boots it draws much and hashes little: ranked by that, it would be swapped for another at once."""
    device = Device("a/1", 0, Miner(), 3_000, 20, young_ms=60_000)
    booting = MinerReading(state=DeviceState.RUNNING, power_w=3_000, hashrate_ghs=10_000)
    grown = MinerReading(state=DeviceState.RUNNING, power_w=3_000, hashrate_ghs=100_000)
    stopped = MinerReading(state=DeviceState.STOPPED, power_w=20)
    device.take(booting, 1_000, None, None)
    device.take(booting, 60_999, None, None)
    assert device.j_per_th == 0.0
    device.take(grown, 61_000, None, None)
    assert device.j_per_th == 30.0
    device.take(stopped, 70_000, None, None)
    device.take(booting, 80_000, None, None)
    assert device.j_per_th == 30.0, "every start is a new one"


def test_a_device_told_to_stop_and_not_looked_at_since_is_not_kept_running() -> None:
    """It still reads as running; to let it run on, while nothing may start, would be to start it."""

    async def story() -> None:
        hall = Hall()
        hall.hold(6_000)
        hall.hold(2_000)
        stopped_ms = hall.clock.mono_ms()
        await hall.clock.sleep_ms(100)
        hall.hold(6_000, may_raise=False)
        assert [device.target_w for device in hall.devices] == [0, 0]
        assert hall.turned() == (False, stopped_ms)
        hall.read(hall.devices[0], DeviceState.RUNNING)
        hall.hold(6_000, may_raise=False)
        assert [device.target_w for device in hall.devices] == [3_000, 0], "it runs for all that"

    run_virtual(story())


def test_a_device_that_was_read_before_its_stop_went_out_counts_as_stopped() -> None:
    async def story() -> None:
        device = Device("a/1", 0, Miner(), 3_000, 20)
        running = MinerReading(state=DeviceState.RUNNING)
        device.take(running, 1_000, None, None)
        device.aim(0)
        device.take(running, 2_000, None, None)
        assert device.ran
        await device.act(Action.STOP, 0)
        assert not device.ran

    run_virtual(story())


def test_readings_are_believed_for_as_long_as_the_agent_itself_stood_still() -> None:
    """A machine that pauses for two minutes must not wake to a site that it takes for unreadable, and stop it."""

    async def story() -> None:
        hall, stall = Hall(), Stall(2_000, 15_000)
        await hall.clock.sleep_ms(121_000)
        now_ms = hall.clock.mono_ms()
        stall.note(120_000, now_ms)
        assert hall.bank.survey(now_ms - stall.lost_ms(now_ms)).unread_w == 0
        assert hall.bank.survey(now_ms).unread_w == 6_000

    run_virtual(story())


def test_a_stall_is_made_up_for_until_every_device_has_had_its_turn() -> None:
    stall = Stall(2_000, 15_000)
    stall.note(1_999, 10_000)
    assert stall.lost_ms(10_000) == 0
    stall.note(30_000, 50_000)
    stall.note(4_000, 60_000)
    assert stall.lost_ms(60_000) == 34_000, "one that goes on adds up"
    assert stall.lost_ms(75_000) == 0


def test_a_device_told_to_run_and_not_heard_of_is_not_taken_for_one_that_draws_nothing() -> None:
    """A meter shows nothing of a machine that boots: its place is not given away until it had the time to rise."""

    async def story() -> None:
        hall = Hall()
        silent, other = hall.devices
        silent.young_ms = 60_000
        for device in hall.devices:
            hall.read(device, DeviceState.STOPPED)
        await asyncio.sleep(16)
        hall.read(other, DeviceState.STOPPED)
        hall.hold(3_020, unread_w=0)
        await silent.act(Action.RESUME, hall.clock.mono_ms())
        for _ in range(4):
            hall.read(other, DeviceState.STOPPED)
            hall.bank.survey(hall.clock.mono_ms())
            hall.hold(3_020, unread_w=0)
            assert (silent.standing, other.target_w) == (Standing.DARK, STOP)
            await asyncio.sleep(14)
        await asyncio.sleep(20)
        hall.read(other, DeviceState.STOPPED)
        hall.bank.survey(hall.clock.mono_ms())
        hall.hold(3_020, unread_w=0)
        assert other.target_w == 3_000, "the silent one had the time, and the meter shows nothing of it"

    run_virtual(story(), seed=1)


def test_a_device_that_is_heard_of_or_told_to_stop_rises_no_more() -> None:
    async def story() -> None:
        hall = Hall()
        for ends in ("read", "stopped", "aimed"):
            device = hall.devices[0]
            hall.read(device, DeviceState.STOPPED)
            device.aim(3_000)
            await device.act(Action.RESUME, 0)
            assert device.rises
            hall.read(device, DeviceState.UNKNOWN)
            assert device.rises, "it did not say what it does"
            if ends == "read":
                hall.read(device, DeviceState.STARTING)
            elif ends == "stopped":
                await device.act(Action.STOP, 0)
            else:
                device.aim(STOP)
            assert not device.rises

    run_virtual(story(), seed=1)
