"""The gate before every handler: who asks, may they, not too often. What was changed or refused is audited."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Mapping
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from controller.api.limits import RateLimit
from controller.api.problems import Handler, ProblemError, problem
from controller.audit import AuditLog
from controller.config import HttpSettings
from controller.roles import Access, Principal, Role

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSALS: Final = frozenset({401, 403, 429})
_AUDIT_FLUSH_S: Final = 2.0
_STRANGERS_PER_S: Final = 5.0
_STRANGERS_BURST: Final = 30.0
_REFUSALS_PER_S: Final = 5.0

PRINCIPAL: Final = web.RequestKey("principal", Principal)
DETAIL: Final = web.RequestKey("detail", dict[str, Any])
"""What a handler wants to stand in the audit log."""


class Gate:
    """`roles` is by method and route; None: nobody is asked. A path that is not in it needs a token of any role."""

    def __init__(
        self,
        access: Access,
        settings: HttpSettings,
        roles: Mapping[tuple[str, str], Role | None],
        audit: AuditLog | None,
        reading: Collection[tuple[str, str]] = (),
    ) -> None:
        """`reading` are routes that change nothing although their method might."""
        self._reading = reading
        self._access = access
        self._settings = settings
        self._roles = roles
        self._audit = audit
        self._lost = 0
        now_s = _loop_time
        self._reads = RateLimit(settings.reads_per_s, now_s)
        self._changes = RateLimit(settings.changes_per_s, now_s)
        self._strangers = RateLimit(_STRANGERS_PER_S, now_s, _STRANGERS_BURST)
        self._refusals = RateLimit(_REFUSALS_PER_S, now_s)

    def middleware(self) -> Middleware:
        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            request[DETAIL] = {}
            try:
                self._admit(request)
                response = await handler(request)
            except ProblemError as error:
                await self._note(request, error.problem.status, error)
                raise
            except web.HTTPException as error:
                await self._note(request, error.status, None)
                raise
            await self._note(request, response.status, None)
            return response

        return gate

    def still(self, request: web.Request) -> bool:
        """Whether who was let in would be let in again: tokens expire and are revoked."""
        return self._who(request) == request[PRINCIPAL]

    def spend_change(self, request: web.Request) -> None:
        """A change is about to be made. Raises `ProblemError` where there have been too many."""
        _too_often(self._changes.spend(request[PRINCIPAL].name), "changes")

    def _admit(self, request: web.Request) -> None:
        needs = self._roles.get(_route(request), Role.VIEWER)
        if needs is None:
            return
        who = self._who(request)
        if who is None:
            _too_often(self._strangers.spend(_peer(request)), "requests without a valid token")
            fix = "send `Authorization: Bearer TOKEN`, with one of [http] token_file or roles_file that has not expired"
            raise problem("unauthorized", 401, "a bearer token is needed here", "Authorization", fix)
        request[PRINCIPAL] = who
        if who.role < needs:
            detail = f"{who.name} is {who.role.name.lower()}, this is for {needs.name.lower()} and above"
            raise problem("forbidden", 403, detail, None, "ask one who may, or for another role in the roles file")
        if who.via == "proxy" and request.method not in _SAFE:
            _refuse_foreign_page(request)
        if request.method in _SAFE or _route(request) in self._reading:  # nothing read too often delays a stop
            _too_often(self._reads.spend(who.name), "requests")

    def _who(self, request: web.Request) -> Principal | None:
        if _on_unix_socket(request):
            user = request.headers.get(self._settings.proxy_user_header, "").strip()
            if user:
                groups = request.headers.get(self._settings.proxy_groups_header, "")[:4_096]
                return self._access.of_proxy(user, [each.strip() for each in groups.split(",")])
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        given = given.strip()
        return self._access.of_token(given) if scheme.lower() == "bearer" and given else None

    async def _note(self, request: web.Request, status: int, error: ProblemError | None) -> None:
        """Changes and refusals go to the audit log; an answer to a change waits for the disk, within a bound."""
        change = request.method not in _SAFE and _route(request) not in self._reading
        if self._audit is None or not (change or status in _REFUSALS):
            return
        who = request.get(PRINCIPAL)
        if status in _REFUSALS and self._refusals.spend(who.name if who else _peer(request)) > 0:
            self._lost += 1  # a flood of refusals is told by its size, and does not fill the disk
            return
        detail: dict[str, Any] = {
            "role": who.role.name.lower() if who else None,
            "via": who.via if who else None,
            "peer": _peer(request),
            "path": request.path[:300],
            "status": status,
        }
        if error is not None:
            detail["problem"] = error.problem.detail[:400]
        if self._lost:
            detail["refusals_not_told"], self._lost = self._lost, 0
        self._audit.add(who.name if who else "", f"{request.method} {_route(request)[1]}", **(request[DETAIL] | detail))
        if change and status < 400:
            await self._audit.flush(_AUDIT_FLUSH_S)


def needs_site(request: web.Request, site: str) -> None:
    """Raises `ProblemError` where the token does not reach a site, whether or not there is one of that name."""
    who = request[PRINCIPAL]
    if not who.reaches(site):
        fix = f"{who.name} reaches {', '.join(sorted(who.sites or ())[:10]) or 'none'}"
        raise problem("forbidden", 403, f"site: {who.name} may not reach {site[:63]!r}", "site", fix)


def _route(request: web.Request) -> tuple[str, str]:
    resource = request.match_info.route.resource
    method = "GET" if request.method == "HEAD" else request.method
    return method, resource.canonical if resource is not None else ""


def _peer(request: web.Request) -> str:
    return "proxy" if _on_unix_socket(request) else request.remote or "unknown"


def _on_unix_socket(request: web.Request) -> bool:
    found = request.get_extra_info("socket")
    return found is not None and found.family == socket.AF_UNIX


def _refuse_foreign_page(request: web.Request) -> None:
    """A browser behind the proxy brings its user along to whatever page asks: only our own pages may change things."""
    foreign = request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}
    if foreign or (request.body_exists and request.content_type != "application/json"):
        fix = "send it from the console's own page, with Content-Type: application/json"
        raise problem("forbidden", 403, "this may come from another page", "Content-Type", fix)


def _too_often(wait_s: float, what: str) -> None:
    if wait_s > 0:
        error = problem("rate", 429, f"too many {what}", None, f"ask again in {wait_s:.1f} s")
        error.headers["Retry-After"] = str(max(1, round(wait_s)))
        raise error


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
