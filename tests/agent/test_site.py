"""The whole agent on a simulated site, in virtual time, over the real drivers: it reports, obeys, and proves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from contract.messages import Mode, Order, ReceiptState, ShedStep, Source, encode
from contract.reasons import InterlockKind, ReceiptReason
from contract.topics import site_topic
from sim.devices.modbus import MeterFault, MeterFaultKind
from sim.partition import JobRefused
from sim.ports import AsicState, DeviceFault
from sim.virtual import run_virtual
from tests.agent.world import SITE, World, jobs, plan

FULL = {"hall-a": 61_000, "hall-b": 61_000, "gpu": 7_200}
NOTHING = {"hall-a": 0, "hall-b": 0, "gpu": 0}
Story = Callable[[World], Awaitable[None]]


def on_site(**options: Any) -> Callable[[Story], Callable[[], None]]:
    """Run a story on a site whose agent has reported once."""

    def wrap(story: Story) -> Callable[[], None]:
        async def whole() -> None:
            async with World(**options) as world:
                world.start_agent()
                await world.until(lambda: world.hand.reports)
                await story(world)

        def test() -> None:
            run_virtual(whole(), limit_s=36_000)

        test.__name__, test.__doc__ = story.__name__, story.__doc__
        return test

    return wrap


async def settled(
    world: World, order: Order, state: ReceiptState = ReceiptState.CONFIRMED, within_s: float = 200
) -> None:
    await world.until(lambda: set(world.hand.states(order).values()) == {state}, within_s)


# reports


@on_site(job_list=jobs(3))
async def test_one_report_a_tick_says_everything_with_its_age(world: World) -> None:
    await asyncio.sleep(60)
    before = len(world.hand.reports)
    await asyncio.sleep(50)
    assert len(world.hand.reports) - before == 10
    report = world.hand.reports[-1]
    assert [bank.id for bank in report.banks] == ["hall-a", "hall-b", "gpu"]
    assert report.mode is Mode.SAFE, "nobody has ordered anything"
    assert [one.seq for one in world.hand.reports] == list(range(len(world.hand.reports)))
    for bank in report.banks:
        assert bank.source is Source.METER
        assert bank.age_ms is not None
        assert bank.age_ms <= 2_000
        assert bank.power_w == pytest.approx(world.power_w(bank.id), rel=0.02, abs=150)
    assert report.partitions[0].nodes_up == 8
    assert world.hand.plates[-1].boot == report.boot
    assert world.hand.statuses[-1].online


@on_site()
async def test_while_an_obligation_is_open_a_report_comes_every_second(world: World) -> None:
    world.hand.tell(FULL, obligation="event-1")
    await asyncio.sleep(3)
    before = len(world.hand.reports)
    await asyncio.sleep(20)
    assert len(world.hand.reports) - before >= 19


@on_site(firmware="luxos")
async def test_hung_devices_do_not_delay_the_report(world: World) -> None:
    for device in range(20):
        world.plant.set_fault("hall-a", device, DeviceFault.HANG)
    before = len(world.hand.reports)
    await asyncio.sleep(60)
    sent = [report.sent_at_ms for report in world.hand.reports[before:]]
    assert len(sent) >= 11
    assert max(later - earlier for earlier, later in pairwise(sent)) <= 5_100
    counts = world.hand.reports[-1].banks[0].devices
    assert (counts.unreachable, counts.running) == (20, 0)
    assert world.hand.reports[-1].banks[0].power_w is not None, "the meter still knows"


# orders


@on_site(firmware="luxos")
async def test_an_order_acts_at_once_and_is_confirmed_by_the_meter(world: World) -> None:
    await settled(world, world.hand.tell(FULL))
    seq = world.site.log.seq
    order = world.hand.tell(NOTHING, urgent=True)
    await world.until(lambda: world.site.log.seq > seq, 0.2)
    await settled(world, order, within_s=30)
    receipt = world.hand.answer(order)
    assert receipt is not None
    assert receipt.first_action_ms is not None
    assert receipt.first_action_ms <= 2
    assert {bank.source for bank in receipt.banks} == {Source.METER}
    assert world.power_w("hall-a") < 2_000
    assert all(machine.state is AsicState.SLEEPING for machine in world.plant.machines("hall-a"))


@on_site()
async def test_a_part_load_stops_as_many_as_needed_and_a_later_one_brings_them_back(world: World) -> None:
    def state(bank: str) -> int:
        return sum(machine.state is AsicState.RUNNING for machine in world.plant.machines(bank))

    await settled(world, world.hand.tell(FULL | {"hall-a": 31_000}))
    assert state("hall-a") == 10
    assert world.power_w("hall-a") <= 31_000 * 1.02
    await settled(world, world.hand.tell(FULL))
    await world.until(lambda: state("hall-a") == 20, 100)


@on_site(firmware="luxos")
async def test_a_part_load_is_spread_over_all_where_the_firmware_can_be_limited(world: World) -> None:
    await settled(world, world.hand.tell(FULL | {"hall-a": 50_000}))
    machines = world.plant.machines("hall-a")
    assert all(machine.state is AsicState.RUNNING for machine in machines)
    assert world.power_w("hall-a") <= 50_000 * 1.05


@on_site()
async def test_only_a_newer_order_of_a_known_report_acts(world: World) -> None:
    """Late, duplicated, out of order, of an older epoch, of another boot, expired, malformed, oversized, too new."""
    hand = world.hand
    hand.epoch = 5
    old = hand.order(NOTHING)
    expired = hand.order(NOTHING, valid_for_ms=1)
    now = hand.tell(FULL)
    await settled(world, now)
    wrong: list[tuple[Order, ReceiptReason]] = [
        (old, ReceiptReason.SEQ_OLD),
        (expired, ReceiptReason.SEQ_OLD),
        (hand.order(NOTHING, epoch=4), ReceiptReason.EPOCH_OLD),
        (hand.order(NOTHING, based_on_boot="another"), ReceiptReason.BASIS_UNKNOWN),
        (hand.order(NOTHING, based_on_seq=10**6), ReceiptReason.BASIS_UNKNOWN),
        (hand.order(NOTHING, valid_for_ms=1), ReceiptReason.LEASE_EXPIRED),
    ]
    for order, reason in wrong:
        hand.send(order)
        await asyncio.sleep(0.1)
        receipt = hand.receipts[-1]
        assert (receipt.accepted, receipt.reason) == (False, reason)
    count = len(hand.receipts)
    hand.send(now)
    await asyncio.sleep(0.1)
    assert len(hand.receipts) == count + 1
    assert hand.receipts[-1].accepted, "a repeat is answered with the receipt as it stands"
    topic = site_topic(SITE, "order")
    good = encode(hand.order(NOTHING))
    for bad in (b"", b"{", good[:-9], good.replace(b'"schema_version":1', b'"schema_version":2'), b" " * 1_100_000):
        assert hand.bus.publish(topic, bad)
    await asyncio.sleep(0.5)
    agent = world.agents[0]
    refused = {outcome: count for (what, outcome), count in agent.events.items() if what == "message"}
    assert refused == {"malformed": 3, "version": 1, "oversized": 1}
    assert agent.last_order == now
    assert dict(agent.setpoints) == FULL
    assert world.power_w("hall-a") > 55_000


@on_site()
async def test_a_bank_that_is_not_ours_is_refused_and_the_rest_obeyed(world: World) -> None:
    order = world.hand.tell(FULL | {"hall-z": 5})
    await asyncio.sleep(10)
    states = world.hand.states(order)
    assert states.pop("hall-z") is ReceiptState.REFUSED
    assert set(states.values()) == {ReceiptState.CONFIRMED}


# silence


@on_site(job_list=jobs(4, firm=1))
async def test_the_controller_gone_for_one_lease_leaves_every_bank_safe(world: World) -> None:
    """Hash banks stop, jobs that run go on, and no new one is let in: proven by the plant."""
    await settled(world, world.hand.tell(FULL, valid_for_ms=60_000))
    await asyncio.sleep(50)
    assert world.power_w("hall-a") > 55_000
    await asyncio.sleep(20)
    assert world.agents[0].mode is Mode.SAFE
    assert world.power_w("hall-a") < 2_000
    assert world.power_w("hall-b") < 2_000
    assert world.power_w("gpu") > 8 * 220 + 4 * 600
    assert not world.hand.reports[-1].partitions[0].admitting


@on_site()
async def test_a_broker_that_is_gone_is_silence_and_its_return_is_an_ordinary_day(world: World) -> None:
    await settled(world, world.hand.tell(FULL, valid_for_ms=60_000))
    world.broker.cut("agent")
    await asyncio.sleep(90)
    assert world.power_w("hall-a") < 2_000
    world.broker.heal("agent")
    seq = world.hand.reports[-1].seq
    await world.until(lambda: world.hand.reports[-1].seq > seq + 1)
    await settled(world, world.hand.tell(FULL))
    assert world.power_w("hall-a") > 55_000


@on_site()
async def test_a_device_that_comes_back_running_while_its_bank_is_down_is_stopped(world: World) -> None:
    await settled(world, world.hand.tell(FULL | {"hall-a": 0}))
    machine = world.plant.machine("hall-a", 3)
    machine.wake()
    assert machine.state is AsicState.BOOTING
    await world.until(lambda: machine.state is AsicState.SLEEPING, 30)
    assert world.plant.machine("hall-b", 3).state is AsicState.RUNNING


# proof


@on_site(firmware="luxos")
async def test_a_device_that_says_ok_and_does_nothing_is_not_believed(world: World) -> None:
    await settled(world, world.hand.tell(FULL))
    for device in range(20):
        world.plant.set_fault("hall-a", device, DeviceFault.OK_BUT_NOTHING)
    order = world.hand.tell(FULL | {"hall-a": 0})
    await asyncio.sleep(40)
    assert world.hand.states(order)["hall-a"] is ReceiptState.PARTIAL
    receipt = world.hand.answer(order)
    assert receipt is not None
    assert receipt.banks[0].reason is ReceiptReason.POWER_ABOVE_SETPOINT
    assert (receipt.banks[0].measured_w or 0) > 55_000
    for device in range(20):
        world.plant.set_fault("hall-a", device, None)
    await world.until(lambda: world.hand.states(order)["hall-a"] is ReceiptState.CONFIRMED, 100)


@on_site(firmware="luxos")
async def test_a_device_that_says_no_and_does_it_is_confirmed_by_power(world: World) -> None:
    await settled(world, world.hand.tell(FULL))
    for device in range(20):
        world.plant.set_fault("hall-a", device, DeviceFault.NO_BUT_DOES)
    await settled(world, world.hand.tell(FULL | {"hall-a": 0}), within_s=60)


@on_site(firmware="luxos")
async def test_devices_that_hang_are_unreachable_and_shed_when_they_return(world: World) -> None:
    await settled(world, world.hand.tell(FULL))
    for device in range(20):
        world.plant.set_fault("hall-a", device, DeviceFault.HANG)
    order = world.hand.tell(FULL | {"hall-a": 0})
    await asyncio.sleep(45)
    assert world.hand.states(order)["hall-a"] is ReceiptState.UNREACHABLE
    assert world.hand.states(order)["hall-b"] is ReceiptState.CONFIRMED
    for device in range(20):
        world.plant.set_fault("hall-a", device, None)
    await world.until(lambda: world.hand.states(order)["hall-a"] is ReceiptState.CONFIRMED, 150)


@on_site(firmware="luxos")
async def test_a_frozen_meter_is_not_believed_and_raises_nothing(world: World) -> None:
    await settled(world, world.hand.tell(FULL))
    world.site.meter_faults["row-a"] = MeterFault(MeterFaultKind.FROZEN)
    await asyncio.sleep(30)
    order = world.hand.tell(FULL | {"hall-a": 0})
    await asyncio.sleep(60)
    bank = world.hand.reports[-1].banks[0]
    assert bank.source is not Source.METER
    assert (bank.power_w or 0) < 5_000
    assert world.hand.states(order)["hall-a"] is ReceiptState.CONFIRMED, "by the devices' own figures"
    world.hand.tell(FULL)
    await asyncio.sleep(20)
    assert world.agents[0].setpoints["hall-a"] == 0, "blind behind its meter, it is not raised"
    world.site.meter_faults.clear()
    await world.until(lambda: world.agents[0].setpoints["hall-a"] == 61_000)


@on_site(firmware="luxos")
async def test_a_meter_that_disagrees_with_the_miners_is_named(world: World) -> None:
    await settled(world, world.hand.tell(FULL))
    world.site.meter_faults["row-a"] = MeterFault(MeterFaultKind.SKEWED, scale=1.0, offset_w=9_000.0)
    order = world.hand.tell(FULL | {"hall-a": 0})
    await asyncio.sleep(25)
    receipt = world.hand.answer(order)
    assert receipt is not None
    assert (receipt.banks[0].state, receipt.banks[0].reason) == (ReceiptState.PARTIAL, ReceiptReason.METER_DISAGREES)


def _no_bank_meters(tables: dict[str, Any]) -> None:
    for feeder in ("row-a", "row-b", "main"):
        del tables["feeders"][feeder]["meter"]


@on_site(tables=_no_bank_meters, firmware="luxos")
async def test_without_a_meter_the_devices_own_estimates_prove_and_are_named(world: World) -> None:
    order = world.hand.tell(FULL | {"hall-a": 0})
    await settled(world, order, within_s=60)
    receipt = world.hand.answer(order)
    assert receipt is not None
    assert [bank.source for bank in receipt.banks] == [Source.DEVICES, Source.DEVICES, Source.METER]


@on_site()
async def test_a_bank_that_its_meter_shows_above_its_setpoint_is_brought_down_to_it(world: World) -> None:
    """Devices draw more than their figures on paper: the loop is closed over the bank's own meter."""
    world.site.meter_faults["row-a"] = MeterFault(MeterFaultKind.SKEWED, scale=1.2)
    order = world.hand.tell(FULL | {"hall-a": 31_000})
    await world.until(lambda: world.hand.states(order).get("hall-a") is ReceiptState.PARTIAL, 60)
    await world.until(lambda: world.hand.states(order).get("hall-a") is ReceiptState.CONFIRMED, 100)
    assert world.power_w("hall-a") * 1.2 <= 31_000 * 1.05


