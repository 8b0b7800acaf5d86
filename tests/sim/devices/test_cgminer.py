"""A read-only cgminer miner, against the documented shapes of the cgminer API."""

from __future__ import annotations

import pytest

from tests.sim.devices.rig import MemoryAsic, code, parsed, rig


async def test_an_answer_has_a_status_its_section_an_id_and_ends_with_a_nul() -> None:
    async with rig("cgminer") as device:
        raw = await device.raw(b'{"command":"summary"}')
        assert raw.endswith(b"\0")
        answer = parsed(raw)
        assert set(answer) == {"STATUS", "SUMMARY", "id"}
        status = answer["STATUS"][0]
        assert (status["STATUS"], status["Code"], status["Msg"]) == ("S", 11, "Summary")
        assert status["Description"].startswith("cgminer ")
        assert answer["SUMMARY"][0]["MHS av"] == pytest.approx(199_500_000.0)


async def test_devs_names_every_board_with_its_share_of_the_hashrate() -> None:
    async with rig("cgminer") as device:
        answer = await device.ask("devs")
        assert code(answer) == 9
        assert [board["ASC"] for board in answer["DEVS"]] == [0, 1, 2]
        assert sum(board["MHS 5s"] for board in answer["DEVS"]) == pytest.approx(199_500_000.0, rel=1e-6)


async def test_joined_commands_answer_each_under_its_name() -> None:
    async with rig("cgminer") as device:
        answer = await device.ask("summary+version+bogus")
        assert list(answer) == ["summary", "version", "bogus", "id"]
        assert answer["version"][0]["VERSION"][0]["API"] == "3.7"
        assert code(answer["bogus"][0]) == 14


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b'{"command":"bogus"}', 14),
        (b'{"cmd":"summary"}', 24),
        (b'{"command":7}', 24),
        (b'{"command":"quit"}', 45),
        (b'{"command":"pause"}', 14),
    ],
)
async def test_what_it_does_not_know_or_allow_is_refused_with_the_documented_code(
    request_bytes: bytes, expected: int
) -> None:
    async with rig("cgminer") as device:
        answer = parsed(await device.raw(request_bytes))
        assert answer["STATUS"][0]["STATUS"] == "E"
        assert code(answer) == expected
        assert device.asic.asked == []


async def test_a_text_request_is_answered_in_text() -> None:
    async with rig("cgminer") as device:
        answer = await device.raw(b"version\n")
        assert answer.startswith(b"STATUS=S,When=")
        assert answer.endswith(b"|VERSION,CGMiner=4.11.1,API=3.7|\0")
        boards = await device.raw(b"devs|\n")
        assert boards.count(b"|ASC=") == 3


async def test_readings_are_counted_and_not_logged_as_commands() -> None:
    async with rig("cgminer") as device:
        for _ in range(3):
            await device.ask("summary")
        assert device.farm.log.reads == 3
        assert device.commands == []


async def test_a_quote_in_a_name_does_not_break_the_json() -> None:
    async with rig("antminer", MemoryAsic(serial='a"b\\c%d')) as device:
        assert (await device.ask("summary"))["STATUS"][0]["STATUS"] == "S"
        assert (await device.ask("stats+version+devs+pools"))["stats"]
