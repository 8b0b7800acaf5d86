"""A miner under LuxOS: TCP 4028, reading open to all, commands only within a session.

Sources: the API pages and captures at docs.luxor.tech (firmware 2025.4.8), and the public vendor client. A session is
one for the whole device and ends after a minute without use; `curtail`, `profileset` and the like name it first:
`{"command": "curtail", "parameter": "SESSION,sleep"}`. Where no public source gives a code (a session that is not
valid, a profile that is not there, the answer of `powertargetset`), one is chosen here; so is what `config` calls the
status of an overheated system, which `events` tells by a documented code.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from hashlib import blake2b
from typing import Final

from sim.devices import luxos_answers as answers
from sim.devices.cgminer import ApiDevice
from sim.devices.profiles import find_profile, profile_at
from sim.devices.wire import Shared
from sim.ports import AsicPort, AsicState

SESSION_S: Final = 60.0
"""A session unused for so long is gone."""
_SYSTEM: Final = {AsicState.BOOTING: "Initializing", AsicState.TRIPPED: "OverTemp"}


class _Code(IntEnum):
    """Status codes of refusals: the first two are the documentation's and the vendor client's, the rest chosen here."""

    MISSING_PARAMETER = 400
    ANOTHER_SESSION = 402
    INVALID_SESSION = 401
    INVALID_PARAMETER = 403
    FAILED = 404


class LuxosDevice(ApiDevice):
    """See the module."""

    __slots__ = ("_logons", "_session", "_session_until_s", "_target_w")

    description = answers.DESCRIPTION
    reads = answers.READS

    def __init__(self, port: AsicPort, shared: Shared) -> None:
        super().__init__(port, shared)
        self._session = ""
        self._session_until_s = 0.0
        self._logons = 0
        self._target_w = 0

    def reply(self, command: str, parameter: str, client: str) -> str:
        handler = _HANDLERS.get(command)
        if handler is not None:
            return handler(self, parameter, client)
        if command in _COMMANDS:
            return self._command(command, parameter, client)
        return super().reply(command, parameter, client)

    def values(self) -> dict[str, float | str]:
        values = super().values()
        port, state = self.port, self.port.state
        profile = profile_at(port.model, port.power_limit_w)
        values["profile"] = profile.name
        values["step"] = str(profile.step)
        values["status"] = "Dead" if state is AsicState.TRIPPED else "Alive"
        values["curtail"] = "Sleep" if state is AsicState.SLEEPING else "None"
        values["system"] = _SYSTEM.get(state, "Normal")
        values["ramping"] = "true" if state is AsicState.BOOTING else "false"
        values["asleep"] = "true" if state is AsicState.SLEEPING else "false"
        values["psu_on"] = "false" if state is AsicState.SLEEPING else "true"
        values["targeted"] = "true" if self._target_w else "false"
        values["target_w"] = self._target_w or port.model.rated_w
        return values

    # -- sessions ----------------------------------------------------------------------------------------------------

    def logon(self, _parameter: str, _client: str) -> str:
        """Open the one session."""
        self.shared.log.reads += 1
        if self._live_session():
            return self.problem(_Code.ANOTHER_SESSION, "Another session is active")
        self._logons += 1
        seed = f"{self.port.serial}/{self._logons}".encode()
        self._session = blake2b(seed, digest_size=4).hexdigest()
        self._touch()
        return answers.LOGON % {"when": self.when_s(), "session": self._session}

    def session(self, _parameter: str, _client: str) -> str:
        """Which session is open."""
        self.shared.log.reads += 1
        return answers.SESSION % {"when": self.when_s(), "session": self._live_session()}

    def kill(self, _parameter: str, _client: str) -> str:
        """End the session whoever holds it."""
        self.shared.log.reads += 1
        self._session = ""
        return answers.KILL % {"when": self.when_s()}

    def _live_session(self) -> str:
        if self._session and self.shared.loop.time() >= self._session_until_s:
            self._session = ""
        return self._session

    def _touch(self) -> None:
        self._session_until_s = self.shared.loop.time() + SESSION_S

    # -- commands ----------------------------------------------------------------------------------------------------

    def _command(self, command: str, parameter: str, client: str) -> str:
        given, _, rest = parameter.partition(",")
        wire = f"{command} {rest}".strip()
        if not given:
            self.record(client, wire)
            return self.problem(_Code.MISSING_PARAMETER, "Missing parameter")
        if given != self._live_session():
            self.record(client, wire)
            return self.problem(_Code.INVALID_SESSION, "Invalid session")
        self._touch()
        return _COMMANDS[command](self, rest, wire, client)

    def logoff(self, _rest: str, _wire: str, _client: str) -> str:
        self.shared.log.reads += 1
        self._session = ""
        return answers.LOGOFF % {"when": self.when_s()}

    def curtail(self, rest: str, wire: str, client: str) -> str:
        """Sleep or wake up. Both may be asked for again and say yes again."""
        action = rest.partition(",")[0]
        if action == "sleep":
            yes = self.act(client, wire, self.port.sleep)
        elif action == "wakeup":
            yes = self.act(client, wire, self.port.wake)
        else:
            self.record(client, wire)
            return self.problem(_Code.INVALID_PARAMETER, f"Invalid curtail mode '{action}'")
        return self._outcome(yes, answers.CURTAIL, action="sleep mode" if action == "sleep" else "wake up")

    def profileset(self, rest: str, wire: str, client: str) -> str:
        """Run at another rung. The board of the older three-part form is taken and means all boards."""
        selector = rest.rpartition(",")[2]
        port = self.port
        profile = find_profile(port.model, selector, port.power_limit_w)
        if profile is None:
            self.record(client, wire)
            return self.problem(_Code.INVALID_PARAMETER, f"Profile '{selector}' not found")
        self._target_w = 0
        yes = self.act(client, wire, lambda: port.set_power_limit(profile.power_w))
        return self._outcome(yes, answers.PROFILE_SET, profile=profile.name)

    def powertargetset(self, rest: str, wire: str, client: str) -> str:
        """Hold a power: `power=2500`, within what the model can do."""
        key, _, watts = rest.partition("=")
        if key != "power" or not watts.isdecimal():
            self.record(client, wire)
            return self.problem(_Code.INVALID_PARAMETER, "Invalid key/value format")
        port, power_w = self.port, int(watts[:9])
        if not port.model.min_power_w <= power_w <= port.model.rated_w:
            self.record(client, wire)
            return self.problem(_Code.INVALID_PARAMETER, "Power target out of range")
        self._target_w = power_w
        yes = self.act(client, wire, lambda: port.set_power_limit(power_w))
        return self._outcome(yes, answers.POWER_TARGET, target_w=power_w)

    def rebootdevice(self, _rest: str, wire: str, client: str) -> str:
        self._session = ""
        yes = self.act(client, wire, self.port.reboot)
        return self._outcome(yes, answers.REBOOT)

    # -- readings that are lists -------------------------------------------------------------------------------------

    def profiles(self, _parameter: str, _client: str) -> str:
        self.shared.log.reads += 1
        return answers.profile_list(self.port.model) % {"when": self.when_s()}

    def events(self, _parameter: str, _client: str) -> str:
        """What is wrong or out of the ordinary now."""
        self.shared.log.reads += 1
        codes = {AsicState.TRIPPED: "OVERTEMP_PROTECTION", AsicState.SLEEPING: "SLEEP"}
        code = codes.get(self.port.state)
        if code is None:
            return answers.NO_EVENTS % {"when": self.when_s()}
        return answers.EVENT % {"when": self.when_s(), "code": code}

    # -- answers -----------------------------------------------------------------------------------------------------

    def _outcome(self, yes: bool, template: str, **values: float | str) -> str:
        if not yes:
            return self.problem(_Code.FAILED, "Command failed")
        return template % {"when": self.when_s(), **values}


_HANDLERS: Final[dict[str, Callable[[LuxosDevice, str, str], str]]] = {
    "logon": LuxosDevice.logon,
    "session": LuxosDevice.session,
    "kill": LuxosDevice.kill,
    "profiles": LuxosDevice.profiles,
    "events": LuxosDevice.events,
}
_COMMANDS: Final[dict[str, Callable[[LuxosDevice, str, str, str], str]]] = {
    "logoff": LuxosDevice.logoff,
    "curtail": LuxosDevice.curtail,
    "profileset": LuxosDevice.profileset,
    "powertargetset": LuxosDevice.powertargetset,
    "rebootdevice": LuxosDevice.rebootdevice,
}
