"""One slurmrestd (OpenAPI v0.0.38) as one user: requests, and what its answers mean. Nothing here raises for what a
server does; the caller bounds the time.

What the codes mean was seen on 22.05.8. slurmrestd cannot tell a bad token from a slurmctld that is gone, for slurmctld
closes the connection on both; but the first it says within milliseconds and the second after nine seconds of trying.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from pydantic import ValidationError

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.schedulers._batch import IN_FLIGHT
from agent.drivers.schedulers._slurm_link import SlurmLink, Tables, read_token
from agent.drivers.schedulers._slurm_records import Answer, JobsAnswer, NodesAnswer, PartitionsAnswer
from contract.clock import Clock

A = TypeVar("A", bound=Answer)

MAX_ANSWER_BYTES: Final = 64 * 1_048_576
GONE: Final = Applied("no longer there")
"""The answer to a command for a job that has ended: it draws nothing."""

_ENDED: Final = frozenset({2_017, 2_021, 2_084})
"""Invalid job id, already completing or completed, already finished."""
NOT_NOW: Final = 2_020
"""In transition: a signal is under way. A pending job answers this too."""
_RETRIES_S: Final = (0.05, 0.1, 0.2)
_NO_ANSWER: Final = frozenset({-1, 1_000, 5_005})
"""slurmctld closed the connection or did not answer."""
_CONTROLLER: Final = range(1_800, 1_812)
"""Slurm's own codes for a slurmctld that cannot be reached."""
_PROMPT_S: Final = 5.0
_ARRAY_UPDATE: Final = "job array update from"
"""Any update of an array says that it failed, with HTTP 200 and no number, when it succeeds as well."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where, and as whom."""

    url: str
    """`http://host:port`, or `unix:/path`."""
    user: str | None
    token_file: Path | None


@dataclass(frozen=True, slots=True)
class _Raw:
    status: int
    body: bytes
    took_s: float


