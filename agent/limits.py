"""The feeder tree as arithmetic: what each breaker would carry, and what to shed so that it holds. Pure.

Banks and feeders are known by their place in the tuples. Loads are planned watts: a bank counts at what it is held at,
never below its floor, which no command can take away. At the root, the site's main, a bank's watts count with its PUE
(cooling and losses follow it there) and the site's base load is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of a shed ladder: take up to `frees_w` from a bank, all it has where None."""

    bank: int
    frees_w: int | None = None
    firm: bool = False
    """It may take what a bank's level does not reach: firm work, which a lower setpoint alone leaves alone."""


@dataclass(frozen=True, slots=True)
class FeederTree:
    """The site's electrical tree, laid out once."""

    ids: tuple[str, ...]
    limits_w: tuple[int, ...]
    metered: tuple[bool, ...]
    root: int
    leaves_first: tuple[int, ...]
    """Every feeder, each before its parent."""
    banks_under: tuple[tuple[int, ...], ...]
    """The banks on each feeder or on one below it."""
    above: tuple[tuple[int, ...], ...]
    """The feeders of each bank, its own first, the root last."""
    pue_milli: tuple[int, ...]
    base_load_w: int

    @classmethod
    def of(
        cls,
        feeders: Sequence[tuple[str, str | None, int, bool]],
        banks: Sequence[tuple[str, int]],
        base_load_w: int,
    ) -> Self:
        """From `(id, parent, limit_w, metered)` and `(feeder id, pue_milli)`; one tree, as `Nameplate` has it."""
        ids = tuple(feeder[0] for feeder in feeders)
        place = {name: index for index, name in enumerate(ids)}
        parent = [None if feeder[1] is None else place[feeder[1]] for feeder in feeders]
        above = tuple(tuple(_path(parent, place[name])) for name, _ in banks)
        depth = [len(_path(parent, index)) for index in range(len(ids))]
        return cls(
            ids=ids,
            limits_w=tuple(feeder[2] for feeder in feeders),
            metered=tuple(feeder[3] for feeder in feeders),
            root=parent.index(None),
            leaves_first=tuple(sorted(range(len(ids)), key=lambda index: -depth[index])),
            banks_under=tuple(
                tuple(bank for bank, path in enumerate(above) if feeder in path) for feeder in range(len(ids))
            ),
            above=above,
            pue_milli=tuple(pue for _, pue in banks),
            base_load_w=base_load_w,
        )

    def seen_w(self, feeder: int, bank: int, power_w: int) -> int:
        """What a bank's watts are at a feeder: with its PUE at the root, rounded up."""
        return -(-power_w * self.pue_milli[bank] // 1_000) if feeder == self.root else power_w

    def load_w(self, feeder: int, draws_w: Sequence[int]) -> int:
        """What a feeder carries where each bank draws `draws_w`."""
        load = sum(self.seen_w(feeder, bank, draws_w[bank]) for bank in self.banks_under[feeder])
        return load + self.base_load_w if feeder == self.root else load


def fit(
    tree: FeederTree,
    wanted_w: Sequence[int],
    floors_w: Sequence[int],
    limits_w: Sequence[int],
    rungs: Iterable[Rung],
    standing_w: Sequence[int] | None = None,
) -> tuple[list[int], list[int | None]]:
    """Lower `wanted_w` until every feeder's planned load is within `limits_w`, down the rungs, first rung first.

    A bank counts at its `standing_w` where that is more than it is left with: no lower setpoint helps there, and only
    a firm rung takes from it. Returns what each bank is left with, and the feeder it was cut for (None where it was
    not). Total: where the rungs name every bank, and every bank that stands firmly, each feeder ends within its limit
    or with every bank under it at its floor.
    """
    ladder = tuple(rungs)
    left_w = list(wanted_w)
    cut_for: list[int | None] = [None] * len(left_w)
    stands_w = [0] * len(left_w) if standing_w is None else list(standing_w)
    drawn_w = [max(each) for each in zip(left_w, floors_w, stands_w, strict=True)]
    for feeder in tree.leaves_first:
        excess_w = tree.load_w(feeder, drawn_w) - limits_w[feeder]
        if excess_w <= 0:
            continue
        under = set(tree.banks_under[feeder])
        for rung in ladder:
            bank = rung.bank
            least_w = floors_w[bank] if rung.firm else max(floors_w[bank], stands_w[bank])
            spare_w = drawn_w[bank] - least_w
            if bank not in under or spare_w <= 0:
                continue
            cut_w = min(spare_w, _bank_watts(tree, feeder, bank, excess_w))
            if rung.frees_w is not None:
                cut_w = min(cut_w, rung.frees_w)
            before_w = tree.seen_w(feeder, bank, drawn_w[bank])
            drawn_w[bank] -= cut_w
            left_w[bank] = min(left_w[bank], drawn_w[bank])
            cut_for[bank] = feeder
            excess_w -= before_w - tree.seen_w(feeder, bank, drawn_w[bank])
            if excess_w <= 0:
                break
    return left_w, cut_for


def room_w(tree: FeederTree, bank: int, loads_w: Sequence[int], limits_w: Sequence[int]) -> int:
    """How far a bank may rise before one of its feeders is full; negative where one is over. Loads by feeder."""
    rooms = (
        (limits_w[feeder] - loads_w[feeder]) * (1_000 if feeder == tree.root else tree.pue_milli[bank])
        for feeder in tree.above[bank]
    )
    return min(rooms) // tree.pue_milli[bank]


def _bank_watts(tree: FeederTree, feeder: int, bank: int, excess_w: int) -> int:
    """How much a bank must give so that `excess_w` is gone at a feeder, rounded up."""
    if feeder != tree.root:
        return excess_w
    return -(-excess_w * 1_000 // tree.pue_milli[bank]) + 1


def _path(parent: Sequence[int | None], start: int) -> list[int]:
    path: list[int] = []
    node: int | None = start
    while node is not None:
        path.append(node)
        node = parent[node]
    return path
