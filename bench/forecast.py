"""What each forecast is worth and how honest its odds are: `python -m bench.forecast --data DIR`.

DIR holds the files of the real-data set (docs/forecasts.md names them). Year by year, walking forward: every forecast
is fitted on what was known before, again every 28 days, and asked at every 15-minute interval. Its worth is what one
lone bank earns with it: 1 MW of 30 J/TH miners, a start costs 8 USD, it runs when a dynamic program over the outlook
says so. Rules are tuned on the year before. Day-ahead prices are known from 14:00 local on the day before, loads an
hour late. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from controller.feeds.table import load_series
from controller.forecast import Market, forecast
from controller.forecast.features import SOURCES
from controller.forecast.known import F8, Forecast, Known, Series
from controller.forecast.localtime import DAY_MS, HOUR_MS, local_time
from controller.forecast.moment import at_times

TIMEZONE: Final = "America/Chicago"
START_USD: Final = 8.0
MWH_PER_PH_DAY: Final = 0.72
"""A PH/s at 30 J/TH draws 30 kW."""
REFIT_MS: Final = 28 * DAY_MS
HORIZON: Final = 24
"""Steps the bank's program looks ahead."""
FILES: Final = {
    "price": ("ercot_hb_houston_rt_15min_2022_2024.csv.gz", "rt_usd_per_mwh"),
    "day_ahead": ("ercot_hb_houston_da_hourly_2022_2024.csv.gz", "da_usd_per_mwh"),
    "load": ("ercot_native_load_hourly_2022_2024.csv.gz", "ercot_load_mw"),
    "ambient": ("houston_weather_hourly_2022_2024.csv.gz", "temperature_c"),
}
BTC: Final = "btc_economics_daily_2021_2024.csv.gz"
BANDS: Final = tuple((up, down) for up in (0, 5, 10, 20, 40, 80) for down in (0, 5, 10, 20, 30, 50))
"""USD/MWh above and below break-even that the hysteresis is tuned over."""


