"""Freeze: one immutable snapshot, ages told, the order of arrival without a trace, the future unread."""

from __future__ import annotations

from random import Random

import pytest
from pydantic import ValidationError

from contract.messages import Status
from controller.config import ControllerConfig
from controller.engine.decide import decide
from controller.engine.model import OverrideKind, Params, Snapshot
from controller.feeds.base import Feeds
from controller.feeds.csv_replay import CsvReplay, CsvSeries
from controller.feeds.hashprice import GivenHashPrice
from controller.feeds.table import read_series
from controller.freeze import Freezer
from controller.ingest import Ingest
from controller.overrides import OverrideAsk, Overrides
from controller.signals import SignalAsk, Signals
from controller.state import Fleet
from tests.controller.kit import WALL_MS, StubClock, inbound, plate, report
from tests.controller.test_ingest import Recorder


class Desk:
    """Everything a snapshot is made from."""

    def __init__(self) -> None:
        self.clock = StubClock()
        self.fleet = Fleet()
        self.signals = Signals(Random(1))
        self.overrides = Overrides(Random(2))
        lines = ["interval_start_utc,rt_usd_per_mwh", "2023-11-14T22:00Z,20", "2023-11-14T22:15Z,4000"]
        feeds = Feeds(
            prices={"rt": CsvReplay("rt", read_series(iter(lines), "test"))},
            hashprices={"hp": GivenHashPrice("hp", 55.0)},
        )
        config = ControllerConfig.model_validate(
            {
                "price": "rt",
                "hashprice": "hp",
                "feeds": {
                    "prices": {"rt": {"kind": "mqtt"}},
                    "hashprices": {"hp": {"kind": "given", "usd_per_ph_day": 1}},
                },
            }
        )
        self.freezer = Freezer(config, feeds, self.signals, self.overrides)
        self.ingest = Ingest(self.fleet, self.clock, Recorder(), allowed=None, sites_max=100, market={})

    def join(self, *sites: str) -> None:
        for site in sites:
            for message in (Status(site=site, boot="b1", online=True), plate(site), report(site)):
                self.ingest.on_message(inbound(message))

    def freeze(self) -> Snapshot:
        return self.freezer.freeze(self.fleet, self.clock.wall, self.clock.mono)


def test_messages_are_held_as_they_came_and_their_age_is_told() -> None:
    desk = Desk()
    desk.join("alpha")
    state = desk.fleet.get("alpha")
    desk.clock.advance(7_250)
    site = desk.freeze().sites[0]
    assert state is not None
    assert site.report is state.report
    assert site.nameplate is state.nameplate
    assert site.report_age_ms == 7_250
    assert (site.energy.usd_per_mwh, site.energy.age_ms, site.hashprice.usd_per_ph_day) == (20, 0, 55.0)


def test_a_snapshot_cannot_be_changed_and_later_news_do_not_reach_it() -> None:
    desk = Desk()
    desk.join("alpha")
    snapshot = desk.freeze()
    before = snapshot.model_dump_json()
    with pytest.raises(ValidationError):
        snapshot.sites[0].online = False  # type: ignore[misc]
    desk.clock.advance(60_000)
    desk.ingest.on_message(inbound(report(seq=2, bank_w=(0, 0))))
    desk.signals.accept(
        SignalAsk(site="alpha", target_w=0, duration_ms=1_000),
        desk.fleet.get("alpha"),
        desk.clock.wall,
        desk.clock.mono,
    )
    assert snapshot.model_dump_json() == before
    assert desk.freeze().model_dump_json() != before


