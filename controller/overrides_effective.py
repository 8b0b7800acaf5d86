"""Which override stands on which bank, and which gives way to which: the engine's resolution, told in words.

The order is DESIGN's: emergency stop, lockout, cap, floor, hold, forced workload. Within a kind the most specific
stands, then the newest; a workload counts as each of its banks, its watts split among them. Caps combine by minimum.
Pure; that it agrees with `controller.engine.rules` is tested against the traces those leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from contract.messages import BankPlate, Nameplate
from controller.engine.model import OverrideKind
from controller.overrides_model import STANDS_DOWN, Imposed


class Stands(StrEnum):
    """How far an override gets its way on a bank."""

    HOLDS = "holds"
    CLAMPED = "clamped"
    """In part: a cap leaves less than it asks for."""
    OVERRULED = "overruled"


@dataclass(frozen=True, slots=True)
class Claim:
    """One override on one bank. `by` is the id of the one it gives way to."""

    override: Imposed
    stands: Stands
    by: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The overrides in force on a site, resolved. `banks` has every bank, strongest claim first."""

    banks: Mapping[str, tuple[Claim, ...]]
    superseded: Mapping[str, Claim]
    """Those that stand nowhere, by id, with one of the claims that overrule them, of their own kind where one is."""

    def conflicts(self, key: str) -> list[Claim]:
        """What one override overrules or clamps elsewhere, and what does so to it: each other override once."""
        found: dict[str, Claim] = {}
        for claims in self.banks.values():
            for claim in claims:
                if claim.by is not None and claim.by != claim.override.id and key in (claim.override.id, claim.by):
                    found.setdefault(claim.by if claim.override.id == key else claim.override.id, claim)
        return [found[other] for other in sorted(found)]


def resolve(plate: Nameplate, overrides: Iterable[Imposed]) -> Resolution:
    """`overrides` are those in force. Their order does not matter."""
    depths = _depths(plate)
    ranked = sorted(overrides, key=lambda each: _rank(each, depths), reverse=True)
    covers = {each.id: frozenset(each.covers(plate)) for each in ranked}
    banks = {
        bank.id: _on_bank(bank, [each.on(bank, plate) for each in ranked if bank.id in covers[each.id]], plate)
        for bank in plate.banks
    }
    standing = {c.override.id for claims in banks.values() for c in claims if c.stands is not Stands.OVERRULED}
    kinds = {each.id: each.kind for each in ranked}
    superseded: dict[str, Claim] = {}
    for claims in banks.values():
        for claim in claims:
            its_kind = claim.by is not None and kinds[claim.by] is claim.override.kind
            if claim.override.id not in standing and (its_kind or claim.override.id not in superseded):
                superseded[claim.override.id] = claim
    return Resolution(banks, superseded)


def _on_bank(bank: BankPlate, covering: Sequence[Imposed], plate: Nameplate) -> tuple[Claim, ...]:
    """`covering` is ranked, the one that stands first within its kind."""
    by_kind: dict[OverrideKind, list[Imposed]] = {kind: [] for kind in OverrideKind}
    for each in covering:
        by_kind[each.kind].append(each)
    down = next((each for kind in OverrideKind if kind in STANDS_DOWN for each in by_kind[kind]), None)
    claims: list[Claim] = []
    for kind in OverrideKind:
        if kind in STANDS_DOWN:  # each of them must be lifted before anything runs, so each holds
            claims += [Claim(each, Stands.HOLDS) for each in by_kind[kind]]
        elif down is not None:
            claims += [Claim(each, Stands.OVERRULED, down.id, f"{down.kind} is above {kind}") for each in by_kind[kind]]
        elif kind is OverrideKind.CAP:
            claims += _caps(by_kind[kind], bank, plate)
        elif kind is OverrideKind.FLOOR:
            claims += _floors(by_kind[kind], claims, bank, plate)
        else:
            claims += _steering(by_kind, kind)
    return tuple(claims)


