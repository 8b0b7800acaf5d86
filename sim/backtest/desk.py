"""Which jobs may run now: least slack first, firm before flexible, those that can wait no longer before all."""

from __future__ import annotations

from typing import Final

from contract.units import MS_PER_HOUR
from sim.backtest.merit import Merit, Wish
from sim.backtest.model import Seen, Timeline
from sim.backtest.physics import power_for

_URGENT_INTERVALS: Final = 2.0
"""A job with less slack than so many intervals at full power can wait no longer."""


class Desk:
    """The scheduler's side of a threshold policy. Sees open jobs only: no job before it is submitted."""

    def __init__(self, timeline: Timeline, merit: Merit) -> None:
        self._jobs = timeline.jobs
        self._hours = timeline.interval_ms / MS_PER_HOUR
        self._merit = merit

    def wishes(self, seen: Seen, stop_price: float, start_price: float) -> list[Wish]:
        """Jobs whose value exceeds the price: `stop_price` of running ones, `start_price` of those that wait."""
        state, now = seen.state, seen.known.at_ms
        kind_of, jobs = self._merit.kind_of, self._jobs
        margin = _URGENT_INTERVALS * self._hours
        found = []
        for index in state.open_jobs:
            job, kind = jobs[index], kind_of[index]
            running = index in state.running
            must = running and (job.firm or state.ran_h[index] < job.min_up_h - 1e-9)
            slack = (job.deadline_ms - now) / MS_PER_HOUR - state.left_h[index]
            due = job.firm or slack < margin
            if must or self._merit.job_value(kind, due) > (stop_price if running else start_price):
                found.append((not due, not running, kind, slack, Wish(index, job.nodes, kind, due, running, must)))
        found.sort()
        return [wish for *_, wish in found]

    def trim(self, job_mw: dict[int, float], seen: Seen) -> None:
        """A job about to be done draws no more than finishing takes."""
        left = seen.state.left_h
        for index in job_mw:
            if left[index] < self._hours:
                least = power_for(self._jobs[index], left[index] / self._hours)
                job_mw[index] = min(job_mw[index], least)
