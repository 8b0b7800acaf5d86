"""From what the controller knows to what the API gives. Pure reading."""

from __future__ import annotations

import json
from typing import Final

from contract.messages import BankReading, Workload
from controller.api.schemas import (
    BankOut,
    DecisionOut,
    ExpectedOut,
    FeederOut,
    OrderOut,
    PlanOut,
    SiteOut,
    SiteSummary,
)
from controller.api.standing import all_out
from controller.app import CONFLICT_ALARM_MS, Controller
from controller.engine.ahead import NO_PLAN, Path, path_of
from controller.engine.model import BankDecision, Obligation, SiteDecision
from controller.journal.base import StoredDecision
from controller.state import Decided, SiteState

AHEAD_MS: Final = 4 * 3_600_000
"""How far ahead the console looks."""


def summary(controller: Controller, state: SiteState) -> SiteSummary:
    decided = state.decided.decision if state.decided else None
    return SiteSummary(
        site=state.site,
        name=state.nameplate.name if state.nameplate else "",
        online=state.online,
        mode=state.report.mode if state.report else None,
        report_age_ms=_report_age_ms(controller, state),
        metered_w=state.main_power_w(),
        planned_w=decided.planned_w if decided else None,
        cap_w=decided.cap_w if decided else None,
        price_usd_per_mwh=controller.freezer.energy(state.site, controller.clock.wall_ms()).usd_per_mwh,
        obligation=decided.obligation if decided else None,
        margin_usd_per_h=decided.margin_usd_per_h if decided else None,
        faults=_faults(controller, state),
        sentence=decided.sentence if decided else _waiting(state),
    )


def site(controller: Controller, state: SiteState) -> SiteOut:
    now_ms = controller.clock.wall_ms()
    energy = controller.freezer.energy(state.site, now_ms)
    earns = controller.freezer.hashprice(state.site, now_ms)
    conflict_at_ms = state.conflict_at_ms
    return SiteOut(
        **summary(controller, state).model_dump(),
        boot=state.boot,
        decision_id=state.decided.id if state.decided else None,
        decided_at_ms=state.decided.at_ms if state.decided else None,
        price_feed=energy.feed,
        price_age_ms=energy.age_ms,
        hashprice_usd_per_ph_day=earns.usd_per_ph_day,
        hashprice_age_ms=earns.age_ms,
        two_agents=conflict_at_ms is not None and controller.clock.mono_ms() - conflict_at_ms < CONFLICT_ALARM_MS,
        fenced=state.fenced,
        order=order(state),
        shortfalls=state.decided.decision.shortfalls if state.decided else (),
        feeders=_feeders(controller, state),
        banks=_banks(controller, state),
        obligations=list(controller.signals.of(state.site, now_ms)),
        overrides=all_out(
            controller,
            state.site,
            [each for each in controller.overrides.entries(state.site) if not each.is_over(now_ms)],
        ),
    )


def ahead(controller: Controller, site: str, now_ms: int) -> tuple[list[int], list[float]]:
    """The price planned with over the next hours: beginnings of steps that are not over, and USD/MWh in each."""
    outlook = controller.freezer.outlooks.of(site, now_ms)
    if outlook is None:
        return [], []
    begins = [outlook.start_ms + k * outlook.step_ms for k in range(len(outlook.usd_per_mwh))]
    kept = [k for k, at in enumerate(begins) if now_ms - outlook.step_ms < at < now_ms + AHEAD_MS]
    return [begins[k] for k in kept], [outlook.usd_per_mwh[k] for k in kept]


def plan(controller: Controller, state: SiteState) -> PlanOut:
    """The last decision's plan, laid on the site as it now stands."""
    now_ms, decided = controller.clock.wall_ms(), state.decided
    frozen = controller.freezer.freeze([state], now_ms, controller.clock.mono_ms())
    found: Path | str = NO_PLAN
    if decided is not None and frozen.sites:
        params = controller.dispatcher.params_of(state.site)
        found = path_of(frozen.sites[0], params, frozen.at_ms, decided.decision.plan)
    key = decided.id if decided is not None else None
    if isinstance(found, str):
        return PlanOut(
            site=state.site, decision_id=key, absent=found, at_ms=[], ends_at_ms=None, power_w=[], hash_w=[], hpc_w=[],
            usd_per_mwh=[],
        )  # fmt: skip
    return PlanOut(
        site=state.site,
        decision_id=key,
        absent=None,
        at_ms=list(found.at_ms),
        ends_at_ms=found.ends_ms,
        power_w=[round(watts) for watts in found.power_w.tolist()],
        hash_w=[round(watts) for watts in found.hash_w.tolist()],
        hpc_w=[round(watts) for watts in found.hpc_w.tolist()],
        usd_per_mwh=[round(usd, 2) for usd in found.usd_per_mwh.tolist()],
    )


def decision(decided: Decided) -> DecisionOut:
    return _decision(decided.id, decided.at_ms, decided.trigger, decided.decision)


