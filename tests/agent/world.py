"""A site in virtual time for the agent's tests: the simulated plant and devices, a broker in memory, the real agent.

At the controller's end of the bus sits a `Hand` that orders what the test tells it to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from agent.config import AgentConfig
from agent.site import SiteAgent
from agent.state import MemoryStateStore, StateStore
from contract.bus import Inbound
from contract.messages import (
    Nameplate,
    Order,
    Receipt,
    ReceiptState,
    Report,
    Setpoint,
    Status,
    Workload,
    decode,
    encode,
)
from contract.mqtt_settings import MqttSettings
from contract.topics import site_topic
from sim.clock import LoopClock
from sim.jobs import JobSpec
from sim.membus import LinkQuality, MemoryBroker
from sim.partition import PartitionPlan
from sim.plant import S19J_PRO, BankPlan, FeederPlan, Rules, SitePlan, air_hall
from sim.site import SimSite, SiteKit

EPOCH_MS = 1_692_000_000_000
SITE = "north"


def plan(devices: int = 20, nodes: int = 8) -> SitePlan:
    """Two hash banks and a partition, each on a metered feeder of its own."""
    bank_w = S19J_PRO.rated_w * devices
    hpc = PartitionPlan("gpu", "hpc", "hall", nodes)
    feeders = (
        FeederPlan("main", None, 2.2 * bank_w + hpc.rated_w + 50_000),
        FeederPlan("row-a", "main", 1.1 * bank_w),
        FeederPlan("row-b", "main", 1.1 * bank_w),
        FeederPlan("hpc", "main", 1.2 * hpc.rated_w),
        FeederPlan("cooling", "main", 0.2 * bank_w + 10_000),
    )
    banks = (
        BankPlan("hall-a", "row-a", "hall", S19J_PRO, devices),
        BankPlan("hall-b", "row-b", "hall", S19J_PRO, devices),
    )
    hall = air_hall("hall", "cooling", 2.0 * bank_w + hpc.rated_w)
    return SitePlan(SITE, feeders, (hall,), banks, (hpc,), base_load_w=2_000.0)


def jobs(count: int, *, firm: int = 0, nodes: int = 1) -> list[JobSpec]:
    """`count` long jobs of one node each, the first `firm` of them firm; a later one is worth more."""
    return [
        JobSpec(f"{100 + place}", EPOCH_MS, nodes, 86_400.0, 90_000.0, place < firm, 1.0 + place)
        for place in range(count)
    ]


class Hand:
    """The controller's end of the bus: keeps what comes, orders what it is told to."""

    def __init__(self, broker: MemoryBroker, site: str = SITE) -> None:
        self.site = site
        self.bus = broker.bus("hand")
        self.reports: list[Report] = []
        self.receipts: list[Receipt] = []
        self.statuses: list[Status] = []
        self.plates: list[Nameplate] = []
        self.seq = 0
        self.epoch = 1

    async def run(self) -> None:
        topics = [site_topic(self.site, kind) for kind in ("report", "receipt", "status", "nameplate")]
        await self.bus.run(topics, self._take, lambda: None, lambda _reason: None)

    def order(self, targets: Mapping[str, int], **changes: Any) -> Order:
        """An order for the last report. HPC banks are those named `gpu`."""
        self.seq += 1
        last = self.reports[-1]
        fields: dict[str, Any] = {
            "site": self.site,
            "epoch": self.epoch,
            "seq": self.seq,
            "based_on_boot": last.boot,
            "based_on_seq": last.seq,
            "valid_for_ms": 150_000,
            "issued_at_ms": 0,
            "setpoints": tuple(
                Setpoint(
                    bank=bank,
                    workload=Workload.HPC if bank == "gpu" else Workload.HASH,
                    target_w=target_w,
                    reason="price_below_break_even",
                )
                for bank, target_w in targets.items()
            ),
        }
        return Order(**fields | changes)

    def send(self, order: Order) -> None:
        assert self.bus.publish(site_topic(self.site, "order"), encode(order))

    def tell(self, targets: Mapping[str, int], **changes: Any) -> Order:
        order = self.order(targets, **changes)
        self.send(order)
        return order

    def states(self, order: Order) -> dict[str, ReceiptState]:
        """Where each bank stands with an order, by the last receipt for it."""
        for receipt in reversed(self.receipts):
            if (receipt.epoch, receipt.order_seq) == (order.epoch, order.seq) and receipt.accepted:
                return {bank.bank: bank.state for bank in receipt.banks}
        return {}

    def answer(self, order: Order) -> Receipt | None:
        """The last receipt for an order."""
        mine = [one for one in self.receipts if (one.epoch, one.order_seq) == (order.epoch, order.seq)]
        return mine[-1] if mine else None

    def _take(self, message: Inbound) -> None:
        match message.topic.rpartition("/")[2]:
            case "report":
                self.reports.append(decode(Report, message.payload))
            case "receipt":
                self.receipts.append(decode(Receipt, message.payload))
            case "status":
                self.statuses.append(decode(Status, message.payload))
            case "nameplate":
                self.plates.append(decode(Nameplate, message.payload))


