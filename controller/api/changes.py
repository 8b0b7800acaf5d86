"""Handlers that change something: signals and overrides. They translate; what is done stands in `controller.app`."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final, NoReturn

from aiohttp import web

from controller.api import preview as previews
from controller.api import views
from controller.api.confirm import ConfirmTokens, digest
from controller.api.gate import DETAIL, PRINCIPAL, Gate, needs_site
from controller.api.override_schemas import (
    ExtendIn,
    OverrideAskIn,
    OverrideIn,
    PreviewOut,
    PriceBandOut,
    RevokeQuery,
)
from controller.api.problems import of_rejected, problem
from controller.api.reads import etag, known_override
from controller.api.requests import FLUSH_S, answer, body, ms, query, span_ms
from controller.api.routes import HEADER_MAX
from controller.api.schemas import BaselineOut, OverrideSetOut, SignalIn, SignalOut
from controller.api.standing import Standing, least_w, target_out
from controller.app import Controller
from controller.asks import Rejected
from controller.dispatch import Dispatched
from controller.engine.model import OverrideKind
from controller.overrides import OverrideAsk
from controller.overrides_model import STANDS_DOWN, Imposed
from controller.roles import Principal, Role
from controller.signals import SignalAsk
from controller.state import SiteState

_FIXED: Final = frozenset({"kind", "target", "value_w", "starts_at", "site", "feeder", "bank", "workload"})
_NOT_ASKED: Final = {"id", "confirm_token", "created_by"}


class Changes:
    """The handlers."""

    def __init__(self, controller: Controller, gate: Gate, confirm: ConfirmTokens) -> None:
        self._controller = controller
        self._gate = gate
        self._confirm = confirm

    async def signal(self, request: web.Request) -> web.Response:
        began_s = _loop_time()
        asked = await body(request, SignalIn)
        request[DETAIL].update(asked.model_dump(mode="json", exclude_unset=True))
        needs_site(request, asked.site)
        self._gate.spend_change(request)
        outcome = self._controller.signal(
            SignalAsk(
                site=asked.site,
                reduce_w=asked.reduce_w,
                target_w=asked.target_w,
                award_w=asked.award_w,
                starts_at_ms=ms(asked.starts_at),
                ends_at_ms=ms(asked.ends_at),
                duration_ms=span_ms(asked.duration_s),
                notice_ms=span_ms(asked.notice_s),
                firm_too=asked.firm_too,
                id=asked.id or _id_of_key(request, "sg"),
            )
        )
        if isinstance(outcome, Rejected):
            if outcome.field == "id" and asked.id is None:
                fix = "send the very request again, or take a new key for a new one"
                outcome = Rejected("invalid", "Idempotency-Key", "was used for another request", fix)
            raise of_rejected(outcome)
        self._ordered(began_s, outcome.now)
        obligation, baseline = outcome.accepted.obligation, outcome.accepted.baseline
        request[DETAIL]["id"] = obligation.id
        out = SignalOut(
            obligation=obligation,
            created=outcome.accepted.created,
            baseline=BaselineOut(power_w=baseline.power_w, readings=baseline.readings) if baseline else None,
            decision=views.decision(outcome.now.decided) if outcome.now else None,
            order=views.order(self._known(obligation.site)) if outcome.now else None,
            expected=views.expected(outcome.expected, obligation),
            journalled=await self._controller.journal.flush(FLUSH_S),
        )
        return answer(out, 201 if outcome.accepted.created else 200, Location=f"/v1/signals/{obligation.id}")

    async def withdraw(self, request: web.Request) -> web.Response:
        key = request.match_info["id"]
        held = {each.id: each.site for each in self._controller.signals.all(self._controller.clock.wall_ms())}
        if key not in held or not request[PRINCIPAL].reaches(held[key]):
            raise problem("unknown", 404, "there is no signal of that id", "id", "GET /v1/signals lists them")
        self._gate.spend_change(request)
        request[DETAIL].update(site=held[key], id=key)
        self._controller.withdraw_signal(key)
        await self._controller.journal.flush(FLUSH_S)
        return web.Response(status=204)

    async def preview(self, request: web.Request) -> web.Response:
        asked = await body(request, OverrideAskIn)
        who = request[PRINCIPAL]
        request[DETAIL].update(asked.model_dump(mode="json", exclude_unset=True))
        ask = _ask(asked, who)
        state, drafted = self._draft(request, ask) or _never()
        change = await previews.change_of(self._controller, state, drafted)
        money = await previews.money_of(self._controller, state, drafted, change)
        power_w = change.power_w
        out = PreviewOut(
            target=target_out(ask),
            kind=ask.kind,
            banks=list(drafted.covers(state.nameplate)) if state.nameplate is not None else [],
            before_w=change.before.planned_w if change.before else None,
            after_w=change.after.planned_w if change.after else None,
            change_mw=None if power_w is None else round(power_w / 1e6, 6),
            usd_per_h=money.usd_per_h if money else None,
            price_usd_per_mwh=_price(money),
            jobs=change.jobs_lost,
            conflicts=Standing(self._controller, ask.site, drafted=drafted).conflicts(drafted.id),
            permissives=previews.permissives(self._controller, state, drafted),
            sentence=change.after.sentence if change.after else "",
            confirm_required=previews.must_confirm(self._controller, drafted, change),
            confirm_token=self._confirm.make(who.name, _asked(asked)),
            confirm_for_s=self._confirm.valid_s,
        )
        return answer(out)

    async def impose(self, request: web.Request) -> web.Response:
        began_s = _loop_time()
        asked = await body(request, OverrideIn)
        who = request[PRINCIPAL]
        request[DETAIL].update(asked.model_dump(mode="json", exclude_unset=True, exclude={"confirm_token"}))
        if asked.created_by not in ("", who.name) and who.role < Role.ADMIN:
            detail = f"created_by: {who.name} does not speak for others"
            raise problem("forbidden", 403, detail, "created_by", "leave created_by out")
        key = _id_of_key(request, "ov")
        if key is not None and asked.id is not None:
            raise problem("invalid", 422, "id: stands beside an Idempotency-Key", "id", "give one of them")
        ask = _ask(asked, who, key)
        if ask.kind not in STANDS_DOWN:
            self._gate.spend_change(request)
            await self._confirmed(request, asked, ask)
        else:
            needs_site(request, ask.site)
        outcome = self._controller.impose(ask)
        if isinstance(outcome, Rejected):
            raise of_rejected(outcome)
        self._ordered(began_s, outcome.now)
        override = outcome.override
        request[DETAIL]["id"] = override.id
        standing = Standing(self._controller, override.site)
        out = OverrideSetOut(
            override=standing.out(override),
            created=outcome.created,
            conflicts=standing.conflicts(override.id),
            decision=views.decision(outcome.now.decided) if outcome.now else None,
            order=views.order(self._known(override.site)) if outcome.now else None,
            journalled=await self._controller.journal.flush(FLUSH_S),
        )
        more = {} if outcome.created or key is None else {"Idempotency_Replayed": "true"}
        status = 201 if outcome.created else 200
        return answer(out, status, Location=f"/v1/overrides/{override.id}", ETag=etag(override), **more)

    async def extend(self, request: web.Request) -> web.Response:
        asked = await body(request, ExtendIn, _FIXED)
        found = known_override(self._controller, request)
        request[DETAIL].update(asked.model_dump(mode="json", exclude_unset=True), site=found.site, id=found.id)
        self._may_touch(request, found)
        _same_version(request, found, needed=True)
        self._gate.spend_change(request)
        if (asked.ends_at is None) == (asked.duration_s is None):
            raise problem(
                "invalid", 422, "ends_at: exactly one of ends_at and duration_s", "ends_at", "give one of them"
            )
        now_ms = self._controller.clock.wall_ms()
        ends_at_ms = ms(asked.ends_at) if asked.duration_s is None else now_ms + (span_ms(asked.duration_s) or 0)
        assert ends_at_ms is not None  # noqa: S101  one of the two is given
        done = self._controller.extend_override(
            found.id, ends_at_ms, reason=asked.reason, by=request[PRINCIPAL].name, ticket=asked.ticket
        )
        if isinstance(done, Rejected):
            raise of_rejected(done)
        await self._controller.journal.flush(FLUSH_S)
        return answer(Standing(self._controller, done.site).out(done), ETag=etag(done))

    async def revoke(self, request: web.Request) -> web.Response:
        asked = query(request, RevokeQuery)
        found = known_override(self._controller, request)
        request[DETAIL].update(site=found.site, id=found.id, reason=asked.reason)
        if found.is_over(self._controller.clock.wall_ms()):
            raise problem("unknown", 404, f"{found.id} is over", "id", "GET /v1/overrides lists those that stand")
        self._may_touch(request, found)
        if found.kind is OverrideKind.LOCKOUT and not asked.reason.strip():
            raise problem("invalid", 422, "reason: is missing: a lockout is lifted with one", "reason", "give ?reason=")
        _same_version(request, found, needed=False)
        self._gate.spend_change(request)
        self._controller.lift_override(found.id, by=request[PRINCIPAL].name, reason=asked.reason)
        await self._controller.journal.flush(FLUSH_S)
        return web.Response(status=204)

    async def _confirmed(self, request: web.Request, asked: OverrideIn, ask: OverrideAsk) -> None:
        """Raises `ProblemError` where it is too large to be imposed unseen."""
        found = self._draft(request, ask)
        if found is None:
            return
        state, drafted = found
        if asked.confirm_token is not None:
            wrong = self._confirm.problem(asked.confirm_token, request[PRINCIPAL].name, _asked(asked))
            if wrong is not None:
                raise problem("stale", 412, f"confirm_token: {wrong}", "confirm_token", _ASK_PREVIEW)
            return
        if self._controller.config.http.confirm_above_w is None:
            return
        change = await previews.change_of(self._controller, state, drafted)
        if previews.must_confirm(self._controller, drafted, change):
            detail = f"it changes {ask.site} by {abs(change.power_w or 0)} W"
            raise problem("confirm", 428, detail, "confirm_token", _ASK_PREVIEW)

    def _draft(self, request: web.Request, ask: OverrideAsk) -> tuple[SiteState, Imposed] | None:
        """The override as it would be; None where it stands already. Raises `ProblemError` where it may not be."""
        needs_site(request, ask.site)
        state = self._controller.fleet.get(ask.site)
        done = self._controller.overrides.draft(ask, state, self._controller.clock.wall_ms())
        if isinstance(done, Rejected):
            raise of_rejected(done)
        if not done.created or state is None:
            return None
        least = least_w(state, ask)
        if ask.value_w is not None and ask.value_w < least:
            detail = f"value_w: is below {least} W, which no order can take away: base load and idle power"
            raise problem("invalid", 422, detail, "value_w", f"give {least} or more, or impose an emergency stop")
        return state, done.override

    def _ordered(self, began_s: float, now: Dispatched | None) -> None:
        """Measure how long what was asked took to become an order. What asked for none is not measured."""
        if now is not None and now.order is not None:
            exemplar = {"decision_id": now.decided.id, "order": f"{now.order.epoch}-{now.order.seq}"}
            self._controller.metrics.signal_to_order_seconds.observe(_loop_time() - began_s, exemplar)

    def _may_touch(self, request: web.Request, found: Imposed) -> None:
        """A lockout is its owner's."""
        who = request[PRINCIPAL]
        if found.kind is OverrideKind.LOCKOUT and who.role < Role.ADMIN and who.name != found.created_by:
            detail = f"the lockout is {found.created_by or 'another'}'s"
            raise problem("forbidden", 403, detail, None, "ask its owner, or an admin")

    def _known(self, site: str) -> SiteState:
        state = self._controller.fleet.get(site)
        assert state is not None  # noqa: S101  it has just been decided
        return state


