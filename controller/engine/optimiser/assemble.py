"""From what is known this minute to the problem: arrays in, arrays out, every site at once.

`Plant` is what a nameplate says and changes with it alone; `Moment` is what a snapshot says. Prices and caps come as
evenly spaced series and are averaged, or held at their least, over the steps of the grid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.engine.optimiser.layout import F8, I4, U1, Grid, Moves, Problem, Rows, Sites, Units, clocks, moves


class Plant(NamedTuple):
    """What stays as it is from minute to minute. Fields of the same name as in `Units` mean the same."""

    grid: Grid
    unit_from: I4
    row_from: I4
    site_of: I4
    """(N,) the site each unit stands in."""
    level_mw: F8
    level_phs: F8
    """(N, LEVELS) PH/s of a hash bank at each level."""
    level_rate: F8
    idle_mw: F8
    meter_share: F8
    start_usd: F8
    boot_h: F8
    min_up_h: F8
    min_down_h: F8
    work_usd: F8
    unit_row_from: I4
    rows: I4
    weight: F8
    on_weight: F8
    penalty: F8
    award: U1
    moves: Moves
    """Of these units, free of any lock."""


class Moment(NamedTuple):
    """What one snapshot says, packed."""

    price: F8
    """(S, K) USD/MWh by interval, the first one holding now; coincident-peak risk already added (see `peak_adder`)."""
    price_interval_h: float
    price_age_h: float
    """How much of the first interval is over."""
    hashprice: F8
    """(S,) USD per PH/s and day."""
    cap: F8
    """(R, C) MW by hour from now: what the units may take; the least over a step holds for all of it."""
    on: U1
    locked_h: F8
    booting_h: F8
    work_h: F8
    miss_usd: F8
    release_h: F8
    deadline_h: F8
    """(N,) hours from now; minus and plus infinity for a unit that has none."""


def plant(g: Grid, unit_from: I4, row_from: I4, units: Units, level_phs: F8, penalty: F8) -> Plant:
    """Keep of `units` what does not change with the minute."""
    award = np.zeros(len(unit_from) - 1, np.uint8)
    site_of = np.repeat(np.arange(len(award), dtype=np.int32), np.diff(unit_from))
    owner = np.repeat(site_of, np.diff(units.row_from))
    award[owner[units.weight < 0.0]] = 1
    return Plant(
        g, unit_from, row_from, site_of, units.level_mw, level_phs, units.level_rate, units.idle_mw, units.meter_share,
        units.start_usd, units.boot_h, units.min_up_h, units.min_down_h, units.work_usd, units.row_from, units.rows,
        units.weight, units.on_weight, penalty, award, moves(g, units),
    )  # fmt: skip


def assemble(p: Plant, m: Moment) -> Problem:
    """The problem of this moment."""
    g = p.grid
    opened = windows(g, m.release_h, m.deadline_h)
    units = Units(
        level_mw=p.level_mw,
        level_usd_h=p.level_phs * (m.hashprice[p.site_of] / 24.0)[:, None],
        level_rate=p.level_rate,
        idle_mw=p.idle_mw,
        meter_share=p.meter_share,
        start_usd=p.start_usd,
        boot_h=p.boot_h,
        min_up_h=p.min_up_h,
        min_down_h=p.min_down_h,
        work_h=m.work_h,
        work_usd=p.work_usd,
        miss_usd=m.miss_usd,
        on=m.on,
        locked_h=m.locked_h,
        booting_h=m.booting_h,
        open=opened,
        row_from=p.unit_row_from,
        rows=p.rows,
        weight=p.weight,
        on_weight=p.on_weight,
    )
    locked, booted = clocks(g, units)
    sites = Sites(p.unit_from, p.row_from, average(g, m.price, m.price_interval_h, m.price_age_h), p.award)
    return Problem(g, sites, units, Rows(least(g, m.cap), p.penalty), p.moves._replace(locked=locked, booted=booted))


def average(g: Grid, series: F8, interval_h: float, age_h: float = 0.0) -> F8:
    """(S, T) mean of an evenly spaced series over each step; its last value holds for what it does not reach.

    So a spike late in a settlement interval bills as the whole interval's average does.
    """
    count = series.shape[1]
    starts = np.arange(count) * interval_h - age_h
    ends = starts + interval_h
    starts[0], ends[-1] = min(starts[0], 0.0), max(ends[-1], g.edge_h[-1])
    overlap = np.minimum(ends[:, None], g.edge_h[None, 1:]) - np.maximum(starts[:, None], g.edge_h[None, :-1])
    weights = np.maximum(overlap, 0.0) / g.hours[None, :]
    return np.ascontiguousarray(series @ weights)


def least(g: Grid, hourly: F8) -> F8:
    """(R, T) the least of an hourly series over each step; its last value holds for what it does not reach."""
    last = hourly.shape[1] - 1
    begins = np.minimum((g.edge_h[:-1] + 1e-9).astype(np.int64), last)
    ends = np.minimum((g.edge_h[1:] - 1e-9).astype(np.int64), last)
    return np.ascontiguousarray(np.minimum(hourly[:, begins], hourly[:, ends]))


def windows(g: Grid, release_h: F8, deadline_h: F8) -> U1:
    """(N, T) whether a whole step lies between a unit's release and its deadline."""
    opened = np.ones((len(release_h), len(g.hours)), np.uint8)
    bounded = np.flatnonzero((release_h > 0.0) | (deadline_h < g.edge_h[-1]))
    after = g.edge_h[None, :-1] >= release_h[bounded, None] - 1e-9
    opened[bounded] = after & (g.edge_h[None, 1:] <= deadline_h[bounded, None] + 1e-9)
    return opened


def ramp_cap(g: Grid, cap: F8, now_mw: float, ramp_mw_per_min: float, fine_minutes: float = 15.0) -> F8:
    """(T,) a site's cap cut to what it may have ramped up to by the end of each step, over the 1-minute steps.

    Counted from the power at the meter now: only the first step is ever carried out, and the next minute counts anew.
    """
    reached = now_mw + ramp_mw_per_min * 60.0 * g.edge_h[1:]
    return np.where(g.edge_h[1:] * 60.0 <= fine_minutes + 1e-6, np.minimum(cap, reached), cap)


def peak_adder(probability: F8, charge_usd_per_mw: float, hours: F8) -> F8:
    """USD/MWh that a coincident-peak charge is expected to add: its chance to fall in a step, spread over the step."""
    return probability * charge_usd_per_mw / hours
