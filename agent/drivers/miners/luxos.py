"""LuxOS, Luxor's firmware for Antminers: the cgminer API on port 4028, with sessions for what changes the miner.

Reading takes one combined command and no session. A change takes the one session that the miner gives at a time
(`logon`), which expires after a minute without use. The driver keeps its session for the next change and gives it back
(`logoff`) at the first read two seconds later: a shed is then two exchanges and not three, and nobody else is kept
waiting for longer than a tick. A session that the miner no longer knows is replaced once. Where someone else holds the
session, a stop borrows it (`session` tells it to anyone; it is there to take turns, not for security), for a shed must
not wait on a dashboard, nor on this agent's own session from before a restart; anything else is refused until it ends.

`curtail sleep` turns hashboards and power supply off with the control board up and persists over a reboot; `curtail
wakeup` ramps up to the profile that was set before, so resuming restores it by itself. Power is set by profile: the
strongest whose watts are within the limit. Only ATM, the firmware's own thermal tuning, may move the profile again.

Source: docs.luxor.tech/firmware/api (intro, sessions, curtail, profileset, profiles, power, temps, config).
"""

from __future__ import annotations

import asyncio
from typing import Final

from agent.drivers.base import Applied, DeviceState, Failure, Miner, MinerReading, Outcome, Refused, Unreachable
from agent.drivers.miners import _options
from agent.drivers.miners._cgminer_api import PORT, ask, command, part, status
from agent.drivers.miners._options import DEADLINE_S, Options
from agent.drivers.miners._state import StateJudge
from agent.drivers.miners._values import Json, first_ghs, hottest_mc, record, records, watts
from agent.drivers.transport import deadline
from contract.clock import Clock

_READ: Final = command("summary+power+temps+config")
_PROFILES: Final = command("profiles+config")
_LOGON: Final = command("logon")
_SESSION: Final = command("session")

_SESSION_LIFE_MS: Final = 55_000
"""The miner forgets it after 60 s without use; a little less, so as not to try one that just expired."""
_SESSION_IDLE_MS: Final = 2_000
_HASHRATE: Final = (("GHS 5s", 1.0), ("MHS 5s", 1_000.0), ("GHS av", 1.0))
_SENSORS: Final = ("TopLeft", "TopRight", "BottomLeft", "BottomRight")


def create(host: str, port: int | None, options: Options, *, deadline_s: float = DEADLINE_S, clock: Clock) -> Miner:
    """Options: `min_power_w` and `max_power_w`, which switch power limiting on."""
    _options.only(options, ("min_power_w", "max_power_w"))
    power_range_w = _options.power_range_w(options)
    where = (host, _options.port_or(port, PORT))
    if power_range_w is None:
        return Luxos(*where, deadline_s=deadline_s, clock=clock)
    return LuxosPowerLimited(*where, power_range_w=power_range_w, deadline_s=deadline_s, clock=clock)


