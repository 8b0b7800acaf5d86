"""A world made by hand for the checkers' tests: everything stands still and is in order until a test changes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from contract.messages import (
    BankPlate,
    BankReading,
    Feeder,
    FeederReading,
    Level,
    Mode,
    Nameplate,
    Order,
    Receipt,
    Report,
    Setpoint,
    Workload,
)
from contract.reasons import DecisionReason
from controller.engine.model import (
    BankDecision,
    Decision,
    EnergyPrice,
    HashPrice,
    Params,
    Shortfall,
    SiteDecision,
    SiteSnapshot,
    Snapshot,
)
from sim.checkers import Cap, CapSource, Checker, DecisionMade, DeviceCommanded, Due, Energy, Event
from sim.jobs import JobEvent, JobEventKind

SITE = "west"
START_MS = 1_700_000_000_000
S = 1_000


def plate(**changes: object) -> Nameplate:
    """A hash bank of 100 kW on its own feeder and an HPC bank of 40 kW under a main of 200 kW."""
    hash_bank: dict[str, object] = {
        "id": "asics",
        "feeder": "f-hash",
        "workload": Workload.HASH,
        "model": "S21",
        "devices": 100,
        "rated_w": 100_000,
        "idle_w": 1_000,
        "levels": (Level(power_w=60_000, hashrate_ghs=4_000), Level(power_w=100_000, hashrate_ghs=6_000)),
        "steps_w": 1_000,
        "min_up_ms": 600_000,
        "min_down_ms": 300_000,
        "ramp_up_w_per_s": 1_000,
        "fail_safe_w": 1_000,
    }
    hpc = BankPlate(
        id="hpc",
        feeder="main",
        workload=Workload.HPC,
        model="nodes",
        devices=40,
        rated_w=40_000,
        idle_w=8_000,
        fail_safe_w=40_000,
    )
    return Nameplate(
        site=SITE,
        boot="b1",
        feeders=(Feeder(id="main", limit_w=200_000, metered=True), Feeder(id="f-hash", parent="main", limit_w=120_000)),
        banks=(BankPlate.model_validate(hash_bank | changes), hpc),
        base_load_w=2_000,
    )


@dataclass
class HandSite:
    """A `SiteTruth` of plain attributes."""

    plate: Nameplate = field(default_factory=plate)
    local: bool = False
    agent_since_ms: int | None = START_MS - 3_600 * S
    linked_since_ms: int | None = START_MS - 3_600 * S
    sensed_since_ms: int | None = START_MS - 3_600 * S
    price_age_ms: int | None = 0
    energy: Energy = field(default_factory=lambda: Energy(1_000_000_000, 1_000_000_000, 10_000_000, 100))
    caps: list[Cap] = field(default_factory=list)
    dues: list[Due] = field(default_factory=list)
    watts: dict[str, float] = field(
        default_factory=lambda: {"asics": 100_000.0, "hpc": 20_000.0, "main": 125_000.0, "f-hash": 101_000.0}
    )
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By feeder, where it carried another power since the last look."""
    commanded: dict[str, float] = field(default_factory=lambda: {"asics": 100_000.0, "hpc": 20_000.0})
    steerable: float | None = None
    stuck: float = 0.0
    firm: float = 0.0
    inlet: float = 28.0
    inlet_limit: float | None = 40.0
    forced: bool = False
    jobs: set[str] = field(default_factory=set)

    def feeder_w(self, feeder: str) -> float:
        return self.watts[feeder]

    def feeder_span_w(self, feeder: str) -> tuple[float, float]:
        return self.spans.get(feeder, (self.watts[feeder], self.watts[feeder]))

    def bank_w(self, bank: str) -> float:
        return self.watts[bank]

    def stuck_w(self, bank: str) -> float:
        return self.stuck if bank == "asics" else 0.0

    def firm_w(self, bank: str) -> float:
        return self.firm if bank == "hpc" else 0.0

    def commanded_w(self, bank: str) -> float:
        return self.commanded[bank]

    def steerable_w(self, bank: str) -> float:
        if self.steerable is not None:
            return self.steerable
        return self.commanded[bank] if self.commanded[bank] > 1_000 else 0.0

    def inlet_c(self, bank: str) -> float:
        return self.inlet if bank == "asics" else 25.0

    def inlet_limit_c(self, bank: str) -> float | None:
        return self.inlet_limit

    def overridden(self, bank: str) -> bool:
        return self.forced

    def live_jobs(self, bank: str) -> Collection[str]:
        return self.jobs

    def draw(self, asics_w: float, hpc_w: float = 20_000.0) -> None:
        """Set the banks' true and commanded power, and what follows at the feeders."""
        self.commanded.update(asics=asics_w, hpc=hpc_w)
        self.watts.update({"asics": asics_w, "hpc": hpc_w, "f-hash": asics_w, "main": asics_w + hpc_w + 2_000})


@dataclass
class HandWorld:
    """A `World` of one site; `at` shows one step to a checker."""

    site: HandSite = field(default_factory=HandSite)
    now_ms: int = START_MS
    events: Sequence[Event] = ()
    healed_ms: int | None = None

    @property
    def sites(self) -> Mapping[str, HandSite]:
        return {SITE: self.site}

    def at(self, checker: Checker, second: float, *events: Event) -> None:
        """One step at so many seconds after the start."""
        self.now_ms = ms(second)
        self.events = events
        checker.observe(self)

    def through(self, checker: Checker, first: float, last: float, step: float = 1.0) -> None:
        """Steps in which nothing happens."""
        second = first
        while second <= last:
            self.at(checker, second)
            second += step


