"""Braiins OS: the BOSminer API on port 4028 for reading, pause and resume; the public REST API for the power target.

Reading takes one combined command. `pause` and `resume` need no login, keep the control board up, and bring back the
tuned profile by themselves. A paused miner says so in its tuner's status, or only answers `devdetails` with
"Unavailable". The power target is set live over HTTP (`PUT /api/v1/performance/power-target`) with a token from
`/api/v1/auth/login`, and needs the web password; a token that has expired is renewed once.

Source: docs.braiins.com/os (BOSminer API), developer.braiins-os.com (REST), github.com/braiins/bos-plus-api.
"""

from __future__ import annotations

import json
from typing import Any, Final

from agent.drivers.base import Applied, DeviceState, Failure, Miner, MinerReading, Outcome, Refused, Unreachable
from agent.drivers.miners import _http, _options
from agent.drivers.miners._cgminer_api import PORT, ask, command, part, status
from agent.drivers.miners._options import DEADLINE_S, Options
from agent.drivers.miners._state import StateJudge
from agent.drivers.miners._values import Json, decode, first_ghs, hottest_mc, record, records, watts
from agent.drivers.transport import deadline
from contract.clock import Clock

HTTP_PORT: Final = 80

_READ: Final = command("summary+temps+tunerstatus+devdetails")
_HASHRATE: Final = (("MHS 5s", 1_000.0), ("MHS 1m", 1_000.0), ("MHS av", 1_000.0))
_HEALTHY: Final = ("stable", "tuning", "testing", "paused", "resuming", "starting", "idle")


def create(host: str, port: int | None, options: Options, *, deadline_s: float = DEADLINE_S, clock: Clock) -> Miner:
    """Options: `min_power_w` and `max_power_w`, which switch power limiting on, and for it `username` (root),
    `password` (none) and `http_port` (80)."""
    _options.only(options, ("min_power_w", "max_power_w", "username", "password", "http_port"))
    power_range_w = _options.power_range_w(options)
    where = (host, _options.port_or(port, PORT))
    rest = _Rest(
        host,
        _options.whole(options, "http_port", HTTP_PORT, least=1, most=65_535),
        _options.text(options, "username", "root"),
        _options.text(options, "password", ""),
    )
    if power_range_w is None:
        return Braiins(*where, deadline_s=deadline_s, clock=clock)
    return BraiinsPowerLimited(*where, rest=rest, power_range_w=power_range_w, deadline_s=deadline_s, clock=clock)


class Braiins:
    """One miner: Curtailable."""

    def __init__(self, host: str, port: int, *, deadline_s: float, clock: Clock) -> None:
        self._host = host
        self._port = port
        self._deadline_s = deadline_s
        self._judge = StateJudge(clock)

    async def read(self) -> MinerReading | Unreachable:
        return await self._read(deadline(self._deadline_s))

    async def stop(self) -> Outcome:
        return await self._command("pause", (DeviceState.STOPPED,))

    async def resume(self) -> Outcome:
        return await self._command("resume", (DeviceState.RUNNING, DeviceState.STARTING))

    async def close(self) -> None:
        """Nothing is held between operations."""

    async def _read(self, until_s: float) -> MinerReading | Unreachable:
        reply = await ask(self._host, self._port, _READ, until_s)
        if isinstance(reply, Unreachable):
            return reply
        summary = record(part(reply, "summary"), "SUMMARY")
        tuner = record(part(reply, "tunerstatus"), "TUNERSTATUS")
        if not summary and not tuner:
            return Unreachable(Failure.GARBAGE, f"no BOSminer reading: {status(reply).message or 'no summary'}")
        hashrate_ghs = first_ghs(summary, _HASHRATE)
        chains = [str(chain.get("Status", "")) for chain in records(tuner, "TunerChainStatus")]
        boards = records(part(reply, "temps"), "TEMPS")
        return MinerReading(
            state=self._judge.judge(hashrate_ghs, _paused(chains, part(reply, "devdetails"))),
            power_w=watts(tuner.get("ApproximateMinerPowerConsumption")),
            hashrate_ghs=hashrate_ghs,
            chip_temp_mc=hottest_mc(value for board in boards for value in (board.get("Chip"), board.get("Board"))),
            power_limit_w=watts(tuner.get("PowerLimit")),
            errors=tuple(chain for chain in chains if chain and not chain.lower().startswith(_HEALTHY)),
        )

    async def _command(self, name: str, wanted: tuple[DeviceState, ...]) -> Outcome:
        until_s = deadline(self._deadline_s)
        reply = await ask(self._host, self._port, command(name), until_s)
        if isinstance(reply, Unreachable):
            return reply
        said = status(reply)
        done = reply.get(name.upper())
        if said.ok and done != [False]:
            return Applied(said.message)
        reading = await self._read(until_s)
        if isinstance(reading, MinerReading) and reading.state in wanted:
            return Applied(f"already {reading.state}")
        return Refused(said.message or f"{name} failed")


