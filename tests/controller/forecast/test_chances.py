"""The chances of spikes and coincident peaks, the temperature, and local time: honest on a time they have not seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from controller.feeds.table import load_series
from controller.forecast.ambient import ambient_path
from controller.forecast.day_ahead import DayAhead
from controller.forecast.known import F8, Known, Series
from controller.forecast.localtime import DAY_MS, HOUR_MS, local_time
from controller.forecast.moment import at_times, moment
from controller.forecast.peaks import PeakChance
from controller.forecast.persistence import Persistence
from controller.forecast.spikes import SpikeChance
from tests.controller.forecast.world import START_MS, peak_hours, until, world

CHICAGO = local_time("America/Chicago")
SAMPLES = Path(__file__).parents[3] / "sim" / "samples"


def test_spike_chances_are_met_as_often_as_they_are_told() -> None:
    """Learned on one year, asked through the next: said and came agree, and states tell spikes from calm."""
    truths = world(days=730, seed=4)
    spikes = SpikeChance(250.0, CHICAGO)
    spikes.fit(truths.known(truths.at(365)))
    assert spikes.fitted
    told, came = [], []
    for index in range(366 * 96, 728 * 96, 3):
        known = truths.known(START_MS + index * 900_000)
        now = moment(known, 2 * HOUR_MS)
        assert known.day_ahead is not None
        told.append(spikes.path(now, at_times(known.day_ahead, now.starts)))
        came.append(at_times(truths.price, now.starts) > 250.0)
    said, was = np.array(told), np.array(came, dtype=np.float64)
    assert said.mean() == pytest.approx(was.mean(), rel=0.6), "one year has half as many again as the other"
    for low, high in ((0.02, 0.1), (0.1, 0.4), (0.4, 1.0)):
        inside = (said >= low) & (said < high)
        assert inside.sum() > 200
        assert said[inside].mean() == pytest.approx(was[inside].mean(), rel=0.5)
    assert _skill(said[:, 0], was[:, 0]) > 0.25
    assert _skill(said[:, 0], was[:, 0]) > _skill(said[:, -1], was[:, -1]) > 0.0


def test_peak_chances_are_met_as_often_as_they_are_told() -> None:
    """With two years behind, asked through the next: the hours given a chance hold that many peaks."""
    truths = world(days=1_096, seed=6)
    peaks = PeakChance(tuple(range(1, 13)), CHICAGO)
    peaks.fit(truths.known(truths.at(730)))
    top = peak_hours(truths.load, "America/Chicago")
    told, came = [], []
    for hour in range(731 * 24, 1_094 * 24, 5):
        starts = START_MS + (hour + np.arange(24, dtype=np.int64)) * HOUR_MS
        told.append(peaks.path(truths.known(int(starts[0])), starts, HOUR_MS))
        came.append(top[hour : hour + 24])
    said, was = np.array(told), np.array(came)
    assert said.mean() == pytest.approx(was.mean(), rel=0.5)
    likely = said > 0.03
    assert said[likely].mean() == pytest.approx(was[likely].mean(), rel=0.6)
    near = likely[:, :3]
    assert was[:, :3][near].sum() > 0.5 * was[:, :3].sum(), "most peak hours are warned of when they are near"
    assert near.mean() < 0.1, "without crying wolf all day"


def test_only_billed_months_have_coincident_peaks() -> None:
    truths = world(days=220)
    peaks = PeakChance((7,), CHICAGO)
    peaks.fit(truths.known(truths.at(150)))
    for day, billed in ((120, False), (190, True)):
        starts = truths.at(day, 18) + np.arange(96, dtype=np.int64) * 900_000
        assert peaks.path(truths.known(int(starts[0])), starts, 900_000).any() == billed
    edge_ms = int(datetime(2022, 7, 31, 20, tzinfo=ZoneInfo("America/Chicago")).timestamp() * 1_000)
    starts = edge_ms + np.arange(8, dtype=np.int64) * HOUR_MS
    chance = peaks.path(truths.known(edge_ms), starts, HOUR_MS)
    assert not chance[4:].any()


def test_a_new_highest_load_is_likelier_the_peak_than_a_cool_day() -> None:
    truths = world(days=220)
    peaks = PeakChance((7,), CHICAGO)
    at_ms = truths.at(201, 20)
    starts = at_ms + np.arange(4, dtype=np.int64) * HOUR_MS
    known = truths.known(at_ms)
    assert known.load_mw is not None

    def said(scale: float) -> float:
        assert known.load_mw is not None
        values = known.load_mw.values.copy()
        values[-16:] *= scale
        return float(peaks.path(replace(known, load_mw=replace(known.load_mw, values=values)), starts, HOUR_MS).sum())

    assert said(0.85) < said(1.0) < said(1.25)


def test_temperature_is_nearer_than_yesterday_and_exact_now() -> None:
    """On Houston's August 2023."""
    table = load_series(SAMPLES / "houston_weather_hourly_2023_08.csv", column="temperature_c")
    series = Series(int(table.start_ms[0]), table.interval_ms, table.values)
    price = Series(series.start_ms, HOUR_MS, np.zeros(0))
    ours, yesterdays = [], []
    for day in range(7, 29):
        at_ms = series.start_ms + day * DAY_MS + 15 * HOUR_MS
        times = at_ms + np.arange(12, dtype=np.int64) * HOUR_MS
        path = ambient_path(Known(at_ms, price, ambient_c=until(series, at_ms + HOUR_MS)), times)
        assert path is not None
        came = at_times(series, times)
        assert path[0] == came[0]
        ours.append(path - came)
        yesterdays.append(at_times(series, times - DAY_MS) - came)
    assert _rms(np.array(ours)) < 0.9 * _rms(np.array(yesterdays))


