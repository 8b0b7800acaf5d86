"""What the path under a latency costs by itself, in the same run: one hop over the broker, one HTTP request."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from statistics import median
from typing import Final

from bench.center import Center
from contract.bus import Inbound
from contract.bus_mqtt import MqttBus
from sim.broker import LocalBroker

_TOPIC: Final = "bench/hop"
_WITHIN_S: Final = 10.0
_GAP_S: Final = 0.01


async def broker_hop_s(broker: LocalBroker, samples: int) -> float:
    """Median seconds from `publish` on one link to the handler on another, this process at both ends."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[float] = asyncio.Queue()
    up = [asyncio.Event(), asyncio.Event()]

    def take(_message: Inbound) -> None:
        arrived.put_nowait(loop.time())

    buses = [MqttBus(broker.settings(f"bench-hop-{end}"), Random(end)) for end in range(2)]
    tasks = [
        asyncio.create_task(buses[0].run([], take, up[0].set, lambda _reason: None)),
        asyncio.create_task(buses[1].run([_TOPIC], take, up[1].set, lambda _reason: None)),
    ]
    took_s: list[float] = []
    try:
        async with asyncio.timeout(_WITHIN_S):
            for each in up:
                await each.wait()
            for _ in range(samples):
                began_s = loop.time()
                buses[0].publish(_TOPIC, b"x" * 2_000)
                took_s.append(await arrived.get() - began_s)
                await asyncio.sleep(_GAP_S)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return median(took_s)


async def http_round_trip_s(over: Center, samples: int) -> float:
    """Median seconds of `GET /healthz`, each over a connection of its own."""
    loop = asyncio.get_running_loop()
    took_s: list[float] = []
    async with over.session() as session:
        for _ in range(samples):
            began_s = loop.time()
            async with session.get("/healthz") as answer:
                await answer.read()
            took_s.append(loop.time() - began_s)
            await asyncio.sleep(_GAP_S)
    return median(took_s)
