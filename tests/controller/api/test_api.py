"""The HTTP API over a real server on loopback: who may, what is given, and what a bad request is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from contract.messages import BankReceipt, Receipt, ReceiptState
from contract.reasons import ReceiptReason
from controller.api.app import create_app
from controller.journal.base import EventRecord
from controller.journal.sql import SqlJournal
from tests.controller.api.stand import GOOD, TOKEN, Stand, deciding, standing
from tests.controller.kit import BASE_W, RATED_W, report, until


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with standing() as made:
        made.join("alpha", "beta")
        await until(lambda: len(made.bus.orders("beta")) == 1)
        yield made


PATHS = [
    ("GET", "/v1/sites"),
    ("GET", "/v1/sites/alpha"),
    ("GET", "/v1/sites/alpha/plan"),
    ("GET", "/v1/decisions"),
    ("GET", "/v1/overrides"),
    ("POST", "/v1/overrides"),
    ("DELETE", "/v1/overrides/x"),
    ("GET", "/v1/signals"),
    ("POST", "/v1/signals"),
    ("POST", "/v1/overrides:preview"),
    ("GET", "/v1/overrides/x"),
    ("PATCH", "/v1/overrides/x"),
    ("GET", "/v1/effective?site=alpha"),
    ("GET", "/v1/doctor"),
    ("GET", "/v1/events"),
    ("GET", "/v1/whoami"),
    ("DELETE", "/v1/signals/x"),
    ("GET", "/nowhere"),
]


class TestToken:
    @pytest.mark.parametrize("headers", [{}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}])
    async def test_without_it_nothing_is_told_and_nothing_is_done(self, stand: Stand, headers: dict[str, str]) -> None:
        orders = len(stand.bus.published)
        body = {"site": "alpha", "kind": "emergency_stop", "reason": "x", "target_w": 0, "duration_s": 60}
        for method, path in PATHS:
            status, problem, back = await stand.call(method, path, body, headers=headers)
            assert status == 401, path
            assert problem["type"] == "urn:wattshift:problem:unauthorized"
            assert back["Content-Type"].startswith("application/problem+json")
            assert back["WWW-Authenticate"].startswith("Bearer")
        assert len(stand.bus.published) == orders

    async def test_health_needs_none_and_metrics_only_where_the_configuration_says(self) -> None:
        for is_open, expected in ((True, 200), (False, 401)):
            async with standing(http={"metrics_open": is_open}) as stand:
                assert (await stand.call("GET", "/healthz", headers={}))[0] == 200
                assert (await stand.call("GET", "/readyz", headers={}))[0] == 200
                assert (await stand.call("GET", "/metrics", headers={}))[0] == expected
                assert (await stand.call("GET", "/metrics"))[0] == 200


class TestSites:
    async def test_all_sites_in_a_line_each(self, stand: Stand) -> None:
        status, body, _ = await stand.call("GET", "/v1/sites")
        assert status == 200
        assert [site["site"] for site in body["sites"]] == ["alpha", "beta"]
        assert body["sites"][0]["metered_w"] == BASE_W + 2 * RATED_W
        assert body["sites"][0]["sentence"].startswith("alpha: 2050000 W")

    async def test_one_site_with_its_banks_and_what_became_of_the_order(self, stand: Stand) -> None:
        order = stand.bus.orders()[-1]
        banks = tuple(
            BankReceipt(bank=bank, state=state, reason=reason, target_w=RATED_W, obeyed_w=RATED_W)
            for bank, state, reason in (
                ("bank-0", ReceiptState.CONFIRMED, ReceiptReason.IN_BAND),
                ("bank-1", ReceiptState.DRIFTED, ReceiptReason.POWER_ABOVE_SETPOINT),
            )
        )
        stand.bus.deliver(
            Receipt(site="alpha", boot="b1", epoch=1, order_seq=order.seq, seq=1, accepted=True, banks=banks)
        )
        stand.clock.advance(3_000)
        status, site, _ = await stand.call("GET", "/v1/sites/alpha")
        assert status == 200
        assert site["order"]["seq"] == order.seq
        assert site["order"]["banks_by_state"] == {"confirmed": 1, "drifted": 1}
        assert [bank["receipt"] for bank in site["banks"]] == ["confirmed", "drifted"]
        assert site["banks"][1]["receipt_reason"] == "power_above_setpoint"
        assert (site["banks"][0]["power_w"], site["banks"][0]["power_age_ms"]) == (RATED_W, 3_000)
        assert site["feeders"][0] == {
            "feeder": "main",
            "parent": None,
            "limit_w": 100_000_000,
            "power_w": 2_050_000,
            "power_age_ms": 3_000,
            "source": "meter",
        }
        assert site["decision_id"] == order.decision
        assert not site["two_agents"]

    async def test_where_nothing_is_planned_the_plan_says_why(self) -> None:
        async with standing(**deciding()) as stand:
            stand.join("alpha")
            await until(lambda: len(stand.bus.orders("alpha")) == 1)
            status, plan, _ = await stand.call("GET", "/v1/sites/alpha/plan")
            _, site, _ = await stand.call("GET", "/v1/sites/alpha")
        assert (status, plan["absent"], plan["at_ms"]) == (200, "merit_order", [])
        assert plan["decision_id"] == site["decision_id"]

    async def test_faults_of_a_site_are_told_where_the_site_is(self, stand: Stand) -> None:
        stand.bus.deliver_raw("wattshift/v1/sites/alpha/report", b"garbage")
        for seq in range(2, 8):
            stand.bus.deliver(report(seq=seq), report(boot="other", seq=seq))
        _, site, _ = await stand.call("GET", "/v1/sites/alpha")
        assert set(site["faults"]) == {"malformed", "boot_conflict", "two_boots"}
        assert site["two_agents"]

    async def test_a_site_that_is_not_there(self, stand: Stand) -> None:
        for name in ("gamma", "ALPHA", "..%2f", "a" * 500):
            status, problem, _ = await stand.call("GET", f"/v1/sites/{name}")
            assert (status, problem["field"]) == (404, "site")


class TestSignals:
    async def test_a_signal_answers_with_baseline_decision_and_order(self, stand: Stand) -> None:
        ask = {"site": "alpha", "reduce_w": 900_000, "duration_s": 600, "id": "ercot-9"}
        status, body, headers = await stand.call("POST", "/v1/signals", ask)
        assert status == 201
        assert headers["Location"] == "/v1/signals/ercot-9"
        assert body["baseline"] == {"power_w": 2_050_000, "readings": 1}
        assert body["obligation"]["target_w"] == 1_150_000
        assert body["decision"]["planned_w"] == 1_150_000
        assert body["decision"]["trigger"] == "signal"
        assert body["expected"]["meets"] is True
        assert body["journalled"] is True
        order = stand.bus.orders()[-1]
        assert (order.obligation, order.urgent, body["order"]["seq"]) == ("ercot-9", True, order.seq)
        again, same, _ = await stand.call("POST", "/v1/signals", ask)
        assert (again, same["created"], same["decision"]) == (200, False, None)
        assert len(stand.bus.orders()) == 2, "asking again orders nothing new"

    async def test_a_shortfall_is_said_before_it_is_due(self, stand: Stand) -> None:
        ask = {"site": "alpha", "target_w": 10_000, "starts_at": "2023-11-14T23:00:00Z", "duration_s": 600}
        status, body, _ = await stand.call("POST", "/v1/signals", ask)
        assert status == 201
        assert body["decision"]["planned_w"] == 2_050_000
        assert body["expected"]["meets"] is False
        assert body["expected"]["shortfalls"][0]["short_w"] == 40_000

    async def test_a_reserve_awarded_is_kept_running_shown_and_let_go_when_it_is_withdrawn(self) -> None:
        """At 300 USD/MWh nothing pays; half a bank runs all the same, and what of it can be shed is told."""
        async with standing(**deciding(300.0)) as stand:
            stand.join("alpha")
            ask = {"site": "alpha", "award_w": 500_000, "duration_s": 600, "id": "ecrs-1"}
            status, body, _ = await stand.call("POST", "/v1/signals", ask)
            assert (status, body["obligation"]["award_w"], body["baseline"]) == (201, 500_000, None)
            assert body["decision"]["planned_w"] >= 500_000
            assert "reserve award ecrs-1 needs it to shed" in body["decision"]["sentence"]
            metrics = (await stand.call("GET", "/metrics"))[1]
            assert 'wattshift_site_awarded_watts{site="alpha"} 500000.0' in metrics
            armed = next(line for line in metrics.splitlines() if line.startswith("wattshift_site_armed_watts"))
            assert float(armed.split()[-1]) >= 500_000
            assert 'wattshift_site_obligation_open{site="alpha"} 0.0' in metrics
            assert (await stand.call("DELETE", "/v1/signals/ecrs-1"))[0] == 204
            assert sum(setpoint.target_w for setpoint in stand.bus.orders("alpha")[-1].setpoints) == 0

    async def test_signals_are_listed_and_withdrawn(self, stand: Stand) -> None:
        for site in ("alpha", "beta"):
            await stand.call("POST", "/v1/signals", {"site": site, "target_w": 0, "duration_s": 600, "id": f"s-{site}"})
        _, body, _ = await stand.call("GET", "/v1/signals?site=beta")
        assert [each["id"] for each in body["signals"]] == ["s-beta"]
        assert (await stand.call("DELETE", "/v1/signals/s-beta"))[0] == 204
        assert sum(setpoint.target_w for setpoint in stand.bus.orders("beta")[-1].setpoints) == 2 * RATED_W
        assert (await stand.call("DELETE", "/v1/signals/s-beta"))[0] == 404

    @pytest.mark.parametrize(
        ("body", "status", "field"),
        [
            (b"", 400, None),
            (b"{", 400, None),
            (b"\xff\xfe", 400, None),
            (b"[]", 422, None),
            ({}, 422, "site"),
            ({"site": "alpha", "duration_s": 60}, 422, "reduce_w"),
            ({"site": "alpha", "target_w": 1, "reduce_w": 1, "duration_s": 60}, 422, "reduce_w"),
            ({"site": "alpha", "target_w": -1, "duration_s": 60}, 422, "target_w"),
            ({"site": "alpha", "target_w": 1.5, "duration_s": 60}, 422, "target_w"),
            ({"site": "alpha", "target_w": "1", "duration_s": 60}, 422, "target_w"),
            (b'{"site": "alpha", "target_w": NaN, "duration_s": 60}', 422, "target_w"),
            (b'{"site": "alpha", "target_w": 1, "duration_s": Infinity}', 422, "duration_s"),
            ({"site": "alpha", "target_w": 1, "duration_s": -60}, 422, "duration_s"),
            ({"site": "alpha", "target_w": 1}, 422, "ends_at"),
            ({"site": "alpha", "target_w": 1, "ends_at": "2020-01-01T00:00:00Z"}, 422, "ends_at"),
            ({"site": "alpha", "target_w": 1, "ends_at": "2024-01-01T00:00:00"}, 422, "ends_at"),
            ({"site": "alpha", "target_w": 1, "ends_at": 1_800_000_000}, 422, "ends_at"),
            (
                {
                    "site": "alpha",
                    "target_w": 1,
                    "starts_at": "2023-11-15T02:00:00Z",
                    "ends_at": "2023-11-15T01:00:00Z",
                },
                422,
                "ends_at",
            ),
            ({"site": "alpha", "target_w": 1, "duration_s": 60, "tarjet_w": 2}, 422, "tarjet_w"),
            ({"site": "Alpha!", "target_w": 1, "duration_s": 60}, 422, "site"),
            ({"site": "gamma", "target_w": 1, "duration_s": 60}, 404, "site"),
            ({"site": "alpha", "target_w": 1, "duration_s": 60, "firm_too": "yes"}, 422, "firm_too"),
        ],
    )
    async def test_a_bad_signal_is_told_by_field_and_orders_nothing(
        self, stand: Stand, body: Any, status: int, field: str | None
    ) -> None:
        orders = len(stand.bus.published)
        got, problem, headers = await stand.call("POST", "/v1/signals", body)
        assert (got, problem.get("field")) == (status, field), problem
        assert headers["Content-Type"].startswith("application/problem+json")
        assert problem["status"] == status
        assert problem["fix"]
        assert len(stand.bus.published) == orders
        assert stand.controller.signals.all(0) == []

    async def test_a_body_beyond_the_limit_is_refused(self, stand: Stand) -> None:
        status, problem, _ = await stand.call("POST", "/v1/signals", b" " * 100_000)
        assert (status, problem["type"]) == (413, "urn:wattshift:problem:too_large")

    async def test_a_method_that_is_not_for_the_path(self, stand: Stand) -> None:
        status, problem, headers = await stand.call("PUT", "/v1/signals", {})
        assert (status, headers["Allow"]) == (405, "GET, HEAD, POST")
        assert problem["type"] == "urn:wattshift:problem:method"


class TestOverrides:
    async def test_an_emergency_stop_is_ordered_before_the_answer_and_lifted_again(self, stand: Stand) -> None:
        ask = {"site": "alpha", "kind": "emergency_stop", "reason": "smoke in hall 2", "duration_s": 3600}
        status, body, _ = await stand.call("POST", "/v1/overrides", ask)
        assert status == 201
        assert [setpoint.target_w for setpoint in stand.bus.orders()[-1].setpoints] == [0, 0]
        key = body["override"]["id"]
        _, site, _ = await stand.call("GET", "/v1/sites/alpha")
        assert [each["id"] for each in site["overrides"]] == [key]
        _, listed, _ = await stand.call("GET", "/v1/overrides?site=beta")
        assert listed["overrides"] == []
        assert (await stand.call("DELETE", f"/v1/overrides/{key}"))[0] == 204
        assert [setpoint.target_w for setpoint in stand.bus.orders()[-1].setpoints] == [RATED_W, RATED_W]
        assert (await stand.call("DELETE", f"/v1/overrides/{key}"))[0] == 404

    @pytest.mark.parametrize(
        ("body", "status", "field"),
        [
            ({"site": "alpha", "kind": "cap", "reason": "r"}, 422, "value_w"),
            ({"site": "alpha", "kind": "cap", "reason": "r", "value_w": -1}, 422, "value_w"),
            ({"site": "alpha", "kind": "hold", "reason": "r", "value_w": 5}, 422, "value_w"),
            ({"site": "alpha", "kind": "vibes", "reason": "r"}, 422, "kind"),
            ({"site": "alpha", "kind": "hold"}, 422, "reason"),
            ({"site": "alpha", "kind": "hold", "reason": "r", "duration_s": 60, "bank": "bank-9"}, 404, "bank"),
            ({"site": "alpha", "kind": "hold", "reason": "r", "feeder": "attic"}, 404, "feeder"),
            ({"site": "ghost", "kind": "hold", "reason": "r"}, 404, "site"),
            ({"site": "alpha", "kind": "hold", "reason": "r" * 500}, 422, "reason"),
            ({"site": "alpha", "kind": "hold", "reason": "r", "ends_at": "2023-01-01T00:00:00Z"}, 422, "ends_at"),
        ],
    )
    async def test_a_bad_override_is_told_by_field(self, stand: Stand, body: Any, status: int, field: str) -> None:
        got, problem, _ = await stand.call("POST", "/v1/overrides", body)
        assert (got, problem["field"]) == (status, field), problem
        assert stand.controller.overrides.all(0) == []


class TestDecisions:
    async def test_they_come_newest_first_with_their_sentence(self, stand: Stand) -> None:
        await stand.call("POST", "/v1/signals", {"site": "alpha", "target_w": 0, "duration_s": 60})
        status, body, _ = await stand.call("GET", "/v1/decisions?site=alpha&limit=5")
        assert status == 200
        assert [each["trigger"] for each in body["decisions"]][:2] == ["signal", "joined"]
        assert body["from_journal"] is True
        assert body["decisions"][0]["sentence"].startswith("alpha: 50000 W")

    @pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "1e3", "9" * 40])
    async def test_a_limit_out_of_range_is_refused(self, stand: Stand, limit: str) -> None:
        status, problem, _ = await stand.call("GET", f"/v1/decisions?limit={limit}")
        assert (status, problem["field"]) == (422, "limit")

    async def test_an_unknown_site_is_refused(self, stand: Stand) -> None:
        assert (await stand.call("GET", "/v1/decisions?site=ghost"))[0] == 404


class TestReady:
    async def test_a_lost_broker_is_not_ready_but_alive(self, stand: Stand) -> None:
        assert (await stand.call("GET", "/readyz"))[0] == 200
        stand.bus.connected = False
        status, body, _ = await stand.call("GET", "/readyz")
        assert status == 503
        assert [check["name"] for check in body["checks"] if not check["ok"]] == ["bus"]
        assert (await stand.call("GET", "/healthz"))[0] == 200

    async def test_a_full_journal_is_not_ready_and_decisions_go_on(self, tmp_path: Path) -> None:
        """SQLite's own page limit makes the error a real one; the orders do not care."""
        journal = SqlJournal(f"sqlite+aiosqlite:///{tmp_path}/j.sqlite3", max_mb=1, retry_s=0.05, queue_records=300)
        async with standing(journal) as stand:
            stand.join("alpha")
            async with asyncio.timeout(60):
                while journal.health.ok:
                    for _ in range(50):
                        journal.write(EventRecord(0, "filler", None, "x" * 4_000))
                    await journal.flush(5.0)
            status, body, _ = await stand.call("GET", "/readyz", headers={})
            assert status == 503
            assert [check["name"] for check in body["checks"] if not check["ok"]] == ["journal"]
            _, metrics, _ = await stand.call("GET", "/metrics")
            assert "wattshift_controller_journal_ok 0.0" in metrics
            orders = len(stand.bus.orders())
            status, body, _ = await stand.call(
                "POST", "/v1/signals", {"site": "alpha", "target_w": 0, "duration_s": 60}
            )
            assert (status, body["journalled"]) == (201, False)
            assert len(stand.bus.orders()) == orders + 1
            assert sum(setpoint.target_w for setpoint in stand.bus.orders()[-1].setpoints) == 0


