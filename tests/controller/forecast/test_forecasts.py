"""What holds for every forecast: nothing peeks, what is known is said exactly, gaps and short pasts are no fault."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from controller.forecast import FORECASTS, Market, forecast
from controller.forecast.features import SOURCES
from controller.forecast.known import Forecast, Known, Outlook, Series
from controller.forecast.localtime import DAY_MS, HOUR_MS
from tests.controller.forecast.world import MARKET, START_MS, World, scrambled, truth, world

CORE = [name for name in FORECASTS if name != "trees"]
STEPS = 96


@cache
def market() -> World:
    """Two hundred days, once."""
    return world(days=200)


@cache
def fitted(name: str) -> Forecast:
    """On what is known at day 100, prices one interval late."""
    return made(name, market().known(market().at(100)))


def holding(known: Known, name: str, series: Series | None) -> Known:
    """`known` with another series."""
    change: dict[str, Any] = {name: series}
    return replace(known, **change)


def made(name: str, fitted_on: Known | None = None, settings: Market = MARKET) -> Forecast:
    out = forecast(name, settings)
    if fitted_on is not None:
        out.fit(fitted_on)
    return out


def same(one: Outlook, two: Outlook) -> bool:
    assert one.ambient_c is not None
    assert two.ambient_c is not None
    pairs = ((one.usd_per_mwh, two.usd_per_mwh), (one.spike, two.spike), (one.peak, two.peak))
    return all(np.array_equal(a, b) for a, b in (*pairs, (one.ambient_c, two.ambient_c)))


def sound(outlook: Outlook, steps: int) -> bool:
    shapes = {len(outlook.usd_per_mwh), len(outlook.spike), len(outlook.peak)}
    chances = np.concatenate((outlook.spike, outlook.peak))
    return shapes == {steps} and bool(
        np.isfinite(outlook.usd_per_mwh).all() and (chances >= 0).all() and (chances <= 1).all()
    )


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("name", CORE)
def test_nothing_peeks(name: str, late: int) -> None:
    """Another future, unpublished day-ahead prices included, changes neither what is learned nor what is said."""
    truths = market()
    fit_ms, at_ms = truths.at(100), truths.at(130, 15.25)
    told = made(name, truths.known(fit_ms, late)).outlook(truths.known(at_ms, late), 900_000, STEPS)
    other = scrambled(truths, fit_ms, late)
    again = made(name, other.known(fit_ms, late)).outlook(truths.known(at_ms, late), 900_000, STEPS)
    assert same(told, again)
    other = scrambled(truths, at_ms, late)
    again = made(name, other.known(fit_ms, late)).outlook(other.known(at_ms, late), 900_000, STEPS)
    assert same(told, again)


@pytest.mark.parametrize("name", CORE)
def test_a_careless_caller_gives_nothing_away(name: str) -> None:
    """Prices, loads and temperatures that begin after `at_ms` are cut off even if they are handed over."""
    truths = market()
    at_ms = truths.at(130, 15.25)
    known = truths.known(at_ms, 0)
    whole = replace(known, price=truths.price, ambient_c=truths.ambient)
    out = fitted(name)
    assert same(out.outlook(known, 900_000, STEPS), out.outlook(whole, 900_000, STEPS))


@pytest.mark.parametrize("name", CORE)
def test_what_was_asked_before_does_not_matter(name: str) -> None:
    """The answer is the same from a forecast that has been in use and refitted, and from a fresh one."""
    truths = market()
    used = made(name, truths.known(truths.at(60)))
    for day in (61, 90, 100):
        used.fit(truths.known(truths.at(day)))
        used.outlook(truths.known(truths.at(day, 7)), 900_000, STEPS)
    fresh = made(name, truths.known(truths.at(100)))
    for hour in (0.0, 7.25, 20.5):
        known = truths.known(truths.at(103, hour))
        one, two = used.outlook(known, 900_000, STEPS), fresh.outlook(known, 900_000, STEPS)
        np.testing.assert_allclose(one.usd_per_mwh, two.usd_per_mwh, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(one.spike, two.spike, rtol=1e-7)
        np.testing.assert_allclose(one.peak, two.peak, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", CORE)
def test_a_price_that_is_known_is_said_as_it_is(name: str) -> None:
    truths = market()
    out = made(name, truths.known(truths.at(100), 0))
    spiked = np.flatnonzero(truths.price.values[110 * 96 : 190 * 96] > MARKET.spike_usd_per_mwh)
    for index in (110 * 96 + 5, 110 * 96 + int(spiked[0])):
        at_ms = START_MS + index * 900_000
        said = out.outlook(truths.known(at_ms, 0), 900_000, STEPS)
        assert said.start_ms == at_ms
        assert said.usd_per_mwh[0] == truths.price.values[index]
        assert said.spike[0] == float(truths.price.values[index] > MARKET.spike_usd_per_mwh)
        late = out.outlook(truths.known(at_ms, 1), 900_000, STEPS)
        assert late.usd_per_mwh[0] != truths.price.values[index]


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("hole", ["price", "day_ahead", "load_mw", "ambient_c"])
def test_gaps_are_done_without(name: str, hole: str) -> None:
    """Holes everywhere in one series, its last hours included: the outlook is whole, and from the same past."""
    truths, chance = market(), np.random.default_rng(5)
    out = made(name, _holed(truths.known(truths.at(100)), hole, chance))
    said = out.outlook(_holed(truths.known(truths.at(130, 18.5)), hole, chance), 900_000, STEPS)
    assert sound(said, STEPS)
    assert said.usd_per_mwh.std() > 0


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("lacks", ["day_ahead", "load_mw", "ambient_c"])
def test_a_source_that_fails_after_the_fit_is_done_without(name: str, lacks: str) -> None:
    truths = market()
    out = made(name, truths.known(truths.at(100)), replace(MARKET, sources=SOURCES))
    known = holding(truths.known(truths.at(130, 18.5)), lacks, None)
    said = out.outlook(known, 900_000, STEPS)
    assert sound(said, STEPS)
    assert (said.ambient_c is None) == (lacks == "ambient_c")
    if name == "blended" or (name == "day_ahead" and lacks == "day_ahead"):
        assert said.note
    if lacks == "load_mw":
        assert not said.peak.any()


@pytest.mark.parametrize("name", CORE)
def test_no_past_at_all_is_said(name: str) -> None:
    """Before the first price: a whole outlook of what is assumed, and a note that says so."""
    empty = Known(START_MS + 5, Series(START_MS, 900_000, np.zeros(0)))
    out = made(name, empty, replace(MARKET, unknown_usd_per_mwh=33.0))
    said = out.outlook(empty, 900_000, 8)
    assert sound(said, 8)
    assert set(said.usd_per_mwh) == {33.0}
    assert "no price" in said.note
    assert said.ambient_c is None


@pytest.mark.parametrize("name", CORE)
def test_a_short_past_falls_back_and_says_so(name: str) -> None:
    """Three days teach nothing: persistence or day-ahead stands in, near the last price, with a note from a model."""
    truths = market()
    known = truths.known(truths.at(3, 5))
    said = made(name, known).outlook(known, 900_000, STEPS)
    assert sound(said, STEPS)
    assert abs(said.usd_per_mwh[0] - known.price.values[-1]) < 25
    if name == "blended":
        assert said.note


@pytest.mark.parametrize("name", CORE)
def test_a_price_long_out_of_date_leaves_the_usual_one(name: str) -> None:
    """A feed dead for six hours within a spike: what is planned with is no spike."""
    truths = market()
    known = truths.known(truths.at(130, 9))
    values = known.price.values.copy()
    values[-24:] = np.nan
    values[-26:-24] = 4_000.0
    said = fitted(name).outlook(replace(known, price=replace(known.price, values=values)), 900_000, STEPS)
    assert sound(said, STEPS)
    assert said.usd_per_mwh.max() < 250


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("step_min", [5, 30, 60])
def test_any_interval_from_five_minutes_to_an_hour(name: str, step_min: int) -> None:
    """Fitted and asked on its own grid; over a day it is nearer to what comes than the last week's mean is."""
    truths = world(days=75, step_min=step_min)
    step_ms, steps = step_min * 60_000, DAY_MS // (step_min * 60_000)
    out = made(name, truths.known(truths.at(60)))
    off, usual_off = [], []
    for day in range(61, 73):
        known = truths.known(truths.at(day, 21))
        said = out.outlook(known, step_ms, steps)
        assert sound(said, steps)
        came = truth(truths.price, said.start_ms, step_ms, steps)
        off.append(np.abs(said.usd_per_mwh - came).mean())
        usual_off.append(np.abs(known.price.values[-7 * steps :].mean() - came).mean())
    assert np.mean(off) < np.mean(usual_off)


