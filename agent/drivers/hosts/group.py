"""The hosts of one HPC bank, read and limited together: so many at once, each in its own deadline, all within a few.

What the bank's ladder calls. A host that fails costs nobody else: those that did not answer last time go last, and of
those the one that has waited longest goes first.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar, runtime_checkable

from agent.drivers.base import Applied, CountsFaults, Failure, Outcome, Refused, Unreachable
from agent.drivers.hosts.host import Host, HostReading, LimitsPower, Switches

_LOG = logging.getLogger(__name__)
R = TypeVar("R")
IN_FLIGHT: Final = 64
BATCH_DEADLINES: Final = 3
"""An operation on all hosts ends within so many deadlines; what it did not come to is answered as unreachable."""
_KEY: Final = "host:"
_NO_TIME: Final = Unreachable(Failure.TIMEOUT, "no time was left for it")
_UNKNOWN: Final = Refused("no such host is configured")


class HostGroup:
    """Hosts by the name their scheduler knows the node by. Implements `Remembers` and `CountsFaults`.

    Every mapping that is returned has an entry for every node that was asked for.
    """

    def __init__(self, hosts: Mapping[str, Host], *, deadline_s: float, in_flight: int = IN_FLIGHT) -> None:
        """`deadline_s` is that of the drivers."""
        self._hosts = dict(hosts)
        self._deadline_s = deadline_s
        self._in_flight = in_flight
        self._failing: set[str] = set()
        self._turn: dict[str, int] = {}
        """When each was asked last, counted in operations."""
        self._turns = 0
        self._faults: Counter[str] = Counter()

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._hosts)

    @property
    def limitable(self) -> frozenset[str]:
        """Nodes whose power can be limited."""
        return frozenset(node for node, host in self._hosts.items() if isinstance(host, LimitsPower))

    @property
    def limited_by_us(self) -> frozenset[str]:
        """Nodes under a limit of ours, or that may be."""
        return frozenset(
            node for node, host in self._hosts.items() if isinstance(host, LimitsPower) and host.limit_is_ours
        )

    @property
    def faults(self) -> Mapping[str, int]:
        """Operations that found no host, by kind, and what the drivers count themselves."""
        total = Counter(self._faults)
        for host in self._hosts.values():
            total.update(host.faults if isinstance(host, CountsFaults) else {})
        return total

    @property
    def memory(self) -> dict[str, str]:
        """What the drivers remember; entries of others are not in it, and are tolerated when it is set."""
        return {
            f"{_KEY}{node}": json.dumps(host.memory)
            for node, host in self._hosts.items()
            if isinstance(host, LimitsPower) and host.memory
        }

    @memory.setter
    def memory(self, saved: Mapping[str, str]) -> None:
        for node, host in self._hosts.items():
            if isinstance(host, LimitsPower):
                host.memory = _memory_of(saved.get(f"{_KEY}{node}"))

    async def read(self, nodes: Sequence[str] | None = None) -> Mapping[str, HostReading | Unreachable]:
        """All hosts, or those named. One that is not configured answers `Unreachable`."""
        wanted = list(self._hosts if nodes is None else nodes)
        found: dict[str, HostReading | Unreachable] = dict.fromkeys(
            wanted, Unreachable(Failure.CONNECT, _UNKNOWN.detail)
        )
        return found | await self._each([node for node in wanted if node in self._hosts], self._read)

    async def set_limits_w(self, limits_w: Mapping[str, int]) -> Mapping[str, Outcome]:
        """Limit each node named to its own figure."""

        async def one(node: str) -> Outcome:
            host = self._hosts[node]
            if not isinstance(host, LimitsPower):
                return Refused("its power cannot be limited")
            return await host.set_limit_w(limits_w[node])

        return await self._commands(limits_w, one)

    async def clear_limits(self, nodes: Iterable[str]) -> Mapping[str, Outcome]:
        """Put back what was found at the nodes named."""

        async def one(node: str) -> Outcome:
            host = self._hosts[node]
            return await host.clear_limit() if isinstance(host, LimitsPower) else Applied("has no limit of ours")

        return await self._commands(nodes, one)

    async def power_on(self, nodes: Iterable[str]) -> Mapping[str, Outcome]:
        async def one(node: str) -> Outcome:
            host = self._hosts[node]
            return await host.power_on() if isinstance(host, Switches) else Refused("it cannot be switched")

        return await self._commands(nodes, one)

    async def power_off(self, nodes: Iterable[str], *, force: bool = False) -> Mapping[str, Outcome]:
        async def one(node: str) -> Outcome:
            host = self._hosts[node]
            return await host.power_off(force=force) if isinstance(host, Switches) else Refused("it cannot be switched")

        return await self._commands(nodes, one)

    async def close(self) -> None:
        await asyncio.gather(*(host.close() for host in self._hosts.values()))

    # -- many at once ------------------------------------------------------------------------------------------------

    async def _read(self, node: str) -> HostReading | Unreachable:
        return await self._hosts[node].read()

    async def _commands(self, nodes: Iterable[str], act: Callable[[str], Awaitable[Outcome]]) -> Mapping[str, Outcome]:
        wanted = list(dict.fromkeys(nodes))
        outcomes: dict[str, Outcome] = dict.fromkeys(wanted, _UNKNOWN)
        outcomes |= await self._each([node for node in wanted if node in self._hosts], act)
        return outcomes

    async def _each(
        self, nodes: Sequence[str], act: Callable[[str], Awaitable[R | Unreachable]]
    ) -> dict[str, R | Unreachable]:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + BATCH_DEADLINES * self._deadline_s
        waiting = iter(sorted(nodes, key=lambda node: (node in self._failing, self._turn.get(node, 0))))
        self._turns += 1
        outcomes: dict[str, R | Unreachable] = dict.fromkeys(nodes, _NO_TIME)

        async def work() -> None:
            for node in waiting:
                if loop.time() >= end_s:
                    return
                self._turn[node] = self._turns
                try:
                    async with asyncio.timeout_at(min(loop.time() + self._deadline_s, end_s)):
                        outcomes[node] = await act(node)
                except TimeoutError:
                    outcomes[node] = Unreachable(Failure.TIMEOUT, "it did not answer in time")

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._in_flight, len(nodes))):
                group.create_task(work())
        self._note(outcomes)
        return outcomes

    def _note(self, outcomes: Mapping[str, object]) -> None:
        asked = {node: said for node, said in outcomes.items() if said is not _NO_TIME}
        gone = {node: said for node, said in asked.items() if isinstance(said, Unreachable)}
        self._faults.update(said.failure.value for said in gone.values())
        fresh = sorted(gone.keys() - self._failing)
        back = sorted((asked.keys() - gone.keys()) & self._failing)
        self._failing = (self._failing | gone.keys()) - set(back)
        if fresh:
            first = gone[fresh[0]]
            _LOG.warning(
                "%d hosts cannot be reached, %s first: %s %s", len(fresh), fresh[0], first.failure, first.detail
            )
        if back:
            _LOG.info("%d hosts answer again, %s first", len(back), back[0])


@runtime_checkable
class UsesHosts(Protocol):
    """A scheduler's driver that shuts nodes down and starts them by their own hosts."""

    def use_hosts(self, hosts: HostGroup) -> None: ...


def _memory_of(text: str | None) -> dict[str, str]:
    """One driver's memory from whatever was saved; what does not parse is forgotten."""
    try:
        saved = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in saved.items()} if isinstance(saved, dict) else {}
