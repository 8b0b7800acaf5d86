"""Any miner that speaks the plain cgminer API on port 4028, read-only: no capability but `read`.

The plain API knows neither power nor whether a miner was stopped by command, so a miner that does not hash is
`UNKNOWN` here. Where a firmware adds a `Power` figure to its summary, it is taken. Firmwares that refuse combined
commands are asked for the summary alone from then on, and give no temperature.

Source: cgminer's API-README (summary, devs).
"""

from __future__ import annotations

from typing import Final

from agent.drivers.base import Failure, Miner, MinerReading, Unreachable
from agent.drivers.miners import _options
from agent.drivers.miners._cgminer_api import PORT, ask, command, part, status
from agent.drivers.miners._options import DEADLINE_S, Options
from agent.drivers.miners._state import StateJudge
from agent.drivers.miners._values import Json, first_ghs, hottest_mc, record, records, watts
from agent.drivers.transport import deadline
from contract.clock import Clock

_BOTH: Final = command("summary+devs")
_SUMMARY: Final = command("summary")
_HASHRATE: Final = (
    ("GHS 5s", 1.0),
    ("MHS 5s", 1_000.0),
    ("MHS 20s", 1_000.0),
    ("MHS 1m", 1_000.0),
    ("GHS av", 1.0),
    ("MHS av", 1_000.0),
)


def create(host: str, port: int | None, options: Options, *, deadline_s: float = DEADLINE_S, clock: Clock) -> Miner:
    """No options."""
    _options.only(options, ())
    return Cgminer(host, _options.port_or(port, PORT), deadline_s=deadline_s, clock=clock)


class Cgminer:
    """One miner that can only be read."""

    def __init__(self, host: str, port: int, *, deadline_s: float, clock: Clock) -> None:
        self._host = host
        self._port = port
        self._deadline_s = deadline_s
        self._judge = StateJudge(clock)
        self._combines = True

    async def read(self) -> MinerReading | Unreachable:
        until_s = deadline(self._deadline_s)
        if self._combines:
            reply = await ask(self._host, self._port, _BOTH, until_s)
            if isinstance(reply, Unreachable):
                return reply
            if "summary" in reply:
                return self._reading(part(reply, "summary"), part(reply, "devs"))
        reply = await ask(self._host, self._port, _SUMMARY, until_s)
        if isinstance(reply, Unreachable):
            return reply
        reading = self._reading(reply, {})
        self._combines = isinstance(reading, Unreachable)
        return reading

    async def close(self) -> None:
        """Nothing is held between operations."""

    def _reading(self, summary: Json, devs: Json) -> MinerReading | Unreachable:
        row = record(summary, "SUMMARY")
        if not row:
            return Unreachable(Failure.GARBAGE, f"no summary: {status(summary).message or 'not the cgminer API'}")
        hashrate_ghs = first_ghs(row, _HASHRATE)
        boards = records(devs, "DEVS")
        return MinerReading(
            state=self._judge.judge(hashrate_ghs, None),
            power_w=watts(row.get("Power")),
            hashrate_ghs=hashrate_ghs,
            chip_temp_mc=hottest_mc(board.get("Temperature") for board in boards),
        )
