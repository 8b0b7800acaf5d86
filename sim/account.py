"""What a plant earned and spent, from its true state alone: the money side of the demo and of every comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from contract.units import GHS_PER_PHS, MS_PER_HOUR, W_PER_MW
from sim.plant import Plant

HOURS_PER_DAY = 24.0


@dataclass(slots=True)
class Account:
    """Sums since the start. Money in USD, energy in MWh."""

    hash_revenue_usd: float = 0.0
    hpc_revenue_usd: float = 0.0
    energy_cost_usd: float = 0.0
    hash_mwh: float = 0.0
    hpc_mwh: float = 0.0
    site_mwh: float = 0.0
    unpriced_ms: int = 0
    """Time without a known price: its energy is not in the cost."""

    @property
    def profit_usd(self) -> float:
        return self.hash_revenue_usd + self.hpc_revenue_usd - self.energy_cost_usd


class Bookkeeper:
    """Integrates one plant. Call `book` after each advance of the plant, at least once a price interval."""

    def __init__(
        self, plant: Plant, price_usd_per_mwh: Callable[[int], float | None], hashprice: Callable[[int], float]
    ) -> None:
        """Both take a wall time in ms; `hashprice` answers USD/PH/s/day."""
        self.account = Account()
        self._plant = plant
        self._price = price_usd_per_mwh
        self._hashprice = hashprice
        self._at_ms = plant.time_ms
        self._hash_th = plant.ledger.hash_th
        self._main_mj = plant.ledger.main_mj
        self._hpc_usd = self._delivered()

    def book(self) -> None:
        """Take in all that happened since the last call, at the price in force when it began."""
        ledger, account = self._plant.ledger, self.account
        hours = (self._plant.time_ms - self._at_ms) / MS_PER_HOUR
        if hours <= 0.0:
            return
        hashes_th, self._hash_th = ledger.hash_th - self._hash_th, ledger.hash_th
        phs_days = hashes_th * 1_000.0 / GHS_PER_PHS / 3_600.0 / HOURS_PER_DAY
        account.hash_revenue_usd += phs_days * self._hashprice(self._at_ms)
        used_mwh, self._main_mj = (ledger.main_mj - self._main_mj) / 1e3 / 3_600.0 / W_PER_MW, ledger.main_mj
        account.site_mwh += used_mwh
        price = self._price(self._at_ms)
        if price is None:
            account.unpriced_ms += self._plant.time_ms - self._at_ms
        else:
            account.energy_cost_usd += used_mwh * price
        delivered, self._hpc_usd = self._delivered() - self._hpc_usd, self._delivered()
        account.hpc_revenue_usd += delivered
        account.hash_mwh = sum(ledger.banks_mj.values()) / 1e3 / 3_600.0 / W_PER_MW
        account.hpc_mwh = sum(ledger.partitions_mj.values()) / 1e3 / 3_600.0 / W_PER_MW
        self._at_ms = self._plant.time_ms

    def _delivered(self) -> float:
        return sum(partition.delivered.value_usd for partition in self._plant.partitions.values())
