"""Overrides: what ops impose, checked before it is in force."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from contract.messages import Workload
from contract.units import POWER_W_MAX
from controller.asks import Rejected, check_times, new_id
from controller.engine.model import Override, OverrideKind
from controller.state import SiteState

PER_SITE_MAX: Final = 500
FORGET_AFTER_MS: Final = 24 * 3_600_000
"""What is over is kept this long: a wall clock that jumps ahead and is set right again must find it still there."""
_NEED_VALUE: Final = frozenset({OverrideKind.CAP, OverrideKind.FLOOR})
_WORKLOAD_OF: Final = {OverrideKind.FORCE_HASH: Workload.HASH, OverrideKind.FORCE_HPC: Workload.HPC}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideAsk:
    """What was asked. Times are wall clock, UTC; without an end it stands until it is lifted."""

    site: str
    kind: OverrideKind
    reason: str
    feeder: str | None = None
    bank: str | None = None
    value_w: int | None = None
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None
    duration_ms: int | None = None
    created_by: str = ""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class OverrideSet:
    """The override, and whether it is new or was already there."""

    override: Override
    created: bool


class Overrides:
    """All overrides that are not over, by id."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._all: dict[str, Override] = {}
        self._by_site: dict[str, tuple[Override, ...]] = {}

    def restore(self, overrides: Iterable[Override]) -> None:
        """Take back what the journal held."""
        for override in overrides:
            self._all[override.id] = override
        self._index()

    def impose(self, ask: OverrideAsk, state: SiteState | None, now_ms: int) -> OverrideSet | Rejected:
        """Put an ask in force. `state` is the site's, None where there is none of that name."""
        known = self._all.get(ask.id) if ask.id is not None else None
        if known is not None and not _is_over(known, now_ms):
            if _same(ask, known):
                return OverrideSet(known, created=False)
            return Rejected("conflict", "id", f"{ask.id} already names another override", "lift it, or take a new id")
        if state is None:
            return Rejected("unknown", "site", f"there is no site {ask.site!r}", "GET /v1/sites lists them")
        rejected = _check_value(ask) or _check_target(ask, state)
        if rejected is not None:
            return rejected
        window = _window(ask, now_ms)
        if isinstance(window, Rejected):
            return window
        over = [each for each in self._by_site.get(ask.site, ()) if _is_over(each, now_ms)]
        if len(self._by_site.get(ask.site, ())) - len(over) >= PER_SITE_MAX:
            return Rejected("limit", "site", f"{ask.site} has {PER_SITE_MAX} overrides", "lift some first")
        over.sort(key=lambda each: (each.ends_at_ms or 0, each.id))
        for each in over[: max(len(over) - PER_SITE_MAX + 1, 0)]:
            del self._all[each.id]
        override = Override(
            id=ask.id or new_id("ov", self._chance, self._all),
            kind=ask.kind,
            site=ask.site,
            feeder=ask.feeder,
            bank=ask.bank,
            value_w=ask.value_w,
            starts_at_ms=window[0],
            ends_at_ms=window[1],
            reason=ask.reason,
            created_by=ask.created_by,
            created_at_ms=now_ms,
        )
        self._all[override.id] = override
        self._index()
        return OverrideSet(override, created=True)

    def lift(self, key: str) -> Override | None:
        """Take an override off; None where there is none of that id."""
        override = self._all.pop(key, None)
        self._index()
        return override

    def active(self, site: str, now_ms: int) -> tuple[Override, ...]:
        """A site's overrides in force, by id."""
        return tuple(each for each in self._by_site.get(site, ()) if in_force(each, now_ms))

    def all(self, now_ms: int) -> list[Override]:
        """In force or to come, by id."""
        alive = (each for each in self._all.values() if not _is_over(each, now_ms))
        return sorted(alive, key=lambda each: each.id)

    def crossed(self, before_ms: int, now_ms: int) -> set[str]:
        """Sites for which an override began or ended after `before_ms`; what is long over is dropped."""
        sites: set[str] = set()
        for each in list(self._all.values()):
            if before_ms < each.starts_at_ms <= now_ms:
                sites.add(each.site)
            if each.ends_at_ms is None:
                continue
            if before_ms < each.ends_at_ms <= now_ms:
                sites.add(each.site)
            if each.ends_at_ms + FORGET_AFTER_MS <= now_ms:
                del self._all[each.id]
        if len(self._all) != sum(map(len, self._by_site.values())):
            self._index()
        return sites

    def _index(self) -> None:
        by_site: dict[str, list[Override]] = {}
        for key in sorted(self._all):
            by_site.setdefault(self._all[key].site, []).append(self._all[key])
        self._by_site = {site: tuple(each) for site, each in by_site.items()}


