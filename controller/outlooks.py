"""Outlooks for the engine: what the configured forecast expects of each price feed's prices, kept while it holds.

Made outside the engine, which reads no feed and fits nothing; a snapshot carries the outlook as it was. Sites with the
same feeds share one object.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from contract.units import MS_PER_HOUR, MS_PER_MINUTE
from controller.config import ControllerConfig
from controller.engine.model import Method, Outlook
from controller.feeds.base import Feeds
from controller.forecast import forecast
from controller.forecast import known as facts

_LOG = logging.getLogger(__name__)
HORIZON_MS: Final = 25 * MS_PER_HOUR
"""A day, and as much again as the step that is running may be old."""
STEP_MS: Final = 15 * MS_PER_MINUTE
"""Of an outlook, at the least."""
STEP_MAX_MS: Final = MS_PER_HOUR
PAST_MS: Final = 400 * 24 * MS_PER_HOUR
"""How far back a forecast may look."""
REFRESH_MS: Final = 5 * MS_PER_MINUTE
"""An outlook is made anew when a price comes, and this often."""
PAST_BEGINS_MS: Final = 28 * 24 * MS_PER_HOUR
"""The past begins at a multiple of this, so that a forecast that has learnt of it need learn what is new alone."""
FIT_MS: Final = 7 * 24 * MS_PER_HOUR
"""A forecast learns from the past once a week."""
PRICE_MAX: Final = 100_000.0
_EXPECTED: Final = (ValueError, ArithmeticError, LookupError, np.linalg.LinAlgError)
"""What a forecast may raise where the past is of no use to it."""

Aside = Callable[..., Awaitable[Any]]
"""Does work elsewhere than on the event loop: `asyncio.to_thread`."""


class Sources(NamedTuple):
    """The feeds an outlook is made from, by name."""

    price: str
    day_ahead: str | None
    load: str | None
    ambient: str | None


@dataclass(slots=True)
class _Made:
    """A forecast at work for one set of sources."""

    forecast: facts.Forecast
    fitted_ms: int | None = None
    word: tuple[object, ...] = ()
    outlook: Outlook | None = None
    learning: asyncio.Task[None] | None = None
    """A forecast that is being fitted in the place of this one."""


class Outlooks:
    """What is expected, by site. Synchronous; a fit takes up to a second, once a week for each set of sources.

    With `aside` a fit runs there, on a forecast of its own, and the standing one serves until it is done; the first of
    all is awaited by `prepare`, and until then nothing is expected. Without it the caller waits for a fit.
    """

    def __init__(self, config: ControllerConfig, feeds: Feeds, aside: Aside | None = None) -> None:
        self._config = config
        self._feeds = feeds
        self._aside = aside
        self._made: dict[Sources, _Made] = {}
        self._sources: dict[str, Sources | None] = {}
        self.errors: Counter[str] = Counter()
        """Outlooks that could not be made, by kind of error."""

    async def prepare(self, sites: Iterable[str], now_ms: int) -> None:
        """Have the forecasts of these sites learn before the first decision is due. Does nothing without `aside`."""
        if self._aside is None:
            return
        for site in sites:
            self.of(site, now_ms)
        await asyncio.gather(*(made.learning for made in self._made.values() if made.learning is not None))

    def of(self, site: str, now_ms: int) -> Outlook | None:
        """What is expected of the site's price from now on; None where it has no price feed, no price was known, or
        nothing is learnt yet."""
        if site not in self._sources:
            self._sources[site] = self._sources_of(site)
        sources = self._sources[site]
        if sources is None:
            return None
        made = self._made.get(sources)
        if made is None:
            made = self._made[sources] = _Made(self._unfitted())
        newest = self._feeds.prices[sources.price].price_at(now_ms)
        word = (newest.interval_start_ms, newest.usd_per_mwh, now_ms // REFRESH_MS)
        if made.word != word:
            made.word, made.outlook = word, self._make(made, sources, now_ms)
        return made.outlook

    def _sources_of(self, site: str) -> Sources | None:
        config = self._config
        price = config.price_feed_of(site)
        planned = config.params_of(site).economics is Method.OPTIMISER
        if price is None or price not in self._feeds.prices or not planned:
            return None
        return Sources(price, config.day_ahead_feed_of(site), config.load_feed_of(site), config.ambient_feed_of(site))

    def _make(self, made: _Made, sources: Sources, now_ms: int) -> Outlook | None:
        known = self._known(sources, now_ms)
        if known is None:
            return None
        due = made.fitted_ms is None or not 0 <= now_ms - made.fitted_ms < FIT_MS
        if due and self._aside is not None:
            if made.learning is None:
                made.learning = asyncio.get_running_loop().create_task(self._learn(self._aside, made, known, now_ms))
            if made.fitted_ms is None:
                return None
        try:
            if due and self._aside is None:
                made.fitted_ms = now_ms
                made.forecast.fit(known)
            step_ms = min(max(known.price.step_ms, STEP_MS), STEP_MAX_MS)
            found = made.forecast.outlook(known, step_ms, HORIZON_MS // step_ms)
        except _EXPECTED as error:
            self._failed(error, f"no outlook could be made of {sources}")
            return None
        return _frozen(found, made.forecast.name)

    async def _learn(self, aside: Aside, made: _Made, known: facts.Known, now_ms: int) -> None:
        """Fit a forecast of its own and put it in the standing one's place. One that fails is tried again in a week."""
        fresh = self._unfitted()

        def fit() -> facts.Forecast:
            fresh.fit(known)
            return fresh

        try:
            made.forecast = await aside(fit)
        except _EXPECTED as error:
            self._failed(error, "a forecast could not learn")
        made.fitted_ms, made.learning = now_ms, None
        made.word = ()

    def _unfitted(self) -> facts.Forecast:
        settings = self._config.engine
        return forecast(settings.forecast, settings.market())

    def _failed(self, error: Exception, told: str) -> None:
        name = type(error).__name__
        if not self.errors[name]:
            _LOG.error("%s", told, exc_info=error)
        self.errors[name] += 1

    def _known(self, sources: Sources, now_ms: int) -> facts.Known | None:
        feeds, since_ms = self._feeds, now_ms // PAST_BEGINS_MS * PAST_BEGINS_MS - PAST_MS
        price = feeds.prices[sources.price].known(since_ms, now_ms)
        if price is None:
            return None
        price = _begun(price, now_ms)
        ahead = feeds.prices.get(sources.day_ahead or "")
        load, ambient = feeds.series.get(sources.load or ""), feeds.series.get(sources.ambient or "")
        return facts.Known(
            at_ms=now_ms,
            price=price,
            day_ahead=None if ahead is None else ahead.known(since_ms, now_ms),
            load_mw=None if load is None else load.known(since_ms, now_ms),
            ambient_c=None if ambient is None else ambient.known(since_ms, now_ms),
        )


def _begun(price: facts.Series, now_ms: int) -> facts.Series:
    """The real-time prices of intervals that have begun; a feed may have been told more."""
    begun = max(0, (now_ms - price.start_ms) // price.step_ms + 1)
    return facts.Series(price.start_ms, price.step_ms, price.values[:begun])


def _frozen(found: facts.Outlook, name: str) -> Outlook:
    """For the snapshot: rounded, and nothing said of what is not expected at all."""
    usd = np.clip(np.round(found.usd_per_mwh, 2), -PRICE_MAX, PRICE_MAX)
    return Outlook(
        start_ms=found.start_ms,
        step_ms=found.step_ms,
        usd_per_mwh=tuple(usd.tolist()),
        spike=_chances(found.spike),
        peak=_chances(found.peak),
        ambient_c=() if found.ambient_c is None else tuple(np.round(found.ambient_c, 1).tolist()),
        forecast=f"{name}: {found.note}"[:64] if found.note else name,
    )


def _chances(chances: facts.F8) -> tuple[float, ...]:
    rounded = np.round(np.clip(chances, 0.0, 1.0), 3)
    return tuple(rounded.tolist()) if rounded.any() else ()
