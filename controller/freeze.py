"""Freeze: fold everything known into the one immutable snapshot a decision reads.

Messages are held as they came; what grows old carries its age. The order in which things arrived leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from controller.config import ControllerConfig
from controller.engine.model import Ambient, EnergyPrice, HashPrice, PreviousSetpoint, SiteSnapshot, Snapshot
from controller.feeds.base import Feeds
from controller.outlooks import Aside, Outlooks
from controller.overrides import Overrides
from controller.signals import Signals
from controller.state import SiteState

_AGE_MAX_MS: Final = 400 * 24 * 3_600_000
_AMBIENT_BACK_MS: Final = 24 * 3_600_000
_NO_PRICE: Final = EnergyPrice(usd_per_mwh=None)
_NO_HASHPRICE: Final = HashPrice(usd_per_ph_day=None)


class Freezer:
    """Knows where everything of a site comes from."""

    def __init__(
        self,
        config: ControllerConfig,
        feeds: Feeds,
        signals: Signals,
        overrides: Overrides,
        aside: Aside | None = None,
    ) -> None:
        """`aside` is where forecasts learn; see `Outlooks`."""
        self._config = config
        self._feeds = feeds
        self._signals = signals
        self._overrides = overrides
        self.outlooks = Outlooks(config, feeds, aside)

    def freeze(
        self, states: Iterable[SiteState], now_ms: int, mono_ms: int, *, as_if_ms: int | None = None
    ) -> Snapshot:
        """A snapshot of these sites; those without a nameplate are left out.

        `as_if_ms` asks what would be decided then with what is known now: signals and overrides are those of that
        moment, prices and reports those of `now_ms`, for the future cannot be read.
        """
        at_ms = now_ms if as_if_ms is None else as_if_ms
        sites = [self._site(state, now_ms, mono_ms, at_ms) for state in states if state.nameplate is not None]
        return Snapshot(at_ms=at_ms, sites=tuple(sorted(sites, key=lambda each: each.site)))

    def energy(self, site: str, now_ms: int) -> EnergyPrice:
        feed = self._feeds.prices.get(self._config.price_feed_of(site) or "")
        return _NO_PRICE if feed is None else feed.price_at(now_ms)

    def hashprice(self, site: str, now_ms: int) -> HashPrice:
        feed = self._feeds.hashprices.get(self._config.hashprice_feed_of(site) or "")
        return _NO_HASHPRICE if feed is None else feed.hashprice_at(now_ms)

    def ambient(self, site: str, now_ms: int) -> Ambient | None:
        """The newest temperature known at the site, None where there is none of the last day."""
        feed = self._feeds.series.get(self._config.ambient_feed_of(site) or "")
        known = None if feed is None else feed.known(now_ms - _AMBIENT_BACK_MS, now_ms)
        if known is None:
            return None
        there = np.flatnonzero(np.isfinite(known.values))
        if not len(there):
            return None
        last = int(there[-1])
        ended_ms = known.start_ms + (last + 1) * known.step_ms
        degrees = min(max(float(known.values[last]), -90.0), 70.0)
        return Ambient(dry_bulb_c=degrees, age_ms=min(max(0, now_ms - ended_ms), _AGE_MAX_MS))

    def _site(self, state: SiteState, now_ms: int, mono_ms: int, at_ms: int) -> SiteSnapshot:
        assert state.nameplate is not None  # noqa: S101  freeze() leaves the others out
        age_ms = None if state.report is None else min(max(0, mono_ms - state.report_at_ms), _AGE_MAX_MS)
        halls = self._config.halls_of(state.site)
        return SiteSnapshot(
            site=state.site,
            nameplate=state.nameplate,
            online=state.online,
            report=state.report,
            report_age_ms=age_ms,
            energy=self.energy(state.site, now_ms),
            hashprice=self.hashprice(state.site, now_ms),
            obligations=self._signals.of(state.site, at_ms),
            overrides=self._overrides.active(state.site, at_ms),
            previous=_previous(state),
            outlook=self.outlooks.of(state.site, now_ms),
            quota=state.quota,
            halls=halls,
            ambient=self.ambient(state.site, now_ms) if halls else None,
            carry="" if state.decided is None else state.decided.decision.carry,
        )


def _previous(state: SiteState) -> tuple[PreviousSetpoint, ...]:
    if state.decided is None:
        return ()
    return tuple(
        PreviousSetpoint(bank=bank.bank, target_w=bank.target_w, reason=bank.reason)
        for bank in state.decided.decision.banks
    )
