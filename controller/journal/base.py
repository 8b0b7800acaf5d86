"""What a journal is: an append-only record of every decision and of all that led to it.

Writing never waits and never fails: a record is queued, and what cannot be written is counted. What is written can be
read back as it was, which `controller.journal.replay` proves by deciding it all again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from contract.messages import Receipt
from controller.engine.model import Obligation, Override, Params, SiteDecision, SiteSnapshot


class JournalError(Exception):
    """The journal cannot be opened or read; the text says which, why and what to do."""


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One site's part of a decision. All sites decided in one call share `id`, and are written one after the other."""

    id: str
    at_ms: int
    trigger: str
    engine: str
    params: Params
    snapshot: SiteSnapshot
    decision: SiteDecision


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """An order as it went out. Its content is the decision's; `published` is False where the bus dropped it."""

    at_ms: int
    site: str
    epoch: int
    seq: int
    decision_id: str
    based_on_boot: str
    based_on_seq: int
    valid_for_ms: int
    published: bool


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A receipt as it came."""

    at_ms: int
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """An obligation taken on, or withdrawn."""

    at_ms: int
    action: Literal["accept", "withdraw"]
    obligation: Obligation


@dataclass(frozen=True, slots=True)
class OverrideRecord:
    """An override set, or lifted."""

    at_ms: int
    action: Literal["set", "lift"]
    override: Override


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Anything else worth keeping: starts, alarms, losses. `kind` is stable."""

    at_ms: int
    kind: str
    site: str | None
    detail: str


Record = DecisionRecord | OrderRecord | ReceiptRecord | SignalRecord | OverrideRecord | EventRecord


@dataclass(frozen=True, slots=True)
class Restored:
    """What a controller starts from."""

    epoch: int
    """Above every epoch this journal has seen."""
    epoch_durable: bool
    """False where the new epoch could not be written down."""
    obligations: Sequence[Obligation] = ()
    """Accepted, not withdrawn, not over."""
    overrides: Sequence[Override] = ()
    """Set; what is over, by its end or revoked, for a day after."""
    decisions: Mapping[str, SiteDecision] = field(default_factory=dict)
    """The last of each site, where one is recent."""


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision as it stands in the journal: the very bytes."""

    n: int
    """Rises with every row."""
    id: str
    site: str
    at_ms: int
    trigger: str
    engine: str
    params: bytes
    snapshot: bytes
    """JSON of the `SiteSnapshot`."""
    decision: bytes
    """JSON of the `SiteDecision`."""


@dataclass(frozen=True, slots=True)
class JournalHealth:
    """How the journal is."""

    ok: bool
    detail: str
    queued: int
    written: int
    dropped: int
    failures: int
    """Writes that failed; each is tried again."""
    queue_max: int = 0
    """More records than these are dropped; 0 where there is no queue."""
    commit_s: float | None = None
    """How long the newest batch took to be durable."""
    size_bytes: int | None = None
    """Of its file on disk, where it is one."""


class Journal(Protocol):
    """Append-only. `write` may be called from the event loop at any moment between `open` and `close`."""

    async def open(self, now_ms: int) -> Restored:
        """Raise the epoch, and say what to start from. `now_ms` is wall clock. Raises `JournalError`."""
        ...

    def write(self, record: Record) -> bool:
        """Queue one record without waiting. False where it was dropped, which is counted."""
        ...

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that was queued before is durable. False where it is not: too slow, failing or dropped."""
        ...

    async def close(self) -> None:
        """Write what is queued, within a bound, and let go."""
        ...

    @property
    def health(self) -> JournalHealth: ...

    async def recent(self, site: str | None, limit: int) -> list[StoredDecision]:
        """The newest decisions, newest first. Raises `JournalError`."""
        ...

    def decisions(self, after_n: int = 0, site: str | None = None) -> AsyncIterator[StoredDecision]:
        """All decisions in the order they were written. Raises `JournalError`."""
        ...


class JournalBefore:
    """A `Journal` before another, which it asks for everything. What it does besides, its heirs say."""

    def __init__(self, inner: Journal) -> None:
        self._inner = inner

    async def open(self, now_ms: int) -> Restored:
        return await self._inner.open(now_ms)

    def write(self, record: Record) -> bool:
        return self._inner.write(record)

    async def flush(self, timeout_s: float) -> bool:
        return await self._inner.flush(timeout_s)

    async def close(self) -> None:
        await self._inner.close()

    @property
    def health(self) -> JournalHealth:
        return self._inner.health

    async def recent(self, site: str | None, limit: int) -> list[StoredDecision]:
        return await self._inner.recent(site, limit)

    def decisions(self, after_n: int = 0, site: str | None = None) -> AsyncIterator[StoredDecision]:
        return self._inner.decisions(after_n, site)
