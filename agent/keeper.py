"""When what must not be forgotten is written down: at once what fences and holds, in a quiet moment what is large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from agent.build import Machinery
from agent.guard_model import GuardPlan, GuardState
from agent.persist import Now, memory_to_save, state_to_save
from agent.state import StateStore

STATE_EVERY_MS: Final = 60_000
MEMORY_EVERY_MS: Final = 5_000
MEMORY_LATEST_MS: Final = 30_000
"""Drivers' memories are saved by then, quiet moment or not."""


class Keeper:
    """Saves one agent's state. `guard` gives the guard's state of the moment."""

    def __init__(
        self,
        store: StateStore,
        plan: GuardPlan,
        machinery: Machinery,
        boot_ms: int,
        now: Callable[[], Now],
        guard: Callable[[], GuardState],
    ) -> None:
        self._store, self._plan, self._machinery, self._boot_ms = store, plan, machinery, boot_ms
        self._now, self._guard = now, guard
        self._dirty = True
        self._state_ms = self._memory_ms = now().mono_ms
        self._footprints: list[object] = []
        self.saves: Counter[str] = Counter()
        """By outcome: `ok` and `failed`."""

    def touch(self) -> None:
        """Something has changed that must outlive this incarnation."""
        self._dirty = True

    def partitions_changed(self) -> None:
        """A partition was acted upon: what is frozen must be known to the next incarnation, whatever happens now."""
        footprints = [bank.footprint for bank in self._machinery.hpc_banks]
        if footprints != self._footprints:
            self._footprints = footprints
            self.save_state()

    def tick(self, now_ms: int) -> None:
        """Save what is due."""
        if self._dirty or now_ms - self._state_ms >= STATE_EVERY_MS:
            self.save_state()
        fleet = self._machinery.fleet
        since_ms = now_ms - self._memory_ms
        if fleet.memory_changed and since_ms >= (MEMORY_EVERY_MS if fleet.idle else MEMORY_LATEST_MS):
            self.save_memory()

    def save_state(self) -> None:
        now = self._now()
        self._dirty = False
        self._state_ms = now.mono_ms
        state = state_to_save(self._plan, self._guard(), self._machinery.hpc_banks, self._boot_ms, now)
        self.saves["ok" if self._store.save(state) else "failed"] += 1

    def save_memory(self) -> None:
        self._machinery.fleet.memory_changed = False
        self._memory_ms = self._now().mono_ms
        self.saves["ok" if self._store.save_memory(memory_to_save(self._machinery)) else "failed"] += 1
