"""The feeder tree: true power at each meter, and energy that is counted in whole millijoules so that sums close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sim.plant.plan import FeederPlan


class FeederTree:
    """Power from the leaves up. A feeder loses `loss_share * P^2 / limit`: the square of its current, its own voltage
    taken as constant. Its meter and breaker sit at the upstream end, so they see the loss."""

    def __init__(self, feeders: Sequence[FeederPlan]) -> None:
        by_id = {feeder.id: feeder for feeder in feeders}
        depth = {feeder.id: _depth(feeder, by_id) for feeder in feeders}
        self._leaves_first = sorted(feeders, key=lambda feeder: -depth[feeder.id])
        self.main = self._leaves_first[-1].id
        self.power_w = {feeder.id: 0.0 for feeder in feeders}
        self.loss_w = dict(self.power_w)

    def solve(self, load_w: Mapping[str, float]) -> None:
        """`load_w`: what hangs directly on each feeder."""
        power_w = {feeder.id: load_w.get(feeder.id, 0.0) for feeder in self._leaves_first}
        for feeder in self._leaves_first:
            through_w = power_w[feeder.id]
            loss_w = feeder.loss_share * through_w * through_w / feeder.limit_w if feeder.limit_w > 0 else 0.0
            self.loss_w[feeder.id] = loss_w
            power_w[feeder.id] = through_w + loss_w
            if feeder.parent is not None:
                power_w[feeder.parent] += power_w[feeder.id]
        self.power_w = power_w


@dataclass(slots=True)
class Ledger:
    """Energy since the start, in millijoules, by what used it. `main_mj` is metered on its own, not summed."""

    banks_mj: dict[str, int] = field(default_factory=dict)
    partitions_mj: dict[str, int] = field(default_factory=dict)
    cooling_mj: dict[str, int] = field(default_factory=dict)
    loss_mj: dict[str, int] = field(default_factory=dict)
    feeders_mj: dict[str, int] = field(default_factory=dict)
    """Through each feeder's meter."""
    base_mj: int = 0
    main_mj: int = 0
    psu_loss_mj: int = 0
    """A part of the banks' energy."""
    hash_th: float = 0.0
    """Terahashes done."""
    entries: int = 0
    """Roundings so far: the sums close within half a millijoule of each."""

    @property
    def gap_mj(self) -> int:
        """Main meter minus everything it feeds."""
        fed = (self.banks_mj, self.partitions_mj, self.cooling_mj, self.loss_mj)
        return self.main_mj - self.base_mj - sum(sum(part.values()) for part in fed)

    def add(self, part: dict[str, int], key: str, power_w: float, dt_s: float) -> None:
        part[key] = part.get(key, 0) + self.mj(power_w, dt_s)

    def mj(self, power_w: float, dt_s: float) -> int:
        self.entries += 1
        return round(power_w * dt_s * 1_000.0)


def _depth(feeder: FeederPlan, by_id: Mapping[str, FeederPlan]) -> int:
    depth = 0
    node: FeederPlan | None = feeder
    while node is not None and node.parent is not None:
        depth += 1
        if depth > len(by_id):
            raise ValueError(f"feeder {feeder.id} is its own ancestor")
        node = by_id.get(node.parent)
    return depth
