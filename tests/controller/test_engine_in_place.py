"""The real engine in the running controller: prices and signals move the fleet, and the journal replays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from controller.config import ControllerConfig
from controller.engine.decide import decide
from controller.feeds.base import Feeds
from controller.feeds.csv_replay import CsvReplay
from controller.feeds.hashprice import GivenHashPrice
from controller.feeds.table import read_series
from controller.journal.base import Journal
from controller.journal.memory import MemoryJournal
from controller.journal.replay import replay
from controller.journal.sql import SqlJournal
from controller.signals import SignalAsk
from sim.clock import LoopClock, ScaledClock
from sim.membus import MemoryBroker
from sim.virtual import run_virtual
from tests.controller.kit import BASE_W, RATED_W, WALL_MS, SmallAgent, make_controller, stop, until

CONFIG = ControllerConfig.model_validate(
    {
        "price": "rt",
        "hashprice": "hp",
        "feeds": {"prices": {"rt": {"kind": "mqtt"}}, "hashprices": {"hp": {"kind": "given", "usd_per_ph_day": 55}}},
    }
)
PRICES = ["2023-11-14T22:00Z,20", "2023-11-14T22:15Z,2000", "2023-11-14T22:30Z,15", "2023-11-14T22:45Z,15"]


def feeds() -> Feeds:
    lines = ["interval_start_utc,rt_usd_per_mwh", *PRICES]
    return Feeds(
        prices={"rt": CsvReplay("rt", read_series(iter(lines), "test"))}, hashprices={"hp": GivenHashPrice("hp", 55.0)}
    )


def test_a_scarcity_price_stands_the_fleet_down_and_the_next_brings_it_back() -> None:
    async def main() -> None:
        broker, journal = MemoryBroker(Random(3)), MemoryJournal()
        controller = make_controller(
            broker.bus("controller"), LoopClock(WALL_MS), config=CONFIG, journal=journal, decide=decide, feeds=feeds()
        )
        agents = [SmallAgent(broker.bus(f"a{i}"), LoopClock(WALL_MS), f"site-{i}") for i in range(3)]
        tasks = [asyncio.ensure_future(job) for job in (controller.run(), *(agent.run() for agent in agents))]
        await asyncio.sleep(90)
        assert [agent.bank_w for agent in agents] == [[RATED_W, RATED_W]] * 3
        await asyncio.sleep(5 * 60)
        assert [agent.bank_w for agent in agents] == [[0, 0]] * 3, "2,000 USD/MWh is above any break-even"
        await asyncio.sleep(16 * 60)
        assert [agent.bank_w for agent in agents] == [[RATED_W, RATED_W]] * 3
        controller.signal(SignalAsk(site="site-1", target_w=BASE_W + RATED_W, duration_ms=600_000))
        await asyncio.sleep(30)
        assert sum(agents[1].bank_w) <= RATED_W
        assert sum(agents[2].bank_w) == 2 * RATED_W
        assert controller.dispatcher.crashes == 0
        assert all(decision.plan is not None and not decision.plan.fallback for decision in controller.latest.values())
        assert all(decision.carry for decision in controller.latest.values()), (
            "the last plan goes into the next snapshot"
        )
        result = await replay(journal, decide)
        assert result.sites > 60
        assert result.first is None
        for task in tasks:
            await stop(task)

    run_virtual(main(), limit_s=86_400)


async def test_the_journal_on_disk_replays_byte_for_byte_in_another_process_life(tmp_path: Path) -> None:
    """Half an hour at 1,000 times life's speed on the real loop, journalled in SQLite, read back by a new journal."""
    url = f"sqlite+aiosqlite:///{tmp_path}/j.sqlite3"
    broker, clock = MemoryBroker(Random(3)), ScaledClock(1_000.0, WALL_MS)
    journal: Journal = SqlJournal(url)
    controller = make_controller(
        broker.bus("controller"), clock, config=CONFIG, journal=journal, decide=decide, feeds=feeds()
    )
    agents = [SmallAgent(broker.bus(f"a{i}"), clock, f"site-{i}", every_ms=20_000) for i in range(2)]
    tasks = [asyncio.ensure_future(job) for job in (controller.run(), *(agent.run() for agent in agents))]
    await until(lambda: len(controller.latest) == 2)
    controller.signal(SignalAsk(site="site-0", target_w=BASE_W, duration_ms=300_000))
    await until(lambda: clock.wall_ms() - WALL_MS > 30 * 60_000)
    for task in tasks:
        await stop(task)
    again = SqlJournal(url)
    await again.open(clock.wall_ms())
    result = await replay(again, decide)
    await again.close()
    assert result.sites > 20
    assert result.first is None
