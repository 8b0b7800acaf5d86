"""How published files label time, turned into the UTC start of the interval. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from contract.units import MS_PER_S

_HOUR: Final = timedelta(hours=1)


class LabelError(ValueError):
    """A label that is not a time of its dialect."""


class LabelClock(Protocol):
    """Reads the labels of one file from top to bottom; it remembers which ambiguous hour it has seen."""

    def start_ms(self, fields: Sequence[str], flag: str | None) -> int | None:
        """UTC start in ms; None for a local time that never was. Raises `LabelError`."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to state time: its columns and a fresh clock for a file."""

    columns: tuple[str, ...]
    clock: Callable[[], LabelClock]


class UtcLabels:
    """ISO 8601, UTC; without an offset it is UTC because the column says so."""

    def start_ms(self, fields: Sequence[str], flag: str | None) -> int | None:
        del flag
        moment = _iso(fields[0])
        return _ms(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


class CentralStarts:
    """ISO 8601, US Central wall time of the interval's start."""

    def __init__(self) -> None:
        self._zone = _Central()

    def start_ms(self, fields: Sequence[str], flag: str | None) -> int | None:
        moment = _iso(fields[0])
        if moment.tzinfo is not None:
            return _ms(moment)
        return self._zone.resolve(moment, _repeated(flag))


class CentralHourEnding:
    """`MM/DD/YYYY HH:MM[ DST]` or ISO 8601, US Central wall time of the hour's end; `24:00` ends the day."""

    def __init__(self) -> None:
        self._zone = _Central()

    def start_ms(self, fields: Sequence[str], flag: str | None) -> int | None:
        text, _, suffix = fields[0].partition(" DST")
        if suffix.strip():
            raise LabelError(f"{fields[0][:40]!r} is not an hour ending")
        repeated = True if text != fields[0] else _repeated(flag)
        return self._zone.resolve(_hour_ending(text) - _HOUR, repeated)


class CentralDateAndHour:
    """A date and an hour ending 1..24, US Central wall time."""

    def __init__(self) -> None:
        self._zone = _Central()

    def start_ms(self, fields: Sequence[str], flag: str | None) -> int | None:
        day, hour = _iso(fields[0]), fields[1]
        if not hour.isascii() or not hour.isdigit() or not 1 <= int(hour) <= 24:
            raise LabelError(f"hour_ending {hour[:20]!r} is not 1 to 24")
        return self._zone.resolve(day + timedelta(hours=int(hour) - 1), _repeated(flag))


DIALECTS: Final = (
    Dialect(("interval_start_utc",), UtcLabels),
    Dialect(("hour_utc",), UtcLabels),
    Dialect(("date_utc",), UtcLabels),
    Dialect(("interval_start_central",), CentralStarts),
    Dialect(("hour_ending_central",), CentralHourEnding),
    Dialect(("delivery_date_central", "hour_ending"), CentralDateAndHour),
)


class _Central:
    """US Central wall time to UTC. The rules come from the system's time zone data, or the `tzdata` package."""

    def __init__(self) -> None:
        self._zone = ZoneInfo("America/Chicago")
        self._seen: dict[datetime, int] = {}

    def resolve(self, wall: datetime, repeated: bool | None) -> int | None:
        """`repeated` None leaves it to the order of rows: the second row of an ambiguous time is the repeated hour."""
        first = wall.replace(tzinfo=self._zone, fold=0)
        second = wall.replace(tzinfo=self._zone, fold=1)
        if first.utcoffset() == second.utcoffset():
            if repeated:
                raise LabelError(f"{wall} is flagged as a repeated hour, and clocks did not go back then")
            return _ms(first)
        if first.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None) != wall:
            return None
        if repeated is None:
            count = self._seen[wall] = self._seen.get(wall, 0) + 1
            if count > 2:
                raise LabelError(f"{wall} stands {count} times; it came twice")
            repeated = count == 2
        return _ms(second if repeated else first)


def _iso(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise LabelError(f"{text[:40]!r} is not an ISO 8601 time") from None


def _hour_ending(text: str) -> datetime:
    date, _, clock = text.strip().partition(" ")
    whole_day = clock in ("24:00", "24:00:00")
    label = f"{date} 00:00" if whole_day else text.strip()
    for form in ("%m/%d/%Y %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"):
        try:
            moment = datetime.strptime(label, form)  # noqa: DTZ007  the zone is applied by _Central
        except ValueError:
            continue
        return moment + timedelta(days=1) if whole_day else moment
    raise LabelError(f"{text[:40]!r} is not an hour ending")


def _repeated(flag: str | None) -> bool | None:
    if flag is None:
        return None
    if flag.strip().upper() in ("Y", "N"):
        return flag.strip().upper() == "Y"
    raise LabelError(f"dst_flag {flag[:20]!r} is neither Y nor N")


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * MS_PER_S)
