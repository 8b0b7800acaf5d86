"""The sections of a site's page: tiles, books, charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.backtest.model import Books, Trace
from sim.backtest.report.charts import Axis, Band, Line, chart, legend, linear, price_axis
from sim.backtest.report.story import (
    BASE,
    HOURS_PER_DAY,
    MEASURE,
    OURS,
    Day,
    Judged,
    bank_groups,
    best_rule,
    break_evens,
    days,
    short_usd,
    signed_usd,
    telling_day,
    usd,
    verdict,
)
from sim.backtest.report.why import apart, reason

F8 = NDArray[np.float64]

COLOURS: Final = {BASE: "c0", "break-even": "c1", "hysteresis": "c2", OURS: "c3", MEASURE: "c4"}
DAYS_SHOWN: Final = 8
MS_PER_HOUR: Final = 3_600_000


def site_section(one: Judged, *, several: bool) -> str:
    day = telling_day(one)
    heading = f"<h2>{escape(one.site.id)}</h2>" if several else ""
    return (
        f'<section class="site">{heading}<p class="verdict">{escape(verdict(one))}</p>{_tiles(one)}'
        f"<h3>The books</h3>{_books_table(one)}"
        f"<h3>Cumulative profit</h3>{_cumulative(one)}"
        f"<h3>One telling day: {day.date}</h3>{_day_section(one, day)}"
        f"<h3>Duration curves</h3>{_durations(one)}"
        f"<h3>Where the difference was made</h3>{_differences(one)}</section>"
    )


def _tiles(one: Judged) -> str:
    books = {b.policy: b for b in one.books}
    lead = books.get(OURS) or max(one.books, key=lambda b: b.profit_usd)
    jobs = f"{lead.jobs_missed:,}"
    capture = f"{lead.flex_capture:.1%}" if lead.flex_capture is not None else "not reckoned"
    tiles = [
        ("Profit", usd(lead.profit_usd), lead.policy),
        ("Flex capture", capture, "of what perfect foresight adds to running always"),
        ("Curtailed", f"{lead.curtailed_mwh:,.0f} MWh", f"{lead.starts_per_bank:,.0f} starts a bank"),
        ("Jobs missed", jobs, f"{lead.invariant_violations:,} limits violated"),
    ]
    cells = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>'
        for name, value, note in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _books_table(one: Judged) -> str:
    base = next((b.profit_usd for b in one.books if b.policy == BASE), None)
    head = (
        "Policy", "Profit", "Against always-on", "Flex capture", "Energy", "Hashing", "HPC", "Resale", "Penalties",
        "Curtailed MWh", "Starts a bank", "Jobs missed", "Violations", "Decision p50 / p99, ms",
    )  # fmt: skip
    rows = [_book_row(b, base) for b in sorted(one.books, key=lambda b: -b.profit_usd)]
    if one.bound_usd is not None:
        gap = "" if one.bound_gap is None else f"within {one.bound_gap:.2%}"
        against = "" if base is None else signed_usd(one.bound_usd - base)
        rows.append((f"{MEASURE}: perfect foresight, no policy", usd(one.bound_usd), against, gap) + ("",) * 10)
    return _table(head, rows, mark=OURS, kind="books")


def _book_row(b: Books, base: float | None) -> tuple[str, ...]:
    return (
        b.policy,
        usd(b.profit_usd),
        "" if base is None else signed_usd(b.profit_usd - base),
        "" if b.flex_capture is None else f"{b.flex_capture:.3f}",
        usd(-b.energy_cost_usd),
        usd(b.hash_revenue_usd),
        usd(b.hpc_revenue_usd),
        usd(b.resale_usd),
        usd(-b.penalties_usd),
        f"{b.curtailed_mwh:,.0f}",
        f"{b.starts_per_bank:,.1f}",
        f"{b.jobs_missed:,}",
        f"{b.invariant_violations:,}",
        f"{b.decision_p50_ms:.2f} / {b.decision_p99_ms:.2f}",
    )


def _cumulative(one: Judged) -> str:
    traces = _all_traces(one)
    hours = one.timeline.interval_ms / MS_PER_HOUR
    x = np.arange(1, len(traces[0].profit_usd) + 1, dtype=np.float64) * (hours / HOURS_PER_DAY)
    x_axis = _date_axis(one, x)
    totals = [(t.policy, np.cumsum(t.profit_usd)) for t in traces]
    first = _lines("Cumulative profit by policy", x, totals, x_axis)
    base = next((y for name, y in totals if name == BASE), None)
    second = ""
    if base is not None and len(totals) > 1:
        gains = [(name, y - base) for name, y in totals if name != BASE]
        caption = "<p>The same above running always, which is what flexibility is worth:</p>"
        second = caption + _lines("Cumulative profit above always-on", x, gains, x_axis)
    return first + second


def _lines(name: str, x: F8, series: Sequence[tuple[str, F8]], x_axis: Axis) -> str:
    y_axis = linear([y for _, y in series], unit=short_usd)
    lines = [Line(label, x, y, _colour(label)) for label, y in series]
    drawn = chart(name, x_axis, y_axis, lines, y_label="USD")
    return drawn + legend([(label, _colour(label)) for label, _ in series])


def _day_section(one: Judged, day: Day) -> str:
    price = one.timeline.price[one.timeline.history :][day.span]
    count = len(price)
    hours = one.timeline.interval_ms / MS_PER_HOUR
    edges = np.arange(count + 1, dtype=np.float64) * hours
    x_axis = Axis(0.0, float(edges[-1]), [(h, f"{h:02.0f}:00") for h in np.arange(0, edges[-1] + 0.01, 3.0)])
    worths = break_evens(one, day)
    drawn = [price, *(np.full(count, worth) for _, worth in worths)]
    y_axis = price_axis(drawn)
    lines = [Line("real-time price", edges, _held(price), "price", step=True)]
    lines += [
        Line(label, edges, _held(values), f"even{k}", step=True)
        for k, ((label, _), values) in enumerate(zip(worths, drawn[1:], strict=True))
    ]
    keys = [("real-time price", "price"), *((label, f"even{k}") for k, (label, _) in enumerate(worths))]
    out = [chart(f"Price on {day.date}", x_axis, y_axis, lines, height=200, y_label="USD/MWh"), legend(keys)]
    rival = best_rule(one.books)
    names = [OURS] + ([rival.policy] if rival else [])
    traces = [t for name in names for t in one.traces if t.policy == name] or list(one.traces[:1])
    top = max(float(np.nanmax(t.cap_mw[day.span])) for t in traces)
    out.extend(_dispatch(one, trace, day, edges, x_axis, top) for trace in traces)
    return "".join(out)


def _dispatch(one: Judged, trace: Trace, day: Day, edges: F8, x_axis: Axis, top: float) -> str:
    banks = trace.bank_mw[day.span]
    hpc, meter, cap = trace.hpc_mw[day.span], trace.meter_mw[day.span], trace.cap_mw[day.span]
    groups = bank_groups(one.site)
    bands = [Band("HPC", hpc, "w-hpc")]
    bands += [Band(label, banks[:, index].sum(axis=1), f"w-hash{k}") for k, (label, index) in enumerate(groups)]
    rest = np.maximum(meter - hpc - banks.sum(axis=1), 0.0)
    bands.append(Band("cooling, losses, base load", rest, "w-rest"))
    y_axis = linear([np.array([0.0, top])])
    lines = [Line("cap in force", edges, _held(cap), "cap", step=True)]
    profit = float(trace.profit_usd[day.span].sum())
    name = f"{trace.policy}: {usd(profit)} on {day.date}"
    drawn = chart(name, x_axis, y_axis, lines, (edges, bands), height=220, y_label="MW")
    return f"<h4>{escape(name)}</h4>{drawn}" + legend([*((b.label, b.css) for b in bands), ("cap in force", "cap")])


def _durations(one: Judged) -> str:
    price = np.sort(one.timeline.price[one.timeline.history :])[::-1]
    share = np.linspace(0.0, 100.0, len(price))
    x_axis = Axis(0.0, 100.0, [(float(k), f"{k} %") for k in range(0, 101, 10)])
    first = chart(
        "Price duration curve", x_axis, price_axis([price]), [Line("real-time price", share, price, "price")],
        height=200, y_label="USD/MWh",
    )  # fmt: skip
    traces = _all_traces(one)
    series = [(t.policy, np.sort(t.meter_mw)[::-1]) for t in traces]
    lines = [Line(label, share, y, _colour(label)) for label, y in series]
    second = chart(
        "Power duration curve", x_axis, linear([y for _, y in series]), lines, height=220, y_label="MW at the meter"
    )
    keys = legend([(label, _colour(label)) for label, _ in series])
    return f"<p>Share of the window for which price, then power, was at least so high:</p>{first}{second}{keys}"


def _differences(one: Judged) -> str:
    traces = {t.policy: t for t in one.traces}
    rival = best_rule(one.books)
    if OURS not in traces or rival is None:
        return "<p>Needs wattshift and one simple rule side by side.</p>"
    ours, theirs = traces[OURS], traces[rival.policy]
    price = one.timeline.price[one.timeline.history :]
    hours = one.timeline.interval_ms / MS_PER_HOUR
    gain = ours.profit_usd - theirs.profit_usd
    difference = apart(one, ours, theirs)
    ranked = sorted(days(one), key=lambda day: (-abs(float(gain[day.span].sum())), day.date))[:DAYS_SHOWN]
    rows = []
    for day in ranked:
        s = day.span
        hash_mwh = float((ours.bank_mw[s].sum() - theirs.bank_mw[s].sum()) * hours)
        hpc_mwh = float((ours.hpc_mw[s].sum() - theirs.hpc_mw[s].sum()) * hours)
        rows.append(
            (
                day.date,
                signed_usd(float(gain[s].sum())),
                f"{float(price[s].min()):,.0f} to {float(price[s].max()):,.0f}",
                f"{hash_mwh:+,.0f}",
                f"{hpc_mwh:+,.0f}",
                reason(one, ours, theirs, difference, day),
            )
        )
    head = (
        "Day",
        f"Against {rival.policy}",
        "Price, USD/MWh",
        "Hashing, MWh",
        "HPC, MWh",
        "Why",
    )
    total = float(gain.sum())
    top = float(sum(gain[day.span].sum() for day in ranked))
    lead = (
        f"<p>These {len(ranked)} days make {signed_usd(top)} of the {signed_usd(total)} between the two. A job's work "
        "counts on the day it is done: what one day puts off, another gains.</p>"
    )
    return lead + _table(head, rows, kind="why")


def _all_traces(one: Judged) -> list[Trace]:
    return [*one.traces, *([one.bound_trace] if one.bound_trace is not None else [])]


def _colour(policy: str) -> str:
    return COLOURS.get(policy, "c5")


def _held(values: F8) -> F8:
    """One value more, for the end of the last step."""
    return np.append(values, values[-1:])


def _date_axis(one: Judged, x: F8) -> Axis:
    """Days of the window on the x axis, with a tick at each month, or each day where it is short."""
    whole = days(one)
    monthly = len(whole) > 45
    hours = one.timeline.interval_ms / MS_PER_HOUR
    every = max(1, len(whole) // 12)
    ticks: list[tuple[float, str]] = []
    for k, day in enumerate(whole):
        at = day.span.start * hours / HOURS_PER_DAY
        if monthly and day.date.endswith("-01"):
            ticks.append((at, datetime.fromisoformat(day.date).strftime("%b %y")))
        elif not monthly and k % every == 0:
            ticks.append((at, day.date[5:]))
    return Axis(0.0, float(x[-1]), ticks)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], mark: str = "", kind: str = "") -> str:
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f"<tr{' class=ours' if row[0] == mark else ''}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
