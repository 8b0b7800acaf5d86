"""The perfect-foresight bound: what no policy can exceed on this plant, and a plan of the plant's own near it.

The bound is the relaxed span's (see `relaxed`): every limit is priced, every unit answers the prices exactly. It is a
bound for whoever keeps the plant's rules and limits. Where the model leaves something out, it does so in the policy's
favour: a job may be stopped, firm or not, and pays for one start in proportion to the work it gets done; nodes are
shared without gaps; a main meter under an obligation may exceed the cap as well, at the obligation's price. All else is
booked as the plant books it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from contract.units import MS_PER_HOUR
from controller.forecast.known import Known, Outlook
from sim.backtest.model import F8, Job, Site, Timeline, Trace
from sim.backtest.physics import (
    HOURS_PER_DAY,
    at_ambient,
    feeder_paths,
    firm_usd_per_mwh,
    obligation_targets,
    peak_usd_per_mw,
    steps_of,
)
from sim.backtest.plant import Plant
from sim.backtest.relaxed import I4, MOST_USD, Prices, Year, answer, descend, first_prices
from sim.backtest.seen import Eyes
from sim.backtest.wattshift import Params, WattshiftPolicy

ITERATIONS = 400
"""Of the descent; four times as many lower the bound of August 2023 by 0.02 %."""


class Foresight(NamedTuple):
    """The bound, by how much of it the plan stays below, and the plan."""

    bound_usd: float
    gap: float
    trace: Trace | None


def foresee(site: Site, timeline: Timeline, iterations: int = ITERATIONS) -> Foresight:
    """Bound and plan of the judged intervals. The plan is the policy's own with every price and ambient known."""
    bound = bound_usd(site, timeline, iterations)
    policy = WattshiftPolicy(Params(), Oracle(site, timeline))
    policy.prepare(site, timeline, 0)
    plant, eyes = Plant(site, timeline), Eyes(timeline, 0)
    while not plant.done:
        plant.step(policy.act(eyes.see(plant.index, plant.state, plant.cap_mw)))
    books, trace = plant.close("bound")
    return Foresight(bound, (bound - books.profit_usd) / max(abs(bound), 1.0), trace)


def bound_usd(site: Site, timeline: Timeline, iterations: int = ITERATIONS) -> float:
    """What no policy that keeps the limits can exceed. Valid after any number of iterations, 0 included."""
    y = year_of(site, timeline)
    return priced(y, iterations)[1] + constant_usd(site, timeline, y)


def priced(y: Year, iterations: int) -> tuple[Prices, float]:
    """The prices that bound the judged intervals best after so many steps of the descent, and that bound: USD, less
    what `constant_usd` says."""
    p = no_prices(y)
    first_prices(y, p, _usual(y))
    if iterations > 0:
        descend(y, p, iterations)
    return p, answer(y, p)


