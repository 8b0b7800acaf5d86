"""What a decision is made from and what it is: immutable, serialisable, and nothing else.

The controller folds reports, prices, signals and overrides into one `Snapshot`; `decide(snapshot, params)` turns it
into a `Decision`. Both are journalled as their JSON, and replaying the one must give the other byte for byte.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from contract.messages import MAX_BANKS, MAX_FEEDERS, Nameplate, Report, ShedStep, Wire, Workload
from contract.reasons import DecisionReason
from contract.units import DurationMs, Name, PowerW, SignedPowerW, TimeMs, UsdPerMwh

MODEL_VERSION: Final = 1

Text = Annotated[str, Field(max_length=400)]
Key = Annotated[str, Field(min_length=1, max_length=64)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

DegreesC = Annotated[float, Field(ge=-90, le=70, allow_inf_nan=False)]
PueMilli = Annotated[int, Field(ge=1_000, le=5_000)]

OUTLOOK_STEPS_MAX: Final = 1_500
CURVE_MAX: Final = 32
CARRY_MAX: Final = 4_000_000


def _empty(value: object) -> bool:
    """What a decision made without a plan leaves out of its bytes: they stay those of a journal older than plans."""
    return not value


def _none(value: object) -> bool:
    """Likewise, of what may be 0."""
    return value is None


class EnergyPrice(Wire):
    """What the site's next megawatt-hour costs, as known when the snapshot was taken."""

    usd_per_mwh: UsdPerMwh | None
    """Of the interval now running; None where no fresh price is known."""
    age_ms: DurationMs | None = None
    """Since the end of the last interval the price is known for; 0 while that interval runs."""
    interval_start_ms: TimeMs | None = None
    interval_ms: DurationMs | None = None
    feed: str = ""


class HashPrice(Wire):
    """What hashing earns."""

    usd_per_ph_day: Annotated[float, Field(ge=0, le=1e6)] | None
    age_ms: DurationMs | None = None
    feed: str = ""


class Outlook(Wire):
    """What is to be expected from `start_ms` on, step by step: made outside the engine, of what was known then."""

    start_ms: TimeMs
    step_ms: Annotated[int, Field(ge=60_000, le=4 * 3_600_000)]
    usd_per_mwh: Annotated[tuple[UsdPerMwh, ...], Field(min_length=1, max_length=OUTLOOK_STEPS_MAX, fail_fast=True)]
    """The price to plan with."""
    spike: Annotated[tuple[Share, ...], Field(max_length=OUTLOOK_STEPS_MAX, fail_fast=True)] = ()
    """Chance of a price spike in the step."""
    peak: Annotated[tuple[Share, ...], Field(max_length=OUTLOOK_STEPS_MAX, fail_fast=True)] = ()
    """Chance that the step holds a coincident peak that is billed."""
    ambient_c: Annotated[tuple[float, ...], Field(max_length=OUTLOOK_STEPS_MAX, fail_fast=True)] = ()
    """Dry bulb; empty where no temperature was ever known."""
    forecast: Annotated[str, Field(max_length=64)] = ""
    """What made it."""


class Hall(Wire):
    """What one cooling plant serves: the banks it carries the heat of, by what the weather lets it."""

    id: Name
    banks: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_BANKS)]
    cooling_w: Annotated[tuple[tuple[DegreesC, PowerW], ...], Field(max_length=CURVE_MAX)] = ()
    """(dry bulb, the most all its banks may draw together); empty where cooling limits nothing."""
    pue_milli: Annotated[tuple[tuple[DegreesC, PueMilli], ...], Field(max_length=CURVE_MAX)] = ()
    """(dry bulb, site watts per bank watt in thousandths): holds where it is above the nameplate's. May be empty."""

    @model_validator(mode="after")
    def _curves_run_one_way(self) -> Self:
        for name, rises in (("cooling_w", -1), ("pue_milli", 1)):
            curve: tuple[tuple[float, int], ...] = getattr(self, name)
            for (low_c, low), (high_c, high) in pairwise(curve):
                if low_c >= high_c:
                    raise ValueError(f"{name}: temperatures must rise strictly")
                if (high - low) * rises < 0:
                    raise ValueError(f"{name}: must not {'rise' if rises < 0 else 'fall'} as the weather warms")
        return self


