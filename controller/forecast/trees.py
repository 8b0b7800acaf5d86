"""Boosted trees beside the ridge, for the next intervals: an extra, worth little (docs/forecasts.md) and slow.

Needs scikit-learn, the extra `forecast`. A call costs some milliseconds where the ridge alone costs a fifth of one.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from controller.forecast.blended import Blended
from controller.forecast.features import Origins, ahead_features, origins_at
from controller.forecast.known import F8, Known
from controller.forecast.localtime import DAY_MS, HOUR_MS, LocalTime
from controller.forecast.moment import I8, Moment

LEADS: Final = (1, 2, 3, 4)
"""Intervals after the last known price that trees have a say in; beyond, the ridge alone."""
LEARN_DAYS: Final = 730
LEARN_MIN_DAYS: Final = 90


class Trees:
    """Price path: the mean of `Blended` and of boosted trees for the next `LEADS`, `Blended` beyond.

    Raises `ImportError` that says what to install where scikit-learn is absent.
    """

    def __init__(self, local: LocalTime, cap: float) -> None:
        self._make, self._one_thread = _library()
        self._model: Any = None
        self._local = local
        self._cap = cap
        self._ridge = Blended(local, cap, ("hour", "day_ahead"))

    @property
    def fitted(self) -> bool:
        """Whether trees have grown."""
        return self._model is not None

    def fit(self, past: Known) -> None:
        """Grow new trees on the last two years; less than 90 days grow none."""
        self._ridge.fit(past)
        price = past.price
        per_day = DAY_MS // price.step_ms
        first = max(len(price.values) - LEARN_DAYS * per_day, 0)
        if np.isfinite(price.values[first:]).sum() < LEARN_MIN_DAYS * per_day:
            return
        index = np.arange(first, len(price.values), dtype=np.int64)
        origins = origins_at(price, index, past.day_ahead, None, None)
        paid = np.clip(price.values, -self._cap, self._cap)
        rows, came = [], []
        for lead in LEADS:
            target = index[lead :: 2 * lead - 1]
            target = target[np.isfinite(paid[target]) & np.isfinite(origins.last[target - lead - first])]
            at = target - lead - first
            rows.append(self._rows(origins, at, price.start_ms + target * price.step_ms, lead, past))
            came.append(paid[target])
        model = self._make()
        with self._one_thread(limits=1):
            model.fit(np.concatenate(rows), np.concatenate(came))
        self._model = model

    def path(self, now: Moment) -> tuple[F8, str]:
        """(N,) USD/MWh to plan with from the running interval on, and what stands in for what is missing."""
        path, note = self._ridge.path(now)
        if self._model is None or np.isnan(now.last):
            return path, note or "not enough past for trees: the ridge alone"
        lead = np.arange(now.late, now.late + now.count, dtype=np.int64)
        near = np.flatnonzero((lead >= LEADS[0]) & (lead <= LEADS[-1]))
        if not len(near):
            return path, note
        last = (now.first_ms - now.price.start_ms) // now.step_ms - now.late
        origins = origins_at(now.price, np.array([last], dtype=np.int64), now.known.day_ahead, None, None)
        rows = self._rows(origins, np.zeros(len(near), dtype=np.int64), now.starts[near], lead[near], now.known)
        path = path.copy()
        with self._one_thread(limits=1):
            grown = self._model.predict(rows)
        path[near] = 0.5 * (path[near] + np.clip(grown, -self._cap, self._cap))
        return path, note

    def _rows(self, origins: Origins, at: I8, starts: I8, lead: I8 | int, known: Known) -> F8:
        """(N, 13) raw: trees bend by themselves and take NaN for an answer."""
        ahead = np.full((len(starts), 4), np.nan)
        if known.day_ahead is not None and len(starts):
            ahead = ahead_features(known.day_ahead, starts)
        wall = self._local.local_ms(starts)
        columns = [
            *(one[at] for one in (origins.last, origins.before, origins.top, origins.spread, origins.spread_hour)),
            *ahead.T,
            wall // HOUR_MS % 24,
            wall % HOUR_MS * 4 // HOUR_MS,
            (wall // DAY_MS + 3) % 7,
            np.broadcast_to(lead, len(starts)),
        ]
        return np.stack(columns, axis=1).astype(np.float64)


def _library() -> tuple[Any, Any]:
    """What makes a regressor, and what keeps it to one thread: several wait for one another on a busy machine."""
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError(
            "the forecast 'trees' needs scikit-learn, which is not installed: pip install 'wattshift[forecast]'"
        ) from error
    settings = {"max_iter": 200, "learning_rate": 0.04, "max_leaf_nodes": 15, "min_samples_leaf": 60}
    fixed = {"l2_regularization": 1.0, "early_stopping": False, "random_state": 0}
    return lambda: HistGradientBoostingRegressor(**settings, **fixed), threadpool_limits
