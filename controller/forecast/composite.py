"""One forecast made of its parts: a price path, the chance of a spike, of a coincident peak, and the temperature."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from controller.forecast.ambient import Ambient
from controller.forecast.known import F8, Known, Outlook
from controller.forecast.moment import I8, Moment, at_times, moment
from controller.forecast.peaks import PeakChance
from controller.forecast.spikes import SpikeChance

AHEAD_MAX_MS: Final = 14 * 24 * 3_600_000


class PricePart(Protocol):
    """Turns what is known into a price path."""

    def fit(self, past: Known) -> None:
        """Learn from what is known at `past.at_ms`."""

    def path(self, now: Moment) -> tuple[F8, str]:
        """(N,) USD/MWh to plan with, the running interval first, and what stands in for what is missing. NaN only
        where no price at all is known."""


class Composite:
    """A `Forecast`. `price` alone tells one from another; the parts are there to be used by themselves as well."""

    def __init__(
        self, name: str, price: PricePart, spike: SpikeChance, peak: PeakChance, unknown_usd_per_mwh: float
    ) -> None:
        self.name = name
        self.price = price
        self.spike = spike
        self.peak = peak
        self.ambient = Ambient()
        self._unknown = unknown_usd_per_mwh

    def fit(self, past: Known) -> None:
        """Every part learns what it can from `past`; what is too short for one is left unlearned."""
        self.price.fit(past)
        self.spike.fit(past)
        self.peak.fit(past)

    def outlook(self, known: Known, step_ms: int, steps: int) -> Outlook:
        """As `Forecast.outlook`. Steps lie on the price's own grid, or on one that its intervals divide or multiply.

        Raises `ValueError` for steps that are none, or that reach beyond 14 days.
        """
        if step_ms <= 0 or steps <= 0 or step_ms * steps > AHEAD_MAX_MS:
            raise ValueError(f"{steps} steps of {step_ms} ms: at least one, at most 14 days in all")
        grid_ms = known.price.step_ms
        phase_ms = known.price.start_ms % min(step_ms, grid_ms)
        start_ms = (known.at_ms - phase_ms) // step_ms * step_ms + phase_ms
        running_ms = known.price.start_ms + (known.at_ms - known.price.start_ms) // grid_ms * grid_ms
        now = moment(known, start_ms + steps * step_ms - running_ms)
        price, note = self.price.path(now)
        if now.late == 0:
            price[0] = now.last
        if np.isnan(price).any():
            price = np.where(np.isnan(price), self._unknown, price)
            note = f"no price known: {self._unknown:g} USD/MWh is assumed"
        ahead = None if known.day_ahead is None else at_times(known.day_ahead, now.starts)
        spike = self.spike.path(now, ahead)
        if now.late == 0:
            spike[0] = float(now.last > self.spike.threshold)
        starts = now.starts
        if step_ms != grid_ms:
            starts = start_ms + np.arange(steps, dtype=np.int64) * step_ms
            price = _on_steps(now, price, starts, step_ms)
            spike = _on_steps(now, spike, starts, step_ms)
        return Outlook(
            start_ms=start_ms,
            step_ms=step_ms,
            usd_per_mwh=price,
            spike=spike,
            peak=self.peak.path(known, starts, step_ms),
            ambient_c=self.ambient.path(known, starts),
            note=note,
        )


def _on_steps(now: Moment, path: F8, starts: I8, step_ms: int) -> F8:
    """(H,) the path's mean over each step; of one that began before the running interval, over what is left of it."""
    edges = np.append(starts, starts[-1] + step_ms)
    area = np.concatenate(([0.0], np.cumsum(path))) * now.step_ms
    at = np.interp(edges, np.append(now.starts, now.starts[-1] + now.step_ms), area)
    begin = np.maximum(edges[:-1], now.first_ms)
    mean: F8 = np.diff(at) / (edges[1:] - begin)
    return mean
