"""Telling systemd how we are, after sd_notify(3): datagrams to the socket it names in the environment."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

_US_PER_S: Final = 1_000_000


class Notifier:
    """Says nothing where systemd does not listen; a message that cannot be sent is not worth failing for."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._ready = False
        watched = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        text = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s: float | None = int(text) / _US_PER_S if watched and text.isdigit() else None
        """How long systemd waits for the next sign of life; None where it does not."""

    def beat(self) -> None:
        """Called at every turn of the control loop: the first says that we are ready, each that we are alive.

        So a loop that hangs is restarted, and one that is merely idle is not.
        """
        if not self._ready:
            self._ready = True
            self._send("READY=1")
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def starting(self, needs_s: float) -> None:
        """Ask for so much more time to become ready."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(needs_s * _US_PER_S)}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.setblocking(False)
            s.sendto(text.encode(), self._address)
