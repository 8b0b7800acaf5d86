"""A stock Antminer: digest, the CGI pages, and the reading half of 4028."""

from __future__ import annotations

import asyncio
import json
import re
from hashlib import md5
from typing import Any

import aiohttp
import pytest

from sim.devices import antminer
from sim.ports import AsicState, DeviceFault
from sim.virtual import run_virtual
from tests.sim.devices.rig import MemoryAsic, Rig, code, http, parsed, rig

CONF = "/cgi-bin/get_miner_conf.cgi"
SET = "/cgi-bin/set_miner_conf.cgi"


def digest(challenge: str, method: str, uri: str, known: str = "root", nonce: str | None = None) -> str:
    """An Authorization header by RFC 2617, from a WWW-Authenticate header."""
    realm = re.findall('realm="([^"]*)"', challenge)[0]
    nonce = nonce or re.findall('nonce="([^"]*)"', challenge)[0]

    def h(text: str) -> str:
        return md5(text.encode(), usedforsecurity=False).hexdigest()

    response = h(f"{h(f'root:{realm}:{known}')}:{nonce}:00000001:abcdef:auth:{h(f'{method}:{uri}')}")
    return (
        f'Digest username="root", realm="{realm}", nonce="{nonce}", uri="{uri}", qop=auth, nc=00000001, '
        f'cnonce="abcdef", response="{response}"'
    )


async def page(device: Rig, method: str, path: str, body: Any = None) -> Any:
    """One page with a fresh challenge, parsed."""
    _, headers, _ = await http(device, method, path)
    wish = {"Authorization": digest(headers["www-authenticate"], method, path)}
    status, _, content = await http(device, method, path, body, wish)
    assert status == 200
    return json.loads(content)


async def test_every_page_wants_a_digest_of_the_right_password() -> None:
    async with rig("antminer") as device:
        for path in ("/", CONF, "/cgi-bin/nothing.cgi"):
            status, headers, _ = await http(device, "GET", path)
            assert status == 401
            assert headers["www-authenticate"].startswith('Digest realm="antMiner Configuration", nonce="')
        challenge = headers["www-authenticate"]
        for wrong in (
            digest(challenge, "GET", CONF, "wrong"),
            digest(challenge, "POST", CONF),
            digest(challenge, "GET", SET),
            digest(challenge, "GET", CONF, nonce="0:made-up"),
            "Basic cm9vdDpyb290",
        ):
            assert (await http(device, "GET", CONF, headers={"Authorization": wrong}))[0] == 401
        right = {"Authorization": digest(challenge, "GET", CONF)}
        assert (await http(device, "GET", CONF, headers=right))[0] == 200


def test_a_nonce_of_more_than_ten_minutes_is_stale() -> None:
    async def main() -> None:
        async with rig("antminer") as device:
            _, headers, _ = await http(device, "GET", CONF)
            wish = {"Authorization": digest(headers["www-authenticate"], "GET", CONF)}
            await asyncio.sleep(antminer.NONCE_S - 5.0)
            assert (await http(device, "GET", CONF, headers=wish))[0] == 200
            await asyncio.sleep(10.0)
            status, headers, _ = await http(device, "GET", CONF, headers=wish)
            assert status == 401
            assert "stale=true" in headers["www-authenticate"]

    run_virtual(main())


async def test_aiohttps_own_digest_is_accepted_on_a_kept_connection() -> None:
    async with rig("antminer") as device:
        login = aiohttp.DigestAuthMiddleware("root", "root")
        async with aiohttp.ClientSession(f"http://{device.host}:{device.port}", middlewares=(login,)) as session:
            for _ in range(3):
                async with session.get("/cgi-bin/summary.cgi") as answer:
                    found = await answer.json()
            assert found["SUMMARY"][0]["rate_5s"] == 199_500
            async with session.post(SET, json={"miner-mode": 1}) as answer:
                assert (await answer.json())["code"] == "M000"
        assert device.asic.asked == ["sleep"]


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ({"miner-mode": 1}, ["sleep"]),
        ({"miner-mode": "1"}, ["sleep"]),
        ({"bitmain-work-mode": "1"}, ["sleep"]),
        ({"miner-mode": 0}, ["wake"]),
        ({"bitmain-fan-pwm": "60"}, []),
    ],
)
async def test_the_mode_may_be_text_or_a_figure_and_under_either_name(
    sent: dict[str, object], asked: list[str]
) -> None:
    async with rig("antminer") as device:
        assert await page(device, "POST", SET, sent) == {"stats": "success", "code": "M000", "msg": "OK!"}
        assert device.asic.asked == asked


