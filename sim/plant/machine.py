"""The port of one ASIC: a light view of its row in the fleet's arrays (`sim.ports.AsicPort`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.plant.commands import CommandKind
from sim.plant.fleet import STATES
from sim.ports import AsicModel, AsicState, DeviceFault

if TYPE_CHECKING:
    from sim.plant.site import Plant


class Machine:
    """See `sim.ports.AsicPort`."""

    __slots__ = ("_bank", "_device", "_fleet", "_plant", "_row", "model", "serial")

    def __init__(self, plant: Plant, row: int, bank: str, device: int) -> None:
        self._plant = plant
        self._fleet = plant.fleet
        self._row = row
        self._bank = bank
        self._device = device
        self.model: AsicModel = plant.plan.banks[int(plant.fleet.bank_of[row])].model
        self.serial = f"{plant.plan.id}-{bank}-{device:05d}"

    @property
    def bank(self) -> str:
        return self._bank

    @property
    def state(self) -> AsicState:
        return STATES[self._fleet.state[self._row]]

    @property
    def true_power_w(self) -> float:
        """For meters and checkers; the control board does not know it."""
        return float(self._fleet.power_w[self._row])

    @property
    def reported_power_w(self) -> float:
        return float(self._fleet.power_w[self._row] * self._fleet.report[self._row])

    @property
    def hashrate_ghs(self) -> float:
        return float(self._fleet.hashrate_ghs[self._row])

    @property
    def inlet_temp_c(self) -> float:
        return float(self._fleet.inlet_c[self._row])

    @property
    def chip_temp_c(self) -> float:
        return float(self._fleet.chip_c[self._row])

    @property
    def power_limit_w(self) -> int:
        return round(float(self._fleet.limit_w[self._row]))

    @property
    def uptime_s(self) -> float:
        return max(float(self._fleet.up_s[self._row]), 0.0)

    @property
    def fault(self) -> DeviceFault | None:
        return self._plant.faults.get(self._row)

    @property
    def latency_s(self) -> float:
        return float(self._fleet.latency_s[self._row])

    def sleep(self) -> None:
        self._fleet.sleep(self._row)
        self._plant.note(self._bank, self._device, CommandKind.SLEEP)

    def wake(self) -> None:
        self._fleet.wake(self._row)
        self._plant.note(self._bank, self._device, CommandKind.WAKE, raises=True)

    def set_power_limit(self, power_w: int) -> None:
        before_w = self._fleet.limit_w[self._row]
        self._fleet.set_power_limit(self._row, power_w)
        raises = bool(self._fleet.limit_w[self._row] > before_w)
        self._plant.note(self._bank, self._device, CommandKind.LIMIT, raises=raises, power_w=power_w)

    def reboot(self) -> None:
        self._fleet.reboot(self._row)
        self._plant.note(self._bank, self._device, CommandKind.REBOOT)
