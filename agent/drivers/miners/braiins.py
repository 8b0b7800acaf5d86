"""Braiins OS: the BOSminer API on port 4028 for reading, pause and resume; the public REST API for the power target.

Reading takes one combined command. `pause` and `resume` need no login, keep the control board up, and bring back the
tuned profile by themselves. Whether a miner that does not hash is paused, versions tell in three ways: the tuner's
status, `devdetails` answering "Unavailable", or only the REST API's miner status, which is asked when neither of the
others says paused. The power target is set live over REST.

Source: docs.braiins.com/os (BOSminer API), developer.braiins-os.com (REST), github.com/braiins/bos-plus-api.
"""

from __future__ import annotations

from typing import Final

from agent.drivers.base import Applied, DeviceState, Failure, Miner, MinerReading, Outcome, Refused, Unreachable
from agent.drivers.miners import _options
from agent.drivers.miners._braiins_rest import HTTP_PORT, BraiinsRest
from agent.drivers.miners._cgminer_api import PORT, ask, command, part, status
from agent.drivers.miners._options import DEADLINE_S, Options
from agent.drivers.miners._state import StateJudge
from agent.drivers.miners._values import Json, first_ghs, hottest_mc, record, records, watts
from agent.drivers.transport import deadline
from contract.clock import Clock

_READ: Final = command("summary+temps+tunerstatus+devdetails")
_HASHRATE: Final = (("MHS 5s", 1_000.0), ("MHS 1m", 1_000.0), ("MHS av", 1_000.0))
_PAUSED_HOLDS_MS: Final = 20_000
"""How long a REST status that said paused is believed while the hashrate stays at zero."""
_REST_AGAIN_MS: Final = 60_000
"""How long REST is left alone after it failed: an older version has none."""
_HEALTHY: Final = ("stable", "tuning", "testing", "paused", "resuming", "starting", "idle")


def create(host: str, port: int | None, options: Options, *, deadline_s: float = DEADLINE_S, clock: Clock) -> Miner:
    """Options: `username` (root), `password` (none) and `http_port` (80) of the web interface; `min_power_w` and
    `max_power_w`, which switch power limiting on."""
    _options.only(options, ("min_power_w", "max_power_w", "username", "password", "http_port"))
    power_range_w = _options.power_range_w(options)
    where = (host, _options.port_or(port, PORT))
    rest = BraiinsRest(
        host,
        _options.whole(options, "http_port", HTTP_PORT, least=1, most=65_535),
        _options.text(options, "username", "root"),
        _options.text(options, "password", ""),
    )
    if power_range_w is None:
        return Braiins(*where, rest=rest, deadline_s=deadline_s, clock=clock)
    return BraiinsPowerLimited(*where, rest=rest, power_range_w=power_range_w, deadline_s=deadline_s, clock=clock)


class Braiins:
    """One miner: Curtailable."""

    def __init__(self, host: str, port: int, *, rest: BraiinsRest, deadline_s: float, clock: Clock) -> None:
        self._host = host
        self._port = port
        self._rest = rest
        self._deadline_s = deadline_s
        self._clock = clock
        self._judge = StateJudge(clock)
        self._rest_paused: bool | None = None
        self._rest_until_ms = 0

    async def read(self) -> MinerReading | Unreachable:
        return await self._read(deadline(self._deadline_s))

    async def stop(self) -> Outcome:
        return await self._command("pause", (DeviceState.STOPPED,))

    async def resume(self) -> Outcome:
        return await self._command("resume", (DeviceState.RUNNING, DeviceState.STARTING))

    async def close(self) -> None:
        """Nothing is held between operations."""

    async def _read(self, until_s: float) -> MinerReading | Unreachable:
        reply = await ask(self._host, self._port, _READ, until_s)
        if isinstance(reply, Unreachable):
            return reply
        summary = record(part(reply, "summary"), "SUMMARY")
        tuner = record(part(reply, "tunerstatus"), "TUNERSTATUS")
        if not summary and not tuner:
            return Unreachable(Failure.GARBAGE, f"no BOSminer reading: {status(reply).message or 'no summary'}")
        hashrate_ghs = first_ghs(summary, _HASHRATE)
        chains = [str(chain.get("Status", "")) for chain in records(tuner, "TunerChainStatus")]
        boards = records(part(reply, "temps"), "TEMPS")
        paused = _paused(chains, part(reply, "devdetails"))
        if not hashrate_ghs and not paused:
            paused = await self._ask_rest_whether_paused(paused, until_s)
        return MinerReading(
            state=self._judge.judge(hashrate_ghs, paused),
            power_w=watts(tuner.get("ApproximateMinerPowerConsumption")),
            hashrate_ghs=hashrate_ghs,
            chip_temp_mc=hottest_mc(value for board in boards for value in (board.get("Chip"), board.get("Board"))),
            power_limit_w=watts(tuner.get("PowerLimit")),
            errors=tuple(chain for chain in chains if chain and not chain.lower().startswith(_HEALTHY)),
        )

    async def _ask_rest_whether_paused(self, otherwise: bool | None, until_s: float) -> bool | None:
        """What the miner status over REST says; `otherwise` where it says nothing."""
        now_ms = self._clock.mono_ms()
        if now_ms >= self._rest_until_ms:
            self._rest_paused = await self._rest.paused(until_s)
            holds_ms = {True: _PAUSED_HOLDS_MS, False: 0, None: _REST_AGAIN_MS}[self._rest_paused]
            self._rest_until_ms = now_ms + holds_ms
        return otherwise if self._rest_paused is None else self._rest_paused

    async def _command(self, name: str, wanted: tuple[DeviceState, ...]) -> Outcome:
        until_s = deadline(self._deadline_s)
        if self._rest_paused:
            self._rest_until_ms = 0
        reply = await ask(self._host, self._port, command(name), until_s)
        if isinstance(reply, Unreachable):
            return reply
        said = status(reply)
        done = reply.get(name.upper())
        if said.ok and done != [False]:
            return Applied(said.message)
        reading = await self._read(until_s)
        if isinstance(reading, MinerReading) and reading.state in wanted:
            return Applied(f"already {reading.state}")
        return Refused(said.message or f"{name} failed")


class BraiinsPowerLimited(Braiins):
    """One miner whose power may be set: Curtailable and PowerLimited."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        rest: BraiinsRest,
        power_range_w: tuple[int, int],
        deadline_s: float,
        clock: Clock,
    ) -> None:
        super().__init__(host, port, rest=rest, deadline_s=deadline_s, clock=clock)
        self._power_range_w = power_range_w

    @property
    def power_range_w(self) -> tuple[int, int]:
        return self._power_range_w

    async def set_power_w(self, power_w: int) -> Outcome:
        least, most = self._power_range_w
        if not least <= power_w <= most:
            return Refused(f"{power_w} W is outside {least} to {most} W")
        return await self._rest.set_power_target_w(power_w, deadline(self._deadline_s))


def _paused(chains: list[str], devdetails: Json) -> bool | None:
    """Whether mining is paused, by the tuner's word first; None where neither command says."""
    if any("paused" in chain.lower() for chain in chains):
        return True
    if chains:
        return False
    if not devdetails:
        return None
    return not status(devdetails).ok and status(devdetails).message == "Unavailable"