class BraiinsPowerLimited(Braiins):
    """One miner whose power may be set: Curtailable and PowerLimited."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        rest: _Rest,
        power_range_w: tuple[int, int],
        deadline_s: float,
        clock: Clock,
    ) -> None:
        super().__init__(host, port, deadline_s=deadline_s, clock=clock)
        self._rest = rest
        self._power_range_w = power_range_w

    @property
    def power_range_w(self) -> tuple[int, int]:
        return self._power_range_w

    async def set_power_w(self, power_w: int) -> Outcome:
        least, most = self._power_range_w
        if not least <= power_w <= most:
            return Refused(f"{power_w} W is outside {least} to {most} W")
        return await self._rest.put("/performance/power-target", {"watt": power_w}, deadline(self._deadline_s))


class _Rest:
    """The REST API of one miner, logged in when first needed."""

    def __init__(self, host: str, port: int, username: str, password: str) -> None:
        self._host = host
        self._port = port
        self._login = json.dumps({"username": username, "password": password}).encode()
        self._token: str | None = None

    async def put(self, path: str, value: Any, until_s: float) -> Outcome:
        held = self._token
        answer = await self._put(path, value, until_s)
        if isinstance(answer, _http.Answer) and answer.status == 401 and held is not None:
            self._token = None
            answer = await self._put(path, value, until_s)
        if isinstance(answer, Unreachable):
            return answer
        if answer.status == 401:
            return Unreachable(Failure.AUTH, "the miner rejects its own token")
        said = f"HTTP {answer.status} {answer.body[:120].decode('utf-8', 'replace')}".rstrip()
        return Applied(said) if 200 <= answer.status < 300 else Refused(said)

    async def _put(self, path: str, value: Any, until_s: float) -> _http.Answer | Unreachable:
        if self._token is None:
            token = await self._log_in(until_s)
            if isinstance(token, Unreachable):
                return token
            self._token = token
        return await _http.request(
            self._host,
            self._port,
            "PUT",
            f"/api/v1{path}",
            until_s=until_s,
            headers=(("Authorization", self._token),),
            body=json.dumps(value).encode(),
        )

    async def _log_in(self, until_s: float) -> str | Unreachable:
        answer = await _http.request(
            self._host, self._port, "POST", "/api/v1/auth/login", until_s=until_s, body=self._login
        )
        if isinstance(answer, Unreachable):
            return answer
        if answer.status != 200:
            return Unreachable(Failure.AUTH, f"login answered HTTP {answer.status}")
        token = (decode(answer.body) or {}).get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            return Unreachable(Failure.GARBAGE, "login gave no token")
        return token


def _paused(chains: list[str], devdetails: Json) -> bool | None:
    """Whether mining is paused, by the tuner's word first; None where neither command says."""
    if any("paused" in chain.lower() for chain in chains):
        return True
    if chains:
        return False
    if not devdetails:
        return None
    return not status(devdetails).ok and status(devdetails).message == "Unavailable"
