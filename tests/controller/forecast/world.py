"""A small market made from a seed: prices with spikes in hot evenings, a day-ahead price that half knows of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.forecast import Market
from controller.forecast.known import F8, Known, Series
from controller.forecast.localtime import DAY_MS, HOUR_MS, local_time
from controller.forecast.moment import I8, at_times

MARKET = Market(timezone="America/Chicago", peak_months=(6, 7, 8, 9))
START_MS = 1_640_995_200_000
"""2022-01-01T00:00Z."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that ever happens; `known` cuts it."""

    price: Series
    day_ahead: Series
    load: Series
    ambient: Series

    def known(self, at_ms: int, late: int = 1) -> Known:
        """What is known at `at_ms`; the day-ahead prices of today and, from 20:00 UTC, of tomorrow."""
        days = 2 if at_ms % DAY_MS >= 20 * HOUR_MS else 1
        return Known(
            at_ms,
            until(self.price, at_ms + (1 - late) * self.price.step_ms),
            until(self.day_ahead, at_ms // DAY_MS * DAY_MS + days * DAY_MS),
            until(self.load, at_ms - HOUR_MS),
            until(self.ambient, at_ms + self.ambient.step_ms),
        )

    def at(self, day: int, hour: float = 0.0) -> int:
        """The beginning of a price interval."""
        return int(self.price.start_ms + day * DAY_MS + hour * HOUR_MS)


def until(series: Series, end_ms: int) -> Series:
    """The series up to `end_ms`; a read-only view."""
    values = series.values[: max((end_ms - series.start_ms) // series.step_ms, 0)]
    values.flags.writeable = False
    return Series(series.start_ms, series.step_ms, values)


def scrambled(world: World, at_ms: int, late: int, seed: int = 3) -> World:
    """The same past, and another future: every series is shuffled and shifted from where knowledge ends."""
    known, chance = world.known(at_ms, late), np.random.default_rng(seed)

    def other(whole: Series, told: Series | None) -> Series:
        assert told is not None
        values = whole.values.copy()
        rest = values[len(told.values) :]
        values[len(told.values) :] = chance.permutation(rest) * 3.0 + 17.0
        return replace(whole, values=values)

    return World(
        other(world.price, known.price),
        other(world.day_ahead, known.day_ahead),
        other(world.load, known.load_mw),
        other(world.ambient, known.ambient_c),
    )


def world(days: int = 400, step_min: int = 15, seed: int = 1) -> World:
    """Load peaks in hot afternoons; the higher it is, the likelier the price leaps for an hour or so."""
    chance = np.random.default_rng(seed)
    hours = START_MS + np.arange(days * 24, dtype=np.int64) * HOUR_MS
    ambient = _temperature(hours, chance)
    load = 40_000 + 900 * np.maximum(ambient - 18, 0) + 3_000 * _daily(hours, 17) + chance.normal(0, 250, len(hours))
    stress = np.clip((load - np.quantile(load, 0.85)) / 8_000, 0, 1)
    expected = 22 + 10 * _daily(hours, 17) + 25 * stress
    day_ahead = expected * 1.1 + 160 * stress**2 + chance.normal(0, 2, len(hours))
    step_ms = step_min * 60_000
    starts = START_MS + np.arange(days * DAY_MS // step_ms, dtype=np.int64) * step_ms
    at_hour = (starts - START_MS) // HOUR_MS
    price = expected[at_hour] * np.exp(0.5 * _drift(len(starts), step_min, chance))
    price = np.where(
        _spikes(0.12 * stress[at_hour] ** 2, step_min, chance), 300 + chance.exponential(900, len(starts)), price
    )
    price = np.minimum(price - 8 * (chance.random(len(starts)) < 0.02), 5_000)
    return World(
        Series(START_MS, step_ms, price),
        Series(START_MS, HOUR_MS, day_ahead),
        Series(START_MS, HOUR_MS, load),
        Series(START_MS, HOUR_MS, ambient),
    )


def peak_hours(load: Series, timezone: str) -> F8:
    """(K,) 1 at each local month's hour of the highest load."""
    starts: I8 = load.start_ms + np.arange(len(load.values), dtype=np.int64) * load.step_ms
    month = local_time(timezone).month(starts)
    out = np.zeros(len(starts))
    for which in np.unique(month):
        out[int(np.argmax(np.where(month == which, load.values, -np.inf)))] = 1.0
    return out


def truth(series: Series, first_ms: int, step_ms: int, steps: int) -> F8:
    """What came."""
    return at_times(series, first_ms + np.arange(steps, dtype=np.int64) * step_ms)


def _temperature(hours: I8, chance: np.random.Generator) -> F8:
    year = (hours - START_MS) / DAY_MS / 365
    spells = np.repeat(_drift(len(hours) // 24 + 1, 600, chance), 24)[: len(hours)] * 4
    temperature: F8 = 20 - 10 * np.cos(2 * np.pi * year) + spells + 6 * _daily(hours, 16)
    return temperature + chance.normal(0, 0.4, len(hours))


def _daily(at_ms: I8, top_hour: int) -> F8:
    wall = local_time("America/Chicago").local_ms(at_ms)
    daily: F8 = np.cos(2 * np.pi * (wall / HOUR_MS % 24 - top_hour) / 24)
    return daily


def _drift(count: int, step_min: int, chance: np.random.Generator) -> F8:
    """Wandering about 0, forgotten in some hours."""
    keep = float(np.exp(-step_min / 240))
    out, now = np.zeros(count), 0.0
    for k, kick in enumerate(chance.normal(0, 0.5 * np.sqrt(1 - keep * keep), count)):
        now = keep * now + kick
        out[k] = now
    return out


def _spikes(begin: F8, step_min: int, chance: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Spells of spikes that begin with that chance an hour and last about an hour."""
    out, inside = np.zeros(len(begin), dtype=np.bool_), False
    for k, (one, stays) in enumerate(zip(chance.random(len(begin)), chance.random(len(begin)), strict=True)):
        inside = stays < np.exp(-step_min / 60) if inside else one < begin[k] * step_min / 60
        out[k] = inside
    return out
