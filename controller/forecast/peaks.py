"""The chance that a step holds the month's highest system load: what the coincident-peak charge is taken from.

The load of the coming hours is foretold from the last days' shape and today's departure. A day bills if its peak passes
the month's so far and no day still to come passes it; within the day, the hour of the highest load is the likeliest. A
logistic recalibration on the past months makes the odds honest. Which months bill is an argument: rules are data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from controller.forecast.known import F8, Known, Series
from controller.forecast.localtime import DAY_MS, HOUR_MS, LocalTime, month_of_year
from controller.forecast.logistic import fit_logistic, sigmoid
from controller.forecast.memo import Memo
from controller.forecast.moment import I8, days_before, mean_of_days, past_only

DAYS: Final = 7
"""Days the load's shape is the mean of."""
FADE_H: Final = 24.0
SD_NOW, SD_DAY, SD_FUTURE, SD_HOUR = 0.012, 0.035, 0.05, 0.008
"""Shares of the load that a foretold daily peak misses by: with the day begun, a day ahead, for the peaks of days to
come; and what an hour misses its day's shape by. First guesses that the recalibration corrects."""
ALIKE: Final = 0.6
"""n days to come count as n to this power of independent ones: hot days come in spells."""
NODES: Final = np.linspace(-2.4, 2.4, 9)
"""Standard deviations at which a daily peak's distribution is looked at."""
CHANCE_MIN: Final = 1e-7
LEARN_MONTHS: Final = 24
ASK_EVERY_H: Final = 11
"""The recalibration looks every so many hours at what would have been told: by and by at every hour of the day."""
LEARN_MIN: Final = 3
RIDGE: Final = 0.5
READ_DAYS: Final = 40
"""No more of the past load than this is read for one outlook."""
LATEST_MS: Final = 12 * HOUR_MS
"""A load older than this foretells nothing."""


