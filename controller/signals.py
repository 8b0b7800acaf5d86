"""Signals: from what the grid asks, or awards, to an obligation with a fixed target or reserve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from contract.units import POWER_W_MAX
from controller.asks import Rejected, check_times, new_id
from controller.engine.model import Obligation
from controller.state import SiteState

PER_SITE_MAX: Final = 100
FORGET_AFTER_MS: Final = 24 * 3_600_000
"""What is over is kept this long: a wall clock that jumps ahead and is set right again must find it still there."""
_NOTICE_MAX_MS: Final = 400 * 24 * 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalAsk:
    """What was asked. Exactly one of `reduce_w`, `target_w` and `award_w`; times are wall clock, UTC."""

    site: str
    reduce_w: int | None = None
    """Below the baseline: main power, mean of the last five minutes of reports when the signal came."""
    target_w: int | None = None
    """What the main meter may show."""
    award_w: int | None = None
    """A reserve awarded: what must be running and be such that it can be shed, curtailed or not."""
    starts_at_ms: int | None = None
    """None: now."""
    ends_at_ms: int | None = None
    duration_ms: int | None = None
    """In place of `ends_at_ms`."""
    notice_ms: int | None = None
    """None: from now until the start."""
    firm_too: bool = False
    id: str | None = None
    """The asker's own; asking the same again with it changes nothing."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a reduction was counted from."""

    power_w: int
    readings: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The obligation, and whether it is new or was already there."""

    obligation: Obligation
    created: bool
    baseline: Baseline | None


class Signals:
    """All obligations that are not over, by id."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._all: dict[str, Obligation] = {}
        self._by_site: dict[str, tuple[Obligation, ...]] = {}

    def restore(self, obligations: Iterable[Obligation]) -> None:
        """Take back what the journal held."""
        for obligation in obligations:
            self._all[obligation.id] = obligation
        self._index()

    def accept(self, ask: SignalAsk, state: SiteState | None, now_ms: int, mono_ms: int) -> Accepted | Rejected:
        """Make an ask an obligation. `state` is the site's, None where there is none of that name."""
        known = self._all.get(ask.id) if ask.id is not None else None
        if known is not None and known.ends_at_ms > now_ms:
            if _same(ask, known):
                return Accepted(known, created=False, baseline=None)
            return Rejected("conflict", "id", f"{ask.id} already names another signal", "withdraw it, or take a new id")
        if state is None:
            return Rejected("unknown", "site", f"there is no site {ask.site!r}", "GET /v1/sites lists them")
        window = _window(ask, now_ms)
        if isinstance(window, Rejected):
            return window
        starts_at_ms, ends_at_ms = window
        target = _target(ask, state, mono_ms)
        if isinstance(target, Rejected):
            return target
        target_w, baseline = target
        if len(self.of(ask.site, now_ms)) >= PER_SITE_MAX:
            return Rejected("limit", "site", f"{ask.site} has {PER_SITE_MAX} signals", "withdraw some first")
        self._make_room(ask.site, now_ms)
        obligation = Obligation(
            id=ask.id or new_id("sg", self._chance, self._all),
            site=ask.site,
            target_w=target_w,
            baseline_w=baseline.power_w if baseline else None,
            reduce_w=ask.reduce_w,
            received_at_ms=now_ms,
            starts_at_ms=starts_at_ms,
            ends_at_ms=ends_at_ms,
            notice_ms=max(0, starts_at_ms - now_ms) if ask.notice_ms is None else min(ask.notice_ms, _NOTICE_MAX_MS),
            firm_too=ask.firm_too,
            award_w=ask.award_w,
        )
        self._all[obligation.id] = obligation
        self._index()
        return Accepted(obligation, created=True, baseline=baseline)

    def withdraw(self, key: str) -> Obligation | None:
        """Take an obligation off; None where there is none of that id."""
        obligation = self._all.pop(key, None)
        self._index()
        return obligation

    def of(self, site: str, now_ms: int) -> tuple[Obligation, ...]:
        """A site's obligations that are not over, by id."""
        return tuple(each for each in self._by_site.get(site, ()) if each.ends_at_ms > now_ms)

    def open_at(self, site: str, now_ms: int) -> Obligation | None:
        """The tightest curtailment that has begun and is not over."""
        begun = [each for each in self.of(site, now_ms) if each.starts_at_ms <= now_ms and each.award_w is None]
        return min(begun, key=lambda each: each.target_w, default=None)

    def awarded_w(self, site: str, now_ms: int) -> int:
        """The reserves awarded now, together."""
        return sum(each.award_w or 0 for each in self.of(site, now_ms) if each.starts_at_ms <= now_ms)

    def all(self, now_ms: int) -> list[Obligation]:
        return sorted((each for each in self._all.values() if each.ends_at_ms > now_ms), key=lambda each: each.id)

    def crossed(self, before_ms: int, now_ms: int) -> set[str]:
        """Sites for which an obligation began or ended after `before_ms`; what is long over is dropped."""
        sites: set[str] = set()
        for each in list(self._all.values()):
            if before_ms < each.starts_at_ms <= now_ms or before_ms < each.ends_at_ms <= now_ms:
                sites.add(each.site)
            if each.ends_at_ms + FORGET_AFTER_MS <= now_ms:
                del self._all[each.id]
        if len(self._all) != sum(map(len, self._by_site.values())):
            self._index()
        return sites

    def _make_room(self, site: str, now_ms: int) -> None:
        """Keep no more of a site's that are over than may be alive."""
        over = sorted((each.ends_at_ms, each.id) for each in self._by_site.get(site, ()) if each.ends_at_ms <= now_ms)
        for _, key in over[: max(len(over) - PER_SITE_MAX + 1, 0)]:
            del self._all[key]

    def _index(self) -> None:
        by_site: dict[str, list[Obligation]] = {}
        for key in sorted(self._all):
            by_site.setdefault(self._all[key].site, []).append(self._all[key])
        self._by_site = {site: tuple(each) for site, each in by_site.items()}


