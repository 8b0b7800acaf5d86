"""What a device server passed on to its machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CommandKind(StrEnum):
    """The commands a machine takes."""

    SLEEP = "sleep"
    WAKE = "wake"
    LIMIT = "limit"
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True)
class Commanded:
    """One command that reached a machine."""

    at_ms: int
    bank: str
    device: int
    """Its number within the bank."""
    kind: CommandKind
    raises: bool
    """Wakes it, or lets it draw more than before. A reboot does neither."""
    power_w: float | None = None
