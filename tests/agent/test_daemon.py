"""The daemon as a process, over real sockets: ready, alive and healthy while its loop ticks, and a clean end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.config import AgentConfig
from agent.daemon import notify
from agent.http import HttpServer
from agent.metrics import exposition, registry_of
from agent.site import SiteAgent
from agent.state import MemoryStateStore
from contract.bus import BusStats, Inbound, Will
from contract.clock import SystemClock
from contract.messages import Order, Receipt, ReceiptState, Report, decode, encode
from contract.topics import site_topic
from sim.devices.farm import DeviceSpec, Farm
from sim.devices.machine import MODELS, FirstOrderAsic
from sim.ports import AsicState, DeviceFault

CONFIG = """
state_file = "state.json"
control_dir = "control"
[site]
id = "north"
[mqtt]
host = "127.0.0.1"
port = {broker}
[http]
port = 0
[fail_safe]
on_end = "hold"
[timing]
guard_every_ms = 200
poll_every_ms = 500
meter_every_ms = 200
[feeders.main]
limit_w = 1_000_000
[banks.hall-a]
feeder = "main"
driver = "luxos"
devices = {devices}
device_rated_w = 3_250
device_idle_w = 25
device_hashrate_ghs = 100_000
"""


@asynccontextmanager
async def farm(count: int) -> AsyncIterator[tuple[list[FirstOrderAsic], list[int]]]:
    """Simulated LuxOS miners on real sockets."""
    loop = asyncio.get_running_loop()
    asics = [FirstOrderAsic(MODELS["luxos"], f"SIM{n:03d}", loop.time, latency_s=0.005) for n in range(count)]
    made = Farm(SystemClock())
    addresses = await made.start([DeviceSpec("luxos", asic) for asic in asics])
    try:
        yield asics, [port for _, port in addresses]
    finally:
        await made.stop()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  what is waited for is another process's doing
            await asyncio.sleep(0.01)


async def test_the_process_is_ready_serves_and_ends_cleanly(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    notices: list[str] = []
    where = tmp_path / "notify"
    loop = asyncio.get_running_loop()
    link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    link.bind(str(where))
    link.setblocking(False)
    loop.add_reader(link, lambda: notices.append(link.recv(1_000).decode()))
    async with farm(3) as (_, ports):
        devices = [f"127.0.0.1:{port}" for port in ports]
        path = tmp_path / "agent.toml"
        path.write_text(CONFIG.format(broker=closed_port(), devices=devices), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent.daemon", "--config", str(path)),
            env=os.environ | {"NOTIFY_SOCKET": str(where)},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await until(lambda: any("READY=1" in notice for notice in notices))
            assert process.stderr is not None
            line = ""
            while "listening on http://" not in line:
                line = (await asyncio.wait_for(process.stderr.readline(), 10)).decode()
            url = line.rpartition(" ")[2].strip()
            async with aiohttp.ClientSession() as session:
                await _serves(session, url)
                (tmp_path / "control" / "lockout-hall-a").touch()
                await _until_healthz(session, url, lambda said: said["interlocks"])
            await until(lambda: sum("WATCHDOG=1" in notice for notice in notices) >= 5)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
        finally:
            if process.returncode is None:
                process.kill()
            loop.remove_reader(link)
            link.close()
    assert notices[-1] == "STOPPING=1" or "STOPPING=1" in notices
    assert json.loads((tmp_path / "state.json").read_text())["version"] == 1


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json()


async def _until_healthz(session: aiohttp.ClientSession, url: str, condition: Callable[[Any], object]) -> None:
    async with asyncio.timeout(20):
        while not condition(await _json(session, f"{url}/healthz")):  # noqa: ASYNC110  another process's doing
            await asyncio.sleep(0.05)


async def _serves(session: aiohttp.ClientSession, url: str) -> None:
    await _until_healthz(session, url, lambda said: said["mode"] == "auto")
    async with session.get(f"{url}/healthz") as response:
        assert response.status == 200
    async with session.get(f"{url}/metrics") as response:
        assert "wattshift_agent_healthy 1.0" in await response.text()
    page = await _json(session, f"{url}/devices?bank=hall-a&limit=2&offset=1")
    assert (page["total"], len(page["devices"])) == (3, 2)
    async with session.get(f"{url}/devices?limit=0") as response:
        assert response.status == 400


async def test_a_taken_port_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = CONFIG.format(broker=closed_port(), devices=["127.0.0.1:9"])
        path = tmp_path / "agent.toml"
        path.write_text(text.replace("port = 0", f"port = {taken.getsockname()[1]}"), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent.daemon", "--config", str(path)), stderr=asyncio.subprocess.PIPE
        )
        _, error = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert "agent.toml: http.port: cannot listen on" in error.decode()


def test_without_a_notify_socket_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    notify("READY=1")


class Wire:
    """The bus's end in the test's own hand: what is published is kept, what is said is delivered at once."""

    connected = True
    stats = BusStats(1, 0, 0, 0, 0)

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.say: Callable[[Inbound], None] | None = None

    async def run(
        self,
        subscriptions: Any,
        on_message: Callable[[Inbound], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        *,
        will: Will | None = None,
    ) -> None:
        self.say = on_message
        on_up()
        await asyncio.Event().wait()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        self.sent.append((topic.rpartition("/")[2], payload))
        return True

    def last(self, kind: str) -> bytes | None:
        return next((payload for name, payload in reversed(self.sent) if name == kind), None)


async def test_over_real_sockets_a_shed_reaches_every_device_and_hung_ones_delay_nobody() -> None:
    """120 miners, a tenth of them hung: the others are told at once, the hung ones when they come back."""
    async with farm(120) as (asics, ports):
        for asic in asics[::10]:
            asic.fault = DeviceFault.HANG
        devices = [f"127.0.0.1:{port}" for port in ports]
        tables = {
            "site": {"id": "north"},
            "mqtt": {"host": "x"},
            "timing": {
                "guard_every_ms": 200,
                "poll_every_ms": 1_000,
                "reassert_ms": 500,
                "reassert_max_ms": 2_000,
            },
            "tolerance": {"rated_milli": 100},
            "feeders": {"main": {"limit_w": 10**9}},
            "banks": {
                "hall-a": {
                    "feeder": "main",
                    "driver": "luxos",
                    "devices": devices,
                    "deadline_s": 1.0,
                    "device_rated_w": MODELS["luxos"].rated_w,
                    "device_hashrate_ghs": MODELS["luxos"].hashrate_ghs,
                }
            },
        }
        wire = Wire()
        agent = SiteAgent(
            AgentConfig.model_validate(tables), bus=wire, clock=SystemClock(), rng=Random(1), state=MemoryStateStore()
        )
        run = asyncio.get_running_loop().create_task(agent.run())
        try:
            await until(lambda: wire.last("report"))
            report = decode(Report, wire.last("report") or b"")
            order = Order(
                site="north",
                epoch=1,
                seq=1,
                based_on_boot=report.boot,
                based_on_seq=report.seq,
                valid_for_ms=60_000,
                issued_at_ms=0,
                setpoints=(),
                urgent=True,
            )
            assert wire.say is not None
            wire.say(Inbound(site_topic("north", "order"), encode(order)))
            sound = [asic for place, asic in enumerate(asics) if place % 10]
            await until(lambda: all(asic.state is AsicState.SLEEPING for asic in sound), 10)
            receipt = decode(Receipt, wire.last("receipt") or b"")
            assert receipt.accepted
            await until(lambda: decode(Receipt, wire.last("receipt") or b"").first_action_ms is not None, 5)
            for asic in asics:
                asic.fault = None
            await until(lambda: all(asic.state is AsicState.SLEEPING for asic in asics), 60)
            await until(
                lambda: decode(Receipt, wire.last("receipt") or b"").banks[0].state is ReceiptState.CONFIRMED, 60
            )
            _metrics_are_bounded(agent)
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


def _metrics_are_bounded(agent: SiteAgent) -> None:
    """No series per device, every name of ours, and each family documented."""
    families = list(text_string_to_metric_families(exposition(registry_of(agent)).decode()))
    assert sum(len(family.samples) for family in families) < 80
    assert all(family.name.startswith("wattshift_agent_") and family.documentation for family in families)
    named = {family.name for family in families}
    assert {"wattshift_agent_commands", "wattshift_agent_bank_setpoint_watts", "wattshift_agent_mode"} <= named


async def test_healthz_is_not_well_where_the_loop_does_not_tick() -> None:
    config = AgentConfig.model_validate(
        {
            "site": {"id": "north"},
            "mqtt": {"host": "x"},
            "feeders": {"main": {"limit_w": 10}},
            "banks": {
                "a": {
                    "feeder": "main",
                    "driver": "luxos",
                    "devices": ["127.0.0.1:9"],
                    "device_rated_w": 5,
                    "device_hashrate_ghs": 1,
                }
            },
        }
    )
    agent = SiteAgent(config, bus=Wire(), clock=SystemClock(), rng=Random(1), state=MemoryStateStore())
    server = HttpServer(agent)
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as response:
            assert response.status == 503
            assert (await response.json())["ticking"] is False
    finally:
        await server.stop()
