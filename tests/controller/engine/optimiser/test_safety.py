"""The sentences an operator relies on, over 200 random sites."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from bench.problems import hard_problem
from bench.referee import Verdict, judge
from controller.engine.optimiser.layout import BOOT, OFF, RUN, Problem
from controller.engine.optimiser.solver import Plan, plan

CASES = 200


@lru_cache(maxsize=1)
def _plans() -> list[tuple[Problem, Plan, Verdict]]:
    found = []
    for seed in range(1_000, 1_000 + CASES):
        p = hard_problem(seed, banks=2 + seed % 5, jobs=seed % 4)
        made = plan(p, iterations=30, sweeps=2)
        found.append((p, made, judge(p, made.power_mw, made.phase)))
    return found


def test_no_plan_breaks_a_rule_of_its_units() -> None:
    """Dwell and locks are held, boots last as long as they must, closed steps never run, power stays on the curve."""
    assert [fault for _, _, verdict in _plans() for fault in verdict.faults] == []


def test_the_cases_put_the_rules_to_the_test() -> None:
    """Among them are locked, booting and closed units, batch jobs, awards, nodes and firm load."""
    units = [p.units for p, _, _ in _plans()]
    assert sum(int((p.moves.locked > 0).sum()) for p, _, _ in _plans()) > 50
    assert sum(int((u.booting_h > 0).sum()) for u in units) > 5
    assert sum(int((u.open == 0).any(axis=1).sum()) for u in units) > 50
    assert any((made.phase == BOOT).any() for _, made, _ in _plans())
    assert any((u.weight < 0).any() for u in units)
    assert any((u.on_weight > 0).any() for u in units)


def test_a_row_is_exceeded_only_by_what_dwell_forces() -> None:
    """Where the units that must run fit a row at their least power, the plan fits it too."""
    for p, made, _ in _plans():
        u = p.units
        forced = np.repeat(u.idle_mw[:, None], len(p.grid.hours), axis=1)
        for n in np.flatnonzero(u.on == 1):
            forced[n, : p.moves.locked[n]] = u.level_mw[n, 0]
        for r in range(len(p.rows.penalty)):
            entries = np.flatnonzero(u.rows == r)
            owner = np.searchsorted(u.row_from, entries, side="right") - 1
            if (u.weight[entries] < 0).any():
                continue
            on, held = made.phase[owner] != OFF, (u.on[owner] == 1)[:, None]
            steps = np.arange(len(p.grid.hours))[None, :]
            held = held & (steps < p.moves.locked[owner][:, None])
            used = u.weight[entries] @ made.power_mw[owner] + u.on_weight[entries] @ on
            must = u.weight[entries] @ forced[owner] + u.on_weight[entries] @ held
            fits = must <= p.rows.cap[r] + 1e-9
            assert (used[fits] <= p.rows.cap[r][fits] + 1e-6).all()


def test_booting_earns_nothing_and_work_is_paid_once() -> None:
    """The profit a plan claims is the one recomputed with boots unpaid and work paid up to what was left, no more."""
    for _, made, verdict in _plans():
        assert made.profit_usd[0] == pytest.approx(verdict.profit_usd, abs=1e-4)


def test_no_plan_claims_more_than_its_bound() -> None:
    """The certificate holds for the plan it comes with."""
    for _, made, _ in _plans():
        assert made.profit_usd[0] <= made.bound_usd[0] + 1e-6 * abs(made.bound_usd[0])


def test_no_unit_runs_in_a_closed_step() -> None:
    """Said on its own, for it is the one that people working on a machine rely on."""
    for p, made, _ in _plans():
        assert not (made.phase[p.units.open == 0] != OFF).any()
        assert (made.phase[made.power_mw > p.units.level_mw[:, :1] + 1e-9] == RUN).all()
