"""A fleet's cap divided among its sites: by what a megawatt is worth to each, and so that no change exceeds the cap.

`shares` plans all sites together under the cap (`optimiser.fleet`) and gives each what it would use at the price of the
fleet's megawatts, and a part of what is left. `grant` turns such shares into quotas: who gets less gets less at once,
who gets more only what has been seen to be free. Pure; the standing quotas and the last shares are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from contract.messages import Nameplate
from contract.units import MS_PER_HOUR, POWER_W_MAX, W_PER_MW
from controller.engine.batch import begin, carried_on, from_nothing, problem
from controller.engine.facts import MW_PER_W, Site, Steering, digest
from controller.engine.model import Params, SiteSnapshot
from controller.engine.optimiser.fleet import FleetPlan, plan_fleet
from controller.engine.optimiser.layout import F8, Problem
from controller.engine.outlook import PricePaths
from controller.engine.pose import GRID, STEPS, Posed, TooLargeError, pose
from controller.engine.rules import narrow, shed_from_ms

ITERATIONS: Final = 40
COLD_ITERATIONS: Final = 120
SWEEPS: Final = 1
CARRY_H: Final = 2.0
"""Shares older than this are not carried on."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What every site should get of a fleet's cap."""

    at_ms: int
    watts: dict[str, int]
    """At each main meter in the coming minute; together at most the cap."""
    price: F8
    """(T,) USD/MWh that a megawatt more would be worth to the fleet."""
    quota_mw: dict[str, F8] = field(default_factory=dict)
    """(T,) of each planned site, its units alone: where the next shares begin."""
    gap: float | None = None
    """How far below its bound the fleet's plan may be, as a share of it; None where nothing was planned."""


class Draw(NamedTuple):
    """What a site is known to draw, and what it was granted when that was ordered."""

    granted_w: int | None
    """Its standing quota."""
    drawn_w: int | None
    """At its main meter, fresh; None where that is not known."""


def shares(sites: Sequence[tuple[SiteSnapshot, Params]], at_ms: int, cap_w: int, last: Shares | None = None) -> Shares:
    """Plan all sites under the cap. A site that cannot be planned (no price, no outlook, in local control, offline)
    keeps what it draws, or its part of the cap by nameplate where that is not known."""
    posed: list[tuple[Posed, float]] = []
    fixed: dict[str, int] = {}
    prices = PricePaths(GRID)
    even = split_evenly([snapshot.nameplate for snapshot, _ in sites], cap_w)
    for snapshot, params in sorted(sites, key=lambda each: each[0].site):
        site = digest(snapshot.model_copy(update={"quota": None}), params, at_ms)
        found = _posed(site, prices)
        if found is None:
            drawn_w = _present_w(site)
            fixed[snapshot.site] = even[snapshot.site] if drawn_w is None else min(drawn_w, cap_w)
        else:
            posed.append((found, 1.0 - params.cap_margin_milli / MW_PER_W))
    if not posed:
        return Shares(at_ms, _fitted(fixed, cap_w), np.zeros(STEPS))
    left_mw = max(0.0, (cap_w - sum(fixed.values())) / W_PER_MW)
    p = problem([one for one, _ in posed])
    rest = np.array([one.rest_mw for one, _ in posed])
    margin = np.array([[share] for _, share in posed])
    made = _planned(p, [one for one, _ in posed], left_mw * float(margin.min()) - rest.sum(axis=0), at_ms, last)
    names = [one.site.snapshot.site for one, _ in posed]
    meter_w = (made.quota_mw + rest)[:, 0] / margin[:, 0] * W_PER_MW
    watts = {name: max(0, int(one)) for name, one in zip(names, meter_w.tolist(), strict=True)}
    profit = float(made.plan.profit_usd.sum())
    return Shares(
        at_ms,
        _fitted(fixed | watts, cap_w),
        made.price,
        dict(zip(names, made.quota_mw, strict=True)),
        max(0.0, (made.bound_usd - profit) / max(abs(made.bound_usd), 1e-6)),
    )


