"""What a Braiins OS miner says, as templates. Sources as in `sim.devices.braiins`, whose `values` fill them."""

from __future__ import annotations

from typing import Any, Final

from sim.devices.cgminer import pools, reading
from sim.devices.template import compiled, num, txt
from sim.devices.vitals import BOARDS, FANS

DESCRIPTION: Final = "BOSer boser-openwrt 0.1.0-0ce150e9"
FAILED: Final = 500
"""Not a documented code: the documentation shows no refusal of pause or resume."""
UNAVAILABLE: Final = 302
_BOARD_ID: Final = 1
_CHIPS: Final = 110
_AVERAGES: Final = ("15m", "1m", "24h", "5m", "5s", "av")


def said(code: int, message: str, **sections: Any) -> str:
    """The compiled answer of this firmware with a status of success."""
    return reading(DESCRIPTION, code, message, **sections)


def _board(index: int) -> dict[str, Any]:
    return {
        "ASC": index,
        "Accepted": num("accepted"),
        "Device Elapsed": num("up_s"),
        "Device Hardware%": 0.0,
        "Device Rejected%": 0.0,
        "Diff1 Work": num("accepted"),
        "Difficulty Accepted": num("accepted"),
        "Difficulty Rejected": 0.0,
        "Enabled": "Y",
        "Hardware Errors": 0,
        "ID": index + _BOARD_ID,
        "Last Share Difficulty": 65_536.0,
        "Last Share Pool": 0,
        "Last Share Time": num("when"),
        "Last Valid Work": num("when"),
        **{f"MHS {span}": num("mhs3", ".2f") for span in _AVERAGES},
        "Name": "",
        "Nominal MHS": num("nominal_mhs3", ".2f"),
        "Rejected": 0,
        "Status": txt("status"),
        "Temperature": num(f"chip{index}_c", ".1f"),
        "Total MH": num("total_mh", ".2f"),
        "Utility": 4.0,
    }


def _tuned(index: int) -> dict[str, Any]:
    return {
        "ApproximatePowerConsumptionWatt": num("power3_w"),
        "HashchainIndex": index + _BOARD_ID,
        "Iteration": 0,
        "LoadedProfileCreatedOn": None,
        "PowerLimitWatt": num("limit3_w"),
        "StageElapsed": num("up_s"),
        "Status": txt("stage"),
        "TunerRunning": num("tuning", "s"),
        "TuningElapsed": num("up_s"),
    }


def _detail(index: int) -> dict[str, Any]:
    return {
        "Chips": _CHIPS,
        "Cores": _CHIPS,
        "DEVDETAILS": index,
        "Device Path": "",
        "Driver": "",
        "Frequency": num("mhz"),
        "ID": index + _BOARD_ID,
        "Kernel": "",
        "Model": txt("model"),
        "Name": "",
        "Voltage": 13.4,
    }


_SUMMARY: Final = {
    "Accepted": num("accepted"),
    "Best Share": 1_048_576,
    "Device Hardware%": 0.0,
    "Device Rejected%": 0.0,
    "Difficulty Accepted": num("accepted"),
    "Difficulty Rejected": 0.0,
    "Difficulty Stale": 0.0,
    "Discarded": 0,
    "Elapsed": num("up_s"),
    "Found Blocks": 0,
    "Get Failures": 0,
    "Getworks": num("accepted"),
    "Hardware Errors": 0,
    "Last getwork": num("when"),
    "Local Work": num("accepted"),
    **{f"MHS {span}": num("mhs", ".2f") for span in _AVERAGES},
    "Network Blocks": 1,
    "Pool Rejected%": 0.0,
    "Pool Stale%": 0.0,
    "Rejected": 0,
    "Remote Failures": 0,
    "Stale": 0,
    "Total MH": num("total_mh", ".2f"),
    "Utility": 12.0,
    "Work Utility": 12.0,
}
_TUNER: Final = {
    "ApproximateChainPowerConsumption": num("power_w"),
    "ApproximateMinerPowerConsumption": num("power_w"),
    "DynamicPowerScaling": "Disabled",
    "PowerLimit": num("limit_w"),
    "TunerChainStatus": [_tuned(index) for index in range(BOARDS)],
}
_CONFIG: Final = {
    "ASC Count": BOARDS,
    "Device Code": "",
    "Hotplug": "None",
    "Log Interval": 0,
    "OS": "Braiins OS",
    "PGA Count": 0,
    "Pool Count": 3,
    "Strategy": "Failover",
}

PAUSE: Final = said(204, "Pause", PAUSE=[True])
RESUME: Final = said(205, "Resume", RESUME=[True])
READS: Final = {
    "version": said(22, "BOSer versions", VERSION=[{"API": "3.7", "BOSer": "boser-openwrt 0.1.0-0ce150e9"}]),
    "summary": said(11, "Summary", SUMMARY=[_SUMMARY]),
    "devs": said(9, f"{BOARDS} ASC(s)", DEVS=[_board(index) for index in range(BOARDS)]),
    "edevs": said(9, f"{BOARDS} ASC(s)", DEVS=[_board(index) for index in range(BOARDS)]),
    "devdetails": said(69, "Device Details", DEVDETAILS=[_detail(index) for index in range(BOARDS)]),
    "temps": said(
        201,
        f"{BOARDS} Temp(s)",
        TEMPS=[
            {
                "Board": num(f"pcb{index}_c", ".3f"),
                "Chip": num(f"chip{index}_c", ".3f"),
                "ID": index + _BOARD_ID,
                "TEMP": index,
            }
            for index in range(BOARDS)
        ],
    ),
    "fans": said(
        202,
        f"{FANS} Fan(s)",
        FANS=[{"FAN": fan, "ID": fan, "RPM": num("fan_rpm"), "Speed": num("fan_percent")} for fan in range(FANS)],
    ),
    "tempctrl": said(
        200, "Temperature control", TEMPCTRL=[{"Dangerous": 110.0, "Hot": 100.0, "Mode": "Automatic", "Target": 89.0}]
    ),
    "tunerstatus": said(203, "Tuner Status", TUNERSTATUS=[_TUNER]),
    "config": said(33, "BOSer config", CONFIG=[_CONFIG]),
    "stats": said(70, "BOSer stats", STATS=[]),
    "pools": said(7, "3 Pool(s)", POOLS=pools(AsicBoost=True)),
    "coin": said(78, "BOSer coin", COIN=[{"Hash Method": "sha256", "Current Block Time": 0.0, "LP": True}]),
}
"""Compiled answers of 4028 by command."""