class Oracle:
    """A `Forecast` that knows: real-time price, ambient and the coincident peaks to come."""

    name = "oracle"

    def __init__(self, site: Site, timeline: Timeline) -> None:
        energy = site.energy
        self._timeline = timeline
        charge = energy.peak_charge_usd_per_mw_year / max(len(energy.peak_months), 1)
        cost = peak_usd_per_mw(site, timeline)
        self._peak = cost / charge if charge > 0 else cost

    def fit(self, past: Known) -> None:
        """There is nothing to learn."""

    def outlook(self, known: Known, step_ms: int, steps: int) -> Outlook:
        """The truth; past its end the last value stays. Steps must be the time line's intervals."""
        t = self._timeline
        at = np.minimum((known.at_ms - t.start_ms) // step_ms + np.arange(steps), len(t.price) - 1)
        ambient = None if t.ambient_c is None else t.ambient_c[at]
        return Outlook(known.at_ms, step_ms, t.price[at], np.zeros(steps), self._peak[at], ambient)


def year_of(site: Site, timeline: Timeline) -> Year:
    """The judged intervals as arrays."""
    judged = slice(timeline.history, None)
    price = timeline.price[judged]
    count, h = len(price), timeline.interval_ms / MS_PER_HOUR
    ambient = None if timeline.ambient_c is None else timeline.ambient_c[judged]
    share = np.array([at_ambient(hall.pue_points, ambient) * np.ones(count) for hall in site.halls])
    share = share.reshape(len(site.halls), count)
    cap, most = _caps(site, timeline, share, ambient)
    paths, halls_at = feeder_paths(site), 1 + len(site.feeders)
    units = [*((b.feeder, b.hall) for b in site.banks), *((f.feeder, f.hall) for f in site.firm_loads)]
    places = list(dict.fromkeys([*units, *((p.feeder, p.hall) for p in site.partitions)]))
    rows = [[*(1 + f for f in paths[feeder]), halls_at + hall] for feeder, hall in places]
    group = {place: g for g, place in enumerate(places)}
    part_group = [group[p.feeder, p.hall] for p in site.partitions]
    jobs, usd = open_jobs(timeline)
    scale = node_mw(site, timeline)
    banks, firm, energy = site.banks, site.firm_loads, site.energy
    nodes_at = halls_at + len(site.halls)
    return Year(
        hours=h,
        price=price + energy.adder_usd_per_mwh + peak_usd_per_mw(site, timeline)[judged] / h,
        share=share,
        coin=timeline.hashprice[judged] / HOURS_PER_DAY,
        cap=cap,
        most=most,
        group_hall=_i4([hall for _, hall in places]),
        path_from=_i4(np.cumsum([0, *(len(r) for r in rows)]).tolist()),
        path=_i4([x for r in rows for x in r]),
        bank_group=_i4([group[b.feeder, b.hall] for b in banks]),
        bank_mw=_f8([x for b in banks for x in b.level_mw]).reshape(-1, 4),
        bank_phs=_f8([x for b in banks for x in b.level_phs]).reshape(-1, 4),
        bank_idle=_f8([b.idle_mw for b in banks]),
        bank_start=_f8([b.start_usd for b in banks]),
        bank_boot=_f8([b.boot_h for b in banks]),
        bank_up=_i4([max(steps_of(b.min_up_h, h), 1) for b in banks]),
        bank_down=_i4([max(steps_of(b.min_down_h, h), 1) for b in banks]),
        firm_group=_i4([group[f.feeder, f.hall] for f in firm]),
        firm_mw=_f8([f.mw for f in firm]),
        firm_usd=_f8([firm_usd_per_mwh(f) for f in firm]),
        job_group=_i4([part_group[j.partition] for j, _, _ in jobs]),
        job_row=_i4([nodes_at + j.partition for j, _, _ in jobs]),
        job_nodes=_f8([j.nodes * scale[j.partition] for j, _, _ in jobs]),
        job_first=_i4([first for _, first, _ in jobs]),
        job_last=_i4([last for _, _, last in jobs]),
        job_mw=_f8([x for j, _, _ in jobs for x in j.level_mw]).reshape(-1, 4),
        job_rate=_f8([min(r, j.work_h / h) for j, _, _ in jobs for r in j.level_rate]).reshape(-1, 4),
        job_usd=_f8(usd),
        job_work=_f8([j.work_h for j, _, _ in jobs]),
    )


def no_prices(y: Year) -> Prices:
    """Where a descent begins: nothing is priced."""
    rows, groups, jobs = y.cap.shape, (len(y.group_hall), len(y.price)), len(y.job_group)
    return Prices(
        np.zeros(rows), np.zeros(jobs), np.zeros(groups), np.zeros(rows), np.zeros(rows), np.zeros(jobs), np.zeros(jobs)
    )


def node_mw(site: Site, timeline: Timeline) -> F8:
    """(P,) MW of a node at work, so that prices of nodes and of power come down alike."""
    mw, nodes = np.zeros(len(site.partitions)), np.zeros(len(site.partitions))
    for job in timeline.jobs:
        mw[job.partition] += job.level_mw[-1]
        nodes[job.partition] += job.nodes
    return np.where(mw > 0, mw / np.maximum(nodes, 1.0), 1.0)


def _caps(site: Site, timeline: Timeline, share: F8, ambient: F8 | None) -> tuple[F8, F8]:
    """`Year.cap` and `Year.most`."""
    count, h = len(timeline.price) - timeline.history, timeline.interval_ms / MS_PER_HOUR
    feeders, halls = len(site.feeders), len(site.halls)
    target, due_h = (array[timeline.history :] for array in obligation_targets(timeline))
    cap = np.empty((1 + feeders + halls + len(site.partitions), count))
    cap[0] = np.minimum(site.cap_mw, target) - site.base_load_mw
    cap[1 : 1 + feeders] = np.array([f.limit_mw for f in site.feeders])[:, None]
    for at, hall in enumerate(site.halls):
        cap[1 + feeders + at] = at_ambient(hall.limit_points, ambient)
    paths, scale = feeder_paths(site), node_mw(site, timeline)
    for at, part in enumerate(site.partitions):
        idle = part.nodes * part.node_idle_mw
        cap[0] -= idle * share[part.hall]
        cap[1 + feeders + part.hall] -= idle
        for feeder in paths[part.feeder]:
            cap[1 + feeder] -= idle
        cap[1 + feeders + halls + at] = part.nodes * scale[at]
    most = np.where(target < site.cap_mw, site.obligation_usd_per_mwh * due_h / h, MOST_USD)
    return cap, most


def open_jobs(timeline: Timeline) -> tuple[list[tuple[Job, int, int]], list[float]]:
    """Jobs with their windows in judged intervals, and what an hour of each one's work is worth.

    A start is paid at least once where any work is done, so at least in proportion to the work; that part of it is
    taken out of the work's worth, and no other start is charged.
    """
    step, count = timeline.interval_ms, len(timeline.price) - timeline.history
    start = timeline.start_ms + timeline.history * step
    jobs, usd = [], []
    for job in timeline.jobs:
        first = max(-(-(job.submit_ms - start) // step), 0)
        last = min((job.deadline_ms - start) // step, count)
        if last <= first or job.work_h <= 0:
            continue
        averted = job.miss_usd if _is_charged(job, start, step, count) else 0.0
        jobs.append((job, first, last))
        usd.append(max(job.usd_per_h + (averted - job.start_usd) / job.work_h, 0.0))
    return jobs, usd


def _is_charged(job: Job, start_ms: int, step_ms: int, count: int) -> bool:
    """Whether what is undone of the job is paid for within the judged intervals."""
    admitted = max(-(-(job.submit_ms - start_ms) // step_ms), 0) < count
    return admitted and start_ms < job.deadline_ms < start_ms + (count + 1) * step_ms


def constant_usd(site: Site, timeline: Timeline, y: Year) -> float:
    """What is earned and paid whatever anybody does, every job undone and all firm load given up; USD."""
    step, count = timeline.interval_ms, len(y.price)
    start = timeline.start_ms + timeline.history * step
    fixed = np.full(count, site.base_load_mw)
    for part in site.partitions:
        fixed += part.nodes * part.node_idle_mw * y.share[part.hall]
    energy = site.energy
    usd = -y.hours * float(y.price @ fixed)
    usd += y.hours * energy.block_mw * float((timeline.price[timeline.history :] - energy.block_usd_per_mwh).sum())
    usd -= y.hours * count * sum(f.shed_usd_per_mwh * f.mw for f in site.firm_loads)
    return usd - sum(job.miss_usd for job in timeline.jobs if _is_charged(job, start, step, count))


def _usual(y: Year) -> F8:
    """(G, T) MW of jobs, each one's work spread over its window."""
    mw = np.zeros((len(y.group_hall), len(y.price)))
    for j in range(len(y.job_group)):
        first, last = y.job_first[j], y.job_last[j]
        mw[y.job_group[j], first:last] += y.job_mw[j, -1] * min(1.0, y.job_work[j] / ((last - first) * y.hours))
    return mw


def _f8(values: list[float]) -> F8:
    return np.array(values, dtype=np.float64)


def _i4(values: list[int]) -> I4:
    return np.array(values, dtype=np.int32)
