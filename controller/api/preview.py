"""What an override would do, before it is imposed: power, money, jobs, conflicts, and what stands in its way.

The decision is made with and without it, at its start, with what is known now; and again at a lower and a higher price.
Each is one `decide` of one site, with the event loop free in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from controller.api.override_schemas import PermissiveOut, UsdPerHourOut
from controller.api.standing import is_local
from controller.app import Controller
from controller.engine.model import SiteDecision, SiteSnapshot
from controller.overrides_model import STANDS_DOWN, Imposed
from controller.state import SiteState

_BAND_MIN_USD_PER_MWH = 10.0
"""A share of a price near zero is no band."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an override changes. Watts are planned at the main meter, at its start."""

    before: SiteDecision | None
    after: SiteDecision | None

    @property
    def power_w(self) -> int | None:
        if self.before is None or self.after is None:
            return None
        return self.after.planned_w - self.before.planned_w

    @property
    def usd_per_h(self) -> float | None:
        if self.before is None or self.after is None:
            return None
        if self.before.margin_usd_per_h is None or self.after.margin_usd_per_h is None:
            return None
        return round(self.after.margin_usd_per_h - self.before.margin_usd_per_h, 2)

    @property
    def jobs_lost(self) -> list[str]:
        """Jobs that draw power without it and none with it."""
        if self.before is None or self.after is None:
            return []
        return sorted(_running(self.before) - _running(self.after))


@dataclass(frozen=True, slots=True)
class Money:
    """Change in USD per hour over a band of prices."""

    usd_per_h: UsdPerHourOut
    low_usd_per_mwh: float
    high_usd_per_mwh: float


async def change_of(controller: Controller, state: SiteState, drafted: Imposed) -> Change:
    """With what is known now; None where the site cannot be decided."""
    return await _change(controller, state, drafted, None)


async def money_of(controller: Controller, state: SiteState, drafted: Imposed, expected: Change) -> Money | None:
    """The same at a lower and a higher price. None where a price is not known."""
    now_usd = controller.freezer.energy(state.site, controller.clock.wall_ms()).usd_per_mwh
    middle = expected.usd_per_h
    if now_usd is None or middle is None:
        return None
    band = max(abs(now_usd) * controller.config.http.preview_price_band, _BAND_MIN_USD_PER_MWH)
    low_usd, high_usd = now_usd - band, now_usd + band
    found = [middle]
    for usd in (low_usd, high_usd):
        at = (await _change(controller, state, drafted, _at_price(usd))).usd_per_h
        if at is not None:
            found.append(at)
    return Money(UsdPerHourOut(low=min(found), expected=middle, high=max(found)), round(low_usd, 2), round(high_usd, 2))


def must_confirm(controller: Controller, drafted: Imposed, change: Change) -> bool:
    """Emergency reductions never wait; nor does what changes no more than the configured size."""
    above_w = controller.config.http.confirm_above_w
    if above_w is None or drafted.kind in STANDS_DOWN:
        return False
    return abs(change.power_w or 0) > above_w


def permissives(controller: Controller, state: SiteState, drafted: Imposed) -> list[PermissiveOut]:
    """What must hold for it to act."""
    plate, report = state.nameplate, state.report
    age_ms = None if report is None else max(0, controller.clock.mono_ms() - state.report_at_ms)
    stale_ms = controller.dispatcher.params_of(state.site).stale_report_ms
    covered = set(drafted.covers(plate)) if plate is not None else set()
    trips = [
        f"{bank.id}: {', '.join(trip.kind for trip in bank.interlocks)}"
        for bank in (report.banks if report is not None else ())
        if bank.id in covered and bank.interlocks
    ]
    local = is_local(state)
    found = [
        ("nameplate", plate is not None, "known" if plate is not None else "none of the running agent has come"),
        ("online", state.online, "online" if state.online else "offline: nothing ordered is heard"),
        ("mode", not local, "a person on site is in charge: orders are refused" if local else "obeys orders"),
        ("leading", not state.fenced, "another controller leads" if state.fenced else "obeys this controller"),
        ("interlocks", not trips, "; ".join(trips[:10]) or "none on its banks; one that trips stays above this"),
    ]
    out = [PermissiveOut(name=name, ok=ok, detail=detail) for name, ok, detail in found]
    fresh = None if age_ms is None else age_ms <= stale_ms
    told = "no report has come" if age_ms is None else f"the last report is {age_ms / 1_000:.0f} s old"
    out.append(PermissiveOut(name="data", ok=bool(fresh), detail=told))
    return out


async def _change(
    controller: Controller, state: SiteState, drafted: Imposed, alter: Callable[[SiteSnapshot], SiteSnapshot] | None
) -> Change:
    at_ms = max(drafted.starts_at_ms, controller.clock.wall_ms())
    before = controller.dispatcher.preview(state, at_ms, alter)
    await asyncio.sleep(0)
    with controller.overrides.hypothetically(drafted):
        after = controller.dispatcher.preview(state, at_ms, alter)
    await asyncio.sleep(0)
    return Change(before, after)


def _at_price(usd_per_mwh: float) -> Callable[[SiteSnapshot], SiteSnapshot]:
    def alter(site: SiteSnapshot) -> SiteSnapshot:
        energy = site.energy.model_copy(update={"usd_per_mwh": usd_per_mwh})
        return site.model_copy(update={"energy": energy})

    return alter


def _running(decision: SiteDecision) -> set[str]:
    return {f"{step.bank}/{step.job}" for step in decision.shed_ladder if step.job is not None and step.frees_w > 0}
