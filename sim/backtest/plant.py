"""The one judge: a site lived through interval by interval, and the books of it.

`step` does what machines do. It keeps a bank that dwell locks, whatever is asked; it clamps a setpoint to the machine's
levels; it runs a job in its window and on free nodes only. What a policy may not ask for is counted, never hidden.
Limits on sums (feeders, cap, cooling, obligations) do not stop anything: the excess is drawn, paid for and counted.
The money is `physics`'s; it is summed when the run is over, over arrays.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR
from sim.backtest.ledger import Lived, account
from sim.backtest.model import F8, Action, Books, Job, Site, State, Timeline, Trace
from sim.backtest.physics import TOLERANCE_MW, boot_share, in_window, steps_of

LONG_AGO: Final = 1 << 30
"""Intervals a bank has been in its state when the run begins: no dwell, no boot."""

VIOLATIONS: Final = {
    "dwell": "a bank was asked to switch within its minimum up or down time; it stayed as it was",
    "setpoint": "a power outside a machine's levels, or no number; the nearest was taken, or off",
    "job_window": "a job was to run that is not open; it did not",
    "nodes": "jobs were to run on more nodes than there are; the last ones did not",
    "job_dwell": "a job was stopped before its minimum run time",
    "firm_job_stopped": "a firm job was stopped while something flexible still drew power",
    "firm_load_shed": "firm load was shed while something flexible still drew power",
    "feeder": "a feeder carried more than its limit",
    "cooling": "a hall drew more than its cooling takes away",
    "cap": "the main meter saw more than the site's cap",
    "obligation": "the main meter saw more than an obligation's target while something flexible still drew power",
}


class Plant:
    """A site over the judged intervals of a time line. `state` is how it stands at the beginning of `index`."""

    def __init__(self, site: Site, timeline: Timeline, quota_mw: F8 | None = None) -> None:
        """`quota_mw` (M,) is this site's share of a fleet's cap, by judged interval; whoever shares it out may write
        an entry until its interval begins. It is told to the policy, and the fleet's cap is judged on the sum."""
        self.site, self.timeline = site, timeline
        self.index = timeline.history
        self.end = len(timeline.price)
        self.quota_mw = quota_mw
        self.violations: Counter[str] = Counter()
        self._hours = timeline.interval_ms / MS_PER_HOUR
        self._up = [steps_of(bank.min_up_h, self._hours) for bank in site.banks]
        self._down = [steps_of(bank.min_down_h, self._hours) for bank in site.banks]
        self._nodes = [partition.nodes for partition in site.partitions]
        banks = len(site.banks)
        self.state = State(
            on=np.ones(banks, dtype=np.uint8),
            since=np.full(banks, LONG_AGO, dtype=np.int64),
            open_jobs=[],
            running=set(),
            left_h={},
            ran_h={},
        )
        self._lived = Lived.of(site, self.end - self.index)
        self._ending: list[tuple[int, int]] = []
        self._next_job = 0
        self._admit()

    @property
    def cap_mw(self) -> float:
        """The site's cap, or its share of the fleet's where that is lower."""
        quota = np.inf if self.quota_mw is None else float(self.quota_mw[self.index - self.timeline.history])
        return min(self.site.cap_mw, quota)

    @property
    def done(self) -> bool:
        """Whether the window is over."""
        return self.index >= self.end

    def step(self, action: Action) -> None:
        """Live through one interval. Raises `ValueError` where the action has another shape than the site."""
        if len(action.bank_mw) != len(self.site.banks):
            raise ValueError(f"an action for {len(action.bank_mw)} banks at a site of {len(self.site.banks)}")
        at = self.index - self.timeline.history
        flexible = self._banks(at, action)
        stopped_firm, flexible_job = self._jobs(at, action)
        flexible = flexible or flexible_job
        shed = self._firm(at, action)
        if flexible:
            self.violations["firm_job_stopped"] += stopped_firm
            self.violations["firm_load_shed"] += shed
        self._lived.flexible[at] = flexible
        self._lived.why.append(action.why)
        self.index += 1
        self._expire(at)
        self._admit()

    def close(self, policy: str, decision_ms: Sequence[float] = ()) -> tuple[Books, Trace]:
        """The books of the whole window and what was done in it. Call once, when `done`."""
        if not self.done:
            raise ValueError(f"interval {self.index} of {self.end} is still to come")
        return account(self.site, self.timeline, self._lived, policy, self.violations, decision_ms, self.quota_mw)

    def _banks(self, at: int, action: Action) -> bool:
        """Set every bank; whether one of them draws power that could be taken away."""
        state, lived = self.state, self._lived
        on, since, asked = state.on.tolist(), state.since.tolist(), np.asarray(action.bank_mw).tolist()
        flexible = False
        for b, bank in enumerate(self.site.banks):
            want = self._within(asked[b], bank.level_mw)
            locked = since[b] < (self._up[b] if on[b] else self._down[b])
            if locked and (want > 0) != (on[b] == 1):
                self.violations["dwell"] += 1
                want = bank.level_mw[0] if on[b] else 0.0
            if (want > 0) == (on[b] == 1):
                since[b] += 1
            else:
                on[b], since[b] = int(want > 0), 1
                lived.starts[at, b] = on[b]
            if on[b]:
                lived.bank_mw[at, b] = want
                lived.earning[at, b] = 1.0 - boot_share(bank.boot_h, since[b] - 1, self._hours)
                flexible = flexible or want > bank.level_mw[0] + TOLERANCE_MW or since[b] > self._up[b]
        state.on[:], state.since[:] = on, since
        return flexible

    def _within(self, mw: float, levels: tuple[float, ...]) -> float:
        """A power the machine can be set to; 0 is off."""
        if mw == 0.0 or levels[0] <= mw <= levels[-1]:
            return mw
        near = min(max(mw, levels[0]), levels[-1]) if mw > 0 else 0.0
        if not abs(near - mw) <= TOLERANCE_MW:
            self.violations["setpoint"] += 1
        return near

    def _jobs(self, at: int, action: Action) -> tuple[int, bool]:
        """Run jobs; how many firm ones were stopped, and whether a flexible one draws power that could be taken."""
        state, lived, jobs = self.state, self._lived, self.timeline.jobs
        free = list(self._nodes)
        before, after = state.running, set()
        flexible = False
        # Running jobs first: one that starts cannot push out one that has its nodes.
        for index in sorted(action.job_mw, key=lambda i: (i not in before, i)) if action.job_mw else ():
            if index not in state.left_h:
                self.violations["job_window"] += 1
                continue
            job = jobs[index]
            mw = self._within(action.job_mw[index], job.level_mw)
            if mw <= 0 and job.level_mw[0] > 0:
                continue
            free[job.partition] -= job.nodes
            if free[job.partition] < 0:
                free[job.partition] += job.nodes
                self.violations["nodes"] += 1
                continue
            after.add(index)
            if index not in before:
                lived.start_usd[at] += job.start_usd
                state.ran_h[index] = 0.0
            flexible = flexible or (not job.firm and (mw > job.level_mw[0] or state.ran_h[index] >= job.min_up_h))
            self._work(at, index, job, mw)
        stopped = 0
        for index in before - after:
            job = jobs[index]
            stopped += job.firm
            self.violations["job_dwell"] += state.ran_h[index] < job.min_up_h - 1e-9
            del state.ran_h[index]
        state.running = after
        for index in [i for i in after if state.left_h[i] <= 1e-9]:
            self._close_job(index)
        return stopped, flexible

    def _work(self, at: int, index: int, job: Job, mw: float) -> None:
        """One interval of a running job."""
        done = min(_rate(job, mw) * self._hours, self.state.left_h[index])
        self.state.left_h[index] -= done
        self.state.ran_h[index] += self._hours
        self._lived.job_mw[at, job.partition] += mw
        self._lived.job_usd[at] += done * job.usd_per_h

    def _firm(self, at: int, action: Action) -> bool:
        """Serve firm load; whether some of it is shed."""
        if action.firm_mw is None:
            return False
        if len(action.firm_mw) != len(self.site.firm_loads):
            raise ValueError(f"an action for {len(action.firm_mw)} firm loads of {len(self.site.firm_loads)}")
        shed = False
        for f, firm in enumerate(self.site.firm_loads):
            served = float(action.firm_mw[f])
            if not -TOLERANCE_MW <= served <= firm.mw + TOLERANCE_MW:
                self.violations["setpoint"] += 1
            served = min(max(served, 0.0), firm.mw) if served == served else firm.mw
            self._lived.firm_mw[at, f] = served
            shed = shed or served < firm.mw - TOLERANCE_MW
        return shed

    def _admit(self) -> None:
        """Open the jobs that may run in the interval about to begin."""
        if self.done:
            return
        step, jobs = self.timeline.interval_ms, self.timeline.jobs
        now = self.timeline.start_ms + self.index * step
        begin = self.timeline.start_ms + self.timeline.history * step
        while self._next_job < len(jobs) and jobs[self._next_job].submit_ms <= now:
            index = self._next_job
            self._next_job += 1
            job = jobs[index]
            if in_window(job, now, step):
                self.state.open_jobs.append(index)
                self.state.left_h[index] = job.work_h
                heapq.heappush(self._ending, (job.deadline_ms, index))
            elif job.deadline_ms > begin:
                self._miss(self.index - self.timeline.history, job, job.work_h)

    def _expire(self, at: int) -> None:
        """Close the jobs whose last whole interval is over."""
        next_end = self.timeline.start_ms + (self.index + 1) * self.timeline.interval_ms
        while self._ending and self._ending[0][0] < next_end:
            index = heapq.heappop(self._ending)[1]
            if index in self.state.left_h:
                self._miss(at, self.timeline.jobs[index], self.state.left_h[index])
                self._close_job(index)

    def _miss(self, at: int, job: Job, left_h: float) -> None:
        if left_h > 1e-6:
            self._lived.missed += 1
            self._lived.miss_usd[at] += job.miss_usd * left_h / job.work_h

    def _close_job(self, index: int) -> None:
        state = self.state
        state.open_jobs.remove(index)
        state.running.discard(index)
        del state.left_h[index]
        state.ran_h.pop(index, None)


def _rate(job: Job, mw: float) -> float:
    """`physics.rate_at` without an array: this runs half a million times a year."""
    levels, rates = job.level_mw, job.level_rate
    k = bisect_right(levels, mw)
    if k == 0:
        return rates[0]
    if k == len(levels):
        return rates[-1]
    span = levels[k] - levels[k - 1]
    return rates[k - 1] + (rates[k] - rates[k - 1]) * (mw - levels[k - 1]) / span
