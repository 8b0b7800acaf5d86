"""The standing plan, read: what a site is to draw step by step from now on. A view for people; no decision reads it.

A plan is what the last decision left to the next one (`carry`). Here it is laid on the site as it now stands, as the
next minute's plan would carry it on, but nothing is searched, placed or priced anew: no program of the optimiser runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR, W_PER_MW
from controller.engine.batch import Start, begin, carried_on, problem
from controller.engine.decide import envelope_of
from controller.engine.facts import Steering, digest
from controller.engine.model import Method, Params, PlanNote, SiteSnapshot
from controller.engine.optimiser.layout import F8, RUN, Problem
from controller.engine.outlook import PricePaths
from controller.engine.planned import NO_OUTLOOK, NO_PRICE, TOO_LARGE
from controller.engine.pose import GRID, STEPS, Posed, TooLargeError, pose

NOT_ASKED: Final = "merit_order"
NOT_FOLLOWING: Final = "not_following"
NO_PLAN: Final = "no_plan"
"""Why there is no plan to read, besides the codes of `planned`."""


@dataclass(frozen=True, slots=True)
class Path:
    """The plan by step, (T,) each; step k holds until k+1 begins, the last until `ends_ms`. Watts, as they are planned,
    not as the devices' steps and the rules of each coming minute will round them."""

    at_ms: tuple[int, ...]
    ends_ms: int
    power_w: F8
    """At the main meter, cooling, losses and base load included."""
    hash_w: F8
    hpc_w: F8
    """At the banks."""
    usd_per_mwh: F8
    """The price planned with: known or forecast, what a coincident peak may cost and one hysteresis band over the
    day included."""


def path_of(snapshot: SiteSnapshot, params: Params, at_ms: int, note: PlanNote | None) -> Path | str:
    """The plan of `snapshot.carry` from `at_ms` on, or why there is none: a code. `note` is of the decision that left
    it. Never raises on a valid snapshot."""
    if params.economics is not Method.OPTIMISER:
        return NOT_ASKED
    if note is None:
        return NO_PLAN
    if note.fallback:
        return note.fallback
    site = digest(snapshot, params, at_ms)
    if site.steering is not Steering.AUTO:
        return NOT_FOLLOWING
    if site.price is None or site.hashprice is None:
        return NO_PRICE
    prices = PricePaths(GRID).of(site)
    if prices is None:
        return NO_OUTLOOK
    try:
        posed = pose(site, envelope_of(site), prices)
    except TooLargeError:
        return TOO_LARGE
    if not posed.units:
        return _path(posed, np.zeros((0, STEPS)), np.zeros(0))
    start = begin(posed)
    if start is None:
        return NO_PLAN
    p = problem([posed])
    return _path(posed, _power_mw(p, start), p.units.meter_share)


def _power_mw(p: Problem, start: Start) -> F8:
    """(N, T) MW of every unit."""
    _, before = carried_on(p, [start])
    if start.carry.rows:
        return before.power
    # Nothing limited the plan, so none of its powers was left: each unit that runs does what pays it best.
    u = p.units
    usd_h = (
        u.level_usd_h[:, None, :]
        - (p.sites.price[0][None, :] * u.meter_share[:, None])[:, :, None] * (u.level_mw[:, None, :])
    )
    best = np.take_along_axis(u.level_mw, usd_h.argmax(axis=2), axis=1)
    return np.where(before.phase == RUN, best, before.power)


def _path(posed: Posed, power_mw: F8, meter_share: F8) -> Path:
    site, load = posed.site, posed.load
    hashes = np.array([unit.job is None for unit in posed.units], bool)
    hpc_w = np.full(STEPS, float(load.hpc_w))
    for _, watts, end_h in load.ends:
        if end_h < GRID.edge_h[-1]:
            hpc_w[int(np.searchsorted(GRID.edge_h[:-1], end_h)) :] -= watts
    edges = tuple(site.at_ms + round(hour * MS_PER_HOUR) for hour in GRID.edge_h.tolist())
    return Path(
        at_ms=edges[:-1],
        ends_ms=edges[-1],
        power_w=np.maximum((meter_share @ power_mw + posed.rest_mw) * W_PER_MW, 0.0),
        hash_w=load.hash_w + power_mw[hashes].sum(axis=0) * W_PER_MW,
        hpc_w=hpc_w + power_mw[~hashes].sum(axis=0) * W_PER_MW,
        usd_per_mwh=posed.price,
    )
