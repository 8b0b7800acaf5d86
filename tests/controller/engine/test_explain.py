"""One sentence for every reason there is, fit to be read aloud."""

from __future__ import annotations

from typing import Any

import pytest

from contract.messages import Feeder, Mode
from contract.reasons import DecisionReason
from controller.engine.narrate import MAX_CHARS, join_names, power, usd
from tests.controller.engine.build import (
    HOUR,
    MINUTE,
    award,
    hash_bank,
    hpc_bank,
    interlocked,
    job,
    obligation,
    off,
    on,
    override,
    reasons,
    run,
    site,
)

A = hash_bank("hall-a", mw=10.0)
B = hash_bank("hall-b", mw=4.2, j_per_th=28.6, ramp_up_w_per_s=1_000, min_up_ms=HOUR)
HPC = hpc_bank(mw=5.0, idle_mw=0.7)
JOBS = tuple(job(f"j{i}", mw=0.2, value=410.0) for i in range(12))

CASES: list[tuple[str, dict[str, Any], str]] = [
    (
        "price_above_break_even",
        {"price": 400.0, "limit_mw": 20.0},
        (
            "Hall A and B stand down (14.2 MW): the price of 400 USD/MWh is above their break-even of 83 and 73; "
            "HPC keeps 3.1 MW for 12 jobs worth 410 USD/MWh; site at 3.1 of 20.0 MW."
        ),
    ),
    (
        "price_below_break_even",
        {"limit_mw": 20.0},
        (
            "Hall A and B run (14.2 MW): the price of 40 USD/MWh is below their break-even of 83 and 73; "
            "HPC keeps 3.1 MW for 12 jobs worth 410 USD/MWh; site at 17.3 of 20.0 MW."
        ),
    ),
    (
        "obligation",
        {"obligations": [obligation(5.0)]},
        (
            "Hall A and B give up 12.3 MW for obligation dr-1: at most 5.0 MW at the main meter from 22:12 to "
            "23:12 UTC; HPC keeps 3.1 MW for 12 jobs worth 410 USD/MWh; site at 5.0 of 5.0 MW."
        ),
    ),
    (
        "obligation",
        {"obligations": [obligation(0.0, starts_in=20 * MINUTE)], "readings": [off(A), off(B)]},
        (
            "Hall A and B hold back 14.2 MW: obligation dr-1 begins at 22:33 UTC; HPC keeps 3.1 MW for 12 jobs worth "
            "410 USD/MWh; 700 kW short of obligation dr-1 (when it is due: overheads, idle power and protected work "
            "alone draw more); site at 3.1 of 100.0 MW."
        ),
    ),
    (
        "interlock",
        {"readings": [interlocked(A)]},
        (
            "Hall A stays off: interlock over temperature; Hall B runs (4.2 MW): the price of 40 USD/MWh is below its "
            "break-even of 73; HPC keeps 3.1 MW for 12 jobs worth 410 USD/MWh; site at 7.3 of 100.0 MW."
        ),
    ),
    (
        "emergency_stop",
        {"overrides": [override("emergency_stop", reason="smoke in hall A.")]},
        "Hall A, Hall B and HPC stop at once: emergency stop o-1 (smoke in hall A); site at 700 kW of 100.0 MW.",
    ),
    (
        "lockout",
        {"overrides": [override("lockout", bank="hall-a", reason="busbar work; ask Ann. Till noon")]},
        "Hall A stays off: lockout o-1 (busbar work, ask Ann, Till noon); Hall B runs",
    ),
    (
        "cap",
        {"overrides": [override("cap", name="heat-wave", mw=12)]},
        "Hall A and B give up 5.3 MW to keep the site within 12.0 MW by cap heat-wave (told so); HPC keeps",
    ),
    ("cap", {"limit_mw": 12.0}, "Hall A and B give up 5.3 MW to keep the site within 12.0 MW; HPC keeps"),
    (
        "override",
        {"overrides": [override("hold")]},
        "Hall A, Hall B and HPC keep 19.2 MW: override o-1 (told so); site at 19.2 of 100.0 MW.",
    ),
    (
        "hold_dwell",
        {"price": 400.0, "readings": [on(B, on_for_ms=MINUTE)]},
        "Hall B stays up (4.2 MW): the minimum up time is not over; Hall A stands down",
    ),
    (
        "hold_hysteresis",
        {"price": 84.0, "readings": [off(B)]},
        (
            "Hall B stands down (4.2 MW): the price of 84 USD/MWh is above its break-even of 73; Hall A stays up "
            "(10.0 MW): the price of 84 USD/MWh is too near its break-even of 83 to stop for; HPC keeps"
        ),
    ),
    (
        "hold_hysteresis",
        {"price": 82.0, "readings": [off(A)]},
        (
            "Hall B stands down (4.2 MW): the price of 82 USD/MWh is above its break-even of 73; Hall A stays down: "
            "the price of 82 USD/MWh is too near its break-even of 83 to pay for a start; HPC keeps"
        ),
    ),
    (
        "data_stale",
        {"age_ms": 45_000, "readings": [off(A), off(B)]},
        "Hall A and B hold 0 W: the last report is 45 s old; HPC keeps 3.1 MW",
    ),
    ("data_stale", {"online": False}, "Hall A, Hall B and HPC hold 19.2 MW: the site is offline; site at 19.2 of"),
    ("data_stale", {"readings": [off(A, power_w=None)]}, "Hall A holds 0 W: no fresh reading to rise on; Hall B runs"),
    ("price_below_break_even", {"age_ms": 45_000}, "410 USD/MWh; nothing rises on a report 45 s old; site at"),
    ("price_stale", {"price": None}, "Hall A and B hold 14.2 MW: no fresh energy price; HPC keeps"),
    ("price_stale", {"hashprice": None}, "Hall A and B hold 14.2 MW: no fresh hash value; HPC keeps"),
    ("local_mode", {"mode": Mode.LOCAL}, "Hall A, Hall B and HPC hold 19.2 MW: the site is in local control; site at"),
    (
        "award",
        {"price": 120.0, "jobs": (), "obligations": [award(3.0)]},
        "Hall A keeps 3.0 MW running at 120 USD/MWh, above its break-even of 83: reserve award ecrs-1 needs it to shed",
    ),
    ("ramp", {"readings": [off(B)]}, "Hall B rises to 60 kW for now: the ramp limit; Hall A runs"),
    ("no_work", {"jobs": ()}, "HPC idles at 700 kW: no jobs; site at"),
    ("unavailable", {"readings": [off(A, available_w=0)]}, "Hall A draws nothing: no device is available; site at"),
    (
        "price_above_break_even",
        {"jobs": [job("poor", value=20.0)]},
        "HPC stands down (5.0 MW): the price of 40 USD/MWh is above its jobs' worth of 20;",
    ),
    (
        "cap",
        {"limit_mw": 0.5},
        (
            "Hall A, Hall B and HPC give up 16.6 MW to keep the site within 500 kW; 200 kW over the limit main "
            "(overheads, idle power and protected work alone draw more); site at 700 of 500 kW."
        ),
    ),
    (
        "cap",
        {"limit_mw": 0.5, "jobs": tuple(job(f"j{i}", mw=0.2, value=410.0) for i in range(60))},
        "Hall A, Hall B and HPC give up 18.5 MW to keep",  # of the queue's 12 MW, what 5 MW of nodes could draw
    ),
    (
        "cap",
        {"limit_mw": 1.5, "jobs": [job("gold", mw=1.0, firm=True)]},
        "1.0 MW of firm work on HPC is not served (running firm jobs cut: 1, waiting ones not started: 0); site at",
    ),
]