# local protection


def _low_chip_limit(tables: dict[str, Any]) -> None:
    tables["banks"]["hall-a"] |= {"max_chip_mc": 72_000, "cool_ms": 60_000}


def hot(plan_of: Any) -> Any:
    """The same site with hall fans that cannot carry the heat."""
    return replace(plan_of, halls=tuple(replace(hall, design_heat_w=hall.design_heat_w / 4) for hall in plan_of.halls))


@on_site(site_plan=hot(plan()), tables=_low_chip_limit, firmware="luxos")
async def test_an_overheated_bank_stops_with_no_controller_and_no_order_restarts_it(world: World) -> None:
    world.hand.tell(FULL, valid_for_ms=3_600_000)
    await world.until(lambda: world.agents[0].verdict.banks[0].interlocks, 900, every_s=1.0)
    await asyncio.sleep(20)
    assert world.power_w("hall-a") < 2_000
    world.hand.tell(FULL, urgent=True)
    await asyncio.sleep(5)
    assert world.agents[0].setpoints["hall-a"] == 0
    bank = world.hand.reports[-1].banks[0]
    assert bank.interlocks[0].kind is InterlockKind.OVER_TEMPERATURE
    assert world.hand.receipts[-1].banks[0].reason is ReceiptReason.INTERLOCK