def grant(cap_w: int, wanted: Mapping[str, int], draws: Mapping[str, Draw]) -> dict[str, int]:
    """Quotas for the sites of `draws`, together with what others may still draw at most the cap.

    A site may draw its standing quota until it is seen to draw no more than its new one. What that leaves of the cap
    goes to those that want more, in proportion; so quotas reach `wanted` as fast as the sites obey, and never sooner.
    """
    low = {site: min(wanted.get(site, 0), _standing_w(draw)) for site, draw in draws.items()}
    may = {
        site: low[site] if draw.drawn_w is not None and draw.drawn_w <= low[site] else max(low[site], _most_w(draw))
        for site, draw in draws.items()
    }
    spare = max(0, cap_w - sum(may.values()))
    more = {site: wanted[site] - low[site] for site in draws if wanted.get(site, 0) > low[site]}
    total = sum(more.values())
    return {
        site: low[site] + (min(more[site], more[site] * spare // total) if site in more and total else 0)
        for site in draws
    }


def split_evenly(plates: Sequence[Nameplate], cap_w: int) -> dict[str, int]:
    """The cap in proportion to the sites' main breakers: what holds before anything is planned."""
    limits = {plate.site: next(f.limit_w for f in plate.feeders if f.parent is None) for plate in plates}
    total = max(1, sum(limits.values()))
    return {site: cap_w * limit_w // total for site, limit_w in limits.items()}


def _standing_w(draw: Draw) -> int:
    """A site that has no quota yet begins with what it draws."""
    return draw.granted_w if draw.granted_w is not None else (draw.drawn_w or 0)


def _most_w(draw: Draw) -> int:
    """What it may draw before its next order is obeyed."""
    return max(_standing_w(draw), draw.drawn_w or 0)


def _fitted(watts: Mapping[str, int], cap_w: int) -> dict[str, int]:
    """Cut in proportion where they are more than the cap."""
    total = sum(watts.values())
    if total <= cap_w:
        return {site: min(one, POWER_W_MAX) for site, one in watts.items()}
    return {site: one * cap_w // total for site, one in watts.items()}


def _posed(site: Site, prices: PricePaths) -> Posed | None:
    if site.steering is not Steering.AUTO or site.price is None or site.hashprice is None:
        return None
    price = prices.of(site)
    if price is None:
        return None
    in_force = [o for o in site.obligations if shed_from_ms(site, o) <= site.at_ms]
    try:
        found = pose(site, narrow(site, in_force, None), price, meter=True)
    except TooLargeError:
        return None
    return found if found.units else None


def _present_w(site: Site) -> int | None:
    root = site.nodes[site.root]
    if root.metered_w is not None:
        return max(0, root.metered_w)
    return None if site.snapshot.report is None else root.overhead_w + root.present_mw // MW_PER_W


def _planned(p: Problem, posed: Sequence[Posed], cap_mw: F8, at_ms: int, last: Shares | None) -> FleetPlan:
    """Carried on from the sites' own plans and the last shares, where all of them have one."""
    meter = p.sites.row_from[:-1]
    idle = np.add.reduceat(p.units.idle_mw * p.units.meter_share, p.sites.unit_from[:-1]).sum()
    cap_mw = np.maximum(cap_mw, idle)
    starts = [start for start in map(begin, posed) if start is not None]
    since_h = (at_ms - last.at_ms) / MS_PER_HOUR if last is not None else -1.0
    if last is None or not 0.0 <= since_h <= CARRY_H or len(starts) < len(posed):
        return plan_fleet(p, cap_mw, from_nothing(p), iterations=COLD_ITERATIONS, sweeps=SWEEPS)
    middle = 0.5 * (GRID.edge_h[:-1] + GRID.edge_h[1:]) + since_h
    step = np.searchsorted(GRID.edge_h, middle, side="right").clip(1, STEPS) - 1
    toll = last.price[step]
    duals, before = carried_on(p, starts)
    duals.row[meter] = np.maximum(duals.row[meter] - toll, 0.0)  # a site's own price of its quota holds the fleet's
    names = [one.site.snapshot.site for one in posed]
    quota = None
    if all(name in last.quota_mw for name in names):
        quota = np.array([last.quota_mw[name][step] for name in names])
    return plan_fleet(p, cap_mw, duals, toll, before, quota, iterations=ITERATIONS, sweeps=SWEEPS, rounds=1)