@pytest.mark.parametrize("name", CORE)
def test_steps_that_are_not_the_prices_own(name: str) -> None:
    """Hours over a 15-minute price hold its means, 5 minutes repeat it; both begin where the running step does."""
    truths = market()
    out = fitted(name)
    known = truths.known(truths.at(130, 15))
    own = out.outlook(known, 900_000, STEPS)
    hours = out.outlook(known, HOUR_MS, 24)
    fine = out.outlook(known, 300_000, 3 * STEPS)
    np.testing.assert_allclose(hours.usd_per_mwh, own.usd_per_mwh.reshape(-1, 4).mean(axis=1))
    np.testing.assert_allclose(fine.usd_per_mwh, np.repeat(own.usd_per_mwh, 3))
    assert hours.peak.sum() == pytest.approx(own.peak.sum())
    assert fine.peak.sum() == pytest.approx(own.peak.sum())
    later = out.outlook(truths.known(truths.at(130, 15.5)), HOUR_MS, 24)
    assert later.start_ms == hours.start_ms
    assert sound(later, 24)


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("day", ["2022-03-13", "2022-11-06"])
def test_days_when_the_clocks_change(name: str, day: str) -> None:
    truths = market()
    noon_ms = int(np.datetime64(day, "ms").astype(np.int64)) + 6 * HOUR_MS
    out = made(name, truths.known(truths.at(65)))
    for hour in range(26):
        assert sound(out.outlook(truths.known(noon_ms + hour * HOUR_MS), 900_000, STEPS), STEPS)


