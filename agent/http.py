"""The agent's own small HTTP server: /metrics, /healthz, and /devices for what is too much for metrics.

It reads and changes nothing. Bind it to loopback, or to the network that Prometheus comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from agent.metrics import CONTENT_TYPE, exposition, registry_of

if TYPE_CHECKING:
    from agent.device import Device
    from agent.site import SiteAgent

PAGE_MAX: Final = 1_000


class HttpServer:
    """Serves one agent. `start` raises `OSError` where the address is taken."""

    def __init__(self, agent: SiteAgent) -> None:
        self._agent = agent
        self._registry = registry_of(agent)
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/devices", self._devices)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which for 0 is a free one."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=exposition(self._registry), headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, _request: web.Request) -> web.Response:
        """200 only while the control loop ticks and speaks for its site."""
        healthy, particulars = self._agent.health()
        return web.json_response({"healthy": healthy, **particulars}, status=200 if healthy else 503)

    async def _devices(self, request: web.Request) -> web.Response:
        """A page of devices: `?bank=NAME&offset=0&limit=100`."""
        try:
            offset = int(request.query.get("offset", "0"))
            limit = int(request.query.get("limit", "100"))
        except ValueError:
            return web.json_response({"error": "offset and limit are whole numbers"}, status=400)
        if offset < 0 or not 1 <= limit <= PAGE_MAX:
            return web.json_response({"error": f"offset from 0, limit from 1 to {PAGE_MAX}"}, status=400)
        bank = request.query.get("bank")
        banks = [own for own in self._agent.machinery.hash_banks if bank is None or own.name == bank]
        devices = [device for own in banks for device in own.devices]
        now_ms = self._agent.now_ms
        page = [_device(device, now_ms) for device in devices[offset : offset + limit]]
        return web.json_response({"total": len(devices), "offset": offset, "devices": page})


def _device(device: Device, now_ms: int) -> dict[str, object]:
    reading = device.reading
    return {
        "device": device.label,
        "standing": device.standing.name.lower(),
        "target_w": device.target_w if device.target_w >= 0 else None,
        "state": None if reading is None else str(reading.state),
        "power_w": None if reading is None else reading.power_w,
        "hashrate_ghs": None if reading is None else reading.hashrate_ghs,
        "chip_temp_mc": None if reading is None else reading.chip_temp_mc,
        "inlet_temp_mc": None if reading is None else reading.inlet_temp_mc,
        "errors": [] if reading is None else list(reading.errors),
        "age_ms": None if reading is None else max(now_ms - device.read_ms, 0),
        "failure": None if device.failure is None else str(device.failure),
        "answer": device.answer.name.lower(),
        "attempts": device.attempts,
    }
