"""The HTTP API as an aiohttp application. Handlers only translate; what is done stands in `controller.app`."""

from __future__ import annotations

import asyncio
import hmac
import re
from datetime import datetime
from typing import Final, TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError

from controller.api import views
from controller.api.problems import Handler, of_rejected, of_validation, problem, problems
from controller.api.schemas import (
    BaselineOut,
    CheckOut,
    DecisionsOut,
    OverrideIn,
    OverrideOut,
    OverridesOut,
    ReadyOut,
    SignalIn,
    SignalOut,
    SignalsOut,
    SitesOut,
    SiteSummary,
)
from controller.app import Controller
from controller.asks import Rejected
from controller.journal.base import JournalError
from controller.overrides import OverrideAsk
from controller.scrape import FleetCollector
from controller.signals import SignalAsk
from controller.state import SiteState

_FLUSH_S: Final = 2.0
"""How long an answer waits for the disk; the order went out long before."""
_YIELD_EVERY: Final = 64
_LIMIT_MAX: Final = 1_000
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
T = TypeVar("T", SignalIn, OverrideIn)


def create_app(controller: Controller, token: str) -> web.Application:
    """The application over one controller. Every path but /healthz and /readyz takes `token`, /metrics too unless the
    configuration opens it."""
    api = Api(controller)
    controller.metrics.read_at_scrape(FleetCollector(controller))
    open_paths = {"/healthz", "/readyz"}
    if controller.config.http.metrics_are_open:
        open_paths.add("/metrics")
    app = web.Application(
        middlewares=[problems, _bearer(token, frozenset(open_paths))],
        client_max_size=controller.config.http.body_max,
    )
    app.add_routes(
        [
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
            web.get("/v1/sites", api.sites),
            web.get("/v1/sites/{site}", api.site),
            web.get("/v1/decisions", api.decisions),
            web.get("/v1/overrides", api.overrides),
            web.post("/v1/overrides", api.impose),
            web.delete("/v1/overrides/{id}", api.lift),
            web.get("/v1/signals", api.signals),
            web.post("/v1/signals", api.signal),
            web.delete("/v1/signals/{id}", api.withdraw),
        ]
    )
    return app


