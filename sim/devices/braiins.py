"""A miner under Braiins OS: TCP 4028 for reading, pause and resume without a password, and the public REST API.

Sources: developer.braiins-os.com (REST, OpenAPI 1.7.0) and the 4028 pages of docs.braiins.com. The REST API asks for a
token of `POST /api/v1/auth/login`, sent bare in `Authorization`; each use prolongs it. Its power target acts while the
machine runs. Pausing a paused miner says false over REST ("was already paused") and true over 4028.

That a paused miner's tuner says "paused" is known from the public clients of foreman.mn, and that `devdetails` is then
"Unavailable" from pyasic, which also takes any status of a chain that it does not know for the name of a fault. How an
overheated one words it is not public, nor is the code of "Unavailable": both are chosen here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final

from sim.devices import braiins_answers as answers
from sim.devices.cgminer import ApiDevice
from sim.devices.http import HttpAnswer, HttpRequest
from sim.devices.wire import Shared
from sim.ports import AsicPort, AsicState

USERNAME: Final = "root"
PASSWORD: Final = "root"  # noqa: S105  the factory setting, in every manual
TOKEN_S: Final = 3_600.0
_MAX_TOKENS: Final = 16
_API: Final = "/api/v1/"
_FAILED: Final = HttpAnswer(500, b'{"message":"internal error"}')
_MINING: Final = frozenset({AsicState.RUNNING, AsicState.BOOTING})
_STAGES: Final = {
    AsicState.BOOTING: "Testing performance profile",
    AsicState.SLEEPING: "paused",
    AsicState.TRIPPED: "Hash chain temperature too high",
}
_STATUS: Final = {AsicState.SLEEPING: 3, AsicState.TRIPPED: 1}
"""MinerStatus of the REST API: 1 not started, 2 normal, 3 paused."""


class BraiinsDevice(ApiDevice):
    """See the module."""

    __slots__ = ("_logins", "_tokens")

    description = answers.DESCRIPTION
    reads = answers.READS
    speaks_http = True

    def __init__(self, port: AsicPort, shared: Shared) -> None:
        super().__init__(port, shared)
        self._tokens: dict[str, float] | None = None
        self._logins = 0

    def values(self) -> dict[str, float | str]:
        values = super().values()
        state = self.port.state
        values["status"] = "Dead" if state is AsicState.TRIPPED else "Alive"
        values["stage"] = _STAGES.get(state, "Stable")
        values["tuning"] = "true" if state in _MINING else "false"
        values["state"] = _STATUS.get(state, 2)
        values["tuner_state"] = 3 if state is AsicState.RUNNING else 1
        values["min_w"] = self.port.model.min_power_w
        return values

    # -- 4028 --------------------------------------------------------------------------------------------------------

    def reply(self, command: str, parameter: str, client: str) -> str:
        if command == "devdetails" and self.port.state not in _MINING:
            self.shared.log.reads += 1
            return self.problem(answers.UNAVAILABLE, "Unavailable")
        if command not in {"pause", "resume"}:
            return super().reply(command, parameter, client)
        pausing = command == "pause"
        yes = self.act(client, command, self.port.sleep if pausing else self.port.wake)
        if not yes:
            return self.problem(answers.FAILED, f"Failed to {command}")
        return (answers.PAUSE if pausing else answers.RESUME) % {"when": self.when_s()}

    # -- REST --------------------------------------------------------------------------------------------------------

    def http_answer(self, request: HttpRequest) -> HttpAnswer:
        if not request.path.startswith(_API):
            return HttpAnswer(404)
        path = request.path[len(_API) :]
        if path == "auth/login":
            return self._login(request)
        action = _ACTIONS.get((request.method, path))
        if not self._authorised(request.headers.get("authorization", "")):
            if action is not None:
                self.record(request.client, path)
            return HttpAnswer(401)
        if action is not None:
            return action(self, request, path)
        self.shared.log.reads += 1
        if request.method == "GET":
            template = answers.REST.get(path)
            if path == "miner/errors" and self.port.state is AsicState.TRIPPED:
                template = answers.TRIPPED
            return HttpAnswer(404) if template is None else HttpAnswer(200, (template % self.values()).encode())
        return HttpAnswer(405 if path in answers.REST else 404)

    def pause(self, request: HttpRequest, path: str) -> HttpAnswer:
        """Stop mining. True if it was mining."""
        was_mining = self.port.state in _MINING
        return self._said(self.act(request.client, path, self.port.sleep), was_mining)

    def resume(self, request: HttpRequest, path: str) -> HttpAnswer:
        """Mine again. True if it was not mining."""
        was_mining = self.port.state in _MINING
        return self._said(self.act(request.client, path, self.port.wake), not was_mining)

    def reboot(self, request: HttpRequest, path: str) -> HttpAnswer:
        self._tokens = None
        return HttpAnswer(204) if self.act(request.client, path, self.port.reboot) else _FAILED

    def set_power_target(self, request: HttpRequest, path: str) -> HttpAnswer:
        """`{"watt": 2500}`, within the constraints."""
        watts = _object(request.body).get("watt")
        port = self.port
        if not isinstance(watts, int) or isinstance(watts, bool):
            self.record(request.client, path)
            return HttpAnswer(422)
        wire = f"{path} {watts}"
        if not port.model.min_power_w <= watts <= port.model.rated_w:
            self.record(request.client, wire)
            return HttpAnswer(412)
        yes = self.act(request.client, wire, lambda: port.set_power_limit(watts))
        return self._said(yes, {"watt": watts})

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _login(self, request: HttpRequest) -> HttpAnswer:
        self.shared.log.reads += 1
        if request.method != "POST":
            return HttpAnswer(405)
        given = _object(request.body)
        if given.get("username") != USERNAME or given.get("password") != PASSWORD:
            return HttpAnswer(401)
        self._logins += 1
        token = blake2b(f"{self.port.serial}/{self._logins}".encode(), digest_size=8).hexdigest()
        tokens = self._tokens = self._tokens or {}
        tokens[token] = self.shared.loop.time() + TOKEN_S
        if len(tokens) > _MAX_TOKENS:
            del tokens[next(iter(tokens))]
        return self._said(True, {"token": token, "timeout_s": int(TOKEN_S)})

    def _authorised(self, header: str) -> bool:
        token = header.removeprefix("Bearer ")
        now_s = self.shared.loop.time()
        if self._tokens is None or self._tokens.get(token, now_s) <= now_s:
            return False
        self._tokens[token] = now_s + TOKEN_S
        return True

    @staticmethod
    def _said(yes: bool, body: Any) -> HttpAnswer:
        return HttpAnswer(200, json.dumps(body).encode()) if yes else _FAILED


def _object(body: bytes) -> Mapping[str, Any]:
    """A JSON object, an empty one where the body is anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


_ACTIONS: Final[dict[tuple[str, str], Callable[[BraiinsDevice, HttpRequest, str], HttpAnswer]]] = {
    ("PUT", "actions/pause"): BraiinsDevice.pause,
    ("PUT", "actions/resume"): BraiinsDevice.resume,
    ("PUT", "actions/stop"): BraiinsDevice.pause,
    ("PUT", "actions/start"): BraiinsDevice.resume,
    ("PUT", "actions/reboot"): BraiinsDevice.reboot,
    ("PUT", "performance/power-target"): BraiinsDevice.set_power_target,
}
