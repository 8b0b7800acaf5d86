"""Any site at all: what a hypothesis test draws snapshots from."""

from __future__ import annotations

import os
import random
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from contract.messages import (
    BankPlate,
    BankReading,
    Feeder,
    FeederReading,
    Interlock,
    Job,
    JobState,
    Level,
    Mode,
    Nameplate,
    PartitionReading,
    Report,
    Workload,
)
from contract.reasons import DecisionReason, InterlockKind
from contract.units import POWER_W_MAX
from controller.engine.model import (
    Ambient,
    EnergyPrice,
    Hall,
    HashPrice,
    Method,
    Obligation,
    Outlook,
    Override,
    OverrideKind,
    Params,
    PreviousSetpoint,
    SiteSnapshot,
    Snapshot,
    Stance,
)
from tests.controller.engine.build import AT, HOUR, KW, MINUTE, MW, hash_bank, hpc_bank, job
from tests.controller.engine.build import site as build_site

ci = settings(
    max_examples=int(os.environ.get("WATTSHIFT_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
"""Raise WATTSHIFT_EXAMPLES to look harder."""

T = TypeVar("T")

WATTS = st.integers(0, 6 * MW) | st.sampled_from([0, 1, 5 * KW, 5 * MW])
AGES = st.sampled_from([0, 1_000, 20_000, 29_000, 31_000, 10 * HOUR]) | st.integers(0, 60_000)
PRICES = st.floats(-50, 150) | st.floats(-300, 5_000)
HASHPRICES = st.floats(30, 120) | st.floats(0, 120)
SPANS = st.sampled_from([0, MINUTE, 10 * MINUTE, HOUR, 48 * HOUR]) | st.integers(0, 2 * HOUR)


def maybe(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.none() | strategy


@st.composite
def hash_plates(draw: st.DrawFn, name: str, feeder: str) -> BankPlate:
    powers = sorted(draw(st.sets(st.integers(1, 6 * MW), max_size=3)))
    hashrate = st.integers(0, 400 * MW)
    levels = tuple(Level(power_w=w, hashrate_ghs=draw(hashrate | st.just(w * 40) | st.just(w * 33))) for w in powers)
    rated_w = powers[-1] if powers else draw(WATTS)
    return BankPlate(
        id=name,
        feeder=feeder,
        workload=Workload.HASH,
        model="asic",
        devices=draw(st.integers(1, 2_000)),
        rated_w=rated_w,
        idle_w=draw(st.just(0) | st.integers(0, rated_w)),
        levels=levels,
        steps_w=draw(st.sampled_from([0, 3_250, 5 * KW, 2 * MW])),
        min_up_ms=draw(SPANS),
        min_down_ms=draw(SPANS),
        start_delay_ms=draw(SPANS),
        start_cost_usd=draw(st.sampled_from([0.0, 10.0, 1e9])),
        ramp_up_w_per_s=draw(st.sampled_from([0, 0, 1_000, 100_000])),
        pue_milli=draw(st.integers(1_000, 1_500)),
    )


@st.composite
def hpc_plates(draw: st.DrawFn, name: str, feeder: str) -> BankPlate:
    rated_w = draw(WATTS)
    return BankPlate(
        id=name,
        feeder=feeder,
        workload=Workload.HPC,
        model="nodes",
        devices=draw(st.integers(1, 500)),
        rated_w=rated_w,
        idle_w=draw(st.integers(0, rated_w // 2)),
        pue_milli=draw(st.integers(1_000, 1_500)),
    )


@st.composite
def calm_readings(draw: st.DrawFn, plate: BankPlate) -> BankReading:
    """A bank that is well known: it runs in full, in part, or not at all."""
    running = draw(st.booleans())
    power_w = draw(st.just(plate.rated_w) | st.integers(plate.idle_w, plate.rated_w)) if running else plate.idle_w
    return BankReading(
        id=plate.id,
        power_w=power_w,
        age_ms=1_000,
        available_w=plate.rated_w,
        setpoint_w=power_w if running else 0,
        on=running,
        on_for_ms=draw(SPANS),
    )


@st.composite
def readings(draw: st.DrawFn, plate: BankPlate, *, calm: bool = False) -> BankReading:
    if calm and draw(st.integers(0, 9)) > 0:
        return draw(calm_readings(plate))
    kinds = draw(st.lists(st.sampled_from(InterlockKind), max_size=2)) if draw(st.integers(0, 9)) == 0 else []
    return BankReading(
        id=plate.id,
        power_w=draw(maybe(WATTS)),
        age_ms=draw(maybe(AGES)),
        available_w=draw(maybe(st.just(plate.rated_w) | WATTS)),
        setpoint_w=draw(maybe(st.just(plate.rated_w) | WATTS)),
        on=draw(st.sampled_from([True, True, False, None])),
        on_for_ms=draw(maybe(SPANS)),
        interlocks=tuple(Interlock(kind=kind) for kind in kinds),
    )


@st.composite
def jobs(draw: st.DrawFn, name: str) -> Job:
    return Job(
        id=name,
        state=draw(st.sampled_from(JobState)),
        nodes=draw(st.integers(1, 60)),
        power_w=draw(st.integers(0, 2 * MW)),
        value_usd_per_node_h=draw(st.floats(0, 50)),
        firm=draw(st.booleans()),
        remaining_ms=draw(maybe(SPANS)),
        deadline_ms=draw(maybe(st.integers(AT - HOUR, AT + 30 * HOUR))),
        restart_cost_usd=draw(st.sampled_from([0.0, 0.0, 20.0, 1e9])),
        notice_ms=draw(st.sampled_from([0, 0, 5 * MINUTE])),
    )


@st.composite
def partitions(draw: st.DrawFn, plate: BankPlate, *, calm: bool = False) -> PartitionReading:
    count = draw(st.integers(0, 5))
    return PartitionReading(
        bank=plate.id,
        nodes_up=draw(st.integers(0, 200)),
        nodes_busy=draw(st.integers(0, 100)),
        admitting=draw(st.booleans()),
        age_ms=1_000 if calm else draw(maybe(AGES)),
        jobs=tuple(draw(jobs(f"job-{i}")) for i in range(count)),
        idle_w=draw(maybe(st.integers(0, plate.rated_w))),
    )


@st.composite
def obligations(draw: st.DrawFn, name: str) -> Obligation:
    starts = AT + draw(st.sampled_from([-HOUR, -1, 0, 1, MINUTE, 3 * MINUTE, 20 * MINUTE, 5 * HOUR]))
    return Obligation(
        id=name,
        site="west",
        target_w=draw(st.integers(0, 20 * MW)),
        received_at_ms=AT - HOUR,
        starts_at_ms=starts,
        ends_at_ms=starts + draw(st.sampled_from([0, 1, HOUR, 6 * HOUR])),
        firm_too=draw(st.booleans()),
    )


@st.composite
def awards(draw: st.DrawFn, name: str) -> Obligation:
    award_w = draw(st.integers(0, 8 * MW) | st.sampled_from([0, POWER_W_MAX]))
    return draw(obligations(name)).model_copy(update={"target_w": POWER_W_MAX, "award_w": award_w})


@st.composite
def halls(draw: st.DrawFn, name: str, banks: list[str]) -> Hall:
    degrees = sorted(draw(st.sets(st.integers(-20, 45), max_size=3)))
    watts = sorted((draw(st.integers(0, 12 * MW)) for _ in degrees), reverse=True)
    pues = sorted(draw(st.integers(1_000, 1_600)) for _ in degrees)
    return Hall(
        id=name,
        banks=tuple(draw(st.lists(st.sampled_from([*banks, "nobody"]), min_size=1, unique=True))),
        cooling_w=tuple(zip(map(float, degrees), watts, strict=True)),
        pue_milli=tuple(zip(map(float, degrees), pues, strict=True)) if draw(st.booleans()) else (),
    )


@st.composite
def overrides(draw: st.DrawFn, name: str, feeders: list[str], banks: list[str]) -> Override:
    scope = draw(st.sampled_from(["site", "feeder", "bank"]))
    return Override(
        id=name,
        kind=draw(st.sampled_from(OverrideKind)),
        site="west",
        feeder=draw(st.sampled_from([*feeders, "nowhere"])) if scope == "feeder" else None,
        bank=draw(st.sampled_from([*banks, "nobody"])) if scope == "bank" else None,
        value_w=draw(maybe(st.integers(0, 20 * MW))),
        starts_at_ms=AT - HOUR,
        ends_at_ms=None,
        reason=draw(
            st.sampled_from(["", "works on the busbar. Ask Ann!", "line\nbreak; semicolon"]) | st.text(max_size=60)
        ),
        created_at_ms=AT - draw(st.integers(0, 3)),
    )


@st.composite
def sites(draw: st.DrawFn, *, ruled: bool = True, name: str = "west") -> SiteSnapshot:
    """Any site, one half of them calm: well known, with room, and little ordered of them.

    With `ruled` False nothing is ordered: no overrides, no obligations, no interlocks.
    """
    calm = draw(st.booleans())
    names = [f"f{i}" for i in range(draw(st.integers(0, 3)))]
    feeders = [Feeder(id="main", limit_w=draw(st.integers(4 * MW if calm else 0, 40 * MW)))]
    for n in names:
        parent = draw(st.sampled_from([f.id for f in feeders]))
        feeders.append(Feeder(id=n, parent=parent, limit_w=draw(st.integers(2 * MW if calm else 0, 15 * MW))))
    at = st.sampled_from([f.id for f in feeders])
    plates = [draw(hash_plates(f"hash-{i}", draw(at))) for i in range(draw(st.integers(0, 3)))]
    plates += [draw(hpc_plates(f"hpc-{i}", draw(at))) for i in range(draw(st.integers(0, 2)))]
    bank_names = [p.id for p in plates]
    told = draw(st.lists(st.sampled_from(bank_names), unique=True)) if bank_names else []
    read = [draw(readings(p, calm=calm)) for p in plates if calm or draw(st.integers(0, 9)) > 0]
    if not ruled:
        read = [r.model_copy(update={"interlocks": ()}) for r in read]
    report = Report(
        site=name,
        boot="b1",
        seq=1,
        sent_at_ms=AT,
        mode=Mode.AUTO if calm else draw(st.sampled_from([Mode.AUTO, Mode.SAFE, Mode.LOCAL])),
        epoch=1,
        order_seq=None,
        lease_left_ms=None,
        feeders=tuple(
            FeederReading(id=f.id, power_w=draw(maybe(st.integers(-MW, 20 * MW))), age_ms=draw(maybe(AGES)))
            for f in feeders
            if draw(st.booleans())
        ),
        banks=tuple(read),
        partitions=tuple(
            draw(partitions(p, calm=calm)) for p in plates if p.workload is Workload.HPC and draw(st.integers(0, 9)) > 0
        ),
    )
    count = st.integers(0, 1 if calm else 3) if ruled else st.just(0)
    price_age = st.just(0) if calm else st.just(0) | maybe(SPANS)
    return SiteSnapshot(
        site=name,
        nameplate=Nameplate(
            site=name, boot="b1", feeders=tuple(feeders), banks=tuple(plates), base_load_w=draw(st.integers(0, MW))
        ),
        online=calm or draw(st.integers(0, 4)) > 0,
        report=report if calm or draw(st.integers(0, 9)) > 0 else None,
        report_age_ms=0 if calm else draw(st.just(0) | maybe(AGES)),
        energy=EnergyPrice(usd_per_mwh=draw(PRICES if calm else maybe(PRICES)), age_ms=draw(price_age)),
        hashprice=HashPrice(usd_per_ph_day=draw(HASHPRICES if calm else maybe(HASHPRICES)), age_ms=draw(price_age)),
        obligations=tuple(draw(obligations(f"dr-{i}")) for i in range(draw(count))),
        overrides=tuple(draw(overrides(f"o-{i}", [f.id for f in feeders], bank_names)) for i in range(draw(count))),
        previous=tuple(PreviousSetpoint(bank=b, target_w=draw(WATTS), reason=DecisionReason.CAP) for b in told),
        outlook=draw(outlooks()),
    )


@st.composite
def coupled_sites(draw: st.DrawFn) -> SiteSnapshot:
    """As `sites` or `contested_sites`, with halls that the weather derates and reserves that are awarded."""
    base = draw(sites() | contested_sites())
    banks = [plate.id for plate in base.nameplate.banks]
    given = [draw(halls(f"h{i}", banks)) for i in range(draw(st.integers(0, 2)))]
    reserves = [draw(awards(f"aw-{i}")) for i in range(draw(st.integers(0, 2)))]
    known = draw(maybe(st.builds(Ambient, dry_bulb_c=st.floats(-30, 50), age_ms=st.sampled_from([0, 12 * HOUR]))))
    outlook = base.outlook
    if outlook is not None and draw(st.booleans()):
        warm = draw(st.lists(st.floats(-30, 50), min_size=1, max_size=96))
        outlook = outlook.model_copy(update={"ambient_c": tuple(warm)})
    return base.model_copy(
        update={
            "halls": tuple(given), "ambient": known, "outlook": outlook, "obligations": (*base.obligations, *reserves),
        }
    )  # fmt: skip


@st.composite
def outlooks(draw: st.DrawFn) -> Outlook | None:
    """A day of prices or less, level but for what comes and goes; at times none."""
    if draw(st.integers(0, 9)) == 0:
        return None
    price, changes = draw(PRICES), draw(st.lists(st.tuples(st.integers(0, 95), PRICES), max_size=4))
    usd = [next((p for k, p in sorted(changes, reverse=True) if step >= k), price) for step in range(96)]
    return Outlook(
        start_ms=AT - draw(st.sampled_from([0, 5 * MINUTE, 3 * HOUR])), step_ms=15 * MINUTE, usd_per_mwh=tuple(usd)
    )


@st.composite
def contested_sites(draw: st.DrawFn) -> SiteSnapshot:
    """Two hash banks and a busy partition, all running: what a cap must choose from."""
    work = [
        job(
            f"job-{i}",
            mw=draw(st.sampled_from([0.2, 0.5, 1.5])),
            value=draw(st.sampled_from([0, 20, 70, 90, 300])),
            state=draw(st.sampled_from(["running", "running", "pending", "frozen"])),
            firm=draw(st.booleans()),
        )
        for i in range(draw(st.integers(1, 4)))
    ]
    banks = [
        hash_bank(f"hash-{i}", mw=draw(st.sampled_from([1, 2.5, 5])), j_per_th=draw(st.integers(15, 35)))
        for i in range(2)
    ]
    price = draw(st.sampled_from([-30.0, 20.0, 65.0, 80.0]))
    return build_site(*banks, hpc_bank(mw=6.0), jobs=work, price=price, outlook=draw(outlooks()))


@st.composite
def params(draw: st.DrawFn) -> Params:
    return Params(
        economics=draw(st.sampled_from([Method.MERIT_ORDER, Method.OPTIMISER, Method.OPTIMISER])),
        unknown_price=draw(st.sampled_from(Stance)),
        hysteresis_usd_per_mwh=draw(st.sampled_from([0.0, 3.0, 50.0])),
        start_payback_ms=draw(st.sampled_from([0, 30 * MINUTE])),
        cap_margin_milli=draw(st.sampled_from([0, 10, 500])),
        obligation_lead_ms=draw(st.sampled_from([0, 2 * MINUTE])),
    )


@st.composite
def wild_sites(draw: st.DrawFn) -> SiteSnapshot:
    """A site at the edges of what the models allow: the largest figures, the smallest, and nothing in between."""
    edge_w = st.sampled_from([0, 1, POWER_W_MAX])
    rated_w = draw(edge_w)
    base = draw(sites())
    main = base.nameplate.main.id
    levels = (Level(power_w=rated_w, hashrate_ghs=draw(st.sampled_from([0, 10**15]))),) if draw(st.booleans()) else ()
    plates = tuple(
        BankPlate(
            id=f"edge-{i}",
            feeder=main,
            workload=draw(st.sampled_from([Workload.HASH, Workload.HPC])),
            model="",
            devices=1,
            rated_w=rated_w,
            idle_w=draw(st.sampled_from([0, rated_w])),
            levels=levels,
            steps_w=draw(edge_w),
            start_cost_usd=draw(st.sampled_from([0.0, 1e9])),
            ramp_up_w_per_s=draw(edge_w),
            pue_milli=draw(st.sampled_from([1_000, 5_000])),
        )
        for i in range(3)
    )
    worth = st.sampled_from([0.0, 1e6])
    heavy = Job(
        id="heavy",
        state=JobState.RUNNING,
        nodes=draw(st.sampled_from([1, 1_000_000])),
        power_w=draw(edge_w),
        value_usd_per_node_h=draw(worth),
        restart_cost_usd=draw(st.sampled_from([0.0, 1e9])),
        firm=draw(st.booleans()),
    )
    report = base.report
    if report is not None:
        extra = [draw(readings(p)).model_copy(update={"power_w": draw(edge_w)}) for p in plates]
        parts = [
            PartitionReading(bank=p.id, nodes_up=10, nodes_busy=1, admitting=True, age_ms=0, jobs=(heavy, heavy))
            for p in plates
        ]
        report = report.model_copy(
            update={"banks": (*report.banks, *extra), "partitions": (*report.partitions, *parts)}
        )
    changes: dict[str, Any] = {
        "nameplate": base.nameplate.model_copy(update={"banks": (*base.nameplate.banks, *plates)}),
        "report": report,
        "energy": EnergyPrice(usd_per_mwh=draw(st.sampled_from([-100_000.0, 0.0, 100_000.0])), age_ms=0),
        "hashprice": HashPrice(usd_per_ph_day=draw(worth), age_ms=0),
    }
    return base.model_copy(update=changes)


def shuffled(snapshot: Snapshot, seed: int) -> Snapshot:
    """The same snapshot with everything in it in another order."""
    chance = random.Random(seed)

    def mix(items: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(chance.sample(items, len(items)))

    def mixed_report(report: Report | None) -> Report | None:
        if report is None:
            return None
        parts = tuple(p.model_copy(update={"jobs": mix(p.jobs)}) for p in report.partitions)
        banks = tuple(b.model_copy(update={"interlocks": mix(b.interlocks)}) for b in report.banks)
        return report.model_copy(update={"feeders": mix(report.feeders), "banks": mix(banks), "partitions": mix(parts)})

    def mixed_site(site: SiteSnapshot) -> SiteSnapshot:
        plate = site.nameplate
        return site.model_copy(
            update={
                "nameplate": plate.model_copy(update={"feeders": mix(plate.feeders), "banks": mix(plate.banks)}),
                "report": mixed_report(site.report),
                "obligations": mix(site.obligations),
                "overrides": mix(site.overrides),
                "halls": mix(tuple(h.model_copy(update={"banks": mix(h.banks)}) for h in site.halls)),
                "previous": mix(site.previous),
            }
        )

    return snapshot.model_copy(update={"sites": mix(tuple(mixed_site(site) for site in snapshot.sites))})
