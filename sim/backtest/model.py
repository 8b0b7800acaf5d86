"""What a backtest is made of: the site, its time line, what a policy sees and answers. Frozen records; no logic.

Units: MW, MWh, hours, USD, degrees Celsius; times in epoch milliseconds. Everything runs in whole intervals of the
real-time price (5 minutes to 1 hour). Accounting is linear in what is done, so that the optimiser's model and the
plant's books agree to the cent and the perfect-foresight bound is one for this very plant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controller.forecast.known import Known

F8 = NDArray[np.float64]
U1 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Feeder:
    """A breaker-limited node; the one without a parent is the main."""

    id: str
    parent: int | None
    limit_mw: float


@dataclass(frozen=True, slots=True)
class Hall:
    """One cooling plant or hall: how many MW of heat it takes away, and what that costs, at each ambient temperature.

    Both are piecewise linear in the dry bulb, held flat beyond their ends.
    """

    id: str
    limit_points: tuple[tuple[float, float], ...]
    """(deg C, MW of unit power), ascending in temperature."""
    pue_points: tuple[tuple[float, float], ...]
    """(deg C, MW at the main meter per MW of unit power)."""


@dataclass(frozen=True, slots=True)
class HashBank:
    """ASICs of one model on one feeder in one hall."""

    id: str
    feeder: int
    hall: int
    level_mw: tuple[float, ...]
    """Four levels, ascending; any power between the first and the last may be set."""
    level_phs: tuple[float, ...]
    """PH/s at each, concave in power."""
    idle_mw: float
    boot_h: float
    """After a start: level 1's power at least, nothing earned. Where an interval is longer, that part of it."""
    min_up_h: float
    min_down_h: float
    start_usd: float


@dataclass(frozen=True, slots=True)
class Partition:
    """HPC nodes of one kind that serve jobs."""

    id: str
    feeder: int
    hall: int
    nodes: int
    node_idle_mw: float
    """Drawn by every node in service whether it works or not; the rest of a node's power is the job's."""


@dataclass(frozen=True, slots=True)
class FirmLoad:
    """Contracted colocation: always on, given up last, at a penalty."""

    id: str
    feeder: int
    hall: int
    mw: float
    usd_per_mwh: float
    """What serving it earns."""
    shed_usd_per_mwh: float
    """What not serving it costs besides."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job. It earns by the useful hour done in its window; what is undone at the deadline costs in proportion."""

    id: str
    partition: int
    submit_ms: int
    deadline_ms: int
    nodes: int
    work_h: float
    """Hours at full power."""
    level_mw: tuple[float, ...]
    """Four levels of the job's own power above its nodes' idle, ascending; the last is full power."""
    level_rate: tuple[float, ...]
    """Hours of work an hour at that level does; 1 at the last; concave in power."""
    usd_per_h: float
    """What an hour of its work earns."""
    miss_usd: float
    """What it costs undone, all of it; in proportion for a part."""
    start_usd: float
    """Of every start: staging, and after a stop the work since the last checkpoint done again."""
    min_up_h: float
    firm: bool
    """Never stopped once it runs, but for a limit that nothing else can keep."""


@dataclass(frozen=True, slots=True)
class Energy:
    """How energy is paid for."""

    adder_usd_per_mwh: float
    """On top of the real-time price: fees, losses, delivery."""
    block_mw: float
    """A fixed block bought ahead; what is not used of it is resold at the real-time price. 0 for none."""
    block_usd_per_mwh: float
    peak_charge_usd_per_mw_year: float
    """Next year's transmission per MW at the mean of the coincident peaks. 0 for none."""
    peak_months: tuple[int, ...]
    """Months that have one peak each; their number divides the charge."""


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that stays as it is."""

    id: str
    cap_mw: float
    """At the main meter: what the interconnection allows."""
    base_load_mw: float
    feeders: tuple[Feeder, ...]
    halls: tuple[Hall, ...]
    banks: tuple[HashBank, ...]
    partitions: tuple[Partition, ...]
    firm_loads: tuple[FirmLoad, ...]
    energy: Energy
    obligation_usd_per_mwh: float
    """What a MWh above an obligation's target costs."""
    timezone: str
    """Of the market: IANA name; months and peaks are local."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Sites under one cap."""

    id: str
    sites: tuple[Site, ...]
    cap_mw: float | None