@dataclass(frozen=True, slots=True)
class World:
    """All series, gaps and all."""

    price: Series
    day_ahead: Series
    load: Series
    ambient: Series
    value: F8
    """(T,) break-even of the bank, USD/MWh, by price interval."""

    def known(self, at_ms: int, late: int) -> Known:
        """What is known then; prices `late` intervals late."""
        local = local_time(TIMEZONE)
        wall_ms = int(local.local_ms(np.array([at_ms]))[0])
        days = 2 if wall_ms % DAY_MS >= 14 * HOUR_MS else 1
        midnight_ms = at_ms - wall_ms % DAY_MS
        return Known(
            at_ms,
            _until(self.price, at_ms + (1 - late) * self.price.step_ms),
            _until(self.day_ahead, midnight_ms + days * DAY_MS),
            _until(self.load, at_ms - HOUR_MS),
            _until(self.ambient, at_ms + self.ambient.step_ms),
        )

    def year(self, year: int) -> slice:
        """The intervals of that local year."""
        begin, end = (_year_ms(one) for one in (year, year + 1))
        start, step = self.price.start_ms, self.price.step_ms
        return slice(max((begin - start) // step, 0), min((end - start) // step, len(self.price.values)))


@dataclass(frozen=True, slots=True)
class Told:
    """What one forecast said at every interval of a year."""

    price: F8
    """(M, H)"""
    spike: F8
    """(M, H)"""
    peak: F8
    """(M, H)"""
    ambient: F8
    """(M, H)"""
    ms: float
    """A call, on the processor's clock."""


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real-data files")
    parser.add_argument("--years", type=int, nargs="+", default=[2023, 2024])
    parser.add_argument("--days", type=int, default=0, help="judge only the first so many days of each year")
    parser.add_argument("--caps", action="store_true", help="the price model under other caps too")
    parser.add_argument("--trees", action="store_true", help="the boosted trees too (extra `forecast`); slow")
    args = parser.parse_args()
    world = load_world(args.data)
    result: dict[str, Any] = {"worth": {}, "odds": {}}
    for year in args.years:
        for late in (0, 1):
            result["worth"][f"{year} lag {late}"] = _worth(world, year, late, args.days, args.caps, args.trees)
        result["odds"][year] = _odds(world, year, args.days)
    print(json.dumps(result))


def load_world(data: Path) -> World:
    """Read the files; raises `TableError` where one is missing or broken."""
    series = {name: _series(data / file, column) for name, (file, column) in FILES.items()}
    hashprice = _series(data / BTC, "hashprice_usd_per_ph_day")
    price = series["price"]
    starts = price.start_ms + np.arange(len(price.values)) * price.step_ms
    value = hashprice.values[(starts - hashprice.start_ms) // DAY_MS - 1] / MWH_PER_PH_DAY
    return World(price, series["day_ahead"], series["load"], series["ambient"], value)


def tell(world: World, made: Forecast, when: slice, late: int) -> Told:
    """Ask it at every interval of `when`, fitting it on the past every 28 days."""
    price, spike, peak, ambient = ([] for _ in range(4))
    step_ms, spent_s, fitted_ms = world.price.step_ms, 0.0, 0
    for index in range(when.start, when.stop):
        at_ms = world.price.start_ms + index * step_ms
        known = world.known(at_ms, late)
        if at_ms - fitted_ms >= REFIT_MS:
            made.fit(known)
            fitted_ms = at_ms
        begun = time.process_time()
        outlook = made.outlook(known, step_ms, HORIZON)
        spent_s += time.process_time() - begun
        price.append(outlook.usd_per_mwh)
        spike.append(outlook.spike)
        peak.append(outlook.peak)
        ambient.append(outlook.ambient_c if outlook.ambient_c is not None else np.full(HORIZON, np.nan))
    count = when.stop - when.start
    return Told(np.array(price), np.array(spike), np.array(peak), np.array(ambient), spent_s / count * 1e3)


def run_or_not(price: F8, value: F8, hours: float, *, wait: float = 1.0) -> NDArray[np.bool_]:
    """(M,) on or off: each interval an exact program over its outlook (M, H) at the value (M,) that holds now.

    `wait` is the share of a start saved that keeps it running at a loss: 1 if the outlook is the truth, 0 to stop at
    once.
    """
    worth = np.zeros(len(value))
    for step in reversed(range(1, price.shape[1])):
        worth = np.clip((value - price[:, step]) * hours + worth, 0.0, START_USD)
    gain = (value - price[:, 0]) * hours
    on, out = True, np.zeros(len(value), dtype=np.bool_)
    for k, (now, later) in enumerate(zip(gain.tolist(), worth.tolist(), strict=True)):
        on = now + wait * later > 0.0 if on else now + later > START_USD
        out[k] = on
    return out


def hysteresis(price: F8, value: F8, up: float, down: float) -> NDArray[np.bool_]:
    """(M,) on or off: off when the last known price is `up` above the value, on when it is `down` below."""
    on, out = True, np.zeros(len(value), dtype=np.bool_)
    for k, margin in enumerate((price - value).tolist()):
        if margin > up or margin < -down:
            on = margin < -down
        out[k] = on
    return out


def profit(on: NDArray[np.bool_], price: F8, value: F8, hours: float) -> float:
    """USD a MW; always-on starts running."""
    starts = np.count_nonzero(on[1:] & ~on[:-1]) + (not on[0])
    return float(np.sum((value - price)[on]) * hours - START_USD * starts)


def bound(price: F8, value: F8, hours: float) -> float:
    """What perfect foresight earns, USD a MW."""
    on, off = 0.0, -float("inf")
    for gain in ((value - price) * hours).tolist():
        on, off = max(on, off - START_USD) + gain, max(on, off)
    return max(on, off)


def _worth(world: World, year: int, late: int, days: int, caps: bool, trees: bool) -> dict[str, dict[str, float]]:
    when, before = _judged(world, year, days), world.year(year - 1)
    price, value = world.price.values, world.value
    hours = world.price.step_ms / HOUR_MS
    seen = np.concatenate((np.full(late, price[0]), price))[: len(price)]
    always = profit(np.ones(when.stop - when.start, dtype=np.bool_), price[when], value[when], hours)
    best = bound(price[when], value[when], hours)

    def earns(on: NDArray[np.bool_], span: slice) -> float:
        return profit(on, price[span], value[span], hours)

    bands = {band: earns(hysteresis(seen[before], value[before], *band), before) for band in BANDS}
    tuned = max(bands, key=lambda band: bands[band])
    print(f"\n{year}, price {late} late: always on {always:,.0f}, perfect foresight {best:,.0f} USD/MW")
    print(f"{'':36}{'USD/MW':>10}{'flex capture':>14}{'ms a call':>11}", flush=True)
    out: dict[str, dict[str, float]] = {}

    def say(name: str, on: NDArray[np.bool_], ms: float) -> None:
        usd = earns(on, when) - always
        flex = usd / (best - always) if best > always else float("nan")
        print(f"{name:36}{usd:10,.0f}{flex:14.4f}{ms:11.3f}", flush=True)
        out[name] = {"usd_per_mw": round(usd), "flex_capture": round(flex, 4), "ms": round(ms, 3)}

    say("break-even", hysteresis(seen[when], value[when], 0, 0), 0.0)
    say(f"hysteresis +{tuned[0]} -{tuned[1]}", hysteresis(seen[when], value[when], *tuned), 0.0)
    for name, made in _forecasts(late, caps, trees):
        told = tell(world, made, when, late)
        say(name, run_or_not(told.price, value[when], hours), told.ms)
        if late and name == "blended: + day_ahead":
            say("  the same, off at E > break-even", run_or_not(told.price, value[when], hours, wait=0.0), told.ms)
    return out


def _forecasts(late: int, caps: bool, trees: bool) -> Iterable[tuple[str, Forecast]]:
    for name in ("persistence", "day_ahead"):
        yield name, forecast(name, Market(timezone=TIMEZONE))
    for count in range(len(SOURCES) + 1) if late else (0, 2):
        label = "blended: price" if count == 0 else f"blended: + {SOURCES[count - 1]}"
        yield label, forecast("blended", Market(timezone=TIMEZONE, sources=SOURCES[:count]))
    for cap in (120.0, 180.0, 400.0, 1_000.0, 10_000.0) if caps else ():
        yield f"blended, cap {cap:g}", forecast("blended", Market(timezone=TIMEZONE, plan_cap_usd_per_mwh=cap))
    if trees:
        yield "trees", forecast("trees", Market(timezone=TIMEZONE))


def _odds(world: World, year: int, days: int) -> dict[str, list[tuple[float, ...]]]:
    """How often what was given a chance came, by chance and lead, and how far temperature and price were off."""
    market = Market(timezone=TIMEZONE, peak_months=tuple(range(1, 13)))
    when = _judged(world, year, days)
    told = tell(world, forecast("persistence", market), when, 1)
    ahead = np.arange(when.start, when.stop)[:, None] + np.arange(HORIZON)
    inside = ahead < len(world.price.values)
    ahead = np.minimum(ahead, len(world.price.values) - 1)
    spiked = (world.price.values[ahead] > market.spike_usd_per_mwh).astype(np.float64)
    starts = world.price.start_ms + np.arange(len(world.price.values)) * world.price.step_ms
    load = at_times(world.load, starts)
    month = local_time(TIMEZONE).month(starts)
    peaked = np.zeros(len(starts))
    for which in np.unique(month):
        at = np.flatnonzero(month == which)
        peaked[at[load[at] == np.nanmax(load[at])]] = 1.0
    per_hour = HOUR_MS // world.price.step_ms
    out = {
        "spike": _table("spike", told.spike[inside], spiked[inside], (0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9)),
        "peak hour": _table(
            "peak hour", told.peak[inside] * per_hour, peaked[ahead][inside], (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3)
        ),
        "ambient": [],
    }
    ambient = at_times(world.ambient, starts)
    for lead in (3, 7, 15, HORIZON - 1):
        miss = told.ambient[:, lead] - ambient[ahead[:, lead]]
        rms = float(np.sqrt(np.nanmean(miss[inside[:, lead]] ** 2)))
        out["ambient"].append((lead / per_hour, round(rms, 2)))
        print(f"temperature {lead / per_hour:.2f} h ahead: {rms:.2f} K off (rms)")
    return out


def _table(what: str, told: F8, came: F8, cuts: tuple[float, ...]) -> list[tuple[float, ...]]:
    rows: list[tuple[float, ...]] = []
    print(f"\n{what:>14}{'cases':>10}{'said':>10}{'came':>10}")
    for low, high in zip((0.0, *cuts), (*cuts, 1.01), strict=True):
        inside = (told >= low) & (told < high)
        if not inside.any():
            continue
        said, share = float(told[inside].mean()), float(came[inside].mean())
        rows.append((low, float(inside.sum()), round(said, 5), round(share, 5)))
        print(f"from {low:9g}{inside.sum():10}{said:10.4f}{share:10.4f}", flush=True)
    base = float(came.mean())
    skill = 1 - float(np.mean((told - came) ** 2)) / (base * (1 - base)) if 0 < base < 1 else float("nan")
    print(f"{what} in all: said {told.mean():.5f}, came {base:.5f}, Brier skill {skill:.3f}")
    return rows


def _judged(world: World, year: int, days: int) -> slice:
    when = world.year(year)
    return slice(when.start, min(when.stop, when.start + days * DAY_MS // world.price.step_ms)) if days else when


def _series(path: Path, column: str) -> Series:
    table = load_series(path, column=column, value_max=1e6)
    start_ms = int(table.start_ms[0])
    values = np.full((table.end_ms - start_ms) // table.interval_ms, np.nan)
    values[(table.start_ms - start_ms) // table.interval_ms] = table.values
    return Series(start_ms, table.interval_ms, values)


def _until(series: Series, end_ms: int) -> Series:
    return Series(
        series.start_ms, series.step_ms, series.values[: max((end_ms - series.start_ms) // series.step_ms, 0)]
    )


def _year_ms(year: int) -> int:
    """New year's midnight on the market's clock."""
    utc_ms = int(np.datetime64(f"{year}-01-01", "ms").astype(np.int64))
    local = local_time(TIMEZONE)
    return 2 * utc_ms - int(local.local_ms(np.array([utc_ms]))[0])


if __name__ == "__main__":
    main()