_SPANS: Final = ("last_5s", "last_15s", "last_30s", "last_1m", "last_5m", "last_15m", "last_30m", "last_1h", "last_24h")


def _ghs(field: str) -> dict[str, Any]:
    return {"gigahash_per_second": num(field, ".3f")}


def _watt(field: str) -> dict[str, Any]:
    return {"watt": num(field)}


def _hot(index: int) -> dict[str, Any]:
    return {"id": None, "location": 1, "temperature": {"degree_c": num(f"chip{index}_c", ".3f")}}


def _hashboard(index: int) -> dict[str, Any]:
    return {
        "board_name": "BHB56902",
        "board_temp": {"degree_c": num(f"pcb{index}_c", ".3f")},
        "chip_type": "BM1366",
        "chips_count": _CHIPS,
        "current_frequency": {"hertz": num("hertz")},
        "current_voltage": {"volt": 13.4},
        "enabled": True,
        "highest_chip_temp": _hot(index),
        "id": str(index + _BOARD_ID),
        "lowest_inlet_temp": {"degree_c": num("inlet_c", ".3f")},
        "highest_outlet_temp": {"degree_c": num("exhaust_c", ".3f")},
        "serial_number": f"{txt('serial')}-{index}",
        "stats": {
            "nominal_hashrate": _ghs("nominal_ghs3"),
            "real_hashrate": {span: _ghs("ghs3") for span in _SPANS},
        },
    }


_CONSTRAINTS: Final = {
    "tuner_constraints": {
        "power_target": {"default": _watt("rated_w"), "max": _watt("rated_w"), "min": _watt("min_w")},
        "enabled": {"default": True},
        "default_mode": 1,
    }
}
_DETAILS: Final = {
    "bos_mode": 1,
    "bos_version": {"bos_plus": True, "current": "2025-05-21-0-0ce150e9-25.05-plus", "major": "25.05"},
    "control_board_soc_family": 2,
    "hostname": txt("serial"),
    "kernel_version": "4.6.0",
    "mac_address": "02:00:00:00:00:01",
    "miner_identity": {"brand": 1, "miner_model": txt("model"), "model": 0, "name": txt("model")},
    "platform": 2,
    "psu_info": {"model_name": "APW12"},
    "serial_number": txt("serial"),
    "status": num("state"),
    "sticker_hashrate": _ghs("rated_ghs"),
    "system_uptime_s": num("up_s"),
    "bosminer_uptime_s": num("up_s"),
    "uid": txt("serial"),
}
_MINER_STATS: Final = {
    "miner_stats": {
        "best_share": 1_048_576,
        "best_share_str": "1.05M",
        "found_blocks": 0,
        "nominal_hashrate": _ghs("nominal_ghs"),
        "real_hashrate": {span: _ghs("ghs") for span in _SPANS},
    },
    "pool_stats": {"accepted_shares": num("accepted"), "rejected_shares": 0, "stale_shares": 0},
    "power_stats": {"approximated_consumption": _watt("power_w"), "efficiency": {"joule_per_terahash": None}},
}
_PROFILE: Final = {
    "created": {"nanos": 0, "seconds": num("when")},
    "estimated_power_consumption": _watt("limit_w"),
    "measured_hashrate": _ghs("nominal_ghs"),
    "target": _watt("limit_w"),
}
_BODIES: Final[dict[str, dict[str, Any]]] = {
    "configuration/constraints": _CONSTRAINTS,
    "cooling/state": {
        "fans": [
            {"position": fan, "rpm": num("fan_rpm"), "target_speed_ratio": num("fan_ratio", ".2f")}
            for fan in range(FANS)
        ],
        "highest_temperature": {"id": None, "location": 1, "temperature": {"degree_c": num("chip_c", ".3f")}},
    },
    "miner/details": _DETAILS,
    "miner/errors": {"errors": []},
    "miner/hw/hashboards": {"hashboards": [_hashboard(index) for index in range(BOARDS)]},
    "miner/stats": _MINER_STATS,
    "performance/mode": {"tunermode": {"target": {"powertarget": {"power_target": _watt("limit_w")}}}},
    "performance/tuner-state": {
        "mode_state": {"powertargetmodestate": {"current_target": _watt("limit_w"), "profile": _PROFILE}},
        "overall_tuner_state": num("tuner_state"),
    },
}
REST: Final = {path: compiled(body) for path, body in _BODIES.items()}
"""Compiled bodies of the REST API by path under /api/v1/."""
TRIPPED: Final = compiled(
    {
        "errors": [
            {
                "components": [],
                "error_codes": [],
                "message": "Hash chain temperature too high",
                "timestamp": num("when"),
            }
        ]
    }
)
