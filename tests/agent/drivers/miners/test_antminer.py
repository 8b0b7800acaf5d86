"""Stock Antminer: the suite, its configuration and its digest authentication."""

from __future__ import annotations

from agent.drivers.base import Applied, Curtailable, Failure, Refused, Remembers, Unreachable
from tests.agent.drivers.miners.firmware_peers import AntminerPeer
from tests.agent.drivers.miners.suite import ManualClock, MinerSuite

STATS = "GET /cgi-bin/stats.cgi"
CONF = "GET /cgi-bin/get_miner_conf.cgi"


class TestAntminer(MinerSuite):
    peer = AntminerPeer
    text_options = ("username", "password")

    async def test_a_read_is_one_authorised_exchange_once_the_challenge_is_known(self) -> None:
        async with AntminerPeer() as peer:
            miner = self.driver(peer)
            for _ in range(3):
                await miner.read()
            assert peer.asked == [STATS] * 3
            assert peer.nonces_given == 1

    async def test_a_sleeping_miner_is_asked_for_its_configuration_now_and_then_only(self) -> None:
        async with AntminerPeer() as peer:
            peer.scene = "stopped"
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            for _ in range(4):
                await miner.read()
                clock.now_ms += 7_000
            assert [path for path in peer.asked if path == CONF] == [CONF] * 2

    async def test_every_field_of_the_configuration_goes_back_under_the_names_that_writing_takes(self) -> None:
        async with AntminerPeer() as peer:
            before = dict(peer.conf)
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            await miner.stop()
            [posted] = peer.posted
            assert {**before, "bitmain-work-mode": "1", "miner-mode": 1, "freq-level": "100"} == posted
            assert posted["pools"][0]["url"] == "stratum+tcp://pool-a.example:3333"

    async def test_the_mode_from_before_is_remembered_and_not_overwritten_by_a_second_stop(self) -> None:
        async with AntminerPeer() as peer:
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            assert isinstance(miner, Remembers)
            await miner.stop()
            assert await miner.stop() == Applied("already asleep")
            assert miner.memory == {"miner_mode": "3"}
            await miner.resume()
            assert peer.conf["bitmain-work-mode"] == "3"

    async def test_without_or_with_a_spoilt_memory_a_miner_wakes_up_in_normal_mode(self) -> None:
        for memory in ({}, {"miner_mode": "1"}, {"miner_mode": "x"}, {"other": "3"}, {"miner_mode": ""}):
            async with AntminerPeer() as peer:
                peer.scene = "stopped"
                miner = self.driver(peer)
                assert isinstance(miner, Curtailable)
                assert isinstance(miner, Remembers)
                miner.memory = memory
                assert isinstance(await miner.resume(), Applied)
                assert peer.conf["bitmain-work-mode"] == "0"

    async def test_a_configuration_without_pools_or_mode_is_never_written_back(self) -> None:
        for missing, outcome in (
            ("pools", Unreachable(Failure.GARBAGE, "get_miner_conf.cgi without pools")),
            ("bitmain-work-mode", Refused("its configuration states no work mode, so it could not be put back")),
        ):
            async with AntminerPeer() as peer:
                del peer.conf[missing]
                miner = self.driver(peer)
                assert isinstance(miner, Curtailable)
                assert await miner.stop() == outcome
                assert peer.posted == []

    async def test_a_wrong_password_is_a_failure_of_authentication(self) -> None:
        async with AntminerPeer() as peer:
            options = {"password": "wrong"}
            miner = self.factory("127.0.0.1", peer.port, options, deadline_s=10.0, clock=ManualClock())
            assert await miner.read() == Unreachable(Failure.AUTH, "wrong username or password")
