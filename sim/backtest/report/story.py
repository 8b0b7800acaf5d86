"""What there is to tell of a backtest: its verdict, its telling day, what made the difference. No markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from sim.backtest.model import Books, Site, Timeline, Trace

F8 = NDArray[np.float64]

OURS: Final = "wattshift"
BASE: Final = "always-on"
MEASURE: Final = "bound"
HOURS_PER_DAY: Final = 24.0


@dataclass(frozen=True, slots=True)
class Judged:
    """One site's backtest: the same plant and time line under each policy."""

    site: Site
    timeline: Timeline
    lag: int
    """Intervals by which prices come late."""
    books: tuple[Books, ...]
    traces: tuple[Trace, ...]
    """As `books`."""
    bound_usd: float | None
    """No policy can earn more; None where it was not reckoned."""
    bound_gap: float | None
    """By how much of it the best plan found with perfect foresight stays below."""
    bound_trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """One local day of the window."""

    date: str
    span: slice
    """Of judged intervals."""


def verdict(one: Judged) -> str:
    """What came out, in one sentence."""
    books = {b.policy: b for b in one.books}
    ours, base = books.get(OURS), books.get(BASE)
    when = window(one)
    if ours is None:
        best = max(one.books, key=lambda b: b.profit_usd)
        return f"{when}: {best.policy} earned most, {usd(best.profit_usd)}."
    parts = [f"{when}: Wattshift earned {usd(ours.profit_usd)}"]
    if base is not None:
        parts.append(f"{signed_usd(ours.profit_usd - base.profit_usd)} against running always")
    rival = best_rule(one.books)
    if rival is not None:
        parts.append(f"{signed_usd(ours.profit_usd - rival.profit_usd)} against the best simple rule ({rival.policy})")
    sentence = ", ".join(parts)
    if ours.flex_capture is not None:
        sentence += f"; that is {ours.flex_capture:.1%} of what perfect foresight could have added"
    return sentence + "."


def days(one: Judged) -> list[Day]:
    """The judged window cut at local midnights of the market."""
    zone, timeline = ZoneInfo(one.site.timezone), one.timeline
    begin_ms = timeline.start_ms + timeline.history * timeline.interval_ms
    count = len(timeline.price) - timeline.history
    out: list[Day] = []
    first, date = 0, ""
    for i in range(count + 1):
        at = datetime.fromtimestamp((begin_ms + i * timeline.interval_ms) / 1_000, zone)
        today = f"{at:%Y-%m-%d}" if i < count else ""
        if today != date:
            if date:
                out.append(Day(date, slice(first, i)))
            first, date = i, today
    return out


def telling_day(one: Judged) -> Day:
    """The day to show: where prices peaked highest among those on which ours and the best rule differ most."""
    price = one.timeline.price[one.timeline.history :]
    traces = {t.policy: t for t in one.traces}
    rival = best_rule(one.books)
    ours = traces.get(OURS)
    candidates = days(one)
    if ours is not None and rival is not None:
        gain = ours.profit_usd - traces[rival.policy].profit_usd
        candidates.sort(key=lambda day: -abs(float(gain[day.span].sum())))
        candidates = candidates[: max(5, len(candidates) // 30)]
    return max(candidates, key=lambda day: (float(price[day.span].max()), day.date))


def best_rule(books: Sequence[Books]) -> Books | None:
    """The simple rule that earned most; running always counts as one where there is no other."""
    rules = [b for b in books if b.policy not in (OURS, MEASURE)]
    return max(rules, key=lambda b: b.profit_usd, default=None)


def bank_groups(site: Site) -> list[tuple[str, list[int]]]:
    """Banks by efficiency at full power, best first, in three classes at most: more colours tell nobody more."""
    order = sorted(range(len(site.banks)), key=lambda i: joule_per_th(site, i))
    classes: dict[int, list[int]] = {}
    for i in order:
        classes.setdefault(round(joule_per_th(site, i) / 3), []).append(i)
    groups = list(classes.values())
    while len(groups) > 3:
        groups[-2:] = [groups[-2] + groups[-1]]
    return [(f"hashing at {joule_per_th(site, group[0]):.0f} J/TH", group) for group in groups]


def joule_per_th(site: Site, bank: int) -> float:
    plate = site.banks[bank]
    return 1_000.0 * plate.level_mw[-1] / plate.level_phs[-1] if plate.level_phs[-1] > 0 else 999.0


def break_evens(one: Judged, day: Day) -> list[tuple[str, float]]:
    """The price at which the best and the worst bank earn nothing at full power, at the meter, on that day."""
    at = one.timeline.history + day.span.start
    hashprice = float(one.timeline.hashprice[at])
    worths = []
    for i, bank in enumerate(one.site.banks):
        if bank.level_phs[-1] > 0:
            pue = one.site.halls[bank.hall].pue_points[0][1]
            usd = bank.level_phs[-1] * hashprice / HOURS_PER_DAY / (bank.level_mw[-1] * pue)
            worths.append((usd - one.site.energy.adder_usd_per_mwh, joule_per_th(one.site, i)))
    ends = [max(worths), min(worths)] if worths else []
    named = [(f"break-even at {j:.0f} J/TH: {usd:.0f}", usd) for usd, j in ends]
    return named[:1] if len(named) == 2 and named[0] == named[1] else named


def window(one: Judged) -> str:
    timeline = one.timeline
    begin_ms = timeline.start_ms + timeline.history * timeline.interval_ms
    end_ms = timeline.start_ms + len(timeline.price) * timeline.interval_ms
    first, last = (datetime.fromtimestamp(ms / 1_000, UTC) for ms in (begin_ms, end_ms))
    late = "known in time" if one.lag == 0 else f"known {one.lag} interval{'s' if one.lag > 1 else ''} late"
    return f"{first:%d %b %Y} to {last:%d %b %Y}, prices {late}"


def usd(value: float) -> str:
    return f"{'-' if value < -0.5 else ''}${abs(value):,.0f}"


def signed_usd(value: float) -> str:
    return f"{'-' if value < 0 else '+'}${abs(value):,.0f}"


def short_usd(value: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:,.4g} {name}"
    return f"{value:,.0f}"
