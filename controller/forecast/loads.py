"""What the system load's own past teaches of how a day goes on, and of the highest days still to come.

Logs of hourly means by local day and hour. From the last known hour on, the rest of the day is foretold by the course
of yesterday and the last week, corrected by regressions on level, trend and temperature against yesterday, one for each
hour of the day; what they missed in the past, whole days of it, is what today may bring. Days to come are foretold from
today's peak and how far it stands above the last week's; again, whole runs of what that missed stand for what may come.
Days of the same season count most. A past too short to learn from is stood in for by assumed misses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from controller.forecast.known import F8, Series
from controller.forecast.localtime import HOUR_MS, LocalTime
from controller.forecast.moment import I8, at_times

DAY_H: Final = 24
WEEK: Final = 7
LEARN_DAYS: Final = 60
"""Of past load, below which nothing is learned."""
SEASON_DAYS: Final = 40.0
"""Days of the year so far away count 0.6 of the season's own; none counts less than ANY."""
ANY: Final = 0.02
SCENES: Final = 250
"""Of the past, at most, the season's first."""
AHEAD_DAYS: Final = 30
LEVEL: Final = 1e-6
RIDGE: Final = 1e-3
"""Beliefs, in days, that the constant and each slope are 0."""
SD_HOUR: Final = 0.006
SD_DAY: Final = 0.025
KEEP_DAY: Final = 0.7
WEEKEND: Final = -0.04
"""Assumed where nothing is learned: what an hour and a day add to a foretold load's miss, how much of a day's miss the
next one keeps, and a weekend's peak against a weekday's."""


@dataclass(frozen=True, slots=True)
class Days:
    """Load by local day."""

    first_day: int
    """Local day number, days since 1970."""
    log_mw: F8
    """(D, 24) gaps drawn straight; NaN before the first and after the last known hour."""
    ambient_c: F8
    """(D, 24) NaN where unknown."""
    known_h: int
    """Hours from the first day's midnight to the end of what is known of the load."""

    @property
    def weekend(self) -> NDArray[np.bool_]:
        """(D,)"""
        return (self.first_day + np.arange(len(self.log_mw)) + 3) % WEEK >= 5

    @property
    def of_year(self) -> I8:
        """(D,) days since the year began."""
        date = (self.first_day + np.arange(len(self.log_mw))).astype("datetime64[D]")
        out: I8 = (date - date.astype("datetime64[Y]")).astype(np.int64)
        return out


def by_day(load: Series, ambient: Series | None, local: LocalTime) -> Days | None:
    """Hourly means by local day, one day beyond what is known included; None where no load is known."""
    known = np.flatnonzero(np.isfinite(load.values) & (load.values > 0))
    if not len(known):
        return None
    starts = load.start_ms + known.astype(np.int64) * load.step_ms
    hour = local.local_ms(starts) // HOUR_MS
    first_day = int(hour[0]) // DAY_H
    at = hour - first_day * DAY_H
    days = int(at[-1]) // DAY_H + 2
    count = np.bincount(at, minlength=days * DAY_H)
    total = np.bincount(at, weights=load.values[known], minlength=days * DAY_H)
    log_mw = np.full(days * DAY_H, np.nan)
    have = np.flatnonzero(count)
    log_mw[have] = np.log(total[have] / count[have])
    inside = np.arange(have[0], have[-1] + 1)
    log_mw[inside] = np.interp(inside, have, log_mw[have])
    warm = np.full(days * DAY_H, np.nan)
    if ambient is not None:
        first_ms = (load.start_ms + int(known[0]) * load.step_ms) // HOUR_MS * HOUR_MS
        utc = first_ms + np.arange(-DAY_H, days * DAY_H, dtype=np.int64) * HOUR_MS
        where = local.local_ms(utc) // HOUR_MS - first_day * DAY_H
        inside = (where >= 0) & (where < len(warm))
        warm[where[inside]] = at_times(ambient, utc[inside])
    return Days(first_day, log_mw.reshape(-1, DAY_H), warm.reshape(-1, DAY_H), int(have[-1]) + 1)


@dataclass(frozen=True, slots=True)
class Habits:
    """What was learned, for one season."""

    slopes: tuple[F8, ...]
    """By local hour of the first unknown load: (features, hours left of the day)."""
    misses: tuple[F8, ...]
    """By that hour: (S, hours left), what was missed on each of S days."""
    chance: F8
    """(S,) of each, 1 in all."""
    weekend: float
    """A weekend's daily peak over a weekday's, in logs."""
    drift: F8
    """(AHEAD_DAYS, 2) a later day's peak over today's: the constant, and by today's over the last week's mean."""
    runs: F8
    """(R, AHEAD_DAYS) what was missed of the days after each of R days."""
    run_chance: F8
    """(R,) 1 in all."""


def learned(days: Days, of_year: int) -> Habits:
    """Habits of the season around day `of_year`, from whole known days. Never raises: a short past is stood in for."""
    whole = days.known_h // DAY_H
    first = int(np.isnan(days.log_mw[0]).any())
    if whole - first < LEARN_DAYS:
        return assumed()
    away = np.abs(days.of_year - of_year)
    season = np.exp(-0.5 * (np.minimum(away, 365 - away) / SEASON_DAYS) ** 2) + ANY
    learn = np.arange(first + WEEK + 2, whole)
    slopes, misses = [], []
    scenes = learn[np.sort(np.argsort(-season[learn], kind="stable")[:SCENES])]
    for hour in range(DAY_H):
        rows = features(days, learn, hour)
        over = rest_of_day(days, learn, hour) - usual(days, learn, hour)
        slope = _fit(rows, over, season[learn])
        slopes.append(slope)
        pick = np.searchsorted(learn, scenes)
        misses.append((over - rows @ slope)[pick])
    chance = season[scenes] / season[scenes].sum()
    return Habits(tuple(slopes), tuple(misses), chance, *_days_to_come(days, first, whole, season))