def test_a_single_reading_stays() -> None:
    price = Series(START_MS, 900_000, np.zeros(0))
    known = Known(START_MS + 5, price, ambient_c=Series(START_MS, HOUR_MS, np.array([31.5])))
    path = ambient_path(known, START_MS + np.arange(30, dtype=np.int64) * HOUR_MS)
    assert path is not None
    np.testing.assert_allclose(path, 31.5)


def test_day_ahead_learns_its_premium_and_how_fast_a_departure_fades() -> None:
    """Real time pays eight tenths of day-ahead, plus a wander whose half is gone in an hour."""
    chance, count = np.random.default_rng(2), 120 * 96
    ahead = 40 + 25 * np.sin(np.arange(count // 4) / 24 * 2 * np.pi)
    wander, kicks, keep = np.zeros(count), chance.normal(0, 2, count), 0.5**0.25
    for k in range(1, count):
        wander[k] = keep * wander[k - 1] + kicks[k]
    price = Series(START_MS, 900_000, 0.8 * np.repeat(ahead, 4) + wander)
    known = Known(price.end_ms, price, Series(START_MS, HOUR_MS, np.append(ahead, ahead[:24])))
    part = DayAhead(250.0)
    part.fit(known)
    now = moment(known, DAY_MS)
    path, note = part.path(now)
    assert note == ""
    left = wander[-1] * keep ** np.arange(1, 97)
    np.testing.assert_allclose(path, 0.8 * np.repeat(ahead[:24], 4) + left, atol=2.5)


def test_persistence_fades_into_the_usual_price_of_the_hour() -> None:
    """One evening's spike among seven days leaves no trace in the next evenings' usual price."""
    usual = np.tile(30 + 10 * np.sin(np.arange(96) / 96 * 2 * np.pi), 10)
    values = usual.copy()
    values[5 * 96 + 70 : 5 * 96 + 74], values[-1] = 5_000.0, 130.0
    price = Series(START_MS, 900_000, values)
    path, note = Persistence(250.0).path(moment(Known(price.end_ms, price), DAY_MS))
    assert note == ""
    assert path[0] == 130.0
    np.testing.assert_allclose(path[40:], usual[40:96], atol=1.0)


@pytest.mark.parametrize("timezone", ["America/Chicago", "Europe/Berlin", "Australia/Lord_Howe", "UTC"])
def test_local_time_is_the_zones_own(timezone: str) -> None:
    """Every half hour of the days round each change of the clocks, half-hour changes and the south included."""
    local, zone = local_time(timezone), ZoneInfo(timezone)
    for date in ("2022-03-12", "2022-03-26", "2022-04-02", "2022-10-01", "2022-10-29", "2022-11-05", "2024-02-28"):
        first = int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp())
        seconds = [first + k * 1_800 for k in range(120)]
        there = [datetime.fromtimestamp(one, zone) for one in seconds]
        at = np.array(seconds, dtype=np.int64) * 1_000
        assert local.hour(at).tolist() == [one.hour for one in there]
        assert (local.month(at) % 12 + 1).tolist() == [one.month for one in there]


def _skill(said: F8, came: F8) -> float:
    base = float(came.mean())
    return 1 - float(np.mean((said - came) ** 2)) / (base * (1 - base))


def _rms(miss: F8) -> float:
    return float(np.sqrt(np.mean(miss**2)))
