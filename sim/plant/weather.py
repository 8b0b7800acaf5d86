"""Weather as functions of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Ambient(NamedTuple):
    """Outside air, degrees Celsius."""

    dry_bulb_c: float
    wet_bulb_c: float


def steady(dry_bulb_c: float, wet_bulb_c: float) -> Callable[[int], Ambient]:
    """The same weather always."""
    ambient = Ambient(dry_bulb_c, wet_bulb_c)
    return lambda _time_ms: ambient


def day_and_night(mean_c: float, swing_c: float, *, wet_depression_c: float = 5.0) -> Callable[[int], Ambient]:
    """A sine of a day, coldest at 11:00 and hottest at 23:00 UTC, as in Texas."""

    def at(time_ms: int) -> Ambient:
        share = (time_ms / 86_400_000 - 17 / 24) * 2 * math.pi
        dry_c = mean_c + swing_c * math.sin(share)
        return Ambient(dry_c, dry_c - wet_depression_c)

    return at


def series(start_ms: int, step_ms: int, readings: Sequence[tuple[float, float]]) -> Callable[[int], Ambient]:
    """Dry bulb and dew point at even steps, straight lines between, the ends held."""
    if not readings or step_ms <= 0:
        raise ValueError("a weather series needs readings and a positive step")
    points = [Ambient(dry_c, wet_bulb_c(dry_c, dew_c)) for dry_c, dew_c in readings]

    def at(time_ms: int) -> Ambient:
        place = min(max((time_ms - start_ms) / step_ms, 0.0), len(points) - 1.0)
        low = min(int(place), len(points) - 2) if len(points) > 1 else 0
        before, after = points[low], points[min(low + 1, len(points) - 1)]
        share = place - low
        return Ambient(
            before.dry_bulb_c + share * (after.dry_bulb_c - before.dry_bulb_c),
            before.wet_bulb_c + share * (after.wet_bulb_c - before.wet_bulb_c),
        )

    return at


def wet_bulb_c(dry_bulb_c: float, dew_point_c: float) -> float:
    """Wet bulb at sea level from dry bulb and dew point.

    Humidity by Magnus, then Stull (2011), "Wet-Bulb Temperature from Relative Humidity and Air Temperature", J. Appl.
    Meteor. Climatol. 50, 2267: within 1 K from -20 to 50 degrees above 5 % humidity, humidity held to that range.

    >>> round(wet_bulb_c(20.0, 9.3), 1)
    13.7
    """
    humidity = 100.0 * math.exp(_magnus(dew_point_c) - _magnus(dry_bulb_c))
    humidity = min(max(humidity, 5.0), 99.0)
    wet_c = (
        dry_bulb_c * math.atan(0.151977 * math.sqrt(humidity + 8.313659))
        + math.atan(dry_bulb_c + humidity)
        - math.atan(humidity - 1.676331)
        + 0.00391838 * humidity * math.sqrt(humidity) * math.atan(0.023101 * humidity)
        - 4.686035
    )
    return min(wet_c, dry_bulb_c)


def _magnus(temp_c: float) -> float:
    return 17.625 * temp_c / (243.04 + temp_c)
