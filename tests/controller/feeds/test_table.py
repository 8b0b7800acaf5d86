"""Price files: what is wrong is an error with its line, what is missing is a counted gap, and nothing is made up."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.feeds.table import Gap, SeriesTable, TableError, load_series, read_series

QUARTER_MS = 900_000
HOUR_MS = 3_600_000


def table(*lines: str, **more: Any) -> SeriesTable:
    return read_series(iter([line + "\n" for line in lines]), "file.csv", **more)


def fails(code: str, *lines: str, **more: Any) -> TableError:
    with pytest.raises(TableError) as caught:
        table(*lines, **more)
    assert caught.value.code == code, str(caught.value)
    assert "file.csv" in str(caught.value)
    return caught.value


def utc(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def starts(found: SeriesTable) -> list[str]:
    return [datetime.fromtimestamp(ms / 1_000, UTC).strftime("%m-%d %H:%M") for ms in found.start_ms.tolist()]


UTC_HEAD = "interval_start_utc,rt_usd_per_mwh"


class TestForms:
    def test_utc_starts_with_and_without_an_offset(self) -> None:
        found = table(UTC_HEAD, "2024-01-01T00:00Z,1", "2024-01-01T00:15,2.5", "2024-01-01T01:30+01:00,-3e1")
        assert starts(found) == ["01-01 00:00", "01-01 00:15", "01-01 00:30"]
        assert found.values.tolist() == [1, 2.5, -30]
        assert (found.interval_ms, found.column) == (QUARTER_MS, "rt_usd_per_mwh")

    def test_hour_ending_is_the_hour_before_and_24_ends_the_day(self) -> None:
        found = table(
            "hour_ending_central,lmp_usd_per_mwh", "01/31/2024 23:00,1", "01/31/2024 24:00,2", "02/01/2024 01:00,3"
        )
        assert starts(found) == ["02-01 04:00", "02-01 05:00", "02-01 06:00"]

    def test_hour_ending_in_iso_form(self) -> None:
        found = table("hour_ending_central,lmp_usd_per_mwh", "2024-01-01 00:00:00,1", "2024-01-01 01:00:00,2")
        assert starts(found) == ["01-01 05:00", "01-01 06:00"]

    def test_date_and_hour_in_two_columns(self) -> None:
        found = table(
            "delivery_date_central,hour_ending,rt_usd_per_mwh", "2024-07-01,1,10", "2024-07-01,2,11", "2024-07-01,24,12"
        )
        assert starts(found) == ["07-01 05:00", "07-01 06:00", "07-02 04:00"]
        assert found.gaps == (Gap(utc("2024-07-01T07:00"), utc("2024-07-02T04:00"), 21, "absent"),)

    def test_one_point_of_many_is_chosen_by_where(self) -> None:
        lines = (
            "settlement_point,delivery_date_central,hour_ending,rt_usd_per_mwh,da_usd_per_mwh",
            *(
                f"{hub},2024-07-01,{hour},{hour + add},0"
                for hub, add in (("HB_WEST", 0), ("HB_NORTH", 50))
                for hour in (1, 2)
            ),
        )
        found = table(*lines, column="rt_usd_per_mwh", where={"settlement_point": "HB_NORTH"})
        assert found.values.tolist() == [51, 52]
        assert "settlement_point" in str(fails("columns", *lines, column="rt_usd_per_mwh"))

    def test_gzip_a_byte_order_mark_and_crlf_are_read(self, tmp_path: Path) -> None:
        path = tmp_path / "prices.csv.gz"
        path.write_bytes(gzip.compress("﻿interval_start_utc,a_usd_per_mwh\r\n2024-01-01T00:00Z,1\r\n".encode()))
        assert load_series(path, interval_ms=HOUR_MS).values.tolist() == [1]


class TestHoles:
    def test_gaps_empty_cells_and_nan_are_counted_apart_and_not_filled(self) -> None:
        found = table(
            UTC_HEAD,
            "2024-01-01T00:00Z,1",
            "2024-01-01T00:15Z,",
            "2024-01-01T00:30Z,nan",
            "2024-01-01T00:45Z,-inf",
            "2024-01-01T01:00Z,5",
            "2024-01-01T02:00Z,6",
        )
        assert found.values.tolist() == [1, 5, 6]
        assert [(gap.intervals, gap.why) for gap in found.gaps] == [(1, "empty"), (2, "not_a_number"), (3, "absent")]
        covered = len(found.values) + sum(gap.intervals for gap in found.gaps)
        assert covered == (found.end_ms - int(found.start_ms[0])) // found.interval_ms
        assert "3 absent, 1 empty, 2 not a number missing in 3 gaps" in found.describe()

    def test_a_repeated_row_is_dropped_and_counted_but_another_value_is_an_error(self) -> None:
        same = table(UTC_HEAD, "2024-01-01T00:00Z,1", "2024-01-01T00:00Z,1.0", "2024-01-01T00:15Z,2")
        assert (same.duplicates, same.values.tolist()) == (1, [1, 2])
        error = fails("duplicate", UTC_HEAD, "2024-01-01T00:00Z,1", "2024-01-01T00:00Z,2")
        assert error.line == 3


class TestErrors:
    def test_wrong_columns(self) -> None:
        fails("empty", "")
        fails("columns", "time,price", "2024-01-01T00:00Z,1")
        fails("columns", "interval_start_utc,rt_usd_per_mwh,da_usd_per_mwh", "2024-01-01T00:00Z,1,2")
        fails("columns", "interval_start_utc,price", "2024-01-01T00:00Z,1")
        fails("columns", "interval_start_utc,interval_start_central,a_usd_per_mwh", "x,y,1")
        fails("columns", "interval_start_utc,a_usd_per_mwh,a_usd_per_mwh", "x,1,2")
        fails("columns", UTC_HEAD, "2024-01-01T00:00Z,1", column="da")
        fails("columns", UTC_HEAD, "2024-01-01T00:00Z,1", where={"hub": "X"})
        assert fails("columns", UTC_HEAD, "2024-01-01T00:00Z,1", "2024-01-01T00:15Z,1,9").line == 3

    def test_wrong_cells(self) -> None:
        assert fails("time", UTC_HEAD, "yesterday,1").line == 2
        fails("value", UTC_HEAD, "2024-01-01T00:00Z,cheap")
        fails("value", UTC_HEAD, "2024-01-01T00:00Z,1e9")
        fails("value", UTC_HEAD, '2024-01-01T00:00Z,"1')
        fails("time", "delivery_date_central,hour_ending,a_usd_per_mwh", "2024-07-01,0,1")
        fails("time", "delivery_date_central,hour_ending,a_usd_per_mwh", "2024-07-01,25,1")
        fails("time", "hour_ending_central,a_usd_per_mwh", "01/01/2024 25:00,1")
        fails("time", "hour_ending_central,a_usd_per_mwh", "07/01/2024 02:00 DST,1")

    def test_unsorted_off_grid_and_empty(self) -> None:
        assert fails("unsorted", UTC_HEAD, "2024-01-01T00:15Z,1", "2024-01-01T00:00Z,1").line == 3
        rows = [f"2024-01-01T00:{minute:02d}Z,1" for minute in (0, 15, 30, 40)]
        fails("grid", UTC_HEAD, *rows)
        fails("grid", UTC_HEAD, "2024-01-01T00:00Z,1")
        fails("empty", UTC_HEAD)
        fails("empty", UTC_HEAD, "2024-01-01T00:00Z,", "2024-01-01T00:15Z,nan")

    def test_a_file_that_is_not_one(self, tmp_path: Path) -> None:
        for name, body in (
            ("absent.csv", None),
            ("cut.csv.gz", gzip.compress(b"x" * 9_999)[:40]),
            ("b.csv", b"\xff\xff"),
        ):
            path = tmp_path / name
            if body is not None:
                path.write_bytes(body)
            with pytest.raises(TableError, match=name) as caught:
                load_series(path)
            assert caught.value.code == "unreadable"
        fails("size", UTC_HEAD, "2024-01-01T00:00Z," + "1" * 20_000)


class TestSummerTime:
    HEAD = "interval_start_central,lmp_usd_per_mwh"

    def test_the_hour_that_comes_twice_is_told_apart_by_order(self) -> None:
        labels = ["00:30", "01:00", "01:30", "01:00", "01:30", "02:00"]
        found = table(self.HEAD, *(f"2024-11-03T{label},{i}" for i, label in enumerate(labels)))
        assert np.diff(found.start_ms).tolist() == [1_800_000] * 5
        assert starts(found)[1] == "11-03 06:00"
        assert found.gaps == ()

    def test_the_hour_that_comes_twice_but_stands_once_leaves_a_stated_gap(self) -> None:
        found = table(self.HEAD, *(f"2024-11-03T0{hour}:00,{hour}" for hour in (0, 1, 2, 3)))
        assert starts(found) == ["11-03 05:00", "11-03 06:00", "11-03 08:00", "11-03 09:00"]
        assert [(gap.intervals, gap.why) for gap in found.gaps] == [(1, "absent")]

    def test_three_times_the_same_hour_is_an_error(self) -> None:
        fails("time", self.HEAD, *(f"2024-11-03T01:00,{i}" for i in range(3)))

    def test_repeated_hour_by_suffix_and_by_flag(self) -> None:
        head = "hour_ending_central,a_usd_per_mwh"
        found = table(head, "11/03/2024 02:00,1", "11/03/2024 02:00 DST,2", "11/03/2024 03:00,3")
        assert starts(found) == ["11-03 06:00", "11-03 07:00", "11-03 08:00"]
        flagged = table(
            "delivery_date_central,hour_ending,dst_flag,a_usd_per_mwh",
            "2024-11-03,1,N,0",
            "2024-11-03,2,N,1",
            "2024-11-03,2,Y,2",
            "2024-11-03,3,N,3",
        )
        assert starts(flagged) == ["11-03 05:00", "11-03 06:00", "11-03 07:00", "11-03 08:00"]

    def test_the_hour_that_never_was_may_be_skipped_or_empty_but_not_priced(self) -> None:
        skipped = table(self.HEAD, "2024-03-10T01:00,1", "2024-03-10T03:00,3", "2024-03-10T04:00,4")
        assert starts(skipped) == ["03-10 07:00", "03-10 08:00", "03-10 09:00"]
        assert skipped.gaps == ()
        empty = table(self.HEAD, "2024-03-10T01:00,1", "2024-03-10T02:00,", "2024-03-10T03:00,3")
        assert (empty.never_was, empty.gaps, len(empty.values)) == (1, (), 2)
        error = fails("dst", self.HEAD, "2024-03-10T01:00,1", "2024-03-10T02:00,2", "2024-03-10T03:00,3")
        assert error.line == 3


def test_nothing_of_the_future_is_known() -> None:
    found = table(UTC_HEAD, "2024-01-01T00:00Z,1", "2024-01-01T00:15Z,2", "2024-01-01T00:45Z,4")
    begin = utc("2024-01-01T00:00")
    assert found.last_known(begin - 1) is None
    assert found.last_known(begin) == 0
    assert found.last_known(begin + QUARTER_MS - 1) == 0
    assert found.last_known(begin + QUARTER_MS) == 1
    assert found.last_known(begin + 2 * QUARTER_MS) == 1, "a hole is not filled from the other side"
    late = QUARTER_MS
    assert found.last_known(begin + QUARTER_MS - 1, late) is None
    assert found.last_known(begin + QUARTER_MS, late) == 0
    assert found.last_known(begin, -late) == 0, "a negative delay would be a look ahead"


def _real_files() -> Iterator[Any]:
    folder = os.environ.get("WATTSHIFT_DATA", "")
    for name, more, values, missing in (
        ("ercot_hb_houston_rt_15min_2022_2024", {}, 105_216, 0),
        ("ercot_hb_houston_da_hourly_2022_2024", {}, 26_252, 4),
        (
            "ercot_hubs_rt_da_as_hourly_2024",
            {"column": "rt_usd_per_mwh", "where": {"settlement_point": "HB_WEST"}},
            8_614,
            170,
        ),
        ("ercot_native_load_hourly_2022_2024", {"unit": "_mw"}, 26_303, 1),
        ("ercot_wrsbes_bess1_rt_5min_2020", {}, 105_378, 30),
        ("midland_temperature_hourly_2024", {}, 8_783, 1),
    ):
        path = Path(folder) / f"{name}.csv.gz"
        reason = f"set WATTSHIFT_DATA to the folder that has {path.name}"
        yield pytest.param(
            path, more, values, missing, id=name, marks=pytest.mark.skipif(not path.is_file(), reason=reason)
        )


@pytest.mark.parametrize(("path", "more", "values", "missing"), list(_real_files()))
def test_real_files_close_over_years(path: Path, more: dict[str, Any], values: int, missing: int) -> None:
    found = load_series(path, **more)
    assert len(found.values) == values
    assert sum(gap.intervals for gap in found.gaps) == missing
    assert values + missing == (found.end_ms - int(found.start_ms[0])) // found.interval_ms