def _window(ask: SignalAsk, now_ms: int) -> tuple[int, int] | Rejected:
    starts_at_ms = now_ms if ask.starts_at_ms is None else ask.starts_at_ms
    if (ask.ends_at_ms is None) == (ask.duration_ms is None):
        return Rejected("invalid", "ends_at", "exactly one of ends_at and duration_s is needed", "give one of them")
    ends_at_ms = starts_at_ms + (ask.duration_ms or 0) if ask.ends_at_ms is None else ask.ends_at_ms
    return check_times(starts_at_ms, ends_at_ms, now_ms) or (max(starts_at_ms, now_ms), ends_at_ms)


def _target(ask: SignalAsk, state: SiteState, mono_ms: int) -> tuple[int, Baseline | None] | Rejected:
    given = {"reduce_w": ask.reduce_w, "target_w": ask.target_w, "award_w": ask.award_w}
    asked = [(name, watts) for name, watts in given.items() if watts is not None]
    if len(asked) != 1:
        told = "exactly one of reduce_w, target_w and award_w is needed"
        return Rejected("invalid", "reduce_w", told, "give one of them")
    if ask.notice_ms is not None and ask.notice_ms < 0:
        return Rejected("invalid", "notice_s", "is negative", "give 0 or more seconds")
    name, watts = asked[0]
    if not 0 <= watts <= POWER_W_MAX:
        return Rejected("invalid", name, f"is not within 0 and {POWER_W_MAX} watts", "give whole watts")
    if ask.reduce_w is None:
        return (watts if ask.award_w is None else POWER_W_MAX), None
    mean = state.power.mean(mono_ms)
    if mean is None:
        return Rejected(
            "conflict",
            "reduce_w",
            f"no main power of {ask.site} is known from the last five minutes, so there is no baseline",
            "give target_w instead, or ask again when the site reports",
        )
    baseline = Baseline(*mean)
    return min(max(0, baseline.power_w - ask.reduce_w), POWER_W_MAX), baseline


def _same(ask: SignalAsk, known: Obligation) -> bool:
    """Whether an ask says nothing that the obligation of its id does not."""
    length_ms = known.ends_at_ms - known.starts_at_ms
    return (
        ask.site == known.site
        and ask.reduce_w == known.reduce_w
        and ask.award_w == known.award_w
        and (ask.target_w is None or ask.target_w == known.target_w)
        and (ask.starts_at_ms is None or ask.starts_at_ms == known.starts_at_ms)
        and (ask.ends_at_ms is None or ask.ends_at_ms == known.ends_at_ms)
        and (ask.duration_ms is None or ask.duration_ms == length_ms)
        and ask.firm_too == known.firm_too
    )
