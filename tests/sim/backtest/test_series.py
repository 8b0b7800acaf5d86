"""Files become a time line: gaps filled and counted, days of 23 and 25 hours, errors that say where and what to do."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from sim.backtest.csvfile import SeriesError
from sim.backtest.model import Timeline
from sim.backtest.sample import SAMPLE_START, sample_files, sample_jobs
from sim.backtest.series import Files, Window, load_timeline, moment
from sim.backtest.sitefile import SitePlan, load
from sim.backtest.thresholds import BreakEvenPolicy, HysteresisPolicy
from sim.backtest.trace import load_trace
from sim.backtest.wattshift import WattshiftPolicy
from tests.sim.backtest.test_sitefile import EXAMPLES, SITE
from tests.sim.backtest.worlds import run

ZONE = "America/Chicago"
Change = Callable[[list[str]], list[str]]
TRACE = """job_id,partition,qos,nodes_req,wallclock_req_s,run_time_s,submit_time
1,p,normal,2,7200,3600,2019-01-01 08:00:00
2,p,normal,1,3600,600,2019-01-01 08:10:00
3,p,normal,30,3600,1800,2019-01-01 12:00:00
4,p,normal,8,36000,18000,2019-01-01 20:00:00
"""


@pytest.fixture
def plan(tmp_path: Path) -> SitePlan:
    path = tmp_path / "site.toml"
    path.write_text(SITE)
    return load(path).plans[0]


def test_the_interval_is_detected_and_history_stands_before_the_window(tmp_path: Path, plan: SitePlan) -> None:
    rt = _prices(tmp_path, 96 * 10)
    line, said = _load(plan, Files(rt), "2023-06-05", "2023-06-07")
    assert (line.interval_ms, line.history, len(line.price)) == (900_000, 96 * 4, 96 * 6)
    assert line.price[line.history] == 96 * 4 - 500
    assert any("no jobs" in text for text in said)
    assert any("less than a week before the window: hysteresis keeps its defaults" in text for text in said)
    assert _load(plan, Files(rt), "2023-06-05", "2023-06-07", history=1)[0].history == 96


def test_missing_intervals_are_filled_with_the_last_value_counted_and_said(tmp_path: Path, plan: SitePlan) -> None:
    rt = _prices(tmp_path, 96, drop={40, 41})
    line, said = _load(plan, Files(rt), "2023-06-01", "2023-06-02")
    assert line.price[38:43].tolist() == [38 - 500, 39 - 500, 39 - 500, 39 - 500, 42 - 500]
    assert np.flatnonzero(line.filled).tolist() == [40, 41]
    assert any("2 of 96 intervals filled" in text for text in said)


def test_more_than_a_share_missing_is_an_error(tmp_path: Path, plan: SitePlan) -> None:
    rt = _prices(tmp_path, 96, drop=set(range(40, 50)))
    with pytest.raises(SeriesError, match=r"has no value for 10 of the window's 96 intervals .* at most 5%"):
        _load(plan, Files(rt), "2023-06-01", "2023-06-02")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: [*rows[:5], rows[3], *rows[5:]], "line 7: is earlier than the row before"),
        (lambda rows: list(reversed(rows)), "line 3: is earlier than the row before"),
        (lambda rows: [*rows[:5], rows[4].replace(",", ",9"), *rows[5:]], "line 7: says another value"),
        (lambda rows: [*rows[:5], "2023-06-01T06:15Z,abc", *rows[6:]], "line 7: 'abc' is not a number"),
        (lambda rows: [*rows[:5], "2023-06-01T06:15Z,nan", *rows[6:]], "not a finite number at 2023-06-01T06:15Z"),
        (lambda rows: [*rows[:5], "yesterday,5", *rows[6:]], "line 7: 'yesterday' is not an ISO 8601 time"),
        (lambda rows: [*rows[:5], "2023-06-01T06:15Z,5,6", *rows[6:]], "line 7: 3 fields"),
        (lambda rows: [], "has no value"),
    ],
)
def test_a_bad_row_is_one_error_with_its_line_and_a_fix(
    tmp_path: Path, plan: SitePlan, change: Change, told: str
) -> None:
    rt = tmp_path / "rt.csv"
    rows = [f"{_utc(k)},{k}" for k in range(96)]
    rt.write_text("interval_start_utc,rt_usd_per_mwh\n" + "\n".join(change(rows)) + "\n")
    with pytest.raises(SeriesError) as error:
        _load(plan, Files(rt), "2023-06-01", "2023-06-02")
    assert told in str(error.value)
    assert "rt.csv" in str(error.value)
    assert "rt_usd_per_mwh" in str(error.value)
    assert "Fix: " in str(error.value)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("interval_start_utc,usd", "line 1: needs one of rt_usd_per_mwh"),
        ("when,rt_usd_per_mwh", "needs exactly one of these time columns"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, plan: SitePlan, header: str, told: str) -> None:
    rt = tmp_path / "rt.csv"
    rt.write_text(f"{header}\n{_utc(0)},5\n{_utc(1)},5\n")
    with pytest.raises(SeriesError, match=told):
        _load(plan, Files(rt), None, None)


def test_a_window_outside_the_file_and_a_reversed_one_are_errors_with_a_window_that_would_do(
    tmp_path: Path, plan: SitePlan
) -> None:
    rt = _prices(tmp_path, 96)
    with pytest.raises(
        SeriesError, match=r"holds 2023-06-01T05:00Z to 2023-06-02T05:00Z.*Fix: --start 2023-06-01T05:00Z"
    ):
        _load(plan, Files(rt), "2023-05-31", "2023-06-02")
    with pytest.raises(SeriesError, match="is empty"):
        _load(plan, Files(rt), "2023-06-02", "2023-06-01")
    with pytest.raises(SeriesError, match="cannot be read"):
        _load(plan, Files(tmp_path / "none.csv"), None, None)


def test_an_interval_longer_than_an_hour_is_refused(tmp_path: Path, plan: SitePlan) -> None:
    rt = tmp_path / "rt.csv"
    rt.write_text("date_utc,rt_usd_per_mwh\n2023-06-01,5\n2023-06-02,5\n2023-06-03,5\n")
    with pytest.raises(SeriesError, match="an interval of 1440 min"):
        _load(plan, Files(rt), None, None)


def test_a_file_of_several_hubs_is_read_at_the_one_chosen(tmp_path: Path, plan: SitePlan) -> None:
    rows = [
        f"{hub},2023-06-01,{hour},{hour * factor},{hour}"
        for hub, factor in (("HB_WEST", 1), ("HB_NORTH", 10))
        for hour in range(1, 25)
    ]
    rt = tmp_path / "hubs.csv"
    header = "settlement_point,delivery_date_central,hour_ending,rt_usd_per_mwh,da_usd_per_mwh"
    rt.write_text(header + "\n" + "\n".join(rows) + "\n")
    line, _ = _load(plan, Files(rt, da=rt, hub="HB_NORTH"), None, None)
    assert line.interval_ms == 3_600_000
    assert line.price[:2].tolist() == [10.0, 20.0]
    assert line.day_ahead is not None
    assert line.day_ahead[:2].tolist() == [1.0, 2.0]
    with pytest.raises(SeriesError, match="holds HB_WEST, HB_NORTH, not HB_SOUTH"):
        _load(plan, Files(rt, hub="HB_SOUTH"), None, None)
    with pytest.raises(SeriesError, match="choose one with --hub"):
        _load(plan, Files(rt), None, None)


def test_days_on_which_clocks_change_have_23_and_25_hours_and_load_labels_as_published_fit(
    tmp_path: Path, plan: SitePlan
) -> None:
    start = datetime(2023, 3, 11, 6, tzinfo=UTC)
    rt, load_csv = tmp_path / "rt.csv", tmp_path / "load.csv.gz"
    wild = (30, -50, 30, 9_000)
    rows = [f"{(start + timedelta(hours=k)).isoformat()},{wild[k % 4]}" for k in range(24 * 300)]
    rt.write_text("interval_start_utc,rt_usd_per_mwh\n" + "\n".join(rows) + "\n")
    with gzip.open(load_csv, "wt") as out:
        out.write("hour_ending_central,load_mw\n")
        wall = datetime(2023, 3, 11)  # noqa: DTZ001  labels are wall time
        for _ in range(24 * 300 - 40):
            wall += timedelta(hours=1)
            label = f"{wall - timedelta(days=1):%m/%d/%Y} 24:00" if wall.hour == 0 else f"{wall:%m/%d/%Y %H:%M}"
            if (wall.month, wall.day, wall.hour) == (3, 12, 3):
                continue
            out.write(f"{label},{wall.timetuple().tm_yday * 100 + wall.hour}\n")
            if (wall.month, wall.day, wall.hour) == (11, 5, 2):
                out.write(f"{label} DST,7\n")
    spring, _ = _load(plan, Files(rt, load=load_csv), "2023-03-12", "2023-03-13")
    autumn, _ = _load(plan, Files(rt, load=load_csv), "2023-11-05", "2023-11-06")
    assert len(spring.price) - spring.history == 23
    assert len(autumn.price) - autumn.history == 25
    assert autumn.load_mw is not None
    assert autumn.load_mw[autumn.history + 2] == 7
    for line in (spring, autumn):
        assert (line.price.min(), line.price.max()) == (-50, 9_000)
        for policy in (BreakEvenPolicy(), HysteresisPolicy(), WattshiftPolicy()):
            books, trace, _ = run(policy, plan.site, line, 1)
            assert books.violations == {}, (policy.name, books.violations)
            assert len(trace.profit_usd) == len(line.price) - line.history


def test_day_ahead_prices_are_known_from_half_past_one_the_day_before_and_unknown_ones_stay_unknown(
    tmp_path: Path, plan: SitePlan
) -> None:
    rt = _prices(tmp_path, 96 * 3)
    da = tmp_path / "da.csv"
    da.write_text("interval_start_utc,da_usd_per_mwh\n" + "".join(f"{_utc(4 * k)},{k}\n" for k in range(72) if k != 30))
    line, said = _load(plan, Files(rt, da=da), "2023-06-02", "2023-06-04")
    assert line.day_ahead is not None
    assert line.day_ahead_known is not None
    noon = _ms(moment("2023-06-01T13:30", ZONE))
    assert set(line.day_ahead_known[96:192].tolist()) == {noon}
    assert np.flatnonzero(np.isnan(line.day_ahead)).tolist() == [120, 121, 122, 123]
    assert any("4 of 192 intervals without a day-ahead price" in text for text in said)


def test_hashprice_weather_and_their_absence(tmp_path: Path, plan: SitePlan) -> None:
    rt = _prices(tmp_path, 96 * 2)
    btc, weather = tmp_path / "btc.csv", tmp_path / "weather.csv"
    btc.write_text("date_utc,hashprice_usd_per_ph_day\n2023-06-01,70\n2023-06-02,80\n2023-06-03,90\n")
    weather.write_text("hour_utc,temperature_c\n" + "".join(f"{_utc(4 * k)},{k}\n" for k in range(48)))
    line, _ = _load(plan, Files(rt, btc=btc, weather=weather), None, None)
    assert (line.hashprice[0], line.hashprice[-1]) == (70.0, 90.0)
    assert line.ambient_c is not None
    assert line.ambient_c[:8].tolist() == [0.0] * 4 + [1.0] * 4
    bare, said = _load(plan, Files(rt, hashprice=55.0), None, None)
    assert bare.hashprice[0] == 55.0
    assert any("20 C throughout" in text for text in said)
    old = tmp_path / "btc2.csv"
    old.write_text(btc.read_text().replace("2023-", "2021-"))
    with pytest.raises(SeriesError, match=r"btc2\.csv.*has no value"):
        _load(plan, Files(rt, btc=old), None, None)


def test_a_trace_is_laid_over_the_window_and_cut_at_its_ends(tmp_path: Path, plan: SitePlan) -> None:
    rt, trace = _prices(tmp_path, 96 * 6), tmp_path / "jobs.csv"
    trace.write_text(TRACE)
    assert plan.jobs is not None
    repeated = _with_jobs(plan, repeat_days=1.0)
    line, said = _load(repeated, Files(rt, jobs=trace), "2023-06-03", "2023-06-06")
    begin = line.start_ms + line.history * line.interval_ms
    judged = [job for job in line.jobs if job.submit_ms >= begin]
    end = line.start_ms + len(line.price) * line.interval_ms
    assert len(judged) + 3 >= 9
    assert all(job.submit_ms % 900_000 == 0 and job.deadline_ms <= end for job in judged)
    assert all(job.deadline_ms <= begin for job in line.jobs if job.submit_ms < begin)
    assert any("1 jobs of jobs.csv are wider than partition gpu" in text for text in said)
    long = [job for job in judged if job.nodes == 8]
    whole = [job for job in long if job.work_h == pytest.approx(5.0)]
    assert whole
    assert all(job.deadline_ms - job.submit_ms == 20 * 3_600_000 for job in whole)
    assert all(job.miss_usd == pytest.approx(8 * 4 * job.work_h) for job in long)
    once, _ = _load(plan, Files(rt, jobs=trace), "2023-06-03", "2023-06-06")
    assert once.jobs == ()


def test_the_same_days_have_the_same_jobs_wherever_the_window_begins(tmp_path: Path, plan: SitePlan) -> None:
    rt, trace = _prices(tmp_path, 96 * 8), tmp_path / "jobs.csv"
    trace.write_text(TRACE)
    repeated = _with_jobs(plan, repeat_days=1.5)
    early, late = (_load(repeated, Files(rt, jobs=trace), day, "2023-06-09")[0] for day in ("2023-06-02", "2023-06-04"))
    since = _ms(moment("2023-06-05", ZONE))
    assert [j for j in early.jobs if j.submit_ms >= since] == [j for j in late.jobs if j.submit_ms >= since]


def test_small_jobs_of_an_hour_become_one_array_of_the_same_work(tmp_path: Path, plan: SitePlan) -> None:
    rt, trace = _prices(tmp_path, 96 * 3), tmp_path / "jobs.csv"
    trace.write_text(TRACE.replace("2019-01-01", "2023-06-02"))
    apart, _ = _load(plan, Files(rt, jobs=trace), None, None)
    together, _ = _load(_with_jobs(plan, bundle_nodes=2), Files(rt, jobs=trace), None, None)
    assert len(apart.jobs) == len(together.jobs) + 1
    node_hours = [sum(job.nodes * job.work_h for job in each.jobs) for each in (apart, together)]
    assert node_hours[0] == pytest.approx(node_hours[1])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("nodes_req", "nodes", "line 1: has no column nodes_req"),
        (",2,7200", ",-2,7200", "line 2: column nodes_req: '-2' is not a number from 1"),
        (",7200,", ",nan,", "line 2: column wallclock_req_s: 'nan'"),
        ("2019-01-01 08:00:00", "first of May", "line 2: column submit_time: 'first of May'"),
        ("1,p,normal,2,7200,3600", "1,p,normal,2,7200", "line 2: 6 fields"),
    ],
)
def test_a_bad_trace_is_one_error_with_its_line_and_column(tmp_path: Path, old: str, new: str, told: str) -> None:
    trace = tmp_path / "jobs.csv"
    trace.write_text(TRACE.replace(old, new, 1))
    with pytest.raises(SeriesError, match=told.replace("(", r"\(")):
        load_trace(trace)


def test_an_empty_trace_is_said_and_the_site_runs_without_jobs(tmp_path: Path, plan: SitePlan) -> None:
    rt, trace = _prices(tmp_path, 96), tmp_path / "jobs.csv"
    trace.write_text(TRACE.splitlines()[0] + "\n")
    line, said = _load(plan, Files(rt, jobs=trace), None, None)
    assert line.jobs == ()
    assert any("jobs.csv holds no job" in text for text in said)


def test_signals_are_read_for_the_site_and_bad_ones_refused(tmp_path: Path, plan: SitePlan) -> None:
    rt, signals = _prices(tmp_path, 96), tmp_path / "signals.csv"
    head = "told_utc,starts_utc,ends_utc,target_mw,site\n"
    row = "2023-06-01T08:00Z,2023-06-01T09:00Z,2023-06-01T10:00Z,3.5,"
    signals.write_text(f"{head}{row}\n{row}one\n{row}other\n")
    line, _ = _load(plan, Files(rt, signals=signals), None, None)
    assert [due.target_mw for due in line.obligations] == [3.5, 3.5]
    for bad, told in (
        (row.replace("T10", "T08"), "column ends_utc"),
        (row.replace("T08", "T09:30").replace(":00Z,2023-06-01T09:00", ",2023-06-01T09:00"), "column told_utc"),
        (row.replace("3.5", "-1"), "column target_mw"),
    ):
        signals.write_text(f"{head}{bad}\n")
        with pytest.raises(SeriesError, match=f"line 2: {told}"):
            _load(plan, Files(rt, signals=signals), None, None)


def test_the_shipped_sample_loads_the_partitions_of_the_example_as_a_busy_centre_is_loaded() -> None:
    hybrid = load(EXAMPLES / "hybrid-40mw.toml").plans[0]
    line, said = load_timeline(hybrid, sample_files(sample_jobs(), None, None), Window(moment(SAMPLE_START, ZONE)))
    assert line.history > 96 * 6
    loads = [int(text.rpartition(" ")[2].rstrip("%")) for text in said if "load it to" in text]
    assert len(loads) == 2
    assert all(70 <= load <= 95 for load in loads)
    assert 300 < len([job for job in line.jobs if job.submit_ms >= line.start_ms]) < 2_000


def _load(
    plan: SitePlan, files: Files, start: str | None, end: str | None, history: int = 365
) -> tuple[Timeline, list[str]]:
    moments = [None if text is None else moment(text, ZONE) for text in (start, end)]
    return load_timeline(plan, files, Window(moments[0], moments[1]), history)


def _with_jobs(plan: SitePlan, repeat_days: float | None = None, bundle_nodes: int = 0) -> SitePlan:
    assert plan.jobs is not None
    kind = plan.jobs.classes[0].model_copy(update={"bundle_nodes": bundle_nodes})
    return replace(plan, jobs=plan.jobs.model_copy(update={"repeat_days": repeat_days, "classes": [kind]}))


def _prices(folder: Path, count: int, drop: set[int] | None = None) -> Path:
    path = folder / "prices.csv"
    rows = [f"{_utc(k)},{k - 500}" for k in range(count) if k not in (drop or ())]
    path.write_text("interval_start_utc,rt_usd_per_mwh\n" + "\n".join(rows) + "\n")
    return path


def _utc(quarter: int) -> str:
    """From midnight of 2023-06-01 in Chicago."""
    return (datetime(2023, 6, 1, 5, tzinfo=UTC) + timedelta(minutes=15 * quarter)).strftime("%Y-%m-%dT%H:%MZ")


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1_000)
