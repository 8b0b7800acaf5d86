"""The `wattshift` policy: the optimiser over a rolling horizon, with what a forecast expects.

Once an hour, and whenever a job arrives or an obligation is told, the forecast's outlook becomes a price path, the site
and its state the optimiser's `Problem`; its dual prices, carried on from the last time, come down a few steps, and each
unit's program says what being on is worth beyond this interval (`instant.look`). In between the path is carried on,
moved by what the price departs from it, and the banks' programs run anew. Every interval is then decided exactly within
its limits (`instant.decide`), so a look gone stale cannot exceed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.units import MS_PER_HOUR
from controller.engine.optimiser.dual import descent
from controller.engine.optimiser.layout import F8, U1, Duals, Problem
from controller.forecast import Market, forecast
from controller.forecast.known import Forecast, Outlook
from sim.backtest.instant import Now, again, decide, look
from sim.backtest.model import Action, Obligation, Seen, Site, Timeline
from sim.backtest.physics import HOURS_PER_DAY
from sim.backtest.problem import Model, shifted
from sim.backtest.seen import Eyes

AFTER_MIN: Final = 672
"""Prices of history below which nothing is learned of what follows a price."""
CLASSES: Final = 40
CLASS_MIN: Final = 12
PEAK_TOLD_USD_PER_MWH: Final = 1.0
"""What a coincident peak's chance must add to be told of."""


@dataclass(frozen=True, slots=True)
class Params:
    """One set for all years and sites; docs/worth.md says why each is what it is."""

    forecast: str = "day_ahead"
    iterations: int = 6
    """Steps of the dual prices at each look; a first look takes `first`."""
    first: int = 60
    look_h: float = 1.0
    """Hours between two looks where nothing happens; they fall on the hour, when the load of the last one is known."""
    ahead_h: float = 24.0
    """Hours the forecast is asked for; its last day comes again beyond."""
    fade_h: float = 1.0
    """After so many hours a third of a departure from the path is left."""
    hurry: float = 0.3
    """By how much more than its later cost a job's work may cost now: what arrives later wants the same nodes."""
    eager: float = 0.03
    """The least part of the rest of its worth that counts besides for running at all, not for running harder: waiting
    is worth a little money and can lose all."""
    urgent_h: float = 12.0
    """That part nears all of it as a job's slack goes below so many hours: of two that want the same nodes, the one
    that can wait does."""
    keep: float = 0.6
    """How often a running job's restart counts besides the once that it costs: exchanging two jobs that can both wait
    earns nothing, and what seems to be gained by it is noise of the prices."""
    peak_weight: float = 1.0
    """The part of a coincident peak's told chance that is planned with."""
    mean_now: bool = True
    """Whether a running interval whose price comes late counts at the mean price that followed alike, not the path."""
    spike_usd_per_mwh: float = 250.0


