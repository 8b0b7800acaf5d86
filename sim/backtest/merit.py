"""Merit order within a site's limits: who draws how much now, at a given price, whatever the price was or will be.

What the threshold policies have in common, and no more than a good plant engineer does by hand each interval: feed what
must run, then the worthiest megawatt first, at the level where the last one still earns its energy. Running machines
are kept before others are started. Values are USD per MWh at the main meter.

This runs once an interval for every policy and every set of thresholds tried: jobs of one kind are handled together,
and there are no arrays in it, for they are too short to pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from sim.backtest.model import F8, Action, HashBank, Job, Site
from sim.backtest.physics import HOURS_PER_DAY, at_degrees, feeder_paths, firm_usd_per_mwh

NEVER_LOOKS: Final = -1e9
"""A price below every value: whoever passes it takes all that fits."""
_MARGIN_MW: Final = 1e-7
"""Kept from every limit, for rounding."""


class Wish(NamedTuple):
    """A job that may run now. Fields in the order in which wishes are sorted."""

    job: int
    nodes: int
    kind: int
    due: bool
    """Firm, or it can wait no longer: the penalty of missing its deadline is at stake too."""
    running: bool
    must: bool
    """Firm and running, or within its minimum run time: before everything that can be switched."""


class Kind(NamedTuple):
    """What jobs of one class in one partition have in common, per node."""

    partition: int
    level_mw: tuple[float, ...]
    level_rate: tuple[float, ...]
    usd_per_h: float
    stake: float
    """Worth of its work with the penalty, as a multiple of without."""


@dataclass(slots=True)
class _Group:
    """Running jobs of one kind, all at the same level."""

    kind: Kind
    values: list[float]
    """Of each piece above the first level."""
    nodes: int = 0
    taken: list[float] = field(default_factory=list)
    """MW of each such piece."""
    members: list[Wish] = field(default_factory=list)


class Merit:
    """Fills one site. Not thread-safe: it holds the room that is left while it fills."""

    def __init__(self, site: Site, jobs: Sequence[Job]) -> None:
        self._site = site
        self._paths = feeder_paths(site)
        self._firm = sorted(range(len(site.firm_loads)), key=lambda f: -firm_usd_per_mwh(site.firm_loads[f]))
        self.kinds, self.kind_of = _kinds(jobs)
        self._at: tuple[float | None, float] | None = None
        self._pue: list[float] = []
        self._cooling: list[float] = []
        self._bank_values: list[list[float]] = []
        self._bank_pieces: list[tuple[float, int, int]] = []
        """(minus USD per MWh, bank, level), the worthiest first."""
        self._bank_spans = [
            (bank.feeder, bank.hall, [b - a for a, b in pairwise((0.0, *bank.level_mw))]) for bank in site.banks
        ]
        self._kind_values: list[tuple[list[float], list[float]]] = []
        self._cap = self._base_cap = 0.0
        self._hall: list[float] = []
        self._feeder: list[float] = []
        self._base_hall: list[float] = []
        self._base_feeder: list[float] = []

    def look(self, ambient_c: float | None, hashprice: float) -> None:
        """Take note of the weather and the hashprice; what follows from them is kept until they change."""
        if self._at == (ambient_c, hashprice):
            return
        self._at = (ambient_c, hashprice)
        self._pue = [at_degrees(hall.pue_points, ambient_c) for hall in self._site.halls]
        self._cooling = [at_degrees(hall.limit_points, ambient_c) for hall in self._site.halls]
        self._bank_values = [_bank_values(bank, hashprice, self._pue[bank.hall]) for bank in self._site.banks]
        self._bank_pieces = sorted(
            (-value, b, k) for b, values in enumerate(self._bank_values) for k, value in enumerate(values)
        )
        self._kind_values = []
        self._clear()
        for kind in self.kinds:
            plain = _kind_values(kind, self._pue[self._site.partitions[kind.partition].hall])
            self._kind_values.append((plain, [value * kind.stake for value in plain]))

    def bank_value(self, bank: int) -> float:
        """What the bank earns per MWh at its most efficient level: its break-even price."""
        return self._bank_values[bank][0]

    def job_value(self, kind: int, due: bool) -> float:
        """What a job earns per MWh at its most efficient level."""
        return self._kind_values[kind][due][0]

    def fill(
        self, cap_mw: float, price: float, banks: list[int], on: list[int], locked: list[bool], wishes: list[Wish]
    ) -> Action:
        """The dispatch at `price`. `banks` are those that are wanted; locked ones are kept as they are."""
        self._cap = cap_mw + self._base_cap
        self._hall, self._feeder = self._base_hall[:], self._base_feeder[:]
        bank_mw = [0.0] * len(self._site.banks)
        free = [partition.nodes for partition in self._site.partitions]
        groups: dict[tuple[int, bool], _Group] = {}
        firm_mw = self._must(bank_mw, on, locked, wishes, free, groups)
        # A start waits behind everything that runs; a job that may start competes as if it ran, for it is due.
        units = [(self._bank_values[b][0], -1 - b, False) for b in banks if on[b] and not locked[b]]
        heaps: dict[tuple[int, bool, bool], list[Wish]] = {}
        for wish in wishes:
            if not wish.must:
                heaps.setdefault((wish.kind, wish.due, wish.running), []).append(wish)
        units += [(self._kind_values[kind][due][0], kind, due) for kind, due, running in heaps if running]
        units += [(self._kind_values[kind][due][0], kind, due) for kind, due, running in heaps if not running]
        units.sort(key=lambda unit: -unit[0])
        for _, kind, due in units:
            if kind < 0:
                self._start_bank(-1 - kind, bank_mw)
                continue
            for running in (True, False):
                self._start_jobs(heaps.pop((kind, due, running), ()), free, groups)
        self._levels([b for b in banks if not on[b] and not locked[b]], price, bank_mw, groups)
        return Action(np.array(bank_mw), _powers(groups), firm_mw)

    def _clear(self) -> None:
        """All the room there is, less what nobody decides about."""
        site = self._site
        self._cap = -site.base_load_mw - _MARGIN_MW
        self._hall = [limit - _MARGIN_MW for limit in self._cooling]
        self._feeder = [feeder.limit_mw - _MARGIN_MW for feeder in site.feeders]
        for bank in site.banks:
            self._use(bank.feeder, bank.hall, bank.idle_mw)
        for partition in site.partitions:
            self._use(partition.feeder, partition.hall, partition.nodes * partition.node_idle_mw)
        self._base_cap, self._base_hall, self._base_feeder = self._cap, self._hall, self._feeder

    def _must(
        self,
        bank_mw: list[float],
        on: list[int],
        locked: list[bool],
        wishes: list[Wish],
        free: list[int],
        groups: dict[tuple[int, bool], _Group],
    ) -> F8 | None:
        """Locked banks and firm jobs whatever the room, then firm load with what is left; None where all is served."""
        site = self._site
        for b, bank in enumerate(site.banks):
            if locked[b] and on[b]:
                self._use(bank.feeder, bank.hall, bank.level_mw[0] - bank.idle_mw)
                bank_mw[b] = bank.level_mw[0]
        for wish in wishes:
            if wish.must:
                self._take_jobs([wish], wish.nodes, free, groups)
        if not site.firm_loads:
            return None
        served = [0.0] * len(site.firm_loads)
        short = False
        for f in self._firm:
            load = site.firm_loads[f]
            served[f] = self._grant(load.feeder, load.hall, load.mw)
            short = short or served[f] < load.mw
        return np.array(served) if short else None

    def _levels(
        self, starts: list[int], price: float, bank_mw: list[float], groups: dict[tuple[int, bool], _Group]
    ) -> None:
        """Higher levels and banks that start, the worthiest MWh first, down to the price."""
        table = list(groups.values())
        pieces = self._bank_pieces
        if table:
            more = [(-value, -1 - g, k) for g, group in enumerate(table) for k, value in enumerate(group.values)]
            pieces = sorted(pieces + more)
        for negative, who, k in pieces:
            if -negative <= price or self._cap <= _MARGIN_MW:
                break
            if who < 0:
                group = table[-1 - who]
                part, levels = self._site.partitions[group.kind.partition], group.kind.level_mw
                group.taken[k] = self._grant(part.feeder, part.hall, group.nodes * (levels[k + 1] - levels[k]))
            elif k == 0:
                if who in starts:
                    self._start_bank(who, bank_mw)
            elif bank_mw[who] > 0.0:
                feeder, hall, spans = self._bank_spans[who]
                bank_mw[who] += self._grant(feeder, hall, spans[k])

    def _start_bank(self, b: int, bank_mw: list[float]) -> None:
        bank = self._site.banks[b]
        least = bank.level_mw[0] - bank.idle_mw
        if self._room(bank.feeder, bank.hall) >= least:
            self._use(bank.feeder, bank.hall, least)
            bank_mw[b] = bank.level_mw[0]

    def _start_jobs(self, wishes: Sequence[Wish], free: list[int], groups: dict[tuple[int, bool], _Group]) -> None:
        """Jobs of one kind in their order: all at once where there is room for all, else one by one as they fit."""
        if not wishes:
            return
        kind = self.kinds[wishes[0].kind]
        part = self._site.partitions[kind.partition]
        room = self._room(part.feeder, part.hall)
        nodes = sum(wish.nodes for wish in wishes)
        if nodes <= free[kind.partition] and nodes * kind.level_mw[0] <= room:
            self._take_jobs(wishes, nodes, free, groups)
            return
        fitting, nodes = [], 0
        for wish in wishes:
            more = nodes + wish.nodes
            if more <= free[kind.partition] and more * kind.level_mw[0] <= room:
                fitting.append(wish)
                nodes = more
        if fitting:
            self._take_jobs(fitting, nodes, free, groups)

    def _take_jobs(
        self, wishes: Sequence[Wish], nodes: int, free: list[int], groups: dict[tuple[int, bool], _Group]
    ) -> None:
        number, due = wishes[0].kind, wishes[0].due
        kind = self.kinds[number]
        part = self._site.partitions[kind.partition]
        free[kind.partition] -= nodes
        self._use(part.feeder, part.hall, nodes * kind.level_mw[0])
        group = groups.get((number, due))
        if group is None:
            values = self._kind_values[number][due][1:]
            group = groups[number, due] = _Group(kind, values, taken=[0.0] * len(values))
        group.nodes += nodes
        group.members += wishes

    def _room(self, feeder: int, hall: int) -> float:
        """MW of a unit there that still fit; negative where a limit is already exceeded."""
        room = self._cap / self._pue[hall]
        if self._hall[hall] < room:
            room = self._hall[hall]
        for f in self._paths[feeder]:
            if self._feeder[f] < room:
                room = self._feeder[f]
        return room

    def _use(self, feeder: int, hall: int, mw: float) -> None:
        self._cap -= mw * self._pue[hall]
        self._hall[hall] -= mw
        for f in self._paths[feeder]:
            self._feeder[f] -= mw

    def _grant(self, feeder: int, hall: int, want: float) -> float:
        """As much of `want` as fits."""
        room = self._room(feeder, hall)
        got = min(want, room)
        if got <= 0.0:
            return 0.0
        self._use(feeder, hall, got)
        return got


def _kinds(jobs: Sequence[Job]) -> tuple[list[Kind], list[int]]:
    """The kinds of jobs there are, and which one each job is of."""
    known: dict[Kind, int] = {}
    of = []
    for job in jobs:
        worth = job.usd_per_h * job.work_h
        kind = Kind(
            partition=job.partition,
            level_mw=tuple(round(mw / job.nodes, 12) for mw in job.level_mw),
            level_rate=job.level_rate,
            usd_per_h=round(job.usd_per_h / job.nodes, 9),
            stake=round(1.0 + job.miss_usd / worth, 6) if worth > 0 else 1.0,
        )
        of.append(known.setdefault(kind, len(known)))
    return list(known), of


def _kind_values(kind: Kind, pue: float) -> list[float]:
    """USD per MWh at the meter of the first level, and of each piece above it."""
    powers, rates = (0.0, *kind.level_mw), (0.0, *kind.level_rate)
    return [
        kind.usd_per_h * (r1 - r0) / (max(p1 - p0, 1e-12) * pue)
        for (p0, p1), (r0, r1) in zip(pairwise(powers), pairwise(rates), strict=True)
    ]


def _bank_values(bank: HashBank, hashprice: float, pue: float) -> list[float]:
    """USD per MWh at the meter of the first level over idle, and of each piece above it."""
    usd_h = hashprice / HOURS_PER_DAY
    powers, phs = (bank.idle_mw, *bank.level_mw), (0.0, *bank.level_phs)
    return [
        usd_h * (h1 - h0) / (max(p1 - p0, 1e-9) * pue)
        for (p0, p1), (h0, h1) in zip(pairwise(powers), pairwise(phs), strict=True)
    ]


def _powers(groups: dict[tuple[int, bool], _Group]) -> dict[int, float]:
    """Each job's power: per node its first level and its share of every piece that the group got."""
    out: dict[int, float] = {}
    for group in groups.values():
        levels = group.kind.level_mw
        per_node = min(levels[0] + sum(group.taken) / group.nodes, levels[-1])
        for wish in group.members:
            out[wish.job] = wish.nodes * per_node
    return out
