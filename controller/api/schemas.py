"""What the HTTP API takes and gives, as pydantic models; those of overrides stand in `override_schemas`.

Times go in as ISO 8601 with an offset. They come out as ms, UTC, where the name ends in `_ms`, else as ISO 8601.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contract.messages import Mode, Source, Workload
from contract.units import Name, TimeMs
from controller.api.override_schemas import ConflictOut, OverrideOut
from controller.api.schema_base import In, Moment, Notice, Out, Query, Seconds, Watts
from controller.engine.model import Key, Obligation, Shortfall

LIMIT_MAX = 1_000


class SiteQuery(Query):
    site: Name | None = None
    """Only this site; without it, all that the token reaches."""


class EventsQuery(SiteQuery):
    recent: bool = False
    """Begin with what is still in memory of what has happened; else with what happens from now on."""


class OneSiteQuery(Query):
    site: Name


class DecisionsQuery(Query):
    site: Name | None = None
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = 20


class HistoryQuery(Query):
    since_ms: TimeMs = 0
    """Only what came after."""


class SignalIn(In):
    """A curtailment signal, or with `award_w` a reserve awarded: what must run in the window and be such that it can
    be shed. Exactly one of `reduce_w`, `target_w` and `award_w`, and of `ends_at` and `duration_s`."""

    site: Name
    reduce_w: Watts | None = None
    target_w: Watts | None = None
    award_w: Watts | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    duration_s: Seconds | None = None
    notice_s: Notice | None = None
    firm_too: Annotated[bool, Field(strict=True)] = False
    id: Key | None = None


class BankOut(Out):
    """One bank: what is wanted of it, why, and what it does."""

    bank: str
    workload: Workload
    target_w: int | None = None
    reason: str | None = None
    cause: str = ""
    value_usd_per_mwh: float | None = None
    power_w: int | None = None
    power_age_ms: int | None = None
    source: Source | None = None
    hashrate_ghs: int | None = None
    available_w: int | None = None
    interlocks: tuple[str, ...] = ()
    receipt: str | None = None
    """State of the newest receipt."""
    receipt_reason: str | None = None


class DecisionOut(Out):
    """A decision of one site."""

    id: str
    site: str
    at_ms: int
    trigger: str
    sentence: str
    planned_w: int
    cap_w: int | None
    obligation: str | None
    urgent: bool
    margin_usd_per_h: float | None
    shortfalls: tuple[Shortfall, ...]
    banks: tuple[BankOut, ...]


class DecisionsOut(Out):
    decisions: list[DecisionOut]
    from_journal: bool
    """False where the journal cannot be read: then only the last decision of each site is told."""


class OrderOut(Out):
    """The newest order, and what became of it."""

    epoch: int
    seq: int
    issued_at_ms: int
    valid_for_ms: int
    decision: str
    sent: bool
    refused: str | None = None
    banks_by_state: Annotated[dict[str, int], Field(default_factory=dict)]


class SiteSummary(Out):
    """One line per site. `mode` is `local` where a person on site is in charge: orders are refused there."""

    site: str
    name: str
    online: bool
    mode: Mode | None
    report_age_ms: int | None
    metered_w: int | None
    planned_w: int | None
    cap_w: int | None
    price_usd_per_mwh: float | None
    obligation: str | None
    margin_usd_per_h: float | None
    faults: tuple[str, ...]
    sentence: str


class SitesOut(Out):
    sites: list[SiteSummary]


class HistoryOut(Out):
    """A site over the last two hours. `at_ms` and every series are of one length; null where a value was unknown."""

    now_ms: int
    every_ms: int
    at_ms: list[int]
    metered_w: list[float | None]
    hash_w: list[float | None]
    hpc_w: list[float | None]
    cap_w: list[float | None]
    planned_w: list[float | None]
    price_usd_per_mwh: list[float | None]
    ahead_at_ms: list[int]
    """Beginnings of the steps to come."""
    ahead_usd_per_mwh: list[float]
    """The price that is planned with in each; empty where nothing is forecast."""


class PlanOut(Out):
    """What a site is planned to draw over the next day. Every series is of one length, empty where there is no plan; a
    step holds until the next begins. Watts are as planned: coming minutes make whole devices of them, within the rules.
    """

    site: str
    decision_id: str | None
    """The decision whose plan it is."""
    absent: str | None
    """Why there is no plan: `merit_order` (none is asked for), `not_following` (offline, or in local control),
    `no_plan` (none made yet, or too old), or why merit order decides in its place."""
    at_ms: list[int]
    """Beginnings of the steps, from now on."""
    ends_at_ms: int | None
    """End of the last."""
    power_w: list[int]
    """At the main meter."""
    hash_w: list[int]
    hpc_w: list[int]
    """At the banks, without the cooling and losses that the meter carries."""
    usd_per_mwh: list[float]
    """The price planned with, what a coincident peak may cost and the hysteresis over a day included."""


class FeederOut(Out):
    feeder: str
    parent: str | None
    limit_w: int
    power_w: int | None = None
    power_age_ms: int | None = None
    source: Source | None = None


class SiteOut(SiteSummary):
    """Everything about a site that a person asks."""

    boot: str | None
    decision_id: str | None
    decided_at_ms: int | None
    price_feed: str
    price_age_ms: int | None
    hashprice_usd_per_ph_day: float | None
    hashprice_age_ms: int | None
    two_agents: bool
    """Two agents have lately acted for this site."""
    fenced: bool
    order: OrderOut | None
    shortfalls: tuple[Shortfall, ...]
    feeders: list[FeederOut]
    banks: list[BankOut]
    obligations: list[Obligation]
    overrides: list[OverrideOut]


class BaselineOut(Out):
    """What a reduction is counted from: mean main power of the last five minutes."""

    power_w: int
    readings: int


class ExpectedOut(Out):
    planned_w: int
    target_w: int
    meets: bool
    shortfalls: tuple[Shortfall, ...]
    sentence: str


class SignalOut(Out):
    """What follows from a signal."""

    obligation: Obligation
    created: bool
    baseline: BaselineOut | None
    decision: DecisionOut | None
    """Decided and ordered at once."""
    order: OrderOut | None
    expected: ExpectedOut | None
    """What would be decided when it begins, as far as is known now."""
    journalled: bool
    """Whether it is on disk, and so outlives a restart."""


class OverrideSetOut(Out):
    """What follows from an override."""

    override: OverrideOut
    created: bool
    """False where it stood already: the same was asked before."""
    conflicts: list[ConflictOut]
    decision: DecisionOut | None
    """Decided and ordered at once."""
    order: OrderOut | None
    journalled: bool
    """Whether it is on disk, and so outlives a restart."""


class SignalsOut(Out):
    signals: list[Obligation]


class CheckOut(Out):
    name: str
    ok: bool
    detail: str


class ReadyOut(Out):
    ready: bool
    checks: list[CheckOut]


class Problem(Out):
    """RFC 9457, `application/problem+json`. `field` names what is at fault and `fix` what to do."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    fix: str | None = None


class FindingOut(Out):
    """One thing looked at. `ok` is null where it cannot be told."""

    check: str
    """broker, journal, loop, leading, audit, agent, clock, devices, scheduler, price, hashprice or series."""
    site: str | None
    ok: bool | None
    detail: str
    fix: str | None = None


class DoctorOut(Out):
    ok: bool
    findings: list[FindingOut]


class WhoOut(Out):
    """Who the token says is asking."""

    name: str
    role: str
    sites: list[str] | None
    """Null: every site."""
    via: str
