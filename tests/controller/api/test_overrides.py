"""Overrides over HTTP, with the real engine: receipt, extension, end, and what is not allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contract.messages import BankReceipt, Mode, Receipt, ReceiptState, Status
from contract.reasons import ReceiptReason
from controller.journal.memory import MemoryJournal
from controller.journal.sql import SqlJournal
from tests.controller.api.stand import CAP, GOOD, SITE, Stand, deciding, standing, targets
from tests.controller.kit import BASE_W, RATED_W, StubClock, plate, report, until

HOLD = {"target": SITE, "kind": "hold", "reason": "r", "duration_s": 600}


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with standing(**deciding()) as made:
        made.join("alpha", "beta")
        await until(lambda: len(made.bus.orders("beta")) == 1)
        yield made


def answered(stand: Stand, *states: ReceiptState) -> Receipt:
    """The agent's receipt of the newest order, a state for each bank."""
    order = stand.bus.orders()[-1]
    banks = tuple(
        BankReceipt(
            bank=setpoint.bank,
            state=state,
            reason=ReceiptReason.IN_BAND,
            target_w=setpoint.target_w,
            obeyed_w=setpoint.target_w,
        )
        for setpoint, state in zip(order.setpoints, states, strict=True)
    )
    return Receipt(site="alpha", boot="b1", epoch=1, order_seq=order.seq, seq=order.seq, accepted=True, banks=banks)


