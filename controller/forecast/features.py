"""From what is known to the rows of a price regression. Fitting and forecasting build them with this one code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from controller.forecast.basis import hats, products, ring_hats, squeeze
from controller.forecast.known import F8, Series
from controller.forecast.localtime import DAY_MS, HOUR_MS, LocalTime
from controller.forecast.moment import I8, at_times

SOURCES: Final = ("hour", "day_ahead", "load", "temperature")
"""What a price regression may read beside the price itself. `docs/forecasts.md` tells what each is worth."""

_PRICE = squeeze(np.array([-25.0, 0, 15, 25, 40, 60, 100, 200, 600, 3000]))
_PRICE_COARSE = squeeze(np.array([-25.0, 15, 40, 100, 200, 3000]))
_AHEAD = squeeze(np.array([0.0, 15, 25, 40, 60, 100, 250, 1000]))
_AHEAD_COARSE = squeeze(np.array([5.0, 20, 35, 60, 120, 500]))
_SPREAD = np.array([-2.0, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2])
_STEP = np.array([-1.0, -0.4, -0.1, 0.1, 0.4, 1])
_LOAD_DAY = np.linspace(-0.15, 0.15, 7)
_LOAD_TOP = np.array([0.4, 0.6, 0.7, 0.8, 0.88, 0.94, 0.98, 1.02])
_DEGREES = np.array([-10.0, 0, 5, 15, 25, 30, 33, 36, 39, 42])
_HOURS: Final = 8
"""Knots round the day."""
WINDOW_H: Final = 4
"""The day-ahead price's highest within so many hours either way counts."""


@dataclass(frozen=True, slots=True)
class Origins:
    """How things stood at K origins; each array (K,). NaN where unknown."""

    last: F8
    """Squeezed price of the last known interval."""
    before: F8
    """Of the interval before."""
    top: F8
    """The highest of the last hour."""
    spread: F8
    """Squeezed price less squeezed day-ahead, in the last known interval."""
    spread_hour: F8
    """Its mean over the last hour."""
    load_day: F8
    """Last known load against the same hour the day before, relative."""
    load_top: F8
    """Last known load as a share of the last week's highest."""
    degrees: F8
    """Dry bulb, deg C."""


