"""What the price may be while an override stands: expected, and low and high as it really moved in the past weeks.

Expected is the outlook's mean over the override's time. Low and high lie around it as far as one in ten times the price
was lower, or higher, than the median of how it moved from a moment like this to a time that far ahead and that long: at
the same hour of the day, over the last four weeks. Spikes are in it as often as they came. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.units import MS_PER_HOUR
from controller.engine.model import Outlook
from controller.forecast.known import Series

PAST_MS: Final = 28 * 24 * MS_PER_HOUR
SPAN_MAX_MS: Final = 24 * MS_PER_HOUR
"""Of an override, and of the time until it begins: what is beyond is taken as this."""
LOW, HIGH = 0.1, 0.9
_DAY_MS: Final = 24 * MS_PER_HOUR
_ALIKE_MS: Final = MS_PER_HOUR
"""Times of the day no further apart than this are alike."""
_LEAST: Final = 20
"""Fewer past times say nothing of the one in ten."""

F8 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Band:
    """USD/MWh, means over the override's time; `low <= expected <= high`."""

    low: float
    expected: float
    high: float
    basis: str
    """In words: what it was made from."""


def band(
    past: Series | None, outlook: Outlook | None, now_usd: float, now_ms: int, from_ms: int, to_ms: int | None
) -> Band | None:
    """For the time from `from_ms` to `to_ms`, at most a day of it; None where the past is too short to say.

    `past` are the prices known now, `now_usd` the newest of them.
    """
    until_ms = min(from_ms + SPAN_MAX_MS, to_ms if to_ms is not None else from_ms + SPAN_MAX_MS)
    found = None if past is None else _moves(past, now_ms, from_ms, until_ms)
    if found is None:
        return None
    moves, alike = found
    mean = _mean(outlook, from_ms, until_ms) if outlook is not None else None
    expected = now_usd if mean is None else mean
    low, middle, high = np.quantile(moves, [LOW, 0.5, HIGH])
    source = f"outlook ({outlook.forecast})" if mean is not None and outlook is not None else "newest price"
    told = f"{source}; low and high as it moved {len(moves)} times in four weeks"
    return Band(
        low=float(expected + low - middle),
        expected=float(expected),
        high=float(expected + high - middle),
        basis=told + (", at this hour" if alike else ""),
    )


def _mean(outlook: Outlook, from_ms: int, to_ms: int) -> float | None:
    """Of the outlook over a time; None where it does not reach it."""
    starts = outlook.start_ms + outlook.step_ms * np.arange(len(outlook.usd_per_mwh), dtype=np.int64)
    held = np.minimum(starts + outlook.step_ms, to_ms) - np.maximum(starts, from_ms)
    weights = np.maximum(held, 0).astype(np.float64)
    if not weights.any():
        return None
    return float(np.average(np.array(outlook.usd_per_mwh), weights=weights))


def _moves(past: Series, now_ms: int, from_ms: int, to_ms: int) -> tuple[F8, bool] | None:
    """By how much the mean over a time differed from the price before it, and whether only like hours are in it.

    In whole intervals; the one that the newest price is of does not move.
    """
    step_ms = past.step_ms
    newest = min((now_ms - past.start_ms) // step_ms, len(past.values) - 1)
    first = max(0, newest - PAST_MS // step_ms)
    values = past.values[first : newest + 1]
    begun_ms = past.start_ms + newest * step_ms
    lead = min(max(from_ms - begun_ms, 0), SPAN_MAX_MS) // step_ms
    length = max(1, -((begun_ms - to_ms) // step_ms) - max(from_ms - begun_ms, 0) // step_ms)
    count = len(values) - lead - length + 1
    if count < _LEAST:
        return None
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    seen = np.concatenate([[0], np.cumsum(known)])
    begin = np.arange(count) + lead
    whole = known[:count] & (seen[begin + length] - seen[begin] == length)
    moves = (sums[begin + length] - sums[begin]) / length - values[:count]
    apart_ms = (np.arange(count) - (len(values) - 1)) * step_ms % _DAY_MS
    alike = whole & (np.minimum(apart_ms, _DAY_MS - apart_ms) <= _ALIKE_MS)
    if alike.sum() >= _LEAST:
        return moves[alike], True
    return (moves[whole], False) if whole.sum() >= _LEAST else None
