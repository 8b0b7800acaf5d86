"""A LuxOS miner, against the documented API: one session, which a minute of idleness ends, and commands within it."""

from __future__ import annotations

import asyncio

import pytest

from sim.devices import luxos
from sim.ports import AsicState, DeviceFault
from sim.virtual import run_virtual
from tests.sim.devices.rig import MODEL, MemoryAsic, Rig, code, rig


async def logon(device: Rig) -> str:
    answer = await device.ask("logon")
    assert code(answer) == 316
    return str(answer["SESSION"][0]["SessionID"])


async def test_readings_need_no_session() -> None:
    async with rig("luxos") as device:
        answer = await device.ask("summary+temps+power+config+fans+devs+stats+version+events+tempctrl+pools")
        codes = {name: code(parts[0]) for name, parts in answer.items() if name != "id"}
        assert codes == {
            "summary": 11,
            "temps": 201,
            "power": 311,
            "config": 33,
            "fans": 202,
            "devs": 9,
            "stats": 70,
            "version": 22,
            "events": 357,
            "tempctrl": 200,
            "pools": 7,
        }
        assert answer["summary"][0]["STATUS"][0]["Description"].startswith("LUXminer ")
        assert answer["power"][0]["POWER"] == [{"PSU": True, "Watts": 3_600}]
        assert answer["summary"][0]["SUMMARY"][0]["GHS 5s"] == 199_500
        temps = answer["temps"][0]["TEMPS"]
        assert [board["ID"] for board in temps] == [0, 1, 2]
        assert max(board["TopRight"] for board in temps) == 43.0
        assert answer["temps"][0]["METADATA"][0]["TopRight"]["Label"] == "Board Intake (top)"
        assert max(board["TopLeft"] for board in temps) == 56.0


async def test_a_session_is_eight_letters_and_shown_while_it_lasts() -> None:
    async with rig("luxos") as device:
        assert (await device.ask("session"))["SESSION"] == [{"SessionID": ""}]
        session = await logon(device)
        assert len(session) == 8
        assert session.isalnum()
        shown = await device.ask("session")
        assert (code(shown), shown["SESSION"]) == (319, [{"SessionID": session}])
        assert code(await device.ask("logoff", session)) == 317
        assert (await device.ask("session"))["SESSION"] == [{"SessionID": ""}]


async def test_only_one_session_at_a_time() -> None:
    async with rig("luxos") as device:
        first = await logon(device)
        refusal = await device.ask("logon")
        assert (refusal["STATUS"][0]["STATUS"], code(refusal)) == ("E", 402)
        assert code(await device.ask("logoff", first)) == 317
        assert await logon(device) != first


def test_a_session_ends_after_a_minute_without_use_and_each_use_prolongs_it() -> None:
    async def main() -> None:
        async with rig("luxos") as device:
            session = await logon(device)
            for _ in range(3):
                await asyncio.sleep(luxos.SESSION_S - 1.0)
                assert code(await device.ask("curtail", f"{session},wakeup")) == 335
            await asyncio.sleep(luxos.SESSION_S - 1.0)
            assert code(await device.ask("logon")) == 402
            await asyncio.sleep(2.0)
            refusal = await device.ask("curtail", f"{session},sleep")
            assert refusal["STATUS"][0]["STATUS"] == "E"
            assert device.asic.asked == ["wake"] * 3
            await logon(device)

    run_virtual(main())


async def test_curtail_sleeps_and_wakes_and_config_tells() -> None:
    async with rig("luxos") as device:
        session = await logon(device)
        asleep = await device.ask("curtail", f"{session},sleep")
        assert (code(asleep), asleep["CURTAIL"]) == (335, [{"Action": "sleep mode"}])
        assert device.asic.state is AsicState.SLEEPING
        config = (await device.ask("config"))["CONFIG"][0]
        assert (config["CurtailMode"], config["IsPowerSupplyOn"]) == ("Sleep", False)
        awake = await device.ask("curtail", f"{session},wakeup")
        assert awake["CURTAIL"] == [{"Action": "wake up"}]
        assert (await device.ask("config"))["CONFIG"][0]["CurtailMode"] == "None"
        assert [(entry.command, entry.obeyed) for entry in device.commands] == [
            ("curtail sleep", True),
            ("curtail wakeup", True),
        ]
        assert session not in str(device.commands)


