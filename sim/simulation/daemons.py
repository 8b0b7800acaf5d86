"""The real daemons as processes of a simulated world: started, killed without a word, started again.

A killed process says, saves and stops nothing: the machinery under it is torn away. Its successor finds what had been
persisted by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

from agent.config import AgentConfig
from agent.site import SiteAgent
from agent.state import MemoryStateStore
from contract.bus import Bus, BusStats, Inbound, Will
from contract.topics import parse_site_topic
from controller.app import Controller
from controller.config import ControllerConfig
from controller.dispatch import Decide
from controller.feeds.base import Feeds
from controller.journal.base import JournalBefore, Record
from controller.journal.memory import MemoryJournal
from sim.clock import LoopClock
from sim.membus import MemoryBroker
from sim.recorder import Recorder, TapBus, TapJournal
from sim.simulation.scene import SAMPLES, Scene, SceneSite
from sim.site import SimSite
from sim.virtual import virtual_loop

PRICE: Final = "rt"
HASHPRICE: Final = "btc"


class AgentProcess:
    """One site's agent, through all its incarnations. What it persists outlives them."""

    def __init__(
        self,
        scene: SceneSite,
        site: SimSite,
        broker: MemoryBroker,
        recorder: Recorder,
        rng: Random,
        *,
        link: str | None = None,
    ) -> None:
        """`link` is its name at the broker, where a second agent of one site has another."""
        self.name: Final = scene.kit.plan.id
        self.link: Final = link or f"agent-{self.name}"
        self.store = MemoryStateStore()
        self.agent: SiteAgent | None = None
        """None while it is down."""
        self.starts = 0
        self.clock: LoopClock
        self.report_loss = 0.0
        """The share of its reports that never arrive."""
        self._scene, self._site, self._broker, self._recorder, self._rng = scene, site, broker, recorder, rng
        self._wall_off_ms = 0
        self._run: asyncio.Task[None] | None = None

    def start(self) -> SiteAgent:
        """Start a new incarnation; its monotonic clock begins anywhere, its wall clock is the machine's."""
        self.starts += 1
        self.clock = LoopClock(self._recorder_epoch_ms(), mono_origin_ms=self._rng.randrange(10**9))
        self._broker.heal(self.link)
        bus = _Dropping(self._broker.bus(self.link), self._rng, lambda: self.report_loss)
        agent = SiteAgent(
            self.config(),
            bus=TapBus(bus, self._recorder, f"{self.name}/{self.starts}", site=self.name),
            clock=self.clock,
            rng=Random(self._rng.getrandbits(64)),
            state=self.store,
        )
        self.agent = agent
        self._run = asyncio.get_running_loop().create_task(agent.run(), name=self.link)
        return agent

    def config(self) -> AgentConfig:
        """What an operator of this site would write."""
        tables = self._site.agent_tables({"host": "broker", "identifier": self.link}, Path("unused"))
        cool_ms = self._scene.cool_ms
        for name in self._scene.kit.max_inlet_c:
            tables["banks"][name] |= {"cool_ms": cool_ms, "hysteresis_mc": 2_000}
        tables["limits"] = {"overload_hold_ms": cool_ms, "recover_ms": cool_ms // 2}
        return AgentConfig.model_validate(tables)

    async def kill(self) -> None:
        """End it as a power cut does."""
        agent, run = self.agent, self._run
        if agent is None or run is None:
            return
        self._broker.cut(self.link)
        agent.die()
        self.agent = self._run = None
        await self._tear_down(agent)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    async def stop(self) -> None:
        """The end of the world: give back what it holds."""
        await self.kill()

    def shift_clock(self, delta_ms: int) -> None:
        """Put the machine's wall clock off; incarnations to come inherit it."""
        self._wall_off_ms += delta_ms
        self.clock.shift_wall(delta_ms)

    def check(self) -> None:
        """Raise what the agent raised, if it ended."""
        if self._run is not None and self._run.done():
            self._run.result()

    async def _tear_down(self, agent: SiteAgent) -> None:
        """Its sockets die with it: nothing more gets out, not even a goodbye."""
        network = virtual_loop().network
        addresses = self._site.device_addresses()
        for host, port in addresses:
            network.reset(host, port)
            network.refuse(host, port)
        await agent.machinery.close()
        for host, port in addresses:
            network.heal(host, port)

    def _recorder_epoch_ms(self) -> int:
        """Wall time at loop time 0 on this machine."""
        return self._recorder.now_ms() - int(virtual_loop().time() * 1_000) + self._wall_off_ms


class ControllerProcess:
    """One incarnation of a controller. All of a world share one journal, as replicas share a database."""

    def __init__(
        self,
        scene: Scene,
        number: int,
        broker: MemoryBroker,
        journal: MemoryJournal,
        recorder: Recorder,
        feeds: Feeds,
        rng: Random,
        leads: Callable[[ControllerProcess], bool],
        decide: Decide,
    ) -> None:
        self.name: Final = f"controller-{number}"
        self.link: Final = self.name
        self.off_ms = 0
        """By how much its wall clock is wrong."""
        self._broker = broker
        epoch_ms = recorder.now_ms() - int(virtual_loop().time() * 1_000)
        self.clock = LoopClock(epoch_ms, mono_origin_ms=rng.randrange(10**9))
        self._journal = _MortalJournal(journal)
        self.controller = Controller(
            controller_config(scene),
            bus=TapBus(broker.bus(self.link), recorder, self.name),
            clock=self.clock,
            rng=Random(rng.getrandbits(64)),
            journal=TapJournal(self._journal, recorder, self.name, leads=lambda: leads(self)),
            feeds=feeds,
            decide=decide,
        )
        self._run = asyncio.get_running_loop().create_task(self.controller.run(), name=self.name)

    async def kill(self) -> None:
        """End it as a power cut does."""
        self._broker.cut(self.link)
        self._journal.dead = True
        self._run.cancel()
        await asyncio.gather(self._run, return_exceptions=True)

    def shift_clock(self, delta_ms: int) -> None:
        self.off_ms += delta_ms
        self.clock.shift_wall(delta_ms)

    def check(self) -> None:
        """Raise what the controller raised, if it ended."""
        if self._run.done():
            self._run.result()


def controller_config(scene: Scene) -> ControllerConfig:
    """As an operator would write it; the feeds themselves are the world's."""
    rt_file = SAMPLES / "ercot_hb_houston_rt_15min_2023_08.csv"
    return ControllerConfig.model_validate(
        {
            "feeds": {
                "prices": {PRICE: {"kind": "csv", "path": str(rt_file)}},
                "hashprices": {HASHPRICE: {"kind": "given", "usd_per_ph_day": scene.hashprice_usd_per_ph_day}},
            },
            "price": PRICE,
            "hashprice": HASHPRICE,
            "params": dict(scene.params),
        }
    )


class _MortalJournal(JournalBefore):
    """The shared journal through one process's eyes: nothing is written once that process is dead."""

    def __init__(self, shared: MemoryJournal) -> None:
        super().__init__(shared)
        self.dead = False

    def write(self, record: Record) -> bool:
        return False if self.dead else super().write(record)

    async def close(self) -> None:
        return


class _Dropping:
    """A bus that loses a share of the reports on their way."""

    def __init__(self, inner: Bus, rng: Random, share: Callable[[], float]) -> None:
        self._inner, self._rng, self._share = inner, rng, share

    async def run(
        self,
        subscriptions: Sequence[str],
        on_message: Callable[[Inbound], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        *,
        will: Will | None = None,
    ) -> None:
        await self._inner.run(subscriptions, on_message, on_up, on_down, will=will)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        parsed = parse_site_topic(topic)
        if parsed is not None and parsed.kind == "report" and self._rng.random() < self._share():
            return self._inner.connected
        return self._inner.publish(topic, payload, retain=retain)

    @property
    def connected(self) -> bool:
        return self._inner.connected

    @property
    def stats(self) -> BusStats:
        return self._inner.stats
