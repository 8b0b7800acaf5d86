"""DESIGN's twelve invariants, one checker each. They read the plant's true state and what crossed the wires.

A harness makes a `Suite`, shows it a `World` at every step, and looks at its `violations` at the end.
"""

from __future__ import annotations

from sim.checkers.base import Allowances, Checker, Violation
from sim.checkers.decisions import DecideIsBlind, JournalReplays, PlanReturnsToOracle, StaleNeverRaises
from sim.checkers.local import DwellAndRampHold, HeatStopsABank, NoJobDiesEarly
from sim.checkers.orders import OnlyRightfulOrdersAct, SilenceIsSafe
from sim.checkers.power import CapsHeld, EnergyCloses, ObligationsMet
from sim.checkers.suite import Suite
from sim.checkers.truth import PlantTruth
from sim.checkers.world import (
    Cap,
    CapSource,
    DecisionMade,
    DeviceCommanded,
    Due,
    Energy,
    Event,
    JobHappened,
    OracleDecided,
    OrderHeard,
    OrderPublished,
    ReceiptSent,
    ReportHeard,
    ReportSent,
    SiteTruth,
    World,
)

__all__ = [
    "Allowances",
    "Cap",
    "CapSource",
    "CapsHeld",
    "Checker",
    "DecideIsBlind",
    "DecisionMade",
    "DeviceCommanded",
    "Due",
    "DwellAndRampHold",
    "Energy",
    "EnergyCloses",
    "Event",
    "HeatStopsABank",
    "JobHappened",
    "JournalReplays",
    "NoJobDiesEarly",
    "ObligationsMet",
    "OnlyRightfulOrdersAct",
    "OracleDecided",
    "OrderHeard",
    "OrderPublished",
    "PlanReturnsToOracle",
    "PlantTruth",
    "ReceiptSent",
    "ReportHeard",
    "ReportSent",
    "SilenceIsSafe",
    "SiteTruth",
    "StaleNeverRaises",
    "Suite",
    "Violation",
    "World",
]