@pytest.mark.parametrize("parameter", [None, "", "wrong678,sleep", ",sleep"])
async def test_a_command_outside_of_the_session_is_refused_and_logged_as_not_obeyed(parameter: str | None) -> None:
    async with rig("luxos") as device:
        await logon(device)
        answer = await device.ask("curtail", parameter)
        assert answer["STATUS"][0]["STATUS"] == "E"
        assert device.asic.asked == []
        assert [entry.obeyed for entry in device.commands] == [False]


async def test_an_unknown_action_is_refused() -> None:
    async with rig("luxos") as device:
        session = await logon(device)
        assert (await device.ask("curtail", f"{session},nap"))["STATUS"][0]["STATUS"] == "E"
        assert device.asic.asked == []


async def test_the_ladder_of_profiles_spans_what_the_model_can_do() -> None:
    async with rig("luxos") as device:
        answer = await device.ask("profiles")
        rungs = answer["PROFILES"]
        assert code(answer) == 323
        assert (rungs[0]["Watts"], rungs[-1]["Watts"]) == (MODEL.min_power_w, MODEL.rated_w)
        assert (rungs[-1]["Profile Name"], rungs[-1]["Step"]) == ("default", "0")
        assert [rung["Watts"] for rung in rungs] == sorted(rung["Watts"] for rung in rungs)
        assert rungs[-1]["Hashrate"] == MODEL.hashrate_ghs / 1000


async def test_profileset_by_name_sets_the_power_of_that_rung() -> None:
    async with rig("luxos") as device:
        session = await logon(device)
        rung = (await device.ask("profiles"))["PROFILES"][4]
        answer = await device.ask("profileset", f"{session},{rung['Profile Name']}")
        assert code(answer) == 321
        assert {entry["Profile"] for entry in answer["PROFILE"]} == {rung["Profile Name"]}
        assert device.asic.power_limit_w == rung["Watts"]
        config = (await device.ask("config"))["CONFIG"][0]
        assert (config["Profile"], config["ProfileStep"]) == (rung["Profile Name"], rung["Step"])


@pytest.mark.parametrize(("selector", "power_w"), [("-1", 3_400), ("3500W", 3_500), ("0,default", 3_500)])
async def test_profileset_takes_steps_watts_and_the_older_form_with_a_board(selector: str, power_w: int) -> None:
    async with rig("luxos") as device:
        session = await logon(device)
        assert code(await device.ask("profileset", f"{session},{selector}")) == 321
        assert device.asic.power_limit_w == power_w


@pytest.mark.parametrize("selector", ["", "+1", "fastest", "1W", "-17", "-99999999"])
async def test_a_profile_that_is_not_there_changes_nothing(selector: str) -> None:
    async with rig("luxos") as device:
        session = await logon(device)
        assert (await device.ask("profileset", f"{session},{selector}"))["STATUS"][0]["STATUS"] == "E"
        assert device.asic.asked == []


async def test_a_power_target_wants_a_key_and_a_value_within_range() -> None:
    async with rig("luxos") as device:
        session = await logon(device)
        for bad in ("2500", "power=", "power=100", "power=99999", "watts=2500"):
            assert (await device.ask("powertargetset", f"{session},{bad}"))["STATUS"][0]["STATUS"] == "E"
        assert device.asic.asked == []
        assert (await device.ask("powertargetset", f"{session},power=2500"))["STATUS"][0]["STATUS"] == "S"
        assert device.asic.asked == ["limit 2500"]
        config = (await device.ask("config"))["CONFIG"][0]
        assert (config["IsPowerTargetEnabled"], config["IdealPowerTarget"]) == (True, 2_500)


async def test_a_tripped_machine_says_so_in_events_and_devs() -> None:
    async with rig("luxos", MemoryAsic(state=AsicState.TRIPPED, hashrate_ghs=0.0)) as device:
        assert (await device.ask("events"))["EVENTS"][0]["Code"] == "OVERTEMP_PROTECTION"
        assert (await device.ask("config"))["CONFIG"][0]["SystemStatus"] == "OverTemp"
        assert {board["Status"] for board in (await device.ask("devs"))["DEVS"]} == {"Dead"}


async def test_a_lie_is_told_in_the_protocols_own_words() -> None:
    async with rig("luxos") as device:
        session = await logon(device)
        device.asic.fault = DeviceFault.NO_BUT_DOES
        assert (await device.ask("curtail", f"{session},sleep"))["STATUS"][0]["STATUS"] == "E"
        assert device.asic.asked == ["sleep"]
