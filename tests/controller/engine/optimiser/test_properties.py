"""The sentences an operator relies on, over random sites, limits and prices.

`OPTIMISER_CASES` in the environment is the number of cases a sentence; 200 unless told.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.problems import hard_problem
from bench.referee import judge
from controller.engine.optimiser.layout import BOOT, F8, NO_LIMIT_MW, OFF, RUN, U1, Problem, Units, check, moves
from controller.engine.optimiser.solver import Plan, carried, cold, excess_mw, plan, undone_h

MINUTES = (1,) * 4 + (5,) * 3 + (15,) * 4 + (60,) * 4
TINY_MW = 1e-6

sentence = settings(
    max_examples=int(os.environ.get("OPTIMISER_CASES", "200")), deadline=None, derandomize=True, database=None
)


@st.composite
def sites(draw: st.DrawFn) -> Problem:
    """A site whose caps may be anything from a third of what it needs to more than that, at prices from -500 to 9,000
    USD/MWh."""
    banks, jobs = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    p = hard_problem(draw(st.integers(0, 1_000_000)), banks=banks, jobs=jobs, minutes=MINUTES)
    scale = draw(st.sampled_from((0.3, 0.7, 1.0, 1.0, 1.3)))
    limited = (p.rows.cap > 0.0) & (p.rows.cap < NO_LIMIT_MW)
    price = p.sites.price * draw(st.sampled_from((1.0, 1.0, 1.0, 0.3, 4.0))) + draw(
        st.sampled_from((0.0, 0.0, -500.0, 9_000.0))
    )
    return p._replace(
        rows=p.rows._replace(cap=np.where(limited, p.rows.cap * scale, p.rows.cap)), sites=p.sites._replace(price=price)
    )


def _solve(p: Problem, **more: Any) -> Plan:
    return plan(p, **{"iterations": 20, "sweeps": 2, "shakes": 4, **more})


def _counts_in(p: Problem, row: int) -> list[tuple[int, float, float]]:
    """(unit, weight, on_weight) of a row."""
    owner = np.repeat(np.arange(len(p.units.on)), np.diff(p.units.row_from))
    return [
        (int(owner[k]), float(p.units.weight[k]), float(p.units.on_weight[k]))
        for k in np.flatnonzero(p.units.rows == row)
    ]


def _locked_on(p: Problem, unit: int, step: int) -> bool:
    return bool(p.units.on[unit] == 1 and step < p.moves.locked[unit])


def _firm(p: Problem) -> list[int]:
    return [n for n in range(len(p.units.on)) if p.units.level_mw[n, 0] == 0.0 and p.units.on[n] == 1]


def _idle_plan(p: Problem) -> tuple[F8, U1]:
    """Everything off as soon as its dwell allows."""
    units, steps = p.units.open.shape
    phase = np.full((units, steps), OFF, np.uint8)
    power = np.repeat(p.units.idle_mw[:, None], steps, axis=1)
    for n in np.flatnonzero(p.units.on == 1):
        phase[n, : p.moves.locked[n]] = RUN
        phase[n, : min(p.moves.booted[n], p.moves.locked[n])] = BOOT
        power[n, : p.moves.locked[n]] = p.units.level_mw[n, 0]
    return power, phase


@sentence
@given(sites())
def test_a_plan_keeps_every_rule_and_is_worth_what_it_says(p: Problem) -> None:
    """No closed unit runs, dwell and boots are held, power is on the curve; the profit is the one recomputed, and no
    more than the bound."""
    made = _solve(p)
    verdict = judge(p, made.power_mw, made.phase)
    assert verdict.faults == []
    assert not (made.phase[p.units.open == 0] != OFF).any()
    assert verdict.profit_usd == pytest.approx(made.profit_usd[0], abs=1e-4, rel=1e-9)
    assert made.profit_usd[0] <= made.bound_usd[0] + 1e-6 * (1.0 + abs(made.bound_usd[0]))


@sentence
@given(sites())
def test_no_limit_is_exceeded_while_anything_in_it_may_be_off(p: Problem) -> None:
    """Where a row is exceeded, each of its units is off, at 0 MW, or locked on at its least power."""
    made = _solve(p)
    excess = excess_mw(p, made.power_mw, made.phase)
    for r, t in np.argwhere(excess > TINY_MW):
        for unit, weight, on_weight in _counts_in(p, r):
            if weight < 0.0 or (weight == 0.0 and on_weight == 0.0):
                continue
            least = p.units.level_mw[unit, 0] if _locked_on(p, unit, t) else 0.0
            idle = p.units.idle_mw[unit]
            assert made.phase[unit, t] == OFF or made.power_mw[unit, t] <= max(least, idle) + TINY_MW or _is_award(p, r)


def _is_award(p: Problem, row: int) -> bool:
    return any(weight < 0.0 for _, weight, _ in _counts_in(p, row))


@sentence
@given(sites())
def test_firm_load_is_cut_after_all_flexible_load(p: Problem) -> None:
    """Where firm load worth its energy is not served in full, whatever else counts in the limit that binds is off, or
    locked on at its least power; but for an award, which is armed at the price it is given."""
    made = _solve(p)
    if p.sites.award[0]:
        return
    for firm in _firm(p):
        worth = p.units.level_usd_h[firm, -1] / p.units.level_mw[firm, -1]
        cut = made.power_mw[firm] < p.units.level_mw[firm, -1] - TINY_MW
        for step in np.flatnonzero(cut & (p.sites.price[0] * p.units.meter_share[firm] < worth)):
            t = int(step)
            rows = [r for r in range(len(p.rows.cap)) if any(n == firm for n, _, _ in _counts_in(p, r))]
            full = [r for r in rows if _used(p, made, r, t) >= p.rows.cap[r, t] - TINY_MW]
            assert full
            for unit, _, _ in (counted for r in full for counted in _counts_in(p, r)):
                if unit == firm or made.phase[unit, t] == OFF:
                    continue
                assert _locked_on(p, unit, t)
                assert made.power_mw[unit, t] <= p.units.level_mw[unit, 0] + TINY_MW


def _used(p: Problem, made: Plan, row: int, step: int) -> float:
    return sum(
        weight * float(made.power_mw[n, step]) + on_weight * float(made.phase[n, step] != OFF)
        for n, weight, on_weight in _counts_in(p, row)
    )


@sentence
@given(sites(), st.integers(0, 10_000))
def test_a_plan_is_worth_no_less_than_standing_down_or_carrying_on(p: Problem, seed: int) -> None:
    """Neither all off nor the last plan, carried out at the prices of now, earns more."""
    power, phase = _idle_plan(p)
    before = _solve(p)
    idle_usd = judge(p, power, phase).profit_usd
    assert before.profit_usd[0] >= idle_usd - 1e-6 * (1.0 + abs(idle_usd))
    noise = np.random.default_rng(seed).normal(0.0, 15.0, p.sites.price.shape)
    now = p._replace(sites=p.sites._replace(price=p.sites.price + noise))
    again = plan(now, before.duals, carried(before, p.grid, 0.0), iterations=3, sweeps=2)
    on_usd = judge(now, before.power_mw, before.phase).profit_usd
    assert again.profit_usd[0] >= on_usd - 1e-6 * (1.0 + abs(on_usd))


@sentence
@given(st.lists(sites(), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_sites_do_not_know_each_other(several: list[Problem], chance: Any) -> None:
    """Packed in any order, each site is planned to the byte as on its own."""
    alone = [_solve(p, shakes=0) for p in several]
    order = list(range(len(several)))
    chance.shuffle(order)
    together = _solve(_pack([several[i] for i in order]), shakes=0)
    at = 0
    for site, i in enumerate(order):
        units = len(several[i].units.on)
        assert together.power_mw[at : at + units].tobytes() == alone[i].power_mw.tobytes()
        assert together.bound_usd[site] == alone[i].bound_usd[0]
        at += units


@sentence
@given(sites(), st.randoms(use_true_random=False))
def test_the_order_in_which_units_are_named_does_not_matter(p: Problem, chance: Any) -> None:
    """Bound and profit are the same."""
    order = list(range(len(p.units.on)))
    chance.shuffle(order)
    one, other = _solve(p), _solve(_reorder(p, order))
    close = 1e-6 * (1.0 + abs(one.bound_usd[0]))
    assert other.bound_usd[0] == pytest.approx(one.bound_usd[0], abs=close)
    assert other.profit_usd[0] == pytest.approx(one.profit_usd[0], abs=close)


def _reorder(p: Problem, order: list[int]) -> Problem:
    u = p.units
    picked = [np.arange(u.row_from[n], u.row_from[n + 1]) for n in order]
    k = np.concatenate(picked)
    counts = np.array([len(x) for x in picked])
    fields: dict[str, Any] = {
        name: np.ascontiguousarray(getattr(u, name)[order])
        for name in u._fields
        if name not in ("row_from", "rows", "weight", "on_weight")
    }
    units = Units(
        **fields, row_from=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), rows=u.rows[k],
        weight=u.weight[k], on_weight=u.on_weight[k],
    )  # fmt: skip
    return p._replace(units=units, moves=moves(p.grid, units))


def _pack(several: list[Problem]) -> Problem:
    """Sites of one grid behind each other."""

    def joined(part: str, name: str) -> Any:
        return np.concatenate([getattr(getattr(p, part), name) for p in several])

    def offsets(part: str, name: str) -> Any:
        ends, found = 0, [np.zeros(1, np.int32)]
        for p in several:
            own = getattr(getattr(p, part), name)
            found.append(own[1:] + ends)
            ends += own[-1]
        return np.concatenate(found).astype(np.int32)

    first_row = np.concatenate([[0], np.cumsum([len(p.rows.cap) for p in several])])
    names = [name for name in Units._fields if name not in ("row_from", "rows")]
    units = Units(
        **{name: joined("units", name) for name in names}, row_from=offsets("units", "row_from"),
        rows=np.concatenate([p.units.rows + at for p, at in zip(several, first_row, strict=False)]).astype(np.int32),
    )  # fmt: skip
    packed = several[0]._replace(
        units=units,
        rows=several[0].rows._replace(cap=joined("rows", "cap"), penalty=joined("rows", "penalty")),
        sites=several[0].sites._replace(
            unit_from=offsets("sites", "unit_from"), row_from=offsets("sites", "row_from"),
            price=joined("sites", "price"), award=joined("sites", "award"),
        ),
        moves=moves(several[0].grid, units),
    )  # fmt: skip
    check(packed)
    return packed


def test_limits_that_contradict_locks_are_a_stated_shortfall() -> None:
    """A feeder with no room at all beside a unit that dwell keeps on: it runs at its least, and by how much is said."""
    p = hard_problem(7, banks=3, jobs=0, minutes=MINUTES)
    u = p.units._replace(on=np.ones(3, np.uint8), locked_h=np.full(3, 0.1), booting_h=np.zeros(3))
    shut = p._replace(units=u, moves=moves(p.grid, u), rows=p.rows._replace(cap=np.zeros_like(p.rows.cap)))
    made = _solve(shut)
    locked = made.phase[:, 0] != OFF
    assert locked.all()
    assert made.power_mw[:, 0] == pytest.approx(u.level_mw[:, 0])
    excess = excess_mw(shut, made.power_mw, made.phase)
    assert excess[0, 0] == pytest.approx(float(u.meter_share @ u.level_mw[:, 0]))
    assert not (made.phase[:, shut.moves.locked.max() :] != OFF).any()


def test_a_site_with_no_units_plans_nothing_and_earns_nothing() -> None:
    """An empty list of banks and jobs is no error."""
    p = hard_problem(1, banks=1, jobs=0, minutes=MINUTES)
    none = {name: np.ascontiguousarray(getattr(p.units, name)[:0]) for name in Units._fields if name != "row_from"}
    units = Units(**none, row_from=np.zeros(1, np.int32))
    empty = p._replace(
        units=units, moves=moves(p.grid, units), sites=p.sites._replace(unit_from=np.zeros(2, np.int32))
    )  # fmt: skip
    check(empty)
    made = _solve(empty)
    assert made.power_mw.shape == (0, len(MINUTES))
    assert made.profit_usd[0] == 0.0
    assert made.bound_usd[0] == 0.0


def test_a_job_without_time_is_left_undone_and_said_so() -> None:
    """Its window is over: it never runs, its penalty is charged, all of its work is reported undone."""
    p = hard_problem(1, banks=2, jobs=2, minutes=MINUTES)
    opened = p.units.open.copy()
    opened[3] = 0
    u = p.units._replace(open=opened, on=np.where(np.arange(4) == 3, 0, p.units.on).astype(np.uint8))
    late = p._replace(units=u, moves=moves(p.grid, u))
    made = _solve(late)
    assert not (made.phase[3] != OFF).any()
    assert undone_h(late, made.power_mw, made.phase)[3] == pytest.approx(u.work_h[3])


@pytest.mark.parametrize("name", ["price", "cap", "level_mw", "work_usd", "locked_h", "miss_usd", "start_usd"])
def test_what_is_not_a_number_is_refused_by_name(name: str) -> None:
    """Never a plan made of it."""
    p = hard_problem(1, banks=2, jobs=1, minutes=MINUTES)
    for part in ("sites", "rows", "units"):
        record: Any = getattr(p, part)
        if name in record._fields:
            bad = np.array(getattr(record, name), np.float64)
            bad.flat[0] = np.nan
            wrong: dict[str, Any] = {part: record._replace(**{name: bad})}
            with pytest.raises(ValueError, match=name):
                check(p._replace(**wrong))


def test_a_cold_start_without_iterations_is_still_a_plan() -> None:
    """At a deadline already over: nothing is proven, everything is feasible."""
    p = hard_problem(5, banks=4, jobs=2, minutes=MINUTES)
    made = plan(p, cold(p), iterations=0, sweeps=0)
    assert made.bound_usd[0] == np.inf
    assert judge(p, made.power_mw, made.phase).faults == []
