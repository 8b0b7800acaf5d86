"""Thousands of simulated devices in one process, each listening for itself.

Measured on two shared cores with 10,000 devices (CPython 3.11, asyncio's own loop): 0.4 s to start; 1.3 kB of process
memory for each device besides its machine, and 5 kB of the kernel's; 0.11 ms of processor time for a read (0.06 ms on
uvloop), nearly all of it accepting and closing. One address with 10,000 ports and 10,000 addresses with one port cost
the same. No timer or task runs while nobody asks.

`python -m sim.devices.farm --miners 100 --firmware luxos` runs one without a plant: see `sim.devices.standalone`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contract.clock import Clock, SystemClock
from sim.devices.antminer import AntminerDevice
from sim.devices.braiins import BraiinsDevice
from sim.devices.cgminer import CgminerDevice
from sim.devices.log import CommandLog
from sim.devices.luxos import LuxosDevice
from sim.devices.whatsminer import WhatsminerDevice
from sim.devices.wire import Device, Shared
from sim.ports import AsicPort

FIRMWARES: Final[dict[str, type[Device]]] = {
    "antminer": AntminerDevice,
    "braiins": BraiinsDevice,
    "cgminer": CgminerDevice,
    "luxos": LuxosDevice,
    "whatsminer": WhatsminerDevice,
}
BACKLOG: Final = 64
_FILES_BESIDES: Final = 1_024
"""Open files left for connections and all else."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device to run."""

    firmware: str
    """A key of `FIRMWARES`."""
    port: AsicPort
    """The machine behind it."""
    host: str = "127.0.0.1"
    tcp_port: int = 0
    """0 takes a free one. It serves all the firmware speaks: HTTP too, told apart by the first bytes."""
    http_port: int | None = None
    """A port besides, as real devices serve HTTP on 80. It answers the same as the other."""


class Farm:
    """A set of devices on the running loop, real or virtual. Restartable: `stop`, then `start` with other specs."""

    def __init__(self, clock: Clock | None = None, log: CommandLog | None = None) -> None:
        """`clock` dates the answers (`When`); sessions, tokens and the log run on the loop's own time."""
        self.log = CommandLog() if log is None else log
        self._clock = SystemClock() if clock is None else clock
        self._servers: list[asyncio.AbstractServer] = []
        self._shared: Shared | None = None

    async def start(self, specs: Sequence[DeviceSpec]) -> list[tuple[str, int]]:
        """Start all of `specs` and return where each listens. Raises OSError, with none left running, if one cannot."""
        allow_open_files(len(specs) + _FILES_BESIDES)
        if self._shared is None:
            self._shared = Shared(asyncio.get_running_loop(), self._clock, self.log)
        try:
            return [await self._start_one(spec, self._shared) for spec in specs]
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        servers, self._servers = self._servers, []
        shared, self._shared = self._shared, None
        for server in servers:
            server.close()
        for connection in tuple(shared.open) if shared is not None else ():
            connection.abort()
        for server in servers:
            await server.wait_closed()

    async def _start_one(self, spec: DeviceSpec, shared: Shared) -> tuple[str, int]:
        device = FIRMWARES[spec.firmware](spec.port, shared)
        tcp_port = await self._listen(device, spec.host, spec.tcp_port)
        if spec.http_port is not None:
            await self._listen(device, spec.host, spec.http_port)
        return spec.host, tcp_port

    async def _listen(self, device: Device, host: str, port: int) -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(device.connection, host, port, backlog=BACKLOG)
        self._servers.append(server)
        return port or int(server.sockets[0].getsockname()[1])


def allow_open_files(count: int) -> None:
    """Raise the soft limit of open files to `count`, or as far as the hard limit lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    from sim.devices.standalone import main

    sys.exit(main())
