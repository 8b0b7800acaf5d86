"""A whole simulated site: the plant, and in front of it every device server an agent talks to.

The agent that is pointed at it is the real one: `agent_tables` gives the configuration that an operator of such a site
would write, with the figures of the plant's own nameplate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.config import AgentConfig
from agent.drivers.meters.modbus import PROFILES
from agent.drivers.meters.profile import load_profile
from agent.drivers.sensors.modbus import PROFILES as SENSOR_PROFILES
from contract.clock import Clock
from contract.messages import BankPlate, Nameplate
from contract.mqtt_settings import MqttSettings
from sim.devices.braiins import PASSWORD
from sim.devices.farm import DeviceSpec, Farm
from sim.devices.log import CommandLog
from sim.devices.modbus import MeterFault, ModbusServer, ModbusUnit
from sim.devices.slurmrestd import SlurmRestServer
from sim.jobs import JobSpec
from sim.partition import PartitionPlan
from sim.plant import BankPlan, Plant, Rules, SitePlan, nameplate
from sim.plant.truth import levels

METER_PROFILE: Final = "schneider_pm5340"
SENSOR_PROFILE: Final = "seneca_z_4rtd"
SENSOR_UNITS_FROM: Final = 100
"""Above the meters' on the same gateway."""
DRIVERS: Final = {
    "luxos": "luxos",
    "braiins": "braiins",
    "whatsminer": "whatsminer_v2",
    "antminer": "antminer",
    "cgminer": "cgminer",
}
"""The agent's driver for each simulated firmware."""
LIMITABLE: Final = frozenset({"luxos", "braiins", "whatsminer"})


@dataclass(frozen=True, slots=True)
class SiteKit:
    """What stands on the site beside its physics, and how its owner wants it run."""

    plan: SitePlan
    firmware: Mapping[str, str]
    """By bank, a key of `DRIVERS`."""
    rules: Rules = field(default_factory=Rules)
    timing: Mapping[str, int] = field(default_factory=dict)
    """`[timing]` of the agent."""
    fail_safe: Mapping[str, int] = field(default_factory=dict)
    """`[fail_safe]` of the agent, beside what `rules` say."""
    deadline_s: float = 3.0
    """Of every device operation, wall seconds."""
    max_inlet_c: Mapping[str, float] = field(default_factory=dict)
    """Where the agent stops a bank, by bank."""
    sensors: bool = False
    """A probe in the supply of every hall with banks that have such a limit."""
    unmetered: frozenset[str] = frozenset()
    """Feeders without a meter."""