class WattshiftPolicy:
    """A `Policy`. Deterministic; holds the last look and the prices to carry on from."""

    name = "wattshift"

    def __init__(self, params: Params | None = None, source: Forecast | None = None) -> None:
        """`source` takes the place of the forecast that `params` names."""
        self.params = params or Params()
        self._source = source

    def prepare(self, site: Site, timeline: Timeline, lag: int) -> None:
        """Fit the forecast on the history."""
        self._model = Model(site, timeline)
        self._lag = lag
        market = Market(site.timezone, self.params.spike_usd_per_mwh, site.energy.peak_months)
        self._forecast = self._source or forecast(self.params.forecast, market)
        self._forecast.fit(Eyes(timeline, lag).known(timeline.history))
        self._ahead = min(self._model.steps, round(self.params.ahead_h / self._model.interval_h))
        self._fade = np.exp(-np.arange(self._model.steps) * self._model.interval_h / self.params.fade_h)
        history = Eyes(timeline, lag).known(timeline.history).price.values
        self._next = after(history, lag) if self.params.mean_now else None
        self._look: _Look | None = None

    def act(self, seen: Seen) -> Action:
        """Look ahead if it is time, decide this interval."""
        m, state = self._model, seen.state
        jobs = [j for j in state.open_jobs if state.left_h[j] > 1e-9]
        self._look = self._look_ahead(seen, jobs) if self._is_stale(seen, jobs) else self._carried_on(seen)
        now = self._now(self._look, seen, jobs)
        chosen, power = np.empty(m.fixed + len(jobs), np.uint8), np.empty(m.fixed + len(jobs))
        decide(now, chosen, power)
        banks, fixed = m.banks, m.fixed
        served = power[banks:fixed]
        return Action(
            power[:banks].copy(),
            {j: float(power[fixed + k]) for k, j in enumerate(jobs) if chosen[fixed + k]},
            None if (served >= m.firm_mw[:, -1] - 1e-9).all() else served.copy(),
            self._why(self._look),
        )

    def _why(self, look: _Look) -> str:
        """What this interval was decided with, where that is not simply its price."""
        peak = float(look.peak[0])
        if self._lag == 0 and peak < PEAK_TOLD_USD_PER_MWH:
            return ""
        energy = f"energy at {float(look.path[0]):,.0f} USD/MWh"
        if peak < PEAK_TOLD_USD_PER_MWH:
            return energy
        return f"{energy} and {peak:,.0f} more for the chance of a coincident peak"

    def _is_stale(self, seen: Seen, jobs: list[int]) -> bool:
        last = self._look
        look_ms = round(self.params.look_h * MS_PER_HOUR)
        if last is None or seen.known.at_ms // look_ms != last.at_ms // look_ms:
            return True
        return any(j not in last.place for j in jobs) or seen.obligations != last.obligations

    def _paths(self, outlook: Outlook) -> tuple[F8, F8]:
        """Energy's price and what a coincident peak is expected to add, by interval."""
        path, peak = self._model.paths(outlook)
        return path, peak * self.params.peak_weight

    def _look_ahead(self, seen: Seen, jobs: list[int]) -> _Look:
        m, known, last = self._model, seen.known, self._look
        outlook = self._forecast.outlook(known, m.interval_ms, self._ahead)
        path, peak = self._paths(outlook)
        path = self._late(path, seen)
        pue, cool = m.share_and_cooling(outlook.ambient_c, seen.ambient_c)
        due_now = any(o.starts_ms < known.at_ms + m.interval_ms for o in seen.obligations)
        cap = m.site.cap_mw if due_now else seen.cap_mw
        price = (m.average @ (path + peak))[None, :]
        p = m.problem(price, pue, cool, seen.hashprice, seen.obligations, cap, known.at_ms, seen.state, jobs)
        units = m.fixed + len(jobs)
        if last is None:
            duals = Duals(np.zeros_like(p.rows.cap), np.zeros(units), np.full(1, 0.02))
        else:
            row = shifted(last.duals.row, m.grid, (known.at_ms - last.at_ms) / MS_PER_HOUR)
            work = np.zeros(units)
            for k, j in enumerate(jobs):
                if j in last.place:
                    work[m.fixed + k] = last.duals.job[last.place[j]]
            duals = Duals(row, work, np.maximum(last.duals.guess, 1e-3))
        then, worth = np.empty(units), np.empty(units)
        look(p, duals, descent(p), self.params.first if last is None else self.params.iterations, then, worth)
        place = {j: m.fixed + k for k, j in enumerate(jobs)}
        return _Look(known.at_ms, seen.obligations, place, path, peak, pue, cool, p, duals, then, worth)

    def _carried_on(self, seen: Seen) -> _Look:
        """The last look an interval later: its path moved on and by what the price departs from it."""
        m, last = self._model, self._look
        assert last is not None  # noqa: S101  a first look is stale
        if self._lag == 0:
            last.path = np.append(last.path[1:], last.path[-1])
            last.peak = np.append(last.peak[1:], 0.0)
            values = seen.known.price.values
            if len(values):
                depart = float(values[-1]) + m.site.energy.adder_usd_per_mwh - last.path[0]
                last.path = last.path + depart * self._fade
        else:
            # The price of this interval is itself foretold: nothing but the forecast knows how it departs.
            last.path, last.peak = self._paths(self._forecast.outlook(seen.known, m.interval_ms, self._ahead))
            last.path = self._late(last.path, seen)
        last.problem.sites.price[0] = (m.average @ (last.path + last.peak)) * m.ratio(last.pue)
        last.problem.units.on[: m.banks] = seen.state.on
        again(last.problem, last.duals, m.banks, last.then)
        if seen.ambient_c is not None:
            pue, cool = m.share_and_cooling(None, seen.ambient_c)
            last.pue[:, 0], last.cool[:, 0] = pue[:, 0], cool[:, 0]
        return last

    def _late(self, path: F8, seen: Seen) -> F8:
        """The path with the running interval at its mean where its price comes late: what is drawn now cannot be
        taken back, so a chance of a spike counts in full; a plan for later can still change, and keeps its path."""
        values = seen.known.price.values
        if self._next is None or not len(values):
            return path
        mean = float(np.interp(values[-1], *self._next)) + self._model.site.energy.adder_usd_per_mwh
        late: F8 = path + (mean - path[0]) * self._fade
        return late

    def _now(self, last: _Look, seen: Seen, jobs: list[int]) -> Now:
        """What `decide` needs to know, exact in this interval."""
        m, h, state = self._model, self._model.interval_h, seen.state
        banks, fixed, n = m.banks, m.fixed, m.fixed + len(jobs)
        at = np.array(jobs, np.int64)
        pick = np.concatenate([np.arange(fixed), np.array([last.place[j] for j in jobs], np.int64)])
        pue, cool = last.pue[:, 0], last.cool[:, 0]
        on = np.ones(n, np.uint8)
        on[:banks] = state.on
        on[fixed:] = [j in state.running for j in jobs]
        usd, mw = last.problem.units.level_usd_h[pick], last.problem.units.level_mw[pick]
        then = last.then[pick]
        coin = seen.hashprice / HOURS_PER_DAY
        booting = np.clip(m.boot_h - np.where(state.on == 1, state.since, 0) * h, 0.0, h)
        usd[:banks] = m.bank_phs * coin * (1.0 - booting / h)[:, None]
        # The problem's start costs hold all of the boot; what falls into this interval is in `usd` already.
        then[:banks] += np.where(state.on == 1, 0.0, coin * m.bank_phs[:, -1] * np.minimum(m.boot_h, h))
        then[fixed:] += self.params.keep * on[fixed:] * m.table.start_usd[at]
        usd[fixed:], mw[fixed:] = self._job_curves(last, state.left_h, jobs, at, pick, on[fixed:], seen.known.at_ms)
        part = m.table.partition[at]
        share = np.concatenate([pue[m.hall_of], pue[m.partition_hall[part]]])
        rows, weight, on_weight, offsets = m.coefficients(part, m.table.nodes[at], share)
        idle = np.zeros(n)
        idle[:fixed] = m.idle_mw
        firm = np.zeros(n, np.uint8)
        firm[banks:fixed] = 1
        toll = float(last.path[0] + last.peak[0]) * share
        cap = m.room_now(pue, cool, seen.cap_mw)
        must = self._must(seen, jobs)
        return Now(h, on, must, mw, usd, toll, idle, then, share, firm, offsets, rows, weight, on_weight, cap)

    def _job_curves(
        self,
        last: _Look,
        left_h: dict[int, float],
        jobs: list[int],
        at: NDArray[np.int64],
        pick: NDArray[np.int64],
        running: U1,
        now_ms: int,
    ) -> tuple[F8, F8]:
        """USD an hour and power by level, of no more work than is left. The last of a running job counts as a whole
        interval's: all but done is not done."""
        t, fixed = self._model.table, self._model.fixed
        left = np.array([left_h[j] for j in jobs])
        hurry = 1.0 + self.params.hurry
        full = t.usd_per_h[at] + t.miss_per_h[at]
        worth = np.minimum(last.worth[pick[fixed:]] * hurry, full)
        slack_h = np.maximum((t.deadline_ms[at] - now_ms) / MS_PER_HOUR - left, 0.0)
        part = self.params.eager + (1.0 - self.params.eager) * np.exp(-slack_h / self.params.urgent_h)
        eager = part * (full - worth)
        left /= self._model.interval_h
        rates, mw = t.level_rate[at], t.level_mw[at]
        finished = np.where((left < 1.0) & (running == 1), full * rates[:, 0], 0.0)
        for k in np.flatnonzero(left < 1.0):
            least = np.minimum(rates[k], max(left[k], rates[k, 0]))
            mw[k] = np.interp(least, rates[k], mw[k])
            rates[k] = np.minimum(least, left[k])
        return np.maximum(rates * worth[:, None] + (eager * rates[:, 0])[:, None], finished[:, None]), mw

    def _must(self, seen: Seen, jobs: list[int]) -> NDArray[np.int32]:
        """Who is not free to turn over. None starts into an obligation that its dwell would carry it into."""
        m, state, t = self._model, seen.state, self._model.table
        must = np.zeros(m.fixed + len(jobs), np.int32)
        on = state.on == 1
        held = state.since < np.where(on, m.up, m.down)
        must[: m.banks] = np.where(held, np.where(on, 1, -1), 0)
        must[m.banks : m.fixed] = 1
        soon = [o.starts_ms for o in seen.obligations if o.starts_ms > seen.known.at_ms]
        lead_h = (min(soon) - seen.known.at_ms) / MS_PER_HOUR if soon else np.inf
        must[: m.banks][~on & (m.up * m.interval_h > lead_h)] = -1
        for k, j in enumerate(jobs, start=m.fixed):
            if j not in state.running:
                must[k] = -1 if t.min_up_h[j] > lead_h else 0
            elif t.firm[j]:
                must[k] = 2
            elif state.ran_h[j] < t.min_up_h[j] - 1e-9:
                must[k] = 1
        return must


