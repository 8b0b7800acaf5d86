"""What a megawatt-hour earns: the formulas of the decision, each a pure function.

All values are USD per MWh **at the main meter**, so that a hash bank and an HPC job compare with each other and with
the energy price directly: a bank watt costs `pue_milli / 1000` meter watts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from contract.messages import BankPlate, Job, JobState
from contract.units import GHS_PER_PHS, MS_PER_HOUR, W_PER_MW

HOURS_PER_DAY: Final = 24.0
MIN_POWER_W: Final = 1
"""Work that draws nothing is valued as if it drew this much, so that its value stays finite."""


@dataclass(slots=True)
class Segment:
    """A straight piece of a bank's hashrate over power, in bank watts: from `from_w` to `to_w` at `ghs_per_w`."""

    from_w: int
    to_w: int
    ghs_per_w: float


def hash_value_usd_per_mwh(usd_per_ph_day: float, ghs_per_w: float, pue_milli: int) -> float:
    """What the next bank watt of hashing earns per MWh at the main meter; also its break-even energy price.

    One MW at g GH/s per W hashes g PH/s (10^6 W over 10^6 GH/s per PH/s), which earns hashprice / 24 USD an hour;
    the meter sees PUE MW for it. At 25 J/TH, g = 40.

    >>> round(hash_value_usd_per_mwh(50.0, 40.0, 1_000), 2)
    83.33
    """
    return usd_per_ph_day * ghs_per_w * (W_PER_MW / GHS_PER_PHS) / HOURS_PER_DAY * 1_000.0 / pue_milli


def hash_revenue_usd_per_h(usd_per_ph_day: float, hashrate_ghs: float) -> float:
    """Hashprice times hashrate, per hour."""
    return usd_per_ph_day * hashrate_ghs / GHS_PER_PHS / HOURS_PER_DAY


def curve(plate: BankPlate, natural_w: int) -> list[Segment]:
    """The bank's hashrate over power as straight pieces of falling slope, from idle up to `natural_w`.

    The first piece leads from (idle, 0) to the lowest level; each further one is the increment between two levels.
    Where devices are missing the whole curve shrinks with `natural_w / rated_w`, as the levels are stated for all of
    them. Pieces whose slope would rise are merged (upper concave hull), which a bank reaches by running some devices
    at the higher level and some not at all. Empty where the nameplate states no levels or nothing can run.
    """
    if natural_w <= plate.idle_w or not plate.levels:
        return []
    top_w = plate.rated_w
    points: list[tuple[int, float]] = [(plate.idle_w, 0.0)]
    for level in plate.levels:
        at_w = level.power_w * natural_w // top_w
        if at_w <= plate.idle_w:
            continue
        ghs = level.hashrate_ghs * natural_w / top_w
        while len(points) > 1 and _slope(points[-2], points[-1]) <= _slope(points[-1], (at_w, ghs)):
            points.pop()
        if at_w > points[-1][0]:
            points.append((at_w, ghs))
    return [Segment(low[0], high[0], _slope(low, high)) for low, high in pairwise(points)]


def hashrate_ghs(segments: Sequence[Segment], power_w: int) -> float:
    """The hashrate at a power, along the curve."""
    return sum((min(power_w, s.to_w) - s.from_w) * s.ghs_per_w for s in segments if power_w > s.from_w)


def job_value_usd_per_mwh(job: Job, pue_milli: int) -> float:
    """Value per node-hour times nodes over the job's power at the main meter."""
    return job.value_usd_per_node_h * job.nodes / _meter_mw(job.power_w, pue_milli)


def job_revenue_usd_per_h(job: Job) -> float:
    """What the job earns in an hour of running."""
    return job.value_usd_per_node_h * job.nodes


def amortised_usd_per_mwh(cost_usd: float, power_w: int, pue_milli: int, payback_ms: int) -> float:
    """A one-off cost spread over the energy used within the payback time: what it adds to, or takes off, each MWh."""
    if cost_usd == 0:
        return 0.0
    return cost_usd / (_meter_mw(power_w, pue_milli) * max(payback_ms, 1) / MS_PER_HOUR)


def start_penalty_usd_per_mwh(plate: BankPlate, value_usd_per_mwh: float, payback_ms: int) -> float:
    """What a start costs per MWh of the run it must pay back within: wear, and the hashing lost while it boots."""
    wear = amortised_usd_per_mwh(plate.start_cost_usd, plate.rated_w, plate.pue_milli, payback_ms)
    return wear + value_usd_per_mwh * min(1.0, plate.start_delay_ms / max(payback_ms, 1))


def restart_penalty_usd_per_mwh(job: Job, pue_milli: int, payback_ms: int) -> float:
    """What shedding a running job loses in work done, per MWh it would free. A frozen or pending job loses nothing."""
    if job.state is not JobState.RUNNING:
        return 0.0
    return amortised_usd_per_mwh(job.restart_cost_usd, job.power_w, pue_milli, payback_ms)


def _slope(low: tuple[int, float], high: tuple[int, float]) -> float:
    return (high[1] - low[1]) / max(high[0] - low[0], 1)


def _meter_mw(power_w: int, pue_milli: int) -> float:
    return max(power_w, MIN_POWER_W) * pue_milli / 1_000.0 / W_PER_MW
