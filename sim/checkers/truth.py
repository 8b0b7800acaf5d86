"""A site's truth read from its plant, so that a harness only adds what the plant cannot know."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np

from contract.messages import Nameplate
from sim.checkers.world import Cap, CapSource, Due, Energy
from sim.jobs import JobPhase
from sim.plant.fleet import DEAD
from sim.plant.site import Plant

AFTERMATH_MS: Final = 60_000
"""How long a device that was faulty or dead still counts as stuck: the agent must see it again, command it, and it must
boot or fall."""


class PlantTruth:
    """`sim.checkers.world.SiteTruth` over a `Plant`. The harness sets the public attributes and calls `step` before the
    checkers look. Breaker caps are made from the nameplate."""

    def __init__(self, plant: Plant, plate: Nameplate, *, inlet_limits_c: dict[str, float] | None = None) -> None:
        self.plant = plant
        self.plate = plate
        self.local = False
        self.agent_since_ms: int | None = None
        self.linked_since_ms: int | None = None
        self.sensed_since_ms: int | None = None
        self.price_age_ms: int | None = None
        self.caps: list[Cap] = [
            Cap(feeder.id, CapSource.BREAKER, feeder.limit_w, feeder.id, plant.time_ms, None, plant.time_ms)
            for feeder in plate.feeders
        ]
        self.dues: list[Due] = []
        self.overridden_banks: set[str] = set()
        self._inlet_limits_c = inlet_limits_c or {}
        self._stuck_until_ms: dict[int, int] = {}
        """By device row: until when it counts as stuck."""
        self._spans: dict[str, tuple[float, float]] = {}
        self._noted: dict[str, tuple[float, float]] = {}
        plant.on_step = self._note
        self._halls = {part.id: part.hall for part in plant.plan.partitions}

    def step(self) -> None:
        """Note which devices cannot be commanded now, and let obligations and caps go that are over."""
        self._spans, self._noted = self._noted, {}
        now_ms = self.plant.time_ms
        dead = np.flatnonzero(self.plant.fleet.state == DEAD).tolist()
        for row in (*self.plant.faults, *dead):
            self._stuck_until_ms[row] = now_ms + AFTERMATH_MS
        self._stuck_until_ms = {row: until for row, until in self._stuck_until_ms.items() if until >= now_ms}
        self.caps = [cap for cap in self.caps if cap.until_ms is None or cap.until_ms > now_ms]
        self.dues = [due for due in self.dues if due.ends_ms > now_ms]

    @property
    def energy(self) -> Energy:
        ledger = self.plant.ledger
        return Energy(
            main_mj=ledger.main_mj,
            fed_mj=ledger.main_mj - ledger.gap_mj,
            loss_mj=sum(ledger.loss_mj.values()),
            roundings=ledger.entries,
        )

    def feeder_w(self, feeder: str) -> float:
        return self.plant.feeder_power_w(feeder)

    def feeder_span_w(self, feeder: str) -> tuple[float, float]:
        now_w = self.feeder_w(feeder)
        least_w, most_w = self._spans.get(feeder, (now_w, now_w))
        return min(least_w, now_w), max(most_w, now_w)

    def bank_w(self, bank: str) -> float:
        return self.plant.bank_power_w(bank)

    def stuck_w(self, bank: str) -> float:
        rows = self._stuck_rows(bank)
        return float(self.plant.fleet.power_w[rows].sum()) if rows else 0.0

    def firm_w(self, bank: str) -> float:
        partition = self.plant.partitions.get(bank)
        if partition is None:
            return 0.0
        firm = [run for run in partition.jobs if run.spec.firm and run.phase is JobPhase.RUNNING]
        if not firm:
            return 0.0
        return partition.plan.nodes * partition.plan.idle_w + sum(partition.above_idle_w(run.spec.id) for run in firm)

    def commanded_w(self, bank: str) -> float:
        if bank in self._halls:
            return self.plant.bank_power_w(bank)
        return self.plant.bank_commanded_w(bank)

    def steerable_w(self, bank: str) -> float:
        if bank in self._halls:
            return self.plant.bank_power_w(bank)
        fleet, rows = self.plant.fleet, self.plant.rows(bank)
        counts = fleet.wanted[rows].copy()
        stuck = [row - rows.start for row in self._stuck_rows(bank)]
        counts[stuck] = False
        return float(fleet.limit_w[rows][counts].sum())

    def inlet_c(self, bank: str) -> float:
        hall = self._halls.get(bank)
        return self.plant.halls[hall].supply_c if hall is not None else self.plant.hottest_inlet_c(bank)

    def inlet_limit_c(self, bank: str) -> float | None:
        return self._inlet_limits_c.get(bank)

    def overridden(self, bank: str) -> bool:
        return bank in self.overridden_banks

    def live_jobs(self, bank: str) -> Collection[str]:
        partition = self.plant.partitions.get(bank)
        return frozenset() if partition is None else {run.spec.id for run in partition.jobs}

    def _note(self) -> None:
        """Keep what each feeder carries after a step: a meter may be read at any of them."""
        for feeder, power_w in self.plant.tree.power_w.items():
            least_w, most_w = self._noted.get(feeder, (power_w, power_w))
            self._noted[feeder] = min(least_w, power_w), max(most_w, power_w)

    def _stuck_rows(self, bank: str) -> list[int]:
        if bank in self._halls or not self._stuck_until_ms:
            return []
        rows = self.plant.rows(bank)
        return [row for row in self._stuck_until_ms if rows.start <= row < rows.stop]
