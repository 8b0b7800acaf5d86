"""The ladder of power profiles a tuning firmware offers for a model."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from sim.devices.vitals import hashrate_at_ghs
from sim.ports import AsicModel

LOWEST_STEP: Final = -16
_STOCK_MHZ: Final = 525
_STEP_MHZ: Final = 25
_STOCK_V: Final = 13.8
_STEP_V: Final = 0.1


class Profile(NamedTuple):
    """One rung."""

    name: str
    step: int
    """0 is the stock setting, below it the machine runs slower."""
    power_w: int
    hashrate_ths: float
    frequency_mhz: int
    voltage_v: float


@lru_cache(maxsize=64)
def profiles_of(model: AsicModel) -> tuple[Profile, ...]:
    """From the least power of the model to its rated power, evenly spaced; the last is called "default".

    Names, steps and the 25 MHz between rungs follow a public capture of an S21's list; the watts are the model's own.
    """
    rungs = []
    for step in range(LOWEST_STEP, 1):
        mhz = _STOCK_MHZ + step * _STEP_MHZ
        power_w = round(model.rated_w + (model.rated_w - model.min_power_w) * step / -LOWEST_STEP)
        name = f"{mhz}MHz" if step else "default"
        ths = round(hashrate_at_ghs(model, power_w) / 1000.0, 2)
        rungs.append(Profile(name, step, power_w, ths, mhz, round(_STOCK_V + step * _STEP_V, 2)))
    return tuple(rungs)


def profile_at(model: AsicModel, limit_w: int) -> Profile:
    """The highest rung within a power limit, the lowest where none is."""
    rungs = profiles_of(model)
    return next((rung for rung in reversed(rungs) if rung.power_w <= limit_w), rungs[0])


def find_profile(model: AsicModel, selector: str, limit_w: int) -> Profile | None:
    """A rung by name, by watts ("2500W"), or by so many steps from the present one ("+1", "-2")."""
    rungs = profiles_of(model)
    if selector[:1] in {"+", "-"} and selector[1:].isdecimal() and len(selector) < 4:
        at = rungs.index(profile_at(model, limit_w)) + int(selector)
        return rungs[at] if 0 <= at < len(rungs) else None
    for rung in rungs:
        if selector in {rung.name, f"{rung.power_w}W"}:
            return rung
    return None
