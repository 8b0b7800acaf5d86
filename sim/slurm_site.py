"""A hybrid site over nodes of a real Slurm: ASICs behind real sockets, Modbus meters that show what all of it draws.

Beside `sim.site`, whose HPC partition is simulated, here the HPC side is what the kernel says of real processes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agent.drivers.meters.modbus import PROFILES
from agent.drivers.meters.profile import load_profile
from sim.devices.farm import DeviceSpec, Farm
from sim.devices.log import CommandLog
from sim.devices.machine import MODELS, FirstOrderAsic
from sim.devices.modbus import ModbusMeterServer, Truth
from sim.devices.redfish import Machine, Make, RedfishServer
from sim.process_meter import Seen
from sim.site import METER_PROFILE
from sim.slurm import SlurmCluster

CPUS: Final = 16
"""Of a node."""
NODE_IDLE_W: Final = 1_500
NODE_BUSY_W: Final = 6_000
NODE_CAPPED_W: Final = 3_000
"""The least that a node's controller takes as a limit."""
BASE_W: Final = 500
STOP_TAU_S: Final = 1.0
"""LuxOS goes from full power to about 25 W in under 5 s by its vendor's word, and comes back in under 10 s."""
BOOT_S: Final = 8.0
LATENCY_S: Final = 0.02
FIRMWARE: Final = "luxos"
BMC_USER: Final = ("admin", "secret")
"""And the password."""


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
    bmcs: dict[str, RedfishServer] = field(default_factory=dict)
    """By node, where the nodes have controllers."""
    bmc_ports: dict[str, int] = field(default_factory=dict)

    @property
    def hash_w(self) -> float:
        return sum(machine.power_w for machine in self.machines)

    @property
    def hpc_w(self) -> float:
        """Where nodes have controllers, each holds what its processes want to the limit that is in force."""
        if not self.bmcs:
            return hpc_w(self.seen(), self.nodes)
        seen = self.seen()
        for node, bmc in self.bmcs.items():
            bmc.machine.demand_w = round(hpc_w(seen, frozenset([node])))
        return float(sum(bmc.machine.power_w for bmc in self.bmcs.values()))

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
    name: str,
    partition: str,
    nodes: frozenset[str],
    asics: int,
    seen: Callable[[], Seen],
    time_s: Callable[[], float],
    *,
    with_bmcs: bool = False,
) -> AsyncIterator[HybridSite]:
    """Start its miners, its meters and, where asked for, a Redfish controller for each node, for the length of the
    block. Without ASICs it is a bare HPC site."""
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
    if with_bmcs:
        make = Make(range_w=(NODE_CAPPED_W, NODE_BUSY_W))
        site.bmcs = {
            node: RedfishServer(Machine(idle_w=NODE_IDLE_W, demand_w=NODE_IDLE_W), make, user=BMC_USER)
            for node in nodes
        }
    try:
        for key, meter in meters.items():
            site.ports[key] = await meter.start("127.0.0.1")
        for node, bmc in site.bmcs.items():
            site.bmc_ports[node] = await bmc.start()
        yield site
    finally:
        for meter in meters.values():
            await meter.stop()
        for bmc in site.bmcs.values():
            await bmc.stop()
        await farm.stop()


def agent_tables(
    site: HybridSite, cluster: SlurmCluster, mqtt: Mapping[str, Any], state_file: str, password_file: str = ""
) -> dict[str, Any]:
    """The tables of the agent's TOML, as an operator would write them. `password_file` is the controllers'."""
    limit_w = 2 * site.full_w
    meter = {"driver": "modbus", "host": "127.0.0.1", "options": {"profile": METER_PROFILE}}
    feeders: dict[str, Any] = {
        key: {"limit_w": limit_w, "meter": key} | ({} if key == "main" else {"parent": "main"}) for key in site.ports
    }
    banks: dict[str, Any] = {
        "hpc": {
            "workload": "hpc",
            "feeder": "hpc",
            "nodes": len(site.nodes),
            "node_rated_w": NODE_BUSY_W,
            "node_idle_w": NODE_IDLE_W,
            "scheduler": {"driver": "slurm_rest"} | scheduler(cluster, site.partition),
        }
    }
    if site.bmcs:
        banks["hpc"]["hosts"] = {
            "driver": "redfish",
            "nodes": sorted(site.bmcs),
            "url": "https://{node}-bmc.invalid",
            "urls": {node: f"http://127.0.0.1:{port}" for node, port in site.bmc_ports.items()},
            "username": BMC_USER[0],
            "password_file": password_file,
            "capped_w": NODE_CAPPED_W,
            "every_ms": 2_000,
        }
    if site.machines:
        model = site.machines[0].model
        banks["hall"] = {
            "feeder": "row",
            "driver": FIRMWARE,
            "model": model.name,
            "device_rated_w": model.rated_w,
            "device_idle_w": model.sleep_w,
            "device_hashrate_ghs": model.hashrate_ghs,
            "devices": [f"{host}:{port}" for host, port in site.devices],
        }
    return {
        "state_file": state_file,
        "site": {"id": site.name, "base_load_w": BASE_W},
        "mqtt": dict(mqtt),
        "fail_safe": {"on_end": "hold", "handover_ms": 3_600_000},
        "timing": {"stagger_ms": 0, "meter_every_ms": 500, "poll_every_ms": 2_000, "settle_ms": 4_000},
        "feeders": feeders,
        "meters": {key: meter | {"port": port} for key, port in site.ports.items()},
        "banks": banks,
    }


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
