"""What a forecast may read, and what it says. The live controller and the backtest share both.

Nothing in `Known` lies in the future but what was published of it: the day-ahead prices of hours still to come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """An evenly spaced series: `values[k]` holds from `start_ms + k * step_ms` for `step_ms`. NaN where unknown."""

    start_ms: int
    step_ms: int
    values: F8
    """(K,) a read-only view."""

    @property
    def end_ms(self) -> int:
        """The end of the last value's interval."""
        return self.start_ms + len(self.values) * self.step_ms


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known at `at_ms`."""

    at_ms: int
    price: Series
    """Real-time, USD/MWh at the settlement point, oldest first; ends with the last interval whose price is known: the
    one now running, or one before it where prices come late."""
    day_ahead: Series | None = None
    """USD/MWh; reaches as far ahead as it is published."""
    load_mw: Series | None = None
    """Of the whole system, past only."""
    ambient_c: Series | None = None
    """Dry bulb at the site, past and present only."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected from `start_ms` on, the beginning of the interval now running, step by step."""

    start_ms: int
    step_ms: int
    usd_per_mwh: F8
    """(H,) the price to plan with. Never NaN."""
    spike: F8
    """(H,) chance that the price exceeds the spike threshold of the forecast."""
    peak: F8
    """(H,) chance that the step holds a coincident peak that is billed."""
    ambient_c: F8 | None = None
    """(H,) None where no temperature was ever known."""
    note: str = ""
    """What was missing and what stands in for it; empty where the forecast is all that its name says."""


class Forecast(Protocol):
    """One source of information turned into an outlook. Fitted on the past alone; deterministic."""

    name: str

    def fit(self, past: Known) -> None:
        """Learn from what is known at `past.at_ms`; may be called again as time passes."""

    def outlook(self, known: Known, step_ms: int, steps: int) -> Outlook:
        """What to expect over `steps` steps from the beginning of the interval that runs at `known.at_ms`."""
