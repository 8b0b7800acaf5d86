"""Load in a process of its own: synthetic agents that report through a real broker, for benches of the controller.

`python -m bench.load --port PORT --sites 5000 --banks 20` announces all sites, prints `{"control": "HOST:PORT"}` and
waits to be told. The control channel knows:

    {"op": "rate", "per_s": 1000}   report at this rate, site after site; 0 pauses, null is as fast as the broker takes
    {"op": "stats"}                 `published`, `acknowledged`, `dropped`, `orders` so far, and `behind`: reports that
                                    were due and could not be published in time
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

from bench.synthetic import SyntheticSite
from contract.bus import Inbound
from contract.bus_mqtt import MqttBus
from contract.clock import SystemClock
from contract.messages import Order, decode
from contract.mqtt_settings import MqttSettings
from contract.topics import all_sites, parse_site_topic, site_topic
from sim.devices.control import ControlError, serve_control

HOST: Final = "127.0.0.1"
TICK_S: Final = 0.01
WINDOW: Final = 200
"""Messages on their way to the broker at once when there is no rate to keep."""
BEHIND_S: Final = 1.0
"""What could not be published within this is given up and counted: a load must not turn into a burst."""
_ANNOUNCE_WINDOW: Final = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Synthetic agents.")
    parser.add_argument("--port", type=int, required=True, help="the broker's")
    parser.add_argument("--sites", type=int, default=5_000)
    parser.add_argument("--banks", type=int, default=20)
    asyncio.run(_serve(parser.parse_args(argv)))
    return 0


class Load:
    """All synthetic agents, over one link to the broker."""

    def __init__(self, bus: MqttBus, sites: Sequence[SyntheticSite]) -> None:
        self._bus = bus
        self._sites = sites
        self._by_name = {each.site: each for each in sites}
        self._topics = [site_topic(each.site, "report") for each in sites]
        self._clock = SystemClock()
        self._next = self._taken = 0
        self.per_s: float | None = 0.0
        self.published = self.orders = 0
        self.behind = 0.0

    async def announce(self) -> None:
        """Say what every site is, no faster than the broker takes it."""
        for site in self._sites:
            await self._until_at_most(_ANNOUNCE_WINDOW)
            self._publish(site_topic(site.site, "status"), site.status(), retain=True)
            self._publish(site_topic(site.site, "nameplate"), site.nameplate(), retain=True)
        await self._until_at_most(0)

    async def run(self) -> None:
        """Report at the rate that is set, until cancelled."""
        loop = asyncio.get_running_loop()
        due, before_s = 0.0, loop.time()
        while True:
            await asyncio.sleep(0 if self.per_s is None else TICK_S)
            now_s = loop.time()
            due = float(WINDOW - self._on_their_way()) if self.per_s is None else due + self.per_s * (now_s - before_s)
            before_s = now_s
            if self.per_s and due > self.per_s * BEHIND_S:
                self.behind += due - self.per_s * BEHIND_S
                due = self.per_s * BEHIND_S
            while due >= 1:
                due -= 1
                self._report()

    def take(self, inbound: Inbound) -> None:
        """An order for one of the sites."""
        topic = parse_site_topic(inbound.topic)
        site = self._by_name.get(topic.site) if topic is not None else None
        if site is not None:
            self.orders += 1
            for receipt in site.obey(decode(Order, inbound.payload)):
                self._publish(site_topic(site.site, "receipt"), receipt)

    def set_rate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        per_s = request.get("per_s")
        if per_s is not None and (not isinstance(per_s, int | float) or per_s < 0):
            raise ControlError("per_s is a rate, 0 or null")
        self.per_s = per_s
        return self.stats(request)

    def stats(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        stats = self._bus.stats
        return {
            "published": self.published,
            "acknowledged": stats.published,
            "dropped": stats.publish_dropped,
            "orders": self.orders,
            "behind": round(self.behind),
            "connects": stats.connects,
        }

    def _report(self) -> None:
        index, self._next = self._next, (self._next + 1) % len(self._sites)
        if self._publish(self._topics[index], self._sites[index].report(self._clock.wall_ms())):
            self.published += 1

    def _publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        taken = self._bus.publish(topic, payload, retain=retain)
        self._taken += taken
        return taken

    async def _until_at_most(self, on_their_way: int) -> None:
        while self._on_their_way() > on_their_way:  # noqa: ASYNC110  an acknowledgement has no event
            await asyncio.sleep(TICK_S)

    def _on_their_way(self) -> int:
        """Messages that the broker has not acknowledged yet."""
        return self._taken - self._bus.stats.published


async def _serve(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    chance = Random(0)
    sites = [SyntheticSite(f"load-{place:05d}", options.banks, chance) for place in range(options.sites)]
    bus = MqttBus(MqttSettings(host=HOST, port=options.port, identifier="bench-load"), chance)
    load = Load(bus, sites)
    up = asyncio.Event()
    link = asyncio.create_task(bus.run([all_sites("order")], load.take, up.set, lambda _reason: None))
    await up.wait()
    await load.announce()
    control, where = await serve_control(f"{HOST}:0", {"rate": load.set_rate, "stats": load.stats})
    sys.stdout.write(json.dumps({"control": where}) + "\n")
    sys.stdout.flush()
    running = asyncio.create_task(load.run())
    await stopped.wait()
    control.close()
    for task in (running, link):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    sys.exit(main())
