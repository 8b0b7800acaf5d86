"""What a daemon tells over HTTP while it is measured: its counters, and the agent's devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from bench.process import BenchError

_PAGE: Final = 1_000
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)


async def counter(base: str, name: str, **labels: str) -> float:
    """The value of one sample of /metrics, `name` as exposed; 0 where there is none yet."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(f"{base}/metrics") as answer:
        text = await answer.text()
    wanted = name
    if labels:
        wanted += "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
    for line in text.splitlines():
        sample, _, value = line.rpartition(" ")
        if sample == wanted:
            return float(value)
    return 0.0


async def devices(base: str) -> list[Mapping[str, Any]]:
    """Every device as the agent last read it."""
    found: list[Mapping[str, Any]] = []
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        while True:
            async with session.get(f"{base}/devices", params={"offset": len(found), "limit": _PAGE}) as answer:
                if answer.status != 200:
                    raise BenchError(f"/devices answered {answer.status}")
                page = await answer.json()
            found += page["devices"]
            if len(found) >= page["total"] or not page["devices"]:
                return found
