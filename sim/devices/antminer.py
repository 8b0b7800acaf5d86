"""An Antminer under Bitmain's own firmware: CGI pages behind HTTP digest, and the cgminer API of 4028 for reading.

Sources: captures and clients of S19 and S21 stock firmware that are public. `set_miner_conf.cgi` takes the whole
configuration; the mode is in `miner-mode` (as the web page sends it) or `bitmain-work-mode` (as `get_miner_conf.cgi`
shows it): 0 mines, 1 sleeps. There is no power limit and no power figure. The server checks a digest as lighttpd does:
a nonce lives for ten minutes, and a later use of it is answered 401 with `stale=true`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from hashlib import md5
from typing import Any, Final

from sim.devices import antminer_answers as answers
from sim.devices.cgminer import ApiDevice
from sim.devices.http import HttpAnswer, HttpRequest
from sim.devices.wire import Shared
from sim.ports import AsicPort, AsicState

USERNAME: Final = "root"
PASSWORD: Final = "root"  # noqa: S105  the factory setting, in every manual
REALM: Final = "antMiner Configuration"
NONCE_S: Final = 600
_CGI: Final = "/cgi-bin/"
_FIELD: Final = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')
_POOLS: Final = 3
_KEPT: Final = ("bitmain-fan-ctrl", "bitmain-fan-pwm", "bitmain-freq-level", "bitmain-hashrate-percent")
_OTHER_NAMES: Final = {"freq-level": "bitmain-freq-level"}
_OK: Final = HttpAnswer(200, b'{"stats":"success","code":"M000","msg":"OK!"}')
_INVALID: Final = HttpAnswer(200, b'{"stats":"error","code":"M001","msg":"Invalid configuration"}')
_NORMAL, _SLEEP = "0", "1"


class AntminerDevice(ApiDevice):
    """See the module."""

    __slots__ = ("_conf",)

    description = answers.DESCRIPTION
    reads = answers.READS
    speaks_http = True
    speaks_text = True
    terminator = b"\0"

    def __init__(self, port: AsicPort, shared: Shared) -> None:
        super().__init__(port, shared)
        self._conf: dict[str, Any] | None = None

    def values(self) -> dict[str, float | str]:
        values = super().values()
        tripped = self.port.state is AsicState.TRIPPED
        values["status"] = "Dead" if tripped else "Alive"
        values["mode"] = 1 if self.port.state is AsicState.SLEEPING else 0
        values["rate_ok"] = "e" if tripped else "s"
        values["temp_ok"] = "e" if tripped else "s"
        values["temp_code"] = 1 if tripped else 0
        values["temp_said"] = "over max temp" if tripped else ""
        return values

    def http_answer(self, request: HttpRequest) -> HttpAnswer:
        refusal = self._refusal(request)
        if refusal is not None:
            if request.path == f"{_CGI}set_miner_conf.cgi":
                self.record(request.client, "set_miner_conf")
            return refusal
        if not request.path.startswith(_CGI):
            return HttpAnswer(200 if request.path == "/" else 404, b"<html></html>", "text/html")
        page = request.path[len(_CGI) :]
        handler = _PAGES.get(page)
        if handler is not None:
            return handler(self, request)
        self.shared.log.reads += 1
        template = answers.PAGES.get(page)
        return HttpAnswer(404) if template is None else HttpAnswer(200, (template % self.values()).encode())

    # -- pages -------------------------------------------------------------------------------------------------------

    def get_miner_conf(self, _request: HttpRequest) -> HttpAnswer:
        """The configuration in force. The mode is what the machine is in."""
        self.shared.log.reads += 1
        mode = _SLEEP if self.port.state is AsicState.SLEEPING else _NORMAL
        return HttpAnswer(200, json.dumps({**(self._conf or answers.CONF), "bitmain-work-mode": mode}).encode())

    def set_miner_conf(self, request: HttpRequest) -> HttpAnswer:
        """Take a configuration. A mode that is not normal or sleep is invalid and changes nothing."""
        given = _object(request.body)
        mode = None if given is None else given.get("miner-mode", given.get("bitmain-work-mode"))
        wire = "set_miner_conf" if mode is None else f"set_miner_conf miner-mode={mode}"
        if given is None or str(mode) not in {"None", _NORMAL, _SLEEP} or request.method != "POST":
            self.record(request.client, wire)
            return _INVALID

        def take() -> None:
            self._conf = _merged(self._conf or answers.CONF, given)
            if mode is not None:
                (self.port.sleep if str(mode) == _SLEEP else self.port.wake)()

        return _OK if self.act(request.client, wire, take) else _INVALID

    def reboot(self, request: HttpRequest) -> HttpAnswer:
        yes = self.act(request.client, "reboot", self.port.reboot)
        return HttpAnswer(200, b"", "text/html") if yes else HttpAnswer(500)

    # -- digest ------------------------------------------------------------------------------------------------------

    def _refusal(self, request: HttpRequest) -> HttpAnswer | None:
        """None where the request carries a good digest."""
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "digest":
            return self._challenge(stale=False)
        given: dict[str, str] = {name: quoted or bare for name, quoted, bare in _FIELD.findall(rest)}
        if given.get("username") != USERNAME or given.get("realm") != REALM or given.get("uri") != request.target:
            return self._challenge(stale=False)
        if given.get("response") != _response(given, request.method):
            return self._challenge(stale=False)
        issued = given.get("nonce", "").partition(":")[0]
        if not re.fullmatch(r"[0-9a-f]{1,12}", issued) or given["nonce"] != self._nonce(int(issued, 16)):
            return self._challenge(stale=False)
        return self._challenge(stale=True) if self.shared.loop.time() - int(issued, 16) > NONCE_S else None

    def _challenge(self, *, stale: bool) -> HttpAnswer:
        nonce = self._nonce(int(self.shared.loop.time()))
        challenge = f'Digest realm="{REALM}", nonce="{nonce}", qop="auth"' + (", stale=true" if stale else "")
        return HttpAnswer(401, b"<html>401</html>", "text/html", (("WWW-Authenticate", challenge),))

    def _nonce(self, issued_s: int) -> str:
        """Says when it was made and is this device's own, so that none need be kept."""
        return f"{issued_s:x}:{_md5(f'{issued_s}/{self.port.serial}')}"


