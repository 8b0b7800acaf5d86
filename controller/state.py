"""What the controller knows of each site between decisions. Mutable, owned by the event loop's thread."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from contract.messages import BankReceipt, Nameplate, Order, Receipt, Report
from controller.engine.model import Quota, SiteDecision

BASELINE_WINDOW_MS: Final = 5 * 60_000
_BUCKET_MS: Final = 5_000
_BUCKETS: Final = BASELINE_WINDOW_MS // _BUCKET_MS
OLD_BOOTS: Final = 16
PLATES: Final = 4


class PowerWindow:
    """Main power over the last five minutes, as means of 5 s, so that faster reporting does not weigh more.

    A ring of plain integers, whole from the start: thousands of sites have one each, and none of them grows.
    """

    __slots__ = ("_buckets", "_counts", "_totals")

    def __init__(self) -> None:
        self._buckets = array("q", bytes(8 * _BUCKETS))
        self._totals = array("q", bytes(8 * _BUCKETS))
        self._counts = array("l", bytes(array("l").itemsize * _BUCKETS))

    def add(self, at_ms: int, power_w: int) -> None:
        bucket = at_ms // _BUCKET_MS
        slot = bucket % _BUCKETS
        if self._buckets[slot] != bucket:
            self._buckets[slot], self._totals[slot], self._counts[slot] = bucket, 0, 0
        self._totals[slot] += power_w
        self._counts[slot] += 1

    def mean(self, now_ms: int) -> tuple[int, int] | None:
        """Mean watts and the number of readings in it; None where the window is empty."""
        oldest = (now_ms - BASELINE_WINDOW_MS) // _BUCKET_MS
        slots = zip(self._buckets, self._totals, self._counts, strict=True)
        inside = [(total / count, count) for bucket, total, count in slots if count and bucket > oldest]
        if not inside:
            return None
        return round(sum(mean for mean, _ in inside) / len(inside)), sum(count for _, count in inside)


@dataclass(slots=True)
class Issued:
    """An order on its way: when it was published, and whether its confirmation is worth timing."""

    at_ms: int
    changes: bool
    """It set another target than the order before it."""
    confirmed: bool = False


@dataclass(slots=True)
class OrderTrack:
    """What became of a site's orders."""

    seq: int = 0
    last: Order | None = None
    last_at_ms: int = 0
    issued: dict[int, Issued] = field(default_factory=dict)
    """By sequence, oldest first, bounded."""
    banks: dict[str, BankReceipt] = field(default_factory=dict)
    """The newest word on each bank."""
    receipt: Receipt | None = None
    receipt_at_ms: int = 0
    refused: Receipt | None = None
    """The newest order was refused as a whole, and this is why."""
    due: bool = False
    """The last order did not get out or was refused for its basis: answer the next report."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The last decision of a site, and under which id it is journalled."""

    id: str
    at_ms: int
    """Wall clock."""
    trigger: str
    decision: SiteDecision


@dataclass(slots=True)
class SiteState:
    """One site. Times are the controller's monotonic clock unless said otherwise."""

    site: str
    boot: str | None = None
    """The agent's incarnation that counts."""
    online: bool = False
    nameplate: Nameplate | None = None
    """Of that incarnation."""
    main: str = ""
    """The feeder without a parent."""
    report: Report | None = None
    """The newest of that incarnation."""
    report_at_ms: int = 0
    report_seq: int = -1
    """Of the newest report taken in of this incarnation; what is not above it is old."""
    power: PowerWindow = field(default_factory=PowerWindow)
    plates: dict[str, Nameplate] = field(default_factory=dict)
    """By boot: a nameplate may come before the status that names its boot."""
    old_boots: dict[str, int] = field(default_factory=dict)
    """Incarnations that have been replaced, with their last report's sequence; bounded."""
    boot_changes: int = 0
    strays: int = 0
    """Reports of other incarnations since the last change of boot or of alarm."""
    stray_at_ms: int = 0
    conflict_at_ms: int | None = None
    """When two incarnations were last seen at once."""
    fenced: bool = False
    """The agent obeys a higher epoch than ours: another controller leads."""
    decided: Decided | None = None
    quota: Quota | None = None
    """Its part of the fleet's cap, where there is one."""
    orders: OrderTrack = field(default_factory=OrderTrack)
    event_decided_at_ms: int | None = None
    """When a report last led to a decision of its own."""

    def main_power_w(self) -> int | None:
        """Metered or estimated power at the main feeder, from the newest report."""
        if self.report is None:
            return None
        return next((reading.power_w for reading in self.report.feeders if reading.id == self.main), None)


class Fleet:
    """All sites, by id."""

    def __init__(self) -> None:
        self._sites: dict[str, SiteState] = {}

    def get(self, site: str) -> SiteState | None:
        return self._sites.get(site)

    def learn(self, site: str) -> SiteState:
        state = self._sites.get(site)
        if state is None:
            state = self._sites[site] = SiteState(site)
        return state

    def ids(self) -> list[str]:
        return sorted(self._sites)

    def __iter__(self) -> Iterator[SiteState]:
        return iter(list(self._sites.values()))

    def __len__(self) -> int:
        return len(self._sites)
