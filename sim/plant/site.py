"""One simulated site: machines, nodes, halls and feeders, advanced by their owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final

import numpy as np

from sim.jobs import JobSpec
from sim.partition import HpcPartition
from sim.plant.commands import Commanded, CommandKind
from sim.plant.electrics import FeederTree, Ledger
from sim.plant.fleet import DEAD, Fleet
from sim.plant.halls import STEADY_K_PER_S, Hall
from sim.plant.machine import Machine
from sim.plant.plan import SitePlan
from sim.plant.weather import Ambient
from sim.ports import DeviceFault

STEP_S: Final = 1.0
"""The longest step while anything changes: below every time constant that matters to a meter read each second."""
QUIET_STEP_S: Final = 10.0
"""The longest step while nothing does."""
NOMINAL_MV: Final = 230_000
NOMINAL_MHZ: Final = 60_000


class Plant:
    """See the module. All power is true power in watts at 60 Hz three-phase; nothing here is an estimate of itself.

    Commands take effect from the last moment advanced to; an owner that ticks every 100 ms is that exact.
    """

    def __init__(
        self,
        plan: SitePlan,
        seed: int,
        start_ms: int,
        *,
        jobs: Mapping[str, Iterable[JobSpec]] | None = None,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        """`jobs`: arrivals by partition. `now_ms`: what commands are stamped with; by default the last step's time."""
        rng = Random(seed)
        self.plan = plan
        self.time_ms = start_ms
        self.ledger = Ledger()
        self.halls = {hall.id: Hall(hall) for hall in plan.halls}
        self.ambient_shift_c = 0.0
        """A heat wave's extra degrees."""
        self.on_command: Callable[[Commanded], None] | None = None
        self.on_step: Callable[[], None] | None = None
        """Told after each step of the physics."""
        self.faults: dict[int, DeviceFault] = {}
        """By device row."""
        self._now_ms = now_ms
        self._hall_row = {hall.id: row for row, hall in enumerate(plan.halls)}
        self._bank_row = {bank.id: row for row, bank in enumerate(plan.banks)}
        self.fleet = Fleet(
            plan.banks,
            [self._hall_row[bank.hall] for bank in plan.banks],
            np.array([hall.chip_rise_c for hall in plan.halls]),
            np.array([hall.chip_limit_c for hall in plan.halls]),
            rng,
        )
        self.partitions = {
            part.id: HpcPartition(part, start_ms, (jobs or {}).get(part.id, ())) for part in plan.partitions
        }
        self.tree = FeederTree(plan.feeders)
        self._partition_w = {part.id: self.partitions[part.id].power_w for part in plan.partitions}
        self._settle()

    # -- time --------------------------------------------------------------------------------------------------------

    def advance_to(self, time_ms: int) -> None:
        """Step to a moment, never further than one step at a time. A moment that has passed changes nothing."""
        while self.time_ms < time_ms:
            longest_s = QUIET_STEP_S if self._quiet() else STEP_S
            self._step(min(round(longest_s * 1_000), time_ms - self.time_ms))
            if self.on_step is not None:
                self.on_step()

    @property
    def ambient(self) -> Ambient:
        """Outside air now, a heat wave included."""
        dry_c, wet_c = self.plan.ambient(self.time_ms)
        return Ambient(dry_c + self.ambient_shift_c, wet_c + 0.4 * self.ambient_shift_c)

    # -- true power and temperature ----------------------------------------------------------------------------------

    @property
    def main_power_w(self) -> float:
        return self.tree.power_w[self.tree.main]

    def feeder_power_w(self, feeder: str) -> float:
        """At the feeder's meter, its own loss included."""
        return self.tree.power_w[feeder]

    def bank_power_w(self, bank: str) -> float:
        """Of a bank of ASICs or of an HPC partition, at its own terminals."""
        row = self._bank_row.get(bank)
        return self._partition_w[bank] if row is None else float(self._bank_w[row])

    def bank_hashrate_ghs(self, bank: str) -> float:
        return float(self.fleet.hashrate_ghs[self.rows(bank)].sum())

    def bank_commanded_w(self, bank: str) -> float:
        """What a bank's machines were last told to draw, in nameplate watts: commands without physics."""
        return float(self.fleet.commanded_w()[self.rows(bank)].sum())

    def hottest_inlet_c(self, bank: str) -> float:
        rows = self.rows(bank)
        return float(self.fleet.inlet_c[rows].max())

    def hottest_chip_c(self, bank: str) -> float:
        return float(self.fleet.chip_c[self.rows(bank)].max())

    @property
    def cooling_w(self) -> float:
        """Fans and pumps of all halls."""
        return sum(hall.power_w for hall in self.halls.values())

    @property
    def loss_w(self) -> float:
        """Lines and transformers of all feeders."""
        return sum(self.tree.loss_w.values())

    def stuck_w(self, bank: str) -> float:
        """True power of machines that a fault keeps from being commanded."""
        start, stop = self._span(bank)
        stuck = [row for row in self.faults if start <= row < stop]
        return float(self.fleet.power_w[stuck].sum()) if stuck else 0.0

    # -- machines ----------------------------------------------------------------------------------------------------

    def machine(self, bank: str, device: int) -> Machine:
        """The port of one ASIC, for the server that fronts it."""
        start, stop = self._span(bank)
        if not 0 <= device < stop - start:
            raise IndexError(f"bank {bank} has {stop - start} devices, not number {device}")
        return Machine(self, start + device, bank, device)

    def machines(self, bank: str) -> list[Machine]:
        start, stop = self._span(bank)
        return [Machine(self, row, bank, row - start) for row in range(start, stop)]

    def set_fault(self, bank: str, device: int, fault: DeviceFault | None) -> None:
        """Make one device lie, stall or break; None heals it."""
        row = self._span(bank)[0] + device
        if fault is None:
            self.faults.pop(row, None)
        else:
            self.faults[row] = fault

    def kill(self, bank: str, device: int) -> None:
        """One machine loses power."""
        self.fleet.kill(self._span(bank)[0] + device)

    def revive(self, bank: str, device: int) -> None:
        """One machine has power again and does what it was last told."""
        self.fleet.revive(self._span(bank)[0] + device)

    def note(
        self, bank: str, device: int, kind: CommandKind, *, raises: bool = False, power_w: float | None = None
    ) -> None:
        """A machine's command, for whoever listens."""
        if self.on_command is not None:
            at_ms = self._now_ms() if self._now_ms is not None else self.time_ms
            self.on_command(Commanded(at_ms, bank, device, kind, raises, power_w))

    # -- meters and sensors ------------------------------------------------------------------------------------------

    def meter(self, feeder: str) -> dict[str, float | None]:
        """What a perfect meter at a feeder's head shows: power in W, energy in Wh, voltage in mV, frequency in mHz."""
        energy_mj = self.ledger.feeders_mj.get(feeder, 0)
        return {
            "power_w": self.tree.power_w[feeder],
            "energy_import_wh": energy_mj / 3_600_000.0,
            "energy_export_wh": 0.0,
            "voltage_mv": NOMINAL_MV,
            "frequency_mhz": NOMINAL_MHZ,
        }

    def hall_supply_mc(self, hall: str) -> int:
        """What a perfect sensor in a hall's supply shows: thousandths of a degree Celsius."""
        return round(self.halls[hall].supply_c * 1_000)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _step(self, dt_ms: int) -> None:
        dt_s = dt_ms / 1_000
        self.time_ms += dt_ms
        ambient = self.ambient
        supply_c = np.array([hall.supply_c for hall in self.halls.values()])
        self.fleet.step(dt_s, supply_c)
        for part_id, partition in self.partitions.items():
            self._partition_w[part_id] = partition.advance_to(self.time_ms) / dt_s
        for hall, heat_w in zip(self.halls.values(), self._heat_w(), strict=True):
            hall.step(dt_s, heat_w, ambient)
        self._solve()
        self._book(dt_s)

    def _quiet(self) -> bool:
        steady = all(abs(hall.drift_k_per_s) < STEADY_K_PER_S for hall in self.halls.values())
        return steady and self.fleet.quiet

    def _heat_w(self) -> list[float]:
        """All electricity that machines and nodes take ends as heat in their hall."""
        heat_w = self.fleet.by_hall(self.fleet.power_w, len(self.halls))
        for part in self.plan.partitions:
            heat_w[self._hall_row[part.hall]] += self._partition_w[part.id]
        return [float(value) for value in heat_w]

    def _solve(self) -> None:
        self._bank_w = self.fleet.by_bank(self.fleet.power_w)
        load_w = {self.tree.main: self.plan.base_load_w}
        for row, bank in enumerate(self.plan.banks):
            load_w[bank.feeder] = load_w.get(bank.feeder, 0.0) + float(self._bank_w[row])
        for part in self.plan.partitions:
            load_w[part.feeder] = load_w.get(part.feeder, 0.0) + self._partition_w[part.id]
        for hall in self.halls.values():
            load_w[hall.plan.feeder] = load_w.get(hall.plan.feeder, 0.0) + hall.power_w
        self.tree.solve(load_w)

    def _book(self, dt_s: float) -> None:
        ledger = self.ledger
        for row, bank in enumerate(self.plan.banks):
            ledger.add(ledger.banks_mj, bank.id, float(self._bank_w[row]), dt_s)
        for part_id, power_w in self._partition_w.items():
            ledger.add(ledger.partitions_mj, part_id, power_w, dt_s)
        for hall in self.halls.values():
            ledger.add(ledger.cooling_mj, hall.plan.id, hall.power_w, dt_s)
        for feeder, power_w in self.tree.power_w.items():
            ledger.add(ledger.loss_mj, feeder, self.tree.loss_w[feeder], dt_s)
            ledger.add(ledger.feeders_mj, feeder, power_w, dt_s)
        ledger.base_mj += ledger.mj(self.plan.base_load_w, dt_s)
        ledger.main_mj += ledger.mj(self.main_power_w, dt_s)
        ledger.psu_loss_mj += ledger.mj(float(self.fleet.psu_loss_w().sum()), dt_s)
        ledger.hash_th += float(self.fleet.hashrate_ghs.sum()) / 1_000 * dt_s

    def _settle(self) -> None:
        """Begin as a site that has run for long, every machine on."""
        ambient = self.ambient
        for hall, heat_w in zip(self.halls.values(), self._heat_w(), strict=True):
            hall.settle(heat_w, ambient)
        fleet = self.fleet
        fleet.inlet_c = np.array([hall.supply_c for hall in self.halls.values()])[fleet.hall_of] + fleet.place_c
        fleet.chip_c = fleet.inlet_c + fleet.chip_rise_c * fleet.power_w / fleet.rated_w
        self._solve()

    def _span(self, bank: str) -> tuple[int, int]:
        row = self._bank_row[bank]
        return int(self.fleet.starts[row]), int(self.fleet.starts[row + 1])

    def rows(self, bank: str) -> slice:
        """Where a bank stands in the fleet's arrays."""
        return slice(*self._span(bank))

    @property
    def dead_count(self) -> int:
        return int(np.count_nonzero(self.fleet.state == DEAD))
