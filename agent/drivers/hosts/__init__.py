"""Host power: what a compute node draws, what it is limited to, whether it is on. One line per driver in `REGISTRY`.

`host.py` says what a driver is; `group.HostGroup` is what an HPC bank has of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from agent.drivers.hosts.gpu_helper import gpu_host
from agent.drivers.hosts.host import Host
from agent.drivers.hosts.redfish import redfish_host
from contract.clock import Clock


class HostFactory(Protocol):
    """Makes a host's driver; touches no network. Raises `ValueError` (a `pydantic.ValidationError` is one) for options
    that do not fit. `url` is where the host's controller or helper serves."""

    def __call__(self, url: str, options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> Host: ...


REGISTRY: Final[Mapping[str, HostFactory]] = {
    "gpu_helper": gpu_host,
    "redfish": redfish_host,
}