class Luxos:
    """One miner: Curtailable."""

    def __init__(self, host: str, port: int, *, deadline_s: float, clock: Clock) -> None:
        self._host = host
        self._port = port
        self._deadline_s = deadline_s
        self._clock = clock
        self._judge = StateJudge(clock)
        self._changing = asyncio.Lock()
        self._session: str | None = None
        self._session_used_ms = 0

    async def read(self) -> MinerReading | Unreachable:
        until_s = deadline(self._deadline_s)
        reading = await self._read(until_s)
        if isinstance(reading, MinerReading):
            await self._give_session_back(until_s, idle_ms=_SESSION_IDLE_MS)
        return reading

    async def stop(self) -> Outcome:
        return await self._curtail("sleep", (DeviceState.STOPPED,))

    async def resume(self) -> Outcome:
        return await self._curtail("wakeup", (DeviceState.RUNNING, DeviceState.STARTING))

    async def close(self) -> None:
        await self._give_session_back(deadline(self._deadline_s), idle_ms=0)

    async def _read(self, until_s: float) -> MinerReading | Unreachable:
        reply = await ask(self._host, self._port, _READ, until_s)
        if isinstance(reply, Unreachable):
            return reply
        summary = record(part(reply, "summary"), "SUMMARY")
        config = record(part(reply, "config"), "CONFIG")
        if not summary and not config:
            return Unreachable(Failure.GARBAGE, f"no LuxOS reading: {status(reply).message or 'no summary, no config'}")
        hashrate_ghs = first_ghs(summary, _HASHRATE)
        system = str(config.get("SystemStatus", ""))
        boards = records(part(reply, "temps"), "TEMPS")
        return MinerReading(
            state=self._judge.judge(hashrate_ghs, _asleep(config), tripped=_says_overheated(system)),
            power_w=watts(record(part(reply, "power"), "POWER").get("Watts")),
            hashrate_ghs=hashrate_ghs,
            chip_temp_mc=hottest_mc(board.get(sensor) for board in boards for sensor in _SENSORS),
            power_limit_w=_power_target_w(config),
            errors=(f"system status {system}",) if system not in ("", "Normal", "Initializing") else (),
        )

    async def _curtail(self, action: str, wanted: tuple[DeviceState, ...]) -> Outcome:
        until_s = deadline(self._deadline_s)
        outcome = await self._change("curtail", action, until_s, borrow=action == "sleep")
        if isinstance(outcome, Refused):
            reading = await self._read(until_s)
            if isinstance(reading, MinerReading) and reading.state in wanted:
                return Applied(f"already {reading.state}")
        return outcome

    async def _change(self, name: str, argument: str, until_s: float, *, borrow: bool = False) -> Outcome:
        """One command that needs the session; a session that the miner does not know is renewed once."""
        async with self._changing:
            reply = await self._send_in_session(name, argument, until_s, borrow=borrow)
            if isinstance(reply, dict) and _rejects_session(reply):
                self._session = None
                reply = await self._send_in_session(name, argument, until_s, borrow=borrow)
        if not isinstance(reply, dict):
            return reply
        said = status(reply)
        return Applied(said.message) if said.ok else Refused(said.message or f"{name} {argument} failed")

    async def _send_in_session(
        self, name: str, argument: str, until_s: float, *, borrow: bool
    ) -> Json | Refused | Unreachable:
        if self._session is None or self._clock.mono_ms() - self._session_used_ms >= _SESSION_LIFE_MS:
            reply = await ask(self._host, self._port, _LOGON, until_s)
            if isinstance(reply, Unreachable):
                return reply
            self._session = _session_id(reply)
            if self._session is None:
                theirs = await ask(self._host, self._port, _SESSION, until_s) if borrow else {}
                session = _session_id(theirs) if isinstance(theirs, dict) else None
                if session is None:
                    return Refused(status(reply).message or "no session")
                return await ask(self._host, self._port, command(name, f"{session},{argument}"), until_s)
        self._session_used_ms = self._clock.mono_ms()
        return await ask(self._host, self._port, command(name, f"{self._session},{argument}"), until_s)

    async def _give_session_back(self, until_s: float, *, idle_ms: int) -> None:
        """Log off a session that nothing has used for `idle_ms`; without result, for it expires by itself."""
        used_ms_ago = self._clock.mono_ms() - self._session_used_ms
        if self._session is None or self._changing.locked() or used_ms_ago < idle_ms:
            return
        session, self._session = self._session, None
        if used_ms_ago < _SESSION_LIFE_MS:
            await ask(self._host, self._port, command("logoff", session), until_s)


class LuxosPowerLimited(Luxos):
    """One miner whose power may be set: Curtailable and PowerLimited."""

    def __init__(
        self, host: str, port: int, *, power_range_w: tuple[int, int], deadline_s: float, clock: Clock
    ) -> None:
        super().__init__(host, port, deadline_s=deadline_s, clock=clock)
        self._power_range_w = power_range_w

    @property
    def power_range_w(self) -> tuple[int, int]:
        return self._power_range_w

    async def set_power_w(self, power_w: int) -> Outcome:
        least, most = self._power_range_w
        if not least <= power_w <= most:
            return Refused(f"{power_w} W is outside {least} to {most} W")
        until_s = deadline(self._deadline_s)
        reply = await ask(self._host, self._port, _PROFILES, until_s)
        if isinstance(reply, Unreachable):
            return reply
        profile = _strongest_within(records(part(reply, "profiles"), "PROFILES"), power_w)
        if profile is None:
            return Refused(f"no profile within {power_w} W")
        if record(part(reply, "config"), "CONFIG").get("Profile") == profile:
            return Applied(f"already at profile {profile}")  # setting it again would ramp the miner down and up
        return await self._change("profileset", profile, until_s)


def _session_id(reply: Json) -> str | None:
    session = record(reply, "SESSION").get("SessionID")
    return session if isinstance(session, str) and session else None


def _asleep(config: Json) -> bool | None:
    mode = config.get("CurtailMode")
    return mode.lower() != "none" if isinstance(mode, str) and mode else None


def _says_overheated(system_status: str) -> bool:
    return "temp" in system_status.lower() or "heat" in system_status.lower()


def _power_target_w(config: Json) -> int | None:
    return watts(config.get("IdealPowerTarget")) if config.get("IsPowerTargetEnabled") is True else None


def _rejects_session(reply: Json) -> bool:
    said = status(reply)
    return not said.ok and "session" in said.message.lower()


def _strongest_within(profiles: list[Json], power_w: int) -> str | None:
    fitting = [
        (profile_w, name)
        for profile in profiles
        if isinstance(name := profile.get("Profile Name"), str)
        and (profile_w := watts(profile.get("Watts"))) is not None
        and profile_w <= power_w
    ]
    return max(fitting)[1] if fitting else None
