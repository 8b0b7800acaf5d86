"""Piecewise-linear bases: a number becomes weights on the two knots it lies between, so that ridge regression bends."""

from __future__ import annotations

import numpy as np

from controller.forecast.known import F8


def squeeze(usd_per_mwh: F8) -> F8:
    """Prices on a scale that is linear near 0 and logarithmic beyond some 20 USD/MWh, either sign."""
    squeezed: F8 = np.arcsinh(usd_per_mwh / 20.0)
    return squeezed


def hats(values: F8, knots: F8) -> F8:
    """(..., len(knots)) weights that sum to 1; beyond the outer knots the value counts as the knot."""
    flat = np.minimum(np.maximum(values.ravel(), knots[0]), knots[-1])
    low = np.minimum(np.searchsorted(knots, flat, side="right") - 1, len(knots) - 2)
    share = (flat - knots[low]) / (knots[low + 1] - knots[low])
    out = np.zeros((len(flat), len(knots)))
    row = np.arange(len(flat))
    out[row, low] = 1.0 - share
    out[row, low + 1] = share
    return out.reshape(*values.shape, len(knots))


def ring_hats(values: F8, count: int, period: float) -> F8:
    """(N, count) weights on `count` knots spread evenly round a period, such as the hours of a day."""
    at = values / period * count
    low = np.floor(at).astype(np.int64)
    share = at - low
    out = np.zeros((len(values), count))
    row = np.arange(len(values))
    out[row, low % count] = 1.0 - share
    out[row, (low + 1) % count] += share
    return out


def products(left: F8, right: F8) -> F8:
    """(N, a * b) of (N, a) and (N, b): each pair's product."""
    both: F8 = left[:, :, None] * right[:, None, :]
    return both.reshape(len(left), -1)
