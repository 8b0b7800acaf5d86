"""Economics by plan: what the optimiser would have every site do over the next day, and of that the first minute.

The plan only proposes. Its first minute is served by the same filling as merit order (`economics.dispatch`): after firm
work and all that the rules demand, within every limit, in whole devices. Where there is nothing to plan with, or the
plan is too far from its proven bound, merit order decides, and the decision says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.messages import Job, JobState
from contract.units import MS_PER_HOUR, W_PER_MW
from controller.engine import economics
from controller.engine.batch import Start, begin, carried_on, from_nothing, left_of, problem
from controller.engine.carry import Carry, pack
from controller.engine.economics import Dispatch, Late
from controller.engine.facts import Site, Steering
from controller.engine.model import PlanNote
from controller.engine.optimiser import solver
from controller.engine.optimiser.layout import NO_LIMIT_MW, OFF, RUN, Duals, Problem
from controller.engine.optimiser.solver import Plan
from controller.engine.outlook import PricePaths
from controller.engine.pose import EDGE_H, GRID, STEPS, Posed, TooLargeError, Unit, due_and_left_h, pose
from controller.engine.rules import Envelope
from controller.engine.second import worth_of
from controller.engine.wish import BankWish, JobWish, Wish

WARM_ITERATIONS: Final = 3
COLD_ITERATIONS: Final = 120
WARM_SWEEPS: Final = 2
COLD_SWEEPS: Final = 6
AWARD_SHAKES: Final = 60
ENOUGH: Final = 1e-3
"""A plan made anew that is this near to its bound, as a share of it, is left as it is."""
ENOUGH_WARM: Final = 4e-3
GROWN: Final = 1.25
"""One carried on is searched for better only where its gap is above this, and has since the last search grown by so
much, or by `TRUST_GAP`: the search takes ten times as long as all else, and where jobs come whole a gap may never
close."""
KEEP: Final = 2e-4
"""A standing plan is kept unless another earns more by this share of the bound."""
RETRY_GAP: Final = 0.01
"""A plan that is still further off after the search is made anew from nothing; the best of all is kept."""
TRUST_GAP: Final = 0.02
"""A plan that is further off than this is held against merit order's first minute, planned on from."""
WORSE_SHARE: Final = 1e-3
GAP_MAX: Final = 1e6

NO_PRICE: Final = "price_unknown"
NO_OUTLOOK: Final = "outlook_unknown"
TOO_LARGE: Final = "too_large"
WORSE: Final = "plan_worse"
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
    for place, wish in _planned(posed, cases):
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


@dataclass(slots=True)
class _Found:
    """A plan of one site, the tightest bound that was proven for its problem, and what the two leave."""

    wish: Wish
    bound_usd: float
    floor_usd: float
    """The least that a gap is a share of."""
    left: Carry

    @property
    def profit_usd(self) -> float:
        return self.wish.profit_usd

    @property
    def gap(self) -> float:
        return _gap(self.bound_usd, self.profit_usd, self.floor_usd)


def _planned(posed: Sequence[tuple[int, Posed]], cases: Sequence[Case]) -> list[tuple[int, Wish | str]]:
    """Plan all of them: carry plans on; search where that leaves one further from its bound than it was; begin anew
    where there is none to carry on, or searching was of no use."""
    starts = [(place, one, begin(one)) for place, one in posed]
    warm = [(place, one, start) for place, one, start in starts if start is not None]
    cold = [(place, one) for place, one, start in starts if start is None]
    stood = {place: start.carry.gap for place, _, start in warm}
    grown = {place: max(ENOUGH_WARM, min(GROWN * gap, gap + TRUST_GAP)) for place, gap in stood.items()}
    found: dict[int, _Found] = {}
    _keep(found, warm, _carry_on(warm))
    search = [each for each in warm if found[each[0]].gap > grown[each[0]]]
    rests = {place: min(stood[place], found[place].gap) for place in stood.keys() - {each[0] for each in search}}
    _keep(found, search, _search(search))
    cold += [(place, one) for place, one, _ in search if found[place].gap > max(RETRY_GAP, grown[place])]
    _keep(found, cold, _anew([one for _, one in cold]))
    out: list[tuple[int, Wish | str]] = []
    for place, one in posed:
        made = found[place]
        made.wish.gap = made.gap
        made.wish.carry = pack(replace(made.left, gap=rests.get(place, made.gap)))
        sure = max(TRUST_GAP, grown.get(place, 0.0))
        out.append((place, _checked(one, cases[place][1], made.wish, sure)))
    return out


