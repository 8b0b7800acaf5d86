"""Prices replayed from a file, as if they came now."""

from __future__ import annotations

import numpy as np

from controller.engine.model import EnergyPrice
from controller.feeds.base import FeedHealth, Interval, energy_price, on_grid
from controller.feeds.table import SeriesTable
from controller.forecast.known import Series


class CsvSeries:
    """A `SeriesFeed` over a `SeriesTable`. `known_after_ms` may be negative: what is published so long beforehand."""

    def __init__(self, name: str, table: SeriesTable, *, known_after_ms: int = 0, shift_ms: int = 0) -> None:
        self._name = name
        self._table = table
        self._known_after_ms = known_after_ms
        self._shift_ms = shift_ms
        self._health = FeedHealth(True, table.describe(), {})

    @property
    def name(self) -> str:
        return self._name

    @property
    def health(self) -> FeedHealth:
        return self._health

    def known(self, since_ms: int, now_ms: int) -> Series | None:
        starts = self._table.start_ms
        first = int(np.searchsorted(starts, since_ms - self._shift_ms))
        last = int(np.searchsorted(starts, now_ms - self._shift_ms - self._known_after_ms, side="right"))
        found = on_grid(starts[first:last], self._table.values[first:last], self._table.interval_ms)
        return None if found is None else Series(found.start_ms + self._shift_ms, found.step_ms, found.values)


class CsvReplay:
    """A `PriceFeed` over a `SeriesTable`. A hole in the file is a price that grows old, never an interpolation.

    `known_after_ms`: when after its start an interval's price may be seen: 0 for a price published beforehand, the
    interval's length for a settlement price. `shift_ms` is added to the file's times, to play the past at present.
    """

    def __init__(
        self, name: str, table: SeriesTable, *, known_after_ms: int = 0, known_before_ms: int = 0, shift_ms: int = 0
    ) -> None:
        self._name = name
        self._table = table
        self._known_after_ms = known_after_ms
        self._shift_ms = shift_ms
        told_ms = known_after_ms - known_before_ms
        self._values = CsvSeries(name, table, known_after_ms=told_ms, shift_ms=shift_ms)
        self._health = self._values.health

    @property
    def name(self) -> str:
        return self._name

    @property
    def health(self) -> FeedHealth:
        return self._health

    def known(self, since_ms: int, now_ms: int) -> Series | None:
        return self._values.known(since_ms, now_ms)

    def price_at(self, now_ms: int) -> EnergyPrice:
        index = self._table.last_known(now_ms - self._shift_ms, self._known_after_ms)
        if index is None:
            return energy_price(self._name, None, now_ms)
        start_ms = int(self._table.start_ms[index]) + self._shift_ms
        interval = Interval(start_ms, self._table.interval_ms, float(self._table.values[index]))
        return energy_price(self._name, interval, now_ms)

    async def run(self) -> None:
        return
