"""What the nodes of a partition draw, learned from a meter or from the hosts themselves. Pure.

A Kalman filter over three figures that wander slowly: an idle node's watts, and how much of what their nameplate says
running jobs draw above that, on free nodes and on capped ones. It starts at the nameplate and never goes above it;
a reading far off what is expected counts less (Huber's weights, stricter below than above), so that one wrong meter
value moves nothing much and what is planned with is what nodes draw when they are truly busy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

NOISE: Final = 0.03
"""Of a node's rated power: how far a reading per node is off, one standard deviation."""
FIRST_SPREAD: Final = (0.25, 0.5, 0.5)
"""How far the nameplate may be off: of its idle watts, at least of a tenth of the rated ones, and of the shares."""
WANDER_PER_H: Final = 0.05
"""How far a figure may move in an hour, as a part of its first spread, in variances."""
HUBER_UP: Final = 3.0
HUBER_DOWN: Final = 0.5
"""Standard deviations above and below what is expected beyond which a reading counts less, so that no single one moves
much. A job that starts, ends or waits for its files draws less for a while; only what lasts is learned."""
LEAST_READINGS: Final = 20
SURE: Final = 1e-12
"""A variance that counts as none."""
KEPT_S: Final = 7 * 24 * 3_600
"""What was learned longer ago is not used any more."""
_KEY: Final = "node_power"
_Matrix = list[list[float]]


@dataclass(frozen=True, slots=True)
class Learned:
    """What holds now."""

    idle_w: int
    busy_milli: int = 1_000
    """Of the nameplate's power above idle, what jobs draw."""
    capped_milli: int = 1_000
    """The same on capped nodes."""
    readings: int = 0
    """0 where it is the nameplate's."""
    age_s: int | None = None
    """Since the last reading that counted; None where there was none."""


