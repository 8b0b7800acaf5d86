"""The day-ahead price is the shape; what real time shows above or below it now is carried on and fades.

Day-ahead holds a premium in hours of feared scarcity. `fit` learns what real time has paid where day-ahead stood at a
height, and how fast a departure from that fades. Unfitted, day-ahead is taken as it is.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.forecast.basis import hats, squeeze
from controller.forecast.gram import add_products
from controller.forecast.known import F8, Known
from controller.forecast.localtime import DAY_MS
from controller.forecast.moment import Moment, at_times
from controller.forecast.persistence import Persistence

FADE_H: Final = 1.0
"""Before it is fitted: after so many hours a third of the departure from day-ahead is left."""
LEARN_DAYS: Final = 365
LEARN_MIN_DAYS: Final = 28
RIDGE: Final = 20.0
"""Weight, in intervals, of the belief that real time pays what day-ahead says."""
KNOTS: Final = np.array([-50.0, 0, 15, 25, 35, 50, 75, 120, 250, 1000, 5000])


class DayAhead:
    """Price path from day-ahead and the last known price; a real-time price counts up to `cap` USD/MWh."""

    def __init__(self, cap: float) -> None:
        self._cap = cap
        self._pays: F8 | None = None
        """What real time pays at each of the knots."""
        self._fade: F8 = np.zeros(0)
        """By intervals since the last known price."""
        self._step_ms = 0
        self._without = Persistence(cap)

    def fit(self, past: Known) -> None:
        """Learn from the last year; less than 28 days of both prices teach nothing."""
        price, ahead = past.price, past.day_ahead
        if ahead is None or not len(price.values):
            return
        per_day = DAY_MS // price.step_ms
        index = np.arange(max(len(price.values) - LEARN_DAYS * per_day, 0), len(price.values), dtype=np.int64)
        paid = np.clip(price.values[index], -self._cap, self._cap)
        told = at_times(ahead, price.start_ms + index * price.step_ms)
        both = np.isfinite(paid) & np.isfinite(told)
        if both.sum() < LEARN_MIN_DAYS * per_day:
            return
        rows, belief = hats(squeeze(told[both]), squeeze(KNOTS)), np.clip(KNOTS, -self._cap, self._cap)
        gram, moment = RIDGE * np.eye(len(KNOTS)), RIDGE * belief
        add_products(gram, moment, rows, paid[both])
        self._pays = np.asarray(np.linalg.solve(gram, moment), dtype=np.float64)
        self._fade, self._step_ms = _fade(paid - self._shape(told), per_day), price.step_ms

    def path(self, now: Moment) -> tuple[F8, str]:
        """(N,) USD/MWh from the running interval on, and what stands in for what is missing."""
        known = now.known
        shape = None if known.day_ahead is None else self._shape(at_times(known.day_ahead, now.starts))
        if shape is None or known.day_ahead is None or np.isnan(shape).all():
            path, note = self._without.path(now)
            return path, note or "no day-ahead price: persistence"
        note = ""
        if np.isnan(now.last):
            path, note = shape, "no real-time price known: day-ahead as it is"
        else:
            then_ms = now.first_ms - now.late * now.step_ms
            then = float(self._shape(at_times(known.day_ahead, np.array([then_ms], dtype=np.int64)))[0])
            last = min(max(now.last, -self._cap), self._cap)
            departure = 0.0 if np.isnan(then) else last - then
            path = shape + departure * self._left(now)
        missing = np.isnan(shape)
        if missing.any():
            path = np.where(missing, self._without.path(now)[0], path)
            note = note or "some hours have no day-ahead price yet"
        return path, note

    def _shape(self, day_ahead: F8) -> F8:
        """What real time is expected to pay where day-ahead stands so; NaN where it is unknown."""
        return day_ahead if self._pays is None else hats(squeeze(day_ahead), squeeze(KNOTS)) @ self._pays

    def _left(self, now: Moment) -> F8:
        """(N,) the share of the present departure that is left at each interval."""
        since = np.arange(now.late, now.late + now.count)
        if self._step_ms != now.step_ms:
            return np.exp(-since * now.step_ms / (FADE_H * 3_600_000))
        return np.where(since < len(self._fade), self._fade[np.minimum(since, len(self._fade) - 1)], 0.0)


def _fade(departure: F8, per_day: int) -> F8:
    """(per_day,) the regression of the departure on itself k intervals before, never rising, never below 0."""
    left = np.ones(per_day)
    there = (~np.isnan(departure)).astype(np.float64)
    known = np.nan_to_num(departure)
    squares = known * known
    for k in range(1, min(per_day, len(departure))):
        weight = float(np.einsum("n,n->", squares[:-k], there[k:]))
        left[k] = float(np.einsum("n,n->", known[k:], known[:-k])) / weight if weight > 0 else 0.0
    fade: F8 = np.clip(np.minimum.accumulate(left), 0.0, 1.0)
    return fade
