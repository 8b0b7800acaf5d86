"""The controller as a process: its exit status, its signals, its word to systemd, and the whole path over Mosquitto."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from aiohttp import ClientSession

from contract.bus_mqtt import MqttBus
from contract.clock import SystemClock
from controller.sdnotify import Notifier
from sim.broker import LocalBroker
from tests.controller.kit import BASE_W, RATED_W, SmallAgent, stop, until

TOKEN = "0123456789abcdef0123456789abcdef"


def configure(folder: Path, mqtt_port: int = 1, http_port: int = 0, more: str = "") -> Path:
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    path = folder / "controller.toml"
    path.write_text(
        f"""
        {more}
        [mqtt]
        host = "127.0.0.1"
        port = {mqtt_port}
        identifier = "controller-under-test"
        backoff_base_s = 0.05
        [http]
        listen = "127.0.0.1:{http_port}"
        token_file = "token"
        [journal]
        url = "sqlite+aiosqlite:///journal.sqlite3"
        """
    )
    return path


async def launch(*arguments: str, env: dict[str, str] | None = None) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "controller.daemon",
        *arguments,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **(env or {})},
    )


async def ended(process: Process) -> tuple[int, str, str]:
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class TestExit:
    async def test_check_says_fine(self, tmp_path: Path) -> None:
        code, out, err = await ended(await launch("--config", str(configure(tmp_path)), "--check"))
        assert (code, err) == (0, "")
        assert out.endswith("fine\n")

    async def test_a_configuration_error_is_one_line_and_status_2(self, tmp_path: Path) -> None:
        path = configure(tmp_path, more="tik_s = 5")
        for arguments in (("--config", str(path)), ("--config", str(path), "--check")):
            code, out, err = await ended(await launch(*arguments))
            assert (code, out) == (2, "")
            assert err.count("\n") == 1
            assert "controller.toml: tik_s: is not a key. Fix: " in err

    async def test_a_price_file_with_a_hole_in_its_form_is_found_by_check(self, tmp_path: Path) -> None:
        (tmp_path / "p.csv").write_text("interval_start_utc,a_usd_per_mwh\n2024-01-01T00:15Z,1\n2024-01-01T00:00Z,1\n")
        more = '[feeds.prices.rt]\nkind = "csv"\npath = "p.csv"'
        code, _, err = await ended(await launch("--config", str(configure(tmp_path, more=more)), "--check"))
        assert code == 2
        assert "p.csv, line 3: is earlier than the row before" in err

    async def test_a_journal_that_cannot_be_opened_is_status_1(self, tmp_path: Path) -> None:
        path = configure(tmp_path)
        path.write_text(path.read_text().replace("journal.sqlite3", "absent/journal.sqlite3"))
        code, _, err = await ended(await launch("--config", str(path)))
        assert code == 1
        assert "cannot be opened" in err
        assert "Traceback" not in err

    async def test_an_address_that_is_taken_is_status_1(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            code, _, err = await ended(await launch("--config", str(configure(tmp_path, http_port=port))))
        assert code == 1
        assert "Traceback" not in err


async def test_systemd_hears_ready_then_signs_of_life_then_stopping(tmp_path: Path) -> None:
    """Even with no broker to be had: not being connected is no reason to be restarted."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(path)
        heard.setblocking(False)
        loop = asyncio.get_running_loop()

        async def hear() -> str:
            async with asyncio.timeout(300):  # the optimiser may have to be compiled first
                return (await loop.sock_recv(heard, 4_096)).decode()

        env = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "20000000"}
        process = await launch("--config", str(configure(tmp_path)), env=env)
        assert (await hear()).startswith("EXTEND_TIMEOUT_USEC=")
        assert await hear() == "READY=1"
        assert [await hear(), await hear()] == ["WATCHDOG=1", "WATCHDOG=1"]
        process.send_signal(signal.SIGTERM)
        while (word := await hear()) == "WATCHDOG=1":
            pass
        assert word == "STOPPING=1"
        code, _, err = await ended(process)
    assert code == 0, err
    assert "Traceback" not in err


def test_without_systemd_nothing_is_said() -> None:
    quiet = Notifier({})
    quiet.beat()
    quiet.stopping()
    assert quiet.watchdog_s is None
    other = Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    assert other.watchdog_s is None, "the watchdog of another process is not ours to feed"


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[str]:
    """A daemon, and the base of its URLs: it listens on a port of its own choice and says which."""
    process = await launch("--config", str(path))
    assert process.stderr is not None
    try:
        said = ""
        async with asyncio.timeout(60):
            while "http: listening on " not in said:
                said = (await process.stderr.readline()).decode()
                assert said, "it ended before it listened"
        yield "http://" + said.split("listening on ")[1].strip()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        code, _, err = await ended(process)
        assert code == 0, err
        assert "Traceback" not in err


@pytest.mark.mosquitto
async def test_from_report_to_signal_to_order_over_a_real_broker_and_across_a_restart(tmp_path: Path) -> None:
    async with LocalBroker() as broker, ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        settings = broker.settings("agent-under-test")
        agent = SmallAgent(MqttBus(settings, Random(1)), SystemClock(), "alpha", every_ms=100)
        task = asyncio.ensure_future(agent.run())
        path = configure(tmp_path, settings.port, more="tick_s = 1")
        async with running(path) as base:
            await until(lambda: agent.order is not None)
            ask = {"site": "alpha", "reduce_w": RATED_W, "duration_s": 3_600, "id": "grid-1"}
            async with session.post(f"{base}/v1/signals", json=ask) as response:
                body = await response.json()
                assert (response.status, body["journalled"]) == (201, True)
                assert body["baseline"]["power_w"] >= BASE_W
            await until(lambda: agent.order is not None and agent.order.obligation == "grid-1")
            async with session.get(f"{base}/readyz") as response:
                assert response.status == 200
            epoch = agent.epoch
        async with running(path) as base:
            await until(lambda: agent.epoch == epoch + 1)
            await until(lambda: agent.order is not None and agent.order.obligation == "grid-1")
            async with session.get(f"{base}/v1/signals") as response:
                assert [each["id"] for each in (await response.json())["signals"]] == ["grid-1"]
        await stop(task)
