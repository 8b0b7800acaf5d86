"""Temperature sensors. `REGISTRY` maps a driver's name in the config to what makes one, as for meters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

from agent.drivers.base import Sensor
from agent.drivers.meters.profile import available_profiles
from agent.drivers.sensors.modbus import PROFILES, modbus_sensor
from contract.clock import Clock


class SensorFactory(Protocol):
    """Makes a sensor from config; raises `ProfileError` (a ValueError) or `MissingExtraError`; touches no network."""

    def __call__(
        self,
        host: str,
        port: int | None,
        unit_id: int,
        options: Mapping[str, object],
        *,
        deadline_s: float,
        clock: Clock,
    ) -> Sensor: ...


def _with_profile(
    profile: str,
    host: str,
    port: int | None,
    unit_id: int,
    options: Mapping[str, object],
    *,
    deadline_s: float,
    clock: Clock,
) -> Sensor:
    return modbus_sensor(host, port, unit_id, {"profile": profile, **options}, deadline_s=deadline_s, clock=clock)


REGISTRY: Final[Mapping[str, SensorFactory]] = {
    "modbus": modbus_sensor,
    **{name: partial(_with_profile, name) for name in available_profiles(PROFILES)},
}
