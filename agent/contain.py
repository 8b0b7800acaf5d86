"""The one place that keeps the agent alive when a driver has a bug: it is counted, said once, and taken for silence.

A driver returns what goes wrong with a device and ends by its own deadline. One that raises, or does not end, is
broken; the devices of every other make must not suffer for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, TypeVar

from agent.drivers.base import Failure, Unreachable

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
GRACE_S: Final = 2.0
"""How long after its deadline a driver that should have ended is cut off."""


class Containment:
    """Runs driver operations; `faults` counts those that raised or had to be cut off."""

    def __init__(self) -> None:
        self.faults = 0
        self._logged: set[str] = set()

    async def run(self, operation: Awaitable[T], deadline_s: float, what: object) -> T | Unreachable:
        """The operation's result. `what` is the driver, for the log."""
        try:
            async with asyncio.timeout(deadline_s + GRACE_S):
                return await operation
        except TimeoutError:
            self._fault(what, "did not end by its deadline")
            return Unreachable(Failure.TIMEOUT, "the driver did not end by its deadline")
        except Exception as error:  # noqa: BLE001  see the module
            self._fault(what, f"raised {type(error).__name__}: {error}", error)
            return Unreachable(Failure.GARBAGE, f"the driver failed: {type(error).__name__}")

    def _fault(self, what: object, did: str, error: Exception | None = None) -> None:
        self.faults += 1
        name = type(what).__name__
        if name not in self._logged:
            self._logged.add(name)
            _LOG.error("driver %s %s; this is a bug, further ones are only counted", name, did, exc_info=error)
