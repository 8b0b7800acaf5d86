"""What one host's power limit was before ours, and what ours is: so that it is put back as found, after a restart too.

A host does not say who has set its limit. One that is none of the figures we may have set is somebody else's, and is
the new "as found".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_OURS: Final = 4
NEAR_MILLI: Final = 20
NEAR_W: Final = 5
"""A host may round what it is asked for: so near to ours is ours."""
_KEY: Final = "limit"
_Figure = Annotated[int, Field(ge=0, le=1_000_000)]


class _Saved(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    found_w: _Figure | None = None
    found: dict[str, str | int | float | None] = {}
    ours_w: Annotated[tuple[_Figure, ...], Field(max_length=MAX_OURS)] = ()
    in_doubt: bool = False


@dataclass(slots=True)
class LimitLedger:
    """Empty where no limit of ours can be in force."""

    found_w: int | None = None
    """The limit that was in force; None for none."""
    found: dict[str, str | int | float | None] = field(default_factory=dict)
    """What the driver must write to put it back."""
    ours_w: tuple[int, ...] = ()
    """What we have set, or may have: an answer may be lost. The last one is what we want now."""
    in_doubt: bool = False
    """Whether the last one's answer was lost: it may yet come into force."""

    @property
    def holds(self) -> bool:
        return bool(self.ours_w)

    def is_ours(self, limit_w: int | None) -> bool:
        """Whether the limit in force is one of ours."""
        return limit_w is not None and any(
            abs(limit_w - own_w) <= max(NEAR_W, own_w * NEAR_MILLI // 1_000) for own_w in self.ours_w
        )

    def see(self, limit_w: int | None, found: Mapping[str, str | int | float | None]) -> None:
        """The limit in force just before we set ours. One that is not ours is what will be put back."""
        if not self.is_ours(limit_w):
            self.found_w, self.found, self.ours_w = limit_w, dict(found), ()

    def doubts(self, limit_w: int | None) -> bool:
        """Whether what was found is in force still only because a command of ours is late."""
        return self.in_doubt and limit_w == self.found_w

    def setting(self, limit_w: int) -> tuple[tuple[int, ...], bool]:
        """About to set one. Returns what `undo` wants to have."""
        before = self.ours_w, self.in_doubt
        self.ours_w = (*(own_w for own_w in self.ours_w if own_w != limit_w), limit_w)[-MAX_OURS:]
        self.in_doubt = True
        return before

    def undo(self, before: tuple[tuple[int, ...], bool]) -> None:
        """The host said no: it is as it was."""
        self.ours_w, self.in_doubt = before

    def done(self) -> None:
        """The host said yes: earlier figures are gone."""
        self.ours_w, self.in_doubt = self.ours_w[-1:], False

    def forget(self) -> None:
        """None of ours is in force."""
        self.found_w, self.found, self.ours_w, self.in_doubt = None, {}, (), False

    def save(self) -> dict[str, str]:
        if not self.holds:
            return {}
        saved = _Saved(found_w=self.found_w, found=self.found, ours_w=self.ours_w, in_doubt=self.in_doubt)
        return {_KEY: saved.model_dump_json()}

    def load(self, memory: Mapping[str, str]) -> None:
        """From a memory of whatever origin: what does not parse is forgotten."""
        self.forget()
        try:
            saved = _Saved.model_validate_json(memory.get(_KEY, "{}"))
        except ValidationError:
            return
        self.found_w, self.found, self.ours_w = saved.found_w, dict(saved.found), saved.ours_w
        self.in_doubt = saved.in_doubt


class KeepsLimit:
    """What every driver that limits a host keeps: the ledger, persisted as its `memory`, and one change at a time."""

    def __init__(self) -> None:
        self._ledger = LimitLedger()
        self._one_change = asyncio.Lock()

    @property
    def memory(self) -> dict[str, str]:
        return self._ledger.save()

    @memory.setter
    def memory(self, saved: dict[str, str]) -> None:
        self._ledger.load(saved)

    @property
    def limit_is_ours(self) -> bool:
        return self._ledger.holds
