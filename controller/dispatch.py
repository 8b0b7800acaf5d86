"""Freeze, decide and publish, for some sites, at once.

Nothing here waits: from the call until the orders are with the bus no other task runs, so a signal's order is out
before its answer is written. Journalling comes right behind the orders.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from contract.clock import Clock
from contract.lean import lean
from contract.messages import Order
from controller.config import ControllerConfig
from controller.engine.model import Decision, Params, SiteDecision, SiteSnapshot, Snapshot
from controller.faults import Faults
from controller.freeze import Freezer
from controller.journal.base import DecisionRecord, EventRecord, Journal
from controller.metrics import Metrics
from controller.outlooks import Aside
from controller.publish import Publisher
from controller.state import Decided, SiteState

_LOG = logging.getLogger(__name__)

Decide = Callable[[Snapshot, Params], Decision]


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What came of one site: its decision, and its order where one could go out."""

    decided: Decided
    order: Order | None


class Dispatcher:
    """The one path from what is known to what is ordered."""

    def __init__(
        self,
        config: ControllerConfig,
        freezer: Freezer,
        decide: Decide,
        publisher: Publisher,
        journal: Journal,
        clock: Clock,
        metrics: Metrics,
        *,
        engine: str,
    ) -> None:
        self._config = config
        self._freezer = freezer
        self._decide = decide
        self._publisher = publisher
        self._journal = journal
        self._clock = clock
        self._metrics = metrics
        self._engine = engine
        self._count = 0
        self._params: dict[str, Params] = {}
        self._params_once: dict[Params, Params] = {}
        self.faults = Faults(_LOG)
        self.crashes = 0
        """Site decisions lost to a bug."""

    def params_of(self, site: str) -> Params:
        """One object for all sites that are decided alike."""
        params = self._params.get(site)
        if params is None:
            params = self._config.params_of(site)
            params = self._params_once.setdefault(params, params)
            self._params[site] = params
        return params

    def dispatch(self, states: Iterable[SiteState], trigger: str) -> dict[str, Dispatched]:
        """Decide these sites now and publish their orders. Sites without a nameplate are left out."""
        groups: dict[int, list[SiteState]] = {}
        for state in states:
            if state.nameplate is not None:
                groups.setdefault(id(self.params_of(state.site)), []).append(state)
        out: dict[str, Dispatched] = {}
        for group in groups.values():
            out.update(self._dispatch_group(group, self.params_of(group[0].site), trigger))
        return out

    async def dispatch_aside(self, state: SiteState, trigger: str, aside: Aside) -> None:
        """Decide one site elsewhere than on the event loop, and publish its order, unless it was decided here
        meanwhile. For what takes long and can wait."""
        loop = asyncio.get_running_loop()
        began_s, at_ms, before = loop.time(), self._clock.wall_ms(), state.decided
        params = self.params_of(state.site)
        snapshot = self._freezer.freeze([state], at_ms, self._clock.mono_ms())
        try:
            found: Decision = await aside(self._decide, snapshot, params)
        except Exception as error:  # noqa: BLE001  as in `_guarded`
            self._crashed(snapshot, error)
            return
        if state.decided is before and snapshot.sites:
            decisions = {each.site: each for each in found.sites}
            self._publish([state], snapshot, params, decisions, trigger, began_s, loop.time() - began_s)

    def preview(
        self, state: SiteState, as_if_ms: int, alter: Callable[[SiteSnapshot], SiteSnapshot] | None = None
    ) -> SiteDecision | None:
        """What would be decided at `as_if_ms` with what is known now, or with what `alter` makes of that. Nothing is
        published or journalled."""
        snapshot = self._freezer.freeze([state], self._clock.wall_ms(), self._clock.mono_ms(), as_if_ms=as_if_ms)
        if alter is not None:
            snapshot = snapshot.model_copy(update={"sites": tuple(alter(site) for site in snapshot.sites)})
        decision = self._guarded(snapshot, self.params_of(state.site))
        return decision.get(state.site)

    def _dispatch_group(self, states: Sequence[SiteState], params: Params, trigger: str) -> dict[str, Dispatched]:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        at_ms = self._clock.wall_ms()
        snapshot = self._freezer.freeze(states, at_ms, self._clock.mono_ms())
        frozen_s = loop.time()
        decisions = self._guarded(snapshot, params)
        return self._publish(states, snapshot, params, decisions, trigger, began_s, loop.time() - frozen_s)

    def _publish(
        self,
        states: Sequence[SiteState],
        snapshot: Snapshot,
        params: Params,
        decisions: Mapping[str, SiteDecision],
        trigger: str,
        began_s: float,
        took_s: float,
    ) -> dict[str, Dispatched]:
        loop = asyncio.get_running_loop()
        self._count += 1
        decision_id = f"{self._publisher.epoch}-{self._count}"
        self._measure(decisions, took_s, decision_id)
        out: dict[str, Dispatched] = {}
        for state in states:
            decision = decisions.get(state.site)
            if decision is None:
                continue
            state.decided = Decided(decision_id, snapshot.at_ms, trigger, lean(decision))
            out[state.site] = Dispatched(state.decided, self._publisher.publish(state, decision, decision_id, params))
        self._metrics.decisions.labels(trigger).inc(len(out))
        self._metrics.decision_seconds.observe(loop.time() - began_s, {"decision_id": decision_id})
        self._write_down(snapshot, params, states, out)
        return out

    def _measure(self, decisions: Mapping[str, SiteDecision], took_s: float, decision_id: str) -> None:
        if not decisions:
            return
        metrics = self._metrics
        exemplar = {"decision_id": decision_id}
        metrics.decide_seconds.labels("call").observe(took_s, exemplar)
        metrics.decide_seconds.labels("site").observe(took_s / len(decisions), exemplar)
        metrics.batch_sites.observe(len(decisions))
        for decision in decisions.values():
            if decision.plan is None:
                continue
            if decision.plan.gap is not None:
                metrics.plan_gap.observe(decision.plan.gap)
            if decision.plan.fallback:
                metrics.fallbacks.labels(decision.plan.fallback).inc()

    def _write_down(
        self,
        snapshot: Snapshot,
        params: Params,
        states: Sequence[SiteState],
        out: Mapping[str, Dispatched],
    ) -> None:
        frozen: dict[str, SiteSnapshot] = {each.site: each for each in snapshot.sites}
        for state in states:
            done = out.get(state.site)
            if done is None:
                continue
            self._journal.write(
                DecisionRecord(
                    id=done.decided.id,
                    at_ms=snapshot.at_ms,
                    trigger=done.decided.trigger,
                    engine=self._engine,
                    params=params,
                    snapshot=frozen[state.site],
                    decision=done.decided.decision,
                )
            )
            if done.order is not None:
                self._publisher.journal_order(state, done.order)

    def _guarded(self, snapshot: Snapshot, params: Params) -> dict[str, SiteDecision]:
        """Decide; where that fails, decide each site alone, so that a bug on one site's data costs only that site.

        The site then gets no order, its lease runs out, and its agent goes to the fail-safe.
        """
        if not snapshot.sites:
            return {}
        try:
            return {each.site: each for each in self._decide(snapshot, params).sites}
        except Exception as error:  # noqa: BLE001  the one place that keeps deciding for all others; counted below
            if len(snapshot.sites) > 1:
                alone = [Snapshot(at_ms=snapshot.at_ms, sites=(site,)) for site in snapshot.sites]
                return {name: each for one in alone for name, each in self._guarded(one, params).items()}
            self._crashed(snapshot, error)
            return {}

    def _crashed(self, snapshot: Snapshot, error: Exception) -> None:
        site = snapshot.sites[0].site
        self.crashes += 1
        self._metrics.decide_crashes.inc()
        now_ms = self._clock.mono_ms()
        if "decide_crash" not in self.faults.open_codes(site):
            _LOG.error("%s: no decision could be made", site, exc_info=error)
            detail = f"{type(error).__name__}: {error}"[:400]
            self._journal.write(EventRecord(snapshot.at_ms, "decide_crash", site, detail))
        self.faults.hit(site, "decide_crash", f"{type(error).__name__}: {error}"[:300], now_ms)
