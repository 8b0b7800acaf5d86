"""A bank whose meter shows more than its setpoint is allotted less, patiently."""

from __future__ import annotations

from agent.trim import HOLD_SETTLES, Trim

SETTLE = 10_000


def looks(trim: Trim, metered_w: int, from_ms: int, span_ms: int) -> list[int]:
    """The trim after each second at one reading."""
    seen = []
    for read_ms in range(from_ms, from_ms + span_ms, 1_000):
        trim.look(metered_w, read_ms, 1_000, 50)
        seen.append(trim.power_w)
    return seen


def test_an_excess_that_stays_is_taken_off_the_allotment_once_a_settling_time() -> None:
    trim = Trim(SETTLE)
    assert set(looks(trim, 1_200, 0, 10_000)) == {0}
    assert set(looks(trim, 1_200, 10_000, 10_000)) == {200}
    assert set(looks(trim, 1_100, 20_000, 10_000)) == {200}, "it still falls"
    assert set(looks(trim, 1_100, 30_000, 10_000)) == {300}
    assert set(looks(trim, 1_040, 40_000, 50_000)) == {300}


def test_power_that_still_falls_is_given_time() -> None:
    trim = Trim(SETTLE)
    for read_ms, metered_w in ((0, 3_000), (10_000, 2_000), (20_000, 1_400), (30_000, 1_040), (40_000, 1_010)):
        trim.look(metered_w, read_ms, 1_000, 50)
        assert trim.power_w == 0


def test_a_trim_is_tried_without_after_a_while_and_ever_more_rarely() -> None:
    trim = Trim(SETTLE)
    spans: list[int] = []
    at_ms = since_ms = 0
    while len(spans) < 3:
        at_ms += SETTLE
        changed = trim.look(900 if trim.power_w else 1_200, at_ms, 1_000, 50)
        if changed and trim.power_w:
            since_ms = at_ms
        elif changed:
            spans.append((at_ms - since_ms) // SETTLE)
    assert spans == [HOLD_SETTLES, 2 * HOLD_SETTLES, 4 * HOLD_SETTLES]


def test_another_setpoint_begins_anew() -> None:
    trim = Trim(SETTLE)
    looks(trim, 1_500, 0, 15_000)
    assert trim.power_w == 500
    trim.reset()
    assert trim.power_w == 0


def test_never_more_is_taken_than_there_is() -> None:
    trim = Trim(SETTLE)
    looks(trim, 90_000, 0, 200_000)
    assert trim.power_w == 1_000
