"""Stock Antminer firmware of the S19 generation and later: JSON over HTTP on port 80, with digest authentication.

A read is one `stats.cgi` while the miner hashes; when it does not, the mode in there or, without one, that of
`get_miner_conf.cgi` says whether it sleeps. What the miner complains of comes from `summary.cgi`, once a minute. Many
models state no power at all: `power_w` is then None and only a meter knows.

Stop and resume write the miner's whole configuration back with another `miner-mode`: 1 is sleep. All that
`get_miner_conf.cgi` gave goes back with it, pools included, under the names that `set_miner_conf.cgi` reads. The mode
from before the stop is kept in `memory`, for the miner itself forgets it: a low-power fleet must not wake up at full
power. There is no way to set power without restarting the miner, so this driver has none.

Source: the firmware's web interface as documented by its clients (stats.cgi, summary.cgi, get_miner_conf.cgi,
set_miner_conf.cgi; modes 0 normal, 1 sleep, 2 high, 3 low power).
"""

from __future__ import annotations

import asyncio
import json
from typing import Final
from zlib import crc32

from agent.drivers.base import Applied, Failure, Miner, MinerReading, Outcome, Refused, Unreachable
from agent.drivers.miners import _http, _options
from agent.drivers.miners._digest import DigestAuth
from agent.drivers.miners._options import DEADLINE_S, Options
from agent.drivers.miners._state import StateJudge
from agent.drivers.miners._values import Json, decode, ghs, hottest_mc, record, records, watts
from agent.drivers.transport import deadline
from contract.clock import Clock

PORT: Final = 80

_STATS: Final = "/cgi-bin/stats.cgi"
_SUMMARY: Final = "/cgi-bin/summary.cgi"
_CONF: Final = "/cgi-bin/get_miner_conf.cgi"
_SET_CONF: Final = "/cgi-bin/set_miner_conf.cgi"

_SLEEP: Final = "1"
_NORMAL: Final = "0"
_MODE_MEMORY: Final = "miner_mode"
_PER_GHS: Final = {"H/s": 1e9, "KH/s": 1e6, "MH/s": 1e3, "GH/s": 1.0, "TH/s": 1e-3, "PH/s": 1e-6}
_COMPLAINTS_EVERY_MS: Final = 60_000
_ASLEEP_HOLDS_MS: Final = 20_000
"""How long a configuration that said sleep is believed while the hashrate stays at zero."""


def create(host: str, port: int | None, options: Options, *, deadline_s: float = DEADLINE_S, clock: Clock) -> Miner:
    """Options: `username` and `password` of the web interface (root, root)."""
    _options.only(options, ("username", "password"))
    return Antminer(
        host,
        _options.port_or(port, PORT),
        username=_options.text(options, "username", "root"),
        password=_options.text(options, "password", "root"),
        deadline_s=deadline_s,
        clock=clock,
    )


