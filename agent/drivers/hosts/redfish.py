"""REDFISH: a host by its management controller (BMC), whatever make: DMTF DSP0266 and DSP2046.

* read      the system's `PowerState`; watts and limit from `EnvironmentMetrics`, or from `Power` where that is older
* limit     PATCH of `PowerLimitWatts` {SetPoint, ControlMode: Automatic}, or of `PowerControl[0].PowerLimit`
            {LimitInWatts}; what was found is put back, "no limit" as `ControlMode: Disabled` or a null
* switch    POST to `ComputerSystem.Reset`, in the way the system says it can. A 200 or 204 means accepted, not done

A limit is of the chassis: where several systems share one (blades), it is of all of them; such a host is not given the
right to limit. Nothing is repeated but what the service itself has said it did not do (an expired session, an ETag).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.hosts._limit_ledger import KeepsLimit
from agent.drivers.hosts._redfish_limit import Limit, limit_of
from agent.drivers.hosts._redfish_places import Finder, Places, control
from agent.drivers.hosts._service_link import Access, Answer, Gone, ServiceLink
from agent.drivers.hosts._values import MAX_HOST_W, Json, listed, table, text, watts
from agent.drivers.hosts.host import HostReading, HostState
from contract.clock import Clock

_STATES: Final = {
    "On": HostState.ON,
    "Off": HostState.OFF,
    "PoweringOn": HostState.STARTING,
    "PoweringOff": HostState.STOPPING,
    "Paused": HostState.UNKNOWN,
}
_RESET: Final = "#ComputerSystem.Reset"
_ON: Final = ("On", "ForceOn")
_OFF: Final = ("GracefulShutdown",)
_OFF_NOW: Final = ("ForceOff",)
_RESTART: Final = ("GracefulRestart",)
_RESTART_NOW: Final = ("ForceRestart", "PowerCycle")
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
LimitW = Annotated[int, Field(ge=1, le=1_000_000)]


class RedfishOptions(BaseModel):
    """`[banks.NAME.hosts]` of a bank whose hosts' driver is `redfish`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    username: Annotated[str, Field(max_length=200)] = ""
    password_file: Path | None = None
    auth: Literal["session", "basic", "none"] = "session"
    ca: Path | None = None
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """SHA-256 of the BMC's own certificate, without colons."""
    verify_tls: bool = True
    system: Id | None = None
    """Its Id, where a service has several."""
    chassis: Id | None = None
    """Likewise, of those that the system is in."""
    rights: Literal["read", "limit", "switch"] = "limit"
    """Each includes those before it."""
    min_limit_w: LimitW | None = None
    max_limit_w: LimitW | None = None
    """Beside the range that the service states itself."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.auth != "none" and (not self.username or self.password_file is None):
            raise ValueError(f'auth = "{self.auth}" needs username and password_file')
        if self.fingerprint is not None and self.ca is not None:
            raise ValueError("give either ca or fingerprint")
        if self.min_limit_w is not None and self.max_limit_w is not None and self.min_limit_w > self.max_limit_w:
            raise ValueError("min_limit_w is above max_limit_w")
        return self


def redfish_host(url: str, options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> RedfishHost:  # noqa: ARG001
    """The registry's factory. `url` is the service's, without a path: `https://bmc-7.example`."""
    checked = RedfishOptions.model_validate(dict(options))
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.username:
        raise ValueError(f"{url!r} is no http:// or https:// address of a service, without a path or a user")
    kinds = {"read": RedfishHost, "limit": LimitedRedfish, "switch": SwitchedRedfish}
    return kinds[checked.rights](url, checked, deadline_s=deadline_s)


class RedfishHost:
    """Implements `Host`."""

    def __init__(self, url: str, options: RedfishOptions, *, deadline_s: float) -> None:
        access = Access(
            url=url,
            username=options.username,
            password_file=options.password_file,
            auth=options.auth,
            ca=options.ca,
            fingerprint=options.fingerprint,
            verify_tls=options.verify_tls,
        )
        self._options = options
        self._deadline_s = deadline_s
        self._link = ServiceLink(access)
        self._finder = Finder(self._link, options.system, options.chassis)

    async def read(self) -> HostReading | Unreachable:
        until_s = self._until()
        places = await self._finder.find(until_s)
        if isinstance(places, Unreachable):
            return places
        paths = [path for path in (places.environment, places.power) if path is not None]
        system, *power = await asyncio.gather(*(self._get(path, until_s) for path in (places.system, *paths)))
        for answer in (system, *power):
            if isinstance(answer, Unreachable):
                return answer
        bodies = {path: answer.body for path, answer in zip(paths, power, strict=True) if isinstance(answer, Answer)}
        return self._reading(places, system.body if isinstance(system, Answer) else {}, bodies)

    async def close(self) -> None:
        await self._link.close(self._until())

    async def _get(self, path: str, until_s: float) -> Answer | Unreachable:
        answer = await self._link.get(path, until_s)
        if isinstance(answer, Gone):
            self._finder.forget()
        return answer

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline_s

    def _reading(self, places: Places, system: Json, bodies: Mapping[str, Json]) -> HostReading:
        power_w = watts(table(bodies.get(places.environment or "", {}).get("PowerWatts")).get("Reading"))
        if power_w is None:
            power_w = watts(control(bodies.get(places.power or "", {})).get("PowerConsumedWatts"))
        limit = limit_of(places, bodies)
        return HostReading(
            state=_STATES.get(text(system.get("PowerState")), HostState.UNKNOWN),
            power_w=power_w,
            limited=None if limit is None else limit.limit_w is not None,
            limit_w=None if limit is None else limit.limit_w,
            limit_range_w=None if limit is None else self._range_w(limit),
        )

    def _range_w(self, limit: Limit) -> tuple[int, int] | None:
        """What the service and the config allow together."""
        least, most = limit.range_w or (0, MAX_HOST_W)
        least = max(least, self._options.min_limit_w or 0)
        most = min(most, self._options.max_limit_w or MAX_HOST_W)
        return (least, most) if (least, most) != (0, MAX_HOST_W) and least <= most else None


class LimitedRedfish(RedfishHost, KeepsLimit):
    """Implements `LimitsPower` besides."""

    def __init__(self, url: str, options: RedfishOptions, *, deadline_s: float) -> None:
        RedfishHost.__init__(self, url, options, deadline_s=deadline_s)
        KeepsLimit.__init__(self)

    async def set_limit_w(self, power_w: int) -> Outcome:
        until_s = self._until()
        async with self._one_change:
            seen = await self._limit(until_s)
            if isinstance(seen, Unreachable | Refused):
                return seen
            limit, etag = seen
            least, most = self._range_w(limit) or (1, MAX_HOST_W)
            wanted_w = min(max(power_w, least, 1), most)
            self._ledger.see(limit.limit_w, limit.found)
            if self._ledger.found_w is not None and self._ledger.found_w <= wanted_w:
                # Somebody else's is tighter. Ours goes, if there is one, and theirs is in force again.
                return (
                    await self._put_back(limit, etag, until_s) if self._ledger.holds else Applied("a lower one stands")
                )
            if limit.limit_w == wanted_w and self._ledger.holds:
                self._ledger.setting(wanted_w)
                self._ledger.done()
                return Applied("already in force")
            before = self._ledger.setting(wanted_w)
            outcome = self._outcome(await self._link.patch(limit.path, limit.change(wanted_w), etag, until_s))
            if isinstance(outcome, Applied):
                self._ledger.done()
            elif isinstance(outcome, Refused):
                self._ledger.undo(before)
            return outcome

    async def clear_limit(self) -> Outcome:
        until_s = self._until()
        async with self._one_change:
            if not self._ledger.holds:
                return Applied("none of ours")
            seen = await self._limit(until_s)
            if isinstance(seen, Unreachable | Refused):
                return seen
            limit, etag = seen
            if not self._ledger.is_ours(limit.limit_w) and not self._ledger.doubts(limit.limit_w):
                self._ledger.forget()
                return Applied("changed by somebody else, left as found")
            return await self._put_back(limit, etag, until_s)

    async def _put_back(self, limit: Limit, etag: str | None, until_s: float) -> Outcome:
        change = limit.restore(self._ledger.found)
        outcome = self._outcome(await self._link.patch(limit.path, change, etag, until_s))
        if isinstance(outcome, Applied):
            self._ledger.forget()
        return outcome

    async def _limit(self, until_s: float) -> tuple[Limit, str | None] | Refused | Unreachable:
        """The limit as it is now, and the tag that it was read with."""
        places = await self._finder.find(until_s)
        if isinstance(places, Unreachable):
            return places
        path = places.environment if places.limit_in_environment else places.power if places.limit_in_power else None
        if path is None:
            return Refused("its service has no power limit")
        answer = await self._get(path, until_s)
        if isinstance(answer, Unreachable):
            return answer
        limit = limit_of(places, {path: answer.body})
        return Refused("its service no longer states a power limit") if limit is None else (limit, answer.etag)

    def _outcome(self, answer: Answer | Unreachable) -> Outcome:
        """What an answer to a change means. After a 5xx it may have been done all the same."""
        if isinstance(answer, Unreachable):
            return answer
        if answer.status in {404, 410}:
            self._finder.forget()
        if answer.status >= 500:
            return Unreachable(Failure.GARBAGE, f"HTTP {answer.status} {answer.said}"[:200])
        if answer.status >= 300:
            return Refused(answer.said)
        return Refused(answer.complaint) if answer.complaint else Applied("accepted" if answer.status == 202 else "")


class SwitchedRedfish(LimitedRedfish):
    """Implements `Switches` besides."""

    def __init__(self, url: str, options: RedfishOptions, *, deadline_s: float) -> None:
        super().__init__(url, options, deadline_s=deadline_s)
        self._kinds: tuple[str, ...] = ()
        """The ways to reset that the service stated in a resource of its own."""

    async def power_on(self) -> Outcome:
        return await self._reset(_ON, already=frozenset({HostState.ON, HostState.STARTING}))

    async def power_off(self, *, force: bool = False) -> Outcome:
        already = {HostState.OFF} if force else {HostState.OFF, HostState.STOPPING}
        return await self._reset(_OFF_NOW if force else _OFF, already=frozenset(already))

    async def reset(self, *, force: bool = False) -> Outcome:
        return await self._reset(_RESTART_NOW if force else _RESTART, already=frozenset())

    async def _reset(self, kinds: tuple[str, ...], *, already: frozenset[HostState]) -> Outcome:
        """The first of these kinds that the system offers."""
        until_s = self._until()
        places = await self._finder.find(until_s)
        if isinstance(places, Unreachable):
            return places
        system = await self._get(places.system, until_s)
        if isinstance(system, Unreachable):
            return system
        state = _STATES.get(text(system.body.get("PowerState")), HostState.UNKNOWN)
        if state in already:
            return Applied(f"already {state}")
        action = table(table(system.body.get("Actions")).get(_RESET))
        target = text(action.get("target"), 500)
        if not target:
            return Refused("its system cannot be reset")
        offered = await self._offered(action, until_s)
        if isinstance(offered, Unreachable):
            return offered
        kind = next((kind for kind in kinds if kind in offered), None) if offered else kinds[0]
        if kind is None:
            return Refused(f"it offers {', '.join(offered)}, not {kinds[0]}"[:200])
        return self._outcome(await self._link.ask("POST", target, until_s, {"ResetType": kind}))

    async def _offered(self, action: Json, until_s: float) -> tuple[str, ...] | Unreachable:
        """The kinds of reset that the service offers; none where it does not say."""
        stated = listed(action.get("ResetType@Redfish.AllowableValues"))
        place = text(action.get("@Redfish.ActionInfo"), 500)
        if not stated and place and not self._kinds:
            info = await self._get(place, until_s)
            if isinstance(info, Unreachable):
                return info
            for parameter in map(table, listed(info.body.get("Parameters"))):
                if parameter.get("Name") == "ResetType":
                    self._kinds = tuple(filter(None, map(text, listed(parameter.get("AllowableValues")))))
        return tuple(filter(None, map(text, stated))) or self._kinds
