"""The conformance suite: what every miner driver must do, whatever its firmware.

Subclass `MinerSuite` in `test_<firmware>.py`, name the peer, and say what the driver can do. Each test is one sentence
that holds for every driver; what holds for one firmware alone is tested beside the subclass.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import ClassVar, Final

import pytest

from agent.drivers.base import (
    Applied,
    Curtailable,
    DeviceState,
    Failure,
    Miner,
    MinerReading,
    Outcome,
    PowerLimited,
    Refused,
    Remembers,
    Unreachable,
)
from agent.drivers.miners import REGISTRY, MinerFactory, OptionError
from tests.agent.drivers.miners.memory import connect_in_memory
from tests.agent.drivers.miners.peers import Fault, Peer, fixture, scenes

SHORT_S = 0.3
"""A deadline for devices that will not answer."""
SLACK_S = 2.0
"""What a busy machine may add to a deadline before a test calls it missed."""


class ManualClock:
    """Site time that stands until it is moved."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def wall_ms(self) -> int:
        return self.now_ms

    def mono_ms(self) -> int:
        return self.now_ms

    async def sleep_ms(self, duration_ms: int) -> None:
        self.now_ms += duration_ms


class MinerSuite:
    """What every driver must do."""

    peer: ClassVar[type[Peer]]
    curtails: ClassVar[bool] = True
    stopped_state: ClassVar[DeviceState] = DeviceState.STOPPED
    """What a stopped miner reads as; UNKNOWN where the firmware does not say."""
    text_options: ClassVar[tuple[str, ...]] = ()
    """Options that are text: a number there is refused."""
    limited_options: ClassVar[Mapping[str, int]] = {}
    """Options that switch power limiting on; empty where the driver has none."""

    @property
    def factory(self) -> MinerFactory:
        return REGISTRY[self.peer.firmware]

    def driver(
        self,
        peer: Peer,
        *,
        limited: bool = False,
        deadline_s: float = 10.0,
        clock: ManualClock | None = None,
        port: int | None = None,
    ) -> Miner:
        """The driver of a peer, with its power limiting switched on where `limited`, or pointed at another port."""
        options = {**peer.options, **(self.limited_options if limited else {})}
        if port is not None and "http_port" in options:
            options["http_port"] = port
        clock = clock or ManualClock()
        return self.factory("127.0.0.1", port or peer.port, options, deadline_s=deadline_s, clock=clock)

    async def test_reads_every_recorded_scene(self) -> None:
        for scene in scenes(self.peer.firmware):
            async with self.peer() as peer:
                peer.scene = scene
                clock = ManualClock()
                miner = self.driver(peer, clock=clock)
                clock.now_ms += 120_000  # what is asked only once a minute is due
                reading = await miner.read()
                assert isinstance(reading, MinerReading), (scene, reading)
                got = {**asdict(reading), "errors": list(reading.errors)}
                assert got == fixture(self.peer.firmware, scene)["reading"], scene

    async def test_has_fixtures_of_what_matters(self) -> None:
        assert {"running", "stopped", "nonsense"} <= set(scenes(self.peer.firmware))

    async def test_a_stopped_miner_never_reads_as_running(self) -> None:
        async with self.peer() as peer:
            peer.scene = "stopped"
            reading = await self.driver(peer).read()
            assert isinstance(reading, MinerReading)
            assert reading.state is self.stopped_state

    async def test_nonsense_becomes_none_and_unknown_never_a_zero(self) -> None:
        async with self.peer() as peer:
            peer.scene = "nonsense"
            reading = await self.driver(peer).read()
            assert isinstance(reading, MinerReading)
            assert reading.state is DeviceState.UNKNOWN
            assert (reading.power_w, reading.hashrate_ghs, reading.chip_temp_mc) == (None, None, None)

    async def test_a_miner_that_should_hash_and_does_not_is_starting_for_twenty_minutes_only(self) -> None:
        if "starting" not in scenes(self.peer.firmware):
            pytest.skip("this firmware does not say whether it should hash")
        async with self.peer() as peer:
            peer.scene = "starting"
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            states = []
            for minutes in (0, 15, 10, 60):
                clock.now_ms += minutes * 60_000
                reading = await miner.read()
                assert isinstance(reading, MinerReading)
                states.append(reading.state)
            assert states == [*[DeviceState.STARTING] * 2, *[DeviceState.UNKNOWN] * 2]

    async def test_an_answer_in_many_pieces_reads_like_one_in_one(self) -> None:
        async with self.peer() as peer:
            whole = await self.driver(peer).read()
            peer.fault = Fault.SPLIT
            assert await self.driver(peer).read() == whole

    @pytest.mark.parametrize("fault", [Fault.HANG, Fault.DRIP])
    async def test_no_device_holds_an_operation_past_its_deadline(self, fault: Fault) -> None:
        async def prove(operation: str) -> None:
            async with self.peer() as peer:
                peer.fault = fault
                outcome, took_s = await self.timed(peer, operation)
                assert outcome == Unreachable(Failure.TIMEOUT, "no full answer in time"), operation
                assert SHORT_S * 0.9 <= took_s < SHORT_S + SLACK_S, operation

        await asyncio.gather(*map(prove, self.operations()))

    async def test_the_deadline_is_for_the_operation_and_not_for_each_exchange(self) -> None:
        """A device that takes its time over each of several exchanges gets the one deadline for all of them."""

        async def prove(operation: str) -> None:
            async with self.peer() as peer:
                peer.latency_s = SHORT_S * 0.75
                peer.scene = "stopped"
                _, took_s = await self.timed(peer, operation)
                assert took_s < SHORT_S + SLACK_S, operation

        await asyncio.gather(*map(prove, self.operations()))

    async def test_a_hang_in_the_middle_of_an_operation_ends_at_the_deadline_too(self) -> None:
        async def prove(operation: str) -> None:
            async with self.peer() as peer:
                peer.fault, peer.healthy_exchanges = Fault.HANG, 1
                _, took_s = await self.timed(peer, operation)
                assert took_s < SHORT_S + SLACK_S, operation

        await asyncio.gather(*map(prove, self.operations()))

    @pytest.mark.parametrize(
        ("fault", "failures"),
        [
            (Fault.GARBAGE, {Failure.GARBAGE}),
            (Fault.MUTE, {Failure.CLOSED}),
            (Fault.CUT, {Failure.GARBAGE}),
            (Fault.RESET, {Failure.CLOSED, Failure.GARBAGE}),
            (Fault.OVERSIZED, {Failure.OVERSIZED}),
        ],
    )
    async def test_a_broken_answer_is_unreachable_with_its_reason(self, fault: Fault, failures: set[Failure]) -> None:
        async with self.peer() as peer:
            peer.fault = fault
            for operation in self.operations():
                outcome = await operate(self.driver(peer, limited=True), operation)
                assert isinstance(outcome, Unreachable), (operation, outcome)
                assert outcome.failure in failures, (operation, outcome)

    async def test_a_refused_connection_is_unreachable(self) -> None:
        async with self.peer() as peer:
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
                port = nobody.getsockname()[1]
                for operation in self.operations():
                    miner = self.driver(peer, limited=True, port=port)
                    outcome = await operate(miner, operation)
                    assert isinstance(outcome, Unreachable), operation
                    assert outcome.failure is Failure.CONNECT, operation

    async def test_drives_devices_that_stand_in_memory_and_leaves_no_connection_open(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        peer = self.peer()
        made = connect_in_memory(monkeypatch, peer.place(7))
        for operation in self.operations():
            miner = self.driver(peer, limited=True)
            outcome = await operate(miner, operation)
            assert isinstance(outcome, MinerReading | Applied), (operation, outcome)
            await miner.close()
        assert made
        assert all(transport.is_closing() for transport in made)

    async def test_no_answer_of_whatever_shape_raises_or_reads_as_a_number_it_is_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for seed in range(200):
            rng = random.Random(seed)
            peer = self.peer()
            peer.scene = rng.choice(scenes(self.peer.firmware))
            peer.spoil = functools.partial(misshape, rng)
            connect_in_memory(monkeypatch, peer.place(7))
            clock = ManualClock()
            miner = self.driver(peer, limited=True, clock=clock)
            clock.now_ms += 120_000
            for operation in self.operations():
                outcome = await operate(miner, operation)
                assert isinstance(outcome, MinerReading | Applied | Refused | Unreachable), (seed, operation)
                if isinstance(outcome, MinerReading):
                    assert_plausible(outcome)
            await miner.close()

    async def test_a_device_that_recovers_is_read_again(self) -> None:
        async with self.peer() as peer:
            miner = self.driver(peer)
            peer.fault = Fault.GARBAGE
            assert isinstance(await miner.read(), Unreachable)
            peer.fault = Fault.NONE
            assert isinstance(await miner.read(), MinerReading)

    async def test_a_cancelled_operation_leaves_the_driver_usable(self) -> None:
        async with self.peer() as peer:
            miner = self.driver(peer)
            for operation in self.operations():
                peer.fault = Fault.HANG
                task = asyncio.create_task(operate(miner, operation))
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            peer.fault = Fault.NONE
            assert isinstance(await miner.read(), MinerReading)
            await miner.close()

    async def test_stops_resumes_to_the_previous_mode_and_both_are_idempotent(self) -> None:
        async with self.peer() as peer:
            miner = self.driver(peer)
            if not self.curtails:
                assert not isinstance(miner, Curtailable)
                return
            assert isinstance(miner, Curtailable)
            before = peer.mode
            for _ in range(2):
                assert isinstance(await miner.stop(), Applied)
                assert peer.scene == "stopped"
                assert await state_of(miner) is DeviceState.STOPPED
            for _ in range(2):
                assert isinstance(await miner.resume(), Applied)
                assert peer.scene == "running"
                assert await state_of(miner) is DeviceState.RUNNING
            assert peer.mode == before
            await miner.close()

    async def test_resumes_to_the_previous_mode_after_a_restart_of_the_agent(self) -> None:
        if not self.curtails:
            pytest.skip("read-only")
        async with self.peer() as peer:
            before = peer.mode
            first = self.driver(peer)
            assert isinstance(first, Curtailable)
            assert isinstance(await first.stop(), Applied)
            memory = dict(first.memory) if isinstance(first, Remembers) else {}
            peer.forget_clients()

            second = self.driver(peer)
            assert isinstance(second, Curtailable)
            if isinstance(second, Remembers):
                second.memory = memory
            assert isinstance(await second.resume(), Applied)
            assert (peer.scene, peer.mode) == ("running", before)

    async def test_a_resumed_miner_reads_as_starting_at_once(self) -> None:
        if not self.curtails:
            pytest.skip("read-only")
        async with self.peer() as peer:
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            await miner.stop()
            assert await state_of(miner) is DeviceState.STOPPED
            await miner.resume()
            peer.scene = "starting"
            assert await state_of(miner) is DeviceState.STARTING

    async def test_a_device_that_says_no_is_refused_and_not_unreachable(self) -> None:
        async with self.peer() as peer:
            peer.refuses = True
            for operation in self.operations()[1:]:
                peer.scene = "stopped" if operation == "resume" else "running"
                outcome = await operate(self.driver(peer, limited=True), operation)
                assert isinstance(outcome, Refused), (operation, outcome)
                assert outcome.detail, operation

    async def test_a_session_that_expired_is_renewed_unseen(self) -> None:
        if not self.curtails:
            pytest.skip("read-only")
        async with self.peer() as peer:
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            assert isinstance(await miner.stop(), Applied)
            peer.forget_clients()
            assert isinstance(await miner.resume(), Applied)
            peer.forget_clients()
            assert isinstance(await miner.read(), MinerReading)
            assert isinstance(await miner.stop(), Applied)
            assert peer.scene == "stopped"

    async def test_power_is_limited_where_the_firmware_can_and_only_when_configured(self) -> None:
        async with self.peer() as peer:
            assert not isinstance(self.driver(peer), PowerLimited)
            if not self.limited_options:
                return
            miner = self.driver(peer, limited=True)
            assert isinstance(miner, PowerLimited)
            least, most = miner.power_range_w
            assert (least, most) == (self.limited_options["min_power_w"], self.limited_options["max_power_w"])
            before = peer.mode
            for outside in (least - 1, most + 1, -5):
                assert isinstance(await miner.set_power_w(outside), Refused)
            assert peer.asked == []
            assert isinstance(await miner.set_power_w(least), Applied)
            assert peer.mode != before

    def test_options_are_refused_by_name(self) -> None:
        wrong: list[tuple[str, Mapping[str, str | int | float]]] = [("colour", {"colour": "red"})]
        if self.limited_options:
            wrong += [
                ("max_power_w", {"min_power_w": 1_000}),
                ("min_power_w", {"min_power_w": 3_000, "max_power_w": 2_000}),
                ("max_power_w", {"min_power_w": 1_000, "max_power_w": "much"}),
                ("min_power_w", {"min_power_w": True, "max_power_w": 2_000}),
            ]
        wrong += [(name, {name: 12_345}) for name in self.text_options]
        for option, options in wrong:
            with pytest.raises(OptionError, match=f"option '{option}'"):
                self.factory("127.0.0.1", None, options, deadline_s=1.0, clock=ManualClock())
        with pytest.raises(OptionError, match="option 'port'"):
            self.factory("127.0.0.1", 70_000, {}, deadline_s=1.0, clock=ManualClock())

    async def timed(self, peer: Peer, operation: str) -> tuple[MinerReading | Outcome, float]:
        """What an operation with the short deadline came to, and the seconds it took."""
        miner = self.driver(peer, deadline_s=SHORT_S, limited=True)
        began = time.monotonic()
        outcome = await operate(miner, operation)
        return outcome, time.monotonic() - began

    def operations(self) -> list[str]:
        """What this driver can do, reading first."""
        return ["read", *(["stop", "resume"] * self.curtails), *(["set_power"] * bool(self.limited_options))]


async def operate(miner: Miner, operation: str) -> MinerReading | Outcome:
    """One operation by name; one that the driver lacks is a read."""
    if operation == "stop" and isinstance(miner, Curtailable):
        return await miner.stop()
    if operation == "resume" and isinstance(miner, Curtailable):
        return await miner.resume()
    if operation == "set_power" and isinstance(miner, PowerLimited):
        return await miner.set_power_w(miner.power_range_w[0])
    return await miner.read()


async def state_of(miner: object) -> DeviceState:
    """The state a miner reads as now."""
    reading = await miner.read()  # type: ignore[attr-defined]
    assert isinstance(reading, MinerReading)
    return reading.state


WEIRD: Final[tuple[object, ...]] = (
    *("", "x", "nan", "-1", None, True, False, 0, -1, 2**70, 1e300, float("inf")),
    *([], {}, [[]], [None], {"a": []}),
)
"""What a field may turn out to hold."""


def misshape(rng: random.Random, body: str) -> str:
    """A JSON text with up to three of its parts replaced by something else; other text is cut somewhere."""
    try:
        value = json.loads(body)
    except ValueError:
        return body[: rng.randrange(len(body) + 1)]
    for _ in range(rng.randint(0, 3)):
        value = _replace_one(value, rng)
    return json.dumps(value)


def _replace_one(value: object, rng: random.Random) -> object:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        return {**value, key: _replace_one(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], _replace_one(value[at], rng), *value[at + 1 :]]
    return rng.choice(WEIRD)


def assert_plausible(reading: MinerReading) -> None:
    """Whole numbers within what a miner can reach, or None; running only with a hashrate."""
    for value, least, most in (
        (reading.power_w, 0, 200_000),
        (reading.power_limit_w, 0, 200_000),
        (reading.hashrate_ghs, 0, 100_000_000),
        (reading.inlet_temp_mc, -60_000, 200_000),
        (reading.chip_temp_mc, -60_000, 200_000),
    ):
        assert value is None or (type(value) is int and least <= value <= most), reading
    assert all(isinstance(error, str) for error in reading.errors)
    assert reading.state is not DeviceState.RUNNING or reading.hashrate_ghs
