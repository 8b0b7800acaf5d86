"""One peer on some sites, in this process: `python -m bench.peer NAME PROBLEM SITES LIMIT_S MEMORY_B` (bench/peers.py).

Modelling counts, for a minute's decision needs it too. linopy solves the problem as docs/optimiser.md states it; PyPSA
knows no boots, no dwell on uneven steps and one efficiency a unit, so it solves an easier one, which is in its favour.
The last line is JSON: `seconds, note`.
"""

from __future__ import annotations

import importlib
import json
import logging
import pickle
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.referee import TINY_H, optimum
from controller.engine.optimiser.layout import LEVELS, Problem

GAP: Final = 1e-3
"""The gap at which a peer may stop, the one this optimiser is held to."""


def main() -> None:
    """Model and solve within the memory given, and print how it went."""
    name, file, sites, limit_s, memory_b = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_b), int(memory_b)))
    problem: Problem = pickle.loads(Path(file).read_bytes())  # noqa: S301  written by the bench that started this
    for noisy in ("linopy", "pypsa"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # about versions of theirs to come
    began = time.perf_counter()
    note = RUNS[name](problem, range(int(sites)), float(limit_s), GAP)
    print(json.dumps({"seconds": time.perf_counter() - began, "note": note}))


def _highs(p: Problem, sites: range, limit_s: float, gap: float, *, integer: bool) -> str:
    best = optimum(p, sites=sites, integer=integer, limit_s=limit_s, gap=gap)
    return f"{best.profit_usd:.0f} USD" if best.proven else f"not ended within {limit_s:.0f} s"


def _linopy(p: Problem, sites: range, limit_s: float, gap: float) -> str:
    """The formulation of docs/optimiser.md, all steps and units of the sites as arrays."""
    linopy: Any = importlib.import_module("linopy")
    pd: Any = importlib.import_module("pandas")
    xr: Any = importlib.import_module("xarray")
    u, h, edge = p.units, p.grid.hours, p.grid.edge_h
    units = range(p.sites.unit_from[sites.start], p.sites.unit_from[sites.stop])
    n, steps = np.asarray(units), len(h)
    site_of = np.repeat(np.arange(len(p.sites.price)), np.diff(p.sites.unit_from))[n]

    def array(values: Any, *dims: str) -> Any:
        sizes = {"n": n, "t": np.arange(steps), "s": np.arange(steps), "k": np.arange(LEVELS - 1)}
        return xr.DataArray(values, dims=dims, coords={d: sizes[d] for d in dims})

    m = linopy.Model()
    at = {"coords": [pd.Index(n, name="n"), pd.RangeIndex(steps, name="t")]}
    on = m.add_variables(binary=True, name="on", **at)
    m.add_constraints(on <= array(u.open[n].astype(float), "n", "t"))
    start = m.add_variables(lower=0.0, upper=1.0, name="start", **at)
    more = m.add_variables(lower=0.0, coords=[*at["coords"], pd.RangeIndex(LEVELS - 1, name="k")], name="more")
    begun = start.rename(t="s")
    passed = edge[None, :-1] - edge[:-1, None]
    within = (passed >= 0) & (passed < u.min_up_h[n][:, None, None] - TINY_H) | np.eye(steps, dtype=bool)
    boots = (passed >= 0) & (passed < u.boot_h[n][:, None, None] - TINY_H)
    first = np.zeros((len(n), steps))
    first[:, 0] = u.on[n]
    m.add_constraints(on - on.shift(t=1) - start <= array(first, "n", "t"))
    m.add_constraints((begun * array(within.astype(float), "n", "s", "t")).sum("s") - on <= 0)
    for lag in range(1, steps):
        shut = (passed.diagonal(lag) < u.min_down_h[n][:, None] - TINY_H).astype(float)
        if not shut.any():
            break
        late = on.shift(t=-lag)
        mask = np.zeros((len(n), steps), bool)
        mask[:, : steps - lag] = shut > 0
        mask[:, 0] &= u.on[n] == 1
        m.add_constraints(late - on + on.shift(t=1) <= array(1.0 - first, "n", "t"), mask=array(mask, "n", "t"))
    runs = on - (begun * array(boots.astype(float), "n", "s", "t")).sum("s")
    span = np.diff(u.level_mw[n], axis=1)
    m.add_constraints(more - runs * array(span, "n", "k") <= 0)
    least, idle = u.level_mw[n, 0], u.idle_mw[n]
    power = on * array(least - idle, "n") + more.sum("k")
    price = p.sites.price[site_of] * u.meter_share[n][:, None]
    slope = np.diff(u.level_usd_h[n], axis=1) / np.maximum(span, 1e-9)
    gain = (runs * array(u.level_usd_h[n, 0], "n") - power * array(price, "n", "t")) * array(h, "t")
    total = gain.sum() + (more * array(slope, "n", "k") * array(h, "t")).sum()
    total = total - (start * array(u.start_usd[n], "n")).sum()
    jobs = n[np.isfinite(u.work_h[n])]
    if len(jobs):
        is_job = {"n": jobs}
        paid = m.add_variables(lower=0.0, upper=array(u.work_h[n], "n").sel(is_job), name="paid")
        rate = np.diff(u.level_rate[n], axis=1) / np.maximum(span, 1e-9)
        worked = (runs * array(u.level_rate[n, 0], "n") * array(h, "t")).sum("t")
        worked = worked + (more * array(rate, "n", "k") * array(h, "t")).sum(["t", "k"])
        m.add_constraints(paid - worked.sel(is_job) <= 0)
        total = total + (paid * array(u.work_usd[n], "n").sel(is_job)).sum()
    for r in range(p.sites.row_from[sites.start], p.sites.row_from[sites.stop]):
        k = np.flatnonzero(u.rows == r)
        owner = np.searchsorted(u.row_from, k, side="right") - 1
        weight = xr.DataArray(u.weight[k], dims="n", coords={"n": owner})
        over = m.add_variables(lower=0.0, coords=[at["coords"][1]], name=f"over{r}")
        drawn = (power.sel(n=owner) * weight).sum("n")
        rest = p.rows.cap[r] - float(u.weight[k] @ u.idle_mw[owner])
        m.add_constraints(drawn - over <= array(rest, "t"))
        total = total - (over * array(h * p.rows.penalty[r], "t")).sum()
    m.add_objective(-1 * total)
    _, condition = m.solve("highs", output_flag=False, time_limit=limit_s, mip_rel_gap=gap, threads=1)
    fixed = float((h * price * idle[:, None]).sum() + u.miss_usd[n].sum())
    return f"{-m.objective.value - fixed:.0f} USD" if condition == "optimal" else str(condition)


def _pypsa(p: Problem, sites: range, limit_s: float, gap: float) -> str:
    """Buses for meters and feeders, committable generators of sign -1 for units, one at the meter for the market."""
    pypsa: Any = importlib.import_module("pypsa")
    u, steps = p.units, len(p.grid.hours)
    net = pypsa.Network(snapshots=range(steps))
    for column in net.snapshot_weightings.columns:
        net.snapshot_weightings[column] = p.grid.hours
    for s in sites:
        meter, last = int(p.sites.row_from[s]), int(p.sites.row_from[s + 1])
        net.add("Bus", f"meter {s}")
        net.add("Generator", f"grid {s}", bus=f"meter {s}", p_nom=float(p.rows.cap[meter].max()),
                p_max_pu=p.rows.cap[meter] / p.rows.cap[meter].max(), marginal_cost=p.sites.price[s])  # fmt: skip
        for r in range(meter + 1, last):
            net.add("Bus", f"feeder {r}")
            net.add("Link", f"feeder {r}", bus0=f"meter {s}", bus1=f"feeder {r}", p_nom=float(p.rows.cap[r].min()))
        for n in range(p.sites.unit_from[s], p.sites.unit_from[s + 1]):
            mw, job = float(u.level_mw[n, -1]), bool(np.isfinite(u.work_h[n]))
            earned = float(u.work_usd[n] if job else u.level_usd_h[n, -1]) / mw
            limits = {"e_sum_max": float(u.work_h[n]) * mw} if job else {}
            feeder = int(u.rows[u.row_from[n] + 1])
            net.add("Generator", f"unit {n}", bus=f"feeder {feeder}", sign=-1, p_nom=mw, committable=True,
                    p_min_pu=float(u.level_mw[n, 0]) / mw, marginal_cost=-earned, start_up_cost=float(u.start_usd[n]),
                    p_max_pu=u.open[n].astype(float), up_time_before=int(u.on[n]), **limits)  # fmt: skip
    options = {"output_flag": False, "time_limit": limit_s, "mip_rel_gap": gap, "threads": 1}
    _, condition = net.optimize(solver_name="highs", solver_options=options)
    return "an easier problem" if condition == "optimal" else str(condition)


RUNS: Final[Mapping[str, Callable[[Problem, range, float, float], str]]] = {
    "relaxation": partial(_highs, integer=False),
    "exact": partial(_highs, integer=True),
    "linopy": _linopy,
    "pypsa": _pypsa,
}


if __name__ == "__main__":
    main()
