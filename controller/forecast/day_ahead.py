"""The day-ahead price is the shape; what real time shows above or below it now is carried on and fades."""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.forecast.known import F8, Known
from controller.forecast.moment import Moment, at_times
from controller.forecast.persistence import Persistence

FADE_H: Final = 1.0
"""Before it is fitted: after so many hours a third of the departure from day-ahead is left."""
SPREAD_MAX: Final = 150.0
"""USD/MWh; a wider spread counts as this when the fade is learned, or a few hours of scarcity would decide it."""
LEARN_DAYS: Final = 90
LEARN_MIN: Final = 500
"""Pairs of prices below which nothing is learned."""


class DayAhead:
    """Price path from day-ahead and the last known price. `fit` learns how fast a departure fades."""

    def __init__(self) -> None:
        self._fade: F8 | None = None
        """By intervals since the last known price."""
        self._step_ms = 0
        self._without = Persistence()

    def fit(self, past: Known) -> None:
        """Learn the share of a real-time departure that is left k intervals later, from the last 90 days."""
        price, ahead = past.price, past.day_ahead
        if ahead is None or not len(price.values):
            return
        per_day = 24 * 3_600_000 // price.step_ms
        index = np.arange(max(len(price.values) - LEARN_DAYS * per_day, 0), len(price.values), dtype=np.int64)
        spread = price.values[index] - at_times(ahead, price.start_ms + index * price.step_ms)
        spread = np.clip(spread, -SPREAD_MAX, SPREAD_MAX)
        if np.isfinite(spread).sum() < LEARN_MIN:
            return
        self._fade, self._step_ms = _fade(spread, per_day), price.step_ms

    def path(self, now: Moment) -> tuple[F8, str]:
        """(N,) USD/MWh from the running interval on, and what stands in for what is missing."""
        known = now.known
        without, note = self._without.path(now)
        if known.day_ahead is None:
            return without, note or "no day-ahead price: persistence"
        shape = at_times(known.day_ahead, now.starts)
        missing = np.isnan(shape)
        if missing.all():
            return without, note or "no day-ahead price: persistence"
        if np.isnan(now.last):
            return np.where(missing, without, shape), "no real-time price known: day-ahead as it is"
        then_ms = now.first_ms - now.late * now.step_ms
        then = at_times(known.day_ahead, np.array([then_ms], dtype=np.int64))[0]
        departure = 0.0 if np.isnan(then) else now.last - then
        path = shape + departure * self._left(now)
        return np.where(missing, without, path), "day-ahead price missing for some hours" if missing.any() else ""

    def _left(self, now: Moment) -> F8:
        """(N,) the share of the present departure that is left at each interval."""
        since = np.arange(now.late, now.late + now.count)
        if self._fade is None or self._step_ms != now.step_ms:
            return np.exp(-since * now.step_ms / (FADE_H * 3_600_000))
        return np.where(since < len(self._fade), self._fade[np.minimum(since, len(self._fade) - 1)], 0.0)


def _fade(spread: F8, per_day: int) -> F8:
    """(per_day,) the regression of the spread on itself k intervals before, never rising, never below 0."""
    left = np.ones(per_day)
    known = np.where(np.isnan(spread), 0.0, spread)
    there = ~np.isnan(spread)
    for k in range(1, min(per_day, len(spread))):
        both = there[k:] & there[:-k]
        weight = float(np.dot(known[:-k][both], known[:-k][both]))
        left[k] = float(np.dot(known[k:], known[:-k])) / weight if weight > 0 else 0.0
    fade: F8 = np.clip(np.minimum.accumulate(left), 0.0, 1.0)
    return fade
