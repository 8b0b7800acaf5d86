"""From the configuration to living objects: drivers, devices, banks and gauges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol, Self, TypeVar

from pydantic import ValidationError

from agent.bank import HashBank
from agent.config import AgentConfig, HashBankSettings, HostsSettings, HpcBankSettings, MeterSettings
from agent.config_rules import ConfigError
from agent.contain import Containment
from agent.device import Device
from agent.drivers.base import Meter, Miner, MissingExtraError, Partition, Sensor
from agent.drivers.hosts.group import HostGroup, UsesHosts
from agent.drivers.hosts.host import Host
from agent.fleet import BankRules, Fleet, FleetBounds
from agent.gauges import Gauge, Gauges
from agent.job_ladder import Nodes
from agent.partition import HpcBank
from agent.partition_hosts import PartitionHosts
from contract.clock import Clock

D = TypeVar("D")
CLOSING_AT_ONCE: Final = 256
CLOSE_WITHIN_S: Final = 5.0


class MinerMaker(Protocol):
    def __call__(
        self, host: str, port: int | None, options: Mapping[str, Any], *, deadline_s: float, clock: Clock
    ) -> Miner: ...


class MeterMaker(Protocol):
    def __call__(
        self, host: str, port: int | None, unit_id: int, options: Mapping[str, Any], *, deadline_s: float, clock: Clock
    ) -> Meter: ...


class SensorMaker(Protocol):
    def __call__(
        self, host: str, port: int | None, unit_id: int, options: Mapping[str, Any], *, deadline_s: float, clock: Clock
    ) -> Sensor: ...


class PartitionMaker(Protocol):
    def __call__(self, options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> Partition: ...


class HostMaker(Protocol):
    def __call__(self, url: str, options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> Host: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverRegistry:
    """The drivers that a configuration may name, by kind."""

    miners: Mapping[str, MinerMaker]
    meters: Mapping[str, MeterMaker]
    sensors: Mapping[str, SensorMaker]
    schedulers: Mapping[str, PartitionMaker]
    hosts: Mapping[str, HostMaker] = field(default_factory=dict)

    @classmethod
    def installed(cls) -> Self:
        """All drivers that Wattshift has."""
        from agent.drivers import hosts, meters, miners, schedulers, sensors

        return cls(
            miners=miners.REGISTRY,
            meters=meters.REGISTRY,
            sensors=sensors.REGISTRY,
            schedulers=schedulers.REGISTRY,
            hosts=hosts.REGISTRY,
        )


@dataclass(slots=True, kw_only=True)
class Machinery:
    """Everything of the site that talks to something."""

    banks: list[HashBank | HpcBank]
    """In the order of the configuration."""
    devices: list[Device]
    fleet: Fleet
    gauges: Gauges
    contain: Containment
    hosts: dict[str, HostGroup] = field(default_factory=dict)
    """The nodes' own power, by bank, where the configuration says how to reach it."""

    async def close(self) -> None:
        """Stop all work, then have the drivers give back sessions and connections, within a bound of time."""
        await self.fleet.close()
        gate = asyncio.Semaphore(CLOSING_AT_ONCE)

        async def let_go(device: Device) -> None:
            async with gate:
                await self.contain.run(device.driver.close(), CLOSE_WITHIN_S, device.driver)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await asyncio.gather(*(let_go(device) for device in self.devices))
        for hosts in self.hosts.values():
            await self.contain.run(hosts.close(), CLOSE_WITHIN_S, hosts)
        await self.gauges.close()

    @property
    def hash_banks(self) -> list[HashBank]:
        return [bank for bank in self.banks if isinstance(bank, HashBank)]

    @property
    def hpc_banks(self) -> list[HpcBank]:
        return [bank for bank in self.banks if isinstance(bank, HpcBank)]


