"""Where in a Redfish service a host's power is: found once by following its links, kept until something is gone.

Each step that succeeded is kept, so that a slow BMC whose discovery outlasts one deadline is found in a few. Where a
chassis has `EnvironmentMetrics` with a `PowerLimitWatts`, that is used (Redfish 2020.4 and later); else the first
`PowerControl` of the older `Power` resource.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from agent.drivers.base import Failure, Unreachable
from agent.drivers.hosts._service_link import ROOT, Answer, Gone, ServiceLink, is_path
from agent.drivers.hosts._values import Json, listed, table, text

MAX_MEMBERS: Final = 64
MAX_CHASSIS: Final = 8


@dataclass(frozen=True, slots=True)
class Places:
    """Paths. None: this service does not have it, or has it nowhere that it would be needed."""

    system: str
    environment: str | None
    """`EnvironmentMetrics` of the chassis, where it has watts or their limit."""
    power: str | None
    """`Power` of the same, where `EnvironmentMetrics` lacks one of the two."""
    limit_in_environment: bool
    limit_in_power: bool


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one chassis has."""

    environment: str | None = None
    power: str | None = None
    environment_watts: bool = False
    environment_limit: bool = False
    power_limit: bool = False

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """The best sorts first."""
        limited = self.environment_limit or self.power_limit
        return not limited, not self.environment_watts, self.power is None


@dataclass(slots=True)
class Finder:
    """Finds them for one system. `system` and `chassis` are Ids from the config; None for the only, or the best."""

    link: ServiceLink
    system: str | None
    chassis: str | None
    _system: str | None = None
    _chassis: tuple[str, ...] | None = None
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _places: Places | None = None

    def forget(self) -> None:
        """Something is no longer where it was."""
        self._system = self._chassis = self._places = None
        self._seen.clear()

    async def find(self, until_s: float) -> Places | Unreachable:
        if self._places is not None:
            return self._places
        if self._system is None:
            system = await self._find_system(until_s)
            if isinstance(system, Unreachable):
                return system
            self._system = system
        if self._chassis is None:
            chassis = await self._find_chassis(self._system, until_s)
            if isinstance(chassis, Unreachable):
                return chassis
            self._chassis = chassis
        for path in self._chassis:
            if path not in self._seen:
                seen = await self._look_at(path, until_s)
                if isinstance(seen, Unreachable):
                    return seen
                self._seen[path] = seen
        self._places = _best(self._system, [self._seen[path] for path in self._chassis])
        return self._places

    async def _find_system(self, until_s: float) -> str | Unreachable:
        root = await self.link.get(ROOT, until_s)
        if isinstance(root, Unreachable):
            return root
        systems = await self.link.get(linked(root.body, "Systems") or f"{ROOT}Systems", until_s)
        if isinstance(systems, Unreachable):
            return systems
        members = _members(systems)
        if self.system is not None:
            named = [path for path in members if path.rstrip("/").rpartition("/")[2] == self.system]
            return named[0] if named else Unreachable(Failure.GARBAGE, f"it has no system {self.system}")
        if len(members) != 1:
            names = ", ".join(path.rpartition("/")[2] for path in members[:8]) or "none"
            return Unreachable(Failure.GARBAGE, f"it has not one system but {names}: set system")
        return members[0]

    async def _find_chassis(self, system: str, until_s: float) -> tuple[str, ...] | Unreachable:
        answer = await self.link.get(system, until_s)
        if isinstance(answer, Unreachable):
            return answer
        paths = [_path(each) for each in listed(table(answer.body.get("Links")).get("Chassis"))]
        paths = [path for path in paths if path]
        if self.chassis is not None:
            paths = [path for path in paths if path.rstrip("/").rpartition("/")[2] == self.chassis]
            if not paths:
                return Unreachable(Failure.GARBAGE, f"the system is in no chassis {self.chassis}")
        return tuple(paths[:MAX_CHASSIS])

    async def _look_at(self, path: str, until_s: float) -> _Seen | Unreachable:
        chassis = await self.link.get(path, until_s)
        if isinstance(chassis, Unreachable):
            return chassis
        environment = await self._resource(linked(chassis.body, "EnvironmentMetrics"), until_s)
        if isinstance(environment, Unreachable):
            return environment
        power = await self._resource(linked(chassis.body, "Power"), until_s)
        if isinstance(power, Unreachable):
            return power
        return _Seen(
            environment=linked(chassis.body, "EnvironmentMetrics") if environment else None,
            power=linked(chassis.body, "Power") if control(power) else None,
            environment_watts="Reading" in table(environment.get("PowerWatts")),
            environment_limit=bool(table(environment.get("PowerLimitWatts"))),
            power_limit="PowerLimit" in control(power),
        )

    async def _resource(self, path: str | None, until_s: float) -> Json | Unreachable:
        """Empty where there is none, or where the link leads nowhere."""
        if path is None:
            return {}
        answer = await self.link.get(path, until_s)
        if isinstance(answer, Gone):
            return {}
        return answer if isinstance(answer, Unreachable) else answer.body


def control(power: Json) -> Json:
    """The first `PowerControl` of a `Power` resource: that of the whole chassis."""
    controls = listed(power.get("PowerControl"))
    return table(controls[0]) if controls else {}


def linked(body: Json, name: str) -> str | None:
    """The path that a property links to; None where it links to none."""
    return _path(body.get(name)) or None


def _path(link: object) -> str:
    path = text(table(link).get("@odata.id"), 500)
    return path if is_path(path) else ""


def _members(collection: Answer) -> list[str]:
    return [path for path in map(_path, listed(collection.body.get("Members"))[:MAX_MEMBERS]) if path]


def _best(system: str, chassis: list[_Seen]) -> Places:
    best = min(chassis, key=lambda seen: seen.rank, default=_Seen())
    enough = best.environment_watts and (best.environment_limit or not best.power_limit)
    return Places(
        system,
        best.environment,
        None if enough else best.power,
        limit_in_environment=best.environment_limit,
        limit_in_power=best.power_limit and not best.environment_limit,
    )
