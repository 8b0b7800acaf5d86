"""Merit order within a site's limits: who draws how much now, at a given price, whatever the price was or will be.

What the threshold policies have in common, and no more than a good plant engineer does by hand each interval: feed what
must run, then the worthiest megawatt first, at the level where the last one still earns its energy. Running machines
are kept before others are started. Values are USD per MWh at the main meter.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from sim.backtest.model import F8, Action, HashBank, Job, Site
from sim.backtest.physics import HOURS_PER_DAY, at_ambient, feeder_paths, firm_usd_per_mwh

NEVER_LOOKS: Final = -1e9
"""A price below every value: whoever passes it takes all that fits."""
Key = tuple[int, bool, float, float]
_MARGIN_MW: Final = 1e-7
"""Kept from every limit, for rounding."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A job that may run now, and what its work is worth."""

    index: int
    job: Job
    worth: float
    """1 where it can wait, more where the penalty of missing its deadline is at stake too."""
    running: bool
    must: bool
    """Firm and running, or within its minimum run time: before everything that can be switched."""


@dataclass(slots=True)
class _Group:
    """Jobs of one kind in one partition: their curves have one shape, so they share one level."""

    values: tuple[float, ...]
    """Of each piece above the first level."""
    spans: list[float]
    """MW of each such piece, over all its jobs."""
    taken: list[float]
    hall: int
    feeder: int
    members: list[tuple[int, Job]]


