"""Braiins OS: the suite, and its REST API."""

from __future__ import annotations

from typing import ClassVar

from agent.drivers.base import Applied, Curtailable, DeviceState, Failure, PowerLimited, Unreachable
from tests.agent.drivers.miners.firmware_peers import BraiinsPeer
from tests.agent.drivers.miners.suite import ManualClock, MinerSuite, state_of

TARGET = "PUT /api/v1/performance/power-target"
DETAILS = "GET /api/v1/miner/details"
LOGIN = "POST /api/v1/auth/login"


class TestBraiins(MinerSuite):
    peer = BraiinsPeer
    limited_options: ClassVar = {"min_power_w": 1_000, "max_power_w": 3_300}
    text_options = ("username", "password")

    async def test_reads_in_one_exchange(self) -> None:
        async with BraiinsPeer() as peer:
            await self.driver(peer).read()
            assert peer.asked == ["summary+temps+tunerstatus+devdetails"]

    async def test_a_pause_that_only_rest_tells_of_is_asked_for_now_and_then_and_again_after_a_change(self) -> None:
        async with BraiinsPeer() as peer:
            peer.scene = "stopped_told_by_rest"
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            assert isinstance(miner, Curtailable)
            for _ in range(4):
                assert await state_of(miner) is DeviceState.STOPPED
                clock.now_ms += 7_000
            assert peer.asked.count(DETAILS) == 2
            await miner.resume()
            peer.scene = "starting_told_by_rest"
            assert await state_of(miner) is DeviceState.STARTING

    async def test_a_version_without_rest_is_not_asked_for_it_at_every_read(self) -> None:
        async with BraiinsPeer() as peer:
            peer.scene = "starting"
            miner = self.driver(peer)
            for _ in range(5):
                assert await state_of(miner) is DeviceState.STARTING
            assert peer.asked.count(DETAILS) == 1

    async def test_logs_in_once_and_again_when_the_token_expired(self) -> None:
        async with BraiinsPeer() as peer:
            miner = self.driver(peer, limited=True)
            assert isinstance(miner, PowerLimited)
            for power_w in (2_000, 2_500):
                assert isinstance(await miner.set_power_w(power_w), Applied)
                assert peer.rest.target_w == power_w
            assert peer.asked == [LOGIN, TARGET, TARGET]
            peer.forget_clients()
            assert isinstance(await miner.set_power_w(3_000), Applied)
            assert peer.asked == [LOGIN, TARGET, TARGET, TARGET, LOGIN, TARGET]
            assert peer.rest.target_w == 3_000

    async def test_a_wrong_password_is_a_failure_of_authentication(self) -> None:
        async with BraiinsPeer() as peer:
            options = {**peer.options, **self.limited_options, "password": "wrong"}
            miner = self.factory("127.0.0.1", peer.port, options, deadline_s=10.0, clock=ManualClock())
            assert isinstance(miner, PowerLimited)
            assert await miner.set_power_w(2_000) == Unreachable(Failure.AUTH, "login answered HTTP 401")
