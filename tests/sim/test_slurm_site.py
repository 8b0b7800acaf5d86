"""Whole hybrid sites over 16 nodes of a real Slurm: broker, controller and agent as they stand in production, jobs that
are real processes, a Redfish controller for each node, and a plant that draws what all of them let it draw."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.center import Center, center
from bench.hpc_site import site_agent
from sim.broker import LocalBroker
from sim.process_meter import ProcessMeter, Seen
from sim.slurm import SlurmCluster, missing_for_slurm
from sim.slurm_site import BASE_W, CPUS, NODE_BUSY_W, NODE_CAPPED_W, NODE_IDLE_W, HybridSite, hybrid_site

_MISSING = missing_for_slurm()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.mosquitto,
    pytest.mark.skipif(_MISSING is not None, reason=f"no Slurm: {_MISSING}"),
]

NODES = 16
PATIENCE_S = 60.0
WORK = """\
import os, sys, time
path, end = sys.argv[1], sys.argv[2]
open(path + ".starts", "a").write("x")
n = i = 0
while not os.path.exists(end):
    n, i = n + i, i + 1
    time.sleep(0.02)
open(path + ".new", "w").write(f"{n} {i}")
os.replace(path + ".new", path)
"""
"""It works until it is let end, and its sum tells whether it ever began anew."""


@dataclass(slots=True)
class World:
    """One site and all that moves it."""

    cluster: SlurmCluster
    site: HybridSite
    center: Center
    meter: ProcessMeter
    seen: Seen = Seen((), ())  # noqa: RUF009  it is frozen
    watts: list[tuple[float, float, float]] = field(default_factory=list)
    """Of the plant, of the halls and of the nodes, twenty times a second since it was last cleared."""
    names: list[str] = field(default_factory=list)

    async def watch(self) -> None:
        while True:
            self.seen = self.meter.look()
            self.watts.append((self.site.power_w, self.site.hash_w, self.site.hpc_w))
            await asyncio.sleep(0.05)

    async def submit(self, name: str, comment: str) -> None:
        """A job that fills a node until `end` is called."""
        out = self.cluster.folder / "out"
        words = f"exec python3 {self.cluster.folder}/work.py {out}/{name} {self.cluster.folder}/end"
        await self.cluster.submit(words, "-N1", f"-n{CPUS}", "--time=60", f"--comment=wattshift {comment}")
        self.names.append(name)

    def end(self) -> None:
        """Let every job come to its end, those too that have not begun."""
        (self.cluster.folder / "end").touch()

    def wrong(self) -> list[str]:
        """Jobs without their result, or that began more than once."""
        return [name for name in self.names if not self._is_right(self.cluster.folder / "out" / name)]

    def _is_right(self, path: Path) -> bool:
        with suppress(OSError, ValueError):
            total, steps = map(int, path.read_text().split())
            return total == sum(range(steps)) and path.with_suffix(".starts").read_text() == "x"
        return False

    def nodes_of(self, *names: str) -> set[str]:
        seen = self.seen
        return {worker.node for worker in (*seen.running, *seen.stopped) if worker.name in names}

    def stopped(self) -> set[str]:
        """Jobs whose process stands still."""
        return {worker.name for worker in self.seen.stopped}

    @property
    def limits(self) -> dict[str, int]:
        """By node, the limits in force by their controllers."""
        found = {node: bmc.machine.in_force_w for node, bmc in self.site.bmcs.items()}
        return {node: limit_w for node, limit_w in found.items() if limit_w is not None}

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        async with self.center.session() as session, session.request(method, path, json=body) as answer:
            assert answer.status < 300, await answer.text()

    async def bank(self, name: str = "hpc") -> dict[str, Any]:
        told = await self.center.get(f"/v1/sites/{self.site.name}")
        return next(bank for bank in told["banks"] if bank["bank"] == name)

    async def ordered(self) -> None:
        """Until the controller has heard of the site and told it what to do."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self._is_ordered():  # noqa: ASYNC110  another process's
                await asyncio.sleep(0.1)

    async def _is_ordered(self) -> bool:
        known = (await self.center.get("/v1/sites"))["sites"]
        if self.site.name not in {each["site"] for each in known}:
            return False
        return (await self.center.get(f"/v1/sites/{self.site.name}"))["order"] is not None

    async def confirmed(self, least_w: int, most_w: int) -> None:
        """Until the bank's target is within these, and its receipt says that measured power meets it."""
        told: dict[str, Any] = {}
        try:
            async with asyncio.timeout(PATIENCE_S):
                while told.get("receipt") != "confirmed" or not least_w <= told["target_w"] <= most_w:
                    told = await self.bank()
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pytest.fail(f"never confirmed within {least_w} to {most_w} W: {told}")


async def until(holds: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110  other processes' states
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"it never came to that: {what()}")


@asynccontextmanager
async def world(folder: Path, *, asics: int, with_bmcs: bool) -> AsyncIterator[World]:
    nodes = frozenset(f"node{number}" for number in range(1, NODES + 1))
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(SlurmCluster(nodes=NODES, cpus=CPUS, proctrack="pgid"))
        (cluster.folder / "out").mkdir()
        (cluster.folder / "work.py").write_text(WORK)
        broker = await stack.enter_async_context(LocalBroker(kind="mosquitto"))
        made: list[World] = []
        site = await stack.enter_async_context(
            hybrid_site(
                "brazos",
                "hpc",
                nodes,
                asics,
                lambda: made[0].seen if made else Seen((), ()),
                asyncio.get_running_loop().time,
                with_bmcs=with_bmcs,
            )
        )
        controller = await stack.enter_async_context(center(broker, folder, tick_s=2))
        made.append(World(cluster, site, controller, ProcessMeter(cluster.folder)))
        watching = asyncio.create_task(made[0].watch())
        try:
            await stack.enter_async_context(site_agent(site, cluster, broker.settings("unused"), folder))
            await made[0].ordered()
            yield made[0]
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


