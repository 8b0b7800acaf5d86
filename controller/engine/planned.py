"""Economics by plan: what the optimiser would have every site do over the next day, and of that the first minute.

The plan only proposes. Its first minute is served by the same filling as merit order (`economics.dispatch`): after firm
work and all that the rules demand, within every limit, in whole devices. Where there is nothing to plan with, or the
plan is too far from its proven bound, merit order decides, and the decision says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from contract.messages import Job
from contract.units import MS_PER_HOUR, W_PER_MW
from controller.engine import economics
from controller.engine.batch import Start, begin, carried_on, left_of, problem
from controller.engine.economics import Dispatch, Late
from controller.engine.facts import Site, Steering
from controller.engine.model import PlanNote
from controller.engine.optimiser import solver
from controller.engine.optimiser.layout import OFF, RUN, U1, Problem
from controller.engine.optimiser.solver import Plan
from controller.engine.outlook import PricePaths
from controller.engine.pose import GRID, STEPS, Posed, TooLargeError, Unit, due_and_left_h, pose
from controller.engine.rules import Envelope
from controller.engine.wish import BankWish, JobWish, Wish

WARM_ITERATIONS: Final = 3
COLD_ITERATIONS: Final = 120
SWEEPS: Final = 2
ENOUGH: Final = 1e-3
"""A plan this near to its bound, as a share of it, is left as it is."""
RETRY_GAP: Final = 0.01
"""A plan carried on that is further off is made anew from nothing."""
TRUST_GAP: Final = 0.05
"""And one that is still further off than this is not followed."""

NO_PRICE: Final = "price_unknown"
NO_OUTLOOK: Final = "outlook_unknown"
TOO_LARGE: Final = "too_large"
GAP: Final = "gap"
"""Why merit order decided in the plan's place."""

Case = tuple[Site, Envelope]


def dispatch(site: Site, envelope: Envelope) -> Dispatch:
    """`Economics` for one site."""
    return dispatch_all([(site, envelope)])[0]


def dispatch_all(cases: Sequence[Case]) -> list[Dispatch]:
    """The dispatches of many sites, planned together. What one is given does not depend on the others."""
    return [_serve(site, envelope, wish) for (site, envelope), wish in zip(cases, wishes(cases), strict=True)]


def wishes(cases: Sequence[Case]) -> list[Wish | str]:
    """What the plan wants of every site, or why it wants nothing: a code."""
    out: list[Wish | str] = []
    posed: list[tuple[int, Posed]] = []
    prices = PricePaths(GRID)
    for place, (site, envelope) in enumerate(cases):
        found = _pose(site, envelope, prices)
        if isinstance(found, Posed):
            posed.append((place, found))
            out.append(NO_OUTLOOK)
        else:
            out.append(found)
    for place, wish in _planned(posed):
        out[place] = wish
    return out


def _pose(site: Site, envelope: Envelope, prices: PricePaths) -> Posed | Wish | str:
    if site.steering is not Steering.AUTO:
        return Wish(carry=site.snapshot.carry)
    if site.price is None or site.hashprice is None:
        return NO_PRICE
    price = prices.of(site)
    if price is None:
        return NO_OUTLOOK
    try:
        found = pose(site, envelope, price)
    except TooLargeError:
        return TOO_LARGE
    return found if found.units else Wish()


def _planned(posed: Sequence[tuple[int, Posed]]) -> list[tuple[int, Wish | str]]:
    """Plan all of them: those with a plan to carry on, then those without and those it served badly."""
    starts = [(place, one, begin(one)) for place, one in posed]
    done: list[tuple[int, Wish | str]] = []
    cold = [(place, one) for place, one, start in starts if start is None]
    warm = [(place, one, start) for place, one, start in starts if start is not None]
    for place, one, read in _solve([(place, one, start) for place, one, start in warm]):
        if read.gap > RETRY_GAP:
            cold.append((place, one))
        else:
            done.append((place, read))
    for place, _, read in _solve([(place, one, None) for place, one in cold]):
        done.append((place, read if read.gap <= TRUST_GAP else GAP))
    return done