def _keep(found: dict[int, _Found], asked: Sequence[tuple[Any, ...]], plans: Sequence[_Found]) -> None:
    """The better of what was found and what is new, and the tighter bound of either with the prices that prove it: a
    plan that is left with prices that no longer fit would look worse every minute, and not be looked at again."""
    for (place, *_), new in zip(asked, plans, strict=True):
        old = found.get(place, new)
        best = new if new.profit_usd > old.profit_usd else old
        tight = new if new.bound_usd < old.bound_usd else old
        priced = replace(
            best.left, guess=tight.left.guess, work_price=tight.left.work_price, row_price=tight.left.row_price
        )
        found[place] = _Found(best.wish, tight.bound_usd, best.floor_usd, priced)


def _carry_on(starts: Sequence[tuple[int, Posed, Start]]) -> list[_Found]:
    """The standing plan, or one placed anew at the standing prices where that is nearer to the bound by so much that a
    change can be defended. No search: this is what nearly every minute comes to."""
    if not starts:
        return []
    sites = [one for _, one, _ in starts]
    p = problem(sites)
    duals, before = carried_on(p, [start for _, _, start in starts])
    stands = solver.plan(p, duals, before, iterations=WARM_ITERATIONS, sweeps=0)
    floor = np.array([_floor_usd(p, s) for s in range(len(sites))])
    gap = [
        _gap(float(b), float(v), float(f)) for b, v, f in zip(stands.bound_usd, stands.profit_usd, floor, strict=True)
    ]
    loose = np.array(gap) > ENOUGH
    if not loose.any():
        return _read(p, stands, sites)
    duals = Duals(duals.row.copy(), duals.job.copy(), duals.guess.copy())
    placed = solver.plan(p, duals, None, iterations=1, sweeps=0)
    better = loose & (placed.profit_usd - stands.profit_usd > KEEP * np.maximum(np.abs(stands.bound_usd), floor))
    unit = np.repeat(better, np.diff(p.sites.unit_from))[:, None]
    made = Plan(
        np.where(unit, placed.power_mw, stands.power_mw),
        np.where(unit, placed.phase, stands.phase),
        np.where(better, placed.profit_usd, stands.profit_usd),
        np.minimum(placed.bound_usd, stands.bound_usd),
        stands.duals,
    )
    return _read(p, made, sites)


def _search(starts: Sequence[tuple[int, Posed, Start]]) -> list[_Found]:
    """The standing plan, bettered by sweeps."""
    if not starts:
        return []
    sites = [one for _, one, _ in starts]
    p = problem(sites)
    duals, before = carried_on(p, [start for _, _, start in starts])
    made = solver.plan(p, duals, before, iterations=WARM_ITERATIONS, sweeps=WARM_SWEEPS, enough=ENOUGH)
    return _read(p, made, sites)


def _anew(sites: Sequence[Posed]) -> list[_Found]:
    """Plans from nothing. Which set of banks arms a reserve is found by trying sets, not by bettering one at a time."""
    found: dict[int, _Found] = {}
    for shakes in (0, AWARD_SHAKES):
        mine = [i for i, one in enumerate(sites) if one.awarded == bool(shakes)]
        if mine:
            p = problem([sites[i] for i in mine])
            made = solver.plan(
                p, from_nothing(p), iterations=COLD_ITERATIONS, sweeps=COLD_SWEEPS, shakes=shakes, enough=ENOUGH
            )
            found |= zip(mine, _read(p, made, [sites[i] for i in mine]), strict=True)
    return [found[i] for i in range(len(sites))]


def _checked(one: Posed, envelope: Envelope, wish: Wish, sure_gap: float) -> Wish | str:
    """The wish, unless it is not proven good and merit order's first minute is the better begin."""
    if wish.gap <= sure_gap:
        return wish
    worth_usd = worth_of(one, economics.dispatch(one.site, envelope))
    return wish if wish.profit_usd >= worth_usd - WORSE_SHARE * abs(worth_usd) else WORSE


