"""The data that ship: a month of prices, weather and hashprice, two days of jobs. See the READMEs beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sim.backtest.series import Files

SAMPLE_START: Final = "2023-08-08T00:00:00"
"""A week into the sample, which is the history to tune on."""
_PRICES: Final = Path(__file__).parents[1] / "samples"
_JOBS: Final = Path(__file__).parent / "samples" / "nrel_eagle_jobs_1000.csv"


def sample_jobs() -> Path:
    """The job trace."""
    return _JOBS


def sample_files(jobs: Path | None, signals: Path | None, hashprice: float | None) -> Files:
    """August 2023 at HB_HOUSTON."""
    return Files(
        rt=_PRICES / "ercot_hb_houston_rt_15min_2023_08.csv",
        btc=_PRICES / "btc_economics_daily_2023_08.csv",
        weather=_PRICES / "houston_weather_hourly_2023_08.csv",
        jobs=jobs,
        signals=signals,
        hashprice=hashprice,
    )
