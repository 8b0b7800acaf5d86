"""Read-only generic cgminer: the suite, and what its firmwares spell and frame differently."""

from __future__ import annotations

from agent.drivers.base import DeviceState, Failure, MinerReading, Unreachable
from tests.agent.drivers.miners.peers import CgminerPeer
from tests.agent.drivers.miners.suite import ManualClock, MinerSuite


class TestCgminer(MinerSuite):
    peer = CgminerPeer
    curtails = False
    stopped_state = DeviceState.UNKNOWN

    async def test_a_nul_a_newline_or_nothing_may_end_an_answer(self) -> None:
        readings = []
        for ending in (b"\x00", b"", b"\n", b"\n\x00", b"\x00\x00"):
            async with CgminerPeer() as peer:
                peer.ending = ending
                readings.append(await self.driver(peer).read())
        assert isinstance(readings[0], MinerReading)
        assert readings == [readings[0]] * 5

    async def test_a_firmware_that_refuses_combined_commands_is_asked_for_the_summary_alone(self) -> None:
        async with CgminerPeer() as peer:
            peer.combines = False
            miner = self.driver(peer)
            for _ in range(2):
                reading = await miner.read()
                assert isinstance(reading, MinerReading)
                assert (reading.state, reading.hashrate_ghs) == (DeviceState.RUNNING, 13_562)
            assert peer.asked == ["summary+devs", "summary", "summary"]

    async def test_a_device_that_knows_no_summary_is_garbage_and_asked_again_in_full(self) -> None:
        async with CgminerPeer() as peer:
            peer.combines = False
            peer.reply = lambda name, parameter: '{"STATUS":[{"STATUS":"E","Msg":"nope"}]}'  # type: ignore[method-assign]
            miner = self.driver(peer, clock=ManualClock())
            assert await miner.read() == Unreachable(Failure.GARBAGE, "no summary: nope")
            peer.asked.clear()
            await miner.read()
            assert peer.asked[0] == "summary+devs"
