"""The simple policies, as industry runs them, and as well as they can be run: no straw men.

`always-on` takes all the power it may have, the worthiest use first, and never looks at the price. `break-even` runs
what earns more per MWh than the price last known. `hysteresis` stops above one threshold, starts below another and
waits a while; it is tuned on the history, on the plant itself. All obey limits, dwell, obligations and deadlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from contract.units import MS_PER_HOUR
from sim.backtest.desk import Desk
from sim.backtest.merit import NEVER_LOOKS, Merit
from sim.backtest.model import Action, Seen, Site, Timeline
from sim.backtest.peakwatch import PeakWatch
from sim.backtest.physics import local_months, steps_of
from sim.backtest.plant import Plant
from sim.backtest.seen import HISTORY_MIN_MS, Eyes, part, past

FORTNIGHT_MS: Final = 14 * 24 * MS_PER_HOUR
WATCH_SHARE: Final = 0.97
"""Of the month's highest load, from which break-even stands down for the peak charge."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a bank or a flexible job stops and starts, as shares of its break-even price."""

    stop: float = 1.0
    start: float = 1.0
    wait: int = 0
    """Intervals for which the price must have been below `start` before a bank starts."""
    watch: float = WATCH_SHARE
    """See `PeakWatch`."""


BANDS: Final = ((1.1, 0.95), (1.25, 0.85), (1.5, 0.7), (0.9, 0.75))
WAITS: Final = (1,)
WATCHES: Final = (0.955, 0.98)
"""What is tried one after the other, each kept where it earns more on the history; the plain break-even rule first."""


class _Threshold:
    """What the three have in common."""

    name = ""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds

    def prepare(self, site: Site, timeline: Timeline, lag: int) -> None:
        """Nothing is learnt; `HysteresisPolicy` tunes first."""
        del lag
        hours = timeline.interval_ms / MS_PER_HOUR
        self._site = site
        self._merit = Merit(site, timeline.jobs)
        self._desk = Desk(timeline, self._merit)
        self._watch = PeakWatch(site, self.thresholds.watch)
        self._up = [steps_of(bank.min_up_h, hours) for bank in site.banks]
        self._down = [steps_of(bank.min_down_h, hours) for bank in site.banks]
        self._calm = [0] * len(site.banks)

    def act(self, seen: Seen) -> Action:
        """Thresholds say what may run, merit order at the known price how much."""
        self._merit.look(seen.ambient_c, seen.hashprice)
        price = self._price(seen)
        on, since = seen.state.on.tolist(), seen.state.since.tolist()
        locked = [since[b] < (self._up[b] if on[b] else self._down[b]) for b in range(len(on))]
        rules = self.thresholds
        wishes = self._desk.wishes(seen, price / rules.stop, price / rules.start)
        action = self._merit.fill(seen.cap_mw, price, self._wanted(seen, price, on), on, locked, wishes)
        self._desk.trim(action.job_mw, seen)
        return action

    def _price(self, seen: Seen) -> float:
        """All that a MWh costs at the meter, as far as it is known."""
        prices = seen.known.price.values
        last = float(prices[-1]) if len(prices) else 0.0
        return last + self._site.energy.adder_usd_per_mwh + self._watch.adder(seen.known)

    def _wanted(self, seen: Seen, price: float, on: list[int]) -> list[int]:
        """Banks that may run. None starts into an obligation that its dwell would carry it into."""
        rules, out = self.thresholds, []
        for b, bank in enumerate(self._site.banks):
            value = self._merit.bank_value(b)
            self._calm[b] = self._calm[b] + 1 if price < value * rules.start else 0
            if on[b]:
                wanted = price < value * rules.stop
            else:
                wanted = self._calm[b] > rules.wait and not _due_within(seen, bank.min_up_h)
            if wanted:
                out.append(b)
        return out


class AlwaysOnPolicy(_Threshold):
    """Runs everything it may, whatever it costs."""

    name = "always-on"

    def __init__(self) -> None:
        super().__init__(Thresholds())

    def _price(self, seen: Seen) -> float:
        del seen
        return NEVER_LOOKS


