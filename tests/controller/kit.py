"""What the controller's tests share: a site on paper, a bus and a clock in hand, a small engine, and a small agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

from contract.bus import Bus, BusStats, Inbound, Will
from contract.clock import Clock
from contract.messages import (
    AnyMessage,
    BankPlate,
    BankReading,
    BankReceipt,
    Feeder,
    FeederReading,
    Level,
    Mode,
    Nameplate,
    Order,
    Receipt,
    ReceiptState,
    Report,
    ShedStep,
    Source,
    Status,
    Workload,
    decode,
    encode,
)
from contract.reasons import DecisionReason, ReceiptReason
from contract.topics import parse_site_topic, site_topic
from controller.app import Controller
from controller.config import ControllerConfig
from controller.dispatch import Decide
from controller.engine.model import BankDecision, Decision, Params, Shortfall, SiteDecision, SiteSnapshot, Snapshot
from controller.feeds.base import Feeds
from controller.journal.base import Journal
from controller.journal.memory import MemoryJournal

RATED_W = 1_000_000
BASE_W = 50_000
WALL_MS = 1_700_000_000_000
"""A whole second, and a whole multiple of neither a minute nor a quarter of an hour."""


def plate(site: str = "alpha", boot: str = "b1", banks: int = 2, **more: Any) -> Nameplate:
    """One main feeder, hash banks of 1 MW each."""
    return Nameplate(
        site=site,
        boot=boot,
        feeders=(Feeder(id="main", limit_w=100_000_000, metered=True),),
        banks=tuple(
            BankPlate(
                id=f"bank-{i}",
                feeder="main",
                workload=Workload.HASH,
                model="S21",
                devices=300,
                rated_w=RATED_W,
                levels=(Level(power_w=RATED_W, hashrate_ghs=57_000_000),),
            )
            for i in range(banks)
        ),
        base_load_w=BASE_W,
        **more,
    )


def report(
    site: str = "alpha", boot: str = "b1", seq: int = 1, *, bank_w: Sequence[int] = (RATED_W, RATED_W), **more: Any
) -> Report:
    """Everything measured now."""
    fields: dict[str, Any] = {
        "site": site,
        "boot": boot,
        "seq": seq,
        "sent_at_ms": WALL_MS,
        "mode": Mode.AUTO,
        "epoch": 0,
        "order_seq": None,
        "lease_left_ms": None,
        "feeders": (FeederReading(id="main", power_w=BASE_W + sum(bank_w), age_ms=0),),
        "banks": tuple(
            BankReading(
                id=f"bank-{i}",
                power_w=watts,
                age_ms=0,
                available_w=RATED_W,
                setpoint_w=watts,
                on=watts > 0,
                on_for_ms=10**8,
            )
            for i, watts in enumerate(bank_w)
        ),
    }
    return Report(**(fields | more))


def inbound(message: AnyMessage, *, retained: bool = False) -> Inbound:
    kind = type(message).__name__.lower()
    assert not isinstance(message, Order)
    return Inbound(f"wattshift/v1/sites/{getattr(message, 'site')}/{kind}", encode(message), retained)  # noqa: B009


def level_decide(snapshot: Snapshot, params: Params) -> Decision:
    """A small engine: full power, or under an open obligation or a cap what each bank may have of it."""
    return Decision(at_ms=snapshot.at_ms, sites=tuple(_level(site, snapshot.at_ms) for site in snapshot.sites))


def _level(site: SiteSnapshot, at_ms: int) -> SiteDecision:
    open_now = [o for o in site.obligations if o.starts_at_ms <= at_ms < o.ends_at_ms]
    limits = [o.target_w for o in open_now]
    limits += [o.value_w for o in site.overrides if o.value_w is not None]
    stopped = any(o.kind == "emergency_stop" for o in site.overrides)
    cap_w = min(limits, default=None)
    full_w = sum(bank.rated_w for bank in site.nameplate.banks)
    budget_w = full_w if cap_w is None else max(0, cap_w - site.nameplate.base_load_w)
    if stopped:
        budget_w = 0
    banks: list[BankDecision] = []
    for bank in site.nameplate.banks:
        target_w = min(bank.rated_w, budget_w)
        budget_w -= target_w
        reason = DecisionReason.OBLIGATION if target_w < bank.rated_w else DecisionReason.PRICE_BELOW_BREAK_EVEN
        banks.append(
            BankDecision(
                bank=bank.id, workload=Workload.HASH, target_w=target_w, reason=reason, value_usd_per_mwh=83.25
            )
        )
    planned_w = sum(bank.target_w for bank in banks) + site.nameplate.base_load_w
    short = [
        Shortfall(kind="obligation", id=o.id, short_w=planned_w - o.target_w)
        for o in open_now
        if planned_w > o.target_w
    ]
    return SiteDecision(
        site=site.site,
        banks=tuple(banks),
        shed_ladder=tuple(ShedStep(bank=bank.id, frees_w=bank.rated_w) for bank in site.nameplate.banks),
        cap_w=cap_w,
        obligation=open_now[0].id if open_now else None,
        urgent=cap_w is not None or stopped,
        planned_w=planned_w,
        margin_usd_per_h=12.5,
        shortfalls=tuple(short),
        sentence=f"{site.site}: {planned_w} W at {site.energy.usd_per_mwh} USD/MWh.",
    )


class StubClock:
    """Time that stands until it is moved. `sleep_ms` sleeps real time."""

    def __init__(self, wall_ms: int = WALL_MS, mono_ms: int = 5_000_000) -> None:
        self.wall = wall_ms
        self.mono = mono_ms

    def wall_ms(self) -> int:
        return self.wall

    def mono_ms(self) -> int:
        return self.mono

    async def sleep_ms(self, duration_ms: int) -> None:
        await asyncio.sleep(duration_ms / 1_000)

    def advance(self, duration_ms: int) -> None:
        self.wall += duration_ms
        self.mono += duration_ms


class StubBus:
    """A bus in hand: `deliver` is the broker's side of it."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.connected = True
        self._on_message: Callable[[Inbound], None] | None = None
        self.up = asyncio.Event()

    @property
    def stats(self) -> BusStats:
        return BusStats(1, len(self.published), 0, 0, 0)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        assert not retain, "orders are never retained"
        if self.connected:
            self.published.append((topic, payload))
        return self.connected

    async def run(
        self,
        subscriptions: Sequence[str],
        on_message: Callable[[Inbound], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        *,
        will: Will | None = None,
    ) -> None:
        self._on_message = on_message
        on_up()
        self.up.set()
        await asyncio.Event().wait()

    def deliver(self, *messages: AnyMessage, retained: bool = False) -> None:
        assert self._on_message is not None, "the controller does not run yet"
        for message in messages:
            self._on_message(inbound(message, retained=retained))

    def deliver_raw(self, topic: str, payload: bytes) -> None:
        assert self._on_message is not None
        self._on_message(Inbound(topic, payload))

    def orders(self, site: str = "alpha") -> list[Order]:
        return [decode(Order, payload) for topic, payload in self.published if topic == site_topic(site, "order")]


def make_controller(
    bus: Bus,
    clock: Clock,
    *,
    config: ControllerConfig | None = None,
    journal: Journal | None = None,
    decide: Decide = level_decide,
    feeds: Feeds | None = None,
    seed: int = 1,
    **more: Any,
) -> Controller:
    return Controller(
        config or ControllerConfig(),
        bus=bus,
        clock=clock,
        rng=Random(seed),
        journal=journal or MemoryJournal(),
        decide=decide,
        feeds=feeds,
        **{"history": 10_000, **more},
    )


@contextmanager
def running(controller: Controller) -> Iterator[asyncio.Task[None]]:
    """The controller's task, cancelled at the end."""
    task = asyncio.ensure_future(controller.run())
    try:
        yield task
    finally:
        task.cancel()


async def stop(task: asyncio.Task[None]) -> None:
    """Cancel and wait."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Wait for something to become true, generously."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  what is waited for is state, and has no event
            await asyncio.sleep(0.002)


class SmallAgent:
    """An agent that reports, obeys at once, and says so: the other side of the protocol in forty lines."""

    def __init__(self, bus: Bus, clock: Clock, site: str, boot: str = "b1", *, every_ms: int = 5_000) -> None:
        self._bus = bus
        self._clock = clock
        self._every_ms = every_ms
        self.site = site
        self.boot = boot
        self.seq = 0
        self.bank_w = [RATED_W, RATED_W]
        self.epoch = 0
        self.order: Order | None = None
        self.sent_ms: dict[int, int] = {}
        self.lease_ends_ms: int | None = None
        self.lapsed = 0
        """Reports sent while no lease was valid, after the first order."""
        self.refused = 0
        self.deaf = False
        """Orders are lost on their way."""
        self._receipts = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            will = Will(site_topic(self.site, "status"), encode(Status(site=self.site, boot=self.boot, online=False)))
            topic = site_topic(self.site, "order")
            group.create_task(self._bus.run([topic], self._on_order, self._on_up, lambda _: None, will=will))
            group.create_task(self._reports())

    def report_now(self) -> None:
        self.seq += 1
        now_ms = self._clock.mono_ms()
        self.sent_ms[self.seq] = now_ms
        if self.lease_ends_ms is not None and now_ms > self.lease_ends_ms:
            self.lapsed += 1
        sent = report(
            self.site,
            self.boot,
            self.seq,
            bank_w=self.bank_w,
            epoch=self.epoch,
            order_seq=self.order.seq if self.order else None,
        )
        self._bus.publish(site_topic(self.site, "report"), encode(sent))

    def _on_up(self) -> None:
        self._bus.publish(
            site_topic(self.site, "status"), encode(Status(site=self.site, boot=self.boot, online=True)), retain=True
        )
        self._bus.publish(site_topic(self.site, "nameplate"), encode(plate(self.site, self.boot)), retain=True)

    async def _reports(self) -> None:
        while True:
            await self._clock.sleep_ms(self._every_ms)
            self.report_now()

    def _on_order(self, message: Inbound) -> None:
        if self.deaf:
            return
        topic = parse_site_topic(message.topic)
        assert topic is not None
        order = decode(Order, message.payload)
        old = self.order is not None and (order.epoch, order.seq) <= (self.order.epoch, self.order.seq)
        sent_ms = self.sent_ms.get(order.based_on_seq)
        if order.based_on_boot != self.boot or sent_ms is None or old:
            self.refused += 1
            return
        self.order, self.epoch = order, order.epoch
        self.lease_ends_ms = sent_ms + order.valid_for_ms
        wanted = {setpoint.bank: setpoint.target_w for setpoint in order.setpoints}
        self.bank_w = [wanted.get(f"bank-{i}", 0) for i in range(2)]
        self._receipts += 1
        receipt = Receipt(
            site=self.site,
            boot=self.boot,
            epoch=order.epoch,
            order_seq=order.seq,
            seq=self._receipts,
            accepted=True,
            banks=tuple(
                BankReceipt(
                    bank=bank,
                    state=ReceiptState.CONFIRMED,
                    reason=ReceiptReason.IN_BAND,
                    target_w=watts,
                    obeyed_w=watts,
                    measured_w=watts,
                    source=Source.METER,
                )
                for bank, watts in wanted.items()
            ),
        )
        self._bus.publish(site_topic(self.site, "receipt"), encode(receipt))
