"""Publish: from a site's decision to a leased order, and what became of it.

Every order states the full target and answers the newest report, so it can be published again at any time; the agent
dates the lease itself. Confirmation is the agent's word that measured power agrees, never our own.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Final

from contract.bus import Bus
from contract.clock import Clock
from contract.lean import lean
from contract.messages import Mode, Order, Receipt, ReceiptState, Setpoint, encode
from contract.reasons import ReceiptReason
from contract.topics import site_topic
from controller.engine.model import Params, SiteDecision
from controller.faults import Faults
from controller.journal.base import Journal, OrderRecord, ReceiptRecord
from controller.metrics import Metrics
from controller.state import Issued, SiteState

_LOG = logging.getLogger(__name__)
ISSUED_MAX: Final = 16
"""Orders of a site that are remembered, for their receipts."""
_UNHEARD_REPORTS: Final = 2
_UNHEARD_MS: Final = 10_000
_ANSWER_AGAIN: Final = frozenset({ReceiptReason.BASIS_UNKNOWN, ReceiptReason.LEASE_EXPIRED, ReceiptReason.SEQ_OLD})


class Publisher:
    """Makes orders and follows them. All orders of one controller carry its epoch."""

    def __init__(self, bus: Bus, clock: Clock, journal: Journal, metrics: Metrics, *, history: int) -> None:
        """`history` is how many orders and receipts are kept for those who watch; the journal has them all."""
        self._bus = bus
        self._clock = clock
        self._journal = journal
        self._metrics = metrics
        self.epoch = 0
        """Set before the first order, from the journal."""
        self.faults = Faults(_LOG)
        self.orders: deque[Order] = deque(maxlen=history)
        """The newest orders that went out."""
        self.receipts: deque[Receipt] = deque(maxlen=history)
        self.receipt_counts: Counter[str] = Counter()
        """Changes of receipt state by state, over all banks; an order refused as a whole counts once."""

    def publish(
        self, state: SiteState, decision: SiteDecision, decision_id: str, params: Params, *, urgent: bool | None = None
    ) -> Order | None:
        """Order what was decided. None where there is no report to answer, or a higher epoch reigns."""
        track = state.orders
        if state.report is None or state.fenced:
            track.due = True
            return None
        setpoints = tuple(
            Setpoint(bank=bank.bank, workload=bank.workload, target_w=bank.target_w, reason=bank.reason)
            for bank in decision.banks
        )
        track.seq += 1
        now_ms = self._clock.mono_ms()
        order = Order(
            site=state.site,
            epoch=self.epoch,
            seq=track.seq,
            based_on_boot=state.report.boot,
            based_on_seq=state.report.seq,
            valid_for_ms=max(1, params.lease_ms),
            issued_at_ms=self._clock.wall_ms(),
            decision=decision_id,
            urgent=decision.urgent if urgent is None else urgent,
            obligation=decision.obligation,
            cap_w=decision.cap_w,
            setpoints=setpoints,
            shed_ladder=decision.shed_ladder,
        )
        sent = self._bus.publish(site_topic(state.site, "order"), encode(order))
        changes = track.last is None or _targets(track.last) != _targets(order)
        track.last, track.last_at_ms, track.due = lean(order), now_ms, not sent
        self._metrics.orders.labels("published" if sent else "dropped").inc()
        if sent:
            self.orders.append(order)
            track.refused = None
            track.issued[order.seq] = Issued(now_ms, changes)
            while len(track.issued) > ISSUED_MAX:
                del track.issued[next(iter(track.issued))]
        return order

    def reissue(self, state: SiteState, params: Params) -> Order | None:
        """The same target again, answering the newest report, so that the lease does not lapse."""
        if state.decided is None:
            return None
        order = self.publish(state, state.decided.decision, state.decided.id, params, urgent=False)
        if order is not None:
            self.journal_order(state, order)
        return order

    def on_report(self, state: SiteState) -> None:
        """Compare what the agent says it obeys with what it was told; an order it never heard of is told again."""
        track, report, now_ms = state.orders, state.report, self._clock.mono_ms()
        if report is None:
            return
        if report.epoch > self.epoch:
            detail = f"the agent has seen epoch {report.epoch}, ours is {self.epoch}: another controller leads"
            self.faults.hit(state.site, "fenced", detail, now_ms)
        state.fenced = report.epoch > self.epoch
        obeyed = report.order_seq if report.epoch == self.epoch else None
        if obeyed is not None and obeyed > track.seq:  # a start whose epoch could not be journalled uses it twice
            track.seq = obeyed
            track.due = True
        last = track.last
        if (
            last is not None
            and report.mode is Mode.AUTO
            and last.seq in track.issued
            and track.refused is None
            and (obeyed is None or obeyed < last.seq)
            and report.boot == last.based_on_boot
            and report.seq > last.based_on_seq + _UNHEARD_REPORTS
            and now_ms - track.last_at_ms >= _UNHEARD_MS
        ):
            self.faults.hit(state.site, "order_unheard", f"order {last.seq} is not obeyed after two reports", now_ms)
            track.due = True

    def journal_order(self, state: SiteState, order: Order) -> None:
        """Write an order down; the caller does so once it is out."""
        self._journal.write(
            OrderRecord(
                at_ms=order.issued_at_ms,
                site=order.site,
                epoch=order.epoch,
                seq=order.seq,
                decision_id=order.decision,
                based_on_boot=order.based_on_boot,
                based_on_seq=order.based_on_seq,
                valid_for_ms=order.valid_for_ms,
                published=order.seq in state.orders.issued,
            )
        )

    def on_receipt(self, state: SiteState, receipt: Receipt) -> None:
        """Take the agent's answer in. What does not answer an order of ours, or is older than one seen, is counted."""
        track, now_ms = state.orders, self._clock.mono_ms()
        issued = track.issued.get(receipt.order_seq)
        if receipt.epoch != self.epoch or issued is None:
            detail = f"a receipt for order {receipt.epoch}/{receipt.order_seq}"
            self.faults.hit(state.site, "receipt_unknown", detail, now_ms)
            return
        last = track.receipt
        if last is not None and last.boot == receipt.boot and receipt.seq <= last.seq:
            self.faults.hit(state.site, "receipt_old", f"receipt {receipt.seq} after {last.seq}", now_ms)
            return
        track.receipt, track.receipt_at_ms = receipt, now_ms
        self.receipts.append(receipt)
        self._journal.write(ReceiptRecord(self._clock.wall_ms(), receipt))
        if not receipt.accepted:
            self._refused(state, receipt, now_ms)
            return
        self.faults.fine(state.site, now_ms)
        self._fold_banks(state, receipt)
        if issued.changes and not issued.confirmed and _all_confirmed(receipt):
            issued.confirmed = True
            exemplar = {"site": state.site, "order": f"{self.epoch}-{receipt.order_seq}"}
            self._metrics.order_confirmed_seconds.observe((now_ms - issued.at_ms) / 1_000, exemplar)

    def _fold_banks(self, state: SiteState, receipt: Receipt) -> None:
        track = state.orders
        for bank in receipt.banks:
            before = track.banks.get(bank.bank)
            if before is None or (before.state, before.target_w) != (bank.state, bank.target_w):
                self.receipt_counts[bank.state] += 1
                self._metrics.receipts.labels(bank.state).inc()
            track.banks[bank.bank] = bank
        if state.nameplate is not None and len(track.banks) > len(state.nameplate.banks):
            known = {bank.id for bank in state.nameplate.banks}
            track.banks = {name: bank for name, bank in track.banks.items() if name in known}

    def _refused(self, state: SiteState, receipt: Receipt, now_ms: int) -> None:
        reason = receipt.reason or "unstated"
        self._metrics.refusals.labels(reason).inc()
        self.receipt_counts[ReceiptState.REFUSED] += 1
        self._metrics.receipts.labels(ReceiptState.REFUSED).inc()
        self.faults.hit(state.site, "order_refused", f"{reason}: {receipt.detail}", now_ms)
        track = state.orders
        if track.last is not None and receipt.order_seq == track.last.seq:
            track.refused = receipt
            track.due = receipt.reason in _ANSWER_AGAIN


def _targets(order: Order) -> dict[str, int]:
    return {setpoint.bank: setpoint.target_w for setpoint in order.setpoints}


def _all_confirmed(receipt: Receipt) -> bool:
    return bool(receipt.banks) and all(bank.state is ReceiptState.CONFIRMED for bank in receipt.banks)
