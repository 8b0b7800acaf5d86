"""Ingest: nothing a site sends is trusted until it has passed; what is refused is counted, and logged once."""

from __future__ import annotations

import json
import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.bus import Inbound
from contract.messages import MAX_PAYLOAD_BYTES, BankReading, FeederReading, Receipt, Report, Status, encode
from contract.topics import site_topic
from controller.ingest import Ingest
from controller.state import Fleet, SiteState
from tests.controller.kit import StubClock, inbound, plate, report


class Recorder:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, bool]] = []
        self.plates: list[str] = []
        self.receipts: list[int] = []
        self.conflicts: list[str] = []

    def on_report(self, state: SiteState, before: Report | None) -> None:
        assert state.report is not None
        self.reports.append((state.report.boot, state.report.seq, before is None))

    def on_nameplate(self, state: SiteState) -> None:
        self.plates.append(state.boot or "")

    def on_receipt(self, state: SiteState, receipt: Receipt) -> None:
        self.receipts.append(receipt.seq)

    def on_boot_conflict(self, state: SiteState, detail: str) -> None:
        self.conflicts.append(detail)


class Bench:
    """An ingest with its surroundings."""

    def __init__(self, *, allowed: tuple[str, ...] | None = None, sites_max: int = 100) -> None:
        self.fleet = Fleet()
        self.clock = StubClock()
        self.sink = Recorder()
        self.prices: list[bytes] = []
        self.ingest = Ingest(
            self.fleet,
            self.clock,
            self.sink,
            allowed=allowed,
            sites_max=sites_max,
            market={"wattshift/v1/market/rt/price": self.prices.append},
        )

    def take(self, *messages: Inbound) -> None:
        for message in messages:
            self.ingest.on_message(message)

    def join(self, site: str = "alpha", boot: str = "b1") -> SiteState:
        self.take(inbound(Status(site=site, boot=boot, online=True)), inbound(plate(site, boot)))
        state = self.fleet.get(site)
        assert state is not None
        return state

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.ingest.faults.counts)


def test_a_site_is_known_by_status_nameplate_and_report() -> None:
    bench = Bench()
    state = bench.join()
    bench.take(inbound(report()))
    assert (state.boot, state.online, state.main) == ("b1", True, "main")
    assert state.report is not None
    assert bench.sink.reports == [("b1", 1, True)]
    assert state.main_power_w() == 2_050_000
    assert bench.counts == {}


def _raw(kind: str, payload: bytes, site: str = "alpha") -> Inbound:
    return Inbound(f"wattshift/v1/sites/{site}/{kind}", payload)


def _with(**fields: object) -> bytes:
    return json.dumps(json.loads(encode(report())) | fields).encode()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("malformed", _raw("report", b'{"site": "alpha"')),
        ("malformed", _raw("report", b"")),
        ("malformed", _raw("report", b"\xff\xfe\x00")),
        ("malformed", _raw("nameplate", b"NaN,")),
        ("oversized", _raw("report", b" " * (MAX_PAYLOAD_BYTES + 1))),
        ("version", _raw("report", _with(schema_version=2))),
        ("invalid", _raw("report", b"[]")),
        ("invalid", _raw("report", _with(seq=-1))),
        ("invalid", _raw("report", _with(ambient_temp_mc=float("nan")))),
        ("invalid", _raw("report", _with(banks=[{"id": "x", "power_w": -5, "age_ms": 0}]))),
        ("invalid", _raw("receipt", encode(Status(site="alpha", boot="b1", online=True)))),
        ("site_mismatch", _raw("report", encode(report("beta")))),
        ("site_mismatch", _raw("status", encode(Status(site="beta", boot="b1", online=True)))),
        ("site_mismatch", _raw("nameplate", encode(plate("beta")))),
        ("topic", Inbound("wattshift/v1/sites/alpha/order", b"{}")),
        ("topic", Inbound("wattshift/v1/sites/ALPHA/report", encode(report()))),
        ("topic", Inbound("wattshift/v2/sites/alpha/report", encode(report()))),
        ("topic", Inbound("elsewhere", b"")),
        ("retained", inbound(report(seq=9), retained=True)),
        ("boot_old", inbound(Receipt(site="alpha", boot="b0", epoch=1, order_seq=1, seq=1, accepted=True))),
    ],
)
def test_what_is_no_message_of_a_known_site_is_refused_and_counted(code: str, message: Inbound) -> None:
    bench = Bench()
    state = bench.join()
    bench.take(inbound(report()))
    before = state.report
    bench.take(message)
    assert bench.counts == {code: 1}
    assert state.report is before
    assert state.boot == "b1"
    assert bench.sink.receipts == []


