"""Who may: every role on every route, sites a token does not reach, the trusted proxy, rates, and the audit log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

from controller.api.routes import ROUTES, Route
from controller.audit import verify
from controller.roles import Role, entry
from tests.controller.api.stand import GOOD, Stand, deciding, standing
from tests.controller.kit import until

TOKENS = {role: f"{role.name.lower()}-" + "0" * 40 for role in Role}
ALPHA = "of-alpha-" + "0" * 40
SIGNAL = {"target_w": 1_000_000, "duration_s": 60}
HOLD = {"kind": "hold", "reason": "r", "duration_s": 600}
LOCK = {"kind": "lockout", "reason": "r", "duration_s": 600}


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **more}


def roles_file(folder: Path) -> Path:
    path = folder / "roles.toml"
    lines = [entry(role.name.lower(), role, token, []) for role, token in TOKENS.items()]
    lines.append(entry("of-alpha", Role.ENGINEER, ALPHA, ["alpha"]))
    lines.append('[[group]]\nname = "ops"\nrole = "operator"\nsites = ["alpha"]\n')
    path.write_text("\n".join(lines))
    path.chmod(0o600)
    return path


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    http = {
        "roles_file": str(roles_file(tmp_path)),
        "audit_file": str(tmp_path / "audit.jsonl"),
        "proxy_socket": str(tmp_path / "api.sock"),
        "metrics_open": False,
        "changes_per_s": 1_000,
    }
    async with standing(http=http, **deciding()) as made:
        made.join("alpha", "beta")
        await until(lambda: made.bus.orders("beta"))
        yield made


def audit(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "audit.jsonl").read_bytes().splitlines(keepends=True)
    verify(lines)
    return [json.loads(line) for line in lines]


async def things(stand: Stand, site: str) -> dict[str, str]:
    """An override and a signal of a site, by what their paths call them."""
    body = {**HOLD, "target": {"site": site}}
    _, override, _ = await stand.call("POST", "/v1/overrides", body)
    _, signal, _ = await stand.call("POST", "/v1/signals", {**SIGNAL, "site": site})
    return {"overrides": override["override"]["id"], "signals": signal["obligation"]["id"]}


async def ask(stand: Stand, route: Route, site: str, token: str) -> int:
    """One good request of a route that means `site`."""
    known = await things(stand, site)
    path = route.path.replace("{site}", site).replace(
        "{id}", known["signals" if "signals" in route.path else "overrides"]
    )
    if route.query is not None and "site" in route.query.model_fields:
        path += f"?site={site}"
    bodies: dict[str, Any] = {
        "signal": {**SIGNAL, "site": site},
        "impose": {**HOLD, "target": {"site": site}},
        "preview": {**HOLD, "target": {"site": site}},
        "extend": {"duration_s": 900, "reason": "r"},
    }
    headers = bearer(token, **{"If-Match": "*"})
    data = json.dumps(bodies[route.handler]).encode() if route.handler in bodies else None
    async with stand.session.request(route.method, stand.base + path, data=data, headers=headers) as response:
        return response.status


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_every_role_is_let_to_what_it_may_and_to_nothing_else(stand: Stand, route: Route) -> None:
    for role in Role:
        status = await ask(stand, route, "beta", TOKENS[role])
        if route.role is None or role >= route.role:
            assert status < 400, role.name
        else:
            assert status == 403, role.name
    assert await ask(stand, route, "beta", "nobody's") == (401 if route.role is not None else 200)


@pytest.mark.parametrize("route", [r for r in ROUTES if r.role is not None], ids=lambda r: f"{r.method} {r.path}")
async def test_a_token_of_another_site_is_told_and_does_nothing(stand: Stand, route: Route) -> None:
    assert await ask(stand, route, "alpha", ALPHA) < 400 or route.handler == "metrics"
    before = [(each.id, each.version) for each in stand.controller.overrides.entries("beta")]
    status = await ask(stand, route, "beta", ALPHA)
    after = [(each.id, each.version) for each in stand.controller.overrides.entries("beta")]
    assert after[: len(before)] == before or len(after) == len(before) + 1
    names_a_site = route.handler not in ("who", "sites")
    if not names_a_site:
        assert status == 200
    elif "{id}" in route.path:
        assert status == 404, "whether there is one is not told"
    else:
        assert status == 403


async def test_lists_show_a_scoped_token_its_sites_alone(stand: Stand) -> None:
    for site in ("alpha", "beta"):
        await things(stand, site)
    for path, name in (
        ("/v1/sites", "sites"),
        ("/v1/decisions", "decisions"),
        ("/v1/overrides", "overrides"),
        ("/v1/signals", "signals"),
        ("/v1/doctor", "findings"),
    ):
        _, body, _ = await stand.call("GET", path, headers=bearer(ALPHA))
        found = {each.get("site") or each.get("target", {}).get("site") for each in body[name]}
        assert found - {None} == {"alpha"}, path


class TestLockouts:
    async def test_a_lockout_is_lifted_by_its_owner_or_an_admin_alone(self, stand: Stand) -> None:
        for lifter, expected in ((Role.ENGINEER, 403), (Role.OPERATOR, 204), (Role.ADMIN, 204)):
            body = {**LOCK, "target": {"site": "alpha"}}
            _, made, _ = await stand.call("POST", "/v1/overrides", body, headers=bearer(TOKENS[Role.OPERATOR]))
            path = f"/v1/overrides/{made['override']['id']}"
            longer = {"duration_s": 5, "reason": "sooner"}
            star = bearer(TOKENS[lifter], **{"If-Match": "*"})
            assert (await stand.call("PATCH", path, longer, headers=star))[0] == (403 if expected == 403 else 200)
            assert (await stand.call("DELETE", path + "?reason=r", headers=bearer(TOKENS[lifter])))[0] == expected

    async def test_only_an_admin_speaks_for_others(self, stand: Stand) -> None:
        body = {**LOCK, "target": {"site": "alpha"}, "created_by": "ann"}
        status, problem, _ = await stand.call("POST", "/v1/overrides", body, headers=bearer(TOKENS[Role.ENGINEER]))
        assert (status, problem["field"]) == (403, "created_by")
        status, made, _ = await stand.call("POST", "/v1/overrides", body)
        assert (status, made["override"]["created_by"]) == (201, "ann")


class TestProxy:
    async def test_its_headers_are_believed_on_the_socket_and_nowhere_else(self, stand: Stand, tmp_path: Path) -> None:
        headers = {"X-Forwarded-User": "ann@example.org", "X-Forwarded-Groups": "staff, ops"}
        assert (await stand.call("GET", "/v1/whoami", headers=headers))[0] == 401
        async with ClientSession(connector=UnixConnector(str(tmp_path / "api.sock"))) as session:
            async with session.get("http://x/v1/whoami", headers=headers) as response:
                assert response.status == 200
                assert await response.json() == {
                    "name": "ann@example.org", "role": "operator", "sites": ["alpha"], "via": "proxy",
                }  # fmt: skip
            unknown = headers | {"X-Forwarded-Groups": "staff"}
            async with session.get("http://x/v1/whoami", headers=unknown | GOOD) as response:
                assert response.status == 401, "a user without a role is not let in by the proxy's own token"
            async with session.get("http://x/v1/whoami") as response:
                assert response.status == 401

    async def test_another_page_cannot_use_the_browser_of_one_who_may(self, stand: Stand, tmp_path: Path) -> None:
        headers = {"X-Forwarded-User": "ann", "X-Forwarded-Groups": "ops"}
        body = json.dumps({**HOLD, "target": {"site": "alpha"}})
        own = {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}
        async with ClientSession(connector=UnixConnector(str(tmp_path / "api.sock"))) as session:
            for more, expected in (
                ({"Content-Type": "text/plain"}, 403),
                ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 403),
                (own, 201),
            ):
                async with session.post("http://x/v1/overrides", data=body, headers=headers | more) as response:
                    assert response.status == expected, more


class TestRates:
    async def test_too_many_requests_are_held_back_and_an_emergency_stop_is_not(self) -> None:
        async with standing(http={"changes_per_s": 1e-6}, **deciding()) as stand:
            stand.join("alpha")
            await until(lambda: stand.bus.orders())
            hold = {**HOLD, "target": {"site": "alpha"}}
            statuses = [(await stand.call("POST", "/v1/overrides", hold))[0] for _ in range(3)]
            assert statuses[0] == 201
            status, problem, headers = await stand.call("POST", "/v1/overrides", hold)
            assert (status, problem["type"]) == (429, "urn:wattshift:problem:rate")
            assert int(headers["Retry-After"]) >= 1
            for kind in ("emergency_stop", "lockout"):
                await stand.override(kind=kind)

    async def test_reading_too_much_delays_no_stop(self) -> None:
        async with standing(http={"reads_per_s": 1e-6}) as stand:
            stand.join("alpha")
            assert [(await stand.call("GET", "/v1/sites"))[0] for _ in range(2)] == [200, 429]
            await stand.override(kind="emergency_stop")

    async def test_guessing_tokens_is_held_back_and_holds_nobody_else_back(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("controller.api.gate._STRANGERS_PER_S", 1e-6)
        async with standing() as stand:
            statuses = [(await stand.call("GET", "/v1/sites", headers=bearer(f"guess-{n}")))[0] for n in range(60)]
            assert statuses == [401] * 30 + [429] * 30
            assert (await stand.call("GET", "/v1/sites"))[0] == 200


class TestAudit:
    async def test_every_change_and_refusal_stands_in_it(self, stand: Stand, tmp_path: Path) -> None:
        made = await stand.override(reason="works", ticket="OPS-1")
        key = made["override"]["id"]
        await stand.call("GET", "/v1/sites")
        await stand.call("POST", "/v1/overrides:preview", {**HOLD, "target": {"site": "alpha"}})
        await stand.call("DELETE", f"/v1/overrides/{key}", headers=bearer(TOKENS[Role.VIEWER]))
        await stand.call("GET", "/v1/sites/beta", headers=bearer(ALPHA))
        await stand.call("POST", "/v1/overrides", {"kind": "cap"})
        await stand.call("GET", "/v1/sites", headers=bearer("nobody's"))
        await stand.call("PUT", "/v1/sites")
        await stand.call("DELETE", f"/v1/overrides/{key}?reason=over")
        entries = audit(tmp_path)
        told = [(each["actor"], each["action"], each["status"]) for each in entries]
        assert told == [
            ("admin", "POST /v1/overrides", 201),
            ("viewer", "DELETE /v1/overrides/{id}", 403),
            ("of-alpha", "GET /v1/sites/{site}", 403),
            ("admin", "POST /v1/overrides", 422),
            ("", "GET /v1/sites", 401),
            ("admin", "PUT ", 405),
            ("admin", "DELETE /v1/overrides/{id}", 204),
        ]
        first, last = entries[0], entries[-1]
        assert (first["id"], first["reason"], first["ticket"], first["kind"]) == (key, "works", "OPS-1", "lockout")
        assert (first["role"], first["via"], first["peer"]) == ("admin", "token", "127.0.0.1")
        assert (last["id"], last["site"], last["reason"]) == (key, "alpha", "over")
        assert "problem" in entries[1]
        assert not any(token in (tmp_path / "audit.jsonl").read_text() for token in TOKENS.values())

    async def test_a_flood_of_refusals_does_not_fill_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("controller.api.gate._REFUSALS_PER_S", 1e-6)
        async with standing(http={"audit_file": str(tmp_path / "audit.jsonl")}) as stand:
            stand.join("alpha")
            for n in range(100):
                await stand.call("GET", "/v1/sites", headers=bearer(f"guess-{n}"))
            await stand.override()
        entries = audit(tmp_path)
        assert [each["status"] for each in entries] == [401, 201]
        assert entries[-1]["refusals_not_told"] == 99
