"""Small sites and time lines for the backtest's tests, and a plain run of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np

from sim.backtest.model import (
    Action,
    Books,
    Energy,
    Feeder,
    FirmLoad,
    Hall,
    HashBank,
    Job,
    Obligation,
    Partition,
    Policy,
    Site,
    Timeline,
    Trace,
)  # fmt: skip
from sim.backtest.plant import Plant
from sim.backtest.seen import Eyes

START_MS = 1_685_595_600_000
"""2023-06-01 00:00 in Chicago."""
STEP_MS = 900_000
HOUR_MS = 3_600_000


def bank(
    name: str, joule: float, *, feeder: int = 1, hall: int = 0, boot_h: float = 0.1, up_h: float = 0.5
) -> HashBank:
    """6 MW at most, 3 at least, `joule` J/TH at full power and better below."""
    levels = (3.0, 4.0, 5.0, 6.0)
    shares = (0.62, 0.78, 0.90, 1.0)
    phs = tuple(6_000.0 / joule * share for share in shares)
    return HashBank(name, feeder, hall, levels, phs, 0.05, boot_h, up_h, 0.25, 48.0)


def site(**changes: object) -> Site:
    """Two banks of 17 and 30 J/TH, twenty nodes and 1 MW of colocation behind 15 MW."""
    whole = Site(
        id="brazos",
        cap_mw=15.0,
        base_load_mw=0.2,
        feeders=(Feeder("main", None, 16.0), Feeder("west", 0, 11.0), Feeder("east", 0, 5.0)),
        halls=(
            Hall("air", ((20.0, 12.0), (40.0, 9.0)), ((20.0, 1.05), (40.0, 1.10))),
            Hall("data", ((20.0, 4.0), (40.0, 3.5)), ((20.0, 1.2), (40.0, 1.4))),
        ),
        banks=(bank("new", 17.0), bank("old", 30.0)),
        partitions=(Partition("batch", 2, 1, 20, 0.02),),
        firm_loads=(FirmLoad("colo", 2, 1, 1.0, 140.0, 2_000.0),),
        energy=Energy(5.0, 0.0, 0.0, 0.0, ()),
        obligation_usd_per_mwh=5_000.0,
        timezone="America/Chicago",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def job(
    name: str,
    at: int,
    *,
    nodes: int = 5,
    work_h: float = 1.0,
    window: int = 12,
    firm: bool = False,
    start_usd: float = 5.0,
) -> Job:
    """A job of interval `at`, 0.08 MW a node above idle."""
    full = nodes * 0.08
    return Job(
        name, 0, START_MS + at * STEP_MS, START_MS + (at + window) * STEP_MS, nodes, work_h,
        (0.4 * full, 0.55 * full, 0.715 * full, full), (0.62, 0.79, 0.917, 1.0),
        nodes * 4.0, nodes * 4.0 * work_h, start_usd, 0.25, firm,
    )  # fmt: skip


def timeline(price: Sequence[float], *, history: int = 0, **changes: object) -> Timeline:
    """Quarters of an hour from June 2023 on; 70 USD/PH/s/day, 20 C."""
    count = len(price)
    whole = Timeline(
        START_MS, STEP_MS, history, np.array(price, dtype=np.float64), np.zeros(count, np.uint8), None, None,
        np.full(count, 70.0), np.full(count, 20.0), None, (), (),
    )  # fmt: skip
    return replace(whole, **changes)  # type: ignore[arg-type]


def wild_timeline(seed: int, count: int = 400, history: int = 0) -> Timeline:
    """Prices from -50 to 9,000, weather from 0 to 45 C, obligations, and jobs of which some cannot be done in time."""
    rng = Random(seed)
    price = [rng.choice((rng.uniform(-50, 120), rng.uniform(20, 60), rng.uniform(60, 9_000))) for _ in range(count)]
    jobs = [
        job(f"j{k}", rng.randrange(-8, count - 2), nodes=rng.randrange(1, 21), work_h=rng.uniform(0.05, 6),
            window=rng.randrange(1, 40), firm=rng.random() < 0.3)
        for k in range(count // 8)
    ]  # fmt: skip
    dues = [
        Obligation(f"o{k}", START_MS + (at - notice) * STEP_MS, START_MS + at * STEP_MS + rng.choice((0, 300_000)),
                   START_MS + (at + rng.randrange(1, 9)) * STEP_MS, rng.uniform(0, 10))
        for k, at, notice in ((k, rng.randrange(20, count - 20), rng.randrange(0, 8)) for k in range(3))
    ]  # fmt: skip
    return timeline(
        price,
        history=history,
        ambient_c=np.array([rng.uniform(0, 45) for _ in range(count)]),
        hashprice=np.repeat([rng.uniform(30, 120) for _ in range(-(-count // 96))], 96)[:count],
        load_mw=np.array([rng.uniform(40e3, 85e3) for _ in range(count)]),
        day_ahead=np.array(price),
        day_ahead_known=START_MS + STEP_MS * (np.arange(count, dtype=np.int64) // 96 * 96 - 42),
        jobs=tuple(sorted(jobs, key=lambda j: (j.submit_ms, j.id))),
        obligations=tuple(sorted(dues, key=lambda due: due.starts_ms)),
    )


def run(policy: Policy, plan: Site, line: Timeline, lag: int = 0) -> tuple[Books, Trace, list[Action]]:
    """Prepare the policy and live the window through."""
    policy.prepare(plan, line, lag)
    plant, eyes, actions = Plant(plan, line), Eyes(line, lag), []
    while not plant.done:
        action = policy.act(eyes.see(plant.index, plant.state, plant.cap_mw))
        actions.append(Action(action.bank_mw.copy(), dict(action.job_mw), action.firm_mw))
        plant.step(action)
    return *plant.close(policy.name), actions


def lived(plan: Site, line: Timeline, actions: Sequence[Action]) -> tuple[Books, Trace, Plant]:
    """Live through given actions."""
    plant = Plant(plan, line)
    for action in actions:
        plant.step(action)
    return *plant.close("given"), plant


def act(banks: Sequence[float], jobs: dict[int, float] | None = None, firm: Sequence[float] | None = None) -> Action:
    """An action of plain numbers."""
    return Action(np.array(banks, dtype=np.float64), jobs or {}, None if firm is None else np.array(firm))
