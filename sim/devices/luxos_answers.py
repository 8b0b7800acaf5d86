"""What a LuxOS miner says: its answers as templates. Sources as in `sim.devices.luxos`, whose `values` fill them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sim.devices.cgminer import pools, reading
from sim.devices.profiles import Profile, profiles_of
from sim.devices.template import num, txt
from sim.devices.vitals import BOARDS, FANS
from sim.ports import AsicModel

VERSION: Final = "2025.4.8.220305-57b389c7"
DESCRIPTION: Final = f"LUXminer {VERSION}"


def said(code: int, message: str, **sections: Any) -> str:
    """The compiled answer of this firmware with a status of success."""
    return reading(DESCRIPTION, code, message, **sections)


@lru_cache(maxsize=64)
def profile_list(model: AsicModel) -> str:
    """The compiled answer to `profiles`."""
    return said(323, "List profiles", PROFILES=[_profile(rung) for rung in profiles_of(model)])


def _profile(rung: Profile) -> dict[str, Any]:
    return {
        "CanRestore": False,
        "Frequency": rung.frequency_mhz,
        "HasOverrides": False,
        "Hashrate": rung.hashrate_ths,
        "IsDynamic": False,
        "IsTuned": False,
        "Profile Name": rung.name,
        "Step": str(rung.step),
        "Voltage": rung.voltage_v,
        "Watts": rung.power_w,
    }


_MHS: Final = ("15m", "1m", "30m", "5m", "5s", "60m", "av")
_GHS: Final = ("15m", "1m", "24h", "30m", "5m", "5s", "av")
_BTM: Final = "BHB56902"


def _board(index: int) -> dict[str, Any]:
    return {
        "ASC": index,
        "Accepted": num("accepted"),
        "Board": _BTM,
        "Connector": f"J{index + 1}",
        "Device Elapsed": num("up_s"),
        "Device Hardware%": 0,
        "Device Rejected%": 0,
        "Diff1 Work": num("accepted"),
        "Difficulty Accepted": num("accepted"),
        "Difficulty Rejected": 0,
        "Enabled": "Y",
        "Hardware Errors": 0,
        "ID": index,
        "IsRamping": num("ramping", "s"),
        "IsUserShutdown": num("asleep", "s"),
        "Last Share Difficulty": 65_536,
        "Last Share Pool": 0,
        "Last Share Time": num("when"),
        "Last Valid Work": num("when"),
        **{f"MHS {span}": num("mhs3", ".2f") for span in _MHS},
        "Name": "SIM",
        "Nominal MHS": num("rated_mhs3", ".2f"),
        "Profile": txt("profile"),
        "Rejected": 0,
        "SerialNumber": f"{txt('serial')}-{index}",
        "Status": txt("status"),
        "Temperature": num(f"pcb{index}_c", ".2f"),
        "Total MH": num("total_mh", ".2f"),
        "Utility": 4,
    }


def _temps(index: int) -> dict[str, Any]:
    """Two sensors at the exhaust end of a board, two at the intake end. METADATA says which is where."""
    hot, cool = num(f"pcb{index}_c", ".3f"), num(f"cool{index}_c", ".3f")
    return {"BottomLeft": hot, "BottomRight": cool, "ID": index, "TEMP": index, "TopLeft": hot, "TopRight": cool}


def _label(end: str, row: int) -> dict[str, Any]:
    side, column = ("bottom" if row else "top"), (1 if end == "Intake" else 0)
    return {"IsCritical": end == "Exhaust", "Label": f"Board {end} ({side})", "Position": [row, column]}


_SUMMARY: Final = {
    "Accepted": num("accepted"),
    "Best Share": 1_048_576,
    "Device Hardware%": 0,
    "Device Rejected%": 0,
    "Difficulty Accepted": num("accepted"),
    "Difficulty Rejected": 0,
    "Difficulty Stale": 0,
    "Discarded": 0,
    "Elapsed": num("up_s"),
    "Found Blocks": 0,
    **{f"GHS {span}": num("ghs", ".2f") for span in _GHS},
    "Get Failures": 0,
    "Getworks": num("accepted"),
    "Hardware Errors": 0,
    "Last getwork": num("when"),
    "Local Work": 0,
    "Network Blocks": 1,
    "Pool Rejected%": 0,
    "Pool Stale%": 0,
    "Rejected": 0,
    "Remote Failures": 0,
    "Stale": 0,
    "Total MH": num("total_mh", ".2f"),
    "Utility": 12,
    "Work Utility": 12,
}
_CONFIG: Final = {
    "ASC Count": BOARDS,
    "ActualPowerTarget": num("target_w"),
    "ControlBoardType": "AMLogic",
    "Cooling": "Air",
    "CurtailMode": txt("curtail"),
    "DHCP": True,
    "GreenLed": "auto",
    "Hostname": txt("serial"),
    "Hotplug": "None",
    "IPAddr": "127.0.0.1",
    "IdealPowerTarget": num("target_w"),
    "IsAtmEnabled": False,
    "IsPowerSupplyOn": num("psu_on", "s"),
    "IsPowerTargetEnabled": num("targeted", "s"),
    "IsPowerTargetSupported": True,
    "IsSingleVoltage": True,
    "IsTuning": False,
    "Log Interval": 5,
    "MACAddr": "02:00:00:00:00:01",
    "Model": txt("model"),
    "NameplateTHS": num("rated_ths", ".1f"),
    "OS": "Linux",
    "PGA Count": 0,
    "PSULabel": "APW171215a",
    "Pool Count": 3,
    "PowerLimit": num("rated_w"),
    "Profile": txt("profile"),
    "ProfileStep": txt("step"),
    "RedLed": "off",
    "SerialNumber": txt("serial"),
    "Strategy": "Failover",
    "SystemStatus": txt("system"),
}
_VERSION: Final = {
    "API": "3.7",
    "CompileTime": "Tue Apr 08 22:03:05 UTC 2025",
    "LUXminer": VERSION,
    "Miner": VERSION,
    "Type": txt("model"),
}
_EXHAUST_TOP, _EXHAUST_BOTTOM = _label("Exhaust", 0), _label("Exhaust", 1)
_INTAKE_TOP, _INTAKE_BOTTOM = _label("Intake", 0), _label("Intake", 1)
_SENSORS: Final = {
    "BottomLeft": _EXHAUST_BOTTOM,
    "BottomRight": _INTAKE_BOTTOM,
    "TopLeft": _EXHAUST_TOP,
    "TopRight": _INTAKE_TOP,
}
_STATS: Final = {
    "CompileTime": "Tue Apr 08 22:03:05 UTC 2025",
    "LUXminer": VERSION,
    "Miner": VERSION,
    "Type": txt("model"),
}


def _stats() -> dict[str, Any]:
    found: dict[str, Any] = {
        "STATS": 0,
        "ID": "SIM0",
        "Elapsed": num("up_s"),
        "Calls": 0,
        "Wait": 0,
        "Max": 0,
        "Min": 0,
        "GHS 5s": num("ghs", ".2f"),
        "GHS av": num("ghs", ".2f"),
        "rate_30m": num("ghs", ".2f"),
        "total_rateideal": num("nominal_ghs", ".2f"),
        "rate_unit": "GH",
        "miner_count": BOARDS,
        "frequency": num("mhz"),
        "fan_num": FANS,
        "temp_max": num("pcb1_c"),
        "miner_id": txt("serial"),
    }
    for fan in range(1, FANS + 1):
        found[f"fan{fan}"] = num("fan_rpm")
    for index in range(BOARDS):
        number, hot, cool = index + 1, txt(f"pcb{index}_c", ".0f"), txt(f"cool{index}_c", ".0f")
        found[f"temp_chip{number}"] = found[f"temp_pcb{number}"] = f"{hot}-{cool}-{hot}-{cool}"
        found[f"chain_rate{number}"] = txt("ghs3", ".2f")
        found[f"chain_rateideal{number}"] = num("nominal_ghs3", ".2f")
        found[f"chain_acn{number}"] = 110
        found[f"chain_hw{number}"] = 0
        found[f"freq{number}"] = num("mhz")
    return found


LOGON: Final = said(316, "Session created", SESSION=[{"SessionID": txt("session")}])
LOGOFF: Final = said(317, "Session terminated")
KILL: Final = said(318, "Session killed")
SESSION: Final = said(319, "Session information", SESSION=[{"SessionID": txt("session")}])
CURTAIL: Final = said(335, "Curtailment command sent", CURTAIL=[{"Action": txt("action")}])
PROFILE_SET: Final = said(
    321,
    "Profile Set",
    PROFILE=[
        {"Board": index, "FrequencyStep": 5, "Profile": txt("profile"), "VoltageStep": 0.05} for index in range(BOARDS)
    ],
)
POWER_TARGET: Final = said(345, "Power target set", POWERTARGET=[{"Power": num("target_w")}])
REBOOT: Final = said(328, "Device reboot")
NO_EVENTS: Final = said(357, "Events", EVENTS=[])
EVENT: Final = said(
    357,
    "Events",
    EVENTS=[{"Action": "", "Cause": "", "Code": txt("code"), "CreatedAt": num("when"), "ID": 1}],
)

READS: Final = {
    "version": said(22, "LUXminer versions", VERSION=[_VERSION]),
    "summary": said(11, "Summary", SUMMARY=[_SUMMARY]),
    "devs": said(9, f"{BOARDS} ASC(s)", DEVS=[_board(index) for index in range(BOARDS)]),
    "edevs": said(9, f"{BOARDS} ASC(s)", DEVS=[_board(index) for index in range(BOARDS)]),
    "stats": said(70, "LUXminer stats", STATS=[_STATS, _stats()]),
    "temps": said(201, f"{BOARDS} Temp(s)", METADATA=[_SENSORS], TEMPS=[_temps(index) for index in range(BOARDS)]),
    "tempctrl": said(
        200, "Temperature control", TEMPCTRL=[{"Dangerous": 90, "Hot": 85, "Mode": "Automatic", "Target": 70}]
    ),
    "fans": said(
        202,
        f"{FANS} Fan(s)",
        FANCTRL=[{"MinFans": 3, "PowerOffSpeed": 0}],
        FANS=[
            {"FAN": f"FAN{fan + 1}", "ID": fan, "RPM": num("fan_rpm"), "Speed": num("fan_percent")}
            for fan in range(FANS)
        ],
    ),
    "power": said(311, "Power usage", POWER=[{"PSU": True, "Watts": num("power_w")}]),
    "config": said(33, "LUXminer config", CONFIG=[_CONFIG]),
    "pools": said(7, "3 Pool(s)", POOLS=pools()),
}
"""Compiled answers by command."""
