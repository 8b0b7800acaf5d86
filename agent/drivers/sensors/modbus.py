"""Temperature sensors over Modbus TCP, by register profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from agent.drivers.base import Failure, Unreachable
from agent.drivers.meters.modbus import ProfileOptions, parse_options
from agent.drivers.meters.profile import Profile, ProfileError
from agent.drivers.meters.registers import Declined, decode, plan_blocks
from agent.drivers.meters.unit import ModbusUnit
from contract.clock import Clock

PROFILES: Final = Path(__file__).with_name("profiles")
_LOWEST_MC: Final = -100_000
_HIGHEST_MC: Final = 400_000
"""What the wire may carry (contract.units.TempMc); a figure beyond it is no temperature of a site."""


class SensorOptions(ProfileOptions):
    """A sensor's options."""

    channel: Annotated[int, Field(ge=1, le=64)] | str | None = None
    """Which of the module's inputs: 2 stands for the register `channel_2`. May be left out where there is but one."""


class ModbusSensor:
    """One input of a temperature module behind a Modbus TCP gateway. Implements `agent.drivers.base.Sensor`."""

    def __init__(self, unit: ModbusUnit, profile: Profile, channel: str) -> None:
        self.unit = unit
        self.profile = profile
        self.channel = channel
        self._blocks = plan_blocks(profile, [channel])

    async def read_mc(self) -> int | Unreachable:
        """The temperature within the deadline. A probe that the module calls faulty is unreachable, `garbage`."""
        (answer,) = await self.unit.read(self._blocks)
        if isinstance(answer, Declined):
            answer = self.unit.declined(answer)
        result = answer if isinstance(answer, Unreachable) else self._temperature(answer)
        self.unit.note(result if isinstance(result, Unreachable) else None)
        return result

    async def close(self) -> None:
        self.unit.close()

    def _temperature(self, registers: tuple[int, ...]) -> int | Unreachable:
        value = decode(self.profile.registers[self.channel], self._blocks[0], registers)
        if value is None:
            return Unreachable(Failure.GARBAGE, f"{self.unit.where}: {self.channel}: the module calls its probe faulty")
        if not _LOWEST_MC <= value <= _HIGHEST_MC:
            said = f"{self.unit.where}: {self.channel}: {value / 1000:g} degC is no temperature of a site"
            return Unreachable(Failure.GARBAGE, f"{said}; check type, scale and unit")
        return value


def modbus_sensor(
    host: str,
    port: int | None,
    unit_id: int,
    options: Mapping[str, object],
    *,
    deadline_s: float,
    clock: Clock,
) -> ModbusSensor:
    """A sensor from the agent's config. Raises `ProfileError` or `MissingExtraError`; touches no network."""
    parsed = parse_options(SensorOptions, options)
    profile = parsed.resolve("sensor", PROFILES)
    channel = _channel(profile, parsed.channel)
    return ModbusSensor(ModbusUnit(host, port, unit_id, deadline_s=deadline_s, clock=clock), profile, channel)


def _channel(profile: Profile, asked: int | str | None) -> str:
    known = tuple(profile.registers)
    if asked is None and len(known) == 1:
        return known[0]
    name = f"channel_{asked}" if isinstance(asked, int) else asked
    if name not in known:
        said = "is missing" if name is None else f"{asked!r} is no register of {profile.name}"
        raise ProfileError(f"options.channel: {said}; use one of {', '.join(known)}")
    return name
