"""The safety sentences, each on any snapshot at all."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from contract.messages import BankPlate, BankReading, JobState, Mode, Order, PartitionReading, Setpoint, Workload
from contract.reasons import DecisionReason
from contract.units import POWER_W_MAX
from controller.engine.codec import decode, encode_decision, encode_params, encode_snapshot
from controller.engine.decide import decide
from controller.engine.model import (
    Decision,
    Obligation,
    OverrideKind,
    Params,
    SiteDecision,
    SiteSnapshot,
    Snapshot,
)
from tests.controller.engine.build import AT, MW, override
from tests.controller.engine.strategies import ci, contested_sites, coupled_sites, params, shuffled, sites, wild_sites

STRONGER_THAN_DWELL = {
    DecisionReason.INTERLOCK,
    DecisionReason.EMERGENCY_STOP,
    DecisionReason.LOCAL_MODE,
    DecisionReason.OBLIGATION,
    DecisionReason.LOCKOUT,
    DecisionReason.CAP,
    DecisionReason.DATA_STALE,
    DecisionReason.OVERRIDE,
    DecisionReason.UNAVAILABLE,
}


def one(site: SiteSnapshot, how: Params) -> SiteDecision:
    return decide(Snapshot(at_ms=AT, sites=(site,)), how).sites[0]


@ci
@given(sites() | coupled_sites(), params())
def test_planned_watts_are_within_every_limit_unless_a_shortfall_says_so(site: SiteSnapshot, how: Params) -> None:
    """Reckoned here from the targets alone, against breakers, caps and obligations in force, their lead included."""
    decision = one(site, how)
    said: dict[tuple[str, str], int] = {(s.kind, s.id): s.short_w for s in decision.shortfalls}
    for kind, name, node, watts in stated_limits(site, how):
        over_w = load_w(site, decision, node) - watts
        assert over_w <= said.get((kind, name), 0), f"{kind} {name} is broken by {over_w} W and nobody says so"


@ci
@given(sites() | coupled_sites(), params())
def test_a_limit_is_broken_only_with_all_shed_that_may_be_shed(site: SiteSnapshot, how: Params) -> None:
    """Hash banks and flexible jobs below it are off; firm ones too, unless it is an obligation that spares them."""
    assume(site.online and (site.report is None or site.report.mode is not Mode.LOCAL))
    decision = one(site, how)
    broken = {(s.kind, s.id) for s in decision.shortfalls}
    spares = {o.id for o in site.obligations if not o.firm_too}
    feeder_of = {p.id: p.feeder for p in site.nameplate.banks}
    for kind, name, node, watts in stated_limits(site, how):
        if (kind, name) not in broken or load_w(site, decision, node) <= watts:
            continue
        for step in decision.shed_ladder:
            if on_path(site, feeder_of[step.bank], node) and not (step.firm and name in spares):
                assert step.frees_w == 0, f"{kind} {name} is broken while {step} still runs"


@ci
@given(sites(), params())
def test_planned_w_is_what_the_targets_add_up_to_at_the_main_meter_or_more(site: SiteSnapshot, how: Params) -> None:
    decision = one(site, how)
    assert decision.planned_w >= load_w(site, decision, site.nameplate.main.id)


@ci
@given(sites(), params())
def test_an_interlocked_bank_gets_no_power(site: SiteSnapshot, how: Params) -> None:
    tripped = {r.id for r in (site.report.banks if site.report else ()) if r.interlocks}
    for bank in one(site, how).banks:
        if bank.bank in tripped:
            assert (bank.target_w, bank.workload, bank.reason) == (0, Workload.IDLE, DecisionReason.INTERLOCK)


@ci
@given(sites() | coupled_sites(), params())
def test_unknown_or_stale_data_never_raises_power(site: SiteSnapshot, how: Params) -> None:
    """What is not known freshly is given no more than it was told, by the agent's word and by our own."""
    before = {p.bank: p.target_w for p in site.previous}
    readings = {r.id: r for r in site.report.banks} if site.report else {}
    for bank in one(site, how).banks:
        reading = readings.get(bank.bank)
        if is_fresh(site, reading, how) or (site.report is not None and site.report.mode is Mode.LOCAL):
            continue
        told = [w for w in (reading.setpoint_w if reading else None, before.get(bank.bank)) if w is not None]
        most_w = min(told) if told else ((reading.power_w if reading else None) or 0)
        assert bank.target_w <= most_w


