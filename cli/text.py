"""Tables and colours for the terminal. Colours only where somebody sees them, and never with NO_COLOR."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_SMALL_W: Final = 100_000
FIGURES: Final = frozenset(
    {"metered", "planned", "cap", "price", "USD/h", "target", "draws", "worth USD/MWh", "value", "data age", "left"}
)
"""Columns that stand to the right."""


def paint(text: str, style: str) -> str:
    """`style` is one of bold, dim, red, green, yellow; plain where output is no terminal or NO_COLOR is set."""
    if not text or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str | None] = ()) -> str:
    """Columns aligned, two spaces apart; a row's style colours all of it."""
    cells = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    lines = [paint(_line(columns, columns, widths), "dim")]
    for place, row in enumerate(cells):
        style = styles[place] if place < len(styles) else None
        line = _line(columns, row, widths)
        lines.append(paint(line, style) if style else line)
    return "\n".join(lines)


def mw(power_w: float | None, sign: str = "") -> str:
    """In megawatts, a tenth of one and less in kilowatts; `sign` is + where a plus is to be seen."""
    if power_w is None:
        return "-"
    if 0 < abs(power_w) < _SMALL_W:
        return f"{power_w / 1e3:{sign},.1f} kW"
    return f"{power_w / 1e6:{sign},.2f} MW"


def usd(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,.0f}"


def span(seconds: float) -> str:
    """About how long, in one or two units."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3_600:
        return f"{whole // 60} min"
    if whole < 2 * 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d}"
    return f"{whole // 86_400} days"


def clock(moment: str | None) -> str:
    """An ISO 8601 moment as hours and minutes, UTC, with its date where that is not today's."""
    if moment is None:
        return "open"
    at = datetime.fromisoformat(moment).astimezone(UTC)
    today = datetime.now(UTC).date()
    return at.strftime("%H:%M:%SZ" if at.date() == today else "%Y-%m-%d %H:%MZ")


def _line(columns: Sequence[str], row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.rjust(width) if name in FIGURES else text.ljust(width)
        for name, text, width in zip(columns, row, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _plain(text: str) -> str:
    """What others have written must not steer the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
