"""The frame of one outlook: where now stands in each series, and which intervals are to be foretold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.forecast.known import F8, Known, Series
from controller.forecast.localtime import DAY_MS

I8 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moment:
    """A `Known` put on the real-time price's own grid. What lies after `at_ms` is cut off here, once for all."""

    known: Known
    price: Series
    """Up to the interval now running, that one included where it is known."""
    first_ms: int
    """The beginning of the interval now running."""
    step_ms: int
    starts: I8
    """(N,) of the intervals to be foretold, the one now running first."""
    late: int
    """Intervals from the last known price to the running one: 0 where that is known. All and one if none is."""
    last: float
    """The last known price; NaN where none is."""

    @property
    def count(self) -> int:
        """N."""
        return len(self.starts)


def moment(known: Known, ahead_ms: int) -> Moment:
    """Frame `known` for the `ahead_ms` from the beginning of the running interval on."""
    series = known.price
    running = (known.at_ms - series.start_ms) // series.step_ms
    first_ms = series.start_ms + running * series.step_ms
    values = series.values[: max(running + 1, 0)]
    index = len(values) - 1
    while index >= 0 and np.isnan(values[index]):
        index -= 1
    starts = first_ms + np.arange(max(-(-ahead_ms // series.step_ms), 1), dtype=np.int64) * series.step_ms
    return Moment(
        known=known,
        price=Series(series.start_ms, series.step_ms, values),
        first_ms=first_ms,
        step_ms=series.step_ms,
        starts=starts,
        late=max(running - index, 0),
        last=float(values[index]) if index >= 0 else math.nan,
    )


def past_only(series: Series | None, at_ms: int) -> Series | None:
    """What of the series has begun at `at_ms`; None where nothing has."""
    if series is None:
        return None
    begun = (at_ms - series.start_ms) // series.step_ms + 1
    if begun <= 0 or not len(series.values):
        return None
    return series if begun >= len(series.values) else Series(series.start_ms, series.step_ms, series.values[:begun])


def at_times(series: Series, times_ms: I8) -> F8:
    """The series' value at each time; NaN outside it."""
    index = (times_ms - series.start_ms) // series.step_ms
    values = series.values
    if not len(values):
        return np.full(times_ms.shape, np.nan)
    out: F8 = values.take(index, mode="clip")
    outside = (index < 0) | (index >= len(values))
    if outside.any():
        out[outside] = np.nan
    return out


def days_before(series: Series, times_ms: I8, days: int) -> F8:
    """(days, N): the series' value one day, two days ... before each time; NaN where it has none."""
    back = np.arange(1, days + 1, dtype=np.int64)[:, None] * DAY_MS
    return at_times(series, times_ms[None, :] - back)


def median_of_days(rows: F8) -> F8:
    """(N,) the median of each column without its NaN; NaN where all are."""
    ordered = np.sort(rows, axis=0)
    count = len(rows) - np.isnan(ordered).sum(axis=0)
    column = np.arange(rows.shape[1])
    low, high = ordered[np.maximum(count - 1, 0) // 2, column], ordered[np.minimum(count // 2, len(rows) - 1), column]
    middle: F8 = 0.5 * (low + high)
    return middle


def mean_of_days(rows: F8) -> F8:
    """(N,) the mean of each column without its NaN; NaN where all are."""
    known = ~np.isnan(rows)
    count = known.sum(axis=0)
    total = np.where(known, rows, 0.0).sum(axis=0)
    mean: F8 = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