@on_site()
async def test_a_person_on_site_takes_over_and_locks_out(world: World) -> None:
    agent = world.agents[0]
    await settled(world, world.hand.tell(FULL))
    agent.set_lockouts(frozenset({"hall-a"}))
    await asyncio.sleep(15)
    assert world.power_w("hall-a") < 2_000
    agent.set_local(local=True)
    world.plant.machine("hall-b", 0).sleep()
    await asyncio.sleep(60)
    assert world.plant.machine("hall-b", 0).state is AsicState.SLEEPING, "hands off"
    assert world.hand.reports[-1].mode is Mode.LOCAL
    order = world.hand.tell(NOTHING)
    await asyncio.sleep(1)
    receipt = world.hand.answer(order)
    assert receipt is not None
    assert (receipt.accepted, receipt.reason) == (False, ReceiptReason.LOCAL_MODE)
    agent.set_lockouts(frozenset())
    agent.set_local(local=False)
    await asyncio.sleep(6)
    await settled(world, world.hand.tell(FULL))


# HPC


def steps(*names: str, firm: tuple[str, ...] = ()) -> tuple[ShedStep, ...]:
    return tuple(ShedStep(bank="gpu", job=name, frees_w=680, firm=name in firm) for name in (*names, *firm))


def phases(world: World) -> dict[str, str]:
    return {run.spec.id: str(run.phase) for run in world.plant.partitions["gpu"].jobs}


