"""Policies side by side on one plant, and what came out."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, cast

import numpy as np

from sim.backtest.fleetbound import BoundUsd, fleet_bound_usd
from sim.backtest.ledger import share_over_always_on
from sim.backtest.model import F8, Books, Fleet, Policy, Seen, Site, Timeline, Trace
from sim.backtest.physics import TOLERANCE_MW
from sim.backtest.plant import Plant
from sim.backtest.report.story import Judged
from sim.backtest.seen import Eyes
from sim.backtest.thresholds import AlwaysOnPolicy, BreakEvenPolicy, HysteresisPolicy

BASE: Final = "always-on"
BOUND: Final = "bound"
_OURS: Final = "sim.backtest.wattshift"
_BOUND_BY: Final = "sim.backtest.bound"
_TELL_EVERY: Final = 250

Stopwatch = Callable[[], int]
"""Nanoseconds that passed, for decision times."""
Tell = Callable[[str, int, int], None]
"""What is under way, how much of it is done, and of how much."""


class Foresee(Protocol):
    """The perfect-foresight bound: no policy earns more; by how much of it the best plan stays below; that plan."""

    def __call__(self, site: Site, timeline: Timeline) -> tuple[float, float, Trace | None]: ...


class Sharer(Protocol):
    """Divides a fleet's cap among its sites, interval by interval."""

    def share(self, seen: Sequence[Seen], cap_mw: float) -> F8:
        """(sites,) MW at each main meter, together at most `cap_mw`."""


