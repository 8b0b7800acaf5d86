"""A controller that runs, its bus and clock in hand, its API on a real port of loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web

from contract.messages import Status
from controller.app import Controller
from controller.config import ControllerConfig
from controller.daemon import serve
from controller.engine.decide import decide
from controller.engine.model import EnergyPrice
from controller.feeds.base import FeedHealth, Feeds
from controller.feeds.hashprice import GivenHashPrice
from controller.forecast.known import Series
from controller.journal.base import Journal
from controller.journal.memory import MemoryJournal
from tests.controller.kit import BASE_W, RATED_W, StubBus, StubClock, make_controller, plate, report, stop

TOKEN = "0123456789abcdef0123456789abcdef"
GOOD = {"Authorization": f"Bearer {TOKEN}"}
SITE = {"site": "alpha"}
CAP = {"target": SITE, "kind": "cap", "reason": "heat", "duration_s": 600, "value_w": BASE_W + RATED_W}


class Stand:
    """A controller that runs, its bus in hand, its API on a port."""

    def __init__(
        self,
        controller: Controller,
        bus: StubBus,
        clock: StubClock,
        session: ClientSession,
        base: str,
        app: web.Application,
    ) -> None:
        self.controller = controller
        self.bus = bus
        self.clock = clock
        self.session = session
        self.base = base
        self.app = app

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any, Any]:
        """Status, body (JSON where it is), headers."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = more.pop("headers", GOOD)
        async with self.session.request(method, self.base + path, data=data, headers=headers) as response:
            text = await response.text()
            is_json = response.content_type.endswith("json")
            return response.status, json.loads(text) if is_json and text else text, response.headers

    async def override(self, **ask: Any) -> Any:
        """Impose one on alpha, a lockout for an hour where nothing else is said; the whole answer."""
        fields = {"target": {"site": "alpha"}, "kind": "lockout", "reason": "works", "duration_s": 3_600} | ask
        given = {name: value for name, value in fields.items() if value is not None}
        status, body, _ = await self.call("POST", "/v1/overrides", given)
        assert status == 201, body
        return body

    def join(self, *sites: str) -> None:
        for site in sites:
            self.bus.deliver(Status(site=site, boot="b1", online=True), plate(site), report(site))


class FixedPrice:
    """A `PriceFeed` of one price for ever."""

    name = "fixed"
    health = FeedHealth(True, "given", {})

    def __init__(self, usd_per_mwh: float | None) -> None:
        self.usd_per_mwh = usd_per_mwh
        self.past: Series | None = None

    def price_at(self, now_ms: int) -> EnergyPrice:
        return EnergyPrice(usd_per_mwh=self.usd_per_mwh, age_ms=0, feed=self.name)

    def known(self, since_ms: int, now_ms: int) -> Series | None:
        """What a test gave it, else nothing of the past or the future."""
        return self.past

    async def run(self) -> None:
        return


def deciding(usd_per_mwh: float | None = 20.0, usd_per_ph_day: float = 50.0) -> dict[str, Any]:
    """What makes `standing` decide with the real engine, at one price. A bank of the kit breaks even near 119 USD."""
    feeds = Feeds({"fixed": FixedPrice(usd_per_mwh)}, {"given": GivenHashPrice("given", usd_per_ph_day)})
    params = {"economics": "merit_order"}
    return {"decide": decide, "feeds": feeds, "price": "fixed", "hashprice": "given", "params": params}


@asynccontextmanager
async def standing(
    journal: Journal | None = None, clock: StubClock | None = None, **config: Any
) -> AsyncIterator[Stand]:
    bus, clock = StubBus(), clock or StubClock()
    parts = {name: config.pop(name) for name in ("decide", "feeds") if name in config}
    http = {"listen": "127.0.0.1:0"} | config.pop("http", {})
    names = {"price": config.pop("price", None), "hashprice": config.pop("hashprice", None)}
    settings = ControllerConfig.model_validate({"http": http} | config).model_copy(update=names)
    controller = make_controller(bus, clock, config=settings, journal=journal or MemoryJournal(), **parts)
    runner, port = await serve(controller, TOKEN)
    task = asyncio.ensure_future(controller.run())
    await bus.up.wait()
    try:
        async with ClientSession(timeout=ClientTimeout(total=60)) as session:
            yield Stand(controller, bus, clock, session, f"http://127.0.0.1:{port}", runner.app)
    finally:
        await stop(task)
        await runner.cleanup()


def targets(stand: Stand) -> list[int]:
    """What the newest order on alpha asks of each bank, in watts."""
    return [setpoint.target_w for setpoint in stand.bus.orders()[-1].setpoints]
