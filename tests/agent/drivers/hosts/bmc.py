"""A BMC on a real loopback socket and the driver in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.drivers.hosts.redfish import SwitchedRedfish, redfish_host
from contract.clock import SystemClock
from sim.devices.redfish import Machine, Make, RedfishServer

DEADLINE_S = 2.0


async def until(so: Callable[[], bool]) -> None:
    """Wait until it is so, for long on a loaded machine."""
    async with asyncio.timeout(15):
        while not so():  # noqa: ASYNC110  what is waited for is another machine's state
            await asyncio.sleep(0.02)


def password_file(folder: Path) -> Path:
    path = folder / "bmc.password"
    path.write_text("secret\n", encoding="utf-8")
    return path


def driver(port: int, folder: Path, *, deadline_s: float = DEADLINE_S, **options: Any) -> SwitchedRedfish:
    """One with all rights; `options` go over the defaults."""
    given = {"username": "admin", "password_file": str(password_file(folder)), "rights": "switch"} | options
    host = redfish_host(f"http://127.0.0.1:{port}", given, deadline_s=deadline_s, clock=SystemClock())
    assert isinstance(host, SwitchedRedfish)
    return host


@asynccontextmanager
async def bmc(
    folder: Path, make: Make | None = None, machine: Machine | None = None, **options: Any
) -> AsyncIterator[tuple[RedfishServer, SwitchedRedfish]]:
    server = RedfishServer(machine, make)
    host = driver(await server.start(), folder, **options)
    try:
        yield server, host
    finally:
        await host.close()
        await server.stop()