class PeakChance:
    """Chance of the month's coincident peak, step by step; the steps of an hour share the hour's."""

    def __init__(self, months: tuple[int, ...], local: LocalTime) -> None:
        self.months = months
        self._local = local
        self._odds = np.array([0.0, 1.0])
        """Recalibration: constant and slope of the log-odds."""
        self._kept: Memo[F8] = Memo()
        self._asked: dict[int, tuple[bytes, F8, F8]] = {}
        """By month: the load it was asked of, the log-odds told and what came."""
        self.fitted = False

    def fit(self, past: Known) -> None:
        """Recalibrate on the past months, billed or not; fewer than three teach nothing."""
        load = past_only(past.load_mw, past.at_ms)
        if load is None:
            return
        late_ms = max(past.at_ms - load.end_ms, 0)
        if late_ms > LATEST_MS:
            return
        odds, hits = self._history(load, late_ms)
        if hits.sum() < LEARN_MIN:
            return
        self._odds = fit_logistic(np.stack([np.ones(len(odds)), odds], axis=1), hits, RIDGE)
        self.fitted = True

    def _history(self, load: Series, late_ms: int) -> tuple[F8, F8]:
        """Log-odds told every day of the last whole months for its next 24 h, and what came of them."""
        starts = load.start_ms + np.arange(len(load.values), dtype=np.int64) * load.step_ms
        month = self._local.month(starts)
        kept: dict[int, tuple[bytes, F8, F8]] = {}
        for which in np.unique(month)[1:-1][-LEARN_MONTHS:]:
            inside = np.flatnonzero(month == which)
            first, end = int(inside[0]), int(inside[-1]) + 1
            read = load.values[max(first - READ_DAYS * DAY_MS // load.step_ms, 0) : end]
            content = read.tobytes() + late_ms.to_bytes(8, "big")
            before = self._asked.get(int(which))
            if before is not None and before[0] == content:
                kept[int(which)] = before
            elif not np.isnan(load.values[first:end]).all():
                kept[int(which)] = (content, *_told_and_came(load, first, end, late_ms, self._local))
        self._asked = kept
        if not kept:
            return np.zeros(0), np.zeros(0)
        return np.concatenate([odds for _, odds, _ in kept.values()]), np.concatenate(
            [hit for *_, hit in kept.values()]
        )

    def path(self, known: Known, starts: I8, step_ms: int) -> F8:
        """(H,) chances; 0 outside the billed months, and everywhere where no fresh load is known."""
        none = np.zeros(len(starts))
        load = past_only(known.load_mw, known.at_ms)
        if load is None or not self.months or known.at_ms - load.end_ms > LATEST_MS:
            return none
        months = {int(month) for month in month_of_year(self._local.month(starts[:: max(len(starts) - 1, 1)]))}
        if not months & set(self.months):
            return none
        share = min(step_ms, load.step_ms) / load.step_ms
        chance = self._of_intervals(load, int(starts[-1]))
        at = (starts - load.end_ms) // load.step_ms
        told = np.where(at < 0, 0.0, chance[np.maximum(at, 0)]) * share
        if not months <= set(self.months):
            told *= np.isin(month_of_year(self._local.month(starts)), self.months)
        return told

    def _of_intervals(self, load: Series, last_ms: int) -> F8:
        """(K,) recalibrated chances of the load intervals from the end of what is known to `last_ms`; kept until a new
        load is known."""
        tail = load.values[-READ_DAYS * DAY_MS // load.step_ms :]
        per_day = DAY_MS // load.step_ms
        count = (max(last_ms - load.end_ms, 0) // DAY_MS + 2) * per_day
        key = (load.end_ms, load.step_ms, count, tuple(self._odds), tail.tobytes())
        starts = load.end_ms + np.arange(count, dtype=np.int64) * load.step_ms
        return self._kept.get(
            key, lambda: sigmoid(self._odds[0] + self._odds[1] * peak_odds(load, starts, self._local))
        )


def peak_odds(load: Series, starts: I8, local: LocalTime) -> F8:
    """(H,) log-odds that the load interval at each start is its local month's highest; -16 where it is over and lower.

    Reads `load` up to its end and nothing after.
    """
    ahead = _foretold(load, int(starts[-1]))
    if ahead is None:
        return np.full(len(starts), np.log(CHANCE_MIN))
    chance = _chances(load, ahead, local)
    at = np.clip((starts - load.end_ms) // load.step_ms, 0, len(chance) - 1)
    picked = np.where(starts < load.end_ms, CHANCE_MIN, np.maximum(chance[at], CHANCE_MIN))
    odds: F8 = np.log(picked / (1.0 - np.minimum(picked, 1 - 1e-6)))
    return odds


@dataclass(frozen=True, slots=True)
class _Ahead:
    """The load foretold from the end of what is known, and the height of daily peaks lately."""

    starts: I8
    load: F8
    usual_peak: float


def _foretold(load: Series, last_ms: int) -> _Ahead | None:
    """None without two days of load, or with none in the last hours."""
    per_day = DAY_MS // load.step_ms
    tail = load.values[-DAYS * per_day :]
    if len(tail) < 2 * per_day or np.isnan(tail[-1]):
        return None
    begin = load.end_ms - load.step_ms
    through = -(-(last_ms - load.end_ms + DAY_MS) // load.step_ms) + 1
    starts = begin + np.arange(through + 1, dtype=np.int64) * load.step_ms
    shape = mean_of_days(days_before(load, starts, DAYS))
    shape = np.where(np.isnan(shape), np.nanmean(tail), shape)
    ratio = float(tail[-1]) / shape[0]
    fade = np.exp(-(starts[1:] - load.end_ms) / (FADE_H * HOUR_MS))
    whole = tail[-(len(tail) // per_day) * per_day :].reshape(-1, per_day)
    return _Ahead(starts[1:], shape[1:] * (1 + (ratio - 1) * fade), float(np.nanmean(np.nanmax(whole, axis=1))))


def _chances(load: Series, ahead: _Ahead, local: LocalTime) -> F8:
    """(K,) for each foretold load interval, that it is the highest of its month."""
    day = local.local_ms(ahead.starts) // DAY_MS
    first = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
    peaks = np.maximum.reduceat(ahead.load, first)
    date = day[first].astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    days_left = ((month + 1).astype("datetime64[D]") - date).astype(np.int64) - 1
    days_known = np.arange(len(first))[::-1]
    sd = np.where(np.arange(len(first)) == 0, SD_NOW, SD_DAY) * peaks
    so_far = np.where(month == month[0], _month_so_far(load, local, month[0]), -np.inf)
    height = peaks[:, None] + sd[:, None] * NODES
    weight = np.exp(-0.5 * NODES**2)
    below = np.ones_like(height)
    for other in range(len(first)):
        mates = (month == month[other]) & (np.arange(len(first)) != other)
        below = np.where(mates[:, None], below * _normal((height - peaks[other]) / sd[other]), below)
    beyond = np.maximum(days_left - days_known, 0) ** ALIKE
    future = _normal((height - ahead.usual_peak) / (SD_FUTURE * ahead.usual_peak)) ** beyond[:, None]
    bills = ((height > so_far[:, None]) * below * future) @ weight / weight.sum()
    index = np.cumsum(np.diff(day, prepend=day[0]) != 0)
    within = np.exp((ahead.load - peaks[index]) / (SD_HOUR * peaks[index]))
    chance: F8 = bills[index] * within / np.add.reduceat(within, first)[index]
    return chance


def _month_so_far(load: Series, local: LocalTime, month: np.datetime64) -> float:
    """The highest load known of that local month; minus infinity where none is."""
    longest = 31 * DAY_MS // load.step_ms
    tail = load.values[-longest:]
    starts = load.end_ms - np.arange(len(tail), 0, -1, dtype=np.int64) * load.step_ms
    inside = tail[local.local_ms(starts) >= month.astype("datetime64[ms]").astype(np.int64)]
    inside = inside[~np.isnan(inside)]
    return float(inside.max()) if len(inside) else -np.inf


def _normal(z: F8) -> F8:
    """The normal distribution function, to a thousandth: a logistic curve with a cubic term."""
    chance: F8 = sigmoid(1.5976 * z + 0.07056 * z**3)
    return chance


def _told_and_came(load: Series, first: int, end: int, late_ms: int, local: LocalTime) -> tuple[F8, F8]:
    """For one month, load intervals `first` to `end`: what is told every `ASK_EVERY_H` for a day, and what came."""
    per_day = DAY_MS // load.step_ms
    top = first + int(np.nanargmax(load.values[first:end]))
    odds, hits = [np.zeros(0)], [np.zeros(0)]
    for at in range(first, end, max(ASK_EVERY_H * HOUR_MS // load.step_ms, 1)):
        ends = at - late_ms // load.step_ms
        target = np.arange(at, min(at + per_day, end), dtype=np.int64)
        if ends < 2 * per_day:
            continue
        told = Series(load.start_ms, load.step_ms, load.values[:ends])
        odds.append(peak_odds(told, load.start_ms + target * load.step_ms, local))
        hits.append((target == top).astype(np.float64))
    return np.concatenate(odds), np.concatenate(hits)
