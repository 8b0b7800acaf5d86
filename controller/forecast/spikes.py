"""The chance that the price exceeds a threshold, by what is known: the price now, the last hours, day-ahead, the hour.

One logistic regression per span of lead time, learned from the past alone; where day-ahead is missing, one without it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np

from controller.forecast.known import F8, Known, Series
from controller.forecast.localtime import LocalTime
from controller.forecast.logistic import fit_logistic, sigmoid
from controller.forecast.memo import Memo
from controller.forecast.moment import I8, Moment, at_times

LEADS_H: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 48.0)
"""Hours since the last known price at which one regression gives way to the next."""
RECENT_H: Final = 4.0
"""The last hours whose highest price counts."""
LEARN_DAYS: Final = 730
LEARN_MIN_DAYS: Final = 28
ROWS_MAX: Final = 12_000
"""Per regression; of a longer past every third, fifth ... row is taken."""
RIDGE: Final = 3.0
PRIOR: Final = 0.01
"""The chance given before anything was learned, for prices below the threshold; above it, a half that fades."""


class SpikeChance:
    """Chance of a price above `threshold_usd_per_mwh`, interval by interval."""

    def __init__(self, threshold_usd_per_mwh: float, local: LocalTime) -> None:
        self.threshold = threshold_usd_per_mwh
        self._local = local
        self._hours = np.zeros(24)
        """Log-odds of a spike by local hour, less their mean."""
        self._weights: dict[bool, F8] = {}
        """(leads, F) with day-ahead and without."""
        self._which: Memo[I8] = Memo()

    @property
    def fitted(self) -> bool:
        """Whether it has learned from a past that was long enough."""
        return bool(self._weights)

    def fit(self, past: Known) -> None:
        """Learn from the last two years of `past`; less than 28 days teach nothing."""
        series = past.price
        per_day = 24 * 3_600_000 // series.step_ms
        first = max(len(series.values) - LEARN_DAYS * per_day, 0)
        if np.isfinite(series.values[first:]).sum() < LEARN_MIN_DAYS * per_day:
            return
        index = np.arange(first, len(series.values), dtype=np.int64)
        over = np.where(np.isnan(series.values[index]), np.nan, series.values[index] > self.threshold)
        hour = self._local.hour(series.start_ms + index * series.step_ms)
        self._hours = _hourly_odds(over, hour)
        recent = _recent_max(series.values[index], max(round(RECENT_H * 3_600_000 / series.step_ms), 1))
        self._weights = {False: self._fit_leads(series, index, over, recent, None)}
        if past.day_ahead is not None:
            ahead = at_times(past.day_ahead, series.start_ms + index * series.step_ms)
            if np.isfinite(ahead).sum() >= LEARN_MIN_DAYS * per_day:
                self._weights[True] = self._fit_leads(series, index, over, recent, ahead)

    def path(self, now: Moment, ahead: F8 | None) -> F8:
        """(N,) chances from the running interval on; `ahead`: each one's day-ahead price, NaN or None where unknown."""
        lead_h = (now.starts - now.first_ms + now.late * now.step_ms) / 3_600_000
        if not self._weights or np.isnan(now.last):
            above = not np.isnan(now.last) and now.last > self.threshold
            return PRIOR + (0.5 - PRIOR) * np.exp(-lead_h) if above else np.full(now.count, PRIOR)
        span = max(round(RECENT_H * 3_600_000 / now.step_ms), 1)
        known = now.price.values[: (now.first_ms - now.price.start_ms) // now.step_ms - now.late + 1]
        recent = float(np.fmax.reduce(known[-span:]))
        last, recent = (float(one) for one in self._log(np.array([now.last, recent])))
        which = self._which.get((now.late, now.count, now.step_ms), lambda: self._spans(lead_h))
        hour = self._hours[self._local.hour(now.starts)]
        chance: F8 | None = None
        if ahead is not None and True in self._weights:
            chance = _chances(self._weights[True], which, last, recent, hour, self._log(ahead))
            if not np.isnan(chance[-1]) and not np.isnan(chance).any():
                return chance
        without = _chances(self._weights[False], which, last, recent, hour, None)
        return without if chance is None else np.where(np.isnan(chance), without, chance)

    def _spans(self, lead_h: F8) -> I8:
        which: I8 = np.clip(np.searchsorted(LEADS_H, lead_h, side="left") - 1, 0, len(LEADS_H) - 2)
        return which

    def _fit_leads(self, series: Series, index: I8, over: F8, recent: F8, ahead: F8 | None) -> F8:
        """(leads, F): row k is the regression for leads from LEADS_H[k], exclusive, to LEADS_H[k + 1]."""
        value = self._log(series.values[index])
        recent = self._log(recent)
        hour = self._hours[self._local.hour(series.start_ms + index * series.step_ms)]
        lead_steps = np.array(LEADS_H) * 3_600_000 / series.step_ms
        weights: list[F8] = []
        for low, high in pairwise(lead_steps):
            leads = np.arange(int(np.floor(low)) + 1, int(np.floor(high)) + 1)
            if not len(leads):
                weights.append(weights[-1] if weights else np.full(5 + (ahead is not None), np.nan))
                continue
            origin = np.arange(0, len(index) - leads[-1], max(len(index) // ROWS_MAX, 1) | 1)
            target = origin + leads[origin % len(leads)]
            rows = self._rows(value[origin], recent[origin], hour[target], None if ahead is None else ahead[target])
            good = np.isfinite(rows).all(axis=1) & np.isfinite(over[target])
            weights.append(fit_logistic(rows[good], over[target][good], RIDGE))
        for k in reversed(range(len(weights) - 1)):
            if np.isnan(weights[k]).any():
                weights[k] = weights[k + 1]
        return np.array(weights)

    def _rows(self, value: F8, recent: F8, hour: F8, ahead: F8 | None) -> F8:
        """(N, F): one, the last price below the threshold and above it, the recent maximum, the hour's odds, and the
        target's day-ahead price."""
        rows = np.stack([np.ones(len(hour)), np.minimum(value, 0.0), np.maximum(value, 0.0), recent, hour], axis=1)
        return rows if ahead is None else np.column_stack([rows, self._log(ahead)])

    def _log(self, usd_per_mwh: F8) -> F8:
        """The price against the threshold, on a log scale: 0 at the threshold, about -3 at a twentieth of it."""
        log: F8 = np.log(np.maximum(usd_per_mwh, 0.02 * self.threshold) / self.threshold)
        return log


def _chances(weights: F8, which: I8, last: float, recent: float, hour: F8, ahead: F8 | None) -> F8:
    """(N,) by the regression `which` names for each, of rows as `SpikeChance._rows` has them."""
    common = weights[:, 0] + weights[:, 1] * min(last, 0.0) + weights[:, 2] * max(last, 0.0) + weights[:, 3] * recent
    picked = weights[which]
    logit = common[which] + picked[:, 4] * hour
    return sigmoid(logit if ahead is None else logit + picked[:, 5] * ahead)


def _hourly_odds(over: F8, hour: I8) -> F8:
    """(24,) log-odds of each local hour less their mean, drawn towards 0 by twenty days' worth of the mean."""
    known = np.isfinite(over)
    hits = np.bincount(hour[known], weights=over[known], minlength=24)
    count = np.bincount(hour[known], minlength=24).astype(np.float64)
    overall = float(np.clip(hits.sum() / max(count.sum(), 1.0), 1e-5, 1 - 1e-5))
    belief = count.mean() / 20
    rate = (hits + belief * overall) / (count + belief)
    odds: F8 = np.log(rate / (1 - rate)) - np.log(overall / (1 - overall))
    return odds


def _recent_max(values: F8, span: int) -> F8:
    """(K,) the highest of the last `span` values, that one included; NaN counts as nothing."""
    filled = np.where(np.isnan(values), -np.inf, values)
    highest = filled.copy()
    for back in range(1, span):
        highest[back:] = np.maximum(highest[back:], filled[:-back])
    return np.where(np.isneginf(highest), np.nan, highest)
