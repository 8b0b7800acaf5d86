"""Who judges a plan: a checker in plain Python that recomputes it from the problem, and HiGHS, which knows the optimum.

Neither shares code with the kernels; both read docs/optimiser.md's formulation. HiGHS is a referee, never an engine.

`python -m bench.referee --seeds 0-199` plans random sites small enough for an exact solution (3 to 8 banks, up to 4
jobs, `bench.problems.hard_problem`) and says how far below the optimum the plans are, in percent of it. The last line
is JSON: `sites, median, mean, worst, worst_seed, infeasible` (plans that break a rule, or exceed a limit where the
optimum exceeds none), `unproven` (sites HiGHS did not end on), `plan_s` (processor time of a plan, mean).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import highspy
import numpy as np

from bench.problems import hard_problem
from controller.engine.optimiser.layout import BOOT, F8, LEVELS, OFF, RUN, U1, Problem
from controller.engine.optimiser.solver import Plan, plan

TINY_MW = 1e-6
TINY_H = 1e-9
SHAKES = 400


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=_seeds, default=range(200), metavar="FROM-TO", help="both included")
    parser.add_argument("--shakes", type=int, default=SHAKES, help="how long a plan is searched for better")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds HiGHS may take for one site")
    args = parser.parse_args()
    print(json.dumps(quality(args.seeds, args.shakes, args.limit)))


def quality(seeds: Iterable[int], shakes: int, limit_s: float) -> dict[str, float]:
    """Plan and judge every site; prints those above a quarter of a percent."""
    gaps: dict[int, float] = {}
    infeasible, unproven, took_s = 0, 0, 0.0
    for seed in seeds:
        p = small(seed)
        began_s = time.process_time()
        made = thorough(p, shakes)
        took_s += time.process_time() - began_s
        verdict, best = judge(p, made.power_mw, made.phase), optimum(p, limit_s=limit_s)
        if not best.proven:
            unproven += 1
            continue
        gap = gaps[seed] = 100.0 * (best.profit_usd - verdict.profit_usd) / abs(best.profit_usd)
        bad = bool(verdict.faults) or verdict.excess_mwh > TINY_MW >= best.excess_mwh
        infeasible += bad
        if gap > 0.25 or bad:
            print(f"seed {seed}: {gap:.3f} %, exceeds its limits by {verdict.excess_mwh:.3f} MWh", *verdict.faults[:3])
    found = np.array(list(gaps.values()))
    worst_seed = max(gaps, key=lambda seed: gaps[seed])
    return {
        "sites": len(gaps), "median": float(np.median(found)), "mean": float(found.mean()), "worst": gaps[worst_seed],
        "worst_seed": worst_seed, "infeasible": infeasible, "unproven": unproven,
        "plan_s": took_s / (len(gaps) + unproven),
    }  # fmt: skip


def small(seed: int) -> Problem:
    """The random site of a seed."""
    return hard_problem(seed, banks=3 + seed % 6, jobs=seed % 5)


def thorough(p: Problem, shakes: int = SHAKES) -> Plan:
    """A plan that is searched for as long as these figures say."""
    return plan(p, iterations=250, sweeps=6, shakes=shakes, enough=1e-6)


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


@dataclass(frozen=True)
class Verdict:
    """What a plan is worth, and every rule it breaks."""

    profit_usd: float
    excess_mwh: float
    """What rows are exceeded by, already charged in the profit at their penalties."""
    faults: list[str]


def judge(p: Problem, power: F8, phase: U1) -> Verdict:
    """Recompute one or all sites' plan, step by step, from nothing but the problem."""
    faults: list[str] = []
    profit = 0.0
    owner = np.repeat(np.arange(len(p.sites.price)), np.diff(p.sites.unit_from))
    use = [[0.0] * len(p.grid.hours) for _ in p.rows.penalty]
    for n in range(len(p.units.idle_mw)):
        profit += _unit(p, n, [float(x) for x in p.sites.price[owner[n]]], power[n], phase[n], faults)
        for k in range(p.units.row_from[n], p.units.row_from[n + 1]):
            for t in range(len(p.grid.hours)):
                on = p.units.on_weight[k] if phase[n, t] != OFF else 0.0
                use[p.units.rows[k]][t] += float(p.units.weight[k] * power[n, t] + on)
    excess = 0.0
    for r, row in enumerate(use):
        for t, mw in enumerate(row):
            over = max(0.0, mw - float(p.rows.cap[r, t])) * float(p.grid.hours[t])
            excess += over
            profit -= over * float(p.rows.penalty[r])
    return Verdict(profit, excess, faults)


