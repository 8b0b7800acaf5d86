"""How fast a minute is decided: `python -m bench.decide --sites 1000`.

Sites of 20 banks and 7 batch jobs on 4 feeders over 24 h in 70 steps (bench/problems.py, synthetic), from the packed
snapshot to the dispatch, assembly included. The last line is JSON: `sites`, `warm_s` one minute's dispatch, `plan_s`
one minute's full plan, `cold_s` the first plan of all, `gap` the full plan's certified gap over all sites,
`fleet_plan_s` the plan under a cap on all sites together, `rss_mb` the most memory used before the peers run, `shed_ms`
a shed over 30,000 banks and jobs on 3,000 feeders. Times are the median of several runs, with `*_min` and `*_max`;
`*_cpu_s` is the processor time of all threads, which says more where other work shares the machine. Before it, one
site as a backtest plans it, and the peers (bench/peers.py) on the same problem.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np

from bench.peers import peers
from bench.problems import fleet, hard_problem
from controller.engine.optimiser.assemble import Moment, Plant, assemble
from controller.engine.optimiser.fleet import meter_mw, plan_fleet
from controller.engine.optimiser.layout import BOOT, F8, OFF, RUN, Duals
from controller.engine.optimiser.shed import Tree, dearest_first, shed
from controller.engine.optimiser.solver import Plan, carried, dispatch, plan, shift, warm_up

R = TypeVar("R")

ITERATIONS = 3
REFINE_COLD, REFINE_WARM = 100, 25
ENOUGH = 8e-4
"""The certified gap, site by site, that is called near enough here."""
SHAKES = 20
"""Of the first plan, shared out among the sites: few sites leave time for it, a thousand leave none."""
GROWN = 1.25
"""A site whose gap is not is searched again when it has grown by so much since a search left it."""


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=int, default=3, help="minutes rolled forward, each timed")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a peer's try is stopped")
    parser.add_argument("--no-compare", action="store_true", help="leave the peers out")
    args = parser.parse_args()
    print(f"compiled or loaded in {_timed(warm_up)[1]:.1f} s")
    made, moment = fleet(args.sites)
    result = _minutes(made, moment, args.sites, args.threads, args.minutes)
    result.update(_spread("shed_ms", _shed_ms()))
    result["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _one_site()
    if not args.no_compare:
        for peer in peers(assemble(made, moment), args.limit):
            print(peer, flush=True)
    print(json.dumps(result))


def _minutes(made: Plant, moment: Moment, sites: int, threads: int, minutes: int) -> dict[str, float]:
    (problem, now), cold_s, cold_cpu_s = _timed(lambda: _cold(made, moment, threads))
    left = _gaps(now)
    for _ in range(2):
        moment = _next_minute(made, moment, now)
        now, left = _warm(made, moment, now, left, threads)
    warm, full = [], []
    for _ in range(minutes):
        moment = _next_minute(made, moment, now)
        warm.append(_timed(partial(_dispatch, made, moment, now, threads))[1:])
        (now, left), wall, cpu = _timed(partial(_warm, made, moment, now, left, threads))
        full.append((wall, cpu))
    problem = assemble(made, moment)
    gaps = _gaps(now)
    print(f"gap by site: median {np.median(gaps):.5f}, p90 {np.quantile(gaps, 0.9):.5f}, most {gaps.max():.5f}")
    cap = 0.9 * meter_mw(problem, now.power_mw).sum(axis=0)
    first = plan_fleet(problem, cap, _copy(now.duals), threads=threads, iterations=60)
    start = shift(first.duals, problem.grid, 0.0)
    kept = carried(first.plan, problem.grid, 0.0)
    again = partial(
        plan_fleet,
        problem,
        cap,
        start,
        first.price,
        kept,
        first.quota_mw,
        threads=threads,
        iterations=12,
        sweeps=1,
        rounds=1,
    )
    fleets = [_timed(again)]
    while len(fleets) < minutes and fleets[0][1] < 10.0:
        fleets.append(_timed(again))
    together = fleets[0][0]
    profit = float(together.plan.profit_usd.sum())
    over = max(0.0, float((meter_mw(problem, together.plan.power_mw).sum(axis=0) - cap).max()))
    fleet_gap = (together.bound_usd - profit) / together.bound_usd
    print(f"fleet: gap {fleet_gap:.5f}, over its cap by {over:.3f} MW at most")
    gap = float((now.bound_usd - now.profit_usd).sum() / now.bound_usd.sum())
    return {
        "sites": sites, **_spread("warm_s", [wall for wall, _ in warm]),
        **_spread("plan_s", [wall for wall, _ in full]), "cold_s": cold_s, "gap": gap,
        **_spread("fleet_plan_s", [wall for _, wall, _ in fleets]),
        "warm_cpu_s": float(np.median([cpu for _, cpu in warm])),
        "plan_cpu_s": float(np.median([cpu for _, cpu in full])), "cold_cpu_s": cold_cpu_s,
        "fleet_cpu_s": float(np.median([cpu for _, _, cpu in fleets])), "fleet_gap": fleet_gap,
    }  # fmt: skip


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {name: float(np.median(values)), f"{name}_min": min(values), f"{name}_max": max(values)}


def _one_site() -> None:
    """A site of 10 banks and 20 jobs on 30 steps, as a backtest plans it every quarter of an hour."""
    p = hard_problem(1, banks=10, jobs=20, minutes=(15,) * 12 + (30,) * 6 + (60,) * 12)
    now, _, cold_cpu = _timed(partial(plan, p, iterations=150, sweeps=2, enough=ENOUGH))
    least = p._replace(sites=p.sites._replace(price=p.sites.price * 1.01))
    runs, calls = [], []
    for _ in range(20):
        duals, before = shift(now.duals, p.grid, 0.0), carried(now, p.grid, 0.0)
        runs.append(_timed(partial(plan, least, duals, before, iterations=ITERATIONS, sweeps=2, enough=ENOUGH))[2])
        calls.append(_timed(partial(dispatch, least, duals, before, iterations=0))[2])
    print(
        f"one site, 10 banks and 20 jobs, 30 steps (processor time): warm plan {1e3 * np.median(runs):.2f} ms, "
        f"dispatch {1e3 * np.median(calls):.2f} ms, cold {1e3 * cold_cpu:.0f} ms"
    )


def _cold(made: Plant, moment: Moment, threads: int) -> tuple[object, Plan]:
    problem = assemble(made, moment)
    shakes = SHAKES // len(problem.sites.price)
    return problem, plan(
        problem, iterations=150, refine=REFINE_COLD, sweeps=2, shakes=shakes, enough=ENOUGH, threads=threads
    )


def _warm(made: Plant, moment: Moment, last: Plan, left: F8, threads: int) -> tuple[Plan, F8]:
    """A minute's full plan, and the gap that the last search of each site has left, (S,)."""
    problem = assemble(made, moment)
    duals, before = shift(last.duals, problem.grid, 1.0), carried(last, problem.grid, 1.0)
    near = np.maximum(ENOUGH, GROWN * left)
    now = plan(
        problem, duals, before, iterations=ITERATIONS, refine=REFINE_WARM, sweeps=2, enough=near, threads=threads
    )
    gaps = _gaps(now)
    return now, np.where(gaps > near, gaps, np.minimum(left, gaps))


