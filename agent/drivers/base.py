"""What a driver is. The agent's core knows these Protocols and outcomes, and no make of device.

An expected failure is returned, never raised: a device that is gone, hangs, answers garbage or says no is daily life.
Every call ends within the driver's deadline, whatever the device does. A capability is a Protocol that a driver class
implements or does not: unsupported is not failed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from contract.messages import Job


class MissingExtraError(RuntimeError):
    """A driver needs a package that is not installed. Raised when the driver is made; the message names the extra."""


class DeviceState(StrEnum):
    """What a miner is doing, by what it reports of itself. `UNKNOWN` where it does not say: never assume it hashes."""

    RUNNING = "running"
    STARTING = "starting"
    STOPPED = "stopped"
    """Sleeping or paused by command, its control board up."""
    TRIPPED = "tripped"
    """Stopped by its own protection."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerReading:
    """One reading of one miner. None is unknown; no field is ever a default that looks like a measurement."""

    state: DeviceState
    power_w: int | None = None
    hashrate_ghs: int | None = None
    inlet_temp_mc: int | None = None
    chip_temp_mc: int | None = None
    """The hottest chip or board sensor the device reports."""
    power_limit_w: int | None = None
    errors: tuple[str, ...] = ()


class Failure(StrEnum):
    """Why a device could not be reached."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    CLOSED = "closed"
    GARBAGE = "garbage"
    """It answered something that is not its protocol."""
    OVERSIZED = "oversized"
    AUTH = "auth"


@dataclass(frozen=True, slots=True)
class Applied:
    """The device said yes. Not proof: only measured power is."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The device answered and said no."""

    detail: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No usable answer within the deadline."""

    failure: Failure
    detail: str = ""


Outcome = Applied | Refused | Unreachable


class Miner(Protocol):
    """Any ASIC miner: it can be read."""

    async def read(self) -> MinerReading | Unreachable: ...

    async def close(self) -> None:
        """Drop sessions and connections, if it holds any."""
        ...


@runtime_checkable
class Curtailable(Protocol):
    """A miner that can be stopped and brought back to the mode it had before."""

    async def stop(self) -> Outcome:
        """Stop hashing, control board up. Idempotent: a stopped miner answers Applied."""
        ...

    async def resume(self) -> Outcome:
        """Back to the PREVIOUS mode or profile. Idempotent: a running miner answers Applied."""
        ...


@runtime_checkable
class PowerLimited(Protocol):
    """A miner whose power can be set while it runs, without a reboot."""

    @property
    def power_range_w(self) -> tuple[int, int]:
        """Least and most power that may be asked for."""
        ...

    async def set_power_w(self, power_w: int) -> Outcome: ...


@runtime_checkable
class Remembers(Protocol):
    """A driver that must know more than the device itself keeps, to bring it back to its previous mode.

    The agent persists `memory` after every command, and sets it on the new driver object after a restart.
    """

    memory: dict[str, str]
    """Small and opaque to all but the driver, which tolerates entries missing, foreign or stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReading:
    """One reading of one electrical meter. Import is positive."""

    power_w: int | None
    energy_import_wh: int | None = None
    voltage_mv: int | None = None
    frequency_mhz: int | None = None


class Meter(Protocol):
    """An electrical meter."""

    async def read(self) -> MeterReading | Unreachable: ...

    async def close(self) -> None: ...


class Sensor(Protocol):
    """A temperature sensor. Readings are thousandths of a degree Celsius."""

    async def read_mc(self) -> int | Unreachable: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """One reading of one HPC partition from its scheduler."""

    nodes_up: int
    nodes_busy: int
    """Nodes with a running or frozen job."""
    admitting: bool
    jobs: tuple[Job, ...]
    """Pending, running and frozen jobs of the partition."""
    requeueable: frozenset[str] = frozenset()
    """Jobs that may be stopped and put back in the queue; empty where the driver cannot."""
    unfreezable: frozenset[str] = frozenset()
    """Jobs that must not be stopped in place: they are requeued, or left alone."""
    idle_nodes: tuple[str, ...] = ()
    """Nodes up and without a job, that may be powered down; empty where the driver cannot."""
    off_nodes: tuple[str, ...] = ()
    """Nodes that we had powered down, for as long as they are down or on their way there."""
    booting: int = 0
    """Nodes on their way up: they draw power and take no job yet."""
    up_nodes: tuple[str, ...] = ()
    """Nodes that run a job or would take one; empty where the driver does not tell nodes apart."""
    placed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The nodes of each job that holds some, where the driver tells."""
    barred: frozenset[str] = frozenset()
    """Nodes on which we let no job start, while the partition is open on the others."""
    steps: bool = False
    """Whether jobs can be let start on some of its nodes alone."""
    held_by_us: bool = False
    """Whether it is we who keep jobs from starting, where the scheduler itself remembers that for us."""


class Partition(Protocol):
    """One partition of an HPC scheduler. Wattshift undoes only what it did: an operator's own hold is left as found."""

    async def read(self) -> PartitionFacts | Unreachable: ...

    async def set_admission(self, admitting: bool) -> Outcome:
        """Let pending jobs start, or block new starts."""
        ...

    async def freeze(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Stop jobs in place, their nodes held so that nothing backfills. An outcome for every job named."""
        ...

    async def thaw(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Let frozen jobs go on."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Requeues(Protocol):
    """A scheduler that can stop a job and start it again later, from its last checkpoint."""

    async def warn(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Tell jobs that they will be requeued, so that they checkpoint: their notice begins."""
        ...

    async def requeue(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Stop jobs and put them back in the queue, where they wait until admission is opened. Never loses one: a job
        that may not be requeued answers Refused and goes on."""
        ...


@runtime_checkable
class AdmitsPart(Protocol):
    """A scheduler that can let jobs start on some of the nodes alone."""

    async def admit_on(self, nodes: Collection[str]) -> Outcome:
        """Let pending jobs start on these nodes and on no other; what runs goes on wherever it is. `set_admission`
        undoes it."""
        ...


@runtime_checkable
class NodePower(Protocol):
    """A scheduler that can power nodes down and up."""

    @property
    def node_off_w(self) -> int:
        """What a node draws that is powered down."""
        ...

    async def power_down(self, nodes: Sequence[str]) -> Outcome:
        """Idle nodes only; close admission first. Those nodes are ours to power up, and no others."""
        ...

    async def power_up(self, nodes: Sequence[str]) -> Outcome: ...


@runtime_checkable
class CountsFaults(Protocol):
    """A driver that counts what it put up with, by kind."""

    @property
    def faults(self) -> Mapping[str, int]: ...