def _unit(p: Problem, n: int, price: list[float], power: F8, phase: U1, faults: list[str]) -> float:
    u = p.units
    mw = [float(x) for x in u.level_mw[n]]
    value, done = 0.0, 0.0
    was_on = bool(u.on[n])
    for t, hours in enumerate(p.grid.hours):
        state, watts = int(phase[t]), float(power[t])
        value -= hours * price[t] * float(u.meter_share[n]) * watts
        if state == OFF and abs(watts - u.idle_mw[n]) > TINY_MW:
            faults.append(f"unit {n} step {t}: off at {watts:.3f} MW")
        if state == BOOT and abs(watts - mw[0]) > TINY_MW:
            faults.append(f"unit {n} step {t}: boots at {watts:.3f} MW")
        if state == RUN:
            if not mw[0] - TINY_MW <= watts <= mw[-1] + TINY_MW:
                faults.append(f"unit {n} step {t}: runs at {watts:.3f} MW, outside its curve")
            value += hours * float(np.interp(watts, *_curve(mw, u.level_usd_h[n])))
            done += hours * float(np.interp(watts, *_curve(mw, u.level_rate[n])))
        if state != OFF and not u.open[n, t]:
            faults.append(f"unit {n} step {t}: on while closed")
        if state != OFF and not was_on:
            value -= float(u.start_usd[n])
        was_on = state != OFF
    _dwell(p, n, phase, faults)
    if np.isfinite(u.work_h[n]):
        value += float(u.work_usd[n]) * min(done, float(u.work_h[n])) - float(u.miss_usd[n])
    return value


def _curve(mw: list[float], values: F8) -> tuple[list[float], list[float]]:
    """Points of a curve with the levels that only repeat the last left out."""
    keep = [i for i in range(LEVELS) if i == 0 or mw[i] > mw[i - 1]]
    return [mw[i] for i in keep], [float(values[i]) for i in keep]


def _dwell(p: Problem, n: int, phase: U1, faults: list[str]) -> None:
    """Minimum up and down times, boots and the lock, told from the times at which steps begin."""
    u, edge = p.units, p.grid.edge_h
    on = bool(u.on[n])
    shut = next((float(edge[t]) for t in range(len(phase)) if not u.open[n, t]), float("inf"))
    held_to = max(float(u.locked_h[n]), float(u.booting_h[n]) if on else 0.0)
    held_to = min(held_to, shut) if on else held_to
    booted_at = min(float(u.booting_h[n]), shut) if on else 0.0
    for t in range(len(phase)):
        now = float(edge[t])
        is_on = int(phase[t]) != OFF
        if is_on != on:
            if now < held_to - TINY_H:
                faults.append(f"unit {n} step {t}: turned {'on' if is_on else 'off'} inside its dwell")
            booted_at = now + float(u.boot_h[n]) if is_on else 0.0
            held_to = max(now + float(u.min_up_h[n] if is_on else u.min_down_h[n]), booted_at)
            on = is_on
        if is_on and (int(phase[t]) == BOOT) != (now < booted_at - TINY_H):
            faults.append(f"unit {n} step {t}: {'boots' if phase[t] == BOOT else 'runs'} at the wrong time of its boot")


