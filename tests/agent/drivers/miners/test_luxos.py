"""LuxOS: the suite, and its sessions and profiles."""

from __future__ import annotations

from typing import ClassVar

from agent.drivers.base import Applied, Curtailable, MinerReading, PowerLimited, Refused
from tests.agent.drivers.miners.firmware_peers import LuxosPeer
from tests.agent.drivers.miners.suite import ManualClock, MinerSuite


class TestLuxos(MinerSuite):
    peer = LuxosPeer
    limited_options: ClassVar = {"min_power_w": 800, "max_power_w": 2_800}

    async def test_reads_without_a_session_in_one_exchange(self) -> None:
        async with LuxosPeer() as peer:
            await self.driver(peer).read()
            assert peer.asked == ["summary+power+temps+config"]

    async def test_the_session_serves_the_next_change_and_is_given_back_at_a_later_read(self) -> None:
        async with LuxosPeer() as peer:
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            assert isinstance(miner, Curtailable)
            await miner.stop()
            await miner.resume()
            assert peer.asked == ["logon", "curtail", "curtail"]
            await miner.read()
            assert peer.session, "it may be wanted again at once"
            clock.now_ms += 5_000
            await miner.read()
            assert peer.session == ""
            assert peer.asked[-1] == "logoff"

    async def test_a_session_older_than_a_minute_is_neither_used_nor_given_back(self) -> None:
        async with LuxosPeer() as peer:
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            assert isinstance(miner, Curtailable)
            await miner.stop()
            clock.now_ms += 61_000
            peer.session = ""
            await miner.resume()
            assert peer.asked == ["logon", "curtail", "logon", "curtail"]
            peer.asked.clear()
            clock.now_ms += 61_000
            await miner.read()
            assert "logoff" not in peer.asked

    async def test_a_miner_that_forgot_the_session_is_logged_on_to_once_more(self) -> None:
        async with LuxosPeer() as peer:
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            await miner.stop()
            peer.session = ""
            assert isinstance(await miner.resume(), Applied)
            assert peer.asked == ["logon", "curtail", "curtail", "logon", "curtail"]

    async def test_a_stop_borrows_the_session_that_someone_else_holds_and_leaves_it_to_them(self) -> None:
        async with LuxosPeer() as peer:
            peer.session = "theirs"
            clock = ManualClock()
            miner = self.driver(peer, clock=clock)
            assert isinstance(miner, Curtailable)
            assert isinstance(await miner.stop(), Applied)
            assert peer.asked == ["logon", "session", "curtail"]
            assert peer.scene == "stopped"
            assert await miner.resume() == Refused("Another session is active")
            clock.now_ms += 5_000
            await miner.read()
            await miner.close()
            assert peer.session == "theirs"

    async def test_close_gives_the_session_back(self) -> None:
        async with LuxosPeer() as peer:
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            await miner.stop()
            await miner.close()
            assert peer.session == ""

    async def test_power_takes_the_strongest_profile_within_it_and_none_twice(self) -> None:
        async with LuxosPeer() as peer:
            miner = self.driver(peer, limited=True)
            assert isinstance(miner, PowerLimited)
            for power_w, profile in ((1_413, "290MHz"), (1_414, "340MHz"), (2_800, "default"), (800, "190MHz")):
                assert isinstance(await miner.set_power_w(power_w), Applied)
                assert peer.profile == profile
            peer.asked.clear()
            assert await miner.set_power_w(900) == Applied("already at profile 190MHz")
            assert peer.asked == ["profiles+config"], "setting a profile again would ramp the miner"

    async def test_power_below_the_weakest_profile_is_refused(self) -> None:
        async with LuxosPeer() as peer:
            miner = self.factory(
                "127.0.0.1",
                peer.port,
                {"min_power_w": 100, "max_power_w": 2_800},
                deadline_s=10.0,
                clock=ManualClock(),
            )
            assert isinstance(miner, PowerLimited)
            assert await miner.set_power_w(783) == Refused("no profile within 783 W")
            assert isinstance(await miner.set_power_w(784), Applied)

    async def test_a_slept_miner_wakes_up_in_the_profile_it_had(self) -> None:
        async with LuxosPeer() as peer:
            peer.profile = "340MHz"
            miner = self.driver(peer)
            assert isinstance(miner, Curtailable)
            await miner.stop()
            await miner.resume()
            assert peer.profile == "340MHz"
            assert isinstance(await miner.read(), MinerReading)
