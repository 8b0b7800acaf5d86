"""The bus in memory keeps MQTT's promises and deals its faults out by the seed, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.bus import Bus, BusStats, Will
from sim.membus import LinkQuality, MemoryBroker, matches
from sim.virtual import run_virtual
from tests.contract.links import Seen, linked, until

QUICK = LinkQuality(delay_ms=(10.0, 20.0))


def virtually(scenario: Callable[[MemoryBroker], Awaitable[None]], *, quality: LinkQuality = QUICK) -> None:
    """Run one scenario in virtual time with a broker of its own."""

    async def main() -> None:
        await scenario(MemoryBroker(Random(7), quality=quality, keepalive_ms=5_000))

    run_virtual(main(), seed=7, limit_s=10_000)


def publish(bus: Bus) -> None:
    assert bus.publish("x", b"")


def now() -> float:
    return asyncio.get_running_loop().time()


def test_in_order_with_a_delay_each_way_and_retained_for_who_comes_late() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        async with linked(broker.bus("a")) as a:
            assert a.bus.publish("sites/a/nameplate", b"plate", retain=True)
            await asyncio.sleep(1)
            async with linked(broker.bus("b"), ["sites/+/nameplate", "sites/a/report"]) as b:
                await until(lambda: len(b.messages) == 1, "the plate")
                began = now()
                for number in range(200):
                    assert a.bus.publish("sites/a/report", b"%d" % number)
                    assert a.bus.publish("sites/other/report", b"not for b")
                await until(lambda: len(b.messages) == 201, "all have come")
                assert 0.020 <= now() - began <= 0.060
                assert b.payloads == [b"plate", *(b"%d" % number for number in range(200))]
                assert [message.retained for message in b.messages] == [True] + [False] * 200
                assert b.bus.stats == BusStats(1, 0, 0, 201, 0)
                assert a.bus.stats == BusStats(1, 401, 0, 0, 0)
            assert a.bus.publish("sites/a/nameplate", b"", retain=True)
            await asyncio.sleep(1)
            assert not broker.retained

    virtually(scenario)


def test_short_cut_delivers_late_and_in_order() -> None:
    """The case leases are for: an order that waited on the line arrives, old."""

    async def scenario(broker: MemoryBroker) -> None:
        async with linked(broker.bus("a")) as a, linked(broker.bus("b"), ["x"]) as b:
            assert a.bus.publish("x", b"under way")
            broker.cut("b")
            assert a.bus.publish("x", b"while cut")
            await asyncio.sleep(4)
            assert b.messages == []
            broker.heal("b")
            await until(lambda: b.payloads == [b"under way", b"while cut"], "both, late")
            assert (b.ups, b.downs) == (1, [])

    virtually(scenario)


def test_long_cut_is_noticed_by_both_ends_and_nothing_old_is_delivered() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        will = Will("sites/a/status", b"offline")
        async with linked(broker.bus("a"), ["y"], will=will) as a, linked(broker.bus("b"), ["#"]) as b:
            broker.cut("a")
            cut_at = now()
            assert a.bus.publish("x", b"believed sent")
            await until(lambda: bool(a.downs), "the client knows", patience_s=20)
            assert 5.0 <= now() - cut_at <= 10.1
            await until(lambda: bool(b.messages), "the will", patience_s=20)
            assert now() - cut_at >= 7.5
            assert not a.bus.publish("x", b"while down")
            assert b.bus.publish("y", b"for nobody")
            await asyncio.sleep(60)
            assert a.ups == 1
            broker.heal("a")
            await until(lambda: a.ups == 2, "back", patience_s=60)
            assert a.bus.publish("x", b"fresh")
            await until(lambda: b.payloads[-1] == b"fresh", "fresh")
            assert b.payloads == [b"offline", b"for nobody", b"fresh"]
            assert a.messages == []
            assert broker.retained == {"sites/a/status": b"offline"}

    virtually(scenario)


def test_clean_end_has_no_will_and_a_crash_has() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        async with linked(broker.bus("b"), ["#"]) as b:
            async with linked(broker.bus("a"), will=Will("will", b"a")) as a:
                assert a.bus.publish("x", b"farewell")
            await asyncio.sleep(60)
            assert b.payloads == [b"farewell"]
            async with linked(broker.bus("c"), will=Will("will", b"c")):
                broker.cut("c")
            await asyncio.sleep(60)
            assert b.payloads == [b"farewell", b"c"]

    virtually(scenario)


def test_broker_gone_and_back_loses_what_was_retained_unless_kept() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        async with linked(broker.bus("a"), will=Will("will", b"a")) as a, linked(broker.bus("b"), ["will"]) as b:
            for keep in (True, False):
                assert a.bus.publish("plate", b"plate", retain=True)
                await asyncio.sleep(1)
                broker.stop(keep_retained=keep)
                await until(lambda: len(a.downs) == a.ups, "the client knows")
                assert not a.bus.connected
                await asyncio.sleep(30)
                assert a.ups == len(a.downs)
                broker.start()
                await until(lambda: a.ups > len(a.downs) and b.ups > len(b.downs), "both are back", patience_s=60)
                assert broker.retained == ({"plate": b"plate"} if keep else {})
            assert b.messages == []

    virtually(scenario)


def test_reset_connection_publishes_the_will_and_comes_back() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        async with linked(broker.bus("a"), will=Will("will", b"a")) as a, linked(broker.bus("b"), ["will"]) as b:
            broker.drop("a")
            await until(lambda: a.ups == 2, "back", patience_s=60)
            assert a.downs == ["connection reset"]
            assert b.payloads == [b"a"]

    virtually(scenario)


def test_two_of_one_name_throw_each_other_out_ever_more_rarely() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        async with linked(broker.bus("twin")) as first, linked(broker.bus("twin")) as second:
            await asyncio.sleep(600)
            assert 20 < first.ups + second.ups < 400
            assert first.downs
            assert second.downs

    virtually(scenario)


def test_bounds_hold_and_the_oldest_goes_first() -> None:
    async def main() -> None:
        broker = MemoryBroker(Random(1), quality=QUICK, in_flight=10)
        async with linked(broker.bus("a")) as a, linked(broker.bus("b")) as b, linked(broker.bus("c"), ["x"]) as c:
            assert [a.bus.publish("x", b"a%d" % number) for number in range(12)] == [True] * 10 + [False] * 2
            assert all(b.bus.publish("x", b"b%d" % number) for number in range(10))
            assert a.bus.stats.publish_dropped == 2
            broker.cut("c")
            await asyncio.sleep(1)
            broker.heal("c")
            await asyncio.sleep(1)
            assert len(c.messages) == 10
            assert c.bus.stats.received == 10
        assert c.bus.stats.receive_dropped == 10

    run_virtual(main(), seed=1)


FAULTY = LinkQuality(delay_ms=(5.0, 50.0), loss=0.1, duplicate=0.1, reorder=0.1)


def faulty_run(seed: int) -> tuple[list[bytes], BusStats, tuple[int, int, int]]:
    async def main() -> tuple[list[bytes], BusStats, tuple[int, int, int]]:
        broker = MemoryBroker(Random(seed), quality=FAULTY)
        async with linked(broker.bus("a")) as a, linked(broker.bus("b"), ["x"]) as b:
            for number in range(1_000):
                a.bus.publish("x", b"%d" % number)
                await asyncio.sleep(0.1)
                if number == 500:
                    broker.drop("b")
            await asyncio.sleep(10)
        return b.payloads, b.bus.stats, (broker.lost, broker.duplicated, broker.reordered)

    return run_virtual(main(), seed=seed)


def test_faults_are_dealt_out_as_asked_and_the_same_for_a_seed() -> None:
    payloads, stats, (lost, duplicated, reordered) = faulty_run(3)
    assert faulty_run(3) == (payloads, stats, (lost, duplicated, reordered))
    assert faulty_run(4)[0] != payloads
    numbers = [int(payload) for payload in payloads]
    assert all(150 < fault < 250 for fault in (lost, duplicated)), "a tenth of each way"
    assert reordered > 100
    assert 700 < len(set(numbers)) < 900, "most are not lost"
    assert len(numbers) > len(set(numbers)), "some come twice"
    assert numbers != sorted(numbers), "some are overtaken"


def test_handler_that_raises_ends_the_run() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        def broken(_: object) -> None:
            raise KeyError("a bug")

        bus = broker.bus("a")
        with pytest.raises(KeyError):
            await bus.run(["x"], broken, lambda: publish(bus), lambda _: None)
        assert not bus.connected

    virtually(scenario)


def test_one_run_at_a_time() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        async with linked(broker.bus("a")) as a:
            with pytest.raises(RuntimeError):
                await a.bus.run([], lambda _: None, lambda: None, lambda _: None)

    virtually(scenario)


async def test_runs_on_an_ordinary_loop_too() -> None:
    broker = MemoryBroker(Random(1))
    async with linked(broker.bus("a"), ["x"]) as a:
        assert a.bus.publish("x", b"1")
        await until(lambda: a.payloads == [b"1"], "it has come")


@pytest.mark.parametrize(
    ("pattern", "topic", "takes"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/+", "/a", True),
        ("+", "/a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/+/c/#", "a/b/c", True),
        ("a/+/c/#", "a/b/d", False),
    ],
)
def test_wildcards_as_the_standard_says(pattern: str, topic: str, takes: bool) -> None:
    assert matches(pattern, topic) is takes


TOPICS = ["a", "b", "a/b", "a/c", "b/a/c"]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["publish", "retain", "cut", "heal", "drop", "stop", "start", "wait"]),
        st.sampled_from(["one", "two"]),
        st.sampled_from(TOPICS),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=200)
@given(actions=ACTIONS, seed=st.integers(0, 2**16))
def test_whatever_happens_it_heals(actions: list[tuple[str, str, str]], seed: int) -> None:
    """After any run of faults: ups and downs alternate, and once all is whole again a message gets through."""

    async def main() -> None:
        broker = MemoryBroker(Random(seed), quality=FAULTY)
        async with linked(broker.bus("one"), ["#"]) as one, linked(broker.bus("two"), ["a/+"]) as two:
            ends = {"one": one, "two": two}
            for action, link, topic in actions:
                await do(broker, ends[link], action, link, topic)
            broker.start()
            for link in ends:
                broker.heal(link)
                broker.set_quality(link, QUICK)
            await asyncio.sleep(120)
            assert all(end.bus.connected and end.ups == len(end.downs) + 1 for end in ends.values())
            assert two.bus.publish("a/b", b"last")
            await until(lambda: one.payloads[-1:] == [b"last"] and two.payloads[-1:] == [b"last"], "the last")

    run_virtual(main(), seed=seed, limit_s=10_000)


async def do(broker: MemoryBroker, end: Seen, action: str, link: str, topic: str) -> None:
    if action in ("publish", "retain"):
        sent = end.bus.publish(topic, b"x", retain=action == "retain")
        assert sent == end.bus.connected
    elif action in ("cut", "heal", "drop"):
        getattr(broker, action)(link)
    elif action == "wait":
        await asyncio.sleep(5)
    else:
        getattr(broker, action)()
    await asyncio.sleep(0.01)
