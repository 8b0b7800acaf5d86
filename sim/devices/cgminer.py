"""A miner that only talks and never obeys: the read-only half of the cgminer API, which every other firmware descends
from. Source: API-README of ckolivas/cgminer and api.c's message table.

One request per connection: `{"command": "summary"}`, or the text `summary`. `a+b` asks for several at once, each answer
then a list under the command's name. Answers end with a NUL and the connection is closed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from sim.devices.template import compiled, num, txt
from sim.devices.vitals import BOARDS, vitals
from sim.devices.wire import Device

INVALID_COMMAND: Final = 14
INVALID_JSON: Final = 23
MISSING_COMMAND: Final = 24
ACCESS_DENIED: Final = 45
_MAX_JOINED: Final = 16
_INDEXED: Final = frozenset({"ASC", "PGA", "POOL", "STATS", "FAN", "TEMP"})
_DESCRIPTION: Final = "cgminer 4.11.1"


class ApiDevice(Device):
    """The socket API that all firmwares share: JSON or text in, one of `reads` out. Subclasses add commands."""

    __slots__ = ()

    description: ClassVar[str]
    reads: ClassVar[Mapping[str, str]]
    """Compiled answers by command."""
    denied: ClassVar[frozenset[str]] = frozenset()
    """Commands that exist and are not allowed to this client."""

    def api_answer(self, request: object, client: str) -> str:
        if isinstance(request, str) and self.speaks_text:
            command, _, parameter = request.partition("|")
            return as_text(json.loads(self._joined(command, parameter, client)))
        if not isinstance(request, Mapping):
            return self.problem(INVALID_JSON, "Invalid JSON")
        found = self.command_of(request)
        if not isinstance(found, str):
            return self.problem(MISSING_COMMAND, "Missing JSON 'command'")
        given = request.get("parameter", "")
        return self._joined(found, given if isinstance(given, str) else json.dumps(given), client)

    def command_of(self, request: Mapping[str, object]) -> object:
        """Where a request names its command."""
        return request.get("command")

    def reply(self, command: str, parameter: str, client: str) -> str:  # noqa: ARG002  for those that take commands
        """The answer to one command. Here: a reading."""
        self.shared.log.reads += 1
        template = self.reads.get(command)
        if template is not None:
            return template % self.values()
        if command in self.denied:
            return self.problem(ACCESS_DENIED, f"Access denied to '{command}' command")
        return self.problem(INVALID_COMMAND, "Invalid command")

    def values(self) -> dict[str, float | str]:
        """What the templates are filled from."""
        return vitals(self.port, self.shared.clock.wall_ms())

    def when_s(self) -> int:
        return self.shared.clock.wall_ms() // 1000

    def problem(self, code: int, message: str, status: str = "E") -> str:
        """An answer that is only a status."""
        entry = {
            "STATUS": status,
            "When": self.when_s(),
            "Code": code,
            "Msg": message,
            "Description": self.description,
        }
        return json.dumps({"STATUS": [entry], "id": 1}, separators=(",", ":"))

    def _joined(self, command: str, parameter: str, client: str) -> str:
        if "+" not in command:
            return self.reply(command, parameter, client)
        names = command.split("+")[:_MAX_JOINED]
        parts = [f"{json.dumps(name)}:[{self.reply(name, '', client)}]" for name in names]
        return "{" + ",".join(parts) + ',"id":1}'


class CgminerDevice(ApiDevice):
    """Generic cgminer 4.x: no power figure and no way to stop it, as the API of a machine of unknown make."""

    __slots__ = ()

    description = _DESCRIPTION
    speaks_text = True
    terminator = b"\0"
    denied = frozenset(
        [
            "addpool",
            "ascdisable",
            "ascenable",
            "ascset",
            "debug",
            "disablepool",
            "enablepool",
            "failover-only",
            "hotplug",
            "pgadisable",
            "pgaenable",
            "pgaset",
            "poolpriority",
            "poolquota",
            "privileged",
            "quit",
            "removepool",
            "restart",
            "save",
            "setconfig",
            "switchpool",
            "zero",
        ]
    )


def reading(description: str, code: int, message: str, **sections: Any) -> str:
    """The compiled answer of a reading: status, sections by name, id."""
    status = {"STATUS": "S", "When": num("when"), "Code": code, "Msg": message, "Description": description}
    return compiled({"STATUS": [status], **sections, "id": 1})


def as_text(answer: Mapping[str, Any]) -> str:
    """An answer in cgminer's text form: `SECTION,key=value,...|`, or `ASC=0,...|` where the first key is an index."""
    parts = []
    for section, entries in answer.items():
        for entry in entries if isinstance(entries, list) else ():
            pairs = ",".join(f"{key}={_plain(value)}" for key, value in entry.items())
            indexed = section == "STATUS" or next(iter(entry), "") in _INDEXED
            parts.append(f"{pairs}|" if indexed else f"{section},{pairs}|")
    return "".join(parts)