@dataclass(frozen=True, slots=True)
class Design:
    """Which sources are read, and the market's own clock."""

    sources: frozenset[str]
    local: LocalTime

    def rows(self, origins: Origins, starts: I8, ahead: F8 | None) -> F8:
        """(N, F): what the target adds, then what the origin adds, then both together; one origin for each target.

        `starts` (N,) are the targets' beginnings, `ahead` (N, 4) what `ahead_features` says of them.
        """
        return np.hstack([self.of_targets(starts, ahead), self.of_origins(origins), *self._together(origins, ahead)])

    def of_targets(self, starts: I8, ahead: F8 | None) -> F8:
        """(N, T): the clock and the day-ahead price."""
        quarters = np.eye(4)[starts % HOUR_MS * 4 // HOUR_MS]
        blocks = [np.ones((len(starts), 1))]
        if "hour" in self.sources:
            blocks.append(_clock_rows(self.local, starts, quarters))
        if "day_ahead" in self.sources and ahead is not None:
            blocks.append(hats(ahead, _AHEAD).reshape(len(starts), -1))
            blocks.append(products(quarters, hats(ahead[:, 0] - ahead[:, 2], _STEP)))
        return np.hstack(blocks)

    def of_origins(self, origins: Origins) -> F8:
        """(K, O): the last prices, and how load and temperature stand."""
        count = len(origins.last)
        blocks = [hats(np.stack([origins.last, origins.before, origins.top], axis=1), _PRICE).reshape(count, -1)]
        if "day_ahead" in self.sources:
            spreads = np.stack([origins.spread, origins.spread_hour], axis=1)
            blocks.append(hats(spreads, _SPREAD).reshape(count, -1))
        if "load" in self.sources:
            blocks += [hats(origins.load_day, _LOAD_DAY), hats(origins.load_top, _LOAD_TOP)]
        if "temperature" in self.sources:
            blocks.append(hats(origins.degrees, _DEGREES))
        return np.hstack(blocks)

    def coarse_origin(self, origins: Origins) -> F8:
        """(K, A) the origin's side of the last block of `rows`: its pairs come origin first."""
        return hats(origins.last, _PRICE_COARSE)

    def coarse_target(self, ahead: F8) -> F8:
        """(N, B) the target's side of it."""
        return hats(ahead[:, 0], _AHEAD_COARSE)

    def usable(self, origins: Origins) -> NDArray[np.bool_]:
        """(K,) where all that this design reads of an origin is known."""
        needs = [origins.last, origins.before, origins.top]
        if "day_ahead" in self.sources:
            needs += [origins.spread, origins.spread_hour]
        if "load" in self.sources:
            needs += [origins.load_day, origins.load_top]
        if "temperature" in self.sources:
            needs.append(origins.degrees)
        return np.asarray(np.isfinite(np.stack(needs)).all(axis=0), dtype=np.bool_)

    def _together(self, origins: Origins, ahead: F8 | None) -> list[F8]:
        if "day_ahead" not in self.sources or ahead is None:
            return []
        return [products(self.coarse_origin(origins), self.coarse_target(ahead))]


def origins_at(
    price: Series, index: I8, ahead: Series | None, load: tuple[Series, int] | None, ambient: Series | None
) -> Origins:
    """The state at the end of each price interval of `index` (K,), ascending.

    Load comes with the ms after that end, mostly below 0, up to which it is known.

    Reads no later price or load; an interval without a price takes the one before it.
    """
    per_hour = max(HOUR_MS // price.step_ms, 1)
    hour = index[:, None] - np.arange(per_hour)
    recent = squeeze(np.where(hour < 0, np.nan, price.values[np.maximum(hour, 0)]))
    last = recent[:, 0]
    before_at = np.maximum(index - 1, 0)
    before = squeeze(np.where(index < 1, np.nan, price.values[before_at]))
    before = np.where(np.isnan(before), last, before)
    nothing = np.full(len(index), np.nan)
    spread, spread_hour = nothing, nothing
    starts = price.start_ms + index * price.step_ms
    if ahead is not None:
        spreads = recent - squeeze(at_times(ahead, price.start_ms + hour * price.step_ms))
        spread = spreads[:, 0]
        spread_hour = _row_mean(spreads)
        spread_hour = np.where(np.isnan(spread), np.nan, spread_hour)
    load_day, load_top = nothing, nothing
    if load is not None:
        load_day, load_top = _load_state(load[0], starts + price.step_ms + load[1])
    degrees = nothing if ambient is None else at_times(ambient, starts)
    return Origins(last, before, np.fmax.reduce(recent, axis=1), spread, spread_hour, load_day, load_top, degrees)


def ahead_features(ahead: Series, starts: I8) -> F8:
    """(N, 4) squeezed day-ahead prices of each target: its own, an hour later, an hour before, the highest around.

    `starts` ascending. A neighbour that is unknown counts as the target's own; NaN where that is unknown.
    """
    per_hour = max(HOUR_MS // ahead.step_ms, 1)
    at = (starts - ahead.start_ms) // ahead.step_ms
    pad = WINDOW_H * per_hour
    low, high = int(at[0]) - pad, int(at[-1]) + pad + 1
    inside = ahead.values[max(low, 0) : max(high, 0)]
    padded = np.full(high - low, np.nan)
    begin = max(-low, 0)
    padded[begin : begin + len(inside)] = squeeze(inside)
    size = high - low - 2 * pad
    own, later, earlier = (padded[pad + shift : pad + shift + size] for shift in (0, per_hour, -per_hour))
    top = own
    for shift in range(-pad, pad + 1, per_hour):
        top = np.fmax(top, padded[pad + shift : pad + shift + size])
    later = np.where(np.isnan(later), own, later)
    earlier = np.where(np.isnan(earlier), own, earlier)
    features: F8 = np.stack([own, later, earlier, top], axis=1)[at - at[0]]
    return features


def _clock_rows(local: LocalTime, starts: I8, quarters: F8) -> F8:
    """The local hour by the quarter of the hour, and the weekend."""
    wall = local.local_ms(starts)
    hours = ring_hats((wall // HOUR_MS % 24).astype(np.float64), _HOURS, 24.0)
    weekend = ((wall // DAY_MS + 3) % 7 >= 5).astype(np.float64)
    return np.hstack([products(quarters, hours), weekend[:, None]])


def _load_state(load: Series, known_ms: I8) -> tuple[F8, F8]:
    """The load whose interval ended at `known_ms` at the latest, against a day before and the week's highest."""
    per_day = DAY_MS // load.step_ms
    at = (known_ms - load.start_ms) // load.step_ms - 1
    first = max(int(at[0]) - 7 * per_day, 0)
    week = load.values[first : max(int(at[-1]) + 1, 0)]
    if len(week) < per_day + 1:
        return np.full(len(at), np.nan), np.full(len(at), np.nan)
    top = _trailing_max(week, 7 * per_day)
    at = at - first
    good = (at >= 0) & (at < len(week))
    now = np.where(good, week[np.clip(at, 0, len(week) - 1)], np.nan)
    yesterday = np.where(at >= per_day, week[np.clip(at - per_day, 0, len(week) - 1)], np.nan)
    return now / yesterday - 1.0, now / np.where(good, top[np.clip(at, 0, len(week) - 1)], np.nan)


def _trailing_max(values: F8, span: int) -> F8:
    """(K,) the highest of the `span` values up to each; doubling windows, so a week of hours takes eight passes."""
    filled = np.where(np.isnan(values), -np.inf, values)
    width = 1
    while width < span:
        shift = min(width, span - width)
        filled[shift:] = np.maximum(filled[shift:], filled[:-shift].copy())
        width += shift
    return np.where(np.isneginf(filled), np.nan, filled)


def _row_mean(rows: F8) -> F8:
    """(K,) the mean of each row without its NaN; NaN where all are."""
    known = ~np.isnan(rows)
    count = known.sum(axis=1)
    mean: F8 = np.where(count > 0, np.where(known, rows, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
    return mean
