"""What a stock Antminer says, as templates. Sources as in `sim.devices.antminer`, whose `values` fill them."""

from __future__ import annotations

from typing import Any, Final

from sim.devices.cgminer import pools, reading
from sim.devices.template import compiled, num, txt
from sim.devices.vitals import BOARDS, FANS

DESCRIPTION: Final = "cgminer 1.0.0"
_BMMINER: Final = "1.0.0"
_MINER: Final = "49.0.1.3"
_COMPILED: Final = "Tue Dec  5 15:25:12 CST 2023"
_CHIPS: Final = 114
_SLOTS: Final = 4
"""Boards the classic `stats` has room for; the fourth is empty."""
_POOL: Final = {"url": "stratum+tcp://pool.example:3333", "user": "site.rig", "pass": "x"}

CONF: Final[dict[str, Any]] = {
    "pools": [dict(_POOL) for _ in range(3)],
    "api-listen": True,
    "api-network": True,
    "api-groups": "A:stats:pools:devs:summary:version",
    "api-allow": "A:0/0,W:*",
    "bitmain-fan-ctrl": False,
    "bitmain-fan-pwm": "100",
    "bitmain-use-vil": True,
    "bitmain-freq": "525",
    "bitmain-voltage": "1280",
    "bitmain-ccdelay": "0",
    "bitmain-pwth": "0",
    "bitmain-work-mode": "0",
    "bitmain-hashrate-percent": "100",
    "bitmain-freq-level": "100",
}
"""The configuration as it leaves the factory, with a customer's pools."""


def _said(code: int, message: str, **sections: Any) -> str:
    return reading(DESCRIPTION, code, message, **sections)


def _pcb(index: int) -> tuple[str, str]:
    """Field names of a board's warm and cool end."""
    return f"pcb{index}_c", f"cool{index}_c"


def _dashed(index: int, kind: str) -> str:
    """Four sensors of a board: "73-45-64-65"."""
    if kind == "chip":
        return "-".join(txt(name, ".0f") for name in (f"chip{index}_c", *[f"pcb{index}_c"] * 3))
    warm, cool = _pcb(index)
    return "-".join(txt(name, ".0f") for name in (warm, cool, warm, cool))


def _classic_stats() -> dict[str, Any]:
    found: dict[str, Any] = {
        "STATS": 0,
        "ID": "BTM_SOC0",
        "Elapsed": num("up_s"),
        "Calls": 0,
        "Wait": 0,
        "Max": 0,
        "Min": 99_999_999,
        "GHS 5s": num("ghs", ".2f"),
        "GHS av": num("ghs", ".2f"),
        "rate_30m": num("ghs", ".2f"),
        "Mode": 2,
        "miner_count": BOARDS,
        "frequency": num("mhz"),
        "fan_num": FANS,
        **{f"fan{fan}": num("fan_rpm") for fan in range(1, FANS + 1)},
        "temp_num": BOARDS,
        **{f"temp{index + 1}": num(f"pcb{index}_c") for index in range(BOARDS)},
        **{f"temp2_{index + 1}": num(f"chip{index}_c") for index in range(BOARDS)},
    }
    for kind, own in (("pcb", "pcb"), ("chip", "chip"), ("pic", "pcb")):
        for slot in range(_SLOTS):
            found[f"temp_{kind}{slot + 1}"] = _dashed(slot, own) if slot < BOARDS else "0-0-0-0"
    found |= {
        "total_rateideal": num("nominal_ghs", ".2f"),
        "rate_unit": "GH",
        "total_freqavg": num("mhz"),
        "total_acn": _CHIPS * BOARDS,
        "total rate": num("ghs", ".2f"),
        "temp_max": num("chip1_c"),
        "no_matching_work": 0,
    }
    for slot in range(_SLOTS):
        number, there = slot + 1, slot < BOARDS
        found[f"chain_acn{number}"] = _CHIPS if there else 0
        found[f"chain_acs{number}"] = " oooooooo" if there else ""
        found[f"chain_hw{number}"] = 0
        found[f"chain_rate{number}"] = txt("ghs3", ".2f") if there else ""
        found[f"freq{number}"] = num("mhz") if there else 0
    return {**found, "miner_version": _MINER, "miner_id": "no miner id now"}


_WHAT: Final = {"BMMiner": _BMMINER, "Miner": _MINER, "CompileTime": _COMPILED, "Type": txt("model")}
_SUMMARY: Final = {
    "Elapsed": num("up_s"),
    "GHS 5s": num("ghs", ".2f"),
    "GHS av": num("ghs", ".2f"),
    "GHS 30m": num("ghs", ".2f"),
    "Found Blocks": 0,
    "Getworks": num("accepted"),
    "Accepted": num("accepted"),
    "Rejected": 0,
    "Hardware Errors": 0,
    "Utility": 12.0,
    "Discarded": 0,
    "Stale": 0,
    "Get Failures": 0,
    "Local Work": num("accepted"),
    "Remote Failures": 0,
    "Network Blocks": 1,
    "Total MH": num("total_mh"),
    "Work Utility": 12.0,
    "Difficulty Accepted": num("accepted"),
    "Difficulty Rejected": 0.0,
    "Difficulty Stale": 0.0,
    "Best Share": 1_048_576,
    "Device Hardware%": 0.0,
    "Device Rejected%": 0.0,
    "Pool Rejected%": 0.0,
    "Pool Stale%": 0.0,
    "Last getwork": num("when"),
}


