"""Register profiles: what stands at which register of a make of meter or sensor, as data.

A profile is a TOML file beside the code (`agent/drivers/*/profiles/*.toml`) or the same keys given in the agent's
config. Whatever is wrong with one is said as a `ProfileError` that names the file, the key and the fix.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

RegisterType = Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32"]
Table = Literal["holding", "input"]
WordOrder = Literal["big", "little"]

WORDS: Final[Mapping[RegisterType, int]] = {
    "int16": 1,
    "uint16": 1,
    "int32": 2,
    "uint32": 2,
    "int64": 4,
    "uint64": 4,
    "float32": 2,
}
MAX_REGISTERS_PER_READ: Final = 125
"""The Modbus limit of one read (Modbus Application Protocol V1.1b3, 6.3)."""


class Unit(NamedTuple):
    """A unit a register may be in: canonical = (value + shift) * factor, in W, Wh, mV, mHz or thousandths of a degC."""

    quantity: str
    factor: float
    shift: float = 0.0


UNITS: Final[Mapping[str, Unit]] = {
    "W": Unit("power", 1.0),
    "kW": Unit("power", 1e3),
    "MW": Unit("power", 1e6),
    "Wh": Unit("energy", 1.0),
    "kWh": Unit("energy", 1e3),
    "MWh": Unit("energy", 1e6),
    "mV": Unit("voltage", 1.0),
    "V": Unit("voltage", 1e3),
    "kV": Unit("voltage", 1e6),
    "mHz": Unit("frequency", 1.0),
    "Hz": Unit("frequency", 1e3),
    "degC": Unit("temperature", 1e3),
    "degF": Unit("temperature", 1e3 / 1.8, -32.0),
    "K": Unit("temperature", 1e3, -273.15),
}
METER_REGISTERS: Final[Mapping[str, str]] = {
    "power": "power",
    "energy_import": "energy",
    "energy_export": "energy",
    "voltage": "voltage",
    "frequency": "frequency",
}
"""What a meter profile may hold, and each one's quantity."""

UnitName = Literal["W", "kW", "MW", "Wh", "kWh", "MWh", "mV", "V", "kV", "mHz", "Hz", "degC", "degF", "K"]


class ProfileError(ValueError):
    """A profile or an option that cannot be used. Its text names the file, the key and the fix."""


def _bit_pattern(value: object) -> object:
    """TOML integers end at 63 bits, so a pattern may also be written as a string: "0x8000000000000000"."""
    if isinstance(value, str):
        try:
            return int(value, 0)
        except ValueError:
            raise ValueError(f'{value!r} is no number; write 0x7FFFFFFF or "0xFFFFFFFFFFFFFFFF"') from None
    return value


BitPattern = Annotated[int, BeforeValidator(_bit_pattern), Field(ge=0, lt=2**64)]


