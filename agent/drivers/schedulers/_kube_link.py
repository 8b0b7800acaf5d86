"""Questions and commands to a Kubernetes API server, through `kubernetes-asyncio`: its configuration, TLS and tokens.

Its typed models are left out: to make them of 1,000 jobs takes longer than a tick. Bodies are read as they come and
parsed into the lean records of `_kube_records`. Lists are paged. Nothing raises for what the server does; the caller
bounds the time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import weakref
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
from pydantic import TypeAdapter, ValidationError

from agent.drivers.base import Applied, Failure, MissingExtraError, Outcome, Refused, Unreachable
from agent.drivers.schedulers._batch import IN_FLIGHT
from agent.drivers.schedulers._kube_records import Listed
from agent.drivers.schedulers._slurm_link import read_token

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

R = TypeVar("R")
PAGE: Final = 500
MAX_PAGES: Final = 40
MAX_ANSWER_BYTES: Final = 64 * 1_048_576
SHARED_S: Final = 0.5
"""How long a list serves the other partitions of a cluster: far less than a tick."""
MERGE: Final = "application/merge-patch+json"
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Access:
    """The way to one API server; one of the three first is given."""

    kubeconfig: Path | None
    in_cluster: bool
    url: str | None
    context: str | None = None
    token_file: Path | None = None
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, whatever its status."""

    status: int
    body: bytes

    @property
    def said(self) -> str:
        """The message of its `Status`."""
        try:
            message = json.loads(self.body).get("message")
        except (ValueError, AttributeError, RecursionError):
            message = None
        return f"HTTP {self.status} {message}"[:200] if isinstance(message, str) else f"HTTP {self.status}"


@dataclass(slots=True)
class _Shared:
    """A list, for every partition that asks for the same within `SHARED_S` with no command of ours meanwhile."""

    one_asks: asyncio.Lock = field(default_factory=asyncio.Lock)
    objects: tuple[Any, ...] | None = None
    changes: int = 0
    at_s: float = 0.0
    readers: list[object] = field(default_factory=list)
    """Who has it already: each asks for something newer the next time."""

    def serves(self, reader: object, changes: int) -> bool:
        age_s = asyncio.get_running_loop().time() - self.at_s
        return (
            self.objects is not None
            and self.changes == changes
            and age_s <= SHARED_S
            and all(known is not reader for known in self.readers)
        )


class NotThere(Unreachable):
    """404: there is no such object, or no such kind of object."""

    __slots__ = ()


def need_client() -> None:
    """Raise `MissingExtraError` where `kubernetes-asyncio` is not installed. Its import takes half a second: here, when
    the driver is made, and not in the running loop."""
    try:
        from kubernetes_asyncio import client, config  # noqa: F401
    except ImportError:
        raise MissingExtraError("install it with: pip install 'wattshift[kubernetes]'") from None


class KubeLink:
    """One API server as one user. Partitions of one cluster share it by `open_link`: one client, one list a tick."""

    def __init__(self, access: Access) -> None:
        self._users = 0
        self._shared: dict[Hashable, _Shared] = {}
        """By what was asked for, of which there are a few."""
        self._changes = 0
        """Commands begun and ended."""
        self._commands = 0
        """Commands under way."""
        self._access = access
        self._client: ApiClient | None = None
        self._opening = asyncio.Lock()
        self._busy = 0
        """Requests under way."""
        self._done_with: list[ApiClient] = []
        """Clients whose token was no longer taken; each is closed once no request is under way."""

    def open(self) -> None:
        self._users += 1

    async def shared(self, reader: object, path: str, kind: type[R], **query: str) -> tuple[R, ...] | Unreachable:
        """As `listed`; what another reader was just given serves this one too, but never what is older than a command
        of ours, and never the same twice."""
        own = self._shared.setdefault((path, *sorted(query.items())), _Shared())
        async with own.one_asks:
            if not own.serves(reader, self._changes):
                own.objects, own.readers = None, []
                before, quiet = self._changes, not self._commands
                at_s = asyncio.get_running_loop().time()
                found = await self.listed(path, kind, **query)
                if isinstance(found, Unreachable) or not quiet or before != self._changes:
                    return found
                own.objects, own.changes, own.at_s = found, before, at_s
            own.readers.append(reader)
            assert own.objects is not None  # noqa: S101  it serves, or was just read
            return own.objects

    async def listed(self, path: str, kind: type[R], **query: str) -> tuple[R, ...] | Unreachable:
        """Every object of a collection, page by page."""
        adapter = _adapter(kind)
        found: list[R] = []
        query = {"limit": str(PAGE), **query}
        for _ in range(MAX_PAGES):
            answer = await self._ask("GET", path, query=query)
            if isinstance(answer, Unreachable):
                return answer
            page = _parsed(answer, adapter, path)
            if isinstance(page, Unreachable):
                return page
            found += page.items
            if not page.metadata.continue_:
                return tuple(found)
            query["continue"] = page.metadata.continue_
        return Unreachable(Failure.OVERSIZED, f"{path}: over {MAX_PAGES * PAGE} objects")

    async def got(self, path: str, kind: type[R]) -> R | Unreachable:
        """One object; `NotThere` where there is none."""
        answer = await self._ask("GET", path)
        return answer if isinstance(answer, Unreachable) else _parsed(answer, _adapter_of(kind), path)

    async def patch(self, path: str, change: Mapping[str, Any]) -> Answer | Unreachable:
        """A merge patch. With a `resourceVersion` in it the change is conditional: 409 where the object is another."""
        return await self._command("PATCH", path, change, MERGE)

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer | Unreachable:
        return await self._command("POST", path, body, _JSON)

    async def close(self) -> None:
        """One user of it is done; the last one drops the client."""
        self._users -= 1
        if self._users <= 0:
            self._shared.clear()
            self._drop(self._client)
            await self._tidy()

    async def _command(self, method: str, path: str, body: Mapping[str, Any], kind: str) -> Answer | Unreachable:
        self._changes += 1
        self._commands += 1
        try:
            return await self._ask(method, path, body=body, kind=kind)
        finally:
            self._commands -= 1
            self._changes += 1

    def _drop(self, client: ApiClient | None) -> None:
        if client is not None and client is self._client:
            self._done_with.append(client)
            self._client = None

    async def _tidy(self) -> None:
        done_with, self._done_with = self._done_with, []
        for client in done_with:
            await client.close()

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        kind: str = _JSON,
    ) -> Answer | Unreachable:
        client = await self._opened()
        if isinstance(client, Unreachable):
            return client
        headers = {"Accept": _JSON, "Content-Type": kind}
        self._busy += 1
        try:
            response = await client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=aiohttp.ClientTimeout(total=None),
            )
            try:
                raw = await _read(response)
            finally:
                response.release()
        except aiohttp.ClientConnectorError as error:
            return Unreachable(Failure.CONNECT, str(error)[:200])
        except aiohttp.ClientResponseError as error:
            return Unreachable(Failure.GARBAGE, f"not HTTP: {error.message}"[:200])
        except (aiohttp.ClientError, OSError) as error:
            return Unreachable(Failure.CLOSED, f"{type(error).__name__}: {error}"[:200])
        finally:
            self._busy -= 1
        if raw is None:
            return Unreachable(Failure.OVERSIZED, f"{path}: over {MAX_ANSWER_BYTES} bytes")
        answer = Answer(response.status, raw)
        if answer.status == 401:
            self._drop(client)  # a kubeconfig is read anew next time, with what token it has then
            return Unreachable(Failure.AUTH, f"the API server takes no such token: {answer.said}")
        return answer

    async def _opened(self) -> ApiClient | Unreachable:
        async with self._opening:
            if self._busy == 0:
                await self._tidy()
            if self._client is None:
                client = await _open(self._access)
                if isinstance(client, Unreachable):
                    return client
                self._client = client
            if self._access.token_file is not None:
                token = read_token(self._access.token_file)
                if isinstance(token, Unreachable):
                    return token
                self._client.configuration.api_key["BearerToken"] = f"Bearer {token}"
            return self._client


