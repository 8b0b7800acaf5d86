"""The control loop in virtual time, with a bus in memory and small agents: ticks, leases, the fast path, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

from contract.messages import Order, PriceMessage, ReceiptState, encode
from contract.topics import price_topic
from controller.app import Controller
from controller.asks import Rejected
from controller.config import ControllerConfig
from controller.engine.model import Decision, OverrideKind, Params, Snapshot
from controller.feeds.base import Feeds
from controller.feeds.csv_replay import CsvReplay
from controller.feeds.mqtt import MqttPrices
from controller.feeds.table import read_series
from controller.journal.base import EventRecord, OrderRecord
from controller.journal.memory import MemoryJournal
from controller.overrides import OverrideAsk
from controller.signals import SignalAsk
from sim.clock import LoopClock
from sim.membus import MemoryBroker
from sim.virtual import run_virtual
from tests.controller.kit import BASE_W, RATED_W, WALL_MS, SmallAgent, level_decide, make_controller

T = TypeVar("T")
MINUTE_MS = 60_000


class World:
    """A controller and its agents on one broker. Time is the loop's."""

    def __init__(self, sites: int = 1, *, config: ControllerConfig | None = None, **more: Any) -> None:
        self.broker = MemoryBroker(Random(7))
        self.config = config
        self.more = more
        self.journal = MemoryJournal()
        self.clock = LoopClock(WALL_MS, mono_origin_ms=12_345)
        self.controller = self.make()
        self.agents = {
            f"site-{i}": SmallAgent(self.broker.bus(f"agent-{i}"), LoopClock(WALL_MS + 500_000), f"site-{i}")
            for i in range(sites)
        }
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def make(self) -> Controller:
        bus = self.broker.bus("controller")
        return make_controller(bus, self.clock, config=self.config, journal=self.journal, **self.more)

    async def __aenter__(self) -> World:
        self.start("controller", self.controller.run())
        for site, agent in self.agents.items():
            self.start(site, agent.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self.tasks):
            await self.end(name)

    def start(self, name: str, job: Coroutine[Any, Any, None]) -> None:
        self.tasks[name] = asyncio.ensure_future(job)

    async def end(self, name: str) -> None:
        task = self.tasks.pop(name)
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def restart_controller(self) -> None:
        await self.end("controller")
        self.controller = self.make()
        self.start("controller", self.controller.run())

    def orders(self, site: str = "site-0") -> list[Order]:
        return [order for order in self.controller.orders if order.site == site]


def virtual(main: Coroutine[Any, Any, T]) -> T:
    return run_virtual(main, limit_s=3 * 86_400)


def test_every_site_is_ordered_when_it_joins_and_each_minute_of_the_wall_clock_after() -> None:
    async def main() -> None:
        async with World(sites=3) as world:
            await asyncio.sleep(10 * 60)
            for site in world.agents:
                orders = world.orders(site)
                assert 11 <= len(orders) <= 13
                assert [order.seq for order in orders] == list(range(1, len(orders) + 1))
                assert {order.epoch for order in orders} == {1}
                for order in orders[1:]:
                    assert order.issued_at_ms % MINUTE_MS < 1_000, "ticks stand on the grid of the wall clock"
            assert world.controller.receipt_counts[ReceiptState.CONFIRMED] == 6, "an unchanged target counts once"
            assert (
                world.controller.metrics.registry.get_sample_value("wattshift_controller_order_confirmed_seconds_count")
                == 3
            )

    virtual(main())


def test_an_order_answers_the_newest_report_and_no_lease_lapses_in_hours() -> None:
    async def main() -> None:
        async with World(sites=2) as world:
            await asyncio.sleep(4 * 3_600)
            for agent in world.agents.values():
                assert agent.refused == 0
                assert agent.lapsed == 0
            for order in world.orders():
                agent = world.agents["site-0"]
                answered_ms = agent.sent_ms[order.based_on_seq]
                published_ms = order.issued_at_ms - WALL_MS + agent.sent_ms[1] - 5_000
                assert published_ms - answered_ms <= 6_000

    virtual(main())


