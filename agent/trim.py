"""What a bank is allotted less than its setpoint, because its own meter shows more. Pure."""

from __future__ import annotations

from typing import Final

HOLD_SETTLES: Final = 15
"""How many settling times a trim stands before it is tried without; twice as many after each trial that failed."""
HOLD_MAX: Final = 16


class Trim:
    """Looks at each reading of a bank's meter while its setpoint stands. Begins anew with each setpoint."""

    def __init__(self, settle_ms: int) -> None:
        self._settle_ms = settle_ms
        self.reset()

    def reset(self) -> None:
        self.power_w = 0
        self._looked: tuple[int, int] | None = None
        self._since_ms = 0
        self._trials = 1

    def look(self, metered_w: int, read_ms: int, setpoint_w: int, tolerance_w: int) -> bool:
        """Whether the trim has changed. Power that still falls is given more time; a trim is lifted in the end, so
        that a passing excess does not cost the bank a device for ever."""
        if self._looked is None:
            self._looked = (metered_w, read_ms)
            return False
        before_w, before_ms = self._looked
        if read_ms - before_ms < self._settle_ms:
            return False
        self._looked = (metered_w, read_ms)
        if metered_w > setpoint_w + tolerance_w:
            if metered_w < before_w - tolerance_w // 4:
                return False
            self.power_w = min(self.power_w + metered_w - setpoint_w, setpoint_w)
            self._since_ms = read_ms
            return True
        if self.power_w and read_ms - self._since_ms >= HOLD_SETTLES * self._trials * self._settle_ms:
            self.power_w = 0
            self._trials = min(2 * self._trials, HOLD_MAX)
            return True
        return False
