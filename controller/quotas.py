"""The fleet's cap, issued to its sites as quotas once a tick.

What each site should get is planned from one snapshot of all of them (`controller.engine.quotas`), aside where there is
a thread for it; what it is granted follows as the sites are seen to obey. A snapshot carries the quota it was decided
under, so a decision stays a function of its snapshot. A site that is away keeps what it had.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from contract.clock import Clock
from contract.units import W_PER_MW
from controller.config import ControllerConfig
from controller.engine.model import Params, Quota
from controller.engine.quotas import Draw, Shares, grant, shares, split_evenly
from controller.freeze import Freezer
from controller.outlooks import Aside
from controller.state import Fleet, SiteState

_LOG = logging.getLogger(__name__)
TICKS: Final = 10
"""A quota holds for so many ticks, and is issued anew every tick."""


class Quotas:
    """Issues every site's quota. Does nothing where the fleet has no cap."""

    def __init__(
        self,
        config: ControllerConfig,
        fleet: Fleet,
        freezer: Freezer,
        clock: Clock,
        params_of: Callable[[str], Params],
        aside: Aside | None = None,
    ) -> None:
        cap_mw = config.fleet.cap_mw
        self._cap_w = None if cap_mw is None else round(cap_mw * W_PER_MW)
        self._tick_ms = config.tick_ms
        self._fleet = fleet
        self._freezer = freezer
        self._clock = clock
        self._params_of = params_of
        self._aside = aside
        self._planning: asyncio.Task[None] | None = None
        self.shares: Shares | None = None
        """The last that were planned."""
        self.failures = 0

    def tick(self) -> None:
        """Plan the sites' shares anew, and issue quotas for the tick that begins."""
        if self._cap_w is None:
            return
        states = [state for state in self._fleet if state.nameplate is not None]
        if states:
            self._plan(states, self._cap_w)
            self._issue(states, self._cap_w)

    def _plan(self, states: list[SiteState], cap_w: int) -> None:
        """One plan at a time: a tick that finds the last one still at work plans nothing."""
        if self._planning is not None and not self._planning.done():
            return
        now_ms = self._clock.wall_ms()
        snapshot = self._freezer.freeze(states, now_ms, self._clock.mono_ms())
        sites = [(site, self._params_of(site.site)) for site in snapshot.sites]
        work = partial(shares, sites, now_ms, cap_w, self.shares)
        if self._aside is None:
            self.shares = work()
            return
        self._planning = asyncio.get_running_loop().create_task(self._plan_aside(self._aside, work), name="quotas")
        self._planning.add_done_callback(self._planned)

    async def _plan_aside(self, aside: Aside, work: Callable[[], Shares]) -> None:
        self.shares = await aside(work)

    def _planned(self, task: asyncio.Task[None]) -> None:
        """A plan that failed leaves the last shares, and is told once in a row."""
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self.failures = 0
            return
        if not self.failures:
            _LOG.error("the fleet's cap could not be shared out anew", exc_info=error)
        self.failures += 1

    def _issue(self, states: list[SiteState], cap_w: int) -> None:
        names = {state.site for state in states}
        wanted = split_evenly([state.nameplate for state in states if state.nameplate is not None], cap_w)
        if self.shares is not None and names <= self.shares.watts.keys():
            wanted = self.shares.watts
        worth = None if self.shares is None or self.shares.gap is None else round(float(self.shares.price[0]), 2)
        granted = grant(cap_w, wanted, {state.site: self._draw(state) for state in states})
        until_ms = self._clock.wall_ms() + TICKS * self._tick_ms
        for state in states:
            state.quota = Quota(cap_w=granted[state.site], until_ms=until_ms, usd_per_mwh=worth)

    def _draw(self, state: SiteState) -> Draw:
        stale_ms = self._params_of(state.site).stale_report_ms
        fresh = state.online and self._clock.mono_ms() - state.report_at_ms <= stale_ms
        return Draw(
            None if state.quota is None else state.quota.cap_w,
            max(0, state.main_power_w() or 0) if fresh and state.main_power_w() is not None else None,
        )
