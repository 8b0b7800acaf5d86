"""What the grid and ops ask of a simulated world, as a seed draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from contract.units import MS_PER_MINUTE
from controller.engine.model import OverrideKind
from controller.overrides import OverrideAsk
from controller.signals import SignalAsk
from sim.plant import SitePlan

_KINDS: Final = (
    *([None] * 5),  # a signal
    OverrideKind.CAP,
    OverrideKind.CAP,
    OverrideKind.LOCKOUT,
    OverrideKind.EMERGENCY_STOP,
    OverrideKind.FLOOR,
    OverrideKind.HOLD,
    OverrideKind.FORCE_HASH,
    OverrideKind.FORCE_HPC,
)


@dataclass(frozen=True, slots=True)
class Ask:
    """Something asked of the leading controller at a moment; asked again until one is there to take it."""

    at_ms: int
    what: SignalAsk | OverrideAsk
    lift_ms: int | None = None
    """When it is taken back; None: it ends by itself."""


def draw_asks(rng: Random, plans: Sequence[SitePlan], begin_ms: int, end_ms: int) -> tuple[Ask, ...]:
    """Two to five asks a site, all over by `end_ms`, in order of time."""
    asks = [
        _ask(rng, plan, f"{plan.id}-{place}", begin_ms, end_ms) for plan in plans for place in range(rng.randint(2, 5))
    ]
    return tuple(sorted(asks, key=lambda ask: (ask.at_ms, str(ask.what.id))))


def _ask(rng: Random, plan: SitePlan, name: str, begin_ms: int, end_ms: int) -> Ask:
    lasts_ms = min(round(rng.uniform(2, 10) * MS_PER_MINUTE), (end_ms - begin_ms) // 2)
    at_ms = rng.randint(begin_ms, end_ms - lasts_ms)
    ahead_ms = round(rng.choice((0.0, 0.0, rng.uniform(0, 8))) * MS_PER_MINUTE)
    starts_ms = min(at_ms + ahead_ms, end_ms - lasts_ms) if ahead_ms else None
    kind = rng.choice(_KINDS)
    lift_ms = at_ms + lasts_ms // 2 if rng.random() < 0.2 else None
    what = (
        _signal(rng, plan, name, starts_ms, lasts_ms)
        if kind is None
        else _override(rng, plan, name, kind, starts_ms, lasts_ms)
    )
    return Ask(at_ms, what, lift_ms)


def _signal(rng: Random, plan: SitePlan, name: str, starts_ms: int | None, lasts_ms: int) -> SignalAsk:
    limit_w = plan.main.limit_w
    reduces = rng.random() < 0.3
    return SignalAsk(
        site=plan.id,
        target_w=None if reduces else round(limit_w * rng.uniform(0.1, 0.9)),
        reduce_w=round(limit_w * rng.uniform(0.05, 0.6)) if reduces else None,
        starts_at_ms=starts_ms,
        duration_ms=lasts_ms,
        firm_too=rng.random() < 0.3,
        id=name,
    )


def _override(
    rng: Random, plan: SitePlan, name: str, kind: OverrideKind, starts_ms: int | None, lasts_ms: int
) -> OverrideAsk:
    hash_w: dict[str, float] = {bank.id: bank.model.rated_w * bank.devices for bank in plan.banks}
    hpc_w = {part.id: part.rated_w for part in plan.partitions}
    fitting = {OverrideKind.FORCE_HASH: hash_w, OverrideKind.FORCE_HPC: hpc_w}.get(kind, hash_w | hpc_w)
    bank, feeder, rated_w = _pick(rng, fitting)
    if rng.random() < 0.3:
        bank, rated_w = None, plan.main.limit_w
    elif kind is OverrideKind.CAP and rng.random() < 0.4:
        node = rng.choice(plan.feeders)
        bank, feeder, rated_w = None, node.id, node.limit_w
    needs_watts = kind in {OverrideKind.CAP, OverrideKind.FLOOR}
    return OverrideAsk(
        site=plan.id,
        kind=kind,
        reason="drawn by a seed",
        feeder=feeder,
        bank=bank,
        value_w=round(rated_w * rng.uniform(0.2, 0.9)) if needs_watts else None,
        starts_at_ms=starts_ms,
        duration_ms=lasts_ms,
        id=name,
    )


def _pick(rng: Random, rated_w: dict[str, float]) -> tuple[str | None, str | None, float]:
    bank = rng.choice(sorted(rated_w))
    return bank, None, rated_w[bank]
