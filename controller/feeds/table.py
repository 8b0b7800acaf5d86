"""Time series from CSV, plain or gzip: a strict, pure loader, used by the replay feed and by backtests.

What is wrong is an error that names the line; what is missing is a gap that is counted and stated. Nothing is ever
interpolated, sorted or repaired. Three ways to state time are known, told apart by the header:

`interval_start_utc` | `hour_utc` | `date_utc`    the start, UTC, ISO 8601
`interval_start_central`                          the start, US Central wall time without an offset
`hour_ending_central`                             the end of the hour, US Central (`24:00`, `DST` suffix as published)
`delivery_date_central` + `hour_ending` (1..24)   the same in two columns, with an optional `dst_flag` (Y, N)

Summer time: of a wall time that comes twice, the first row is the first hour and the second row (or the flagged one)
the repeated hour. A wall time that never was may stand there empty; with a value in it the file is refused.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from contract.units import MS_PER_MINUTE
from controller.feeds.labels import DIALECTS, Dialect, LabelError

ROWS_MAX: Final = 5_000_000
LINE_MAX: Final = 10_000
PRICE_MAX: Final = 100_000.0
"""The bound of `contract.units.UsdPerMwh`."""

TableCode = Literal["unreadable", "columns", "time", "value", "unsorted", "duplicate", "grid", "dst", "empty", "size"]
GapWhy = Literal["absent", "empty", "not_a_number"]


class TableError(ValueError):
    """A file that cannot be used. `code` is stable; the text names the file, the line and what to do."""

    def __init__(self, code: TableCode, source: str, line: int | None, detail: str) -> None:
        where = source if line is None else f"{source}, line {line}"
        super().__init__(f"{where}: {detail}")
        self.code: TableCode = code
        self.line = line
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Gap:
    """A span without values: `intervals` of them from `start_ms` up to, not including, `end_ms`."""

    start_ms: int
    end_ms: int
    intervals: int
    why: GapWhy


@dataclass(frozen=True, slots=True)
class SeriesTable:
    """One column of one file on a regular grid, holes and all."""

    source: str
    column: str
    interval_ms: int
    start_ms: NDArray[np.int64]
    """Ascending, unique; each value holds from its start for one interval."""
    values: NDArray[np.float64]
    """Finite, one per start."""
    gaps: tuple[Gap, ...]
    """Ascending; every instant between the first and the last row is in the grid or in a gap."""
    duplicates: int
    """Rows that said the same thing of the same interval again, dropped."""
    never_was: int
    """Empty rows for a local time that does not exist, dropped."""
    rows: int

    def last_known(self, now_ms: int, known_after_ms: int = 0) -> int | None:
        """Index of the newest interval that has begun and is known at `now_ms`: never a look ahead.

        `known_after_ms` is counted from the interval's start: 0 where a price is published before it applies, the
        interval's length where it is settled when it is over.
        """
        index = bisect_right(self.start_ms, now_ms - max(known_after_ms, 0)) - 1
        return index if index >= 0 else None

    @property
    def end_ms(self) -> int:
        """The end of the last interval."""
        return int(self.start_ms[-1]) + self.interval_ms

    def describe(self) -> str:
        """One line: how much, of what, and what is missing."""
        lost = Counter[str]()
        for gap in self.gaps:
            lost[gap.why] += gap.intervals
        missing = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in sorted(lost.items())) or "none"
        text = (
            f"{self.source} [{self.column}]: {len(self.values)} intervals of {self.interval_ms / MS_PER_MINUTE:g} min, "
            f"{missing} missing in {len(self.gaps)} gaps"
        )
        if self.duplicates:
            text += f", {self.duplicates} repeated rows dropped"
        if self.never_was:
            text += f", {self.never_was} rows of hours that never were dropped"
        return text


def load_series(
    path: Path,
    *,
    column: str | None = None,
    unit: str = "_usd_per_mwh",
    where: Mapping[str, str] | None = None,
    interval_ms: int | None = None,
    value_max: float = PRICE_MAX,
) -> SeriesTable:
    """Load one column. `column` may be left out where exactly one ends in `unit`.

    `where` keeps the rows whose columns hold these values, such as `{"settlement_point": "HB_WEST"}`. The interval is
    the most frequent step unless given; a value beyond `value_max` either way is garbage. Raises `TableError`.
    """
    try:
        with _open_text(path) as text:
            return read_series(
                text, str(path), column=column, unit=unit, where=where, interval_ms=interval_ms, value_max=value_max
            )
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TableError("unreadable", str(path), None, f"cannot be read: {error}") from None


def read_series(
    text: Iterator[str],
    source: str,
    *,
    column: str | None = None,
    unit: str = "_usd_per_mwh",
    where: Mapping[str, str] | None = None,
    interval_ms: int | None = None,
    value_max: float = PRICE_MAX,
) -> SeriesTable:
    """As `load_series`, from lines already open; `source` names them in errors."""
    rows = csv.reader(_bounded(text, source), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        plan = _plan(header, source, column, unit, dict(where or {}), value_max)
        found = _collect(rows, plan, source)
    except csv.Error as error:
        raise TableError("value", source, rows.line_num, f"is not CSV: {error}") from None
    return _on_grid(found, plan, source, interval_ms)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which columns to read, and how."""

    width: int
    dialect: Dialect
    time_at: tuple[int, ...]
    flag_at: int | None
    value_at: int
    value_name: str
    value_max: float
    where_at: tuple[tuple[int, str], ...]
    point_at: int | None
    """A settlement point column that no `where` selects from."""


