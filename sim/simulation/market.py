"""The market of a simulated world: prices as a live feed gives them, which at times says nothing."""

from __future__ import annotations

from collections.abc import Callable

from controller.engine.model import EnergyPrice
from controller.feeds.base import FeedHealth, Interval, energy_price
from controller.feeds.csv_replay import CsvReplay
from controller.feeds.table import SeriesTable
from controller.forecast.known import Series


class Market:
    """What is true: intervals become known as they begin, but for gaps, in which nothing does."""

    def __init__(self, table: SeriesTable, now_ms: Callable[[], int]) -> None:
        self.silent_since_ms: int | None = None
        self._now_ms = now_ms
        self._replay = CsvReplay("rt", table)

    def feed(self, name: str) -> Feed:
        """A feed for one controller."""
        return Feed(name, self)

    def known(self, now_ms: int) -> EnergyPrice:
        """The newest price that a clock at `now_ms` finds among those given so far."""
        given_ms = self._now_ms() if self.silent_since_ms is None else self.silent_since_ms
        newest = self._replay.price_at(min(now_ms, given_ms))
        if newest.interval_start_ms is None or newest.interval_ms is None or newest.usd_per_mwh is None:
            return newest
        interval = Interval(newest.interval_start_ms, newest.interval_ms, newest.usd_per_mwh)
        return energy_price(newest.feed, interval, now_ms)

    def series(self, since_ms: int, now_ms: int) -> Series | None:
        """Those given so far that a clock at `now_ms` finds."""
        given_ms = self._now_ms() if self.silent_since_ms is None else self.silent_since_ms
        return self._replay.known(since_ms, min(now_ms, given_ms))

    @property
    def age_ms(self) -> int | None:
        """Of the newest price given, by true time."""
        return self.known(self._now_ms()).age_ms


class Feed:
    """A `PriceFeed` on the market. A controller whose clock is wrong asks it for the wrong moment."""

    def __init__(self, name: str, market: Market) -> None:
        self._name, self._market = name, market

    @property
    def name(self) -> str:
        return self._name

    @property
    def health(self) -> FeedHealth:
        return FeedHealth(True, "simulated", {})

    def price_at(self, now_ms: int) -> EnergyPrice:
        return self._market.known(now_ms)

    def known(self, since_ms: int, now_ms: int) -> Series | None:
        return self._market.series(since_ms, now_ms)

    async def run(self) -> None:
        return
