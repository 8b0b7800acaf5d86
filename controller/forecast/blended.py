"""The price model: the last prices, day-ahead and the hour blended by regressions that are fitted on the past alone.

What it gives is the price to plan with, E[min(price, cap)]: the mean of the price as far as it matters to something
that stops long before the cap. docs/forecasts.md has the reason, and what each source is worth.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from controller.forecast.day_ahead import DayAhead
from controller.forecast.features import Design, origins_at
from controller.forecast.known import F8, Known
from controller.forecast.localtime import LocalTime
from controller.forecast.moment import Moment, past_only
from controller.forecast.walking import WalkingRidge


class Blended:
    """Price path from the named `sources` beside the price itself."""

    def __init__(self, local: LocalTime, cap: float, sources: Iterable[str]) -> None:
        wanted = frozenset(sources)
        self._full = WalkingRidge(Design(wanted, local), cap)
        self._spare = WalkingRidge(Design(wanted & {"hour"}, local), cap)
        """For hours whose day-ahead price is not known, and where a source has failed."""
        self._unfitted = DayAhead(cap)

    @property
    def fitted(self) -> bool:
        """Whether any regression has learned enough to be used."""
        return bool(len(self._full.weights) or len(self._spare.weights))

    def fit(self, past: Known) -> None:
        """Learn from `past`. Cheap to call again with a longer past: only what is new is read."""
        self._full.fit(past)
        if self._full.design != self._spare.design:
            self._spare.fit(past)
        self._unfitted.fit(past)

    def path(self, now: Moment) -> tuple[F8, str]:
        """(N,) USD/MWh to plan with from the running interval on, and what stands in for what is missing."""
        if not self.fitted or np.isnan(now.last):
            path, note = self._unfitted.path(now)
            return path, note or "not enough past to learn from: day-ahead"
        full = self._tell(self._full, now)
        if full is not None and not np.isnan(full).any():
            return full, ""
        spare = self._tell(self._spare, now)
        if spare is None:
            spare, _ = self._unfitted.path(now)
        if full is None:
            return spare, "a source is missing: the price model does without"
        return np.where(np.isnan(full), spare, full), "some hours have no day-ahead price yet"

    def _tell(self, model: WalkingRidge, now: Moment) -> F8 | None:
        """None where the model is not fitted or lacks a source now; NaN where an hour's day-ahead price is unknown."""
        if not len(model.weights):
            return None
        known, sources = now.known, model.design.sources
        if "day_ahead" in sources and known.day_ahead is None:
            return None
        load = past_only(known.load_mw, known.at_ms) if "load" in sources else None
        ambient = past_only(known.ambient_c, known.at_ms) if "temperature" in sources else None
        last_ms = now.first_ms - now.late * now.step_ms
        origins = origins_at(
            now.price,
            np.array([(last_ms - now.price.start_ms) // now.step_ms], dtype=np.int64),
            known.day_ahead if "day_ahead" in sources else None,
            None if load is None else (load, load.end_ms - last_ms - now.step_ms),
            ambient,
        )
        if not model.design.usable(origins)[0]:
            return None
        return model.predict(origins, now.late, now.starts, now.step_ms, known.day_ahead)