class Antminer:
    """One miner: Curtailable and Remembers."""

    def __init__(self, host: str, port: int, *, username: str, password: str, deadline_s: float, clock: Clock) -> None:
        self.memory: dict[str, str] = {}
        self._host = host
        self._port = port
        self._auth = DigestAuth(username, password)
        self._deadline_s = deadline_s
        self._clock = clock
        self._judge = StateJudge(clock)
        self._changing = asyncio.Lock()
        self._asleep_until_ms = 0
        self._complaints: tuple[str, ...] = ()
        self._hot = False
        place = crc32(f"{host}:{port}".encode()) / 2**32
        self._next_complaints_ms = clock.mono_ms() + int(place * _COMPLAINTS_EVERY_MS)

    async def read(self) -> MinerReading | Unreachable:
        until_s = deadline(self._deadline_s)
        reply = await self._get(_STATS, until_s)
        if isinstance(reply, Unreachable):
            return reply
        if not isinstance(reply.get("STATS"), list):
            return Unreachable(Failure.GARBAGE, "stats.cgi without STATS")
        stats = record(reply, "STATS")  # a sleeping miner sends none
        hashrate_ghs = _hashrate_ghs(stats)
        asleep = False if hashrate_ghs else await self._read_asleep(stats, until_s)
        if self._clock.mono_ms() >= self._next_complaints_ms:
            await self._read_complaints(until_s)
        chains = records(stats, "chain")
        sensors = [chain.get(name) for chain in chains for name in ("temp_chip", "temp_pcb", "temp_pic")]
        return MinerReading(
            # No record at all while the configuration says that it mines: cgminer is on its way up.
            state=self._judge.judge(hashrate_ghs if stats else 0, asleep, tripped=self._hot),
            power_w=watts(stats.get("watt", stats.get("power"))),
            hashrate_ghs=hashrate_ghs,
            chip_temp_mc=hottest_mc(value for group in sensors if isinstance(group, list) for value in group),
            errors=self._complaints,
        )

    async def stop(self) -> Outcome:
        async with self._changing:
            until_s = deadline(self._deadline_s)
            conf = await self._read_conf(until_s)
            if isinstance(conf, Unreachable):
                return conf
            mode = _mode(conf)
            if mode == _SLEEP:
                return Applied("already asleep")
            if mode is None:
                return Refused("its configuration states no work mode, so it could not be put back")
            self.memory[_MODE_MEMORY] = mode
            return await self._write_mode(conf, _SLEEP, until_s)

    async def resume(self) -> Outcome:
        async with self._changing:
            until_s = deadline(self._deadline_s)
            conf = await self._read_conf(until_s)
            if isinstance(conf, Unreachable):
                return conf
            mode = _mode(conf)
            if mode != _SLEEP:
                return Refused("its configuration states no work mode") if mode is None else Applied(f"in mode {mode}")
            previous = self.memory.get(_MODE_MEMORY, _NORMAL)
            usable = previous.isascii() and previous.isdigit() and previous != _SLEEP
            return await self._write_mode(conf, previous if usable else _NORMAL, until_s)

    async def close(self) -> None:
        """Nothing is held between operations."""

    async def _read_asleep(self, stats: Json, until_s: float) -> bool | None:
        mode = _mode(stats)
        if mode is None and self._clock.mono_ms() < self._asleep_until_ms:
            return True
        if mode is None:
            conf = await self._get(_CONF, until_s)
            mode = None if isinstance(conf, Unreachable) else _mode(conf)
        if mode == _SLEEP:
            self._asleep_until_ms = self._clock.mono_ms() + _ASLEEP_HOLDS_MS
        return None if mode is None else mode == _SLEEP

    async def _read_complaints(self, until_s: float) -> None:
        """Refresh what the miner itself finds wrong: its checks of rate, network, fans and temperature."""
        self._next_complaints_ms = self._clock.mono_ms() + _COMPLAINTS_EVERY_MS
        reply = await self._get(_SUMMARY, until_s)
        if isinstance(reply, Unreachable):
            return
        bad = [check for check in records(record(reply, "SUMMARY"), "status") if check.get("status") in ("e", "w")]
        self._hot = any(check.get("type") == "temp" and check["status"] == "e" for check in bad)
        self._complaints = tuple(f"{check.get('type')}: {check.get('msg') or check.get('code')}" for check in bad[:8])

    async def _read_conf(self, until_s: float) -> Json | Unreachable:
        conf = await self._get(_CONF, until_s)
        if isinstance(conf, dict) and not isinstance(conf.get("pools"), list):
            # Writing back a configuration without its pools would leave the miner with none.
            return Unreachable(Failure.GARBAGE, "get_miner_conf.cgi without pools")
        return conf

    async def _write_mode(self, conf: Json, mode: str, until_s: float) -> Outcome:
        self._asleep_until_ms = 0
        body = json.dumps(_with_mode(conf, mode), ensure_ascii=False).encode()
        answer = await self._request("POST", _SET_CONF, until_s, body)
        if isinstance(answer, Unreachable):
            return answer
        said = decode(answer.body) or {}
        message = str(said.get("msg") or said.get("code") or f"HTTP {answer.status}")
        if answer.status == 200 and said.get("stats") == "success":
            return Applied(message)
        return Refused(message)

    async def _get(self, path: str, until_s: float) -> Json | Unreachable:
        answer = await self._request("GET", path, until_s)
        if isinstance(answer, Unreachable):
            return answer
        reply = decode(answer.body) if answer.status == 200 else None
        return reply if reply is not None else Unreachable(Failure.GARBAGE, f"HTTP {answer.status} from {path}")

    async def _request(self, method: str, path: str, until_s: float, body: bytes = b"") -> _http.Answer | Unreachable:
        """One authorised request: with the challenge at hand first, and once again with the one from a 401."""
        answer = await self._send(method, path, until_s, body)
        if isinstance(answer, Unreachable) or answer.status != 401:
            return answer
        if not self._auth.learn(answer.all("www-authenticate")):
            return Unreachable(Failure.AUTH, "it asks for an authentication other than digest")
        answer = await self._send(method, path, until_s, body)
        if isinstance(answer, Unreachable) or answer.status != 401:
            return answer
        return Unreachable(Failure.AUTH, "wrong username or password")

    async def _send(self, method: str, path: str, until_s: float, body: bytes) -> _http.Answer | Unreachable:
        authorization = self._auth.authorization(method, path)
        headers = () if authorization is None else (("Authorization", authorization),)
        return await _http.request(self._host, self._port, method, path, until_s=until_s, headers=headers, body=body)


def _hashrate_ghs(stats: Json) -> int | None:
    unit = stats.get("rate_unit", "GH/s")
    per_ghs = _PER_GHS.get(unit) if isinstance(unit, str) else None
    return None if per_ghs is None else ghs(stats.get("rate_5s"), per_ghs)


def _mode(conf: Json) -> str | None:
    """The work mode, which firmwares send as text or number under one of two names."""
    mode = conf.get("bitmain-work-mode", conf.get("miner-mode"))
    if isinstance(mode, bool) or not isinstance(mode, str | int):
        return None
    return str(mode) if str(mode).isdigit() else None


def _with_mode(conf: Json, mode: str) -> Json:
    """The whole configuration with another mode, under the names that reading gave and those that writing takes."""
    changed = {**conf, "miner-mode": int(mode)}
    if "bitmain-work-mode" in conf:
        changed["bitmain-work-mode"] = mode if isinstance(conf["bitmain-work-mode"], str) else int(mode)
    if "bitmain-freq-level" in conf:
        changed.setdefault("freq-level", conf["bitmain-freq-level"])
    return changed