def _days_to_come(days: Days, first: int, whole: int, season: F8) -> tuple[float, F8, F8, F8]:
    """`Habits`' last four."""
    peak, weekend = days.log_mw[:whole].max(axis=1), days.weekend[:whole]
    base = np.array([np.median(peak[max(d - WEEK, first) : d + WEEK + 1]) for d in range(first, whole)])
    off = (peak[first:] - base)[-53 * WEEK :]
    is_off = weekend[first:][-53 * WEEK :]
    lower = float(np.median(off[is_off]) - np.median(off[~is_off]))
    level = peak - lower * weekend
    begin = np.arange(first + WEEK, whole - 1)
    above = level[begin] - np.array([level[d - WEEK : d].mean() for d in begin])
    rows = np.stack([np.ones(len(begin)), above], axis=1)
    drift, runs = np.zeros((AHEAD_DAYS, 2)), np.full((len(begin), AHEAD_DAYS), np.nan)
    for ahead in range(1, AHEAD_DAYS + 1):
        has = begin + ahead < whole
        over = level[begin[has] + ahead] - level[begin[has]]
        drift[ahead - 1] = _fit(rows[has], over[:, None], season[begin[has]])[:, 0]
        runs[has, ahead - 1] = over - rows[has] @ drift[ahead - 1]
    full = np.flatnonzero(~np.isnan(runs[:, -1]))
    full = full[np.sort(np.argsort(-season[begin[full]], kind="stable")[:SCENES])]
    weight = season[begin[full]]
    return lower, drift, runs[full], weight / weight.sum()


def assumed() -> Habits:
    """What stands in for a past too short: yesterday's course again, with misses drawn once for all."""
    chance = np.random.default_rng(20_220_601)
    count = 96
    hourly = np.cumsum(chance.normal(0.0, SD_HOUR, (count, DAY_H)), axis=1)
    runs, now = np.empty((count, AHEAD_DAYS)), np.zeros(count)
    for day in range(AHEAD_DAYS):
        now = KEEP_DAY * now + chance.normal(0.0, SD_DAY, count)
        runs[:, day] = now
    back = KEEP_DAY ** np.arange(1, AHEAD_DAYS + 1) - 1.0
    even = np.full(count, 1.0 / count)
    features_count = 7
    return Habits(
        slopes=tuple(np.zeros((features_count, DAY_H - hour)) for hour in range(DAY_H)),
        misses=tuple(hourly[:, : DAY_H - hour] for hour in range(DAY_H)),
        chance=even,
        weekend=WEEKEND,
        drift=np.stack([np.zeros(AHEAD_DAYS), back], axis=1),
        runs=runs,
        run_chance=even,
    )


def features(days: Days, which: I8, hour: int) -> F8:
    """(n, 7) of each day at `hour`, the first one unknown: 1, level and trend against yesterday, temperature and its
    trend against yesterday's, a weekend's begin and end."""
    load, warm, weekend = days.log_mw.ravel(), days.ambient_c.ravel(), days.weekend
    at = which * DAY_H + hour

    def trend(values: F8, end: I8) -> F8:
        moved: F8 = values[end] - values[end - 2]
        return moved

    hot = warm[at] - warm[at - DAY_H]
    rise = trend(warm, at) - trend(warm, at - DAY_H)
    return np.stack(
        [
            np.ones(len(which)),
            load[at - 1] - load[at - 1 - DAY_H],
            trend(load, at - 1) - trend(load, at - 1 - DAY_H),
            np.nan_to_num(np.clip(hot, -10.0, 10.0)),
            np.nan_to_num(np.clip(rise, -10.0, 10.0)),
            (weekend[which] & ~weekend[which - 1]).astype(np.float64),
            (~weekend[which] & weekend[which - 1]).astype(np.float64),
        ],
        axis=1,
    )


def rest_of_day(days: Days, which: I8, hour: int) -> F8:
    """(n, 24 - hour) of each day, from `hour` on, over the hour before."""
    load = days.log_mw.ravel()
    at = which * DAY_H + hour
    out: F8 = load[at[:, None] + np.arange(DAY_H - hour)] - load[at - 1][:, None]
    return out


def usual(days: Days, which: I8, hour: int) -> F8:
    """The same as yesterday and the last week had it, half and half."""
    back = [rest_of_day(days, which - day, hour) for day in range(1, WEEK + 1)]
    out: F8 = 0.5 * back[0] + 0.5 * np.mean(back, axis=0)
    return out


def _fit(rows: F8, over: F8, weight: F8) -> F8:
    """Weighted least squares: (F, K)."""
    ridge = np.full(rows.shape[1], RIDGE)
    ridge[0] = LEVEL
    by = rows * weight[:, None]
    out: F8 = np.asarray(np.linalg.solve(by.T @ rows + np.diag(ridge), by.T @ over), np.float64)
    return out
