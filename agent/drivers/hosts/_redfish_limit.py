"""A power limit as a Redfish resource states it, and what to write to change it or to put it back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.drivers.hosts._redfish_places import Places, control
from agent.drivers.hosts._values import Json, table, text, watts

Found = dict[str, str | int | float | None]
_DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of one chassis."""

    path: str
    """Where it is changed."""
    limit_w: int | None
    """In force; None for none."""
    range_w: tuple[int, int] | None
    found: Found
    """The fields as they are: what puts them back."""
    in_environment: bool

    def change(self, limit_w: int) -> Json:
        """What to write for a limit."""
        if not self.in_environment:
            return _in_power({"LimitInWatts": limit_w})
        mode = {"ControlMode": "Automatic"} if "ControlMode" in self.found else {}
        return {"PowerLimitWatts": {"SetPoint": limit_w, **mode}}

    def restore(self, found: Mapping[str, str | int | float | None]) -> Json:
        """What to write to put back what an earlier look found."""
        if not self.in_environment:
            return _in_power({"LimitInWatts": found.get("LimitInWatts")})
        back = {key: value for key, value in found.items() if key in {"SetPoint", "ControlMode"}}
        if back.get("SetPoint") is None and "ControlMode" in back:
            del back["SetPoint"]  # there was none, and the mode says what that means
        return {"PowerLimitWatts": back or {"SetPoint": None}}


def limit_of(places: Places, bodies: Mapping[str, Json]) -> Limit | None:
    """The limit, from the resources read by path; None where this service has none."""
    if places.limit_in_environment and places.environment is not None:
        stated = table(bodies.get(places.environment, {}).get("PowerLimitWatts"))
        return _of_environment(places.environment, stated) if stated else None
    if places.limit_in_power and places.power is not None:
        own = control(bodies.get(places.power, {}))
        return _of_power(places.power, own) if "PowerLimit" in own else None
    return None


def _of_environment(path: str, stated: Json) -> Limit:
    in_force = text(stated.get("ControlMode")) != _DISABLED
    least, most = watts(stated.get("AllowableMin")), watts(stated.get("AllowableMax"))
    found = {key: stated[key] for key in ("SetPoint", "ControlMode") if key in stated}
    return Limit(path, _limit_w(stated.get("SetPoint")) if in_force else None, _range(least, most), found, True)


def _of_power(path: str, own: Json) -> Limit:
    given = table(own.get("PowerLimit")).get("LimitInWatts")
    # The range is no part of the standard here, but some makes state it.
    least, most = watts(own.get("MinPowerLimitInWatts")), watts(own.get("MaxPowerLimitInWatts"))
    return Limit(path, _limit_w(given), _range(least, most), {"LimitInWatts": given}, False)


def _limit_w(value: object) -> int | None:
    """No host runs at nothing: a limit of 0 is how some say that there is none."""
    return watts(value) or None


def _range(least: int | None, most: int | None) -> tuple[int, int] | None:
    if least is None and most is None:
        return None
    least, most = least or 0, most or 1_000_000
    return (least, most) if least <= most else None


def _in_power(limit: Json) -> Json:
    return {"PowerControl": [{"PowerLimit": limit}]}
