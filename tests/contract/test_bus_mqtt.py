"""The bus over MQTT against a real Mosquitto: what it promises when all is well, and when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import statistics
import time
from collections.abc import AsyncIterator
from random import Random

import psutil
import pytest

from contract.bus import Will
from contract.bus_mqtt import MqttBus, MqttSettings
from contract.messages import MAX_PAYLOAD_BYTES
from sim.broker import LocalBroker
from tests.contract.links import killed_client, linked, until

pytestmark = pytest.mark.mosquitto


@pytest.fixture
async def broker() -> AsyncIterator[LocalBroker]:
    async with LocalBroker(kind="mosquitto") as local:
        yield local


def quick(settings: MqttSettings, **changes: object) -> MqttSettings:
    """Short enough waits for a test; the ratios between them are the real ones."""
    short = {"backoff_base_s": 0.05, "backoff_cap_s": 0.5, "keepalive_s": 1, "timeout_s": 2.0}
    return settings.model_copy(update=short | changes)


def publish(bus: MqttBus, topic: str, payload: bytes, *, retain: bool = False) -> None:
    assert bus.publish(topic, payload, retain=retain)


def bus_of(broker: LocalBroker, identifier: str, seed: int = 1, **changes: object) -> MqttBus:
    return MqttBus(quick(broker.settings(identifier), **changes), Random(seed))


async def test_delivers_in_order_and_marks_what_was_retained(broker: LocalBroker) -> None:
    async with linked(bus_of(broker, "a")) as a:
        assert a.bus.publish("sites/a/nameplate", b"plate", retain=True)
        await until(lambda: a.bus.stats.published == 1, "the plate is acknowledged")
        async with linked(bus_of(broker, "b"), ["sites/+/nameplate", "sites/+/report"]) as b:
            for number in range(500):
                assert a.bus.publish("sites/a/report", b"%d" % number)
            await until(lambda: len(b.messages) == 501, "all have come")
            assert (b.messages[0].payload, b.messages[0].retained) == (b"plate", True)
            assert b.payloads[1:] == [b"%d" % number for number in range(500)]
            assert not any(message.retained for message in b.messages[1:])
            assert (b.bus.stats.received, b.bus.stats.receive_dropped) == (501, 0)


async def test_what_is_taken_in_leaves_no_cycles_for_the_garbage_collector(broker: LocalBroker) -> None:
    """At a thousand messages a second a handful for each stops the process for a third of a second now and then."""
    async with linked(bus_of(broker, "a")) as a, linked(bus_of(broker, "b"), ["x/+/report"]) as b:
        gc.collect()
        gc.disable()
        try:
            for number in range(500):
                assert a.bus.publish(f"x/{number}/report", b"%d" % number)
            await until(lambda: len(b.messages) == 500, "all have come")
            assert gc.collect() < 250, "one in two messages, at the most; waiting makes some"
        finally:
            gc.enable()


async def test_no_nagle_between_publish_and_handler(broker: LocalBroker) -> None:
    """With Nagle's algorithm on either side the median would be 40 ms or more."""
    delays: list[float] = []
    sent_at = 0.0

    async with (
        linked(bus_of(broker, "a")) as a,
        linked(bus_of(broker, "b"), ["x"], on_message=lambda _: delays.append(time.perf_counter() - sent_at)) as b,
    ):
        for count in range(1, 60):
            sent_at = time.perf_counter()
            assert a.bus.publish("x", b"." * 4_000)
            await until(lambda: len(b.messages) == count, "it has come")  # noqa: B023  awaited in this very round
    assert statistics.median(delays) < 0.020


async def test_broker_killed_and_back(broker: LocalBroker) -> None:
    """Both sides come back by themselves, subscribe again, and what is retained is published again."""
    a_bus, b_bus = bus_of(broker, "a"), bus_of(broker, "b", 2)
    async with (
        linked(b_bus, ["sites/+/nameplate", "sites/+/report"]) as b,
        linked(a_bus, on_up=lambda: publish(a_bus, "sites/a/nameplate", b"plate", retain=True)) as a,
    ):
        await until(lambda: b.payloads == [b"plate"], "the first plate")
        await broker.kill()
        await until(lambda: bool(a.downs and b.downs), "both know")
        assert not a_bus.connected
        await broker.restart()
        await until(lambda: a.ups == 2 and b.ups == 2, "both are back")
        await until(lambda: b.payloads == [b"plate", b"plate"], "the plate again")
        assert a_bus.publish("sites/a/report", b"after")
        await until(lambda: b.payloads[-1] == b"after", "a report after the outage")
        async with linked(bus_of(broker, "late", 3), ["sites/+/nameplate"]) as late:
            await until(lambda: late.payloads == [b"plate"], "retained for who comes late")
        assert (len(a.downs), len(b.downs), a_bus.stats.connects) == (1, 1, 2)


