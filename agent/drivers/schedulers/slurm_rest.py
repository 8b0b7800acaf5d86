"""One Slurm partition through slurmrestd, OpenAPI v0.0.38 (Slurm 22.05; shapes and behaviour recorded from 22.05.8).

What REST can do there: `GET /jobs`, `/nodes`, `/partitions`, shared by all partitions of one slurmrestd;
`DELETE /job/{id}?signal=STOP|CONT`; `POST /job/{id}` with `hold` and `time_limit`. It has no partition or node writes
and no requeue: for those the driver is given `scontrol`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from agent.drivers.schedulers._slurm_api import Endpoint, open_api
from agent.drivers.schedulers._slurm_managed import slurm_partition
from agent.drivers.schedulers._slurm_options import SlurmOptions
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from contract.clock import Clock


class SlurmRestOptions(SlurmOptions):
    """`[banks.scheduler]` of a bank whose driver is `slurm_rest`."""

    url: Annotated[str, Field(pattern=r"^(http://|https://|unix:/)")]
    """`http://host:6820`, or `unix:/run/slurmrestd/slurmrestd.sock`."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@$-]{1,64}$")] | None = None

    @field_validator("url")
    @classmethod
    def _port_is_one(cls, url: str) -> str:
        if not url.startswith("unix:") and (not urlsplit(url).hostname or urlsplit(url).port == 0):
            raise ValueError("names no host, or port 0")
        return url

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, self.user, self.token_file)


def rest_partition(options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> SlurmPartition:
    """The registry's factory."""
    checked = SlurmRestOptions.model_validate(dict(options))
    return slurm_partition(checked, partial(open_api, checked.endpoint, clock), deadline_s=deadline_s, clock=clock)
