"""openapi.json is valid, is what the server has, and is what the server does under hundreds of generated requests."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import pytest

from controller.api.openapi import document
from controller.api.routes import ROUTES
from tests.controller.api.stand import TOKEN, Stand, deciding, standing
from tests.controller.kit import until

CONFIG = Path(__file__).with_name("schemathesis.toml")
ON_DEMAND = os.environ.get("WATTSHIFT_SCHEMATHESIS") == "2000"


def test_it_is_a_valid_description() -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    found = document()
    assert found["openapi"].startswith("3.1")
    validator.validate(found)


def test_every_field_that_is_taken_and_given_is_described_by_its_model() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["OverrideIn"]["additionalProperties"] is False
    assert schemas["OverrideIn"]["required"] == ["target", "kind", "reason"]
    assert schemas["OverrideIn"]["properties"]["starts_at"]["anyOf"][0]["format"] == "date-time"
    assert {"id", "version", "state", "effect", "target"} <= set(schemas["OverrideOut"]["required"])


async def test_the_server_has_every_route_of_it_and_no_other_of_the_api() -> None:
    async with standing() as stand:
        _, served, _ = await stand.call("GET", "/openapi.json", headers={})
        have = {
            (route.method, route.resource.canonical)
            for route in stand.app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
    told = {(method.upper(), path) for path, methods in served["paths"].items() for method in methods}
    assert told == {(route.method, route.path) for route in ROUTES}
    others = {path for method, path in have - told}
    assert all(path == "/" or path.startswith(("/console/", "/runbooks")) for path in others), "but for the console"
    assert served["paths"]["/metrics"]["get"]["security"] == [], "open while it listens on loopback"


def _generated(output: str) -> int:
    found = re.search(r"(\d+) generated", output)
    return int(found[1]) if found else 0


async def _schemathesis(stand: Stand, *options: str) -> tuple[int, str]:
    """Its exit status and all it printed. /v1/events is left out: its answer never ends, and has tests of its own."""
    command: list[Any] = [
        Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG, "run", f"{stand.base}/openapi.json",
        "--header", f"Authorization: Bearer {TOKEN}", "--exclude-path", "/v1/events", "--seed", "1", "--no-color",
        "--continue-on-failure", *options,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=PIPE, stderr=STDOUT, cwd="/tmp")
    try:
        async with asyncio.timeout(500):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("least", "options"),
    [
        (300, ("--phases", "examples,fuzzing", "--max-examples", "30")),
        pytest.param(
            2_000,
            ("--phases", "examples,coverage,fuzzing", "--max-examples", "120"),
            marks=pytest.mark.skipif(not ON_DEMAND, reason="on demand: WATTSHIFT_SCHEMATHESIS=2000"),
        ),
    ],
)
async def test_generated_requests_find_nothing_unexplained(
    least: int, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    monkeypatch.setattr("controller.api.gate._STRANGERS_PER_S", 1e6)  # that they are held back has a test of its own
    http = {"reads_per_s": 1e6, "changes_per_s": 1e6, "metrics_open": False}
    async with standing(http=http, **deciding()) as stand:
        stand.join("alpha", "beta")
        await until(lambda: stand.bus.orders("beta"))
        status, output = await _schemathesis(stand, *options)
        assert status == 0, output[-8_000:]
        assert _generated(output) >= least, output[-2_000:]
        assert stand.controller.dispatcher.crashes == 0
        assert (await stand.call("GET", "/readyz"))[0] == 200