def _read(p: Problem, made: Plan, sites: Sequence[Posed]) -> list[_Found]:
    """The first minute of every site's plan, and what it leaves."""
    on = made.phase != OFF
    turns = on != on[:, :1]
    turn_h = np.where(turns.any(axis=1), GRID.edge_h[turns.argmax(axis=1)], np.inf).tolist()
    runs = on[:, 0].tolist()
    run = made.phase == RUN
    first_mw = np.take_along_axis(made.power_mw, run.argmax(axis=1)[:, None], axis=1)[:, 0].tolist()
    out, n = [], 0
    for s, one in enumerate(sites):
        units, rows = slice(*p.sites.unit_from[s : s + 2]), slice(*p.sites.row_from[s : s + 2])
        wish = Wish(profit_usd=float(made.profit_usd[s]))
        left = left_of(p, one, made, units, rows, s, gap=0.0)
        out.append(_Found(wish, float(made.bound_usd[s]), _floor_usd(p, s), left))
        armed = one.awarded and bool(one.rows[-1].cap[0] < NO_LIMIT_MW)
        for unit in one.units:
            until_ms = one.site.at_ms + round(turn_h[n] * MS_PER_HOUR) if turn_h[n] < np.inf else None
            if unit.job is not None:
                waits = runs[n] or _worth_waiting(p, made, one, n, up=unit.job.state is JobState.RUNNING)
                if waits is not None:
                    wish.jobs[unit.bank, unit.job.id] = JobWish(runs[n], until_ms, may=not waits)
                _note_late(wish, one, unit, run[n])
            elif not unit.locked:
                target_w = max(round(first_mw[n] * W_PER_MW), unit.least_w) if runs[n] else 0
                wish.banks[unit.bank] = BankWish(target_w, unit.least_w, until_ms, exact=armed)
            n += 1
    return out


def _worth_waiting(p: Problem, made: Plan, one: Posed, n: int, *, up: bool) -> bool | None:
    """Whether the hours that a job is planned in are cheaper than now, or for one that is still to start than those
    straight from now on, limits priced in, by more than the hysteresis band. None where it is not planned at all."""
    u = p.units
    runs = made.phase[n] == RUN
    if not np.isfinite(u.work_h[n]):
        return True
    if not runs.any():
        return None
    if one.awarded and _arms(p, made, one, n, runs):
        return True
    cost = one.price * u.meter_share[n]
    for k in range(u.row_from[n], u.row_from[n + 1]):
        cost = cost + made.duals.row[u.rows[k]] * u.weight[k]
    first = np.clip(u.work_h[n] - GRID.edge_h[:-1], 0.0, GRID.hours)
    at_once = float(cost @ first / first.sum())
    planned = float(cost[runs] @ GRID.hours[runs] / GRID.hours[runs].sum())
    dearest = float(cost[0]) if up else max(at_once, float(cost[0]))
    return dearest - planned > one.site.params.hysteresis_usd_per_mwh * float(u.meter_share[n])


def _arms(p: Problem, made: Plan, one: Posed, n: int, runs: NDArray[np.bool_]) -> bool:
    """Whether a reserve would be short in the hours that the job is planned in, were it not there."""
    site = int(np.searchsorted(p.sites.unit_from, n, side="right")) - 1
    units = slice(*p.sites.unit_from[site : site + 2])
    armed_mw = p.units.meter_share[units] @ made.power_mw[units]
    left_mw = armed_mw - p.units.meter_share[n] * made.power_mw[n]
    return bool((runs & (left_mw < -one.rows[-1].cap - EDGE_H)).any())


def _gap(bound_usd: float, profit_usd: float, floor_usd: float) -> float:
    """The certified gap as a share of the bound, or of its floor where that is more."""
    gap = (bound_usd - profit_usd) / max(abs(bound_usd), floor_usd)
    return round(min(max(0.0, gap), GAP_MAX), 6) if np.isfinite(gap) else GAP_MAX


def _floor_usd(p: Problem, s: int) -> float:
    """A tenth of all that the units could earn: a site that only just pays is not planned badly for a few dollars."""
    units = slice(*p.sites.unit_from[s : s + 2])
    usd_h = np.maximum(p.units.level_usd_h[units, -1], p.units.work_usd[units]).sum()
    return max(0.1 * float(usd_h) * float(GRID.edge_h[-1]), 1e-6)


def _note_late(wish: Wish, one: Posed, unit: Unit, runs: NDArray[np.bool_]) -> None:
    """A batch job that the plan keeps waiting and does not get done in time, by more than its steps are coarse."""
    if unit.job is None or unit.due_h > GRID.edge_h[-1] or runs[0]:
        return
    _, left_h = due_and_left_h(one.site, unit.job)
    done_h = float(GRID.hours[runs].sum())
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