@ci
@given(sites(), params())
def test_a_site_in_local_control_is_only_described(site: SiteSnapshot, how: Params) -> None:
    assume(site.report is not None)
    assert site.report is not None
    local = site.model_copy(update={"report": site.report.model_copy(update={"mode": Mode.LOCAL})})
    readings = {r.id: r for r in site.report.banks}
    for bank in one(local, how).banks:
        if bank.reason is DecisionReason.LOCAL_MODE and bank.bank in readings:
            setpoint_w = readings[bank.bank].setpoint_w
            assert setpoint_w is None or bank.target_w == setpoint_w
        else:
            assert bank.reason in {DecisionReason.LOCAL_MODE, DecisionReason.INTERLOCK, DecisionReason.EMERGENCY_STOP}


@ci
@given(sites() | coupled_sites(), sites(name="east"), params(), st.integers(0, 2**32))
def test_deciding_twice_or_in_another_order_decides_the_same(
    west: SiteSnapshot, east: SiteSnapshot, how: Params, seed: int
) -> None:
    snapshot = Snapshot(at_ms=AT, sites=(east, west))
    first = encode_decision(decide(snapshot, how))
    assert encode_decision(decide(snapshot, how)) == first
    assert encode_decision(decide(shuffled(snapshot, seed), how)) == first


@ci
@given(sites() | coupled_sites(), params())
def test_a_decision_replayed_from_its_journal_is_the_same_byte_for_byte(site: SiteSnapshot, how: Params) -> None:
    snapshot = Snapshot(at_ms=AT, sites=(site,))
    decision = decide(snapshot, how)
    assert decode(Snapshot, encode_snapshot(snapshot)) == snapshot
    assert decode(Decision, encode_decision(decision)) == decision
    again = decide(decode(Snapshot, encode_snapshot(snapshot)), decode(Params, encode_params(how)))
    assert encode_decision(again) == encode_decision(decision)


@ci
@given(sites(), params())
def test_an_emergency_stop_beats_everything_but_an_interlock(site: SiteSnapshot, how: Params) -> None:
    stop = override(OverrideKind.EMERGENCY_STOP, name="stop")
    decision = one(site.model_copy(update={"overrides": (*site.overrides, stop)}), how)
    assert all(bank.target_w == 0 for bank in decision.banks)
    assert {bank.reason for bank in decision.banks} <= {DecisionReason.EMERGENCY_STOP, DecisionReason.INTERLOCK}


@ci
@given(sites(ruled=False) | contested_sites(), params(), st.sampled_from([0, 2 * MW, 4 * MW, 6 * MW, 12 * MW]))
def test_firm_work_is_shed_only_where_it_would_not_fit_with_all_else_off(
    site: SiteSnapshot, how: Params, cap_w: int
) -> None:
    """Under breakers and a site cap, with every hash bank and flexible job of the site down, it would still not fit."""
    assume(site.report is not None and site.report.mode is not Mode.LOCAL and site.online)
    assert site.report is not None
    cap = override(OverrideKind.CAP, mw=cap_w / MW)
    report = site.report.model_copy(update={"feeders": ()})
    site = site.model_copy(update={"overrides": (cap,), "report": report})
    decision = one(site, how)
    readings = {r.id: r for r in report.banks}
    runs = {(s.bank, s.job) for s in decision.shed_ladder if s.frees_w}
    firm_w = {part.bank: firm_running_w(part, runs) for part in partitions_of(site)}
    unheard = {p.id for p in site.nameplate.banks if p.workload is Workload.HPC} - set(firm_w)
    assume(not unheard)
    for part in partitions_of(site):
        if is_fresh(site, readings.get(part.bank), how):
            for job in part.jobs:
                cut = job.firm and job.state is JobState.RUNNING and job.power_w and (part.bank, job.id) not in runs
                assert not cut or too_much(site, how, part.bank, firm_w | {part.bank: firm_w[part.bank] + job.power_w})


@ci
@given(sites(), params())
def test_the_ladder_sheds_all_hash_and_flexible_work_before_any_firm_work(site: SiteSnapshot, how: Params) -> None:
    ladder = one(site, how).shed_ladder
    assert [step.firm for step in ladder] == sorted(step.firm for step in ladder)
    assert {step.bank for step in ladder} == {plate.id for plate in site.nameplate.banks}
    firm_jobs = {(p.bank, j.id) for p in partitions_of(site) for j in p.jobs if j.firm}
    assert all(step.firm for step in ladder if (step.bank, step.job) in firm_jobs)


