"""The agent's configuration as typed, checked values; `agent.config_file` reads it from TOML.

Tables are keyed by name: `[feeders.row-a]`, `[banks.hall-a]`, `[meters.main]`, `[sensors.hall-a-inlet]`. Powers named
`device_...` or `node_...` are of one device or node, all others of the whole bank. A validation error's message says
after `fix:` what to write instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from agent.addresses import HOST_PATTERN, Address, parse_addresses
from agent.config_rules import check_whole
from agent.node_names import node_names
from contract.mqtt_settings import MqttSettings
from contract.units import DurationMs, HashrateGhs, Name, PowerW, TempMc

Options = dict[str, str | int | float | bool]
Host = Annotated[str, Field(pattern=HOST_PATTERN, description="a host name or an IP address")]
Port = Annotated[int, Field(ge=1, le=65_535)]
DeadlineS = Annotated[float, Field(gt=0, le=60)]
Milli = Annotated[int, Field(ge=0, le=1_000)]
PositiveMs = Annotated[int, Field(ge=1, le=24 * 3_600_000)]


class Settings(BaseModel):
    """Base of all tables: immutable, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteSettings(Settings):
    """`[site]`"""

    id: Name
    name: Annotated[str, Field(max_length=120)] = ""
    base_load_w: PowerW = 0
    """What the site draws besides its banks."""


class FailSafe(Settings):
    """`[fail_safe]`: what happens without a valid lease. What each bank then draws is the bank's `fail_safe_w`."""

    after_ms: DurationMs = 0
    """Time beyond the lease before the fail-safe takes hold."""
    handover_ms: DurationMs = 60_000
    """A first start, and the end of local control, hold the site as found for so long, until an order comes."""
    on_end: Literal["fail_safe", "hold"] = "fail_safe"
    """A clean end of the agent leaves the banks in their fail-safe, or as they are."""
    end_within_s: Annotated[float, Field(ge=0, le=120)] = 10.0
    """What a clean end waits for the last commands."""


class Timing(Settings):
    """`[timing]`: how often things are looked at."""

    report_every_ms: Annotated[int, Field(ge=200, le=600_000)] = 5_000
    obligation_report_every_ms: Annotated[int, Field(ge=200, le=600_000)] = 1_000
    guard_every_ms: Annotated[int, Field(ge=100, le=10_000)] = 1_000
    poll_every_ms: Annotated[int, Field(ge=500, le=600_000)] = 5_000
    meter_every_ms: Annotated[int, Field(ge=100, le=60_000)] = 1_000
    stale_ms: PositiveMs | None = None
    """A device's reading older than this counts for nothing; None: three polls."""
    meter_stale_ms: PositiveMs = 10_000
    settle_ms: PositiveMs = 20_000
    """What a device may take to fall to a lower setpoint, and a meter to show it."""
    drift_after_ms: PositiveMs = 30_000
    """How long a confirmed bank may be out of band before it has drifted."""
    reassert_ms: PositiveMs = 5_000
    """A command that did not take is given again after this, then ever more rarely ..."""
    reassert_max_ms: PositiveMs = 60_000
    """... down to this. A device that does not answer is polled no more rarely either."""
    stagger_ms: DurationMs = 30_000
    """Banks that start are spread over this span by chance."""

    @property
    def device_stale_ms(self) -> int:
        return self.stale_ms or 3 * self.poll_every_ms


class Limits(Settings):
    """`[limits]`: bounds of the work, and what the guard makes of meters."""

    in_flight: Annotated[int, Field(ge=4, le=10_000)] = 300
    """Device operations at once."""
    polls_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 128
    """Of those, readings; the rest is kept free for commands."""
    overload_after_ms: DurationMs = 3_000
    overload_trip_milli: Annotated[int, Field(ge=1_000, le=3_000)] = 1_100
    overload_trip_after_ms: DurationMs = 5_000
    overload_hold_ms: DurationMs = 300_000
    recover_ms: PositiveMs = 300_000
    on_meter_lost: Literal["hold", "plan"] = "hold"


class Tolerance(Settings):
    """`[tolerance]`: how far measured power may be from a setpoint and still confirm it."""

    meter_milli: Milli = 50
    devices_milli: Milli = 150
    """Devices' own figures are off by 5 to 20 %."""
    rated_milli: Milli = 20
    """Never tighter than this share of the bank's rated power."""