def _solve(starts: Sequence[tuple[int, Posed, Start | None]]) -> list[tuple[int, Posed, Wish]]:
    """Plan sites that are all warm, or all cold."""
    if not starts:
        return []
    p = problem([one for _, one, _ in starts])
    if starts[0][2] is None:
        made = solver.plan(p, iterations=COLD_ITERATIONS, sweeps=SWEEPS, enough=ENOUGH)
    else:
        duals, before = carried_on(p, [start for _, _, start in starts if start is not None])
        made = solver.plan(p, duals, before, iterations=WARM_ITERATIONS, sweeps=SWEEPS, enough=ENOUGH)
    return [(place, one, _read(p, made, s, one)) for s, (place, one, _) in enumerate(starts)]


def _read(p: Problem, made: Plan, s: int, one: Posed) -> Wish:
    """The first minute of a site's plan."""
    units, rows = slice(*p.sites.unit_from[s : s + 2]), slice(*p.sites.row_from[s : s + 2])
    wish = Wish(gap=_gap(p, made, s, units), carry=left_of(one, made, units, rows, s))
    phase, power = made.phase[units], made.power_mw[units]
    for unit, path, mw in zip(one.units, phase, power, strict=True):
        runs = bool(path[0] != OFF)
        turns = np.flatnonzero((path != OFF) != runs)
        until_ms = one.site.at_ms + round(GRID.edge_h[turns[0]] * MS_PER_HOUR) if len(turns) else None
        if unit.job is not None:
            wish.jobs[unit.bank, unit.job.id] = JobWish(runs, until_ms)
            _note_late(wish, one, unit, path)
        elif not unit.locked:
            target_w = round(float(mw[np.argmax(path == RUN)]) * W_PER_MW) if runs else 0
            wish.banks[unit.bank] = BankWish(max(target_w, unit.least_w) if runs else 0, unit.least_w, until_ms)
    return wish


def _gap(p: Problem, made: Plan, s: int, units: slice) -> float:
    """The certified gap as a share of the bound, or of a hundredth of all that the units could earn where the bound is
    nearly nothing."""
    usd_h = np.maximum(p.units.level_usd_h[units, -1], p.units.work_usd[units]).sum()
    scale = max(abs(float(made.bound_usd[s])), 0.01 * float(usd_h) * float(GRID.edge_h[-1]), 1e-6)
    return round(max(0.0, float(made.bound_usd[s] - made.profit_usd[s])) / scale, 6)


def _note_late(wish: Wish, one: Posed, unit: Unit, path: U1) -> None:
    """A batch job whose work the plan does not get done in time, by more than the coarseness of its steps."""
    if unit.job is None or unit.due_h > GRID.edge_h[-1]:
        return
    _, left_h = due_and_left_h(one.site, unit.job)
    done_h = float(GRID.hours[path == RUN].sum())
    step = min(int(np.searchsorted(GRID.edge_h, unit.due_h, side="right")), STEPS) - 1
    if left_h is not None and done_h + float(GRID.hours[max(step, 0)]) < left_h:
        wish.late.append((unit.bank, unit.job, "limits, or what earns more, leave it too little time"))


def _serve(site: Site, envelope: Envelope, wish: Wish | str) -> Dispatch:
    if isinstance(wish, str):
        chosen = economics.dispatch(site, envelope)
        chosen.note, chosen.carry = PlanNote(fallback=wish), site.snapshot.carry
        if wish != NO_PRICE:
            for outcome in chosen.outcomes:
                outcome.cause = f"merit_order:{wish}"
        return chosen
    chosen = economics.dispatch(site, envelope, wish)
    chosen.note, chosen.carry = PlanNote(gap=wish.gap), wish.carry
    chosen.late = [Late(bank, job, detail) for bank, job, detail in (*_hopeless(site), *wish.late)]
    return chosen


def _hopeless(site: Site) -> Iterator[tuple[int, Job, str]]:
    """Jobs that could not be done in time if they ran from now on."""
    for i, bank in enumerate(site.banks):
        for job in bank.work.jobs if bank.work is not None else ():
            due_h, left_h = due_and_left_h(site, job)
            if due_h is not None and left_h is not None and left_h > due_h:
                yield i, job, "it has more work left than time, even if it runs from now on"
