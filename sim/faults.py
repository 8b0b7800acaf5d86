"""A seeded schedule of everything that goes wrong in a simulated world, all of it healed before a known time.

The schedule is data. `edges` puts it in order for a harness to carry out; `strike` does those that are the plant's own.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final, NamedTuple

from sim.plant.plan import SitePlan
from sim.plant.site import Plant
from sim.ports import DeviceFault


class FaultKind(StrEnum):
    """What can go wrong. The unit of `Fault.amount` stands with each."""

    DEVICE = "device"
    """A device lies, stalls or breaks as `Fault.device_fault` says."""
    DEVICE_DEAD = "device_dead"
    """A device loses power, and has it back at the end."""
    METER_FROZEN = "meter_frozen"
    METER_OFFSET = "meter_offset"
    """Amount: what is added to the reading, as a share of the feeder's limit; may be negative."""
    SENSOR_LOST = "sensor_lost"
    """The hall's temperature sensor does not answer."""
    LINK_CUT = "link_cut"
    """Between agent and broker; what is under way waits."""
    LINK_DELAY = "link_delay"
    """Amount: milliseconds, each way."""
    LINK_LOSS = "link_loss"
    """Amount: share of messages that vanish."""
    REPORT_DROP = "report_drop"
    """Amount: share of the site's reports that never reach the controller. Orders do reach the agent."""
    BROKER_DOWN = "broker_down"
    CONTROLLER_CRASH = "controller_crash"
    """Killed; a new one with a new epoch starts at the end."""
    STALE_TWIN = "stale_twin"
    """The leader is cut off or paused, another takes over with a new epoch, and at the end the old one is back and
    goes on publishing with its own."""
    AGENT_CRASH = "agent_crash"
    """Killed; starts again at the end with what it has persisted."""
    HEAT_WAVE = "heat_wave"
    """Amount: degrees Celsius on top of the weather."""
    FAN_FAILURE = "fan_failure"
    """Amount: the share of a hall's flow that is left."""
    PRICE_GAP = "price_gap"
    """The price feed says nothing."""
    CLOCK_JUMP = "clock_jump"
    """Amount: milliseconds by which a daemon's wall clock is off until the end. `target` is the daemon."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault from its beginning to its end. `site` is None for what all sites share."""

    begins_ms: int
    ends_ms: int
    kind: FaultKind
    site: str | None = None
    target: str | None = None
    """A bank, feeder, hall, or daemon, by the kind."""
    device: int | None = None
    device_fault: DeviceFault | None = None
    amount: float = 0.0


class Edge(NamedTuple):
    """A fault begins or ends."""

    at_ms: int
    begins: bool
    fault: Fault


class _Range(NamedTuple):
    """How long a kind lasts, and how bad it gets."""

    seconds: tuple[float, float]
    amount: tuple[float, float] = (0.0, 0.0)
    weight: int = 1


_S: Final = 1_000
RANGES: Final[dict[FaultKind, _Range]] = {
    FaultKind.DEVICE: _Range((20, 900), weight=6),
    FaultKind.DEVICE_DEAD: _Range((60, 1_200), weight=2),
    FaultKind.METER_FROZEN: _Range((30, 300)),
    FaultKind.METER_OFFSET: _Range((60, 600), (-0.15, 0.15)),
    FaultKind.SENSOR_LOST: _Range((30, 400)),
    FaultKind.LINK_CUT: _Range((5, 400), weight=3),
    FaultKind.LINK_DELAY: _Range((30, 400), (200, 2_000), weight=2),
    FaultKind.LINK_LOSS: _Range((30, 400), (0.05, 0.6)),
    FaultKind.REPORT_DROP: _Range((30, 300), (0.3, 1.0)),
    FaultKind.BROKER_DOWN: _Range((3, 240)),
    FaultKind.CONTROLLER_CRASH: _Range((3, 400), weight=2),
    FaultKind.STALE_TWIN: _Range((20, 300)),
    FaultKind.AGENT_CRASH: _Range((2, 120), weight=2),
    FaultKind.HEAT_WAVE: _Range((600, 1_800), (5, 14)),
    FaultKind.FAN_FAILURE: _Range((120, 900), (0.1, 0.6)),
    FaultKind.PRICE_GAP: _Range((300, 2_400)),
    FaultKind.CLOCK_JUMP: _Range((60, 900), (-3_600_000, 3_600_000)),
}
"""Chosen so that leases of 150 s lapse in some faults and hold through others, and stale bounds are passed in some."""

MAX_FAULTS: Final = 500
_PROCESSES: Final = frozenset(
    {FaultKind.CONTROLLER_CRASH, FaultKind.STALE_TWIN, FaultKind.AGENT_CRASH, FaultKind.BROKER_DOWN}
)
_SHARED: Final = frozenset(
    {FaultKind.BROKER_DOWN, FaultKind.CONTROLLER_CRASH, FaultKind.STALE_TWIN, FaultKind.PRICE_GAP}
)
_NEED_TARGET: Final = frozenset(
    {
        FaultKind.DEVICE,
        FaultKind.DEVICE_DEAD,
        FaultKind.METER_FROZEN,
        FaultKind.METER_OFFSET,
        FaultKind.SENSOR_LOST,
        FaultKind.FAN_FAILURE,
        FaultKind.CLOCK_JUMP,
    }
)
_DEVICE_KINDS: Final = frozenset({FaultKind.DEVICE, FaultKind.DEVICE_DEAD})
_METER_KINDS: Final = frozenset({FaultKind.METER_FROZEN, FaultKind.METER_OFFSET})
_LINK_KINDS: Final = frozenset({FaultKind.LINK_CUT, FaultKind.LINK_DELAY, FaultKind.LINK_LOSS, FaultKind.REPORT_DROP})


