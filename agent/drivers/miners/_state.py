"""What a miner is doing, judged from what it says of itself; never running by default."""

from __future__ import annotations

from typing import Final

from agent.drivers.base import DeviceState
from contract.clock import Clock

START_GRACE_MS: Final = 20 * 60_000
"""How long a miner that is told to hash and does not is believed to be starting. Stock firmware takes up to 15 minutes
from sleep to its first share; after this it is unknown what it does."""


class StateJudge:
    """One miner's judge; it remembers since when the miner should hash and does not."""

    __slots__ = ("_clock", "_waiting_since_ms")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting_since_ms: int | None = None

    def judge(self, hashrate_ghs: int | None, off: bool | None, *, tripped: bool = False) -> DeviceState:
        """The state from the hashrate (None: not said), from whether the miner says that it is off by command (None:
        not said), and from whether it says that its own protection stopped it.

        A miner that says it is off and hashes all the same contradicts itself: unknown.
        """
        hashing = bool(hashrate_ghs)
        if hashing or off is not False or tripped:
            self._waiting_since_ms = None
        if hashing:
            return DeviceState.UNKNOWN if off else DeviceState.RUNNING
        if off:
            return DeviceState.STOPPED
        if tripped:
            return DeviceState.TRIPPED
        if off is None or hashrate_ghs is None:
            return DeviceState.UNKNOWN
        return self._starting()

    def _starting(self) -> DeviceState:
        now_ms = self._clock.mono_ms()
        if self._waiting_since_ms is None:
            self._waiting_since_ms = now_ms
        waited_ms = now_ms - self._waiting_since_ms
        return DeviceState.STARTING if waited_ms <= START_GRACE_MS else DeviceState.UNKNOWN
