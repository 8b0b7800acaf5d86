"""The seams joined in virtual time: real drivers, over the network in memory, to simulated devices, to the plant."""

from __future__ import annotations

import asyncio

from agent.drivers.base import Applied, Curtailable, DeviceState, MeterReading, MinerReading
from agent.drivers.meters import REGISTRY as METERS
from agent.drivers.meters.modbus import PROFILES
from agent.drivers.meters.profile import load_profile
from agent.drivers.miners import REGISTRY as MINERS
from sim.clock import LoopClock
from sim.devices.farm import DeviceSpec, Farm
from sim.devices.modbus import ModbusMeterServer
from sim.plant import S21, BankPlan, FeederPlan, Plant, SitePlan, air_hall
from sim.virtual import run_virtual, virtual_loop

EPOCH_MS = 1_700_000_000_000
PLAN = SitePlan(
    "west",
    (FeederPlan("main", None, 500_000.0),),
    (air_hall("hall", "main", 280_000.0),),
    (BankPlan("lux", "main", "hall", S21, 40), BankPlan("bra", "main", "hall", S21, 40)),
)


async def shed_and_restore() -> list[float]:
    """Read eighty machines, stop them, wake them; the meter is read before, at the bottom and after."""
    clock = LoopClock(EPOCH_MS)
    plant = Plant(PLAN, 3, clock.wall_ms())
    farm = Farm(clock)
    specs = [DeviceSpec("luxos", one, f"10.0.0.{n + 1}", 4028) for n, one in enumerate(plant.machines("lux"))]
    specs += [DeviceSpec("braiins", one, f"10.0.1.{n + 1}", 4028) for n, one in enumerate(plant.machines("bra"))]
    where = await farm.start(specs)
    profile = load_profile(PROFILES, "abb_b23_b24")
    gauge = ModbusMeterServer(profile, lambda: plant.meter("main"))
    gauge_port = await gauge.start("10.0.9.1", 502)

    async def tick() -> None:
        while True:
            await clock.sleep_ms(250)
            plant.advance_to(clock.wall_ms())

    ticking = asyncio.create_task(tick())
    makers = [MINERS["luxos"]] * 40 + [MINERS["braiins"]] * 40
    miners = [make(host, port, {}, clock=clock) for make, (host, port) in zip(makers, where, strict=True)]
    switches = [miner for miner in miners if isinstance(miner, Curtailable)]
    meter = METERS["abb_b23_b24"]("10.0.9.1", gauge_port, 1, {}, deadline_s=2.0, clock=clock)
    shown: list[float] = []

    async def note() -> None:
        reading = await meter.read()
        assert isinstance(reading, MeterReading)
        assert reading.power_w is not None
        assert abs(reading.power_w - plant.main_power_w) < 0.001 * plant.main_power_w
        shown.append(reading.power_w)

    readings = await asyncio.gather(*(miner.read() for miner in miners))
    assert all(isinstance(one, MinerReading) and one.state is DeviceState.RUNNING for one in readings)
    await note()
    assert len(switches) == 80
    assert {type(done) for done in await asyncio.gather(*(one.stop() for one in switches))} == {Applied}
    await clock.sleep_ms(8_000)
    await note()
    assert {type(done) for done in await asyncio.gather(*(one.resume() for one in switches))} == {Applied}
    await clock.sleep_ms(120_000)
    await note()
    shown.append(virtual_loop().time())
    ticking.cancel()
    await asyncio.gather(*(miner.close() for miner in miners), meter.close())
    await farm.stop()
    await gauge.stop()
    return shown


def test_a_shed_over_the_wire_is_seen_at_the_meter_and_is_the_same_each_time() -> None:
    before, bottom, after, took_s = first = run_virtual(shed_and_restore(), seed=5)
    assert 280_000 < before < 300_000
    assert bottom < 0.05 * before
    assert after > 0.97 * before
    assert 128 < took_s < 150
    assert run_virtual(shed_and_restore(), seed=5) == first