def test_leases_hold_where_the_tick_is_longer_than_they_are() -> None:
    """Renewal does not hang on the tick: with a lease of 30 s and a tick of an hour no lease lapses."""
    config = ControllerConfig(tick_s=3_600, params={"lease_ms": 30_000})

    async def main() -> None:
        async with World(config=config) as world:
            await asyncio.sleep(1_800)
            agent = world.agents["site-0"]
            assert agent.lapsed == 0
            stored = [each async for each in world.journal.decisions()]
            assert len(stored) <= 2, "a renewal is no decision"
            assert {order.decision for order in world.orders()} == {each.id for each in stored}

    virtual(main())


def test_a_signal_is_on_the_bus_when_the_call_returns_and_ends_by_itself() -> None:
    async def main() -> None:
        async with World() as world:
            await asyncio.sleep(400)
            before = len(world.orders())
            outcome = world.controller.signal(
                SignalAsk(site="site-0", reduce_w=RATED_W, duration_ms=90_000, id="ercot-1")
            )
            assert not isinstance(outcome, Rejected)
            assert outcome.accepted.baseline is not None
            assert outcome.accepted.baseline.power_w == BASE_W + 2 * RATED_W
            order = world.orders()[before]
            assert (order.urgent, order.obligation, order.cap_w) == (True, "ercot-1", BASE_W + RATED_W)
            assert sum(setpoint.target_w for setpoint in order.setpoints) == RATED_W
            await asyncio.sleep(85)
            assert world.agents["site-0"].bank_w == [RATED_W, 0]
            await asyncio.sleep(10)
            assert world.agents["site-0"].bank_w == [RATED_W, RATED_W], "released within a beat of its end"
            assert world.controller.signals.all(world.clock.wall_ms()) == []

    virtual(main())


def test_a_signal_and_an_override_to_come_take_effect_within_a_second_of_their_start() -> None:
    async def main() -> None:
        async with World() as world:
            await asyncio.sleep(61)
            start_ms = world.clock.wall_ms() + 100_500
            outcome = world.controller.signal(
                SignalAsk(site="site-0", target_w=BASE_W, starts_at_ms=start_ms, duration_ms=60_000)
            )
            assert not isinstance(outcome, Rejected)
            assert outcome.now is not None
            assert outcome.now.decided.decision.planned_w == BASE_W + 2 * RATED_W
            assert outcome.expected is not None
            assert outcome.expected.planned_w == BASE_W, "what it will be when it begins is told beforehand"
            cap_ms = world.clock.wall_ms() + 20_500
            ask = OverrideAsk(
                site="site-0",
                kind=OverrideKind.CAP,
                value_w=BASE_W + RATED_W,
                starts_at_ms=cap_ms,
                duration_ms=20_000,
                reason="test",
            )
            assert not isinstance(world.controller.impose(ask), Rejected)
            await asyncio.sleep(90 + 75)
            lows: dict[int, int] = {}
            for order in world.orders():
                total = sum(setpoint.target_w for setpoint in order.setpoints)
                lows.setdefault(total, order.issued_at_ms)
            assert 0 <= lows[RATED_W] - cap_ms <= 1_000
            assert 0 <= lows[0] - start_ms <= 1_000

    virtual(main())


