"""A small site, a time line and what two policies did on it, made up and added up by hand for the report's tests."""

from __future__ import annotations

import numpy as np

from sim.backtest.model import Books, Energy, Feeder, Hall, HashBank, Site, Timeline, Trace
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


def judged(*, names: tuple[str, ...] = ("always-on", "break-even", "wattshift")) -> Judged:
    """`wattshift` stands down in the spike, `break-even` an interval late, `always-on` never."""
    plan, line = site(), timeline()
    late = {"always-on": None, "break-even": 1, "hysteresis": 2, "wattshift": 0}
    traces = tuple(_trace(plan, line, name, late[name]) for name in names)
    bound = float(traces[-1].profit_usd.sum()) + 500.0
    base = float(traces[0].profit_usd.sum())
    books = tuple(_books(trace, base, bound) for trace in traces)
    return Judged(plan, line, 0, books, traces, bound, 0.002)


def _trace(plan: Site, line: Timeline, name: str, late: int | None) -> Trace:
    price = line.price[line.history :]
    bank_mw = np.tile([6.0, 3.0], (len(price), 1))
    why = ["every bank earns more than energy costs"] * len(price)
    if late is not None:
        dear = np.flatnonzero(price > 1_000.0)[late:]
        bank_mw[dear] = 0.0
        for i in dear:
            why[i] = "the price is above <every> break-even"
    revenue = 0.25 * bank_mw @ np.array([60.0 / 24 * 1_000.0 / joule for joule in (17.0, 30.0)])
    meter = bank_mw.sum(axis=1) * 1.05 + plan.base_load_mw
    profit = revenue - 0.25 * meter * (price + 2.0)
    zeros = np.zeros(len(price))
    return Trace(name, bank_mw, zeros, meter, profit, np.full(len(price), plan.cap_mw), why)


def _books(trace: Trace, base: float, bound: float) -> Books:
    profit = float(trace.profit_usd.sum())
    capture = (profit - base) / (bound - base)
    return Books(trace.policy, profit, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0, 0, capture, 0.1, 0.2)