def schedule(
    rng: Random,
    plans: Sequence[SitePlan],
    begin_ms: int,
    heal_by_ms: int,
    count: int,
    *,
    kinds: Iterable[FaultKind] = tuple(FaultKind),
) -> tuple[Fault, ...]:
    """`count` faults of the kinds given, all begun after `begin_ms` and over by `heal_by_ms`, in order of beginning.

    A fault does not overlap another of its kind on its target, nor two processes' faults each other's (a crash during a
    take-over and the like are histories of their own: ask for those with a seed of your own making); what finds no room
    after a few tries is left out, so fewer may come.
    """
    if not 0 <= count <= MAX_FAULTS:
        raise ValueError(f"count must be from 0 to {MAX_FAULTS}, got {count}")
    if heal_by_ms <= begin_ms:
        raise ValueError("heal_by_ms must be after begin_ms")
    choices = sorted(set(kinds), key=list(FaultKind).index)
    weights = [RANGES[kind].weight for kind in choices]
    faults: list[Fault] = []
    for _ in range(count):
        for _attempt in range(8):
            kind = rng.choices(choices, weights)[0]
            fault = _draw(rng, kind, plans, begin_ms, heal_by_ms)
            if fault is not None and not any(_clash(fault, other) for other in faults):
                bisect.insort(faults, fault, key=lambda one: (one.begins_ms, one.ends_ms))
                break
    return tuple(faults)


def edges(faults: Iterable[Fault]) -> list[Edge]:
    """Beginnings and ends in order of time; at one moment ends come first."""
    both = [Edge(fault.begins_ms, True, fault) for fault in faults]
    both += [Edge(fault.ends_ms, False, fault) for fault in faults]
    return sorted(both, key=lambda edge: (edge.at_ms, edge.begins))


def busiest(faults: Iterable[Fault]) -> int:
    """The most faults in force at once."""
    return max(itertools.accumulate((1 if edge.begins else -1) for edge in edges(faults)), default=0)


def strike(plant: Plant, fault: Fault, *, begins: bool) -> bool:
    """Carry out an edge of a fault that is the plant's own. False where it is another's to carry out."""
    match fault.kind:
        case FaultKind.DEVICE if fault.target is not None and fault.device is not None:
            plant.set_fault(fault.target, fault.device, fault.device_fault if begins else None)
        case FaultKind.DEVICE_DEAD if fault.target is not None and fault.device is not None:
            (plant.kill if begins else plant.revive)(fault.target, fault.device)
        case FaultKind.HEAT_WAVE:
            plant.ambient_shift_c += fault.amount if begins else -fault.amount
        case FaultKind.FAN_FAILURE if fault.target is not None:
            plant.halls[fault.target].fan_limit = fault.amount if begins else 1.0
        case _:
            return False
    return True


def _draw(rng: Random, kind: FaultKind, plans: Sequence[SitePlan], begin_ms: int, heal_by_ms: int) -> Fault | None:
    """One fault somewhere in the window; None where the window is too short for its kind, or no site has a target."""
    shape = RANGES[kind]
    room_s = (heal_by_ms - begin_ms) / _S
    if room_s < shape.seconds[0]:
        return None
    lasts_ms = round(rng.uniform(shape.seconds[0], min(shape.seconds[1], room_s)) * _S)
    begins_ms = rng.randint(begin_ms, heal_by_ms - lasts_ms)
    amount = rng.uniform(*shape.amount)
    plan = rng.choice(list(plans))
    site = None if kind in _SHARED else plan.id
    target, device, device_fault = _target(rng, kind, plan)
    if target is None and kind in _NEED_TARGET:
        return None
    return Fault(begins_ms, begins_ms + lasts_ms, kind, site, target, device, device_fault, amount)


def _target(rng: Random, kind: FaultKind, plan: SitePlan) -> tuple[str | None, int | None, DeviceFault | None]:
    """What of a site a fault befalls."""
    match kind:
        case FaultKind.DEVICE | FaultKind.DEVICE_DEAD:
            if not plan.banks:
                return None, None, None
            bank = rng.choice(plan.banks)
            how = rng.choice(list(DeviceFault)) if kind is FaultKind.DEVICE else None
            return bank.id, rng.randrange(bank.devices), how
        case FaultKind.METER_FROZEN | FaultKind.METER_OFFSET:
            return rng.choice(plan.feeders).id, None, None
        case FaultKind.SENSOR_LOST | FaultKind.FAN_FAILURE:
            return (rng.choice(plan.halls).id if plan.halls else None), None, None
        case FaultKind.CLOCK_JUMP:
            return rng.choice(["agent", "controller"]), None, None
        case _:
            return None, None, None


def _clash(one: Fault, other: Fault) -> bool:
    """Whether two faults overlap where they must not."""
    if one.ends_ms < other.begins_ms or other.ends_ms < one.begins_ms:
        return False
    if one.kind in _PROCESSES and other.kind in _PROCESSES:
        return True
    if {one.kind, other.kind} <= _DEVICE_KINDS:
        return (one.site, one.target, one.device) == (other.site, other.target, other.device)
    if {one.kind, other.kind} <= _METER_KINDS:
        return (one.site, one.target) == (other.site, other.target)
    if {one.kind, other.kind} <= _LINK_KINDS:
        return one.site == other.site
    return (one.kind, one.site, one.target) == (other.kind, other.site, other.target)
