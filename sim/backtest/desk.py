"""Which jobs may run now: earliest deadline first, firm before flexible, those that can wait no longer before all."""

from __future__ import annotations

from typing import Final

from contract.units import MS_PER_HOUR
from sim.backtest.merit import Merit, Wish
from sim.backtest.model import Job, Seen, Timeline
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
        out = []
        for index in state.open_jobs:
            job = self._jobs[index]
            running = index in state.running
            must = running and (job.firm or state.ran_h[index] < job.min_up_h - 1e-9)
            worth = 1.0
            if job.firm or self._slack_h(job, state.left_h[index], now) < _URGENT_INTERVALS * self._hours:
                worth = 1.0 + job.miss_usd / max(job.usd_per_h * job.work_h, 1e-9)
            price = stop_price if running else start_price
            if must or self._merit.job_value(job) * worth > price:
                out.append(Wish(index, job, worth, running, must))
        out.sort(key=lambda w: (not w.must, -w.worth, not w.running, w.job.deadline_ms))
        return out

    def trim(self, job_mw: dict[int, float], seen: Seen) -> None:
        """A job about to be done draws no more than finishing takes."""
        left = seen.state.left_h
        for index in job_mw:
            if left[index] < self._hours:
                least = power_for(self._jobs[index], left[index] / self._hours)
                job_mw[index] = min(job_mw[index], least)

    def _slack_h(self, job: Job, left_h: float, now_ms: int) -> float:
        return (job.deadline_ms - now_ms) / MS_PER_HOUR - left_h
