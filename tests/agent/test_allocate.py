"""Allocation never plans above the setpoint, stops the least efficient first, and leaves alone what may stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.allocate import STOP, UNSET, Standing, Unit, allocate, least_kept_w


def unit(
    standing: Standing = Standing.UP, j_per_th: float = 30.0, least_w: int = 0, target_w: int = UNSET, hot: bool = False
) -> Unit:
    made = Unit(3_000, 20, least_w=least_w, standing=standing)
    made.j_per_th, made.target_w, made.hot = j_per_th, target_w, hot
    return made


def test_full_setpoint_runs_everything_that_can_run() -> None:
    units = [unit(), unit(Standing.DOWN), unit(Standing.TRIPPED), unit(hot=True)]
    assert allocate(units, 12_000).targets == [3_000, 3_000, STOP, STOP]


def test_full_shutdown_skips_nothing() -> None:
    """Low-power, hot, tripped and unreadable devices are all told to stop."""
    units = [unit(), unit(Standing.DOWN), unit(Standing.TRIPPED), unit(Standing.DARK), unit(hot=True, least_w=100)]
    assert set(allocate(units, 0).targets) == {STOP}


def test_the_least_efficient_stop_first() -> None:
    units = [unit(j_per_th=34.0), unit(j_per_th=20.0), unit(j_per_th=28.0)]
    assert allocate(units, 6_020).targets == [STOP, 3_000, 3_000]


def test_a_stopped_unit_does_not_replace_a_running_one_that_is_about_as_good() -> None:
    running, better = unit(j_per_th=30.0, target_w=3_000), unit(Standing.DOWN, j_per_th=29.0, target_w=STOP)
    assert allocate([running, better], 3_020).targets == [3_000, STOP]
    better.j_per_th = 20.0
    assert allocate([running, better], 3_020).targets == [STOP, 3_000]


def test_a_unit_that_was_told_to_run_keeps_its_place_until_it_is_seen_to() -> None:
    """A miner that boots reads as stopped for some seconds; starting another in its place would cost two boots."""
    first, booting = unit(Standing.DOWN, target_w=STOP), unit(Standing.DOWN, target_w=3_000)
    assert allocate([first, booting], 3_020 + 20).targets == [STOP, 3_000]


def test_the_last_bit_goes_to_one_unit_that_can_be_limited() -> None:
    units = [unit(least_w=1_500), unit(least_w=1_500), unit(least_w=1_500)]
    allocation = allocate(units, 5_120)
    assert allocation.targets == [3_000, 2_100, STOP]
    assert allocation.planned_w == 3_000 + 2_100 + 20


def test_a_limit_that_stands_is_kept_while_the_remainder_wanders() -> None:
    units = [unit(), unit(least_w=1_500, target_w=2_050)]
    assert allocate(units, 5_150).targets == [3_000, 2_050]
    assert allocate(units, 5_040).targets == [3_000, 2_000], "below what stands, the limit falls at once"


def test_a_unit_that_cannot_be_read_counts_at_its_rated_power() -> None:
    units = [unit(), unit(), unit(Standing.DARK)]
    assert allocate(units, 6_040).targets == [3_000, STOP, 3_000]
    assert allocate(units, 2_000).targets == [STOP, STOP, STOP]


def test_a_meter_says_what_unreadable_units_draw_at_most() -> None:
    units = [unit(), unit(), unit(Standing.DARK)]
    assert allocate(units, 6_040, dark_w=40).targets == [3_000, 3_000, 3_000]


def test_a_meter_proves_nothing_of_a_unit_that_was_just_told_to_run() -> None:
    units = [unit(), unit(), unit(Standing.DARK), unit(Standing.DARK)]
    units[2].rises = True
    assert allocate(units, 6_040, dark_w=40).targets == [3_000, STOP, 3_000, 3_000]
    assert allocate(units, 9_040, dark_w=40).targets == [3_000] * 4
    assert allocate(units, 9_040, dark_w=6_000).targets == [3_000, STOP, 3_000, 3_000], "what it does show counts"


def test_without_leave_to_raise_nothing_is_brought_back_and_no_limit_rises() -> None:
    units = [unit(Standing.DOWN, target_w=3_000), unit(least_w=1_500, target_w=2_000), unit(target_w=3_000)]
    assert allocate(units, 9_000, may_raise=False).targets == [STOP, 2_000, 3_000]


def test_spread_limits_all_alike_and_stops_only_below_their_least() -> None:
    units = [unit(least_w=1_500) for _ in range(4)]
    assert allocate(units, 8_000, spread=True).targets == [2_000] * 4
    targets = allocate(units, 4_000, spread=True).targets
    assert sorted(targets) == [STOP, STOP, 1_950, 2_000], "what rounding leaves goes to the last"


def test_a_unit_that_cannot_be_steered_is_counted_and_left_alone() -> None:
    units = [unit(Standing.FIXED), unit(), unit()]
    assert allocate(units, 6_040).targets == [3_000, 3_000, STOP]


units_of = st.builds(
    unit,
    standing=st.sampled_from(list(Standing)),
    j_per_th=st.floats(0, 60),
    least_w=st.sampled_from([0, 1_000, 2_500]),
    target_w=st.sampled_from([UNSET, STOP, 1_500, 3_000]),
    hot=st.booleans(),
)


@given(st.lists(units_of, max_size=30), st.integers(0, 100_000), st.booleans(), st.booleans())
def test_planned_power_is_never_above_the_setpoint(
    units: list[Unit], setpoint_w: int, may_raise: bool, spread: bool
) -> None:
    """Or, where the setpoint is below what cannot be taken away, everything else is stopped."""
    allocation = allocate(units, setpoint_w, may_raise=may_raise, spread=spread)
    drawn = 0
    for one, target_w in zip(units, allocation.targets, strict=True):
        steerable = one.standing in {Standing.UP, Standing.DOWN, Standing.TRIPPED}
        drawn += max(target_w, one.idle_w) if steerable else one.rated_w
        assert target_w <= one.rated_w
        if one.hot or one.standing is Standing.TRIPPED:
            assert target_w == STOP or not steerable
    assert allocation.planned_w >= drawn
    steered = [t for u, t in zip(units, allocation.targets, strict=True) if u.standing in {Standing.UP, Standing.DOWN}]
    assert allocation.planned_w <= setpoint_w or not any(steered)


@given(st.lists(units_of, max_size=30), st.booleans(), st.none() | st.integers(0, 10_000))
def test_the_least_that_keeps_a_bank_up_leaves_one_of_those_that_run_and_a_watt_less_none(
    units: list[Unit], spread: bool, dark_w: int | None
) -> None:
    """It is what the guard holds a young bank at, where money alone would have it lower."""

    def left(setpoint_w: int) -> int:
        targets = allocate(units, setpoint_w, dark_w=dark_w, may_raise=False, spread=spread).targets
        return sum(target > STOP and one.standing is Standing.UP for one, target in zip(units, targets, strict=True))

    least_w = least_kept_w(units, dark_w=dark_w, spread=spread)
    if least_w is None:
        assert left(10**6) == 0, "nothing runs"
    else:
        assert left(least_w) >= 1
        assert left(least_w - 1) == 0


@given(st.lists(units_of, max_size=30), st.integers(0, 100_000), st.booleans())
def test_what_is_reached_is_left_as_it_is(units: list[Unit], setpoint_w: int, spread: bool) -> None:
    """Asked again once every target is reached, the same targets come out: no thrash."""
    first = allocate(units, setpoint_w, spread=spread)
    for one, target_w in zip(units, first.targets, strict=True):
        one.target_w = target_w
        if one.standing in {Standing.UP, Standing.DOWN}:
            one.standing = Standing.UP if target_w else Standing.DOWN
    assert allocate(units, setpoint_w, spread=spread).targets == first.targets
