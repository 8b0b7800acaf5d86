"""The Redfish driver against somebody else's service: OpenStack's `sushy-emulator`, which has systems and resets but no
power endpoints. Its fake systems take 1 to 11 s to change state, though it answers 204 at once."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.drivers.base import Applied, Failure, Refused, Unreachable
from agent.drivers.hosts.host import HostReading, HostState
from agent.drivers.hosts.redfish import SwitchedRedfish, redfish_host
from contract.clock import SystemClock

pytest.importorskip("sushy_tools", reason="sushy-tools is not installed")
UUID = "27946b59-9e44-4fa7-8e91-f3527a1ef094"
CONFIG = f"""
SUSHY_EMULATOR_LISTEN_IP = "127.0.0.1"
SUSHY_EMULATOR_STATE_DIR = {{state!r}}
SUSHY_EMULATOR_FAKE_SYSTEMS = [
    {{{{"uuid": uuid, "name": uuid[:4], "power_state": "Off", "external_notifier": False, "nics": []}}}}
    for uuid in ({UUID!r}, "11111111-9e44-4fa7-8e91-f3527a1ef094")
]
"""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[str]:
    """Where a `sushy-emulator` of its own serves."""
    config = tmp_path / "sushy.conf"
    config.write_text(CONFIG.format(state=str(tmp_path)), encoding="utf-8")
    program = [sys.executable, "-m", "sushy_tools.emulator.main"]
    process = await asyncio.create_subprocess_exec(
        *program,
        *("--fake", "--config", str(config), "--port", "0"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while True:
                line = (await process.stderr.readline()).decode()
                assert line, "it ended before it served"
                if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
                    break
        drain = asyncio.create_task(process.stderr.read())
        yield found[1]
    finally:
        process.kill()
        await process.wait()
    await drain


async def host_at(url: str, **options: object) -> SwitchedRedfish:
    given = {"auth": "none", "rights": "switch", "system": UUID} | options
    host = redfish_host(url, given, deadline_s=10.0, clock=SystemClock())
    assert isinstance(host, SwitchedRedfish)
    return host


async def becomes(host: SwitchedRedfish, state: HostState) -> bool:
    for _ in range(200):
        found = await host.read()
        if isinstance(found, HostReading) and found.state is state:
            return True
        await asyncio.sleep(0.15)
    return False


@pytest.mark.slow
async def test_a_system_is_found_read_and_switched(service: str) -> None:
    host = await host_at(service)
    found = await host.read()
    assert isinstance(found, HostReading)
    assert (found.state, found.power_w, found.limited) == (HostState.OFF, None, None)
    assert await host.power_off() == Applied("already off")
    assert isinstance(await host.power_on(), Applied)
    assert await becomes(host, HostState.ON), "it was accepted, and a reading shows it some seconds later"
    assert await host.set_limit_w(500) == Refused("its service has no power limit")
    assert isinstance(await host.power_off(force=True), Applied)
    assert await becomes(host, HostState.OFF)
    await host.close()


async def test_of_several_systems_one_must_be_named(service: str) -> None:
    host = await host_at(service, system=None)
    found = await host.read()
    assert isinstance(found, Unreachable)
    assert found.failure is Failure.GARBAGE
    assert "set system" in found.detail
    unknown = await host_at(service, system="no-such")
    assert await unknown.read() == Unreachable(Failure.GARBAGE, "it has no system no-such")
    await host.close()
    await unknown.close()
