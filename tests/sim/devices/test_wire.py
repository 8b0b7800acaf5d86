"""The wire all simulated devices share: framing, bounds, latency and faults."""

from __future__ import annotations

import asyncio
import json

import pytest

from sim.devices import wire
from sim.ports import AsicState, DeviceFault
from sim.virtual import run_virtual
from tests.sim.devices.rig import MemoryAsic, code, parsed, rig, until

FIRMWARES = ("antminer", "braiins", "cgminer", "luxos", "whatsminer")
SUMMARY = b'{"command":"summary"}'


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_a_request_in_pieces_is_answered_once_it_is_whole(firmware: str) -> None:
    async with rig(firmware) as device, device.connected() as (reader, writer):
        for piece in (b'{"com', b'mand": "summ', b'ary"', b"}"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert parsed(await reader.read())["SUMMARY"][0]["Elapsed"] == 3_600


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_the_first_of_several_requests_is_answered_and_the_connection_closed(firmware: str) -> None:
    async with rig(firmware) as device:
        answer = parsed(await device.raw(SUMMARY + b'{"command":"devs"}' + SUMMARY))
        assert "SUMMARY" in answer
        assert "DEVS" not in answer


@pytest.mark.parametrize("firmware", FIRMWARES)
@pytest.mark.parametrize(
    "request_bytes",
    [b'{"command": summary}', b'{"command":"summary",}', b"{}}", b'{"a":' * 1_500 + b"1" + b"}" * 1_500],
)
async def test_malformed_json_is_answered_with_an_error(firmware: str, request_bytes: bytes) -> None:
    async with rig(firmware) as device:
        answer = parsed(await device.raw(request_bytes))
        status = answer["STATUS"][0] if isinstance(answer["STATUS"], list) else answer
        assert status["STATUS"] == "E"
        assert status["Code"] in {14, 23, 24}


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_a_request_beyond_the_bound_is_refused_and_not_waited_for(firmware: str) -> None:
    async with rig(firmware) as device:
        answer = await device.raw(b'{"command":"' + b"x" * (wire.MAX_REQUEST_BYTES + 1))
        assert b'"E"' in answer
        assert len(answer) < 1_000


@pytest.mark.parametrize("ending", [b"", b"\n", b"\0", b"\r\n"])
async def test_a_request_may_end_with_a_newline_or_a_nul(ending: bytes) -> None:
    async with rig("luxos") as device:
        assert "SUMMARY" in parsed(await device.raw(SUMMARY + ending))


async def test_half_a_request_is_an_error_when_the_client_ends_it() -> None:
    async with rig("cgminer") as device, device.connected() as (reader, writer):
        writer.write(b'{"command":"summ')
        writer.write_eof()
        assert code(parsed(await reader.read())) == 23


def test_a_silent_client_is_hung_up_on_after_ten_seconds() -> None:
    async def main() -> float:
        async with rig("whatsminer") as device, device.connected() as (reader, writer):
            writer.write(b'{"cmd":')
            assert await reader.read() == b""
            return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(wire.IDLE_S, abs=0.1)


def test_an_answer_leaves_after_the_latency_of_the_machine_and_the_command_acts_before() -> None:
    async def main() -> None:
        async with rig("braiins", MemoryAsic(latency_s=0.5)) as device:
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            assert (await device.ask("pause"))["PAUSE"] == [True]
            assert loop.time() - started_s == pytest.approx(0.5, abs=0.05)
            assert device.commands[0].at_s - started_s < 0.05

    run_virtual(main())


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_a_hanging_device_accepts_and_never_answers(firmware: str) -> None:
    async with rig(firmware, MemoryAsic(fault=DeviceFault.HANG)) as device, device.connected() as (reader, writer):
        writer.write(SUMMARY)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read()


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_a_device_without_power_never_answers(firmware: str) -> None:
    async with rig(firmware, MemoryAsic(state=AsicState.DEAD)) as device, device.connected() as (reader, writer):
        writer.write(SUMMARY)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read()


async def test_a_device_that_loses_power_before_it_answered_does_not_answer() -> None:
    asic = MemoryAsic(latency_s=0.05)
    async with rig("luxos", asic) as device, device.connected() as (reader, writer):
        writer.write(SUMMARY)
        await until(lambda: device.farm.log.reads == 1)
        asic.state = AsicState.DEAD
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.read()


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_a_refusing_device_resets_the_connection(firmware: str) -> None:
    async with rig(firmware, MemoryAsic(fault=DeviceFault.REFUSE_CONNECTION)) as device:
        with pytest.raises(ConnectionError):
            await device.raw(SUMMARY)


def test_a_refusing_device_resets_in_virtual_time_too() -> None:
    async def main() -> None:
        async with rig("luxos", MemoryAsic(fault=DeviceFault.REFUSE_CONNECTION)) as device:
            with pytest.raises(ConnectionError):
                await device.raw(SUMMARY)

    run_virtual(main())


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_garbage_is_not_the_protocol(firmware: str) -> None:
    async with rig(firmware, MemoryAsic(fault=DeviceFault.GARBAGE)) as device:
        answer = await device.raw(SUMMARY)
        assert answer
        with pytest.raises(ValueError):
            parsed(answer)


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_an_answer_cut_short_is_a_true_part_of_one(firmware: str) -> None:
    async with rig(firmware) as device:
        whole = await device.raw(b'{"command":"version"}')
        device.asic.fault = DeviceFault.CUT_SHORT
        part = await device.raw(b'{"command":"version"}')
        assert 0 < len(part) < len(whole)
        with pytest.raises(ValueError):
            parsed(part)


def test_a_slow_device_drips_its_answer_a_byte_at_a_time() -> None:
    async def main() -> tuple[bytes, float]:
        async with (
            rig("luxos", MemoryAsic(fault=DeviceFault.SLOW)) as device,
            device.connected() as (reader, writer),
        ):
            writer.write(b'{"command":"nothing"}')
            return await reader.read(), asyncio.get_running_loop().time()

    answer, took_s = run_virtual(main())
    assert code(parsed(answer)) == 14
    assert took_s == pytest.approx(len(answer) * wire.DRIP_S, rel=0.02)


@pytest.mark.parametrize("firmware", FIRMWARES)
async def test_impossible_figures_are_spelled_as_json_libraries_spell_them(firmware: str) -> None:
    async with rig(firmware, MemoryAsic(fault=DeviceFault.NAN)) as device:
        answer = await device.raw(b'{"command":"summary+devs"}')
        assert any(word in answer for word in (b"NaN", b"Infinity"))
        assert b"nan" not in answer
        assert parsed(answer)


@pytest.mark.parametrize(
    ("fault", "says_yes", "does"),
    [(None, True, True), (DeviceFault.OK_BUT_NOTHING, True, False), (DeviceFault.NO_BUT_DOES, False, True)],
)
async def test_a_lying_device_says_one_thing_and_does_another(
    fault: DeviceFault | None, says_yes: bool, does: bool
) -> None:
    async with rig("braiins", MemoryAsic(fault=fault)) as device:
        answer = await device.ask("pause")
        assert (answer["STATUS"][0]["STATUS"] == "S") is says_yes
        assert (device.asic.asked == ["sleep"]) is does
        assert [(entry.command, entry.obeyed) for entry in device.commands] == [("pause", does)]


async def test_a_fault_can_come_and_go_between_two_exchanges() -> None:
    async with rig("luxos") as device:
        assert "SUMMARY" in await device.ask("summary")
        device.asic.fault = DeviceFault.GARBAGE
        assert await device.raw(SUMMARY) == wire.GARBAGE
        device.asic.fault = None
        assert "SUMMARY" in await device.ask("summary")


@pytest.mark.parametrize("firmware", FIRMWARES)
def test_every_firmware_runs_unchanged_in_virtual_time(firmware: str) -> None:
    async def main() -> object:
        async with rig(firmware) as device:
            return parsed(await device.raw(SUMMARY))["SUMMARY"][0]["Elapsed"]

    assert run_virtual(main()) == 3_600


@pytest.mark.parametrize(
    ("data", "ended", "taken"),
    [
        (b'{"a":1}', False, ({"a": 1},)),
        (b' \r\n{"a":1}rest', False, ({"a": 1},)),
        (b'{"a":"}"', False, None),
        (b'{"a":"}', False, None),
        (b'{"a":"\\"}', False, None),
        (b'{"a":"x" "}"}', False, (None,)),
        (b'{"a":', True, (None,)),
        (b'{"a":1\0', False, (None,)),
        (b"summary\n", False, ("summary",)),
        (b"summary|0\0", False, ("summary|0",)),
        (b"summary", False, None),
        (b"summary", True, ("summary",)),
        (b"x" * 9_000, False, (None,)),
        (b"x" * 9_000 + b"\n", False, (None,)),
        (b"{" + b" " * 9_000, False, (None,)),
        (json.dumps({"a": "é"}, ensure_ascii=False).encode(), False, ({"a": "é"},)),
        (b'{"a":"\xff"}', False, ({"a": "�"},)),
    ],
)
def test_a_request_is_taken_when_it_is_whole_or_can_never_be(data: bytes, ended: bool, taken: object) -> None:
    assert wire.take_api_request(data, ended=ended) == taken