class SlurmApi(SlurmLink):
    """See the module. Partitions of one slurmrestd share it by `open_api`: one session, and one listing a tick."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        super().__init__(clock)
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None
        self._users = 0

    def open(self) -> None:
        self._users += 1

    async def close(self) -> None:
        """Drop the session with the last user."""
        self._users -= 1
        session, self._session = (self._session, None) if self._users <= 0 else (None, self._session)
        if session is not None:
            await session.close()

    async def signal(self, job: str, signal: str) -> Outcome:
        """Signal a job's batch script, or all of a job that has none. `job` is an id, or ARRAY_TASK."""
        outcome, number = await self._command("DELETE", job, query={"signal": signal})
        for wait_s in _RETRIES_S:
            if number != NOT_NOW:
                break
            await asyncio.sleep(wait_s)
            outcome, number = await self._command("DELETE", job, query={"signal": signal})
        return outcome

    async def update(self, job: str, fields: Mapping[str, Any]) -> Outcome:
        """Change a job. `job` is an id, or ARRAY_TASK, or ARRAY_[TASKS]."""
        return (await self._command("POST", job, fields=fields))[0]

    def token(self) -> str | Unreachable | None:
        return read_token(self._endpoint.token_file)

    # -- requests ----------------------------------------------------------------------------------------------------

    async def _tables(self) -> Tables | Unreachable:
        jobs, nodes, partitions = await asyncio.gather(
            self._list("jobs", JobsAnswer),
            self._list("nodes", NodesAnswer),
            self._list("partitions", PartitionsAnswer),
        )
        if isinstance(jobs, Unreachable):
            return jobs
        if isinstance(nodes, Unreachable):
            return nodes
        return partitions if isinstance(partitions, Unreachable) else (jobs, nodes, partitions)

    async def _list(self, what: str, kind: type[A]) -> A | Unreachable:
        raw = await self._request("GET", what)
        if isinstance(raw, Unreachable):
            return raw
        answer = _parsed(raw, kind)
        if isinstance(answer, Unreachable):
            return answer
        if answer.errors:
            outcome = _outcome(answer, raw)[0]
            return outcome if isinstance(outcome, Unreachable) else Unreachable(Failure.GARBAGE, answer.errors[0].text)
        if what not in answer.model_fields_set:
            return Unreachable(Failure.GARBAGE, f"HTTP {raw.status}, no {what} in the answer")
        return answer

    async def _command(
        self, method: str, job: str, *, fields: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> tuple[Outcome, int | None]:
        """A command's outcome and Slurm's number for it, None where it gave none."""
        with self.command():
            raw = await self._request(method, f"job/{job}", fields, query)
        if isinstance(raw, Unreachable):
            return raw, None
        answer = _parsed(raw, Answer)
        return (answer, None) if isinstance(answer, Unreachable) else _outcome(answer, raw)

    async def _request(
        self, method: str, path: str, fields: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> _Raw | Unreachable:
        token = self.token()
        if isinstance(token, Unreachable):
            return token
        if self._users <= 0:
            return Unreachable(Failure.CLOSED, "closed")
        base = "http://localhost" if self._endpoint.url.startswith("unix:") else self._endpoint.url.rstrip("/")
        headers = {"X-SLURM-USER-NAME": self._endpoint.user} if self._endpoint.user else {}
        if token is not None:
            headers["X-SLURM-USER-TOKEN"] = token
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        try:
            async with self._client().request(
                method,
                f"{base}/slurm/v0.0.38/{path}",
                json=fields,
                params=query,
                headers=headers,
                allow_redirects=False,
            ) as response:
                body = await _read(response)
        except aiohttp.ClientConnectorError as error:
            return Unreachable(Failure.CONNECT, str(error)[:200])
        except aiohttp.ClientResponseError as error:
            return Unreachable(Failure.GARBAGE, f"not HTTP: {error.message}"[:200])
        except (aiohttp.ClientError, OSError) as error:
            return Unreachable(Failure.CLOSED, f"{type(error).__name__}: {error}"[:200])
        if body is None:
            return Unreachable(Failure.OVERSIZED, f"{path}: over {MAX_ANSWER_BYTES} bytes")
        if response.status in {401, 403}:
            return Unreachable(Failure.AUTH, "slurmrestd asks for a user and a token: set user and token_file")
        return _Raw(response.status, body, loop.time() - asked_s)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            limit = IN_FLIGHT + 4  # a listing does not queue behind commands
            path = self._endpoint.url.removeprefix("unix:")
            is_unix = path != self._endpoint.url
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(path, limit=limit) if is_unix else aiohttp.TCPConnector(limit=limit)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                auto_decompress=False,
            )
        return self._session


_open: weakref.WeakValueDictionary[Hashable, SlurmApi] = weakref.WeakValueDictionary()


def open_api(endpoint: Endpoint, clock: Clock) -> SlurmApi:
    """The running loop's one object for an endpoint. Each `open_api` is ended by its own `close`."""
    key = (asyncio.get_running_loop(), clock, endpoint)
    api = _open.get(key)
    if api is None:
        api = _open[key] = SlurmApi(endpoint, clock)
    api.open()
    return api


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The whole body; None where it is too long."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            response.close()
            return None
        parts.append(part)
    return b"".join(parts)


def _parsed(raw: _Raw, kind: type[A]) -> A | Unreachable:
    try:
        return kind.model_validate_json(raw.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if raw.status == 404:
        return Unreachable(Failure.GARBAGE, "HTTP 404: nothing there serves Slurm's OpenAPI v0.0.38")
    where = ".".join(str(part) for part in first["loc"])
    return Unreachable(Failure.GARBAGE, f"HTTP {raw.status}, not in the v0.0.38 form: {where} {first['msg']}"[:200])


def _outcome(answer: Answer, raw: _Raw) -> tuple[Outcome, int | None]:
    """What an answer to a command means, and the number in it."""
    numbers = [error.number for error in answer.errors if error.number is not None]
    number = numbers[0] if numbers else None
    if not answer.errors:
        return (Applied(), None) if raw.status < 300 else (Unreachable(Failure.GARBAGE, f"HTTP {raw.status}"), None)
    first = answer.errors[0]
    if number is None and raw.status == 200 and (first.description or "").startswith(_ARRAY_UPDATE):
        return Applied("Slurm does not say of an array"), None
    if number in _ENDED:
        return GONE, number
    if number in _CONTROLLER or (number in _NO_ANSWER and raw.took_s >= _PROMPT_S):
        return Unreachable(Failure.CONNECT, f"slurmctld does not answer slurmrestd: {first.text}"), number
    if number in _NO_ANSWER:
        text = "slurmctld takes no request with this token; renew it with `scontrol token`"
        return Unreachable(Failure.AUTH, text), number
    return Refused(first.text), number
