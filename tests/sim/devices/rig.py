"""What the tests of simulated devices share: a machine in memory, and a client that knows no firmware."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sim.devices.farm import DeviceSpec, Farm
from sim.devices.log import Command
from sim.ports import AsicModel, AsicState, DeviceFault

MODEL = AsicModel("Antminer S21", 3_500, 200_000, 1_900, 60, 60.0)
PATIENCE_S = 10.0
"""Far longer than anything here takes: only a broken test waits so long."""


@dataclass
class MemoryAsic:
    """An `AsicPort` that is what it is told to be, and remembers what it was asked to do."""

    serial: str = "SN0001"
    model: AsicModel = MODEL
    state: AsicState = AsicState.RUNNING
    reported_power_w: float = 3_600.0
    hashrate_ghs: float = 199_500.0
    inlet_temp_c: float = 24.5
    chip_temp_c: float = 71.0
    power_limit_w: int = 3_500
    uptime_s: float = 3_600.0
    fault: DeviceFault | None = None
    latency_s: float = 0.0
    asked: list[str] = field(default_factory=list)

    def sleep(self) -> None:
        self.asked.append("sleep")
        self.state, self.hashrate_ghs, self.reported_power_w = AsicState.SLEEPING, 0.0, 60.0

    def wake(self) -> None:
        self.asked.append("wake")
        self.state, self.hashrate_ghs, self.reported_power_w = AsicState.RUNNING, 199_500.0, 3_600.0

    def set_power_limit(self, power_w: int) -> None:
        self.asked.append(f"limit {power_w}")
        self.power_limit_w = power_w

    def reboot(self) -> None:
        self.asked.append("reboot")


@dataclass
class Rig:
    """One device on a port of its own, and the machine behind it."""

    asic: MemoryAsic
    farm: Farm
    host: str
    port: int

    @property
    def commands(self) -> list[Command]:
        return self.farm.log.since(0)

    async def raw(self, request: bytes) -> bytes:
        """Send, and read until the device closes. Raises ConnectionError where it resets."""
        async with asyncio.timeout(PATIENCE_S), self.connected() as (reader, writer):
            writer.write(request)
            return await reader.read()

    async def ask(self, command: str, parameter: str | None = None, **more: Any) -> Any:
        """One command of the socket API, and its answer parsed."""
        request: dict[str, Any] = {"command": command, **more}
        if parameter is not None:
            request["parameter"] = parameter
        return parsed(await self.raw(json.dumps(request).encode()))

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()


@asynccontextmanager
async def rig(firmware: str, asic: MemoryAsic | None = None) -> AsyncIterator[Rig]:
    """A device on the running loop, real or virtual, gone at the end."""
    asic = MemoryAsic() if asic is None else asic
    farm = Farm()
    [(host, port)] = await farm.start([DeviceSpec(firmware, asic)])
    try:
        yield Rig(asic, farm, host, port)
    finally:
        await farm.stop()


def parsed(answer: bytes) -> Any:
    """JSON, after the NUL some firmwares end with."""
    return json.loads(answer.rstrip(b"\0"))


def code(answer: Any) -> int:
    """The status code of an answer in the list form of cgminer."""
    return int(answer["STATUS"][0]["Code"])


async def http(
    device: Rig, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One HTTP request on a connection of its own: status, headers in lower case, body."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: miner", "Connection: close", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    raw = await device.raw("\r\n".join([*lines, "", ""]).encode() + content)
    head, _, rest = raw.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in fields)
    return int(status.split()[1]), {name.lower(): value for name, value in pairs}, rest


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition, and fail where it does not come."""
    async with asyncio.timeout(3 * PATIENCE_S):
        while not true():  # noqa: ASYNC110  what it waits for has no event
            await asyncio.sleep(0.005)