def _price(money: previews.Money | None) -> PriceBandOut | None:
    if money is None or money.band is None:
        return None
    found = money.band
    low, expected, high = (round(usd, 2) for usd in (found.low, found.expected, found.high))
    return PriceBandOut(low=low, expected=expected, high=high, basis=found.basis)


def _never() -> NoReturn:
    raise AssertionError("a preview has no id, so none of its id can stand already")


_ASK_PREVIEW: Final = "POST /v1/overrides:preview, look at it, and send its confirm_token within 30 s"


def _ask(asked: OverrideAskIn, who: Principal, key: str | None = None) -> OverrideAsk:
    given_id = asked.id if isinstance(asked, OverrideIn) else None
    given_name = asked.created_by if isinstance(asked, OverrideIn) else ""
    return OverrideAsk(
        site=asked.target.site,
        kind=asked.kind,
        reason=asked.reason,
        feeder=asked.target.feeder,
        bank=asked.target.bank,
        workload=asked.target.workload,
        value_w=asked.value_w,
        starts_at_ms=ms(asked.starts_at),
        ends_at_ms=ms(asked.ends_at),
        duration_ms=span_ms(asked.duration_s),
        ticket=asked.ticket,
        created_by=given_name or who.name,
        id=key or given_id,
        request="" if key is None else digest(_asked(asked)),
    )


