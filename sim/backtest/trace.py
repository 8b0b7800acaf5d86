"""A job trace laid over the window: real submissions, widths and run times at the scale of the site.

The trace comes again every `repeat_days`, anchored to fixed dates, so that a window's jobs do not depend on where the
window begins. A job's window is rounded up to whole intervals at both ends. One that reaches over the begin or end of
a span is cut there, its work in proportion: nothing is carried from history into what is judged, and nothing is due
after the end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from contract.units import MS_PER_HOUR, MS_PER_MINUTE
from sim.backtest.csvfile import SeriesError, instant, number, read_rows
from sim.backtest.model import Job, Site
from sim.backtest.sitefile import SitePlan
from sim.backtest.siteparts import JobClass, JobsPart

ROWS_MAX: Final = 1_000_000
JOBS_MAX: Final = 500_000
_NEEDED: Final = ("job_id", "partition", "qos", "wallclock_req_s", "nodes_req", "submit_time", "run_time_s")
_DAY_MS: Final = 24 * MS_PER_HOUR
_SLOPE_MIN_H: Final = 1.0 / 60.0
"""No job is shorter: what ran for seconds still has to start."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a trace."""

    job_id: str
    partition: str
    qos: str
    submit_ms: int
    """The trace's clock taken as UTC."""
    nodes: int
    asked_h: float
    ran_h: float


def load_trace(path: Path) -> tuple[Row, ...]:
    """Read a job trace, in the order of submission. Rows that never ran are left out. Raises `SeriesError`."""
    rows = []
    for line, row in read_rows(path, _NEEDED, None, ROWS_MAX):
        nodes = number(path, line, "nodes_req", row["nodes_req"], 1, 1e6)
        asked = number(path, line, "wallclock_req_s", row["wallclock_req_s"], 1, 3.2e7)
        ran = number(path, line, "run_time_s", row["run_time_s"], 0, 3.2e7)
        submit = instant(path, line, "submit_time", row["submit_time"])
        if ran > 0:
            rows.append(
                Row(row["job_id"], row["partition"], row["qos"], submit, int(nodes), asked / 3_600.0, ran / 3_600.0)
            )
    return tuple(sorted(rows, key=lambda row: (row.submit_ms, row.job_id, row.nodes)))


def lay_out(
    rows: Sequence[Row], plan: SitePlan, source: str, span: tuple[int, int], step_ms: int, said: list[str]
) -> tuple[Job, ...]:
    """The jobs of a span [begin, end), by submit time. `said` gets what was left out, and the load."""
    if plan.jobs is None or not rows:
        said.append(f"{plan.site.id}: {source} holds no job")
        return ()
    patterns = _patterns(rows, plan, plan.jobs, source, said)
    begin, end = span
    period = round((plan.jobs.repeat_days or 0) * _DAY_MS)
    jobs: list[Job] = []
    for name, pattern in patterns:
        for number_, shift in _shifts(pattern.submit_ms, pattern.deadline_ms, period, begin, end):
            job = _cut(replace(pattern, id=f"{name}.{number_}"), shift, begin, end, step_ms)
            if job is not None:
                jobs.append(job)
        if len(jobs) > JOBS_MAX:
            raise SeriesError(
                f"{source}: becomes more than {JOBS_MAX} jobs in the window",
                f"raise jobs.repeat_days, jobs.keep_every or bundle_nodes in the file of site {plan.site.id}",
            )
    said += _summary(plan.site, jobs, (end - begin) / MS_PER_HOUR)
    return tuple(sorted(jobs, key=lambda job: (job.submit_ms, job.id)))


def _patterns(
    rows: Sequence[Row], plan: SitePlan, part: JobsPart, source: str, said: list[str]
) -> list[tuple[str, Job]]:
    """Each job of one round of the trace, at the trace's own time."""
    partitions = {partition.id: at for at, partition in enumerate(plan.site.partitions)}
    by_class: dict[str, list[Row]] = {kind.name: [] for kind in part.classes}
    unclaimed = 0
    for row in rows:
        kind = next((kind for kind in part.classes if _fits(kind, row)), None)
        if kind is None:
            unclaimed += 1
        else:
            by_class[kind.name].append(row)
    out: list[tuple[str, Job]] = []
    too_wide = Counter[str]()
    for kind in part.classes:
        at = partitions[kind.to]
        nodes = plan.site.partitions[at].nodes
        node_mw = plan.node_full_mw[at] - plan.site.partitions[at].node_idle_mw
        kept = by_class[kind.name][:: part.keep_every]
        for serial, row in enumerate(_bundled(kept, kind, part.bundle_h, nodes)):
            if row.nodes * kind.nodes_times > nodes:
                too_wide[kind.to] += 1
                continue
            out.append((f"{kind.name}-{serial}-{row.job_id}", _job(kind, row, at, node_mw)))
    if unclaimed:
        said.append(f"{plan.site.id}: {unclaimed} of {len(rows)} rows of {source} belong to no jobs.class, left out")
    said += [
        f"{plan.site.id}: {n} jobs of {source} are wider than partition {to}, left out" for to, n in too_wide.items()
    ]
    return out


