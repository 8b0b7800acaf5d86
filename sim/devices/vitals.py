"""What a control board measures, as one flat dict of figures that every firmware's templates draw from.

A port gives one inlet and one chip temperature; a real machine has three boards. The hottest chip of the middle board
is the port's figure and the other two run a little cooler; a board's own sensor reads about 15 degrees under its chips
at the exhaust end and 13 less again at the intake end, as public captures of S19 show: no sensor of a board reads the
air that comes in. The exhaust air is warmer than the inlet by what the power heats it.
"""

from __future__ import annotations

import math
from typing import Final

from sim.devices.template import safe_text
from sim.ports import AsicModel, AsicPort, AsicState, DeviceFault

BOARDS: Final = 3
FANS: Final = 4
_BOARD_COOLER_BY_C: Final = (2.0, 0.0, 1.0)
_SENSOR_UNDER_CHIP_C: Final = 15.0
_INTAKE_END_UNDER_SENSOR_C: Final = 13.0
_EXHAUST_C_PER_W: Final = 0.004
_RATED_MHZ: Final = 525.0
_FAN_RPM: Final = 6_000.0
_BAD_FIGURES: Final = (
    # power, hashrate, inlet, chip
    (math.nan, math.inf, -300.0, -1.0),
    (-250.0, math.nan, math.inf, math.nan),
    (math.inf, -5.0, math.nan, -math.inf),
)
"""What a machine with the NaN fault reports, in turn by the second."""


def vitals(port: AsicPort, wall_ms: int) -> dict[str, float | str]:
    """The figures of this moment. Keys: see the code; suffixes as everywhere, a digit is a board."""
    model = port.model
    power_w, ghs, inlet_c, chip_c = _measured(port, wall_ms)
    limit_w = float(port.power_limit_w)
    nominal_ghs = hashrate_at_ghs(model, limit_w)
    state = port.state
    mining = state is AsicState.RUNNING or state is AsicState.BOOTING
    uptime_s = port.uptime_s
    values: dict[str, float | str] = {
        "when": wall_ms // 1000,
        "serial": safe_text(port.serial),
        "model": safe_text(model.name),
        "up_s": uptime_s,
        "accepted": uptime_s / 5.0,
        "total_mh": ghs * 1e3 * uptime_s,
        "power_w": power_w,
        "power3_w": power_w / BOARDS,
        "limit_w": limit_w,
        "limit3_w": limit_w / BOARDS,
        "rated_w": model.rated_w,
        "rated_ghs": model.hashrate_ghs,
        "rated_ghs3": model.hashrate_ghs / BOARDS,
        "rated_ths": model.hashrate_ghs / 1e3,
        "rated_mhs3": model.hashrate_ghs * 1e3 / BOARDS,
        "nominal_ghs": nominal_ghs,
        "nominal_mhs": nominal_ghs * 1e3,
        "nominal_ghs3": nominal_ghs / BOARDS,
        "nominal_mhs3": nominal_ghs * 1e3 / BOARDS,
        "ghs": ghs,
        "ghs3": ghs / BOARDS,
        "mhs": ghs * 1e3,
        "mhs3": ghs * 1e3 / BOARDS,
        "hertz": _RATED_MHZ * 1e6 * nominal_ghs / model.hashrate_ghs if mining else 0.0,
        "mhz": _RATED_MHZ * nominal_ghs / model.hashrate_ghs if mining else 0.0,
        "inlet_c": inlet_c,
        "exhaust_c": inlet_c + _EXHAUST_C_PER_W * power_w,
        "chip_c": chip_c,
        "fan_rpm": _FAN_RPM if mining else 0.0,
        "fan_percent": 80.0 if mining else 0.0,
        "fan_ratio": 0.8 if mining else 0.0,
    }
    for board in range(BOARDS):
        board_chip_c = chip_c - _BOARD_COOLER_BY_C[board]
        values[f"chip{board}_c"] = board_chip_c
        values[f"pcb{board}_c"] = board_chip_c - _SENSOR_UNDER_CHIP_C
        values[f"cool{board}_c"] = board_chip_c - _SENSOR_UNDER_CHIP_C - _INTAKE_END_UNDER_SENSOR_C
    return values


def hashrate_at_ghs(model: AsicModel, power_w: float) -> float:
    """What the machine hashes at a power, by the efficiency line of `AsicModel`."""
    share = power_w / model.rated_w
    return model.hashrate_ghs * share / (1.0 - model.efficiency_slope * (1.0 - share))


def _measured(port: AsicPort, wall_ms: int) -> tuple[float, float, float, float]:
    if port.fault is DeviceFault.NAN:
        return _BAD_FIGURES[wall_ms // 1000 % len(_BAD_FIGURES)]
    return port.reported_power_w, port.hashrate_ghs, port.inlet_temp_c, port.chip_temp_c
