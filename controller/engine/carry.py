"""What a plan leaves for the next one: the prices of its limits and work, and which unit runs when.

Compact text that stands in the decision and comes back in the next snapshot, so that `decide` keeps no memory. Units
and limits are named, so what is still there carries on where others came or went. Text that is damaged, of another
version or of another grid is as good as none: the plan then begins cold.
"""

from __future__ import annotations

import binascii
import json
import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Final

import numpy as np

from controller.engine.optimiser.layout import F8, RUN, U1

VERSION: Final = 1
EFFORT: Final = 255
_LEVEL: Final = 3
_BYTES_MAX: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Carry:
    """What was left, by name. The grid is counted from `at_ms`."""

    at_ms: int
    gap: float
    """How near its bound the plan stood since it was last searched for a better one, as a share of it."""
    guess: float
    """How far below the bound, as a share of it, the best value was thought to be."""
    units: tuple[str, ...]
    rows: tuple[str, ...]
    work_price: F8
    """(units,) USD per hour of a job's remaining work."""
    phase: U1
    """(units, steps)"""
    effort: U1
    """(units, steps) from the least to full power, in parts of `EFFORT`. Kept where there are rows: elsewhere a unit's
    power is its own affair."""
    row_price: F8
    """(rows, steps) USD/MWh."""
    price: F8
    """(steps,) USD/MWh that was planned with."""


def pack(carry: Carry) -> str:
    """Text for the journal and the next snapshot. Prices are kept as 32-bit floats."""
    head = {
        "v": VERSION,
        "at": carry.at_ms,
        "gap": carry.gap,
        "guess": round(carry.guess, 9),
        "units": carry.units,
        "rows": carry.rows,
        "steps": carry.phase.shape[1],
    }
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=True).encode()
    body = b"".join(
        (text, b"\n", carry.work_price.astype("<f4").tobytes(), carry.row_price.astype("<f4").tobytes(),
         carry.phase.tobytes(),
         carry.price.astype("<f4").tobytes() + carry.effort.tobytes() if carry.rows else b"")
    )  # fmt: skip
    return b64encode(zlib.compress(body, _LEVEL)).decode("ascii")


def unpack(text: str, steps: int) -> Carry | None:
    """What `pack` was given, or None where the text is of no use to a grid of so many steps."""
    if not text:
        return None
    try:
        machine = zlib.decompressobj()
        body = machine.decompress(b64decode(text, validate=True), _BYTES_MAX)
        raw, _, rest = body.partition(b"\n")
        head = json.loads(raw)
        if head["v"] != VERSION or head["steps"] != steps:
            return None
        units, rows = tuple(map(str, head["units"])), tuple(map(str, head["rows"]))
        at_ms, gap, guess = int(head["at"]), float(head["gap"]), float(head["guess"])
    except (binascii.Error, zlib.error, ValueError, KeyError, TypeError, OverflowError):
        return None
    cells, bound = len(units) * steps, bool(rows)
    ends = np.cumsum([4 * len(units), 4 * len(rows) * steps, cells, 4 * steps * bound, cells * bound])
    if len(rest) != ends[-1]:
        return None
    work_price = np.frombuffer(rest[: ends[0]], "<f4").astype(np.float64)
    row_price = np.frombuffer(rest[ends[0] : ends[1]], "<f4").astype(np.float64).reshape(len(rows), steps)
    phase = np.frombuffer(rest[ends[1] : ends[2]], np.uint8).reshape(len(units), steps)
    price = np.frombuffer(rest[ends[2] : ends[3]], "<f4").astype(np.float64)
    effort = np.frombuffer(rest[ends[3] :], np.uint8).reshape(len(units), steps) if bound else np.zeros_like(phase)
    sound = (
        all(bool(np.isfinite(each).all()) for each in (work_price, row_price, price))
        and 0.0 <= guess <= 1.0
        and gap >= 0.0
    )
    sound = sound and bool((work_price >= 0.0).all() and (row_price >= 0.0).all() and (phase <= RUN).all())
    if not sound:
        return None
    return Carry(at_ms, gap, guess, units, rows, work_price, phase, effort, row_price, price)
