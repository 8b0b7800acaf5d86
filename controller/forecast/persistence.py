"""The price stays what it is, and within some hours becomes what it was at this time of day."""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.forecast.known import F8, Known
from controller.forecast.moment import Moment, days_before, median_of_days

DAYS: Final = 7
"""Days the usual price of a time of day is the median of. A spike on one evening does not move it."""
FADE_H: Final = 1.0
"""So many hours after the last known interval's end a third of its departure is left."""


class Persistence:
    """Price path from the price alone. Nothing to fit. What is carried on counts up to `cap` USD/MWh: a spike of
    thousands that fades by thirds would else forbid running for hours."""

    def __init__(self, cap: float) -> None:
        self._cap = cap

    def fit(self, past: Known) -> None:
        """Nothing is learned."""

    def path(self, now: Moment) -> tuple[F8, str]:
        """(N,) USD/MWh from the running interval on, and what stands in for what is missing. NaN where no price is
        known at all."""
        usual = usual_price(now)
        if np.isnan(now.last):
            return usual, "no price known"
        short = np.isnan(usual)
        last = min(max(now.last, -self._cap), self._cap)
        usual = np.where(short, last, usual)
        since_h = np.maximum(now.starts - now.first_ms + (now.late - 1) * now.step_ms, 0) / 3_600_000
        path: F8 = usual + (last - usual) * np.exp(-since_h / FADE_H)
        return path, "less than a day of prices: the last one stays" if short.all() else ""


def usual_price(now: Moment) -> F8:
    """(N,) the median of the last days at the same time of day; NaN where there is none."""
    return median_of_days(days_before(now.price, now.starts, DAYS))
