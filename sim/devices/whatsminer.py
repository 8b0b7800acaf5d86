"""A WhatsMiner: API 2.0.5 on TCP 4028. Reading is open, writing is encrypted under a token.

Source: MicroBT's "WhatsMiner API V2.0.5" and public clients of it. `get_token` gives time, salt and newsalt; with the
admin password these make the AES-256-ECB key (one for the device) and the token (one for each `get_token`). A client
address may hold 32 tokens, each for 30 minutes, and 16 addresses may hold any. Commands are
`{"enc": 1, "data": BASE64}`, answers `{"enc": BASE64}`; what cannot be decrypted or has no valid token is answered in
the clear.

`set_power_pct` acts at once and is a share of the limit that `adjust_power_limit` set; that one reboots the device.
Commands need the package `cryptography` (extra `whatsminer`).
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any, Final

from sim.devices import whatsminer_answers as answers
from sim.devices.cgminer import ApiDevice
from sim.devices.md5crypt import md5crypt
from sim.devices.wire import Shared
from sim.ports import AsicPort, AsicState

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.modes import ECB

PASSWORD: Final = "admin"  # noqa: S105  the factory setting, in every manual
SALT: Final = "BQ5hoXV9"
"""Of the stored admin password: one for all devices, as they leave the factory with one image."""
MAX_TOKENS: Final = 32
TOKEN_S: Final = 1_800.0
MAX_CLIENTS: Final = 16
_BLOCK: Final = 16
_INVALID_COMMAND: Final = 14
_INVALID_JSON: Final = 23
_DENIED: Final = 45
_OK: Final = 131
_FAILED: Final = 132
_TOKEN: Final = 134
_BAD_TOKEN: Final = 135
_TOO_MANY: Final = 136
_BAD_BASE64: Final = 137
_STOPPED: Final = frozenset({AsicState.SLEEPING, AsicState.TRIPPED})
_OFF_REASONS: Final = {AsicState.SLEEPING: "by whatsminer api", AsicState.TRIPPED: "SM temperature protecting"}
"""The first as public captures show it; the second is chosen here, in the words of error 350."""


class _Token:
    """One answer of `get_token`. Its text is made when first needed: it costs a millisecond."""

    __slots__ = ("_text", "newsalt", "time", "until_s")

    def __init__(self, time: str, newsalt: str, until_s: float) -> None:
        self.time = time
        self.newsalt = newsalt
        self.until_s = until_s
        self._text: str | None = None

    def text(self) -> str:
        if self._text is None:
            self._text = md5crypt(_password_key() + self.time, self.newsalt)
        return self._text


class WhatsminerDevice(ApiDevice):
    """See the module."""

    __slots__ = ("_limit_w", "_tokens", "_tokens_given")

    description = ""
    reads = answers.READS

    def __init__(self, port: AsicPort, shared: Shared) -> None:
        super().__init__(port, shared)
        self._tokens: dict[str, list[_Token]] | None = None
        self._tokens_given = 0
        self._limit_w = port.power_limit_w

    def command_of(self, request: Mapping[str, object]) -> object:
        return request.get("cmd", request.get("command"))

    def api_answer(self, request: object, client: str) -> str:
        if isinstance(request, Mapping) and "enc" in request:
            return self._encrypted(request.get("data"), client)
        return super().api_answer(request, client)

    def reply(self, command: str, parameter: str, client: str) -> str:
        if command == "get_token":
            return self._give_token(client)
        if command in _WRITES:
            self.record(client, command)
            return self.problem(_DENIED, "can't access write cmd")
        return super().reply(command, parameter, client)

    def problem(self, code: int, message: str, status: str = "E") -> str:
        """This firmware's own form: the status is not in a list, and some messages are its own."""
        message = _MESSAGES.get(code, message)
        found = {"STATUS": status, "When": self.when_s(), "Code": code, "Msg": message, "Description": ""}
        return json.dumps(found, separators=(",", ":"))

    def values(self) -> dict[str, float | str]:
        values = super().values()
        state = self.port.state
        values["mineroff"] = "true" if state in _STOPPED else "false"
        values["off_reason"] = _OFF_REASONS.get(state, "")
        values["upfreq"] = 1 if state is AsicState.RUNNING else 0
        values["stable"] = "true" if state is AsicState.RUNNING else "false"
        values["status"] = "Dead" if state is AsicState.TRIPPED else "Alive"
        values["set_limit_w"] = self._limit_w
        values["errors"] = json.dumps([{code: "2025-01-01 00:00:00"} for code in _error_codes(state)])
        values["w_per_th"] = _ratio(values["power_w"], values["ghs"])
        return values

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _give_token(self, client: str) -> str:
        self.shared.log.reads += 1
        now_s = self.shared.loop.time()
        tokens = self._tokens = {
            holder: live
            for holder, held in (self._tokens or {}).items()
            if (live := [token for token in held if token.until_s > now_s])
        }
        held = tokens.get(client, [])
        if len(held) >= MAX_TOKENS or (not held and len(tokens) >= MAX_CLIENTS):
            return self.problem(_TOO_MANY, "token over max times")
        self._tokens_given += 1
        time = f"{self.when_s() % 10_000:04d}"
        newsalt = blake2b(f"{self.port.serial}/{self._tokens_given}".encode(), digest_size=4).hexdigest()
        tokens[client] = [*held, _Token(time, newsalt, now_s + TOKEN_S)]
        return answers.TOKEN % {"when": self.when_s(), "time": time, "salt": SALT, "newsalt": newsalt}

    def _is_token(self, given: object, client: str) -> bool:
        now_s = self.shared.loop.time()
        held = (self._tokens or {}).get(client, [])
        return any(token.until_s > now_s and token.text() == given for token in reversed(held))

    # -- commands ----------------------------------------------------------------------------------------------------

    def _encrypted(self, data: object, client: str) -> str:
        try:
            raw = b64decode(data, validate=True) if isinstance(data, str) else b""
        except ValueError:
            raw = b""
        if not raw or len(raw) % _BLOCK:
            return self.problem(_BAD_BASE64, "base64 decode error")
        request = _decrypted(raw)
        if request is None:
            return self.problem(_INVALID_JSON, "Invalid JSON")
        command = self.command_of(request)
        write = _WRITES.get(command) if isinstance(command, str) else None
        if not self._is_token(request.get("token"), client):
            if write is not None:
                self.record(client, str(command))
            return self.problem(_BAD_TOKEN, "check token err")
        if write is not None:
            return _sealed(write(self, request, client))
        return _sealed(self.reply(str(command), str(request.get("parameter", "")), client))

    def power_off(self, _request: Mapping[str, Any], client: str) -> str:
        """Stop hashing, the control board stays up. `respbefore` only says when to answer, and is not told apart."""
        return self._done("power_off", client, self.port.sleep)

    def power_on(self, _request: Mapping[str, Any], client: str) -> str:
        return self._done("power_on", client, self.port.wake)

    def restart_btminer(self, _request: Mapping[str, Any], client: str) -> str:
        return self._done("restart_btminer", client, self._restart)

    def reboot(self, _request: Mapping[str, Any], client: str) -> str:
        return self._done("reboot", client, self._reboot)

    def set_power_pct(self, request: Mapping[str, Any], client: str) -> str:
        """`percent` "0" to "100" of the limit, never under the least the model runs at. Not while it is stopped."""
        percent = _whole(request.get("percent"))
        wire = f"set_power_pct {request.get('percent')}"
        if percent is None or percent > 100 or self.port.state in _STOPPED:
            self.record(client, wire)
            return self.problem(_FAILED, "API command ERROR")
        power_w = max(self._limit_w * percent // 100, self.port.model.min_power_w)
        return self._done(wire, client, lambda: self.port.set_power_limit(power_w))

    def adjust_power_limit(self, request: Mapping[str, Any], client: str) -> str:
        """`power_limit` in watts, at most the model's ordinary power. Kept, and the device reboots."""
        power_w = _whole(request.get("power_limit"))
        wire = f"adjust_power_limit {request.get('power_limit')}"
        if power_w is None or not 0 < power_w <= self.port.model.rated_w:
            self.record(client, wire)
            return self.problem(_FAILED, "API command ERROR")
        limit_w = max(power_w, self.port.model.min_power_w)

        def adjust() -> None:
            self._limit_w = limit_w
            self._reboot()

        return self._done(wire, client, adjust)

    def _restart(self) -> None:
        self.port.sleep()
        self.port.wake()

    def _reboot(self) -> None:
        """What `set_power_pct` set is forgotten, and tokens are."""
        self._tokens = None
        self.port.set_power_limit(self._limit_w)
        self.port.reboot()

    def _done(self, wire: str, client: str, deed: Callable[[], None]) -> str:
        if self.act(client, wire, deed):
            return self.problem(_OK, "API command OK", "S")
        return self.problem(_FAILED, "API command ERROR")


_WRITES: Final[dict[str, Callable[[WhatsminerDevice, Mapping[str, Any], str], str]]] = {
    "power_off": WhatsminerDevice.power_off,
    "power_on": WhatsminerDevice.power_on,
    "restart_btminer": WhatsminerDevice.restart_btminer,
    "reboot": WhatsminerDevice.reboot,
    "set_power_pct": WhatsminerDevice.set_power_pct,
    "adjust_power_limit": WhatsminerDevice.adjust_power_limit,
}
_MESSAGES: Final = {_INVALID_COMMAND: "invalid cmd", _INVALID_JSON: "json cmd err"}


@lru_cache(maxsize=1)
def _password_key() -> str:
    return md5crypt(PASSWORD, SALT)


@lru_cache(maxsize=1)
def _cipher() -> Cipher[ECB]:
    """Imported when first needed, so that a farm of other firmwares does without the package."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import ECB

    return Cipher(AES(sha256(_password_key().encode()).digest()), ECB())  # noqa: S305  the vendor's choice


def _decrypted(raw: bytes) -> Mapping[str, Any] | None:
    reader = _cipher().decryptor()
    plain = (reader.update(raw) + reader.finalize()).rstrip(b"\0")
    try:
        found = json.loads(plain)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _sealed(answer: str) -> str:
    raw = answer.encode()
    raw += b"\0" * (-len(raw) % _BLOCK)
    writer = _cipher().encryptor()
    return json.dumps({"enc": b64encode(writer.update(raw) + writer.finalize()).decode()})


def _whole(value: object) -> int | None:
    """The figure of a parameter, which the document writes as text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


def _error_codes(state: AsicState) -> tuple[str, ...]:
    """350 to 352: temperature protection of a board."""
    return ("350", "351", "352") if state is AsicState.TRIPPED else ()


def _ratio(power_w: float | str, ghs: float | str) -> float:
    return float(power_w) / float(ghs) * 1e3 if ghs else 0.0
