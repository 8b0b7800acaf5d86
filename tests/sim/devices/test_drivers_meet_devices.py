"""The agent's drivers against the simulated devices: two readings of the same public facts, made apart, agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from agent.drivers.base import (
    Applied,
    Curtailable,
    DeviceState,
    Failure,
    Miner,
    MinerReading,
    PowerLimited,
    Refused,
    Unreachable,
)
from agent.drivers.miners import DEADLINE_S, REGISTRY
from sim.devices.antminer_answers import CONF
from sim.devices.luxos import SESSION_S
from sim.ports import AsicState, DeviceFault
from sim.virtual import run_virtual
from tests.sim.devices.rig import MODEL, MemoryAsic, Rig, rig
from tests.sim.devices.test_antminer import CONF as CONF_PAGE
from tests.sim.devices.test_antminer import page
from tests.sim.devices.test_whatsminer import get_token, write

DRIVER_OF = {
    "antminer": "antminer",
    "braiins": "braiins",
    "cgminer": "cgminer",
    "luxos": "luxos",
    "whatsminer": "whatsminer_v2",
}
FIRMWARES = sorted(DRIVER_OF)
CURTAILABLE = [firmware for firmware in FIRMWARES if firmware != "cgminer"]
POWER_LIMITED = ["braiins", "luxos", "whatsminer"]
POWER_STATED = POWER_LIMITED
RANGE_W = {"min_power_w": MODEL.min_power_w, "max_power_w": MODEL.rated_w}


class LoopClock:
    """Site time that is the loop's, so that sessions and tokens age in virtual time on both sides."""

    def wall_ms(self) -> int:
        return self.mono_ms()

    def mono_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1_000)

    async def sleep_ms(self, duration_ms: int) -> None:
        await asyncio.sleep(duration_ms / 1_000)


class Pair(NamedTuple):
    device: Rig
    driver: Miner

    async def read(self) -> MinerReading:
        reading = await self.driver.read()
        assert isinstance(reading, MinerReading), reading
        return reading

    @property
    def curtailable(self) -> Curtailable:
        assert isinstance(self.driver, Curtailable)
        return self.driver

    @property
    def power_limited(self) -> PowerLimited:
        assert isinstance(self.driver, PowerLimited)
        return self.driver


@asynccontextmanager
async def pair(firmware: str, asic: MemoryAsic | None = None, *, secret: str | None = None) -> AsyncIterator[Pair]:
    """A device and the driver made for it. `secret` None is the firmware's own password."""
    async with rig(firmware, asic) as device:
        options: dict[str, str | int | float] = dict(RANGE_W) if firmware in POWER_LIMITED else {}
        if firmware == "braiins":
            options |= {"http_port": device.port, "password": secret or "root"}
        elif secret is not None:
            options["password"] = secret
        driver = _made(firmware, device, options)
        yield Pair(device, driver)
        await driver.close()


def _made(firmware: str, device: Rig, options: dict[str, str | int | float]) -> Miner:
    return REGISTRY[DRIVER_OF[firmware]](device.host, device.port, options, deadline_s=DEADLINE_S, clock=LoopClock())


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_a_running_machine_is_read_as_it_is(firmware: str) -> None:
    async with pair(firmware) as both:
        reading = await both.read()
        assert reading.state is DeviceState.RUNNING
        assert reading.hashrate_ghs == 199_500
        assert reading.power_w == (3_600 if firmware in POWER_STATED else None)
        assert reading.errors == ()
        assert reading.chip_temp_mc is not None
        assert 50_000 <= reading.chip_temp_mc <= 71_000


@pytest.mark.parametrize("firmware", CURTAILABLE)
async def test_stop_and_resume_do_it_and_the_state_is_read_back(firmware: str) -> None:
    async with pair(firmware) as both:
        assert isinstance(await both.curtailable.stop(), Applied)
        assert both.device.asic.state is AsicState.SLEEPING
        asleep = await both.read()
        assert asleep.state is DeviceState.STOPPED
        assert not asleep.hashrate_ghs
        assert isinstance(await both.curtailable.resume(), Applied)
        assert both.device.asic.asked == ["sleep", "wake"]
        assert (await both.read()).state is DeviceState.RUNNING
        assert [entry.obeyed for entry in both.device.commands] == [True, True]


