"""Runs the demo: broker, controller, sites, agents and a small story, until its time is up or it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any, Final

from aiohttp import web

from agent.site import SiteAgent
from agent.state import FileStateStore
from contract.bus_mqtt import MqttBus
from contract.units import MS_PER_HOUR, MS_PER_S
from controller.app import Controller
from controller.config import ControllerConfig
from controller.daemon import make_journal, serve
from controller.engine.decide import decide
from controller.engine.optimiser.solver import warm_up
from controller.feeds.settings import build_feeds
from controller.feeds.table import SeriesTable, load_series
from sim.account import Bookkeeper
from sim.broker import LocalBroker
from sim.checkers import PlantTruth, Suite
from sim.clock import ScaledClock
from sim.demo.invariants import DEADLINE_S, allowances
from sim.demo.metrics import write_prometheus
from sim.demo.sites import DemoSite, demo_sites
from sim.demo.story import Story
from sim.demo.summary import Summary, summarise
from sim.demo.watch import Watch
from sim.plant import Ambient, Plant, series
from sim.recorder import RecordedWorld, Recorder, TapBus, TapJournal, Told
from sim.site import SimSite

RT_FILE: Final = "ercot_hb_houston_rt_15min_2023_08.csv"
WEATHER_FILE: Final = "houston_weather_hourly_2023_08.csv"
BTC_FILE: Final = "btc_economics_daily_2023_08.csv"
SAMPLES: Final = Path(str(resources.files("sim") / "samples"))
DEFAULT_START: Final = datetime(2023, 8, 17, 17, 45, tzinfo=UTC)
"""A quarter of an hour before that day's first price spike."""
REPORT_WALL_MS: Final = 200
"""Between two reports, at the least; a second of life would be too short at high speed."""
PLANT_EVERY_S: Final = 0.05
"""Wall time between two steps of the physics."""
CHECK_EVERY_S: Final = 0.1
DEFAULT_PORT: Final = 8480


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What may be asked of the demo."""

    sites: int = 2
    miners: int = 60
    """Per site."""
    speed: float = 30.0
    """Site seconds per wall second."""
    start: datetime = DEFAULT_START
    for_s: float | None = None
    """Wall seconds; None: until the sample ends or it is cancelled."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class DemoEvent:
    """Something worth telling. `text` is a plain sentence, `data` the same for a program."""

    kind: str
    site: str | None
    at_ms: int
    """Site time."""
    text: str
    data: dict[str, Any] = field(default_factory=dict)


Tell = Callable[[DemoEvent], None]


