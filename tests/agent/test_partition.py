"""The HPC bank between its aim and its scheduler: it acts on what is free at once, whatever hangs or is being read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from random import Random
from typing import Any

from agent.contain import Containment
from agent.drivers.base import Applied, Failure, Outcome, PartitionFacts, Refused, Unreachable
from agent.drivers.hosts.group import HostGroup
from agent.drivers.hosts.host import HostReading, HostState
from agent.guard_model import BankHold
from agent.job_ladder import Nodes
from agent.partition import HpcBank
from agent.partition_hosts import PartitionHosts
from contract.clock import SystemClock
from contract.messages import Job, JobState

PATIENCE_S = 20.0
RATED_W, IDLE_W = 1_000, 100
NAMES = ("n1", "n2", "n3", "n4")


class Scripted:
    """A partition of four nodes that does as it is told, but for what a gate keeps waiting."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = {one.id: one for one in jobs}
        self.admitting = True
        self.barred: frozenset[str] = frozenset()
        self.steps = True
        self.calls: list[tuple[str, object]] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.refuses: set[str] = set()
        self.unfreezable: frozenset[str] = frozenset()

    def job(self, name: str) -> JobState:
        return self.jobs[name].state

    def named(self, kind: str) -> list[object]:
        return [what for each, what in self.calls if each == kind]

    async def read(self) -> PartitionFacts | Unreachable:
        facts = self._facts()
        await self._pass("read", None)
        return facts

    async def set_admission(self, admitting: bool) -> Outcome:
        await self._pass("admit" if admitting else "close", None)
        self.admitting = admitting
        self.barred = frozenset() if admitting else self.barred
        return Applied()

    async def admit_on(self, nodes: Collection[str]) -> Outcome:
        await self._pass("admit_on", frozenset(nodes))
        self.admitting, self.barred = True, frozenset(NAMES) - frozenset(nodes)
        return Applied()

    async def freeze(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        return await self._of("freeze", jobs, JobState.FROZEN)

    async def thaw(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        return await self._of("thaw", jobs, JobState.RUNNING)

    async def warn(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        await self._pass("warn", tuple(jobs))
        return dict.fromkeys(jobs, Applied())

    async def requeue(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        return await self._of("requeue", jobs, JobState.PENDING)

    async def close(self) -> None:
        """Nothing to close."""

    async def _of(self, kind: str, jobs: Sequence[str], state: JobState) -> Mapping[str, Outcome]:
        await self._pass(kind, tuple(jobs))
        outcomes: dict[str, Outcome] = {}
        for name in jobs:
            outcomes[name] = Refused("no") if name in self.refuses else Applied()
            if name not in self.refuses:
                self.jobs[name] = self.jobs[name].model_copy(update={"state": state})
        return outcomes

    async def _pass(self, kind: str, what: object) -> None:
        if kind != "read":
            self.calls.append((kind, what))
        if kind in self.gates:
            await self.gates[kind].wait()

    def _facts(self) -> PartitionFacts:
        jobs = tuple(self.jobs.values())
        held = [one for one in jobs if one.state is not JobState.PENDING]
        return PartitionFacts(
            nodes_up=4,
            nodes_busy=len(held),
            admitting=self.admitting,
            jobs=jobs,
            requeueable=frozenset(one.id for one in held),
            unfreezable=self.unfreezable,
            up_nodes=NAMES,
            placed={one.id: (f"n{one.id}",) for one in held},
            barred=self.barred if self.admitting else frozenset(),
            steps=self.steps,
        )


class CappedHost:
    """A host that draws what it is told to and takes limits."""

    def __init__(self, power_w: int = RATED_W) -> None:
        self.power_w = power_w
        self.limit_w: int | None = None
        self.fails = False
        self.memory: dict[str, str] = {}

    @property
    def limit_is_ours(self) -> bool:
        return self.limit_w is not None

    async def read(self) -> HostReading | Unreachable:
        drawn_w = self.power_w if self.limit_w is None else min(self.power_w, self.limit_w)
        return HostReading(state=HostState.ON, power_w=drawn_w, limited=self.limit_w is not None, limit_w=self.limit_w)

    async def set_limit_w(self, power_w: int) -> Outcome:
        if self.fails:
            return Unreachable(Failure.TIMEOUT)
        self.limit_w = power_w
        return Applied()

    async def clear_limit(self) -> Outcome:
        self.limit_w = None
        return Applied()

    async def close(self) -> None:
        """Nothing to close."""


def job(name: str, state: JobState = JobState.RUNNING, **more: Any) -> Job:
    shape: dict[str, Any] = {"nodes": 1, "power_w": RATED_W - IDLE_W, "value_usd_per_node_h": float(name)}
    return Job(id=name, state=state, **shape | more)


def hold(setpoint_w: int) -> BankHold:
    return BankHold(
        setpoint_w=setpoint_w,
        wanted_w=setpoint_w,
        may_raise=True,
        firm_too=False,
        on=True,
        since_ms=0,
        why=None,
        interlocks=(),
    )


@asynccontextmanager
async def running(
    partition: Scripted, hosts: Mapping[str, CappedHost] | None = None, *, settle_ms: int = 50
) -> AsyncIterator[HpcBank]:
    clock, contain = SystemClock(), Containment()
    group = None if hosts is None else HostGroup(hosts, deadline_s=2.0)
    bank = HpcBank(
        "hpc",
        partition,
        Nodes(4, RATED_W, IDLE_W, capped_w=None if hosts is None else 600),
        deadline_s=5.0,
        stale_ms=60_000,
        settle_ms=settle_ms,
        clock=clock,
        contain=contain,
        on_change=lambda: None,
        hosts=None if group is None else PartitionHosts(group, deadline_s=2.0, every_ms=50, clock=clock),
    )

    async def look() -> None:
        while True:
            bank.look()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(bank.run()), asyncio.create_task(look())]
    try:
        yield bank
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert contain.faults == 0


async def until(holds: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  what another task does
            await asyncio.sleep(0.005)


async def test_a_new_target_freezes_at_once_while_an_earlier_requeue_hangs() -> None:
    partition = Scripted(job("1"), job("2"), job("3"))
    partition.unfreezable = frozenset({"1"})
    partition.gates["requeue"] = asyncio.Event()
    async with running(partition) as bank:
        bank.hold(hold(400 + 1_800), None)
        await until(lambda: partition.named("requeue") == [("1",)])
        bank.hold(hold(400 + 900), None)
        await until(lambda: partition.job("2") is JobState.FROZEN)
        assert partition.job("1") is JobState.RUNNING
        assert partition.named("requeue") == [("1",)], "once is enough"
        assert not bank.settled
        partition.gates["requeue"].set()
        await until(lambda: bank.settled)
    assert partition.job("3") is JobState.RUNNING


async def test_a_new_target_freezes_at_once_while_a_reading_hangs() -> None:
    partition = Scripted(job("1"), job("2"))
    async with running(partition) as bank:
        bank.hold(hold(4_000), None)
        await until(lambda: bank.settled)
        partition.gates["read"] = asyncio.Event()
        await asyncio.sleep(0.1)
        bank.hold(hold(400 + 900), None)
        await until(lambda: partition.job("1") is JobState.FROZEN)
        partition.gates["read"].set()


async def test_while_one_job_is_being_thawed_another_is_frozen_for_a_new_target() -> None:
    partition = Scripted(job("1"), job("2"), job("3"))
    async with running(partition) as bank:
        bank.hold(hold(400 + 1_800), None)
        await until(lambda: partition.job("1") is JobState.FROZEN and bank.claims.frozen == ["1"])
        partition.gates["thaw"] = asyncio.Event()
        bank.hold(hold(4_000), None)
        await until(lambda: partition.named("thaw") == [("1",)])
        bank.hold(hold(400 + 1_800), None)
        await until(lambda: partition.job("2") is JobState.FROZEN)
        partition.gates["thaw"].set()
        bank.hold(hold(4_000), None)
        await until(lambda: {one.state for one in partition.jobs.values()} == {JobState.RUNNING})


async def test_what_is_refused_is_tried_again_after_a_look_and_another_is_shed_meanwhile() -> None:
    partition = Scripted(job("1"), job("2"))
    partition.refuses = {"1"}
    async with running(partition) as bank:
        bank.hold(hold(400 + 900), None)
        await until(lambda: partition.job("2") is JobState.FROZEN)
        await until(lambda: bank.commands["freeze", "refused"] >= 1)
        partition.refuses = set()
        bank.hold(hold(400), None)
        await until(lambda: partition.job("1") is JobState.FROZEN)


async def test_starts_are_let_in_node_by_node_and_everywhere_when_all_fits() -> None:
    partition = Scripted(job("1", JobState.PENDING, nodes=3, power_w=2_700))
    async with running(partition) as bank:
        bank.hold(hold(400 + 1_800), None)
        await until(lambda: partition.named("admit_on") == [frozenset({"n1", "n2"})])
        await until(lambda: bank.settled and bank.claims.admission_closed)
        await asyncio.sleep(0.2)
        assert len(partition.named("admit_on")) == 1, "what stands is not told again"
        bank.hold(hold(100), None)
        await until(lambda: not partition.admitting)
        bank.hold(hold(4_000), None)
        await until(lambda: partition.admitting and not partition.barred)
        await until(lambda: not bank.claims.admission_closed)


async def test_nodes_are_capped_before_jobs_are_frozen_and_all_is_undone_in_reverse() -> None:
    hosts = {name: CappedHost() for name in NAMES}
    partition = Scripted(*(job(str(number)) for number in range(1, 5)))
    async with running(partition, hosts) as bank:
        bank.hold(hold(4_000), None)
        await until(lambda: bank.settled)
        await asyncio.sleep(0.1)
        bank.hold(hold(3_200), None)
        await until(lambda: {host.limit_w for host in hosts.values()} == {800})
        assert partition.named("freeze") == []
        bank.hold(hold(2_000), None)
        await until(lambda: partition.job("1") is JobState.FROZEN)
        assert {host.limit_w for host in hosts.values()} == {600}
        bank.hold(hold(4_000), None)
        await until(lambda: {host.limit_w for host in hosts.values()} == {None})
        assert partition.job("1") is JobState.RUNNING
        await until(lambda: partition.admitting)
    kinds = [kind for kind, _ in partition.calls]
    assert kinds.index("thaw") < len(kinds) - 1 - kinds[::-1].index("admit")


async def test_a_host_that_cannot_be_capped_costs_a_job_instead() -> None:
    hosts = {name: CappedHost() for name in NAMES}
    for host in hosts.values():
        host.fails = True
    partition = Scripted(*(job(str(number)) for number in range(1, 5)))
    async with running(partition, hosts) as bank:
        bank.hold(hold(4_000), None)
        await until(lambda: bank.node_power.age_s is not None)  # its hosts have been read
        bank.hold(hold(3_200), None)
        await until(lambda: partition.job("1") is JobState.FROZEN)
        assert bank.commands["cap", "unreachable"] >= 1
        assert {partition.job(name) for name in "234"} == {JobState.RUNNING}


async def test_a_cap_found_in_memory_after_a_restart_is_taken_away() -> None:
    hosts = {name: CappedHost() for name in NAMES}
    hosts["n2"].limit_w = 700  # ours, by its driver's memory
    partition = Scripted(job("2"))
    async with running(partition, hosts) as bank:
        bank.hold(hold(4_000), None)
        await until(lambda: hosts["n2"].limit_w is None)


async def test_node_power_is_learned_from_hosts_and_shows_in_what_jobs_are_reported_to_draw() -> None:
    rng = Random(1)
    partition = Scripted(job("1"), job("2"))
    hosts = {name: CappedHost(700 if name in {"n1", "n2"} else 90) for name in NAMES}
    async with running(partition, hosts) as bank:
        bank.hold(hold(4_000), None)
        for _ in range(3):
            for name in ("1", "2"):
                state = rng.choice((JobState.RUNNING, JobState.FROZEN))
                partition.jobs[name] = partition.jobs[name].model_copy(update={"state": state})
                hosts[f"n{name}"].power_w = 700 if state is JobState.RUNNING else 90
            seen = bank.node_power.readings
            await until(lambda seen=seen: bank.node_power.readings > seen + 5)
        for name in ("1", "2"):
            partition.jobs[name] = partition.jobs[name].model_copy(update={"state": JobState.RUNNING})
            hosts[f"n{name}"].power_w = 700
        await until(lambda: abs(bank.node_power.idle_w - 90) <= 15)
        await until(lambda: abs((bank.survey(SystemClock().mono_ms()).power_w or 0) - 1_580) <= 60)
        reading = bank.reading(SystemClock().mono_ms(), 10)
        assert reading is not None
        assert all(abs(one.power_w - 610) <= 40 for one in reading.jobs)
        memory = bank.memory
    again = Scripted(job("1"))
    async with running(again) as bank:
        bank.memory = memory
        assert abs(bank.node_power.idle_w - 90) <= 15


async def test_what_was_learned_from_a_meter_never_speaks_against_it() -> None:
    """A claim that fell because nodes were learned to draw less would make a meter that shows a steady load look
    frozen; only jobs that come and go move it."""
    rng = Random(1)
    partition = Scripted(job("1"), job("2"))
    hosts = {name: CappedHost(700 if name in {"n1", "n2"} else 90) for name in NAMES}
    async with running(partition, hosts) as bank:
        bank.hold(hold(4_000), None)
        await until(lambda: bank.survey(SystemClock().mono_ms()).claimed_w == 2 * RATED_W + 2 * IDLE_W)
        for _ in range(3):
            hosts["n1"].power_w = hosts["n2"].power_w = rng.choice((690, 700))
            seen = bank.node_power.readings
            await until(lambda seen=seen: bank.node_power.readings > seen + 5)
        await until(lambda: (bank.survey(SystemClock().mono_ms()).power_w or 0) < 1_800)
        assert bank.survey(SystemClock().mono_ms()).claimed_w == 2 * RATED_W + 2 * IDLE_W
        partition.jobs["2"] = partition.jobs["2"].model_copy(update={"state": JobState.FROZEN})
        bank.look()
        await until(lambda: bank.survey(SystemClock().mono_ms()).claimed_w == RATED_W + 3 * IDLE_W)


async def test_facts_of_the_scheduler_alone_teach_nothing() -> None:
    partition = Scripted(job("1"))
    async with running(partition) as bank:
        bank.hold(hold(4_000), None)
        await until(lambda: bank.settled)
        assert bank.node_power.age_s is None
        assert replace(bank.node_power, readings=0).idle_w == IDLE_W