class Http(Settings):
    """`[http]`: where /metrics and /healthz are served. Port 0 takes a free one; no table, no server."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 9_481


class FeederSettings(Settings):
    """`[feeders.NAME]`"""

    parent: Name | None = None
    limit_w: PowerW
    meter: Name | None = None


class MeterSettings(Settings):
    """`[meters.NAME]`"""

    driver: Annotated[str, Field(min_length=1, max_length=64)]
    host: Host
    port: Port | None = None
    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    deadline_s: DeadlineS = 2.0
    options: dict[str, Any] = {}


class SensorSettings(MeterSettings):
    """`[sensors.NAME]`: of a bank's inlet, or of the air outside."""

    bank: Name | None = None
    ambient: bool = False

    @model_validator(mode="after")
    def _of_one_thing(self) -> Self:
        if (self.bank is not None) == self.ambient:
            raise ValueError('it must watch one thing; fix: give bank = "NAME", or ambient = true')
        return self


class DeviceSettings(Settings):
    """One device, or a range, that differs from its bank's others."""

    host: str
    port: Port | None = None
    rated_w: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    idle_w: PowerW | None = None
    options: Options | None = None

    @field_validator("host")
    @classmethod
    def _parses(cls, host: str) -> str:
        parse_addresses(host)
        return host

    def addresses(self) -> list[Address]:
        return [Address(host, port or self.port) for host, port in parse_addresses(self.host)]


class LevelSettings(Settings):
    """A point of one device's efficiency curve."""

    power_w: PowerW
    hashrate_ghs: HashrateGhs


class BankSettings(Settings):
    """What hash and HPC banks have in common."""

    feeder: Name
    model: Annotated[str, Field(max_length=120)] = ""
    min_up_ms: DurationMs = 0
    min_down_ms: DurationMs = 0
    start_delay_ms: DurationMs = 0
    start_cost_usd: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    ramp_up_w_per_s: PowerW = 0
    pue_milli: Annotated[int, Field(ge=1_000, le=5_000)] = 1_000
    fail_safe_w: PowerW | None = None
    meter: Name | None = None
    deadline_s: DeadlineS = 3.0
    max_inlet_mc: TempMc | None = None
    max_chip_mc: TempMc | None = None
    hysteresis_mc: Annotated[int, Field(ge=0, le=50_000)] = 5_000
    cool_ms: DurationMs = 300_000
    on_sensor_lost: Literal["hold", "stop"] = "hold"
    sensor_lost_after_ms: PositiveMs = 60_000


class HashBankSettings(BankSettings):
    """`[banks.NAME]` with `workload = "hash"`, which may be left out: ASICs of one model on one feeder."""

    workload: Literal["hash"] = "hash"
    driver: Annotated[str, Field(min_length=1, max_length=64)]
    options: Options = {}
    port: Port | None = None
    devices: Annotated[tuple[DeviceSettings, ...], Field(min_length=1)]
    device_rated_w: Annotated[int, Field(ge=1, le=1_000_000)]
    device_idle_w: PowerW = 0
    device_hashrate_ghs: HashrateGhs | None = None
    """At rated power; or give `device_levels`."""
    device_levels: tuple[LevelSettings, ...] = ()
    below_full: Literal["stop", "limit"] = "stop"
    """Below full power some devices stop, or all are limited alike where their firmware can."""
    hot_share_milli: Milli = 100
    """The bank trips where this share of its devices is too hot; a single hot device is stopped alone."""

    @field_validator("devices", mode="before")
    @classmethod
    def _short_form(cls, devices: object) -> object:
        if not isinstance(devices, list | tuple):
            return devices
        return [{"host": device} if isinstance(device, str) else device for device in devices]

    @model_validator(mode="after")
    def _curve(self) -> Self:
        if (self.device_hashrate_ghs is None) == (not self.device_levels):
            raise ValueError("its efficiency is unknown; fix: give either device_hashrate_ghs or device_levels")
        powers = [level.power_w for level in self.device_levels]
        if powers != sorted(set(powers)):
            raise ValueError("device_levels: power_w must rise from one to the next; fix: sort them")
        if powers and powers[-1] != self.device_rated_w:
            raise ValueError("device_levels: the last must be at device_rated_w; fix: add the rated level")
        if len(powers) > 1 and self.below_full == "stop":
            raise ValueError('device_levels below rated need power limits; fix: below_full = "limit", or one level')
        return self

    def levels(self) -> tuple[LevelSettings, ...]:
        """One device's efficiency curve."""
        if self.device_levels or self.device_hashrate_ghs is None:
            return self.device_levels
        return (LevelSettings(power_w=self.device_rated_w, hashrate_ghs=self.device_hashrate_ghs),)

    def expand(self) -> list[tuple[Address, DeviceSettings]]:
        """Every device with its address, in the order of the file."""
        return [
            (Address(host, port or self.port), device) for device in self.devices for host, port in device.addresses()
        ]


