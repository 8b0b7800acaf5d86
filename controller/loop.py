"""The control loop: everything once a tick, and at once what cannot wait.

A beat a second of site time keeps the rest honest: it starts ticks on the grid of the wall clock, notices that a signal
or override has begun or ended and that a price has changed, and publishes orders again before their lease lapses.
Events come in through `request` and are decided at the loop's next turn, ahead of whatever a tick still has to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from contract.clock import Clock
from controller.config import ControllerConfig
from controller.dispatch import Dispatcher
from controller.feeds.base import Feeds
from controller.metrics import Metrics
from controller.outlooks import Aside
from controller.overrides import Overrides
from controller.publish import Publisher
from controller.quotas import Quotas
from controller.signals import Signals
from controller.state import Fleet, SiteState

_LOG = logging.getLogger(__name__)
BEAT_MS: Final = 1_000
_SLICE_S: Final = 0.003
"""The loop works for about this long at a stretch, so that events and the socket get their turn."""
_CHUNK_MAX: Final = 64
LARGE_BANKS: Final = 30
"""A site of more banks is decided aside, where there is a thread for it: its plan may take longer than the loop may
stand still. What cannot wait is decided on the loop all the same."""


class ControlLoop:
    """Runs until cancelled. One instance, on the event loop's thread."""

    def __init__(
        self,
        config: ControllerConfig,
        fleet: Fleet,
        feeds: Feeds,
        signals: Signals,
        overrides: Overrides,
        dispatcher: Dispatcher,
        publisher: Publisher,
        clock: Clock,
        metrics: Metrics,
        heartbeat: Callable[[], None],
        quotas: Quotas,
        aside: Aside | None = None,
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._feeds = feeds
        self._signals = signals
        self._overrides = overrides
        self._dispatcher = dispatcher
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._quotas = quotas
        self._aside = aside
        self._large: list[tuple[str, str]] = []
        """As `_backlog`: large sites, which are decided aside one at a time."""
        self._deciding: asyncio.Task[None] | None = None
        self._tick_ms = config.tick_ms
        self._beat_ms = min(BEAT_MS, config.tick_ms)
        self._wake = asyncio.Event()
        self._wake.set()
        self._beat_due = True
        self._pending: dict[str, str] = {}
        self._backlog: list[tuple[str, str]] = []
        """Sites still to be decided and why, last first."""
        self._renewals: list[str] = []
        """Sites whose standing order is to be published again."""
        self._chunk = 1  # grows as it is seen how long one takes: plans made cold take longest
        self._last_wall_ms = clock.wall_ms()
        self._tick_index = self._last_wall_ms // self._tick_ms
        self._tick_mono_ms = clock.mono_ms()
        self._prices: dict[str, tuple[int | None, float | None]] = {}
        self.ticks = 0
        self.beat_at_ms = clock.mono_ms()
        """When the loop last came round, monotonic; /readyz watches it."""

    def request(self, site: str, trigger: str) -> None:
        """Decide this site at the loop's next turn. The first of several triggers is the one told."""
        self._pending.setdefault(site, trigger)
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Sites that are still to be decided."""
        return len(self._pending) + len(self._backlog)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beats(), name="beats")
                group.create_task(self._turns(), name="control loop")
        finally:
            if self._deciding is not None:
                self._deciding.cancel()

    async def _beats(self) -> None:
        while True:
            await self._clock.sleep_ms(self._beat_ms - self._clock.wall_ms() % self._beat_ms)
            self._beat_due = True
            self._wake.set()

    async def _turns(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._beat_due:
                self._beat_due = False
                self._beat()
            if self._pending:
                self._decide_pending()
            elif self._renewals:
                self._renew()
            elif self._backlog:
                self._decide_backlog()
            self._decide_large()
            if self._pending or self._renewals or self._backlog:
                self._wake.set()
            await asyncio.sleep(0)

    def _beat(self) -> None:
        now_ms, mono_ms = self._clock.wall_ms(), self._clock.mono_ms()
        self.beat_at_ms = mono_ms
        self._heartbeat()
        if now_ms < self._last_wall_ms:  # the wall clock was set back: what was crossed stays crossed
            self._last_wall_ms = now_ms
        for site in sorted(self._overrides.crossed(self._last_wall_ms, now_ms)):
            self.request(site, "override")
        for site in sorted(self._signals.crossed(self._last_wall_ms, now_ms)):
            self.request(site, "signal")
        self._last_wall_ms = now_ms
        if now_ms // self._tick_ms != self._tick_index or mono_ms - self._tick_mono_ms >= 2 * self._tick_ms:
            self._tick_index, self._tick_mono_ms = now_ms // self._tick_ms, mono_ms
            self._tick()
        self._notice_prices(now_ms)  # after the tick: what that decides anyway is not put in line twice
        if not self._renewals:
            self._renewals = [state.site for state in self._fleet if self._is_due(state, mono_ms)]

    def _tick(self) -> None:
        self.ticks += 1
        self._quotas.tick()
        left = len(self._backlog) + len(self._large)
        if left:
            self._metrics.overruns.inc()
            _LOG.warning("a tick is due while %d sites of the last one are undecided", left)
        due = [(site, "tick") for site in reversed(self._fleet.ids())]
        self._large = [each for each in due if self._is_large(each[0])]
        self._backlog = [each for each in due if not self._is_large(each[0])]

    def _notice_prices(self, now_ms: int) -> None:
        """A new price is acted on within a beat, not within a tick."""
        changed: set[str] = set()
        for name, feed in self._feeds.prices.items():
            price = feed.price_at(now_ms)
            word = (price.interval_start_ms, price.usd_per_mwh)
            if name in self._prices and self._prices[name] != word:
                changed.add(name)
            self._prices[name] = word
        if changed:
            waiting = {site for site, _ in self._backlog}
            touched = (site for site in self._fleet.ids() if self._config.price_feed_of(site) in changed)
            waiting |= {site for site, _ in self._large}
            new = [(site, "price") for site in touched if site not in waiting]
            self._large[:0] = [each for each in new if self._is_large(each[0])]
            self._backlog[:0] = [each for each in new if not self._is_large(each[0])]

    def _is_due(self, state: SiteState, mono_ms: int) -> bool:
        """Whether an order has stood for a third of its lease, or never arrived, and a newer report can be answered."""
        track = state.orders
        if track.last is None or state.report is None or state.decided is None:
            return False
        if (track.last.based_on_boot, track.last.based_on_seq) == (state.boot, state.report.seq):
            return False
        lease_ms = self._dispatcher.params_of(state.site).lease_ms
        after_ms = min(max(lease_ms // 3, self._tick_ms + 2 * self._beat_ms), lease_ms // 2)
        return track.due or mono_ms - track.last_at_ms >= after_ms

    def _renew(self) -> None:
        """Publish standing orders again, for one slice."""
        clock = asyncio.get_running_loop()
        began_s = clock.time()
        while self._renewals and clock.time() - began_s <= _SLICE_S:
            state = self._fleet.get(self._renewals.pop())
            if state is not None and self._is_due(state, self._clock.mono_ms()):
                self._publisher.reissue(state, self._dispatcher.params_of(state.site))

    def _decide_pending(self) -> None:
        """What cannot wait, first come first served, for one slice."""
        clock = asyncio.get_running_loop()
        began_s = clock.time()
        while self._pending and clock.time() - began_s <= _SLICE_S:
            site = next(iter(self._pending))
            self._dispatch([site], self._pending.pop(site))

    def _decide_backlog(self) -> None:
        """One slice of the tick; the size of the next follows from how long this one took."""
        clock = asyncio.get_running_loop()
        began_s = clock.time()
        trigger = self._backlog[-1][1]
        sites: list[str] = []
        while self._backlog and len(sites) < self._chunk and self._backlog[-1][1] == trigger:
            sites.append(self._backlog.pop()[0])
        self._dispatch(sites, trigger)
        took_s = clock.time() - began_s
        if took_s > _SLICE_S:
            self._chunk = max(1, self._chunk // 2)
        elif took_s < _SLICE_S / 3 and len(sites) == self._chunk:
            self._chunk = min(_CHUNK_MAX, self._chunk * 2)

    def _is_large(self, site: str) -> bool:
        state = self._fleet.get(site)
        plate = None if state is None else state.nameplate
        return self._aside is not None and plate is not None and len(plate.banks) > LARGE_BANKS

    def _decide_large(self) -> None:
        """Begin with the next large site when the last one is done."""
        if self._aside is None or not self._large or (self._deciding is not None and not self._deciding.done()):
            return
        site, trigger = self._large.pop()
        state = self._fleet.get(site)
        if state is not None and state.nameplate is not None:
            work = self._dispatcher.dispatch_aside(state, trigger, self._aside)
            self._deciding = asyncio.get_running_loop().create_task(work, name=f"decide {site}")
            self._deciding.add_done_callback(self._large_decided)

    def _large_decided(self, task: asyncio.Task[None]) -> None:
        self._wake.set()
        if not task.cancelled():
            task.result()

    def _dispatch(self, sites: Iterable[str], trigger: str) -> None:
        states: list[SiteState] = [state for state in map(self._fleet.get, sites) if state is not None]
        self._dispatcher.dispatch(states, trigger)