async def test_the_mode_in_force_is_shown_as_text() -> None:
    async with rig("antminer") as device:
        assert (await page(device, "GET", CONF))["bitmain-work-mode"] == "0"
        device.asic.state = AsicState.SLEEPING
        assert (await page(device, "GET", CONF))["bitmain-work-mode"] == "1"


async def test_pools_that_are_sent_are_taken_and_those_that_are_not_stay() -> None:
    async with rig("antminer") as device:
        before = (await page(device, "GET", CONF))["pools"]
        new = {"url": "stratum+tcp://other.example:1", "user": "u", "pass": "p"}
        await page(device, "POST", SET, {"miner-mode": 1, "pools": [new], "freq-level": "90"})
        conf = await page(device, "GET", CONF)
        assert conf["pools"] == [new, *before[1:]]
        assert conf["bitmain-freq-level"] == "90"


@pytest.mark.parametrize("sent", [{"miner-mode": 7}, {"miner-mode": "sleep"}, [], "text"])
async def test_an_invalid_configuration_changes_nothing(sent: object) -> None:
    async with rig("antminer") as device:
        assert (await page(device, "POST", SET, sent))["stats"] == "error"
        assert device.asic.asked == []
        assert [entry.obeyed for entry in device.commands][-1] is False


async def test_the_pages_carry_the_figures_of_the_machine_and_no_power() -> None:
    async with rig("antminer") as device:
        stats = (await page(device, "GET", "/cgi-bin/stats.cgi"))["STATS"][0]
        assert (stats["rate_5s"], stats["rate_unit"], stats["chain_num"]) == (199_500, "GH/s", 3)
        assert max(max(chain["temp_chip"]) for chain in stats["chain"]) == 71
        assert "watt" not in stats
        info = await page(device, "GET", "/cgi-bin/get_system_info.cgi")
        assert (info["minertype"], info["serinum"], info["firmware_type"]) == ("Antminer S21", "SN0001", "Release")
        checks = (await page(device, "GET", "/cgi-bin/summary.cgi"))["SUMMARY"][0]["status"]
        assert {check["type"]: check["status"] for check in checks}["temp"] == "s"


async def test_a_tripped_machine_says_its_temperature_is_an_error() -> None:
    async with rig("antminer", MemoryAsic(state=AsicState.TRIPPED, hashrate_ghs=0.0)) as device:
        checks = (await page(device, "GET", "/cgi-bin/summary.cgi"))["SUMMARY"][0]["status"]
        assert {check["type"]: check["status"] for check in checks}["temp"] == "e"


async def test_the_same_port_answers_4028_for_reading_only() -> None:
    async with rig("antminer") as device:
        raw = await device.raw(b'{"command":"stats"}')
        assert raw.endswith(b"\0")
        what, stats = parsed(raw)["STATS"]
        assert what["Type"] == "Antminer S21"
        assert (stats["ID"], stats["miner_count"], stats["GHS 5s"]) == ("BTM_SOC0", 3, 199_500)
        assert re.fullmatch(r"\d+-\d+-\d+-\d+", stats["temp_chip2"])
        assert stats["chain_rate4"] == ""
        assert code(await device.ask("summary")) == 11
        assert code(await device.ask("pause")) == 14


async def test_a_lie_over_http() -> None:
    async with rig("antminer") as device:
        device.asic.fault = DeviceFault.OK_BUT_NOTHING
        assert (await page(device, "POST", SET, {"miner-mode": 1}))["stats"] == "success"
        device.asic.fault = DeviceFault.NO_BUT_DOES
        assert (await page(device, "POST", SET, {"miner-mode": 1}))["stats"] == "error"
        assert device.asic.asked == ["sleep"]
        assert [entry.obeyed for entry in device.commands if "miner-mode" in entry.command] == [False, True]
