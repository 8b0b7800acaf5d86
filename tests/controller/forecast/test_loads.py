"""What the load's past teaches: the rest of a day, the days to come, and what stands in where there is too little of it."""

from __future__ import annotations

import numpy as np

from controller.forecast.known import F8, Series
from controller.forecast.loads import AHEAD_DAYS, DAY_H, LEARN_DAYS, assumed, by_day, features, learned, usual
from controller.forecast.localtime import DAY_MS, HOUR_MS, local_time
from tests.controller.forecast.world import START_MS

CHICAGO = local_time("America/Chicago")
BEGIN_MS = START_MS - int(CHICAGO.local_ms(np.array([START_MS]))[0] % DAY_MS)
"""A local midnight."""


def _load(days: int, weekend: float = 0.9) -> tuple[Series, Series]:
    """Hot spells drive load and its swing of the day; weekends take `weekend` of it. Load and temperature, hourly."""
    chance = np.random.default_rng(3)
    hours = BEGIN_MS + np.arange(days * DAY_H, dtype=np.int64) * HOUR_MS
    wall = CHICAGO.local_ms(hours)
    spell = np.repeat(np.cumsum(chance.normal(0, 1.0, days)) * 0.3, DAY_H)
    warm: F8 = 25 + spell + (6 + spell) * np.cos(2 * np.pi * (wall / HOUR_MS % DAY_H - 16) / DAY_H)
    off = (wall // DAY_MS + 3) % 7 >= 5
    load: F8 = (40_000 + 1_000 * warm) * np.where(off, weekend, 1.0)
    load = load + chance.normal(0, 40, len(load))
    return Series(BEGIN_MS, HOUR_MS, load), Series(BEGIN_MS, HOUR_MS, warm)


def test_a_weekends_peak_is_told_from_a_weekdays() -> None:
    load, warm = _load(200)
    days = by_day(load, warm, CHICAGO)
    assert days is not None
    assert abs(learned(days, 100).weekend - np.log(0.9)) < 0.02


def test_the_rest_of_a_day_is_nearer_than_yesterday_and_the_week_had_it() -> None:
    load, warm = _load(300)
    days = by_day(load, warm, CHICAGO)
    assert days is not None
    past = by_day(Series(load.start_ms, HOUR_MS, load.values[: 250 * DAY_H]), warm, CHICAGO)
    assert past is not None
    habits = learned(past, 240)
    which, hour = np.arange(252, 298), 12
    truth = days.log_mw[which, hour:] - days.log_mw[which, hour - 1][:, None]
    plain = usual(days, which, hour)
    ours = plain + features(days, which, hour) @ habits.slopes[hour]
    assert np.abs(ours - truth).mean() < 0.8 * np.abs(plain - truth).mean()


def test_chances_of_what_the_past_missed_add_up() -> None:
    load, warm = _load(200)
    days = by_day(load, warm, CHICAGO)
    assert days is not None
    for habits in (learned(days, 100), assumed()):
        assert np.isclose(habits.chance.sum(), 1.0)
        assert np.isclose(habits.run_chance.sum(), 1.0)
        assert habits.runs.shape == (len(habits.run_chance), AHEAD_DAYS)
        for hour in range(DAY_H):
            assert habits.misses[hour].shape == (len(habits.chance), DAY_H - hour)
            assert np.isfinite(habits.misses[hour]).all()


def test_too_short_a_past_is_stood_in_for() -> None:
    load, warm = _load(LEARN_DAYS - 2)
    days = by_day(load, warm, CHICAGO)
    assert days is not None
    np.testing.assert_array_equal(learned(days, 30).runs, assumed().runs)


def test_gaps_and_the_change_of_the_clocks_leave_no_hole() -> None:
    load, warm = _load(120)
    values = load.values.copy()
    values[500:530] = np.nan
    values[0:5] = np.nan
    days = by_day(Series(load.start_ms, HOUR_MS, values), warm, CHICAGO)
    assert days is not None
    known = days.log_mw.ravel()[: days.known_h]
    assert np.isnan(known[:5]).all()
    assert np.isfinite(known[5:]).all()
    assert np.isfinite(learned(days, 60).drift).all()


def test_no_load_is_no_days() -> None:
    assert by_day(Series(BEGIN_MS, HOUR_MS, np.full(50, np.nan)), None, CHICAGO) is None
    assert by_day(Series(BEGIN_MS, HOUR_MS, np.zeros(0)), None, CHICAGO) is None