def stored_decision(stored: StoredDecision) -> DecisionOut:
    """Raises `ValueError` on a row that is no decision."""
    # Written by another version it may hold what this one's model does not take; what it says is told all the same.
    return _decision(stored.id, stored.at_ms, stored.trigger, SiteDecision.model_validate(json.loads(stored.decision)))


def order(state: SiteState) -> OrderOut | None:
    track = state.orders
    if track.last is None:
        return None
    counts: dict[str, int] = {}
    for receipt in track.banks.values():
        counts[receipt.state] = counts.get(receipt.state, 0) + 1
    refused = track.refused
    return OrderOut(
        epoch=track.last.epoch,
        seq=track.last.seq,
        issued_at_ms=track.last.issued_at_ms,
        valid_for_ms=track.last.valid_for_ms,
        decision=track.last.decision,
        sent=track.last.seq in track.issued,
        refused=f"{refused.reason or 'unstated'}: {refused.detail}" if refused else None,
        banks_by_state=dict(sorted(counts.items())),
    )


def expected(found: SiteDecision | None, obligation: Obligation) -> ExpectedOut | None:
    if found is None:
        return None
    return ExpectedOut(
        planned_w=found.planned_w,
        target_w=obligation.target_w,
        meets=found.planned_w <= obligation.target_w
        and not any(
            (short.kind == "obligation" and short.id == obligation.id)
            or (short.kind == "award" and obligation.award_w is not None)
            for short in found.shortfalls
        ),
        shortfalls=found.shortfalls,
        sentence=found.sentence,
    )


def _decision(key: str, at_ms: int, trigger: str, found: SiteDecision) -> DecisionOut:
    return DecisionOut(
        id=key,
        site=found.site,
        at_ms=at_ms,
        trigger=trigger,
        sentence=found.sentence,
        planned_w=found.planned_w,
        cap_w=found.cap_w,
        obligation=found.obligation,
        urgent=found.urgent,
        margin_usd_per_h=found.margin_usd_per_h,
        shortfalls=found.shortfalls,
        banks=tuple(
            BankOut(
                bank=bank.bank,
                workload=bank.workload,
                target_w=bank.target_w,
                reason=bank.reason,
                cause=bank.cause,
                value_usd_per_mwh=bank.value_usd_per_mwh,
            )
            for bank in found.banks
        ),
    )


def _banks(controller: Controller, state: SiteState) -> list[BankOut]:
    """Every bank of the nameplate; what is not known of it stays None."""
    if state.nameplate is None:
        return []
    decided = {each.bank: each for each in state.decided.decision.banks} if state.decided else {}
    readings = {each.id: each for each in state.report.banks} if state.report else {}
    age_ms = _report_age_ms(controller, state) or 0
    return [
        _bank(state, plate.id, plate.workload, decided.get(plate.id), readings.get(plate.id), age_ms)
        for plate in state.nameplate.banks
    ]


def _bank(
    state: SiteState,
    name: str,
    workload: Workload,
    decided: BankDecision | None,
    reading: BankReading | None,
    age_ms: int,
) -> BankOut:
    receipt = state.orders.banks.get(name)
    return BankOut(
        bank=name,
        workload=workload,
        target_w=decided.target_w if decided else None,
        reason=decided.reason if decided else None,
        cause=decided.cause if decided else "",
        value_usd_per_mwh=decided.value_usd_per_mwh if decided else None,
        power_w=reading.power_w if reading else None,
        power_age_ms=None if reading is None or reading.age_ms is None else reading.age_ms + age_ms,
        source=reading.source if reading else None,
        hashrate_ghs=reading.hashrate_ghs if reading else None,
        available_w=reading.available_w if reading else None,
        interlocks=tuple(trip.kind for trip in reading.interlocks) if reading else (),
        receipt=receipt.state if receipt else None,
        receipt_reason=receipt.reason if receipt else None,
    )


def _feeders(controller: Controller, state: SiteState) -> list[FeederOut]:
    if state.nameplate is None:
        return []
    readings = {each.id: each for each in state.report.feeders} if state.report else {}
    age_ms = _report_age_ms(controller, state) or 0
    out: list[FeederOut] = []
    for feeder in state.nameplate.feeders:
        reading = readings.get(feeder.id)
        out.append(
            FeederOut(
                feeder=feeder.id,
                parent=feeder.parent,
                limit_w=feeder.limit_w,
                power_w=reading.power_w if reading else None,
                power_age_ms=None if reading is None or reading.age_ms is None else reading.age_ms + age_ms,
                source=reading.source if reading else None,
            )
        )
    return out


def _faults(controller: Controller, state: SiteState) -> tuple[str, ...]:
    sources = (controller.ingest.faults, controller.publisher.faults, controller.dispatcher.faults)
    return tuple(sorted({code for source in sources for code in source.open_codes(state.site)}))


def _waiting(state: SiteState) -> str:
    if state.nameplate is None:
        return f"{state.site}: nothing decided, for no nameplate of the running agent has come."
    return f"{state.site}: nothing decided yet."


def _report_age_ms(controller: Controller, state: SiteState) -> int | None:
    return None if state.report is None else max(0, controller.clock.mono_ms() - state.report_at_ms)
