"""Overrides: what ops impose, checked before it is in force.

What is over, by its end or revoked, is kept for a day: ops look for it, and a wall clock that jumps ahead and is set
right again must find it still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

from contract.messages import Nameplate
from contract.units import POWER_W_MAX
from controller.asks import Rejected, check_times, new_id
from controller.engine.model import Override, OverrideKind
from controller.overrides_model import WORKLOAD_OF, Imposed, TargetWorkload
from controller.state import SiteState

PER_SITE_MAX: Final = 500
FORGET_AFTER_MS: Final = 24 * 3_600_000
_NEED_VALUE: Final = frozenset({OverrideKind.CAP, OverrideKind.FLOOR})


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideAsk:
    """What was asked. Times are wall clock, UTC; a lockout alone may be without an end."""

    site: str
    kind: OverrideKind
    reason: str
    feeder: str | None = None
    bank: str | None = None
    workload: TargetWorkload | None = None
    value_w: int | None = None
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None
    duration_ms: int | None = None
    ticket: str = ""
    created_by: str = ""
    id: str | None = None
    request: str = ""
    """A digest of the whole request, where it came with an idempotency key; `id` is then derived from the key."""


@dataclass(frozen=True, slots=True)
class OverrideSet:
    """The override, and whether it is new or was already there."""

    override: Imposed
    created: bool


class Overrides:
    """All overrides, by id. `plate_of` tells a site's nameplate, for targets that name a workload."""

    def __init__(self, chance: Random, plate_of: Callable[[str], Nameplate | None] = lambda _: None) -> None:
        self._chance = chance
        self._plate_of = plate_of
        self._all: dict[str, Imposed] = {}
        self._by_site: dict[str, tuple[Imposed, ...]] = {}

    def restore(self, overrides: Iterable[Override]) -> None:
        """Take back what the journal held."""
        for override in overrides:
            kept = override if isinstance(override, Imposed) else Imposed.model_validate(override.model_dump())
            self._all[kept.id] = kept
        self._index()

    def draft(self, ask: OverrideAsk, state: SiteState | None, now_ms: int) -> OverrideSet | Rejected:
        """What `impose` would answer. Nothing is changed. `state` is the site's, None where there is none."""
        known = self._all.get(ask.id) if ask.id is not None else None
        if known is not None and (ask.request or not known.is_over(now_ms)):
            if (ask.request == known.request) if ask.request else _same(ask, known):
                return OverrideSet(known, created=False)
            if ask.request:
                fix = "send the very request again, or take a new key for a new one"
                return Rejected("invalid", "Idempotency-Key", "was used for another request", fix)
            return Rejected("conflict", "id", f"{ask.id} already names another override", "revoke it, or take a new id")
        if state is None:
            return Rejected("unknown", "site", f"there is no site {ask.site!r}", "GET /v1/sites lists them")
        rejected = _check_value(ask) or _check_target(ask, state)
        if rejected is not None:
            return rejected
        window = _window(ask, now_ms)
        if isinstance(window, Rejected):
            return window
        alive = sum(not each.is_over(now_ms) for each in self._by_site.get(ask.site, ()))
        if alive >= PER_SITE_MAX:
            return Rejected("limit", "site", f"{ask.site} has {PER_SITE_MAX} overrides", "revoke some first")
        drafted = Imposed(
            id=ask.id or new_id("ov", self._chance, self._all),
            kind=ask.kind,
            site=ask.site,
            feeder=ask.feeder,
            bank=ask.bank,
            workload=ask.workload,
            value_w=ask.value_w,
            starts_at_ms=window[0],
            ends_at_ms=window[1],
            reason=ask.reason,
            ticket=ask.ticket,
            created_by=ask.created_by,
            created_at_ms=now_ms,
            request=ask.request,
        )
        return OverrideSet(drafted, created=True)

    def impose(self, ask: OverrideAsk, state: SiteState | None, now_ms: int) -> OverrideSet | Rejected:
        """Put an ask in force."""
        done = self.draft(ask, state, now_ms)
        if isinstance(done, OverrideSet) and done.created:
            self._make_room(ask.site, now_ms)
            self._keep(done.override)
        return done

    def extend(
        self,
        key: str,
        ends_at_ms: int,
        now_ms: int,
        *,
        reason: str,
        by: str = "",
        ticket: str | None = None,
    ) -> Imposed | Rejected:
        """Give one that is not over another end, later or sooner; it keeps its id and gets the next version."""
        known = self._all.get(key)
        if known is None:
            return Rejected("unknown", "id", f"there is no override {key[:64]!r}", "GET /v1/overrides lists them")
        if known.is_over(now_ms):
            return Rejected("conflict", "id", f"{key} is over", "impose a new one")
        if not reason.strip():
            return Rejected("invalid", "reason", "is empty", "say why it is changed")
        rejected = check_times(max(known.starts_at_ms, now_ms), ends_at_ms, now_ms)
        if rejected is not None:
            return rejected
        changed = {
            "ends_at_ms": ends_at_ms,
            "version": known.version + 1,
            "changed_at_ms": now_ms,
            "changed_by": by,
            "change_reason": reason,
            "ticket": known.ticket if ticket is None else ticket,
        }
        return self._keep(known.model_copy(update=changed))

    def revoke(self, key: str, now_ms: int, *, by: str = "", reason: str = "") -> Imposed | None:
        """Take an override off; None where there is none of that id that is not over."""
        known = self._all.get(key)
        if known is None or known.is_over(now_ms):
            return None
        changed = {
            "version": known.version + 1,
            "revoked_at_ms": now_ms,
            "revoked_by": by,
            "revoke_reason": reason,
        }
        return self._keep(known.model_copy(update=changed))

    @contextmanager
    def hypothetically(self, drafted: Imposed) -> Iterator[None]:
        """As if it were in force. For a preview, within which nothing may await."""
        before = self._by_site.get(drafted.site, ())
        self._by_site[drafted.site] = (*before, drafted)
        try:
            yield
        finally:
            self._by_site[drafted.site] = before

    def get(self, key: str) -> Imposed | None:
        return self._all.get(key)

    def entries(self, site: str | None = None) -> list[Imposed]:
        """Every one that is kept, what is over included, by id."""
        if site is not None:
            return list(self._by_site.get(site, ()))
        return [self._all[key] for key in sorted(self._all)]

    def standing(self, site: str, now_ms: int) -> list[Imposed]:
        """A site's in force now, by id."""
        return [each for each in self._by_site.get(site, ()) if each.in_force(now_ms)]

    def active(self, site: str, now_ms: int) -> tuple[Override, ...]:
        """What the engine is to see of a site now, by id."""
        found = self.standing(site, now_ms)
        if not found:
            return ()
        plate = self._plate_of(site)
        return tuple(part for each in found for part in each.parts(plate))

    def all(self, now_ms: int) -> list[Override]:
        """What the engine sees or will see, by id."""
        alive = (self._all[key] for key in sorted(self._all) if not self._all[key].is_over(now_ms))
        return [part for each in alive for part in each.parts(self._plate_of(each.site))]

    def crossed(self, before_ms: int, now_ms: int) -> set[str]:
        """Sites for which an override began or ended after `before_ms`; what is long over is dropped."""
        sites: set[str] = set()
        for each in list(self._all.values()):
            over_ms = each.revoked_at_ms if each.revoked_at_ms is not None else each.ends_at_ms
            if each.revoked_at_ms is None:
                if before_ms < each.starts_at_ms <= now_ms:
                    sites.add(each.site)
                if over_ms is not None and before_ms < over_ms <= now_ms:
                    sites.add(each.site)
            if over_ms is not None and over_ms + FORGET_AFTER_MS <= now_ms:
                del self._all[each.id]
        if len(self._all) != sum(map(len, self._by_site.values())):
            self._index()
        return sites

    def _make_room(self, site: str, now_ms: int) -> None:
        """Keep no more of a site's that are over than may be alive."""
        over = [each for each in self._by_site.get(site, ()) if each.is_over(now_ms)]
        over.sort(key=lambda each: (each.revoked_at_ms or each.ends_at_ms or 0, each.id))
        gone = {each.id for each in over[: max(len(over) - PER_SITE_MAX + 1, 0)]}
        if gone:
            self._by_site[site] = tuple(each for each in self._by_site[site] if each.id not in gone)
            for key in gone:
                del self._all[key]

    def _keep(self, override: Imposed) -> Imposed:
        """Only its site is indexed anew: there may be thousands."""
        before = self._all.get(override.id)
        if before is not None and before.site != override.site:  # the id of one that is over, taken for another site
            self._by_site[before.site] = tuple(each for each in self._by_site[before.site] if each.id != override.id)
        self._all[override.id] = override
        others = (each for each in self._by_site.get(override.site, ()) if each.id != override.id)
        self._by_site[override.site] = tuple(sorted([*others, override], key=lambda each: each.id))
        return override

    def _index(self) -> None:
        by_site: dict[str, list[Imposed]] = {}
        for key in sorted(self._all):
            by_site.setdefault(self._all[key].site, []).append(self._all[key])
        self._by_site = {site: tuple(each) for site, each in by_site.items()}


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
    """The target must be on the nameplate. An emergency stop of a whole site needs no nameplate."""
    narrower = [name for name in ("feeder", "bank", "workload") if getattr(ask, name) is not None]
    if len(narrower) > 1:
        return Rejected("invalid", narrower[1], f"{narrower[0]} and {narrower[1]} are both given", "give one of them")
    if not narrower:
        return None
    plate = state.nameplate
    if plate is None:
        return Rejected("conflict", "site", f"{ask.site} has sent no nameplate yet", "cover the whole site, or wait")
    if ask.feeder is not None and all(feeder.id != ask.feeder for feeder in plate.feeders):
        known = ", ".join(feeder.id for feeder in plate.feeders[:10])
        return Rejected("unknown", "feeder", f"{ask.site} has no feeder {ask.feeder!r}", f"it has {known}")
    if ask.workload is not None:
        return _check_workload(ask, plate)
    return _check_bank(ask, plate)