class TestOne:
    async def test_it_says_all_of_itself_and_what_became_of_it(self, stand: Stand) -> None:
        made = await stand.override(target={"site": "alpha", "bank": "bank-0"}, ticket="OPS-7")
        assert targets(stand) == [0, RATED_W]
        told = made["override"]
        assert told["target"] == {"site": "alpha", "feeder": None, "bank": "bank-0", "workload": None}
        assert (told["version"], told["state"], told["ticket"], told["created_by"]) == (1, "active", "OPS-7", "admin")
        assert (told["starts_at"], told["ends_at"]) == ("2023-11-14T22:13:20Z", "2023-11-14T23:13:20Z")
        assert told["effect"] == {"targets": 1, "confirmed": 0, "failed": 0, "failing": {}}
        stand.bus.deliver(answered(stand, ReceiptState.DISPATCHED, ReceiptState.CONFIRMED))
        assert await self._effect(stand, told["id"]) == {"targets": 1, "confirmed": 0, "failed": 0, "failing": {}}
        stand.bus.deliver(
            answered(stand, ReceiptState.CONFIRMED, ReceiptState.CONFIRMED).model_copy(update={"seq": 90})
        )
        assert await self._effect(stand, told["id"]) == {"targets": 1, "confirmed": 1, "failed": 0, "failing": {}}
        stand.bus.deliver(answered(stand, ReceiptState.DRIFTED, ReceiptState.CONFIRMED).model_copy(update={"seq": 91}))
        effect = await self._effect(stand, told["id"])
        answer = effect["failing"]["bank-0"]
        assert answer.startswith("drifted: "), "the state of its receipt and the reason"
        assert effect == {"targets": 1, "confirmed": 0, "failed": 1, "failing": {"bank-0": answer}}

    async def _effect(self, stand: Stand, key: str) -> Any:
        status, body, _ = await stand.call("GET", f"/v1/overrides/{key}")
        assert status == 200
        return body["effect"]

    async def test_it_goes_from_scheduled_to_active_to_expired(self, stand: Stand) -> None:
        made = await stand.override(starts_at="2023-11-14T22:20:00Z", duration_s=60)
        key = made["override"]["id"]
        assert made["override"]["state"] == "scheduled"
        assert targets(stand) == [RATED_W, RATED_W]
        for wait_ms, state, watts in ((401_000, "active", 0), (60_000, "expired", RATED_W)):
            stand.clock.advance(wait_ms)
            stand.bus.deliver(report(seq=stand.clock.wall))
            await self._ordered(stand, watts)
            assert (await stand.call("GET", f"/v1/overrides/{key}"))[1]["state"] == state
        assert (await stand.call("GET", "/v1/overrides"))[1]["overrides"] == []
        found = (await stand.call("GET", "/v1/overrides?state=expired"))[1]["overrides"]
        assert [each["id"] for each in found] == [key]

    async def _ordered(self, stand: Stand, watts: int) -> None:
        await until(lambda: targets(stand) == [watts, watts])

    async def test_a_workload_means_each_of_its_banks(self, stand: Stand) -> None:
        made = await stand.override(target={"site": "alpha", "workload": "hash"}, kind="emergency_stop")
        assert targets(stand) == [0, 0]
        assert made["override"]["effect"]["targets"] == 2

    async def test_a_cap_on_a_workload_is_split_among_its_banks(self, stand: Stand) -> None:
        made = await stand.override(target={"site": "alpha", "workload": "hash"}, kind="cap", value_w=RATED_W)
        assert sum(targets(stand)) <= RATED_W
        assert all(0 < watts <= RATED_W // 2 for watts in targets(stand))
        assert made["override"]["effect"]["targets"] == 2

    async def test_the_form_it_had_before_is_still_taken(self, stand: Stand) -> None:
        flat = {"site": "alpha", "bank": "bank-1", "kind": "lockout", "reason": "r", "duration_s": 60}
        status, body, _ = await stand.call("POST", "/v1/overrides", flat)
        assert (status, body["override"]["target"]["bank"]) == (201, "bank-1")


class TestVersions:
    async def test_extending_keeps_the_id_and_needs_the_version_it_means(self, stand: Stand) -> None:
        made = await stand.override()
        path = f"/v1/overrides/{made['override']['id']}"
        _, _, headers = await stand.call("GET", path)
        assert headers["ETag"] == '"1"'
        longer = {"duration_s": 7_200, "reason": "the part is late"}
        status, problem, _ = await stand.call("PATCH", path, longer)
        assert (status, problem["field"]) == (428, "If-Match")
        right = {**GOOD, "If-Match": headers["ETag"]}
        status, body, headers = await stand.call("PATCH", path, longer, headers=right)
        assert (status, body["version"], body["ends_at"]) == (200, 2, "2023-11-15T00:13:20Z")
        assert (body["change_reason"], body["changed_by"], headers["ETag"]) == ("the part is late", "admin", '"2"')
        status, problem, _ = await stand.call("PATCH", path, longer, headers=right)
        assert (status, problem["type"]) == (412, "urn:wattshift:problem:stale")
        assert (await stand.call("DELETE", path + "?reason=done", headers=right))[0] == 412
        assert (await stand.call("DELETE", path + "?reason=done", headers={**GOOD, "If-Match": '"2"'}))[0] == 204
        _, body, _ = await stand.call("GET", path)
        assert (body["state"], body["version"], body["revoke_reason"]) == ("revoked", 3, "done")
        status, problem, _ = await stand.call("PATCH", path, longer, headers={**GOOD, "If-Match": "*"})
        assert (status, problem["field"]) == (409, "id")

    @pytest.mark.parametrize("field", ["kind", "target", "value_w", "site"])
    async def test_what_never_changes_is_told_so(self, stand: Stand, field: str) -> None:
        made = await stand.override()
        body = {"duration_s": 60, "reason": "r", field: "cap"}
        headers = {**GOOD, "If-Match": '"1"'}
        status, problem, _ = await stand.call("PATCH", f"/v1/overrides/{made['override']['id']}", body, headers=headers)
        assert (status, problem["field"]) == (422, field)
        assert "impose another" in problem["fix"]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"reason": "r"}, "ends_at"),
            ({"reason": "r", "duration_s": 5, "ends_at": "2023-11-15T00:00:00Z"}, "ends_at"),
            ({"reason": "r", "ends_at": "2023-11-14T22:00:00Z"}, "ends_at"),
            ({"reason": " ", "duration_s": 5}, "reason"),
            ({"duration_s": 5}, "reason"),
            ({"reason": "r", "duration_s": -5}, "duration_s"),
        ],
    )
    async def test_a_bad_extension_changes_nothing(self, stand: Stand, body: Any, field: str) -> None:
        made = (await stand.override())["override"]
        path = f"/v1/overrides/{made['id']}"
        status, problem, _ = await stand.call("PATCH", path, body, headers={**GOOD, "If-Match": "*"})
        assert (status, problem["field"]) == (422, field), problem
        assert (await stand.call("GET", path))[1] == made

    async def test_a_lockout_may_stay_open_and_is_lifted_only_with_a_reason(self, stand: Stand) -> None:
        made = await stand.override(duration_s=None)
        assert made["override"]["ends_at"] is None
        path = f"/v1/overrides/{made['override']['id']}"
        status, problem, _ = await stand.call("DELETE", path)
        assert (status, problem["field"]) == (422, "reason")
        assert targets(stand) == [0, 0]
        assert (await stand.call("DELETE", path + "?reason=works%20are%20over"))[0] == 204


