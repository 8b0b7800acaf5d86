"""`decide`: the one decision. Synchronous, total, deterministic, pure.

A snapshot goes in, the dispatch of every site comes out, and nothing else is read: no clock, no chance, no memory. The
order of anything inside the snapshot does not matter, and deciding twice decides the same.
"""

from __future__ import annotations

from contract.messages import Workload
from contract.reasons import DecisionReason
from contract.units import POWER_W_MAX
from controller.engine import planned
from controller.engine.economics import Dispatch, Economics, Outcome, dispatch
from controller.engine.explain import margin_usd_per_h, reason_of, value_of
from controller.engine.facts import MW_PER_W, Bank, Site, canonical, digest
from controller.engine.ladder import shed_ladder
from controller.engine.model import (
    BankDecision,
    Decision,
    Method,
    Obligation,
    Params,
    Shortfall,
    SiteDecision,
    Snapshot,
)
from controller.engine.narrate import sentence
from controller.engine.rules import Envelope, Preview, narrow, shed_from_ms
from controller.engine.shortfalls import shortfalls

URGENT = frozenset({DecisionReason.OBLIGATION, DecisionReason.EMERGENCY_STOP, DecisionReason.CAP})


def decide(snapshot: Snapshot, params: Params, economics: Economics | None = None) -> Decision:
    """What every bank of every site is to do now, and why. Never raises on a valid snapshot.

    `params.economics` says how it is chosen, unless `economics` is given.
    """
    sites = [digest(site, params, snapshot.at_ms) for site in canonical(snapshot.sites, lambda s: s.site)]
    cases = [(site, envelope_of(site)) for site in sites]
    if economics is None and params.economics is Method.OPTIMISER:
        chosen = planned.dispatch_all(cases)
    else:
        chosen = [(economics or dispatch)(site, envelope) for site, envelope in cases]
    return Decision(
        at_ms=snapshot.at_ms,
        sites=tuple(_decision(site, envelope, one) for (site, envelope), one in zip(cases, chosen, strict=True)),
    )


def envelope_of(site: Site) -> Envelope:
    """What the rules leave of a site now."""
    in_force = [o for o in site.obligations if shed_from_ms(site, o) <= site.at_ms]
    return narrow(site, in_force, _preview(site, in_force))


def _decision(site: Site, envelope: Envelope, chosen: Dispatch) -> SiteDecision:
    rows = [
        (bank, outcome, _bank_decision(site, bank, envelope, i, outcome))
        for i, (bank, outcome) in enumerate(zip(site.banks, chosen.outcomes, strict=True))
    ]
    short = shortfalls(site, envelope, chosen)
    planned_w = min(-(-chosen.used_mw[site.root] // MW_PER_W), POWER_W_MAX)
    tightest = min(envelope.obligations, key=lambda o: (o.target_w, o.starts_at_ms, o.id), default=None)
    return SiteDecision(
        site=site.snapshot.site,
        banks=tuple(decision for _, _, decision in rows),
        shed_ladder=shed_ladder(site, chosen),
        cap_w=_cap_w(envelope, site, short, planned_w),
        obligation=tightest.id if tightest else None,
        urgent=any(_lowers(bank, decision) for bank, _, decision in rows),
        planned_w=planned_w,
        margin_usd_per_h=margin_usd_per_h(site, [(bank, outcome) for bank, outcome, _ in rows], planned_w),
        shortfalls=short,
        sentence=sentence(site, envelope, rows, short, planned_w, chosen),
        armed_w=min(chosen.armed_mw // MW_PER_W, POWER_W_MAX) if envelope.awards else None,
        plan=chosen.note,
        carry=chosen.carry,
    )


def _preview(site: Site, in_force: list[Obligation]) -> Preview | None:
    """What the next obligation will leave, by merit order, where it is near enough to bear on what is begun now."""
    coming = [o for o in site.obligations if shed_from_ms(site, o) > site.at_ms]
    if not coming:
        return None
    nearest = min(coming, key=lambda o: (o.starts_at_ms, o.target_w, o.id))
    horizon_ms = site.params.start_payback_ms
    for bank in site.banks:
        notices = (job.notice_ms for job in bank.work.jobs) if bank.work else (bank.plate.min_up_ms,)
        horizon_ms = max(horizon_ms, *notices, 0)
    if shed_from_ms(site, nearest) - site.at_ms >= horizon_ms:
        return None
    then = dispatch(site, narrow(site, [*in_force, nearest], None))
    return Preview(nearest, [o.target_w for o in then.outcomes], [o.jobs for o in then.outcomes])


def _bank_decision(site: Site, bank: Bank, envelope: Envelope, index: int, outcome: Outcome) -> BankDecision:
    reason, cause = reason_of(site, envelope.bounds[index], outcome)
    return BankDecision(
        bank=bank.id,
        workload=bank.plate.workload if outcome.target_w > 0 else Workload.IDLE,
        target_w=outcome.target_w,
        reason=reason,
        cause=cause,
        value_usd_per_mwh=value_of(site, bank, outcome),
    )


def _cap_w(envelope: Envelope, site: Site, short: tuple[Shortfall, ...], planned_w: int) -> int | None:
    """The tightest cap at the main meter, for the agent to hold by itself.

    An obligation that protected work does not let the site meet is stated as what the plan reaches: the agent would
    else shed that very work to get there.
    """
    missed = {s.id for s in short if s.kind == "obligation"}
    caps: list[int] = []
    for limit in envelope.limits[site.root]:
        if limit.kind == "obligation" and limit.id in missed and not limit.firm:
            caps.append(min(max(limit.watts, planned_w * 1_000 // (1_000 - site.params.cap_margin_milli)), POWER_W_MAX))
        elif limit.kind != "feeder":
            caps.append(limit.watts)
    return min(caps, default=None)


def _lowers(bank: Bank, decision: BankDecision) -> bool:
    return decision.reason in URGENT and decision.target_w < (bank.held_w or 0)
