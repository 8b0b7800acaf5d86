"""What the Braiins OS driver needs of the public REST API of Braiins OS 23.03 and later: miner status and power target.

`POST /api/v1/auth/login` gives a token that each request carries; it expires an hour after its last use and is then
renewed once. Source: developer.braiins-os.com/latest/openapi.html and, for the values of the status, MinerStatus in
github.com/braiins/bos-plus-api.
"""

from __future__ import annotations

import json
from typing import Any, Final

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.miners import _http
from agent.drivers.miners._values import decode

HTTP_PORT: Final = 80

_PAUSED: Final = {
    **dict.fromkeys((1, 2, 5, "MINER_STATUS_NOT_STARTED", "MINER_STATUS_NORMAL", "MINER_STATUS_RESTRICTED"), False),
    **dict.fromkeys((3, 4, "MINER_STATUS_PAUSED", "MINER_STATUS_SUSPENDED"), True),
}


class BraiinsRest:
    """The REST API of one miner, logged in when first needed."""

    def __init__(self, host: str, port: int, username: str, password: str) -> None:
        self._host = host
        self._port = port
        self._login = json.dumps({"username": username, "password": password}).encode()
        self._token: str | None = None

    async def paused(self, until_s: float) -> bool | None:
        """Whether the miner says that it is paused or suspended; None where it does not say, or not in time."""
        answer = await self._ask("GET", "/miner/details", until_s)
        if isinstance(answer, Unreachable) or answer.status != 200:
            return None
        said = (decode(answer.body) or {}).get("status")
        return _PAUSED.get(said) if isinstance(said, int | str) and not isinstance(said, bool) else None

    async def set_power_target_w(self, power_w: int, until_s: float) -> Outcome:
        """Tune for another power from now on, without a restart."""
        answer = await self._ask("PUT", "/performance/power-target", until_s, {"watt": power_w})
        if isinstance(answer, Unreachable):
            return answer
        said = f"HTTP {answer.status} {answer.body[:120].decode('utf-8', 'replace')}".rstrip()
        return Applied(said) if 200 <= answer.status < 300 else Refused(said)

    async def _ask(self, method: str, path: str, until_s: float, value: Any = None) -> _http.Answer | Unreachable:
        held = self._token
        answer = await self._send(method, path, until_s, value)
        if isinstance(answer, _http.Answer) and answer.status == 401 and held is not None:
            self._token = None
            answer = await self._send(method, path, until_s, value)
        if isinstance(answer, _http.Answer) and answer.status == 401:
            return Unreachable(Failure.AUTH, "the miner rejects its own token")
        return answer

    async def _send(self, method: str, path: str, until_s: float, value: Any) -> _http.Answer | Unreachable:
        if self._token is None:
            token = await self._log_in(until_s)
            if isinstance(token, Unreachable):
                return token
            self._token = token
        return await _http.request(
            self._host,
            self._port,
            method,
            f"/api/v1{path}",
            until_s=until_s,
            headers=(("Authorization", self._token),),
            body=b"" if value is None else json.dumps(value).encode(),
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