def test_a_restart_keeps_signals_and_overrides_and_raises_the_epoch() -> None:
    async def main() -> None:
        async with World() as world:
            await asyncio.sleep(30)
            world.controller.signal(SignalAsk(site="site-0", target_w=BASE_W + RATED_W, duration_ms=3_600_000, id="s1"))
            stop = OverrideAsk(
                site="site-0", kind=OverrideKind.EMERGENCY_STOP, reason="smoke", id="o1", duration_ms=3_600_000
            )
            world.controller.impose(stop)
            lifted = OverrideAsk(site="site-0", kind=OverrideKind.HOLD, reason="no more", id="o2", duration_ms=60_000)
            world.controller.impose(lifted)
            world.controller.lift_override("o2")
            await asyncio.sleep(30)
            assert world.agents["site-0"].bank_w == [0, 0]
            await world.restart_controller()
            await asyncio.sleep(30)
            assert world.controller.epoch == 2
            assert [o.id for o in world.controller.overrides.all(world.clock.wall_ms())] == ["o1"]
            assert [o.id for o in world.controller.signals.all(world.clock.wall_ms())] == ["s1"]
            agent = world.agents["site-0"]
            assert agent.bank_w == [0, 0], "the stop stands across the restart"
            assert agent.order is not None
            assert (agent.order.epoch, agent.refused) == (2, 0)

    virtual(main())


def test_the_first_decision_after_a_restart_knows_the_last_one_before_it() -> None:
    seen: list[Snapshot] = []

    def spy(snapshot: Snapshot, params: Params) -> Decision:
        seen.append(snapshot)
        return level_decide(snapshot, params)

    async def main() -> None:
        async with World(decide=spy) as world:
            await asyncio.sleep(30)
            assert _previous(seen) == []
            await world.restart_controller()
            seen.clear()
            await asyncio.sleep(30)
            assert _previous(seen) == [RATED_W, RATED_W]

    virtual(main())


def test_a_bug_on_one_sites_data_costs_only_that_site() -> None:
    def fragile(snapshot: Snapshot, params: Params) -> Decision:
        if any(site.site == "site-1" for site in snapshot.sites):
            raise ZeroDivisionError("on purpose")
        return level_decide(snapshot, params)

    async def main() -> None:
        async with World(sites=3, decide=fragile) as world:
            await asyncio.sleep(300)
            assert world.orders("site-1") == []
            assert len(world.orders("site-0")) >= 5
            assert len(world.orders("site-2")) >= 5
            assert world.controller.dispatcher.crashes >= 5
            told = [r for r in world.journal.records if isinstance(r, EventRecord) and r.kind == "decide_crash"]
            assert len(told) == 1
            assert "ZeroDivisionError" in told[0].detail

    virtual(main())


def test_a_lost_broker_is_survived_and_orders_go_out_again_when_it_is_back() -> None:
    async def main() -> None:
        async with World() as world:
            await asyncio.sleep(100)
            world.broker.stop(keep_retained=True)
            await asyncio.sleep(100)
            agent = world.agents["site-0"]
            assert agent.order is not None
            seq = agent.order.seq
            world.broker.start()
            await asyncio.sleep(60)
            assert agent.order.seq > seq
            assert agent.lease_ends_ms is not None

    virtual(main())


def test_an_order_that_is_lost_is_told_again_well_before_the_next_tick() -> None:
    """The agent's report says what it obeys: an order it never heard of is noticed by its absence."""

    async def main() -> None:
        async with World(config=ControllerConfig(tick_s=600)) as world:
            await asyncio.sleep(20)
            agent = world.agents["site-0"]
            agent.deaf = True
            ask = OverrideAsk(site="site-0", kind=OverrideKind.CAP, value_w=BASE_W, reason="test", duration_ms=600_000)
            world.controller.impose(ask)
            await asyncio.sleep(6)
            agent.deaf = False
            assert agent.bank_w == [RATED_W, RATED_W]
            await asyncio.sleep(20)
            assert agent.bank_w == [0, 0]
            assert world.controller.publisher.faults.counts["order_unheard"] >= 1

    virtual(main())


def test_an_obligation_about_to_fail_is_decided_on_the_report_that_shows_it() -> None:
    async def main() -> None:
        async with World() as world:
            await asyncio.sleep(120)
            world.controller.signal(SignalAsk(site="site-0", target_w=BASE_W + RATED_W, duration_ms=600_000))
            await asyncio.sleep(90)
            count = _triggers(world).count("obligation_at_risk")
            assert count == 0, "a site that complies is left alone"
            world.agents["site-0"].bank_w = [RATED_W, RATED_W]
            await asyncio.sleep(6)
            assert _triggers(world).count("obligation_at_risk") == 1
            assert world.agents["site-0"].bank_w == [RATED_W, 0]

    virtual(main())


