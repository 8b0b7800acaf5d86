"""The sites of a simulated world: small, hybrid, short of room on their feeders."""

from __future__ import annotations

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
    Rules,
    SitePlan,
    air_hall,
    hydro_hall,
)
from sim.ports import AsicModel
from sim.site import SiteKit

PARTITION: Final = "gpu"
NODE_IDLE_W: Final = 900.0
NODE_BUSY_W: Final = 3_200.0
INLET_MARGIN_C: Final = (10.5, 13.0)
"""The agent's limit above the temperature that a hall's fans hold: a Houston afternoon stays below, a heat wave or
failed fans do not."""


@dataclass(frozen=True, slots=True)
class _Make:
    name: str
    model: AsicModel
    firmware: str
    hydro: bool = False


_MAKES: Final = (
    _Make("hall-a", S19J_PRO, "luxos"),
    _Make("hall-b", M50S, "whatsminer"),
    _Make("hall-c", S19_XP, "antminer"),
    _Make("hall-d", S21, "luxos"),
    _Make("hydro", S21_HYDRO, "braiins", hydro=True),
)


@dataclass(frozen=True, slots=True)
class SceneSite:
    """One site: what stands there, and the jobs its users will submit."""

    kit: SiteKit
    jobs: Callable[[int], Iterator[JobSpec]]
    """Arrivals from a wall time on; the same ones at every call."""
    cool_ms: int = 60_000
    """How long the agent keeps a tripped bank down."""


def draw_site(name: str, rng: Random, ambient: Callable[[int], Ambient]) -> SceneSite:
    """A site of two or three banks, 6 to 15 miners, and a partition of 3 to 6 nodes."""
    makes = rng.sample(_MAKES, rng.choice((2, 3)))
    banks = tuple(
        BankPlan(make.name, f"row-{make.name}", make.name, make.model, rng.randint(3, 5), latency_s=(0.005, 0.03))
        for make in makes
    )
    hash_w = float(sum(bank.model.rated_w * bank.devices for bank in banks))
    nodes = rng.randint(3, 6)
    part = PartitionPlan(PARTITION, "hpc", "dc", nodes, NODE_IDLE_W, NODE_BUSY_W, frozen_w=NODE_IDLE_W * 1.1)
    base_w = 500.0
    share = rng.choice((0.7, 0.85, 1.05))
    feeders = [FeederPlan("main", None, share * (1.08 * (hash_w + part.rated_w) + base_w))]
    feeders += [
        FeederPlan(f"row-{bank.id}", "main", 1.12 * bank.model.rated_w * bank.devices, loss_share=0.004)
        for bank in banks
    ]
    feeders.append(FeederPlan("hpc", "main", 1.12 * part.rated_w, loss_share=0.004))
    feeders.append(FeederPlan("cooling", "main", 0.1 * (hash_w + part.rated_w) + 1_000.0, loss_share=0.004))
    halls = [
        (hydro_hall if make.hydro else air_hall)(make.name, "cooling", float(bank.model.rated_w * bank.devices))
        for make, bank in zip(makes, banks, strict=True)
    ]
    halls.append(air_hall("dc", "cooling", part.rated_w, setpoint_c=24.0))
    plan = SitePlan(name, tuple(feeders), tuple(halls), banks, (part,), base_load_w=base_w, ambient=ambient)
    fail_safe_w = {bank.id: bank.model.rated_w * rng.choice((0, 0, 1)) for bank in banks}
    floors_w = {bank.id: bank.model.sleep_w * bank.devices for bank in banks}
    kit = SiteKit(
        plan=plan,
        firmware={make.name: make.firmware for make in makes},
        rules=Rules(
            min_up_ms=rng.choice((0, 120_000, 300_000)),
            min_down_ms=rng.choice((0, 60_000, 120_000)),
            ramp_up_w_per_s=rng.choice((0, 0, 500)),
            fail_safe_w={bank: max(watts, floors_w[bank]) for bank, watts in fail_safe_w.items()}
            | {PARTITION: round(rng.choice((nodes * NODE_IDLE_W, part.rated_w)))},
            fail_safe_after_ms=rng.choice((0, 0, 30_000)),
        ),
        timing={
            "meter_every_ms": rng.choice((1_000, 2_000, 2_000)),
            "poll_every_ms": 5_000,
            "stagger_ms": rng.choice((0, 10_000)),
        },
        deadline_s=2.5,
        sensors=True,
        unmetered=frozenset({"cooling"}),
        max_inlet_c={hall.id: hall.setpoint_c + rng.uniform(*INLET_MARGIN_C) for hall in halls if hall.id != "dc"},
    )
    job_seed = rng.getrandbits(32)
    mix = JobMix(
        load=1.2,
        firm_share=0.25,
        value_usd_per_node_h=(0.05, 2.0),
        firm_value_usd_per_node_h=(3.0, 9.0),
        intensity=(1.0, 1.0),
        checkpoint_every_s=300.0,
        notice_ms=rng.choice((0, 60_000)),
        max_run_s=1_800.0,
    )
    return SceneSite(kit, lambda start_ms: job_stream(Random(job_seed), nodes, start_ms, mix))
