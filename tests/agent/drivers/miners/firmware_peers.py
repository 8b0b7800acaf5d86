"""One peer per firmware: what its commands change, how it says no, and how its sessions, tokens and nonces end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.agent.drivers.miners.peers import CgminerPeer, HttpPeer, Peer, fixture, said


class LuxosPeer(CgminerPeer):
    """LuxOS with its one session, and profiles that survive a sleep."""

    firmware = "luxos"

    def __init__(self) -> None:
        super().__init__()
        self.profile = "290MHz"
        self.session = ""
        self.sessions_given = 0

    @property
    def mode(self) -> str:
        return self.profile

    def forget_clients(self) -> None:
        self.session = ""

    def reply(self, name: str, parameter: str) -> str:
        match name, parameter.split(","):
            case "logon", _:
                return self._log_on()
            case "session", _:
                return said("S", 319, "Session information", SESSION=[{"SessionID": self.session}])
            case "logoff" | "curtail" | "profileset", [session, *_] if not session or session != self.session:
                return said("E", 401, "Invalid session ID")
            case "logoff", _:
                self.session = ""
                return said("S", 317, "Session dropped")
            case "curtail" | "profileset", _ if self.refuses:
                return said("E", 400, "not in this system state")
            case "curtail", [_, action] if (action == "sleep") == (self.scene == "stopped"):
                return said("E", 436, f"already in {action}")
            case "curtail", [_, action]:
                self.scene = "stopped" if action == "sleep" else "running"
                return said("S", 335, "Curtailment command sent", CURTAIL=[{"Action": action}])
            case "profileset", [_, profile]:
                self.profile = profile
                return said("S", 321, "Profile Set", PROFILE=[{"Board": 0, "Profile": profile}])
        return super().reply(name, parameter)

    def recorded(self, name: str) -> str:
        return super().recorded(name).replace('"Profile": "290MHz"', f'"Profile": "{self.profile}"')

    def _log_on(self) -> str:
        if self.session:
            return said("E", 402, "Another session is active")
        self.sessions_given += 1
        self.session = f"sid{self.sessions_given}"
        return said("S", 316, "Session created", SESSION=[{"SessionID": self.session}])


class BraiinsPeer(CgminerPeer):
    """BOSminer with the REST API of the same miner beside it."""

    firmware = "braiins"

    def __init__(self) -> None:
        super().__init__()
        self.rest = BraiinsRestPeer(self)

    @property
    def options(self) -> dict[str, str | int | float]:
        return {"http_port": self.rest.port, "password": "pa55"}

    @property
    def mode(self) -> str:
        return str(self.rest.target_w)

    def forget_clients(self) -> None:
        self.rest.token = ""

    def reply(self, name: str, parameter: str) -> str:
        if name not in ("pause", "resume"):
            return super().reply(name, parameter)
        if self.refuses:
            return said("E", 45, "Access denied")
        changed = (name == "pause") != (self.scene == "stopped")
        self.scene = "stopped" if name == "pause" else "running"
        return said("S", 204 if name == "pause" else 205, name.title(), **{name.upper(): [changed]})

    def place(self, port: int) -> Mapping[int, Peer]:
        return {**super().place(port), **self.rest.place(port + 1)}

    async def __aenter__(self) -> Self:
        await self.rest.__aenter__()
        return await super().__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        await self.rest.__aexit__(*exc)


class BraiinsRestPeer(HttpPeer):
    """Login and power target of the Braiins OS public REST API. It fails and refuses as its miner does."""

    firmware = "braiins"

    def __init__(self, miner: BraiinsPeer) -> None:
        super().__init__()
        self.miner = miner
        self.token = ""
        self.logins = 0
        self.target_w = 3_068

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.fault, self.latency_s = self.miner.fault, self.miner.latency_s
        self.healthy_exchanges, self.miner.healthy_exchanges = self.miner.healthy_exchanges, 0
        await super()._exchange(reader, writer)

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, list[str], bytes]:
        self.miner.asked.append(f"{method} {path}")
        if (method, path) == ("POST", "/api/v1/auth/login"):
            if json.loads(body) != {"username": "root", "password": "pa55"}:
                return 401, [], b""
            self.logins += 1
            self.token = f"token{self.logins}"
            return 200, [], json.dumps({"token": self.token, "timeout_s": 3_600}).encode()
        if not self.token or headers.get("authorization") != self.token:
            return 401, [], b""
        if (method, path) == ("GET", "/api/v1/miner/details"):
            details = fixture("braiins", self.miner.scene)["answers"].get(path)
            return (404, [], b"") if details is None else (200, [], json.dumps(details).encode())
        if (method, path) != ("PUT", "/api/v1/performance/power-target"):
            return 404, [], b""
        if self.miner.refuses:
            return 422, [], b"out of the constraints"
        self.target_w = json.loads(body)["watt"]
        return 200, [], json.dumps({"watt": self.target_w}).encode()


class WhatsminerPeer(CgminerPeer):
    """WhatsMiner API v2: tokens from salts whose hashes OpenSSL computed, and AES for what changes it."""

    firmware = "whatsminer_v2"
    SALT = "5QAHiKMb"
    KEY = "x5JSSQzqF0lEACIGSL0Ld1"
    """`openssl passwd -1 -salt 5QAHiKMb admin`, after the last `$`."""
    SIGNS: ClassVar = {
        "kowEj187": "iwyNpr4rFZwTAgZWn6Qgh.",
        "aB3dE5fG": ".mTUmH/THKX1Y8IdPf9uC1",
        "Zz9Yy8Xx": "s2VpLlBzTAmFHCNNorQ0P/",
        "n0tRandm": "0IkVqNo7FFccvwhqtNEyO0",
    }
    """`openssl passwd -1 -salt NEWSALT KEY4459`, after the last `$`, by newsalt."""

    def __init__(self) -> None:
        super().__init__()
        self.ending = b""
        self.combines = False
        self.percent = 100
        self.tokens_given = 0
        self.signs: set[str] = set()
        self.exhausted = False

    @property
    def mode(self) -> str:
        return str(self.percent)

    def forget_clients(self) -> None:
        self.signs.clear()

    def answer(self, request: bytes) -> bytes:
        sealed = json.loads(request)
        if sealed.get("enc") != 1:
            return super().answer(request)
        try:
            command = json.loads(self._aes(b64decode(sealed["data"]), encrypt=False).rstrip(b"\0"))
        except ValueError:
            return self._code(23, "enc json load err").encode()
        self.asked.append(command["cmd"])
        if command.get("token") not in self.signs:
            return self._code(135, "check token err").encode()
        plain = self.spoil(self._obey(command)).encode()
        plain += b"\0" * (-len(plain) % 16)
        return json.dumps({"enc": b64encode(self._aes(plain, encrypt=True)).decode()}).encode()

    def reply(self, name: str, parameter: str) -> str:
        if name != "get_token":
            return super().reply(name, parameter)
        if self.exhausted:
            return self._code(136, "over max connect")
        newsalt, sign = list(self.SIGNS.items())[self.tokens_given % len(self.SIGNS)]
        self.tokens_given += 1
        self.signs.add(sign)
        return self._code(134, {"time": "4459", "salt": self.SALT, "newsalt": newsalt})

    def _obey(self, command: Mapping[str, str]) -> str:
        off = command["cmd"] == "power_off"
        if self.refuses or (command["cmd"] in ("power_off", "power_on") and off == (self.scene == "stopped")):
            return self._code(132, "API command ERROR")
        if command["cmd"] == "set_power_pct":
            self.percent = int(command["percent"])
        else:
            self.scene = "stopped" if off else "running"
        return self._code(131, "API command OK")

    def _code(self, code: int, message: object) -> str:
        letter = "S" if code in (131, 134) else "E"
        return json.dumps({"STATUS": letter, "When": 1, "Code": code, "Msg": message, "Description": ""})

    def _aes(self, data: bytes, *, encrypt: bool) -> bytes:
        cipher = Cipher(algorithms.AES(hashlib.sha256(self.KEY.encode()).digest()), modes.ECB())  # noqa: S305
        worker = cipher.encryptor() if encrypt else cipher.decryptor()
        return worker.update(data) + worker.finalize()


class AntminerPeer(HttpPeer):
    """Stock Antminer: digest, and a configuration that holds exactly what was posted last."""

    firmware = "antminer"

    def __init__(self) -> None:
        super().__init__()
        self.conf: dict[str, Any] = dict(fixture("antminer", "running")["answers"]["/cgi-bin/get_miner_conf.cgi"])
        self.conf["bitmain-work-mode"] = "3"
        self.posted: list[dict[str, Any]] = []
        self.nonces_given = 0
        self.counts: dict[str, set[str]] = {}
        """The counts seen, by nonce still good."""

    @property
    def mode(self) -> str:
        return json.dumps(self.conf, sort_keys=True)

    def forget_clients(self) -> None:
        self.counts.clear()

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, list[str], bytes]:
        if not self._authorised(method, path, headers.get("authorization", "")):
            self.nonces_given += 1
            self.counts[f"n{self.nonces_given}"] = set()
            challenge = f'Digest realm="antMiner Configuration", nonce="n{self.nonces_given}", qop="auth"'
            return 401, ['WWW-Authenticate: Basic realm="x"', f"WWW-Authenticate: {challenge}"], b"<html>401</html>"
        self.asked.append(f"{method} {path}")
        if (method, path) == ("POST", "/cgi-bin/set_miner_conf.cgi"):
            return 200, ["Content-Type: application/json"], self._set(json.loads(body))
        if path == "/cgi-bin/get_miner_conf.cgi" and self.scene in ("running", "stopped"):
            asleep = {"bitmain-work-mode": "1"} if self.scene == "stopped" else {}
            return 200, [], json.dumps({**self.conf, **asleep}).encode()
        if path in fixture("antminer", self.scene)["answers"]:
            return 200, [], self.recorded(path).encode()
        return 404, [], b"<html>404</html>"

    def _set(self, posted: dict[str, Any]) -> bytes:
        if self.refuses:
            return b'{"stats":"error","code":"M001","msg":"Invalid pool!"}'
        self.posted.append(posted)
        read_back = {name: value for name, value in posted.items() if name not in ("miner-mode", "freq-level")}
        read_back["bitmain-work-mode"] = str(posted["miner-mode"])
        read_back["bitmain-freq-level"] = posted["freq-level"]
        self.conf = read_back
        self.scene = "stopped" if posted["miner-mode"] == 1 else "running"
        return b'{"stats":"success","code":"M000","msg":"OK!"}'

    def _authorised(self, method: str, path: str, given: str) -> bool:
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', given.removeprefix("Digest ")))
        counts = self.counts.get(fields.get("nonce", ""))
        if counts is None or fields["uri"] != path or fields["nc"] in counts:
            return False
        counts.add(fields["nc"])  # a count may be used once, or a listener could replay it

        def h(text: str) -> str:
            return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

        middle = ":".join(fields[name] for name in ("nonce", "nc", "cnonce", "qop"))
        secret = h("root:antMiner Configuration:root")
        return bool(fields["response"] == h(f"{secret}:{middle}:{h(f'{method}:{path}')}"))


class BlueprintPeer(CgminerPeer):
    """The imagined firmware of `_blueprint.py`."""

    firmware = "blueprint"

    @property
    def mode(self) -> str:
        return "the only one"

    def reply(self, name: str, parameter: str) -> str:
        if name not in ("pause", "resume"):
            return super().reply(name, parameter)
        if self.refuses or (name == "pause") == (self.scene == "stopped"):
            return said("E", 45, "no")
        self.scene = "stopped" if name == "pause" else "running"
        return said("S", 401, "done")
