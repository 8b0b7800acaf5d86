"""A journal in memory, for the simulation and for tests: no threads, no disk, the same bytes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from contract.messages import Nameplate
from controller.engine.model import Obligation, Override, SiteDecision
from controller.journal.base import (
    DecisionRecord,
    JournalHealth,
    OverrideRecord,
    Record,
    Restored,
    SignalRecord,
    StoredDecision,
)
from controller.journal.codec import decision_body, join, params_body, plate_body, snapshot_rest
from controller.overrides_model import Imposed

DECISIONS_MAX: Final = 50_000
RECORDS_MAX: Final = 100_000
OVERRIDES_BACK_MS: Final = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class _Kept:
    """A decision as bytes, its nameplate shared with all others that name the same."""

    n: int
    id: str
    site: str
    at_ms: int
    trigger: str
    engine: str
    params: bytes
    plate: bytes
    rest: bytes
    decision: bytes

    def stored(self) -> StoredDecision:
        snapshot = join(self.rest, self.plate)
        return StoredDecision(
            self.n, self.id, self.site, self.at_ms, self.trigger, self.engine, self.params, snapshot, self.decision
        )


class MemoryJournal:
    """A `Journal` that lasts as long as the object: open it again and it restores what a restart would."""

    def __init__(self, *, decisions_max: int = DECISIONS_MAX, records_max: int = RECORDS_MAX) -> None:
        self._decisions: deque[_Kept] = deque(maxlen=decisions_max)
        self._plates: dict[str, tuple[Nameplate, bytes]] = {}
        self._last: dict[str, SiteDecision] = {}
        self._obligations: dict[str, Obligation] = {}
        self._overrides: dict[str, Override] = {}
        self._epoch = 0
        self._written = 0
        self.records: deque[Record] = deque(maxlen=records_max)
        """Everything but decisions, as it was written."""
        self.counts: Counter[str] = Counter()

    async def open(self, now_ms: int) -> Restored:
        self._epoch += 1
        return Restored(
            epoch=self._epoch,
            epoch_durable=True,
            obligations=[each for each in self._obligations.values() if each.ends_at_ms > now_ms],
            overrides=[
                each
                for each in self._overrides.values()
                if each.ends_at_ms is None or each.ends_at_ms > now_ms - OVERRIDES_BACK_MS
            ],
            decisions=dict(self._last),
        )

    def write(self, record: Record) -> bool:
        self._written += 1
        self.counts[type(record).__name__] += 1
        match record:
            case DecisionRecord():
                self._keep(record)
                return True
            case SignalRecord():
                if record.action == "accept":
                    self._obligations[record.obligation.id] = record.obligation
                else:
                    self._obligations.pop(record.obligation.id, None)
            case OverrideRecord():
                self._overrides.pop(record.override.id, None)
                if record.action == "set" or isinstance(record.override, Imposed):  # a revoked one is shown for a day
                    self._overrides[record.override.id] = record.override
            case _:
                pass
        self.records.append(record)
        return True

    async def flush(self, timeout_s: float) -> bool:
        del timeout_s
        return True

    async def close(self) -> None:
        return

    @property
    def health(self) -> JournalHealth:
        return JournalHealth(True, "in memory", queued=0, written=self._written, dropped=0, failures=0)

    async def recent(self, site: str | None, limit: int) -> list[StoredDecision]:
        found: list[StoredDecision] = []
        for kept in reversed(self._decisions):
            if len(found) >= limit:
                break
            if site is None or kept.site == site:
                found.append(kept.stored())
        return found

    async def decisions(self, after_n: int = 0, site: str | None = None) -> AsyncIterator[StoredDecision]:
        for kept in list(self._decisions):
            if kept.n > after_n and (site is None or kept.site == site):
                yield kept.stored()

    def _keep(self, record: DecisionRecord) -> None:
        snapshot = record.snapshot
        self._last[snapshot.site] = record.decision
        plate, body = self._plates.get(snapshot.site, (None, b""))
        if plate is not snapshot.nameplate:
            body = plate_body(snapshot.nameplate)
            self._plates[snapshot.site] = (snapshot.nameplate, body)
        self._decisions.append(
            _Kept(
                n=self._written,
                id=record.id,
                site=snapshot.site,
                at_ms=record.at_ms,
                trigger=record.trigger,
                engine=record.engine,
                params=params_body(record.params),
                plate=body,
                rest=snapshot_rest(snapshot),
                decision=decision_body(record.decision),
            )
        )
