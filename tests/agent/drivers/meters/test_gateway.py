"""Several units behind one gateway share one connection, and a dead one does not blind the others. In virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from agent.drivers.base import Failure, Meter, MeterReading, Unreachable
from agent.drivers.meters.connection import frame_fault
from agent.drivers.meters.link import MAX_WAITING
from agent.drivers.meters.registers import Block
from sim.devices.modbus import MeterFault, MeterFaultKind, ModbusServer, ModbusUnit
from sim.virtual import run_virtual, virtual_loop
from tests.agent.drivers.meters.plant import HOST, Plant, make_meter, meter_profile, power_w

PORT = 502


class Gateway:
    """Units 1 to n, unit u drawing u kW, and a meter for each."""

    def __init__(self, units: int, profile: str = "abb_b23_b24", deadline_s: float = 2.0) -> None:
        self.plants = {unit: Plant(power_w=1_000.0 * unit) for unit in range(1, units + 1)}
        self.server = ModbusServer(
            {
                unit: ModbusUnit(meter_profile(profile), plant.truth, fault=lambda plant=plant: plant.fault)  # type: ignore[misc]
                for unit, plant in self.plants.items()
            }
        )
        self.meters: dict[int, Meter] = {
            unit: make_meter(PORT, {"profile": profile}, unit_id=unit, deadline_s=deadline_s) for unit in self.plants
        }

    async def tick(self) -> dict[int, MeterReading | Unreachable]:
        """All meters read at once."""
        readings = await asyncio.gather(*(meter.read() for meter in self.meters.values()))
        return dict(zip(self.meters, readings, strict=True))


def test_two_meters_behind_one_gateway_share_a_connection_and_keep_their_figures_apart() -> None:
    async def run() -> None:
        gateway = Gateway(2)
        await gateway.server.start(HOST, PORT)
        for _ in range(20):
            assert [await power_w(meter) for meter in gateway.meters.values()] == [1_000, 2_000]
            readings = await gateway.tick()
            assert [readings[unit].power_w for unit in (1, 2)] == [1_000, 2_000]  # type: ignore[union-attr]
        assert gateway.server.accepted == 1

    run_virtual(run())


def test_a_unit_that_is_not_there_is_named_by_the_gateway() -> None:
    async def run() -> None:
        gateway = Gateway(1)
        await gateway.server.start(HOST, PORT)
        absent = make_meter(PORT, {"profile": "abb_b23_b24"}, unit_id=9)
        reading = await absent.read()
        assert isinstance(reading, Unreachable)
        assert reading.failure is Failure.TIMEOUT
        assert "unit 9: Modbus exception 11" in reading.detail
        assert await power_w(gateway.meters[1]) == 1_000

    run_virtual(run())


def test_dead_units_behind_a_gateway_do_not_blind_the_others() -> None:
    """One hangs, first in the row: the rest are read in the same tick; three hang: the rest still are."""

    async def run() -> None:
        gateway = Gateway(10)
        await gateway.server.start(HOST, PORT)
        for dead in ((1,), (1, 4, 7)):
            for unit in dead:
                gateway.plants[unit].fault = MeterFault(MeterFaultKind.HANG)
            for _ in range(3):
                began_s = virtual_loop().time()
                readings = await gateway.tick()
                assert virtual_loop().time() - began_s < 2.01, "every read ends within its deadline"
                assert {unit for unit, reading in readings.items() if isinstance(reading, Unreachable)} == set(dead)
        for plant in gateway.plants.values():
            plant.fault = None
        readings = await gateway.tick()
        assert all(isinstance(reading, MeterReading) for reading in readings.values())

    run_virtual(run())


def test_a_unit_known_to_be_dead_lets_those_who_ask_at_the_same_moment_go_first() -> None:
    async def run() -> None:
        gateway = Gateway(5, deadline_s=2.0)
        await gateway.server.start(HOST, PORT)
        gateway.plants[1].fault = MeterFault(MeterFaultKind.HANG)
        await gateway.tick()
        began_s = virtual_loop().time()
        reads = [asyncio.create_task(meter.read()) for meter in gateway.meters.values()]
        await asyncio.wait(reads[1:])
        assert virtual_loop().time() - began_s < 0.1
        await asyncio.wait(reads)

    run_virtual(run())


def test_a_lone_slow_meter_may_use_its_whole_deadline() -> None:
    async def run() -> None:
        gateway = Gateway(1, deadline_s=2.0)
        await gateway.server.start(HOST, PORT)
        gateway.plants[1].fault = MeterFault(MeterFaultKind.LATE, delay_s=0.95)
        for _ in range(3):
            began_s = virtual_loop().time()
            assert await power_w(gateway.meters[1]) == 1_000
            assert 1.9 < virtual_loop().time() - began_s < 2.0, "two requests of 0.95 s"

    run_virtual(run())


def test_power_counts_though_the_rest_comes_too_late() -> None:
    async def run() -> None:
        gateway = Gateway(1, deadline_s=2.0)
        await gateway.server.start(HOST, PORT)
        gateway.plants[1].fault = MeterFault(MeterFaultKind.LATE, delay_s=1.5)
        reading = await gateway.meters[1].read()
        assert isinstance(reading, MeterReading)
        assert reading.power_w == 1_000
        assert reading.energy_import_wh is None

    run_virtual(run())


def test_a_late_answer_is_never_taken_for_the_next_one() -> None:
    """From a gateway that echoes no transaction number, so that only the dropped connection can tell them apart."""

    async def run() -> None:
        truth = Plant(power_w=111_000.0)
        unit = ModbusUnit(meter_profile("abb_b23_b24"), truth.truth)
        delays_s = iter([1.3])
        made: list[_Forgetful] = []

        def accept() -> _Forgetful:
            made.append(_Forgetful(unit, lambda: next(delays_s, 0.5)))
            return made[-1]

        await asyncio.get_running_loop().create_server(accept, HOST, PORT)
        meter = make_meter(PORT, {"registers": {"power": _B23_POWER}}, deadline_s=1.0)
        assert isinstance(await meter.read(), Unreachable)
        truth.power_w = 222_000.0
        assert [await power_w(meter) for _ in range(3)] == [222_000] * 3, "111 kW came 0.3 s into the second read"
        assert [answerer.answers for answerer in made] == [1, 3]

    run_virtual(run())


_B23_POWER = {"address": 0x5B14, "type": "int32", "scale": 0.01, "unit": "W"}


class _Forgetful(asyncio.Protocol):
    """Answers truly, each after a delay of its own, as transaction 0."""

    def __init__(self, unit: ModbusUnit, delay_s: Callable[[], float]) -> None:
        self._unit, self._delay_s = unit, delay_s
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        cells = self._unit.registers("holding", int.from_bytes(data[8:10], "big"), int.from_bytes(data[10:12], "big"))
        assert isinstance(cells, bytes)
        answer = bytes(4) + (len(cells) + 3).to_bytes(2, "big") + data[6:8] + bytes([len(cells)]) + cells
        asyncio.get_running_loop().call_later(self._delay_s(), self._send, answer)

    def _send(self, answer: bytes) -> None:
        self.answers += 1
        self._transport.write(answer)


def test_a_host_that_swallows_everything_ends_at_the_deadline_for_all() -> None:
    async def run() -> None:
        gateway = Gateway(5, deadline_s=1.5)
        await gateway.server.start(HOST, PORT)
        assert all(isinstance(reading, MeterReading) for reading in (await gateway.tick()).values())
        virtual_loop().network.blackhole(HOST, PORT)
        for _ in range(3):
            began_s = virtual_loop().time()
            readings = await gateway.tick()
            assert virtual_loop().time() - began_s == pytest.approx(1.5, abs=0.01)
            assert {reading.failure for reading in readings.values() if isinstance(reading, Unreachable)} == {
                Failure.TIMEOUT
            }
        virtual_loop().network.heal(HOST, PORT)
        assert all(isinstance(reading, MeterReading) for reading in (await gateway.tick()).values())

    run_virtual(run())


def test_the_queue_for_a_gateway_is_bounded() -> None:
    async def run() -> None:
        gateway = Gateway(1, deadline_s=5.0)
        await gateway.server.start(HOST, PORT)
        gateway.plants[1].fault = MeterFault(MeterFaultKind.HANG)
        reads = [asyncio.create_task(gateway.meters[1].read()) for _ in range(MAX_WAITING + 10)]
        await asyncio.sleep(1)
        turned_away = [read for read in reads if read.done()]
        assert 0 < len(turned_away) <= 10
        assert "queueing already" in turned_away[0].result().detail  # type: ignore[union-attr]
        assert all(isinstance(reading, Unreachable) for reading in await asyncio.gather(*reads))

    run_virtual(run())


@pytest.mark.parametrize("seed", range(40))
def test_no_bytes_a_device_may_send_make_a_read_raise_or_outlast_its_deadline(seed: int) -> None:
    """Answers bent at random: flipped, cut short, doubled, padded, dribbled, or noise from end to end."""

    async def run() -> None:
        rng = random.Random(seed)
        truth = Plant(power_w=1_000.0)
        honest = ModbusUnit(meter_profile("abb_b23_b24"), truth.truth)
        server = await asyncio.get_running_loop().create_server(lambda: _Bent(honest, rng), HOST, PORT)
        meter = make_meter(PORT, {"profile": "abb_b23_b24"}, deadline_s=1.0)
        for _ in range(10):
            began_s = virtual_loop().time()
            reading = await meter.read()
            assert virtual_loop().time() - began_s < 1.01
            assert isinstance(reading, MeterReading | Unreachable)
        server.close()
        await meter.close()

    run_virtual(run(), seed=seed)


class _Bent(asyncio.Protocol):
    """Answers a request with an answer that something happened to."""

    def __init__(self, unit: ModbusUnit, rng: random.Random) -> None:
        self._unit, self._rng = unit, rng

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        cells = self._unit.registers("holding", int.from_bytes(data[8:10], "big"), int.from_bytes(data[10:12], "big"))
        assert isinstance(cells, bytes)
        answer = data[:4] + (len(cells) + 3).to_bytes(2, "big") + data[6:8] + bytes([len(cells)]) + cells
        for piece in self._bend(answer):
            self._transport.write(piece)
        if self._rng.random() < 0.2:
            self._transport.close()

    def _bend(self, answer: bytes) -> list[bytes]:
        at = self._rng.randrange(len(answer))
        match self._rng.randrange(6):
            case 0:
                return [answer[:at] + bytes([answer[at] ^ self._rng.randrange(1, 256)]) + answer[at + 1 :]]
            case 1:
                return [answer[:at]]
            case 2:
                return [answer, answer]
            case 3:
                return [answer + self._rng.randbytes(at)]
            case 4:
                return [answer[i : i + 1] for i in range(len(answer))]
            case _:
                return [self._rng.randbytes(self._rng.randrange(1, 3_000))]


BLOCK = Block("holding", 0x5B14, 2, ("power",))
RIGHT = bytes.fromhex("0007 0000 0007 01 03 04 0000 0064")


def test_every_beginning_of_a_right_answer_is_let_through() -> None:
    for length in range(1, len(RIGHT) + 1):
        assert frame_fault(RIGHT[:length], (1, BLOCK), 7) is None
    assert frame_fault(bytes.fromhex("0007 0000 0003 01 83 02"), (1, BLOCK), 7) is None
    assert frame_fault(b"\0\0" + RIGHT[2:], (1, BLOCK), 7) is None, "a gateway that does not echo the transaction"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("0006 0000 0007 01 03 04 0000 0064", "answered transaction 6"),
        ("0007 0001 0007 01 03 04 0000 0064", "does not speak Modbus TCP"),
        ("0007 0000 0009 01 03 04 0000 0064", "announced 9 bytes"),
        ("0007 0000 0007 02 03 04 0000 0064", "unit 02 answered"),
        ("0007 0000 0007 01 04 04 0000 0064", "answered function 4, not 3"),
        ("0007 0000 0007 01 83 02", "announced 7 bytes"),
        ("0007 0000 0007 01 03 06 0000 0064", "counted its own bytes wrong"),
        ("0007 0000 0007 01 03 04 0000 0064 00", "answered twice"),
    ],
)
def test_an_answer_to_another_question_is_not_let_through(wrong: str, said: str) -> None:
    assert said in str(frame_fault(bytes.fromhex(wrong), (1, BLOCK), 7))
    assert frame_fault(RIGHT, None, 7) == "it spoke unasked"