def pools(**more: Any) -> list[dict[str, Any]]:
    """Three pools, the first in use; a maker's own keys besides."""
    first = {
        "POOL": 0,
        "URL": "stratum+tcp://pool.example:3333",
        "Status": "Alive",
        "Priority": 0,
        "Quota": 1,
        "Long Poll": "N",
        "Getworks": num("accepted"),
        "Accepted": num("accepted"),
        "Rejected": 0,
        "Works": num("accepted"),
        "Discarded": 0,
        "Stale": 0,
        "Get Failures": 0,
        "Remote Failures": 0,
        "User": "site.rig",
        "Last Share Time": num("when"),
        "Diff1 Shares": num("accepted"),
        "Proxy Type": "",
        "Proxy": "",
        "Difficulty Accepted": num("accepted"),
        "Difficulty Rejected": 0.0,
        "Difficulty Stale": 0.0,
        "Last Share Difficulty": 65_536.0,
        "Has Stratum": True,
        "Stratum Active": True,
        "Stratum URL": "pool.example",
        "Has GBT": False,
        "Best Share": 1_048_576,
        "Pool Rejected%": 0.0,
        "Pool Stale%": 0.0,
        **more,
    }
    idle = {"Status": "Dead", "Stratum Active": False, "Accepted": 0, "Getworks": 0, "Works": 0}
    return [first, *({**first, **idle, "POOL": index, "Priority": index} for index in (1, 2))]


def _plain(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


_SHARES: Final = {
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
    "Total MH": num("total_mh", ".4f"),
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
_AVERAGES: Final = ("av", "5s", "1m", "5m", "15m")


def _board(index: int) -> dict[str, Any]:
    return {
        "ASC": index,
        "Name": "SIM",
        "ID": index,
        "Enabled": "Y",
        "Status": "Alive",
        "Temperature": num(f"pcb{index}_c", ".2f"),
        **{f"MHS {span}": num("mhs3", ".2f") for span in _AVERAGES},
        "Accepted": num("accepted"),
        "Rejected": 0,
        "Hardware Errors": 0,
        "Utility": 4.0,
        "Last Share Pool": 0,
        "Last Share Time": num("when"),
        "Total MH": num("total_mh", ".4f"),
        "Diff1 Work": num("accepted"),
        "Difficulty Accepted": num("accepted"),
        "Difficulty Rejected": 0.0,
        "Last Share Difficulty": 65_536.0,
        "Last Valid Work": num("when"),
        "Device Hardware%": 0.0,
        "Device Rejected%": 0.0,
        "Device Elapsed": num("up_s"),
    }


_SUMMARY: Final = {"Elapsed": num("up_s"), **{f"MHS {span}": num("mhs", ".2f") for span in _AVERAGES}, **_SHARES}
_CONFIG: Final = {
    "ASC Count": BOARDS,
    "PGA Count": 0,
    "Pool Count": 3,
    "Strategy": "Failover",
    "Log Interval": 5,
    "Device Code": "SIM ",
    "OS": "Linux",
    "Hotplug": "None",
}
_DETAIL: Final = {"Name": "SIM", "ID": 0, "Driver": "sim", "Kernel": "", "Model": txt("model"), "Device Path": ""}
_STATS: Final = {"STATS": 0, "ID": "SIM0", "Elapsed": num("up_s"), "Calls": 0, "Wait": 0.0, "Max": 0.0, "Min": 9.9e7}

CgminerDevice.reads = {
    "version": reading(_DESCRIPTION, 22, "CGMiner versions", VERSION=[{"CGMiner": "4.11.1", "API": "3.7"}]),
    "summary": reading(_DESCRIPTION, 11, "Summary", SUMMARY=[_SUMMARY]),
    "devs": reading(_DESCRIPTION, 9, f"{BOARDS} ASC(s)", DEVS=[_board(index) for index in range(BOARDS)]),
    "edevs": reading(_DESCRIPTION, 9, f"{BOARDS} ASC(s)", DEVS=[_board(index) for index in range(BOARDS)]),
    "devdetails": reading(
        _DESCRIPTION,
        69,
        "Device Details",
        DEVDETAILS=[{"DEVDETAILS": index, **_DETAIL, "ID": index} for index in range(BOARDS)],
    ),
    "stats": reading(_DESCRIPTION, 70, "CGMiner stats", STATS=[_STATS]),
    "pools": reading(_DESCRIPTION, 7, "3 Pool(s)", POOLS=pools()),
    "config": reading(_DESCRIPTION, 33, "CGMiner config", CONFIG=[_CONFIG]),
    "coin": reading(
        _DESCRIPTION, 78, "CGMiner coin", COIN=[{"Hash Method": "sha256", "Current Block Time": 0.0, "LP": True}]
    ),
}
