"""One JSON service of a host over HTTP: login, one request and its answer, all within the caller's deadline. A BMC's
Redfish service, or the GPU helper, which is asked with `auth="none"` and a header of the caller's own.

Source: DMTF DSP0266. A session's token is asked for when first needed and renewed once where the service no longer
takes it; a BMC has few sessions (16 is usual), so `close` gives it back. No redirect is followed, and nothing but a
path of this service is ever asked for, whatever an answer links to: the token goes to no other machine.

ETags: services differ. Some refuse a PATCH without `If-Match` (428), some refuse a weak one, some change the tag with
every sensor reading (412). A 412 or 428 says that nothing was done, so the request is made again in the next form, and
the form that was taken is used first from then on.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from agent.drivers.base import Failure, Unreachable
from agent.drivers.hosts._values import Json, listed, table, text

MAX_ANSWER_BYTES: Final = 1_048_576
MAX_SECRET_BYTES: Final = 4_096
ROOT: Final = "/redfish/v1/"
_AT_ONCE: Final = 4
_UNTAKEN: Final = frozenset({412, 428})
_FORMS: Final = 3
"""If-Match as the service gave the tag; in its strong form; not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a service is and how it is entered."""

    url: str
    username: str = ""
    password_file: Path | None = None
    auth: str = "session"
    """`session`, `basic` or `none`."""
    ca: Path | None = None
    fingerprint: str | None = None
    """SHA-256 of the service's own certificate, in hexadecimal: pins one that is self-signed."""
    verify_tls: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of the service."""

    status: int
    body: Json
    etag: str | None
    location: str

    @property
    def said(self) -> str:
        """What the service says went wrong, in its own words."""
        error = table(self.body.get("error"))
        messages = listed(error.get("@Message.ExtendedInfo")) or listed(self.body.get("@Message.ExtendedInfo"))
        first = table(messages[0]) if messages else {}
        return text(first.get("Message")) or text(error.get("message")) or f"HTTP {self.status}"

    @property
    def complaint(self) -> str | None:
        """A complaint inside an answer that otherwise says yes: a property may be annotated with one."""
        for key, value in self.body.items():
            if key.endswith("@Message.ExtendedInfo"):
                for message in map(table, listed(value)):
                    severity = text(message.get("MessageSeverity")) or text(message.get("Severity"))
                    if severity.lower() in {"warning", "critical"}:
                        return text(message.get("Message")) or text(message.get("MessageId")) or severity
        return None


class Gone(Unreachable):
    """There is no such resource, or no longer."""

    __slots__ = ()


@dataclass(slots=True)
class ServiceLink:
    """One service. Nothing raises for what it does. `until_s` is an instant of the running loop's time."""

    access: Access
    _session: aiohttp.ClientSession | None = None
    _token: str | None = None
    _token_path: str | None = None
    _login: asyncio.Lock = field(default_factory=asyncio.Lock)
    _form: int = 0
    _tls: ssl.SSLContext | aiohttp.Fingerprint | bool | None = None

    async def get(self, path: str, until_s: float) -> Answer | Unreachable:
        """One resource. Anything but 200 is `Unreachable`, or `Gone` where it is not there."""
        answer = await self.ask("GET", path, until_s)
        if isinstance(answer, Unreachable) or answer.status == 200:
            return answer
        if answer.status in {404, 410}:
            return Gone(Failure.GARBAGE, f"{path[:100]}: HTTP {answer.status}")
        failure = Failure.AUTH if answer.status in {401, 403} else Failure.GARBAGE
        return Unreachable(failure, f"{path[:100]}: HTTP {answer.status} {answer.said}"[:200])

    async def patch(self, path: str, change: Json, etag: str | None, until_s: float) -> Answer | Unreachable:
        """Change a resource. `etag` is the one that it was read with."""
        answer: Answer | Unreachable = Unreachable(Failure.TIMEOUT)
        for step in range(_FORMS):
            form = (self._form + step) % _FORMS
            answer = await self.ask("PATCH", path, until_s, change, _if_match(etag, form))
            if isinstance(answer, Unreachable) or answer.status not in _UNTAKEN or etag is None:
                break
        else:
            form = self._form
        if isinstance(answer, Answer) and answer.status not in _UNTAKEN:
            self._form = form
        return answer

    async def ask(
        self,
        method: str,
        path: str,
        until_s: float,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | Unreachable:
        """One request and its answer, whatever its status; logged in anew once where the token is no longer taken."""
        if not is_path(path):
            return Unreachable(Failure.GARBAGE, f"it links to another place: {path[:100]!r}")
        try:
            async with asyncio.timeout_at(until_s):
                entered = await self._entry()
                if isinstance(entered, Unreachable):
                    return entered
                answer = await self._send(method, path, body, {**(headers or {}), **entered})
                if isinstance(answer, Answer) and answer.status == 401 and self.access.auth == "session":
                    entered = await self._entry(stale=entered)
                    if isinstance(entered, Unreachable):
                        return entered
                    answer = await self._send(method, path, body, {**(headers or {}), **entered})
        except TimeoutError:
            return Unreachable(Failure.TIMEOUT, f"{path[:100]}: no answer in time")
        if isinstance(answer, Answer) and answer.status == 401:
            return Unreachable(Failure.AUTH, "it does not take the user and password, or the token, that it was given")
        return answer

    async def close(self, until_s: float) -> None:
        """Give the session back, and drop the connections."""
        token, path = self._token, self._token_path
        self._token = self._token_path = None
        session = self._session
        if session is None:
            return
        try:
            if token is not None and path is not None:
                async with asyncio.timeout_at(until_s):
                    await self._send("DELETE", path, None, {"X-Auth-Token": token})
        except TimeoutError:
            pass  # it ends by itself, when it has not been used for long
        finally:
            self._session = None
            await session.close()

    # -- entering ----------------------------------------------------------------------------------------------------

    async def _entry(self, stale: Mapping[str, str] | None = None) -> Mapping[str, str] | Unreachable:
        """The headers that let a request in. `stale` are those that did not."""
        if self.access.auth == "none":
            return {}
        if self.access.auth == "basic":
            password = self._password()
            if isinstance(password, Unreachable):
                return password
            given = base64.b64encode(f"{self.access.username}:{password}".encode()).decode()
            return {"Authorization": f"Basic {given}"}
        async with self._login:
            if self._token is None or (stale is not None and stale.get("X-Auth-Token") == self._token):
                self._token = self._token_path = None
                failed = await self._log_in()
                if failed is not None:
                    return failed
            assert self._token is not None  # noqa: S101  set by a login that did not fail
            return {"X-Auth-Token": self._token}

    async def _log_in(self) -> Unreachable | None:
        password = self._password()
        if isinstance(password, Unreachable):
            return password
        root = await self._send("GET", ROOT, None, {})
        if isinstance(root, Unreachable):
            return root
        links = table(table(root.body.get("Links")).get("Sessions"))
        path = text(links.get("@odata.id"))
        if not is_path(path):
            return Unreachable(Failure.AUTH, 'it names no place for sessions: set auth = "basic"')
        login = {"UserName": self.access.username, "Password": password}
        answer = await self._send("POST", path, login, {})
        if isinstance(answer, Unreachable):
            return answer
        token = text(answer.body.get("X-Auth-Token"), MAX_SECRET_BYTES)
        if answer.status not in {200, 201} or not token:
            failure = Failure.AUTH if answer.status in {400, 401, 403} else Failure.GARBAGE
            return Unreachable(failure, f"it opens no session: HTTP {answer.status} {answer.said}"[:200])
        self._token = token
        own = answer.location or text(answer.body.get("@odata.id"))
        self._token_path = own if is_path(own) else None
        return None

    def _password(self) -> str | Unreachable:
        """Read anew each time, so that a changed one needs no restart."""
        if self.access.password_file is None:
            return ""
        try:
            with self.access.password_file.open("rb") as file:
                return file.read(MAX_SECRET_BYTES).decode().strip("\r\n")
        except OSError as error:
            return Unreachable(Failure.AUTH, f"password_file {self.access.password_file}: {error.strerror}")
        except UnicodeDecodeError:
            return Unreachable(Failure.AUTH, f"password_file {self.access.password_file} is not UTF-8")

    # -- one exchange ------------------------------------------------------------------------------------------------

    async def _send(
        self, method: str, path: str, body: Json | None, headers: Mapping[str, str]
    ) -> Answer | Unreachable:
        try:
            tls = self._tls_of()
            async with self._client().request(
                method, self.access.url.rstrip("/") + path, json=body, headers=headers, ssl=tls, allow_redirects=False
            ) as response:
                raw = await _read(response)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch) as error:
            return Unreachable(Failure.CONNECT, f"its certificate is not trusted: {error}"[:200])
        except aiohttp.ClientConnectorError as error:
            return Unreachable(Failure.CONNECT, str(error)[:200])
        except aiohttp.ClientResponseError as error:
            return Unreachable(Failure.GARBAGE, f"not HTTP: {error.message}"[:200])
        except aiohttp.ClientError as error:
            return Unreachable(Failure.CLOSED, f"{type(error).__name__}: {error}"[:200])
        except OSError as error:
            return Unreachable(Failure.CONNECT, f"{error}"[:200])
        if raw is None:
            return Unreachable(Failure.OVERSIZED, f"{path[:100]}: over {MAX_ANSWER_BYTES} bytes")
        return _answer(response, raw, path)

    def _tls_of(self) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
        if self._tls is None:
            if self.access.fingerprint is not None:
                self._tls = aiohttp.Fingerprint(bytes.fromhex(self.access.fingerprint))
            elif not self.access.verify_tls:
                self._tls = False
            elif self.access.ca is not None:
                self._tls = ssl.create_default_context(cafile=str(self.access.ca))
            else:
                self._tls = True
        return self._tls

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_AT_ONCE),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                headers={"Accept": "application/json", "OData-Version": "4.0", "Accept-Encoding": "identity"},
                auto_decompress=False,
            )
        return self._session


def is_path(path: str) -> bool:
    """Whether this is a plain path of the service itself."""
    return path.startswith("/") and not path.startswith("//") and path.isprintable() and " " not in path


def _if_match(etag: str | None, form: int) -> Mapping[str, str]:
    if etag is None or form == _FORMS - 1:
        return {}
    return {"If-Match": etag.removeprefix("W/") if form == 1 else etag}


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


def _answer(response: aiohttp.ClientResponse, raw: bytes, path: str) -> Answer | Unreachable:
    body: Any = {}
    if raw.strip():
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            if response.status < 300:
                return Unreachable(Failure.GARBAGE, f"{path[:100]}: HTTP {response.status}, not JSON")
            body = {}
    if not isinstance(body, dict):
        return Unreachable(Failure.GARBAGE, f"{path[:100]}: no JSON object")
    token = response.headers.get("X-Auth-Token")
    if token:
        body = {**body, "X-Auth-Token": token}
    etag = response.headers.get("ETag") or text(body.get("@odata.etag")) or None
    location = urlsplit(response.headers.get("Location", "")).path
    return Answer(response.status, body, etag if etag is None or etag.isprintable() else None, location)
