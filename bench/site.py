"""A site under the bench: a plant and the real agent daemon over it, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.conversation import PlantControl
from bench.plant import METER_PROFILE, split
from bench.process import Child, child
from contract.mqtt_settings import MqttSettings
from sim.devices.machine import MODELS

SITE = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteShape:
    """What is simulated."""

    miners: int
    banks: int
    firmware: str = "luxos"
    latency_ms: float = 20.0
    loop: str = "asyncio"
    """The plant's event loop: uvloop's costs half, but its clock counts in whole milliseconds."""

    @property
    def device_w(self) -> int:
        return MODELS[self.firmware].rated_w

    @property
    def rated_w(self) -> int:
        return self.miners * self.device_w

    def bank_names(self) -> list[str]:
        return [f"hall-{bank:02d}" for bank in range(self.banks)]

    def bank_rated_w(self) -> list[int]:
        return [len(places) * self.device_w for places in split(self.miners, self.banks)]


@dataclass(frozen=True, slots=True)
class Plant:
    """A running plant."""

    shape: SiteShape
    process: Child
    control: PlantControl
    devices: Sequence[tuple[str, int]]
    meters: Sequence[int]
    """The port of each bank's meter; the site's last."""


@contextlib.asynccontextmanager
async def plant(shape: SiteShape, folder: Path) -> AsyncIterator[Plant]:
    """Start the miners and the meters."""
    arguments = {
        "miners": shape.miners,
        "banks": shape.banks,
        "firmware": shape.firmware,
        "latency-ms": shape.latency_ms,
        "loop": shape.loop,
    }
    flags = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    async with child("plant", folder, "bench.plant", *flags) as process:
        ready = await process.ready_line()
        control = await PlantControl.open(ready["control"])
        try:
            yield Plant(shape, process, control, [(host, port) for host, port in ready["devices"]], ready["meters"])
        finally:
            await control.close()


@contextlib.asynccontextmanager
async def agent(
    over: Plant, mqtt: MqttSettings, folder: Path, timing: dict[str, Any] | None = None
) -> AsyncIterator[Child]:
    """Start `agent.daemon` as it stands in production, with its own defaults but for what a bench cannot wait for."""
    path = folder / "agent.toml"
    path.write_text(agent_config(over, mqtt, timing or {}), encoding="utf-8")
    async with child("agent", folder, "agent.daemon", "--config", str(path), "--log-level", "info") as process:
        yield process


async def http_of(process: Child) -> str:
    """Where the agent serves /metrics and /devices."""
    line = await process.logged("listening on ")
    return line.rpartition("listening on ")[2].strip()


def agent_config(over: Plant, mqtt: MqttSettings, timing: dict[str, Any]) -> str:
    """The agent's TOML: a main feeder, and a metered row for each bank."""
    shape = over.shape
    model = MODELS[shape.firmware]
    lines = [
        f"state_file = {_toml('agent-state.json')}",
        *_table("site", {"id": SITE}),
        *_table("mqtt", {"host": mqtt.host, "port": mqtt.port}),
        *_table("http", {"port": 0}),
        # A clean end stops no miner, and a bench's pauses without a lease change nothing.
        *_table("fail_safe", {"on_end": "hold", "handover_ms": 3_600_000}),
        *_table("timing", {"stagger_ms": 0} | timing),
        *_table("feeders.main", {"limit_w": 2 * shape.rated_w, "meter": "main"}),
        *_meter("main", over.meters[-1]),
    ]
    per_bank = zip(shape.bank_names(), shape.bank_rated_w(), split(shape.miners, shape.banks), strict=True)
    for place, (name, rated_w, places) in enumerate(per_bank):
        row = f"row-{place:02d}"
        lines += _table(f"feeders.{row}", {"parent": "main", "limit_w": 2 * rated_w, "meter": row})
        lines += _meter(row, over.meters[place])
        lines += _table(
            f"banks.{name}",
            {
                "feeder": row,
                "driver": shape.firmware,
                "model": model.name,
                "device_rated_w": model.rated_w,
                "device_idle_w": model.sleep_w,
                "device_hashrate_ghs": model.hashrate_ghs,
                "devices": [f"{over.devices[at][0]}:{over.devices[at][1]}" for at in places],
            },
        )
    return "\n".join(lines) + "\n"


def _meter(name: str, port: int) -> list[str]:
    return _table(f"meters.{name}", {"driver": METER_PROFILE, "host": "127.0.0.1", "port": port})


def _table(name: str, keys: dict[str, Any]) -> list[str]:
    return [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in keys.items()), ""]


def _toml(value: object) -> str:
    """Strings, whole numbers and lists of them are the same in JSON and TOML."""
    return json.dumps(value)