class RegisterSpec(BaseModel):
    """One quantity: where it stands and how to read it. value = raw * scale + offset, in `unit`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    address: Annotated[int, Field(ge=0, le=0xFFFF)]
    """As sent on the wire, counted from 0."""
    type: RegisterType
    unit: UnitName
    table: Table = "holding"
    word_order: WordOrder = "big"
    """`big`: the most significant register first."""
    scale: float = 1.0
    offset: float = 0.0
    invalid: tuple[BitPattern, ...] = ()
    """Raw bit patterns, unsigned, by which the device says that it does not know."""

    @property
    def words(self) -> int:
        """How many registers it spans."""
        return WORDS[self.type]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.scale == 0.0:
            raise ValueError("scale: is 0, so every value would be; give the register's resolution, as 0.01")
        if self.address + self.words > 0x1_0000:
            raise ValueError(f"address: {self.address} leaves no room for the {self.words} registers of a {self.type}")
        too_wide = [pattern for pattern in self.invalid if pattern >> (16 * self.words)]
        if too_wide:
            raise ValueError(f"invalid: {too_wide[0]:#x} is wider than a {self.type}; drop the digits too many")
        return self


class Profile(BaseModel):
    """A make of device. `table`, `word_order` and `invalid` (by type) are the defaults of its registers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)]
    kind: Literal["meter", "sensor"]
    vendor: str = ""
    models: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    verified: Literal["yes", "partly", "no"] = "no"
    """Whether the map was checked against public material; never that it was run against the hardware here."""
    unverified: tuple[str, ...] = ()
    table: Table = "holding"
    word_order: WordOrder = "big"
    invalid: Mapping[RegisterType, tuple[BitPattern, ...]] = {}
    max_gap: Annotated[int, Field(ge=0, le=MAX_REGISTERS_PER_READ)] = 0
    """Registers between two wanted ones that may be read along to save a request. 0 where gaps may be refused."""
    max_registers: Annotated[int, Field(ge=1, le=MAX_REGISTERS_PER_READ)] = MAX_REGISTERS_PER_READ
    registers: Annotated[Mapping[str, RegisterSpec], Field(min_length=1, max_length=64)]

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: object) -> object:
        """Hand the profile's defaults down, so that every register stands complete."""
        if not isinstance(data, Mapping) or not isinstance(data.get("registers"), Mapping):
            return data
        by_type = data.get("invalid")
        registers: dict[str, object] = {}
        for name, register in data["registers"].items():
            if isinstance(register, Mapping):
                merged = {key: data[key] for key in ("table", "word_order") if key in data}
                kind = register.get("type")
                if isinstance(by_type, Mapping) and isinstance(kind, str) and kind in by_type:
                    merged["invalid"] = by_type[kind]
                registers[name] = {**merged, **register}
            else:
                registers[name] = register
        return {**data, "registers": registers}

    @model_validator(mode="after")
    def _suits_its_kind(self) -> Self:
        for name, register in self.registers.items():
            wanted = "temperature" if self.kind == "sensor" else METER_REGISTERS.get(name)
            if wanted is None:
                raise ValueError(f"registers.{name}: no such quantity of a meter; use {', '.join(METER_REGISTERS)}")
            if UNITS[register.unit].quantity != wanted:
                fitting = ", ".join(unit for unit, of in UNITS.items() if of.quantity == wanted)
                raise ValueError(f"registers.{name}.unit: {register.unit} is no unit of {wanted}; use {fitting}")
            if register.words > self.max_registers:
                raise ValueError(f"max_registers: {self.max_registers} cannot hold registers.{name}; raise it")
        if self.kind == "meter" and "power" not in self.registers:
            raise ValueError("registers.power: is missing; a meter without it is of no use, add [registers.power]")
        return self


def available_profiles(folder: Path) -> tuple[str, ...]:
    """The names of the profiles in a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def load_profile(folder: Path, name: str) -> Profile:
    """The profile `name` of a folder. Raises `ProfileError`."""
    known = available_profiles(folder)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ProfileError(f"profile: no profile is named {name!r}; {hint}")
    return load_profile_file(folder / f"{name}.toml")


def load_profile_file(path: Path) -> Profile:
    """The profile in a file. Its name must be the file's. Raises `ProfileError`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(
            f"{path.name}: cannot be read: {error.strerror}; check the path and its permissions"
        ) from None
    except UnicodeDecodeError:
        raise ProfileError(f"{path.name}: is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path.name}: is not TOML: {error}; correct it there") from None
    profile = parse_profile(data, path.name)
    if profile.name != path.stem:
        raise ProfileError(f"{path.name}: name: is {profile.name!r}, the file's is {path.stem!r}; make them the same")
    return profile


def parse_profile(data: Mapping[str, object], where: str) -> Profile:
    """A profile from a table already read; `where` names its file in errors. Raises `ProfileError`."""
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise ProfileError(f"{where}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Every complaint of pydantic's as `key: what is wrong; what to write instead`, on one line."""
    return " | ".join(_complaint(detail) for detail in error.errors(include_url=False))


def _complaint(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    context = detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            text = "is missing; add it"
        case "extra_forbidden":
            text = "is not a key here; remove it or correct its spelling"
        case "literal_error":
            text = f"{detail['input']!r} is not known; use one of {context.get('expected')}"
        case "value_error":
            text = str(context.get("error", detail["msg"]))
        case _:
            text = f"{detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
    return f"{key}: {text}" if key else text
