"""Scenes made by hand for whole simulated worlds: a quiet site, a price that never troubles anybody, chosen faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sim.faults import Fault, FaultKind
from sim.simulation import Ask, Options, Scene, draw, given_prices

CHEAP = 5.0
DEAR = 900.0


def scene(
    minutes: float,
    *,
    faults: tuple[Fault, ...] = (),
    asks: tuple[Ask, ...] = (),
    prices: tuple[float, ...] = (CHEAP,),
    seed: int = 4,
    **changes: Any,
) -> Scene:
    """One site where hashing pays. `prices` are of five minutes each from the beginning on, the last one stays."""
    drawn = draw(Options(seed=seed, sites=1, faults=False, asks=False))
    begin_ms = drawn.begin_ms - drawn.begin_ms % 300_000
    table = given_prices(begin_ms - 300_000, (prices[0], *prices, *(prices[-1],) * 24))
    kept = {"params": {"stale_price_ms": 1_200_000}, "hashprice_usd_per_ph_day": 80.0}
    end_ms = begin_ms + round(minutes * 60_000)
    moved = tuple(replace(f, begins_ms=begin_ms + f.begins_ms, ends_ms=begin_ms + f.ends_ms) for f in faults)
    asked = tuple(replace(ask, at_ms=begin_ms + ask.at_ms) for ask in asks)
    fields: dict[str, Any] = {
        "begin_ms": begin_ms,
        "end_ms": end_ms,
        "prices": table,
        "faults": moved,
        "asks": asked,
    }
    return replace(drawn, **fields | kept | changes)


def fault(kind: FaultKind, begin_s: float, end_s: float, site: str | None = "brazos", **more: Any) -> Fault:
    """Seconds from the scene's beginning."""
    return Fault(round(begin_s * 1_000), round(end_s * 1_000), kind, site, **more)
