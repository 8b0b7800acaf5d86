"""What the checkers read: the plant's true state and the log of all that crossed a wire. Never a daemon's belief.

The harness implements `World` and `SiteTruth` and fills `events` with what happened since the step before;
`sim.checkers.truth.PlantTruth` does most of a site from its `Plant`. All times are true site time in milliseconds: one
clock that never jumps, whatever the daemons' clocks show.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, Protocol

from contract.messages import Nameplate, Order, Receipt, Report
from controller.engine.model import Decision, Params, Snapshot
from sim.jobs import JobEvent


class CapSource(StrEnum):
    """What stands behind a cap."""

    BREAKER = "breaker"
    """A feeder's limit of the nameplate: always in force, and kept by the agent alone."""
    OVERRIDE = "override"
    """Ops: a cap on the site, a feeder or a bank."""
    OBLIGATION = "obligation"
    STOP = "stop"
    """An emergency stop or a lockout: a cap of 0 W on each bank that it covers."""


@dataclass(frozen=True, slots=True)
class Cap:
    """One limit that somebody set. It binds at a feeder, or at one bank where `bank` is given."""

    id: str
    source: CapSource
    limit_w: int
    feeder: str
    since_ms: int
    until_ms: int | None
    told_ms: int
    """When the leading controller took it in: its HTTP answer. For a breaker the site's beginning."""
    bank: str | None = None

    def active(self, at_ms: int) -> bool:
        return self.since_ms <= at_ms and (self.until_ms is None or at_ms < self.until_ms)


@dataclass(frozen=True, slots=True)
class Due:
    """A curtailment obligation as its sender knows it."""

    id: str
    target_w: int
    told_ms: int
    starts_ms: int
    ends_ms: int
    firm_too: bool = True
    """Whether it binds firm work too."""


class Energy(NamedTuple):
    """True energy since the beginning, in millijoules."""

    main_mj: int
    fed_mj: int
    """Banks, partitions, cooling, line losses and base load together."""
    loss_mj: int
    """Of which line losses."""
    roundings: int
    """Figures rounded so far; the sums close within half a millijoule of each."""


class SiteTruth(Protocol):
    """One site as it truly is at this step. Banks are named as in the nameplate, HPC partitions included."""

    @property
    def plate(self) -> Nameplate: ...
    @property
    def local(self) -> bool:
        """A person on site is in charge."""
        ...

    @property
    def agent_since_ms(self) -> int | None:
        """Since when the agent process runs without a break; None while it is down."""
        ...

    @property
    def linked_since_ms(self) -> int | None:
        """Since when agent, broker and a leading controller reach each other; None while they do not."""
        ...

    @property
    def sensed_since_ms(self) -> int | None:
        """Since when every meter and sensor of the site answers and tells the truth; None while one does not."""
        ...

    @property
    def price_age_ms(self) -> int | None:
        """Since the end of the last interval that the site's feed gave a price for; 0 within it, None if never."""
        ...

    @property
    def energy(self) -> Energy: ...
    @property
    def caps(self) -> Sequence[Cap]:
        """All that are in force now or were told for later, breakers included."""
        ...

    @property
    def dues(self) -> Sequence[Due]:
        """Obligations told, until they are over."""
        ...

    def feeder_w(self, feeder: str) -> float: ...
    def feeder_span_w(self, feeder: str) -> tuple[float, float]:
        """The least and the most that it carried since the checkers looked before."""
        ...

    def bank_w(self, bank: str) -> float: ...
    def stuck_w(self, bank: str) -> float:
        """True power of devices of this bank that a fault, or its aftermath, keeps from being commanded."""
        ...

    def firm_w(self, bank: str) -> float:
        """True power of running firm jobs, idle power of their nodes included; 0 for ASICs."""
        ...

    def commanded_w(self, bank: str) -> float:
        """What the bank's ASICs were last told to draw, in nameplate watts. For HPC its true power."""
        ...

    def steerable_w(self, bank: str) -> float:
        """The part of `commanded_w` on ASICs that run and are not stuck or dead: 0 once all of those were stopped."""
        ...

    def inlet_c(self, bank: str) -> float:
        """The hottest inlet."""
        ...

    def inlet_limit_c(self, bank: str) -> float | None:
        """Where the agent's configuration trips it; None where it does not."""
        ...

    def overridden(self, bank: str) -> bool:
        """Whether an operator's floor, hold or forced workload covers the bank, or did within the last minute."""
        ...

    def live_jobs(self, bank: str) -> Collection[str]:
        """Jobs the scheduler of an HPC bank holds now, in any state but finished."""
        ...


class World(Protocol):
    """Everything at one step."""

    @property
    def now_ms(self) -> int: ...
    @property
    def sites(self) -> Mapping[str, SiteTruth]: ...
    @property
    def events(self) -> Sequence[Event]:
        """What happened since the step before, in order of time."""
        ...

    @property
    def healed_ms(self) -> int | None:
        """When the last fault healed; None while any is in force or to come."""
        ...


@dataclass(frozen=True, slots=True)
class ReportSent:
    """An agent handed a report to its bus."""

    at_ms: int
    report: Report


@dataclass(frozen=True, slots=True)
class ReportHeard:
    """A controller's handler was given a report. `controller` names one incarnation of one process."""

    at_ms: int
    controller: str
    report: Report


@dataclass(frozen=True, slots=True)
class OrderPublished:
    """A controller handed an order to its bus."""

    at_ms: int
    controller: str
    order: Order


@dataclass(frozen=True, slots=True)
class OrderHeard:
    """An agent's handler was given an order: genuine, late, repeated or a stale leader's."""

    at_ms: int
    site: str
    order: Order


@dataclass(frozen=True, slots=True)
class ReceiptSent:
    """An agent handed a receipt to its bus."""

    at_ms: int
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class DeviceCommanded:
    """A device server received a command and did it, whatever it answered. Reads do not count."""

    at_ms: int
    site: str
    bank: str
    device: str
    raises: bool
    """Wakes, raises a limit, thaws a job or opens admission; else it stops, lowers, freezes or closes."""


@dataclass(frozen=True, slots=True)
class JobHappened:
    """Something happened to a job in a simulated scheduler."""

    site: str
    bank: str
    event: JobEvent
    notice_ms: int
    """The notice this job is owed."""
    by_owner: bool = False
    """The harness did it in the user's name."""


@dataclass(frozen=True)
class DecisionMade:
    """A decision as it stands in a journal: bytes, and what they say."""

    at_ms: int
    controller: str
    id: str
    leading: bool
    """Whether the controller then held the highest epoch: a stale twin is fenced, not judged by what it plans."""
    snapshot: bytes
    """JSON of a `Snapshot`."""
    params: bytes
    decision: bytes
    """JSON of a `Decision`."""

    @cached_property
    def frozen(self) -> Snapshot:
        return Snapshot.model_validate_json(self.snapshot)

    @cached_property
    def rules(self) -> Params:
        return Params.model_validate_json(self.params)

    @cached_property
    def decided(self) -> Decision:
        return Decision.model_validate_json(self.decision)


@dataclass(frozen=True, slots=True)
class OracleDecided:
    """What `decide` says of a snapshot built from the truth at this moment."""

    at_ms: int
    decision: Decision
    ours_usd: float | None = None
    theirs_usd: float | None = None
    """What the leading controller's newest decision and this one are worth over the plan's horizon, both by the truth;
    None where they are the same, or where it is not known."""


Event = (
    ReportSent
    | ReportHeard
    | OrderPublished
    | OrderHeard
    | ReceiptSent
    | DeviceCommanded
    | JobHappened
    | DecisionMade
    | OracleDecided
)
