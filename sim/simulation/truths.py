"""What is true of a site besides its physics: who serves it since when, and what has been asked of it.

Asks are kept as the leading controller acknowledged them, and not as any controller remembers them: one that forgets an
obligation breaks it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from controller.engine.model import Obligation, Override, OverrideKind
from sim.checkers import Cap, CapSource, Due, PlantTruth
from sim.recorder import OVERRIDDEN_AFTER_MS, caps_of, covers

_STEERS: Final = frozenset({OverrideKind.FLOOR, OverrideKind.HOLD, OverrideKind.FORCE_HASH, OverrideKind.FORCE_HPC})


@dataclass(slots=True)
class Service:
    """Since when each of a site's supports has held."""

    agent_ms: int | None = None
    linked_ms: int | None = None
    sensed_ms: int | None = None

    def look(self, now_ms: int, *, agent: bool, linked: bool, sensed: bool) -> None:
        self.agent_ms = _since(self.agent_ms, now_ms, agent)
        self.linked_ms = _since(self.linked_ms, now_ms, linked)
        self.sensed_ms = _since(self.sensed_ms, now_ms, sensed)


@dataclass(slots=True)
class Imposed:
    """All that was asked and taken, by id, until it is over or taken back."""

    obligations: dict[str, Obligation] = field(default_factory=dict)
    overrides: dict[str, Override] = field(default_factory=dict)
    _steered_until_ms: dict[tuple[str, str], int] = field(default_factory=dict)

    def apply(self, truth: PlantTruth, now_ms: int) -> None:
        """State it in a site's truth."""
        site = truth.plate.site
        self.obligations = {key: each for key, each in self.obligations.items() if each.ends_at_ms > now_ms}
        self.overrides = {
            key: each for key, each in self.overrides.items() if each.ends_at_ms is None or each.ends_at_ms > now_ms
        }
        truth.dues = [
            Due(each.id, each.target_w, each.received_at_ms, each.starts_at_ms, each.ends_at_ms, each.firm_too)
            for each in self.obligations.values()
            if each.site == site
        ]
        mine = [each for each in self.overrides.values() if each.site == site]
        breakers = [cap for cap in truth.caps if cap.source is CapSource.BREAKER]
        truth.caps = [*breakers, *(cap for each in mine for cap in caps_of(each, truth))]
        for each in mine:
            if each.kind in _STEERS and each.starts_at_ms <= now_ms:
                for bank in truth.plate.banks:
                    if covers(each, bank.id, bank.feeder, truth):
                        self._steered_until_ms[site, bank.id] = now_ms + OVERRIDDEN_AFTER_MS
        truth.overridden_banks = {
            bank.id for bank in truth.plate.banks if self._steered_until_ms.get((site, bank.id), 0) >= now_ms
        }

    def hide(self, truth: PlantTruth) -> None:
        """Nothing that has a wall time can be asked of a controller whose wall clock is wrong."""
        truth.dues = []
        truth.caps = [cap for cap in truth.caps if cap.source is CapSource.BREAKER]

    def in_force(self, site: str, now_ms: int) -> tuple[tuple[Obligation, ...], tuple[Override, ...]]:
        """A site's obligations that are not over and its overrides now in force, by id."""
        obligations = [each for each in self.obligations.values() if each.site == site and each.ends_at_ms > now_ms]
        overrides = [each for each in self.overrides.values() if each.site == site and _binds(each, now_ms)]
        return tuple(sorted(obligations, key=lambda each: each.id)), tuple(sorted(overrides, key=lambda each: each.id))


def _since(since_ms: int | None, now_ms: int, so: bool) -> int | None:
    if not so:
        return None
    return now_ms if since_ms is None else since_ms


def _binds(override: Override, now_ms: int) -> bool:
    return override.starts_at_ms <= now_ms and (override.ends_at_ms is None or now_ms < override.ends_at_ms)


__all__ = ["Cap", "Imposed", "Service"]