@pytest.mark.parametrize("firmware", CURTAILABLE)
async def test_stopping_the_stopped_and_resuming_the_running_is_applied(firmware: str) -> None:
    async with pair(firmware) as both:
        assert isinstance(await both.curtailable.resume(), Applied)
        for _ in range(2):
            assert isinstance(await both.curtailable.stop(), Applied)
        assert both.device.asic.state is AsicState.SLEEPING


@pytest.mark.parametrize("firmware", CURTAILABLE)
async def test_a_machine_on_its_way_up_is_starting_and_never_running(firmware: str) -> None:
    booting = MemoryAsic(state=AsicState.BOOTING, hashrate_ghs=0.0, reported_power_w=400.0)
    async with pair(firmware, booting) as both:
        assert (await both.read()).state is DeviceState.STARTING


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_a_machine_its_protection_stopped_is_never_read_as_running_or_stopped_by_command(firmware: str) -> None:
    hot = MemoryAsic(state=AsicState.TRIPPED, hashrate_ghs=0.0, reported_power_w=60.0, chip_temp_c=104.0)
    async with pair(firmware, hot) as both:
        reading = await both.read()
        assert reading.state not in {DeviceState.RUNNING, DeviceState.STOPPED}
        if firmware in {"luxos", "whatsminer"}:
            assert reading.state is DeviceState.TRIPPED
        assert reading.hashrate_ghs == 0


@pytest.mark.parametrize("firmware", POWER_LIMITED)
@pytest.mark.parametrize("power_w", [MODEL.min_power_w, 2_500, MODEL.rated_w])
async def test_a_power_is_set_without_a_reboot_and_never_above_what_was_asked(firmware: str, power_w: int) -> None:
    async with pair(firmware) as both:
        assert isinstance(await both.power_limited.set_power_w(power_w), Applied)
        assert "reboot" not in both.device.asic.asked
        assert power_w - 150 <= both.device.asic.power_limit_w <= power_w


@pytest.mark.parametrize("firmware", POWER_LIMITED)
async def test_a_power_out_of_range_is_refused_and_the_machine_left_alone(firmware: str) -> None:
    async with pair(firmware) as both:
        for power_w in (MODEL.min_power_w - 1, MODEL.rated_w + 1):
            assert isinstance(await both.power_limited.set_power_w(power_w), Refused)
        assert both.device.asic.asked == []


@pytest.mark.parametrize("firmware", POWER_LIMITED)
async def test_a_limit_survives_a_stop_and_a_resume(firmware: str) -> None:
    async with pair(firmware) as both:
        await both.power_limited.set_power_w(2_500)
        before_w = both.device.asic.power_limit_w
        await both.curtailable.stop()
        await both.curtailable.resume()
        assert both.device.asic.power_limit_w == before_w


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("firmware", FIRMWARES)
@pytest.mark.parametrize(
    ("fault", "failures"),
    [
        (DeviceFault.HANG, {Failure.TIMEOUT}),
        (DeviceFault.SLOW, {Failure.TIMEOUT}),
        (DeviceFault.REFUSE_CONNECTION, {Failure.CONNECT, Failure.CLOSED}),
        (DeviceFault.GARBAGE, {Failure.GARBAGE}),
        (DeviceFault.CUT_SHORT, {Failure.GARBAGE, Failure.CLOSED}),
    ],
)
def test_a_broken_device_is_unreachable_within_the_deadline_and_read_again_when_it_is_well(
    firmware: str, fault: DeviceFault, failures: set[Failure]
) -> None:
    async def main() -> None:
        async with pair(firmware, MemoryAsic(fault=fault)) as both:
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            found = await both.driver.read()
            assert isinstance(found, Unreachable)
            assert found.failure in failures
            if isinstance(both.driver, Curtailable):
                assert isinstance(await both.driver.stop(), Unreachable)
            assert loop.time() - started_s <= 2 * DEADLINE_S + 0.1
            both.device.asic.fault = None
            assert (await both.read()).hashrate_ghs == both.device.asic.hashrate_ghs

    run_virtual(main())


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_impossible_figures_are_unknown_never_zero_and_never_running(firmware: str) -> None:
    async with pair(firmware, MemoryAsic(fault=DeviceFault.NAN)) as both:
        found = await both.driver.read()
        if isinstance(found, MinerReading):
            assert (found.power_w, found.hashrate_ghs) == (None, None)
            assert found.state is DeviceState.UNKNOWN
            assert found.chip_temp_mc is None or -60_000 <= found.chip_temp_mc < 0


