"""Every route in one table: who may, what it takes, what it answers. Server, gate and openapi.json are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from controller.api.override_schemas import (
    EffectiveOut,
    ExtendIn,
    OverrideAskIn,
    OverrideIn,
    OverrideOut,
    OverridesOut,
    OverridesQuery,
    PreviewOut,
    RevokeQuery,
)
from controller.api.schema_base import In, Query
from controller.api.schemas import (
    DecisionsOut,
    DecisionsQuery,
    DoctorOut,
    EventsQuery,
    HistoryOut,
    HistoryQuery,
    OneSiteQuery,
    OverrideSetOut,
    PlanOut,
    ReadyOut,
    SignalIn,
    SignalOut,
    SignalsOut,
    SiteOut,
    SiteQuery,
    SitesOut,
    WhoOut,
)
from controller.roles import Role


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `handler` is its name, of `Reads` or `Changes`."""

    method: str
    path: str
    handler: str
    summary: str
    role: Role | None
    """The least that may; None: nobody is asked for a token."""
    answers: tuple[tuple[int, type[BaseModel] | str | None], ...]
    """What stands for success: by status a model, content types joined by commas, or nothing."""
    takes: type[In] | None = None
    query: type[Query] | None = None
    headers: tuple[str, ...] = ()
    """Request headers of `HEADERS` that it heeds."""
    needs: tuple[str, ...] = ()
    """Those of `headers` without which it is refused."""
    gives: tuple[str, ...] = ()
    """Headers of its answer."""
    refuses: tuple[int, ...] = ()
    """Problems besides those that go with a token, a body, a query and a path."""


HEADERS: Final = {
    "Idempotency-Key": "Asking again with it answers as before and does nothing again",
    "If-Match": "The ETag of the version that is meant",
    "Last-Event-ID": "The id of the last event that was read",
}
"""What each is for. All are 1 to `HEADER_MAX` printable ASCII characters."""
HEADER_MAX: Final = 200

_V, _O, _E = Role.VIEWER, Role.OPERATOR, Role.ENGINEER
ROUTES: Final = (
    Route("GET", "/healthz", "healthz", "The process answers", None, ((200, "application/json"),)),
    Route("GET", "/readyz", "readyz", "Whether it may lead; what is wrong", None, ((200, ReadyOut), (503, ReadyOut))),
    Route("GET", "/openapi.json", "openapi", "This description", None, ((200, "application/json"),)),
    Route(
        "GET", "/metrics", "metrics", "Prometheus metrics; OpenMetrics, with exemplars, where that is accepted", _V,
        ((200, "text/plain, application/openmetrics-text"),),
    ),
    Route("GET", "/v1/whoami", "who", "Who the token says is asking", _V, ((200, WhoOut),)),
    Route("GET", "/v1/sites", "sites", "One line per site", _V, ((200, SitesOut),)),
    Route("GET", "/v1/sites/{site}", "site", "Everything about a site", _V, ((200, SiteOut),)),
    Route(
        "GET", "/v1/sites/{site}/history", "history", "A site over the last two hours", _V, ((200, HistoryOut),),
        query=HistoryQuery,
    ),
    Route("GET", "/v1/sites/{site}/plan", "plan", "What a site is planned to draw, a day ahead", _V, ((200, PlanOut),)),
    Route(
        "GET", "/v1/decisions", "decisions", "Decisions from the journal, newest first", _V,
        ((200, DecisionsOut),), query=DecisionsQuery,
    ),
    Route("GET", "/v1/signals", "signals", "Obligations that are due", _V, ((200, SignalsOut),), query=SiteQuery),
    Route(
        "POST", "/v1/signals", "signal", "A curtailment signal", _O,
        ((201, SignalOut), (200, SignalOut)), takes=SignalIn, headers=("Idempotency-Key",), gives=("Location",),
        refuses=(404, 409),
    ),
    Route("DELETE", "/v1/signals/{id}", "withdraw", "Withdraw a signal", _E, ((204, None),)),
    Route("GET", "/v1/overrides", "overrides", "Overrides", _V, ((200, OverridesOut),), query=OverridesQuery),
    Route(
        "POST", "/v1/overrides", "impose", "Impose an override", _O,
        ((201, OverrideSetOut), (200, OverrideSetOut)), takes=OverrideIn, headers=("Idempotency-Key",),
        gives=("Location", "ETag"), refuses=(404, 409, 412, 428),
    ),
    Route(
        "POST", "/v1/overrides:preview", "preview", "What an override would do", _O,
        ((200, PreviewOut),), takes=OverrideAskIn, refuses=(404, 409),
    ),
    Route("GET", "/v1/overrides/{id}", "override", "One override", _V, ((200, OverrideOut),), gives=("ETag",)),
    Route(
        "PATCH", "/v1/overrides/{id}", "extend", "Give an override another end", _O,
        ((200, OverrideOut),), takes=ExtendIn, headers=("If-Match",), needs=("If-Match",), gives=("ETag",),
        refuses=(409, 412, 428),
    ),
    Route(
        "DELETE", "/v1/overrides/{id}", "revoke", "Revoke an override", _O,
        ((204, None),), query=RevokeQuery, headers=("If-Match",), refuses=(412,),
    ),
    Route(
        "GET", "/v1/effective", "effective", "What of all that was imposed acts, and why the rest does not", _V,
        ((200, EffectiveOut),), query=OneSiteQuery,
    ),
    Route("GET", "/v1/doctor", "doctor", "What is wrong, and the fix", _V, ((200, DoctorOut),), query=SiteQuery),
    Route(
        "GET", "/v1/events", "events", "What happens, as server-sent events", _V,
        ((200, "text/event-stream"),), query=EventsQuery, headers=("Last-Event-ID",), refuses=(503,),
    ),
)  # fmt: skip


READING: Final = frozenset({("POST", "/v1/overrides:preview")})
"""Routes that change nothing although their method might."""


def roles(*, metrics_open: bool) -> dict[tuple[str, str], Role | None]:
    """Who may what, by method and path."""
    found = {(route.method, route.path): route.role for route in ROUTES}
    if metrics_open:
        found["GET", "/metrics"] = None
    return found