@ci
@given(sites(), params())
def test_dwell_holds_unless_a_stronger_rule_says_otherwise(site: SiteSnapshot, how: Params) -> None:
    assume(site.report is not None)
    assert site.report is not None
    readings = {r.id: r for r in site.report.banks}
    plates = {p.id: p for p in site.nameplate.banks}
    age_ms = site.report_age_ms or 0
    for bank in one(site, how).banks:
        reading, plate = readings.get(bank.bank), plates[bank.bank]
        if reading is None or reading.on_for_ms is None or plate.workload is not Workload.HASH:
            continue
        on_for_ms = reading.on_for_ms + age_ms
        running = reading.on is True and min(reading.setpoint_w or 0, plate.rated_w) > plate.idle_w
        if running and on_for_ms < plate.min_up_ms and bank.target_w == 0:
            assert bank.reason in STRONGER_THAN_DWELL
        if reading.on is False and on_for_ms < plate.min_down_ms and bank.target_w > 0:
            assert bank.reason in {DecisionReason.OVERRIDE, DecisionReason.LOCAL_MODE, *offline(site)}, bank


@ci
@given(sites(), params())
def test_a_target_is_nothing_or_within_what_the_bank_can_draw(site: SiteSnapshot, how: Params) -> None:
    assume(site.report is None or site.report.mode is not Mode.LOCAL)
    rated = {p.id: p.rated_w for p in site.nameplate.banks}
    decision = one(site, how)
    assert [b.bank for b in decision.banks] == sorted(rated)
    assert all(0 <= b.target_w <= rated[b.bank] for b in decision.banks)
    assert all((b.workload is Workload.IDLE) == (b.target_w == 0) for b in decision.banks)


@ci
@given(sites() | wild_sites() | coupled_sites(), params())
def test_it_never_raises_and_every_figure_and_sentence_is_well_formed(site: SiteSnapshot, how: Params) -> None:
    decision = one(site, how)
    assert_finite(json.loads(encode_decision(Decision(at_ms=AT, sites=(decision,)))))
    text = decision.sentence
    assert text.endswith(".")
    assert len(text) <= 1_000
    assert text[:1] == text[:1].upper()
    assert text.isprintable()
    assert ". " not in text
    assert "None" not in text
    Order(
        site=decision.site,
        epoch=1,
        seq=1,
        based_on_boot="b1",
        based_on_seq=1,
        valid_for_ms=how.lease_ms,
        issued_at_ms=AT,
        setpoints=tuple(
            Setpoint(bank=b.bank, workload=b.workload, target_w=b.target_w, reason=b.reason) for b in decision.banks
        ),
        shed_ladder=decision.shed_ladder,
        cap_w=decision.cap_w,
        urgent=decision.urgent,
    )


@ci
@given(sites() | contested_sites() | coupled_sites(), params())
def test_once_obeyed_a_decision_stands(site: SiteSnapshot, how: Params) -> None:
    """No chatter: with prices and plant unchanged the targets come to rest, and stay."""
    site = site.model_copy(update={"nameplate": without_ramps(site)})
    targets: list[dict[str, int]] = []
    for _ in range(8):
        decision = one(site, how)
        targets.append({b.bank: b.target_w for b in decision.banks})
        site = obeyed(site, decision)
    assert targets[-1] == targets[-2] == targets[-3] == targets[-4], targets


@ci
@given(coupled_sites(), params())
def test_a_halls_banks_are_within_its_cooling_unless_a_shortfall_says_so(site: SiteSnapshot, how: Params) -> None:
    """Reckoned here from the curve: between its points in a straight line, at its hottest where nothing is known."""
    decision = one(site, how)
    targets = {b.bank: max(b.target_w, p.idle_w) for b, p in zip(decision.banks, plates_of(site), strict=True)}
    said = {s.id: s.short_w for s in decision.shortfalls if s.kind == "cooling"}
    known = site.ambient is not None and site.ambient.age_ms <= how.stale_ambient_ms
    for hall in site.halls:
        if hall.cooling_w:
            ambient_c = site.ambient.dry_bulb_c if known and site.ambient is not None else 1e9
            carried_w = between(hall.cooling_w, ambient_c)
            drawn_w = sum(targets.get(bank, 0) for bank in hall.banks)
            assert drawn_w <= carried_w + said.get(f"hall:{hall.id}", 0)