def after(price: F8, lag: int) -> tuple[F8, F8] | None:
    """The mean price `lag` intervals after a price: means of classes of the history's prices, the class of the highest
    hundredth split as far as it has samples. None for a history too short to tell."""
    price = price[np.isfinite(price)]
    if lag < 1 or len(price) < AFTER_MIN:
        return None
    first, then = price[:-lag], price[lag:]
    order = np.argsort(first, kind="stable")
    sizes = np.minimum(len(order) // CLASSES, np.maximum(CLASS_MIN, np.arange(len(order), 0, -1) // 8))
    edges = [0]
    while edges[-1] < len(order):
        edges.append(min(edges[-1] + int(sizes[edges[-1]]), len(order)))
    groups = [order[a:b] for a, b in pairwise(edges)]
    mean = np.array([float(then[g].mean()) for g in groups])
    return np.array([float(first[g].mean()) for g in groups]), np.maximum.accumulate(mean)


@dataclass(slots=True)
class _Look:
    """What was seen ahead, when, and what came of it."""

    at_ms: int
    obligations: tuple[Obligation, ...]
    place: dict[int, int]
    """Where each job stands in the problem."""
    path: F8
    peak: F8
    """(steps,) USD/MWh by interval from now: energy, and the coincident peak."""
    pue: F8
    cool: F8
    """(H, T) with the first step as it is now."""
    problem: Problem
    duals: Duals
    then: F8
    worth: F8
    """(N,) as `instant.look` fills them."""