class NodePower:
    """One class of nodes. `rated_w` and `idle_w` are the nameplate's."""

    def __init__(self, rated_w: int, idle_w: int) -> None:
        self._rated_w = rated_w
        self._idle_w = idle_w
        spreads = (max(FIRST_SPREAD[0] * idle_w, 0.1 * rated_w), *FIRST_SPREAD[1:])
        self._first = [spread**2 for spread in spreads]
        self._mean: list[float]
        self._cov: _Matrix
        self._readings: int
        self._at_s: int | None = None
        self.forget()

    def forget(self) -> None:
        """Back to the nameplate: what was learned has been seen to be wrong."""
        self._mean = [float(self._idle_w), 1.0, 1.0]
        self._cov = [[self._first[row] if row == col else 0.0 for col in range(3)] for row in range(3)]
        self._readings = 0

    def learn(self, power_w: float, busy_w: float, capped_w: float, now_s: int) -> None:
        """A reading, per node: what is drawn, and what jobs on free and on capped nodes should draw above idle by the
        nameplate. `now_s` is the wall clock's."""
        seen = [1.0, busy_w, capped_w]
        if not all(map(math.isfinite, (power_w, *seen))) or not 0 <= power_w <= 2 * self._rated_w:
            return
        self._wander(now_s)
        noise_w = NOISE * self._rated_w
        spread = [sum(self._cov[row][col] * seen[col] for col in range(3)) for row in range(3)]
        expected_var = sum(seen[row] * spread[row] for row in range(3)) + noise_w**2
        off_w = power_w - sum(mean * factor for mean, factor in zip(self._mean, seen, strict=True))
        most_w = noise_w * (HUBER_UP if off_w > 0 else HUBER_DOWN)
        weight = min(1.0, most_w / abs(off_w)) if off_w else 1.0
        variance = expected_var + noise_w**2 * (1.0 / weight - 1.0)
        gain = [weight * share / variance for share in spread]
        self._cov = [
            [self._cov[row][col] - weight * spread[row] * spread[col] / variance for col in range(3)]
            for row in range(3)
        ]
        self._mean = self._within([mean + part * off_w for mean, part in zip(self._mean, gain, strict=True)])
        self._readings += 1
        self._at_s = now_s

    def learned(self, now_s: int) -> Learned:
        """The nameplate, until enough has been read, and again when that is long ago."""
        age_s = None if self._at_s is None else max(now_s - self._at_s, 0)
        if self._readings < LEAST_READINGS or age_s is None or age_s > KEPT_S:
            return Learned(self._idle_w, age_s=age_s)
        idle_w, busy, capped = self._mean
        return Learned(round(idle_w), round(1e3 * busy), round(1e3 * capped), self._readings, age_s)

    # -- memory ------------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, str]:
        if self._at_s is None or not self._readings:
            return {}
        kept = {"plate": [self._rated_w, self._idle_w], "mean": self._mean, "cov": self._cov}
        return {_KEY: json.dumps(kept | {"readings": self._readings, "at_s": self._at_s})}

    def load(self, memory: Mapping[str, str]) -> None:
        """Take up what was saved; what does not parse, or is of another nameplate, is forgotten."""
        try:
            saved = json.loads(memory.get(_KEY, "{}"))
            if saved["plate"] != [self._rated_w, self._idle_w]:
                return
            mean = [float(saved["mean"][place]) for place in range(3)]
            cov = [[float(saved["cov"][row][col]) for col in range(3)] for row in range(3)]
            readings, at_s = int(saved["readings"]), int(saved["at_s"])
        except (ValueError, TypeError, KeyError, IndexError):
            return
        fits = all(map(math.isfinite, (*mean, *(each for row in cov for each in row))))
        if fits and all(0 < cov[place][place] <= self._first[place] for place in range(3)) and readings > 0:
            self._mean, self._cov, self._readings, self._at_s = self._bounded(mean), cov, readings, at_s

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _wander(self, now_s: int) -> None:
        """The longer ago the last reading, the less is known; never less than at first."""
        passed_h = 0.0 if self._at_s is None else max(now_s - self._at_s, 0) / 3_600
        for place in range(3):
            grown = self._cov[place][place] + WANDER_PER_H * passed_h * self._first[place]
            if grown > self._first[place]:  # forgotten: how it goes along with the others is too
                for other in range(3):
                    self._cov[place][other] = self._cov[other][place] = 0.0
            self._cov[place][place] = min(grown, self._first[place])

    def _within(self, mean: list[float]) -> list[float]:
        """The likeliest figures within their bounds. What one of them cannot take, the others are told of: cut off by
        itself, a share that meets its bound would leave the idle watts lowered for a rise that it did not make, and
        each reading above the nameplate would teach less than is drawn."""
        held: dict[int, float] = {}
        found = mean
        while len(held) < len(mean):
            bounded = self._bounded(found)
            beyond = {at: bound for at, bound in enumerate(bounded) if at not in held and bound != found[at]}
            if not beyond:
                break
            held |= beyond
            found = _given(mean, self._cov, held)
        return self._bounded(found)

    def _bounded(self, mean: list[float]) -> list[float]:
        """Never above the nameplate, by which the controller plans: what is drawn beyond that, a meter shows."""
        return [min(max(mean[0], 0.0), float(self._idle_w)), *(min(max(share, 0.0), 1.0) for share in mean[1:])]


def _given(mean: list[float], cov: _Matrix, held: Mapping[int, float]) -> list[float]:
    """A normal's mean where some of its figures are known: those told one after another, each of the rest moves by
    what it goes along with them."""
    mean, cov = list(mean), [list(row) for row in cov]
    for place, value in held.items():
        if cov[place][place] <= SURE:
            mean[place] = value
            continue
        share = [row[place] / cov[place][place] for row in cov]
        off = value - mean[place]
        mean = [figure + part * off for figure, part in zip(mean, share, strict=True)]
        cov = [[cov[row][col] - share[row] * cov[place][col] for col in range(len(mean))] for row in range(len(mean))]
        mean[place] = value
    return mean
