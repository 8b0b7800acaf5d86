"""What a feed is: a small thing that is asked what is known now, and never of the future.

A feed answers from what it holds, at once and without I/O; if it has to fetch, it does so in `run`. A value carries its
age and is handed on stale rather than hidden: what is too old to act on is the decision's to say.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.units import MS_PER_HOUR
from controller.engine.model import EnergyPrice, HashPrice
from controller.forecast.known import Series

FORGET_PRICE_MS: Final = 24 * MS_PER_HOUR
"""A price this long past its interval is no longer told, only its age."""
FORGET_HASHPRICE_MS: Final = 60 * 24 * MS_PER_HOUR
BOOK_INTERVALS: Final = 4_096
AHEAD_MAX_MS: Final = 8 * 24 * MS_PER_HOUR
"""A price for an interval further ahead than this is garbage."""


@dataclass(frozen=True, slots=True)
class FeedHealth:
    """How a feed is. `detail` is one sentence; `errors` counts by code since the start."""

    ok: bool
    detail: str
    errors: Mapping[str, int]


class PriceFeed(Protocol):
    """A source of energy prices."""

    @property
    def name(self) -> str: ...

    @property
    def health(self) -> FeedHealth: ...

    def price_at(self, now_ms: int) -> EnergyPrice:
        """The newest price known at `now_ms` (wall clock, UTC) of an interval that has begun."""
        ...

    def known(self, since_ms: int, now_ms: int) -> Series | None:
        """All prices known at `now_ms` from `since_ms` on, those of intervals to come included where they have been
        told already; None where there are none."""
        ...

    async def run(self) -> None:
        """Fetch until cancelled; returns at once where there is nothing to fetch."""
        ...


class SeriesFeed(Protocol):
    """A source of any other measurement: the system's load, the temperature at a site."""

    @property
    def name(self) -> str: ...

    @property
    def health(self) -> FeedHealth: ...

    def known(self, since_ms: int, now_ms: int) -> Series | None:
        """As a price feed's, of the past and present."""
        ...


class HashPriceFeed(Protocol):
    """A source of what hashing earns."""

    @property
    def name(self) -> str: ...

    @property
    def health(self) -> FeedHealth: ...

    def hashprice_at(self, now_ms: int) -> HashPrice: ...

    async def run(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Feeds:
    """All feeds of a controller, by name."""

    prices: Mapping[str, PriceFeed] = field(default_factory=dict)
    hashprices: Mapping[str, HashPriceFeed] = field(default_factory=dict)
    series: Mapping[str, SeriesFeed] = field(default_factory=dict)


class Interval(NamedTuple):
    """What one interval costs."""

    start_ms: int
    length_ms: int
    usd_per_mwh: float


class PriceBook:
    """The intervals a live feed has been told, newest word first, bounded. Used by feeds that fetch or listen."""

    def __init__(self, feed: str) -> None:
        self._feed = feed
        self._starts: list[int] = []
        self._intervals: list[Interval] = []

    def add(self, interval: Interval, now_ms: int) -> str | None:
        """Take one interval in; a later word on the same start replaces the earlier. Returns why it was refused."""
        if interval.start_ms > now_ms + AHEAD_MAX_MS:
            return "too_far_ahead"
        if interval.start_ms + interval.length_ms < now_ms - FORGET_PRICE_MS:
            return "too_old"
        at = bisect_right(self._starts, interval.start_ms)
        if at and self._starts[at - 1] == interval.start_ms:
            self._intervals[at - 1] = interval
            return None
        self._starts.insert(at, interval.start_ms)
        self._intervals.insert(at, interval)
        if len(self._starts) > BOOK_INTERVALS:
            del self._starts[0], self._intervals[0]
        return None

    def price_at(self, now_ms: int) -> EnergyPrice:
        at = bisect_right(self._starts, now_ms) - 1
        return energy_price(self._feed, self._intervals[at] if at >= 0 else None, now_ms)

    def known(self, since_ms: int) -> Series | None:
        """What the book holds from `since_ms` on, on the grid of its newest interval's length."""
        first = bisect_right(self._starts, since_ms)
        if first >= len(self._starts):
            return None
        length_ms = self._intervals[-1].length_ms
        mine = [each for each in self._intervals[first:] if each.length_ms == length_ms]
        starts = np.array([each.start_ms for each in mine], dtype=np.int64)
        return on_grid(starts, np.array([each.usd_per_mwh for each in mine]), length_ms)


def on_grid(start_ms: NDArray[np.int64], values: NDArray[np.float64], step_ms: int) -> Series | None:
    """Ascending values as an even series, NaN in its holes; what is off the last value's grid is left out.

    A view where there are no holes.
    """
    if not len(start_ms):
        return None
    if int(start_ms[-1] - start_ms[0]) == (len(start_ms) - 1) * step_ms:
        return Series(int(start_ms[0]), step_ms, values)
    on = (start_ms - start_ms[-1]) % step_ms == 0
    start_ms, values = start_ms[on], values[on]
    spread = np.full(int(start_ms[-1] - start_ms[0]) // step_ms + 1, np.nan)
    spread[(start_ms - start_ms[0]) // step_ms] = values
    return Series(int(start_ms[0]), step_ms, spread)


def energy_price(feed: str, interval: Interval | None, now_ms: int) -> EnergyPrice:
    """An `EnergyPrice` with its age: 0 while the interval runs, then the time since it ended."""
    if interval is None:
        return EnergyPrice(usd_per_mwh=None, feed=feed)
    age_ms = max(0, now_ms - interval.start_ms - interval.length_ms)
    return EnergyPrice(
        usd_per_mwh=interval.usd_per_mwh if age_ms <= FORGET_PRICE_MS else None,
        age_ms=min(age_ms, FORGET_HASHPRICE_MS),
        interval_start_ms=interval.start_ms,
        interval_ms=interval.length_ms,
        feed=feed,
    )


class FaultCount:
    """Counts every fault of a feed by code and logs each change of state once."""

    def __init__(self, logger: logging.Logger, name: str) -> None:
        self._logger = logger
        self._name = name
        self._state: str | None = None
        self.detail = "nothing fetched yet"
        self.errors: Counter[str] = Counter()

    def fault(self, code: str, detail: str) -> None:
        self.errors[code] += 1
        if self._state != code:
            self._logger.warning("feed %s: %s: %s", self._name, code, detail)
        self._state, self.detail = code, f"{code}: {detail}"

    def fine(self, detail: str) -> None:
        if self._state not in (None, "ok"):
            self._logger.info("feed %s: well again", self._name)
        self._state, self.detail = "ok", detail

    @property
    def health(self) -> FeedHealth:
        return FeedHealth(self._state == "ok", self.detail, dict(self.errors))
