"""The broker of our own, both kinds of it, for real."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from random import Random

import psutil
import pytest

import sim.broker
from contract.bus import Will
from contract.bus_mqtt import MqttBus
from sim.broker import BrokerError, BrokerKind, LocalBroker
from tests.contract.links import killed_client, linked, until

PARENT = """
import asyncio, sys
from sim.broker import LocalBroker
async def main():
    async with LocalBroker(kind=sys.argv[1]) as broker:
        print(broker.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""

both_kinds = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("mosquitto", marks=pytest.mark.mosquitto),
        pytest.param(
            "embedded",
            marks=pytest.mark.skipif(importlib.util.find_spec("amqtt") is None, reason="amqtt is not installed"),
        ),
    ],
)


def bus_of(broker: LocalBroker, identifier: str, seed: int = 1) -> MqttBus:
    settings = broker.settings(identifier).model_copy(update={"backoff_base_s": 0.05, "backoff_cap_s": 0.5})
    return MqttBus(settings, Random(seed))


@both_kinds
async def test_carries_the_bus_with_retained_messages_and_wills(kind: BrokerKind) -> None:
    async with LocalBroker(kind=kind) as broker:
        assert broker.kind == kind
        assert (broker.warning is None) == (kind == "mosquitto")
        async with linked(bus_of(broker, "a")) as a:
            assert a.bus.publish("sites/a/nameplate", b"plate", retain=True)
            await until(lambda: a.bus.stats.published == 1, "the plate is acknowledged")
            async with linked(bus_of(broker, "b", 2), ["sites/+/nameplate", "sites/+/report", "sites/+/status"]) as b:
                for number in range(100):
                    assert a.bus.publish("sites/a/report", b"%d" % number)
                await until(lambda: len(b.messages) == 101, "all have come")
                assert b.messages[0].retained
                assert b.payloads == [b"plate", *(b"%d" % number for number in range(100))]
                async with killed_client(broker.settings("victim"), Will("sites/victim/status", b"offline")):
                    pass
                await until(lambda: b.payloads[-1] == b"offline", "the will")


@both_kinds
async def test_killed_and_started_again_on_its_port(kind: BrokerKind) -> None:
    pids: list[int | None] = []
    async with LocalBroker(kind=kind) as broker:
        port = broker.port
        async with linked(bus_of(broker, "a")) as a:
            pids.append(broker.pid)
            await broker.kill()
            pids.append(broker.pid)
            await until(lambda: bool(a.downs), "the client knows")
            await broker.restart()
            await until(lambda: a.ups == 2, "the client is back")
            pids.append(broker.pid)
            assert broker.port == port
    first, none, last = pids
    assert none is None
    assert first is not None
    assert last not in (None, first)
    assert not any(psutil.pid_exists(pid) for pid in pids if pid is not None)


@both_kinds
async def test_does_not_outlive_the_process_that_started_it(kind: BrokerKind) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, kind, stdout=asyncio.subprocess.PIPE)
    try:
        assert parent.stdout is not None
        async with asyncio.timeout(30):
            pid = int(await parent.stdout.readline())
        assert psutil.pid_exists(pid)
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: _is_gone(pid), "the broker has ended")


@pytest.mark.mosquitto
async def test_users_close_it_to_everyone_else() -> None:
    async with LocalBroker(kind="mosquitto", users={"a": "pass: word $7$"}) as broker:
        async with linked(MqttBus(broker.settings("a", username="a"), Random(1))) as a:
            assert a.bus.connected
        async with linked(bus_of(broker, "stranger"), wait_up=False) as stranger:
            await asyncio.sleep(0.5)
            assert stranger.ups == 0
        assert "not authorised" in broker.log_tail()


@pytest.mark.mosquitto
async def test_wrong_configuration_is_told_with_the_brokers_own_words() -> None:
    with pytest.raises(BrokerError, match="nonsense"):
        async with LocalBroker(kind="mosquitto", more_config="nonsense 1"):
            pass


@pytest.mark.mosquitto
async def test_a_port_taken_by_another_is_left_for_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalBroker(kind="mosquitto") as first:
        ports = iter([first.port, first.port, sim.broker._free_port()])
        monkeypatch.setattr(sim.broker, "_free_port", lambda: next(ports))
        async with LocalBroker(kind="mosquitto") as second:
            assert second.port != first.port
            assert second.pid != first.pid


async def test_embedded_claims_no_access_control() -> None:
    with pytest.raises(BrokerError, match="no access control"):
        LocalBroker(kind="embedded", users={"a": "b"})


async def test_says_what_to_install_where_there_is_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.broker, "find_mosquitto", lambda: None)
    assert LocalBroker().kind == "embedded"
    with pytest.raises(BrokerError, match="install it"):
        LocalBroker(kind="mosquitto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BrokerError, match=r"wattshift\[demo\]"):
        LocalBroker()


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
