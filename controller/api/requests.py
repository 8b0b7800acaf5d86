"""What handlers share: reading a body or query, writing an answer."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from controller.api.gate import needs_site
from controller.api.problems import of_validation, problem
from controller.api.schema_base import In, Query
from controller.app import Controller
from controller.state import SiteState

FLUSH_S: Final = 2.0
"""How long an answer waits for the disk; the order went out long before."""
B = TypeVar("B", bound=In)
Q = TypeVar("Q", bound=Query)


async def body(request: web.Request, kind: type[B], fixed: Collection[str] = ()) -> B:
    """The body as a model. Raises `ProblemError`."""
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        raise of_validation(error, fixed) from None


def query(request: web.Request, kind: type[Q]) -> Q:
    """What stands behind the question mark as a model. Raises `ProblemError`."""
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise problem("invalid", 422, f"{name[:63]}: stands there twice", name[:63], "give it once")
    try:
        return kind.model_validate(dict(request.query))
    except ValidationError as error:
        raise of_validation(error) from None


def answer(out: BaseModel, status: int = 200, **headers: str) -> web.Response:
    """JSON; headers by name, `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(text=out.model_dump_json(), status=status, content_type="application/json", headers=named)


def reached_site(controller: Controller, request: web.Request, site: str) -> SiteState:
    """The site of that name. Raises `ProblemError` where the token does not reach it, or there is none."""
    needs_site(request, site)
    state = controller.fleet.get(site)
    if state is None:
        raise problem("unknown", 404, f"there is no site {site[:63]!r}", "site", "GET /v1/sites lists them")
    return state


def ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000)


def span_ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000)