class TestMetrics:
    async def test_what_operators_watch_is_there(self, stand: Stand) -> None:
        await stand.call("POST", "/v1/signals", {"site": "alpha", "target_w": 1_050_000, "duration_s": 60})
        stand.bus.deliver_raw("wattshift/v1/sites/alpha/report", b"garbage")
        _, text, headers = await stand.call("GET", "/metrics")
        assert headers["Content-Type"].startswith("text/plain")
        for line in (
            'wattshift_site_metered_watts{site="alpha"} 2.05e+06',
            'wattshift_site_planned_watts{site="alpha"} 1.05e+06',
            'wattshift_site_cap_watts{site="alpha"} 1.05e+06',
            'wattshift_site_obligation_open{site="alpha"} 1.0',
            'wattshift_site_local{site="alpha"} 0.0',
            'wattshift_site_obligation_target_watts{site="alpha"} 1.05e+06',
            'wattshift_controller_build_info{python="',
            'wattshift_site_target_watts{site="alpha",workload="hash"} 1e+06',
            'wattshift_site_break_even_usd_per_mwh{bank="best",site="alpha"} 83.25',
            'wattshift_feeder_watts{feeder="main",site="alpha",source="meter"} 2.05e+06',
            'wattshift_controller_ingest_errors_total{code="malformed"} 1.0',
            'wattshift_controller_decisions_total{trigger="signal"} 1.0',
            'wattshift_controller_orders_total{result="published"} 3.0',
            "wattshift_controller_signal_to_order_seconds_count 1.0",
            "wattshift_controller_journal_ok 1.0",
            "wattshift_controller_epoch 1.0",
        ):
            assert line in text, line
        assert "bank-0" not in text, "no series per bank"

    async def test_where_openmetrics_is_accepted_latencies_name_the_decision_and_the_order(self, stand: Stand) -> None:
        await stand.call("POST", "/v1/signals", {"site": "alpha", "target_w": 1_050_000, "duration_s": 60})
        order = stand.bus.orders()[-1]
        asked = GOOD | {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        _, text, headers = await stand.call("GET", "/metrics", headers=asked)
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        families = {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
        decided, ordered = (
            [
                sample.exemplar.labels
                for sample in families[f"wattshift_controller_{name}_seconds"].samples
                if sample.exemplar
            ]
            for name in ("decision", "signal_to_order")
        )
        assert {"decision_id": order.decision} in decided
        assert ordered == [{"decision_id": order.decision, "order": f"{order.epoch}-{order.seq}"}]

    async def test_power_is_told_by_class_of_bank(self, stand: Stand) -> None:
        _, text, _ = await stand.call("GET", "/metrics")
        assert 'wattshift_site_class_measured_watts{class="S21",site="alpha",workload="hash"} 2e+06' in text

    async def test_a_second_application_over_one_controller_doubles_no_series(self, stand: Stand) -> None:
        create_app(stand.controller, TOKEN)
        _, text, _ = await stand.call("GET", "/metrics")
        assert text.count("\nwattshift_controller_epoch ") == 1
