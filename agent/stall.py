"""Time in which the agent itself stood still: a busy machine, a paused guest. Pure.

What was not read then says nothing against the devices. Their readings are believed for as much longer, until every
device has had its turn again: else an agent that wakes would take its whole site for unreadable, and stop it.
"""

from __future__ import annotations


class Stall:
    """Told how late each control step begins."""

    def __init__(self, least_ms: int, lasts_ms: int) -> None:
        """A step late by `least_ms` is a stall; it is made up for during `lasts_ms`."""
        self._least_ms = least_ms
        self._lasts_ms = lasts_ms
        self._lost_ms = 0
        self._until_ms: int | None = None

    def note(self, late_ms: int, now_ms: int) -> None:
        if late_ms < self._least_ms:
            return
        self._lost_ms = self.lost_ms(now_ms) + late_ms
        self._until_ms = now_ms + self._lasts_ms

    def lost_ms(self, now_ms: int) -> int:
        """What is to be added to the time a reading is believed."""
        return self._lost_ms if self._until_ms is not None and now_ms < self._until_ms else 0
