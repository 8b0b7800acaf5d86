"""openapi.json, version 3.1, made of the route table and the models themselves."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from controller.api.problems import CONTENT_TYPE
from controller.api.routes import HEADER_MAX, HEADERS, ROUTES, Route
from controller.api.schema_base import In
from controller.api.schemas import Problem
from controller.roles import Role

_REF: Final = "#/components/schemas/{model}"
_WORDS: Final = {
    400: "The body is not JSON",
    401: "No valid token",
    403: "The token does not allow it",
    404: "There is no such thing",
    409: "It conflicts with what is",
    412: "It has changed meanwhile, or was not confirmed in time",
    413: "The body is too large",
    422: "Something in it is not valid; `field` says what, `fix` what to do",
    428: "It must be confirmed, or the version named",
    429: "Too many requests",
    503: "Not now",
}
_PATHS: Final = {
    "site": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"},
    "id": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[^/]+$"},
}


@cache
def document(*, metrics_open: bool = False) -> dict[str, Any]:
    """The whole of it. It is the same for as long as the process runs."""
    models = _models()
    names, definitions = models_json_schema(models, ref_template=_REF)
    refs: dict[Any, dict[str, Any]] = {key[0]: found for key, found in names.items()}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    if metrics_open:
        paths["/metrics"]["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Wattshift controller",
            "version": _version(),
            "summary": "Sites, decisions, signals and overrides. docs/api.md tells it in words.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _models() -> list[tuple[type[BaseModel], Literal["validation", "serialization"]]]:
    """Every model of the table, inputs as they are taken and outputs as they are given."""
    taken: set[type[BaseModel]] = {route.takes for route in ROUTES if route.takes is not None}
    given: set[type[BaseModel]] = {model for route in ROUTES for _, model in route.answers if isinstance(model, type)}
    everyone: set[type[BaseModel]] = taken | given | {Problem}
    ordered = sorted(everyone, key=lambda model: model.__name__)
    return [(model, "validation" if issubclass(model, In) else "serialization") for model in ordered]


def _operation(route: Route, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": route.handler, "summary": route.summary}
    if route.role is None:
        found["security"] = []
    else:
        found["description"] = f"For the role {route.role.name.lower()}" + (
            " and above." if route.role < Role.ADMIN else "."
        )
    parameters = [*_of_path(route), *_of_query(route), *_of_headers(route)]
    if parameters:
        found["parameters"] = parameters
    if route.takes is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": refs[route.takes]}}}
    found["responses"] = {str(status): _answer(route, model, refs) for status, model in route.answers} | {
        str(status): _problem(status, refs) for status in _problems(route)
    }
    return found


def _of_path(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": _PATHS[name]} for name in names]


def _of_query(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(ref_template=_REF)
    definitions = schema.get("$defs", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _flat(_without_null(each), definitions),
        }
        for name, each in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: what is not there is left out."""
    kinds = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default", "title")}
    if "anyOf" not in schema:
        return rest | ({"default": schema["default"]} if schema.get("default") is not None else {})
    return rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds})


def _flat(schema: Any, definitions: dict[str, Any]) -> Any:
    """With every reference replaced by what it names."""
    if isinstance(schema, list):
        return [_flat(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _flat(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _flat(value, definitions) for key, value in schema.items()}


def _of_headers(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": name in route.needs,
            "description": HEADERS[name],
            "schema": {"type": "string", "minLength": 1, "maxLength": HEADER_MAX, "pattern": "^[ -~]+$"},
        }
        for name in route.headers
    ]


def _answer(route: Route, model: Any, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"description": route.summary}
    if route.gives:
        found["headers"] = {name: {"schema": {"type": "string"}} for name in route.gives}
    if isinstance(model, str):
        schema = {"type": "object"} if model == "application/json" else {"type": "string"}
        found["content"] = {each: {"schema": schema} for each in model.split(", ")}
    elif model is not None:
        found["content"] = {"application/json": {"schema": refs[model]}}
    return found


def _problems(route: Route) -> list[int]:
    found = set(route.refuses)
    if route.role is not None:
        found |= {401, 403, 429}
    if route.takes is not None:
        found |= {400, 413, 422}
    if route.query is not None or route.headers:
        found |= {422}
    if route.query is not None and "site" in route.query.model_fields:
        found |= {404}
    if "{" in route.path:
        found |= {404}
    if route.method == "DELETE":
        found |= {422}
    return sorted(found - {status for status, _ in route.answers})


def _problem(status: int, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    return {"description": _WORDS[status], "content": {CONTENT_TYPE: {"schema": refs[Problem]}}}


def _version() -> str:
    try:
        return version("wattshift")
    except PackageNotFoundError:
        return "unknown"
