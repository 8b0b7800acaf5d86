"""What a seed draws: the sites, the market, the weather, what is asked of the controller, and what goes wrong."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any, Final

from contract.units import MS_PER_HOUR, MS_PER_MINUTE, MS_PER_S
from controller.feeds.table import SeriesTable, load_series, read_series
from sim.faults import Fault, FaultKind, schedule
from sim.plant import Ambient, series
from sim.simulation.asks import Ask, draw_asks
from sim.simulation.sites import SceneSite, draw_site

SAMPLES: Final = Path(str(resources.files("sim") / "samples"))
_AUGUST_MS: Final = round(datetime(2023, 8, 1, tzinfo=UTC).timestamp() * MS_PER_S)
_DAYS: Final = (2, 28)
SYNTHETIC_USD_PER_MWH: Final = (-250.0, -20.0, 0.0, 25.0, 45.0, 70.0, 95.0, 120.0, 160.0, 400.0, 5_000.0)
"""What an interval of the invented market may cost: ERCOT has seen both ends."""
STEP_MS: Final = 5 * MS_PER_MINUTE
SETTLED_MS: Final = 12 * MS_PER_MINUTE
"""The end of a run that no fault reaches into: the plan must come back to the oracle's."""
CALM_MS: Final = 3 * MS_PER_MINUTE
"""The beginning of a run, in which daemons and devices find each other."""
SITE_NAMES: Final = ("brazos", "pecos")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be asked of a run. None: the seed draws it."""

    seed: int
    minutes: int = 40
    sites: int | None = None
    faults: bool = True
    fault_count: int | None = None
    kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    asks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One history before it happens. A test may change any of it with `dataclasses.replace`."""

    seed: int
    begin_ms: int
    end_ms: int
    sites: tuple[SceneSite, ...]
    prices: SeriesTable
    hashprice_usd_per_ph_day: float
    params: Mapping[str, Any]
    asks: tuple[Ask, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def healed_ms(self) -> int:
        """When the last fault is over."""
        return max((fault.ends_ms for fault in self.faults), default=self.begin_ms)


def draw(options: Options) -> Scene:
    """The scene of a seed."""
    rng = Random(options.seed)
    begin_ms = _AUGUST_MS + rng.randrange(_DAYS[0] * 24 * 60, _DAYS[1] * 24 * 60) * MS_PER_MINUTE
    prices = august_prices() if rng.random() < 0.4 else synthetic_prices(rng, begin_ms)
    end_ms = begin_ms + options.minutes * MS_PER_MINUTE
    count = options.sites or rng.choice((1, 1, 2))
    sites = tuple(draw_site(SITE_NAMES[place], rng, august_weather()) for place in range(count))
    plans = [site.kit.plan for site in sites]
    faults: tuple[Fault, ...] = ()
    heal_by_ms = end_ms - SETTLED_MS
    if options.faults:
        number = options.fault_count if options.fault_count is not None else rng.randint(4, 12)
        faults = schedule(rng, plans, begin_ms + CALM_MS, heal_by_ms, number, kinds=options.kinds)
    asks = draw_asks(rng, plans, begin_ms + CALM_MS, heal_by_ms) if options.asks else ()
    params = {
        "stale_price_ms": rng.choice((5, 10, 20)) * MS_PER_MINUTE,
        "unknown_price": rng.choice(("hold", "hold", "stop", "run")),
    }
    return Scene(
        seed=options.seed,
        begin_ms=begin_ms,
        end_ms=end_ms,
        sites=sites,
        prices=prices,
        hashprice_usd_per_ph_day=rng.uniform(45.0, 110.0),
        params=params,
        asks=asks,
        faults=faults,
    )


def synthetic_prices(rng: Random, begin_ms: int) -> SeriesTable:
    """Five-minute prices that leap between the extremes."""
    prices = []
    price = rng.choice(SYNTHETIC_USD_PER_MWH)
    for _ in range(6 * 12):
        if rng.random() < 0.6:
            price = rng.choice(SYNTHETIC_USD_PER_MWH) + round(rng.uniform(-5.0, 5.0), 2)
        prices.append(price)
    return given_prices(begin_ms - 2 * MS_PER_HOUR, prices)


def given_prices(from_ms: int, usd_per_mwh: Sequence[float]) -> SeriesTable:
    """Five-minute prices from the interval on that holds a moment, through the same loader as a market's file."""
    start_ms = from_ms - from_ms % STEP_MS
    lines = ["interval_start_utc,rt_usd_per_mwh"]
    for place, price in enumerate(usd_per_mwh):
        at = datetime.fromtimestamp((start_ms + place * STEP_MS) / MS_PER_S, UTC)
        lines.append(f"{at:%Y-%m-%dT%H:%MZ},{price:.2f}")
    return read_series(io.StringIO("\n".join(lines)), "given prices")


@functools.cache
def august_prices() -> SeriesTable:
    """HB_HOUSTON in August 2023, real time."""
    return load_series(SAMPLES / "ercot_hb_houston_rt_15min_2023_08.csv")


@functools.cache
def august_weather() -> Callable[[int], Ambient]:
    """Houston's weather in August 2023."""
    path = SAMPLES / "houston_weather_hourly_2023_08.csv"
    dry, dew = (load_series(path, column=column) for column in ("temperature_c", "dew_point_c"))
    readings = list(zip(dry.values.tolist(), dew.values.tolist(), strict=True))
    return series(int(dry.start_ms[0]), MS_PER_HOUR, readings)


__all__ = ["Ask", "Options", "Scene", "SceneSite", "draw", "given_prices"]