async def test_what_is_published_while_down_is_refused_and_never_sent_later(broker: LocalBroker) -> None:
    a_bus = bus_of(broker, "a", outbox_messages=5_000)
    async with linked(a_bus) as a, linked(bus_of(broker, "b", 2), ["x"]) as b:
        broker.freeze()
        accepted = sum(a_bus.publish("x", b"queued" + b"." * 4_000) for _ in range(4_000))
        assert accepted == 4_000
        await broker.kill()
        await until(lambda: bool(a.downs and b.downs), "both know")
        assert not a_bus.publish("x", b"while down")
        await broker.restart()
        await until(lambda: a.ups == 2 and b.ups == 2, "both are back")
        assert a_bus.publish("x", b"fresh")
        await until(lambda: bool(b.messages), "something has come")
        assert a_bus.publish("x", b"last")
        await until(lambda: b.payloads[-1] == b"last", "the last has come")
        assert b.payloads == [b"fresh", b"last"]
        assert a_bus.stats.publish_dropped == 4_001


async def test_broker_absent_at_start_is_said_once(broker: LocalBroker, caplog: pytest.LogCaptureFixture) -> None:
    await broker.kill()
    with caplog.at_level(logging.WARNING):
        async with linked(bus_of(broker, "a"), wait_up=False) as a:
            assert not a.bus.connected
            assert not a.bus.publish("x", b"")
            await asyncio.sleep(1.0)  # long enough for a handful of attempts
            assert a.ups == 0
            assert len(caplog.records) == 1
            await broker.restart()
            await until(lambda: a.ups == 1, "up once there is a broker")
    assert a.downs == []


async def test_two_clients_with_one_identifier_are_named_and_do_not_storm(broker: LocalBroker) -> None:
    async with (
        linked(bus_of(broker, "twin", 1, backoff_base_s=0.1, backoff_cap_s=1.0)) as first,
        linked(bus_of(broker, "twin", 2, backoff_base_s=0.1, backoff_cap_s=1.0)) as second,
    ):
        began = asyncio.get_running_loop().time()
        await until(lambda: any("another client" in reason for reason in first.downs + second.downs), "it is named")
        assert any("'twin'" in reason for reason in first.downs + second.downs)
        before = first.bus.stats.connects + second.bus.stats.connects
        elapsed_s = asyncio.get_running_loop().time() - began
        assert before < 10 + 20 * elapsed_s
        await asyncio.sleep(3.0)
        assert first.bus.stats.connects + second.bus.stats.connects - before < 30


async def test_slow_handler_gets_the_newest_and_the_oldest_are_dropped(broker: LocalBroker) -> None:
    """The backlog of a slow handler must be ours to bound, and not stand in the broker growing stale."""
    total = 900
    slow = bus_of(broker, "slow", inbox_messages=20, keepalive_s=10, timeout_s=20.0)

    def handle(_: object) -> None:
        time.sleep(0.004)

    async with linked(bus_of(broker, "a", 2)) as a, linked(slow, ["x"], on_message=handle) as s:
        for number in range(total):
            assert a.bus.publish("x", b"%d" % number)
        await until(lambda: bool(s.messages) and s.payloads[-1] == b"%d" % (total - 1), "the newest has come")
        numbers = [int(payload) for payload in s.payloads]
        assert numbers == sorted(set(numbers))
        assert slow.stats.received == total
        assert slow.stats.receive_dropped == total - len(numbers) > total // 2


async def test_full_outbox_refuses_and_counts(broker: LocalBroker) -> None:
    async with linked(bus_of(broker, "a", outbox_messages=5, outbox_bytes=1_024)) as a:
        assert not a.bus.publish("x", b"." * 1_025)
        assert [a.bus.publish("x", b"") for _ in range(8)] == [True] * 5 + [False] * 3
        await until(lambda: a.bus.stats.published == 5, "the five are acknowledged")
        assert a.bus.publish("x", b"." * 1_024)
        assert a.bus.stats.publish_dropped == 4