def test_a_new_price_is_acted_on_within_a_beat() -> None:
    lines = [
        "interval_start_utc,rt_usd_per_mwh",
        "2023-11-14T22:00Z,20",
        "2023-11-14T22:15Z,30",
        "2023-11-14T22:30Z,900",
    ]
    replay = CsvReplay("rt", read_series(iter(lines), "test"))

    async def main() -> None:
        config = ControllerConfig.model_validate(
            {"price": "rt", "tick_s": 3_600, "feeds": {"prices": {"rt": {"kind": "mqtt"}}}}
        )
        async with World(config=config, feeds=Feeds(prices={"rt": replay})) as world:
            await asyncio.sleep(30)
            assert "at 20.0 USD/MWh" in world.controller.latest["site-0"].sentence
            edge_ms = (WALL_MS // 900_000 + 1) * 900_000
            await asyncio.sleep((edge_ms - world.clock.wall_ms()) / 1_000 + 1)
            assert "at 30.0 USD/MWh" in world.controller.latest["site-0"].sentence
            assert _triggers(world)[-1] == "price"

    virtual(main())


def test_prices_come_over_the_bus() -> None:
    async def main() -> None:
        clock = LoopClock(WALL_MS)
        feeds = Feeds(prices={"rt": MqttPrices("rt", "houston", clock)})
        config = ControllerConfig.model_validate({"price": "rt", "feeds": {"prices": {"rt": {"kind": "mqtt"}}}})
        async with World(config=config, feeds=feeds) as world:
            publisher = world.broker.bus("market")
            world.start("market", publisher.run([], lambda _: None, lambda: None, lambda _: None))
            await asyncio.sleep(20)
            assert "None USD/MWh" in world.controller.latest["site-0"].sentence
            price = PriceMessage(interval_start_ms=WALL_MS // 300_000 * 300_000, interval_ms=300_000, usd_per_mwh=-4.5)
            assert publisher.publish(price_topic("houston"), encode(price), retain=True)
            await asyncio.sleep(3)
            assert "-4.5 USD/MWh" in world.controller.latest["site-0"].sentence

    virtual(main())


def test_an_agent_that_knows_a_higher_epoch_fences_this_controller() -> None:
    async def main() -> None:
        async with World() as world:
            await asyncio.sleep(30)
            world.agents["site-0"].epoch = 9
            await asyncio.sleep(10)
            count = len(world.orders())
            await asyncio.sleep(300)
            assert len(world.orders()) == count, "a fenced controller is silent"
            leading = next(check for check in world.controller.checks() if check.name == "leading")
            assert not leading.ok
            assert "epoch_floor" in leading.detail

    virtual(main())


def test_the_journal_tells_each_decision_and_each_order_behind_it() -> None:
    async def main() -> None:
        async with World(sites=2) as world:
            await asyncio.sleep(200)
            stored = [each async for each in world.journal.decisions()]
            orders = [record for record in world.journal.records if isinstance(record, OrderRecord)]
            assert {order.decision_id for order in orders} <= {each.id for each in stored}
            assert len(orders) == len(world.controller.orders)
            assert all(order.published for order in orders)

    virtual(main())


def test_the_same_seed_gives_the_same_run() -> None:
    async def main() -> list[Order]:
        async with World(sites=3) as world:
            await asyncio.sleep(100)
            world.controller.signal(SignalAsk(site="site-1", target_w=0, duration_ms=60_000))
            await asyncio.sleep(200)
            return list(world.controller.orders)

    assert virtual(main()) == virtual(main())


def _previous(seen: list[Snapshot]) -> list[int]:
    return [before.target_w for before in seen[0].sites[0].previous]


def _triggers(world: World) -> list[str]:
    return [stored.trigger for stored in world.journal._decisions]