_links: weakref.WeakValueDictionary[Hashable, KubeLink] = weakref.WeakValueDictionary()


def open_link(access: Access) -> KubeLink:
    """The running loop's one object for a way to a cluster. Each `open_link` is ended by its own `close`."""
    key = (asyncio.get_running_loop(), access)
    link = _links.get(key)
    if link is None:
        link = _links[key] = KubeLink(access)
    link.open()
    return link


async def _open(access: Access) -> ApiClient | Unreachable:
    import yaml
    from kubernetes_asyncio import client, config

    # It logs every body at debug level; one of ours may hold a whole cluster.
    logging.getLogger("kubernetes_asyncio").setLevel(logging.WARNING)
    configuration = client.Configuration()
    configuration.connection_pool_maxsize = IN_FLIGHT + 4  # a listing does not queue behind commands
    try:
        if access.kubeconfig is not None:
            await config.load_kube_config(
                config_file=str(access.kubeconfig),
                context=access.context,
                client_configuration=configuration,
                persist_config=False,
            )
        elif access.in_cluster:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            configuration.host = str(access.url).rstrip("/")
            configuration.ssl_ca_cert = None if access.ca is None else str(access.ca)
        return client.ApiClient(configuration)
    except (config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
        return Unreachable(Failure.AUTH, " ".join(f"no way to the API server: {error}".split())[:200])
    except (AttributeError, KeyError, TypeError):  # what the client makes of a file that is no kubeconfig
        return Unreachable(Failure.AUTH, f"no way to the API server: {access.kubeconfig} is no kubeconfig")


def outcome_of(answer: Answer | Unreachable, done: str = "") -> Outcome:
    """What an answer to a change means. After a 5xx it may have been done all the same."""
    if isinstance(answer, Unreachable):
        return answer
    if answer.status < 300:
        return Applied(done)
    if answer.status >= 500:
        return Unreachable(Failure.GARBAGE, answer.said)
    return Refused(answer.said)


def _parsed(answer: Answer, adapter: TypeAdapter[R], path: str) -> R | Unreachable:
    if answer.status == 404:
        return NotThere(Failure.GARBAGE, f"{path}: {answer.said}")
    if answer.status == 403:
        return Unreachable(Failure.AUTH, f"it may not be read: {answer.said}")
    if answer.status != 200:
        return Unreachable(Failure.GARBAGE, f"{path}: {answer.said}")
    try:
        return adapter.validate_json(answer.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return Unreachable(Failure.GARBAGE, f"{path}: {where} {first['msg']}"[:200])


_adapters: dict[object, TypeAdapter[Any]] = {}


def _adapter_of(kind: type[R]) -> TypeAdapter[R]:
    """The parser of one of these; made once, for that takes milliseconds."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _adapter(kind: type[R]) -> TypeAdapter[Listed[R]]:
    """The parser of a list of these."""
    return _adapter_of(Listed[kind])  # type: ignore[valid-type]


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
