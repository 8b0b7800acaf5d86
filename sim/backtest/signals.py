"""Obligations from a CSV: `told_utc,starts_utc,ends_utc,target_mw` and, where wanted, `id` and `site`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sim.backtest.csvfile import SeriesError, instant, number, read_rows
from sim.backtest.model import Obligation

ROWS_MAX: Final = 100_000
_NEEDED: Final = ("told_utc", "starts_utc", "ends_utc", "target_mw")
_KNOWN: Final = (*_NEEDED, "id", "site")


def load_signals(path: Path, site: str) -> tuple[Obligation, ...]:
    """The obligations of a site, by begin: rows that name it and rows that name none. Raises `SeriesError`."""
    rows = read_rows(path, _NEEDED, _KNOWN, ROWS_MAX)
    found = [_obligation(path, line, row) for line, row in rows if row.get("site", "") in ("", site)]
    return tuple(sorted(found, key=lambda due: (due.starts_ms, due.id)))


def _obligation(path: Path, line: int, row: Mapping[str, str]) -> Obligation:
    told, starts, ends = (instant(path, line, name, row[name]) for name in _NEEDED[:3])
    if ends <= starts:
        raise SeriesError(f"{path}, line {line}: column ends_utc: not after starts_utc", "correct that row")
    if told > starts:
        raise SeriesError(
            f"{path}, line {line}: column told_utc: after starts_utc",
            "an obligation is told before it begins, or as it begins",
        )
    target = number(path, line, "target_mw", row["target_mw"], 0.0, 1e6)
    return Obligation(row.get("id") or f"line-{line}", told, starts, ends, target)
