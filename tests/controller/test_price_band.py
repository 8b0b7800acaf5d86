"""The band of prices of a preview: the outlook in the middle, and around it how the price really moved."""

from __future__ import annotations

import numpy as np
import pytest

from contract.units import MS_PER_HOUR
from controller.engine.model import Outlook
from controller.forecast.known import Series
from controller.price_band import band

DAY_MS, STEP_MS = 24 * MS_PER_HOUR, 900_000
NOW_MS = 1_700_000_000_000 // DAY_MS * DAY_MS + 12 * MS_PER_HOUR


def past(values: np.ndarray) -> Series:
    """Prices of which the last is that of now."""
    return Series(NOW_MS - (len(values) - 1) * STEP_MS, STEP_MS, values)


def outlook(*usd: float) -> Outlook:
    return Outlook(start_ms=NOW_MS, step_ms=STEP_MS, usd_per_mwh=usd, forecast="given")


def test_expected_is_the_outlooks_mean_over_the_time_and_what_it_does_not_reach_is_the_newest_price() -> None:
    flat = past(np.full(96 * 10, 30.0))
    found = band(flat, outlook(40.0, 80.0), 30.0, NOW_MS, NOW_MS + 600_000, NOW_MS + 1_500_000)
    assert found is not None
    assert found.low == found.expected == found.high == pytest.approx((5 * 40.0 + 10 * 80.0) / 15)
    later = band(flat, outlook(40.0), 30.0, NOW_MS, NOW_MS + DAY_MS // 2, NOW_MS + DAY_MS)
    assert later is not None
    assert later.expected == 30.0
    assert "newest price" in later.basis


def test_one_in_ten_lies_below_and_above_as_the_price_moved_at_this_hour_alone() -> None:
    """Noon moves by up to 100 evenly; every other hour by a million, which says nothing of noon."""
    quarters = np.arange(96 * 28)
    hour = ((quarters - quarters[-1]) * STEP_MS + 12 * MS_PER_HOUR) % DAY_MS / MS_PER_HOUR
    chance = np.random.default_rng(2)
    near = np.abs(hour - 12.0) <= 2.0
    values = np.where(near, chance.uniform(0.0, 100.0, len(quarters)), chance.uniform(0.0, 1e6, len(quarters)))
    found = band(past(values), outlook(50.0, 50.0), 50.0, NOW_MS, NOW_MS + STEP_MS, NOW_MS + 2 * STEP_MS)
    assert found is not None
    assert found.low < found.expected == 50.0 < found.high
    assert found.high - found.low < 200.0, "the nine tenths of moves between two even draws of 0 to 100"
    assert "at this hour" in found.basis


def test_a_longer_time_is_steadier() -> None:
    chance = np.random.default_rng(3)
    series = past(30.0 + chance.normal(0.0, 10.0, 96 * 28))
    short = band(series, outlook(30.0, 30.0), 30.0, NOW_MS, NOW_MS + STEP_MS, NOW_MS + 2 * STEP_MS)
    long = band(series, outlook(30.0), 30.0, NOW_MS, NOW_MS, NOW_MS + 8 * MS_PER_HOUR)
    assert short is not None
    assert long is not None
    assert long.high - long.low < short.high - short.low


def test_the_interval_that_runs_has_its_price_and_one_that_begins_within_it_has_not_all_of_it() -> None:
    chance = np.random.default_rng(5)
    series = past(30.0 + chance.normal(0.0, 10.0, 96 * 28))
    known = band(series, outlook(30.0), 30.0, NOW_MS, NOW_MS, NOW_MS + STEP_MS)
    half = band(series, outlook(30.0, 30.0), 30.0, NOW_MS, NOW_MS + STEP_MS // 2, NOW_MS + STEP_MS * 3 // 2)
    assert known is not None
    assert half is not None
    assert known.high == pytest.approx(known.low) == pytest.approx(30.0)
    assert half.high - half.low > 5.0


@pytest.mark.parametrize("quarters", [1, 10, 40])
def test_too_short_a_past_says_nothing(quarters: int) -> None:
    assert band(past(np.full(quarters, 30.0)), None, 30.0, NOW_MS, NOW_MS, NOW_MS + 6 * MS_PER_HOUR) is None
    assert band(None, None, 30.0, NOW_MS, NOW_MS, None) is None


def test_holes_are_left_out_and_an_override_without_an_end_counts_as_a_day() -> None:
    chance = np.random.default_rng(4)
    values = 30.0 + chance.normal(0.0, 10.0, 96 * 28)
    values[chance.integers(0, len(values) - 1, 20)] = np.nan
    found = band(past(values), None, 30.0, NOW_MS, NOW_MS, None)
    assert found is not None
    assert np.isfinite([found.low, found.expected, found.high]).all()