class BreakEvenPolicy(_Threshold):
    """Runs what earns more than the price last known."""

    name = "break-even"

    def __init__(self) -> None:
        super().__init__(Thresholds())


class HysteresisPolicy(_Threshold):
    """Two thresholds and a wait, tuned on the history before the judged window and on nothing later."""

    name = "hysteresis"

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        super().__init__(thresholds or Thresholds(stop=1.1, start=0.9))
        self._fixed = thresholds is not None

    def prepare(self, site: Site, timeline: Timeline, lag: int) -> None:
        """Tune, where there is a history of at least a week; the defaults stand where there is none."""
        if not self._fixed and timeline.history * timeline.interval_ms >= HISTORY_MIN_MS:
            self.thresholds = tuned(site, past(timeline), lag)
        super().prepare(site, timeline, lag)


def tuned(site: Site, history: Timeline, lag: int) -> Thresholds:
    """The thresholds that earn most on a history: first the band, then the wait, then the watch for peaks.

    Band and wait are tried on every second fortnight, which every season and most spikes are in, without the peaks;
    the watch on the months that have peaks.
    """
    best = Thresholds()
    plain = replace(site, energy=replace(site.energy, peak_charge_usd_per_mw_year=0.0))
    weeks = _fortnights(history)
    most = _earned(best, plain, weeks, lag)
    for refine in (_bands, _waits):
        best, most = _better(refine(best), best, most, plain, weeks, lag)
    summer = _peak_months(site, history)
    if summer is not None:
        best, _ = _better(_watches(best), best, _earned(best, site, [summer], lag), site, [summer], lag)
    return best


def _better(
    tries: Sequence[Thresholds], best: Thresholds, most: float, site: Site, spans: Sequence[Timeline], lag: int
) -> tuple[Thresholds, float]:
    for tried in tries:
        usd = _earned(tried, site, spans, lag)
        if usd > most:
            best, most = tried, usd
    return best, most


def _fortnights(history: Timeline) -> list[Timeline]:
    """Every second one, the last included; a history of less than four weeks whole."""
    span, count = FORTNIGHT_MS // history.interval_ms, len(history.price)
    if count < 2 * span:
        return [history]
    return [part(history, last - span, last) for last in range(count, span - 1, -2 * span)]


def _peak_months(site: Site, history: Timeline) -> Timeline | None:
    """From the first to the last interval of the history that may hold a peak; None where nobody is charged for one."""
    if history.load_mw is None or site.energy.peak_charge_usd_per_mw_year <= 0:
        return None
    at = np.flatnonzero(np.isin(local_months(history, site.timezone) % 100, site.energy.peak_months))
    return part(history, int(at[0]), int(at[-1]) + 1) if len(at) else None


def _bands(rules: Thresholds) -> list[Thresholds]:
    return [replace(rules, stop=stop, start=start) for stop, start in BANDS]


def _waits(rules: Thresholds) -> list[Thresholds]:
    return [replace(rules, wait=wait) for wait in WAITS]


def _watches(rules: Thresholds) -> list[Thresholds]:
    return [replace(rules, watch=watch) for watch in WATCHES]


def _earned(thresholds: Thresholds, site: Site, spans: Sequence[Timeline], lag: int) -> float:
    total = 0.0
    for span in spans:
        policy = HysteresisPolicy(thresholds)
        policy.prepare(site, span, lag)
        plant, eyes = Plant(site, span), Eyes(span, lag)
        while not plant.done:
            plant.step(policy.act(eyes.see(plant.index, plant.state, plant.cap_mw)))
        total += plant.close(policy.name)[0].profit_usd
    return total


def _due_within(seen: Seen, hours: float) -> bool:
    soon = seen.known.at_ms + hours * MS_PER_HOUR
    return any(seen.known.at_ms < due.starts_ms < soon for due in seen.obligations)