@ci
@given(coupled_sites(), params())
def test_a_reserve_awarded_is_armed_or_its_shortfall_is_said(site: SiteSnapshot, how: Params) -> None:
    """What can be shed is reckoned here from targets and the shed ladder: hash banks above idle, jobs that are not
    firm. While a curtailment is in force it is being delivered."""
    decision = one(site, how)
    need_w = sum(o.award_w or 0 for o in site.obligations if o.starts_at_ms <= AT < o.ends_at_ms)
    hashing = {p.id: p for p in site.nameplate.banks if p.workload is Workload.HASH}
    frozen = {b.bank for b in decision.banks if b.reason is DecisionReason.LOCAL_MODE}
    shares = {p.id: p.pue_milli for p in site.nameplate.banks}
    armed_mw = sum(max(0, b.target_w - hashing[b.bank].idle_w) * shares[b.bank] for b in decision.banks
                   if b.bank in hashing and b.bank not in frozen)  # fmt: skip
    armed_mw += sum(s.frees_w * shares[s.bank] for s in decision.shed_ladder if s.job is not None and not s.firm)
    assert (decision.armed_w is not None) or need_w == 0
    if site.halls:  # their PUE counts for more than the nameplate's
        armed_mw = max(armed_mw, (decision.armed_w or 0) * 1_000)
    elif decision.armed_w is not None:
        assert abs(armed_mw // 1_000 - decision.armed_w) <= 1
    due = any(o.award_w is None and in_force(o, how) for o in site.obligations)
    short_w = sum(s.short_w for s in decision.shortfalls if s.kind == "award")
    assert due or armed_mw // 1_000 + short_w >= min(need_w, POWER_W_MAX)  # more cannot be said


# ---- helpers


def plates_of(site: SiteSnapshot) -> list[BankPlate]:
    return sorted(site.nameplate.banks, key=lambda plate: plate.id)


def between(curve: tuple[tuple[float, int], ...], x: float) -> float:
    """A curve of points at `x`, in words of one line each."""
    if x <= curve[0][0]:
        return curve[0][1]
    for (low, y), (high, z) in itertools.pairwise(curve):
        if x <= high:
            return y + (z - y) * (x - low) / (high - low)
    return curve[-1][1]


def partitions_of(site: SiteSnapshot) -> tuple[PartitionReading, ...]:
    return site.report.partitions if site.report else ()


def offline(site: SiteSnapshot) -> set[DecisionReason]:
    return set() if site.online else {DecisionReason.DATA_STALE}


def is_fresh(site: SiteSnapshot, reading: BankReading | None, how: Params) -> bool:
    if reading is None or not site.online or site.report_age_ms is None:
        return False
    if reading.power_w is None or reading.age_ms is None:
        return False
    return reading.age_ms + site.report_age_ms <= how.stale_report_ms


def in_force(obligation: Obligation, how: Params) -> bool:
    return obligation.starts_at_ms - how.obligation_lead_ms <= AT < obligation.ends_at_ms


def stated_limits(site: SiteSnapshot, how: Params) -> list[tuple[str, str, str, int]]:
    """(shortfall kind, id, feeder, watts) of every limit that holds now."""
    main = site.nameplate.main.id
    feeders = {f.id for f in site.nameplate.feeders}
    limits = [("feeder", f.id, f.id, f.limit_w) for f in site.nameplate.feeders]
    for o in site.overrides:
        if o.kind is OverrideKind.CAP and o.value_w is not None and o.bank is None:
            at = o.feeder or main
            if at in feeders:
                limits.append(("site_cap" if at == main else "feeder", o.id, at, o.value_w))
    due = [o for o in site.obligations if in_force(o, how) and o.ends_at_ms > o.starts_at_ms]
    return limits + [("obligation", o.id, main, o.target_w) for o in due]


def on_path(site: SiteSnapshot, bank_feeder: str, feeder: str) -> bool:
    parents = {f.id: f.parent for f in site.nameplate.feeders}
    node: str | None = bank_feeder
    while node is not None:
        if node == feeder:
            return True
        node = parents[node]
    return False


def load_w(site: SiteSnapshot, decision: SiteDecision, feeder: str) -> int:
    """What the targets come to at a feeder: bank watts, and at the main PUE and base load as well."""
    main = site.nameplate.main.id
    targets = {b.bank: b.target_w for b in decision.banks}
    learned = {part.bank: part.idle_w for part in site.report.partitions} if site.report else {}
    milliwatts = 0
    for plate in site.nameplate.banks:
        if on_path(site, plate.feeder, feeder):
            factor = plate.pue_milli if feeder == main else 1_000
            idle_w = learned.get(plate.id)
            idle_w = plate.idle_w if idle_w is None else min(idle_w, plate.idle_w)
            milliwatts += max(targets[plate.id], idle_w) * factor
    return -(-milliwatts // 1_000) + (site.nameplate.base_load_w if feeder == main else 0)


def firm_running_w(part: PartitionReading, runs: set[tuple[str, str | None]]) -> int:
    return sum(job.power_w for job in part.jobs if job.firm and (part.bank, job.id) in runs)


def too_much(site: SiteSnapshot, how: Params, bank: str, firm_w: dict[str, int]) -> bool:
    """Whether this firm work and idle power alone exceed what the bank, or a limit above it, allows to plan."""
    plates = {p.id: p for p in site.nameplate.banks}
    readings = {r.id: r for r in site.report.banks} if site.report else {}
    main = site.nameplate.main.id
    if plates[bank].idle_w + firm_w[bank] > plates[bank].rated_w:
        return True
    for _, _, node, watts in stated_limits(site, how):
        if not on_path(site, plates[bank].feeder, node):
            continue
        milliwatts = site.nameplate.base_load_w * 1_000 if node == main else 0
        for plate in plates.values():
            if on_path(site, plate.feeder, node):
                least_w = max(plate.idle_w, stuck_power_w(readings.get(plate.id)))
                factor = plate.pue_milli if node == main else 1_000
                milliwatts += (least_w + firm_w.get(plate.id, 0)) * factor
        if milliwatts > watts * (1_000 - how.cap_margin_milli):
            return True
    return False


def stuck_power_w(reading: BankReading | None) -> int:
    """What a bank draws that has been told to be off for a minute."""
    if reading is None or reading.on is not False or (reading.on_for_ms or 0) < 60_000:
        return 0
    return reading.power_w or 0


def without_ramps(site: SiteSnapshot) -> Any:
    banks = tuple(p.model_copy(update={"ramp_up_w_per_s": 0}) for p in site.nameplate.banks)
    return site.nameplate.model_copy(update={"banks": banks})


def obeyed(site: SiteSnapshot, decision: SiteDecision) -> SiteSnapshot:
    """The site after its agent has done exactly as told; meters silent, for their readings would lag behind."""
    if site.report is None:
        return site
    told = {b.bank: b.target_w for b in decision.banks}
    idle = {p.id: p.idle_w for p in site.nameplate.banks}
    runs = {(s.bank, s.job) for s in decision.shed_ladder if s.job is not None and s.frees_w > 0}
    banks = []
    for reading in site.report.banks:
        target_w = told[reading.id]
        power_w = None if reading.power_w is None else max(target_w, idle[reading.id])
        flipped = reading.on is not (target_w > 0)
        changes = {
            "setpoint_w": target_w,
            "power_w": power_w,
            "on": target_w > 0,
            "on_for_ms": 0 if flipped else reading.on_for_ms,
        }
        banks.append(reading.model_copy(update=changes))
    parts = []
    for part in site.report.partitions:
        jobs = tuple(j.model_copy(update={"state": _after(j.state, (part.bank, j.id) in runs)}) for j in part.jobs)
        parts.append(part.model_copy(update={"jobs": jobs, "nodes_busy": 0}))
    report = site.report.model_copy(update={"banks": tuple(banks), "partitions": tuple(parts), "feeders": ()})
    previous = tuple(p.model_copy(update={"target_w": told[p.bank]}) for p in site.previous)
    return site.model_copy(update={"report": report, "previous": previous, "carry": decision.carry})


def _after(state: JobState, runs: bool) -> JobState:
    if runs:
        return JobState.RUNNING
    return JobState.FROZEN if state is JobState.RUNNING else state


def assert_finite(value: Any) -> None:
    if isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, dict):
        for item in value.values():
            assert_finite(item)
    elif isinstance(value, list):
        for item in value:
            assert_finite(item)