@on_site(job_list=jobs(6, firm=2))
async def test_jobs_are_frozen_down_the_ladder_and_thawed_in_reverse(world: World) -> None:
    await asyncio.sleep(6)
    await settled(world, world.hand.tell(FULL))
    await settled(world, world.hand.tell(FULL | {"gpu": 1_760 + 4 * 680}, shed_ladder=steps("105", "103")))
    assert {name for name, phase in phases(world).items() if phase == "frozen"} == {"105", "103"}
    world.hand.tell(NOTHING, shed_ladder=steps("105", "103"), urgent=True, obligation="event-1")
    await asyncio.sleep(10)
    assert {name for name, phase in phases(world).items() if phase == "frozen"} == {"102", "103", "104", "105"}
    order = world.hand.tell(NOTHING, shed_ladder=steps("105", "103", firm=("101",)), urgent=True, obligation="event-1")
    await asyncio.sleep(10)
    assert {name for name, phase in phases(world).items() if phase == "running"} == {"100"}, "only the firm one marked"
    assert order.obligation is not None
    await settled(world, world.hand.tell(FULL | {"gpu": 7_200}))
    assert set(phases(world).values()) == {"running"}


@on_site(job_list=jobs(12))
async def test_no_job_starts_while_the_partition_is_held_down(world: World) -> None:
    await asyncio.sleep(6)
    world.hand.tell(FULL | {"gpu": 1_760})
    await asyncio.sleep(20)
    assert world.power_w("gpu") < 1_760 * 1.15
    assert "running" not in phases(world).values()
    assert list(phases(world).values()).count("pending") == 4