class TestIdempotency:
    async def test_a_key_asked_again_answers_again_and_does_nothing(self, stand: Stand) -> None:
        headers = {**GOOD, "Idempotency-Key": "4d1f-1"}
        status, first, _ = await stand.call("POST", "/v1/overrides", HOLD, headers=headers)
        orders = len(stand.bus.published)
        again, second, back = await stand.call("POST", "/v1/overrides", HOLD, headers=headers)
        assert (status, again, back["Idempotency-Replayed"]) == (201, 200, "true")
        assert second["override"]["id"] == first["override"]["id"]
        assert len(stand.bus.published) == orders
        status, problem, _ = await stand.call("POST", "/v1/overrides", HOLD | {"duration_s": 601}, headers=headers)
        assert (status, problem["field"]) == (422, "Idempotency-Key")
        assert len(stand.controller.overrides.entries()) == 1

    async def test_a_key_answers_for_its_override_after_that_is_over_too(self, stand: Stand) -> None:
        headers = {**GOOD, "Idempotency-Key": "k"}
        _, first, _ = await stand.call("POST", "/v1/overrides", HOLD, headers=headers)
        await stand.call("DELETE", f"/v1/overrides/{first['override']['id']}")
        status, second, _ = await stand.call("POST", "/v1/overrides", HOLD, headers=headers)
        assert (status, second["override"]["state"]) == (200, "revoked")

    async def test_signals_have_keys_too(self, stand: Stand) -> None:
        headers = {**GOOD, "Idempotency-Key": "k"}
        ask = {"site": "alpha", "target_w": 900_000, "duration_s": 60}
        status, first, _ = await stand.call("POST", "/v1/signals", ask, headers=headers)
        again, second, _ = await stand.call("POST", "/v1/signals", ask, headers=headers)
        assert (status, again) == (201, 200)
        assert first["obligation"] == second["obligation"]
        status, problem, _ = await stand.call("POST", "/v1/signals", ask | {"target_w": 1}, headers=headers)
        assert (status, problem["field"]) == (422, "Idempotency-Key")

    @pytest.mark.parametrize("key", ["", "x" * 201])
    async def test_a_key_of_no_use_is_refused(self, stand: Stand, key: str) -> None:
        status, problem, _ = await stand.call("POST", "/v1/overrides", HOLD, headers={**GOOD, "Idempotency-Key": key})
        assert (status, problem["field"]) == (422, "Idempotency-Key")


class TestEffective:
    async def test_it_tells_winners_and_losers_and_why(self, stand: Stand) -> None:
        cap = (await stand.override(kind="cap", value_w=1_800_000))["override"]["id"]
        tighter = (await stand.override(kind="cap", value_w=1_600_000))["override"]["id"]
        lock = (await stand.override(target={"site": "alpha", "bank": "bank-0"}))["override"]["id"]
        force = (await stand.override(kind="force_hash"))["override"]["id"]
        _, body, _ = await stand.call("GET", "/v1/effective?site=alpha")
        banks = {bank["bank"]: bank for bank in body["banks"]}
        assert banks["bank-0"]["reason"] == "lockout"
        assert [(c["override"], c["stands"], c["by"]) for c in banks["bank-0"]["claims"]] == [
            (lock, "holds", None),
            *[(c["override"], "overruled", lock) for c in banks["bank-0"]["claims"][1:]],
        ]
        stands = {claim["override"]: (claim["stands"], claim["by"]) for claim in banks["bank-1"]["claims"]}
        assert stands == {cap: ("overruled", tighter), tighter: ("holds", None), force: ("holds", None)}
        assert body["superseded"] == [cap]
        _, listed, _ = await stand.call("GET", "/v1/overrides?state=superseded")
        assert [(each["id"], each["superseded_by"]) for each in listed["overrides"]] == [(cap, tighter)]

    async def test_a_contradiction_is_named_when_it_is_made(self, stand: Stand) -> None:
        floor = (await stand.override(kind="floor", value_w=2_000_000))["override"]["id"]
        made = await stand.override(kind="cap", value_w=1_000_000)
        assert [(each["override"], each["stands"]) for each in made["conflicts"]] == [(floor, "clamped")]
        lock = await stand.override()
        assert {each["kind"] for each in lock["conflicts"]} == {"floor", "cap"}


