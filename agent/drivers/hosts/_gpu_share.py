"""How a node's limit is shared among its GPUs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Bounds(NamedTuple):
    """Of one GPU's limit, in milliwatts."""

    least_mw: int
    most_mw: int

    def within(self, limit_mw: int) -> int:
        """The nearest limit that it takes."""
        return min(max(limit_mw, self.least_mw), self.most_mw)


def shared_mw(total_mw: int, gpus: Mapping[str, Bounds]) -> dict[str, int]:
    """The same limit for every GPU, or each one's nearest to it within its bounds, so that all add up to the total, or
    to the nearest that the bounds allow. What a rounding leaves over stays unused."""
    if not gpus:
        return {}
    low, high = 0, max(bounds.most_mw for bounds in gpus.values())
    while low < high:  # the highest common limit whose sum does not exceed the total
        middle = (low + high + 1) // 2
        if sum(bounds.within(middle) for bounds in gpus.values()) <= total_mw:
            low = middle
        else:
            high = middle - 1
    return {gpu: bounds.within(low) for gpu, bounds in gpus.items()}
