"""Rate limits: a bucket of tokens for each one who asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_BUCKETS_MAX: Final = 10_000
_BURST: Final = 10.0
"""So many times the rate at once."""


class RateLimit:
    """`rate_per_s` for each name, `burst` at once. Names not seen for longest are forgotten beyond a bound."""

    def __init__(self, rate_per_s: float, now_s: Callable[[], float], burst: float | None = None) -> None:
        self._rate_per_s = rate_per_s
        self._burst = max(1.0, _BURST * rate_per_s if burst is None else burst)
        self._now_s = now_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, name: str) -> float:
        """0 where it may; else how many seconds until it may."""
        now_s = self._now_s()
        left, at_s = self._buckets.pop(name, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at_s) * self._rate_per_s)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / self._rate_per_s
        self._buckets[name] = (left - 1.0 if left >= 1.0 else left, now_s)
        if len(self._buckets) > _BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return wait_s