def _check_workload(ask: OverrideAsk, plate: Nameplate) -> Rejected | None:
    if WORKLOAD_OF.get(ask.kind, ask.workload) != ask.workload:
        return Rejected("invalid", "workload", f"{ask.kind} is not for {ask.workload}", "leave workload out")
    if all(bank.workload != ask.workload for bank in plate.banks):
        return Rejected("unknown", "workload", f"{ask.site} has no bank for {ask.workload}", "name another workload")
    return None


def _check_bank(ask: OverrideAsk, plate: Nameplate) -> Rejected | None:
    if ask.bank is None:
        return None
    bank = next((each for each in plate.banks if each.id == ask.bank), None)
    if bank is None:
        known = ", ".join(each.id for each in plate.banks[:10])
        return Rejected("unknown", "bank", f"{ask.site} has no bank {ask.bank!r}", f"it has {known}")
    wanted = WORKLOAD_OF.get(ask.kind, bank.workload)
    if bank.workload is not wanted:
        problem = f"{ask.bank} is a bank for {bank.workload}, {ask.kind} is for {wanted}"
        return Rejected("invalid", "bank", problem, "name a bank of that workload")
    return None


def _window(ask: OverrideAsk, now_ms: int) -> tuple[int, int | None] | Rejected:
    if ask.ends_at_ms is not None and ask.duration_ms is not None:
        return Rejected("invalid", "ends_at", "ends_at and duration_s are both given", "give one of them")
    starts_at_ms = now_ms if ask.starts_at_ms is None else ask.starts_at_ms
    ends_at_ms = ask.ends_at_ms if ask.duration_ms is None else starts_at_ms + ask.duration_ms
    rejected = check_times(starts_at_ms, ends_at_ms, now_ms)
    if rejected is not None:
        return rejected
    if ends_at_ms is None and ask.kind is not OverrideKind.LOCKOUT:
        return Rejected("invalid", "ends_at", "is missing: a lockout alone may stay open", "give ends_at or duration_s")
    return max(starts_at_ms, now_ms), ends_at_ms


def _same(ask: OverrideAsk, known: Imposed) -> bool:
    """Whether an ask says nothing that the override of its id does not."""
    ends_at_ms = known.starts_at_ms + ask.duration_ms if ask.duration_ms is not None else ask.ends_at_ms
    return (
        (ask.site, ask.kind, ask.feeder, ask.bank, ask.workload, ask.value_w)
        == (known.site, known.kind, known.feeder, known.bank, known.workload, known.value_w)
        and (ask.starts_at_ms is None or ask.starts_at_ms == known.starts_at_ms)
        and ends_at_ms == known.ends_at_ms
    )