def build(
    config: AgentConfig,
    registry: DriverRegistry,
    *,
    clock: Clock,
    rng: Random,
    on_reading: Callable[[], None],
    on_partition: Callable[[], None],
) -> Machinery:
    """Make all drivers; nothing is sent yet. Raises `ConfigError` for a driver or an option that cannot be used."""
    contain = Containment()
    banks: list[HashBank | HpcBank] = []
    devices: list[Device] = []
    hosts: dict[str, HostGroup] = {}

    def changed(place: int) -> None:
        bank = banks[place]
        if isinstance(bank, HashBank):
            bank.dirty = True

    def commanded(place: int) -> None:
        if banks[place].first_command_ms is None:
            banks[place].first_command_ms = clock.mono_ms()

    fleet = Fleet(
        [_rules(bank) for bank in config.banks.values()],
        _bounds(config),
        clock=clock,
        rng=rng,
        on_change=changed,
        on_command=commanded,
        contain=contain,
    )
    for place, (name, settings) in enumerate(config.banks.items()):
        if isinstance(settings, HpcBankSettings):
            if settings.hosts is not None:
                hosts[name] = _hosts(name, settings.hosts, registry, clock)
            banks.append(_hpc_bank(config, name, settings, registry, clock, contain, on_partition, hosts.get(name)))
        else:
            own = _devices(place, name, settings, registry, clock)
            devices += own
            banks.append(_hash_bank(config, name, settings, own, fleet, clock))
    gauges = Gauges(_gauges(config, registry, clock), clock, contain, on_reading)
    return Machinery(banks=banks, devices=devices, fleet=fleet, gauges=gauges, contain=contain, hosts=hosts)


def _rules(bank: HashBankSettings | HpcBankSettings) -> BankRules:
    limit_mc = bank.max_chip_mc
    return BankRules(bank.deadline_s, limit_mc, None if limit_mc is None else limit_mc - bank.hysteresis_mc)


def _bounds(config: AgentConfig) -> FleetBounds:
    return FleetBounds(
        in_flight=config.limits.in_flight,
        polls_in_flight=config.limits.polls_in_flight,
        poll_every_ms=config.timing.poll_every_ms,
        reassert_ms=config.timing.reassert_ms,
        reassert_max_ms=config.timing.reassert_max_ms,
    )


def _devices(place: int, name: str, settings: HashBankSettings, registry: DriverRegistry, clock: Clock) -> list[Device]:
    make = _named(registry.miners, settings.driver, f"banks.{name}.driver")
    devices = []
    for address, own in settings.expand():
        options = settings.options if own.options is None else settings.options | own.options

        def driver(
            host: str = address.host, port: int | None = address.port, options: Mapping[str, Any] = options
        ) -> Miner:
            return make(host, port, options, deadline_s=settings.deadline_s, clock=clock)

        devices.append(
            Device(
                f"{name}/{address}",
                place,
                _made(driver, f"banks.{name}.options"),
                own.rated_w or settings.device_rated_w,
                settings.device_idle_w if own.idle_w is None else own.idle_w,
                young_ms=settings.start_delay_ms,
            )
        )
    return devices


def _hash_bank(
    config: AgentConfig, name: str, settings: HashBankSettings, devices: Sequence[Device], fleet: Fleet, clock: Clock
) -> HashBank:
    return HashBank(
        name,
        devices,
        fleet,
        clock=clock,
        stale_ms=config.timing.device_stale_ms,
        settle_ms=config.timing.settle_ms,
        hot_share_milli=settings.hot_share_milli,
        spread=settings.below_full == "limit",
    )


