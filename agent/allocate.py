"""From a bank's setpoint to a target for each device: pure, total, and the same every time it is asked.

The allocation is a level, not an edge: it states what every device is to do, whatever it does now, and is worked out
anew whenever the setpoint or a device's standing changes. It never plans more than the setpoint:

* a device that cannot be read counts at its rated power, unless a meter proves that it draws less: what it draws now
  proves nothing of one that was just told to run;
* a device that cannot be steered counts at its rated power;
* every other device counts at its idle power, and at its target where it is to run.

Only where the setpoint is below what cannot be steered or read does the plan exceed it, with everything else stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

UNSET: Final = -1
"""The target of a device that no allocation has reached yet."""
STOP: Final = 0
"""The target of a device that is to stand still, its control board up."""

LIMIT_GRAIN_W: Final = 50
"""Power limits are rounded down to this, so that a wandering remainder does not rewrite them."""
LIMIT_SLACK_W: Final = 150
"""A limit that stands is kept while it is at most this far below what it could be."""
SWAP_GAIN: Final = 1.10
"""A stopped device replaces a running one only where it is this much more efficient: each swap costs a boot."""


class Standing(IntEnum):
    """What may be expected of a device."""

    UP = 0
    """It runs or starts, by a fresh reading."""
    DOWN = 1
    """It is stopped and answers: it can be brought back."""
    TRIPPED = 2
    """Its own protection stopped it. It is left alone until it comes back by itself."""
    DARK = 3
    """Not readable, or it does not say what it does: it may draw its rated power."""
    FIXED = 4
    """It cannot be steered: it draws its rated power whatever is asked."""


_STEERED: Final = frozenset({Standing.UP, Standing.DOWN})


class Unit:
    """What allocation knows of one device. `agent.device.Device` extends it."""

    __slots__ = ("hot", "idle_w", "j_per_th", "least_w", "ran", "rated_w", "rises", "standing", "target_w")

    def __init__(self, rated_w: int, idle_w: int, *, least_w: int = 0, standing: Standing = Standing.DARK) -> None:
        self.rated_w = rated_w
        self.idle_w = idle_w
        self.least_w = least_w
        """The least power its limit can be set to; 0 where it has no limit to set."""
        self.standing = standing
        self.hot = False
        """Too hot to run, by its own chip sensor."""
        self.ran = standing is Standing.UP
        """Whether it ran when it was last read, and has not been told to stop since."""
        self.rises = False
        """Whether it was told to run so lately that it may not draw yet what it will, and was not read since."""
        self.j_per_th = 0.0
        """Smoothed efficiency; 0 while unknown, which ranks as the nominal of its bank."""
        self.target_w = UNSET


@dataclass(frozen=True, slots=True)
class Allocation:
    """Targets in the order of the units: `STOP`, the rated power, or a power limit between."""

    targets: list[int]
    planned_w: int
    """What the bank draws at most when every target is reached."""


def allocate(
    units: Sequence[Unit],
    setpoint_w: int,
    *,
    dark_w: int | None = None,
    may_raise: bool = True,
    spread: bool = False,
) -> Allocation:
    """Targets that keep the bank at or below `setpoint_w`.

    `dark_w` is what a meter proves the unreadable units draw at most, all together; None where none does. Without
    `may_raise` no stopped unit is brought back and no limit is raised. With `spread` all units are limited alike
    (more hashes per joule) and stopped only below their least power; it needs units that all can be limited.
    """
    unsteered_w, runnable = _unsteered(units, dark_w, may_raise=may_raise)
    budget_w = setpoint_w - unsteered_w
    dark_target = UNSET if budget_w >= 0 else STOP
    targets = [STOP] * len(units)
    for index, unit in enumerate(units):
        if unit.standing is Standing.FIXED or (unit.standing is Standing.DARK and dark_target):
            targets[index] = unit.rated_w
    spent_w = _spend(units, runnable, max(budget_w, 0), targets, spread=spread)
    if not may_raise:
        _keep_limits(units, targets)
    return Allocation(targets, unsteered_w + spent_w)


def least_kept_w(units: Sequence[Unit], *, dark_w: int | None = None, spread: bool = False) -> int | None:
    """The least setpoint at which one at least of the units that run is left running, as all stand; None where none
    runs. It counts what cannot be read or steered, so it may be far above what that one unit draws."""
    unsteered_w, runnable = _unsteered(units, dark_w, may_raise=False)
    if not runnable:
        return None
    extra_w = [(units[index].least_w or units[index].rated_w) - units[index].idle_w for index in runnable]
    alike = spread and all(units[index].least_w for index in runnable)
    return unsteered_w + (max(extra_w) if alike else min(extra_w))


def _unsteered(units: Sequence[Unit], dark_w: int | None, *, may_raise: bool) -> tuple[int, list[int]]:
    """What the bank draws with every steerable unit stopped, and which units may run."""
    fixed_w = dark_rated_w = rises_w = 0
    runnable: list[int] = []
    for index, unit in enumerate(units):
        standing = unit.standing
        if standing is Standing.DARK:
            dark_rated_w += unit.rated_w
            rises_w += unit.rated_w if unit.rises else 0
        elif standing is Standing.FIXED:
            fixed_w += unit.rated_w
        else:
            fixed_w += unit.idle_w
            # One that was told to stop and not looked at since reads as up, and may be down.
            if not unit.hot and standing in _STEERED and (may_raise or (standing is Standing.UP and unit.ran)):
                runnable.append(index)
    return fixed_w + (dark_rated_w if dark_w is None else min(dark_rated_w, max(dark_w, rises_w))), runnable


def _spend(units: Sequence[Unit], runnable: list[int], budget_w: int, targets: list[int], *, spread: bool) -> int:
    """Give `budget_w` above idle to the runnable units; returns what was given."""
    full_w = sum(units[index].rated_w - units[index].idle_w for index in runnable)
    if full_w <= budget_w:
        for index in runnable:
            targets[index] = units[index].rated_w
        return full_w
    if not runnable or budget_w <= 0:
        return 0
    ranked = _ranked(units, runnable)
    if spread and all(units[index].least_w for index in runnable):
        return _spread(units, ranked, budget_w, targets)
    return _fill(units, ranked, budget_w, targets)


def _ranked(units: Sequence[Unit], runnable: list[int]) -> list[int]:
    """Most efficient first; what runs, or is to run, keeps its place unless something is clearly better."""
    known = [units[index].j_per_th for index in runnable if units[index].j_per_th > 0]
    nominal = sum(known) / len(known) if known else 1.0

    def rank(index: int) -> float:
        unit = units[index]
        # What was told to run has begun to, though its next reading may still say that it stands.
        runs = unit.target_w > STOP or (unit.standing is Standing.UP and unit.target_w == UNSET)
        return (unit.j_per_th or nominal) * (1.0 if runs else SWAP_GAIN)

    return sorted(runnable, key=rank)  # stable: ties keep the order of the config


def _fill(units: Sequence[Unit], ranked: list[int], budget_w: int, targets: list[int]) -> int:
    """Full power to the first units that fit, and a power limit to one more for the last bit."""
    left_w = budget_w
    trimmed = False
    for index in ranked:
        unit = units[index]
        extra_w = unit.rated_w - unit.idle_w
        if extra_w <= left_w:
            targets[index] = unit.rated_w
            left_w -= extra_w
        elif not trimmed and (limit_w := _limit(unit, unit.idle_w + left_w)):
            targets[index] = limit_w
            left_w -= limit_w - unit.idle_w
            trimmed = True
    return budget_w - left_w


def _spread(units: Sequence[Unit], ranked: list[int], budget_w: int, targets: list[int]) -> int:
    """An equal share to as many units as can run on one, the most efficient first."""
    dearest_w = max(units[index].least_w - units[index].idle_w for index in ranked)
    count = min(len(ranked), budget_w // max(dearest_w, 1))
    spent_w = 0
    for place, index in enumerate(ranked[:count]):
        unit = units[index]
        share_w = (budget_w - spent_w) // (count - place)  # what a unit cannot take goes to those after it
        if limit_w := _limit(unit, min(unit.rated_w, unit.idle_w + share_w)):
            targets[index] = limit_w
            spent_w += max(limit_w - unit.idle_w, 0)
    return spent_w


def _limit(unit: Unit, allowed_w: int) -> int:
    """The limit to set for a unit that may draw `allowed_w`; 0 where it cannot go so low."""
    if not unit.least_w or allowed_w < unit.least_w:
        return 0
    if allowed_w >= unit.rated_w:
        return unit.rated_w
    stands_w = unit.target_w
    if unit.least_w <= stands_w <= allowed_w and allowed_w - stands_w <= LIMIT_SLACK_W:
        return stands_w
    return max(allowed_w // LIMIT_GRAIN_W * LIMIT_GRAIN_W, unit.least_w)


def _keep_limits(units: Sequence[Unit], targets: list[int]) -> None:
    """Nothing may rise: a limit that stands stays."""
    for index, unit in enumerate(units):
        if STOP < unit.target_w < targets[index]:
            targets[index] = unit.target_w