def _caps(caps: Sequence[Imposed], bank: BankPlate, plate: Nameplate) -> list[Claim]:
    """A cap gives way to a lower one on the same node, or on one above it, for that binds it too."""
    outwards = _outwards(bank, plate)
    place = {each.id: outwards.index(_node(each, plate)) for each in caps}
    claims: list[Claim] = []
    for cap in caps:
        tighter = [
            each
            for each in caps
            if place[each.id] >= place[cap.id]
            and (each.value_w or 0, -place[each.id], each.created_at_ms, each.id)
            < (cap.value_w or 0, -place[cap.id], cap.created_at_ms, cap.id)
        ]
        if tighter:
            least = min(tighter, key=lambda each: (each.value_w or 0, each.id))
            claims.append(Claim(cap, Stands.OVERRULED, least.id, f"caps combine by minimum: {least.value_w} W"))
        else:
            claims.append(Claim(cap, Stands.HOLDS))
    return claims


def _floors(floors: Sequence[Imposed], above: Sequence[Claim], bank: BankPlate, plate: Nameplate) -> list[Claim]:
    """One floor stands for each scope, the newest; a cap there or further out leaves what it leaves."""
    outwards = _outwards(bank, plate)
    caps = [c.override for c in above if c.override.kind is OverrideKind.CAP and c.stands is Stands.HOLDS]
    claims: list[Claim] = []
    stood: dict[tuple[str | None, str | None], str] = {}
    for floor in floors:
        scope = (floor.feeder, floor.bank)
        place = outwards.index(_node(floor, plate))
        outer = [cap for cap in caps if outwards.index(_node(cap, plate)) >= place]
        under = min(outer, key=lambda each: (each.value_w or 0, each.id), default=None)
        if scope in stood:
            claims.append(Claim(floor, Stands.OVERRULED, stood[scope], "a newer floor of the same target stands"))
        elif under is not None and (under.value_w or 0) < (floor.value_w or 0):
            claims.append(Claim(floor, Stands.CLAMPED, under.id, f"a cap is above a floor: {under.value_w} W"))
        else:
            claims.append(Claim(floor, Stands.HOLDS))
        stood.setdefault(scope, floor.id)
    return claims


def _steering(by_kind: Mapping[OverrideKind, Sequence[Imposed]], kind: OverrideKind) -> list[Claim]:
    """Of holds one stands, and no forced workload beside it."""
    hold = next(iter(by_kind[OverrideKind.HOLD]), None)
    claims: list[Claim] = []
    for place, each in enumerate(by_kind[kind]):
        if kind is not OverrideKind.HOLD and hold is not None:
            claims.append(Claim(each, Stands.OVERRULED, hold.id, f"hold is above {kind}"))
        elif place:
            why = "a more specific or newer one of its kind stands"
            claims.append(Claim(each, Stands.OVERRULED, by_kind[kind][0].id, why))
        else:
            claims.append(Claim(each, Stands.HOLDS))
    return claims


def _rank(each: Imposed, depths: Mapping[str, int]) -> tuple[bool, int, int, str]:
    names_banks = each.bank is not None or each.workload is not None
    return names_banks, -1 if each.feeder is None else depths.get(each.feeder, -1), each.created_at_ms, each.id


def _depths(plate: Nameplate) -> dict[str, int]:
    parents = {feeder.id: feeder.parent for feeder in plate.feeders}
    depths: dict[str, int] = {}
    for start in parents:
        depth, at = 0, parents[start]
        while at is not None:  # the nameplate's feeders are one tree
            depth, at = depth + 1, parents[at]
        depths[start] = depth
    return depths


def _outwards(bank: BankPlate, plate: Nameplate) -> list[str]:
    """The nodes a bank's power flows through, the bank itself first, the main last."""
    parents = {feeder.id: feeder.parent for feeder in plate.feeders}
    path = [f"bank {bank.id}"]
    at: str | None = bank.feeder
    while at is not None:
        path.append(at)
        at = parents[at]
    return path


def _node(limit: Imposed, plate: Nameplate) -> str:
    if limit.bank is not None:
        return f"bank {limit.bank}"
    return limit.feeder if limit.feeder is not None else plate.main.id
