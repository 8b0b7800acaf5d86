"""What to shed at once: so many megawatts below each feeder, at the least loss.

Every feeder of the tree names what its whole subtree must give up. Sets of units below feeders nest, so greed is
optimal: shed everything, then give back what is worth most first, each as far as all feeders above it can spare. That
equals the linear program's optimum; the last bank of a feeder is trimmed to whole devices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.engine.optimiser.jit import entry
from controller.engine.optimiser.layout import F8, I4


class Tree(NamedTuple):
    """Feeders of all sites, each after the one it hangs on, and the banks and jobs below them."""

    parent: I4
    """(F,) index of the feeder above, less than its own; -1 for a site's root."""
    feeder: I4
    """(N,) the feeder each unit hangs on."""
    dearest: I4
    """(N,) units in the order they are given back: the shed ladder read backwards."""


class Shed(NamedTuple):
    """Who gives up what."""

    mw: F8
    """(N,)"""
    short_mw: F8
    """(F,) what a feeder needs beyond all that hangs below it."""


def shed(tree: Tree, mw: F8, device_mw: F8, need_mw: F8) -> Shed:
    """Shed at least `need_mw` (F,) below each feeder, of `mw` (N,) that each unit could give up.

    `device_mw` (N,) is the step a unit can be trimmed by; 0 trims to any power, infinity sheds all of it or nothing.
    """
    out, short = np.empty(len(mw)), np.empty(len(need_mw))
    _shed(tree, mw, device_mw, need_mw, np.empty(len(need_mw)), out, short)
    return Shed(out, short)


def dearest_first(usd_per_mwh: F8) -> I4:
    """The order to give units back in, for what shedding each loses; equals by index."""
    return np.argsort(-usd_per_mwh, kind="stable").astype(np.int32)


@entry
def _shed(tree: Tree, mw: F8, device_mw: F8, need_mw: F8, spare: F8, out: F8, short: F8) -> None:
    spare[:] = 0.0
    for n in range(len(mw)):
        out[n] = mw[n]
        spare[tree.feeder[n]] += mw[n]
    for f in range(len(spare) - 1, -1, -1):
        if tree.parent[f] >= 0:
            spare[tree.parent[f]] += spare[f]
        spare[f] -= need_mw[f]
        short[f] = max(0.0, -spare[f])
    for n in tree.dearest:
        back = mw[n]
        f = tree.feeder[n]
        while f >= 0 and back > 0.0:
            back = min(back, spare[f])
            f = tree.parent[f]
        if back < mw[n] and device_mw[n] > 0.0:
            back = np.floor(back / device_mw[n] + 1e-9) * device_mw[n] if device_mw[n] < np.inf else 0.0
        if back <= 0.0:
            continue
        out[n] -= back
        f = tree.feeder[n]
        while f >= 0:
            spare[f] -= back
            f = tree.parent[f]
