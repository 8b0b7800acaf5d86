"""The demo's sites: hybrid, two makes of cooling, more nameplate than their feeders carry.

Sizes follow from the number of miners, so that a laptop can run what a hall of ten thousand would do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from sim.jobs import JobMix, JobSpec, job_stream
from sim.partition import PartitionPlan
from sim.plant import (
    M50S,
    S19_XP,
    S19J_PRO,
    S21,
    S21_HYDRO,
    Ambient,
    BankPlan,
    FeederPlan,
    HallPlan,
    Rules,
    SitePlan,
    air_hall,
    hydro_hall,
)
from sim.ports import AsicModel
from sim.site import SiteKit

NAMES: Final = ("brazos", "pecos", "trinity", "sabine", "nueces", "llano", "concho", "frio")
NODE_BUSY_W: Final = 6_500.0
"""A node of eight GPUs at work."""
NODE_IDLE_W: Final = 1_900.0
HPC_SHARE: Final = 0.35
"""HPC power as a share of the hash banks'."""
CAP_SHARE: Final = 0.9
"""The main breaker carries less than all nameplates together: hashing and HPC compete for it."""
JOBS: Final = JobMix(
    load=1.1,
    firm_share=0.25,
    value_usd_per_node_h=(1.5, 9.0),
    firm_value_usd_per_node_h=(14.0, 24.0),
    max_run_s=3 * 3_600.0,
    notice_ms=0,
)
"""Worth per node-hour from scavenging batch work to contracted GPUs at two to three USD an hour each."""


@dataclass(frozen=True, slots=True)
class _BankKind:
    name: str
    model: AsicModel
    firmware: str
    share: float
    hydro: bool = False


_LAYOUTS: Final = (
    (
        _BankKind("hall-a", S19J_PRO, "luxos", 0.45),
        _BankKind("hall-b", M50S, "whatsminer", 0.30),
        _BankKind("hydro", S21_HYDRO, "braiins", 0.25, hydro=True),
    ),
    (
        _BankKind("hall-a", S19J_PRO, "luxos", 0.40),
        _BankKind("hall-b", S19_XP, "antminer", 0.25),
        _BankKind("hall-c", S21, "luxos", 0.35),
    ),
)


@dataclass(frozen=True, slots=True)
class DemoSite:
    """One site of the demo."""

    kit: SiteKit
    jobs: Callable[[int], Iterator[JobSpec]]
    """The HPC queue's arrivals from a wall time on; the same ones at every call."""
    partition: str


def demo_sites(
    count: int, miners: int, ambient: Callable[[int], Ambient], *, seed: int, report_every_ms: int, deadline_s: float
) -> list[DemoSite]:
    """`count` sites of `miners` ASICs each."""
    return [
        _site(NAMES[index], _LAYOUTS[index % len(_LAYOUTS)], miners, ambient, seed + index, report_every_ms, deadline_s)
        for index in range(count)
    ]


def _site(
    name: str,
    layout: tuple[_BankKind, ...],
    miners: int,
    ambient: Callable[[int], Ambient],
    seed: int,
    report_every_ms: int,
    deadline_s: float,
) -> DemoSite:
    banks = _banks(layout, miners)
    hash_w = float(sum(bank.model.rated_w * bank.devices for bank in banks))
    nodes = max(4, round(HPC_SHARE * hash_w / NODE_BUSY_W))
    partition = PartitionPlan("gpu", "hpc", "dc", nodes, NODE_IDLE_W, NODE_BUSY_W, frozen_w=NODE_IDLE_W * 1.1)
    base_w = 0.01 * hash_w
    feeders = [FeederPlan("main", None, CAP_SHARE * (1.06 * (hash_w + partition.rated_w) + base_w))]
    feeders += [
        FeederPlan(f"row-{bank.id}", "main", 1.1 * bank.model.rated_w * bank.devices, loss_share=0.004)
        for bank in banks
    ]
    feeders.append(FeederPlan("hpc", "main", 1.1 * partition.rated_w, loss_share=0.004))
    feeders.append(FeederPlan("cooling", "main", 0.1 * (hash_w + partition.rated_w), loss_share=0.004))
    plan = SitePlan(
        id=name,
        feeders=tuple(feeders),
        halls=tuple(_halls(layout, banks, partition)),
        banks=tuple(banks),
        partitions=(partition,),
        base_load_w=base_w,
        ambient=ambient,
    )
    kit = SiteKit(
        plan=plan,
        firmware={kind.name: kind.firmware for kind in layout},
        rules=Rules(
            min_up_ms=300_000,
            min_down_ms=300_000,
            report_every_ms=report_every_ms,
        ),
        timing={
            "poll_every_ms": 2 * report_every_ms,
            "meter_every_ms": report_every_ms // 2,
            "meter_stale_ms": 4 * report_every_ms,
            "guard_every_ms": min(10_000, report_every_ms),
            "settle_ms": 6 * report_every_ms,
            "drift_after_ms": 8 * report_every_ms,
            "reassert_ms": 2 * report_every_ms,
        },
        fail_safe={"handover_ms": max(60_000, 40 * report_every_ms)},
        deadline_s=deadline_s,
    )
    return DemoSite(kit, lambda start_ms: job_stream(Random(seed), nodes, start_ms, JOBS), partition.id)


def _banks(layout: tuple[_BankKind, ...], miners: int) -> list[BankPlan]:
    counts = [max(1, math.floor(miners * kind.share)) for kind in layout]
    counts[0] += max(0, miners - sum(counts))
    return [
        BankPlan(kind.name, f"row-{kind.name}", kind.name, kind.model, count, latency_s=(0.002, 0.010))
        for kind, count in zip(layout, counts, strict=True)
    ]


def _halls(layout: tuple[_BankKind, ...], banks: list[BankPlan], partition: PartitionPlan) -> Iterator[HallPlan]:
    for kind, bank in zip(layout, banks, strict=True):
        build = hydro_hall if kind.hydro else air_hall
        yield build(kind.name, "cooling", float(bank.model.rated_w * bank.devices))
    yield air_hall("dc", "cooling", partition.rated_w, setpoint_c=24.0)