@pytest.mark.parametrize("name", CORE)
def test_extreme_prices_are_borne(name: str) -> None:
    """9,000 and -250 USD/MWh in the past and now."""
    truths = market()
    values = truths.price.values.copy()
    values[1_000:1_040], values[5_000:5_004], values[130 * 96 - 2 : 130 * 96] = 9_000.0, -250.0, (-250.0, 9_000.0)
    wild = replace(truths, price=replace(truths.price, values=values))
    out = made(name, wild.known(wild.at(100)))
    said = out.outlook(wild.known(wild.at(130)), 900_000, STEPS)
    assert sound(said, STEPS)
    assert said.spike[0] > 0.3
    assert said.usd_per_mwh[0] > said.usd_per_mwh[40]


def test_a_name_that_is_none_and_steps_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="persistence"):
        forecast("tea-leaves")
    truths = market()
    for step_ms, steps in ((0, 4), (900_000, 0), (HOUR_MS, 24 * 15)):
        with pytest.raises(ValueError, match="steps"):
            forecast("persistence").outlook(truths.known(truths.at(9)), step_ms, steps)


def _holed(known: Known, hole: str, chance: np.random.Generator) -> Known:
    series: Series = getattr(known, hole)
    values = series.values.copy()
    values[chance.random(len(values)) < 0.2] = np.nan
    values[-3:] = np.nan
    return holding(known, hole, replace(series, values=values))
