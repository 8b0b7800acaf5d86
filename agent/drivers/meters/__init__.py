"""Electrical meters. `REGISTRY` maps a driver's name in the config to what makes one.

`modbus` takes its registers from the options; every profile's own name is `modbus` with that profile.
A new make of meter is a new file under `profiles/`; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

from agent.drivers.base import Meter
from agent.drivers.meters.modbus import PROFILES, modbus_meter
from agent.drivers.meters.profile import available_profiles
from contract.clock import Clock


class MeterFactory(Protocol):
    """Makes a meter from config; raises `ProfileError` (a ValueError) or `MissingExtraError`; touches no network."""

    def __call__(
        self,
        host: str,
        port: int | None,
        unit_id: int,
        options: Mapping[str, object],
        *,
        deadline_s: float,
        clock: Clock,
    ) -> Meter: ...


def _with_profile(
    profile: str,
    host: str,
    port: int | None,
    unit_id: int,
    options: Mapping[str, object],
    *,
    deadline_s: float,
    clock: Clock,
) -> Meter:
    return modbus_meter(host, port, unit_id, {"profile": profile, **options}, deadline_s=deadline_s, clock=clock)


REGISTRY: Final[Mapping[str, MeterFactory]] = {
    "modbus": modbus_meter,
    **{name: partial(_with_profile, name) for name in available_profiles(PROFILES)},
}
