"""Publish: what an order says, and what becomes of it by the agent's receipts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from contract.messages import BankReceipt, Mode, Receipt, ReceiptState, Status
from contract.reasons import ReceiptReason
from controller.app import Controller
from controller.journal.base import OrderRecord, ReceiptRecord
from controller.journal.memory import MemoryJournal
from tests.controller.kit import RATED_W, StubBus, StubClock, make_controller, plate, report, stop, until


class Stand:
    """A controller with one site that has had its first order."""

    def __init__(self, controller: Controller, bus: StubBus, clock: StubClock, journal: MemoryJournal) -> None:
        self.controller = controller
        self.bus = bus
        self.clock = clock
        self.journal = journal
        self._receipts = 0

    @property
    def track(self) -> Any:
        state = self.controller.fleet.get("alpha")
        assert state is not None
        return state.orders

    def receipt(self, state: ReceiptState | None = ReceiptState.CONFIRMED, **more: Any) -> None:
        self._receipts += 1
        banks = tuple(
            BankReceipt(bank=f"bank-{i}", state=state, reason=ReceiptReason.IN_BAND, target_w=RATED_W, obeyed_w=RATED_W)
            for i in range(2)
            if state is not None
        )
        fields: dict[str, Any] = {
            "site": "alpha",
            "boot": "b1",
            "epoch": 1,
            "order_seq": self.track.seq,
            "seq": self._receipts,
            "accepted": True,
            "banks": banks,
        }
        self.bus.deliver(Receipt(**(fields | more)))

    def sample(self, name: str, **labels: str) -> float:
        return self.controller.metrics.registry.get_sample_value(f"wattshift_controller_{name}", labels) or 0.0


@asynccontextmanager
async def ordered() -> AsyncIterator[Stand]:
    bus, clock, journal = StubBus(), StubClock(), MemoryJournal()
    controller = make_controller(bus, clock, journal=journal)
    task = asyncio.ensure_future(controller.run())
    await bus.up.wait()
    bus.deliver(Status(site="alpha", boot="b1", online=True), plate(), report(seq=41))
    await until(lambda: bus.orders())
    try:
        yield Stand(controller, bus, clock, journal)
    finally:
        await stop(task)


async def test_an_order_states_the_whole_target_and_what_it_answers() -> None:
    async with ordered() as stand:
        order = stand.bus.orders()[0]
        assert (order.epoch, order.seq) == (1, 1)
        assert (order.based_on_boot, order.based_on_seq) == ("b1", 41)
        assert order.valid_for_ms == 150_000
        assert [(each.bank, each.target_w) for each in order.setpoints] == [("bank-0", RATED_W), ("bank-1", RATED_W)]
        assert [step.bank for step in order.shed_ladder] == ["bank-0", "bank-1"]
        assert order.decision == "1-1"


async def test_receipts_walk_to_confirmed_and_the_time_it_took_is_kept() -> None:
    async with ordered() as stand:
        stand.receipt(ReceiptState.DISPATCHED)
        stand.clock.advance(4_000)
        stand.receipt(ReceiptState.CONFIRMED)
        stand.receipt(ReceiptState.CONFIRMED)
        assert dict(stand.controller.receipt_counts) == {"dispatched": 2, "confirmed": 2}
        assert stand.sample("order_confirmed_seconds_count") == 1
        assert stand.sample("order_confirmed_seconds_sum") == pytest.approx(4.0)
        stand.receipt(ReceiptState.DRIFTED)
        assert stand.track.banks["bank-0"].state is ReceiptState.DRIFTED
        written = [record for record in stand.journal.records if isinstance(record, ReceiptRecord)]
        assert len(written) == 4


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("receipt_unknown", {"order_seq": 99}),
        ("receipt_unknown", {"epoch": 2}),
        ("receipt_old", {"seq": 0}),
    ],
)
async def test_a_receipt_of_no_order_of_ours_changes_nothing(code: str, more: dict[str, Any]) -> None:
    async with ordered() as stand:
        stand.receipt(ReceiptState.DISPATCHED)
        stand.receipt(ReceiptState.CONFIRMED, **more)
        assert stand.track.banks["bank-0"].state is ReceiptState.DISPATCHED
        assert stand.controller.publisher.faults.counts == {code: 1}


async def test_an_order_refused_for_its_basis_is_told_again_on_the_next_report() -> None:
    async with ordered() as stand:
        stand.receipt(None, accepted=False, reason=ReceiptReason.BASIS_UNKNOWN, detail="restarted")
        assert stand.controller.receipt_counts == {"refused": 1}
        assert stand.track.refused is not None
        stand.clock.advance(1_000)
        stand.bus.deliver(report(seq=42))
        await until(lambda: len(stand.bus.orders()) == 2)
        again = stand.bus.orders()[1]
        assert (again.seq, again.based_on_seq, again.decision) == (2, 42, "1-1")
        assert stand.track.refused is None
        assert len([record for record in stand.journal.records if isinstance(record, OrderRecord)]) == 2


async def test_an_order_refused_for_good_is_not_told_again_and_shown() -> None:
    async with ordered() as stand:
        stand.receipt(None, accepted=False, reason=ReceiptReason.LOCAL_MODE, detail="a person is in charge")
        stand.bus.deliver(report(seq=42, mode=Mode.LOCAL))
        await until(lambda: len(stand.bus.orders()) == 2)
        assert stand.bus.orders()[1].decision == "1-2", "the change of mode was decided, the refusal was not answered"
        assert stand.sample("order_refusals_total", reason="local_mode") == 1


async def test_an_order_the_bus_dropped_is_counted_and_goes_out_with_the_next_report() -> None:
    async with ordered() as stand:
        stand.bus.connected = False
        stand.bus.deliver(report(seq=42, mode=Mode.SAFE))
        await until(lambda: stand.sample("orders_total", result="dropped") == 1)
        stand.bus.connected = True
        stand.bus.deliver(report(seq=43, mode=Mode.SAFE))
        await until(lambda: len(stand.bus.orders()) == 2)
        assert stand.bus.orders()[1].based_on_seq == 43
        dropped = [r for r in stand.journal.records if isinstance(r, OrderRecord) and not r.published]
        assert len(dropped) == 1


async def test_a_sequence_used_up_by_an_earlier_start_of_the_same_epoch_is_passed_over() -> None:
    """Only where the journal could not write the epoch down; the agent would refuse the lower sequence."""
    async with ordered() as stand:
        stand.bus.deliver(report(seq=42, epoch=1, order_seq=500))
        await until(lambda: len(stand.bus.orders()) == 2)
        assert stand.bus.orders()[1].seq == 501
