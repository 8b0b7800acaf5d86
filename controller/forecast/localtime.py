"""Market-local hours, weekdays and months of many instants at once, across the changes of the clocks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

I8 = NDArray[np.int64]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_FIRST_YEAR, _LAST_YEAR = 2000, 2060
"""Clock changes are tabled for these years; outside them the nearest one's offset holds."""


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A time zone as a table: `offset_ms[k]` holds from `from_ms[k]` on."""

    timezone: str
    from_ms: I8
    offset_ms: I8

    def local_ms(self, at_ms: I8) -> I8:
        """Epoch milliseconds as if the wall clock were UTC. `at_ms` ascending or not, any shape."""
        which = np.searchsorted(self.from_ms, at_ms, side="right") - 1
        local: I8 = at_ms + self.offset_ms[np.maximum(which, 0)]
        return local

    def hour(self, at_ms: I8) -> I8:
        """0..23."""
        return self.local_ms(at_ms) // HOUR_MS % 24

    def month(self, at_ms: I8) -> I8:
        """Months since January of year 0 of the epoch; modulo 12 plus 1 is the month of the year."""
        return self.local_ms(at_ms).astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)


def month_of_year(month: I8) -> I8:
    """1..12 of what `LocalTime.month` gave."""
    return month % 12 + 1


@lru_cache(maxsize=32)
def local_time(timezone: str) -> LocalTime:
    """The table of an IANA zone. Raises `zoneinfo.ZoneInfoNotFoundError` (a `KeyError`) for a name that is none."""
    zone = ZoneInfo(timezone)
    at, end = datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(_LAST_YEAR, 1, 1, tzinfo=UTC)
    from_ms, offset_ms = [_epoch_ms(at)], [_offset_ms(zone, at)]
    while at < end:
        after = at + timedelta(days=1)
        if _offset_ms(zone, after) != offset_ms[-1]:
            low, high = at, after
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if _offset_ms(zone, middle) == offset_ms[-1] else (low, middle)
            change_ms = -(-_epoch_ms(low + timedelta(milliseconds=1)) // 60_000) * 60_000
            from_ms.append(change_ms)
            offset_ms.append(_offset_ms(zone, after))
        at = after
    return LocalTime(timezone, np.array(from_ms, dtype=np.int64), np.array(offset_ms, dtype=np.int64))


def _epoch_ms(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _offset_ms(zone: ZoneInfo, at: datetime) -> int:
    offset = at.astimezone(zone).utcoffset()
    return 0 if offset is None else offset // timedelta(milliseconds=1)