class Merit:
    """Fills one site. Not thread-safe: it holds the room that is left while it fills."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._paths = feeder_paths(site)
        self._firm = sorted(range(len(site.firm_loads)), key=lambda f: -firm_usd_per_mwh(site.firm_loads[f]))
        self._at: tuple[float | None, float] | None = None
        self._pue: list[float] = []
        self._cooling: list[float] = []
        self._bank_values: list[list[float]] = []
        self._cap = 0.0
        self._hall: list[float] = []
        self._feeder: list[float] = []

    def look(self, ambient_c: float | None, hashprice: float) -> None:
        """Take note of the weather and the hashprice; what follows from them is kept until they change."""
        if self._at == (ambient_c, hashprice):
            return
        self._at = (ambient_c, hashprice)
        self._pue = [float(at_ambient(hall.pue_points, ambient_c)) for hall in self._site.halls]
        self._cooling = [float(at_ambient(hall.limit_points, ambient_c)) for hall in self._site.halls]
        self._bank_values = [_bank_values(bank, hashprice, self._pue[bank.hall]) for bank in self._site.banks]

    def bank_value(self, bank: int) -> float:
        """What the bank earns per MWh at its most efficient level: its break-even price."""
        return self._bank_values[bank][0]

    def job_value(self, job: Job) -> float:
        """What a job earns per MWh at its most efficient level, its penalty aside."""
        hall = self._site.partitions[job.partition].hall
        return job.usd_per_h * job.level_rate[0] / (max(job.level_mw[0], 1e-9) * self._pue[hall])

    def fill(
        self, cap_mw: float, price: float, banks: list[int], on: list[int], locked: list[bool], wishes: list[Wish]
    ) -> Action:
        """The dispatch at `price`. `banks` are those that are wanted; locked ones are kept as they are."""
        site = self._site
        self._open(cap_mw)
        bank_mw = [0.0] * len(site.banks)
        free = [partition.nodes for partition in site.partitions]
        groups: dict[Key, _Group] = {}
        firm_mw = self._must(bank_mw, on, locked, wishes, free, groups)
        # A start waits behind everything that runs; a job that may start competes as if it ran, for it is due.
        units: list[tuple[float, int, Wish | None]] = [
            (self._bank_values[b][0], b, None) for b in banks if on[b] and not locked[b]
        ]
        units += [(self._wish_value(wish), -1, wish) for wish in wishes if not wish.must]
        units.sort(key=lambda unit: -unit[0])
        for _, b, wish in units:
            if wish is None:
                self._start_bank(b, bank_mw)
            else:
                self._start_job(wish, free, groups)
        self._levels([b for b in banks if not on[b] and not locked[b]], price, bank_mw, groups)
        return Action(np.array(bank_mw), _powers(groups), firm_mw)

    def _open(self, cap_mw: float) -> None:
        """All the room there is, less what nobody decides about."""
        site = self._site
        self._cap = cap_mw - site.base_load_mw - _MARGIN_MW
        self._hall = [limit - _MARGIN_MW for limit in self._cooling]
        self._feeder = [feeder.limit_mw - _MARGIN_MW for feeder in site.feeders]
        for bank in site.banks:
            self._use(bank.feeder, bank.hall, bank.idle_mw)
        for partition in site.partitions:
            self._use(partition.feeder, partition.hall, partition.nodes * partition.node_idle_mw)

    def _must(
        self,
        bank_mw: list[float],
        on: list[int],
        locked: list[bool],
        wishes: list[Wish],
        free: list[int],
        groups: dict[Key, _Group],
    ) -> F8 | None:
        """Locked banks and firm jobs whatever the room, then firm load with what is left; None where all is served."""
        site = self._site
        for b, bank in enumerate(site.banks):
            if locked[b] and on[b]:
                self._use(bank.feeder, bank.hall, bank.level_mw[0] - bank.idle_mw)
                bank_mw[b] = bank.level_mw[0]
        for wish in wishes:
            if wish.must and free[wish.job.partition] >= wish.job.nodes:
                self._take_job(wish, free, groups)
        if not site.firm_loads:
            return None
        served = np.zeros(len(site.firm_loads))
        for f in self._firm:
            load = site.firm_loads[f]
            served[f] = min(max(self._room(load.feeder, load.hall), 0.0), load.mw)
            self._use(load.feeder, load.hall, served[f])
        return None if all(served[f] >= load.mw for f, load in enumerate(site.firm_loads)) else served

    def _levels(self, starts: list[int], price: float, bank_mw: list[float], groups: dict[Key, _Group]) -> None:
        """Higher levels and banks that start, the worthiest MWh first, down to the price."""
        table = list(groups.values())
        pieces: list[tuple[float, int, int]] = []
        for b in starts:
            pieces += [(value, b, k) for k, value in enumerate(self._bank_values[b]) if value > price]
        for b, mw in enumerate(bank_mw):
            if mw > 0:
                pieces += [(v, b, k) for k, v in enumerate(self._bank_values[b]) if k > 0 and v > price]
        for g, group in enumerate(table):
            pieces += [(value, -1 - g, k) for k, value in enumerate(group.values) if value > price]
        pieces.sort(key=lambda piece: -piece[0])
        for _, who, k in pieces:
            if who < 0:
                group = table[-1 - who]
                group.taken[k] = self._grant(group.feeder, group.hall, group.spans[k])
            elif k == 0:
                self._start_bank(who, bank_mw)
            elif bank_mw[who] > 0:
                bank = self._site.banks[who]
                bank_mw[who] += self._grant(bank.feeder, bank.hall, bank.level_mw[k] - bank.level_mw[k - 1])

    def _wish_value(self, wish: Wish) -> float:
        return self.job_value(wish.job) * wish.worth

    def _start_bank(self, b: int, bank_mw: list[float]) -> None:
        bank = self._site.banks[b]
        least = bank.level_mw[0] - bank.idle_mw
        if self._room(bank.feeder, bank.hall) >= least:
            self._use(bank.feeder, bank.hall, least)
            bank_mw[b] = bank.level_mw[0]

    def _start_job(self, wish: Wish, free: list[int], groups: dict[Key, _Group]) -> None:
        part = self._site.partitions[wish.job.partition]
        if free[wish.job.partition] < wish.job.nodes:
            return
        if self._room(part.feeder, part.hall) >= wish.job.level_mw[0]:
            self._take_job(wish, free, groups)

    def _take_job(self, wish: Wish, free: list[int], groups: dict[Key, _Group]) -> None:
        job = wish.job
        part = self._site.partitions[job.partition]
        free[job.partition] -= job.nodes
        self._use(part.feeder, part.hall, job.level_mw[0])
        spans = [b - a for a, b in pairwise(job.level_mw)]
        gains = [b - a for a, b in pairwise(job.level_rate)]
        usd = job.usd_per_h * wish.worth
        pue = self._pue[part.hall]
        values = tuple(usd * gain / (max(span, 1e-12) * pue) for gain, span in zip(gains, spans, strict=True))
        key = (job.partition, job.firm, round(values[0], 4), round(values[-1], 4))
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(values, [0.0] * len(spans), [0.0] * len(spans), part.hall, part.feeder, [])
        group.members.append((wish.index, job))
        for k, span in enumerate(spans):
            group.spans[k] += span

    def _room(self, feeder: int, hall: int) -> float:
        """MW of a unit there that still fit; negative where a limit is already exceeded."""
        room = min(self._cap / self._pue[hall], self._hall[hall])
        for f in self._paths[feeder]:
            room = min(room, self._feeder[f])
        return room

    def _use(self, feeder: int, hall: int, mw: float) -> None:
        self._cap -= mw * self._pue[hall]
        self._hall[hall] -= mw
        for f in self._paths[feeder]:
            self._feeder[f] -= mw

    def _grant(self, feeder: int, hall: int, want: float) -> float:
        """As much of `want` as fits."""
        got = min(self._room(feeder, hall), want)
        if got <= 0.0:
            return 0.0
        self._use(feeder, hall, got)
        return got


def _powers(groups: dict[Key, _Group]) -> dict[int, float]:
    """Each job's power: its first level, and of every piece the share that its group got."""
    out: dict[int, float] = {}
    for group in groups.values():
        share = [taken / span if span > 0 else 0.0 for taken, span in zip(group.taken, group.spans, strict=True)]
        for index, job in group.members:
            mw = job.level_mw[0]
            for k, (low, high) in enumerate(pairwise(job.level_mw)):
                mw += share[k] * (high - low)
            out[index] = min(mw, job.level_mw[-1])
    return out


def _bank_values(bank: HashBank, hashprice: float, pue: float) -> list[float]:
    """USD per MWh at the meter of the first level over idle, and of each piece above it."""
    usd_h = hashprice / HOURS_PER_DAY
    powers, phs = (bank.idle_mw, *bank.level_mw), (0.0, *bank.level_phs)
    return [
        usd_h * (h1 - h0) / (max(p1 - p0, 1e-9) * pue)
        for (p0, p1), (h0, h1) in zip(pairwise(powers), pairwise(phs), strict=True)
    ]
