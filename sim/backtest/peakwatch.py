"""The rule of thumb for coincident peaks: stand down on summer afternoons as the system nears its highest load."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np

from contract.units import MS_PER_HOUR, MS_PER_S
from controller.forecast.known import Known
from sim.backtest.model import Site

HOURS: Final = range(14, 19)
"""Local hours in which summer peaks come: ERCOT's of the last ten years fell between 15:00 and 18:00."""
FLAGGED_H: Final = 20.0
"""Hours a month that a watch of this kind flags, about: the charge is spread over them."""
MEMORY_DAYS: Final = 31
"""What counts as the month's highest so far, before the month has shown its own."""


class PeakWatch:
    """What standing down is worth now, in USD/MWh on top of the price; 0 outside the hours that may hold a peak."""

    def __init__(self, site: Site, share: float) -> None:
        """`share` of the highest load of the last month from which an hour is watched."""
        energy = site.energy
        self._share = share
        self._months = energy.peak_months
        self._zone = ZoneInfo(site.timezone)
        self._usd = energy.peak_charge_usd_per_mw_year / len(self._months) / FLAGGED_H if self._months else 0.0
        self._hour = -1
        self._adder = 0.0

    def adder(self, known: Known) -> float:
        """By the load known, an hour old, carried on by half of its last hour's rise."""
        if self._usd <= 0 or known.load_mw is None:
            return 0.0
        hour = known.at_ms // MS_PER_HOUR
        if hour != self._hour:
            self._hour = hour
            self._adder = self._usd if self._flagged(known) else 0.0
        return self._adder

    def _flagged(self, known: Known) -> bool:
        local = datetime.fromtimestamp(known.at_ms / MS_PER_S, UTC).astimezone(self._zone)
        if local.month not in self._months or local.hour not in HOURS or known.load_mw is None:
            return False
        load = known.load_mw
        per_hour = max(MS_PER_HOUR // load.step_ms, 1)
        if len(load.values) <= per_hour:
            return False
        recent = load.values[-MEMORY_DAYS * 24 * per_hour :]
        recent = recent[np.isfinite(recent)]
        if len(recent) <= per_hour:
            return False
        now = recent[-1] + 0.5 * max(recent[-1] - recent[-1 - per_hour], 0.0)
        return bool(now >= self._share * recent.max())
