"""What a policy may know at the beginning of an interval: the only place where the time line is cut at the present."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR
from controller.forecast.known import Known, Series
from sim.backtest.model import F8, Obligation, Seen, State, Timeline

LOAD_LATE_MS: Final = MS_PER_HOUR
"""System load is published so much later."""
HISTORY_MIN_MS: Final = 7 * 24 * MS_PER_HOUR
"""With less history than that, thresholds are not tuned."""


class Eyes:
    """Looks at a time line from inside it. `lag` 0 knows the price of the interval that runs, N one of N before."""

    def __init__(self, timeline: Timeline, lag: int) -> None:
        if lag < 0:
            raise ValueError("a price lag below 0 would be a price of the future")
        self._timeline = timeline
        self._lag = lag
        self._price = _sealed(timeline.price)
        self._day_ahead = None if timeline.day_ahead is None else _sealed(timeline.day_ahead)
        self._load = None if timeline.load_mw is None else _sealed(timeline.load_mw)
        self._ambient = None if timeline.ambient_c is None else _sealed(timeline.ambient_c)
        self._hashprice: list[float] = timeline.hashprice.tolist()
        self._load_late = -(-LOAD_LATE_MS // timeline.interval_ms)
        count = len(timeline.price)
        if timeline.day_ahead_known is None:
            self._published = [0] * count
        else:
            now = timeline.start_ms + timeline.interval_ms * np.arange(count)
            known = np.maximum.accumulate(timeline.day_ahead_known)
            self._published = np.searchsorted(known, now, side="right").tolist()

    def known(self, index: int) -> Known:
        """Prices, load and weather at the beginning of interval `index`."""
        t = self._timeline
        ambient = None if self._ambient is None else self._series(self._ambient[: index + 1])
        return Known(
            at_ms=t.start_ms + index * t.interval_ms,
            price=self._series(self._price[: max(index + 1 - self._lag, 0)]),
            day_ahead=None if self._day_ahead is None else self._series(self._day_ahead[: self._published[index]]),
            load_mw=None if self._load is None else self._series(self._load[: max(index + 1 - self._load_late, 0)]),
            ambient_c=ambient,
        )

    def see(self, index: int, state: State, cap_mw: float) -> Seen:
        """All of it. `cap_mw` is the site's cap or its quota; an obligation in force lowers it."""
        t = self._timeline
        begin = t.start_ms + index * t.interval_ms
        told = _told(t.obligations, begin) if t.obligations else ()
        cap = min([cap_mw, *(due.target_mw for due in told if due.starts_ms < begin + t.interval_ms)])
        return Seen(
            index=index,
            known=self.known(index),
            hashprice=self._hashprice[index],
            ambient_c=None if t.ambient_c is None else float(t.ambient_c[index]),
            obligations=told,
            cap_mw=cap,
            state=state,
        )

    def _series(self, values: F8) -> Series:
        return Series(self._timeline.start_ms, self._timeline.interval_ms, values)


def past(timeline: Timeline) -> Timeline:
    """The history on its own, to tune on."""
    return part(timeline, 0, timeline.history)


def part(timeline: Timeline, first: int, last: int) -> Timeline:
    """Intervals [first, last) on their own, without history, and the jobs and obligations that lie in them whole."""
    begin_ms = timeline.start_ms + first * timeline.interval_ms
    end_ms = timeline.start_ms + last * timeline.interval_ms
    known = timeline.day_ahead_known

    def cut(values: F8 | None) -> F8 | None:
        return None if values is None else values[first:last]

    return replace(
        timeline,
        start_ms=begin_ms,
        history=0,
        price=timeline.price[first:last],
        filled=timeline.filled[first:last],
        day_ahead=cut(timeline.day_ahead),
        day_ahead_known=None if known is None else known[first:last],
        hashprice=timeline.hashprice[first:last],
        ambient_c=cut(timeline.ambient_c),
        load_mw=cut(timeline.load_mw),
        jobs=tuple(job for job in timeline.jobs if job.submit_ms >= begin_ms and job.deadline_ms <= end_ms),
        obligations=tuple(due for due in timeline.obligations if due.told_ms >= begin_ms and due.ends_ms <= end_ms),
    )


def _told(obligations: tuple[Obligation, ...], now_ms: int) -> tuple[Obligation, ...]:
    return tuple(due for due in obligations if due.told_ms <= now_ms < due.ends_ms)


def _sealed(values: F8) -> F8:
    """A copy that nobody can write to."""
    out = np.array(values)
    out.setflags(write=False)
    return out