@on_site(job_list=jobs(4))
async def test_after_a_restart_the_agent_still_thaws_what_it_froze(world: World) -> None:
    await world.end_agent()
    agent = world.start_agent(state=world.agents[0].store)
    await world.until(lambda: world.hand.reports[-1].boot == agent.boot)
    await asyncio.sleep(6)
    world.hand.tell(FULL | {"gpu": 1_760})
    await asyncio.sleep(10)
    assert list(phases(world).values()).count("frozen") == 4
    await world.end_agent(crash=True)
    world.broker.heal("agent")
    again = world.start_agent(state=agent.store)
    await world.until(lambda: world.hand.reports[-1].boot == again.boot, 100)
    await settled(world, world.hand.tell(FULL))
    assert set(phases(world).values()) == {"running"}


@on_site(job_list=jobs(4))
async def test_a_thaw_that_the_scheduler_accepts_and_does_not_carry_out_is_given_again(world: World) -> None:
    await asyncio.sleep(6)
    world.hand.tell(FULL | {"gpu": 1_760})
    await asyncio.sleep(10)
    assert list(phases(world).values()).count("frozen") == 4
    partition = world.plant.partitions["gpu"]
    real, asked = partition.thaw, 0

    def lies_once(job: str) -> JobRefused | None:
        nonlocal asked
        asked += 1
        return None if asked <= 4 else real(job)

    partition.thaw = lies_once  # type: ignore[method-assign]
    world.hand.tell(FULL)
    await asyncio.sleep(60)
    assert asked > 4
    assert set(phases(world).values()) == {"running"}