def ms(second: float) -> int:
    return START_MS + round(second * S)


def breaker(limit_w: int = 120_000, feeder: str = "f-hash") -> Cap:
    return Cap(feeder, CapSource.BREAKER, limit_w, feeder, START_MS, None, START_MS)


def site_cap(limit_w: int, since: float, until: float | None = None, *, told: float | None = None) -> Cap:
    ends_ms = None if until is None else ms(until)
    told_ms = ms(since if told is None else told)
    return Cap("cap-1", CapSource.OVERRIDE, limit_w, "main", ms(since), ends_ms, told_ms)


def report(seq: int, at: float, *, asics_w: int | None = 100_000, age_ms: int = 0, main_w: int | None = None,
           boot: str = "b1", setpoint_w: int | None = None) -> Report:  # fmt: skip
    feeders = () if main_w is None else (FeederReading(id="main", power_w=main_w, age_ms=age_ms),)
    return Report(
        site=SITE,
        boot=boot,
        seq=seq,
        sent_at_ms=ms(at),
        mode=Mode.AUTO,
        epoch=1,
        order_seq=None,
        lease_left_ms=None,
        feeders=feeders,
        banks=(
            BankReading(
                id="asics", power_w=asics_w, age_ms=None if asics_w is None else age_ms, setpoint_w=setpoint_w, on=True
            ),
            BankReading(id="hpc", power_w=20_000, age_ms=age_ms, on=True),
        ),
    )


def order(
    epoch: int,
    seq: int,
    *,
    basis: int = 1,
    asics_w: int = 100_000,
    boot: str = "b1",
    valid_s: int = 150,
    **more: object,
) -> Order:
    fields: dict[str, object] = {
        "site": SITE,
        "epoch": epoch,
        "seq": seq,
        "based_on_boot": boot,
        "based_on_seq": basis,
        "valid_for_ms": valid_s * S,
        "issued_at_ms": START_MS,
        "setpoints": (
            Setpoint(bank="asics", workload=Workload.HASH, target_w=asics_w, reason="x"),
            Setpoint(bank="hpc", workload=Workload.HPC, target_w=40_000, reason="x"),
        ),
    }
    return Order.model_validate(fields | more)


def receipt(epoch: int, seq: int, *, accepted: bool = True) -> Receipt:
    return Receipt(site=SITE, boot="b1", epoch=epoch, order_seq=seq, seq=1, accepted=accepted)


def commanded(second: float, *, raises: bool, bank: str = "asics") -> DeviceCommanded:
    return DeviceCommanded(ms(second), SITE, bank, "asic-1", raises)


def job_event(second: float, kind: JobEventKind, job: str = "7", notice_ms: int | None = None) -> JobEvent:
    return JobEvent(ms(second), job, kind, 0.0, notice_ms)


def decision(
    asics_w: int,
    hpc_w: int = 20_000,
    *,
    shortfalls: tuple[Shortfall, ...] = (),
    reason: DecisionReason = DecisionReason.PRICE_BELOW_BREAK_EVEN,
    at: float = 0,
    cap_w: int | None = None,
) -> Decision:
    banks = (
        BankDecision(bank="asics", workload=Workload.HASH, target_w=asics_w, reason=reason),
        BankDecision(bank="hpc", workload=Workload.HPC, target_w=hpc_w, reason=DecisionReason.JOBS_RUN),
    )
    site = SiteDecision(
        site=SITE,
        banks=banks,
        shed_ladder=(),
        cap_w=cap_w,
        obligation=None,
        urgent=False,
        planned_w=asics_w + hpc_w + 2_000,
        margin_usd_per_h=None,
        shortfalls=shortfalls,
        sentence="by hand",
    )
    return Decision(at_ms=ms(at), sites=(site,))


def snapshot(at: float = 0, **changes: object) -> Snapshot:
    fields: dict[str, object] = {
        "site": SITE,
        "nameplate": plate(),
        "online": True,
        "report": report(1, at),
        "report_age_ms": 500,
        "energy": EnergyPrice(usd_per_mwh=30.0, age_ms=0),
        "hashprice": HashPrice(usd_per_ph_day=50.0, age_ms=0),
    }
    return Snapshot(at_ms=ms(at), sites=(SiteSnapshot.model_validate(fields | changes),))


def made(
    at: float,
    decided: Decision,
    *,
    frozen: Snapshot | None = None,
    params: Params | None = None,
    controller: str = "c1",
    leading: bool = True,
    number: str = "d1",
) -> DecisionMade:
    return DecisionMade(
        at_ms=ms(at),
        controller=controller,
        id=number,
        leading=leading,
        snapshot=(frozen or snapshot(at)).model_dump_json().encode(),
        params=(params or Params()).model_dump_json().encode(),
        decision=decided.model_dump_json().encode(),
    )


def details(checker: Checker) -> str:
    """All violations in one text."""
    return "\n".join(str(violation) for violation in checker.violations)