class TestLocal:
    async def test_a_site_in_local_control_says_so_wherever_it_is_looked_at(self, stand: Stand) -> None:
        made = await stand.override()
        stand.bus.deliver(report(seq=2, mode=Mode.LOCAL))
        key = made["override"]["id"]
        _, sites, _ = await stand.call("GET", "/v1/sites")
        assert sites["sites"][0]["mode"] == "local"
        for path in (f"/v1/overrides/{key}", "/v1/effective?site=alpha"):
            assert "in local control" in (await stand.call("GET", path))[1]["note"]
        _, one, _ = await stand.call("GET", f"/v1/overrides/{key}")
        failing = dict.fromkeys(("bank-0", "bank-1"), "refused: local control")
        assert one["effect"] == {"targets": 2, "confirmed": 0, "failed": 2, "failing": failing}
        _, doctor, _ = await stand.call("GET", "/v1/doctor?site=alpha")
        agent = next(each for each in doctor["findings"] if each["check"] == "agent")
        assert (agent["ok"], "local control" in agent["detail"]) == (False, True)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "status", "field"),
        [
            ({"starts_at": "2023-01-01T00:00:00Z"}, 422, "starts_at"),
            ({"duration_s": None, "ends_at": "2023-01-01T00:00:00Z"}, 422, "ends_at"),
            (
                {"duration_s": None, "starts_at": "2023-11-15T02:00:00Z", "ends_at": "2023-11-15T01:00:00Z"},
                422,
                "ends_at",
            ),
            ({"duration_s": None}, 422, "ends_at"),
            ({"ends_at": "2023-11-15T01:00:00Z"}, 422, "ends_at"),
            ({"duration_s": 0}, 422, "duration_s"),
            ({"duration_s": "60"}, 422, "duration_s"),
            ({"value_w": -1}, 422, "value_w"),
            ({"value_w": 0.5}, 422, "value_w"),
            ({"value_w": 10**18}, 422, "value_w"),
            ({"value_w": BASE_W - 1}, 422, "value_w"),
            ({"value_w": None}, 422, "value_w"),
            ({"reason": ""}, 422, "reason"),
            ({"reason": "  "}, 422, "reason"),
            ({"target": {"site": "ghost"}}, 404, "site"),
            ({"target": {"site": "alpha", "bank": "ghost"}}, 404, "bank"),
            ({"target": {"site": "alpha", "feeder": "ghost"}}, 404, "feeder"),
            ({"target": {"site": "alpha", "workload": "hpc"}}, 404, "workload"),
            ({"target": {"site": "alpha", "workload": "idle"}}, 422, "target.workload"),
            ({"target": {"site": "alpha", "workload": "hpc"}, "kind": "hold", "value_w": None}, 404, "workload"),
            ({"target": {"site": "alpha", "bank": "bank-0", "feeder": "main"}}, 422, "bank"),
            ({"target": {}}, 422, "target.site"),
            ({"target": {"site": "alpha", "rack": "r"}}, 422, "target.rack"),
            ({"target": None}, 422, "target"),
        ],
    )
    async def test_it_is_told_by_field_and_nothing_is_done(
        self, stand: Stand, change: Any, status: int, field: str
    ) -> None:
        orders = len(stand.bus.published)
        body = {name: value for name, value in (CAP | change).items() if value is not None}
        for path in ("/v1/overrides", "/v1/overrides:preview"):
            got, problem, headers = await stand.call("POST", path, body)
            assert (got, problem["field"]) == (status, field), (path, problem)
            assert headers["Content-Type"].startswith("application/problem+json")
            assert problem["fix"]
        assert len(stand.bus.published) == orders
        assert stand.controller.overrides.entries() == []

    @pytest.mark.parametrize("watts", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
    async def test_watts_that_are_no_number_are_refused(self, stand: Stand, watts: bytes) -> None:
        body = b'{"target":{"site":"alpha"},"kind":"cap","reason":"r","duration_s":60,"value_w":' + watts + b"}"
        status, problem, _ = await stand.call("POST", "/v1/overrides", body)
        assert (status, problem["field"]) == (422, "value_w")

    async def test_a_body_of_ten_megabytes_is_refused_and_the_controller_goes_on(self, stand: Stand) -> None:
        status, problem, _ = await stand.call("POST", "/v1/overrides", b"x" * 10_000_000)
        assert (status, problem["type"]) == (413, "urn:wattshift:problem:too_large")
        await stand.override()

    @pytest.mark.parametrize("query", ["site=ghost", "state=vague", "site=alpha&site=beta", "sight=alpha", "site=A"])
    async def test_a_query_it_does_not_know_is_refused(self, stand: Stand, query: str) -> None:
        status, problem, _ = await stand.call("GET", f"/v1/overrides?{query}")
        assert status in (404, 422)
        assert problem["field"] in ("site", "state", "sight")

    async def test_the_number_of_a_sites_overrides_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("controller.overrides.PER_SITE_MAX", 3)
        async with standing() as stand:
            stand.join("alpha")
            for _ in range(3):
                await stand.override()
            status, problem, _ = await stand.call("POST", "/v1/overrides", HOLD)
            assert (status, problem["type"]) == (409, "urn:wattshift:problem:limit")


class TestTime:
    async def test_a_clock_that_jumps_over_the_end_ends_it_and_one_set_right_brings_it_back(self, stand: Stand) -> None:
        made = await stand.override(duration_s=600)
        path = f"/v1/overrides/{made['override']['id']}"
        assert targets(stand) == [0, 0]
        stand.clock.wall += 3_600_000
        stand.bus.deliver(report(seq=2))
        await until(lambda: targets(stand) == [RATED_W, RATED_W])
        assert (await stand.call("GET", path))[1]["state"] == "expired"
        stand.clock.wall -= 3_600_000
        assert (await stand.call("GET", path))[1]["state"] == "active"
        stand.controller.loop.request("alpha", "tick")
        await until(lambda: targets(stand) == [0, 0])


class TestRestart:
    @pytest.mark.parametrize("kind", ["memory", "sqlite"])
    async def test_nothing_is_lost_and_nothing_doubled(self, tmp_path: Path, kind: str) -> None:
        """Active, extended, revoked, shortened and past its end, and the keys of requests that come again."""
        memory, clock = MemoryJournal(), StubClock()

        def journal() -> Any:
            return memory if kind == "memory" else SqlJournal(f"sqlite+aiosqlite:///{tmp_path}/j.sqlite3")

        keyed = {**GOOD, "Idempotency-Key": "before"}
        star = {**GOOD, "If-Match": "*"}
        async with standing(journal(), clock, **deciding()) as stand:
            stand.join("alpha")
            _, first, _ = await stand.call("POST", "/v1/overrides", HOLD, headers=keyed)
            lock = (await stand.override(target={"site": "alpha", "workload": "hash"}, ticket="T"))["override"]["id"]
            await stand.call("PATCH", f"/v1/overrides/{lock}", {"duration_s": 9_000, "reason": "late"}, headers=star)
            gone = (await stand.override(kind="emergency_stop"))["override"]["id"]
            await stand.call("DELETE", f"/v1/overrides/{gone}?reason=false%20alarm")
            short = (await stand.override(kind="emergency_stop"))["override"]["id"]
            await stand.call("PATCH", f"/v1/overrides/{short}", {"duration_s": 1, "reason": "enough"}, headers=star)
            clock.advance(2_000)
            _, before, _ = await stand.call("GET", "/v1/overrides?state=all")
        async with standing(journal(), clock, **deciding()) as stand:
            stand.join("alpha")
            await until(lambda: stand.bus.orders())
            _, after, _ = await stand.call("GET", "/v1/overrides?state=all")
            assert {e["id"]: e["state"] for e in after["overrides"]} == {
                first["override"]["id"]: "superseded",
                lock: "active",
                gone: "revoked",
                short: "expired",
            }
            dropped = {"effect", "note"}
            plain = [
                [{k: v for k, v in e.items() if k not in dropped} for e in x["overrides"]] for x in (before, after)
            ]
            assert plain[0] == plain[1]
            assert targets(stand) == [0, 0]
            status, again, _ = await stand.call("POST", "/v1/overrides", HOLD, headers=keyed)
            assert (status, again["override"]["id"]) == (200, first["override"]["id"])
            assert len(stand.controller.overrides.entries()) == 4

    async def test_an_agent_that_starts_anew_is_under_what_stands(self, stand: Stand) -> None:
        lock = (await stand.override(target={"site": "alpha", "workload": "hash"}))["override"]["id"]
        stand.bus.deliver(Status(site="alpha", boot="b2", online=True), plate(boot="b2"), report(boot="b2"))
        await until(lambda: stand.bus.orders()[-1].based_on_boot == "b2")
        assert targets(stand) == [0, 0]
        _, body, _ = await stand.call("GET", "/v1/overrides")
        assert [(each["id"], each["state"]) for each in body["overrides"]] == [(lock, "active")]
