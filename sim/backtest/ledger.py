"""The books of a window, from what was lived through: arrays in, sums out. Profit is the sum of its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from contract.units import MS_PER_HOUR
from sim.backtest.model import F8, U1, Books, FirmLoad, HashBank, Partition, Site, Timeline, Trace
from sim.backtest.physics import (
    HOURS_PER_DAY,
    TOLERANCE_MW,
    at_ambient,
    feeder_paths,
    obligation_targets,
    peak_usd_per_mw,
)


@dataclass(slots=True)
class Lived:
    """What happened in M intervals to B banks, P partitions and F firm loads."""

    bank_mw: F8
    """(M, B) 0 when off."""
    earning: F8
    """(M, B) the part of the interval that does not boot."""
    starts: U1
    """(M, B)"""
    job_mw: F8
    """(M, P) above the nodes' idle."""
    firm_mw: F8
    """(M, F)"""
    job_usd: F8
    """(M,)"""
    start_usd: F8
    """(M,) of jobs."""
    miss_usd: F8
    """(M,)"""
    flexible: U1
    """(M,) whether something drew power that could have been taken away."""
    missed: int = 0
    why: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, site: Site, count: int) -> Lived:
        """Nothing has happened yet."""
        banks = len(site.banks)
        return cls(
            bank_mw=np.zeros((count, banks)),
            earning=np.zeros((count, banks)),
            starts=np.zeros((count, banks), dtype=np.uint8),
            job_mw=np.zeros((count, len(site.partitions))),
            firm_mw=np.tile(np.array([firm.mw for firm in site.firm_loads]), (count, 1)),
            job_usd=np.zeros(count),
            start_usd=np.zeros(count),
            miss_usd=np.zeros(count),
            flexible=np.zeros(count, dtype=np.uint8),
        )


@dataclass(frozen=True, slots=True)
class Flows:
    """Power by place, from what was lived through."""

    bank_mw: F8
    """(M, B) idle draw included."""
    nodes_mw: F8
    """(M, P) idle draw included."""
    hall_mw: F8
    """(M, H)"""
    feeder_mw: F8
    """(M, F)"""
    pue: F8
    """(M, H)"""
    cooling_mw: F8
    """(M, H) what each hall's cooling allows."""
    meter_mw: F8
    """(M,)"""


def account(
    site: Site,
    timeline: Timeline,
    lived: Lived,
    policy: str,
    asked: Counter[str],
    decision_ms: Sequence[float],
    quota_mw: F8 | None,
) -> tuple[Books, Trace]:
    """Books and trace. `asked` holds the violations seen on the way, `quota_mw` (M,) a fleet's shares of its cap."""
    judged = slice(timeline.history, None)
    hours = timeline.interval_ms / MS_PER_HOUR
    price, energy = timeline.price[judged], site.energy
    flow = flows(site, timeline, lived)
    target, due_h = (array[judged] for array in obligation_targets(timeline))

    hash_usd = _hash_usd(site, lived, timeline.hashprice[judged], hours)
    firm_rate = np.array([firm.usd_per_mwh for firm in site.firm_loads])
    hpc_usd = lived.job_usd + lived.firm_mw @ firm_rate * hours
    over_mw = np.maximum(flow.meter_mw - energy.block_mw, 0.0)
    under_mw = np.maximum(energy.block_mw - flow.meter_mw, 0.0)
    energy_usd = hours * (
        over_mw * price + flow.meter_mw * energy.adder_usd_per_mwh + energy.block_mw * energy.block_usd_per_mwh
    )
    resale_usd = hours * under_mw * price
    penalty_usd = _penalties(site, lived, hours) + lived.miss_usd + lived.start_usd
    excess = np.maximum(flow.meter_mw - target, 0.0)
    penalty_usd += np.where(due_h > 0, excess * due_h * site.obligation_usd_per_mwh, 0.0)
    penalty_usd += flow.meter_mw * peak_usd_per_mw(site, timeline)[judged]
    profit = hash_usd + hpc_usd + resale_usd - energy_usd - penalty_usd

    violations = _limits(site, flow, target, lived.flexible)
    violations.update(asked)
    kinds = {kind: count for kind, count in sorted(violations.items()) if count}
    times = np.asarray(decision_ms) if len(decision_ms) else np.zeros(1)
    books = Books(
        policy=policy,
        profit_usd=float(profit.sum()),
        energy_cost_usd=float(energy_usd.sum()),
        hash_revenue_usd=float(hash_usd.sum()),
        hpc_revenue_usd=float(hpc_usd.sum()),
        resale_usd=float(resale_usd.sum()),
        penalties_usd=float(penalty_usd.sum()),
        curtailed_mwh=float(np.maximum(_possible(site, flow, target, quota_mw) - lived.bank_mw, 0.0).sum() * hours),
        starts_per_bank=float(lived.starts.sum() / max(len(site.banks), 1)),
        jobs_missed=lived.missed,
        invariant_violations=sum(kinds.values()),
        flex_capture=None,
        decision_p50_ms=float(np.percentile(times, 50)),
        decision_p99_ms=float(np.percentile(times, 99)),
        violations=kinds,
    )
    cooled = site.base_load_mw + (flow.pue * flow.cooling_mw).sum(axis=1)
    cap = np.minimum(np.minimum(site.cap_mw, target), cooled)
    if quota_mw is not None:
        cap = np.minimum(cap, quota_mw)
    trace = Trace(
        policy=policy,
        bank_mw=lived.bank_mw,
        hpc_mw=flow.nodes_mw.sum(axis=1) + lived.firm_mw.sum(axis=1),
        meter_mw=flow.meter_mw,
        profit_usd=profit,
        cap_mw=cap,
        why=lived.why,
    )
    return books, trace


