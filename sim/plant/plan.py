"""What a simulated site is: small frozen records, and the makes of ASIC it is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sim.partition import PartitionPlan
from sim.plant.weather import Ambient, steady
from sim.ports import AsicModel

# Rated power, hashrate and efficiency as the makers publish them. Least power, sleep power and boot times are typical
# of the firmware that such machines run; each is a figure to be configured, not a claim about a make.
S19J_PRO: Final = AsicModel("Antminer S19j Pro", 3_050, 100_000, 1_800, 25, 90.0)
S19_XP: Final = AsicModel("Antminer S19 XP", 3_010, 140_000, 1_700, 25, 90.0)
S21: Final = AsicModel("Antminer S21", 3_500, 200_000, 1_900, 25, 60.0)
S21_HYDRO: Final = AsicModel("Antminer S21 Hydro", 5_360, 335_000, 3_000, 30, 60.0)
M50S: Final = AsicModel("WhatsMiner M50S", 3_276, 126_000, 2_000, 40, 150.0)
M63S_HYDRO: Final = AsicModel("WhatsMiner M63S Hydro", 7_215, 390_000, 4_000, 60, 150.0)


class CoolingKind(StrEnum):
    """How a hall's heat leaves it."""

    AIR = "air"
    """Outside air driven through by fans, evaporative pads on hot days."""
    HYDRO = "hydro"
    """A water loop and a dry cooler, adiabatic assist on hot days."""


@dataclass(frozen=True, slots=True)
class FeederPlan:
    """A node of the electrical tree. Its limit and its meter sit at its upstream end."""

    id: str
    parent: str | None
    limit_w: float
    loss_share: float = 0.008
    """Line and transformer loss at the limit, as a share of it; it falls with the square of the current."""


@dataclass(frozen=True, slots=True)
class HallPlan:
    """A room or water loop that banks share, and what cools it. Build one with `air_hall` or `hydro_hall`."""

    id: str
    kind: CoolingKind
    feeder: str
    """What its fans and pumps hang on."""
    design_heat_w: float
    """The heat it can carry off with all fans at full speed, `design_rise_k` above the sink."""
    design_rise_k: float
    setpoint_c: float
    """The inlet temperature that the fans hold as long as they can."""
    fan_w: float
    """All fans at full speed; at a share s of it they draw s cubed."""
    pump_w: float
    heat_capacity_j_per_k: float
    """Air, water, metal and walls, lumped."""
    evaporation: float
    """How far wetting brings the sink from dry bulb towards wet bulb, 0 to 1."""
    evaporation_above_c: float
    chip_rise_c: float
    """Chip above inlet at rated power."""
    chip_limit_c: float
    """Firmware stops a machine whose chip is hotter."""


@dataclass(frozen=True, slots=True)
class BankPlan:
    """ASICs of one model on one feeder in one hall."""

    id: str
    feeder: str
    hall: str
    model: AsicModel
    devices: int
    spread: float = 0.02
    """Standard deviation of the devices' efficiency and power about the model's."""
    latency_s: tuple[float, float] = (0.005, 0.030)
    """How long a device takes to answer."""


@dataclass(frozen=True, slots=True)
class SitePlan:
    """One site. Exactly one feeder has no parent; the base load hangs on it."""

    id: str
    feeders: tuple[FeederPlan, ...]
    halls: tuple[HallPlan, ...]
    banks: tuple[BankPlan, ...]
    partitions: tuple[PartitionPlan, ...] = ()
    base_load_w: float = 0.0
    ambient: Callable[[int], Ambient] = field(default_factory=lambda: steady(20.0, 14.0))
    """Weather at a wall time in milliseconds."""

    def __post_init__(self) -> None:
        feeders = _unique("feeders", [feeder.id for feeder in self.feeders])
        halls = _unique("halls", [hall.id for hall in self.halls])
        units: tuple[BankPlan | PartitionPlan, ...] = (*self.banks, *self.partitions)
        _unique("banks and partitions", [unit.id for unit in units])
        if [feeder.parent for feeder in self.feeders].count(None) != 1:
            raise ValueError("exactly one feeder must have no parent")
        for child in self.feeders:
            if child.parent is not None and child.parent not in feeders:
                raise ValueError(f"feeder {child.id} names an unknown parent {child.parent}")
        for hall in self.halls:
            if hall.feeder not in feeders:
                raise ValueError(f"hall {hall.id} names an unknown feeder {hall.feeder}")
        for unit in units:
            if unit.feeder not in feeders or unit.hall not in halls:
                raise ValueError(f"{unit.id} names an unknown feeder or hall")
        for bank in self.banks:
            if bank.devices < 1:
                raise ValueError(f"bank {bank.id} has no device")

    @property
    def main(self) -> FeederPlan:
        return next(feeder for feeder in self.feeders if feeder.parent is None)


def air_hall(hall: str, feeder: str, heat_w: float, *, setpoint_c: float = 28.0) -> HallPlan:
    """A ventilated hall sized for `heat_w` with a tenth to spare: 7 K from outside to the machines' inlets.

    Fans at 3 % of the heat at full speed and a minute and a half of thermal inertia are usual for such halls.
    """
    return HallPlan(
        id=hall,
        kind=CoolingKind.AIR,
        feeder=feeder,
        design_heat_w=1.1 * heat_w,
        design_rise_k=7.0,
        setpoint_c=setpoint_c,
        fan_w=0.03 * heat_w,
        pump_w=0.0,
        heat_capacity_j_per_k=10.0 * heat_w,
        evaporation=0.7,
        evaporation_above_c=26.0,
        chip_rise_c=42.0,
        chip_limit_c=92.0,
    )


def hydro_hall(hall: str, feeder: str, heat_w: float, *, setpoint_c: float = 35.0) -> HallPlan:
    """A water loop with a dry cooler sized for `heat_w` with a tenth to spare: 8 K from outside to the supply."""
    return HallPlan(
        id=hall,
        kind=CoolingKind.HYDRO,
        feeder=feeder,
        design_heat_w=1.1 * heat_w,
        design_rise_k=8.0,
        setpoint_c=setpoint_c,
        fan_w=0.015 * heat_w,
        pump_w=0.008 * heat_w,
        heat_capacity_j_per_k=25.0 * heat_w,
        evaporation=0.6,
        evaporation_above_c=28.0,
        chip_rise_c=30.0,
        chip_limit_c=85.0,
    )


def _unique(what: str, ids: list[str]) -> set[str]:
    if len(set(ids)) != len(ids):
        raise ValueError(f"{what}: an id stands twice")
    return set(ids)
