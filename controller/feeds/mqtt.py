"""Prices that arrive on the bus as `PriceMessage`."""

from __future__ import annotations

import logging

from contract.clock import Clock
from contract.messages import PriceMessage, WireError, decode
from contract.topics import price_topic
from controller.engine.model import EnergyPrice
from controller.feeds.base import FaultCount, FeedHealth, Interval, PriceBook
from controller.forecast.known import Series

_LOG = logging.getLogger(__name__)


class MqttPrices:
    """A `PriceFeed` that listens on `price_topic(channel)`; whoever owns the bus calls `on_payload`.

    Retained messages are welcome: a price names the interval it holds for.
    """

    def __init__(self, name: str, channel: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._book = PriceBook(name)
        self._faults = FaultCount(_LOG, name)
        self.topic = price_topic(channel)

    @property
    def name(self) -> str:
        return self._name

    @property
    def health(self) -> FeedHealth:
        return self._faults.health

    def price_at(self, now_ms: int) -> EnergyPrice:
        return self._book.price_at(now_ms)

    def known(self, since_ms: int, now_ms: int) -> Series | None:  # noqa: ARG002  the book holds what was told
        return self._book.known(since_ms)

    def on_payload(self, payload: bytes) -> None:
        """Take one message in; what is not a price is counted and left."""
        try:
            message = decode(PriceMessage, payload)
        except WireError as error:
            self._faults.fault(error.code, error.detail)
            return
        interval = Interval(message.interval_start_ms, message.interval_ms, message.usd_per_mwh)
        refused = self._book.add(interval, self._clock.wall_ms())
        if refused:
            self._faults.fault(refused, f"an interval that starts at {message.interval_start_ms} ms")
        else:
            self._faults.fine(f"last told {message.usd_per_mwh:g} USD/MWh")

    async def run(self) -> None:
        return
