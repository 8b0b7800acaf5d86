"""Errors as RFC 9457 problem details: what field, and what to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from aiohttp import web
from pydantic import ValidationError

from controller.api.schemas import Problem
from controller.asks import Rejected

CONTENT_TYPE: Final = "application/problem+json"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: Final = {"invalid": 422, "unknown": 404, "conflict": 409, "limit": 409}
_TITLES: Final = {
    "invalid": "The request is not valid",
    "unknown": "There is no such thing",
    "conflict": "The request conflicts with what is",
    "limit": "There are too many already",
    "malformed": "The body is not JSON",
    "unauthorized": "The token is missing or wrong",
    "forbidden": "The token does not allow it",
    "rate": "Too many requests",
    "confirm": "It must be confirmed first",
    "stale": "It has changed meanwhile",
    "precondition": "The version must be named",
    "busy": "Too many are connected",
    "too_large": "The body is too large",
    "method": "The method is not for this path",
    "http": "The request failed",
}


class ProblemError(Exception):
    """Raised by handlers; the middleware makes it the answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers: dict[str, str] = {}


def problem(kind: str, status: int, detail: str, field: str | None = None, fix: str | None = None) -> ProblemError:
    """`kind` is stable and ends the problem's type."""
    return ProblemError(
        Problem(
            type=f"urn:wattshift:problem:{kind}",
            title=_TITLES[kind],
            status=status,
            detail=detail,
            field=field,
            fix=fix,
        )
    )


def of_rejected(rejected: Rejected) -> ProblemError:
    detail = f"{rejected.field}: {rejected.detail}"
    return problem(rejected.kind, _STATUS[rejected.kind], detail, rejected.field, rejected.fix)


def of_validation(error: ValidationError, fixed: Collection[str] = ()) -> ProblemError:
    """The first thing wrong with a body or query. `fixed` are fields that exist and may not be changed."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return problem("malformed", 400, str(first["msg"]), None, "send one JSON object")
    field = ".".join(str(part) for part in first["loc"]) or None
    if field in fixed and first["type"] == "extra_forbidden":
        return problem("invalid", 422, f"{field}: never changes", field, "revoke this one and impose another")
    fix = {
        "missing": "give it",
        "extra_forbidden": "remove it, or correct its spelling",
        "timezone_aware": "give an offset, such as 2026-01-31T18:00:00Z",
    }.get(str(first["type"]), "see docs/api.md for what it takes")
    return problem("invalid", 422, f"{field or 'body'}: {first['msg']}", field, fix)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error leaves as a problem."""
    try:
        return await handler(request)
    except ProblemError as error:
        response = answer(error.problem)
        response.headers.update(error.headers)
        return response
    except web.HTTPRequestEntityTooLarge as error:
        return answer(problem("too_large", 413, error.text or "too large", None, "send less").problem)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = answer(problem("method", 405, f"{request.method} is not for {request.path}", None, allowed).problem)
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return answer(problem("unknown", 404, f"nothing at {request.path[:200]}", None, "see docs/api.md").problem)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return answer(problem("http", error.status, error.reason, None, None).problem)


def answer(found: Problem) -> web.Response:
    headers = {"WWW-Authenticate": 'Bearer realm="wattshift"'} if found.status == 401 else {}
    return web.Response(
        status=found.status, text=found.model_dump_json(exclude_none=True), content_type=CONTENT_TYPE, headers=headers
    )
