"""Farms: thousands of devices in one process, and a farm in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sim.devices.farm import FIRMWARES, DeviceSpec, Farm
from sim.devices.machine import MODELS, REBOOT_SILENT_S, FirstOrderAsic
from sim.devices.standalone import host_of
from sim.virtual import run_virtual
from tests.sim.devices.rig import PATIENCE_S, MemoryAsic, parsed, until


async def summary(host: str, port: int) -> Any:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b'{"command":"summary"}')
        return parsed(await reader.read())
    finally:
        writer.close()


async def test_a_thousand_devices_start_and_are_read_in_a_few_seconds() -> None:
    names = sorted(FIRMWARES)
    asics = [MemoryAsic(serial=f"SN{number}", uptime_s=float(number)) for number in range(1_000)]
    farm = Farm()
    async with asyncio.timeout(3 * PATIENCE_S):
        addresses = await farm.start([DeviceSpec(names[i % len(names)], asic) for i, asic in enumerate(asics)])
        try:
            assert len(set(addresses)) == 1_000
            elapsed = []
            for first in range(0, 1_000, 100):
                batch = await asyncio.gather(*(summary(*address) for address in addresses[first : first + 100]))
                elapsed += [answer["SUMMARY"][0]["Elapsed"] for answer in batch]
            assert elapsed == list(range(1_000))
            assert farm.log.reads == 1_000
        finally:
            await farm.stop()


async def test_each_device_may_have_an_address_of_its_own_and_the_same_port() -> None:
    farm = Farm()
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        addresses = await farm.start([DeviceSpec("luxos", MemoryAsic(), host_of(number), port) for number in range(3)])
        assert addresses == [("127.1.0.1", port), ("127.1.0.2", port), ("127.1.0.3", port)]
        assert (await summary(*addresses[2]))["SUMMARY"]
        await farm.stop()


async def test_a_port_that_is_taken_leaves_nothing_running() -> None:
    farm = Farm()
    with socket.create_server(("127.0.0.1", 0)) as held:
        taken = held.getsockname()[1]
        with pytest.raises(OSError, match="address already in use"):
            await farm.start([DeviceSpec("luxos", MemoryAsic(), tcp_port=free_port()), _at(taken)])
    assert await farm.start([_at(taken)]) == [("127.0.0.1", taken)]
    await farm.stop()


async def test_http_may_have_a_port_besides() -> None:
    farm = Farm()
    web = free_port()
    [(host, port)] = await farm.start([DeviceSpec("antminer", MemoryAsic(), http_port=web)])
    for number in (port, web):
        reader, writer = await asyncio.open_connection(host, number)
        writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        writer.close()
    await farm.stop()


async def test_stopping_drops_connections_and_frees_the_port() -> None:
    farm = Farm()
    [(host, port)] = await farm.start([DeviceSpec("luxos", MemoryAsic(latency_s=60.0))])
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b'{"command":"summary"}')
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: farm.log.reads == 1)
        await farm.stop()
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)


def test_addresses_of_a_farm_are_distinct_and_never_the_network_or_broadcast() -> None:
    hosts = [host_of(number) for number in range(70_000)]
    assert len(set(hosts)) == len(hosts)
    assert not any(host.endswith((".0", ".255")) for host in hosts)


# -- the machine behind a standalone farm --------------------------------------------------------------------------


def test_a_machine_falls_asleep_boots_and_reboots_by_first_order() -> None:
    async def main() -> None:
        model = MODELS["luxos"]
        machine = FirstOrderAsic(model, "S", asyncio.get_running_loop().time, bias=0.1)

        def state() -> str:
            return machine.state.value

        assert (state(), machine.power_w) == ("running", model.rated_w)
        assert machine.reported_power_w == pytest.approx(1.1 * model.rated_w)
        machine.sleep()
        assert state() == "sleeping"
        await asyncio.sleep(30.0)
        assert machine.power_w == pytest.approx(model.sleep_w, abs=1.0)
        assert machine.hashrate_ghs == 0.0
        machine.wake()
        await asyncio.sleep(model.boot_s / 2)
        assert state() == "booting"
        assert model.sleep_w < machine.power_w < model.rated_w
        await asyncio.sleep(model.boot_s / 2)
        assert state() == "running"
        assert machine.power_w == pytest.approx(model.rated_w, rel=0.03)
        machine.set_power_limit(2_000)
        await asyncio.sleep(60.0)
        assert machine.power_w == pytest.approx(2_000, abs=1.0)
        machine.reboot()
        assert state() == "dead"
        await asyncio.sleep(REBOOT_SILENT_S)
        assert state() == "booting"
        await asyncio.sleep(model.boot_s)
        assert state() == "running"
        assert machine.power_w == pytest.approx(2_000, rel=0.03)

    run_virtual(main())


# -- a farm in a process of its own --------------------------------------------------------------------------------


class Standalone:
    """A farm process that is ready, and its control channel."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        self.addresses = [(host, port) for _, host, port in ready["devices"]]

    async def control(self, **request: Any) -> Any:
        where = str(self.ready["control"])
        if where.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(where.removeprefix("unix:"))
        else:
            host, port = where.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE_S):
            writer.write(json.dumps(request).encode() + b"\n")
            answer = json.loads(await reader.readline())
        writer.close()
        return answer


