"""Virtual time: the loop, the network in memory, and the clocks."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest
from aiohttp import ClientConnectorError, ClientSession, TCPConnector, UnixConnector, web
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from contract.clock import Clock
from sim.clock import LoopClock, ScaledClock
from sim.virtual import DeadlockError, VirtualLoop, run_virtual, virtual_loop

MINER = ("10.7.0.9", 4028)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


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


class TestNetwork:
    def test_streams_talk_and_time_is_the_latency_drawn(self) -> None:
        async def main() -> tuple[bytes, float]:
            loop = virtual_loop()
            await asyncio.start_server(echo, *MINER)
            loop.network.set_latency(*MINER, 0.010, 0.010)
            reader, writer = await asyncio.open_connection(*MINER)
            writer.write(b"hello")
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer, loop.time()

        answer, took_s = run_virtual(main())
        assert answer == b"hello"
        assert took_s == pytest.approx(0.040)
        """Dialling there and back, the question there, the answer back."""

    def test_a_large_write_arrives_whole_and_in_order_with_backpressure(self) -> None:
        payload = bytes(range(256)) * 8_192

        async def main() -> tuple[bool, bool]:
            got = bytearray()
            paused = False

            async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while data := await reader.read(10_000):
                    got.extend(data)
                    await asyncio.sleep(0.001)
                writer.close()

            await asyncio.start_server(slow, *MINER, limit=20_000)
            reader, writer = await asyncio.open_connection(*MINER)
            for start in range(0, len(payload), 50_000):
                before = asyncio.get_running_loop().time()
                writer.write(payload[start : start + 50_000])
                await writer.drain()
                paused |= asyncio.get_running_loop().time() > before
            writer.write_eof()
            await reader.read()
            return bytes(got) == payload, paused

        assert run_virtual(main()) == (True, True)

    def test_nobody_listening_refuses(self) -> None:
        async def main() -> None:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*MINER)
            with pytest.raises(FileNotFoundError):
                await asyncio.open_unix_connection("/run/none.sock")
            server = await asyncio.start_server(echo, *MINER)
            with pytest.raises(OSError, match="in use"):
                await asyncio.start_server(echo, *MINER)
            server.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*MINER)

        run_virtual(main())

    def test_refuse_and_heal(self) -> None:
        async def main() -> bytes:
            network = virtual_loop().network
            await asyncio.start_server(echo, *MINER)
            network.refuse(*MINER)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*MINER)
            network.heal(*MINER)
            reader, writer = await asyncio.open_connection(*MINER)
            writer.write(b"x")
            return await reader.readexactly(1)

        assert run_virtual(main()) == b"x"

    def test_a_blackhole_hangs_new_connections_and_holds_what_is_written(self) -> None:
        async def main() -> tuple[bytes, float]:
            network = virtual_loop().network
            await asyncio.start_server(echo, *MINER)
            reader, writer = await asyncio.open_connection(*MINER)
            network.blackhole(*MINER)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await asyncio.open_connection(*MINER)
            writer.write(b"held")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await reader.readexactly(4)
            network.heal(*MINER)
            return await reader.readexactly(4), asyncio.get_running_loop().time()

        answer, at_s = run_virtual(main())
        assert answer == b"held"
        assert 10 < at_s < 10.1

    def test_reset_breaks_both_ends(self) -> None:
        async def main() -> list[str]:
            seen: list[str] = []

            async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
                try:
                    await reader.read()
                except ConnectionResetError:
                    seen.append("server")

            await asyncio.start_server(handler, *MINER)
            reader, _writer = await asyncio.open_connection(*MINER)
            await asyncio.sleep(1)
            virtual_loop().network.reset(*MINER)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await asyncio.sleep(1)
            return [*seen, str(virtual_loop().network.connection_count)]

        assert run_virtual(main()) == ["server", "0"]

    def test_writing_to_a_peer_that_closed_ends_in_a_reset(self) -> None:
        async def main() -> None:
            async def rude(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.close()

            await asyncio.start_server(rude, *MINER)
            reader, writer = await asyncio.open_connection(*MINER)
            assert await reader.read() == b""
            writer.write(b"anyone?")
            await asyncio.sleep(0.01)
            with pytest.raises(ConnectionResetError):
                await writer.drain()

        run_virtual(main())

    def test_closing_with_unread_data_resets_the_peer(self) -> None:
        async def main() -> None:
            async def deaf(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(1)
                writer.close()

            await asyncio.start_server(deaf, *MINER)
            reader, writer = await asyncio.open_connection(*MINER)
            await asyncio.sleep(0.5)
            writer.write(b"unread")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)

        run_virtual(main())

    def test_abort_resets_the_peer_and_writes_after_it_are_dropped(self) -> None:
        async def main() -> None:
            async def aborting(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.transport.abort()
                writer.transport.write(b"dropped")

            await asyncio.start_server(aborting, *MINER)
            reader, _writer = await asyncio.open_connection(*MINER)
            with pytest.raises(ConnectionResetError):
                await reader.read()

        run_virtual(main())

    def test_a_write_after_the_end_of_file_raises(self) -> None:
        async def main() -> None:
            await asyncio.start_server(echo, *MINER)
            _reader, writer = await asyncio.open_connection(*MINER)
            writer.write_eof()
            with pytest.raises(RuntimeError, match="after write_eof"):
                writer.write(b"late")

        run_virtual(main())

    def test_a_protocol_that_raises_loses_its_connection_and_the_loop_hears_of_it(self) -> None:
        class Broken(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                raise ValueError("a bug")

        async def main() -> list[str]:
            loop = asyncio.get_running_loop()
            heard: list[str] = []
            loop.set_exception_handler(lambda _loop, context: heard.append(repr(context["exception"])))
            await loop.create_server(Broken, *MINER)
            reader, writer = await asyncio.open_connection(*MINER)
            writer.write(b"boom")
            with pytest.raises(ConnectionResetError):
                await reader.read()
            return heard

        assert run_virtual(main()) == ["ValueError('a bug')"]

    def test_addresses_are_what_callers_expect_of_them(self) -> None:
        async def main() -> None:
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()
            assert host == "127.0.0.1"
            assert port > 1_024
            _reader, writer = await asyncio.open_connection("localhost", port)
            assert writer.get_extra_info("peername") == ("127.0.0.1", port)
            assert writer.get_extra_info("sockname")[0] == "127.0.0.1"
            assert writer.get_extra_info("socket").family == socket.AF_INET
            assert writer.get_extra_info("sslcontext") is None
            wildcard = await asyncio.start_server(echo, "0.0.0.0", 9_000)  # noqa: S104  a wildcard in memory
            await asyncio.open_connection("10.9.9.9", 9_000)
            wildcard.close()

        run_virtual(main())

    def test_a_thousand_servers_on_one_port_of_a_thousand_hosts(self) -> None:
        async def main() -> int:
            hosts = [f"10.1.{high}.{low}" for high in range(10) for low in range(100)]
            for host in hosts:
                await asyncio.start_server(echo, host, 4028)

            async def ask(host: str) -> bytes:
                reader, writer = await asyncio.open_connection(host, 4028)
                writer.write(host.encode())
                writer.write_eof()
                answer = await reader.read()
                writer.close()
                return answer

            answers = await asyncio.gather(*(ask(host) for host in hosts))
            return sum(answer.decode() == host for answer, host in zip(answers, hosts, strict=True))

        assert run_virtual(main()) == 1_000


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


class TestLibraries:
    def test_aiohttp_over_a_unix_socket(self) -> None:
        async def main() -> tuple[int, Any, float]:
            async def hello(request: web.Request) -> web.Response:
                await asyncio.sleep(30)
                return web.json_response({"echo": await request.json()})

            app = web.Application()
            app.router.add_post("/hello", hello)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.UnixSite(runner, "/run/site.sock").start()
            async with (
                ClientSession(connector=UnixConnector("/run/site.sock")) as session,
                session.post("http://site/hello", json={"n": 1}) as response,
            ):
                result = response.status, await response.json(), asyncio.get_running_loop().time()
            await runner.cleanup()
            return result

        status, body, at_s = run_virtual(main())
        assert (status, body) == (200, {"echo": {"n": 1}})
        assert 30 < at_s < 31

    def test_aiohttp_over_tcp_with_its_own_connector(self) -> None:
        async def main() -> bytes:
            async def big(_request: web.Request) -> web.StreamResponse:
                return web.Response(body=b"z" * 300_000)

            app = web.Application()
            app.router.add_get("/big", big)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 8_080)
            await site.start()
            async with ClientSession(connector=TCPConnector()) as session:
                async with session.get("http://127.0.0.1:8080/big") as response:
                    body = await response.read()
                with pytest.raises(ClientConnectorError):
                    await session.get("http://127.0.0.1:8081/nobody")
            await runner.cleanup()
            return body

        assert run_virtual(main()) == b"z" * 300_000

    def test_aiohttp_drops_an_idle_connection_by_virtual_time(self) -> None:
        """By the machine's own time, whether a connection is kept would depend on how fast the machine is."""

        async def main() -> list[int]:
            async def port(request: web.Request) -> web.Response:
                assert request.transport is not None
                return web.Response(text=str(request.transport.get_extra_info("peername")[1]))

            app = web.Application()
            app.router.add_get("/", port)
            runner = web.AppRunner(app, keepalive_timeout=3_600)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 8_080).start()
            ports = []
            async with ClientSession(connector=TCPConnector(keepalive_timeout=15)) as session:
                for wait_s in (0, 10, 20):
                    await asyncio.sleep(wait_s)
                    async with session.get("http://127.0.0.1:8080/") as response:
                        ports.append(int(await response.text()))
            await runner.cleanup()
            return ports

        first, soon, later = run_virtual(main())
        assert first == soon
        assert later != first

    def test_pymodbus_client_and_server(self) -> None:
        async def main() -> tuple[list[int], bool, float]:
            device = SimDevice(1, simdata=[SimData(0, values=[11, 22, 33], datatype=DataType.REGISTERS)])
            server = ModbusTcpServer(device, address=("10.8.0.1", 502))
            serving = asyncio.create_task(server.serve_forever())
            client = AsyncModbusTcpClient("10.8.0.1", port=502, timeout=1, retries=0)
            await asyncio.sleep(0.1)
            assert await client.connect()
            answer = await client.read_holding_registers(0, count=3, device_id=1)
            virtual_loop().network.blackhole("10.8.0.1", 502)
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(Exception, match="No response"):
                await client.read_holding_registers(0, count=3, device_id=1)
            waited_s = asyncio.get_running_loop().time() - began_s
            virtual_loop().network.heal("10.8.0.1", 502)
            client.close()
            await server.shutdown()  # type: ignore[no-untyped-call]
            serving.cancel()
            return list(answer.registers), answer.isError(), waited_s

        registers, failed, waited_s = run_virtual(main())
        assert registers == [11, 22, 33]
        assert not failed
        assert waited_s == pytest.approx(1, abs=0.01)


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
