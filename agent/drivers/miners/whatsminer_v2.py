"""WhatsMiner, API version 2: cgminer-like on port 4028, reads in clear, changes AES-encrypted under a token.

A read is one `summary` while the miner hashes; `status` is asked as well when it does not, and the error codes once a
minute. A change needs a token (`get_token`): 30 minutes of life, at most 32 for one client address, and some CPU to
derive. So the driver takes one before it is needed, during a read and spread over time, and a shed is one exchange per
miner. A token that the miner no longer accepts is replaced once. The driver never takes more than half of the 32, lest
a wrong password lock other tools at this address out.

`power_off` cuts the hashboards' power and leaves the control board up; `power_on` starts in the power mode that was
set before. Power is set with `set_power_pct`, which acts within seconds and needs no reboot where Power Fast Boot is
enabled; `max_power_w` is its 100 %. `adjust_power_limit` reboots the miner for minutes and is not used.

The API must have been switched on with WhatsMinerTool, which also demands that the password be changed.
Source: WhatsMiner API 2.0.3 to 2.0.5 (MicroBT).
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple
from zlib import crc32

from agent.drivers.base import Applied, DeviceState, Failure, Miner, MinerReading, Outcome, Refused, Unreachable
from agent.drivers.miners import _options
from agent.drivers.miners import _whatsminer_cipher as cipher
from agent.drivers.miners._cgminer_api import PORT, ask, status
from agent.drivers.miners._options import DEADLINE_S, Options
from agent.drivers.miners._state import StateJudge
from agent.drivers.miners._values import Json, first_ghs, hottest_mc, record, temp_mc, watts
from agent.drivers.transport import deadline
from contract.clock import Clock

_SUMMARY: Final = b'{"cmd":"summary"}'
_STATUS: Final = b'{"cmd":"status"}'
_ERRORS: Final = b'{"cmd":"get_error_code"}'
_GET_TOKEN: Final = b'{"cmd":"get_token"}'

_TOKEN_LIFE_MS: Final = 29 * 60_000
_TOKEN_RENEWAL_MS: Final = 20 * 60_000
_TOKEN_SPREAD_MS: Final = 8 * 60_000
_FIRST_TOKEN_SPREAD_MS: Final = 60_000
_TOKENS_AT_ONCE: Final = 16
_ERRORS_EVERY_MS: Final = 60_000
_MOST_ERRORS: Final = 20
_OFF_HOLDS_MS: Final = 20_000
"""How long a `status` that said off is believed while the hashrate stays at zero: one exchange per read, not two."""

_OK: Final = 131
_TOKEN_REJECTED: Final = (23, 135, 137)
"""Bad JSON and bad base64 are how a firmware answers a cipher text that it cannot read: a token it has forgotten."""
_TOKENS_EXHAUSTED: Final = 136

_HASHRATE: Final = (("HS RT", 1_000.0), ("MHS 5s", 1_000.0), ("MHS 1m", 1_000.0), ("MHS av", 1_000.0))
_PROTECTION_WORDS: Final = ("temp", "protect", "fault", "error")


def create(host: str, port: int | None, options: Options, *, deadline_s: float = DEADLINE_S, clock: Clock) -> Miner:
    """Options: `password` (admin); `min_power_w` and `max_power_w`, which switch power limiting on."""
    _options.only(options, ("password", "min_power_w", "max_power_w"))
    power_range_w = _options.power_range_w(options)
    password = _options.text(options, "password", "admin")
    where = (host, _options.port_or(port, PORT))
    cipher.require_cryptography()
    if power_range_w is None:
        return WhatsminerV2(*where, password=password, deadline_s=deadline_s, clock=clock)
    return WhatsminerV2PowerLimited(
        *where, password=password, power_range_w=power_range_w, deadline_s=deadline_s, clock=clock
    )


class WhatsminerV2:
    """One miner: Curtailable."""

    def __init__(self, host: str, port: int, *, password: str, deadline_s: float, clock: Clock) -> None:
        self._host = host
        self._port = port
        self._password = password
        self._deadline_s = deadline_s
        self._clock = clock
        self._judge = StateJudge(clock)
        self._token: cipher.Token | None = None
        self._tokens_taken_ms: deque[int] = deque(maxlen=_TOKENS_AT_ONCE)
        self._key: tuple[str, str] | None = None
        """Salt and the key it gave."""
        place = crc32(f"{host}:{port}".encode()) / 2**32
        self._token_renewal_ms = _TOKEN_RENEWAL_MS + int(place * _TOKEN_SPREAD_MS)
        self._next_token_ms = clock.mono_ms() + int(place * _FIRST_TOKEN_SPREAD_MS)
        self._off = _Off(None, "")
        self._off_until_ms = 0
        self._errors: tuple[str, ...] = ()
        self._next_errors_ms = clock.mono_ms() + int(place * _ERRORS_EVERY_MS)

    async def read(self) -> MinerReading | Unreachable:
        until_s = deadline(self._deadline_s)
        reading = await self._read(until_s)
        if isinstance(reading, MinerReading) and self._clock.mono_ms() >= self._next_token_ms:
            await self._take_token(until_s)
        return reading

    async def stop(self) -> Outcome:
        return await self._change({"cmd": "power_off", "respbefore": "true"}, (DeviceState.STOPPED,))

    async def resume(self) -> Outcome:
        return await self._change({"cmd": "power_on"}, (DeviceState.RUNNING, DeviceState.STARTING))

    async def close(self) -> None:
        """Tokens cannot be given back; they expire."""

    async def _read(self, until_s: float) -> MinerReading | Unreachable:
        reply = await ask(self._host, self._port, _SUMMARY, until_s)
        if isinstance(reply, Unreachable):
            return reply
        summary = _summary(reply)
        hashrate_ghs = first_ghs(summary, _HASHRATE)
        off = _Off(False, "") if hashrate_ghs else await self._read_off(until_s)
        if not summary and off.said is None:
            return Unreachable(Failure.GARBAGE, f"no WhatsMiner reading: {status(reply).message or 'no summary'}")
        if self._clock.mono_ms() >= self._next_errors_ms:
            await self._read_errors(until_s)
        tripped = bool(off.said and off.protection)
        return MinerReading(
            state=self._judge.judge(hashrate_ghs, off.said and not tripped, tripped=tripped),
            power_w=watts(summary.get("Power")),
            hashrate_ghs=hashrate_ghs,
            inlet_temp_mc=temp_mc(summary.get("Env Temp")),
            chip_temp_mc=hottest_mc((summary.get("Chip Temp Max"), summary.get("Temperature"))),
            power_limit_w=watts(summary.get("Power Limit")),
            errors=(*self._errors, off.protection) if tripped else self._errors,
        )

    async def _read_off(self, until_s: float) -> _Off:
        if self._off.said and self._clock.mono_ms() < self._off_until_ms:
            return self._off
        reply = await ask(self._host, self._port, _STATUS, until_s)
        self._off = _off(reply) if isinstance(reply, dict) else _Off(None, "")
        self._off_until_ms = self._clock.mono_ms() + _OFF_HOLDS_MS
        return self._off

    async def _read_errors(self, until_s: float) -> None:
        """Refresh the error codes. Both shapes are in the field: a list of objects, and one object."""
        self._next_errors_ms = self._clock.mono_ms() + _ERRORS_EVERY_MS
        reply = await ask(self._host, self._port, _ERRORS, until_s)
        said = reply.get("Msg") if isinstance(reply, dict) else None
        if not isinstance(said, dict):
            return
        found = said.get("error_code")
        rows = found if isinstance(found, list) else [found]
        codes = [f"error {code}" for row in rows if isinstance(row, dict) for code in row]
        self._errors = tuple(codes[:_MOST_ERRORS])

    async def _change(self, command: dict[str, str], wanted: tuple[DeviceState, ...] = ()) -> Outcome:
        """One encrypted command. A token that the miner rejects is replaced once; a refusal of what is already so
        counts as done."""
        until_s = deadline(self._deadline_s)
        self._off_until_ms = 0
        held = self._token
        reply = await self._send_sealed(command, until_s)
        if isinstance(reply, dict) and reply.get("Code") in _TOKEN_REJECTED and self._token is held:
            self._token = None
            reply = await self._send_sealed(command, until_s)
        if not isinstance(reply, dict):
            return reply
        said = status(reply)
        if said.code == _OK:
            return Applied(said.message)
        if said.code in _TOKEN_REJECTED:
            return Unreachable(Failure.AUTH, f"the miner rejects a fresh token, is the password right? {said.message}")
        reading = await self._read(until_s) if wanted else None
        if isinstance(reading, MinerReading) and reading.state in wanted:
            return Applied(f"already {reading.state}")
        return Refused(said.message or f"code {said.code}")

    async def _send_sealed(self, command: dict[str, str], until_s: float) -> Json | Refused | Unreachable:
        token = self._token
        if token is None or self._clock.mono_ms() - token.born_ms > _TOKEN_LIFE_MS:
            taken = await self._take_token(until_s)
            if not isinstance(taken, cipher.Token):
                return taken
            token = taken
        reply = await ask(self._host, self._port, cipher.seal(token, command), until_s)
        if isinstance(reply, Unreachable):
            return reply
        return cipher.unseal(token, reply) or Unreachable(Failure.GARBAGE, "an answer that cannot be decrypted")

    async def _take_token(self, until_s: float) -> cipher.Token | Refused | Unreachable:
        now_ms = self._clock.mono_ms()
        self._next_token_ms = now_ms + self._token_renewal_ms
        if len(self._tokens_taken_ms) == _TOKENS_AT_ONCE and now_ms - self._tokens_taken_ms[0] < _TOKEN_LIFE_MS:
            return Unreachable(Failure.AUTH, f"{_TOKENS_AT_ONCE} tokens taken within {_TOKEN_LIFE_MS // 60_000} min")
        self._tokens_taken_ms.append(now_ms)
        reply = await ask(self._host, self._port, _GET_TOKEN, until_s)
        if isinstance(reply, Unreachable):
            return reply
        if reply.get("Code") == _TOKENS_EXHAUSTED:
            return Unreachable(Failure.AUTH, "the miner gives this address no more tokens for up to 30 min")
        given = reply.get("Msg")
        if not isinstance(given, dict):
            return Refused(status(reply).message or "no token")
        salt, newsalt, time = (given.get(name) for name in ("salt", "newsalt", "time"))
        if not (isinstance(salt, str) and isinstance(newsalt, str) and isinstance(time, str | int)):
            return Unreachable(Failure.GARBAGE, "a token without salt or time")
        if self._key is None or self._key[0] != salt:
            self._key = (salt, cipher.derive_key(self._password, salt))
        key = self._key[1]
        self._token = cipher.Token(cipher.derive_sign(key, str(time), newsalt), key, now_ms)
        return self._token


class WhatsminerV2PowerLimited(WhatsminerV2):
    """One miner whose power may be set: Curtailable and PowerLimited."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        password: str,
        power_range_w: tuple[int, int],
        deadline_s: float,
        clock: Clock,
    ) -> None:
        super().__init__(host, port, password=password, deadline_s=deadline_s, clock=clock)
        self._power_range_w = power_range_w

    @property
    def power_range_w(self) -> tuple[int, int]:
        return self._power_range_w

    async def set_power_w(self, power_w: int) -> Outcome:
        """Rounds down to whole percent of the range's upper end."""
        least, most = self._power_range_w
        if not least <= power_w <= most:
            return Refused(f"{power_w} W is outside {least} to {most} W")
        percent = max(100 * power_w // most, 1)
        return await self._change({"cmd": "set_power_pct", "percent": str(percent)})


class _Off(NamedTuple):
    said: bool | None
    """Whether the miner says that it is off; None where it does not say."""
    protection: str
    """The protection that switched it off, in the miner's words; empty where it was a command."""


def _off(reply: Json) -> _Off:
    said = reply.get("Msg")
    word = said.get("mineroff", said.get("btmineroff")) if isinstance(said, dict) else None
    if not isinstance(said, dict) or word not in ("true", "false"):
        return _Off(None, "")
    reason = str(said.get("mineroff_reason", ""))
    return _Off(word == "true", reason if any(word in reason.lower() for word in _PROTECTION_WORDS) else "")


def _summary(reply: Json) -> Json:
    """The record of a `summary`, which newer firmwares send as an object in `Msg`."""
    row = record(reply, "SUMMARY")
    said = reply.get("Msg")
    return row or (said if isinstance(said, dict) else {})
