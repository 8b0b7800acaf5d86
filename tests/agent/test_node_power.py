"""What nodes draw is learned from readings: near the truth in the end, within the nameplate, deaf to a wrong meter."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.node_power import KEPT_S, LEAST_READINGS, NodePower

RATED_W, IDLE_W = 6_000, 1_500
ABOVE_W = RATED_W - IDLE_W


def taught(idle_w: float, share: float, *, readings: int = 600, noise_w: float = 60.0, seed: int = 1) -> NodePower:
    """Readings of a partition whose load goes up and down."""
    rng = Random(seed)
    power = NodePower(RATED_W, IDLE_W)
    for number in range(readings):
        busy_w = rng.choice((0.0, 0.25, 0.5, 1.0)) * ABOVE_W
        power.learn(idle_w + share * busy_w + rng.gauss(0, noise_w), busy_w, 0.0, 1_000 + 5 * number)
    return power


def test_before_enough_was_read_the_nameplate_holds() -> None:
    power = NodePower(RATED_W, IDLE_W)
    for number in range(LEAST_READINGS - 1):
        power.learn(3_000, 2_000, 0.0, number)
        assert power.learned(number).idle_w == IDLE_W
        assert power.learned(number).readings == 0


@pytest.mark.parametrize(("idle_w", "share"), [(1_500, 1.0), (1_100, 0.7), (1_400, 0.85), (900, 0.5)])
def test_idle_and_busy_power_are_found(idle_w: int, share: float) -> None:
    learned = taught(idle_w, share).learned(6_000)
    assert learned.idle_w == pytest.approx(idle_w, abs=90)
    assert learned.busy_milli == pytest.approx(1_000 * share, abs=30)


def test_capped_nodes_have_a_figure_of_their_own() -> None:
    power = NodePower(RATED_W, IDLE_W)
    for number in range(600):
        busy_w, capped_w = ((2_000.0, 0.0), (0.0, 2_000.0), (0.0, 0.0))[number % 3]
        power.learn(IDLE_W + 0.9 * busy_w + 0.6 * capped_w, busy_w, capped_w, number)
    learned = power.learned(600)
    assert learned.busy_milli == pytest.approx(900, abs=30)
    assert learned.capped_milli == pytest.approx(600, abs=40)


def test_a_meter_that_is_wrong_now_and_then_moves_little() -> None:
    power = taught(1_400, 0.8)
    before = power.learned(4_100)
    for number in range(5):
        power.learn(0.0 if number % 2 else 12_000.0, 2_000.0, 0.0, 4_100 + number)
    after = power.learned(4_200)
    assert after.idle_w == pytest.approx(before.idle_w, abs=120)
    assert after.busy_milli == pytest.approx(before.busy_milli, abs=60)


def test_one_wrong_reading_moves_little_also_at_the_very_first() -> None:
    power = NodePower(RATED_W, IDLE_W)
    power.learn(2_400, ABOVE_W, 0.0, 0)
    for number in range(LEAST_READINGS):
        power.learn(RATED_W, ABOVE_W, 0.0, number)
    learned = power.learned(LEAST_READINGS)
    assert learned.readings
    assert learned.idle_w + learned.busy_milli * ABOVE_W / 1_000 > 0.97 * RATED_W


def test_nodes_that_change_are_followed() -> None:
    power = taught(1_400, 0.9)
    rng = Random(2)
    for number in range(600):
        busy_w = rng.choice((0.0, 0.5, 1.0)) * ABOVE_W
        power.learn(1_400 + 0.6 * busy_w, busy_w, 0.0, 5_000 + 60 * number)
    assert power.learned(42_000).busy_milli == pytest.approx(600, abs=40)


def test_what_was_learned_is_kept_grows_old_and_is_dropped() -> None:
    power = taught(1_100, 0.7)
    again = NodePower(RATED_W, IDLE_W)
    again.load(power.save())
    learned = again.learned(6_000)
    assert learned == power.learned(6_000)
    assert learned.age_s == 6_000 - (1_000 + 5 * 599)
    late = again.learned(6_000 + KEPT_S)
    assert (late.idle_w, late.busy_milli, late.readings) == (IDLE_W, 1_000, 0)
    assert late.age_s is not None
    other = NodePower(RATED_W + 1, IDLE_W)
    other.load(power.save())
    assert other.learned(6_000).readings == 0, "other nodes than those it was learned of"


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"plate": [6000, 1500], "mean": [1]}'])
def test_a_memory_that_does_not_parse_is_forgotten(text: str) -> None:
    power = NodePower(RATED_W, IDLE_W)
    power.load({"node_power": text})
    assert power.learned(0).idle_w == IDLE_W


def test_a_memory_out_of_bounds_is_forgotten() -> None:
    saved = json.loads(taught(1_100, 0.7).save()["node_power"])
    saved["cov"][0][0] = -1.0
    power = NodePower(RATED_W, IDLE_W)
    power.load({"node_power": json.dumps(saved)})
    assert power.learned(6_000).readings == 0


def test_nodes_that_draw_more_than_their_nameplate_says_lower_no_figure_of_it() -> None:
    """As frozen jobs do, which keep some power: the excess goes to neither figure, at one load or at several."""
    power = NodePower(RATED_W, IDLE_W)
    for number in range(200):
        busy_w = (0.25, 0.25, 0.6)[number // 70] * ABOVE_W
        power.learn(IDLE_W + busy_w + 100.0, busy_w, 0.0, 5 * number)
        learned = power.learned(5 * number)
        assert (learned.idle_w, learned.busy_milli) == (IDLE_W, 1_000)


@given(
    readings=st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True),
            st.floats(0, 10_000),
            st.floats(0, 10_000),
            st.integers(0, 10**6),
        ),
        max_size=40,
    )
)
def test_whatever_is_read_the_figures_stay_within_the_nameplate(
    readings: list[tuple[float, float, float, int]],
) -> None:
    power = NodePower(RATED_W, IDLE_W)
    for reading in readings:
        power.learn(*reading)
    learned = power.learned(10**6)
    assert 0 <= learned.idle_w <= IDLE_W
    for milli in (learned.busy_milli, learned.capped_milli):
        assert 0 <= milli <= 1_000


def test_what_was_seen_to_be_wrong_is_forgotten() -> None:
    power = taught(1_100, 0.7)
    power.forget()
    assert power.learned(6_000).idle_w == IDLE_W
    assert power.learned(6_000).readings == 0
    assert power.save() == {}


def test_jobs_that_draw_less_now_and_then_are_planned_with_at_what_they_draw_when_busy() -> None:
    rng = Random(3)
    power = NodePower(RATED_W, IDLE_W)
    for number in range(600):
        busy_w = rng.choice((0.5, 1.0)) * ABOVE_W
        starting = 0.3 if rng.random() < 0.15 else 1.0
        power.learn(IDLE_W + starting * busy_w, busy_w, 0.0, 5 * number)
    learned = power.learned(3_000)
    assert learned.idle_w + learned.busy_milli * ABOVE_W / 1_000 > 0.96 * RATED_W
