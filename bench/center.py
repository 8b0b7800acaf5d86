"""The real controller daemon under the bench: a process of its own, its journal on disk, its prices from a file."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.process import BenchError, Child, child
from sim.broker import LocalBroker

PRICE_USD_PER_MWH: Final = 20.0
HASHPRICE_USD_PER_PH_DAY: Final = 55.0
"""Together they leave every miner worth running."""
_TOKEN: Final = "bench-token-of-no-worth-0123456789"  # noqa: S105  it opens a loopback port for the length of a bench
_DAYS: Final = 2


@dataclass(frozen=True, slots=True)
class Center:
    """A running controller."""

    process: Child
    base: str
    """Where its HTTP API stands."""
    token_file: Path
    token: str = _TOKEN

    def session(self) -> aiohttp.ClientSession:
        """A client that connects anew for every request, as a grid operator's rare signal does."""
        return aiohttp.ClientSession(
            self.base,
            headers={"Authorization": f"Bearer {_TOKEN}"},
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=30),
        )

    async def get(self, path: str) -> Any:
        """The JSON that a path answers."""
        async with self.session() as session, session.get(path) as answer:
            if answer.status != 200:
                raise BenchError(f"GET {path} answered {answer.status}: {await answer.text()}")
            return await answer.json()


@contextlib.asynccontextmanager
async def center(
    broker: LocalBroker, folder: Path, *, tick_s: int = 60, module: str = "controller.daemon"
) -> AsyncIterator[Center]:
    """Start `controller.daemon` as it stands in production, or a module that is it with something beside."""
    (folder / "prices.csv").write_text(_prices(), encoding="utf-8")
    token = folder / "controller.token"
    token.touch(mode=0o600)
    token.write_text(_TOKEN + "\n", encoding="ascii")
    path = folder / "controller.toml"
    path.write_text(_config(broker, tick_s), encoding="utf-8")
    async with child("controller", folder, module, "--config", str(path)) as process:
        line = await process.logged("http: listening on ")
        yield Center(process, f"http://{line.rpartition('listening on ')[2].strip()}", token)


def _config(broker: LocalBroker, tick_s: int) -> str:
    return f"""
tick_s = {tick_s}
price = "flat"
hashprice = "given"
[mqtt]
host = "{broker.host}"
port = {broker.port}
identifier = "wattshift-controller"
[http]
listen = "127.0.0.1:0"
token_file = "controller.token"
changes_per_s = 1000.0
[journal]
url = "sqlite+aiosqlite:///journal.sqlite3"
[feeds.prices.flat]
kind = "csv"
path = "prices.csv"
interval_s = 900
[feeds.hashprices.given]
kind = "given"
usd_per_ph_day = {HASHPRICE_USD_PER_PH_DAY}
"""


def _prices() -> str:
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    rows = (start + timedelta(minutes=15 * quarter) for quarter in range(_DAYS * 96))
    lines = (f"{row:%Y-%m-%dT%H:%MZ},{PRICE_USD_PER_MWH}" for row in rows)
    return "\n".join(["interval_start_utc,rt_usd_per_mwh", *lines]) + "\n"
