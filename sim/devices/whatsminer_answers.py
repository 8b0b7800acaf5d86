"""What a WhatsMiner says, as templates. Source as in `sim.devices.whatsminer`, whose `values` fill them."""

from __future__ import annotations

from typing import Any, Final

from sim.devices.template import compiled, num, txt
from sim.devices.vitals import BOARDS

_FIRMWARE: Final = "20240924.14.Rel"
_CHIPS: Final = 111


def _listed(message: str, **sections: Any) -> str:
    """The form of what comes from cgminer."""
    return compiled({"STATUS": [{"STATUS": "S", "Msg": message}], **sections, "id": 1})


def _said(code: int, message: Any) -> str:
    """The form of the vendor's own commands."""
    return compiled({"STATUS": "S", "When": num("when"), "Code": code, "Msg": message, "Description": ""})


def _board(index: int) -> dict[str, Any]:
    return {
        "ASC": index,
        "Slot": index,
        "Enabled": "Y",
        "Status": txt("status"),
        "Temperature": num(f"pcb{index}_c", ".2f"),
        "Chip Frequency": num("mhz"),
        **{f"MHS {span}": num("mhs3", ".2f") for span in ("av", "5s", "1m", "5m", "15m")},
        "HS RT": num("mhs3", ".2f"),
        "Factory GHS": num("rated_ghs3"),
        "Accepted": num("accepted"),
        "Rejected": 0,
        "Last Valid Work": num("when"),
        "Upfreq Complete": num("upfreq"),
        "Effective Chips": _CHIPS,
        "PCB SN": f"{txt('serial')}{index}",
        "Chip Data": "HP3D04-21022414 BINV01-195104D",
        "Chip Temp Min": num(f"pcb{index}_c", ".2f"),
        "Chip Temp Max": num(f"chip{index}_c", ".2f"),
        "Chip Temp Avg": num(f"chip{index}_c", ".2f"),
        "chip_vol_diff": 8,
    }


_SUMMARY: Final = {
    "Elapsed": num("up_s"),
    **{f"MHS {span}": num("mhs", ".2f") for span in ("av", "5s", "1m", "5m", "15m")},
    "HS RT": num("mhs", ".2f"),
    "Accepted": num("accepted"),
    "Rejected": 0,
    "Total MH": num("total_mh"),
    "Temperature": num("pcb1_c", ".2f"),
    "freq_avg": num("mhz"),
    "Fan Speed In": num("fan_rpm"),
    "Fan Speed Out": num("fan_rpm"),
    "Power": num("power_w"),
    "Power Rate": num("w_per_th", ".2f"),
    "Pool Rejected%": 0.0,
    "Pool Stale%": 0.0,
    "Last getwork": 0,
    "Uptime": num("up_s"),
    "Security Mode": 0,
    "Hash Stable": num("stable", "s"),
    "Hash Stable Cost Seconds": 0,
    "Hash Deviation%": 0.0,
    "Target Freq": num("mhz"),
    "Target MHS": num("nominal_mhs"),
    "Env Temp": num("inlet_c", ".2f"),
    "Power Mode": "Normal",
    "Factory GHS": num("rated_ghs"),
    "Power Limit": num("set_limit_w"),
    "Chip Temp Min": num("pcb0_c", ".2f"),
    "Chip Temp Max": num("chip_c", ".2f"),
    "Chip Temp Avg": num("chip0_c", ".2f"),
    "Debug": "-0.0_100.0_354",
    "Btminer Fast Boot": "disable",
    "Upfreq Complete": num("upfreq"),
}
_STATUS: Final = {
    "mineroff": txt("mineroff"),
    "mineroff_reason": txt("off_reason"),
    "mineroff_time": "",
    "FirmwareVersion": _FIRMWARE,
    "power_mode": "normal",
    "power_limit_set": txt("set_limit_w", ".0f"),
    "hash_percent": "0",
}
_PSU: Final = {
    "name": "P463B",
    "hw_version": "V02",
    "sw_version": "V02",
    "model": "P463B",
    "iin": "8718",
    "vin": "22400",
    "fan_speed": txt("fan_rpm", ".0f"),
    "version": "-1",
    "serial_no": txt("serial"),
    "vendor": "7",
    "temp0": txt("exhaust_c", ".1f"),
}
_INFO: Final = {
    "ip": "127.0.0.1",
    "proto": "dhcp",
    "netmask": "255.255.255.0",
    "gateway": "127.0.0.1",
    "dns": "127.0.0.1",
    "hostname": "WhatsMiner",
    "mac": "02:00:00:00:00:01",
    "ledstat": "auto",
    "minersn": txt("serial"),
    "powersn": txt("serial"),
}
_VERSION: Final = {"api_ver": "2.0.5", "fw_ver": _FIRMWARE, "platform": "H616", "chip": "K10BF20"}


def _pool(index: int) -> dict[str, Any]:
    return {
        "POOL": index,
        "URL": "stratum+tcp://pool.example:3333",
        "Status": "Dead" if index else "Alive",
        "Priority": index,
        "Quota": 1,
        "Long Poll": "N",
        "Getworks": 0,
        "Accepted": 0 if index else num("accepted"),
        "Rejected": 0,
        "User": "site.rig",
        "Last Share Time": num("when"),
        "Stratum Active": index == 0,
        "Pool Rejected%": 0.0,
        "Pool Stale%": 0.0,
    }


_DEVS: Final = _listed(f"{BOARDS} ASC(s)", DEVS=[_board(index) for index in range(BOARDS)])

TOKEN: Final = _said(134, {"time": txt("time"), "salt": txt("salt"), "newsalt": txt("newsalt")})
READS: Final = {
    "summary": _listed("Summary", SUMMARY=[_SUMMARY]),
    "devs": _DEVS,
    "edevs": _DEVS,
    "devdetails": compiled(
        {
            "STATUS": [{"STATUS": "S", "When": num("when"), "Code": 69, "Msg": "Device Details", "Description": ""}],
            "DEVDETAILS": [
                {
                    "DEVDETAILS": index,
                    "Name": "SM",
                    "ID": index,
                    "Driver": "bitmicro",
                    "Kernel": "",
                    "Model": txt("model"),
                }
                for index in range(BOARDS)
            ],
            "id": 1,
        }
    ),
    "pools": _listed("3 Pool(s)", POOLS=[_pool(index) for index in range(3)]),
    "status": _said(131, _STATUS),
    "get_version": _said(131, _VERSION),
    "get_psu": _said(131, _PSU),
    "get_miner_info": _said(131, _INFO),
    "get_error_code": _said(131, {"error_code": num("errors", "s")}),
}
"""Compiled answers by command."""
