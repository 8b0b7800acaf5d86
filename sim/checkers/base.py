"""What the checkers share: the form of a violation, the allowances with their reasons, and how long things last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import ClassVar, Final

from contract.messages import BankPlate, Nameplate, Workload
from sim.checkers.world import SiteTruth, World

MAX_VIOLATIONS: Final = 1_000
"""Kept by one checker; further ones are counted."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A sentence of DESIGN's that did not hold."""

    invariant: int
    at_ms: int
    site: str
    detail: str

    def __str__(self) -> str:
        return f"invariant {self.invariant} at {self.at_ms} ms, {self.site}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Allowances:
    """What physics and ticks are allowed. Each is the least that a correct system needs; a harness may tighten them."""

    reaction_ms: int = 5_000
    """From a signal's acknowledgement to the agent's handler: a fast-path decision, and a link that delays by 2 s twice
    over."""
    poll_ms: int = 6_000
    """An agent's slowest look at its site: its report tick, and the read itself."""
    command_ms: int = 12_000
    """From the agent's verdict to the last device commanded: two tries, each with the driver's own deadline of 5 s."""
    limit_ms: int = 5_000
    """From a wake to the power limit that follows it, one more exchange: some firmwares take none while they stand, and
    draw little until they have booted."""
    fall_ms: int = 5_000
    """From a stop to sleep power: five time constants of a supply and its firmware; vendors publish 25 W in 5 s."""
    excursion_ms: int = 30_000
    """How long a feeder may stand above a cap that was met before: fans answering the weather, a job's start, one poll
    to see it, one shed to mend it."""
    lead_ms: int = 180_000
    """How long before an obligation or cap begins its shed may begin: the engine's lead and one minute's tick."""
    handover_ms: int = 60_000
    """A restarted agent holds its site as found this long, to hear of an order before it falls to the fail-safe."""
    clock_ms: int = 1_500
    """Between the harness's stamp and the daemon's own: one event loop turn, one tick, a rounding."""
    calm_ms: int = 900_000
    """An interlock's or overload's aftermath at the agent: it gives back power in steps of minutes."""
    cap_share: float = 0.01
    """Metered above a cap: devices draw a little off their nameplate between two looks at the meter."""
    said_share: float = 0.02
    """A shortfall that is stated is a forecast: at part load, cooling and losses are off what a PUE makes of them by
    up to this share of the main's limit."""
    power_share: float = 0.05
    """A bank's true power above its nameplate's: the spread of its devices, some of it one way."""
    frozen_share: float = 0.15
    """A stopped job's nodes above idle ones: memory is kept."""
    temp_c: float = 2.5
    """The hottest inlet above what a hall's one sensor shows, and that sensor's error."""
    ramp_burst_ms: int = 6_000
    """A ramp is granted in steps, one for each look at the site."""
    ticks_to_oracle: int = 5
    """Decisions after the last fault healed until the plan must equal the oracle's: reports, prices, receipts and
    minimum times have come in by then."""
    tick_ms: int = 60_000

    @property
    def shed_ms(self) -> int:
        """From a cap's acknowledgement to metered power within it."""
        return self.reaction_ms + self.poll_ms + self.command_ms + self.fall_ms

    @property
    def safe_ms(self) -> int:
        """From a lease's end to the last bank at its fail-safe."""
        return self.poll_ms + self.command_ms + self.fall_ms


class Checker(ABC):
    """Watches one invariant. Keeps violations: one for each episode, and a count of all."""

    invariant: ClassVar[int]

    def __init__(self, allow: Allowances | None = None) -> None:
        self.allow = allow or Allowances()
        self.violations: list[Violation] = []
        self.count = 0
        self._open: set[Hashable] = set()

    @abstractmethod
    def observe(self, world: World) -> None:
        """Look at one step. Called in order of time, every second or so, and after every event that matters."""

    def flag(self, key: Hashable, at_ms: int, site: str, detail: str) -> None:
        """A violation, unless the same one is still open."""
        if key in self._open:
            return
        self._open.add(key)
        self.count += 1
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(self.invariant, at_ms, site, detail))

    def clear(self, key: Hashable) -> None:
        """It holds again: the next violation is a new one."""
        self._open.discard(key)

    def expect(self, holds: bool, key: Hashable, at_ms: int, site: str, detail: str) -> None:
        """Flag or clear."""
        if holds:
            self.clear(key)
        else:
            self.flag(key, at_ms, site, detail)


@dataclass(slots=True)
class Spans:
    """Since when each thing is so, without a break."""

    since_ms: dict[Hashable, int] = field(default_factory=dict)

    def lasts_ms(self, key: Hashable, now_ms: int, *, so: bool) -> int:
        """How long it has been so; 0 where it is not."""
        if not so:
            self.since_ms.pop(key, None)
            return 0
        return now_ms - self.since_ms.setdefault(key, now_ms)


class Kept:
    """A level that must be met when it begins to bind, and then may be left only for an excursion."""

    def __init__(self, excursion_ms: int) -> None:
        self._excursion_ms = excursion_ms
        self._met: set[Hashable] = set()
        self._over = Spans()

    def look(self, key: Hashable, now_ms: int, *, binding: bool, over: bool) -> tuple[bool, int]:
        """Whether it is kept, and how long it has been exceeded."""
        lasts_ms = self._over.lasts_ms(key, now_ms, so=binding and over)
        if not binding:
            self._met.discard(key)
        elif not over:
            self._met.add(key)
        return not (binding and over) or (key in self._met and lasts_ms <= self._excursion_ms), lasts_ms


def parents(plate: Nameplate) -> dict[str, str | None]:
    return {feeder.id: feeder.parent for feeder in plate.feeders}


def path(plate: Nameplate, feeder: str) -> list[str]:
    """A feeder and everything above it, the main last."""
    above = parents(plate)
    out: list[str] = []
    node: str | None = feeder
    while node is not None:
        out.append(node)
        node = above[node]
    return out


def banks_under(plate: Nameplate, feeder: str) -> list[BankPlate]:
    return [bank for bank in plate.banks if feeder in path(plate, bank.feeder)]


def stuck_under_w(truth: SiteTruth, feeder: str) -> float:
    """What faults hold up under a feeder, with the cooling and losses that follow it."""
    return sum(truth.stuck_w(bank.id) * bank.pue_milli / 1_000 for bank in banks_under(truth.plate, feeder))


def shown_at_most_w(bank: BankPlate, level_w: int, allow: Allowances) -> float:
    """The most true power a bank shows that is commanded to a level, never below its idle power: the spread of its
    devices, half a device of rounding, and for HPC what frozen jobs keep."""
    idle_share = allow.frozen_share if bank.workload is Workload.HPC else allow.power_share
    most_w = max(level_w * (1 + allow.power_share), bank.idle_w * (1 + idle_share))
    return most_w + 0.5 * grain_w(bank)


def grain_w(bank: BankPlate) -> int:
    """The step of a bank's power: one device."""
    return bank.steps_w or max(bank.rated_w // max(bank.devices, 1), 1)
