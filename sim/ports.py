"""The seam inside the simulation: what a simulated device sees of the plant behind it.

The plant owns the physics and is advanced by its owner; a device server only reads the machine it fronts and passes
commands on, as a control board does. Faults are asked of the port at every exchange: a test can turn them on and off.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class AsicState(StrEnum):
    """The machine's true state."""

    RUNNING = "running"
    BOOTING = "booting"
    SLEEPING = "sleeping"
    TRIPPED = "tripped"
    DEAD = "dead"
    """No power: nothing answers."""


class DeviceFault(StrEnum):
    """How a device can lie, stall or break."""

    HANG = "hang"
    """Accepts a connection and never answers."""
    REFUSE_CONNECTION = "refuse_connection"
    OK_BUT_NOTHING = "ok_but_nothing"
    """Says OK to a command and does not do it."""
    NO_BUT_DOES = "no_but_does"
    """Says no to a command and does it."""
    NAN = "nan"
    """Answers with NaN, infinities and negative figures."""
    GARBAGE = "garbage"
    """Answers bytes that are not its protocol."""
    SLOW = "slow"
    """Drips its answer a byte at a time."""
    CUT_SHORT = "cut_short"
    """Closes in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class AsicModel:
    """What a make of ASIC is on paper."""

    name: str
    rated_w: int
    hashrate_ghs: int
    min_power_w: int
    """The least it runs at where its firmware can set power."""
    sleep_w: int
    boot_s: float
    """From wake to full hashrate."""
    efficiency_slope: float = 0.35
    """J/TH falls by this share of the power reduction: e(p) = e_rated * (1 - slope * (1 - p/rated))."""


class AsicPort(Protocol):
    """One simulated ASIC as its own control board sees it. Units: watts, GH/s, degrees Celsius."""

    @property
    def serial(self) -> str: ...
    @property
    def model(self) -> AsicModel: ...
    @property
    def state(self) -> AsicState: ...
    @property
    def reported_power_w(self) -> float:
        """The control board's own estimate: off from the truth by a bias of its own, 5 to 20 %."""
        ...

    @property
    def hashrate_ghs(self) -> float: ...
    @property
    def inlet_temp_c(self) -> float: ...
    @property
    def chip_temp_c(self) -> float: ...
    @property
    def power_limit_w(self) -> int:
        """The limit now set; the rated power where none is."""
        ...

    @property
    def uptime_s(self) -> float: ...
    @property
    def fault(self) -> DeviceFault | None: ...
    @property
    def latency_s(self) -> float:
        """How long the device takes to answer, in wall seconds."""
        ...

    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def set_power_limit(self, power_w: int) -> None: ...
    def reboot(self) -> None: ...
