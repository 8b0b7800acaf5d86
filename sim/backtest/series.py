"""The world's files become a `Timeline`. The strict loader is `controller.feeds.table`; here is what a backtest adds.

Price files may hold any interval from 5 minutes to an hour. Gaps are filled with the last value and counted; more
than `GAP_SHARE_MAX` of the window's prices missing is an error. Everything else that is wrong is one `SeriesError`
that names the file, the place in it and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import chain
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from contract.units import MS_PER_HOUR, MS_PER_MINUTE, MS_PER_S
from controller.feeds.table import SeriesTable, TableError, load_series
from sim.backtest.csvfile import SeriesError, distinct, header_of
from sim.backtest.model import F8, U1, Job, Timeline
from sim.backtest.seen import HISTORY_MIN_MS
from sim.backtest.signals import load_signals
from sim.backtest.sitefile import SitePlan
from sim.backtest.trace import lay_out, load_trace

GAP_SHARE_MAX: Final = 0.05
"""Of the judged window: more prices missing, and the file cannot be judged on."""
SIDE_GAP_SHARE_MAX: Final = 0.20
"""The same of weather, load and hashprice, which move slowly."""
HISTORY_DAYS: Final = 365
INTERVAL_MIN_MS: Final = 5 * MS_PER_MINUTE
INTERVAL_MAX_MS: Final = MS_PER_HOUR
DAY_AHEAD_AT: Final = time(13, 30)
"""Local time of the day before by which day-ahead prices are out."""

_RT = ("rt_usd_per_mwh", "lmp_usd_per_mwh", "price_usd_per_mwh")
_DA = ("da_usd_per_mwh",)
_HASHPRICE = ("hashprice_usd_per_ph_day",)
_AMBIENT = ("temperature_c",)
_LOAD = ("ercot_load_mw", "load_mw")


@dataclass(frozen=True, slots=True)
class Files:
    """What the user gave. A None is a series that is not known."""

    rt: Path
    da: Path | None = None
    btc: Path | None = None
    weather: Path | None = None
    load: Path | None = None
    jobs: Path | None = None
    signals: Path | None = None
    hashprice: float | None = None
    """USD per PH/s and day, in place of a file."""
    hub: str | None = None
    """settlement_point of price files that hold several; else the site's."""


@dataclass(frozen=True, slots=True)
class Window:
    """What is judged. None for the beginning, or the end, of the price file."""

    start: datetime | None = None
    end: datetime | None = None
    """Not included."""


def moment(text: str, timezone: str) -> datetime:
    """An ISO 8601 time; one without an offset is local time of the market. Raises `ValueError`."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=ZoneInfo(timezone))


def load_timeline(
    plan: SitePlan, files: Files, window: Window, history_days: int = HISTORY_DAYS
) -> tuple[Timeline, list[str]]:
    """The time line of one site, and what is worth saying about the data. Raises `SeriesError`."""
    hub = files.hub or plan.hub
    rt = _table(files.rt, _RT, "_usd_per_mwh", hub)
    step = rt.interval_ms
    if not INTERVAL_MIN_MS <= step <= INTERVAL_MAX_MS:
        raise SeriesError(
            f"{rt.source}: column {rt.column}: an interval of {step / MS_PER_MINUTE:g} min",
            "give prices of 5 minutes to an hour",
        )
    first, start, end = _bounds(rt, window, history_days)
    count, history = (end - first) // step, (start - first) // step
    grid = first + step * np.arange(count, dtype=np.int64)
    said = list(plan.said)
    if history * step < HISTORY_MIN_MS:
        said.append(f"{plan.site.id}: less than a week before the window: hysteresis keeps its defaults")
    price, filled = _held(rt, grid, step, history, said, most=GAP_SHARE_MAX)
    day_ahead, published = None, None
    if files.da is not None:
        day_ahead = _day_ahead(_table(files.da, _DA, "_usd_per_mwh", hub), grid, history, said)
        published = _published(grid, plan.site.timezone)
    return Timeline(
        start_ms=first,
        interval_ms=step,
        history=history,
        price=price,
        filled=filled,
        day_ahead=day_ahead,
        day_ahead_known=published,
        hashprice=_hashprice(plan, files, grid, step, history, said),
        ambient_c=_ambient(plan, files, grid, step, history, said),
        load_mw=_load(files, grid, step, history, said),
        jobs=_jobs(plan, files, first, start, end, step, said),
        obligations=load_signals(files.signals, plan.site.id) if files.signals else (),
    ), said


def _bounds(rt: SeriesTable, window: Window, history_days: int) -> tuple[int, int, int]:
    """Begin of the history, begin and end of what is judged, on the file's grid."""
    step, origin, stop = rt.interval_ms, int(rt.start_ms[0]), rt.end_ms
    start = origin if window.start is None else _ms(window.start)
    end = stop if window.end is None else _ms(window.end)
    if end <= start:
        raise SeriesError(f"the window {_iso(start)} to {_iso(end)} is empty", "give an --end after --start")
    start = origin + (start - origin) // step * step
    end = origin + (end - origin) // step * step
    if start < origin or end > stop:
        raise SeriesError(
            f"{rt.source}: holds {_iso(origin)} to {_iso(stop)}; the window {_iso(start)} to {_iso(end)} is not in it",
            f"--start {_iso(max(start, origin))} --end {_iso(min(end, stop))}"
            if start < stop and end > origin
            else "choose a window within it, or give the file of that year",
        )
    if end == start:
        raise SeriesError(f"the window from {_iso(start)} is shorter than one interval", "give a later --end")
    first = max(start - history_days * 24 * MS_PER_HOUR, origin)
    return start - (start - first) // step * step, start, end


