"""Electrical meters over Modbus TCP, by register profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.drivers.base import Failure, MeterReading, Unreachable
from agent.drivers.meters.profile import Profile, ProfileError, explain, load_profile, load_profile_file, parse_profile
from agent.drivers.meters.registers import BlockAnswer, Declined, decode, plan_blocks
from agent.drivers.meters.unit import ModbusUnit
from contract.clock import Clock
from contract.units import POWER_W_MAX

PROFILES: Final = Path(__file__).with_name("profiles")
T = TypeVar("T", bound="ProfileOptions")

_LIMITS: Final[Mapping[str, tuple[int, int]]] = {
    "energy_import": (0, 2**53),
    "energy_export": (0, 2**53),
    "voltage": (0, 1_000_000_000),
    "frequency": (10_000, 1_000_000),
}
"""Beyond these a figure is taken for unknown: energy in Wh, up to 1 MV, 10 to 1,000 Hz."""


class ProfileOptions(BaseModel):
    """Which registers a device has: `profile` by name, `profile_file` by path, or `registers` given here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    profile: str | None = None
    profile_file: Path | None = None
    registers: Mapping[str, Any] | None = None
    table: Any = None
    word_order: Any = None
    invalid: Any = None
    max_gap: Any = None
    max_registers: Any = None

    def resolve(self, kind: str, folder: Path) -> Profile:
        """The profile meant. Raises `ProfileError`."""
        given = {"profile": self.profile, "profile_file": self.profile_file, "registers": self.registers}
        chosen = [key for key, value in given.items() if value is not None]
        if len(chosen) != 1:
            said = " and ".join(chosen) or "none"
            raise ProfileError(f"options: give one of profile, profile_file, registers (given: {said})")
        if self.profile is not None:
            profile = load_profile(folder, self.profile)
        elif self.profile_file is not None:
            profile = load_profile_file(self.profile_file)
        else:
            shape = self.model_dump(exclude_none=True, include=_INLINE_KEYS)
            profile = parse_profile({"name": "generic", "kind": kind, **shape}, "options")
        if profile.kind != kind:
            raise ProfileError(f"options.profile: {profile.name} is a {profile.kind}'s profile; use one of a {kind}'s")
        return profile


_INLINE_KEYS: Final = {"registers", "table", "word_order", "invalid", "max_gap", "max_registers"}


class MeterOptions(ProfileOptions):
    """A meter's options."""

    invert: bool = False
    """Import reads negative, because a CT is turned round: negate power and swap import with export."""
    ct_ratio: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Multiplies power and energy. For a meter that is not programmed with its transformers' ratios: CT times VT."""


class ModbusMeter:
    """A meter behind a Modbus TCP gateway. Implements `agent.drivers.base.Meter`."""

    def __init__(self, unit: ModbusUnit, profile: Profile, *, invert: bool = False, ct_ratio: float = 1.0) -> None:
        self.unit = unit
        self.profile = profile
        self._factor = -ct_ratio if invert else ct_ratio
        self._energy = "energy_export" if invert else "energy_import"
        wanted = ("power", self._energy, "voltage", "frequency")
        self._blocks = plan_blocks(profile, [name for name in wanted if name in profile.registers])

    async def read(self) -> MeterReading | Unreachable:
        """One reading within the deadline. Fields the meter does not know, or has not, are None.

        Power is read first and alone decides whether the meter is reachable.
        """
        answers = await self.unit.read(self._blocks)
        reading = self._reading(answers)
        self.unit.note(reading if isinstance(reading, Unreachable) else None)
        return reading

    async def close(self) -> None:
        self.unit.close()

    def _reading(self, answers: list[BlockAnswer]) -> MeterReading | Unreachable:
        first = answers[0]
        if isinstance(first, Unreachable):
            return first
        if isinstance(first, Declined):
            return self.unit.declined(first)
        values: dict[str, int | None] = {}
        for block, answer in zip(self._blocks, answers, strict=True):
            if isinstance(answer, tuple):
                values.update({name: decode(self.profile.registers[name], block, answer) for name in block.names})
        power = values.get("power")
        power_w = None if power is None else round(power * self._factor)
        if power_w is not None and abs(power_w) > POWER_W_MAX:
            said = f"{self.unit.where}: {power_w} W is no site's power"
            return Unreachable(Failure.GARBAGE, f"{said}; check type, word_order and scale of registers.power")
        energy = _plausible(self._energy, values)
        return MeterReading(
            power_w=power_w,
            energy_import_wh=None if energy is None else round(energy * abs(self._factor)),
            voltage_mv=_plausible("voltage", values),
            frequency_mhz=_plausible("frequency", values),
        )


def modbus_meter(
    host: str,
    port: int | None,
    unit_id: int,
    options: Mapping[str, object],
    *,
    deadline_s: float,
    clock: Clock,
) -> ModbusMeter:
    """A meter from the agent's config. Raises `ProfileError` or `MissingExtraError`; touches no network."""
    parsed = parse_options(MeterOptions, options)
    profile = parsed.resolve("meter", PROFILES)
    unit = ModbusUnit(host, port, unit_id, deadline_s=deadline_s, clock=clock)
    return ModbusMeter(unit, profile, invert=parsed.invert, ct_ratio=parsed.ct_ratio)


def parse_options(kind: type[T], options: Mapping[str, object]) -> T:
    """Options as given in the config. Raises `ProfileError`."""
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        raise ProfileError(f"options: {explain(error)}") from None


def _plausible(name: str, values: Mapping[str, int | None]) -> int | None:
    value = values.get(name)
    low, high = _LIMITS[name]
    return value if value is not None and low <= value <= high else None
