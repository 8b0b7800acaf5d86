"""Curtailment signals, or caps that ops impose, as samples: post one, see when the first device is commanded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Final, Literal

import aiohttp

from bench.center import Center
from bench.process import BenchError
from bench.site import SITE, Plant

GAP_S: Final = (0.10, 0.30)
"""The pause between two samples, by chance, so that no period of anything is met in step."""
DURATION_S: Final = 3_600
STEP: Final = 1.05
"""Of a miner's power, with room for the margin that a plan keeps below its target: each signal stops a miner or two."""
_COMMAND_S: Final = 5.0
_LOOK_S: Final = 0.005


class Signals:
    """Each sample asks for a little over one miner's power less, so that none needs anything to come back first.

    The signal before is withdrawn once the newer one, which is the tighter, has been obeyed: that changes nothing.
    """

    def __init__(self, controller: Center, miners: Plant, what: Literal["signals", "overrides"] = "signals") -> None:
        self._controller = controller
        self._what = what
        self._miners = miners
        self._target_w = miners.shape.rated_w
        self._stopped: set[str] = set()
        self._chance = Random(0)
        self._last: str | None = None
        self._count = 0

    async def sample(self, count: int) -> Sequence[float]:
        """Take so many samples; each is the seconds from the request to the first command."""
        took_s: list[float] = []
        async with self._controller.session() as session:
            for _ in range(count):
                took_s.append(await self._one(session))
                await asyncio.sleep(self._chance.uniform(*GAP_S))
        return took_s

    async def _one(self, session: aiohttp.ClientSession) -> float:
        before = await self._miners.control.newest()
        self._target_w -= int(self._miners.shape.device_w * STEP)
        self._count += 1
        name = f"bench-{self._what}-{self._count}"
        body: dict[str, Any] = {"id": name, "site": SITE, "duration_s": DURATION_S}
        if self._what == "signals":
            body["target_w"] = self._target_w
        else:
            body |= {"kind": "cap", "value_w": self._target_w, "reason": "bench"}
        posted_s = asyncio.get_running_loop().time()
        async with session.post(f"/v1/{self._what}", json=body) as answer:
            if answer.status != 201:
                raise BenchError(f"POST /v1/{self._what} answered {answer.status}: {await answer.text()}")
            await answer.read()
        took_s = await self._first_command_s(before) - posted_s
        if self._last is not None:
            async with session.delete(f"/v1/{self._what}/{self._last}") as answer:
                await answer.read()
        self._last = name
        return took_s

    async def _first_command_s(self, before: int) -> float:
        """When a device that stood untouched until now was commanded."""
        try:
            async with asyncio.timeout(_COMMAND_S):
                while True:
                    seen = await self._miners.control.commands_since(before)
                    fresh = [each for each in seen if each.obeyed and each.device not in self._stopped]
                    self._stopped.update(each.device for each in fresh)
                    if fresh:
                        return min(each.at_s for each in fresh)
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise BenchError(f"{self._what} {self._count}: no device was commanded within {_COMMAND_S:.0f} s") from None
