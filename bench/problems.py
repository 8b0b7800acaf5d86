"""Synthetic dispatch problems: hard small ones to judge plans by, and fleets of a usual make to time the solver on.

Nothing here is measured data; the shapes (efficiency 17-38 J/TH, hash price 45-60 USD per PH/s and day, a daily price
curve with a spike every other day) are those of 2023-2024.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from controller.engine.optimiser.assemble import Moment, Plant, plant
from controller.engine.optimiser.layout import (
    F8,
    I4,
    LEVELS,
    NO_LIMIT_MW,
    STEP_MINUTES,
    Grid,
    Problem,
    Rows,
    Sites,
    Units,
    check,
    grid,
    moves,
)

SMALL_MINUTES = (1,) * 5 + (5,) * 5 + (15,) * 6 + (60,) * 10
"""A grid small enough for an exact solution: 26 steps, 12 h."""

METER_PENALTY, FEEDER_PENALTY, DUTY_PENALTY, NODE_PENALTY = 20_000.0, 50_000.0, 5_000.0, 50_000.0


@dataclass
class _Draft:
    """A problem being put together, one unit and one row at a time."""

    steps: int
    fields: dict[str, list[object]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    on_weight: list[float] = field(default_factory=list)
    row_from: list[int] = field(default_factory=lambda: [0])
    caps: list[F8] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)

    def row(self, cap: F8, penalty: float) -> int:
        self.caps.append(cap)
        self.penalties.append(penalty)
        return len(self.caps) - 1

    def unit(self, counts_in: list[tuple[int, float, float]], **values: object) -> None:
        """`counts_in`: (row, MW of it per MW, MW of it when on)."""
        for row, weight, on_weight in counts_in:
            self.rows.append(row)
            self.weight.append(weight)
            self.on_weight.append(on_weight)
        self.row_from.append(len(self.rows))
        usual: dict[str, object] = {
            "level_usd_h": [0.0] * LEVELS, "level_rate": [0.0] * LEVELS, "idle_mw": 0.0, "meter_share": 1.0,
            "start_usd": 0.0, "boot_h": 0.0, "min_up_h": 0.0, "min_down_h": 0.0, "work_h": np.inf, "work_usd": 0.0,
            "miss_usd": 0.0, "on": 0, "locked_h": 0.0, "booting_h": 0.0, "open": [1] * self.steps,
        }  # fmt: skip
        for name, value in {**usual, **values}.items():
            self.fields.setdefault(name, []).append(value)

    def units(self) -> Units:
        arrays: dict[str, Any] = {
            name: np.array(values, np.uint8 if name in ("on", "open") else np.float64)
            for name, values in self.fields.items()
        }
        return Units(
            **arrays, row_from=np.array(self.row_from, np.int32), rows=np.array(self.rows, np.int32),
            weight=np.array(self.weight), on_weight=np.array(self.on_weight),
        )  # fmt: skip


def hard_problem(seed: int, *, banks: int, jobs: int, minutes: tuple[int, ...] = SMALL_MINUTES) -> Problem:
    """One site whose limits bind: tight feeders and cap, a curtailment, jobs with deadlines, some units locked or
    booting.

    Every third has firm load that may be shed, every fourth an award that must stay armed, every fifth a partition's
    nodes.
    """
    rng = np.random.default_rng(seed)
    g = grid(minutes)
    steps = len(g.hours)
    middle = 0.5 * (g.edge_h[:-1] + g.edge_h[1:])
    draft = _Draft(steps)
    full = rng.uniform(0.5, 2.5, banks + jobs)
    shares = rng.uniform(1.03, 1.25, banks + jobs)
    feeders = int(rng.integers(2, 5))
    feeder_of = rng.integers(feeders, size=banks + jobs)
    firm = 1.5 if seed % 3 == 0 else 0.0
    cap = np.full(steps, (full @ shares) * rng.uniform(0.6, 0.95) + firm)
    meter = draft.row(cap, METER_PENALTY)
    loads = [full[feeder_of == f].sum() for f in range(feeders)]
    feeder = [draft.row(np.full(steps, max(mw * rng.uniform(0.7, 1.1), 2.6)), FEEDER_PENALTY) for mw in loads]
    extra: list[tuple[int, str]] = []
    if rng.random() < 0.4:
        start = rng.uniform(0, 8)
        target = np.where((middle > start) & (middle < start + 3), 0.5 * cap, NO_LIMIT_MW)
        extra.append((draft.row(target, DUTY_PENALTY), "meter"))
    if seed % 4 == 0:
        idle_mw = 0.01 * (full[:banks] @ shares[:banks])
        award = np.where(middle < 4, -0.15 * cap[0] - idle_mw, NO_LIMIT_MW)
        extra.append((draft.row(award, DUTY_PENALTY), "award"))
    nodes = draft.row(np.full(steps, 0.6 * jobs), NODE_PENALTY) if seed % 5 == 0 and jobs > 1 else -1
    for n in range(banks + jobs):
        job = n >= banks
        counts = [(meter, shares[n], 0.0), (feeder[feeder_of[n]], 1.0, 0.0)]
        idle = 0.0 if job else 0.01 * full[n]
        for row, kind in extra:
            if kind == "meter":
                counts.append((row, shares[n], 0.0))
            elif not job:
                counts.append((row, -shares[n], 0.0))
        if job and nodes >= 0:
            counts.append((nodes, 0.0, 1.0))
        values = _job(rng, g, full[n]) if job else _bank(rng, full[n], idle)
        draft.unit(counts, meter_share=shares[n], **values)
    if firm:
        mw = firm * np.array([0.0, 0.3, 0.6, 1.0])
        firm_rows = [(meter, 1.0, 0.0)] + [(row, 1.0, 0.0) for row, kind in extra if kind == "meter"]
        draft.unit(firm_rows, level_mw=mw, level_usd_h=2_000.0 * mw, on=1, locked_h=g.edge_h[-1])
    price = 40 + 25 * np.sin((middle - 6) / 24 * 2 * np.pi + rng.uniform(0, 6)) + rng.normal(0, 8, steps)
    if rng.random() < 0.5:
        price += rng.uniform(50, 2_000) * np.exp(-((middle - rng.uniform(0, g.edge_h[-1])) ** 2))
    u = draft.units()
    sites = Sites(
        np.array([0, len(u.idle_mw)], np.int32), np.array([0, len(draft.caps)], np.int32), price[None, :].copy(),
        np.array([seed % 4 == 0], np.uint8),
    )  # fmt: skip
    p = Problem(g, sites, u, Rows(np.array(draft.caps), np.array(draft.penalties)), moves(g, u))
    check(p)
    return p


def _bank(rng: np.random.Generator, full_mw: float, idle_mw: float) -> dict[str, object]:
    mw = full_mw * np.array([0.6, 0.75, 0.9, 1.0])
    usd_per_mwh = rng.uniform(45, 60) * 1000 / 24 / rng.uniform(17, 38)
    on = rng.random() < 0.6
    boot = float(rng.choice([0, 2, 5, 10])) / 60
    locked = rng.uniform(0, 0.3) if rng.random() < 0.2 else 0.0
    return {
        "level_mw": mw, "level_usd_h": usd_per_mwh * mw / (1 - 0.35 * (1 - mw / full_mw)), "idle_mw": idle_mw,
        "start_usd": rng.uniform(3, 15) * full_mw, "boot_h": boot, "min_up_h": float(rng.choice([0, 0.25, 0.5])),
        "min_down_h": float(rng.choice([0, 0.1, 0.25])), "on": int(on), "locked_h": locked,
        "booting_h": min(locked, boot) if on else 0.0,
    }  # fmt: skip


def _job(rng: np.random.Generator, g: Grid, full_mw: float) -> dict[str, object]:
    work = rng.uniform(0.5, 8)
    value, miss = rng.uniform(60, 400) * full_mw, rng.uniform(0, 2) * full_mw * 100
    deadline = rng.uniform(0.9 * work, g.edge_h[-1] + 2)
    return {
        "level_mw": full_mw * np.array([0.6, 0.75, 0.9, 1.0]), "level_rate": [0.75, 0.87, 0.96, 1.0], "work_h": work,
        "work_usd": value + miss / work, "miss_usd": miss, "start_usd": rng.uniform(0, 30) * full_mw,
        "min_up_h": float(rng.choice([0, 0.25])), "on": int(rng.random() < 0.6),
        "open": g.edge_h[1:] <= deadline + 1e-9,
    }  # fmt: skip


BANKS, JOBS, FEEDERS = 20, 7, 4


def fleet(sites: int, seed: int = 0, minutes: tuple[int, ...] = STEP_MINUTES) -> tuple[Plant, Moment]:
    """Sites of 20 banks and 7 batch jobs on 4 feeders; the cap is 85 to 95 % of the nameplate, feeders 95 to 110 %."""
    rng = np.random.default_rng(seed)
    g = grid(minutes)
    each = BANKS + JOBS
    units, rows = sites * each, sites * (FEEDERS + 1)
    bank = np.tile(np.arange(each) < BANKS, sites)
    site_of = np.repeat(np.arange(sites), each)
    full = rng.uniform(1.0, 3.0, units)
    share = np.where(bank, rng.uniform(1.03, 1.1, units), rng.uniform(1.15, 1.3, units))
    level_mw = full[:, None] * np.where(bank[:, None], [0.5, 0.7, 0.85, 1.0], [0.6, 0.75, 0.9, 1.0])
    phs_per_mw = 1e3 / rng.uniform(16, 34, units)
    bend = 1 - 0.3 * (1 - level_mw / full[:, None])
    level_phs = np.where(bank[:, None], phs_per_mw[:, None] * level_mw / bend, 0.0)
    feeder_of = np.tile(np.arange(each) % FEEDERS, sites)
    first_row = site_of * (FEEDERS + 1)
    index = np.stack([first_row, first_row + 1 + feeder_of], axis=1).astype(np.int32).ravel()
    weight = np.stack([share, np.ones(units)], axis=1).ravel()
    miss = np.where(bank, 0.0, rng.uniform(0, 300, units) * full)
    work = np.where(bank, np.inf, rng.uniform(0.5, 10, units))
    zeros = np.zeros(units)
    u = Units(
        level_mw=np.ascontiguousarray(level_mw), level_usd_h=np.zeros((units, LEVELS)),
        level_rate=np.where(bank[:, None], 0.0, [0.75, 0.87, 0.96, 1.0]), idle_mw=np.where(bank, 0.005 * full, 0.0),
        meter_share=share, start_usd=rng.uniform(4, 12, units) * full,
        boot_h=np.where(bank, rng.choice([2, 5, 10], units) / 60, 0.0), min_up_h=np.where(bank, 0.25, 0.0),
        min_down_h=np.where(bank, 0.1, 0.0), work_h=work,
        work_usd=np.where(bank, 0.0, rng.uniform(80, 400, units) * full + miss / np.where(bank, 1, work)),
        miss_usd=miss, on=(rng.random(units) < 0.7).astype(np.uint8), locked_h=zeros, booting_h=zeros,
        open=np.ones((units, len(g.hours)), np.uint8), row_from=np.arange(0, 2 * units + 1, 2, dtype=np.int32),
        rows=index, weight=weight, on_weight=np.zeros(2 * units),
    )  # fmt: skip
    edges: I4 = np.arange(0, units + 1, each, dtype=np.int32)
    penalty = np.tile([METER_PENALTY] + [FEEDER_PENALTY] * FEEDERS, sites)
    made = plant(g, edges, np.arange(0, rows + 1, FEEDERS + 1, dtype=np.int32), u, level_phs, penalty)
    cap = np.empty((sites, FEEDERS + 1, 24))
    cap[:, 0] = (np.add.reduceat(full * share, edges[:-1]) * rng.uniform(0.85, 0.95, sites))[:, None]
    per_feeder = np.zeros((sites, FEEDERS))
    np.add.at(per_feeder, (site_of, feeder_of), full)
    cap[:, 1:] = (per_feeder * rng.uniform(0.95, 1.1, (sites, FEEDERS)))[:, :, None]
    deadline = np.where(bank, np.inf, np.minimum(rng.uniform(1.2, 4, units) * np.where(bank, 1, work) + 0.5, 30))
    moment = Moment(
        price=prices(sites, rng), price_interval_h=0.25, price_age_h=0.0, hashprice=rng.uniform(45, 60, sites),
        cap=np.ascontiguousarray(cap.reshape(rows, 24)), on=u.on, locked_h=zeros, booting_h=zeros, work_h=work,
        miss_usd=miss, release_h=np.full(units, -np.inf), deadline_h=deadline,
    )  # fmt: skip
    return made, moment


def prices(sites: int, rng: np.random.Generator) -> F8:
    """(S, 104) USD/MWh by quarter of an hour: one market's day, each site with a basis of its own."""
    hour = np.arange(104) / 4
    day = 42 + 22 * np.sin((hour - 11) / 24 * 2 * np.pi) + 180 * np.exp(-(((hour - 18.5) / 0.8) ** 2))
    noise = rng.normal(0, 4, (sites, 104)).cumsum(axis=1) * 0.3
    return np.ascontiguousarray(day[None, :] + rng.normal(0, 6, (sites, 1)) + noise)
