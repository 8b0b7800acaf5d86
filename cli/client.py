"""A small client of the controller's HTTP API. Every failure is one `ApiError` with an exit code.

On the standard library alone: an HTTP client that can do everything takes longer to load than `wattshift status` may
run.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_DEGRADED: Final = 3
EXIT_AUTH: Final = 4
EXIT_CONFLICT: Final = 5
EXIT_UNREACHABLE: Final = 6
EXIT_INTERRUPTED: Final = 130
"""What a shell gives for a command ended by Ctrl-C."""

_EXIT_BY_STATUS: Final = {
    400: EXIT_USAGE,
    401: EXIT_AUTH,
    403: EXIT_AUTH,
    404: EXIT_USAGE,
    409: EXIT_CONFLICT,
    412: EXIT_CONFLICT,
    413: EXIT_USAGE,
    422: EXIT_USAGE,
    428: EXIT_CONFLICT,
}
_ANSWER_MAX: Final = 256 * 2**20
T = TypeVar("T")


class ApiError(Exception):
    """What went wrong, in words for the terminal, and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: its JSON, None where it has none, and its headers."""

    body: Any
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of /v1/events."""

    kind: str
    data: Any


@dataclass(frozen=True, slots=True)
class Api:
    """Where the controller listens and the token that opens it."""

    url: str
    token: str | None
    timeout_s: float = 10.0

    @classmethod
    def at(cls, url: str, token_file: Path | None) -> Api:
        """Reads the token; `ApiError` where the file cannot be read."""
        if token_file is None:
            return cls(url.rstrip("/"), None)
        try:
            return cls(url.rstrip("/"), token_file.read_text(encoding="utf-8").strip())
        except OSError as error:
            raise ApiError(f"--token-file {token_file}: {error.strerror}", EXIT_AUTH) from error

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One request; the parsed JSON of the answer, None where it has none."""
        return self.ask(method, path, body=body, query=query, headers=headers).body

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; the answer with its headers. `ApiError` on anything but success."""
        data = None if body is None else json.dumps(body).encode()
        with self._sent(method, path, data, query, headers, self.timeout_s) as (_, response):
            raw = self._guarded(lambda: response.read(_ANSWER_MAX))
            try:
                answer = json.loads(raw) if raw else None
            except ValueError:
                told = f"{self.url}{path} did not answer JSON; is that a Wattshift controller?"
                raise ApiError(told, EXIT_FAILED) from None
            if response.status >= 300:
                exit_code = _EXIT_BY_STATUS.get(response.status, EXIT_FAILED)
                raise ApiError(_problem(answer, response.status), exit_code)
            return Answer(answer, dict(response.getheaders()))

    @contextlib.contextmanager
    def events(self, site: str, for_s: float) -> Iterator[Iterator[ServerEvent]]:
        """Follow a site's events, for so long from the first that is asked for."""
        with self._sent("GET", "/v1/events", None, {"site": site}, None, self.timeout_s) as (connection, response):
            if response.status != 200:
                raw = self._guarded(lambda: response.read(_ANSWER_MAX))
                told = _problem(json.loads(raw) if raw else None, response.status)
                raise ApiError(told, _EXIT_BY_STATUS.get(response.status, EXIT_FAILED))
            yield self._told(connection, response, for_s)

    def _told(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, for_s: float
    ) -> Iterator[ServerEvent]:
        from contract.clock import SystemClock  # asyncio comes with it, which no other call needs

        clock, kind = SystemClock(), ""
        ends_ms = clock.mono_ms() + for_s * 1_000
        while (left_ms := ends_ms - clock.mono_ms()) > 0:
            if connection.sock is not None:
                connection.sock.settimeout(left_ms / 1_000)
            try:
                line = response.readline()
            except TimeoutError:
                return
            except (OSError, http.client.HTTPException):
                return  # the controller has gone; what is known by then is told
            if not line:
                return
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield ServerEvent(kind, json.loads(value))

    @contextlib.contextmanager
    def _sent(
        self,
        method: str,
        path: str,
        data: bytes | None,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        timeout_s: float,
    ) -> Iterator[tuple[http.client.HTTPConnection, http.client.HTTPResponse]]:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ApiError(f"--url {self.url}: is not http://HOST:PORT", EXIT_USAGE)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        target = parts.path + path + (f"?{urlencode(query)}" if query else "")
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if data is not None:
            sent["Content-Type"] = "application/json"
        connection = self._guarded(lambda: kind(parts.hostname or "", parts.port, timeout=timeout_s))
        try:
            self._guarded(lambda: connection.request(method, target, data, sent | dict(headers or {})))
            yield connection, self._guarded(connection.getresponse)
        finally:
            connection.close()

    def _guarded(self, act: Callable[[], T]) -> T:
        """Whatever may go wrong on the way, as an `ApiError`."""
        try:
            return act()
        except TimeoutError:
            detail = f"no word within {self.timeout_s:.0f} s"
        except OSError as error:
            detail = error.strerror or str(error) or type(error).__name__
        except (http.client.HTTPException, ValueError) as error:
            detail = f"{type(error).__name__} {error}".strip()
        hint = "is the controller running, and --url right?"
        raise ApiError(f"no answer from {self.url}: {detail}; {hint}", EXIT_UNREACHABLE)


def _problem(answer: Any, status: int) -> str:
    """One line from a problem+json body (RFC 9457)."""
    if not isinstance(answer, dict):
        return f"HTTP {status}"
    told = str(answer.get("detail") or answer.get("title") or f"HTTP {status}")
    field = answer.get("field")
    named = f"{field}: " if field and not told.startswith(f"{field}:") else ""
    fix = f". Fix: {answer['fix']}" if answer.get("fix") else ""
    return f"{named}{told}{fix}"
