"""What hashing earns, in USD per PH/s and day: given, from a daily file, or computed from the network's figures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR, MS_PER_S
from controller.engine.model import HashPrice
from controller.feeds.base import FORGET_HASHPRICE_MS, FeedHealth
from controller.feeds.table import SeriesTable, TableError

MS_PER_DAY: Final = 24 * MS_PER_HOUR
_S_PER_DAY: Final = 86_400
_HASHES_PER_PH: Final = 1e15
_HASHES_PER_DIFFICULTY: Final = 2.0**48 / 0xFFFF

SUBSIDY_ERAS_BTC: Final = (
    (datetime(2012, 11, 28, tzinfo=UTC), 25.0),
    (datetime(2016, 7, 9, tzinfo=UTC), 12.5),
    (datetime(2020, 5, 11, tzinfo=UTC), 6.25),
    (datetime(2024, 4, 20, tzinfo=UTC), 3.125),
)
"""From which day the subsidy per block holds: blocks 210,000, 420,000, 630,000 and 840,000."""


def hashprice_usd_per_ph_day(
    difficulty: float, subsidy_btc_per_block: float, fees_btc_per_block: float, btc_usd: float
) -> float:
    """Expected revenue of one PH/s over one day.

    A block takes difficulty * 2**48 / 65535 hashes on average (about difficulty * 2**32): the target of difficulty 1
    is 0xFFFF * 2**208 of 2**256, see `GetDifficulty` in Bitcoin Core and the "Difficulty" page of the Bitcoin wiki.
    One PH/s makes 86,400e15 hashes a day; each block found pays the subsidy and its fees.

    >>> round(hashprice_usd_per_ph_day(86_388_558_925_171.0, 3.125, 0.1, 65_000.0), 2)
    48.81
    """
    if not difficulty > 0:
        raise ValueError("difficulty must be above 0")
    blocks = _S_PER_DAY * _HASHES_PER_PH / (difficulty * _HASHES_PER_DIFFICULTY)
    return blocks * (subsidy_btc_per_block + fees_btc_per_block) * btc_usd


def subsidy_btc_on(day_ms: int) -> float:
    """The subsidy per block on a UTC day, by `SUBSIDY_ERAS_BTC`; 50 before the first. Of a halving day: the lower."""
    subsidy = 50.0
    for since, value in SUBSIDY_ERAS_BTC:
        if day_ms >= since.timestamp() * MS_PER_S:
            subsidy = value
    return subsidy


def computed_table(
    difficulty: SeriesTable, subsidy_btc: SeriesTable, fees_btc: SeriesTable, btc_usd: SeriesTable
) -> SeriesTable:
    """Hashprice by day from a file's daily columns; `subsidy_btc` and `fees_btc` are the whole day's sums.

    The day's blocks are its subsidies over the subsidy per block, so fees per block follow. On the halving day itself,
    where both subsidies were paid, the result is off by a few per cent. Raises `TableError` where days do not agree.
    """
    for other in (subsidy_btc, fees_btc, btc_usd):
        if not np.array_equal(difficulty.start_ms, other.start_ms):
            raise TableError(
                "columns", difficulty.source, None, f"{other.column} does not have the days of {difficulty.column}"
            )
    values = np.empty(len(difficulty.values))
    for index, day_ms in enumerate(difficulty.start_ms):
        if difficulty.values[index] <= 0 or subsidy_btc.values[index] <= 0:
            day = np.datetime64(int(day_ms), "ms")
            raise TableError("value", difficulty.source, None, f"{day}: difficulty and subsidy must be above 0")
        per_block = subsidy_btc_on(int(day_ms))
        blocks = subsidy_btc.values[index] / per_block
        values[index] = hashprice_usd_per_ph_day(
            difficulty.values[index], per_block, fees_btc.values[index] / blocks, btc_usd.values[index]
        )
    return SeriesTable(
        source=difficulty.source,
        column="hashprice computed",
        interval_ms=difficulty.interval_ms,
        start_ms=difficulty.start_ms,
        values=values,
        gaps=difficulty.gaps,
        duplicates=difficulty.duplicates,
        never_was=difficulty.never_was,
        rows=difficulty.rows,
    )


class GivenHashPrice:
    """A `HashPriceFeed` that is a figure from the configuration: always as fresh as the person who wrote it."""

    def __init__(self, name: str, usd_per_ph_day: float) -> None:
        self._price = HashPrice(usd_per_ph_day=usd_per_ph_day, age_ms=0, feed=name)

    @property
    def name(self) -> str:
        return self._price.feed

    @property
    def health(self) -> FeedHealth:
        return FeedHealth(True, f"given: {self._price.usd_per_ph_day} USD/PH/s/day", {})

    def hashprice_at(self, now_ms: int) -> HashPrice:
        del now_ms
        return self._price

    async def run(self) -> None:
        return


class TableHashPrice:
    """A `HashPriceFeed` over a daily table. A day's figure is known when the day is over, unless told otherwise."""

    def __init__(self, name: str, table: SeriesTable, *, known_after_ms: int = MS_PER_DAY, shift_ms: int = 0) -> None:
        self._name = name
        self._table = table
        self._known_after_ms = known_after_ms
        self._shift_ms = shift_ms

    @property
    def name(self) -> str:
        return self._name

    @property
    def health(self) -> FeedHealth:
        return FeedHealth(True, self._table.describe(), {})

    def hashprice_at(self, now_ms: int) -> HashPrice:
        index = self._table.last_known(now_ms - self._shift_ms, self._known_after_ms)
        if index is None:
            return hash_price(self._name, None, 0, now_ms)
        end_ms = int(self._table.start_ms[index]) + self._table.interval_ms + self._shift_ms
        return hash_price(self._name, float(self._table.values[index]), end_ms, now_ms)

    async def run(self) -> None:
        return


def hash_price(feed: str, usd_per_ph_day: float | None, valid_at_ms: int, now_ms: int) -> HashPrice:
    """A `HashPrice` with its age since `valid_at_ms`; the figure is dropped when it is beyond any use."""
    if usd_per_ph_day is None:
        return HashPrice(usd_per_ph_day=None, feed=feed)
    age_ms = min(max(0, now_ms - valid_at_ms), FORGET_HASHPRICE_MS)
    return HashPrice(usd_per_ph_day=usd_per_ph_day if age_ms < FORGET_HASHPRICE_MS else None, age_ms=age_ms, feed=feed)