def in_force(override: Override, now_ms: int) -> bool:
    return override.starts_at_ms <= now_ms and (override.ends_at_ms is None or now_ms < override.ends_at_ms)


def _is_over(override: Override, now_ms: int) -> bool:
    return override.ends_at_ms is not None and override.ends_at_ms <= now_ms


def _check_value(ask: OverrideAsk) -> Rejected | None:
    if ask.kind in _NEED_VALUE:
        if ask.value_w is None:
            return Rejected("invalid", "value_w", f"is missing: {ask.kind} needs watts", "give value_w")
        if not 0 <= ask.value_w <= POWER_W_MAX:
            return Rejected("invalid", "value_w", f"is not within 0 and {POWER_W_MAX} watts", "give whole watts")
    elif ask.value_w is not None:
        return Rejected("invalid", "value_w", f"{ask.kind} takes no watts", "leave value_w out")
    if not ask.reason.strip():
        return Rejected("invalid", "reason", "is empty", "say why, for those who find it in force")
    return None


def _check_target(ask: OverrideAsk, state: SiteState) -> Rejected | None:
    """The feeder or bank must be on the nameplate. An emergency stop of a whole site needs no nameplate."""
    if ask.feeder is not None and ask.bank is not None:
        return Rejected("invalid", "bank", "feeder and bank are both given", "give the narrower one")
    if ask.feeder is None and ask.bank is None:
        return None
    plate = state.nameplate
    if plate is None:
        return Rejected("conflict", "site", f"{ask.site} has sent no nameplate yet", "cover the whole site, or wait")
    if ask.feeder is not None and all(feeder.id != ask.feeder for feeder in plate.feeders):
        known = ", ".join(feeder.id for feeder in plate.feeders[:10])
        return Rejected("unknown", "feeder", f"{ask.site} has no feeder {ask.feeder!r}", f"it has {known}")
    if ask.bank is not None:
        bank = next((each for each in plate.banks if each.id == ask.bank), None)
        if bank is None:
            known = ", ".join(each.id for each in plate.banks[:10])
            return Rejected("unknown", "bank", f"{ask.site} has no bank {ask.bank!r}", f"it has {known}")
        wanted = _WORKLOAD_OF.get(ask.kind, bank.workload)
        if bank.workload is not wanted:
            problem = f"{ask.bank} is a bank for {bank.workload}, {ask.kind} is for {wanted}"
            return Rejected("invalid", "bank", problem, "name a bank of that workload")
    return None


def _window(ask: OverrideAsk, now_ms: int) -> tuple[int, int | None] | Rejected:
    if ask.ends_at_ms is not None and ask.duration_ms is not None:
        return Rejected("invalid", "ends_at", "ends_at and duration_s are both given", "give one of them")
    starts_at_ms = now_ms if ask.starts_at_ms is None else ask.starts_at_ms
    ends_at_ms = ask.ends_at_ms if ask.duration_ms is None else starts_at_ms + ask.duration_ms
    return check_times(starts_at_ms, ends_at_ms, now_ms) or (max(starts_at_ms, now_ms), ends_at_ms)


def _same(ask: OverrideAsk, known: Override) -> bool:
    """Whether an ask says nothing that the override of its id does not."""
    ends_at_ms = known.starts_at_ms + ask.duration_ms if ask.duration_ms is not None else ask.ends_at_ms
    return (
        (ask.site, ask.kind, ask.feeder, ask.bank, ask.value_w)
        == (known.site, known.kind, known.feeder, known.bank, known.value_w)
        and (ask.starts_at_ms is None or ask.starts_at_ms == known.starts_at_ms)
        and ends_at_ms == known.ends_at_ms
    )
