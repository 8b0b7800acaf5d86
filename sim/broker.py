"""A real MQTT broker of our own on loopback, for the demo, the tests and the benches.

Mosquitto where there is one, else the embedded `amqtt`, which is told apart by `kind` and `warning`. It runs as a
child process that ends with this one, and can be killed, frozen and started again to see what the daemons make of it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self

from contract.messages import MAX_PAYLOAD_BYTES
from contract.mqtt_settings import MqttSettings, MqttTls

BrokerKind = Literal["mosquitto", "embedded"]

_HOST: Final = "127.0.0.1"
_MORE_FOLDERS: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/sbin")
_SERVES: Final = " running"
"""What either kind logs once its socket is bound. That something answers on the port proves nothing: it may be
another's."""
_START_TRIES: Final = 5
_START_S: Final = 20.0
_STOP_S: Final = 5.0
_WARNING: Final = (
    "No mosquitto was found, so the embedded broker (amqtt) serves this run: loopback only, no access control, "
    "retained messages reach any client. Never use it for a real site; install mosquitto."
)


class BrokerError(RuntimeError):
    """No broker could be started; the text says why and what to do."""


def find_mosquitto() -> str | None:
    """The path of a Mosquitto broker on this machine, or None."""
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *_MORE_FOLDERS]))


class LocalBroker:
    """An MQTT broker that lives as long as the `async with`.

    `users` maps names to passwords and closes the broker to everyone else; `acl` is the text of a Mosquitto ACL file;
    `more_config` is appended to Mosquitto's configuration as it is. The embedded broker can do none of these.
    """

    def __init__(
        self,
        *,
        kind: BrokerKind | None = None,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        max_queued: int = 1_000,
        more_config: str = "",
    ) -> None:
        self._mosquitto = find_mosquitto()
        self.kind: BrokerKind = kind or ("mosquitto" if self._mosquitto else "embedded")
        self.warning: str | None = _WARNING if self.kind == "embedded" else None
        self.host: Final = _HOST
        self.port = 0
        self._users = dict(users or {})
        self._acl = acl
        self._max_queued = max_queued
        self._more_config = more_config
        self._folder: Path | None = None
        self._process: Process | None = None
        if self.kind == "mosquitto" and self._mosquitto is None:
            raise BrokerError("mosquitto is not on PATH nor in the usual places: install it, or ask for no kind")
        if self.kind == "embedded" and importlib.util.find_spec("amqtt") is None:
            raise BrokerError("neither mosquitto nor amqtt is installed: install mosquitto, or wattshift[demo]")
        if self.kind == "embedded" and (users or acl or more_config):
            raise BrokerError("the embedded broker has no access control: users and acl need mosquitto")

    @property
    def pid(self) -> int | None:
        """The broker's process, None while it is down."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def settings(self, identifier: str, *, username: str | None = None, tls: MqttTls | None = None) -> MqttSettings:
        """How a client of that id, and of that user where the broker has users, reaches this broker."""
        password_file = self._file(f"{username}.password") if username is not None else None
        return MqttSettings(
            host="localhost" if tls else self.host,
            port=self.port,
            identifier=identifier,
            username=username,
            password_file=password_file,
            tls=tls,
        )

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="wattshift-broker-"))
        try:
            await self._start_anywhere()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end(signal.SIGTERM)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def kill(self) -> None:
        """End it as a crash does: SIGKILL, nothing said to anyone, everything retained lost."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Start it again on the same port, after a kill if it runs."""
        await self.kill()
        await self._start()

    def freeze(self) -> None:
        """Stop it in its tracks: connections stand, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    async def _start_anywhere(self) -> None:
        """Start on a free port. Another process may take the port first; then try another."""
        for tries_left in reversed(range(_START_TRIES)):
            self.port = _free_port()
            try:
                await self._start()
            except BrokerError:
                if not tries_left:
                    raise
            else:
                return

    async def _start(self) -> None:
        command = self._mosquitto_command() if self.kind == "mosquitto" else self._embedded_command()
        self._file("broker.log").unlink(missing_ok=True)
        with self._file("broker.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is for those who use the broker, not for it
            )
        try:
            async with asyncio.timeout(_START_S):
                while _SERVES not in self._log() and self._process.returncode is None:  # noqa: ASYNC110  a log
                    await asyncio.sleep(0.005)
        except TimeoutError:
            await self.kill()
            raise BrokerError(f"{self.kind} did not serve within {_START_S:.0f} s:\n{self.log_tail()}") from None
        if self._process.returncode is not None:
            raise BrokerError(f"{self.kind} ended with code {self._process.returncode}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last of what the broker has logged since it was started."""
        return self._log()[-2_000:]

    def _log(self) -> str:
        return self._file("broker.log").read_text(errors="replace")

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            raise BrokerError("the broker is not running")
        self._process.send_signal(number)

    def _embedded_command(self) -> list[str]:
        return [sys.executable, "-m", "sim.embedded_broker", str(os.getpid()), str(self.port)]

    def _mosquitto_command(self) -> list[str]:
        assert self._mosquitto is not None  # noqa: S101  checked when the kind was chosen
        config = self._file("mosquitto.conf")
        config.write_text(self._mosquitto_config())
        wrapper = str(Path(__file__).with_name("child.py"))
        return [sys.executable, "-I", "-S", wrapper, str(os.getpid()), self._mosquitto, "-c", str(config)]

    def _mosquitto_config(self) -> str:
        lines = [
            f"listener {self.port} {self.host}",
            "set_tcp_nodelay true",
            f"max_queued_messages {self._max_queued}",
            f"message_size_limit {4 * MAX_PAYLOAD_BYTES}",
            "persistence false",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
            f"allow_anonymous {'false' if self._users else 'true'}",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # a change of user would clear what ties it to this process
        if self._users:
            hashed = "".join(f"{name}:{_mosquitto_hash(password)}\n" for name, password in self._users.items())
            lines.append(f"password_file {self._write_private('users', hashed)}")
            for name, password in self._users.items():
                self._write_private(f"{name}.password", password + "\n")
        if self._acl is not None:
            lines.append(f"acl_file {self._write_private('acl', self._acl)}")
        return "\n".join([*lines, self._more_config, ""])

    def _write_private(self, name: str, text: str) -> Path:
        path = self._file(name)
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def _file(self, name: str) -> Path:
        if self._folder is None:
            raise BrokerError("the broker has not been started")
        return self._folder / name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _mosquitto_hash(password: str) -> str:
    """A line of Mosquitto's password file: PBKDF2 with SHA-512, as `mosquitto_passwd` of version 2 writes it."""
    iterations, salt = 101, os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    return f"$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
