"""A small site for the guard's tests: two hash banks on rows of their own, one HPC bank, all under the main."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.guard import admit, step
from agent.guard_model import (
    Admission,
    BankFacts,
    BankLimits,
    BankState,
    Facts,
    FeederFacts,
    FeederState,
    GuardPlan,
    GuardState,
    Verdict,
)
from agent.limits import FeederTree
from contract.messages import Order, Setpoint, ShedStep, Workload

A, B, HPC = 0, 1, 2
MAIN, ROW_A, ROW_B = 0, 1, 2


def limits(name: str, **changes: Any) -> BankLimits:
    hpc = name == "hpc"
    fields: dict[str, Any] = {
        "id": name,
        "workload": Workload.HPC if hpc else Workload.HASH,
        "rated_w": 1_000,
        "floor_w": 10,
        "least_run_w": 11 if hpc else 110,
        "fail_safe_w": 1_000 if hpc else 0,
        "j_per_th": 0.0 if hpc else {"a": 20.0, "b": 30.0}[name],
    }
    return BankLimits(**fields | changes)


def plan(*, main_w: int = 3_000, row_w: int = 1_000, metered: bool = False, **changes: Any) -> GuardPlan:
    """`a=`, `b=` and `hpc=` change one bank's limits; other names change the plan."""
    own = {name: changes.pop(name, {}) for name in ("a", "b", "hpc")}
    tree = FeederTree.of(
        [("main", None, main_w, metered), ("row-a", "main", row_w, metered), ("row-b", "main", row_w, metered)],
        [("row-a", 1_000), ("row-b", 1_000), ("main", 1_000)],
        0,
    )
    banks = tuple(limits(name, **own[name]) for name in ("a", "b", "hpc"))
    return GuardPlan(site="north", tree=tree, banks=banks, **changes)


class Site:
    """Steps a guard through time. `at` is the clock; facts stay until they are changed."""

    def __init__(self, made: GuardPlan, *, level_w: int = 0, on: bool = False, since_ms: int = -(10**9)) -> None:
        self.plan = made
        self.at = 100_000
        self.chance = 0.0
        bank = BankState(level_w=level_w, occupied_w=level_w, on=on, since_ms=since_ms, sensor_ms=self.at)
        self.state = GuardState(banks=(bank,) * 3, feeders=(FeederState(),) * 3)
        metered = made.tree.metered[0]
        self.facts = Facts(
            banks=(BankFacts(upper_w=level_w, standing_w=level_w),) * 3,
            feeders=(FeederFacts(0 if metered else None, self.at if metered else None),) * 3,
        )
        self.seq = 0

    def order(
        self, a: int = 0, b: int = 0, hpc: int = 0, *, ladder: tuple[ShedStep, ...] = (), **changes: Any
    ) -> Order:
        self.seq += 1
        setpoints = tuple(
            Setpoint(
                bank=name,
                workload=Workload.HPC if name == "hpc" else Workload.HASH,
                target_w=target_w,
                reason="jobs_run",
            )
            for name, target_w in (("a", a), ("b", b), ("hpc", hpc))
        )
        fields: dict[str, Any] = {
            "site": "north",
            "epoch": 1,
            "seq": self.seq,
            "based_on_boot": "boot",
            "based_on_seq": 1,
            "valid_for_ms": 60_000,
            "issued_at_ms": 0,
            "setpoints": setpoints,
            "shed_ladder": ladder,
        }
        return Order(**fields | changes)

    def admit(self, order: Order, *, sent_ms: int | None = -1) -> Admission:
        """`sent_ms` is when the report it answers was sent; by default now."""
        basis_ms = self.at if sent_ms == -1 else sent_ms
        self.state, admission = admit(self.plan, self.state, order, basis_ms, self.at)
        return admission

    def tell(self, a: int = 0, b: int = 0, hpc: int = 0, **changes: Any) -> Verdict:
        assert self.admit(self.order(a, b, hpc, **changes)).accepted
        return self.step()

    def step(self, after_ms: int = 0) -> Verdict:
        self.at += after_ms
        self.state, verdict = step(self.plan, self.state, self.facts, self.at, (self.chance,) * 3)
        return verdict

    def see(self, bank: int, **changes: Any) -> None:
        banks = list(self.facts.banks)
        banks[bank] = replace(banks[bank], **changes)
        self.facts = replace(self.facts, banks=tuple(banks))

    def meter(self, feeder: int, power_w: int | None) -> None:
        feeders = list(self.facts.feeders)
        feeders[feeder] = FeederFacts(power_w, self.at)
        self.facts = replace(self.facts, feeders=tuple(feeders))


def held(verdict: Verdict) -> list[int | None]:
    return [bank.setpoint_w for bank in verdict.banks]
