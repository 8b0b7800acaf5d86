"""What became of a simulated world."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel

from contract.messages import Order, Receipt, ReceiptState
from sim.checkers import DecisionMade, Event, OrderHeard, ReceiptSent, Violation
from sim.faults import Fault


@dataclass(slots=True)
class Outcome:
    """The history of one seed, counted. `digest` is of every event in its order: equal digests, equal histories."""

    seed: int
    begin_ms: int
    end_ms: int
    sites: tuple[str, ...]
    violations: list[Violation] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    """By class name."""
    receipts: Counter[str] = field(default_factory=Counter)
    """Banks' receipts by state, and orders refused by reason."""
    triggers: Counter[str] = field(default_factory=Counter)
    """Reasons that decisions gave their banks."""
    faults: tuple[Fault, ...] = ()
    """Those that struck."""
    asks_taken: int = 0
    curtailed_mwh: float = 0.0
    """What the sites' banks could have drawn more."""
    orders_obeyed: int = 0
    oracles: int = 0
    digest: str = ""

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.events.items()))
        receipts = ", ".join(f"{name} {count}" for name, count in sorted(self.receipts.items()))
        lines = [
            f"seed {self.seed}: {(self.end_ms - self.begin_ms) / 60_000:g} min of {', '.join(self.sites)}; {counts}",
            f"  {len(self.faults)} faults, {self.asks_taken} asks, {self.orders_obeyed} orders obeyed; {receipts}",
            f"  {self.curtailed_mwh:.4f} MWh curtailed; digest {self.digest[:16]}",
        ]
        lines += [f"  {violation}" for violation in self.violations]
        return "\n".join(lines)


class Tally:
    """Counts events into an `Outcome` as they happen."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._hash = hashlib.sha256()
        self._obeyed: set[tuple[str, int, int]] = set()

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            self._outcome.events[type(event).__name__] += 1
            self._hash.update(_bytes(event))
            if isinstance(event, ReceiptSent):
                self._receipt(event.receipt)
            elif isinstance(event, DecisionMade):
                for site in event.decided.sites:
                    self._outcome.triggers.update(str(bank.reason) for bank in site.banks)

    def close(self) -> None:
        self._outcome.digest = self._hash.hexdigest()

    def _receipt(self, receipt: Receipt) -> None:
        if not receipt.accepted:
            self._outcome.receipts[f"refused: {receipt.reason}"] += 1
            return
        key = (receipt.site, receipt.epoch, receipt.order_seq)
        if key not in self._obeyed:
            self._obeyed.add(key)
            self._outcome.orders_obeyed += 1
        self._outcome.receipts.update(str(bank.state) for bank in receipt.banks)


def _bytes(event: Event) -> bytes:
    """An event for the digest; pydantic's messages as the JSON they are."""
    parts: list[str] = [type(event).__name__]
    for name in event.__dataclass_fields__:
        value = getattr(event, name)
        parts.append(value.model_dump_json() if isinstance(value, BaseModel) else repr(value))
    return "|".join(parts).encode()


__all__ = ["Order", "OrderHeard", "Outcome", "ReceiptState", "Tally"]
