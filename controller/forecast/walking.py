"""A ridge regression per lead time that walks along with the past: what it has learned once it does not read again.

Sums are kept for whole blocks of the past, cut at the same places whatever the calls before were, so the outcome is
that of one fit over all of `past`. A past that does not continue the last one is learned from its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from controller.forecast.features import WINDOW_H, Design, Origins, ahead_features, origins_at
from controller.forecast.gram import add_products
from controller.forecast.known import F8, Known, Series
from controller.forecast.localtime import DAY_MS, HOUR_MS
from controller.forecast.memo import Memo
from controller.forecast.moment import I8, past_only

LEADS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 144, 288)
"""Intervals after the last known price; those within a day are learned, others lie between two of them."""
BLOCK_DAYS: Final = 32
HALF_LIFE_DAYS: Final = 730.0
"""A day counts half as much as one that is so many days younger."""
RIDGE: Final = 10.0
"""Weight, in rows, of a belief that every weight is 0."""
STRIDE_MS: Final = 105 * 60_000
"""Far leads learn from every so often a target at most: neighbours say the same."""
LEARN_MIN_DAYS: Final = 28


@dataclass(slots=True)
class Sums:
    """What a fit is made of, by lead: rows' products with themselves and with what came."""

    gram: F8
    moment: F8
    rows: float = 0.0
    """Weight of what lead 1 learned from."""


@dataclass(slots=True)
class _Progress:
    """Whole blocks learned so far, and the series they were read from."""

    past: Known
    load_after_ms: int
    through: int
    """Price intervals in the blocks."""
    sums: Sums


