"""From a profile's registers to few read requests, and from raw registers to integers in canonical units. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.drivers.base import Unreachable
from agent.drivers.meters.profile import UNITS, Profile, RegisterSpec, RegisterType, Table

_STRUCT: Final[Mapping[RegisterType, struct.Struct]] = {
    "int16": struct.Struct(">h"),
    "uint16": struct.Struct(">H"),
    "int32": struct.Struct(">i"),
    "uint32": struct.Struct(">I"),
    "int64": struct.Struct(">q"),
    "uint64": struct.Struct(">Q"),
    "float32": struct.Struct(">f"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """One read request and the quantities it brings."""

    table: Table
    address: int
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Declined:
    """The device answered a block with a Modbus exception."""

    code: int


BlockAnswer = tuple[int, ...] | Declined | Unreachable
"""A block's registers, in order, or why there are none."""


def plan_blocks(profile: Profile, names: Sequence[str]) -> tuple[Block, ...]:
    """The fewest requests that bring `names`, merging neighbours up to the profile's `max_gap` and `max_registers`.

    The block that holds the first of `names` comes first, so that what matters most is read first.
    """
    specs = sorted(
        ((profile.registers[name], name) for name in names), key=lambda item: (item[0].table, item[0].address)
    )
    blocks: list[Block] = []
    for spec, name in specs:
        end = spec.address + spec.words
        if blocks and _joins(blocks[-1], spec, profile):
            last = blocks[-1]
            count = max(last.count, end - last.address)
            blocks[-1] = Block(last.table, last.address, count, (*last.names, name))
        else:
            blocks.append(Block(spec.table, spec.address, spec.words, (name,)))
    blocks.sort(key=lambda block: names[0] not in block.names)
    return tuple(blocks)


def decode(spec: RegisterSpec, block: Block, registers: Sequence[int]) -> int | None:
    """One quantity out of a block's answer, in W, Wh, mV, mHz or thousandths of a degC; None where it is unknown."""
    start = spec.address - block.address
    words = registers[start : start + spec.words]
    if spec.word_order == "little":
        words = words[::-1]
    raw = struct.pack(f">{len(words)}H", *words)
    if int.from_bytes(raw, "big") in spec.invalid:
        return None
    number: float = _STRUCT[spec.type].unpack(raw)[0]
    if not math.isfinite(number):
        return None
    unit = UNITS[spec.unit]
    return round((number * spec.scale + spec.offset + unit.shift) * unit.factor)


def _joins(block: Block, spec: RegisterSpec, profile: Profile) -> bool:
    gap = spec.address - (block.address + block.count)
    span = spec.address + spec.words - block.address
    return block.table == spec.table and gap <= profile.max_gap and span <= profile.max_registers
