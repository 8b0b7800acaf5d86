"""WhatsMiner API v2: the suite, its tokens and its encryption."""

from __future__ import annotations

import sys
from typing import ClassVar

import pytest

from agent.drivers.base import Applied, Curtailable, Failure, MissingExtraError, PowerLimited, Unreachable
from agent.drivers.miners import REGISTRY
from tests.agent.drivers.miners.firmware_peers import WhatsminerPeer
from tests.agent.drivers.miners.suite import ManualClock, MinerSuite


class TestWhatsminerV2(MinerSuite):
    peer = WhatsminerPeer
    limited_options: ClassVar = {"min_power_w": 1_800, "max_power_w": 3_600}
    text_options = ("password",)

    async def test_a_hashing_miner_is_read_in_one_exchange(self) -> None:
        async with WhatsminerPeer() as peer:
            miner = self.driver(peer)
            for _ in range(3):
                await miner.read()
            assert peer.asked == ["summary"] * 3

    async def test_a_stopped_miner_is_asked_why_now_and_then_only(self) -> None:
        async with WhatsminerPeer() as peer:
            peer.scene = "stopped"
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            for _ in range(4):
                await miner.read()
                clock.now_ms += 7_000
            assert peer.asked.count("summary") == 4
            assert peer.asked.count("status") == 2

    async def test_a_token_taken_while_reading_makes_a_shed_one_exchange(self) -> None:
        async with WhatsminerPeer() as peer:
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            assert isinstance(miner, Curtailable)
            clock.now_ms += 61_000
            await miner.read()
            assert peer.asked[-1] == "get_token"
            peer.asked.clear()
            assert isinstance(await miner.stop(), Applied)
            assert peer.asked == ["power_off"]

    async def test_a_token_is_renewed_before_it_expires_and_not_before_it_must(self) -> None:
        async with WhatsminerPeer() as peer:
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            clock.now_ms += 61_000
            for _ in range(60):
                await miner.read()
                clock.now_ms += 60_000
            assert peer.tokens_given in (2, 3), "one every 20 to 28 minutes"

    async def test_a_rejected_token_is_replaced_once(self) -> None:
        async with WhatsminerPeer() as peer:
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            await miner.stop()
            peer.forget_clients()
            peer.asked.clear()
            assert isinstance(await miner.resume(), Applied)
            assert peer.asked == ["power_on", "get_token", "power_on"]

    async def test_a_wrong_password_fails_authentication_and_never_uses_up_the_tokens(self) -> None:
        async with WhatsminerPeer() as peer:
            clock = ManualClock()
            miner = self.factory("127.0.0.1", peer.port, {"password": "wrong"}, deadline_s=10.0, clock=clock)
            assert isinstance(miner, Curtailable)
            for _ in range(40):
                outcome = await miner.stop()
                assert isinstance(outcome, Unreachable)
                assert outcome.failure is Failure.AUTH
                clock.now_ms += 5_000
            assert peer.scene == "running"
            assert peer.tokens_given == 16

    async def test_a_miner_without_tokens_left_says_so(self) -> None:
        async with WhatsminerPeer() as peer:
            peer.exhausted = True
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            outcome = await miner.stop()
            assert isinstance(outcome, Unreachable)
            assert outcome.failure is Failure.AUTH

    async def test_power_is_whole_percent_of_the_upper_end_rounded_down(self) -> None:
        async with WhatsminerPeer() as peer:
            miner = self.driver(peer, limited=True)
            assert isinstance(miner, PowerLimited)
            for power_w, percent in ((3_600, 100), (3_599, 99), (1_836, 51), (1_835, 50)):
                assert isinstance(await miner.set_power_w(power_w), Applied)
                assert peer.percent == percent

    def test_without_the_extra_the_driver_is_refused_with_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cryptography", None)
        with pytest.raises(MissingExtraError, match=r"wattshift\[whatsminer\]"):
            REGISTRY["whatsminer_v2"]("127.0.0.1", None, {}, clock=ManualClock())
