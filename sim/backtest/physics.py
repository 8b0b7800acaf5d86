"""What the plant and everyone who plans for it must compute alike. Pure; MW, hours, USD, degrees Celsius.

The books are sums of these over intervals; nothing else earns or costs:

- a hash bank draws what it is set to, or its idle power; it earns its curve's PH/s times the hashprice / 24 an hour,
  for the part of the interval in which it does not boot (`boot_share`);
- every node of a partition draws its idle power always; a running job draws its own power on top for the whole
  interval, does `rate_at` hours of work an hour, at most what is left, and earns by the hour of work;
- the main meter sees the base load and each hall's units times that hall's PUE at the ambient temperature;
- energy costs meter MWh times (price + adder); a block bought ahead adds block MW times (block price - price);
- the coincident peaks cost `peak_usd_per_mw` times the meter's MW, obligations `over` target times their price.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from contract.units import MS_PER_HOUR, MS_PER_S
from sim.backtest.model import F8, FirmLoad, Job, Site, Timeline

AMBIENT_UNKNOWN_C: Final = 20.0
"""Where a time line has no temperature."""
HOURS_PER_DAY: Final = 24.0
TOLERANCE_MW: Final = 1e-6
"""A limit exceeded by more is exceeded."""


def at_ambient(points: tuple[tuple[float, float], ...], ambient_c: F8 | float | None) -> F8:
    """A hall's curve at the given temperatures: piecewise linear, flat beyond its ends."""
    x = AMBIENT_UNKNOWN_C if ambient_c is None else ambient_c
    return np.asarray(np.interp(x, [p[0] for p in points], [p[1] for p in points]), dtype=np.float64)


def at_degrees(points: tuple[tuple[float, float], ...], ambient_c: float | None) -> float:
    """As `at_ambient`, of one temperature and without arrays."""
    x = AMBIENT_UNKNOWN_C if ambient_c is None else ambient_c
    low = points[0]
    if x <= low[0]:
        return low[1]
    for high in points[1:]:
        if x < high[0]:
            return low[1] + (high[1] - low[1]) * (x - low[0]) / (high[0] - low[0])
        low = high
    return low[1]


def steps_of(hours: float, interval_h: float) -> int:
    """A dwell in whole intervals, rounded up; 0 for none."""
    return math.ceil(hours / interval_h - 1e-9) if hours > 0 else 0


def boot_share(boot_h: float, since: int, interval_h: float) -> float:
    """The part of an interval that still boots, of a bank that has been on for `since` whole intervals before it."""
    return min(max(boot_h - since * interval_h, 0.0), interval_h) / interval_h


def rate_at(job: Job, mw: float) -> float:
    """Hours of work an hour at that power does; 0 below the first level."""
    return float(np.interp(mw, job.level_mw, job.level_rate)) if mw >= job.level_mw[0] - TOLERANCE_MW else 0.0


def power_for(job: Job, rate: float) -> float:
    """The least power that does `rate` hours of work an hour, within the job's levels."""
    return float(np.interp(rate, job.level_rate, job.level_mw))


def in_window(job: Job, start_ms: int, interval_ms: int) -> bool:
    """Whether the job may run in the interval: all of it lies between submission and deadline."""
    return job.submit_ms <= start_ms and start_ms + interval_ms <= job.deadline_ms


def feeder_paths(site: Site) -> list[tuple[int, ...]]:
    """Of each feeder itself and all above it, up to the main."""
    paths = []
    for index in range(len(site.feeders)):
        path: list[int] = []
        at: int | None = index
        while at is not None and len(path) <= len(site.feeders):
            path.append(at)
            at = site.feeders[at].parent
        paths.append(tuple(path))
    return paths


def firm_usd_per_mwh(firm: FirmLoad) -> float:
    """What giving up a MWh of it costs, all in."""
    return firm.usd_per_mwh + firm.shed_usd_per_mwh


def obligation_targets(timeline: Timeline) -> tuple[F8, F8]:
    """(T,) the lowest obligation target in force, infinite where none, and (T,) hours of the interval it is due for.

    An interval that a window touches has its target for all of its power, and pays for the hours it shares with it.
    """
    count, step = len(timeline.price), timeline.interval_ms
    target, hours = np.full(count, np.inf), np.zeros(count)
    for due in timeline.obligations:
        first = max((due.starts_ms - timeline.start_ms) // step, 0)
        last = min(-(-(due.ends_ms - timeline.start_ms) // step), count)
        for k in range(first, last):
            begin = timeline.start_ms + k * step
            shared = (min(due.ends_ms, begin + step) - max(due.starts_ms, begin)) / MS_PER_HOUR
            hours[k] = max(hours[k], shared)
            target[k] = min(target[k], due.target_mw)
    return target, hours


def local_months(timeline: Timeline, timezone: str) -> NDArray[np.int64]:
    """(T,) year * 100 + month of each interval's start, local."""
    zone = ZoneInfo(timezone)
    count = len(timeline.price)
    months = np.empty(count, dtype=np.int64)
    hour = MS_PER_HOUR
    last_key, last_month = None, 0
    for k in range(count):
        at = timeline.start_ms + k * timeline.interval_ms
        key = at // hour
        if key != last_key:
            local = datetime.fromtimestamp(at / MS_PER_S, UTC).astimezone(zone)
            last_key, last_month = key, local.year * 100 + local.month
        months[k] = last_month
    return months


def peak_usd_per_mw(site: Site, timeline: Timeline) -> F8:
    """(T,) what a MW at the meter in that interval costs in coincident-peak charges, by the truth of the system load.

    Each judged month of `peak_months` has one peak: the judged intervals of its highest load share it. All zero
    without a load series or a charge. A month judged in part has the peak of that part.
    """
    cost = np.zeros(len(timeline.price))
    energy = site.energy
    if timeline.load_mw is None or energy.peak_charge_usd_per_mw_year <= 0 or not energy.peak_months:
        return cost
    months = local_months(timeline, site.timezone)
    judged = np.arange(len(cost)) >= timeline.history
    for month in np.unique(months[judged]):
        if month % 100 not in energy.peak_months:
            continue
        at = np.nonzero(judged & (months == month) & np.isfinite(timeline.load_mw))[0]
        if len(at) == 0:
            continue
        peak = at[timeline.load_mw[at] == timeline.load_mw[at].max()]
        cost[peak] = energy.peak_charge_usd_per_mw_year / len(energy.peak_months) / len(peak)
    return cost
