"""One unit behind a gateway: what the meter and the sensor driver have in common."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from agent.drivers.base import Failure, Unreachable
from agent.drivers.meters.link import MAX_DEADLINE_S, ModbusLink, require_pymodbus, shared_link
from agent.drivers.meters.profile import ProfileError
from agent.drivers.meters.registers import Block, BlockAnswer, Declined
from contract.clock import Clock

DEFAULT_PORT: Final = 502
_log = logging.getLogger(__name__)

_EXCEPTIONS: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "server device failure",
    5: "acknowledge",
    6: "server device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}
"""Modbus Application Protocol V1.1b3, section 7."""


class ModbusUnit:
    """Reads blocks of registers and keeps count of how that went. Says it in the log once per change of state."""

    def __init__(self, host: str, port: int | None, unit_id: int, *, deadline_s: float, clock: Clock) -> None:
        require_pymodbus()
        if not 0 <= unit_id <= 255:
            raise ProfileError(
                f"unit_id: {unit_id} is no Modbus unit; give 1 to 247, or 0 or 255 for the device itself"
            )
        if not 0 < deadline_s <= MAX_DEADLINE_S:
            raise ProfileError(f"deadline_s: {deadline_s:g} must be above 0 and at most {MAX_DEADLINE_S:g}")
        if port is not None and not 0 < port <= 0xFFFF:
            raise ProfileError(f"port: {port} is no TCP port; give 1 to 65535, or leave it out for {DEFAULT_PORT}")
        _check_host(host)
        self.host, self.port, self.unit_id = host, DEFAULT_PORT if port is None else port, unit_id
        self.failures: Counter[Failure] = Counter()
        """Failed reads since the start, by kind."""
        self._deadline_s = deadline_s
        self._clock = clock
        self._link: ModbusLink | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failing_since_ms: int | None = None

    @property
    def where(self) -> str:
        """For people: host, port and unit."""
        return f"{self.host}:{self.port} unit {self.unit_id}"

    async def read(self, blocks: Sequence[Block]) -> list[BlockAnswer]:
        """One answer for each block, within the deadline. Never raises for what the device does."""
        loop = asyncio.get_running_loop()
        if self._link is None or self._loop is not loop:
            self._link, self._loop = shared_link(self.host, self.port), loop
            self._link.retain(self)
        return await self._link.read(self.unit_id, blocks, self._deadline_s)

    def close(self) -> None:
        """Let go of the connection; the last unit behind a gateway closes it. A later read opens it again."""
        if self._link is not None:
            self._link.release(self)
        self._link = self._loop = None

    def declined(self, answer: Declined) -> Unreachable:
        """A Modbus exception as a failure: a gateway's word that the unit is gone, or a register that is not there."""
        name = _EXCEPTIONS.get(answer.code, "unknown")
        kind = {10: Failure.CONNECT, 11: Failure.TIMEOUT}.get(answer.code, Failure.GARBAGE)
        return Unreachable(kind, f"{self.where}: Modbus exception {answer.code} ({name})")

    def note(self, failure: Unreachable | None) -> None:
        """Count the outcome of a read and log where it is another than the last."""
        now_ms = self._clock.mono_ms()
        if failure is not None:
            self.failures[failure.failure] += 1
            if self._failing_since_ms is None:
                self._failing_since_ms = now_ms
                _log.warning("modbus %s: %s: %s", self.where, failure.failure.value, failure.detail)
        elif self._failing_since_ms is not None:
            _log.info("modbus %s: answers again after %d ms", self.where, now_ms - self._failing_since_ms)
            self._failing_since_ms = None


def _check_host(host: str) -> None:
    """Refuse here what a look-up would raise on at every read."""
    try:
        host.encode("idna")
        well_formed = bool(host.strip()) and not any(character.isspace() for character in host)
    except UnicodeError:
        well_formed = False
    if not well_formed:
        raise ProfileError(f"host: {host!r} is no host; give an address as 10.0.0.5 or a name")
