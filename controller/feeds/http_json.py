"""Prices and hashprices polled from a URL that answers JSON.

A fetch has a deadline, a size limit and full-jitter backoff; a mapping says where in the document the figures stand.
A path is names and list positions joined by dots, such as `data.items.0.lmp`; a negative position counts from the end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, Final, Literal, NoReturn

import aiohttp

from contract.clock import Clock
from contract.units import MS_PER_S
from controller.engine.model import EnergyPrice, HashPrice
from controller.feeds.base import FaultCount, FeedHealth, Interval, PriceBook
from controller.feeds.hashprice import hash_price
from controller.forecast.known import Series

_LOG = logging.getLogger(__name__)
ROWS_MAX: Final = 5_000
BACKOFF_CAP_S: Final = 300.0
USD_PER_MWH_MAX: Final = 100_000.0
USD_PER_PH_DAY_MAX: Final = 1_000_000.0

TimeForm = Literal["iso", "epoch_s", "epoch_ms"]


class DocumentError(ValueError):
    """A document that does not hold what the mapping says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Where and how often to fetch."""

    url: str
    every_ms: int
    deadline_s: float = 10.0
    size_max: int = 1_048_576
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceMapping:
    """Where a document's prices stand."""

    price: str
    rows: str | None = None
    """A list of intervals; `price` and `start` are then paths within each."""
    start: str | None = None
    """Start of the interval; without it the price holds for the interval that is running."""
    time: TimeForm = "iso"
    interval_ms: int
    scale: float = 1.0
    """Times this is USD/MWh: 10 for cents per kWh."""


class HttpPrices:
    """A `PriceFeed` that polls a URL."""

    def __init__(self, name: str, poll: Poll, mapping: PriceMapping, clock: Clock, chance: Random) -> None:
        self._name = name
        self._mapping = mapping
        self._clock = clock
        self._book = PriceBook(name)
        self._poller = _Poller(name, poll, clock, chance, self._take)

    @property
    def name(self) -> str:
        return self._name

    @property
    def health(self) -> FeedHealth:
        return self._poller.faults.health

    def price_at(self, now_ms: int) -> EnergyPrice:
        return self._book.price_at(now_ms)

    def known(self, since_ms: int, now_ms: int) -> Series | None:  # noqa: ARG002  the book holds what was told
        return self._book.known(since_ms)

    async def run(self) -> None:
        await self._poller.run()

    def _take(self, document: Any) -> str:
        now_ms = self._clock.wall_ms()
        count = 0
        for interval in read_prices(document, self._mapping, now_ms):
            refused = self._book.add(interval, now_ms)
            if refused is None:
                count += 1
        if count == 0:
            raise DocumentError("no interval in it is of use now")
        return f"{count} intervals in the last answer"


class HttpHashPrice:
    """A `HashPriceFeed` that polls a URL for USD/PH/s/day."""

    def __init__(self, name: str, poll: Poll, path: str, scale: float, clock: Clock, chance: Random) -> None:
        self._name = name
        self._path = path
        self._scale = scale
        self._clock = clock
        self._value: float | None = None
        self._at_ms = 0
        self._poller = _Poller(name, poll, clock, chance, self._take)

    @property
    def name(self) -> str:
        return self._name

    @property
    def health(self) -> FeedHealth:
        return self._poller.faults.health

    def hashprice_at(self, now_ms: int) -> HashPrice:
        return hash_price(self._name, self._value, self._at_ms, now_ms)

    async def run(self) -> None:
        await self._poller.run()

    def _take(self, document: Any) -> str:
        self._value = _number(document, self._path, self._scale, 0.0, USD_PER_PH_DAY_MAX)
        self._at_ms = self._clock.wall_ms()
        return f"last told {self._value:g} USD/PH/s/day"