@asynccontextmanager
async def standalone(*arguments: str) -> AsyncIterator[Standalone]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sim.devices.farm", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(3 * PATIENCE_S):
            yield Standalone(process, json.loads(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
async def test_a_standalone_farm_answers_and_tells_its_true_power_and_who_commanded_it(loop: str) -> None:
    async with standalone(
        "--miners", "5", "--firmware", "braiins", "--latency-ms", "5", "--control", "127.0.0.1:0", "--loop", loop
    ) as farm:
        assert len(farm.addresses) == 5
        before = await farm.control(op="power")
        assert before["power_w"] == pytest.approx(5 * MODELS["braiins"].rated_w)
        assert before["states"] == {"running": 5}
        reader, writer = await asyncio.open_connection(*farm.addresses[3])
        writer.write(b'{"command":"pause"}')
        assert parsed(await reader.read())["PAUSE"] == [True]
        writer.close()
        told = await farm.control(op="commands_since", seq=0)
        [command] = told["commands"]
        assert (command["device"], command["command"], command["obeyed"]) == ("SIM00003", "pause", True)
        assert before["now_s"] - 0.01 <= command["at_s"] <= told["now_s"]
        assert (await farm.control(op="commands_since", seq=told["seq"]))["commands"] == []
        assert (await farm.control(op="power"))["states"] == {"running": 4, "sleeping": 1}
        assert (await farm.control(op="reset"))["ok"]
        assert (await farm.control(op="power"))["states"] == {"running": 5}


async def test_a_standalone_farm_takes_faults_and_refuses_nonsense_on_its_control_channel(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with standalone("--miners", "3", "--latency-ms", "0", "--control", f"unix:{path}") as farm:
        assert (await farm.control(op="fault", serial="SIM00001", fault="garbage"))["devices"] == 1
        reader, writer = await asyncio.open_connection(*farm.addresses[1])
        writer.write(b'{"command":"summary"}')
        with pytest.raises(ValueError):
            parsed(await reader.read())
        writer.close()
        assert (await farm.control(op="fault"))["devices"] == 3
        for bad in ({"op": "dance"}, {}, {"op": "fault", "fault": "boredom"}, {"op": "commands_since", "seq": "x"}):
            answer = await farm.control(**bad)
            assert answer["ok"] is False
            assert answer["error"]
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"op":"power"}\n' * 100 + b"nonsense\n[1]\n7\n")
        answers = [json.loads(await reader.readline()) for _ in range(103)]
        assert [answer["ok"] for answer in answers] == [True] * 100 + [False] * 3
        farm.process.send_signal(signal.SIGTERM)
        _, errors = await farm.process.communicate()
        assert (farm.process.returncode, errors) == (0, b"")
        assert not path.exists()
        writer.close()


async def test_an_endless_line_on_the_control_channel_is_cut_off() -> None:
    async with standalone("--miners", "1", "--control", "127.0.0.1:0") as farm:
        host, port = str(farm.ready["control"]).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE_S):
            writer.write(b"x" * 1_000_000)
            with pytest.raises(ConnectionError):
                await reader.read()
        writer.close()
        assert (await farm.control(op="power"))["ok"]


async def test_a_standalone_farm_ends_with_the_process_that_started_it() -> None:
    script = (
        "import subprocess, sys\n"
        "farm = subprocess.Popen([sys.executable, '-m', 'sim.devices.farm', '--miners', '1'], stdout=subprocess.PIPE)\n"
        "sys.stdout.buffer.write(farm.stdout.readline()); sys.stdout.flush()\n"
        "sys.stdin.read()\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(3 * PATIENCE_S):
        ready = json.loads(await parent.stdout.readline())
        parent.kill()
        await parent.wait()
        await until(lambda: not _alive(ready["pid"]))


async def test_a_port_in_use_is_an_error_message_and_a_status() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sim.devices.farm", "--miners", "1", "--base-port", str(held.getsockname()[1])),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(3 * PATIENCE_S):
            _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"cannot start the farm" in errors


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _at(port: int) -> DeviceSpec:
    return DeviceSpec("luxos", MemoryAsic(), tcp_port=port)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return _state(pid) != "Z"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