@pytest.mark.parametrize(("reason", "how", "words"), CASES)
def test_each_reason_has_its_sentence(reason: str, how: dict[str, Any], words: str) -> None:
    how = {"jobs": JOBS} | how
    decision = run(site(A, B, HPC, **how))
    assert reason in reasons(decision).values()
    assert words in decision.sentence
    if words.endswith("."):
        assert words == decision.sentence


def test_every_reason_the_engine_can_give_is_told_above() -> None:
    told = {reason for reason, _, _ in CASES} | {"jobs_run"}
    untold = {r.value for r in DecisionReason} - told
    assert untold == {"restart_stagger", "plan_ahead"}, "the agent's own; and the plan's, told in test_planned.py"


def test_a_feeder_is_named_where_it_is_the_limit() -> None:
    hall = Feeder(id="north-1", parent="main", limit_w=3_000_000)
    decision = run(site(A.model_copy(update={"feeder": "north-1"}), feeders=[hall]))
    assert "Hall A gives up 7.0 MW to keep feeder north-1 within 3.0 MW" in decision.sentence


def test_many_banks_and_long_reasons_still_make_one_bounded_sentence() -> None:
    banks = [hash_bank(f"container-{i:02d}", j_per_th=20 + i) for i in range(40)]
    orders = [override("cap", name=f"c{i}", bank=b.id, mw=1, reason="x" * 400) for i, b in enumerate(banks)]
    text = run(site(*banks, overrides=orders)).sentence
    assert len(text) <= MAX_CHARS
    assert "more; site at" in text
    plain = run(site(*banks, limit_mw=500.0, price=20.0)).sentence
    assert plain.startswith("Container 00, 01, 02 and 37 more run (200.0 MW): the price of 20 USD/MWh is below")
    assert "their break-even of 35 to 104" in plain


def test_a_site_without_banks_still_says_where_it_stands() -> None:
    snapshot = site(A, base_mw=0.3)
    bare = snapshot.model_copy(update={"nameplate": snapshot.nameplate.model_copy(update={"banks": ()})})
    assert run(bare).sentence == "Site at 300 kW of 100.0 MW."


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["hall-a"], "Hall A"),
        (["hall-a", "hall-b"], "Hall A and B"),
        (["hall_a", "hall_b", "hall_c"], "Hall A, B and C"),
        (["hall-a", "gpu-1"], "Hall A and GPU 1"),
        (["b1", "b2", "b3", "b4", "b5"], "B1, B2, B3 and 2 more"),
        (["9-", "0"], "9 and 0"),
    ],
)
def test_names_are_told_as_people_say_them(ids: list[str], words: str) -> None:
    assert join_names(ids) == words


def test_figures_are_told_at_a_readable_size() -> None:
    assert [power(w) for w in (0, 999, 1_000, 999_499, 14_200_000)] == ["0 W", "999 W", "1 kW", "999 kW", "14.2 MW"]
    assert [usd(v) for v in (4320.4, 9.5, 0.0, -30.0, 4e19)] == ["4,320", "9.50", "0", "-30", "4.0e+19"]
