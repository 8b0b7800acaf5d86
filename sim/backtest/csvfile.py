"""CSV that users give, plain or gzip, read strictly: what is wrong names file, line, column and what to do."""

from __future__ import annotations

import csv
import gzip
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from contract.units import MS_PER_S


class SeriesError(ValueError):
    """Data that cannot be used: what is wrong and where, and what to do about it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}. Fix: {fix}")


def open_text(path: Path) -> TextIO:
    """A plain or gzip file as text. Raises `OSError`."""
    with path.open("rb") as probe:
        packed = probe.read(2) == b"\x1f\x8b"
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def header_of(path: Path) -> list[str]:
    """The names in the first line. Raises `SeriesError`."""
    try:
        with open_text(path) as text:
            line = text.readline(10_000)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    return [name.strip() for name in next(csv.reader([line]), [])]


def distinct(path: Path, column: int) -> list[str]:
    """The different texts of a column, by first appearance. Raises `SeriesError`."""
    try:
        with open_text(path) as text:
            rows = csv.reader(text)
            next(rows, None)
            return list(dict.fromkeys(row[column] for row in rows if len(row) > column))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, error) from None


def read_rows(
    path: Path, needed: tuple[str, ...], known: tuple[str, ...] | None, most: int
) -> list[tuple[int, dict[str, str]]]:
    """A plain or gzip CSV as (line, row). Columns beyond `known` are refused where it is given."""
    try:
        with open_text(path) as text:
            reader = csv.reader(text, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, needed, known)
            out: list[tuple[int, dict[str, str]]] = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise SeriesError(
                        f"{path}, line {reader.line_num}: {len(row)} fields where the header has {len(header)}",
                        "correct that row",
                    )
                if len(out) >= most:
                    raise SeriesError(f"{path}: more than {most} rows", "split the file")
                out.append((reader.line_num, dict(zip(header, (field.strip() for field in row), strict=True))))
            return out
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    except csv.Error as error:
        raise SeriesError(f"{path}: is not CSV: {error}", "check the quotes") from None


def number(path: Path, line: int, column: str, text: str, least: float, most: float) -> float:
    """A finite number within bounds. Raises `SeriesError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise SeriesError(
            f"{path}, line {line}: column {column}: {text[:40]!r} is not a number from {least:g} to {most:g}",
            "correct that row",
        )
    return value


def instant(path: Path, line: int, column: str, text: str) -> int:
    """An ISO 8601 time in epoch ms; without an offset it is UTC. Raises `SeriesError`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise SeriesError(
            f"{path}, line {line}: column {column}: {text[:40]!r} is not an ISO 8601 time", "correct that row"
        ) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * MS_PER_S)


def unreadable(path: Path, error: Exception) -> SeriesError:
    """A file that cannot be opened or is no text."""
    return SeriesError(f"{path}: cannot be read: {error}", "check the path; plain and gzip CSV in UTF-8 are read")


def _check_header(path: Path, header: list[str], needed: tuple[str, ...], known: tuple[str, ...] | None) -> None:
    lacking = [name for name in needed if name not in header]
    if lacking:
        raise SeriesError(
            f"{path}, line 1: has no column {lacking[0]}; it has {', '.join(header) or 'no header'}",
            f"give the columns {', '.join(needed)}",
        )
    strange = [name for name in header if known is not None and name not in known]
    if strange or len(set(header)) != len(header):
        raise SeriesError(
            f"{path}, line 1: column {(strange or header)[0]} is unknown or stands twice",
            f"the columns are {', '.join(known or needed)}",
        )
