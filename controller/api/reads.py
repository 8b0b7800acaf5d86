"""Handlers that only read. They translate; what is known stands in `controller.app`."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from controller.api import doctor, views
from controller.api.gate import PRINCIPAL, Gate
from controller.api.override_schemas import OverrideOut, OverridesOut, OverridesQuery
from controller.api.problems import problem
from controller.api.requests import FLUSH_S, answer, query, reached_site
from controller.api.schemas import (
    CheckOut,
    DecisionOut,
    DecisionsOut,
    DecisionsQuery,
    DoctorOut,
    EventsQuery,
    FindingOut,
    HistoryOut,
    HistoryQuery,
    OneSiteQuery,
    PlanOut,
    ReadyOut,
    SignalsOut,
    SiteQuery,
    SitesOut,
    SiteSummary,
    WhoOut,
)
from controller.api.standing import Standing, all_out
from controller.api.stream import Stream
from controller.app import Controller
from controller.audit_watch import AuditWatch
from controller.console.history import EVERY_MS, History
from controller.journal.base import JournalError, StoredDecision
from controller.overrides_model import Imposed

_YIELD_EVERY: Final = 16
_FINDINGS_EVERY: Final = 4
_DECISIONS_EVERY: Final = 8
_SCOPE_MAX: Final = 100
"""Sites of a scoped token whose decisions are gathered in one answer."""
_PLANS_MAX: Final = 500


class Reads:
    """The handlers."""

    def __init__(
        self, controller: Controller, gate: Gate, stream: Stream, audit: AuditWatch | None, history: History
    ) -> None:
        self._controller = controller
        self._gate = gate
        self._history = history
        self._stream = stream
        self._audit = audit
        self._plans: dict[str, PlanOut] = {}
        """The last read of each site's plan, so that many who look cost no more than one."""

    async def healthz(self, _request: web.Request) -> web.Response:
        """The process answers. Whether it should lead is /readyz."""
        return web.json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        checks = [CheckOut(name=each.name, ok=each.ok, detail=each.detail) for each in self._controller.checks()]
        ready = all(check.ok for check in checks)
        return answer(ReadyOut(ready=ready, checks=checks), 200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        who = request.get(PRINCIPAL)
        if who is not None and who.sites is not None:
            raise problem("forbidden", 403, "metrics are of all sites", None, "use a token that reaches every site")
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # In a thread, for rendering thousands of series takes longer than an order may wait.
        body = await asyncio.to_thread(encode, self._controller.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": content_type, "Vary": "Accept"})

    async def who(self, request: web.Request) -> web.Response:
        who = request[PRINCIPAL]
        sites = None if who.sites is None else sorted(who.sites)
        return answer(WhoOut(name=who.name, role=who.role.name.lower(), sites=sites, via=who.via))

    async def sites(self, request: web.Request) -> web.Response:
        who = request[PRINCIPAL]
        lines: list[SiteSummary] = []
        for state in sorted(self._controller.fleet, key=lambda state: state.site):
            if not who.reaches(state.site):
                continue
            lines.append(views.summary(self._controller, state))
            if len(lines) % _YIELD_EVERY == 0:  # thousands of sites in one go would keep an order waiting
                await asyncio.sleep(0)
        return answer(SitesOut(sites=lines))

    async def site(self, request: web.Request) -> web.Response:
        state = reached_site(self._controller, request, request.match_info["site"])
        return answer(views.site(self._controller, state))

    async def history(self, request: web.Request) -> web.Response:
        asked = query(request, HistoryQuery)
        state = reached_site(self._controller, request, request.match_info["site"])
        at_ms, told = self._history.of(state.site, asked.since_ms)
        now_ms = self._controller.clock.wall_ms()
        steps, prices = views.ahead(self._controller, state.site, now_ms)
        out = HistoryOut(
            now_ms=now_ms, every_ms=EVERY_MS, at_ms=at_ms, ahead_at_ms=steps, ahead_usd_per_mwh=prices, **told
        )
        return answer(out)

    async def plan(self, request: web.Request) -> web.Response:
        state = reached_site(self._controller, request, request.match_info["site"])
        key = state.decided.id if state.decided else None
        plan = self._plans.get(state.site)
        if plan is None or plan.decision_id != key:
            plan = views.plan(self._controller, state)
            self._plans.pop(state.site, None)
            while len(self._plans) >= _PLANS_MAX:
                del self._plans[next(iter(self._plans))]
            self._plans[state.site] = plan
        return answer(plan)

    async def decisions(self, request: web.Request) -> web.Response:
        asked = query(request, DecisionsQuery)
        who = request[PRINCIPAL]
        names: list[str | None] = [asked.site]
        if asked.site is not None:
            reached_site(self._controller, request, asked.site)
        elif who.sites is not None:
            names = [*sorted(who.sites)[:_SCOPE_MAX]]
        await self._controller.journal.flush(FLUSH_S)
        stored: list[StoredDecision] = []
        try:
            for name in names:
                stored += await self._controller.journal.recent(name, asked.limit)
        except JournalError:
            found = [s for s in self._controller.fleet if asked.site in (None, s.site) and who.reaches(s.site)]
            last = [views.decision(state.decided) for state in found if state.decided is not None]
            return answer(DecisionsOut(decisions=last[: asked.limit], from_journal=False))
        stored.sort(key=lambda each: -each.n)
        out: list[DecisionOut] = []
        for each in stored[: asked.limit]:
            out.append(views.stored_decision(each))
            if len(out) % _DECISIONS_EVERY == 0:
                await asyncio.sleep(0)
        return answer(DecisionsOut(decisions=out, from_journal=True))

    async def signals(self, request: web.Request) -> web.Response:
        asked = query(request, SiteQuery)
        if asked.site is not None:
            reached_site(self._controller, request, asked.site)
        who = request[PRINCIPAL]
        found = self._controller.signals.all(self._controller.clock.wall_ms())
        mine = [each for each in found if asked.site in (None, each.site) and who.reaches(each.site)]
        return answer(SignalsOut(signals=mine))

    async def overrides(self, request: web.Request) -> web.Response:
        asked = query(request, OverridesQuery)
        if asked.site is not None:
            reached_site(self._controller, request, asked.site)
        who, now_ms = request[PRINCIPAL], self._controller.clock.wall_ms()
        held = [each for each in self._controller.overrides.entries(asked.site) if who.reaches(each.site)]
        if asked.state == "standing":
            held = [each for each in held if not each.is_over(now_ms)]
        sites: dict[str, list[Imposed]] = {}
        for each in held:
            sites.setdefault(each.site, []).append(each)
        out: list[OverrideOut] = []
        for site, mine in sites.items():
            out += all_out(self._controller, site, mine)
            await asyncio.sleep(0)  # resolving a site of many banks takes as long as an order may wait
        if asked.state not in ("standing", "all"):
            out = [found for found in out if found.state == asked.state]
        return answer(OverridesOut(overrides=out))

    async def override(self, request: web.Request) -> web.Response:
        found = known_override(self._controller, request)
        return answer(Standing(self._controller, found.site).out(found), ETag=etag(found))

    async def effective(self, request: web.Request) -> web.Response:
        asked = query(request, OneSiteQuery)
        reached_site(self._controller, request, asked.site)
        out = Standing(self._controller, asked.site).effective()
        assert out is not None  # noqa: S101  the site was found above
        return answer(out)

    async def doctor(self, request: web.Request) -> web.Response:
        asked = query(request, SiteQuery)
        if asked.site is not None:
            reached_site(self._controller, request, asked.site)
        findings: list[FindingOut] = list(doctor.process_findings(self._controller, self._audit))
        for place, state in enumerate(doctor.reached(self._controller, request[PRINCIPAL], asked.site)):
            findings.extend(doctor.site_findings(self._controller, state))
            if place % _FINDINGS_EVERY == 0:
                await asyncio.sleep(0)
        return answer(DoctorOut(ok=all(each.ok is not False for each in findings), findings=findings))

    async def events(self, request: web.Request) -> web.StreamResponse:
        asked = query(request, EventsQuery)
        if asked.site is not None:
            reached_site(self._controller, request, asked.site)
        if self._stream.full:
            raise problem("busy", 503, f"{self._stream.clients} clients follow already", None, "[http] streams_max")
        who = request[PRINCIPAL]
        return await self._stream.follow(request, who, asked, lambda: self._gate.still(request))


def known_override(controller: Controller, request: web.Request) -> Imposed:
    """The override of the path. Raises `ProblemError` where there is none that the token reaches."""
    found = controller.overrides.get(request.match_info["id"])
    if found is None or not request[PRINCIPAL].reaches(found.site):
        raise problem("unknown", 404, "there is no override of that id", "id", "GET /v1/overrides lists them")
    return found


def etag(override: Imposed) -> str:
    return f'"{override.version}"'