class World:
    """Enter it inside `run_virtual`. The agent is started by `start_agent`, as often as a test wants."""

    def __init__(
        self,
        site_plan: SitePlan | None = None,
        *,
        firmware: str = "antminer",
        rules: Rules | None = None,
        job_list: Sequence[JobSpec] = (),
        tables: Callable[[dict[str, Any]], None] | None = None,
        seed: int = 1,
        timing: Mapping[str, int] | None = None,
    ) -> None:
        self.plan = site_plan or plan()
        self._kit = SiteKit(
            self.plan,
            {bank.id: firmware for bank in self.plan.banks},
            rules=rules or Rules(fail_safe_w={"hall-a": 0, "hall-b": 0}),
            timing={"stagger_ms": 0} | dict(timing or {}),
        )
        self._jobs = job_list
        self._tables = tables
        self._seed = seed
        self._tasks: list[asyncio.Task[Any]] = []
        self.agents: list[SiteAgent] = []
        self._links: list[str] = []
        self.runs: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> World:
        self.clock = LoopClock(EPOCH_MS)
        self.broker = MemoryBroker(Random(self._seed), quality=LinkQuality((0.2, 0.5)))
        partitions = {part.id: self._jobs for part in self.plan.partitions}
        self.site = SimSite(
            self._kit, seed=self._seed, clock=self.clock, jobs=partitions, slurm_socket=lambda name: f"/{name}.sock"
        )
        await self.site.start()
        self.plant = self.site.plant
        self.hand = Hand(self.broker)
        self._go(self.hand.run())
        self._go(self.site.run_plant(0.5))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for task in (*self.runs, *self._tasks):
            task.cancel()
        await asyncio.gather(*self.runs, *self._tasks, return_exceptions=True)
        await self.site.stop()

    def config(self) -> AgentConfig:
        tables = self.site.agent_tables({"host": "broker", "identifier": "agent"}, Path("unused"))
        if self._tables is not None:
            self._tables(tables)
        return AgentConfig.model_validate(tables)

    def start_agent(
        self, *, state: StateStore | None = None, clock: LoopClock | None = None, link: str = "agent"
    ) -> SiteAgent:
        agent = SiteAgent(
            self.config(),
            bus=self.broker.bus(link),
            clock=clock or self.clock,
            rng=Random(self._seed + len(self.agents)),
            state=state or MemoryStateStore(),
        )
        self.agents.append(agent)
        self._links.append(link)
        self.runs.append(asyncio.get_running_loop().create_task(agent.run()))
        return agent

    async def end_agent(self, *, crash: bool = False) -> None:
        """End the newest agent, cleanly or as a crash does."""
        run = self.runs.pop()
        if crash:
            self.broker.cut(self._links[-1])
            self.agents[-1].die()
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run

    async def until(self, condition: Callable[[], object], within_s: float = 120.0, every_s: float = 0.02) -> None:
        """Wait for a condition, in virtual seconds."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        while not condition():
            assert loop.time() < end_s, f"not within {within_s} s"
            await asyncio.sleep(every_s)

    def power_w(self, bank: str) -> float:
        """The plant's own truth."""
        self.plant.advance_to(self.clock.wall_ms())
        return self.plant.bank_power_w(bank)

    def _go(self, work: Any) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))


def settings() -> MqttSettings:
    return MqttSettings(host="broker", identifier="agent")
