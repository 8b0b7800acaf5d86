"""Unannounced power targets for one site: each is posted to the controller as a grid operator would, and held against
what the plant draws."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import aiohttp

from bench.center import Center
from bench.process import BenchError
from sim.slurm_site import HybridSite

TOLERANCE: Final = 0.02
"""Of what the site drew before."""
DEPTHS: Final = (0.05, 0.60)
DURATIONS_S: Final = (5.5, 8.0)
SAMPLE_S: Final = 0.05
RECOVERED: Final = 0.85
"""A target is posted when the site draws so much of its full load, and is a cut of what it draws then."""
_RECOVER_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one target."""

    site: str
    depth: float
    before_w: float
    target_w: int
    first_action_s: float | None
    """Until a miner had a command, or a job's process stood still or was gone."""
    reached_s: float | None
    """From when on the site stayed within tolerance, or below, until the target's end; None where it did not."""
    last_w: float

    def met(self, within_s: float) -> bool:
        return self.reached_s is not None and self.reached_s <= within_s


def depths(count: int, rng: Random) -> list[float]:
    """Mixed depths; every tenth is 30 %, for that one has a limit of its own."""
    return [0.30 if number % 10 == 4 else rng.uniform(*DEPTHS) for number in range(count)]


class Targets:
    """Puts targets to one site, one after another."""

    def __init__(self, site: HybridSite, controller: Center, rng: Random) -> None:
        self.results: list[Result] = []
        self._site = site
        self._controller = controller
        self._rng = rng

    async def run(self, plan: Sequence[float]) -> None:
        async with self._controller.session() as session:
            for number, depth in enumerate(plan):
                await self._recovered()
                await asyncio.sleep(self._rng.uniform(0.0, 1.0))
                self.results.append(await self._one(session, f"{self._site.name}-{number}", depth))

    async def _recovered(self) -> None:
        """Until the site draws most of what it can again."""
        least_w = RECOVERED * self._site.full_w
        try:
            async with asyncio.timeout(_RECOVER_S):
                while self._site.power_w < least_w:  # noqa: ASYNC110  physics
                    await asyncio.sleep(SAMPLE_S)
        except TimeoutError:
            drawn = f"{self._site.name} draws {self._site.power_w:.0f} W, not {least_w:.0f}"
            raise BenchError(f"{drawn}, {_RECOVER_S:.0f} s after its last target") from None

    async def _one(self, session: aiohttp.ClientSession, name: str, depth: float) -> Result:
        site, loop = self._site, asyncio.get_running_loop()
        before_w = site.power_w
        target_w = round((1.0 - depth) * before_w)
        stood, seq = self._standing(), site.log.seq
        duration_s = self._rng.uniform(*DURATIONS_S)
        body: dict[str, Any] = {"id": name, "site": site.name, "target_w": target_w, "duration_s": 3_600, "notice_s": 0}
        posted_s = loop.time()
        posting = asyncio.create_task(_post(session, body))
        first_s = reached_s = None
        power_w = before_w
        while (now_s := loop.time() - posted_s) < duration_s:
            power_w = site.power_w
            if first_s is None:
                commands = [each.at_s for each in site.log.since(seq) if each.obeyed]
                if commands:
                    first_s = max(min(commands) - posted_s, 0.0)
                elif self._standing() != stood:
                    first_s = now_s
            if power_w > target_w + TOLERANCE * before_w:
                reached_s = None
            elif reached_s is None:
                reached_s = now_s
            await asyncio.sleep(SAMPLE_S)
        await posting
        async with session.delete(f"/v1/signals/{name}") as answer:
            await answer.read()
        return Result(site.name, depth, before_w, target_w, first_s, reached_s, power_w)

    def _standing(self) -> frozenset[int]:
        """Processes of the site's jobs that stand still."""
        return frozenset(worker.pid for worker in self._site.seen().stopped if worker.node in self._site.nodes)


async def _post(session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    async with session.post("/v1/signals", json=body) as answer:
        if answer.status != 201:
            raise BenchError(f"POST /v1/signals answered {answer.status}: {await answer.text()}")
        await answer.read()
