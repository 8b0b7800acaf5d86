"""The firmwares that an agent can drive: one line per driver, and nothing else to edit for a new one.

How to add one is in docs/drivers.md; `_blueprint.py` is the file to copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from agent.drivers.base import Miner
from agent.drivers.miners import antminer, braiins, cgminer, luxos, whatsminer_v2
from agent.drivers.miners._options import DEADLINE_S, OptionError, Options
from contract.clock import Clock

__all__ = ["DEADLINE_S", "REGISTRY", "MinerFactory", "OptionError"]


class MinerFactory(Protocol):
    """Makes one miner's driver. `port` None is the protocol's own; nothing is sent until the first operation.

    Raises `OptionError` naming the option that is unknown or cannot be used, and `MissingExtraError` where a package is
    not installed. Capabilities are Protocols of `agent.drivers.base`: ask with isinstance.
    """

    def __call__(
        self, host: str, port: int | None, options: Options, *, deadline_s: float = DEADLINE_S, clock: Clock
    ) -> Miner: ...


REGISTRY: Final[Mapping[str, MinerFactory]] = {
    "antminer": antminer.create,
    "braiins": braiins.create,
    "cgminer": cgminer.create,
    "luxos": luxos.create,
    "whatsminer_v2": whatsminer_v2.create,
}
