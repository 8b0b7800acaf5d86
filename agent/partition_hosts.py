"""The hosts of a partition's nodes: which can be capped, what caps of ours are in force, what they say they draw."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from agent.drivers.base import Applied, Outcome, Unreachable
from agent.drivers.hosts.group import BATCH_DEADLINES, HostGroup
from agent.drivers.hosts.host import HostReading
from contract.clock import Clock

RETRY_MS: Final = 60_000
"""How long a node counts as one that cannot be capped after it failed to be."""


class PartitionHosts:
    """Watts here are of the whole node: `other_w` is what it draws besides what its host limits, where that is only
    its accelerators."""

    def __init__(self, group: HostGroup, *, deadline_s: float, every_ms: int, clock: Clock, other_w: int = 0) -> None:
        self.group = group
        self.caps: dict[str, int] = {}
        """By node, caps of ours that are in force or on their way."""
        self.batch_s = BATCH_DEADLINES * deadline_s
        self._every_ms = every_ms
        self._clock = clock
        self._other_w = other_w
        self._readings: dict[str, tuple[HostReading, int]] = {}
        self._failed_ms: dict[str, int] = {}
        self._moving: set[str] = set()
        self._reading = False
        self._read_ms: int | None = None

    def begins(self, now_ms: int) -> bool:
        """Whether a reading is due; it counts as begun then."""
        if self._reading or (self._read_ms is not None and now_ms - self._read_ms < self._every_ms):
            return False
        self._reading, self._read_ms = True, now_ms
        return True

    def cappable(self, now_ms: int) -> frozenset[str]:
        """Nodes that can be capped now: they answered when last asked, and have not just failed."""
        failed = {node for node, at_ms in self._failed_ms.items() if now_ms - at_ms < RETRY_MS}
        return self.group.limitable & self._readings.keys() - failed

    async def read(self) -> None:
        try:
            found = await self.group.read()
        finally:
            self._reading = False
        now_ms = self._clock.mono_ms()
        for node, reading in found.items():
            if isinstance(reading, Unreachable):
                self._readings.pop(node, None)
            else:
                self._readings[node] = reading, now_ms
        ours = self.group.limited_by_us
        for node in self.caps.keys() - ours - self._moving:
            del self.caps[node]
        for node in ours - self._moving:
            if node in self._readings and (limit_w := self._readings[node][0].limit_w) is not None:
                self.caps[node] = limit_w + self._other_w
            self.caps.setdefault(node, _UNKNOWN_W)

    def drawn_w(self, nodes: Collection[str]) -> tuple[int, int] | None:
        """What these nodes draw by their hosts, and when the oldest of it was read; None where one does not say."""
        found = [self._readings[node] for node in nodes if node in self._readings]
        known = [
            (reading.power_w + (self._other_w if reading.covers != "host" else 0), at_ms)
            for reading, at_ms in found
            if reading.power_w is not None and (reading.covers == "host" or self._other_w)
        ]
        if not nodes or len(known) < len(nodes):
            return None
        return sum(power_w for power_w, _ in known), min(at_ms for _, at_ms in known)

    def setter(self, caps: Mapping[str, int]) -> Callable[[Sequence[str]], Awaitable[Mapping[str, Outcome]]]:
        """Sets these caps for the nodes it is then called with."""

        def begin(nodes: Sequence[str]) -> Awaitable[Mapping[str, Outcome]]:
            before = {node: self.caps.get(node) for node in nodes}
            wanted = {node: caps[node] for node in nodes}
            self.caps |= wanted
            return self._set(wanted, before)

        return begin

    async def clear(self, nodes: Sequence[str]) -> Mapping[str, Outcome]:
        self._moving.update(nodes)
        try:
            outcomes = await self.group.clear_limits(nodes)
        finally:
            self._moving.difference_update(nodes)
        for node, outcome in outcomes.items():
            if isinstance(outcome, Applied):
                self.caps.pop(node, None)
        return outcomes

    async def _set(self, caps: Mapping[str, int], before: Mapping[str, int | None]) -> Mapping[str, Outcome]:
        self._moving.update(caps)
        try:
            outcomes = await self.group.set_limits_w(
                {node: max(cap_w - self._other_w, 1) for node, cap_w in caps.items()}
            )
        finally:
            self._moving.difference_update(caps)
        now_ms = self._clock.mono_ms()
        for node, outcome in outcomes.items():
            if isinstance(outcome, Applied):
                self._failed_ms.pop(node, None)
                continue
            self._failed_ms[node] = now_ms
            stood_w = before[node]
            if stood_w is not None:  # of a cap that may or may not have come, the higher one counts
                self.caps[node] = max(stood_w, caps[node])
            elif node in self.group.limited_by_us:
                self.caps[node] = _UNKNOWN_W
            else:
                self.caps.pop(node, None)
        return outcomes


_UNKNOWN_W: Final = 1_000_000
"""A cap that may be in force, at nobody knows what: it counts for nothing, and is taken away in the end."""
