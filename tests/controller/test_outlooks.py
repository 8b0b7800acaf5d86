"""What the engine is told to expect: made of what is known, and of nothing later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from controller.config import ControllerConfig
from controller.feeds.base import Feeds, Interval, PriceBook, on_grid
from controller.feeds.csv_replay import CsvReplay, CsvSeries
from controller.feeds.table import SeriesTable, read_series
from controller.forecast.known import Forecast
from controller.outlooks import Outlooks

HOUR = 3_600_000
MINUTE = 60_000
START = 1_699_920_000_000
"""2023-11-14T00:00Z"""
NOW = START + 3 * 24 * HOUR


def table(values: list[float], minutes: int = 15, column: str = "rt_usd_per_mwh") -> SeriesTable:
    lines = [f"interval_start_utc,{column}"]
    for k, value in enumerate(values):
        at = datetime.fromtimestamp(START / 1_000 + k * minutes * 60, UTC)
        lines.append(f"{at:%Y-%m-%dT%H:%MZ},{value:.2f}")
    return read_series(iter(lines), "test", column=column)


def config(**engine: object) -> ControllerConfig:
    return ControllerConfig.model_validate(
        {
            "price": "rt",
            "day_ahead": "dam",
            "feeds": {"prices": {"rt": {"kind": "mqtt"}, "dam": {"kind": "mqtt"}}},
            "engine": engine,
        }
    )


def prices(after: float) -> list[float]:
    """Three days that are known, and two to come."""
    return [30.0 + 20.0 * (k % 96 > 60) for k in range(3 * 96 + 1)] + [after] * 2 * 96


def feeds(after: float, ahead: float = 50.0) -> Feeds:
    day_ahead = CsvReplay("dam", table([ahead] * 5 * 24, minutes=60), known_before_ms=10 * HOUR)
    return Feeds(prices={"rt": CsvReplay("rt", table(prices(after))), "dam": day_ahead})


@pytest.mark.parametrize("name", ["persistence", "day_ahead"])
def test_an_outlook_reads_nothing_later_than_now(name: str) -> None:
    one = Outlooks(config(forecast=name), feeds(after=-100.0)).of("alpha", NOW)
    other = Outlooks(config(forecast=name), feeds(after=5_000.0)).of("alpha", NOW)
    assert one is not None
    assert one == other
    assert one.start_ms <= NOW < one.start_ms + one.step_ms
    assert len(one.usd_per_mwh) * one.step_ms >= 25 * HOUR
    assert one.usd_per_mwh[0] == 30.0, "the running interval's price is known"


def test_sites_of_one_feed_share_an_outlook_until_a_price_comes_or_it_grows_old() -> None:
    outlooks = Outlooks(config(), feeds(after=40.0))
    first = outlooks.of("alpha", NOW)
    assert first is not None
    assert outlooks.of("beta", NOW + MINUTE) is first
    assert outlooks.of("alpha", NOW + 6 * MINUTE) is not first
    assert not outlooks.errors


async def test_a_forecast_that_learns_aside_serves_when_it_is_done_and_says_what_one_on_the_loop_says() -> None:
    gate = asyncio.Event()

    async def aside(work: Callable[[], Forecast]) -> Forecast:
        await gate.wait()
        return await asyncio.to_thread(work)

    outlooks = Outlooks(config(forecast="blended"), feeds(after=40.0), aside)
    getting_ready = asyncio.create_task(outlooks.prepare(["alpha"], NOW))
    await asyncio.sleep(0)
    assert outlooks.of("alpha", NOW) is None, "nothing is learnt yet"
    assert outlooks.of("beta", NOW) is None, "and it is learnt once"
    gate.set()
    async with asyncio.timeout(30):
        await getting_ready
    learnt = outlooks.of("alpha", NOW)
    assert learnt is not None
    assert learnt == Outlooks(config(forecast="blended"), feeds(after=40.0)).of("alpha", NOW)
    gate.clear()
    week_later = NOW + 7 * 24 * HOUR
    assert outlooks.of("alpha", week_later) is not None, "the standing forecast serves while another learns"
    gate.set()
    async with asyncio.timeout(30):
        await outlooks.prepare(["alpha"], week_later)
    assert outlooks.of("alpha", week_later) is not None
    assert not outlooks.errors


async def test_a_forecast_that_cannot_learn_is_counted_and_its_like_unfitted_serves() -> None:
    async def aside(_work: Callable[[], Forecast]) -> Forecast:
        raise ValueError("of no use")

    outlooks = Outlooks(config(forecast="day_ahead"), feeds(after=40.0), aside)
    await outlooks.prepare(["alpha"], NOW)
    assert outlooks.errors == {"ValueError": 1}
    assert outlooks.of("alpha", NOW) is not None


def test_merit_order_is_given_none_and_a_site_without_a_feed_has_none() -> None:
    assert Outlooks(config(economics="merit_order"), feeds(40.0)).of("alpha", NOW) is None
    assert Outlooks(ControllerConfig(), Feeds()).of("alpha", NOW) is None
    assert Outlooks(config(), feeds(40.0)).of("alpha", START - HOUR) is None, "no price is known yet"


def test_a_series_is_known_when_it_was_told_and_not_before() -> None:
    hourly = table([1.0, 2.0, 3.0, 4.0], minutes=60)
    late = CsvSeries("load", hourly, known_after_ms=HOUR).known(START, START + 2 * HOUR)
    assert late is not None
    assert late.values.tolist() == [1.0, 2.0]
    early = CsvSeries("dam", hourly, known_after_ms=-2 * HOUR).known(START + HOUR, START + HOUR)
    assert early is not None
    assert (early.start_ms, early.values.tolist()) == (START + HOUR, [2.0, 3.0, 4.0])
    assert CsvSeries("dam", hourly).known(START, START - 1) is None


def test_a_hole_stays_a_hole() -> None:
    found = on_grid(np.array([0, 10, 30, 33]), np.array([1.0, 2.0, 4.0, 9.0]), 10)
    assert found is not None
    assert (found.start_ms, found.step_ms) == (33, 10), "the newest value's grid holds"
    found = on_grid(np.array([0, 10, 30]), np.array([1.0, 2.0, 4.0]), 10)
    assert found is not None
    assert np.isnan(found.values).tolist() == [False, False, True, False]
    assert on_grid(np.array([], dtype=np.int64), np.array([]), 10) is None


def test_a_book_tells_what_it_holds_of_its_newest_length() -> None:
    book = PriceBook("live")
    for start_ms, length_ms, usd in (
        (NOW, HOUR, 9.0),
        (NOW + HOUR, 15 * MINUTE, 1.0),
        (NOW + 75 * MINUTE, 15 * MINUTE, 2.0),
    ):
        assert book.add(Interval(start_ms, length_ms, usd), NOW) is None
    found = book.known(NOW - HOUR)
    assert found is not None
    assert (found.start_ms, found.step_ms, found.values.tolist()) == (NOW + HOUR, 15 * MINUTE, [1.0, 2.0])
    assert book.known(NOW + 2 * HOUR) is None


@pytest.mark.parametrize(
    ("key", "value"), [("forecast", "crystal_ball"), ("timezone", "Texas/Houston"), ("peak_months", [13])]
)
def test_a_wrong_engine_setting_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        config(**{key: value})