@dataclass(slots=True)
class _Found:
    """What the rows said, in their order; a value is None where the row has none."""

    starts: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    holes: dict[int, GapWhy] = field(default_factory=dict)
    """Starts that stand in the file without a value."""
    duplicates: int = 0
    never_was: int = 0
    rows: int = 0
    last: tuple[int, float | None] | None = None


def _plan(
    header: Sequence[str], source: str, column: str | None, unit: str, where: dict[str, str], value_max: float
) -> _Plan:
    if not header or header == [""]:
        raise TableError("empty", source, None, "has no header row")
    if len(set(header)) != len(header):
        twice = next(name for name, count in Counter(header).items() if count > 1)
        raise TableError("columns", source, 1, f"column {twice!r} stands twice")
    dialects = [dialect for dialect in DIALECTS if all(name in header for name in dialect.columns)]
    if len(dialects) != 1:
        known = "; ".join(" + ".join(dialect.columns) for dialect in DIALECTS)
        raise TableError("columns", source, 1, f"needs exactly one of these time columns: {known}. It has {header}")
    missing = [name for name in where if name not in header]
    if missing:
        raise TableError("columns", source, 1, f"column {missing[0]!r} of `where` is not in the header {header}")
    value_name = _value_column(header, source, column, unit)
    return _Plan(
        width=len(header),
        dialect=dialects[0],
        time_at=tuple(header.index(name) for name in dialects[0].columns),
        flag_at=header.index("dst_flag") if "dst_flag" in header else None,
        value_at=header.index(value_name),
        value_name=value_name,
        value_max=value_max,
        where_at=tuple((header.index(name), value) for name, value in where.items()),
        point_at=header.index("settlement_point")
        if "settlement_point" in header and "settlement_point" not in where
        else None,
    )


def _value_column(header: Sequence[str], source: str, column: str | None, unit: str) -> str:
    if column is not None:
        if column not in header:
            raise TableError("columns", source, 1, f"has no column {column!r}; it has {header}")
        return column
    fitting = [name for name in header if name.endswith(unit)]
    if len(fitting) != 1:
        found = f"{fitting} do" if fitting else "none does"
        raise TableError("columns", source, 1, f"one column must end in {unit!r}, {found}: name it with `column`")
    return fitting[0]


def _collect(rows: Iterator[list[str]], plan: _Plan, source: str) -> _Found:
    found = _Found()
    clock = plan.dialect.clock()
    point: str | None = None
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != plan.width:
            raise TableError("columns", source, line, f"{len(row)} fields where the header has {plan.width}")
        if any(row[at] != value for at, value in plan.where_at):
            continue
        if plan.point_at is not None:
            if point is not None and row[plan.point_at] != point:
                raise TableError(
                    "columns", source, line, "holds several settlement points: choose one with `where` settlement_point"
                )
            point = row[plan.point_at]
        if found.rows >= ROWS_MAX:
            raise TableError("size", source, line, f"more than {ROWS_MAX} rows")
        found.rows += 1
        value, hole = _value(row[plan.value_at], plan.value_max, source, line)
        flag = row[plan.flag_at] if plan.flag_at is not None else None
        try:
            start = clock.start_ms([row[at].strip() for at in plan.time_at], flag)
        except LabelError as error:
            raise TableError("time", source, line, str(error)) from None
        _keep(found, start, value, hole, source, line)
    return found


