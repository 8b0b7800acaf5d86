"""What the weather does to halls: how much heat their cooling carries off, and what cooling takes of the energy bill.

A hall's curves are points over dry-bulb temperature, straight between them and flat beyond. Where no temperature is
known the hottest point holds: what is not known never raises power.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR
from controller.engine.model import Hall, Outlook
from controller.engine.optimiser.layout import F8, Grid

PREFIX: Final = "hall:"
"""Of the ids of limits that are a hall's cooling: a hall may be called as a feeder is."""


def at(curve: Sequence[tuple[float, int]], ambient_c: float | None) -> float:
    """A curve's value at a temperature, at its hottest point where that is None. The curve has a point."""
    if ambient_c is None:
        return float(curve[-1][1])
    return float(np.interp(ambient_c, [c for c, _ in curve], [value for _, value in curve]))


def shares(halls: Iterable[Hall], ambient_c: float | None) -> dict[str, int]:
    """Site watts per bank watt in thousandths, by bank, of the halls that state it."""
    return {bank: round(at(hall.pue_milli, ambient_c)) for hall in halls if hall.pue_milli for bank in hall.banks}


def cooling_w(hall: Hall, grid: Grid, at_ms: int, now_c: float | None, outlook: Outlook | None) -> F8:
    """(T,) W that a hall's banks may draw together: now by what is measured, later by what is expected of the weather,
    and over a step by its hottest hour. Without an outlook what is measured holds."""
    warm_c = _warmest(grid, at_ms, outlook) if outlook is not None and outlook.ambient_c else None
    if warm_c is None:
        return np.full(len(grid.hours), at(hall.cooling_w, now_c))
    path = np.interp(warm_c, [c for c, _ in hall.cooling_w], [watts for _, watts in hall.cooling_w])
    path[0] = at(hall.cooling_w, now_c)
    return np.asarray(path, np.float64)


def _warmest(grid: Grid, at_ms: int, outlook: Outlook) -> F8:
    """(T,) degrees: the warmest of the outlook's steps that each step of the grid touches."""
    degrees = np.array(outlook.ambient_c)
    edges = grid.edge_h + (at_ms - outlook.start_ms) / MS_PER_HOUR
    step_h = outlook.step_ms / MS_PER_HOUR
    last = len(degrees) - 1
    first = np.clip(np.floor(edges[:-1] / step_h + 1e-9), 0, last).astype(np.int64)
    final = np.clip(np.ceil(edges[1:] / step_h - 1e-9) - 1, first, last).astype(np.int64)
    warm = degrees[first]
    for more in range(1, int((final - first).max(initial=0)) + 1):
        warm = np.maximum(warm, degrees[np.minimum(first + more, final)])
    return np.asarray(warm, np.float64)
