"""The physics of one simulated site.

Machines and nodes draw power, halls warm up, feeders lose a little, and every watt is accounted for. Build a
`SitePlan`, make a `Plant` of it with a seed, and advance it; `machines(bank)` gives the ports that device servers
front.
"""

from __future__ import annotations

from sim.plant.commands import Commanded, CommandKind
from sim.plant.electrics import Ledger
from sim.plant.machine import Machine
from sim.plant.plan import (
    M50S,
    M63S_HYDRO,
    S19_XP,
    S19J_PRO,
    S21,
    S21_HYDRO,
    BankPlan,
    CoolingKind,
    FeederPlan,
    HallPlan,
    SitePlan,
    air_hall,
    hydro_hall,
)
from sim.plant.site import Plant
from sim.plant.truth import Rules, nameplate, true_report
from sim.plant.weather import Ambient, day_and_night, series, steady, wet_bulb_c

__all__ = [
    "M50S",
    "M63S_HYDRO",
    "S19J_PRO",
    "S19_XP",
    "S21",
    "S21_HYDRO",
    "Ambient",
    "BankPlan",
    "CommandKind",
    "Commanded",
    "CoolingKind",
    "FeederPlan",
    "HallPlan",
    "Ledger",
    "Machine",
    "Plant",
    "Rules",
    "SitePlan",
    "air_hall",
    "day_and_night",
    "hydro_hall",
    "nameplate",
    "series",
    "steady",
    "true_report",
    "wet_bulb_c",
]
