"""Streams, aiohttp and pymodbus run unmodified in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import ClientConnectorError, ClientSession, TCPConnector, UnixConnector, web
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from sim.virtual import run_virtual, virtual_loop


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