@dataclass
class _Model:
    """A linear model being put together."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[tuple[float, dict[int, float]]] = field(default_factory=list)
    """(at most, coefficients)"""
    constant: float = 0.0
    slack: dict[int, float] = field(default_factory=dict)
    """Variables that exceed a row, and the hours they do so for."""

    def add(self, upper: float, gain: float, *, whole: bool = False) -> int:
        self.lower.append(0.0)
        self.upper.append(upper)
        self.gain.append(gain)
        self.whole.append(whole)
        return len(self.gain) - 1


@dataclass(frozen=True)
class Optimum:
    """What HiGHS says, USD."""

    profit_usd: float
    """Of the best plan it found."""
    bound_usd: float
    """No plan earns more."""
    proven: bool
    excess_mwh: float
    """What it exceeds rows by, charged in the profit at their penalties."""


def optimum(
    p: Problem, *, sites: range | None = None, integer: bool = True, limit_s: float = 60.0, gap: float = 1e-6
) -> Optimum:
    """The exact optimum of some sites together, or of the relaxation; sites are independent, so this is their sum."""
    model = _Model()
    for site in sites if sites is not None else range(len(p.sites.price)):
        _site(p, site, model)
    make: Any = highspy.Highs
    solver = make()
    for option, value in (("output_flag", False), ("time_limit", limit_s), ("mip_rel_gap", gap), ("threads", 1)):
        solver.setOptionValue(option, value)
    solver.passModel(_lp(model, integer))
    solver.run()
    info = solver.getInfo()
    found = -info.objective_function_value + model.constant
    bound = -info.mip_dual_bound + model.constant if integer else found
    values = solver.getSolution().col_value
    excess = sum(hours * max(0.0, values[i]) for i, hours in model.slack.items()) if values else 0.0
    return Optimum(found, bound, solver.getModelStatus() == highspy.HighsModelStatus.kOptimal, float(excess))


def _site(p: Problem, site: int, model: _Model) -> None:
    row0, row1 = int(p.sites.row_from[site]), int(p.sites.row_from[site + 1])
    steps = len(p.grid.hours)
    use: list[list[dict[int, float]]] = [[{} for _ in range(steps)] for _ in range(row0, row1)]
    fixed = np.zeros((row1 - row0, steps))
    for n in range(p.sites.unit_from[site], p.sites.unit_from[site + 1]):
        _unit_model(p, site, n, model, use, fixed)
    for r in range(row0, row1):
        for t in range(steps):
            slack = model.add(np.inf, -float(p.grid.hours[t] * p.rows.penalty[r]))
            model.slack[slack] = float(p.grid.hours[t])
            model.rows.append((float(p.rows.cap[r, t] - fixed[r - row0, t]), {**use[r - row0][t], slack: -1.0}))


def _unit_model(p: Problem, site: int, n: int, model: _Model, use: list[list[dict[int, float]]], fixed: F8) -> None:
    """On u, start v, increments between levels, and a batch job's paid work, with Rajan and Takriti's windows."""
    u, h, edge = p.units, p.grid.hours, p.grid.edge_h
    steps = len(h)
    mw, usd, rate, idle = u.level_mw[n], u.level_usd_h[n], u.level_rate[n], float(u.idle_mw[n])
    price = p.sites.price[site] * u.meter_share[n]
    shut = next((float(edge[t]) for t in range(steps) if not u.open[n, t]), float("inf"))
    was_on = bool(u.on[n])
    boot_left = min(float(u.booting_h[n]), shut) if was_on else 0.0
    held = max(float(u.locked_h[n]), boot_left)
    held = min(held, shut) if was_on else held
    on = [model.add(float(u.open[n, t]), 0.0, whole=True) for t in range(steps)]
    start = [model.add(1.0, -float(u.start_usd[n])) for _ in range(steps)]
    spans = [k for k in range(1, LEVELS) if mw[k] > mw[k - 1]]
    more = [[model.add(np.inf, 0.0) for _ in spans] for _ in range(steps)]
    work: dict[int, float] = {}
    for t in range(steps):
        if edge[t] < held - TINY_H:
            model.lower[on[t]] = float(was_on)
            model.upper[on[t]] = float(was_on)
        before = {on[t - 1]: -1.0} if t else {}
        model.rows.append((0.0 if t else float(was_on), {on[t]: 1.0, start[t]: -1.0, **before}))
        up = [k for k in range(t + 1) if k == t or edge[k] + u.min_up_h[n] > edge[t] + TINY_H]
        model.rows.append((0.0, {**{start[k]: 1.0 for k in up}, on[t]: -1.0}))
        for j in range(t + 1, steps):
            if edge[j] < edge[t] + u.min_down_h[n] - TINY_H:
                stayed = {k: -v for k, v in before.items()}
                model.rows.append((1.0 - (0.0 if t else was_on), {on[j]: 1.0, on[t]: -1.0, **stayed}))
        boots = [start[k] for k in range(t + 1) if edge[t] < edge[k] + u.boot_h[n] - TINY_H]
        runs = {on[t]: 1.0, **dict.fromkeys(boots, -1.0)}
        if edge[t] < boot_left - TINY_H:
            runs = {}
        model.constant -= float(h[t] * price[t] * idle)
        model.gain[on[t]] -= float(h[t] * price[t] * (mw[0] - idle))
        for v, sign in runs.items():
            model.gain[v] += sign * float(h[t] * usd[0])
            work[v] = work.get(v, 0.0) - sign * float(h[t] * rate[0])
        for i, k in enumerate(spans):
            span = float(mw[k] - mw[k - 1])
            model.gain[more[t][i]] = float(h[t] * ((usd[k] - usd[k - 1]) / span - price[t]))
            model.rows.append((0.0, {more[t][i]: 1.0, **{v: -sign * span for v, sign in runs.items()}}))
            work[more[t][i]] = -float(h[t] * (rate[k] - rate[k - 1])) / span
        for q in range(u.row_from[n], u.row_from[n + 1]):
            r = int(u.rows[q]) - int(p.sites.row_from[site])
            weight = float(u.weight[q])
            fixed[r, t] += weight * idle
            use[r][t][on[t]] = weight * (float(mw[0]) - idle) + float(u.on_weight[q])
            for v in more[t]:
                use[r][t][v] = weight
    if np.isfinite(u.work_h[n]):
        paid = model.add(float(u.work_h[n]), float(u.work_usd[n]))
        model.rows.append((0.0, {paid: 1.0, **work}))
        model.constant -= float(u.miss_usd[n])


def _lp(model: _Model, integer: bool) -> highspy.HighsLp:
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(model.gain), len(model.rows)
    lp.col_cost_ = -np.array(model.gain)
    lp.col_lower_, lp.col_upper_ = np.array(model.lower), np.array(model.upper)
    lp.row_lower_ = np.full(len(model.rows), -np.inf)
    lp.row_upper_ = np.array([most for most, _ in model.rows])
    matrix = lp.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_ = np.concatenate([[0], np.cumsum([len(terms) for _, terms in model.rows])])
    matrix.index_ = np.fromiter((v for _, terms in model.rows for v in terms), np.int32)
    matrix.value_ = np.fromiter((a for _, terms in model.rows for a in terms.values()), np.float64)
    if integer:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[whole] for whole in model.whole]
    return lp


if __name__ == "__main__":
    main()
