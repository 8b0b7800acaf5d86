"""What the API takes and gives of overrides."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from contract.messages import Workload
from contract.units import Name
from controller.api.schema_base import In, Moment, Out, Query, Seconds, Watts
from controller.engine.model import Key, OverrideKind, Text
from controller.overrides_effective import Stands
from controller.overrides_model import OverrideState, TargetWorkload

_FLAT = ("site", "feeder", "bank", "workload")
Reason = Annotated[str, Field(min_length=1, max_length=400)]


class TargetIn(In):
    """What is meant: a site, or within it one of feeder, bank and workload."""

    site: Name
    feeder: Name | None = None
    bank: Name | None = None
    workload: TargetWorkload | None = None


class OverrideAskIn(In):
    """An override. One of `ends_at` and `duration_s` must stand, but for a lockout, which may stay open."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "target": {"site": "alpha", "bank": "bank-0"},
                    "kind": "lockout",
                    "duration_s": 3600,
                    "reason": "work on the loop",
                },
                {"target": {"site": "alpha"}, "kind": "cap", "value_w": 1500000, "duration_s": 900, "reason": "heat"},
            ]
        }
    )

    target: TargetIn
    """Its fields may also stand beside `kind`, as they did before."""
    kind: OverrideKind
    reason: Reason
    value_w: Watts | None = None
    """Of a cap or a floor, and of no other."""
    starts_at: Moment | None = None
    """Without it, now."""
    ends_at: Moment | None = None
    duration_s: Seconds | None = None
    ticket: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, data: Any) -> Any:
        if isinstance(data, dict) and "target" not in data and any(name in data for name in _FLAT):
            target = {name: data[name] for name in _FLAT if name in data}
            return {"target": target} | {name: value for name, value in data.items() if name not in _FLAT}
        return data


class OverrideIn(OverrideAskIn):
    id: Key | None = None
    """The asker's own; asking the same again with it changes nothing."""
    created_by: Text = ""
    """Only an admin may name another than the token's own name."""
    confirm_token: Annotated[str, Field(max_length=200)] | None = None
    """Of a preview of this very override; see `POST /v1/overrides:preview`."""


class ExtendIn(In):
    """A new end, later or sooner. Target, kind and value never change: revoke it and impose another."""

    ends_at: Moment | None = None
    duration_s: Seconds | None = None
    """From now."""
    reason: Reason
    ticket: Text | None = None


class RevokeQuery(Query):
    reason: Annotated[str, Field(max_length=400)] = ""
    """Needed to lift a lockout."""


class OverridesQuery(Query):
    site: Name | None = None
    state: Literal["standing", "all", "scheduled", "active", "superseded", "expired", "revoked"] = "standing"
    """`standing`: scheduled, active and superseded ones."""


class TargetOut(Out):
    site: str
    feeder: str | None = None
    bank: str | None = None
    workload: Workload | None = None


class EffectOut(Out):
    """Banks: how many it acts on, for how many measured power says so, and how many do not do it."""

    targets: int
    confirmed: int
    failed: int
    failing: dict[str, str]
    """What each bank that failed answered: the state of its receipt and the reason."""


class OverrideOut(Out):
    id: str
    version: int
    kind: OverrideKind
    target: TargetOut
    value_w: int | None
    starts_at: datetime
    ends_at: datetime | None
    reason: str
    ticket: str
    created_by: str
    created_at: datetime
    state: OverrideState
    superseded_by: str | None
    effect: EffectOut
    note: str
    """What keeps it from acting, such as a site in local control; empty where nothing does."""
    changed_at: datetime | None
    changed_by: str
    change_reason: str
    revoked_at: datetime | None
    revoked_by: str
    revoke_reason: str


class OverridesOut(Out):
    overrides: list[OverrideOut]


class ConflictOut(Out):
    """Another override that this one overrules, clamps, or gives way to."""

    override: str
    kind: OverrideKind
    stands: Stands
    """How far the one that gives way gets."""
    gives_way: str
    """The id of the one that does."""
    why: str


class PermissiveOut(Out):
    """A condition for the override to act. One that is not met does not keep it from being imposed."""

    name: str
    ok: bool | None
    detail: str


class UsdPerHourOut(Out):
    """Change of revenue less energy: at the price expected while it stands, and the least and most of it within the
    band of prices. Low and high are null where the price's past is too short to make a band of."""

    low: float | None
    expected: float
    high: float | None


class PriceBandOut(Out):
    """Mean price over the override's time, USD/MWh: as the outlook expects it, and one in ten times below or above."""

    low: float
    expected: float
    high: float
    basis: str
    """What it was made from."""


class PreviewOut(Out):
    """What would follow, as far as is known now."""

    target: TargetOut
    kind: OverrideKind
    banks: list[str]
    """Those it acts on."""
    before_w: int | None
    """Planned at the main meter without it, at its start."""
    after_w: int | None
    change_mw: float | None
    usd_per_h: UsdPerHourOut | None
    """Null where a price is unknown."""
    price_usd_per_mwh: PriceBandOut | None
    """Null where no price is known, or too little of its past."""
    jobs: list[str]
    """HPC jobs that would run without it and not with it."""
    conflicts: list[ConflictOut]
    permissives: list[PermissiveOut]
    sentence: str
    """Of the decision that would be made."""
    confirm_required: bool
    confirm_token: str
    """For `POST /v1/overrides`, good for this override alone and for `confirm_for_s`."""
    confirm_for_s: float


class ClaimOut(Out):
    override: str
    kind: OverrideKind
    stands: Stands
    by: str | None
    why: str
    reason: str
    created_by: str


class EffectiveBankOut(Out):
    """One bank: what was decided for it and why, and how each override on it fares, strongest first."""

    bank: str
    feeder: str
    workload: Workload
    target_w: int | None
    reason: str | None
    cause: str
    interlocks: list[str]
    claims: list[ClaimOut]


class EffectiveOut(Out):
    """What of all that was imposed on a site acts, and what does not, and why."""

    site: str
    at_ms: int
    local: bool
    """A person on site is in charge: orders are refused."""
    note: str
    obligations: list[str]
    """In force or coming: above lockouts, caps and all below."""
    sentence: str
    banks: list[EffectiveBankOut]
    superseded: list[str]