def test_halls_and_the_newest_temperature_reach_the_sites_that_have_them() -> None:
    desk = Desk()
    desk.join("alpha", "beta")
    lines = [
        "interval_start_utc,temperature_c",
        "2023-11-14T21:00Z,31",
        "2023-11-14T22:00Z,33.5",
        "2023-11-14T23:00Z,9",
    ]
    table = read_series(iter(lines), "test", column="temperature_c")
    config = ControllerConfig.model_validate(
        {
            "ambient": "weather",
            "feeds": {"series": {"weather": {"kind": "csv", "path": __file__, "column": "temperature_c"}}},
            "sites": {
                "alpha": {
                    "halls": [{"id": "east", "banks": ["bank-0", "bank-1"], "cooling_mw": [[20, 2.0], [40, 1.0]]}]
                }
            },
        }
    )
    feeds = Feeds(series={"weather": CsvSeries("weather", table)})
    desk.freezer = Freezer(config, feeds, desk.signals, desk.overrides)
    alpha, beta = desk.freeze().sites
    assert alpha.ambient is not None
    assert alpha.ambient.dry_bulb_c == 33.5, "of the hour that runs; the next is not known yet"
    assert alpha.halls[0].cooling_w == ((20.0, 2_000_000), (40.0, 1_000_000))
    assert (beta.halls, beta.ambient) == ((), None)
    decision = decide(desk.freeze(), Params(cap_margin_milli=0)).sites[0]
    assert sum(bank.target_w for bank in decision.banks) <= 1_325_000
    desk.clock.advance(48 * 3_600_000)
    assert desk.freeze().sites[0].ambient is None


def test_the_order_of_arrival_leaves_no_trace() -> None:
    one, two = Desk(), Desk()
    one.join("alpha", "beta", "gamma")
    two.join("gamma", "alpha", "beta")
    for desk, ids in ((one, ("s1", "s2")), (two, ("s2", "s1"))):
        for key in ids:
            ask = SignalAsk(site="beta", target_w=5, duration_ms=60_000, id=key)
            desk.signals.accept(ask, desk.fleet.get("beta"), desk.clock.wall, desk.clock.mono)
    assert one.freeze() == two.freeze()


def test_a_site_without_a_nameplate_is_left_out_and_one_without_a_report_is_not() -> None:
    desk = Desk()
    desk.ingest.on_message(inbound(report("bare")))
    for message in (Status(site="mute", boot="b1", online=True), plate("mute")):
        desk.ingest.on_message(inbound(message))
    sites = desk.freeze().sites
    assert [site.site for site in sites] == ["mute"]
    assert (sites[0].report, sites[0].report_age_ms) == (None, None)


def test_overrides_are_those_in_force_and_signals_those_not_over() -> None:
    desk = Desk()
    desk.join("alpha")
    state, now = desk.fleet.get("alpha"), desk.clock.wall
    for key, start, end in (("now", now, now + 10_000), ("later", now + 20_000, now + 30_000)):
        ask = OverrideAsk(
            site="alpha", kind=OverrideKind.HOLD, reason="r", starts_at_ms=start, ends_at_ms=end, id=f"o-{key}"
        )
        desk.overrides.impose(ask, state, now)
        signal = SignalAsk(site="alpha", target_w=0, starts_at_ms=start, ends_at_ms=end, id=f"s-{key}")
        desk.signals.accept(signal, state, now, desk.clock.mono)
    site = desk.freeze().sites[0]
    assert [each.id for each in site.overrides] == ["o-now"]
    assert [each.id for each in site.obligations] == ["s-later", "s-now"]
    desk.clock.advance(10_000)
    site = desk.freeze().sites[0]
    assert [each.id for each in site.overrides] == []
    assert [each.id for each in site.obligations] == ["s-later"]


def test_what_would_be_decided_later_is_asked_without_reading_the_price_of_later() -> None:
    desk = Desk()
    desk.join("alpha")
    later = WALL_MS + 600_000
    snapshot = desk.freezer.freeze(desk.fleet, desk.clock.wall, desk.clock.mono, as_if_ms=later)
    assert snapshot.at_ms == later
    assert snapshot.sites[0].energy.usd_per_mwh == 20, "4,000 is what the file says of that moment"
    assert snapshot.sites[0].report_age_ms == 0
