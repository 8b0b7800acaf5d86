"""Carries out the faults of a schedule on a running world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from sim.devices.modbus import MeterFault, MeterFaultKind
from sim.faults import Edge, Fault, FaultKind, strike
from sim.membus import LinkQuality

if TYPE_CHECKING:
    from sim.simulation.run import Simulation

METERS: Final = frozenset({FaultKind.METER_FROZEN, FaultKind.METER_OFFSET, FaultKind.SENSOR_LOST})
LOSSY: Final = frozenset({FaultKind.LINK_LOSS, FaultKind.REPORT_DROP})


class Blows:
    """Knows which faults are in force, and turns each on and off."""

    def __init__(self, world: Simulation) -> None:
        self._world = world
        self.open: list[Fault] = []
        self._clock_of: dict[Fault, str] = {}
        """The controller whose clock a jump has put off."""

    def any(self, kinds: frozenset[FaultKind], site: str) -> bool:
        """Whether a fault of these kinds is in force on a site."""
        return any(fault.kind in kinds and fault.site == site for fault in self.open)

    async def strike(self, edge: Edge) -> None:
        """One edge."""
        fault, begins = edge.fault, edge.begins
        if begins:
            self.open.append(fault)
        else:
            self.open.remove(fault)
        site = self._world.sites.get(fault.site or "")
        if site is not None and strike(site.plant, fault, begins=begins):
            return
        await self._carry_out(fault, begins)

    async def _carry_out(self, fault: Fault, begins: bool) -> None:
        world, broker = self._world, self._world.broker
        name = fault.site or ""
        match fault.kind:
            case FaultKind.METER_FROZEN | FaultKind.METER_OFFSET | FaultKind.SENSOR_LOST:
                self._meter(fault, begins)
            case FaultKind.LINK_CUT:
                (broker.cut if begins else self._heal)(world.agents[name].link)
            case FaultKind.LINK_DELAY | FaultKind.LINK_LOSS:
                broker.set_quality(world.agents[name].link, _quality(fault) if begins else LinkQuality())
            case FaultKind.REPORT_DROP:
                world.agents[name].report_loss = fault.amount if begins else 0.0
            case FaultKind.BROKER_DOWN:
                broker.stop(keep_retained=round(fault.begins_ms) % 2 == 0) if begins else broker.start()
            case FaultKind.CONTROLLER_CRASH:
                await (world.kill_leader() if begins else world.start_leader())
            case FaultKind.STALE_TWIN:
                await (world.depose_leader() if begins else world.return_deposed())
            case FaultKind.AGENT_CRASH:
                await self._agent(name, begins)
            case FaultKind.PRICE_GAP:
                world.market.silent_since_ms = world.now_ms if begins else None
            case FaultKind.CLOCK_JUMP:
                self._clock(fault, begins)
            case FaultKind.DEVICE | FaultKind.DEVICE_DEAD | FaultKind.HEAT_WAVE | FaultKind.FAN_FAILURE:
                raise AssertionError(f"{fault.kind} is the plant's own")
            case _:
                assert_never(fault.kind)

    async def _agent(self, name: str, begins: bool) -> None:
        process = self._world.agents[name]
        if begins:
            await process.kill()
        else:
            process.start()
            if self.any(frozenset({FaultKind.LINK_CUT}), name):
                self._world.broker.cut(process.link)

    def _heal(self, link: str) -> None:
        """A line is whole again; one whose process is down stays dead."""
        if all(process.link != link or process.agent is not None for process in self._world.agents.values()):
            self._world.broker.heal(link)

    def _meter(self, fault: Fault, begins: bool) -> None:
        site, target = self._world.sites[fault.site or ""], fault.target or ""
        faults = site.sensor_faults if fault.kind is FaultKind.SENSOR_LOST else site.meter_faults
        if not begins:
            faults.pop(target, None)
            return
        match fault.kind:
            case FaultKind.METER_FROZEN:
                faults[target] = MeterFault(MeterFaultKind.FROZEN)
            case FaultKind.METER_OFFSET:
                limit_w = next(each.limit_w for each in site.plant.plan.feeders if each.id == target)
                faults[target] = MeterFault(MeterFaultKind.SKEWED, offset_w=fault.amount * limit_w)
            case _:
                faults[target] = MeterFault(MeterFaultKind.HANG)

    def _clock(self, fault: Fault, begins: bool) -> None:
        delta_ms = round(fault.amount)
        if fault.target == "agent":
            self._world.agents[fault.site or ""].shift_clock(delta_ms if begins else -delta_ms)
            return
        if begins and self._world.leader is not None:
            self._clock_of[fault] = self._world.leader.name
            self._world.leader.shift_clock(delta_ms)
        elif not begins and (name := self._clock_of.pop(fault, None)) is not None:
            for process in self._world.controllers:
                if process.name == name:
                    process.shift_clock(-delta_ms)


def _quality(fault: Fault) -> LinkQuality:
    if fault.kind is FaultKind.LINK_DELAY:
        return LinkQuality(delay_ms=(0.3 * fault.amount, fault.amount))
    share = fault.amount
    return LinkQuality(loss=share, duplicate=share / 2, reorder=share / 2)
