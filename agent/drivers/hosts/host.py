"""What a host-power driver is: one compute node's own power, by its management controller or a helper that runs on it.

Beside the scheduler, which knows jobs, this knows watts: what the node draws, what it is limited to, whether it is on.
Every operation ends within the driver's deadline, asks the host once (no retry), and returns what came of it; a
capability is a Protocol that a driver class implements or does not, as for miners (`agent.drivers.base`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from agent.drivers.base import Outcome, Unreachable


class HostState(StrEnum):
    """Whether a host is on, by its own word."""

    ON = "on"
    OFF = "off"
    STARTING = "starting"
    STOPPING = "stopping"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """One reading of one host. None is unknown; no field is ever a default that looks like a measurement."""

    state: HostState = HostState.UNKNOWN
    power_w: int | None = None
    """What it draws now, by its own sensors."""
    limited: bool | None = None
    """Whether a power limit is in force, whoever has set it; None where the host does not say."""
    limit_w: int | None = None
    """That limit; None where there is none, or the host does not say."""
    limit_range_w: tuple[int, int] | None = None
    """Least and most that may be asked for as a limit, where the host says."""
    covers: str = "host"
    """What `power_w` and `limit_w` are of: `host`, or `gpus` where only its accelerators are seen."""


class Host(Protocol):
    """One compute node: it can be read."""

    async def read(self) -> HostReading | Unreachable: ...

    async def close(self) -> None:
        """Drop sessions and connections, if it holds any. A limit in force stays."""
        ...


@runtime_checkable
class LimitsPower(Protocol):
    """A host whose power can be limited while it runs. What was found is put back, and only what is ours is undone."""

    memory: dict[str, str]
    """What was found before our first limit, and what we set; the agent persists it. Opaque, as in `base.Remembers`."""

    @property
    def limit_is_ours(self) -> bool:
        """Whether a limit of ours is in force, or may be: its answer was lost."""
        ...

    async def set_limit_w(self, power_w: int) -> Outcome:
        """Limit the host to `power_w`, in the terms of its reading (`covers`). A figure outside its range is moved to
        the nearest within. Never above a limit found: then that one stays, and the answer is Applied. Idempotent."""
        ...

    async def clear_limit(self) -> Outcome:
        """Put back what was found. Applied and nothing sent where no limit of ours is in force; a limit that somebody
        else has set meanwhile is left as found, and counts as Applied too."""
        ...


@runtime_checkable
class Switches(Protocol):
    """A host that can be powered on and off. Applied means accepted: it takes minutes, and only a reading tells."""

    async def power_on(self) -> Outcome:
        """Idempotent: a host that is on answers Applied."""
        ...

    async def power_off(self, *, force: bool = False) -> Outcome:
        """Shut down by way of the operating system; with `force` cut at once, for interlocks. Idempotent."""
        ...

    async def reset(self, *, force: bool = False) -> Outcome:
        """Restart, in the same two ways."""
        ...
