"""The temperature of the next hours: the last days' diurnal shape, and today's departure from it, which fades."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from controller.forecast.known import F8, Known
from controller.forecast.localtime import DAY_MS
from controller.forecast.memo import Memo
from controller.forecast.moment import I8, at_times, days_before, mean_of_days, past_only

READ_DAYS: Final = 7
"""No older reading is looked at."""
DAYS: Final = 5
"""Days the shape is the mean of."""
FADE_H: Final = 18.0
"""After so many hours a third of today's departure is left. A plausible figure, not a fitted one."""
STALE_MS: Final = 6 * 3_600_000
"""A reading older than this says nothing of today's departure."""


class Ambient:
    """`ambient_path` on the readings' own grid, kept until there is a new reading."""

    def __init__(self) -> None:
        self._kept: Memo[F8 | None] = Memo()

    def path(self, known: Known, starts: I8) -> F8 | None:
        """(H,) deg C at consecutive starts: what holds then; None where no temperature was ever known."""
        series = past_only(known.ambient_c, known.at_ms)
        if series is None:
            return None
        tail = series.values[-READ_DAYS * DAY_MS // series.step_ms :]
        first_ms = (known.at_ms - series.start_ms) // series.step_ms * series.step_ms + series.start_ms
        per_day = max(DAY_MS // series.step_ms, 1)
        count = ((int(starts[-1]) - first_ms) // series.step_ms // per_day + 2) * per_day
        times = first_ms + np.arange(count, dtype=np.int64) * series.step_ms
        key = (first_ms, series.end_ms, series.step_ms, count, tail.tobytes())
        path = self._kept.get(key, lambda: ambient_path(known, times))
        if path is None:
            return None
        at = (starts - first_ms) // series.step_ms
        return path[np.maximum(at, 0)] if at[0] < 0 else path[at]


def ambient_path(known: Known, times_ms: I8) -> F8 | None:
    """(N,) deg C at each time, NaN nowhere; None where no temperature was ever known.

    The reading that holds now is given back unchanged for the rest of its interval.
    """
    series = past_only(known.ambient_c, known.at_ms)
    if series is None or not len(times_ms):
        return None
    tail = series.values[-READ_DAYS * DAY_MS // series.step_ms :]
    finite = np.flatnonzero(~np.isnan(tail))
    if not len(finite):
        return None
    last_at = len(series.values) - len(tail) + int(finite[-1])
    last, last_ms = float(series.values[last_at]), series.start_ms + last_at * series.step_ms
    shape_and_now = mean_of_days(days_before(series, np.append(times_ms, last_ms), DAYS))
    shape, shape_now = shape_and_now[:-1], float(shape_and_now[-1])
    if math.isnan(shape_now):
        shape_now = last
    shape = np.where(np.isnan(shape), shape_now, shape)
    departure = 0.0 if known.at_ms - last_ms > STALE_MS + series.step_ms else last - shape_now
    age_h = np.maximum(times_ms - last_ms, 0) / 3_600_000
    path: F8 = shape + departure * np.exp(-age_h / FADE_H)
    holds = at_times(series, times_ms)
    return np.where(np.isnan(holds), path, holds)