@pytest.mark.parametrize("firmware", CURTAILABLE)
async def test_a_device_that_says_yes_and_does_nothing_is_applied_and_seen_through_by_the_next_reading(
    firmware: str,
) -> None:
    async with pair(firmware, MemoryAsic(fault=DeviceFault.OK_BUT_NOTHING)) as both:
        assert isinstance(await both.curtailable.stop(), Applied)
        assert (await both.read()).state is DeviceState.RUNNING


@pytest.mark.parametrize("firmware", CURTAILABLE)
async def test_a_device_that_says_no_and_does_it_is_seen_to_be_stopped(firmware: str) -> None:
    async with pair(firmware, MemoryAsic(fault=DeviceFault.NO_BUT_DOES)) as both:
        assert isinstance(await both.curtailable.stop(), Applied | Refused)
        assert both.device.asic.asked[0] == "sleep"
        assert (await both.read()).state is DeviceState.STOPPED


@pytest.mark.parametrize("firmware", ["antminer", "braiins", "whatsminer"])
async def test_a_wrong_password_is_an_authentication_failure(firmware: str) -> None:
    async with pair(firmware, secret="wrong") as both:
        command = both.power_limited.set_power_w(2_500) if firmware == "braiins" else both.curtailable.stop()
        found = await command
        assert isinstance(found, Unreachable)
        assert found.failure is Failure.AUTH
        assert both.device.asic.asked == []


# -- sessions and tokens -------------------------------------------------------------------------------------------


def test_luxos_commands_an_hour_apart_outlive_any_session() -> None:
    async def main() -> None:
        async with pair("luxos") as both:
            for _ in range(3):
                assert isinstance(await both.curtailable.stop(), Applied)
                await asyncio.sleep(SESSION_S + 1.0)
                assert isinstance(await both.curtailable.resume(), Applied)
                await asyncio.sleep(3_600.0)
            assert both.device.asic.asked == ["sleep", "wake"] * 3

    run_virtual(main())


async def test_luxos_stops_even_while_another_tool_holds_the_session_and_sets_no_power_then() -> None:
    async with pair("luxos") as both:
        await both.device.ask("logon")
        assert isinstance(await both.power_limited.set_power_w(2_500), Refused)
        assert isinstance(await both.curtailable.stop(), Applied)
        assert both.device.asic.state is AsicState.SLEEPING


def test_whatsminer_commands_over_a_day_never_run_out_of_tokens() -> None:
    async def main() -> None:
        async with pair("whatsminer") as both:
            for turn in range(48):
                wanted = both.curtailable.stop() if turn % 2 else both.curtailable.resume()
                assert isinstance(await wanted, Applied)
                await asyncio.sleep(1_800.0)
            assert both.device.asic.asked == ["wake", "sleep"] * 24

    run_virtual(main())


async def test_whatsminer_takes_a_new_token_when_a_reboot_forgot_the_old() -> None:
    async with pair("whatsminer") as both:
        assert isinstance(await both.curtailable.stop(), Applied)
        session = await get_token(both.device)
        assert (await write(both.device, session, "adjust_power_limit", power_limit="3000"))["Code"] == 131
        assert isinstance(await both.curtailable.resume(), Applied)
        assert both.device.asic.asked == ["sleep", "limit 3000", "reboot", "wake"]


async def test_antminer_keeps_its_pools_over_a_stop_and_a_resume() -> None:
    async with pair("antminer") as both:
        await both.curtailable.stop()
        await both.curtailable.resume()
        assert both.device.asic.asked == ["sleep", "wake"]
        assert (await page(both.device, "GET", CONF_PAGE))["pools"] == CONF["pools"]
