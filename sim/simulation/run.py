"""One simulated world, run from its beginning to its end in virtual time under the eyes of all checkers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final

from agent.compiled import nameplate
from agent.site import SiteAgent
from contract.messages import Workload
from controller.asks import Rejected
from controller.dispatch import Decide
from controller.engine.decide import decide
from controller.engine.model import HashPrice
from controller.feeds.base import Feeds
from controller.feeds.hashprice import GivenHashPrice
from controller.journal.memory import MemoryJournal
from controller.overrides import OverrideAsk
from controller.signals import SignalAsk
from sim.checkers import (
    Allowances,
    DecisionMade,
    DeviceCommanded,
    Event,
    OracleDecided,
    PlantTruth,
    ReceiptSent,
    Suite,
)
from sim.clock import LoopClock
from sim.faults import Fault, edges
from sim.membus import MemoryBroker
from sim.recorder import RecordedWorld, Recorder
from sim.simulation.asks import Ask
from sim.simulation.blows import LOSSY, METERS, Blows
from sim.simulation.daemons import HASHPRICE, PRICE, AgentProcess, ControllerProcess
from sim.simulation.market import Market
from sim.simulation.oracle import oracle
from sim.simulation.outcome import Outcome, Tally
from sim.simulation.scene import Options, Scene, draw
from sim.simulation.truths import Imposed, Service
from sim.site import SimSite
from sim.virtual import run_virtual

STEP_MS: Final = 1_000
"""Between two looks of the checkers."""
PERMUTE_EVERY: Final = 4
"""One decision in so many is decided again on a shuffled snapshot, the costliest check."""
SLACK_S: Final = 600.0

Trace = Callable[[int, str], None]
"""Told what happens: true site time, and a sentence."""


def simulate(
    options: Options | Scene,
    *,
    allow: Allowances | None = None,
    trace: Trace | None = None,
    decides: Decide = decide,
) -> Outcome:
    """Run one seed, or a scene made by hand, and say what came of it. Raises what a daemon raises.

    `decides` is what the controllers decide with; the checkers and the oracle have the engine's own.
    """
    scene = draw(options) if isinstance(options, Options) else options
    limit_s = (scene.end_ms - scene.begin_ms) / 1_000 + SLACK_S

    async def main() -> Outcome:
        async with Simulation(scene, allow=allow, trace=trace, decides=decides) as world:
            await world.run()
            return world.finish()

    return run_virtual(main(), seed=scene.seed, limit_s=limit_s)


class Simulation:
    """A world on the running virtual loop. Enter it, `run` it, `finish` it; a test may do things in between."""

    def __init__(
        self,
        scene: Scene,
        *,
        allow: Allowances | None = None,
        trace: Trace | None = None,
        decides: Decide = decide,
    ) -> None:
        self.scene = scene
        self._decides = decides
        self.rng = Random(scene.seed)
        self.outcome = Outcome(scene.seed, scene.begin_ms, scene.end_ms, tuple(s.kit.plan.id for s in scene.sites))
        self.suite = Suite(decide, scene.seed, allow, permute_every=PERMUTE_EVERY)
        self.journal = MemoryJournal(decisions_max=2_000, records_max=2_000)
        self.imposed = Imposed()
        self.sites: dict[str, SimSite] = {}
        self.agents: dict[str, AgentProcess] = {}
        self.truths: dict[str, PlantTruth] = {}
        self.controllers: list[ControllerProcess] = []
        """Alive, the newest last."""
        self.leader: ControllerProcess | None = None
        self.deposed: ControllerProcess | None = None
        """A leader that was replaced while it was away."""
        self._trace = trace
        self._words: dict[str, str] = {}
        self._tally = Tally(self.outcome)
        self._services: dict[str, Service] = {}
        self._started = 0
        self._on_since: dict[tuple[str, str], tuple[bool, int]] = {}
        self._edges = edges(scene.faults)
        self._asks: list[Ask] = []
        self._lifts: list[tuple[int, Ask]] = []
        self._found = 0

    @property
    def now_ms(self) -> int:
        """True site time."""
        return self.clock.wall_ms()

    # -- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Simulation:
        self.clock = LoopClock(self.scene.begin_ms)
        self.recorder = Recorder(self.clock.wall_ms)
        self.broker = MemoryBroker(Random(self.rng.getrandbits(64)))
        self.market = Market(self.scene.prices, self.clock.wall_ms)
        self.blows = Blows(self)
        for place in range(len(self.scene.sites)):
            await self._build(place)
        await self.start_leader()
        for process in self.agents.values():
            process.start()
        self._asks = list(self.scene.asks)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for process in self.agents.values():
            await process.stop()
        for controller in list(self.controllers):
            await controller.kill()
        for site in self.sites.values():
            await site.stop()

    async def run(self, until_ms: int | None = None) -> None:
        """Until a moment, or the end of the scene. May be called again to go on."""
        end_ms, todo = self.scene.end_ms if until_ms is None else until_ms, self._edges
        while self.now_ms < end_ms:
            due_ms = self.now_ms - self.now_ms % STEP_MS + STEP_MS
            while todo and todo[0].at_ms <= due_ms:
                edge = todo.pop(0)
                await self._until(edge.at_ms)
                self.look()
                self._say(f"{'begins' if edge.begins else 'ends'}: {_named(edge.fault)}")
                await self.blows.strike(edge)
                if edge.begins:
                    self.outcome.faults += (edge.fault,)
                self.look()
            await self._until(due_ms)
            self._ask()
            self.look()

    def finish(self) -> Outcome:
        """The outcome so far."""
        self._tally.close()
        self.outcome.violations = self.suite.violations
        return self.outcome

    def look(self) -> None:
        """Advance the physics to this moment and show everything to the checkers."""
        now_ms = self.now_ms
        for name, site in self.sites.items():
            site.plant.advance_to(now_ms)
            self._state(name, now_ms)
        events = self.recorder.drain()
        for name in self.sites:
            events += self._oracles(name, [event for event in events if isinstance(event, DecisionMade)], now_ms)
        healed_ms = self.scene.healed_ms if now_ms >= self.scene.healed_ms else None
        self._narrate(events)
        self._tally.take(events)
        self.suite.observe(RecordedWorld(now_ms, self.truths, events, healed_ms))
        for process in self.agents.values():
            process.check()
        for controller in self.controllers:
            controller.check()
        self._tell_violations()

    # -- for the faults ----------------------------------------------------------------------------------------------

    async def start_leader(self) -> None:
        """Start a controller with a new epoch; it leads from now on."""
        self._started += 1
        feeds = Feeds(
            prices={PRICE: self.market.feed(PRICE)},
            hashprices={HASHPRICE: GivenHashPrice(HASHPRICE, self.scene.hashprice_usd_per_ph_day)},
        )
        rng = Random(self.rng.getrandbits(64))
        process = ControllerProcess(
            self.scene,
            self._started,
            self.broker,
            self.journal,
            self.recorder,
            feeds,
            rng,
            self._leads,
            self._decides,
        )
        self.controllers.append(process)
        self.leader = process
        await asyncio.sleep(0)

    async def kill_leader(self) -> None:
        """End the leader without a word."""
        process, self.leader = self.leader, None
        if process is not None:
            self.controllers.remove(process)
            await process.kill()

    async def depose_leader(self) -> None:
        """Cut the leader off and have another take over."""
        if self.deposed is not None:
            self.controllers.remove(self.deposed)
            await self.deposed.kill()
        self.deposed = self.leader
        if self.deposed is not None:
            self.broker.cut(self.deposed.link)
        await self.start_leader()

    async def return_deposed(self) -> None:
        """The one that was cut off is back, and knows nothing of the other."""
        if self.deposed is not None:
            self.broker.heal(self.deposed.link)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _build(self, place: int) -> None:
        scene = self.scene.sites[place]
        name = scene.kit.plan.id
        site = SimSite(
            scene.kit,
            seed=self.scene.seed * 1_000 + place,
            clock=self.clock,
            jobs={part.id: scene.jobs(self.scene.begin_ms) for part in scene.kit.plan.partitions},
            slurm_socket=lambda part: f"/run/{name}-{part}.sock",
            grain_ms=STEP_MS // 2,
        )
        await site.start()
        self.sites[name] = site
        process = AgentProcess(scene, site, self.broker, self.recorder, Random(self.rng.getrandbits(64)))
        self.agents[name] = process
        plate = nameplate(process.config(), "truth")
        self.recorder.tap_plant(name, site.plant)
        self.truths[name] = PlantTruth(site.plant, plate, inlet_limits_c=dict(scene.kit.max_inlet_c))
        self._services[name] = Service()

    def _leads(self, process: ControllerProcess) -> bool:
        return process is self.leader

    async def _until(self, at_ms: int) -> None:
        await self.clock.sleep_ms(at_ms - self.now_ms)

    def _state(self, name: str, now_ms: int) -> None:
        """Bring one site's truth up to date."""
        truth, process, service, leader = self.truths[name], self.agents[name], self._services[name], self.leader
        agent = process.agent
        clock_true = leader is None or leader.off_ms == 0
        linked = (
            agent is not None
            and leader is not None
            and clock_true
            and agent.bus.connected
            and leader.controller.bus.connected
            and self.broker.reaches(process.link)
            and self.broker.reaches(leader.link)
            and not self.blows.any(LOSSY, name)
        )
        service.look(now_ms, agent=agent is not None, linked=linked, sensed=not self.blows.any(METERS, name))
        truth.agent_since_ms, truth.linked_since_ms = service.agent_ms, service.linked_ms
        truth.sensed_since_ms = service.sensed_ms
        truth.price_age_ms = self.market.age_ms if clock_true else 0
        self.imposed.apply(truth, now_ms)
        if not clock_true:
            self.imposed.hide(truth)
        truth.step()
        plant = self.sites[name].plant
        for bank in truth.plate.banks:
            runs = bank.workload is Workload.HPC or bool(plant.fleet.wanted[plant.rows(bank.id)].any())
            before, since_ms = self._on_since.get((name, bank.id), (runs, self.scene.begin_ms - 86_400_000))
            self._on_since[name, bank.id] = (runs, since_ms if runs == before else now_ms)
            could_w = bank.rated_w if bank.workload is Workload.HASH else 0
            missing_w = max(could_w - plant.bank_power_w(bank.id), 0.0)
            self.outcome.curtailed_mwh += missing_w * STEP_MS / 3.6e12

    def _oracles(self, name: str, made: list[DecisionMade], now_ms: int) -> list[OracleDecided]:
        """What ought to have been decided, beside what was."""
        mine = [each for each in made if each.leading and each.frozen.sites[0].site == name]
        if not mine or now_ms < self.scene.healed_ms:
            return []
        on_for_ms = {bank: now_ms - since for (site, bank), (_, since) in self._on_since.items() if site == name}
        told = oracle(
            mine[-1],
            self.truths[name].plate,
            self.sites[name].plant,
            now_ms=now_ms,
            energy=self.market.known(now_ms),
            hashprice=HashPrice(usd_per_ph_day=self.scene.hashprice_usd_per_ph_day, age_ms=0, feed=HASHPRICE),
            asked=self.imposed.in_force(name, now_ms),
            on_for_ms=on_for_ms,
        )
        self.outcome.oracles += 1
        return [told]

    def _ask(self) -> None:
        """Ask what is due, of a leader that is there and knows the time; else again at the next step."""
        leader = self.leader
        if leader is None or leader.off_ms or not leader.controller.checks()[0].ok:
            return
        for ask in [ask for ask in self._asks if ask.at_ms <= self.now_ms]:
            if self._put(leader, ask):
                self._asks.remove(ask)
        for lift_ms, ask in [each for each in self._lifts if each[0] <= self.now_ms]:
            self._lifts.remove((lift_ms, ask))
            self._take_back(leader, str(ask.what.id))

    def _put(self, leader: ControllerProcess, ask: Ask) -> bool:
        """Whether the ask is dealt with: taken, or refused for good."""
        self.look()
        if isinstance(ask.what, SignalAsk):
            signalled = leader.controller.signal(ask.what)
            if isinstance(signalled, Rejected):
                return self._refused(signalled, ask)
            obligation = signalled.accepted.obligation
            self.imposed.obligations[obligation.id] = obligation
            text = f"at most {obligation.target_w} W"
        else:
            imposed = leader.controller.impose(ask.what)
            if isinstance(imposed, Rejected):
                return self._refused(imposed, ask)
            self.imposed.overrides[imposed.override.id] = imposed.override
            text = f"{imposed.override.kind} {imposed.override.value_w or ''}"
        self.outcome.asks_taken += 1
        self._say(f"asked: {text} ({ask.what})")
        if ask.lift_ms is not None:
            self._lifts.append((ask.lift_ms, ask))
        self.look()
        return True

    def _refused(self, why: Rejected, ask: Ask) -> bool:
        """A site not yet known is asked for again; anything else is a wrong ask."""
        self._say(f"refused: {why} ({ask.what})")
        return why.kind not in {"unknown", "conflict"}

    def _take_back(self, leader: ControllerProcess, key: str) -> None:
        self.look()
        if self.imposed.obligations.pop(key, None) is not None:
            leader.controller.withdraw_signal(key)
        if self.imposed.overrides.pop(key, None) is not None:
            leader.controller.lift_override(key)
        self._say(f"taken back: {key}")
        self.look()

    def _narrate(self, events: list[Event]) -> None:
        """What a trace tells besides faults and asks."""
        if self._trace is None:
            return
        told: Counter[str] = Counter()
        for event in events:
            if isinstance(event, DeviceCommanded):
                told[f"{event.site} {event.bank} {'raised' if event.raises else 'lowered'}"] += 1
            elif isinstance(event, DecisionMade):
                for site in event.decided.sites:
                    banks = ", ".join(f"{bank.bank} {bank.target_w} ({bank.reason})" for bank in site.banks)
                    short = "".join(f"; short {each.short_w} of {each.id}" for each in site.shortfalls)
                    self._say(f"{event.controller} {event.id}{'' if event.leading else ' (stale)'}: {banks}{short}")
            elif isinstance(event, ReceiptSent) and not event.receipt.accepted:
                receipt = event.receipt
                self._say(f"{receipt.site} refuses {receipt.epoch}/{receipt.order_seq}: {receipt.reason}")
        for text, count in told.items():
            self._say(f"told: {text} x{count}")
        for name, process in self.agents.items():
            self._narrate_agent(name, process.agent)

    def _narrate_agent(self, name: str, agent: SiteAgent | None) -> None:
        words = "down"
        if agent is not None:
            banks = zip(agent.plan.banks, agent.verdict.banks, strict=True)
            held = ", ".join(
                f"{bank.id} {hold.setpoint_w}{f' ({hold.why})' if hold.why else ''}" for bank, hold in banks
            )
            words = f"{agent.mode}: {held}"
        if self._words.get(name) != words:
            self._words[name] = words
            plant = self.sites[name].plant
            power = ", ".join(f"{bank.id} {plant.bank_power_w(bank.id):.0f}" for bank in self.truths[name].plate.banks)
            self._say(f"{name} holds {words}; true {power}; main {plant.main_power_w:.0f}")

    def _tell_violations(self) -> None:
        count = self.suite.count
        if count != self._found:
            self._found = count
            for violation in self.suite.violations:
                if violation.at_ms >= self.now_ms - 2 * STEP_MS:
                    self._say(f"VIOLATION: {violation}")

    def _say(self, text: str) -> None:
        if self._trace is not None:
            self._trace(self.now_ms, text)


def _named(fault: Fault) -> str:
    where = " ".join(str(each) for each in (fault.site, fault.target, fault.device) if each is not None)
    how = f" {fault.device_fault}" if fault.device_fault is not None else ""
    return f"{fault.kind}{how} {where} {fault.amount:.4g}"


__all__ = ["OverrideAsk", "Simulation", "Trace", "simulate"]
