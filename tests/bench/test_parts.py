"""The parts of the benches: figures, the agent's configuration, synthetic agents."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.config_file import parse_config
from agent.config_rules import rated_w
from bench.figures import percentile, summary
from bench.load import Load
from bench.plant import split
from bench.process import BenchError, child, cpu_clock_of, until
from bench.site import Plant, SiteShape, agent_config
from bench.synthetic import BANK_W, SyntheticSite
from contract.bus import Inbound
from contract.bus_mqtt import MqttBus
from contract.messages import (
    Nameplate,
    Order,
    Receipt,
    ReceiptState,
    Report,
    Setpoint,
    Status,
    Workload,
    decode,
    encode,
)
from contract.mqtt_settings import MqttSettings
from contract.topics import site_topic

MQTT = MqttSettings(host="127.0.0.1", port=1_883, identifier="any")


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.50) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([7.0], 0.99) == 7.0


def test_a_summary_has_the_spread_beside_each_median() -> None:
    assert summary([{"a_s": 3.0}, {"a_s": 1.0}, {"a_s": 1.23456}]) == {"a_s": 1.235, "a_s_min": 1, "a_s_max": 3}


def test_a_process_clock_tells_less_than_a_hundredth_of_a_second() -> None:
    before_s = time.process_time()
    told_s = time.clock_gettime(cpu_clock_of(os.getpid()))
    assert before_s < told_s < time.process_time()


async def test_a_child_that_has_ended_has_no_processor_time(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(BenchError, match="calendar has ended, its processor time"))
        running = await stack.enter_async_context(child("calendar", tmp_path, "calendar"))
        await running.stop()
        running.cpu_s()


def test_banks_share_all_miners_without_a_rest() -> None:
    assert [len(places) for places in split(10, 3)] == [3, 3, 4]
    assert [place for places in split(10, 3) for place in places] == list(range(10))


def test_the_agents_configuration_is_one_that_the_agent_takes() -> None:
    shape = SiteShape(miners=7, banks=2)
    devices = [("127.0.0.1", 20_000 + place) for place in range(7)]
    over = cast(Plant, SimpleNamespace(shape=shape, devices=devices, meters=[30_000, 30_001, 30_002]))
    config = parse_config(agent_config(over, MQTT, {"meter_every_ms": 500}).encode(), "agent.toml", Path())
    assert sum(rated_w(bank) for bank in config.banks.values()) == shape.rated_w
    assert [rated_w(bank) for bank in config.banks.values()] == shape.bank_rated_w()
    assert {meter.port for meter in config.meters.values()} == {30_000, 30_001, 30_002}
    assert config.timing.meter_every_ms == 500


def test_a_synthetic_agent_speaks_the_protocol_and_names_the_order_it_obeys() -> None:
    site = SyntheticSite("load-00001", 3, Random(1))
    assert decode(Status, site.status()).online
    plate = decode(Nameplate, site.nameplate())
    first, second = (decode(Report, site.report(wall_ms)) for wall_ms in (1_700_000_000_000, 1_700_000_005_000))
    assert (first.seq, second.seq, second.sent_at_ms) == (1, 2, 1_700_000_005_000)
    assert [bank.id for bank in first.banks] == [bank.id for bank in plate.banks]
    assert first.order_seq is None
    receipts = [decode(Receipt, payload) for payload in site.obey(_order(site, 3, seq=9))]
    assert [receipt.banks[0].state for receipt in receipts] == [ReceiptState.PENDING, ReceiptState.CONFIRMED]
    assert {receipt.order_seq for receipt in receipts} == {9}
    third = decode(Report, site.report(1_700_000_010_000))
    assert (third.seq, third.epoch, third.order_seq) == (3, 2, 9)


async def test_a_load_keeps_its_rate_and_goes_round_its_sites() -> None:
    bus = _Bus()
    load = Load(cast(MqttBus, bus), [SyntheticSite(f"load-{place}", 1, Random(0)) for place in range(3)])
    load.set_rate({"per_s": 200})
    running = asyncio.create_task(load.run())
    try:
        async with asyncio.timeout(30):
            while len(bus.sent) < 30:  # noqa: ASYNC110  the condition under test
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    topics = [topic for topic, _ in bus.sent]
    assert topics[:4] == [site_topic(f"load-{place % 3}", "report") for place in range(4)]
    assert load.stats({})["published"] == len(bus.sent)


async def test_a_load_answers_orders_of_its_own_sites_only() -> None:
    bus = _Bus()
    own = SyntheticSite("load-0", 1, Random(0))
    load = Load(cast(MqttBus, bus), [own])
    load.take(Inbound(site_topic("other", "order"), b"{}"))
    load.take(Inbound(site_topic("load-0", "order"), encode(_order(own, 1, seq=4))))
    assert [topic for topic, _ in bus.sent] == [site_topic("load-0", "receipt")] * 2
    assert load.orders == 1


async def test_a_child_that_ends_by_itself_ends_the_bench_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"usage: python -m bench\.plant"):
        async with child("plant", tmp_path, "bench.plant", "--no-such-flag") as process:
            await process.ready_line()


async def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(BenchError, match="in vain for a miracle"):
        await until(lambda: None, "a miracle", 0.05)


class _Bus:
    """Takes everything at once."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        self.sent.append((topic, payload))
        return True

    @property
    def stats(self) -> Any:
        return SimpleNamespace(published=len(self.sent), publish_dropped=0, connects=1)


def _order(site: SyntheticSite, banks: int, *, seq: int) -> Order:
    return Order(
        site=site.site,
        epoch=2,
        seq=seq,
        based_on_boot="any",
        based_on_seq=1,
        valid_for_ms=60_000,
        issued_at_ms=0,
        setpoints=tuple(
            Setpoint(bank=f"hall-{bank:02d}", workload=Workload.HASH, target_w=BANK_W, reason="jobs_run")
            for bank in range(banks)
        ),
    )
