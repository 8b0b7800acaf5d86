"""Units, one spelling each.

Names end in their unit: `power_w`, `energy_mwh`, `inlet_temp_mc` (thousandths of a degree Celsius), `hashrate_ghs`,
`age_ms`. Quantities whose sums must close are integers; money and ratios are floats. An unknown value is `None`
with an age, never a zero.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MS_PER_S = 1_000
MS_PER_MINUTE = 60_000
MS_PER_HOUR = 3_600_000
W_PER_MW = 1_000_000
GHS_PER_PHS = 1_000_000

POWER_W_MAX = 20_000_000_000
"""The largest power any message may state, 20 GW: above any site there is, so a larger figure is garbage."""

PowerW = Annotated[int, Field(ge=0, le=POWER_W_MAX, description="watts")]
SignedPowerW = Annotated[int, Field(ge=-POWER_W_MAX, le=POWER_W_MAX, description="watts, export negative")]
HashrateGhs = Annotated[int, Field(ge=0, le=10**15, description="gigahashes per second")]
TempMc = Annotated[int, Field(ge=-100_000, le=400_000, description="thousandths of a degree Celsius")]
DurationMs = Annotated[int, Field(ge=0, le=400 * 24 * MS_PER_HOUR, description="milliseconds")]
TimeMs = Annotated[int, Field(ge=0, le=2**53, description="milliseconds since the Unix epoch, UTC")]
Seq = Annotated[int, Field(ge=0, le=2**53, description="a counter that only rises within its scope")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="lower-case identifier")]
UsdPerMwh = Annotated[float, Field(ge=-100_000, le=100_000, allow_inf_nan=False, description="USD per MWh")]


def break_even_usd_per_mwh(hashprice_usd_per_ph_day: float, efficiency_j_per_th: float) -> float:
    """The energy price at which hashing earns exactly what its power costs, in USD/MWh.

    One PH/s at e J/TH draws e kW, so an hour of it uses e/1000 MWh and earns hashprice/24.

    >>> round(break_even_usd_per_mwh(50.0, 25.0), 2)
    83.33
    """
    return hashprice_usd_per_ph_day * 1_000.0 / (24.0 * efficiency_j_per_th)