class Demo:
    """One run. `async with Demo(...) as demo: await demo.until_done()`, then `demo.summary()`."""

    def __init__(self, options: DemoOptions, tell: Tell) -> None:
        self.options = options
        self.tell = tell
        self.prices = load_series(SAMPLES / RT_FILE)
        start_ms = round(options.start.timestamp() * MS_PER_S)
        tell(DemoEvent("optimiser", None, start_ms, "Loading the optimiser; compiled anew it takes a minute or two."))
        warm_up()  # before the clock runs, for it runs fast
        self.clock = ScaledClock(options.speed, start_ms)
        self.start_ms = self.clock.wall_ms()
        self.end_ms = self.prices.end_ms
        self.recorder = Recorder(self.clock.wall_ms)
        self.suite = Suite(decide, options.seed, allowances(options.speed), permute_every=10)
        self.truths: dict[str, PlantTruth] = {}
        self.controller: Controller
        self.sites: list[SimSite] = []
        self.agents: dict[str, SiteAgent] = {}
        self.books: dict[str, Bookkeeper] = {}
        self.always_on: dict[str, tuple[Plant, Bookkeeper]] = {}
        self.url = ""
        self.token_file = Path()
        self.journal_file = Path()
        self.audit_file = Path()
        self.prometheus_file = Path()
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Demo:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def until_done(self) -> None:
        """Return when the time asked for, or the sample of prices, is over. Raises what a task of the demo raised."""
        left_s = (self.end_ms - self.clock.wall_ms()) / MS_PER_S / self.options.speed
        if self.options.for_s is not None:
            left_s = min(left_s, self.options.for_s)
        done, _ = await asyncio.wait(self._tasks, timeout=max(left_s, 0.0), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def summary(self) -> Summary:
        """The run so far."""
        return summarise(self)

    def violations(self) -> list[str]:
        """What the checkers have found, in order of time."""
        return [str(each) for each in self.suite.violations]

    # start and stop

    async def _start(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wattshift-demo-")))
        broker = await self._stack.enter_async_context(LocalBroker())
        words = broker.warning or f"Broker: mosquitto on 127.0.0.1:{broker.port}."
        self.say("broker", None, words, {"broker": broker.kind, "port": broker.port})
        weather = _weather(SAMPLES / WEATHER_FILE)
        demos = self._plans(weather)
        await self._start_controller(folder, broker)
        for index, demo in enumerate(demos):
            await self._start_site(demo, index, folder, broker)
        access = {
            "url": self.url,
            "token_file": str(self.token_file),
            "journal": str(self.journal_file),
            "audit": str(self.audit_file),
            "prometheus": str(self.prometheus_file),
        }
        self.say("ready", None, f"The API listens on {self.url}; its token is in {self.token_file}.", access)
        self._tasks += [
            asyncio.create_task(self._check(), name="checkers"),
            asyncio.create_task(Watch(self).run(), name="watch"),
            asyncio.create_task(Story(self).run(), name="story"),
        ]

    def _plans(self, weather: Callable[[int], Ambient]) -> list[DemoSite]:
        options = self.options
        report_ms = max(5_000, round(options.speed * REPORT_WALL_MS / 1_000) * 1_000)
        return demo_sites(
            options.sites, options.miners, weather, seed=options.seed, report_every_ms=report_ms, deadline_s=DEADLINE_S
        )

    async def _start_controller(self, folder: Path, broker: LocalBroker) -> None:
        self.token_file, self.journal_file = folder / "token", folder / "journal.sqlite3"
        self.audit_file = folder / "audit.jsonl"
        token = secrets.token_hex(16)
        self.token_file.write_text(token, encoding="utf-8")
        self.token_file.chmod(0o600)
        config = ControllerConfig.model_validate(
            {
                "mqtt": broker.settings("wattshift-controller").model_dump(),
                "http": {
                    "listen": f"127.0.0.1:{DEFAULT_PORT}",
                    "token_file": str(self.token_file),
                    "audit_file": str(self.audit_file),
                },
                "journal": {"url": f"sqlite+aiosqlite:///{self.journal_file}"},
                "feeds": {
                    "prices": {"hb-houston": {"kind": "csv", "path": str(SAMPLES / RT_FILE)}},
                    "hashprices": {
                        "btc": {"kind": "csv", "path": str(SAMPLES / BTC_FILE), "column": "hashprice_usd_per_ph_day"}
                    },
                },
                "price": "hb-houston",
                "hashprice": "btc",
                "engine": {"forecast": "persistence", "timezone": "America/Chicago"},
                "params": self._params(),
            }
        )
        chance = Random(self.options.seed)
        self.controller = Controller(
            config,
            bus=TapBus(MqttBus(config.mqtt, chance), self.recorder, "controller"),
            clock=self.clock,
            rng=chance,
            journal=TapJournal(make_journal(config), self.recorder, "controller"),
            feeds=build_feeds(config.feeds.prices, config.feeds.hashprices, self.clock, chance),
        )
        runner, port = await _serve_somewhere(self.controller, token, config)
        self._stack.push_async_callback(runner.cleanup)
        self.url = f"http://127.0.0.1:{port}"
        self.prometheus_file = write_prometheus(folder, self.url, self.token_file)
        self._tasks.append(asyncio.create_task(self.controller.run(), name="controller"))

    def _params(self) -> dict[str, Any]:
        """Leases and staleness in site time must leave the machine its milliseconds of wall time."""
        grain_ms = round(self.options.speed * MS_PER_S)
        return {"lease_ms": max(180_000, 4 * grain_ms), "stale_report_ms": max(60_000, 2 * grain_ms)}

    async def _start_site(self, demo: DemoSite, index: int, folder: Path, broker: LocalBroker) -> None:
        start_ms = self.clock.wall_ms()
        seed = self.options.seed * 1_000 + index
        site = SimSite(demo.kit, seed=seed, clock=self.clock, jobs={demo.partition: demo.jobs(start_ms)})
        await site.start()
        self._stack.push_async_callback(site.stop)
        self.sites.append(site)
        name = demo.kit.plan.id
        config = site.agent_config(broker.settings(f"wattshift-agent-{name}"), folder / f"{name}-state.json")
        chance = Random(seed)
        agent = SiteAgent(
            config,
            bus=TapBus(MqttBus(config.mqtt, chance), self.recorder, name, site=name),
            clock=self.clock,
            rng=chance,
            state=FileStateStore(config.state_file),
        )
        self.agents[name] = agent
        self.recorder.tap_plant(name, site.plant)
        truth = PlantTruth(site.plant, agent.plate)
        truth.agent_since_ms = truth.sensed_since_ms = start_ms
        self.truths[name] = truth
        self.books[name] = self._bookkeeper(site.plant)
        shadow = Plant(demo.kit.plan, seed, start_ms, jobs={demo.partition: demo.jobs(start_ms)})
        fit_always_on(shadow)
        self.always_on[name] = (shadow, self._bookkeeper(shadow))
        self._tasks += [
            asyncio.create_task(self._run_plant(site), name=f"{name} plant"),
            asyncio.create_task(agent.run(), name=f"{name} agent"),
        ]

    def _bookkeeper(self, plant: Plant) -> Bookkeeper:
        feeds = self.controller.feeds
        return Bookkeeper(
            plant,
            lambda at_ms: _at(self.prices, at_ms),
            lambda at_ms: feeds.hashprices["btc"].hashprice_at(at_ms).usd_per_ph_day or 0.0,
        )

    async def _run_plant(self, site: SimSite) -> None:
        """The physics, its money, and beside it the same site without price response."""
        name = site.kit.plan.id
        shadow, shadow_book = self.always_on[name]
        while True:
            now_ms = self.clock.wall_ms()
            for plant, book in ((site.plant, self.books[name]), (shadow, shadow_book)):
                plant.advance_to(now_ms)
                book.book()
            await asyncio.sleep(PLANT_EVERY_S)

    async def _check(self) -> None:
        """Show the checkers what is true, a few times a wall second, and tell what they find."""
        told, found = Told(), 0
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            now_ms = self.clock.wall_ms()
            told.follow(self.controller, self.truths, now_ms)
            for name, truth in self.truths.items():
                linked = self.controller.bus.connected and self.agents[name].bus.connected
                truth.linked_since_ms = (truth.linked_since_ms or now_ms) if linked else None
                truth.price_age_ms = self.controller.freezer.energy(name, now_ms).age_ms
                truth.step()
            self.suite.observe(RecordedWorld(now_ms, self.truths, self.recorder.drain(), None))
            for violation in self.suite.violations[found:]:
                self.say("violation", violation.site, str(violation), {"invariant": violation.invariant})
            found = len(self.suite.violations)

    async def _stop(self) -> None:
        for task in reversed(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    def say(self, kind: str, site: str | None, text: str, data: dict[str, Any] | None = None) -> None:
        self.tell(DemoEvent(kind, site, self.clock.wall_ms(), text, data or {}))


def fit_always_on(plant: Plant) -> None:
    """Leave as many machines on as the main breaker carries beside a full partition, the most efficient first: a site
    that hashes whatever the price."""
    plan = plant.plan
    left_w = plan.main.limit_w * 0.99 - plan.base_load_w - 1.07 * sum(part.rated_w for part in plan.partitions)
    for bank in sorted(plan.banks, key=lambda bank: bank.model.rated_w / bank.model.hashrate_ghs):
        for machine in plant.machines(bank.id):
            left_w -= 1.07 * bank.model.rated_w
            if left_w < 0.0:
                machine.sleep()


def _at(prices: SeriesTable, at_ms: int) -> float | None:
    """The price of the interval that holds a moment."""
    index = prices.last_known(at_ms)
    if index is None or at_ms >= int(prices.start_ms[index]) + prices.interval_ms:
        return None
    return float(prices.values[index])


def _weather(path: Path) -> Callable[[int], Ambient]:
    dry, dew = (load_series(path, column=column) for column in ("temperature_c", "dew_point_c"))
    readings = list(zip(dry.values.tolist(), dew.values.tolist(), strict=True))
    return series(int(dry.start_ms[0]), MS_PER_HOUR, readings)


async def _serve_somewhere(controller: Controller, token: str, config: ControllerConfig) -> tuple[web.AppRunner, int]:
    """On the usual port, or on a free one where that is taken."""
    try:
        return await serve(controller, token)
    except OSError:
        http = config.http.model_copy(update={"listen": "127.0.0.1:0"})
        controller.config = config.model_copy(update={"http": http})
        return await serve(controller, token)