def _asked(asked: OverrideAskIn) -> dict[str, Any]:
    """What makes two requests the same."""
    return asked.model_dump(mode="json", exclude=_NOT_ASKED, exclude_none=True)


def _id_of_key(request: web.Request, prefix: str) -> str | None:
    """An idempotency key becomes the id of what it makes, so it outlives a restart with it."""
    key = _header(request, "Idempotency-Key")
    if key is None:
        return None
    text = f"{request[PRINCIPAL].name}\n{key}"
    return f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _same_version(request: web.Request, found: Imposed, *, needed: bool) -> None:
    """Raises `ProblemError` where If-Match names another version than there is, or is missing."""
    given = _header(request, "If-Match")
    if given is None:
        if needed:
            fix = f"send If-Match with the ETag of GET /v1/overrides/{found.id}"
            raise problem("precondition", 428, "If-Match: is missing", "If-Match", fix)
        return
    named = {each.strip() for each in given.split(",")}
    if "*" not in named and etag(found) not in named:
        detail = f"If-Match: the override is at version {found.version}"
        raise problem("stale", 412, detail, "If-Match", "read it again, and look at what has changed")


def _header(request: web.Request, name: str) -> str | None:
    """Raises `ProblemError` where it is there and of no use."""
    found = request.headers.get(name)
    if found is not None and not (1 <= len(found) <= HEADER_MAX and found.isascii() and found.isprintable()):
        detail = f"{name}: is not 1 to {HEADER_MAX} printable ASCII characters"
        raise problem("invalid", 422, detail, name, "see docs/api.md for what it takes")
    return found


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
