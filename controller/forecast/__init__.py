"""Honest forecasts: from what is known now to an outlook over the horizon. Pure: no clock, no file is read here.

`forecast(NAME)` makes one; `FORECASTS` lists them. docs/forecasts.md tells what each reads and what it is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from controller.forecast.blended import Blended
from controller.forecast.composite import Composite, PricePart
from controller.forecast.day_ahead import DayAhead
from controller.forecast.known import Forecast
from controller.forecast.localtime import LocalTime, local_time
from controller.forecast.peaks import PeakChance
from controller.forecast.persistence import Persistence
from controller.forecast.spikes import SpikeChance
from controller.forecast.trees import Trees

FORECASTS: Final = {
    "persistence": "the present price, fading into the last week's usual price of the hour",
    "day_ahead": "the day-ahead price as the shape, shifted by what real time shows now",
    "blended": "a price model fitted on the past: the last prices, day-ahead, the hour",
    "trees": "blended, with boosted trees beside it for the next hour (extra `forecast`, slow)",
}


@dataclass(frozen=True, slots=True)
class Market:
    """What a forecast is told of the market it serves; rules are data."""

    timezone: str = "UTC"
    """IANA name: hours, days and months are the market's own."""
    spike_usd_per_mwh: float = 250.0
    """A price above it is a spike."""
    peak_months: tuple[int, ...] = ()
    """Months that have one coincident peak each, such as (6, 7, 8, 9) for 4CP."""
    plan_cap_usd_per_mwh: float = 250.0
    """Forecasts plan with E[min(price, cap)]: a price above the cap counts as the cap, but for the running interval's
    own where it is known. Two to three times what the dearest load is worth serves: all of it is off there anyway."""
    sources: tuple[str, ...] = ("hour", "day_ahead")
    """What the price model reads beside the price itself: `controller.forecast.features.SOURCES`."""
    unknown_usd_per_mwh: float = 0.0
    """Planned with where no price was ever known; the outlook's note says so."""


def forecast(name: str, market: Market | None = None) -> Forecast:
    """A forecast by its name in `FORECASTS`, not yet fitted. Raises `ValueError` for a name that is none, and
    `ImportError` for "trees" without its extra."""
    market = market or Market()
    local = local_time(market.timezone)
    return Composite(
        name,
        _price_part(name, market, local),
        SpikeChance(market.spike_usd_per_mwh, local),
        PeakChance(market.peak_months, local),
        market.unknown_usd_per_mwh,
    )


def _price_part(name: str, market: Market, local: LocalTime) -> PricePart:
    match name:
        case "persistence":
            return Persistence(market.plan_cap_usd_per_mwh)
        case "day_ahead":
            return DayAhead(market.plan_cap_usd_per_mwh)
        case "blended":
            return Blended(local, market.plan_cap_usd_per_mwh, market.sources)
        case "trees":
            return Trees(local, market.plan_cap_usd_per_mwh)
        case _:
            raise ValueError(f"no forecast is called {name!r}; there are: {', '.join(FORECASTS)}")