def _table(path: Path, names: tuple[str, ...], unit: str, hub: str | None = None, bound: float = 1e5) -> SeriesTable:
    """One column of a file: the first of `names` it has, or the only one that ends in `unit`."""
    header = header_of(path)
    column = next((name for name in names if name in header), None)
    if column is None:
        fits = [name for name in header if name.endswith(unit)]
        wanted = f"one of {', '.join(names)}, or one column ending in {unit}"
        if len(fits) != 1:
            raise SeriesError(
                f"{path}, line 1: needs {wanted}; it has {', '.join(header) or 'no header'}",
                "rename the column, or give another file",
            )
        column = fits[0]
    where = None
    if "settlement_point" in header:
        points = distinct(path, header.index("settlement_point"))
        if len(points) > 1 or hub in points:
            if hub not in points:
                raise SeriesError(
                    f"{path}: column settlement_point: holds {', '.join(points)}, not {hub or 'a chosen one'}",
                    "choose one with --hub",
                )
            where = {"settlement_point": hub}
    try:
        table = load_series(path, column=column, unit=unit, where=where, value_max=bound)
    except TableError as error:
        raise SeriesError(f"{error} (column {column})", _FIXES[error.code]) from None
    bad = next((gap for gap in table.gaps if gap.why == "not_a_number"), None)
    if bad is not None:
        raise SeriesError(
            f"{path}: column {column}: not a finite number at {_iso(bad.start_ms)}",
            "correct the row, or leave the field empty to have the last value stand in",
        )
    return table


_FIXES: Final = {
    "unreadable": "check the path; plain and gzip CSV in UTF-8 are read",
    "columns": "compare the header with `wattshift backtest --help`",
    "time": "write times as the header says, see `wattshift backtest --help`",
    "value": "correct that row",
    "unsorted": "sort the file by time, oldest first",
    "duplicate": "remove one of the two rows",
    "grid": "give one regular interval per file",
    "dst": "name the column interval_start_utc if it is UTC",
    "empty": "give a file with rows, or choose another --hub",
    "size": "split the file",
}


def _held(
    table: SeriesTable,
    grid: NDArray[np.int64],
    step: int,
    history: int,
    said: list[str],
    begin: float = np.nan,
    most: float = SIDE_GAP_SHARE_MAX,
) -> tuple[F8, U1]:
    """The value in force at each interval, the last one where there is none, and where that was so.

    A series finer than the grid is averaged. Before its first value stands `begin`, in the history only. Raises
    `SeriesError` where more than the share `most` of the window is missing.
    """
    starts, values = table.start_ms, table.values
    if table.interval_ms < step:
        starts, values = _averaged(table, int(grid[0]), step)
    at = np.searchsorted(starts, grid, side="right") - 1
    out = np.where(at >= 0, values[np.maximum(at, 0)], begin)
    held_for = grid - starts[np.maximum(at, 0)]
    missing = (at < 0) | (held_for >= max(table.interval_ms, step))
    lost, judged = int(missing[history:].sum()), len(grid) - history
    if lost > most * judged or (judged and at[history] < 0):
        raise SeriesError(
            f"{table.source}: column {table.column}: has no value for {lost} of the window's {judged} intervals "
            f"({lost / judged:.1%}, the first at {_iso(int(grid[history:][missing[history:]][0]))}); "
            f"at most {most:.0%} are filled. It holds {_iso(int(table.start_ms[0]))} to {_iso(table.end_ms)}",
            "give a file that covers the window, or another --start and --end",
        )
    if lost:
        said.append(f"{table.source} [{table.column}]: {lost} of {judged} intervals filled with the value before")
    return np.asarray(out, dtype=np.float64), missing.astype(np.uint8)


