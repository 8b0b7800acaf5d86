"""A simulated BMC: a Redfish service of one system in one chassis, with the power endpoints that `sushy-tools` lacks.

Makes differ; `Make` says how: which of `EnvironmentMetrics` and `Power` there is, what is asked of an ETag, whether the
tag changes with every sensor reading, where the kinds of reset are stated. What a property cannot take is refused as
DSP0266 has it: 400 with `@Message.ExtendedInfo`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from sim.devices.json_server import JsonServer, Reply, fields_of
from sim.devices.log import CommandLog
from sim.ports import DeviceFault

ROOT: Final = "/redfish/v1/"
SYSTEM: Final = f"{ROOT}Systems/437XR1138R2"
CHASSIS: Final = f"{ROOT}Chassis/1U"
SESSIONS: Final = f"{ROOT}SessionService/Sessions"
_STATE_AFTER: Final = {
    "On": "On",
    "ForceOn": "On",
    "ForceOff": "Off",
    "GracefulShutdown": "Off",
    "ForceRestart": "On",
    "GracefulRestart": "On",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Make:
    """How one make of BMC is."""

    environment: bool = True
    power: bool = True
    if_match: str = "optional"
    """`optional` (checked where it is sent), `required` (else 428), `strong` (required, and a weak one is a 412),
    `refused` (any is a 412), `ignored`."""
    restless: bool = False
    """The tag of a resource with sensor readings changes with each of them."""
    action_info: bool = False
    """The kinds of reset stand in a resource of their own."""
    resets: tuple[str, ...] = ("On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart")
    range_w: tuple[int, int] | None = (300, 1_200)
    sessions_max: int = 4
    shut_down_s: float = 0.0
    """What the operating system takes to go down."""


@dataclass(slots=True)
class Machine:
    """The host behind the BMC."""

    idle_w: int = 200
    demand_w: int = 900
    """What its work would draw without a limit."""
    on: bool = True
    limit_w: int | None = None
    mode: str = "Disabled"
    """Of the limit in `EnvironmentMetrics`."""

    @property
    def in_force_w(self) -> int | None:
        return None if self.mode == "Disabled" else self.limit_w

    @property
    def power_w(self) -> int:
        """A limit holds what is above idle."""
        if not self.on:
            return 12
        limit_w = self.in_force_w
        return self.demand_w if limit_w is None else max(min(self.demand_w, limit_w), self.idle_w)


class RedfishServer(JsonServer):
    """One BMC. `user` None: it asks for nothing."""

    def __init__(
        self,
        machine: Machine | None = None,
        make: Make | None = None,
        *,
        user: tuple[str, str] | None = ("admin", "secret"),
        log: CommandLog | None = None,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__("bmc", log=log, latency_s=latency_s)
        self.machine = machine or Machine()
        self.make = make or Make()
        self.user = user
        self.tokens: dict[str, str] = {}
        """Open sessions: a token each, with its path."""
        self.logins = 0
        self._readings = 0
        self._places: dict[str, Callable[[], dict[str, Any] | None]] = {
            "": self._root,
            "Systems": lambda: _collection(f"{ROOT}Systems", SYSTEM),
            "Systems/437XR1138R2": self._system,
            "Systems/437XR1138R2/ResetActionInfo": self._action_info,
            "Chassis/1U": self._chassis,
            "Chassis/1U/EnvironmentMetrics": self._environment,
            "Chassis/1U/Power": self._power,
        }

    def expire_sessions(self) -> None:
        self.tokens.clear()

    def answer(self, request: web.BaseRequest, sent: bytes) -> Reply:
        path = request.path.rstrip("/")
        if not request.path.startswith(ROOT):
            return _error(404, "ResourceMissingAtURI", "The resource was not found.")
        place = path.removeprefix(ROOT.rstrip("/")).removeprefix("/")
        if request.path == SESSIONS and request.method == "POST":
            return self._open_session(sent)
        if place and not self._entered(request):
            return _error(401, "NoValidSession", "There is no valid session.")
        if request.method == "DELETE":
            return self._end_session(path)
        if request.method == "POST" and path == f"{SYSTEM}/Actions/ComputerSystem.Reset":
            return self._reset(request, sent)
        make = self._places.get(place)
        body = make() if make is not None else None
        if body is None:
            return _error(404, "ResourceMissingAtURI", "The resource was not found.")
        if request.method == "PATCH":
            return self._patch(request, place, body, sent)
        if request.method != "GET":
            return _error(405, "OperationNotAllowed", "The method is not allowed here.")
        body |= {"@odata.id": request.path}
        if self.fault is DeviceFault.NAN:
            body = _not_numbers(body)
        return Reply(200, body, {"ETag": self._tag(place, body)})

    def commands(self, request: web.BaseRequest) -> bool:
        return super().commands(request) and not request.path.startswith(SESSIONS)

    def pretend(self, request: web.BaseRequest, sent: bytes) -> Reply:  # noqa: ARG002  all changes alike
        return Reply(204)

    # -- entering ----------------------------------------------------------------------------------------------------

    def _entered(self, request: web.BaseRequest) -> bool:
        if self.user is None or request.headers.get("X-Auth-Token") in self.tokens:
            return True
        given = base64.b64encode(":".join(self.user).encode()).decode()
        return request.headers.get("Authorization") == f"Basic {given}"

    def _open_session(self, sent: bytes) -> Reply:
        given = fields_of(sent) or {}
        self.logins += 1
        if self.user is None or (given.get("UserName"), given.get("Password")) != self.user:
            return _error(401, "NoValidSession", "The user or the password is not right.")
        if len(self.tokens) >= self.make.sessions_max:
            return _error(503, "SessionLimitExceeded", "There are too many sessions.")
        token, path = f"token-{self.logins}", f"{SESSIONS}/{self.logins}"
        self.tokens[token] = path
        return Reply(201, {"@odata.id": path, "Id": str(self.logins)}, {"X-Auth-Token": token, "Location": path})

    def _end_session(self, path: str) -> Reply:
        self.tokens = {token: own for token, own in self.tokens.items() if own != path}
        return Reply(204)

    # -- resources ---------------------------------------------------------------------------------------------------

    def _root(self) -> dict[str, Any]:
        return {
            "RedfishVersion": "1.15.0",
            "Systems": {"@odata.id": f"{ROOT}Systems"},
            "Chassis": {"@odata.id": f"{ROOT}Chassis"},
            "Links": {"Sessions": {"@odata.id": SESSIONS}},
        }

    def _system(self) -> dict[str, Any]:
        reset: dict[str, Any] = {"target": f"{SYSTEM}/Actions/ComputerSystem.Reset"}
        if self.make.action_info:
            reset["@Redfish.ActionInfo"] = f"{SYSTEM}/ResetActionInfo"
        else:
            reset["ResetType@Redfish.AllowableValues"] = list(self.make.resets)
        return {
            "Id": "437XR1138R2",
            "PowerState": "On" if self.machine.on else "Off",
            "Actions": {"#ComputerSystem.Reset": reset},
            "Links": {"Chassis": [{"@odata.id": CHASSIS}]},
        }

    def _action_info(self) -> dict[str, Any] | None:
        values = {"Name": "ResetType", "Required": True, "AllowableValues": list(self.make.resets)}
        return {"Id": "ResetActionInfo", "Parameters": [values]} if self.make.action_info else None

    def _chassis(self) -> dict[str, Any]:
        body: dict[str, Any] = {"Id": "1U", "ChassisType": "RackMount"}
        if self.make.environment:
            body["EnvironmentMetrics"] = {"@odata.id": f"{CHASSIS}/EnvironmentMetrics"}
        if self.make.power:
            body["Power"] = {"@odata.id": f"{CHASSIS}/Power"}
        return body

    def _environment(self) -> dict[str, Any] | None:
        if not self.make.environment:
            return None
        limit: dict[str, Any] = {"SetPoint": self.machine.limit_w, "ControlMode": self.machine.mode}
        if self.make.range_w is not None:
            limit |= {"AllowableMin": self.make.range_w[0], "AllowableMax": self.make.range_w[1]}
        return {"Id": "Environment", "PowerWatts": {"Reading": self.machine.power_w}, "PowerLimitWatts": limit}

    def _power(self) -> dict[str, Any] | None:
        if not self.make.power:
            return None
        limit = {"LimitInWatts": self.machine.in_force_w, "LimitException": "LogEventOnly"}
        control = {"MemberId": "0", "PowerConsumedWatts": float(self.machine.power_w), "PowerLimit": limit}
        return {"Id": "Power", "PowerControl": [control]}

    def _tag(self, place: str, body: Mapping[str, Any]) -> str:
        if self.make.restless:
            self._readings += 1
        digest = hashlib.sha256(json.dumps([place, body, self._readings]).encode()).hexdigest()[:16]
        return f'W/"{digest}"'

    # -- changes -----------------------------------------------------------------------------------------------------

    def _patch(self, request: web.BaseRequest, place: str, body: dict[str, Any], sent: bytes) -> Reply:
        if request.content_type != "application/json":
            return _error(415, "GeneralError", "Only JSON is taken.")
        body |= {"@odata.id": request.path}
        refused = self._precondition(request.headers.get("If-Match"), self._tag(place, body))
        if refused is not None:
            return refused
        change = fields_of(sent)
        if change is None:
            return _error(400, "MalformedJSON", "The body is not JSON.")
        if place.endswith("EnvironmentMetrics") and set(change) == {"PowerLimitWatts"}:
            return self._change_limit(request, change["PowerLimitWatts"])
        if place.endswith("Power") and set(change) == {"PowerControl"}:
            controls = change["PowerControl"]
            limit = controls[0].get("PowerLimit") if isinstance(controls, list) and len(controls) == 1 else None
            if isinstance(limit, dict) and set(limit) == {"LimitInWatts"}:
                mode = "Disabled" if limit["LimitInWatts"] is None else "Automatic"
                return self._change_limit(request, {"SetPoint": limit["LimitInWatts"], "ControlMode": mode})
        return _error(400, "PropertyNotWritable", "A property in the body cannot be written.")

    def _precondition(self, given: str | None, tag: str) -> Reply | None:
        kind = self.make.if_match
        if kind == "ignored":
            return None
        if kind == "refused":
            return None if given is None else _error(412, "PreconditionFailed", "The ETag does not match.")
        if given is None:
            return _error(428, "PreconditionRequired", "An If-Match is required.") if kind != "optional" else None
        right = tag.removeprefix("W/") if kind == "strong" else tag
        return None if given == right else _error(412, "PreconditionFailed", "The ETag does not match.")

    def _change_limit(self, request: web.BaseRequest, limit: object) -> Reply:
        if not isinstance(limit, dict) or not set(limit) <= {"SetPoint", "ControlMode"}:
            return _error(400, "PropertyUnknown", "A property in the body is not known.")
        set_point, mode = limit.get("SetPoint", self.machine.limit_w), limit.get("ControlMode", self.machine.mode)
        least, most = self.make.range_w or (1, 100_000)
        is_w = isinstance(set_point, int) and least <= set_point <= most
        if mode not in {"Automatic", "Disabled"} or not (is_w or (set_point is None and mode == "Disabled")):
            return _error(400, "PropertyValueOutOfRange", f"The value {set_point} is out of range.")
        self.machine.limit_w, self.machine.mode = set_point, mode
        self.note(request, f"limit {set_point} {mode}", obeyed=True)
        return Reply(204)

    def _reset(self, request: web.BaseRequest, sent: bytes) -> Reply:
        kind = (fields_of(sent) or {}).get("ResetType")
        if kind not in self.make.resets:
            return _error(400, "ActionParameterNotSupported", f"The ResetType {kind} is not supported.")
        self.note(request, f"reset {kind}", obeyed=True)
        on = _STATE_AFTER[kind] == "On"
        if kind.startswith("Graceful") and self.make.shut_down_s:
            asyncio.get_running_loop().call_later(self.make.shut_down_s, self._turn, on)
        else:
            self._turn(on)
        return Reply(204)

    def _turn(self, on: bool) -> None:
        self.machine.on = on


def _collection(path: str, *members: str) -> dict[str, Any]:
    return {"@odata.id": path, "Members": [{"@odata.id": member} for member in members]}


def _error(status: int, message_id: str, text: str) -> Reply:
    message = {"MessageId": f"Base.1.8.{message_id}", "Message": text, "Severity": "Critical"}
    general = {"code": "Base.1.8.GeneralError", "message": "See ExtendedInfo.", "@Message.ExtendedInfo": [message]}
    return Reply(status, {"error": general})


def _not_numbers(value: Any) -> Any:
    """Every number becomes one that is none, or a negative one."""
    if isinstance(value, dict):
        return {key: _not_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_not_numbers(each) for each in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return -1 if isinstance(value, float) else float("nan")