def test_garbage_does_not_make_a_site() -> None:
    bench = Bench()
    bench.take(_raw("report", b"garbage", "ghost"), _raw("report", b"x" * (MAX_PAYLOAD_BYTES + 1), "ghost"))
    assert len(bench.fleet) == 0
    assert bench.counts == {"malformed": 1, "oversized": 1}


def test_an_unknown_site_is_refused_where_a_list_says_who_may_speak() -> None:
    bench = Bench(allowed=("alpha",))
    bench.join()
    bench.take(inbound(report("beta")), inbound(plate("beta")))
    assert bench.fleet.ids() == ["alpha"]
    assert bench.counts == {"site_unknown": 2}


def test_sites_are_learnt_up_to_a_bound() -> None:
    bench = Bench(sites_max=2)
    for site in ("a", "b", "c"):
        bench.take(inbound(report(site)))
    assert bench.fleet.ids() == ["a", "b"]
    assert bench.counts == {"site_limit": 1}


def test_replayed_and_reordered_reports_change_nothing() -> None:
    bench = Bench()
    state = bench.join()
    bench.take(inbound(report(seq=5)), inbound(report(seq=5)), inbound(report(seq=3)), inbound(report(seq=6)))
    assert [seq for _, seq, _ in bench.sink.reports] == [5, 6]
    assert bench.counts == {"replayed": 1, "out_of_order": 1}
    assert state.report is not None
    assert state.report.seq == 6


def _banks(state: SiteState) -> int:
    assert state.nameplate is not None
    return len(state.nameplate.banks)


class TestBoots:
    def test_a_restarted_agent_takes_over_by_its_status(self) -> None:
        bench = Bench()
        state = bench.join()
        bench.take(inbound(report(seq=100)))
        bench.join(boot="b2")
        assert (state.boot, state.report) == ("b2", None)
        bench.take(inbound(report(boot="b2", seq=1)))
        assert bench.sink.reports[-1] == ("b2", 1, True)
        assert bench.sink.conflicts == []

    def test_the_late_will_of_the_replaced_agent_does_not_take_the_new_one_offline(self) -> None:
        bench = Bench()
        state = bench.join()
        bench.join(boot="b2")
        bench.take(inbound(Status(site="alpha", boot="b1", online=False)))
        assert state.online
        bench.take(inbound(Status(site="alpha", boot="b2", online=False)))
        assert not state.online

    def test_a_report_proves_life_whatever_a_will_said(self) -> None:
        bench = Bench()
        state = bench.join()
        bench.take(inbound(Status(site="alpha", boot="b1", online=False)), inbound(report()))
        assert state.online

    def test_reports_of_a_second_agent_are_refused_and_raise_an_alarm_that_is_no_flicker(self) -> None:
        """The incarnation the retained status names counts; the other is heard of, not heard."""
        bench = Bench()
        state = bench.join()
        for seq in range(1, 7):
            bench.clock.advance(5_000)
            bench.take(inbound(report(seq=seq)), inbound(report(boot="other", seq=seq)))
        assert {boot for boot, _, _ in bench.sink.reports} == {"b1"}
        assert bench.counts["boot_conflict"] == 6
        assert len(bench.sink.conflicts) == 2
        assert state.conflict_at_ms is not None

    def test_two_agents_that_throw_each_other_out_are_counted_and_the_last_named_wins(self) -> None:
        bench = Bench()
        state = bench.join(boot="b1")
        bench.take(inbound(report(boot="b1", seq=40)))
        bench.join(boot="b2")
        bench.take(inbound(report(boot="b2", seq=1)), inbound(report(boot="b1", seq=41)))
        assert bench.counts == {"boot_old": 1}
        bench.join(boot="b1")
        assert state.boot == "b1"
        assert state.boot_changes == 2
        assert bench.counts["two_boots"] == 1
        bench.take(inbound(report(boot="b1", seq=40)))
        assert bench.counts["replayed"] == 1, "what the returned agent had sent before is still old"
        bench.take(inbound(report(boot="b1", seq=42)))
        assert bench.sink.reports[-1] == ("b1", 42, True)

    def test_an_agent_whose_status_was_lost_is_adopted_when_the_old_one_is_silent(self) -> None:
        bench = Bench()
        state = bench.join()
        bench.take(inbound(report(seq=1)))
        bench.clock.advance(10_000)
        bench.take(inbound(report(boot="b2", seq=1)))
        assert state.boot == "b1"
        bench.clock.advance(25_000)
        bench.take(inbound(report(boot="b2", seq=2)))
        assert state.boot == "b2"

    def test_a_nameplate_counts_once_its_incarnation_does(self) -> None:
        bench = Bench()
        state = bench.join()
        bench.take(inbound(plate(boot="b2", banks=3)))
        assert _banks(state) == 2
        bench.take(inbound(Status(site="alpha", boot="b2", online=True)))
        assert _banks(state) == 3
        for boot in ("x1", "x2", "x3", "x4", "x5", "x6"):
            bench.take(inbound(plate(boot=boot)))
        assert len(state.plates) == 4
        assert "b2" in state.plates


