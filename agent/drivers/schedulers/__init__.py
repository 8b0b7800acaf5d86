"""HPC schedulers: one line per driver. A factory takes the bank's `[banks.scheduler]` options from the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from agent.drivers.base import Partition
from agent.drivers.schedulers.kubernetes import kubernetes_partition
from agent.drivers.schedulers.slurm import cli_partition
from agent.drivers.schedulers.slurm_rest import rest_partition
from contract.clock import Clock


class PartitionFactory(Protocol):
    """Makes a partition driver. Raises `pydantic.ValidationError` for options that do not fit, `MissingExtraError`
    where a package is not installed."""

    def __call__(self, options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> Partition: ...


REGISTRY: Final[Mapping[str, PartitionFactory]] = {
    "kubernetes": kubernetes_partition,
    "slurm": cli_partition,
    "slurm_rest": rest_partition,
}
