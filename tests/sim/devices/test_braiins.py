"""A Braiins OS miner: 4028 as documented, and the public REST API with its token."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from sim.devices import braiins
from sim.ports import AsicState, DeviceFault
from sim.virtual import run_virtual
from tests.sim.devices.rig import MODEL, MemoryAsic, Rig, code, http, rig

API = "/api/v1"
LOGIN = {"username": "root", "password": "root"}


async def token(device: Rig) -> dict[str, str]:
    status, _, body = await http(device, "POST", f"{API}/auth/login", LOGIN)
    assert status == 200
    answer = json.loads(body)
    assert answer["timeout_s"] > 0
    return {"Authorization": answer["token"]}


async def get(device: Rig, path: str, headers: dict[str, str]) -> Any:
    status, fields, body = await http(device, "GET", f"{API}/{path}", headers=headers)
    assert status == 200
    assert fields["content-type"] == "application/json"
    return json.loads(body)


async def test_the_4028_readings_have_the_documented_codes_and_units() -> None:
    async with rig("braiins") as device:
        answer = await device.ask("temps+fans+tempctrl+tunerstatus+summary+devs+version+devdetails")
        codes = {name: code(parts[0]) for name, parts in answer.items() if name != "id"}
        assert codes == {
            "temps": 201,
            "fans": 202,
            "tempctrl": 200,
            "tunerstatus": 203,
            "summary": 11,
            "devs": 9,
            "version": 22,
            "devdetails": 69,
        }
        assert max(board["Chip"] for board in answer["temps"][0]["TEMPS"]) == 71.0
        tuner = answer["tunerstatus"][0]["TUNERSTATUS"][0]
        assert (tuner["ApproximateMinerPowerConsumption"], tuner["PowerLimit"]) == (3_600, 3_500)
        assert len(tuner["TunerChainStatus"]) == 3
        assert answer["summary"][0]["SUMMARY"][0]["MHS 1m"] == 199_500_000


async def test_pause_and_resume_need_no_password_on_4028_and_always_say_true() -> None:
    async with rig("braiins") as device:
        for _ in range(2):
            answer = await device.ask("pause")
            assert (code(answer), answer["PAUSE"]) == (204, [True])
        assert device.asic.state is AsicState.SLEEPING
        answer = await device.ask("resume")
        assert (code(answer), answer["RESUME"]) == (205, [True])
        assert device.asic.asked == ["sleep", "sleep", "wake"]


async def test_a_paused_miner_says_so_in_its_tuner_and_has_no_device_details() -> None:
    async with rig("braiins") as device:
        await device.ask("pause")
        tuner = (await device.ask("tunerstatus"))["TUNERSTATUS"][0]
        assert {chain["Status"] for chain in tuner["TunerChainStatus"]} == {"paused"}
        details = (await device.ask("devdetails"))["STATUS"][0]
        assert (details["STATUS"], details["Msg"]) == ("E", "Unavailable")
        await device.ask("resume")
        assert (await device.ask("devdetails"))["DEVDETAILS"]


async def test_rest_wants_a_token() -> None:
    async with rig("braiins") as device:
        for headers in ({}, {"Authorization": "nonsense"}):
            assert (await http(device, "GET", f"{API}/miner/details", headers=headers))[0] == 401
            assert (await http(device, "PUT", f"{API}/actions/pause", headers=headers))[0] == 401
        status, _, _ = await http(device, "POST", f"{API}/auth/login", {"username": "root", "password": "wrong"})
        assert status == 401
        assert device.asic.asked == []
        assert [entry.obeyed for entry in device.commands] == [False, False]


def test_a_token_ends_when_unused_and_is_prolonged_by_use() -> None:
    async def main() -> None:
        async with rig("braiins") as device:
            headers = await token(device)
            for _ in range(2):
                await asyncio.sleep(braiins.TOKEN_S - 10.0)
                await get(device, "miner/details", headers)
            await asyncio.sleep(braiins.TOKEN_S + 10.0)
            assert (await http(device, "GET", f"{API}/miner/details", headers=headers))[0] == 401

    run_virtual(main())


async def test_rest_pause_says_whether_it_was_mining() -> None:
    async with rig("braiins") as device:
        headers = await token(device)
        said = []
        for action in ("pause", "pause", "resume", "resume"):
            status, _, body = await http(device, "PUT", f"{API}/actions/{action}", headers=headers)
            assert status == 200
            said.append(json.loads(body))
        assert said == [True, False, True, False]


async def test_the_status_of_details_follows_the_machine() -> None:
    async with rig("braiins") as device:
        headers = await token(device)
        found = []
        for state in (AsicState.RUNNING, AsicState.BOOTING, AsicState.SLEEPING, AsicState.TRIPPED):
            device.asic.state = state
            found.append((await get(device, "miner/details", headers))["status"])
        assert found == [2, 2, 3, 1]
        assert (await get(device, "miner/errors", headers))["errors"][0]["message"]


async def test_the_power_target_is_set_in_watts_within_the_constraints() -> None:
    async with rig("braiins") as device:
        headers = await token(device)
        bounds = (await get(device, "configuration/constraints", headers))["tuner_constraints"]["power_target"]
        assert (bounds["min"]["watt"], bounds["max"]["watt"]) == (MODEL.min_power_w, MODEL.rated_w)
        path = f"{API}/performance/power-target"
        status, _, body = await http(device, "PUT", path, {"watt": 2_500}, headers)
        assert (status, json.loads(body)) == (200, {"watt": 2_500})
        assert device.asic.asked == ["limit 2500"]
        tuner = await get(device, "performance/tuner-state", headers)
        assert tuner["mode_state"]["powertargetmodestate"]["current_target"] == {"watt": 2_500}
        for bad, expected in (({"watt": 1}, 412), ({"watt": 9_999}, 412), ({"watt": "2500"}, 422), ([], 422)):
            assert (await http(device, "PUT", path, bad, headers))[0] == expected
        assert device.asic.asked == ["limit 2500"]


async def test_stats_cooling_and_boards_carry_the_figures_of_the_machine() -> None:
    async with rig("braiins") as device:
        headers = {"Authorization": f"Bearer {(await token(device))['Authorization']}"}
        stats = await get(device, "miner/stats", headers)
        assert stats["power_stats"]["approximated_consumption"]["watt"] == 3_600
        assert stats["miner_stats"]["real_hashrate"]["last_1m"]["gigahash_per_second"] == 199_500
        cooling = await get(device, "cooling/state", headers)
        assert cooling["highest_temperature"]["temperature"]["degree_c"] == 71.0
        boards = (await get(device, "miner/hw/hashboards", headers))["hashboards"]
        assert max(board["highest_chip_temp"]["temperature"]["degree_c"] for board in boards) == 71.0
        assert min(board["lowest_inlet_temp"]["degree_c"] for board in boards) == 24.5


async def test_a_lying_rest_api_answers_500_and_does_it() -> None:
    async with rig("braiins", MemoryAsic(fault=DeviceFault.NO_BUT_DOES)) as device:
        headers = await token(device)
        assert (await http(device, "PUT", f"{API}/actions/pause", headers=headers))[0] == 500
        assert device.asic.asked == ["sleep"]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [("GET", "/", 404), ("GET", f"{API}/nothing", 404), ("PUT", f"{API}/miner/details", 405)],
)
async def test_what_is_not_there_is_404_or_405(method: str, path: str, expected: int) -> None:
    async with rig("braiins") as device:
        assert (await http(device, method, path, headers=await token(device)))[0] == expected


async def test_impossible_figures_come_over_rest_too() -> None:
    async with rig("braiins") as device:
        headers = await token(device)
        device.asic.fault = DeviceFault.NAN
        _, _, body = await http(device, "GET", f"{API}/miner/stats", headers=headers)
        assert b"NaN" in body or b"Infinity" in body