class SchedulerSettings(BaseModel):
    """`[banks.NAME.scheduler]`: the driver's name; every other key is the driver's own option."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    driver: Annotated[str, Field(min_length=1, max_length=64)]

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class HostsSettings(BaseModel):
    """`[banks.NAME.hosts]`: the power of the partition's nodes, by each one's own management controller or helper. The
    driver's name, and where they are; every other key is the driver's own option."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    driver: Annotated[str, Field(min_length=1, max_length=64)]
    nodes: Annotated[tuple[str, ...], Field(min_length=1)]
    """As the scheduler calls them; `gpu[001-400]` is a range."""
    url: Annotated[str, Field(max_length=500)]
    """Where a node's controller or helper serves; `{node}` stands for the node's name."""
    urls: dict[str, Annotated[str, Field(max_length=500)]] = {}
    """Of nodes where that is another."""
    deadline_s: DeadlineS = 5.0
    capped_w: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The least that a node is capped at, all of it. Without this hosts are read, and no node is capped."""
    other_w: PowerW = 0
    """What a node draws besides what its host limits, where that is its accelerators alone."""
    every_ms: DurationMs = 10_000
    """How often they are read."""

    @field_validator("nodes")
    @classmethod
    def _parse(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(node_names(nodes))

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        unknown = sorted(self.urls.keys() - set(self.nodes))
        if unknown:
            raise ValueError(f"urls names {unknown[0]!r}, which is not in nodes; fix: add it to nodes, or take it out")
        plain = [node for node in self.nodes if node not in self.urls]
        if len(plain) > 1 and "{node}" not in self.url:
            raise ValueError('url is the same for all nodes; fix: write {node} in it, as "https://{node}-bmc.example"')
        return self

    def url_of(self, node: str) -> str:
        """Where a node's controller or helper serves."""
        return self.urls.get(node) or self.url.replace("{node}", node)

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class HpcBankSettings(BankSettings):
    """`[banks.NAME]` with `workload = "hpc"`: one partition of a scheduler."""

    workload: Literal["hpc"]
    scheduler: SchedulerSettings
    hosts: HostsSettings | None = None
    nodes: Annotated[int, Field(ge=1, le=1_000_000)]
    node_rated_w: Annotated[int, Field(ge=1, le=1_000_000)]
    node_idle_w: PowerW = 0
    deep_after_ms: DurationMs = 60_000
    """How long idle nodes and frozen jobs must draw too much before jobs are requeued and nodes powered down for it."""


def _workload(bank: object) -> str:
    kind = bank.get("workload", "hash") if isinstance(bank, dict) else getattr(bank, "workload", "hash")
    return "hpc" if kind == "hpc" else "hash"


AnyBank = Annotated[
    Annotated[HashBankSettings, Tag("hash")] | Annotated[HpcBankSettings, Tag("hpc")], Discriminator(_workload)
]


class AgentConfig(Settings):
    """All of it."""

    site: SiteSettings
    mqtt: MqttSettings
    fail_safe: FailSafe = FailSafe()
    timing: Timing = Timing()
    limits: Limits = Limits()
    tolerance: Tolerance = Tolerance()
    http: Http | None = None
    state_file: Path = Path("wattshift-agent-state.json")
    control_dir: Path | None = None
    """A person on site takes charge with a file here: `local` for the site, `lockout-BANK` for one bank."""
    feeders: Annotated[dict[Name, FeederSettings], Field(min_length=1)]
    meters: dict[Name, MeterSettings] = {}
    sensors: dict[Name, SensorSettings] = {}
    banks: Annotated[dict[Name, AnyBank], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _client_id(cls, tree: object) -> object:
        """The MQTT client id follows from the site's, unless it is given."""
        if not isinstance(tree, dict) or not isinstance(tree.get("mqtt"), dict):
            return tree
        site = tree.get("site")
        name = site.get("id") if isinstance(site, dict) else getattr(site, "id", None)
        return tree | {"mqtt": {"identifier": f"wattshift-agent-{name}"} | tree["mqtt"]}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_whole(self)
        return self