class SimSite:
    """Start it on the running loop, real or virtual; stop it on the same one."""

    def __init__(
        self,
        kit: SiteKit,
        *,
        seed: int,
        clock: Clock,
        jobs: Mapping[str, Iterable[JobSpec]] | None = None,
        slurm_socket: Callable[[str], str] | None = None,
        grain_ms: int = 1,
    ) -> None:
        """`slurm_socket`: a unix socket path for a partition's server; without it TCP on loopback. `grain_ms`: meters
        and sensors show the physics as of the last whole multiple of it; finer costs steps."""
        self.kit = kit
        self.clock = clock
        self.plant = Plant(kit.plan, seed, clock.wall_ms(), jobs=jobs, now_ms=clock.wall_ms)
        self.plate: Nameplate = nameplate(kit.plan, rules=kit.rules)
        self.log = CommandLog()
        self.meter_faults: dict[str, MeterFault] = {}
        """By feeder."""
        self.sensor_faults: dict[str, MeterFault] = {}
        """By hall."""
        self._slurm_socket = slurm_socket
        self._grain_ms = grain_ms
        self._farm = Farm(clock, self.log)
        self._meters: ModbusServer | None = None
        self._meter_units: dict[str, int] = {}
        self._sensor_units: dict[str, int] = {}
        self._slurm: dict[str, SlurmRestServer] = {}
        self._addresses: dict[str, list[tuple[str, int]]] = {}
        self._meter_port = 0
        self._slurm_urls: dict[str, str] = {}

    async def start(self) -> None:
        """Bring every device server up."""
        specs = [
            DeviceSpec(self.kit.firmware[bank.id], machine)
            for bank in self.kit.plan.banks
            for machine in self.plant.machines(bank.id)
        ]
        addresses = iter(await self._farm.start(specs))
        for bank in self.kit.plan.banks:
            self._addresses[bank.id] = [next(addresses) for _ in range(bank.devices)]
        self._meters = ModbusServer(self._units())
        self._meter_port = await self._meters.start()
        for part in self.kit.plan.partitions:
            server = SlurmRestServer(self.plant.partitions[part.id], clock=self.clock, log=self.log)
            self._slurm[part.id] = server
            if self._slurm_socket is None:
                self._slurm_urls[part.id] = f"http://127.0.0.1:{await server.start()}"
            else:
                path = self._slurm_socket(part.id)
                await server.start_unix(path)
                self._slurm_urls[part.id] = f"unix:{path}"

    async def stop(self) -> None:
        await self._farm.stop()
        if self._meters is not None:
            await self._meters.stop()
        for server in self._slurm.values():
            await server.stop()

    async def run_plant(self, every_s: float) -> None:
        """Advance the physics with the clock until cancelled, `every_s` seconds of the loop apart."""
        while True:
            self.plant.advance_to(self.clock.wall_ms())
            await asyncio.sleep(every_s)

    def agent_config(self, mqtt: MqttSettings, state_file: Path) -> AgentConfig:
        """The agent's configuration. Call it once `start` is through, for it names the ports."""
        return AgentConfig.model_validate(self.agent_tables(mqtt.model_dump(mode="json"), state_file))

    def agent_tables(self, mqtt: Mapping[str, Any], state_file: Path) -> dict[str, Any]:
        """The tables of the agent's TOML file."""
        plan = self.kit.plan
        feeders = {
            feeder.id: {"limit_w": int(feeder.limit_w)}
            | ({"parent": feeder.parent} if feeder.parent else {})
            | ({"meter": feeder.id} if feeder.id not in self.kit.unmetered else {})
            for feeder in plan.feeders
        }
        meters = {
            feeder.id: {
                "driver": "modbus",
                "host": "127.0.0.1",
                "port": self._meter_port,
                "unit_id": self._meter_units[feeder.id],
                "deadline_s": self.kit.deadline_s,
                "options": {"profile": METER_PROFILE},
            }
            for feeder in plan.feeders
            if feeder.id not in self.kit.unmetered
        }
        plates = {plate.id: plate for plate in self.plate.banks}
        banks = {bank.id: self._hash_table(bank, plates[bank.id]) for bank in plan.banks}
        banks |= {part.id: self._hpc_table(part, plates[part.id]) for part in plan.partitions}
        return {
            "site": {"id": plan.id, "base_load_w": self.plate.base_load_w},
            "mqtt": dict(mqtt),
            "timing": {"report_every_ms": self.plate.report_every_ms} | dict(self.kit.timing),
            "fail_safe": {"after_ms": self.plate.fail_safe_after_ms} | dict(self.kit.fail_safe),
            "state_file": str(state_file),
            "feeders": feeders,
            "meters": meters,
            "sensors": self._sensor_tables(),
            "banks": banks,
        }

    def device_addresses(self) -> list[tuple[str, int]]:
        """Where every miner, meter and sensor of the site listens."""
        return [*(each for bank in self._addresses.values() for each in bank), ("127.0.0.1", self._meter_port)]

    def _units(self) -> dict[int, ModbusUnit]:
        profile = load_profile(PROFILES, METER_PROFILE)
        units = {}
        for number, feeder in enumerate(self.kit.plan.feeders, start=1):
            self._meter_units[feeder.id] = number
            units[number] = ModbusUnit(
                profile, partial(self._metered, feeder.id), fault=partial(self.meter_faults.get, feeder.id)
            )
        probe = load_profile(SENSOR_PROFILES, SENSOR_PROFILE)
        halls = {bank.hall for bank in self.kit.plan.banks if bank.id in self.kit.max_inlet_c}
        for number, hall in enumerate(sorted(halls) if self.kit.sensors else (), start=SENSOR_UNITS_FROM):
            self._sensor_units[hall] = number
            units[number] = ModbusUnit(probe, partial(self._probed, hall), fault=partial(self.sensor_faults.get, hall))
        return units

    def _probed(self, hall: str) -> Mapping[str, float | None]:
        self._advance()
        return {"channel_1_mc": self.plant.hall_supply_mc(hall)}

    def _sensor_tables(self) -> dict[str, Any]:
        return {
            f"{bank.id}-inlet": {
                "driver": "modbus",
                "host": "127.0.0.1",
                "port": self._meter_port,
                "unit_id": self._sensor_units[bank.hall],
                "deadline_s": self.kit.deadline_s,
                "options": {"profile": SENSOR_PROFILE, "channel": 1},
                "bank": bank.id,
            }
            for bank in self.kit.plan.banks
            if bank.id in self.kit.max_inlet_c and bank.hall in self._sensor_units
        }

    def _metered(self, feeder: str) -> Mapping[str, float | None]:
        self._advance()
        return self.plant.meter(feeder)

    def _advance(self) -> None:
        now_ms = self.clock.wall_ms()
        self.plant.advance_to(now_ms - now_ms % self._grain_ms)

    def _hash_table(self, bank: BankPlan, plate: BankPlate) -> dict[str, Any]:
        firmware = self.kit.firmware[bank.id]
        table = _common(plate) | {
            "workload": "hash",
            "driver": DRIVERS[firmware],
            "deadline_s": self.kit.deadline_s,
            "device_rated_w": bank.model.rated_w,
            "device_idle_w": bank.model.sleep_w,
            "devices": [_device(firmware, host, port) for host, port in self._addresses[bank.id]],
        }
        if firmware in LIMITABLE:
            table["options"] = {"min_power_w": bank.model.min_power_w, "max_power_w": bank.model.rated_w}
            table["below_full"] = "limit"
            curve = levels(bank.model, 1)
            table["device_levels"] = [{"power_w": at.power_w, "hashrate_ghs": at.hashrate_ghs} for at in curve]
        else:
            table["device_hashrate_ghs"] = bank.model.hashrate_ghs
        if bank.id in self.kit.max_inlet_c:
            table["max_inlet_mc"] = round(self.kit.max_inlet_c[bank.id] * 1_000)
        return table

    def _hpc_table(self, part: PartitionPlan, plate: BankPlate) -> dict[str, Any]:
        return _common(plate) | {
            "workload": "hpc",
            "deadline_s": self.kit.deadline_s,
            "nodes": part.nodes,
            "node_rated_w": round(part.busy_w),
            "node_idle_w": round(part.idle_w),
            "scheduler": {
                "driver": "slurm_rest",
                "url": self._slurm_urls[part.id],
                "partition": part.id,
                "node_busy_w": round(part.busy_w),
                "node_idle_w": round(part.idle_w),
            },
        }


def _common(plate: BankPlate) -> dict[str, Any]:
    return {
        "feeder": plate.feeder,
        "model": plate.model,
        "min_up_ms": plate.min_up_ms,
        "min_down_ms": plate.min_down_ms,
        "start_delay_ms": plate.start_delay_ms,
        "start_cost_usd": plate.start_cost_usd,
        "ramp_up_w_per_s": plate.ramp_up_w_per_s,
        "pue_milli": plate.pue_milli,
        "fail_safe_w": plate.fail_safe_w,
    }


def _device(firmware: str, host: str, port: int) -> dict[str, Any]:
    options: dict[str, Any] = {"http_port": port, "password": PASSWORD} if firmware == "braiins" else {}
    return {"host": host, "port": port} | ({"options": options} if options else {})
