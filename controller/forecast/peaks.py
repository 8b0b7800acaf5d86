"""The chance that a step holds the month's highest system load: what the coincident-peak charge is taken from.

What may still come today, and what may come on the month's days after it, are drawn from what the load's past teaches
(`loads`). A day bills in as many of these as its peak passes the month's so far and no later day passes it; within the
day, the hours near its highest share it. Which months bill is an argument: rules are data.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.forecast.known import F8, Known, Series
from controller.forecast.loads import AHEAD_DAYS, DAY_H, WEEK, Days, Habits, assumed, by_day, features, learned, usual
from controller.forecast.localtime import DAY_MS, HOUR_MS, LocalTime, month_of_year
from controller.forecast.memo import Memo
from controller.forecast.moment import I8, past_only

BLUR: Final = 0.0025
"""Share of the load by which two peaks are told apart: drawn from the past, they are only as good as that."""
BLUR_HOUR: Final = 0.003
DOUBT: Final = 0.3
DOUBT_SD: Final = 0.06
"""The chance that a month ahead goes another way than the past has shown, and by how much; less in a shorter rest."""
OFTEN: Final = 0.65
"""Chances so drawn come so often, over made-up years: days are told as if what the past missed were all there is."""
GRID: Final = 7
READ_DAYS: Final = 45
"""No more of the past load than this is read for one outlook, besides what habits are learned from."""
LEAST_DAYS: Final = 9
"""Of past load, below which nothing is told."""
DAYS_AHEAD: Final = 2
"""Whole days told after today."""
LATEST_MS: Final = 12 * HOUR_MS
"""A load older than this foretells nothing."""


class PeakChance:
    """Chance of the month's coincident peak, step by step; the steps of an hour share the hour's."""

    def __init__(self, months: tuple[int, ...], local: LocalTime) -> None:
        self.months = months
        self._local = local
        self._habits: Memo[Habits] = Memo()
        self._told: Memo[tuple[int, F8]] = Memo()

    def fit(self, past: Known) -> None:
        """Learn the habits of the month ahead. They are a matter of what is known alone: `path` learns them where this
        was not called, or long ago."""
        load = past_only(past.load_mw, past.at_ms)
        if load is not None and self.months:
            self._habits_of(load, past.ambient_c, past.at_ms)

    def path(self, known: Known, starts: I8, step_ms: int) -> F8:
        """(H,) chances; 0 outside the billed months, and everywhere where no fresh load is known."""
        none = np.zeros(len(starts))
        load = past_only(known.load_mw, known.at_ms)
        if load is None or not self.months or known.at_ms - load.end_ms > LATEST_MS:
            return none
        months = month_of_year(self._local.month(starts))
        billed = np.isin(months, self.months)
        if not billed.any():
            return none
        first_hour, chance = self._by_hour(load, known)
        parts = max(step_ms // HOUR_MS, 1)
        inside = starts[:, None] + np.arange(parts, dtype=np.int64) * HOUR_MS
        at = self._local.local_ms(inside) // HOUR_MS - first_hour
        hit = np.where((at >= 0) & (at < len(chance)), chance[np.clip(at, 0, len(chance) - 1)], 0.0)
        told: F8 = np.where(billed, hit.sum(axis=1) * min(step_ms, HOUR_MS) / HOUR_MS, 0.0)
        return told

    def _by_hour(self, load: Series, known: Known) -> tuple[int, F8]:
        """The first hour whose load is not known, local, and chances from it on; kept until a new load is known."""
        per_day = DAY_MS // load.step_ms
        tail = Series(
            max(load.end_ms - READ_DAYS * per_day * load.step_ms, load.start_ms),
            load.step_ms,
            load.values[-READ_DAYS * per_day :],
        )
        hour_ms = known.at_ms // HOUR_MS * HOUR_MS
        warm = None if known.ambient_c is None else past_only(known.ambient_c, hour_ms)
        near = b"" if warm is None else warm.values[-3 * DAY_MS // warm.step_ms :].tobytes()
        key = (hour_ms, tail.end_ms, tail.values.tobytes(), near, len(load.values))

        def answer() -> tuple[int, F8]:
            days = by_day(tail, warm, self._local)
            if days is None or days.known_h < LEAST_DAYS * DAY_H:
                return 0, np.zeros(1)
            return days.first_day * DAY_H + days.known_h, _chances(days, self._habits_of(load, warm, known.at_ms))

        return self._told.get(key, answer)

    def _habits_of(self, load: Series, ambient: Series | None, at_ms: int) -> Habits:
        """Learned from what was known when the local month began."""
        date = np.int64(self._local.local_ms(np.array([at_ms]))[0] // DAY_MS).astype("datetime64[D]")
        month = date.astype("datetime64[M]")
        begin_ms = int(month.astype("datetime64[ms]").astype(np.int64))
        past = Series(load.start_ms, load.step_ms, load.values[: max((begin_ms - load.start_ms) // load.step_ms, 0)])
        middle = month.astype("datetime64[D]") + 15
        of_year = int((middle - middle.astype("datetime64[Y]")).astype(np.int64))
        warm = None if ambient is None else past_only(ambient, begin_ms)
        seen = b"" if warm is None else warm.values.tobytes()
        key = (begin_ms, past.start_ms, past.step_ms, past.values.tobytes(), seen)

        def answer() -> Habits:
            days = by_day(past, warm, self._local)
            return assumed() if days is None else learned(days, of_year)

        return self._habits.get(key, answer)


def _chances(days: Days, habits: Habits) -> F8:
    """(K,) chance that each hour is its local month's highest: from the first unknown one to the end of the day after
    tomorrow."""
    today, hour = divmod(days.known_h, DAY_H)
    load = days.log_mw.ravel()
    which = np.array([today], np.int64)
    base = (usual(days, which, hour) + features(days, which, hour) @ habits.slopes[hour])[0] + load[days.known_h - 1]
    scenes = base + habits.misses[hour]
    date = np.int64(days.first_day + today).astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    left = min(int(((month + 1).astype("datetime64[D]") - date).astype(np.int64)) - 1, AHEAD_DAYS)
    before = load[today * DAY_H : days.known_h]
    past = float(before.max()) if len(before) else -np.inf
    since = max(today - int((date - month.astype("datetime64[D]")).astype(np.int64)), 0)
    earlier = load[since * DAY_H : today * DAY_H]
    so_far = float(np.nanmax(earlier)) if np.isfinite(earlier).any() else -np.inf

    highest = scenes.max(axis=1)
    peak = np.maximum(highest, past)
    later, off = _later(days, habits, today, left)
    bills = _above(peak - so_far) * _above(highest - past) * _none_later(peak, later, off, habits, left)
    within = np.exp((scenes - highest[:, None]) / BLUR_HOUR)
    within /= within.sum(axis=1, keepdims=True)
    likely = float(habits.chance @ peak)
    heights = likely + later + habits.drift[:left, 1] * (likely - off)
    profile = _profile(days, today)
    coming = [_leads(heights, ahead, max(so_far, likely), habits) * profile for ahead in range(DAYS_AHEAD)]
    return OFTEN * np.concatenate([(habits.chance * bills) @ within, *coming])


def _later(days: Days, habits: Habits, today: int, left: int) -> tuple[F8, float]:
    """(R, left) daily peaks to come over today's, were it the last week's mean; and that mean on a day like today."""
    weekend = (days.first_day + today + np.arange(left + 1) + 3) % WEEK >= 5
    week = days.log_mw[today - WEEK : today].max(axis=1) - habits.weekend * days.weekend[today - WEEK : today]
    runs: F8 = habits.runs[:, :left] + habits.drift[:left, 0] + habits.weekend * (1.0 * weekend[1:] - weekend[0])
    return runs, float(week.mean()) + habits.weekend * float(weekend[0])


def _none_later(peak: F8, later: F8, off: float, habits: Habits, left: int) -> F8:
    """(S,) chance that no later day of the month passes a peak of today; looked up between a few heights."""
    if left == 0:
        return np.ones(len(peak))
    heights = np.linspace(float(peak.min()) - 1e-9, float(peak.max()) + 1e-9, GRID)
    told = np.empty(GRID)
    doubt = np.hypot(BLUR, DOUBT_SD * np.sqrt(left / AHEAD_DAYS))
    for k, height in enumerate(heights):
        most = (later + habits.drift[:left, 1] * (height - off)).max(axis=1)
        told[k] = habits.run_chance @ ((1 - DOUBT) * _above(-most) + DOUBT * _above(-most, doubt))
    out: F8 = np.interp(peak, heights, told)
    return out


def _leads(heights: F8, ahead: int, floor: float, habits: Habits) -> float:
    """The chance that one of the days to come passes `floor` and all the others; 0 beyond the month, whose next one is
    not told yet. `heights` (R, left)."""
    if ahead >= heights.shape[1]:
        return 0.0
    others = np.delete(heights, ahead, axis=1)
    rival = np.maximum(others.max(axis=1, initial=-np.inf), floor)
    return float(habits.run_chance @ _above(heights[:, ahead] - rival))


def _profile(days: Days, today: int) -> F8:
    """(24,) which hour the last week's days had their peaks in, those near it counting in part."""
    week = days.log_mw[today - WEEK : today]
    near = np.exp((week - week.max(axis=1, keepdims=True)) / BLUR_HOUR)
    out: F8 = (near / near.sum(axis=1, keepdims=True)).mean(axis=0)
    return out


def _above(margin: F8, sd: float = BLUR) -> F8:
    """Chance that a margin, told as well as `sd`, is above 0: the normal distribution to a thousandth."""
    z = np.clip(margin / sd, -6.0, 6.0)
    out: F8 = 1.0 / (1.0 + np.exp(-(1.5976 * z + 0.07056 * z**3)))
    return out
