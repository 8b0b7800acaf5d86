"""What a configuration must be as a whole: one feeder tree, names that exist, figures that agree.

Each rule raises for the first key that breaks it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from agent.config import AgentConfig, BankSettings, HashBankSettings, HpcBankSettings

DEVICES_MAX: Final = 100_000


class ConfigError(ValueError):
    """A configuration that cannot be used: which key, what is wrong with it, what to write instead."""

    def __init__(self, key: str, problem: str, fix: str, file: str = "configuration") -> None:
        super().__init__(": ".join(part for part in (file, key, problem) if part) + f"; fix: {fix}")
        self.file = file
        self.key = key
        self.problem = problem
        self.fix = fix


def broken(key: str, problem: str, fix: str) -> PydanticCustomError:
    """An error of one key; the reader of the file shows it as it shows pydantic's own."""
    return PydanticCustomError("config_rule", "{problem}; fix: {fix}", {"key": key, "problem": problem, "fix": fix})


def check_whole(config: AgentConfig) -> None:
    """Raise for the first thing that does not fit."""
    rules: Iterable[Callable[[AgentConfig], None]] = (
        _names_exist,
        _one_tree,
        _meters_once,
        _devices_once,
        _hosts_fit,
        _powers_fit,
    )
    for rule in rules:
        rule(config)


def rated_w(bank: HashBankSettings | HpcBankSettings) -> int:
    """A bank's power with everything running."""
    if bank.workload == "hpc":
        return bank.nodes * bank.node_rated_w
    return sum((device.rated_w or bank.device_rated_w) for _, device in bank.expand())


def idle_w(bank: HashBankSettings | HpcBankSettings) -> int:
    """A bank's power with everything stopped."""
    if bank.workload == "hpc":
        return bank.nodes * bank.node_idle_w
    return sum(bank.device_idle_w if device.idle_w is None else device.idle_w for _, device in bank.expand())


def fail_safe_w(bank: HashBankSettings | HpcBankSettings) -> int:
    """What a bank draws at most without a lease: hashing stops, HPC jobs that run go on."""
    if bank.fail_safe_w is not None:
        return bank.fail_safe_w
    return rated_w(bank) if bank.workload == "hpc" else 0


def _names_exist(config: AgentConfig) -> None:
    references: list[tuple[str, str | None, Mapping[str, object]]] = [
        *((f"feeders.{name}.parent", feeder.parent, config.feeders) for name, feeder in config.feeders.items()),
        *((f"feeders.{name}.meter", feeder.meter, config.meters) for name, feeder in config.feeders.items()),
        *((f"banks.{name}.feeder", bank.feeder, config.feeders) for name, bank in config.banks.items()),
        *((f"banks.{name}.meter", bank.meter, config.meters) for name, bank in config.banks.items()),
        *((f"sensors.{name}.bank", sensor.bank, config.banks) for name, sensor in config.sensors.items()),
    ]
    for key, name, table in references:
        if name is not None and name not in table:
            near = difflib.get_close_matches(name, table, n=1)
            known = ", ".join(sorted(table)) or "none"
            raise broken(key, f"there is no {name!r}", f"write {near[0]!r}" if near else f"one of: {known}")


def _one_tree(config: AgentConfig) -> None:
    roots = [name for name, feeder in config.feeders.items() if feeder.parent is None]
    if not roots:
        raise broken("feeders", "none is the site's main", "leave out parent at exactly one")
    if len(roots) > 1:
        raise broken(f"feeders.{roots[1]}.parent", f"is missing, as it is for {roots[0]}", f"name {roots[0]!r} here")
    for start in config.feeders:
        seen: set[str] = set()
        node: str | None = start
        while node is not None:
            if node in seen:
                raise broken(f"feeders.{start}.parent", "the feeder is its own ancestor", "lead it up to the main")
            seen.add(node)
            node = config.feeders[node].parent


def _meters_once(config: AgentConfig) -> None:
    used: dict[str, str] = {}
    keys = [
        *((f"feeders.{name}.meter", feeder.meter) for name, feeder in config.feeders.items()),
        *((f"banks.{name}.meter", bank.meter) for name, bank in config.banks.items()),
    ]
    for key, meter in keys:
        if meter is not None and meter in used:
            raise broken(key, f"{meter!r} already measures {used[meter]}", "give each its own meter")
        if meter is not None:
            used[meter] = key


def _devices_once(config: AgentConfig) -> None:
    seen: dict[tuple[str, int | None], str] = {}
    for name, bank in config.banks.items():
        if bank.workload == "hpc":
            continue
        for place, device in enumerate(bank.devices):
            key = f"banks.{name}.devices[{place}].host"
            for host, port in device.addresses():
                address = (host, port or bank.port)
                if address in seen:
                    raise broken(key, f"{host} already stands at {seen[address]}", "list each device once")
                seen[address] = key
                if len(seen) > DEVICES_MAX:
                    raise broken(key, f"more than {DEVICES_MAX} devices", "split the site over several agents")


def _hosts_fit(config: AgentConfig) -> None:
    seen: dict[str, str] = {}
    for name, bank in config.banks.items():
        if bank.workload != "hpc" or bank.hosts is None:
            continue
        key = f"banks.{name}.hosts"
        if len(bank.hosts.nodes) > bank.nodes:
            count = len(bank.hosts.nodes)
            raise broken(
                f"{key}.nodes", f"are {count}, but the bank has {bank.nodes}", f"set the bank's nodes = {count}"
            )
        for url in map(bank.hosts.url_of, bank.hosts.nodes):
            if url in seen:
                raise broken(f"{key}.urls", f"{url} already stands at {seen[url]}", "give each node its own")
            seen[url] = key


def _powers_fit(config: AgentConfig) -> None:
    for name, bank in config.banks.items():
        rated, idle = rated_w(bank), idle_w(bank)
        one = "node" if bank.workload == "hpc" else "device"
        if idle > rated:
            raise broken(f"banks.{name}.{one}_idle_w", f"is above {one}_rated_w", "lower it")
        if fail_safe_w(bank) > rated:
            raise broken(f"banks.{name}.fail_safe_w", f"is above the bank's {rated} W", f"at most {rated}")
        _temperatures_fit(config, name, bank)
    timing = config.timing
    if timing.device_stale_ms < timing.poll_every_ms:
        raise broken("timing.stale_ms", "every reading would be stale", f"at least {timing.poll_every_ms}")
    if timing.meter_stale_ms < 2 * timing.meter_every_ms:
        raise broken("timing.meter_stale_ms", "one lost reading blinds it", f"at least {2 * timing.meter_every_ms}")
    if config.limits.polls_in_flight >= config.limits.in_flight:
        raise broken("limits.polls_in_flight", "leaves no room for commands", f"below {config.limits.in_flight}")


def _temperatures_fit(config: AgentConfig, name: str, bank: BankSettings) -> None:
    watched = any(sensor.bank == name for sensor in config.sensors.values())
    if watched and bank.max_inlet_mc is None:
        raise broken(f"banks.{name}.max_inlet_mc", "is missing though a sensor watches this bank", "give the limit")
