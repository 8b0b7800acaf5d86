"""A small site, a time line and what two policies did on it, made up and added up by hand for the report's tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.backtest.model import Action, Books, Energy, Feeder, Hall, HashBank, Obligation, Site, Timeline, Trace
from sim.backtest.plant import Plant
from sim.backtest.report import Judged

INTERVAL_MS = 900_000
START_MS = 1_692_162_000_000
"""2023-08-16 00:00 in Chicago."""
DAYS, HISTORY = 4, 96


def site() -> Site:
    """Two banks of 17 and 30 J/TH behind 10 MW."""
    halls = (Hall("air", ((20.0, 12.0), (40.0, 9.0)), ((20.0, 1.05), (40.0, 1.1))),)
    levels = (3.0, 4.0, 5.0, 6.0)
    banks = tuple(
        HashBank(
            name, 0, 0, levels, tuple(1_000.0 * mw / joule for mw in levels), 0.05, 0.1, 0.25, 0.25, 40.0
        )
        for name, joule in (("hydro", 17.0), ("air-a", 30.0))
    )  # fmt: skip
    energy = Energy(2.0, 0.0, 0.0, 0.0, ())
    return Site("brazos", 10.0, 0.2, (Feeder("main", None, 11.0),), halls, banks, (), (), energy, 1_000.0, "US/Central")


def timeline() -> Timeline:
    """Four days after one of history: 25 USD/MWh, on the third judged day up to 4,000 from noon to three."""
    count = HISTORY + 96 * DAYS
    price = np.full(count, 25.0)
    spike = HISTORY + 2 * 96 + 48
    price[spike : spike + 12] = 4_000.0
    price[HISTORY + 10] = -20.0
    return Timeline(
        START_MS - HISTORY * INTERVAL_MS, INTERVAL_MS, HISTORY, price, np.zeros(count, np.uint8), None, None,
        np.full(count, 60.0), None, None, (), (),
    )  # fmt: skip


def pressed() -> tuple[Site, Timeline]:
    """The same, with an obligation of 2 MW and the month's peak of the whole market within the spike."""
    line, noon = timeline(), HISTORY + 2 * 96 + 48
    load = np.full(len(line.price), 50_000.0)
    load[noon + 4 : noon + 8] = 80_000.0
    starts_ms = line.start_ms + noon * INTERVAL_MS
    due = Obligation("drill", starts_ms - INTERVAL_MS, starts_ms, starts_ms + 4 * INTERVAL_MS, 2.0)
    charged = replace(site(), energy=Energy(2.0, 0.0, 0.0, 60_000.0, (8,)))
    return charged, replace(line, load_mw=load, obligations=(due,))


def judged(
    *,
    names: tuple[str, ...] = ("always-on", "break-even", "wattshift"),
    where: tuple[Site, Timeline] | None = None,
) -> Judged:
    """`wattshift` stands down in the spike, `break-even` an interval late, `always-on` never."""
    plan, line = where or (site(), timeline())
    late = {"always-on": None, "break-even": 1, "hysteresis": 2, "wattshift": 0}
    runs = [_lived(plan, line, name, late[name]) for name in names]
    traces = tuple(trace for _, trace in runs)
    bound = float(traces[-1].profit_usd.sum()) + 500.0
    base = float(traces[0].profit_usd.sum())
    books = tuple(replace(own, flex_capture=(own.profit_usd - base) / (bound - base)) for own, _ in runs)
    return Judged(plan, line, 0, books, traces, bound, 0.002)


def _lived(plan: Site, line: Timeline, name: str, late: int | None) -> tuple[Books, Trace]:
    """All of the better bank and half of the worse; both off in the spike from `late` intervals on."""
    plant = Plant(plan, line)
    dear = np.flatnonzero(line.price[line.history :] > 1_000.0)
    off = set() if late is None else set(dear[late:].tolist())
    for i in range(len(line.price) - line.history):
        stop = i in off
        plant.step(Action(np.zeros(2) if stop else np.array([6.0, 3.0]), why="a price <above> all" if stop else ""))
    return plant.close(name, [0.1, 0.2])
