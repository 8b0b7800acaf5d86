"""A WhatsMiner: tokens, keys and encryption of API 2.0.5, by a client written from the document alone."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from sim.devices import whatsminer
from sim.devices.md5crypt import md5crypt
from sim.ports import AsicState, DeviceFault
from sim.virtual import run_virtual
from tests.sim.devices.rig import MODEL, MemoryAsic, Rig, parsed, rig


class Session(NamedTuple):
    key: bytes
    token: str


async def get_token(device: Rig, known: str = "admin") -> Session:
    answer = await device.ask("get_token")
    assert (answer["STATUS"], answer["Code"]) == ("S", 134)
    given = answer["Msg"]
    secret = md5crypt(known, given["salt"])
    return Session(sha256(secret.encode()).digest(), md5crypt(secret + given["time"], given["newsalt"]))


async def write(device: Rig, session: Session, cmd: str, **parameters: str) -> Any:
    """One encrypted command: the answer, decrypted where it is encrypted."""
    answer = parsed(await device.raw(sealed(session, cmd, **parameters)))
    if "enc" not in answer:
        return answer
    reader = _cipher(session).decryptor()
    return json.loads((reader.update(b64decode(answer["enc"])) + reader.finalize()).rstrip(b"\0"))


def sealed(session: Session, cmd: str, **parameters: str) -> bytes:
    """A request as it goes over the wire."""
    plain = json.dumps({"cmd": cmd, "token": session.token, **parameters}).encode()
    plain += b"\0" * (-len(plain) % 16)
    writer = _cipher(session).encryptor()
    return json.dumps({"enc": 1, "data": b64encode(writer.update(plain) + writer.finalize()).decode()}).encode()


def _cipher(session: Session) -> Cipher[ECB]:
    return Cipher(AES(session.key), ECB())  # noqa: S305  the vendor's choice


async def test_readings_are_open_in_the_vendors_two_forms() -> None:
    async with rig("whatsminer") as device:
        summary = parsed(await device.raw(b'{"cmd":"summary"}'))
        assert summary["STATUS"] == [{"STATUS": "S", "Msg": "Summary"}]
        found = summary["SUMMARY"][0]
        assert (found["Power"], found["Power Limit"], found["Env Temp"]) == (3_600, 3_500, 24.5)
        assert found["HS RT"] == found["MHS av"] == 199_500_000
        assert found["Chip Temp Max"] == 71.0
        boards = (await device.ask("edevs"))["DEVS"]
        assert [board["Slot"] for board in boards] == [0, 1, 2]
        assert max(board["Chip Temp Max"] for board in boards) == 71.0
        for command in ("status", "get_version", "get_psu", "get_miner_info", "get_error_code"):
            answer = await device.ask(command)
            assert (answer["STATUS"], answer["Code"]) == ("S", 131)
        assert (await device.ask("status"))["Msg"]["mineroff"] == "false"


async def test_an_unknown_command_is_14_and_a_plain_write_is_45() -> None:
    async with rig("whatsminer") as device:
        assert (await device.ask("bogus"))["Code"] == 14
        answer = await device.ask("power_off")
        assert (answer["STATUS"], answer["Code"]) == ("E", 45)
        assert device.asic.asked == []
        assert [(entry.command, entry.obeyed) for entry in device.commands] == [("power_off", False)]


async def test_power_off_and_on_under_a_token() -> None:
    async with rig("whatsminer") as device:
        session = await get_token(device)
        answer = await write(device, session, "power_off", respbefore="true")
        assert (answer["STATUS"], answer["Code"], answer["Msg"]) == ("S", 131, "API command OK")
        assert device.asic.state is AsicState.SLEEPING
        status = (await device.ask("status"))["Msg"]
        assert (status["mineroff"], status["mineroff_reason"]) == ("true", "by whatsminer api")
        assert (await write(device, session, "power_on"))["Code"] == 131
        assert device.asic.asked == ["sleep", "wake"]


async def test_the_answer_to_a_write_is_encrypted() -> None:
    async with rig("whatsminer") as device:
        request = sealed(await get_token(device), "power_on")
        answer = parsed(await device.raw(request))
        assert list(answer) == ["enc"]


@pytest.mark.parametrize(("percent", "power_w"), [("100", 3_500), ("70", 2_450), ("10", MODEL.min_power_w)])
async def test_set_power_pct_is_a_share_of_the_limit_and_never_under_the_least(percent: str, power_w: int) -> None:
    async with rig("whatsminer") as device:
        assert (await write(device, await get_token(device), "set_power_pct", percent=percent))["Code"] == 131
        assert device.asic.asked == [f"limit {power_w}"]
        assert (await device.ask("summary"))["SUMMARY"][0]["Power Limit"] == 3_500


@pytest.mark.parametrize("percent", ["101", "-1", "", "half", "99999999999999999999"])
async def test_a_percentage_out_of_range_is_132(percent: str) -> None:
    async with rig("whatsminer") as device:
        assert (await write(device, await get_token(device), "set_power_pct", percent=percent))["Code"] == 132
        assert device.asic.asked == []


async def test_adjust_power_limit_reboots_forgets_tokens_and_is_what_a_percentage_is_of() -> None:
    async with rig("whatsminer") as device:
        session = await get_token(device)
        assert (await write(device, session, "adjust_power_limit", power_limit="3000"))["Code"] == 131
        assert device.asic.asked == ["limit 3000", "reboot"]
        assert (await device.ask("summary"))["SUMMARY"][0]["Power Limit"] == 3_000
        assert (await write(device, session, "set_power_pct", percent="80"))["Code"] == 135
        assert (await write(device, await get_token(device), "set_power_pct", percent="80"))["Code"] == 131
        assert device.asic.asked[-1] == "limit 2400"


async def test_a_limit_above_the_ordinary_power_is_refused() -> None:
    async with rig("whatsminer") as device:
        session = await get_token(device)
        assert (await write(device, session, "adjust_power_limit", power_limit="3501"))["Code"] == 132
        assert device.asic.asked == []


async def test_the_thirty_third_token_of_one_address_is_refused() -> None:
    async with rig("whatsminer") as device:
        sessions = [await get_token(device) for _ in range(whatsminer.MAX_TOKENS)]
        assert (await device.ask("get_token"))["Code"] == 136
        assert (await write(device, sessions[0], "power_off"))["Code"] == 131
        assert (await write(device, sessions[-1], "power_on"))["Code"] == 131


def test_a_token_lives_for_thirty_minutes_and_then_makes_room() -> None:
    async def main() -> None:
        async with rig("whatsminer") as device:
            sessions = [await get_token(device) for _ in range(whatsminer.MAX_TOKENS)]
            await asyncio.sleep(whatsminer.TOKEN_S - 10.0)
            assert (await write(device, sessions[0], "power_off"))["Code"] == 131
            await asyncio.sleep(20.0)
            assert (await write(device, sessions[0], "power_on"))["Code"] == 135
            assert (await write(device, await get_token(device), "power_on"))["Code"] == 131

    run_virtual(main())


async def test_a_token_made_with_the_wrong_password_is_no_token() -> None:
    async with rig("whatsminer") as device:
        assert (await write(device, await get_token(device, "wrong"), "power_off"))["STATUS"] == "E"
        right = await get_token(device)
        assert (await write(device, right._replace(token="x" * 22), "power_off"))["Code"] == 135
        assert device.asic.asked == []


@pytest.mark.parametrize("data", ["", "!!", "AAAA", None, 7, "A" * 64])
async def test_what_does_not_decrypt_to_a_command_is_refused_in_the_clear(data: object) -> None:
    async with rig("whatsminer") as device:
        answer = parsed(await device.raw(json.dumps({"enc": 1, "data": data}).encode()))
        assert (answer["STATUS"], answer["Code"]) in {("E", 137), ("E", 23)}


async def test_a_reading_may_be_encrypted_too() -> None:
    async with rig("whatsminer") as device:
        assert (await write(device, await get_token(device), "summary"))["SUMMARY"][0]["Power"] == 3_600


async def test_a_lie_is_encrypted_like_the_truth() -> None:
    async with rig("whatsminer") as device:
        session = await get_token(device)
        device.asic.fault = DeviceFault.OK_BUT_NOTHING
        assert (await write(device, session, "power_off"))["Code"] == 131
        assert device.asic.asked == []


async def test_a_tripped_machine_reports_the_protection_of_its_boards() -> None:
    async with rig("whatsminer", MemoryAsic(state=AsicState.TRIPPED, hashrate_ghs=0.0)) as device:
        codes = [next(iter(entry)) for entry in (await device.ask("get_error_code"))["Msg"]["error_code"]]
        assert codes == ["350", "351", "352"]


@pytest.mark.parametrize(
    ("password", "salt", "expected"),
    [
        ("password", "saltsalt", "qjXMvbEw8oaL.CzflDtaK/"),
        ("admin", "BQ5hoXV9", "RxmaDUO33TS7O26yeMHZ81"),
        ("", "12345678", "xek.CpjQUVgdf/P2N9KQf/"),
        ("a password that is longer than sixteen bytes", "jbzkfQls", "gGGbYSgUtBtJc4E8qMiM.."),
    ],
)
def test_md5crypt_agrees_with_the_crypt_of_glibc(password: str, salt: str, expected: str) -> None:
    assert md5crypt(password, salt) == expected
