"""FIRMWARE NAME: which devices speak this, and over what. Copy this file; docs/drivers.md says what follows.

Say here how a read is made and why, what stopping and resuming really do to the device, where its quirks are, and what
public source each of that comes from. This blueprint drives an imagined firmware on the cgminer API that adds a `state`
command and answers `pause` and `resume`, so that it can be run: it passes the same suite as every driver.
"""

from __future__ import annotations

from typing import Final

from agent.drivers.base import Applied, DeviceState, Failure, Miner, MinerReading, Outcome, Refused, Unreachable
from agent.drivers.miners import _options
from agent.drivers.miners._cgminer_api import PORT, ask, command, part, status
from agent.drivers.miners._options import DEADLINE_S, Options
from agent.drivers.miners._state import StateJudge
from agent.drivers.miners._values import first_ghs, record, temp_mc, watts
from agent.drivers.transport import deadline
from contract.clock import Clock

_READ: Final = command("summary+state")
_HASHRATE: Final = (("GHS 5s", 1.0), ("MHS 5s", 1_000.0))


def create(host: str, port: int | None, options: Options, *, deadline_s: float = DEADLINE_S, clock: Clock) -> Miner:
    """Say here which options there are, with their defaults. Anything else is refused by name."""
    _options.only(options, ())
    return Blueprint(host, _options.port_or(port, PORT), deadline_s=deadline_s, clock=clock)


class Blueprint:
    """One miner. Say which capabilities it has; what a firmware cannot do, its class does not define."""

    def __init__(self, host: str, port: int, *, deadline_s: float, clock: Clock) -> None:
        self._host = host
        self._port = port
        self._deadline_s = deadline_s
        self._judge = StateJudge(clock)

    async def read(self) -> MinerReading | Unreachable:
        # One deadline for the whole operation, however many exchanges it takes: make it first, hand it on.
        return await self._read(deadline(self._deadline_s))

    async def stop(self) -> Outcome:
        return await self._command("pause", (DeviceState.STOPPED,))

    async def resume(self) -> Outcome:
        # Back to the mode from before. Where the device forgets it, keep it in `memory` (see base.Remembers, antminer).
        return await self._command("resume", (DeviceState.RUNNING, DeviceState.STARTING))

    async def close(self) -> None:
        """Nothing is held between operations."""

    async def _read(self, until_s: float) -> MinerReading | Unreachable:
        reply = await ask(self._host, self._port, _READ, until_s)
        if isinstance(reply, Unreachable):
            return reply
        summary = record(part(reply, "summary"), "SUMMARY")
        paused = record(part(reply, "state"), "STATE").get("Paused")
        if not summary:
            return Unreachable(Failure.GARBAGE, f"no summary: {status(reply).message}")
        hashrate_ghs = first_ghs(summary, _HASHRATE)
        return MinerReading(
            # The judge never says running without a hashrate, nor stopped without the device's own word.
            state=self._judge.judge(hashrate_ghs, paused if isinstance(paused, bool) else None),
            power_w=watts(summary.get("Power")),
            hashrate_ghs=hashrate_ghs,
            chip_temp_mc=temp_mc(summary.get("Temperature")),
        )

    async def _command(self, name: str, wanted: tuple[DeviceState, ...]) -> Outcome:
        until_s = deadline(self._deadline_s)
        reply = await ask(self._host, self._port, command(name), until_s)
        if isinstance(reply, Unreachable):
            return reply
        said = status(reply)
        if said.ok:
            return Applied(said.message)
        # Idempotent: a device that refuses what is already so has done it.
        reading = await self._read(until_s)
        if isinstance(reading, MinerReading) and reading.state in wanted:
            return Applied(f"already {reading.state}")
        return Refused(said.message or f"{name} failed")