async def test_oversized_is_handed_on_and_the_enormous_stays_at_the_broker(broker: LocalBroker) -> None:
    """Ingest is who refuses and counts an oversized message; Mosquitto's limit keeps out what could hurt by itself."""
    async with linked(bus_of(broker, "a")) as a, linked(bus_of(broker, "b", 2), ["x"]) as b:
        assert a.bus.publish("x", b"." * (2 * MAX_PAYLOAD_BYTES))
        assert a.bus.publish("x", b"." * (5 * MAX_PAYLOAD_BYTES))
        assert a.bus.publish("x", b"end")
        await until(lambda: bool(b.messages) and b.payloads[-1] == b"end", "the end has come")
        assert [len(payload) for payload in b.payloads] == [2 * MAX_PAYLOAD_BYTES, 3]


async def test_will_is_published_retained_when_the_process_is_killed(broker: LocalBroker) -> None:
    async with linked(bus_of(broker, "b"), ["sites/+/status"]) as b:
        async with killed_client(quick(broker.settings("victim")), Will("sites/a/status", b"offline")):
            assert b.messages == []
        await until(lambda: b.payloads == [b"offline"], "the will")
    async with linked(bus_of(broker, "late"), ["sites/+/status"]) as late:
        await until(lambda: bool(late.messages), "the will is retained")
        assert late.messages[0].retained


async def test_clean_end_sends_what_is_queued_and_publishes_no_will(broker: LocalBroker) -> None:
    loop = asyncio.get_running_loop()
    async with linked(bus_of(broker, "b"), ["sites/+/status", "marker"]) as b:
        async with linked(bus_of(broker, "a", 2), will=Will("sites/a/status", b"will")) as a:
            for number in range(200):
                assert a.bus.publish("sites/a/status", b"%d" % number)
            ends = loop.time()
        assert loop.time() - ends < 2.0
        assert not a.bus.connected
        assert a.downs == []
        async with linked(bus_of(broker, "c", 3)) as c:
            for number in range(5):
                assert c.bus.publish("marker", b"marker")
                await until(lambda: b.payloads.count(b"marker") == number + 1, "a marker")  # noqa: B023  this round's
        assert [payload for payload in b.payloads if payload != b"marker"] == [b"%d" % number for number in range(200)]


async def test_frozen_broker_counts_as_lost_and_is_found_again(broker: LocalBroker) -> None:
    """Connections stand, nothing answers: the keepalive notices, and cancelling is still quick."""
    loop = asyncio.get_running_loop()
    async with linked(bus_of(broker, "a")) as a:
        broker.freeze()
        await until(lambda: bool(a.downs), "noticed")
        broker.thaw()
        await until(lambda: a.ups == 2, "back")
        broker.freeze()
        began = loop.time()
    assert loop.time() - began < 3.0
    broker.thaw()


async def test_unacknowledged_publish_ends_the_link(broker: LocalBroker) -> None:
    async with linked(bus_of(broker, "a", keepalive_s=30, timeout_s=0.5)) as a:
        broker.freeze()
        assert a.bus.publish("x", b"")
        await until(lambda: bool(a.downs), "noticed without the keepalive", patience_s=15.0)
        broker.thaw()


async def test_publish_that_an_acl_refuses_is_lost_without_a_word() -> None:
    """Mosquitto acknowledges what it throws away: only an application's receipt proves an arrival."""
    acl = "user a\ntopic write sites/a/#\nuser b\ntopic read #\n"
    async with LocalBroker(kind="mosquitto", users={"a": "secret of a", "b": "secret of b"}, acl=acl) as broker:
        a_bus = MqttBus(quick(broker.settings("a", username="a")), Random(1))
        b_bus = MqttBus(quick(broker.settings("b", username="b")), Random(2))
        async with linked(a_bus) as a, linked(b_bus, ["#"]) as b:
            assert a.bus.publish("sites/other/report", b"forged")
            assert a.bus.publish("sites/a/report", b"own")
            await until(lambda: bool(b.messages), "something has come")
            assert b.payloads == [b"own"]
            await until(lambda: a.bus.stats.published == 2, "both were acknowledged")


