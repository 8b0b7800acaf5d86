"""Shedding to fit the feeder tree: down the ladder, and never a feeder over its limit while anything can be shed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.limits import FeederTree, Rung, fit, room_w


def tree(main_w: int = 10_000, row_w: int = 6_000, pue_milli: int = 1_000, base_w: int = 0) -> FeederTree:
    feeders = [("main", None, main_w, True), ("row-a", "main", row_w, False), ("row-b", "main", row_w, False)]
    return FeederTree.of(feeders, [("row-a", pue_milli), ("row-a", pue_milli), ("row-b", pue_milli)], base_w)


def test_loads_add_up_the_tree_with_cooling_and_base_at_the_main() -> None:
    made = tree(pue_milli=1_100, base_w=500)
    assert made.load_w(1, [1_000, 2_000, 3_000]) == 3_000
    assert made.load_w(0, [1_000, 2_000, 3_000]) == 1_100 + 2_200 + 3_300 + 500


def test_the_first_rung_is_shed_first_and_no_further_than_needed() -> None:
    left, cut_for = fit(tree(), [4_000, 4_000, 5_000], [0, 0, 0], [10_000, 9_000, 9_000], [Rung(2), Rung(0), Rung(1)])
    assert left == [4_000, 4_000, 2_000 - 1]  # the odd watt is the rounding for PUE
    assert cut_for == [None, None, 0]


def test_a_feeder_sheds_only_what_hangs_on_it() -> None:
    left, cut_for = fit(tree(), [4_000, 4_000, 1_000], [0, 0, 0], [10_000, 6_000, 6_000], [Rung(2), Rung(1), Rung(0)])
    assert left == [4_000, 2_000, 1_000]
    assert cut_for == [None, 1, None]


def test_a_job_rung_frees_no_more_than_it_says() -> None:
    ladder = [Rung(0, 500), Rung(1), Rung(0), Rung(2)]
    left, _ = fit(tree(), [4_000, 4_000, 0], [0, 0, 0], [10_000, 6_000, 6_000], ladder)
    assert left == [3_500, 2_500, 0]


def test_room_is_that_of_the_tightest_feeder() -> None:
    made = tree(pue_milli=1_250)
    loads = [9_000, 1_000, 5_500]
    assert room_w(made, 0, loads, made.limits_w) == 800
    assert room_w(made, 2, loads, made.limits_w) == 500


powers = st.lists(st.integers(0, 8_000), min_size=3, max_size=3)


@given(powers, powers, st.integers(0, 12_000), st.integers(0, 8_000), st.integers(1_000, 2_000))
def test_every_feeder_ends_within_its_limit_or_stripped_to_its_floors(
    wanted: list[int], floors: list[int], main_w: int, row_w: int, pue_milli: int
) -> None:
    made = tree(main_w, row_w, pue_milli, base_w=300)
    left, cut_for = fit(made, wanted, floors, made.limits_w, [Rung(0), Rung(2, 400), Rung(1), Rung(2)])
    drawn = [max(left[bank], floors[bank]) for bank in range(3)]
    for feeder in range(3):
        stripped = all(left[bank] <= floors[bank] for bank in made.banks_under[feeder])
        assert made.load_w(feeder, drawn) <= made.limits_w[feeder] or stripped
    for bank in range(3):
        assert 0 <= left[bank] <= wanted[bank]
        assert (cut_for[bank] is None) == (left[bank] == wanted[bank])


def test_what_a_bank_stands_at_counts_and_only_a_firm_rung_takes_from_it() -> None:
    limits_w = [9_000, 9_000, 9_000]
    ladder = [Rung(1), Rung(0), Rung(1, firm=True)]
    left, cut_for = fit(tree(), [5_000, 500, 0], [100, 100, 0], limits_w, ladder, [0, 4_500, 0])
    assert left == [4_500, 500, 0]
    assert cut_for == [1, None, None]
    left, cut_for = fit(tree(), [5_000, 500, 0], [100, 100, 0], [4_000, 9_000, 9_000], ladder, [0, 4_500, 0])
    assert left == [100, 500, 0]
    assert cut_for == [0, 0, None], "its setpoint is no lower, but its firm work may be touched"
