"""The network in memory: what it carries, delays, refuses, swallows and resets."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sim.virtual import run_virtual, virtual_loop
from tests.sim.virtual_kit import MINER, echo


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
