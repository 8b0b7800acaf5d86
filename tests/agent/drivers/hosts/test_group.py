"""Many hosts as one group: bounded in number and time, and a host that fails costs nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.hosts._limit_ledger import LimitLedger
from agent.drivers.hosts.group import HostGroup
from agent.drivers.hosts.host import HostReading, HostState


class SlowHost:
    """A host that can be read, after `takes_s`."""

    at_once = 0
    most_at_once = 0

    def __init__(self, takes_s: float = 0.0, failure: Failure | None = None) -> None:
        self.takes_s = takes_s
        self.failure = failure
        self.reads = 0

    async def read(self) -> HostReading | Unreachable:
        SlowHost.at_once += 1
        SlowHost.most_at_once = max(SlowHost.most_at_once, SlowHost.at_once)
        try:
            self.reads += 1
            await asyncio.sleep(self.takes_s)
        finally:
            SlowHost.at_once -= 1
        return Unreachable(self.failure) if self.failure else HostReading(state=HostState.ON, power_w=700)

    async def close(self) -> None: ...


class LimitedHost(SlowHost):
    """One that can be limited besides."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = LimitLedger()

    @property
    def memory(self) -> dict[str, str]:
        return self.ledger.save()

    @memory.setter
    def memory(self, saved: dict[str, str]) -> None:
        self.ledger.load(saved)

    @property
    def limit_is_ours(self) -> bool:
        return self.ledger.holds

    async def set_limit_w(self, power_w: int) -> Outcome:
        self.ledger.setting(power_w)
        return Applied()

    async def clear_limit(self) -> Outcome:
        self.ledger.forget()
        return Applied()


async def test_so_many_are_read_at_once_and_no_more() -> None:
    SlowHost.most_at_once = 0
    group = HostGroup({f"n{place}": SlowHost(0.01) for place in range(50)}, deadline_s=5.0, in_flight=8)
    found = await group.read()
    assert len(found) == 50
    assert SlowHost.most_at_once == 8
    assert all(isinstance(reading, HostReading) for reading in found.values())


async def test_all_hanging_ends_within_three_deadlines_and_every_node_has_an_answer() -> None:
    group = HostGroup({f"n{place}": SlowHost(60.0) for place in range(40)}, deadline_s=0.1, in_flight=8)
    began_s = asyncio.get_running_loop().time()
    found = await group.read()
    assert asyncio.get_running_loop().time() - began_s < 0.3 + 1.0
    assert len(found) == 40
    assert all(reading == Unreachable(Failure.TIMEOUT, reading.detail) for reading in _gone(list(found.values())))
    assert group.faults == {"timeout": 24}, "those that there was no time for were not asked"


def _gone(found: Sequence[object]) -> list[Unreachable]:
    gone = [reading for reading in found if isinstance(reading, Unreachable)]
    assert len(gone) == len(found)
    return gone


async def test_those_that_did_not_answer_go_last_so_that_they_starve_nobody() -> None:
    hosts = {f"n{place:02}": SlowHost(60.0) for place in range(20)} | {"z": SlowHost()}
    group = HostGroup(hosts, deadline_s=0.05, in_flight=2)
    found = [isinstance((await group.read())["z"], HostReading) for _ in range(8)]
    assert found.index(True) <= 3, "six hang each time, and those not asked yet go before them"
    assert all(found[3:])
    assert min(host.reads for host in hosts.values()) >= 1, "those that fail take turns"


async def test_what_it_cannot_do_is_refused_and_an_unknown_node_too() -> None:
    group = HostGroup({"plain": SlowHost(), "limited": LimitedHost()}, deadline_s=1.0)
    assert await group.set_limits_w({"plain": 500, "limited": 500, "ghost": 500}) == {
        "plain": Refused("its power cannot be limited"),
        "limited": Applied(),
        "ghost": Refused("no such host is configured"),
    }
    assert group.limited_by_us == {"limited"}
    assert (await group.power_off(["limited"]))["limited"] == Refused("it cannot be switched")
    assert isinstance((await group.read(["ghost"]))["ghost"], Unreachable)


async def test_what_was_limited_is_known_after_a_restart_whatever_else_is_in_the_memory() -> None:
    group = HostGroup({"a": LimitedHost(), "b": LimitedHost()}, deadline_s=1.0)
    await group.set_limits_w({"a": 400})
    after = HostGroup({"a": LimitedHost(), "b": LimitedHost()}, deadline_s=1.0)
    after.memory = group.memory | {"ledger": "{}", "host:b": "not JSON", "host:gone": "{}"}
    assert after.limited_by_us == {"a"}
    await after.clear_limits(["a", "b"])
    assert (after.limited_by_us, after.memory) == (frozenset(), {})


async def test_hosts_that_fail_are_said_once_and_once_when_they_are_back(caplog: pytest.LogCaptureFixture) -> None:
    hosts = {f"n{place}": SlowHost(failure=Failure.CONNECT) for place in range(3)}
    group = HostGroup(hosts, deadline_s=1.0)
    with caplog.at_level(logging.INFO, logger="agent.drivers.hosts.group"):
        await group.read()
        await group.read()
        for host in hosts.values():
            host.failure = None
        await group.read()
        await group.read()
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "3 hosts cannot be reached",
        "3 hosts answer again",
    ]
    assert group.faults == {"connect": 6}


def test_a_ledger_of_whatever_origin_is_tolerated() -> None:
    ledger = LimitLedger()
    for text in ("", "null", "[]", '{"ours_w":[-1]}', '{"ours_w":[1,2,3,4,5,6]}', '{"found":{"x":[]}}'):
        ledger.load({"limit": text})
        assert not ledger.holds
    ledger.see(800, {"SetPoint": 800})
    ledger.setting(500)
    copy = LimitLedger()
    copy.load(ledger.save())
    assert (copy.found_w, copy.found, copy.ours_w, copy.in_doubt) == (800, {"SetPoint": 800}, (500,), True)
    assert [copy.is_ours(limit_w) for limit_w in (500, 503, 509, 515, None)] == [True, True, True, False, False]