def _hpc_bank(
    config: AgentConfig,
    name: str,
    settings: HpcBankSettings,
    registry: DriverRegistry,
    clock: Clock,
    contain: Containment,
    on_partition: Callable[[], None],
    hosts: HostGroup | None,
) -> HpcBank:
    key = f"banks.{name}.scheduler"
    make = _named(registry.schedulers, settings.scheduler.driver, f"{key}.driver")
    partition = _made(
        lambda: make(settings.scheduler.options, deadline_s=settings.deadline_s, clock=clock),
        key,
    )
    if hosts is not None and isinstance(partition, UsesHosts):
        partition.use_hosts(hosts)
    return HpcBank(
        name,
        partition,
        Nodes(
            settings.nodes,
            settings.node_rated_w,
            settings.node_idle_w,
            capped_w=None if settings.hosts is None else settings.hosts.capped_w,
        ),
        deadline_s=settings.deadline_s,
        stale_ms=config.timing.device_stale_ms,
        settle_ms=config.timing.settle_ms,
        deep_after_ms=settings.deep_after_ms,
        clock=clock,
        contain=contain,
        on_change=on_partition,
        hosts=None if hosts is None else _partition_hosts(settings, hosts, clock),
    )


def _partition_hosts(settings: HpcBankSettings, group: HostGroup, clock: Clock) -> PartitionHosts | None:
    hosts = settings.hosts
    if hosts is None:
        return None
    return PartitionHosts(
        group, deadline_s=hosts.deadline_s, every_ms=hosts.every_ms, clock=clock, other_w=hosts.other_w
    )


def _hosts(name: str, settings: HostsSettings, registry: DriverRegistry, clock: Clock) -> HostGroup:
    """The power of a partition's nodes."""
    key = f"banks.{name}.hosts"
    make = _named(registry.hosts, settings.driver, f"{key}.driver")

    def host(node: str) -> Host:
        url = settings.url_of(node)
        return _made(lambda: make(url, settings.options, deadline_s=settings.deadline_s, clock=clock), key)

    return HostGroup({node: host(node) for node in settings.nodes}, deadline_s=settings.deadline_s)


def _gauges(config: AgentConfig, registry: DriverRegistry, clock: Clock) -> list[Gauge]:
    gauges = []
    for name, settings in config.meters.items():
        meter = _gauge_driver(registry.meters, settings, f"meters.{name}", clock)
        gauges.append(Gauge(f"meters.{name}", settings.deadline_s, meter=meter))
    for name, settings in config.sensors.items():
        sensor = _gauge_driver(registry.sensors, settings, f"sensors.{name}", clock)
        gauges.append(Gauge(f"sensors.{name}", settings.deadline_s, sensor=sensor))
    return gauges


class _GaugeMaker(Protocol[D]):  # type: ignore[misc]  # D only comes out
    def __call__(
        self, host: str, port: int | None, unit_id: int, options: Mapping[str, Any], *, deadline_s: float, clock: Clock
    ) -> D: ...


def _gauge_driver(makers: Mapping[str, _GaugeMaker[D]], settings: MeterSettings, key: str, clock: Clock) -> D:
    make = _named(makers, settings.driver, f"{key}.driver")
    return _made(
        lambda: make(
            settings.host,
            settings.port,
            settings.unit_id,
            settings.options,
            deadline_s=settings.deadline_s,
            clock=clock,
        ),
        f"{key}.options",
    )


def _named(makers: Mapping[str, D], name: str, key: str) -> D:
    maker = makers.get(name)
    if maker is None:
        raise ConfigError(key, f"there is no driver {name!r}", f"one of: {', '.join(sorted(makers)) or 'none'}")
    return maker


def _made(make: Callable[[], D], key: str) -> D:
    """A driver, or its own complaint about its options as an error of the configuration."""
    try:
        return make()
    except MissingExtraError as error:
        raise ConfigError(key.rpartition(".")[0], "a package is not installed", str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, (key, *first["loc"])))
        raise ConfigError(where, str(first["msg"]), "see the driver's options in docs/drivers.md") from None
    except ValueError as error:
        option = getattr(error, "option", None)
        problem = str(getattr(error, "problem", error))
        where = key if option is None else f"{key.removesuffix('.port')}.{option}"
        raise ConfigError(where, problem, "see the driver's options in docs/drivers.md") from None
