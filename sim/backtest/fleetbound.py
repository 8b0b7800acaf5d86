"""The bound of a fleet under its cap: the cap's megawatts are priced, and each site answers as if energy cost more.

For any price of the cap's megawatts that is not negative, the sites' bounds at energy prices raised by it, plus what
the cap is worth at it, bound every plan that keeps the cap (Lagrange). So each try is sound, and the least is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR
from sim.backtest.model import F8, Fleet, Site, Timeline, Trace
from sim.backtest.physics import TOLERANCE_MW

TRIES: Final = 5
WORTH_USD: Final = (0.0, 240.0)
"""USD/MWh between which the worth of the fleet's last megawatt-hour is sought."""

BoundUsd = Callable[[Site, Timeline], float]


def fleet_bound_usd(
    fleet: Fleet, timelines: Sequence[Timeline], apart_usd: float, traces: Sequence[Trace], bound_usd: BoundUsd
) -> float:
    """At most `apart_usd`, the sum of the sites' bounds with no cap over them. `traces` are plans near those.

    Where these together exceed the cap a megawatt is priced at what the last one is worth beyond its energy. That worth
    is sought as one figure for the whole time, by halving towards the better side.
    """
    if fleet.cap_mw is None:
        return apart_usd
    drawn_mw = np.sum([trace.meter_mw for trace in traces], axis=0)
    over = drawn_mw > fleet.cap_mw - TOLERANCE_MW
    if not over.any():
        return apart_usd
    best, (low, high) = apart_usd, WORTH_USD
    price = timelines[0].price[timelines[0].history :]
    worth = 0.5 * (low + high)
    step = 0.25 * (high - low)
    at_worth = apart_usd
    for _ in range(TRIES):
        toll = np.where(over, np.maximum(worth - price, 0.0), 0.0)
        found = _at_toll(fleet, timelines, toll, bound_usd)
        direction = -1.0 if found > at_worth else 1.0
        best, at_worth = min(best, found), found
        worth, step = worth + direction * step, 0.5 * step
    return best


def _at_toll(fleet: Fleet, timelines: Sequence[Timeline], toll: F8, bound_usd: BoundUsd) -> float:
    """USD: the bound at a price of the cap's megawatts, (T,) USD/MWh."""
    assert fleet.cap_mw is not None  # noqa: S101  the caller looked
    hours = timelines[0].interval_ms / MS_PER_HOUR
    total = fleet.cap_mw * hours * float(toll.sum())
    for site, timeline in zip(fleet.sites, timelines, strict=True):
        price = timeline.price.copy()
        price[timeline.history :] += toll
        # A block bought ahead is resold at the real-time price, which has not risen.
        total += bound_usd(site, replace(timeline, price=price)) - site.energy.block_mw * hours * float(toll.sum())
    return total
