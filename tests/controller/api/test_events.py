"""Server-sent events: what happens arrives, goes on where a client was, and a client that stops reading is dropped."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientResponse

from controller.api.app import STREAM
from controller.events import Events
from controller.roles import Role, entry
from tests.controller.api.stand import GOOD, TOKEN, Stand, deciding, standing
from tests.controller.kit import report, until


class Told(NamedTuple):
    id: str
    kind: str
    data: Any


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with standing(**deciding()) as made:
        made.join("alpha", "beta")
        await until(lambda: len(made.bus.orders("beta")) == 1)
        yield made


@asynccontextmanager
async def following(stand: Stand, query: str = "", **headers: str) -> AsyncIterator[ClientResponse]:
    async with stand.session.get(f"{stand.base}/v1/events{query}", headers={**GOOD, **headers}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield response


async def read(response: ClientResponse) -> Told:
    """The next event; comments are passed over."""
    fields: dict[str, str] = {}
    async with asyncio.timeout(30):
        while True:
            line = (await response.content.readline()).decode().rstrip("\n")
            if not line and "data" in fields:
                return Told(fields["id"], fields["event"], json.loads(fields["data"]))
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value


async def wait_for(response: ClientResponse, kind: str, **wanted: Any) -> Told:
    while True:
        told = await read(response)
        if told.kind == kind and all(told.data.get(name) == value for name, value in wanted.items()):
            return told


async def test_an_override_is_told_with_its_decision_its_order_and_what_became_of_it(stand: Stand) -> None:
    async with following(stand) as events:
        made = await stand.override()
        decision = await wait_for(events, "decision", trigger="override")
        assert decision.data["site"] == "alpha"
        order = await wait_for(events, "order", decision_id=decision.data["id"])
        assert order.data["published"] is True
        told = await wait_for(events, "override", id=made["override"]["id"])
        assert (told.data["state"], told.data["effect"]["targets"]) == ("active", 2)
        await stand.call("DELETE", f"/v1/overrides/{told.data['id']}?reason=over")
        await wait_for(events, "override", id=told.data["id"], state="revoked")


async def test_sites_are_told_as_they_report(stand: Stand) -> None:
    async with following(stand, "?site=beta") as events:
        await wait_for(events, "site", site="beta")
        stand.bus.deliver(report("alpha", seq=5), report("beta", seq=5, bank_w=(7, 7)))
        told = await wait_for(events, "site", metered_w=50_014)
        assert told.data["site"] == "beta"


async def test_a_client_goes_on_where_it_was(stand: Stand) -> None:
    async with following(stand) as events:
        await stand.call("POST", "/v1/signals", {"site": "alpha", "target_w": 0, "duration_s": 60, "id": "one"})
        first = await wait_for(events, "signal", id="one")
    await stand.call("POST", "/v1/signals", {"site": "alpha", "target_w": 0, "duration_s": 60, "id": "two"})
    async with following(stand, **{"Last-Event-ID": first.id}) as events:
        told = await wait_for(events, "signal")
        assert told.data["id"] == "two", "what it has read is not told again, what it missed is"


async def test_who_asks_for_what_was_recent_is_told_what_came_before_and_no_other_is(stand: Stand) -> None:
    made = await stand.override()
    async with following(stand, "?site=alpha&recent=true") as events:
        assert (await wait_for(events, "decision")).data["trigger"] == "joined"
        await wait_for(events, "decision", trigger="override")
        await wait_for(events, "order")
        await stand.call("DELETE", f"/v1/overrides/{made['override']['id']}?reason=done")
        assert await wait_for(events, "decision", trigger="override"), "and goes on with what comes"
    async with following(stand, "?site=beta") as events:
        stand.bus.deliver(report("beta", seq=2))
        assert (await read(events)).kind == "site"


@pytest.mark.parametrize("place", ["9-1", "1-99999999", "1-x", "x", "1-", "1-0"])
async def test_a_place_that_is_not_known_starts_anew_and_says_so(stand: Stand, place: str) -> None:
    stand.controller.events._ring.clear()
    stand.controller.events.publish("event", None, "{}")
    async with following(stand, **{"Last-Event-ID": place}) as events:
        told = await read(events)
        assert told.kind == "reset"
        await stand.override()
        await wait_for(events, "decision")


async def test_a_client_that_stops_reading_is_dropped_and_nobody_else_waits(stand: Stand) -> None:
    """A real socket with a small window that is never read; the others go on being told meanwhile."""
    stream = stand.app[STREAM]
    stream.stall_s = 0.3
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        host, port = stand.base.removeprefix("http://").split(":")
        await loop.sock_connect(deaf, (host, int(port)))
        asked = f"GET /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        await loop.sock_sendall(deaf, asked.encode())
        async with following(stand) as events:
            await until(lambda: stream.clients == 2)
            told = asyncio.create_task(wait_for(events, "event", last=True))
            async with asyncio.timeout(60):
                while stream.dropped == 0:
                    for _ in range(20):
                        stand.controller.events.publish("event", None, json.dumps({"filler": "x" * 50_000}))
                    await asyncio.sleep(0.01)
            assert stream.clients == 1
            stand.controller.events.publish("event", None, '{"last": true}')
            assert (await told).data["last"] is True


async def test_followers_are_bounded(stand: Stand) -> None:
    async with standing(http={"streams_max": 1}) as stand, following(stand):
        await until(lambda: stand.app[STREAM].clients == 1)
        status, problem, _ = await stand.call("GET", "/v1/events")
        assert (status, problem["type"]) == (503, "urn:wattshift:problem:busy")


async def test_a_scoped_token_hears_of_its_sites_alone(tmp_path: Path) -> None:
    token = "of-alpha-" + "0" * 40
    roles = tmp_path / "roles.toml"
    roles.write_text(entry("of-alpha", Role.VIEWER, token, ["alpha"]))
    roles.chmod(0o600)
    async with standing(http={"roles_file": str(roles)}, **deciding()) as stand:
        stand.join("alpha", "beta")
        await until(lambda: stand.bus.orders("beta"))
        async with following(stand, Authorization=f"Bearer {token}") as events:
            for site in ("beta", "alpha"):
                ask = {"site": site, "target_w": 0, "duration_s": 60, "id": f"s-{site}"}
                await stand.call("POST", "/v1/signals", ask)
            heard: list[Told] = []
            while not heard or heard[-1].kind != "signal":
                heard.append(await read(events))
            assert {told.data["site"] for told in heard} == {"alpha"}


async def test_a_token_that_is_revoked_is_let_go(tmp_path: Path) -> None:
    token = "guest-" + "0" * 40
    roles = tmp_path / "roles.toml"
    roles.write_text(entry("guest", Role.VIEWER, token, []))
    roles.chmod(0o600)
    async with standing(http={"roles_file": str(roles)}) as stand:
        stand.app[STREAM].recheck_s = 0.05
        async with following(stand, Authorization=f"Bearer {token}") as events:
            roles.write_text("# nobody is left\n")
            stand.clock.advance(5_000)
            async with asyncio.timeout(30):
                while await events.content.readline():
                    pass
        assert stand.app[STREAM].clients == 0


async def test_there_is_no_head_of_what_never_ends(stand: Stand) -> None:
    assert (await stand.call("HEAD", "/v1/events"))[0] == 405


class TestRing:
    def test_it_is_bounded_and_says_when_something_is_gone(self) -> None:
        events = Events(ring=10)
        for n in range(25):
            events.publish("event", None, str(n))
        assert events.since(10, 100) is None
        found = events.since(15, 100)
        assert found is not None
        assert [each.text for each in found] == [str(n) for n in range(15, 25)]
        assert [each.n for each in events.since(20, 2) or ()] == [21, 22]
        assert events.since(25, 5) == []

    async def test_many_wait_for_one(self) -> None:
        events = Events()
        waiting = [asyncio.create_task(events.beyond(0)) for _ in range(50)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        events.publish("event", None, "{}")
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting[1:])