def _gaps(now: Plan) -> F8:
    return (now.bound_usd - now.profit_usd) / np.abs(now.bound_usd)


def _dispatch(made: Plant, moment: Moment, last: Plan, threads: int) -> object:
    problem = assemble(made, moment)
    duals, before = shift(last.duals, problem.grid, 1.0), carried(last, problem.grid, 1.0)
    return dispatch(problem, duals, before, iterations=3, threads=threads)


def _next_minute(made: Plant, m: Moment, now: Plan) -> Moment:
    """A minute on: the dispatch carried out, work done, dwell and boots run down, the price turned every quarter."""
    minute = 1.0 / 60.0
    state = now.phase[:, 0]
    on = state != OFF
    started, stopped = on & (m.on == 0), ~on & (m.on == 1)
    booting = np.where(started, made.boot_h, m.booting_h)
    locked = np.where(started, np.maximum(made.min_up_h, made.boot_h), np.where(stopped, made.min_down_h, m.locked_h))
    work = np.where(np.isfinite(m.work_h), np.maximum(m.work_h - np.where(state == RUN, minute, 0.0), minute), np.inf)
    age = m.price_age_h + minute
    turned = age >= m.price_interval_h - 1e-9
    return m._replace(
        price=np.ascontiguousarray(m.price[:, 1:]) if turned else m.price, price_age_h=0.0 if turned else age,
        on=on.astype(np.uint8), booting_h=np.where(state == BOOT, np.maximum(booting - minute, 0.0), 0.0),
        locked_h=np.maximum(locked - minute, 0.0), work_h=work, deadline_h=m.deadline_h - minute,
    )  # fmt: skip


def _shed_ms() -> list[float]:
    """30 MW off each of 1,000 sites of 3 feeders and 30 units, one feeder short of room besides."""
    rng = np.random.default_rng(0)
    sites, units = 1_000, 30_000
    parent = np.full(3 * sites, -1, np.int32)
    parent[1::3] = parent[2::3] = np.arange(0, 3 * sites, 3)
    feeder = (3 * (np.arange(units) % sites) + rng.integers(0, 3, units)).astype(np.int32)
    mw = rng.uniform(0.5, 3.0, units)
    need = np.where(parent < 0, 30.0, 0.0)
    need[1::3] = 4.0
    tree = Tree(parent, feeder, dearest_first(rng.uniform(20, 400, units)))
    device = np.full(units, 0.0035)
    runs = [_timed(partial(shed, tree, mw, device, need))[1] for _ in range(20)]
    return [1e3 * run for run in runs[1:]]


def _copy(duals: Duals) -> Duals:
    return Duals(duals.row.copy(), duals.job.copy(), duals.guess.copy())


def _timed(run: Callable[[], R]) -> tuple[R, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    value = run()
    return value, time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
