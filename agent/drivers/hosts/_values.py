"""From what a host answered to values that mean something: what is no plausible figure is None, never a zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

Json = Mapping[str, Any]
MAX_HOST_W: Final = 1_000_000
"""No single host draws more; a larger figure is a mistake."""
_EMPTY: Final[Json] = {}


def watts(value: object) -> int | None:
    """A finite power that a host may have; None for all else, booleans and text included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(value) if 0 <= value <= MAX_HOST_W else None


def table(value: object) -> Json:
    """A JSON object; empty for all else."""
    return value if isinstance(value, dict) else _EMPTY


def listed(value: object) -> list[Any]:
    """A JSON list; empty for all else."""
    return value if isinstance(value, list) else []


def text(value: object, most: int = 200) -> str:
    """A text, cut to a length that a log can bear; empty for all else."""
    return value[:most] if isinstance(value, str) else ""
