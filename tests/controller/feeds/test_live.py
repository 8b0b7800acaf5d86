"""Feeds that replay, listen and poll: what is known when, how old it is, and what a bad source does to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from aiohttp import web

from contract.messages import PriceMessage, encode
from controller.feeds.base import Interval, PriceBook
from controller.feeds.csv_replay import CsvReplay
from controller.feeds.http_json import (
    DocumentError,
    HttpHashPrice,
    HttpPrices,
    Poll,
    PriceMapping,
    TimeForm,
    at_path,
    read_prices,
)
from controller.feeds.mqtt import MqttPrices
from controller.feeds.table import read_series
from tests.controller.kit import WALL_MS, StubClock, until

QUARTER_MS = 900_000
T0 = WALL_MS // QUARTER_MS * QUARTER_MS
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def replay(**more: Any) -> CsvReplay:
    lines = [
        "interval_start_utc,rt_usd_per_mwh",
        "2023-08-17T20:00Z,100",
        "2023-08-17T20:15Z,5000",
        "2023-08-17T20:45Z,90",
    ]
    return CsvReplay("rt", read_series(iter(lines), "test"), **more)


BEGIN = 1_692_302_400_000  # 2023-08-17T20:00Z


class TestReplay:
    def test_a_price_is_fresh_in_its_interval_and_then_ages_over_a_hole(self) -> None:
        feed = replay()
        assert feed.price_at(BEGIN - 1).usd_per_mwh is None
        fresh = feed.price_at(BEGIN + QUARTER_MS)
        assert (fresh.usd_per_mwh, fresh.age_ms, fresh.interval_start_ms) == (5_000, 0, BEGIN + QUARTER_MS)
        old = feed.price_at(BEGIN + 3 * QUARTER_MS - 1)
        assert (old.usd_per_mwh, old.age_ms) == (5_000, QUARTER_MS - 1)
        assert feed.price_at(BEGIN + 3 * QUARTER_MS).usd_per_mwh == 90

    def test_a_price_that_is_settled_afterwards_is_not_seen_before(self) -> None:
        feed = replay(known_after_ms=QUARTER_MS)
        assert feed.price_at(BEGIN + QUARTER_MS - 1).usd_per_mwh is None
        known = feed.price_at(BEGIN + QUARTER_MS)
        assert (known.usd_per_mwh, known.age_ms) == (100, 0)
        assert feed.price_at(BEGIN + 2 * QUARTER_MS - 1).usd_per_mwh == 100, (
            "the 5,000 of the running interval is future"
        )
        assert feed.price_at(BEGIN + 2 * QUARTER_MS - 1).age_ms == QUARTER_MS - 1

    def test_the_past_can_be_played_now(self) -> None:
        feed = replay(shift_ms=WALL_MS - BEGIN)
        now = feed.price_at(WALL_MS + 1)
        assert (now.usd_per_mwh, now.interval_start_ms) == (100, WALL_MS)

    def test_a_day_after_its_end_a_price_is_forgotten_but_its_age_is_told(self) -> None:
        forgotten = replay().price_at(BEGIN + 30 * 3_600_000)
        assert forgotten.usd_per_mwh is None
        assert forgotten.age_ms == 29 * 3_600_000


class TestBook:
    def test_the_newest_word_on_an_interval_holds_and_the_future_is_not_told(self) -> None:
        book = PriceBook("b")
        for start, usd in ((T0, 10.0), (T0 + QUARTER_MS, 20.0), (T0, 11.0)):
            assert book.add(Interval(start, QUARTER_MS, usd), T0) is None
        assert book.price_at(T0 + QUARTER_MS - 1).usd_per_mwh == 11.0
        assert book.price_at(T0 + QUARTER_MS).usd_per_mwh == 20.0
        assert book.price_at(T0 - 1).usd_per_mwh is None

    def test_it_is_bounded_and_refuses_what_is_absurdly_early_or_late(self) -> None:
        book = PriceBook("b")
        assert book.add(Interval(T0 + 10**10, QUARTER_MS, 1.0), T0) == "too_far_ahead"
        assert book.add(Interval(T0 - 10**9, QUARTER_MS, 1.0), T0) == "too_old"
        for i in range(6_000):
            book.add(Interval(T0 + i * 60_000, 60_000, float(i)), T0)
        assert book.price_at(T0 + 5_999 * 60_000).usd_per_mwh == 5_999
        assert book.price_at(T0).usd_per_mwh is None


class TestMqtt:
    def test_a_message_is_a_price_and_garbage_is_counted(self) -> None:
        clock = StubClock()
        feed = MqttPrices("rt", "houston", clock)
        assert feed.topic == "wattshift/v1/market/houston/price"
        assert not feed.health.ok
        feed.on_payload(encode(PriceMessage(interval_start_ms=T0, interval_ms=QUARTER_MS, usd_per_mwh=42.0)))
        assert (feed.price_at(T0).usd_per_mwh, feed.health.ok) == (42.0, True)
        for payload in (b"", b'{"interval_start_ms": 1, "interval_ms": 1, "usd_per_mwh": NaN}', b"{}"):
            feed.on_payload(payload)
        far = PriceMessage(interval_start_ms=T0 + 10**11, interval_ms=QUARTER_MS, usd_per_mwh=1.0)
        feed.on_payload(encode(far))
        assert feed.price_at(T0).usd_per_mwh == 42.0
        assert feed.health.errors == {"malformed": 1, "invalid": 2, "too_far_ahead": 1}


class TestDocuments:
    def test_rows_with_their_times_in_three_forms(self) -> None:
        forms: tuple[tuple[TimeForm, Any], ...] = (
            ("iso", "2023-11-14T22:15:00+00:00"),
            ("epoch_s", 1_700_000_100),
            ("epoch_ms", 1_700_000_100_000),
        )
        for form, moment in forms:
            mapping = PriceMapping(rows="data.items", price="lmp", start="at", time=form, interval_ms=300_000, scale=10)
            document = {"data": {"items": [{"lmp": "4.25", "at": moment}]}}
            assert list(read_prices(document, mapping, T0)) == [Interval(1_700_000_100_000, 300_000, 42.5)]

    def test_without_a_time_the_running_interval_is_meant(self) -> None:
        mapping = PriceMapping(price="0.price", interval_ms=QUARTER_MS)
        assert list(read_prices([{"price": -3}], mapping, T0 + 5)) == [Interval(T0, QUARTER_MS, -3.0)]

    def test_paths_count_from_the_end_too(self) -> None:
        assert at_path({"a": [1, {"b": 2}]}, "a.-1.b") == 2

    @pytest.mark.parametrize(
        "row",
        [
            {},
            {"lmp": None, "at": 1},
            {"lmp": True, "at": 1},
            {"lmp": "high", "at": 1},
            {"lmp": "nan", "at": 1},
            {"lmp": 1e300, "at": 1},
            {"lmp": [], "at": 1},
            {"lmp": 1, "at": "soon"},
            {"lmp": 1, "at": None},
            {"lmp": 1, "at": True},
            {"lmp": 1, "at": -5},
            {"lmp": 1},
        ],
    )
    def test_a_row_without_a_price_or_a_time_is_an_error(self, row: dict[str, Any]) -> None:
        mapping = PriceMapping(rows="rows", price="lmp", start="at", time="epoch_s", interval_ms=300_000)
        with pytest.raises(DocumentError):
            list(read_prices({"rows": [row]}, mapping, T0))

    def test_times_without_an_offset_and_rows_without_end_are_errors(self) -> None:
        mapping = PriceMapping(rows="rows", price="lmp", start="at", interval_ms=300_000)
        with pytest.raises(DocumentError, match="offset"):
            list(read_prices({"rows": [{"lmp": 1, "at": "2024-01-01T00:00:00"}]}, mapping, T0))
        with pytest.raises(DocumentError, match="at most"):
            list(read_prices({"rows": [{}] * 5_001}, mapping, T0))
        with pytest.raises(DocumentError, match="no list"):
            list(read_prices({"rows": {}}, mapping, T0))


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/prices", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/prices"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def polling(url: str, **more: Any) -> AsyncIterator[HttpPrices]:
    clock = StubClock()
    poll = Poll(url=url, every_ms=20, **({"deadline_s": 5.0} | more))
    feed = HttpPrices("web", poll, PriceMapping(price="usd", interval_ms=QUARTER_MS), clock, Random(1))
    task = asyncio.ensure_future(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestHttp:
    async def test_prices_are_polled_with_the_headers_given(self) -> None:
        seen: list[str] = []

        async def answer(request: web.Request) -> web.Response:
            seen.append(request.headers.get("Authorization", ""))
            return web.json_response({"usd": 30 + len(seen)})

        async with served(answer) as url, polling(url, headers=(("Authorization", "Bearer t"),)) as feed:
            await until(lambda: (feed.price_at(T0).usd_per_mwh or 0) >= 32)
            assert feed.health.ok
        assert set(seen) == {"Bearer t"}

    @pytest.mark.parametrize(
        ("code", "body", "status"),
        [
            ("status", "{}", 503),
            ("document", '{"usd": NaN}', 200),
            ("document", "<html>", 200),
            ("document", "[" * 100_000, 200),
            ("document", json.dumps({"usd": "x" * 70_000}), 200),
            ("document", "{}", 200),
        ],
    )
    async def test_a_bad_answer_is_counted_and_the_last_price_stays_with_its_age(
        self, code: str, body: str, status: int
    ) -> None:
        broken = asyncio.Event()

        async def answer(_request: web.Request) -> web.Response:
            if broken.is_set():
                return web.Response(text=body, status=status)
            return web.json_response({"usd": 42})

        async with served(answer) as url, polling(url, size_max=50_000) as feed:
            await until(lambda: feed.health.ok)
            broken.set()
            await until(lambda: not feed.health.ok)
            assert code in feed.health.errors
            assert feed.price_at(T0 + QUARTER_MS + 5).usd_per_mwh == 42
            assert feed.price_at(T0 + QUARTER_MS + 5).age_ms == 5

    async def test_a_server_that_never_answers_is_given_up_at_the_deadline(self) -> None:
        async def answer(_request: web.Request) -> web.Response:
            await asyncio.sleep(60)
            return web.Response()

        async with served(answer) as url, polling(url, deadline_s=0.05) as feed:
            await until(lambda: feed.health.errors.get("timeout"))
            assert feed.price_at(T0).usd_per_mwh is None

    async def test_a_server_that_is_not_there_is_counted(self) -> None:
        async with polling("http://127.0.0.1:1/prices") as feed:
            await until(lambda: feed.health.errors.get("unreachable"))

    async def test_hashprice_comes_the_same_way(self) -> None:
        async def answer(_request: web.Request) -> web.Response:
            return web.json_response({"data": {"hashprice": "0.0485"}})

        clock = StubClock()
        async with served(answer) as url:
            feed = HttpHashPrice("hp", Poll(url=url, every_ms=20), "data.hashprice", 1_000.0, clock, Random(1))
            task = asyncio.ensure_future(feed.run())
            await until(lambda: feed.health.ok)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert feed.hashprice_at(WALL_MS).usd_per_ph_day == pytest.approx(48.5)
        assert feed.hashprice_at(WALL_MS + 7).age_ms == 7
