"""The price to plan with: what is known of the running interval, then the outlook; averaged over the grid's steps."""

from __future__ import annotations

from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR
from controller.engine.facts import Site
from controller.engine.model import Outlook
from controller.engine.optimiser.layout import F8, Grid

LEAST_AHEAD_H: Final = 1.0
"""An outlook that ends sooner than this is none."""
_DAY_H: Final = 24.0


class PricePaths:
    """Prices by step, worked out once for all sites that share an outlook. For one decision."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._known: dict[tuple[object, ...], F8 | None] = {}

    def of(self, site: Site) -> F8 | None:
        """(T,) USD/MWh at the main meter; None where no outlook reaches from now on."""
        outlook, energy = site.snapshot.outlook, site.snapshot.energy
        if outlook is None or site.price is None:
            return None
        settled_ms = None
        if energy.age_ms == 0 and energy.interval_start_ms is not None and energy.interval_ms is not None:
            settled_ms = energy.interval_start_ms + energy.interval_ms
        params = site.params
        key = (
            id(outlook), site.at_ms, site.price, energy.age_ms, settled_ms, params.hysteresis_usd_per_mwh,
            params.peak_charge_usd_per_mw,
        )  # fmt: skip
        if key not in self._known:
            self._known[key] = self._path(site, outlook, site.price, settled_ms)
        return self._known[key]

    def _path(self, site: Site, outlook: Outlook, price: float, settled_ms: int | None) -> F8 | None:
        step_h = outlook.step_ms / MS_PER_HOUR
        now_h = (site.at_ms - outlook.start_ms) / MS_PER_HOUR
        span_h = len(outlook.usd_per_mwh) * step_h
        if now_h < -step_h or span_h - now_h < LEAST_AHEAD_H:
            return None
        usd = np.array(outlook.usd_per_mwh)
        charge = site.params.peak_charge_usd_per_mw
        peaks = min(len(outlook.peak), len(usd))
        if charge and peaks:
            usd[:peaks] += np.array(outlook.peak[:peaks]) * (charge / step_h)
        path = _means(self._grid, usd, step_h, now_h)
        if site.snapshot.energy.age_ms == 0:
            known_h = (np.floor(now_h / step_h) + 1.0) * step_h - now_h
            if settled_ms is not None:
                known_h = (settled_ms - site.at_ms) / MS_PER_HOUR
            path = self._with_known(path, usd, step_h, now_h, price, min(max(known_h, 0.0), _DAY_H))
        return path + self._impatience(site)

    def _with_known(self, path: F8, usd: F8, step_h: float, now_h: float, price: float, known_h: float) -> F8:
        """The running interval's price in the outlook's place, as far as it is known to hold."""
        edges = np.minimum(self._grid.edge_h, known_h)
        covered = np.diff(edges)
        total = _integral(usd, step_h, now_h + edges)
        return np.asarray(path + (price * covered - np.diff(total)) / self._grid.hours)

    def _impatience(self, site: Site) -> F8:
        """What is certain now is worth a little more than what may come: a slope of one hysteresis band a day, so that
        work is not put off, and no dispatch turned, for less."""
        middle = 0.5 * (self._grid.edge_h[:-1] + self._grid.edge_h[1:])
        return np.asarray(site.params.hysteresis_usd_per_mwh * middle / _DAY_H)


def _means(grid: Grid, usd: F8, step_h: float, now_h: float) -> F8:
    return np.asarray(np.diff(_integral(usd, step_h, now_h + grid.edge_h)) / grid.hours)


def _integral(usd: F8, step_h: float, at_h: F8) -> F8:
    """USD h/MWh from the outlook's start to each hour; its first and last prices hold beyond its ends.

    Sums in one order whatever is asked beside it, so that a site's price does not depend on who else is decided.
    """
    edges = np.arange(len(usd) + 1) * step_h
    sums = np.concatenate([[0.0], np.cumsum(usd * step_h)])
    inside = np.interp(at_h, edges, sums)
    before, after = np.minimum(at_h, 0.0), np.maximum(at_h - edges[-1], 0.0)
    return np.asarray(inside + before * usd[0] + after * usd[-1])
