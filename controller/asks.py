"""What asks of operators and the grid have in common: how one is refused."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

PAST_GRACE_MS: Final = 60_000
"""A start this little in the past is taken as now: clocks differ."""
AHEAD_MAX_MS: Final = 366 * 24 * 3_600_000
LENGTH_MAX_MS: Final = 366 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Rejected:
    """An ask that was not taken, the field at fault, and what to do about it."""

    kind: Literal["invalid", "unknown", "conflict", "limit"]
    field: str
    detail: str
    fix: str


def check_times(starts_at_ms: int, ends_at_ms: int | None, now_ms: int) -> Rejected | None:
    """A window that is neither reversed, nor over, nor begun in the past, nor absurdly far or long."""
    if starts_at_ms < now_ms - PAST_GRACE_MS:
        return Rejected("invalid", "starts_at", "lies in the past", "leave starts_at out to start now")
    if starts_at_ms > now_ms + AHEAD_MAX_MS:
        return Rejected("invalid", "starts_at", "is more than a year ahead", "give it nearer to its time")
    if ends_at_ms is None:
        return None
    if ends_at_ms <= starts_at_ms:
        return Rejected("invalid", "ends_at", "is not after starts_at", "swap them, or correct the date")
    if ends_at_ms <= now_ms:
        return Rejected("invalid", "ends_at", "lies in the past", "give an end that is to come")
    if ends_at_ms - starts_at_ms > LENGTH_MAX_MS:
        return Rejected("invalid", "ends_at", "is more than a year after the start", "give a shorter window")
    return None


def new_id(prefix: str, chance: Random, taken: Container[str]) -> str:
    """An id that is not taken; a restart with the same seed begins the same row of numbers."""
    while True:
        key = f"{prefix}-{chance.getrandbits(48):012x}"
        if key not in taken:
            return key
