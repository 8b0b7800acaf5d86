"""Faults that repeat: counted always, logged once per change of state."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

_SCOPES_MAX: Final = 10_000
_QUIET_MS: Final = 60_000
"""A fault is over when it has not been seen for this long; so an alternating one is not logged at every turn."""


class Faults:
    """Counts by code; keeps, per scope (a site, a feed), which faults are open, so that each is logged once."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._open: dict[str, dict[str, int]] = {}
        self.counts: Counter[str] = Counter()

    def hit(self, scope: str, code: str, detail: str, now_ms: int) -> None:
        """One more fault. `now_ms` is monotonic."""
        self.counts[code] += 1
        codes = self._open.get(scope)
        if codes is None:
            if len(self._open) >= _SCOPES_MAX:
                return
            codes = self._open[scope] = {}
        if code not in codes:
            self._logger.warning("%s: %s: %s", scope, code, detail)
        codes[code] = now_ms

    def fine(self, scope: str, now_ms: int) -> None:
        """Something good came from this scope: faults not seen of late are over."""
        codes = self._open.get(scope)
        if codes is None:
            return
        for code in [code for code, last_ms in codes.items() if now_ms - last_ms >= _QUIET_MS]:
            del codes[code]
            self._logger.info("%s: %s is over", scope, code)
        if not codes:
            del self._open[scope]

    def open_codes(self, scope: str) -> tuple[str, ...]:
        """The faults now open for a scope."""
        return tuple(sorted(self._open.get(scope, ())))
