"""Why each bank got its setpoint: one stable reason code, and the id of what is behind it."""

from __future__ import annotations

from contract.reasons import DecisionReason
from controller.engine import value
from controller.engine.economics import Blame, Outcome
from controller.engine.facts import Bank, Site, Steering
from controller.engine.lots import Class, Why
from controller.engine.rules import Bounds

_ECONOMIC = {
    Why.EARNS: DecisionReason.PRICE_BELOW_BREAK_EVEN,
    Why.COSTS: DecisionReason.PRICE_ABOVE_BREAK_EVEN,
    Why.HYSTERESIS: DecisionReason.HOLD_HYSTERESIS,
    Why.PRICE_UNKNOWN: DecisionReason.PRICE_STALE,
    Why.JOBS: DecisionReason.JOBS_RUN,
    Why.NO_JOBS: DecisionReason.NO_WORK,
    Why.UNAVAILABLE: DecisionReason.UNAVAILABLE,
    Why.AHEAD: DecisionReason.PLAN_AHEAD,
}


def reason_of(site: Site, bounds: Bounds, outcome: Outcome) -> tuple[DecisionReason, str]:
    """The strongest thing that made the target what it is, in DESIGN's priority, and its id."""
    cuts = {n.rule: n for n in reversed(bounds.trace)}
    biting = {rule: n.cause for rule, n in cuts.items() if n.watts < outcome.desire_w}
    for rule in (DecisionReason.INTERLOCK, DecisionReason.EMERGENCY_STOP, DecisionReason.LOCAL_MODE):
        if rule in cuts:
            return rule, cuts[rule].cause
    refused = outcome.refused
    if refused is not None and refused[0] is Blame.OBLIGATION:
        return DecisionReason.OBLIGATION, refused[1]
    if DecisionReason.OBLIGATION in biting:
        return DecisionReason.OBLIGATION, biting[DecisionReason.OBLIGATION]
    if DecisionReason.LOCKOUT in cuts:
        return DecisionReason.LOCKOUT, cuts[DecisionReason.LOCKOUT].cause
    if refused is not None:
        return DecisionReason.CAP, refused[1]
    if DecisionReason.CAP in biting:
        return DecisionReason.CAP, biting[DecisionReason.CAP]
    if site.steering is Steering.OFFLINE:
        return DecisionReason.DATA_STALE, "offline"
    if outcome.stale or DecisionReason.DATA_STALE in biting:
        return DecisionReason.DATA_STALE, "report"
    return _weaker(site, bounds, outcome, biting)


def _weaker(
    site: Site, bounds: Bounds, outcome: Outcome, biting: dict[DecisionReason, str]
) -> tuple[DecisionReason, str]:
    """Ramp, overrides, what a reserve needs, dwell, and at last the economics."""
    if DecisionReason.RAMP in biting and not bounds.hold:
        return DecisionReason.RAMP, ""
    if bounds.forced is not None and (bounds.hold or bounds.force or outcome.against_price is Class.ASKED):
        return DecisionReason.OVERRIDE, bounds.forced.cause
    if outcome.against_price is Class.ASKED:
        awarded = any(award.id == outcome.asked_by for award in site.awards)
        return DecisionReason.AWARD if awarded else DecisionReason.OVERRIDE, outcome.asked_by
    kept_down = bounds.rise_w is not None and outcome.desire_w > bounds.rise_w and outcome.target_w <= bounds.rise_w
    if kept_down or outcome.against_price is Class.KEPT:
        return DecisionReason.HOLD_DWELL, ""
    if outcome.why is Why.AHEAD and outcome.ahead is not None:
        return DecisionReason.PLAN_AHEAD, outcome.ahead.cause
    return _ECONOMIC[outcome.why], outcome.cause


def value_of(site: Site, bank: Bank, outcome: Outcome) -> float | None:
    """What the bank's next megawatt-hour earns: for hashing its break-even there, for HPC the mean of what runs, or of
    what waits where nothing runs. None where it is unknown or there is no work."""
    pue = bank.plate.pue_milli
    if bank.work is not None:
        jobs = list(outcome.jobs.values()) or list(bank.work.jobs)
        power_w = sum(max(job.power_w, value.MIN_POWER_W) for job in jobs)
        if not jobs:
            return None
        mean = sum(
            value.job_value_usd_per_mwh(job, pue) * max(job.power_w, value.MIN_POWER_W) / power_w for job in jobs
        )
        return round(mean, 2)
    segments = bank.segments or value.curve(bank.plate, bank.plate.rated_w)
    if site.hashprice is None or not segments:
        return None
    at = next((s for s in segments if outcome.target_w <= s.to_w), segments[-1])
    return round(value.hash_value_usd_per_mwh(site.hashprice, at.ghs_per_w, pue), 2)


def margin_usd_per_h(site: Site, banks_on: list[tuple[Bank, Outcome]], planned_w: int) -> float | None:
    """Revenue of the dispatch less the energy the main meter will show. None where a price it needs is unknown."""
    if site.price is None:
        return None
    revenue = 0.0
    for bank, outcome in banks_on:
        if bank.work is not None:
            revenue += sum(value.job_revenue_usd_per_h(job) for job in outcome.jobs.values())
            continue
        if outcome.target_w <= bank.plate.idle_w:
            continue
        if site.hashprice is None or not bank.plate.levels:
            return None
        ghs = value.hashrate_ghs(bank.segments, outcome.target_w)
        revenue += value.hash_revenue_usd_per_h(site.hashprice, ghs)
    return round(revenue - site.price * planned_w / 1e6, 2) + 0.0
