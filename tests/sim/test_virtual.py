"""Virtual time: the loop, its determinism, and the clocks."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from contract.clock import Clock
from sim.clock import LoopClock, ScaledClock
from sim.virtual import DeadlockError, VirtualLoop, run_virtual, virtual_loop
from tests.sim.virtual_kit import MINER


class TestTime:
    def test_a_day_passes_in_no_time_and_timers_fire_in_order(self) -> None:
        fired: list[tuple[str, float]] = []

        async def main() -> float:
            loop = asyncio.get_running_loop()

            async def after(name: str, delay_s: float) -> None:
                await asyncio.sleep(delay_s)
                fired.append((name, loop.time()))

            await asyncio.gather(after("day", 86_400), after("minute", 60), after("now", 0), after("year", 31_536_000))
            return loop.time()

        began = time.perf_counter()
        assert run_virtual(main()) == 31_536_000
        assert time.perf_counter() - began < 5
        assert fired == [("now", 0), ("minute", 60), ("day", 86_400), ("year", 31_536_000)]

    def test_a_deadlock_says_who_waits(self) -> None:
        async def wait_for_ever() -> None:
            await asyncio.Event().wait()

        async def main() -> None:
            await asyncio.create_task(wait_for_ever(), name="the-culprit")

        with pytest.raises(
            DeadlockError, match=r"no timer is set at 0\.000 s; waiting: .*the-culprit in .*wait_for_ever"
        ):
            run_virtual(main())

    def test_timers_that_never_end_are_stopped_by_the_limit(self) -> None:
        async def main() -> None:
            for _ in range(10_000):
                await asyncio.sleep(1)

        with pytest.raises(TimeoutError, match=r"not over after 3600 virtual seconds; waiting: .*main"):
            run_virtual(main(), limit_s=3_600)

    def test_a_timeout_fires_in_virtual_time(self) -> None:
        async def main() -> float:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.5):
                    await asyncio.Event().wait()
            return asyncio.get_running_loop().time()

        assert run_virtual(main()) == 2.5

    def test_threads_sockets_signals_and_names_are_refused_clearly(self) -> None:
        async def main() -> None:
            loop = virtual_loop()
            with pytest.raises(RuntimeError, match="no threads: run_in_executor"):
                await asyncio.to_thread(len, ())
            with pytest.raises(socket.gaierror, match=r"looks no names up: example\.org"):
                await loop.getaddrinfo("example.org", 80)
            with pytest.raises(NotImplementedError, match="no signals"):
                loop.add_signal_handler(2, len, ())
            ours, theirs = socket.socketpair()
            with ours, theirs, pytest.raises(RuntimeError, match="no real sockets"):
                loop.add_reader(ours, len, ())
            with pytest.raises(NotImplementedError, match="TLS"):
                await loop.create_connection(asyncio.Protocol, *MINER, ssl=True)

        run_virtual(main())

    def test_another_thread_cannot_call_in(self) -> None:
        said: list[str] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()

            def intrude() -> None:
                try:
                    loop.call_soon_threadsafe(len, ())
                except RuntimeError as error:
                    said.append(str(error))

            thread = threading.Thread(target=intrude)
            thread.start()
            thread.join()

        run_virtual(main())
        assert said == ["virtual time has no threads: len was called in from another one"]

    def test_literal_addresses_and_localhost_resolve_without_a_thread(self) -> None:
        async def main() -> list[Any]:
            loop = asyncio.get_running_loop()
            return [(await loop.getaddrinfo(host, 80))[0][4][0] for host in ("10.0.0.1", "localhost", "fe80::1")]

        assert run_virtual(main()) == ["10.0.0.1", "127.0.0.1", "fe80::1"]


class TestDeterminism:
    @staticmethod
    async def history(out: list[str]) -> None:
        """Forty clients against one server, with latency from the seed, written down as it happens."""
        loop = virtual_loop()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = await reader.readline()
            out.append(f"{loop.time():.9f} {line!r}")
            await asyncio.sleep(loop.rng.random())
            writer.write(line)
            writer.close()

        async def client(number: int) -> None:
            reader, writer = await asyncio.open_connection(*MINER)
            writer.write(f"{number}\n".encode())
            out.append(f"{loop.time():.9f} {await reader.read()!r}")
            writer.close()

        await asyncio.start_server(handler, *MINER)
        await asyncio.gather(*(client(number) for number in range(40)))

    def test_the_same_seed_gives_the_same_history_and_another_another(self) -> None:
        first: list[str] = []
        second: list[str] = []
        other: list[str] = []
        run_virtual(self.history(first), seed=7)
        run_virtual(self.history(second), seed=7)
        run_virtual(self.history(other), seed=8)
        assert len(first) == 80
        assert first == second
        assert first != other


class TestClocks:
    def test_the_loop_clock_counts_whole_milliseconds_of_virtual_time(self) -> None:
        async def main() -> list[tuple[int, int]]:
            clock: Clock = LoopClock(1_700_000_000_000, mono_origin_ms=5_000)
            seen = [(clock.wall_ms(), clock.mono_ms())]
            for _ in range(3_000):
                await clock.sleep_ms(7)
            seen.append((clock.wall_ms(), clock.mono_ms()))
            return seen

        assert run_virtual(main()) == [(1_700_000_000_000, 5_000), (1_700_000_021_000, 26_000)]

    def test_the_loop_clock_wall_jumps_and_its_mono_does_not(self) -> None:
        async def main() -> tuple[int, int]:
            clock = LoopClock(1_000_000)
            clock.shift_wall(-600_000)
            return clock.wall_ms(), clock.mono_ms()

        assert run_virtual(main()) == (400_000, 0)

    def test_a_scaled_clock_runs_faster_than_the_machine(self) -> None:
        ticks = [5_000_000_000]
        clock = ScaledClock(60.0, 1_700_000_000_000, ticks_ns=lambda: ticks[0])
        ticks[0] += 1_500_000_000
        assert clock.mono_ms() == 90_000
        assert clock.wall_ms() == 1_700_000_090_000
        twin = ScaledClock(60.0, 1_700_000_000_000, anchor_ns=clock.anchor_ns, ticks_ns=lambda: ticks[0])
        assert twin.wall_ms() == clock.wall_ms()

    def test_a_scaled_clock_sleeps_its_share(self) -> None:
        async def main() -> float:
            clock: Clock = ScaledClock(60.0, 0)
            await clock.sleep_ms(90_000)
            return asyncio.get_running_loop().time()

        assert run_virtual(main()) == 1.5

    def test_speed_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match="above 0"):
            ScaledClock(0.0, 0)


def test_virtual_loop_is_asked_for_where_there_is_none() -> None:
    async def main() -> VirtualLoop:
        return virtual_loop()

    with pytest.raises(RuntimeError, match="needs virtual time"):
        asyncio.run(main())
