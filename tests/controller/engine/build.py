"""Snapshots in a few words: a site of two halls of ASICs and one HPC partition, and pieces to vary it with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

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
from controller.engine.decide import decide
from controller.engine.model import (
    BankDecision,
    EnergyPrice,
    HashPrice,
    Method,
    Obligation,
    Outlook,
    Override,
    OverrideKind,
    Params,
    PreviousSetpoint,
    SiteDecision,
    SiteSnapshot,
    Snapshot,
)

AT = 1_700_000_000_000
HOUR = 3_600_000
MINUTE = 60_000
MW = 1_000_000
KW = 1_000


def hash_bank(name: str, *, mw: float = 5.0, j_per_th: float = 25.0, feeder: str = "main", **more: Any) -> BankPlate:
    """A bank of one level. At a hashprice of 50 USD/PH/day and 25 J/TH it breaks even at 83.33 USD/MWh."""
    rated_w = round(mw * MW)
    fields: dict[str, Any] = {
        "id": name,
        "feeder": feeder,
        "workload": Workload.HASH,
        "model": "asic",
        "devices": max(1, rated_w // 5_000),
        "rated_w": rated_w,
        "levels": (Level(power_w=rated_w, hashrate_ghs=round(rated_w / j_per_th * 1_000)),),
        "steps_w": 5_000,
    }
    return BankPlate(**(fields | more))


def hpc_bank(
    name: str = "hpc", *, mw: float = 4.0, idle_mw: float = 0.4, feeder: str = "main", **more: Any
) -> BankPlate:
    fields: dict[str, Any] = {
        "id": name,
        "feeder": feeder,
        "workload": Workload.HPC,
        "model": "nodes",
        "devices": 100,
        "rated_w": round(mw * MW),
        "idle_w": round(idle_mw * MW),
    }
    return BankPlate(**(fields | more))


def job(
    name: str, *, mw: float = 0.5, value: float = 400.0, state: str = "running", firm: bool = False, **more: Any
) -> Job:
    """A job worth `value` USD per MWh of its power."""
    nodes = int(more.pop("nodes", 10))
    return Job(
        id=name,
        state=JobState(state),
        nodes=nodes,
        power_w=round(mw * MW),
        value_usd_per_node_h=value * mw / nodes,
        firm=firm,
        **more,
    )


def on(bank: BankPlate, watts: int | None = None, **more: Any) -> BankReading:
    """A reading of a bank that runs at a setpoint and has done so for long."""
    power_w = bank.rated_w if watts is None else watts
    fields: dict[str, Any] = {
        "id": bank.id,
        "power_w": power_w,
        "age_ms": 1_000,
        "setpoint_w": power_w,
        "available_w": bank.rated_w,
        "on": True,
        "on_for_ms": 24 * HOUR,
    }
    return BankReading(**(fields | more))


def off(bank: BankPlate, **more: Any) -> BankReading:
    """A reading of a bank that has been down for long."""
    return on(bank, 0, **({"power_w": bank.idle_w, "on": False} | more))


def interlocked(bank: BankPlate) -> BankReading:
    return off(bank, interlocks=(Interlock(kind=InterlockKind.OVER_TEMPERATURE, detail="52 C"),))


def site(
    *banks: BankPlate,
    readings: Iterable[BankReading] | None = None,
    jobs: Sequence[Job] | None = (),
    price: float | None = 40.0,
    hashprice: float | None = 50.0,
    limit_mw: float = 100.0,
    feeders: Sequence[Feeder] = (),
    metered: dict[str, int] | None = None,
    base_mw: float = 0.0,
    obligations: Sequence[Obligation] = (),
    overrides: Sequence[Override] = (),
    previous: dict[str, int] | None = None,
    online: bool = True,
    mode: Mode = Mode.AUTO,
    age_ms: int | None = 500,
    no_report: bool = False,
    nodes_up: int = 100,
    idle_w: int | None = None,
    outlook: Outlook | None = None,
) -> SiteSnapshot:
    """One site; every bank runs at its rating unless `readings` say otherwise. `jobs` None: the scheduler is silent."""
    plates = banks or (hash_bank("hall-a"), hash_bank("hall-b", j_per_th=30.0), hpc_bank())
    given = {r.id: r for r in readings or ()}
    partitions = [
        PartitionReading(
            bank=plate.id,
            nodes_up=nodes_up,
            nodes_busy=sum(j.nodes for j in jobs if j.state is not JobState.PENDING),
            admitting=True,
            age_ms=1_000,
            jobs=tuple(jobs),
            idle_w=idle_w,
        )
        for plate in plates
        if plate.workload is Workload.HPC and jobs is not None
    ]
    report = Report(
        site="west",
        boot="b1",
        seq=7,
        sent_at_ms=AT,
        mode=mode,
        epoch=1,
        order_seq=3,
        lease_left_ms=90_000,
        feeders=tuple(FeederReading(id=k, power_w=v, age_ms=1_000) for k, v in (metered or {}).items()),
        banks=tuple(given.get(plate.id, on(plate)) for plate in plates),
        partitions=tuple(partitions),
    )
    return SiteSnapshot(
        site="west",
        nameplate=Nameplate(
            site="west",
            boot="b1",
            feeders=(Feeder(id="main", limit_w=round(limit_mw * MW)), *feeders),
            banks=plates,
            base_load_w=round(base_mw * MW),
        ),
        online=online,
        report=None if no_report else report,
        report_age_ms=None if no_report else age_ms,
        energy=EnergyPrice(usd_per_mwh=price, age_ms=None if price is None else 0, feed="test"),
        hashprice=HashPrice(usd_per_ph_day=hashprice, age_ms=None if hashprice is None else 0, feed="test"),
        obligations=tuple(obligations),
        overrides=tuple(overrides),
        previous=tuple(
            PreviousSetpoint(bank=k, target_w=v, reason=DecisionReason.CAP) for k, v in (previous or {}).items()
        ),
        outlook=outlook,
    )


def obligation(
    target_mw: float, *, name: str = "dr-1", starts_in: int = -MINUTE, lasts: int = HOUR, **more: Any
) -> Obligation:
    return Obligation(
        id=name,
        site="west",
        target_w=round(target_mw * MW),
        received_at_ms=AT - HOUR,
        starts_at_ms=AT + starts_in,
        ends_at_ms=AT + starts_in + lasts,
        **more,
    )


def award(mw: float, *, name: str = "ecrs-1", **more: Any) -> Obligation:
    """A reserve of `mw`, from a minute ago for an hour."""
    return obligation(1_000.0, name=name, award_w=round(mw * MW), **more)


def override(kind: OverrideKind | str, *, name: str = "o-1", mw: float | None = None, **more: Any) -> Override:
    fields: dict[str, Any] = {
        "id": name,
        "kind": OverrideKind(kind),
        "site": "west",
        "value_w": None if mw is None else round(mw * MW),
        "starts_at_ms": AT - HOUR,
        "ends_at_ms": None,
        "reason": "told so",
        "created_at_ms": AT - HOUR,
    }
    return Override(**(fields | more))


def flat_outlook(price: float | None, *changes: tuple[int, float]) -> Outlook | None:
    """A day of quarters of an hour at one price; each change (ms from now, price) holds from there on."""
    if price is None:
        return None
    usd = [next((p for ms, p in reversed(changes) if k * 15 * MINUTE >= ms), price) for k in range(96)]
    return Outlook(start_ms=AT, step_ms=15 * MINUTE, usd_per_mwh=tuple(usd), forecast="test")


METHODS = ["merit_order", "optimiser"]
_METHOD = {"now": Method.MERIT_ORDER}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Iterator[Method]:
    """Both ways to choose, one after the other: `run` goes by it. The optimiser's outlook is the price of now."""
    before, _METHOD["now"] = _METHOD["now"], Method(request.param)
    yield _METHOD["now"]
    _METHOD["now"] = before


def run(snapshot: SiteSnapshot, params: Params | None = None) -> SiteDecision:
    """The decision for one site."""
    params = params or Params(cap_margin_milli=0)
    if _METHOD["now"] is Method.OPTIMISER:
        params = params.model_copy(update={"economics": Method.OPTIMISER})
        if snapshot.outlook is None:
            snapshot = snapshot.model_copy(update={"outlook": flat_outlook(snapshot.energy.usd_per_mwh)})
    return decide(Snapshot(at_ms=AT, sites=(snapshot,)), params).sites[0]


def of(decision: SiteDecision, bank: str) -> BankDecision:
    return next(b for b in decision.banks if b.bank == bank)


def targets(decision: SiteDecision) -> dict[str, float]:
    """Targets in MW by bank."""
    return {b.bank: b.target_w / MW for b in decision.banks}


def reasons(decision: SiteDecision) -> dict[str, str]:
    return {b.bank: b.reason.value for b in decision.banks}
