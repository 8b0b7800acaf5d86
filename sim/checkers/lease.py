"""Which order a site may rightly obey at any moment, worked out from the wires alone.

A second, independent statement of the lease rules: an order is good where it is for the site, answers a report that
this incarnation of the agent sent, is of the highest epoch yet obeyed and above its sequence, and arrives before its
lease is over. The lease runs from the moment the report was sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from contract.messages import Order, Workload
from sim.checkers.world import Event, OrderHeard, ReportSent

_REPORTS: Final = 4_000
_ORDERS: Final = 256


@dataclass(frozen=True, slots=True)
class Good:
    """A rightful order and the span it holds for."""

    order: Order
    from_ms: int
    until_ms: int

    def allows_w(self, bank: str, workload: Workload) -> int:
        """What it lets a bank draw; a bank that it does not name is to stand down."""
        for setpoint in self.order.setpoints:
            if setpoint.bank == bank:
                return setpoint.target_w if setpoint.workload in {workload, Workload.IDLE} else 0
        return 0


@dataclass(slots=True)
class SiteLease:
    """One site's orders and reports."""

    tolerance_ms: int
    boot: str | None = None
    epoch: int = -1
    seq: int = -1
    sent_ms: OrderedDict[tuple[str, int], int] = field(default_factory=OrderedDict)
    good: deque[Good] = field(default_factory=lambda: deque(maxlen=_ORDERS))
    """Newest last; each is superseded by the next."""
    verdicts: OrderedDict[tuple[int, int], str | None] = field(default_factory=OrderedDict)
    """By epoch and sequence: None where it was good, else why not."""

    def report(self, boot: str, seq: int, at_ms: int) -> None:
        self.boot = boot
        self.sent_ms[boot, seq] = at_ms
        if len(self.sent_ms) > _REPORTS:
            self.sent_ms.popitem(last=False)

    def hear(self, order: Order, site: str, at_ms: int) -> None:
        """Judge an order as it arrives. One that was good stays so when it is heard again."""
        key = (order.epoch, order.seq)
        if key in self.verdicts and self.verdicts[key] is None:
            return
        wrong = self._wrong(order, site, at_ms)
        self.verdicts[key] = wrong
        if len(self.verdicts) > _REPORTS:
            self.verdicts.popitem(last=False)
        if wrong is None:
            self.epoch, self.seq = key
            until_ms = self.sent_ms[order.based_on_boot, order.based_on_seq] + order.valid_for_ms
            if self.good and self.good[-1].until_ms > at_ms:
                last = self.good[-1]
                self.good[-1] = Good(last.order, last.from_ms, at_ms)
            self.good.append(Good(order, at_ms, until_ms))

    def between(self, from_ms: int, to_ms: int) -> list[Good]:
        """Rightful orders in force at any time of a span."""
        slack = self.tolerance_ms
        return [one for one in self.good if one.from_ms <= to_ms + slack and one.until_ms >= from_ms - slack]

    def covers(self, from_ms: int, to_ms: int) -> bool:
        """Whether a lease held without a gap over the whole span."""
        reach_ms = from_ms
        for one in self.good:
            if one.from_ms <= reach_ms + self.tolerance_ms:
                reach_ms = max(reach_ms, one.until_ms)
        return bool(self.good) and reach_ms >= to_ms

    @property
    def ends_ms(self) -> int | None:
        """When the newest lease is over, or was; None where there never was one."""
        return self.good[-1].until_ms if self.good else None

    def _wrong(self, order: Order, site: str, at_ms: int) -> str | None:
        if order.site != site:
            return f"it is for site {order.site}"
        sent_ms = self.sent_ms.get((order.based_on_boot, order.based_on_seq))
        if sent_ms is None or order.based_on_boot != self.boot:
            return (
                f"it answers report {order.based_on_seq} of boot {order.based_on_boot}, not one of this incarnation's"
            )
        if order.epoch < self.epoch:
            return f"its epoch is below {self.epoch}"
        if order.epoch == self.epoch and order.seq <= self.seq:
            return f"its sequence is not above {self.seq}"
        late_ms = at_ms - (sent_ms + order.valid_for_ms)
        if late_ms > self.tolerance_ms:
            return f"its lease had run out {late_ms} ms before"
        return None


class Leases:
    """All sites' leases, fed with the events of each step."""

    def __init__(self, tolerance_ms: int) -> None:
        self._tolerance_ms = tolerance_ms
        self._sites: dict[str, SiteLease] = {}

    def of(self, site: str) -> SiteLease:
        return self._sites.setdefault(site, SiteLease(self._tolerance_ms))

    def take(self, event: Event) -> None:
        if isinstance(event, ReportSent):
            self.of(event.report.site).report(event.report.boot, event.report.seq, event.at_ms)
        elif isinstance(event, OrderHeard):
            self.of(event.site).hear(event.order, event.site, event.at_ms)
