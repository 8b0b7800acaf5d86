"""What is wrong, and what to do: the broker, the journal, the clock, agents, devices, schedulers and price feeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from contract.messages import Mode
from controller.api.schemas import FindingOut
from controller.app import Controller
from controller.audit_watch import AuditWatch
from controller.engine.model import Params
from controller.roles import Principal
from controller.state import SiteState

CLOCK_MAX_MS: Final = 5_000
"""Wall clocks further apart than this put signals and overrides at the wrong moment."""
_READY_FIX: Final = {
    "started": "wait; if it stays, read the controller's log",
    "bus": "is the broker running, and are [mqtt] host, port, certificate and ACL right?",
    "journal": "make room on its disk, or bring its database back; decisions go on meanwhile",
    "loop": "the process is overloaded or hangs: look at its CPU, then restart it",
    "leading": "stop the other controller, or set [journal] epoch_floor",
}
_SITES_MAX: Final = 1_000


def process_findings(controller: Controller, audit: AuditWatch | None) -> Iterator[FindingOut]:
    """The controller itself."""
    for check in controller.checks():
        name = "broker" if check.name == "bus" else check.name
        yield _finding(name, None, check.ok, check.detail, _READY_FIX.get(check.name))
    if audit is None:
        fix = "set [http] audit_file"
        yield FindingOut(check="audit", site=None, ok=None, detail="no audit log is kept", fix=fix)
    else:
        yield _audited(audit)
    held = controller.feeds
    found = [("price", "prices", name, feed.health) for name, feed in held.prices.items()]
    found += [("hashprice", "hashprices", name, feed.health) for name, feed in held.hashprices.items()]
    found += [("series", "series", name, feed.health) for name, feed in held.series.items()]
    for kind, section, name, health in found:
        fix = f"check [feeds.{section}.{name}] and that its source answers"
        yield _finding(kind, None, health.ok, f"feed {name}: {health.detail}", fix)


def site_findings(controller: Controller, state: SiteState) -> Iterator[FindingOut]:
    """One site, as its newest report tells."""
    params = controller.dispatcher.params_of(state.site)
    yield _agent(controller, state, params)
    if state.report is None:
        return
    yield _clock(controller, state)
    yield _devices(state)
    yield from _scheduler(controller, state, params)
    yield _price(controller, state, params)


def reached(controller: Controller, who: Principal, site: str | None) -> list[SiteState]:
    """The sites to look at, bounded."""
    found = [state for state in controller.fleet if who.reaches(state.site) and site in (None, state.site)]
    return sorted(found, key=lambda state: state.site)[:_SITES_MAX]


def _audited(audit: AuditWatch) -> FindingOut:
    if audit.log.fault is not None:
        fix = "make room on its disk; changes go on meanwhile"
        return _finding("audit", None, False, f"cannot be written: {audit.log.fault}", fix)
    if audit.last is not None and audit.last.fault is not None:
        fix = "keep the file, find out who changed it, see the runbook WattshiftAuditBroken"
        return _finding("audit", None, False, audit.last.fault, fix)
    told = "not yet walked" if audit.last is None else f"{audit.last.head.lines} of them walked and whole"
    return _finding("audit", None, True, f"{audit.log.head.lines} entries, {told}", None)


def _agent(controller: Controller, state: SiteState, params: Params) -> FindingOut:
    report = state.report
    if report is None or state.nameplate is None:
        fix = "is wattshift-agent running there, and may it publish? See its log"
        return _finding("agent", state.site, False, "no nameplate and report of a running agent have come", fix)
    age_ms = max(0, controller.clock.mono_ms() - state.report_at_ms)
    if not state.online or age_ms > params.stale_report_ms:
        fix = "is wattshift-agent running there, and its link to the broker up?"
        return _finding("agent", state.site, False, f"last heard {age_ms / 1_000:.0f} s ago", fix)
    if report.mode is Mode.LOCAL:
        fix = "nothing, while a person works there; then remove `local` from the agent's control folder"
        return _finding("agent", state.site, False, "in local control: orders are refused", fix)
    if report.mode is Mode.SAFE:
        fix = "see its order under `wattshift status SITE`: no valid lease has reached it"
        return _finding("agent", state.site, False, "holds its fail-safe", fix)
    return _finding("agent", state.site, True, f"obeys orders; last heard {age_ms / 1_000:.0f} s ago", None)


def _clock(controller: Controller, state: SiteState) -> FindingOut:
    """The agent's wall clock against ours at the moment its report came."""
    clock = controller.clock
    arrived_ms = clock.wall_ms() - (clock.mono_ms() - state.report_at_ms)
    off_ms = state.report.sent_at_ms - arrived_ms if state.report is not None else 0
    ok = abs(off_ms) <= CLOCK_MAX_MS
    detail = f"the agent's clock is {abs(off_ms) / 1_000:.1f} s {'ahead' if off_ms > 0 else 'behind'}"
    return _finding("clock", state.site, ok, detail, "start NTP (chrony or systemd-timesyncd) on both hosts")


def _devices(state: SiteState) -> FindingOut:
    counts = {"unreachable": 0, "tripped": 0, "unknown": 0}
    total = 0
    banks: list[str] = []
    for bank in state.report.banks if state.report is not None else ():
        of = bank.devices
        total += of.running + of.starting + of.stopped + of.tripped + of.unreachable + of.unknown
        for name in counts:
            counts[name] += getattr(of, name)
        if of.unreachable or of.tripped:
            banks.append(bank.id)
    bad = counts["unreachable"] + counts["tripped"]
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "all answer"
    detail = f"{total} devices: {told}" + (f", in {', '.join(banks[:5])}" if banks else "")
    return _finding("devices", state.site, bad == 0, detail, "check power and network there; trips name their cause")


def _scheduler(controller: Controller, state: SiteState, params: Params) -> Iterator[FindingOut]:
    since_ms = max(0, controller.clock.mono_ms() - state.report_at_ms)
    for each in state.report.partitions if state.report is not None else ():
        age_ms = None if each.age_ms is None else each.age_ms + since_ms
        ok = age_ms is not None and age_ms <= params.stale_report_ms
        told = "has never answered" if age_ms is None else f"answered {age_ms / 1_000:.0f} s ago"
        detail = f"{each.bank}: {told}; {each.nodes_up} nodes up, {len(each.jobs)} jobs"
        fix = "is slurmctld, slurmrestd or the Kubernetes API server up, and the agent's token good?"
        yield _finding("scheduler", state.site, ok, detail, fix)


def _price(controller: Controller, state: SiteState, params: Params) -> FindingOut:
    energy = controller.freezer.energy(state.site, controller.clock.wall_ms())
    if not energy.feed and energy.usd_per_mwh is None:
        fix = "set price = FEED for it, and [feeds.prices.FEED]"
        return FindingOut(check="price", site=state.site, ok=None, detail="no price feed is set", fix=fix)
    ok = energy.usd_per_mwh is not None and (energy.age_ms or 0) <= params.stale_price_ms
    if energy.usd_per_mwh is None:
        detail = f"feed {energy.feed} knows none"
    else:
        detail = f"feed {energy.feed}: {energy.usd_per_mwh:.2f} USD/MWh, {(energy.age_ms or 0) / 1_000:.0f} s old"
    return _finding("price", state.site, ok, detail, f"check [feeds.prices.{energy.feed}] and that its source answers")


def _finding(check: str, site: str | None, ok: bool, detail: str, fix: str | None) -> FindingOut:
    return FindingOut(check=check, site=site, ok=ok, detail=detail, fix=None if ok else fix)