async def test_an_order_caps_nodes_through_redfish_and_the_meter_proves_it_and_all_comes_back(tmp_path: Path) -> None:
    """A signal over HTTP: controller, order, agent, Redfish `PowerLimitWatts` of the nodes on their sockets, power of
    the plant, receipt. No job stands still for what caps can give, the firm job's node is not capped; a deeper one
    freezes the cheapest besides; and up again, limits as found."""
    full_w = NODES * NODE_BUSY_W + BASE_W
    async with world(tmp_path, asics=0, with_bmcs=True) as it:
        await it.submit("firm", "value=9 firm")
        for number in range(NODES - 1):
            await it.submit(f"flex-{number}", f"value={1 + number / 10}")
        await until(lambda: it.site.power_w >= full_w, lambda: it.site.power_w)
        await it.confirmed(NODES * NODE_BUSY_W, NODES * NODE_BUSY_W)
        assert it.limits == {}

        target_w = round(0.7 * full_w)
        signal = {"site": it.site.name, "target_w": target_w, "duration_s": 3_600, "notice_s": 0}
        await it.ask("POST", "/v1/signals", signal | {"id": "caps"})
        await until(lambda: it.site.power_w <= 1.02 * target_w, lambda: (it.site.power_w, it.limits))
        await it.confirmed(NODE_IDLE_W * NODES, target_w)
        assert it.site.power_w <= 1.02 * target_w
        assert it.site.power_w >= 0.9 * target_w, "it is not lower than it need be"
        assert it.stopped() == set(), "caps were enough"
        assert len(it.limits) == NODES - 1
        assert not it.nodes_of("firm") & it.limits.keys()
        assert all(NODE_CAPPED_W <= limit_w < NODE_BUSY_W for limit_w in it.limits.values())

        deeper_w = round(0.4 * full_w)
        await it.ask("POST", "/v1/signals", signal | {"id": "jobs", "target_w": deeper_w})
        await until(lambda: it.site.power_w <= 1.02 * deeper_w, lambda: (it.site.power_w, it.limits))
        await it.confirmed(NODE_IDLE_W * NODES, deeper_w)
        stopped = it.stopped()
        assert stopped, "no node is limited below what its controller takes"
        assert stopped == {f"flex-{number}" for number in range(len(stopped))}, "the cheapest"
        assert not it.nodes_of("firm") & it.limits.keys()

        await it.ask("DELETE", "/v1/signals/jobs")
        await it.ask("DELETE", "/v1/signals/caps")
        await until(lambda: it.limits == {} and it.stopped() == set(), lambda: (it.limits, it.stopped()))
        await until(lambda: it.site.power_w >= full_w, lambda: it.site.power_w)
        await it.confirmed(NODES * NODE_BUSY_W, NODES * NODE_BUSY_W)
        assert {bmc.machine.mode for bmc in it.site.bmcs.values()} == {"Disabled"}, "as found"
        it.end()
        await until(lambda: it.wrong() == [], it.wrong)


async def test_a_queue_takes_the_halls_power_and_gives_it_back_with_the_cap_neither_broken_nor_idle(
    tmp_path: Path,
) -> None:
    """The connection carries 110 kW; the halls draw 63 kW, idle nodes 24 and full ones 96. So of what the nodes take
    above idle two thirds must be given up by the halls first."""
    cap_w, asics = 110_000, 18
    async with world(tmp_path, asics=asics, with_bmcs=False) as it:
        hall_w = sum(machine.model.rated_w for machine in it.site.machines)
        await until(lambda: it.site.hash_w >= 0.98 * hall_w, lambda: it.site.hash_w)
        body = {"target": {"site": it.site.name}, "kind": "cap", "value_w": cap_w, "duration_s": 3_600}
        await it.ask("POST", "/v1/overrides", body | {"reason": "what the connection carries"})

        it.watts.clear()
        for number in range(NODES + 6):
            await it.submit(f"job-{number}", f"value={2 + number / 10}")
        await until(lambda: len(it.seen.running) == NODES, lambda: len(it.seen.running))
        await until(lambda: it.site.power_w >= 0.93 * cap_w, lambda: it.watts[-1])
        rising = list(it.watts)
        it.watts.clear()
        await asyncio.sleep(8.0)
        steady = list(it.watts)
        assert max(_plant(rising)) <= 1.02 * cap_w, "room was made before the nodes took it"
        assert min(hall for _, hall, _ in steady) < 0.4 * hall_w, "the halls gave it"
        assert max(_plant(steady)) <= 1.02 * cap_w
        assert statistics.mean(_plant(steady)) >= 0.93 * cap_w, "what the nodes leave the halls use"
        assert it.stopped() == set()

        it.watts.clear()
        it.end()
        await until(lambda: it.wrong() == [], it.wrong)
        await until(lambda: it.site.hash_w >= 0.98 * hall_w, lambda: it.watts[-1])
        assert max(_plant(it.watts)) <= 1.02 * cap_w


def _plant(watts: Iterable[tuple[float, float, float]]) -> list[float]:
    return [plant_w for plant_w, _, _ in watts]
