"""A hybrid site over real Slurm nodes: ASICs behind real sockets, Modbus meters that show what all of it draws."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent.drivers.meters.modbus import PROFILES
from agent.drivers.meters.profile import load_profile
from bench.hpc_meter import Seen
from bench.plant import METER_PROFILE
from bench.process import Child, child
from contract.mqtt_settings import MqttSettings
from sim.devices.farm import DeviceSpec, Farm
from sim.devices.log import CommandLog
from sim.devices.machine import MODELS, FirstOrderAsic
from sim.devices.modbus import ModbusMeterServer, Truth
from sim.slurm import SlurmCluster

CPUS: Final = 16
"""Of a node."""
NODE_IDLE_W: Final = 1_500
NODE_BUSY_W: Final = 6_000
BASE_W: Final = 500
STOP_TAU_S: Final = 1.0
"""LuxOS goes from full power to about 25 W in under 5 s by its vendor's word, and comes back in under 10 s."""
BOOT_S: Final = 8.0
LATENCY_S: Final = 0.02
FIRMWARE: Final = "luxos"


class QuickAsic(FirstOrderAsic):
    """A machine that stops as fast as this firmware does."""

    __slots__ = ()

    def sleep(self) -> None:
        self._asleep = True
        self._move(self.model.sleep_w, STOP_TAU_S)


@dataclass(slots=True)
class HybridSite:
    """Its physics and its sockets."""

    name: str
    partition: str
    nodes: frozenset[str]
    machines: list[QuickAsic]
    log: CommandLog
    seen: Callable[[], Seen]
    devices: list[tuple[str, int]]
    ports: dict[str, int]

    @property
    def hash_w(self) -> float:
        return sum(machine.power_w for machine in self.machines)

    @property
    def hpc_w(self) -> float:
        return hpc_w(self.seen(), self.nodes)

    @property
    def power_w(self) -> float:
        """True power at the main meter."""
        return self.hash_w + self.hpc_w + BASE_W

    @property
    def full_w(self) -> int:
        """With every machine at rated power and every node busy."""
        return sum(machine.model.rated_w for machine in self.machines) + NODE_BUSY_W * len(self.nodes) + BASE_W


def hpc_w(seen: Seen, nodes: frozenset[str]) -> float:
    """What these nodes draw with the processes that are on them."""
    return NODE_IDLE_W * len(nodes) + (NODE_BUSY_W - NODE_IDLE_W) / CPUS * seen.busy_cpus(nodes)


@contextlib.asynccontextmanager
async def hybrid_site(
    name: str, partition: str, nodes: frozenset[str], asics: int, seen: Callable[[], Seen], time_s: Callable[[], float]
) -> AsyncIterator[HybridSite]:
    """Start its miners and meters for the length of the block. Without ASICs it is a bare HPC site."""
    model = replace(MODELS[FIRMWARE], boot_s=BOOT_S)
    machines = [QuickAsic(model, f"{name}-{number}", time_s, latency_s=LATENCY_S) for number in range(asics)]
    farm = Farm(log=CommandLog())
    devices = await farm.start([DeviceSpec(FIRMWARE, machine) for machine in machines])
    site = HybridSite(name, partition, nodes, machines, farm.log, seen, devices, {})
    profile = load_profile(PROFILES, METER_PROFILE)
    truths: dict[str, Callable[[], float]] = {"main": lambda: site.power_w, "hpc": lambda: site.hpc_w}
    if asics:
        truths["row"] = lambda: site.hash_w
    meters = {key: ModbusMeterServer(profile, _truth(read)) for key, read in truths.items()}
    try:
        for key, meter in meters.items():
            site.ports[key] = await meter.start("127.0.0.1")
        yield site
    finally:
        for meter in meters.values():
            await meter.stop()
        await farm.stop()


@contextlib.asynccontextmanager
async def site_agent(site: HybridSite, cluster: SlurmCluster, mqtt: MqttSettings, folder: Path) -> AsyncIterator[Child]:
    """Start `agent.daemon` over it."""
    own = folder / site.name
    own.mkdir()
    (own / "agent.toml").write_text(agent_config(site, cluster, mqtt), encoding="utf-8")
    arguments = ("--config", str(own / "agent.toml"), "--log-level", "info")
    async with child(f"agent-{site.name}", own, "agent.daemon", *arguments) as process:
        yield process


def agent_config(site: HybridSite, cluster: SlurmCluster, mqtt: MqttSettings) -> str:
    """The agent's TOML, as an operator would write it."""
    limit_w = 2 * site.full_w
    lines = [
        'state_file = "agent-state.json"',
        *_table("site", {"id": site.name, "base_load_w": BASE_W}),
        *_table("mqtt", {"host": mqtt.host, "port": mqtt.port}),
        *_table("http", {"port": 0}),
        *_table("fail_safe", {"on_end": "hold", "handover_ms": 3_600_000}),
        *_table("timing", {"stagger_ms": 0, "meter_every_ms": 500, "poll_every_ms": 2_000, "settle_ms": 4_000}),
        *_table("feeders.main", {"limit_w": limit_w, "meter": "main"}),
    ]
    for key, port in site.ports.items():
        if key != "main":
            lines += _table(f"feeders.{key}", {"parent": "main", "limit_w": limit_w, "meter": key})
        lines += _table(f"meters.{key}", {"driver": METER_PROFILE, "host": "127.0.0.1", "port": port})
    if site.machines:
        model = site.machines[0].model
        table = {"feeder": "row", "driver": FIRMWARE, "model": model.name, "device_rated_w": model.rated_w}
        table |= {"device_idle_w": model.sleep_w, "device_hashrate_ghs": model.hashrate_ghs}
        table |= {"devices": [f"{host}:{port}" for host, port in site.devices]}
        lines += _table("banks.hall", table)
    lines += _table(
        "banks.hpc",
        {
            "workload": "hpc",
            "feeder": "hpc",
            "nodes": len(site.nodes),
            "node_rated_w": NODE_BUSY_W,
            "node_idle_w": NODE_IDLE_W,
        },
    )
    lines += _table("banks.hpc.scheduler", {"driver": "slurm_rest"} | scheduler(cluster, site.partition))
    return "\n".join(lines) + "\n"


def scheduler(cluster: SlurmCluster, partition: str) -> dict[str, Any]:
    """The options of `[banks.NAME.scheduler]`."""
    return {
        "url": cluster.url,
        "user": cluster.user,
        "token_file": str(cluster.token_file),
        "partition": partition,
        "node_busy_w": NODE_BUSY_W,
        "node_idle_w": NODE_IDLE_W,
        "scancel": shutil.which("scancel"),
        "scontrol": shutil.which("scontrol"),
        "slurm_conf": str(cluster.folder / "slurm.conf"),
    }


def _truth(power_w: Callable[[], float]) -> Callable[[], Truth]:
    return lambda: {"power_w": power_w(), "voltage_mv": 480e3, "frequency_mhz": 60e3}


def _table(name: str, keys: dict[str, Any]) -> list[str]:
    return [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
