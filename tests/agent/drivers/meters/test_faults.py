"""Whatever a meter does, a read ends within its deadline with the right word for it, and never raises."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from agent.drivers.base import Failure, MeterReading, MissingExtraError, Unreachable
from agent.drivers.meters.modbus import ModbusMeter
from sim.devices.modbus import MeterFault, MeterFaultKind, ModbusMeterServer
from tests.agent.drivers.meters.plant import METERS, make_meter, meter_profile, power_w, until, wired

SHORT_S = 0.4
"""A deadline for reads that must miss it."""
SLACK_S = 3.0
"""What a busy machine may add to it."""


async def _fails(meter: object, deadline_s: float) -> Unreachable:
    assert isinstance(meter, ModbusMeter)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    reading = await meter.read()
    assert loop.time() - began_s < deadline_s + SLACK_S
    assert isinstance(reading, Unreachable), reading
    assert "127.0.0.1:" in reading.detail
    assert "unit 1" in reading.detail
    return reading


@pytest.mark.parametrize(
    ("fault", "failure", "said"),
    [
        (MeterFault(MeterFaultKind.HANG), Failure.TIMEOUT, "no answer within 0.4 s"),
        (MeterFault(MeterFaultKind.LATE, delay_s=30), Failure.TIMEOUT, "no answer within 0.4 s"),
        (MeterFault(MeterFaultKind.REFUSE), Failure.CLOSED, "closed by the other side"),
        (MeterFault(MeterFaultKind.GARBAGE), Failure.GARBAGE, "it answered transaction"),
        (MeterFault(MeterFaultKind.EXCEPTION, code=4), Failure.GARBAGE, "exception 4 (server device failure)"),
        (MeterFault(MeterFaultKind.EXCEPTION, code=2), Failure.GARBAGE, "exception 2 (illegal data address)"),
        (MeterFault(MeterFaultKind.EXCEPTION, code=10), Failure.CONNECT, "exception 10 (gateway path unavailable)"),
        (MeterFault(MeterFaultKind.EXCEPTION, code=11), Failure.TIMEOUT, "exception 11 (gateway target device failed"),
        (MeterFault(MeterFaultKind.EXCEPTION, code=99), Failure.GARBAGE, "exception 99 (unknown)"),
    ],
)
async def test_each_fault_has_its_own_word_and_passes_with_the_fault(
    fault: MeterFault, failure: Failure, said: str
) -> None:
    silent = fault.kind in (MeterFaultKind.HANG, MeterFaultKind.LATE)
    deadline_s = SHORT_S if silent else 10.0
    async with wired(deadline_s=deadline_s) as (plant, meter, _):
        plant.fault = fault
        reading = await _fails(meter, deadline_s)
        assert (reading.failure, said in reading.detail) == (failure, True), reading
        plant.fault = None
        await _recovers(meter)


async def _recovers(meter: object) -> None:
    """A short deadline may be missed by a busy machine, but not twenty times."""
    assert isinstance(meter, ModbusMeter)
    readings = []
    for _ in range(20):
        readings.append(await meter.read())
        if isinstance(readings[-1], MeterReading):
            return
    pytest.fail(f"did not recover: {readings[-1]}")


async def test_nobody_listening_is_a_failure_to_connect_found_before_the_deadline() -> None:
    async with wired() as (_, meter, server):
        await server.stop()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        reading = await meter.read()
        assert isinstance(reading, Unreachable)
        assert reading.failure is Failure.CONNECT
        assert loop.time() - began_s < 5, "three tries take a quarter of a second of its ten"


async def test_many_meters_behind_a_dead_gateway_share_the_news_that_it_is_dead() -> None:
    """Each alone would try three times; queueing, they would miss their deadlines and call it a timeout."""
    async with wired() as (_, _, server):
        await server.stop()
        meters = [make_meter(server.port, {"profile": "abb_b23_b24"}, unit_id=unit) for unit in range(1, 101)]
        readings = await asyncio.gather(*(meter.read() for meter in meters))
        assert {reading.failure for reading in readings if isinstance(reading, Unreachable)} == {Failure.CONNECT}
        assert not any(isinstance(reading, MeterReading) for reading in readings)


@pytest.mark.parametrize("profile", METERS)
async def test_not_a_value_is_unknown_or_declined_but_never_a_figure(profile: str) -> None:
    async with wired(profile) as (plant, meter, _):
        plant.fault = MeterFault(MeterFaultKind.NAN)
        reading = await meter.read()
        if isinstance(reading, Unreachable):  # a make without a sentinel answers an exception
            assert not any(spec.invalid for spec in meter_profile(profile).registers.values())
            assert reading.failure is Failure.GARBAGE
        else:
            assert reading == MeterReading(power_w=None)


async def test_a_frozen_meter_keeps_its_last_value_and_is_believed_by_the_driver() -> None:
    """Only someone who compares it with the miners can tell: see the receipts' `meter_disagrees`."""
    async with wired() as (plant, meter, _):
        plant.power_w = 5_000.0
        assert await power_w(meter) == 5_000
        plant.fault, plant.power_w = MeterFault(MeterFaultKind.FROZEN), 9_000.0
        assert [await power_w(meter) for _ in range(3)] == [5_000] * 3
        plant.fault = None
        assert await power_w(meter) == 9_000


