"""A bare publisher at the controller's end of the bus: it orders by hand and times what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from random import Random
from typing import Final

from bench.process import BenchError
from contract.bus import Inbound
from contract.bus_mqtt import MqttBus
from contract.clock import SystemClock
from contract.messages import Order, Receipt, ReceiptState, Report, Setpoint, Source, Workload, decode, encode
from contract.mqtt_settings import MqttSettings
from contract.topics import parse_site_topic, site_topic

LEASE_MS: Final = 600_000
_UP_S: Final = 10.0


class Hand:
    """Orders one site. Times are the loop's, which on asyncio's own loop is the machine's monotonic clock."""

    def __init__(self, bus: MqttBus, site: str) -> None:
        self.report: Report | None = None
        """The newest."""
        self.confirmed_at_s: dict[int, float] = {}
        """By order: when the receipt came in which the meters confirm every bank."""
        self._bus = bus
        self._site = site
        self._seq = 0

    def order(self, targets_w: Mapping[str, int], *, urgent: bool) -> tuple[int, float]:
        """Publish an order that answers the newest report. Its number, and the moment it was handed to the bus."""
        if self.report is None:
            raise BenchError("there is no report to answer yet")
        self._seq += 1
        order = Order(
            site=self._site,
            epoch=1,
            seq=self._seq,
            based_on_boot=self.report.boot,
            based_on_seq=self.report.seq,
            valid_for_ms=LEASE_MS,
            issued_at_ms=SystemClock().wall_ms(),
            urgent=urgent,
            obligation="bench" if urgent else None,
            setpoints=tuple(
                Setpoint(bank=bank, workload=Workload.HASH, target_w=target_w, reason="obligation")
                for bank, target_w in targets_w.items()
            ),
        )
        payload = encode(order)
        at_s = asyncio.get_running_loop().time()
        if not self._bus.publish(site_topic(self._site, "order"), payload):
            raise BenchError("the link to the broker is down")
        return order.seq, at_s

    def take(self, inbound: Inbound) -> None:
        """A message from the agent."""
        topic = parse_site_topic(inbound.topic)
        if topic is None:
            return
        if topic.kind == "report":
            self.report = decode(Report, inbound.payload)
        elif topic.kind == "receipt":
            at_s = asyncio.get_running_loop().time()
            receipt = decode(Receipt, inbound.payload)
            if _confirmed_by_meter(receipt):
                self.confirmed_at_s.setdefault(receipt.order_seq, at_s)


@contextlib.asynccontextmanager
async def hand(settings: MqttSettings, site: str) -> AsyncIterator[Hand]:
    """A hand on the bus for the length of the block."""
    bus = MqttBus(settings, Random(0))
    own = Hand(bus, site)
    up = asyncio.Event()
    topics = [site_topic(site, "report"), site_topic(site, "receipt")]
    running = asyncio.create_task(bus.run(topics, own.take, up.set, lambda _reason: None))
    try:
        async with asyncio.timeout(_UP_S):
            await up.wait()
        yield own
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def _confirmed_by_meter(receipt: Receipt) -> bool:
    return bool(receipt.banks) and all(
        bank.state is ReceiptState.CONFIRMED and bank.source is Source.METER for bank in receipt.banks
    )