class ProRata:
    """Each site gets the part of the fleet's cap that it has of all sites' caps."""

    def __init__(self, fleet: Fleet) -> None:
        caps = np.array([site.cap_mw for site in fleet.sites])
        self._share = caps / caps.sum()

    def share(self, seen: Sequence[Seen], cap_mw: float) -> F8:
        del seen
        return np.asarray(self._share * cap_mw)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a backtest has to say."""

    judged: tuple[Judged, ...]
    """By site."""
    total: tuple[Books, ...]
    """By policy, over all sites."""
    bound_usd: float | None
    """Sum of the sites' bounds, or less where a fleet's cap binds them; see `fleetbound`."""
    bound_gap: float | None
    """By how much of it the sites' best plans, each without the fleet's cap, stay below their bounds."""


def registry() -> dict[str, Callable[[], Policy]]:
    """The policies there are, by name, in the order in which they are shown."""
    found: dict[str, Callable[[], Policy]] = {
        AlwaysOnPolicy.name: AlwaysOnPolicy,
        BreakEvenPolicy.name: BreakEvenPolicy,
        HysteresisPolicy.name: HysteresisPolicy,
    }
    if importlib.util.find_spec(_OURS) is not None:
        found["wattshift"] = _ours
    return found


def _ours() -> Policy:
    """Made late: its compiled kernels take a second to load, which those who do not ask for it need not wait."""
    return cast(Policy, importlib.import_module(_OURS).WattshiftPolicy())


def foresight() -> Foresee | None:
    """The bound, where it is there."""
    if importlib.util.find_spec(_BOUND_BY) is None:
        return None
    return cast(Foresee, importlib.import_module(_BOUND_BY).foresee)


def backtest(
    fleet: Fleet,
    timelines: Sequence[Timeline],
    names: Sequence[str],
    lag: int,
    tell: Tell,
    *,
    with_bound: bool = True,
    stopwatch: Stopwatch = time.perf_counter_ns,
) -> Outcome:
    """Run the named policies, and always-on besides if it is not among them: flex capture is counted from it."""
    makers = registry()
    runs: dict[str, list[tuple[Books, Trace]]] = {}
    over: dict[str, int] = {}
    for name in dict.fromkeys([BASE, *names]):
        policies = [makers[name]() for _ in fleet.sites]
        runs[name], over[name] = run_policy(fleet, timelines, policies, lag, tell, stopwatch)
    foresee = foresight() if with_bound else None
    bounds: list[tuple[float, float, Trace | None] | None] = []
    for at, (site, timeline) in enumerate(zip(fleet.sites, timelines, strict=True)):
        tell(f"{BOUND} {site.id}", at, len(fleet.sites))
        bounds.append(None if foresee is None else foresee(site, timeline))
    tell(BOUND, len(fleet.sites), len(fleet.sites))
    whole_usd = _whole_bound_usd(fleet, timelines, bounds, tell)
    judged = tuple(
        _judge(site, timeline, lag, {name: runs[name][at] for name in runs}, names, bounds[at])
        for at, (site, timeline) in enumerate(zip(fleet.sites, timelines, strict=True))
    )
    return _outcome(judged, runs, names, over, bounds, whole_usd)


def run_policy(
    fleet: Fleet,
    timelines: Sequence[Timeline],
    policies: Sequence[Policy],
    lag: int,
    tell: Tell,
    stopwatch: Stopwatch = time.perf_counter_ns,
) -> tuple[list[tuple[Books, Trace]], int]:
    """One policy on every site, in step where a fleet's cap binds them; and in how many intervals they exceeded it.

    The cap is divided by the first policy's `sharer(fleet)` where it has one, else pro rata.
    """
    name = policies[0].name
    plants, eyes = [], []
    for site, timeline, policy in zip(fleet.sites, timelines, policies, strict=True):
        tell(f"{name} prepares {site.id}", 0, 1)
        policy.prepare(site, timeline, lag)
        count = len(timeline.price) - timeline.history
        quota = None if fleet.cap_mw is None else np.full(count, np.inf)
        plants.append(Plant(site, timeline, quota))
        eyes.append(Eyes(timeline, lag))
    sharer = _sharer(fleet, policies[0])
    took: list[list[float]] = [[] for _ in plants]
    count = plants[0].end - plants[0].index
    for k in range(count):
        if k % _TELL_EVERY == 0:
            tell(name, k, count)
        if sharer is not None and fleet.cap_mw is not None:
            looks = [eye.see(p.index, p.state, p.site.cap_mw) for eye, p in zip(eyes, plants, strict=True)]
            for plant, quota_mw in zip(plants, sharer.share(looks, fleet.cap_mw), strict=True):
                assert plant.quota_mw is not None  # noqa: S101  made above, as the fleet has a cap
                plant.quota_mw[k] = quota_mw
        for plant, eye, policy, times in zip(plants, eyes, policies, took, strict=True):
            seen = eye.see(plant.index, plant.state, plant.cap_mw)
            begin = stopwatch()
            action = policy.act(seen)
            times.append((stopwatch() - begin) / 1e6)
            plant.step(action)
    tell(name, count, count)
    closed = [plant.close(name, times) for plant, times in zip(plants, took, strict=True)]
    return closed, _over_fleet_cap(fleet, [trace for _, trace in closed])


def _sharer(fleet: Fleet, policy: Policy) -> Sharer | None:
    if fleet.cap_mw is None:
        return None
    make = getattr(policy, "sharer", None)
    return ProRata(fleet) if make is None else cast(Sharer, make(fleet))


def _over_fleet_cap(fleet: Fleet, traces: Sequence[Trace]) -> int:
    if fleet.cap_mw is None:
        return 0
    total = np.sum([trace.meter_mw for trace in traces], axis=0)
    return int((total > fleet.cap_mw + TOLERANCE_MW).sum())


def _judge(
    site: Site,
    timeline: Timeline,
    lag: int,
    runs: dict[str, tuple[Books, Trace]],
    names: Sequence[str],
    bound: tuple[float, float, Trace | None] | None,
) -> Judged:
    base = runs[BASE][0].profit_usd
    books = [replace(runs[name][0], flex_capture=_capture(runs[name][0].profit_usd, base, bound)) for name in names]
    return Judged(
        site=site,
        timeline=timeline,
        lag=lag,
        books=tuple(books),
        traces=tuple(runs[name][1] for name in names),
        bound_usd=None if bound is None else bound[0],
        bound_gap=None if bound is None else bound[1],
        bound_trace=None if bound is None else bound[2],
    )


def _outcome(
    judged: tuple[Judged, ...],
    runs: dict[str, list[tuple[Books, Trace]]],
    names: Sequence[str],
    over: dict[str, int],
    bounds: Sequence[tuple[float, float, Trace | None] | None],
    usd: float | None,
) -> Outcome:
    known = [bound for bound in bounds if bound is not None]
    gap = None if not usd else sum(bound[0] * bound[1] for bound in known) / usd
    base = sum(books.profit_usd for books, _ in runs[BASE])
    whole = None if usd is None else (usd, 0.0, None)
    total = []
    for name in names:
        books = _sum([books for books, _ in runs[name]], over[name])
        total.append(replace(books, flex_capture=_capture(books.profit_usd, base, whole)))
    return Outcome(judged, tuple(total), usd, gap)


def _whole_bound_usd(
    fleet: Fleet, timelines: Sequence[Timeline], bounds: Sequence[tuple[float, float, Trace | None] | None], tell: Tell
) -> float | None:
    known = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds):
        return None
    apart_usd, traces = sum(bound[0] for bound in known), [bound[2] for bound in known if bound[2] is not None]
    if fleet.cap_mw is None or len(traces) < len(known):
        return apart_usd
    tell(f"{BOUND} under the fleet's cap", 0, 1)
    by = cast(BoundUsd, importlib.import_module(_BOUND_BY).bound_usd)
    return fleet_bound_usd(fleet, timelines, apart_usd, traces, by)


def _capture(profit: float, base: float, bound: tuple[float, float, Trace | None] | None) -> float | None:
    return None if bound is None else share_over_always_on(profit, base, bound[0])


def _sum(books: Sequence[Books], over: int) -> Books:
    """Books of all sites together; decision times are the slowest site's."""
    if len(books) == 1:
        return books[0]
    kinds = Counter[str]()
    for one in books:
        kinds.update(one.violations)
    if over:
        kinds["fleet_cap"] += over
    return Books(
        policy=books[0].policy,
        profit_usd=sum(one.profit_usd for one in books),
        energy_cost_usd=sum(one.energy_cost_usd for one in books),
        hash_revenue_usd=sum(one.hash_revenue_usd for one in books),
        hpc_revenue_usd=sum(one.hpc_revenue_usd for one in books),
        resale_usd=sum(one.resale_usd for one in books),
        penalties_usd=sum(one.penalties_usd for one in books),
        curtailed_mwh=sum(one.curtailed_mwh for one in books),
        starts_per_bank=sum(one.starts_per_bank for one in books) / len(books),
        jobs_missed=sum(one.jobs_missed for one in books),
        invariant_violations=sum(kinds.values()),
        flex_capture=None,
        decision_p50_ms=max(one.decision_p50_ms for one in books),
        decision_p99_ms=max(one.decision_p99_ms for one in books),
        violations=dict(kinds),
    )