async def test_a_skewed_meter_disagrees_by_what_it_is_told() -> None:
    async with wired() as (plant, meter, _):
        plant.power_w, plant.fault = 10_000.0, MeterFault(MeterFaultKind.SKEWED, scale=1.1, offset_w=-500)
        assert await power_w(meter) == 10_500


async def test_a_connection_cut_while_idle_is_replaced_within_the_read() -> None:
    async with wired() as (_, meter, server):
        assert await power_w(meter) == 1_234_560
        for transport in list(server.connections):
            transport.abort()
        await until(lambda: not server.connections)
        assert await power_w(meter) == 1_234_560
        assert server.accepted == 2


async def test_a_meter_that_speaks_unasked_is_not_believed() -> None:
    async with wired() as (_, meter, server):
        assert await power_w(meter) == 1_234_560
        for transport in server.connections:
            transport.write(bytes.fromhex("0003 0000 0007 01 03 04 0000 0001"))
        await until(lambda: not server.connections)
        assert await power_w(meter) == 1_234_560
        assert server.accepted == 2


async def test_a_restarted_gateway_is_found_again() -> None:
    async with wired() as (plant, meter, server):
        assert await power_w(meter) == 1_234_560
        await server.stop()
        assert isinstance(await meter.read(), Unreachable)
        again = ModbusMeterServer(meter_profile("abb_b23_b24"), plant.truth)
        await again.start(port=server.port)
        assert await power_w(meter) == 1_234_560
        await meter.close()
        await again.stop()


async def test_a_repeating_fault_is_counted_each_time_and_logged_once_per_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        async with wired() as (plant, meter, _):
            assert isinstance(meter, ModbusMeter)
            plant.fault = MeterFault(MeterFaultKind.GARBAGE)
            for _ in range(5):
                await meter.read()
            plant.fault = None
            for _ in range(3):
                await meter.read()
            plant.fault = MeterFault(MeterFaultKind.EXCEPTION)
            for _ in range(4):
                await meter.read()
    assert meter.unit.failures == {Failure.GARBAGE: 9}
    lines = [(record.levelname, record.name.partition(".")[0]) for record in caplog.records]
    assert lines == [("WARNING", "agent"), ("INFO", "agent"), ("WARNING", "agent")], caplog.text


async def test_pymodbus_adds_no_line_of_its_own_for_a_gateway_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    async with wired() as (_, meter, server):
        await server.stop()
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                await meter.read()
    assert [record.name for record in caplog.records] == ["agent.drivers.meters.unit"], caplog.text


async def test_closing_the_last_user_closes_the_connection_and_reading_again_opens_it() -> None:
    async with wired() as (_, meter, server):
        other = make_meter(server.port, {"profile": "abb_b23_b24"})
        assert await power_w(meter) == await power_w(other)
        await meter.close()
        await asyncio.sleep(0.02)
        assert len(server.connections) == 1, "the other still uses it"
        await other.close()
        await until(lambda: not server.connections)
        assert await power_w(other) == 1_234_560
        await other.close()


async def test_a_cancelled_read_gives_the_gateway_back() -> None:
    async with wired() as (plant, meter, server):
        plant.fault = MeterFault(MeterFaultKind.HANG)
        reading = asyncio.create_task(meter.read())
        await until(lambda: server.unit.requests == 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        plant.fault = None
        assert await power_w(meter) == 1_234_560


def test_without_pymodbus_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymodbus", None)
    monkeypatch.setitem(sys.modules, "pymodbus.client", None)
    with pytest.raises(MissingExtraError, match=r"pip install wattshift\[modbus\]"):
        make_meter(502, {"profile": "abb_b23_b24"})
