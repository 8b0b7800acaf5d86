"""What an override would do, before it is imposed: power, money, jobs, conflicts, and what stands in its way.

The decision is made with and without it, at its start, with what is known now; and again at the price that is expected
over its time, at a low and at a high one (`controller.price_band`). Each is one `decide` of one site, with the event
loop free in between.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass

from controller.api.override_schemas import PermissiveOut, UsdPerHourOut
from controller.api.standing import is_local
from controller.app import Controller
from controller.engine.model import Outlook, SiteDecision, SiteSnapshot
from controller.overrides_model import STANDS_DOWN, Imposed
from controller.price_band import PAST_MS, Band, band
from controller.state import SiteState


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
    """Change in USD per hour, and the prices it was reckoned at; `band` is None where the price's past is too short."""

    usd_per_h: UsdPerHourOut
    band: Band | None


async def change_of(controller: Controller, state: SiteState, drafted: Imposed) -> Change:
    """With what is known now; None where the site cannot be decided."""
    return await _change(controller, state, drafted, None)


async def money_of(controller: Controller, state: SiteState, drafted: Imposed, expected: Change) -> Money | None:
    """What it earns or costs an hour at the prices to be expected while it stands. None where no price is known."""
    now_ms = controller.clock.wall_ms()
    now_usd = controller.freezer.energy(state.site, now_ms).usd_per_mwh
    if now_usd is None or expected.usd_per_h is None:
        return None
    found = _band(controller, state.site, drafted, now_usd, now_ms)
    if found is None:
        return Money(UsdPerHourOut(low=None, expected=expected.usd_per_h, high=None), None)
    usd: list[float] = []
    for price in (found.expected, found.low, found.high):
        at = (await _change(controller, state, drafted, _at_price(price, price - found.expected, drafted))).usd_per_h
        if at is None:
            return None
        usd.append(at)
    return Money(UsdPerHourOut(low=min(usd), expected=usd[0], high=max(usd)), found)


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


def _band(controller: Controller, site: str, drafted: Imposed, now_usd: float, now_ms: int) -> Band | None:
    name = controller.config.price_feed_of(site) or ""
    feed = controller.feeds.prices.get(name)
    past = None if feed is None else feed.known(now_ms - PAST_MS, now_ms)
    outlook = controller.freezer.outlooks.of(site, now_ms)
    return band(past, outlook, now_usd, now_ms, drafted.starts_at_ms, drafted.ends_at_ms)


def _at_price(usd_per_mwh: float, shift_usd: float, drafted: Imposed) -> Callable[[SiteSnapshot], SiteSnapshot]:
    """The site at another price, its outlook shifted by as much for the time of the override."""

    def shifted(outlook: Outlook) -> Outlook:
        ends_ms = drafted.ends_at_ms if drafted.ends_at_ms is not None else sys.maxsize
        starts = (outlook.start_ms + outlook.step_ms * step for step in range(len(outlook.usd_per_mwh)))
        usd = (
            price + shift_usd if drafted.starts_at_ms < start + outlook.step_ms and start < ends_ms else price
            for start, price in zip(starts, outlook.usd_per_mwh, strict=True)
        )
        return outlook.model_copy(update={"usd_per_mwh": tuple(usd)})

    def alter(site: SiteSnapshot) -> SiteSnapshot:
        energy = site.energy.model_copy(update={"usd_per_mwh": usd_per_mwh})
        outlook = None if site.outlook is None else shifted(site.outlook)
        return site.model_copy(update={"energy": energy, "outlook": outlook})

    return alter


def _running(decision: SiteDecision) -> set[str]:
    return {f"{step.bank}/{step.job}" for step in decision.shed_ladder if step.job is not None and step.frees_w > 0}