class Api:
    """The handlers."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def healthz(self, _request: web.Request) -> web.Response:
        """The process answers. Whether it should lead is /readyz."""
        return web.json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        checks = [CheckOut(name=each.name, ok=each.ok, detail=each.detail) for each in self._controller.checks()]
        ready = all(check.ok for check in checks)
        return _json(ReadyOut(ready=ready, checks=checks), 200 if ready else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        # In a thread, for rendering thousands of series takes longer than an order may wait.
        body = await asyncio.to_thread(generate_latest, self._controller.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def sites(self, _request: web.Request) -> web.Response:
        lines: list[SiteSummary] = []
        for state in sorted(self._controller.fleet, key=lambda state: state.site):
            lines.append(views.summary(self._controller, state))
            if len(lines) % _YIELD_EVERY == 0:  # thousands of sites in one go would keep an order waiting
                await asyncio.sleep(0)
        return _json(SitesOut(sites=lines))

    async def site(self, request: web.Request) -> web.Response:
        return _json(views.site(self._controller, self._state(request.match_info["site"])))

    async def decisions(self, request: web.Request) -> web.Response:
        site, limit = request.query.get("site"), _limit(request)
        if site is not None:
            self._state(site)
        journal = self._controller.journal
        await journal.flush(_FLUSH_S)
        try:
            stored = await journal.recent(site, limit)
        except JournalError:
            found = [state for state in self._controller.fleet if site in (None, state.site)]
            last = [views.decision(state.decided) for state in found if state.decided is not None]
            return _json(DecisionsOut(decisions=last[:limit], from_journal=False))
        return _json(DecisionsOut(decisions=[views.stored_decision(each) for each in stored], from_journal=True))

    async def signals(self, request: web.Request) -> web.Response:
        site = request.query.get("site")
        found = self._controller.signals.all(self._controller.clock.wall_ms())
        return _json(SignalsOut(signals=[each for each in found if site in (None, each.site)]))

    async def signal(self, request: web.Request) -> web.Response:
        began_s = asyncio.get_running_loop().time()
        asked = await _body(request, SignalIn)
        outcome = self._controller.signal(
            SignalAsk(
                site=asked.site,
                reduce_w=asked.reduce_w,
                target_w=asked.target_w,
                starts_at_ms=_ms(asked.starts_at),
                ends_at_ms=_ms(asked.ends_at),
                duration_ms=_span_ms(asked.duration_s),
                notice_ms=_span_ms(asked.notice_s),
                firm_too=asked.firm_too,
                id=asked.id,
            )
        )
        self._controller.metrics.signal_to_order_seconds.observe(asyncio.get_running_loop().time() - began_s)
        if isinstance(outcome, Rejected):
            raise of_rejected(outcome)
        obligation, baseline = outcome.accepted.obligation, outcome.accepted.baseline
        out = SignalOut(
            obligation=obligation,
            created=outcome.accepted.created,
            baseline=BaselineOut(power_w=baseline.power_w, readings=baseline.readings) if baseline else None,
            decision=views.decision(outcome.now.decided) if outcome.now else None,
            order=views.order(self._state(obligation.site)) if outcome.now else None,
            expected=views.expected(outcome.expected, obligation),
            journalled=await self._controller.journal.flush(_FLUSH_S),
        )
        return _json(out, 201 if outcome.accepted.created else 200, location=f"/v1/signals/{obligation.id}")

    async def withdraw(self, request: web.Request) -> web.Response:
        if self._controller.withdraw_signal(request.match_info["id"]) is None:
            raise problem("unknown", 404, "there is no signal of that id", "id", "GET /v1/signals lists them")
        await self._controller.journal.flush(_FLUSH_S)
        return web.Response(status=204)

    async def overrides(self, request: web.Request) -> web.Response:
        site = request.query.get("site")
        found = self._controller.overrides.all(self._controller.clock.wall_ms())
        return _json(OverridesOut(overrides=[each for each in found if site in (None, each.site)]))

    async def impose(self, request: web.Request) -> web.Response:
        began_s = asyncio.get_running_loop().time()
        asked = await _body(request, OverrideIn)
        outcome = self._controller.impose(
            OverrideAsk(
                site=asked.site,
                kind=asked.kind,
                reason=asked.reason,
                feeder=asked.feeder,
                bank=asked.bank,
                value_w=asked.value_w,
                starts_at_ms=_ms(asked.starts_at),
                ends_at_ms=_ms(asked.ends_at),
                duration_ms=_span_ms(asked.duration_s),
                created_by=asked.created_by,
                id=asked.id,
            )
        )
        self._controller.metrics.signal_to_order_seconds.observe(asyncio.get_running_loop().time() - began_s)
        if isinstance(outcome, Rejected):
            raise of_rejected(outcome)
        out = OverrideOut(
            override=outcome.override,
            created=outcome.created,
            decision=views.decision(outcome.now.decided) if outcome.now else None,
            order=views.order(self._state(outcome.override.site)) if outcome.now else None,
            journalled=await self._controller.journal.flush(_FLUSH_S),
        )
        return _json(out, 201 if outcome.created else 200, location=f"/v1/overrides/{outcome.override.id}")

    async def lift(self, request: web.Request) -> web.Response:
        if self._controller.lift_override(request.match_info["id"]) is None:
            raise problem("unknown", 404, "there is no override of that id", "id", "GET /v1/overrides lists them")
        await self._controller.journal.flush(_FLUSH_S)
        return web.Response(status=204)

    def _state(self, site: str) -> SiteState:
        state = self._controller.fleet.get(site) if _NAME.fullmatch(site) else None
        if state is None:
            raise problem("unknown", 404, f"there is no site {site[:63]!r}", "site", "GET /v1/sites lists them")
        return state


def _bearer(token: str, open_paths: frozenset[str]) -> Middleware:
    expected = token.encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in open_paths:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected)
            if scheme.lower() != "bearer" or not right:
                fix = "send `Authorization: Bearer TOKEN` with the token of [http] token_file"
                raise problem("unauthorized", 401, "a bearer token is needed here", "Authorization", fix)
        return await handler(request)

    return check


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        raise of_validation(error) from None


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "20")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _LIMIT_MAX:
        raise problem("invalid", 422, f"limit: is not 1 to {_LIMIT_MAX}", "limit", f"give 1 to {_LIMIT_MAX}")
    return int(text)


def _json(out: BaseModel, status: int = 200, location: str | None = None) -> web.Response:
    headers = {"Location": location} if location else {}
    return web.Response(text=out.model_dump_json(), status=status, content_type="application/json", headers=headers)


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000)


def _span_ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000)