class Ambient(Wire):
    """The newest temperature known at the site."""

    dry_bulb_c: DegreesC
    age_ms: DurationMs


class Quota(Wire):
    """The site's part of what a fleet may draw together: a cap at the main meter until `until_ms`."""

    cap_w: PowerW
    until_ms: TimeMs
    usd_per_mwh: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """What a megawatt-hour more would be worth to the fleet, beyond its price; None where nothing was planned."""


class Obligation(Wire):
    """A curtailment that is due: the main meter at or below `target_w` from `starts_at_ms` until `ends_at_ms`."""

    id: Key
    site: Name
    target_w: PowerW
    """What the main meter may show. For a reduction: the baseline minus the reduction, fixed when the signal came."""
    baseline_w: SignedPowerW | None = None
    reduce_w: PowerW | None = None
    received_at_ms: TimeMs
    starts_at_ms: TimeMs
    ends_at_ms: TimeMs
    notice_ms: DurationMs = 0
    """How long before the start the site was told."""
    firm_too: bool = False
    """A legal order (emergency load shed): firm HPC work may be cut for it as well."""
    award_w: Annotated[PowerW | None, Field(exclude_if=_none)] = None
    """Set for a reserve award: nothing is curtailed yet (`target_w` is as good as none), but this much of what the
    main meter shows must be running in the window and be such that it can be shed."""


class OverrideKind(StrEnum):
    """What ops may impose, strongest first."""

    EMERGENCY_STOP = "emergency_stop"
    """Everything in the target down at once, firm work included."""
    LOCKOUT = "lockout"
    """The target stays down until this is lifted; for people working on it."""
    CAP = "cap"
    """The target draws at most `value_w`. Caps combine by minimum."""
    FLOOR = "floor"
    """The target draws at least `value_w` where every stronger rule allows it."""
    HOLD = "hold"
    """The target keeps what it does."""
    FORCE_HASH = "force_hash"
    FORCE_HPC = "force_hpc"


class Override(Wire):
    """One override in force. `feeder` or `bank` narrow it; with neither it covers the site."""

    id: Key
    kind: OverrideKind
    site: Name
    feeder: Name | None = None
    bank: Name | None = None
    value_w: PowerW | None = None
    starts_at_ms: TimeMs
    ends_at_ms: TimeMs | None
    reason: Text
    created_by: Text = ""
    created_at_ms: TimeMs


class PreviousSetpoint(Wire):
    """What the last decision gave a bank, and since when it has stood."""

    bank: Name
    target_w: PowerW
    reason: DecisionReason


class SiteSnapshot(Wire):
    """All that is known of one site at the moment of a decision."""

    site: Name
    nameplate: Nameplate
    online: bool
    report: Report | None
    report_age_ms: DurationMs | None
    """Since the report arrived, on the controller's monotonic clock; add it to every age inside the report."""
    energy: EnergyPrice
    hashprice: HashPrice
    obligations: tuple[Obligation, ...] = ()
    """Those not yet over, upcoming ones included, by id."""
    overrides: tuple[Override, ...] = ()
    """Those in force now, by id."""
    previous: tuple[PreviousSetpoint, ...] = ()
    outlook: Outlook | None = None
    quota: Quota | None = None
    halls: Annotated[tuple[Hall, ...], Field(max_length=MAX_FEEDERS, exclude_if=_empty)] = ()
    ambient: Annotated[Ambient | None, Field(exclude_if=_empty)] = None
    """None where none is known, or nothing needs it."""
    carry: Annotated[str, Field(max_length=CARRY_MAX)] = ""
    """What the last plan left, as `SiteDecision.carry` gave it; the engine's own, and ignored where it does not fit."""


class Snapshot(Wire):
    """The one thing a decision reads. `sites` is sorted by id."""

    model_version: Literal[1] = MODEL_VERSION
    at_ms: TimeMs
    sites: tuple[SiteSnapshot, ...]


class Stance(StrEnum):
    """What a hash bank does while no price is known."""

    HOLD = "hold"
    RUN = "run"
    STOP = "stop"


class Method(StrEnum):
    """How the dispatch is chosen inside what the rules leave."""

    MERIT_ORDER = "merit_order"
    """By the price of now; see `controller.engine.economics`."""
    OPTIMISER = "optimiser"
    """By a plan over a day; see `controller.engine.planned`."""