def read_prices(document: Any, mapping: PriceMapping, now_ms: int) -> Iterator[Interval]:
    """The intervals a document holds. Raises `DocumentError`, which names the path that failed."""
    rows = [document] if mapping.rows is None else at_path(document, mapping.rows)
    if not isinstance(rows, list):
        raise DocumentError(f"{mapping.rows} is no list")
    if len(rows) > ROWS_MAX:
        raise DocumentError(f"{len(rows)} rows, at most {ROWS_MAX} are read")
    for row in rows:
        usd = _number(row, mapping.price, mapping.scale, -USD_PER_MWH_MAX, USD_PER_MWH_MAX)
        if mapping.start is None:
            start_ms = now_ms - now_ms % mapping.interval_ms
        else:
            start_ms = _moment_ms(at_path(row, mapping.start), mapping.start, mapping.time)
        yield Interval(start_ms, mapping.interval_ms, usd)


def at_path(document: Any, path: str) -> Any:
    """What stands at a dotted path. Raises `DocumentError`."""
    here = document
    for part in path.split("."):
        try:
            if isinstance(here, list):
                here = here[int(part)]
            elif isinstance(here, dict):
                here = here[part]
            else:
                raise DocumentError(f"{path}: nothing below {part!r}")
        except (KeyError, IndexError, ValueError):
            raise DocumentError(f"{path}: has no {part!r}") from None
    return here


def _number(document: Any, path: str, scale: float, least: float, most: float) -> float:
    value = at_path(document, path)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise DocumentError(f"{path}: {value[:40]!r} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DocumentError(f"{path}: is not a finite number")
    if not least <= value * scale <= most:
        raise DocumentError(f"{path}: {value * scale:g} is not within {least:g} and {most:g}")
    return float(value * scale)


def _moment_ms(value: Any, path: str, form: TimeForm) -> int:
    if form == "iso":
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise DocumentError(f"{path}: {str(value)[:40]!r} is not an ISO 8601 time") from None
        if moment.tzinfo is None:
            raise DocumentError(f"{path}: {str(value)[:40]!r} has no offset from UTC")
        return round(moment.timestamp() * MS_PER_S)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2**53:
        raise DocumentError(f"{path}: {str(value)[:40]!r} is not a time")
    return round(value * (MS_PER_S if form == "epoch_s" else 1))


class _Poller:
    """Fetches a document again and again and hands it on; every failure is counted and backed off from."""

    def __init__(self, name: str, poll: Poll, clock: Clock, chance: Random, take: Callable[[Any], str]) -> None:
        self._poll = poll
        self._clock = clock
        self._chance = chance
        self._take = take
        self.faults = FaultCount(_LOG, name)

    async def run(self) -> None:
        failures = 0
        async with aiohttp.ClientSession(headers=dict(self._poll.headers)) as session:
            while True:
                failures = 0 if await self._once(session) else failures + 1
                await self._clock.sleep_ms(self._wait_ms(failures))

    def _wait_ms(self, failures: int) -> int:
        """The usual pace while well; else full jitter under a doubling cap, never slower than the pace or 5 min."""
        if failures == 0:
            return self._poll.every_ms
        cap_s = min(2.0 ** min(failures, 16), BACKOFF_CAP_S, self._poll.every_ms / MS_PER_S)
        return round(max(1.0, self._chance.uniform(0, cap_s)) * MS_PER_S)

    async def _once(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with asyncio.timeout(self._poll.deadline_s):
                document = await self._fetch(session)
            self.faults.fine(self._take(document))
        except TimeoutError:
            self.faults.fault("timeout", f"no whole answer within {self._poll.deadline_s:g} s")
        except DocumentError as error:
            self.faults.fault("document", str(error))
        except aiohttp.ClientResponseError as error:
            self.faults.fault("status", f"HTTP {error.status}")
        except (aiohttp.ClientError, OSError) as error:
            self.faults.fault("unreachable", f"{type(error).__name__}: {error}")
        else:
            return True
        return False

    async def _fetch(self, session: aiohttp.ClientSession) -> Any:
        async with session.get(self._poll.url, raise_for_status=True, max_redirects=3) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > self._poll.size_max:
                    raise DocumentError(f"more than {self._poll.size_max} bytes")
        try:
            return json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"is not JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