def _fits(kind: JobClass, row: Row) -> bool:
    return (not kind.partitions or row.partition in kind.partitions) and (not kind.qos or row.qos in kind.qos)


def _bundled(rows: Sequence[Row], kind: JobClass, bundle_h: float, partition_nodes: int) -> list[Row]:
    """Small jobs that come within `bundle_h` as one array, submitted when the last of them is."""
    out: list[Row] = []
    groups: dict[int, list[Row]] = {}
    span = round(bundle_h * MS_PER_HOUR)
    for row in rows:
        if row.nodes <= kind.bundle_nodes and row.nodes * kind.nodes_times <= partition_nodes:
            groups.setdefault(row.submit_ms // span, []).append(row)
        else:
            out.append(row)
    for group in groups.values():
        widest = max(row.nodes for row in group)
        width = max(widest, min(sum(row.nodes for row in group), kind.bundle_width))
        width = max(widest, min(width, partition_nodes // kind.nodes_times))
        asked = max(max(row.asked_h for row in group), sum(row.nodes * row.asked_h for row in group) / width)
        ran = sum(row.nodes * row.ran_h for row in group) / width
        last = group[-1]
        out.append(replace(last, nodes=width, asked_h=max(asked, ran), ran_h=ran))
    return sorted(out, key=lambda row: (row.submit_ms, row.job_id, row.nodes))


def _job(kind: JobClass, row: Row, partition: int, node_mw: float) -> Job:
    nodes = row.nodes * kind.nodes_times
    work_h = max(row.ran_h, _SLOPE_MIN_H)
    return Job(
        id="",
        partition=partition,
        submit_ms=row.submit_ms,
        deadline_ms=row.submit_ms + round(max(row.asked_h, work_h) * kind.slack * MS_PER_HOUR),
        nodes=nodes,
        work_h=work_h,
        level_mw=tuple(nodes * node_mw * share for share in kind.power),
        level_rate=tuple(kind.rate),
        usd_per_h=nodes * kind.usd_per_node_h,
        miss_usd=nodes * kind.miss_usd_per_node_h * work_h,
        start_usd=nodes * kind.usd_per_node_h * min(kind.checkpoint_min / 2 / 60.0, work_h),
        min_up_h=kind.min_up_min * MS_PER_MINUTE / MS_PER_HOUR,
        firm=kind.firm,
    )


def _shifts(submit: int, deadline: int, period: int, begin: int, end: int) -> list[tuple[int, int]]:
    """(round, ms to add) of every coming whose window touches [begin, end); the trace's own dates are round 0."""
    if period <= 0:
        return [(0, 0)] if submit < end and deadline > begin else []
    first = math.floor((begin - deadline) / period) + 1
    last = math.ceil((end - submit) / period)
    return [(n, n * period) for n in range(first, last)]


def _cut(job: Job, shift: int, begin: int, end: int, step: int) -> Job | None:
    """The job at its time, within the span, on the grid; None where less than an interval of it is left."""
    submit = begin + -(-(job.submit_ms + shift - begin) // step) * step
    deadline = begin + -(-(job.deadline_ms + shift - begin) // step) * step
    whole = deadline - submit
    submit, deadline = max(submit, begin), min(deadline, end)
    if deadline - submit < step:
        return None
    share = (deadline - submit) / whole
    return replace(
        job, submit_ms=submit, deadline_ms=deadline, work_h=job.work_h * share, miss_usd=job.miss_usd * share
    )


def _summary(site: Site, jobs: Sequence[Job], hours: float) -> list[str]:
    """One line per partition: jobs, load, and how many cannot be done in time whatever is done."""
    out = []
    for at, partition in enumerate(site.partitions):
        own = [job for job in jobs if job.partition == at]
        load = sum(job.nodes * job.work_h for job in own) / (partition.nodes * hours)
        text = f"{site.id}: partition {partition.id}: {len(own)} jobs load it to {load:.0%}"
        late = sum(job.work_h * MS_PER_HOUR > job.deadline_ms - job.submit_ms + 1 for job in own)
        out.append(text + (f", {late} cannot meet their deadline" if late else ""))
    return out