def _board(index: int) -> dict[str, Any]:
    return {
        "ASC": index,
        "Name": "BTM_SOC",
        "ID": index,
        "Enabled": "Y",
        "Status": txt("status"),
        "Temperature": num(f"pcb{index}_c", ".2f"),
        "MHS av": num("mhs3", ".2f"),
        "MHS 5s": num("mhs3", ".2f"),
        "Accepted": num("accepted"),
        "Rejected": 0,
        "Hardware Errors": 0,
        "Device Elapsed": num("up_s"),
    }


READS: Final = {
    "version": _said(22, "CGMiner versions", VERSION=[{"API": "3.1", **_WHAT}]),
    "summary": _said(11, "Summary", SUMMARY=[_SUMMARY]),
    "stats": _said(70, "CGMiner stats", STATS=[_WHAT, _classic_stats()]),
    "devs": _said(9, f"{BOARDS} ASC(s)", DEVS=[_board(index) for index in range(BOARDS)]),
    "pools": _said(7, "3 Pool(s)", POOLS=pools()),
}
"""Compiled answers of 4028 by command."""

_INFO: Final = {"miner_version": _MINER, "CompileTime": _COMPILED, "type": txt("model")}
_RATES: Final = {
    "elapsed": num("up_s"),
    "rate_5s": num("ghs", ".2f"),
    "rate_30m": num("ghs", ".2f"),
    "rate_avg": num("ghs", ".2f"),
    "rate_ideal": num("nominal_ghs", ".2f"),
    "rate_unit": "GH/s",
}


def _page(message: str, **sections: Any) -> str:
    status = {"STATUS": "S", "when": num("when"), "Msg": message, "api_version": "1.0.0"}
    return compiled({"STATUS": status, "INFO": _INFO, **sections})


def _chain(index: int) -> dict[str, Any]:
    warm, cool = (num(name) for name in _pcb(index))
    return {
        "index": index,
        "freq_avg": num("mhz"),
        "rate_ideal": num("nominal_ghs3", ".2f"),
        "rate_real": num("ghs3", ".2f"),
        "asic_num": _CHIPS,
        "asic": " oooooooo",
        "temp_pic": [warm, cool, warm, cool],
        "temp_pcb": [warm, cool, warm, cool],
        "temp_chip": [num(f"chip{index}_c"), *[num(f"pcb{index}_c")] * 3],
        "hw": 0,
        "eeprom_loaded": True,
        "sn": f"{txt('serial')}-{index}",
        "hwp": 0.0,
        "tpl": [[]],
    }


_CHECKS: Final = [
    {"type": "rate", "status": txt("rate_ok"), "code": 0, "msg": ""},
    {"type": "network", "status": "s", "code": 0, "msg": ""},
    {"type": "fans", "status": "s", "code": 0, "msg": ""},
    {"type": "temp", "status": txt("temp_ok"), "code": num("temp_code"), "msg": txt("temp_said")},
]
_NETWORK: Final = {
    "nettype": "DHCP",
    "netdevice": "eth0",
    "macaddr": "02:00:00:00:00:01",
    "ipaddress": "127.0.0.1",
    "netmask": "255.255.255.0",
}
PAGES: Final = {
    "summary.cgi": _page("summary", SUMMARY=[{**_RATES, "hw_all": 0, "bestshare": 1_048_576, "status": _CHECKS}]),
    "stats.cgi": _page(
        "stats",
        STATS=[
            {
                **_RATES,
                "chain_num": BOARDS,
                "fan_num": FANS,
                "fan": [num("fan_rpm")] * FANS,
                "hwp_total": 0.0,
                "miner-mode": num("mode"),
                "freq-level": 100,
                "chain": [_chain(index) for index in range(BOARDS)],
            }
        ],
    ),
    "get_system_info.cgi": compiled(
        {
            "minertype": txt("model"),
            **_NETWORK,
            "hostname": "Antminer",
            "gateway": "",
            "dnsservers": "",
            "system_mode": "GNU/Linux",
            "system_kernel_version": "Linux 4.6.0-xilinx-gff8137b-dirty #25 SMP PREEMPT Fri Nov 23 15:30:52 CST 2018",
            "system_filesystem_version": _COMPILED,
            "firmware_type": "Release",
            "Algorithm": "sha256d",
            "serinum": txt("serial"),
        }
    ),
    "get_network_info.cgi": compiled(
        {
            **_NETWORK,
            "conf_nettype": "DHCP",
            "conf_hostname": "Antminer",
            "conf_ipaddress": "",
            "conf_netmask": "",
            "conf_gateway": "",
            "conf_dnsservers": "",
        }
    ),
    "pools.cgi": _page("pools", POOLS=[{"index": 0, **_POOL, "status": "Alive", "priority": 0, "accepted": 1}]),
    "get_blink_status.cgi": compiled({"blink": False}),
    "miner_type.cgi": compiled({"miner_type": txt("model"), "subtype": "AMLCtrl_BHB42XXX", "fw_version": _COMPILED}),
}
"""Compiled pages under /cgi-bin/."""