def _averaged(table: SeriesTable, origin: int, step: int) -> tuple[NDArray[np.int64], F8]:
    slot = (table.start_ms - origin) // step
    slots, inverse = np.unique(slot, return_inverse=True)
    mean = np.bincount(inverse, weights=table.values) / np.bincount(inverse)
    return origin + slots * step, np.asarray(mean, dtype=np.float64)


def _day_ahead(table: SeriesTable, grid: NDArray[np.int64], history: int, said: list[str]) -> F8:
    """Day-ahead prices; unknown stays NaN."""
    at = np.searchsorted(table.start_ms, grid, side="right") - 1
    there = (at >= 0) & (grid - table.start_ms[np.maximum(at, 0)] < table.interval_ms)
    lost, judged = int((~there[history:]).sum()), len(grid) - history
    if lost == judged:
        raise SeriesError(
            f"{table.source}: column {table.column}: holds {_iso(int(table.start_ms[0]))} to {_iso(table.end_ms)}, "
            "nothing of the window",
            "give the day-ahead prices of the same time, or none",
        )
    if lost:
        said.append(f"{table.source} [{table.column}]: {lost} of {judged} intervals without a day-ahead price")
    return np.asarray(np.where(there, table.values[np.maximum(at, 0)], np.nan), dtype=np.float64)


def _published(grid: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """When each interval's day-ahead price is out: 13:30 local of the day before."""
    zone = ZoneInfo(timezone)
    out = np.empty(len(grid), dtype=np.int64)
    hour, known = -1, 0
    for k, at in enumerate(grid):
        if int(at) // MS_PER_HOUR != hour:
            hour = int(at) // MS_PER_HOUR
            day = datetime.fromtimestamp(int(at) / MS_PER_S, UTC).astimezone(zone).date()
            known = _ms(datetime.combine(day - timedelta(days=1), DAY_AHEAD_AT, zone))
        out[k] = known
    return out


def _hashprice(plan: SitePlan, files: Files, grid: NDArray[np.int64], step: int, history: int, said: list[str]) -> F8:
    if files.btc is not None and files.hashprice is None:
        table = _table(files.btc, _HASHPRICE, "_usd_per_ph_day")
        return _held(table, grid, step, history, said, plan.hashprice)[0]
    value = files.hashprice if files.hashprice is not None else plan.hashprice
    said.append(f"{plan.site.id}: hashprice {value:g} USD/PH/s/day throughout")
    return np.full(len(grid), value)


def _ambient(plan: SitePlan, files: Files, grid: NDArray[np.int64], step: int, history: int, said: list[str]) -> F8:
    if files.weather is not None:
        table = _table(files.weather, _AMBIENT, "temperature_c", bound=70.0)
        return _held(table, grid, step, history, said, plan.ambient_c)[0]
    said.append(f"{plan.site.id}: {plan.ambient_c:g} C throughout, as no weather is given")
    return np.full(len(grid), plan.ambient_c)


def _load(files: Files, grid: NDArray[np.int64], step: int, history: int, said: list[str]) -> F8 | None:
    if files.load is None:
        return None
    return _held(_table(files.load, _LOAD, "load_mw", bound=1e7), grid, step, history, said)[0]


def _jobs(
    plan: SitePlan, files: Files, first: int, start: int, end: int, step: int, said: list[str]
) -> tuple[Job, ...]:
    if files.jobs is None or plan.jobs is None:
        if plan.site.partitions:
            said.append(f"{plan.site.id}: no jobs, its {len(plan.site.partitions)} partitions idle")
        return ()
    rows = load_trace(files.jobs)
    spans = [(first, start), (start, end)] if first < start else [(start, end)]
    told: list[str] = []
    laid = [lay_out(rows, plan, files.jobs.name, span, step, told if span[1] == end else []) for span in spans]
    said += told
    return tuple(chain.from_iterable(laid))


def _ms(at: datetime) -> int:
    return round(at.timestamp() * MS_PER_S)


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / MS_PER_S, UTC).strftime("%Y-%m-%dT%H:%MZ")


__all__ = ["GAP_SHARE_MAX", "HISTORY_DAYS", "Files", "SeriesError", "Window", "load_timeline", "moment"]