@dataclass(frozen=True, slots=True)
class Obligation:
    """A curtailment due: the main meter at or below `target_mw` in the window; known from `told_ms` on."""

    id: str
    told_ms: int
    starts_ms: int
    ends_ms: int
    target_mw: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happens to a site, interval by interval. `history` intervals of it precede the first that is judged."""

    start_ms: int
    """Of interval 0, history included."""
    interval_ms: int
    history: int
    price: F8
    """(T,) real-time USD/MWh; gaps are filled as `filled` tells."""
    filled: U1
    """(T,) 1 where the price file had none and the last one stands in."""
    day_ahead: F8 | None
    """(T,) USD/MWh, NaN where unknown."""
    day_ahead_known: NDArray[np.int64] | None
    """(T,) epoch ms from which that interval's day-ahead price is known."""
    hashprice: F8
    """(T,) USD per PH/s and day, known when it holds."""
    ambient_c: F8 | None
    load_mw: F8 | None
    """(T,) of the system, known one hour late."""
    jobs: tuple[Job, ...]
    """By submit time."""
    obligations: tuple[Obligation, ...]


@dataclass(slots=True)
class State:
    """How the plant stands at the beginning of an interval. A policy reads it and leaves it alone."""

    on: U1
    """(B,) banks."""
    since: NDArray[np.int64]
    """(B,) intervals in that state."""
    open_jobs: list[int]
    """Jobs submitted, not done and not past their deadline, by index into `Timeline.jobs`."""
    running: set[int]
    left_h: dict[int, float]
    """Work left of each open job."""
    ran_h: dict[int, float]
    """Hours since the last start, of each running job."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a policy may know at the beginning of interval `index`. Arrays end where knowledge ends."""

    index: int
    known: Known
    hashprice: float
    ambient_c: float | None
    obligations: tuple[Obligation, ...]
    """Told and not over."""
    cap_mw: float
    """In force now at the main meter: the site's, or an obligation's target where that is lower."""
    state: State


@dataclass(slots=True)
class Action:
    """What everything is to do in this interval."""

    bank_mw: F8
    """(B,) 0 or within the bank's levels."""
    job_mw: dict[int, float] = field(default_factory=dict)
    """Running jobs and the power of each, above its nodes' idle; a job not in it does not run."""
    firm_mw: F8 | None = None
    """(F,) served of each firm load; None for all of it."""
    why: str = ""


class Policy(Protocol):
    """Decides one interval after the other. Deterministic; sees the past alone."""

    name: str

    def prepare(self, site: Site, timeline: Timeline, lag: int) -> None:
        """Tune and train on the history: intervals before `timeline.history`. Must read no later one."""

    def act(self, seen: Seen) -> Action:
        """What to do in this interval."""


@dataclass(slots=True)
class Trace:
    """What one policy did, by judged interval (M = T - history)."""

    policy: str
    bank_mw: F8
    """(M, B)"""
    hpc_mw: F8
    """(M,) jobs and firm load."""
    meter_mw: F8
    """(M,) at the main meter."""
    profit_usd: F8
    """(M,)"""
    cap_mw: F8
    """(M,) in force: the site's, an obligation's, or what cooling allows at the meter."""
    why: list[str]
    """(M,) shared strings; empty where the policy gives none."""


@dataclass(slots=True)
class Books:
    """What one policy earned and what it did to the plant."""

    policy: str
    profit_usd: float
    energy_cost_usd: float
    """Of what was drawn, at the real-time price and adder; a block bought ahead at its own."""
    hash_revenue_usd: float
    hpc_revenue_usd: float
    resale_usd: float
    """Earned by reselling a block at the real-time price."""
    penalties_usd: float
    """Jobs undone, firm load shed, obligations missed, coincident-peak charge, starts."""
    curtailed_mwh: float
    """What hash banks could have drawn within cap, feeders and cooling, and did not."""
    starts_per_bank: float
    jobs_missed: int
    invariant_violations: int
    flex_capture: float | None
    decision_p50_ms: float
    decision_p99_ms: float
    violations: dict[str, int] = field(default_factory=dict)
    """`invariant_violations` by kind, see `plant.VIOLATIONS`."""
