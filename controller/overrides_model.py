"""An override as it is kept and journalled: what the engine sees of it, and all that ops see besides."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from contract.messages import BankPlate, Nameplate, Workload
from contract.units import TimeMs
from controller.engine.model import Override, OverrideKind, Text

STANDS_DOWN: Final = frozenset({OverrideKind.EMERGENCY_STOP, OverrideKind.LOCKOUT})
"""Emergency reductions: nothing in the target runs. They wait for no confirmation and no rate limit."""
WORKLOAD_OF: Final = {OverrideKind.FORCE_HASH: Workload.HASH, OverrideKind.FORCE_HPC: Workload.HPC}
"""Kinds that act on banks of one workload only."""
TargetWorkload = Literal[Workload.HASH, Workload.HPC]


class OverrideState(StrEnum):
    """Where an override stands."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    """In force, and a stronger, more specific or newer one stands in its place everywhere."""
    EXPIRED = "expired"
    REVOKED = "revoked"


class Imposed(Override):
    """An `Override` with its history. Kind, target and value never change; each change of the rest raises `version`."""

    workload: TargetWorkload | None = None
    """Only banks of this workload, within the site."""
    ticket: Text = ""
    version: Annotated[int, Field(ge=1)] = 1
    changed_at_ms: TimeMs | None = None
    """When it was last extended, and why and by whom."""
    changed_by: Text = ""
    change_reason: Text = ""
    revoked_at_ms: TimeMs | None = None
    revoked_by: Text = ""
    revoke_reason: Text = ""
    request: Annotated[str, Field(max_length=64)] = ""
    """A digest of the request that made it, where it came with an idempotency key."""

    def parts(self, plate: Nameplate | None) -> tuple[Override, ...]:
        """What the engine is given: itself, or for a workload one override for each of its banks, with its part."""
        fields = {name: getattr(self, name) for name in Override.model_fields}
        if self.workload is None:
            return (Override(**fields),)
        banks = [bank for bank in plate.banks if bank.workload == self.workload] if plate is not None else []
        if self.value_w is None:
            return tuple(Override(**(fields | {"bank": bank.id})) for bank in banks)
        parts = zip(banks, _split(self.value_w, banks), strict=True)
        return tuple(Override(**(fields | {"bank": bank.id, "value_w": value_w})) for bank, value_w in parts)

    def on(self, bank: BankPlate, plate: Nameplate) -> Imposed:
        """As one of the banks it covers sees it: itself, or of a workload's watts that bank's part."""
        if self.workload is None or self.value_w is None:
            return self
        part = next(part for part in self.parts(plate) if part.bank == bank.id)
        return self.model_copy(update={"bank": bank.id, "workload": None, "value_w": part.value_w})

    def covers(self, plate: Nameplate) -> tuple[str, ...]:
        """The banks it acts on: within its target and of its kind's workload, in the nameplate's order."""
        below = _below(plate, self.feeder)
        wanted = WORKLOAD_OF.get(self.kind, self.workload)
        return tuple(
            bank.id
            for bank in plate.banks
            if self.bank in (None, bank.id)
            and bank.feeder in below
            and self.workload in (None, bank.workload)
            and wanted in (None, bank.workload)
        )

    def is_over(self, now_ms: int) -> bool:
        return self.revoked_at_ms is not None or (self.ends_at_ms is not None and self.ends_at_ms <= now_ms)

    def in_force(self, now_ms: int) -> bool:
        return self.starts_at_ms <= now_ms and not self.is_over(now_ms)


def _split(value_w: int, banks: Sequence[BankPlate]) -> list[int]:
    """A workload's watts by bank: to each what it draws idle, and of the rest as much as its rated power is of all.

    They sum to the whole, so that banks which keep their parts keep the workload's.
    """
    idle_w = sum(bank.idle_w for bank in banks)
    weights = [bank.rated_w - bank.idle_w for bank in banks]
    if value_w < idle_w or not any(weights):
        idle_w, weights = 0, [bank.rated_w or 1 for bank in banks]
        floors_w = [0 for _ in banks]
    else:
        floors_w = [bank.idle_w for bank in banks]
    whole, rest_w, given = sum(weights), value_w - idle_w, 0
    parts: list[int] = []
    done = 0
    for weight, floor_w in zip(weights, floors_w, strict=True):
        done += weight
        part_w = rest_w * done // whole - given
        given += part_w
        parts.append(floor_w + part_w)
    return parts


def _below(plate: Nameplate, feeder: str | None) -> frozenset[str]:
    """A feeder and all that hang on it; every feeder where None is given."""
    if feeder is None:
        return frozenset(each.id for each in plate.feeders)
    found = {feeder}
    grew = True
    while grew:  # at most once per level of the tree
        more = {each.id for each in plate.feeders if each.parent in found} - found
        found |= more
        grew = bool(more)
    return frozenset(found)
