"""Where a policy stays below the bound, to the dollar.

At the bound's prices every limit has a worth and every unit a best answer, so what a policy earns less is the sum of
what it forgoes: priced room that it leaves unused, hours and levels of jobs other than the best ones, work left undone,
starts of jobs beyond the one that the bound charges. What remains is the banks' and the firm loads'. USD.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.engine.optimiser.layout import LEVELS
from sim.backtest.bound import constant_usd, open_jobs, priced, year_of
from sim.backtest.model import F8, Policy, Site, Timeline
from sim.backtest.physics import rate_at
from sim.backtest.plant import Plant
from sim.backtest.relaxed import Prices, Year
from sim.backtest.seen import Eyes


class Gap(NamedTuple):
    """The bound less the profit, and what it is made of."""

    profit_usd: float
    bound_usd: float
    power_usd: float
    """Priced power that nobody drew: of the main meter, the feeders and the halls' cooling."""
    nodes_usd: float
    """Priced nodes that stood empty."""
    hours_usd: float
    """Jobs at other hours or levels than the best at these prices."""
    undone_usd: float
    """Work not done in time."""
    restarts_usd: float
    """Starts of jobs beyond one in proportion to the work done."""

    @property
    def rest_usd(self) -> float:
        """The banks' and the firm loads' part."""
        return self.bound_usd - self.profit_usd - sum(self[2:])


def gap_of(site: Site, timeline: Timeline, policy: Policy, lag: int, iterations: int) -> Gap:
    """Run the policy and weigh what it did at the bound's prices after `iterations` of the descent."""
    y = year_of(site, timeline)
    p, value_usd = priced(y, iterations)
    jobs, _ = open_jobs(timeline)
    place = {id(job): k for k, (job, _, _) in enumerate(jobs)}
    start = np.array([job.start_usd for job, _, _ in jobs])
    work = _Work(y, p)
    policy.prepare(site, timeline, lag)
    plant, eyes = Plant(site, timeline), Eyes(timeline, lag)
    for t in range(len(y.price)):
        action = policy.act(eyes.see(plant.index, plant.state, plant.cap_mw))
        before, left = set(plant.state.running), dict(plant.state.left_h)
        plant.step(action)
        for b, mw in enumerate(action.bank_mw):
            work.asked[y.bank_group[b], t] += mw if mw > 0 else y.bank_idle[b]
        for f, mw in enumerate(y.firm_mw):
            work.asked[y.firm_group[f], t] += mw if action.firm_mw is None else action.firm_mw[f]
        for index, mw in action.job_mw.items():
            job = timeline.jobs[index]
            if mw > 0 and id(job) in place:
                done = min(rate_at(job, mw) * y.hours, left[index])
                work.run(place[id(job)], t, mw, done, index not in before)
    profit = plant.close(policy.name)[0].profit_usd
    room = (y.hours * p.row * (y.cap - work.use())).sum(axis=1)
    nodes = len(y.cap) - len(site.partitions)
    return Gap(
        profit,
        value_usd + constant_usd(site, timeline, y),
        float(room[:nodes].sum()),
        float(room[nodes:].sum()),
        float((_best(y, p) - work.worth).sum()),
        float((p.work * (y.job_work - work.done)).sum()),
        float((start * (work.starts - work.done / y.job_work)).sum()),
    )


class _Work:
    """What was drawn and done, and what the jobs' part was worth at the prices."""

    def __init__(self, y: Year, p: Prices) -> None:
        jobs = len(y.job_group)
        self.asked = np.zeros(p.toll.shape)
        self.done, self.worth, self.starts = np.zeros(jobs), np.zeros(jobs), np.zeros(jobs)
        self._y, self._p, self._nodes = y, p, np.zeros(p.row.shape)

    def run(self, job: int, t: int, mw: float, done: float, started: bool) -> None:
        """One interval of a job."""
        y, p, row = self._y, self._p, self._y.job_row[job]
        paid = mw * p.toll[y.job_group[job], t] + y.job_nodes[job] * p.row[row, t]
        self.asked[y.job_group[job], t] += mw
        self._nodes[row, t] += y.job_nodes[job]
        self.done[job] += done
        self.starts[job] += started
        self.worth[job] += done * (y.job_usd[job] - p.work[job]) - y.hours * paid

    def use(self) -> F8:
        """(R, T) what was asked of each row."""
        y, use = self._y, self._nodes.copy()
        for g, asked in enumerate(self.asked):
            use[0] += y.share[y.group_hall[g]] * asked
            use[y.path[y.path_from[g] : y.path_from[g + 1]]] += asked
        return use


def _best(y: Year, p: Prices) -> F8:
    """(J,) what each job's best answer to the prices is worth, its work unlimited but priced."""
    best = np.zeros(len(y.job_group))
    for j in range(len(best)):
        at = slice(y.job_first[j], y.job_last[j])
        toll = p.toll[y.job_group[j], at]
        net = np.full(len(toll), -np.inf)
        for k in range(LEVELS):
            net = np.maximum(net, (y.job_usd[j] - p.work[j]) * y.job_rate[j, k] - toll * y.job_mw[j, k])
        best[j] = y.hours * np.maximum(net - y.job_nodes[j] * p.row[y.job_row[j], at], 0.0).sum()
    return best