@dataclass(slots=True)
class WalkingRidge:
    """Prices to plan with, lead by lead: E[min(max(price, -cap), cap)] given `Origins` and day-ahead."""

    design: Design
    cap: float
    leads: I8 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    weights: F8 = field(default_factory=lambda: np.zeros((0, 0)))
    """(leads, F); empty until it is fitted."""
    _progress: _Progress | None = None
    _target: F8 = field(default_factory=lambda: np.zeros((0, 0)))
    """(T, leads), (O, leads) and (A, B * leads): the weights of a row's three parts."""
    _own: F8 = field(default_factory=lambda: np.zeros((0, 0)))
    _pairs: F8 = field(default_factory=lambda: np.zeros((0, 0)))
    _tables: Memo[tuple[F8, F8 | None]] = field(default_factory=Memo)
    _between: Memo[tuple[I8, I8, I8, F8]] = field(default_factory=Memo)

    def fit(self, past: Known) -> bool:
        """Learn from all of `past`; False where it is too short or lacks a source, and nothing changes."""
        load = past_only(past.load_mw, past.at_ms)
        load_after_ms = 0 if load is None else load.end_ms - past.price.end_ms
        per_day = DAY_MS // past.price.step_ms
        leads = np.array([lead for lead in LEADS if lead <= max(per_day, 1)], dtype=np.int64)
        if not self._has_sources(past):
            return False
        block = BLOCK_DAYS * per_day
        begun = self._progress
        if begun is None or begun.load_after_ms != load_after_ms or not _continues(begun.past, past, begun.through):
            begun = _Progress(past, load_after_ms, 0, self._nothing(len(leads)))
        sums, through = begun.sums, begun.through
        while through + block <= len(past.price.values):
            sums = self._learn(sums, past, load_after_ms, leads, through, through + block)
            through += block
        self._progress = _Progress(past, load_after_ms, through, sums)
        sums = self._learn(sums, past, load_after_ms, leads, through, len(past.price.values))
        if sums.rows < LEARN_MIN_DAYS * per_day:
            return False
        penalty = RIDGE / np.array([_stride(int(lead), past.price.step_ms) for lead in leads])
        diagonal = np.eye(sums.gram.shape[1])
        solved = np.linalg.solve(sums.gram + penalty[:, None, None] * diagonal, sums.moment[:, :, None])
        self.weights, self.leads = np.asarray(solved[:, :, 0], dtype=np.float64), leads
        self._part_weights()
        return True

    def predict(self, origins: Origins, late: int, starts: I8, step_ms: int, day_ahead: Series | None) -> F8:
        """(N,) for consecutive targets of `step_ms`, the first `late` intervals after the one origin.

        NaN where a target's day-ahead price is unknown and this design reads it.
        """
        first_ms, table, coarse = self._targets_near(starts, step_ms, day_ahead)
        at = slice((int(starts[0]) - first_ms) // step_ms, (int(starts[-1]) - first_ms) // step_ms + 1)
        by_lead = table[at] + self.design.of_origins(origins)[0] @ self._own
        if coarse is not None:
            pairs = (self.design.coarse_origin(origins)[0] @ self._pairs).reshape(-1, len(self.leads))
            by_lead += coarse[at] @ pairs
        row, lower, upper, share = self._between.get(
            (late, len(starts)), lambda: self._leads_between(late, len(starts))
        )
        low = by_lead[row, lower]
        told: F8 = np.minimum(np.maximum(low + (by_lead[row, upper] - low) * share, -self.cap), self.cap)
        return told

    def _targets_near(self, starts: I8, step_ms: int, day_ahead: Series | None) -> tuple[int, F8, F8 | None]:
        """What the targets of these whole days add by lead (S, leads), their side of the pairs, and the first one's
        beginning. Days are kept until their day-ahead price changes."""
        phase_ms = int(starts[0]) % step_ms
        first_ms = (int(starts[0]) - phase_ms) // DAY_MS * DAY_MS + phase_ms
        end_ms = (int(starts[-1]) - phase_ms) // DAY_MS * DAY_MS + DAY_MS + phase_ms
        if "day_ahead" not in self.design.sources or day_ahead is None:
            table, coarse = self._tables.get(
                (first_ms, end_ms, step_ms), lambda: self._table(first_ms, end_ms, step_ms, None)
            )
            return first_ms, table, coarse
        low = max((first_ms - day_ahead.start_ms) // day_ahead.step_ms - 1 - WINDOW_H * HOUR_MS // day_ahead.step_ms, 0)
        high = max((end_ms - day_ahead.start_ms) // day_ahead.step_ms + 1 + WINDOW_H * HOUR_MS // day_ahead.step_ms, 0)
        near = day_ahead.values[low:high]
        key = (first_ms, end_ms, step_ms, low, day_ahead.start_ms, day_ahead.step_ms, near.tobytes())
        table, coarse = self._tables.get(key, lambda: self._table(first_ms, end_ms, step_ms, day_ahead))
        return first_ms, table, coarse

    def _table(self, first_ms: int, end_ms: int, step_ms: int, day_ahead: Series | None) -> tuple[F8, F8 | None]:
        starts = np.arange(first_ms, end_ms, step_ms, dtype=np.int64)
        ahead = None if day_ahead is None else ahead_features(day_ahead, starts)
        table = self.design.of_targets(starts, ahead) @ self._target
        return table, None if ahead is None else self.design.coarse_target(ahead)

    def _leads_between(self, late: int, count: int) -> tuple[I8, I8, I8, F8]:
        """For each target: its row, the learned leads below and above its own, and how far it lies between them."""
        lead = np.arange(late, late + count, dtype=np.int64)
        upper = np.minimum(np.searchsorted(self.leads, np.maximum(lead, 1)), len(self.leads) - 1)
        lower = np.maximum(upper - 1, 0)
        span = np.maximum(self.leads[upper] - self.leads[lower], 1)
        return np.arange(count), lower, upper, np.clip((lead - self.leads[lower]) / span, 0.0, 1.0)

    def _part_weights(self) -> None:
        row = _blank_origin()
        ahead = np.zeros((1, 4))
        targets = self.design.of_targets(np.zeros(1, dtype=np.int64), ahead).shape[1]
        origins = self.design.of_origins(row).shape[1]
        self._target = np.ascontiguousarray(self.weights[:, :targets].T)
        self._own = np.ascontiguousarray(self.weights[:, targets : targets + origins].T)
        rest = self.weights[:, targets + origins :].T
        if len(rest):
            left = self.design.coarse_origin(row).shape[1]
            self._pairs = np.ascontiguousarray(rest.reshape(left, -1))
        self._tables.forget()
        self._between.forget()

    def _has_sources(self, past: Known) -> bool:
        have = {"hour": True, "day_ahead": past.day_ahead is not None, "load": past.load_mw is not None}
        have["temperature"] = past.ambient_c is not None
        return all(have[source] for source in self.design.sources)

    def _nothing(self, leads: int) -> Sums:
        width = self.design.rows(_blank_origin(), np.zeros(1, dtype=np.int64), np.zeros((1, 4))).shape[1]
        return Sums(np.zeros((leads, width, width)), np.zeros((leads, width)))

    def _learn(self, sums: Sums, past: Known, load_after_ms: int, leads: I8, begin: int, end: int) -> Sums:
        """`sums` aged, plus the targets of price intervals `begin` to `end`."""
        price = past.price
        aged = 0.5 ** ((end - begin) * price.step_ms / DAY_MS / HALF_LIFE_DAYS)
        out = Sums(sums.gram * aged, sums.moment * aged, sums.rows * aged)
        first = max(begin - int(leads[-1]), 0)
        if end - first < 2:
            return out
        load = past_only(past.load_mw, past.at_ms)
        index = np.arange(first, end, dtype=np.int64)
        held = origins_at(
            price,
            index,
            past.day_ahead if "day_ahead" in self.design.sources else None,
            None if load is None or "load" not in self.design.sources else (load, load_after_ms),
            past.ambient_c if "temperature" in self.design.sources else None,
        )
        usable = self.design.usable(held)
        ahead = None
        if "day_ahead" in self.design.sources and past.day_ahead is not None:
            ahead = ahead_features(past.day_ahead, price.start_ms + index * price.step_ms)
        paid = np.clip(price.values, -self.cap, self.cap)
        for k, lead in enumerate(leads):
            stride = _stride(int(lead), price.step_ms)
            target = np.arange(-(-max(begin, int(lead)) // stride) * stride, end, stride, dtype=np.int64)
            keep = usable[target - lead - first] & np.isfinite(paid[target])
            if ahead is not None:
                keep &= np.isfinite(ahead[target - first, 0])
            target = target[keep]
            if not len(target):
                continue
            rows = self.design.rows(
                _pick(held, target - lead - first),
                price.start_ms + target * price.step_ms,
                None if ahead is None else ahead[target - first],
            )
            add_products(out.gram[k], out.moment[k], rows, paid[target])
            if k == 0:
                out.rows += len(target)
        return out


def _blank_origin() -> Origins:
    return Origins(*(np.zeros(1) for _ in Origins.__slots__))


def _pick(origins: Origins, at: I8) -> Origins:
    return Origins(*(getattr(origins, name)[at] for name in Origins.__slots__))


def _stride(lead: int, step_ms: int) -> int:
    """Every how many-th target a lead learns from: odd, so that every quarter of the hour is among them."""
    widest = max(STRIDE_MS // step_ms, 1)
    wanted = min(max(lead, 1), widest)
    return wanted if wanted % 2 else wanted - 1


def _continues(before: Known, now: Known, through: int) -> bool:
    """Whether the first `through` prices, and all other series as far as those were read, are what they were."""
    if through == 0:
        return False
    until_ms = before.price.start_ms + through * before.price.step_ms
    pairs = (
        (before.price, now.price),
        (before.day_ahead, now.day_ahead),
        (before.load_mw, now.load_mw),
        (before.ambient_c, now.ambient_c),
    )
    return all(_same_until(old, new, until_ms) for old, new in pairs)


def _same_until(old: Series | None, new: Series | None, until_ms: int) -> bool:
    if old is None or new is None:
        return old is new
    if old.start_ms != new.start_ms or old.step_ms != new.step_ms:
        return False
    count = min(max((until_ms + 12 * HOUR_MS - old.start_ms) // old.step_ms, 0), len(old.values))
    return len(new.values) >= count and np.array_equal(old.values[:count], new.values[:count], equal_nan=True)
