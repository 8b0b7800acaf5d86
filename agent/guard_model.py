"""What the guard knows, sees and says. Immutable, and nothing else; the rules are in `agent.guard`.

Times are milliseconds of the agent's monotonic clock; a time before the agent's start may be negative. Banks and
feeders are known by their place in the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from agent.limits import FeederTree
from contract.messages import Interlock, Mode, Order, Workload
from contract.reasons import InterlockKind, ReceiptReason

OnLost = Literal["hold", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BankLimits:
    """The local limits of one bank. Powers are of the whole bank."""

    id: str
    workload: Workload
    rated_w: int
    floor_w: int
    """What it draws with everything stopped that can be."""
    least_run_w: int
    """The least setpoint at which anything runs."""
    fail_safe_w: int
    min_up_ms: int = 0
    """How long it stays up once it is, where nothing but economics would have it stop."""
    min_down_ms: int = 0
    ramp_up_w_per_s: int = 0
    """0 means no limit."""
    j_per_th: float = 0.0
    """Nominal efficiency, for shedding without a ladder: the highest goes first, HPC (0) last."""
    max_inlet_mc: int | None = None
    max_chip_mc: int | None = None
    hysteresis_mc: int = 5_000
    cool_ms: int = 300_000
    """The least time a bank stays tripped after it was last too hot."""
    inlet_sensor: bool = False
    """Whether a sensor of its own watches its inlet; only then can that sensor be lost."""
    on_sensor_lost: OnLost = "hold"
    sensor_lost_after_ms: int = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPlan:
    """The site as the guard sees it; compiled from the configuration once."""

    site: str
    tree: FeederTree
    banks: tuple[BankLimits, ...]
    fail_safe_after_ms: int = 0
    stagger_ms: int = 0
    """Banks that start are spread over this span by chance."""
    handover_ms: int = 60_000
    """How long the site is held as found where there is no lease yet: a first start, or the end of local control."""
    settle_ms: int = 15_000
    """What a shed may take to show at a meter, before more is shed for the same excess."""
    overload_after_ms: int = 3_000
    """How long a metered feeder may be over its limit before banks are shed for it."""
    trip_milli: int = 1_100
    """At this many thousandths of its limit a feeder trips everything under it ..."""
    trip_after_ms: int = 5_000
    """... once it has been there for this long."""
    trip_hold_ms: int = 300_000
    recover_ms: int = 300_000
    """How long a feeder must be calm before one step of what an overload took is given back; twice as long after each
    relapse, up to sixteen times, so that what does not fit is not switched off and on for ever."""
    on_meter_lost: Literal["hold", "plan"] = "hold"
    """Without its meter, a metered feeder's banks are not raised (`hold`), or planned watts alone decide (`plan`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankFacts:
    """What is measured of one bank; None is unknown or stale."""

    upper_w: int | None = None
    """The most it may draw now: metered, or all devices' own figures with those unread at their rated power."""
    known_w: int | None = None
    """What it draws, where its own meter or its scheduler says so; devices' estimates do not count."""
    standing_w: int | None = None
    """What it takes, by the figures that plans are made with, where everything stays as it is."""
    fell_ms: int | None = None
    """When a device of it was last seen to have stopped."""
    runs: bool | None = None
    """Whether any device of it is to run; None where that is not known, or not its agent's to say."""
    turned_ms: int | None = None
    """When `runs` last changed; None where it has not since the agent's start."""
    keeps_w: int | None = None
    """The least setpoint that does not stop all of it, as its devices stand: what a silent one may draw counts. Told
    while its minimum up time lasts; None where nothing runs, or nobody asks."""
    inlet_mc: int | None = None
    chip_mc: int | None = None
    quiet: bool = False
    """Every device that answers is stopped: a missing chip temperature is then no surprise."""


@dataclass(frozen=True, slots=True)
class FeederFacts:
    """The newest reading of a feeder's meter; None where it has none or the reading is stale."""

    power_w: int | None = None
    read_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is measured, in the plan's order."""

    banks: tuple[BankFacts, ...]
    feeders: tuple[FeederFacts, ...]


@dataclass(frozen=True, slots=True)
class Trip:
    """An interlock in force on one bank."""

    kind: InterlockKind
    since_ms: int
    """When its cause was last seen."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankState:
    """What the guard remembers of one bank."""

    level_w: int
    """What it was last held at."""
    occupied_w: int
    """What it still takes of its feeders: a bank that was lowered, until it is seen to have fallen."""
    on: bool
    """Held at a level at which something runs, and something of it does."""
    since_ms: int
    """Since when `on` is what it is."""
    above_ms: int | None = None
    """Since when it is seen to draw more than it is held at."""
    standing_w: int = 0
    """What its feeders count it at although it is held lower: it has had its time to fall, and has not. 0 where it
    follows."""
    ramp_ms: int | None = None
    """Up to when its present rise has been granted."""
    start_ms: int | None = None
    """When its staggered start is due."""
    sensor_ms: int = 0
    """When its inlet was last known."""
    trips: tuple[Trip, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeederState:
    """What the guard remembers of one metered feeder."""

    over_ms: int | None = None
    trip_ms: int | None = None
    calm_ms: int | None = None
    acted_ms: int | None = None
    lowered_ms: int | None = None
    """When banks under it were last lowered by an amount that shows; its meter follows a little later."""
    derate_w: int = 0
    """What its limit is lowered by, because planned watts fell short of metered ones."""
    relapses: int = 0
    """How often in a row it was over again soon after something was given back; each doubles the calm that is asked."""
    given_ms: int | None = None
    """When something was last given back since it was last lowered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """Everything the guard carries from one event to the next."""

    banks: tuple[BankState, ...]
    feeders: tuple[FeederState, ...]
    epoch: int = 0
    seq: int | None = None
    """The highest of `epoch` seen; None where none has been."""
    order: Order | None = None
    """The last one accepted. Its cap and its ladder stay in force when its lease has run out."""
    arrived_ms: int = 0
    lease_until_ms: int | None = None
    hold_until_ms: int | None = None
    """Held as found until then, where no order has come yet."""
    local: bool = False
    yielded: bool = False
    """Another agent speaks for this site."""
    lockouts: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of an order as a whole. A duplicate of the order in force is neither accepted nor refused."""

    accepted: bool
    reason: ReceiptReason | None = None
    detail: str = ""
    duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BankHold:
    """What one bank is to be held at now."""

    setpoint_w: int | None
    """None: hands off, the site is in local control."""
    wanted_w: int
    """Before local limits: what the order, with the minimum up time, or the fail-safe asks."""
    may_raise: bool
    """Whether anything may be brought back: never on silence, nor on unknown data."""
    firm_too: bool
    """Whether firm HPC work may be touched to keep the setpoint."""
    on: bool
    since_ms: int
    why: ReceiptReason | None
    """What keeps the setpoint from what is asked; None where nothing does."""
    interlocks: tuple[Interlock, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the site is to do now."""

    mode: Mode
    order: Order | None
    """The order obeyed; None where none is."""
    lease_left_ms: int | None
    banks: tuple[BankHold, ...]
    shed_first: tuple[int, ...]
    """Banks in the order they are shed."""


NO_FACTS: Final = BankFacts()