class Params(Wire):
    """How decisions are made. Journalled with every decision."""

    economics: Method = Method.MERIT_ORDER
    stale_report_ms: DurationMs = 30_000
    """Older data never raises power."""
    stale_price_ms: DurationMs = 20 * 60_000
    stale_hashprice_ms: DurationMs = 3 * 24 * 3_600_000
    stale_ambient_ms: DurationMs = 3 * 3_600_000
    """An older temperature is none: cooling is then planned as on the hottest day its curve tells of."""
    unknown_price: Stance = Stance.HOLD
    hysteresis_usd_per_mwh: Annotated[float, Field(ge=0, le=10_000)] = 3.0
    """A running bank stays up until the price is this far above its break-even; a stopped one until this far below."""
    start_payback_ms: DurationMs = 30 * 60_000
    """The run a start must pay for itself within, at the present margin."""
    cap_margin_milli: Annotated[int, Field(ge=0, le=500)] = 10
    """Planned power stays this many thousandths below a cap, for what cannot be steered."""
    lease_ms: DurationMs = 150_000
    obligation_lead_ms: DurationMs = 120_000
    """How long before an obligation's start the shed begins, beyond what the ramps need."""
    tick_ms: DurationMs = 60_000
    """How often a decision is made, hence how far a ramp may go before the next one."""
    miss_share: Annotated[float, Field(ge=0, le=1_000)] = 1.0
    """What a job that is not done by its deadline costs, as a share of what it would have earned."""
    peak_charge_usd_per_mw: Annotated[float, Field(ge=0, le=1e7)] = 0.0
    """What a megawatt at the main meter in a coincident peak costs; planned with by the outlook's chance of one."""


class BankDecision(Wire):
    """What one bank is to do, and why."""

    bank: Name
    workload: Workload
    target_w: PowerW
    reason: DecisionReason
    cause: Text = ""
    """The id of the obligation, override, limit or interlock behind it."""
    value_usd_per_mwh: float | None = None
    """What this bank's next megawatt-hour earns at the main meter; for hashing, its break-even price."""


class Shortfall(Wire):
    """A limit or obligation that cannot be met, said before it is due."""

    kind: Literal["site_cap", "feeder", "cooling", "obligation", "firm_load", "floor", "deadline", "award"]
    id: Text
    short_w: PowerW
    detail: Text = ""


class PlanNote(Wire):
    """How the plan behind a dispatch came out."""

    fallback: Annotated[str, Field(max_length=64)] = ""
    """Why merit order decided in the plan's place; empty where the plan did."""
    gap: float | None = None
    """How far below its proven bound the plan may be, as a share of it."""


class SiteDecision(Wire):
    """The dispatch of one site for the minute."""

    site: Name
    banks: tuple[BankDecision, ...]
    """By bank id; every bank of the nameplate."""
    shed_ladder: tuple[ShedStep, ...]
    cap_w: PowerW | None
    """The tightest cap in force at the main meter."""
    obligation: Key | None
    urgent: bool
    """The fast path: it lowers power for an obligation, an emergency stop or a cap."""
    planned_w: PowerW
    """Expected at the main meter when the setpoints are reached."""
    margin_usd_per_h: float | None
    """Revenue minus energy of the dispatch; None where no price is known."""
    shortfalls: tuple[Shortfall, ...] = ()
    sentence: Annotated[str, Field(max_length=1_000)]
    """Why this, now, in one sentence an operator can read."""
    armed_w: Annotated[PowerW | None, Field(exclude_if=_none)] = None
    """While a reserve is awarded: what of the dispatch can be shed at once, at the main meter. Else None."""
    plan: Annotated[PlanNote | None, Field(exclude_if=_empty)] = None
    """None where no plan was asked for."""
    carry: Annotated[str, Field(max_length=CARRY_MAX, exclude_if=_empty)] = ""
    """What the next decision's plan begins with."""


class Decision(Wire):
    """The outcome of one `decide`. `sites` is sorted by id."""

    model_version: Literal[1] = MODEL_VERSION
    at_ms: TimeMs
    sites: tuple[SiteDecision, ...]