def _keep(found: _Found, start: int | None, value: float | None, hole: GapWhy | None, source: str, line: int) -> None:
    if start is None:
        if value is not None:
            raise TableError(
                "dst",
                source,
                line,
                "this local time never was (clocks went forward) and yet has a value: "
                "is the column really US Central wall time?",
            )
        found.never_was += 1
        return
    if found.last is not None:
        last_start, last_value = found.last
        if start == last_start:
            if value != last_value:
                raise TableError("duplicate", source, line, "says another value of the same interval as the row before")
            found.duplicates += 1
            return
        if start < last_start:
            raise TableError("unsorted", source, line, "is earlier than the row before: sort the file by time")
    found.last = (start, value)
    if value is None:
        assert hole is not None  # noqa: S101  _value says why whenever it has no number
        found.holes[start] = hole
    else:
        found.starts.append(start)
        found.values.append(value)


def _value(text: str, value_max: float, source: str, line: int) -> tuple[float | None, GapWhy | None]:
    text = text.strip()
    if not text:
        return None, "empty"
    try:
        value = float(text)
    except ValueError:
        raise TableError("value", source, line, f"{text[:40]!r} is not a number") from None
    if not math.isfinite(value):
        return None, "not_a_number"
    if abs(value) > value_max:
        raise TableError("value", source, line, f"{text[:40]} is beyond {value_max:g}: garbage")
    return value, None


def _on_grid(found: _Found, plan: _Plan, source: str, interval_ms: int | None) -> SeriesTable:
    if not found.values:
        raise TableError("empty", source, None, f"has no value in {plan.value_name!r} among {found.rows} rows")
    labelled = np.array(sorted([*found.starts, *found.holes]), dtype=np.int64)
    steps = np.diff(labelled)
    if interval_ms is None:
        if len(steps) == 0:
            raise TableError("grid", source, None, "one row does not say its interval: give `interval_ms`")
        lengths, counts = np.unique(steps, return_counts=True)
        interval_ms = int(lengths[np.argmax(counts)])
    if interval_ms < MS_PER_MINUTE:
        raise TableError("grid", source, None, f"an interval of {interval_ms} ms is below a minute")
    off = np.nonzero((labelled - labelled[0]) % interval_ms)[0]
    if len(off):
        at = np.datetime64(int(labelled[off[0]]), "ms")
        raise TableError("grid", source, None, f"{at}Z is off the grid of {interval_ms / MS_PER_MINUTE:g} min")
    return SeriesTable(
        source=source,
        column=plan.value_name,
        interval_ms=interval_ms,
        start_ms=np.array(found.starts, dtype=np.int64),
        values=np.array(found.values, dtype=np.float64),
        gaps=_gaps(labelled, found.holes, interval_ms),
        duplicates=found.duplicates,
        never_was=found.never_was,
        rows=found.rows,
    )


def _gaps(labelled: NDArray[np.int64], holes: Mapping[int, GapWhy], interval_ms: int) -> tuple[Gap, ...]:
    """Rows without a value and spans without a row, neighbours of one cause joined."""
    pieces: list[tuple[int, int, GapWhy]] = [(start, start + interval_ms, why) for start, why in holes.items()]
    jumps = np.nonzero(np.diff(labelled) > interval_ms)[0]
    pieces += [(int(labelled[at]) + interval_ms, int(labelled[at + 1]), "absent") for at in jumps]
    gaps: list[Gap] = []
    for start, end, why in sorted(pieces):
        if gaps and gaps[-1].end_ms == start and gaps[-1].why == why:
            start = gaps.pop().start_ms
        gaps.append(Gap(start, end, (end - start) // interval_ms, why))
    return tuple(gaps)


def _open_text(path: Path) -> TextIO:
    with path.open("rb") as probe:
        packed = probe.read(2) == b"\x1f\x8b"
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _bounded(lines: Iterator[str], source: str) -> Iterator[str]:
    for line, text in enumerate(lines, start=1):
        if len(text) > LINE_MAX:
            raise TableError("size", source, line, f"a line of {len(text)} characters, at most {LINE_MAX} are read")
        yield text
