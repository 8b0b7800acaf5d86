"""Hashprice: computed from the network's figures it agrees with what the market published; it grows old in the open."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from contract.clock import SystemClock
from controller.feeds.hashprice import (
    MS_PER_DAY,
    GivenHashPrice,
    TableHashPrice,
    computed_table,
    hashprice_usd_per_ph_day,
    subsidy_btc_on,
)
from controller.feeds.settings import ComputedHashPriceSettings, CsvHashPriceSettings, HashPriceSettings, build_feeds
from controller.feeds.table import SeriesTable, TableError, load_series, read_series

DATA = Path(__file__).parent / "data" / "btc_economics_2024_q2.csv"
HALVING = np.datetime64("2024-04-20", "ms").astype(np.int64)


def column(name: str) -> SeriesTable:
    return load_series(DATA, column=name, value_max=1e24)


def computed() -> SeriesTable:
    return computed_table(column("difficulty"), column("subsidy_btc"), column("fees_btc"), column("price_usd"))


def test_the_formula_agrees_with_the_published_hashprice() -> None:
    """To 2e-5 on every day for which both count the same blocks. On the others the published figure divides the day's
    reward by fewer blocks: on every day of one difficulty, the halving's included, by a whole number of them."""
    ours, theirs = computed(), column("hashprice_usd_per_ph_day")
    error = np.abs(ours.values / theirs.values - 1)
    assert np.median(error) < 2e-5
    assert error.max() < 0.06
    difficulty, subsidies = column("difficulty").values, column("subsidy_btc").values
    steady = np.ones(len(error), dtype=bool)
    steady[1:] &= difficulty[1:] == difficulty[:-1]
    steady[:-1] &= difficulty[:-1] == difficulty[1:]
    blocks = subsidies / np.array([subsidy_btc_on(int(day)) for day in ours.start_ms])
    published_blocks = (blocks * ours.values / theirs.values)[steady]
    assert len(published_blocks) > 70
    assert np.all(np.abs(published_blocks - np.round(published_blocks)) < 0.005)
    assert np.all(np.round(published_blocks) <= blocks[steady])


def test_hashprice_halves_with_the_subsidy_and_is_refused_without_a_difficulty() -> None:
    one = hashprice_usd_per_ph_day(8.6e13, 6.25, 0.0, 65_000.0)
    assert hashprice_usd_per_ph_day(8.6e13, 3.125, 0.0, 65_000.0) == pytest.approx(one / 2)
    assert hashprice_usd_per_ph_day(17.2e13, 6.25, 0.0, 65_000.0) == pytest.approx(one / 2)
    with pytest.raises(ValueError, match="difficulty"):
        hashprice_usd_per_ph_day(0.0, 3.125, 0.0, 65_000.0)


def test_the_subsidy_follows_the_halvings() -> None:
    day = int(HALVING)
    assert subsidy_btc_on(day - 1) == 6.25
    assert subsidy_btc_on(day) == 3.125
    assert subsidy_btc_on(0) == 50.0


def test_a_days_figure_is_known_when_the_day_is_over_and_ages_from_there() -> None:
    table = column("hashprice_usd_per_ph_day")
    feed = TableHashPrice("daily", table)
    first = int(table.start_ms[0])
    assert feed.hashprice_at(first + MS_PER_DAY - 1).usd_per_ph_day is None
    known = feed.hashprice_at(first + MS_PER_DAY)
    assert (known.usd_per_ph_day, known.age_ms) == (float(table.values[0]), 0)
    later = feed.hashprice_at(table.end_ms + 3 * MS_PER_DAY)
    assert (later.usd_per_ph_day, later.age_ms) == (float(table.values[-1]), 3 * MS_PER_DAY)
    assert feed.hashprice_at(table.end_ms + 100 * MS_PER_DAY).usd_per_ph_day is None


def test_a_given_figure_does_not_age() -> None:
    assert GivenHashPrice("given", 55.0).hashprice_at(10**15).age_ms == 0


def test_columns_of_other_days_are_refused() -> None:
    short = read_series(iter(["date_utc,price_usd", "2024-03-25,1", "2024-03-26,1"]), "short", column="price_usd")
    with pytest.raises(TableError, match="does not have the days"):
        computed_table(column("difficulty"), column("subsidy_btc"), column("fees_btc"), short)


def test_both_ways_of_computing_can_be_configured() -> None:
    settings: dict[str, HashPriceSettings] = {
        "file": CsvHashPriceSettings(
            kind="csv",
            path=DATA,
            difficulty="difficulty",
            subsidy_btc="subsidy_btc",
            fees_btc="fees_btc",
            btc_usd="price_usd",
        ),
        "figures": ComputedHashPriceSettings(
            kind="computed", difficulty=8.6e13, subsidy_btc_per_block=3.125, fees_btc_per_block=0.1, btc_usd=65_000
        ),
    }
    feeds = build_feeds({}, settings, SystemClock(), Random(1))
    day = int(HALVING) + 10 * MS_PER_DAY
    assert feeds.hashprices["figures"].hashprice_at(day).usd_per_ph_day == pytest.approx(49.03, abs=0.01)
    from_file = feeds.hashprices["file"].hashprice_at(day).usd_per_ph_day
    assert from_file is not None
    assert 45 < from_file < 60