def test_a_fault_is_counted_always_and_logged_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.join()
    with caplog.at_level(logging.INFO, logger="controller.ingest"):
        for seq in range(1, 30):
            bench.take(inbound(report(seq=seq)), _raw("report", b"{"))
            bench.clock.advance(1_000)
        assert len(caplog.records) == 1
        bench.clock.advance(60_000)
        bench.take(inbound(report(seq=99)))
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert bench.counts["malformed"] == 29


@given(
    kind=st.sampled_from(["report", "receipt", "status", "nameplate", "order", ""]),
    payload=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(str.encode),
        st.builds(
            lambda key, value: _with(**{key: value}),
            st.sampled_from(["site", "boot", "seq", "mode", "feeders", "banks", "partitions", "ambient_temp_mc"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                max_leaves=5,
            ),
        ),
    ),
)
@settings(max_examples=150, deadline=None)
def test_whatever_comes_ingest_never_raises_and_every_message_is_taken_or_counted(kind: str, payload: bytes) -> None:
    bench = Bench()
    bench.join()
    bench.take(_raw(kind, payload))
    taken = len(bench.sink.reports) + len(bench.sink.receipts)
    assert taken + sum(bench.counts.values()) == 1


def test_a_price_on_the_bus_goes_to_its_feed() -> None:
    bench = Bench()
    bench.take(Inbound("wattshift/v1/market/rt/price", b"as it came"))
    assert bench.prices == [b"as it came"]


def test_the_baseline_is_the_mean_of_five_minutes_whatever_the_pace_of_reports() -> None:
    """Three minutes at 2 MW every 5 s, then two at 1 MW every second: the mean is by time, not by report."""
    bench = Bench()
    state = bench.join()
    seq = 0
    for pace_ms, count, watts in ((5_000, 72, 2_000_000), (5_000, 36, 2_000_000), (1_000, 120, 1_000_000)):
        for _ in range(count):
            bench.clock.advance(pace_ms)
            seq += 1
            reading = FeederReading(id="main", power_w=watts, age_ms=100)
            bench.take(inbound(report(seq=seq, feeders=(reading,))))
    mean = state.power.mean(bench.clock.mono_ms())
    assert mean is not None
    assert mean[0] == pytest.approx(1_600_000, rel=0.02)


def test_a_frozen_or_silent_meter_gives_no_baseline() -> None:
    bench = Bench()
    state = bench.join()
    stale = FeederReading(id="main", power_w=2_000_000, age_ms=60_000)
    unknown = FeederReading(id="main", power_w=None, age_ms=None)
    bench.take(inbound(report(seq=1, feeders=(stale,))), inbound(report(seq=2, feeders=(unknown,))))
    assert state.power.mean(bench.clock.mono_ms()) is None


def test_a_thousand_reports_cost_well_under_half_a_core_second() -> None:
    """20 banks a report, as one second of 5,000 agents; the bound leaves room for a loaded machine."""
    bench = Bench(sites_max=500)
    sites = [f"site-{i:04d}" for i in range(500)]
    for site in sites:
        bench.join(site)
    banks = tuple(
        BankReading(id=f"bank-{i}", power_w=1_000_000, age_ms=50, hashrate_ghs=57_000_000, chip_temp_mc=65_000)
        for i in range(20)
    )
    messages = [Inbound(site_topic(s, "report"), encode(report(s, seq=q, banks=banks))) for q in (1, 2) for s in sites]
    began_s = time.process_time()
    bench.take(*messages)
    took_s = time.process_time() - began_s
    assert bench.ingest.reports == 1_000
    assert took_s < 0.5, f"1,000 reports took {took_s:.3f} s of a core"