def flows(site: Site, timeline: Timeline, lived: Lived) -> Flows:
    """Who draws what, where."""
    count = len(lived.job_usd)
    ambient = None if timeline.ambient_c is None else timeline.ambient_c[timeline.history :]
    shape = np.zeros(count)
    pue = np.stack([at_ambient(hall.pue_points, ambient) + shape for hall in site.halls], axis=1)
    cooling = np.stack([at_ambient(hall.limit_points, ambient) + shape for hall in site.halls], axis=1)
    idle = np.array([bank.idle_mw for bank in site.banks])
    bank_mw = np.where(lived.bank_mw > 0, lived.bank_mw, idle)
    nodes_mw = lived.job_mw + np.array([part.nodes * part.node_idle_mw for part in site.partitions])
    hall_mw, feeder_mw = np.zeros_like(pue), np.zeros((count, len(site.feeders)))
    paths = feeder_paths(site)
    groups: list[tuple[Sequence[HashBank | Partition | FirmLoad], F8]] = [
        (site.banks, bank_mw),
        (site.partitions, nodes_mw),
        (site.firm_loads, lived.firm_mw),
    ]
    for units, power in groups:
        for column, unit in enumerate(units):
            hall_mw[:, unit.hall] += power[:, column]
            for feeder in paths[unit.feeder]:
                feeder_mw[:, feeder] += power[:, column]
    meter = site.base_load_mw + (pue * hall_mw).sum(axis=1)
    return Flows(bank_mw, nodes_mw, hall_mw, feeder_mw, pue, cooling, meter)


def _hash_usd(site: Site, lived: Lived, hashprice: F8, hours: float) -> F8:
    phs = np.zeros(len(hashprice))
    for b, bank in enumerate(site.banks):
        mw = lived.bank_mw[:, b]
        phs += np.where(mw > 0, np.interp(mw, bank.level_mw, bank.level_phs), 0.0) * lived.earning[:, b]
    return phs * hashprice / HOURS_PER_DAY * hours


def _penalties(site: Site, lived: Lived, hours: float) -> F8:
    """Banks' starts and firm load shed."""
    start = lived.starts @ np.array([bank.start_usd for bank in site.banks])
    shed = np.array([firm.mw for firm in site.firm_loads]) - lived.firm_mw
    return np.asarray(start + shed @ np.array([firm.shed_usd_per_mwh for firm in site.firm_loads]) * hours)


def _limits(site: Site, flow: Flows, target: F8, flexible: U1) -> Counter[str]:
    """Intervals in which a limit was exceeded, one for each limit."""
    feeder = np.array([feeder.limit_mw for feeder in site.feeders])
    return Counter(
        feeder=_over(flow.feeder_mw, feeder),
        cooling=_over(flow.hall_mw, flow.cooling_mw),
        cap=_over(flow.meter_mw, np.array(site.cap_mw)),
        obligation=int(((flow.meter_mw > target + TOLERANCE_MW) & (flexible == 1)).sum()),
    )


def _over(power: F8, limit: F8) -> int:
    return int((power > limit + TOLERANCE_MW).sum())


def _possible(site: Site, flow: Flows, target: F8, quota_mw: F8 | None) -> F8:
    """(M, B) what banks could have drawn beside the rest, filled one after the other, the most efficient first."""
    cap = np.minimum(site.cap_mw if quota_mw is None else np.minimum(site.cap_mw, quota_mw), target)
    own = np.zeros_like(flow.hall_mw)
    room_feeder = np.array([feeder.limit_mw for feeder in site.feeders]) - flow.feeder_mw
    paths = feeder_paths(site)
    for b, bank in enumerate(site.banks):
        own[:, bank.hall] += flow.bank_mw[:, b]
        for feeder in paths[bank.feeder]:
            room_feeder[:, feeder] += flow.bank_mw[:, b]
    room_hall = flow.cooling_mw - flow.hall_mw + own
    room_cap = cap - flow.meter_mw + (flow.pue * own).sum(axis=1)
    out = np.zeros_like(flow.bank_mw)
    for b in sorted(range(len(site.banks)), key=lambda b: -site.banks[b].level_phs[-1] / site.banks[b].level_mw[-1]):
        bank = site.banks[b]
        room = np.minimum(room_hall[:, bank.hall], room_cap / flow.pue[:, bank.hall])
        for feeder in paths[bank.feeder]:
            room = np.minimum(room, room_feeder[:, feeder])
        mw = np.where(room >= bank.level_mw[0], np.minimum(room, bank.level_mw[-1]), 0.0)
        out[:, b] = mw
        room_hall[:, bank.hall] -= mw
        room_cap = room_cap - mw * flow.pue[:, bank.hall]
        for feeder in paths[bank.feeder]:
            room_feeder[:, feeder] -= mw
    return out


def share_over_always_on(profit: float, always_on: float, bound: float) -> float | None:
    """Flex capture; None where there is nothing to capture."""
    return (profit - always_on) / (bound - always_on) if bound - always_on > 1e-6 * max(abs(bound), 1.0) else None
