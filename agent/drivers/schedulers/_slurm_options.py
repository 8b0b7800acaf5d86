"""What every Slurm driver is told of its partition in `[banks.scheduler]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.drivers.schedulers.job_terms import ValueMap

NodeW = Annotated[int, Field(ge=0, le=1_000_000)]


class SlurmOptions(BaseModel):
    """Powers are of one node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$")]
    token_file: Path | None = None
    """Holds the user's JSON web token, as `scontrol token` prints it; read anew at every request."""
    node_busy_w: Annotated[int, Field(gt=0, le=1_000_000)]
    node_idle_w: NodeW
    node_off_w: NodeW | None = None
    """Of a node that Slurm has powered down. Given, the agent may have idle nodes powered down (`scontrol` is needed,
    and a SuspendProgram and ResumeProgram in slurm.conf); without it, never."""
    values: ValueMap = ValueMap()
    scancel: Path | None = None
    """Where Slurm's `scancel` is, on the agent's own machine: the only way to stop what jobs launch with `srun`."""
    scontrol: Path | None = None
    """Where Slurm's `scontrol` is. Given, new starts are blocked by closing the partition rather than by holding jobs,
    and jobs may be requeued."""
    slurm_conf: Path | None = None
    """For both, where it is not in its usual place."""
    extend_limits: bool = True
    """Whether a job's time limit is moved by as long as we kept it frozen. Without it, Slurm ends it at the old one."""
    checkpoint_signal: Annotated[str, Field(pattern=r"^(USR1|USR2|HUP|INT|URG|WINCH)$")] = "USR1"
    """Sent to the batch script of a job that asks for a notice, so long before it is requeued; as `sbatch
    --signal=B:USR1` does."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.node_idle_w > self.node_busy_w:
            raise ValueError("node_idle_w is above node_busy_w")
        if self.node_off_w is not None and self.node_off_w > self.node_idle_w:
            raise ValueError("node_off_w is above node_idle_w")
        if self.node_off_w is not None and self.scontrol is None:
            raise ValueError("node_off_w needs scontrol")
        if self.scontrol is not None and self.scancel is None:
            raise ValueError("scontrol needs scancel beside it")
        return self