async def test_wrong_password_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with LocalBroker(kind="mosquitto", users={"a": "right"}) as broker:
        settings = broker.settings("a", username="a")
        assert settings.password_file is not None
        settings.password_file.write_text("wrong")
        with caplog.at_level(logging.WARNING):
            async with linked(MqttBus(quick(settings), Random(1)), wait_up=False) as a:
                await until(lambda: bool(caplog.records), "it is said")
                await asyncio.sleep(0.7)
                assert len(caplog.records) == 1
                assert "refused" in caplog.text
                settings.password_file.write_text("right")
                await until(lambda: a.ups == 1, "the new password is taken up")
        assert a.downs == []


async def test_handler_that_raises_ends_the_run(broker: LocalBroker) -> None:
    def broken(_: object) -> None:
        raise KeyError("a bug")

    bus = bus_of(broker, "a")
    with pytest.raises(KeyError, match="a bug"):
        async with asyncio.timeout(20):
            await bus.run(["x"], broken, lambda: publish(bus, "x", b""), lambda _: None)
    assert not bus.connected


async def test_lost_links_leave_nothing_behind_on_the_loop(broker: LocalBroker) -> None:
    """No writer on a closed file number, no exception that nobody read, no task, no open file."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    tasks, files = len(asyncio.all_tasks()), psutil.Process().num_fds()
    async with linked(bus_of(broker, "a"), ["x"]) as a, linked(bus_of(broker, "b", 2), ["x"]) as b:

        async def chatter() -> None:
            while True:
                a.bus.publish("x", b"." * 2_000)
                b.bus.publish("x", b"." * 2_000)
                await asyncio.sleep(0.001)

        chattering = asyncio.create_task(chatter())
        for number in range(8):
            await until(lambda: a.bus.connected and b.bus.connected, f"both are up before outage {number}")
            await broker.restart()
            await until(lambda: len(a.downs) > number and len(b.downs) > number, "both know")  # noqa: B023  this round's
        chattering.cancel()
    await until(lambda: len(asyncio.all_tasks()) == tasks, "no task is left")
    gc.collect()
    assert complaints == []
    assert psutil.Process().num_fds() <= files


async def test_loop_that_finds_the_socket_broken_first_costs_the_link_and_not_the_run(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop does, which then refuses to wait for room on it."""
    loop = asyncio.get_running_loop()
    async with linked(bus_of(broker, "a")) as a:
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> None:
                raise RuntimeError("the handler is closed")

            patch.setattr(loop, "add_writer", refuse)
            assert a.bus.publish("x", b"")
            await until(lambda: bool(a.downs), "the link is given up")
        assert "the handler is closed" in a.downs[0]
        await until(lambda: a.ups == 2, "and comes back")


async def test_one_run_at_a_time(broker: LocalBroker) -> None:
    async with linked(bus_of(broker, "a")) as a:
        with pytest.raises(RuntimeError):
            await a.bus.run([], lambda _: None, lambda: None, lambda _: None)


async def test_refused_subscription_is_a_fault_and_not_a_silence(caplog: pytest.LogCaptureFixture) -> None:
    """A scripted server, for Mosquitto's ACL files never refuse a subscription: they are silent."""
    async with scripted_server(connack=b"\x20\x02\x00\x00", suback=b"\x90\x03\x00\x01\x80") as port:
        bus = MqttBus(quick(MqttSettings(host="127.0.0.1", port=port, identifier="a")), Random(1))
        with caplog.at_level(logging.WARNING):
            async with linked(bus, ["sites/a/order"], wait_up=False) as a:
                await until(lambda: bool(caplog.records), "it is said")
        assert "the broker refused the subscription to sites/a/order" in caplog.text
        assert (a.ups, a.downs) == (0, [])


async def test_server_that_never_greets_is_given_up_and_cancelling_is_quick() -> None:
    async with scripted_server(connack=b"", suback=b"") as port:
        settings = quick(MqttSettings(host="127.0.0.1", port=port, identifier="a"), timeout_s=0.3)
        loop = asyncio.get_running_loop()
        async with linked(MqttBus(settings, Random(1)), wait_up=False) as a:
            await asyncio.sleep(0.1)
            began = loop.time()
        assert loop.time() - began < 3.0
        assert a.ups == 0


@contextlib.asynccontextmanager
async def scripted_server(*, connack: bytes, suback: bytes) -> AsyncIterator[int]:
    """Answers the first packet with `connack`, the second with `suback`, and then holds its tongue."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (connack, suback):
            if await reader.read(1_024):
                writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