def _response(given: Mapping[str, str], method: str) -> str:
    """RFC 2617, MD5, qop "auth" or none."""
    secret = _md5(f"{USERNAME}:{REALM}:{PASSWORD}")
    asked = _md5(f"{method}:{given.get('uri')}")
    nonce = given.get("nonce")
    if "qop" not in given:
        return _md5(f"{secret}:{nonce}:{asked}")
    return _md5(f"{secret}:{nonce}:{given.get('nc')}:{given.get('cnonce')}:{given['qop']}:{asked}")


def _md5(text: str) -> str:
    return md5(text.encode("latin-1", "replace"), usedforsecurity=False).hexdigest()


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _merged(conf: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration after `given`. Pools that are not sent keep their slot; unknown keys are dropped."""
    named: dict[str, Any] = {_OTHER_NAMES.get(key, key): value for key, value in given.items()}
    merged: dict[str, Any] = {**conf, **{key: named[key] for key in _KEPT if key in named}}
    sent = given.get("pools")
    slots = [slot for slot in sent if isinstance(slot, dict)][:_POOLS] if isinstance(sent, list) else []
    pools = [{key: str(slot.get(key, "")) for key in ("url", "user", "pass")} for slot in slots]
    merged["pools"] = [*pools, *conf["pools"][len(pools) :]]
    return merged


_PAGES: Final[dict[str, Callable[[AntminerDevice, HttpRequest], HttpAnswer]]] = {
    "get_miner_conf.cgi": AntminerDevice.get_miner_conf,
    "set_miner_conf.cgi": AntminerDevice.set_miner_conf,
    "reboot.cgi": AntminerDevice.reboot,
}
