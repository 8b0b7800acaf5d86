"""The last two hours of every site, sampled twice a minute, for the console's time axis.

Kept in memory alone: after a restart it begins anew, and the journal and Prometheus have the rest. A site takes some
6 kB; more sites than `SITES_MAX` are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.clock import Clock
from contract.messages import Workload
from controller.state import Fleet, SiteState

EVERY_MS: Final = 30_000
SAMPLES: Final = 240
SITES_MAX: Final = 5_000
_ROWS: Final = SAMPLES + 1
_SLICE: Final = 16
FIELDS: Final = ("metered_w", "hash_w", "hpc_w", "cap_w", "planned_w", "price_usd_per_mwh")

Price = Callable[[str, int], float | None]
"""(site, wall ms) to USD/MWh."""


class History:
    """Rings of samples by site. One writer, the event loop's thread."""

    def __init__(self, fleet: Fleet, price: Price, clock: Clock) -> None:
        self._fleet, self._price, self._clock = fleet, price, clock
        self._rings: dict[str, NDArray[np.float32]] = {}
        self._at_ms = np.zeros(_ROWS, np.int64)
        self._taken = 0

    async def run(self) -> None:
        """Sample until cancelled, a slice of the sites at a time: orders do not wait for it."""
        while True:
            await self._clock.sleep_ms(EVERY_MS - self._clock.wall_ms() % EVERY_MS)
            for _ in self._sampling():
                await asyncio.sleep(0)

    def sample(self) -> None:
        """Take one sample of every site, at once."""
        for _ in self._sampling():
            pass

    def _sampling(self) -> Iterator[None]:
        """One sample, with a stop after each slice. Its row is one that nobody reads until all of it is there."""
        now_ms, place = self._clock.wall_ms(), self._taken % _ROWS
        states = list(self._fleet)
        for site in self._rings.keys() - {state.site for state in states}:
            self._rings[site][place] = np.nan
        for count, state in enumerate(states, start=1):
            ring = self._rings.get(state.site)
            if ring is None and len(self._rings) < SITES_MAX:
                ring = self._rings[state.site] = np.full((_ROWS, len(FIELDS)), np.nan, np.float32)
            if ring is not None:
                ring[place] = _values(state, self._price(state.site, now_ms))
            if count % _SLICE == 0:
                yield
        self._at_ms[place] = now_ms
        self._taken += 1

    def of(self, site: str, after_ms: int = 0) -> tuple[list[int], dict[str, list[float | None]]]:
        """Times in epoch milliseconds, oldest first, and of each field a value or None at each; those after a time."""
        kept = min(self._taken, SAMPLES)
        order = [(self._taken - kept + k) % _ROWS for k in range(kept)]
        order = [place for place in order if self._at_ms[place] > after_ms]
        count = len(order)
        at_ms = [int(at) for at in self._at_ms[order]]
        ring = self._rings.get(site)
        if ring is None:
            return at_ms, {name: [None] * count for name in FIELDS}
        columns = ring[order].T.tolist()
        told = {
            name: [None if value != value else round(value, 2) for value in column]
            for name, column in zip(FIELDS, columns, strict=True)
        }
        return at_ms, told


def _values(state: SiteState, price: float | None) -> tuple[float, ...]:
    decision = state.decided.decision if state.decided else None
    known = (
        state.main_power_w(),
        _power_w(state, Workload.HASH),
        _power_w(state, Workload.HPC),
        decision.cap_w if decision else None,
        decision.planned_w if decision else None,
        price,
    )
    return tuple(float("nan") if value is None else float(value) for value in known)


def _power_w(state: SiteState, workload: Workload) -> int | None:
    """Reported power of a workload; None where nothing of it is known."""
    if state.report is None or state.nameplate is None:
        return None
    banks = {bank.id for bank in state.nameplate.banks if bank.workload is workload}
    known = [bank.power_w for bank in state.report.banks if bank.id in banks and bank.power_w is not None]
    return sum(known) if known else None
