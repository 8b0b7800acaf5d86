"""From bytes to values: what is forgiven, and what is None."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.drivers.miners._values import (
    Json,
    decode,
    first_ghs,
    ghs,
    hottest_mc,
    number,
    record,
    records,
    temp_mc,
    watts,
)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b'{"a":1}\x00', {"a": 1}),
        (b'{"a":1}\r\n\x00\x00', {"a": 1}),
        (b'{"STATS":[{"a":1}{"b":2}]}', {"STATS": [{"a": 1}, {"b": 2}]}),
        (b'{"a":[1,2,],"b":3,}', {"a": [1, 2], "b": 3}),
        (b'{"a":[,{"b":1}]}', {"a": [{"b": 1}]}),
        (b'{"a":nan,"b":-inf,"c":Infinity ,"d":[1]}', {"a": None, "b": None, "c": None, "d": [1]}),
        (
            b'{"Msg":{"error_code":["110":"2025-06-01","203":"x"]}}',
            {"Msg": {"error_code": {"110": "2025-06-01", "203": "x"}}},
        ),
        (b'{"a":"\xff"}', {"a": "\N{REPLACEMENT CHARACTER}"}),
    ],
)
def test_what_firmwares_are_known_to_misspell_is_forgiven(raw: bytes, value: object) -> None:
    assert decode(raw) == value


@pytest.mark.parametrize("raw", [b"", b"\x00", b"[]", b"1", b'"x"', b"null", b"{", b'{"a":}', b"<html>", b"[" * 5_000])
def test_what_is_no_object_is_garbage(raw: bytes) -> None:
    assert decode(raw) is None


@given(st.binary(max_size=200))
def test_no_bytes_raise(raw: bytes) -> None:
    assert decode(raw) is None or isinstance(decode(raw), dict)


@pytest.mark.parametrize(
    "value", [None, "", "x", "nan", "inf", "-1", -1, -0.5, math.nan, math.inf, 1e9, 10**30, True, False, [], {}, "1 W"]
)
def test_what_is_no_power_is_none(value: object) -> None:
    assert watts(value) is None


@pytest.mark.parametrize(
    ("value", "power_w"), [(0, 0), ("3250", 3250), (3250.6, 3251), (" 12.5 ", 12), (200_000, 200_000)]
)
def test_power_is_whole_watts_also_from_text(value: object, power_w: int) -> None:
    assert watts(value) == power_w


def test_hashrates_come_in_every_unit() -> None:
    assert ghs(118_500_000.0, 1_000.0) == 118_500
    assert ghs("572.84556", 0.001) == 572_846
    assert ghs(5e14, 1e9) == 500_000
    assert [ghs(1e9), ghs(1e18, 1e9), ghs(-1)] == [None] * 3


def test_a_live_figure_that_is_nonsense_is_not_replaced_by_an_average() -> None:
    names = (("GHS 5s", 1.0), ("GHS av", 1.0))
    assert first_ghs({"GHS 5s": "nan", "GHS av": 5.0}, names) is None
    assert first_ghs({"GHS av": 5.0}, names) == 5
    assert first_ghs({}, names) is None


def test_a_temperature_of_exactly_zero_is_a_sensor_that_is_not_there() -> None:
    assert [temp_mc(value) for value in (0, 0.0, "0", -12.5, 84.25, 201, -61)] == [
        None,
        None,
        None,
        -12_500,
        84_250,
        None,
        None,
    ]
    assert hottest_mc([None, 0, "x", 47.5, 46, -5]) == 47_500
    assert hottest_mc([]) is None
    assert hottest_mc([0, None]) is None


def test_records_of_another_shape_are_empty() -> None:
    replies: tuple[Json, ...] = ({}, {"A": None}, {"A": {}}, {"A": []}, {"A": [1]}, {"A": "x"})
    for reply in replies:
        assert record(reply, "A") == {}
        assert records(reply, "A") == []
    assert record({"A": [1, {"b": 2}]}, "A", 1) == {"b": 2}
    assert records({"A": [1, {"b": 2}]}, "A") == [{"b": 2}]


@given(st.one_of(st.floats(), st.integers(), st.text(), st.none(), st.booleans()))
def test_a_number_is_within_its_bounds_or_none(value: object) -> None:
    found = number(value, -5, 5)
    assert found is None or -5 <= found <= 5
