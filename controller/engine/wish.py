"""What a plan wants of a site in the coming minute, in the terms of lots: which bank runs how hard, which job runs.

A wish is no dispatch. It is served by the same filling as merit order, after all that the rules demand and within all
that they forbid; what it does not speak of is chosen by merit order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from contract.messages import Job


class AheadKind(StrEnum):
    """In what way what is to come outweighs the price of now."""

    RESTART = "restart"
    """A bank runs on at a loss: stopping and starting again would lose more."""
    START = "start"
    """A bank stays down although it would earn now: its start would not pay."""
    EARLY = "early"
    """A bank starts at a loss, to earn later."""
    JOB = "job"
    """A job runs at a loss: it is due, or its restart would lose more."""
    WAIT = "wait"
    """A job waits for cheaper hours."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """Why a plan departs from the plain break-even, and for which job."""

    kind: AheadKind
    job: str = ""
    due_ms: int | None = None
    """When the job is due."""
    until_ms: int | None = None
    """When the plan means to change what it does now."""

    @property
    def cause(self) -> str:
        """Stable and short: `restart`, `job:17`."""
        return f"{self.kind}:{self.job}" if self.job else str(self.kind)


@dataclass(frozen=True, slots=True)
class BankWish:
    """What the plan wants of a hash bank."""

    target_w: int
    """0: down."""
    least_w: int
    """What it would have to draw at least, were it to run."""
    until_ms: int | None
    """When the plan means to start or stop it next; None: not within a day."""
    exact: bool = False
    """A reserve is armed: what the price of now says of the levels does not tell how much of it should run."""


@dataclass(frozen=True, slots=True)
class JobWish:
    """What the plan wants of a job."""

    run: bool
    until_ms: int | None
    may: bool = False
    """It is planned for later, but nothing is gained by waiting."""


@dataclass(slots=True)
class Wish:
    """What the plan wants of a site, by place of the bank, and by place and id of the job."""

    banks: dict[int, BankWish] = field(default_factory=dict)
    jobs: dict[tuple[int, str], JobWish] = field(default_factory=dict)
    gap: float = 0.0
    """How far below its proven bound the plan may be, as a share of it."""
    profit_usd: float = 0.0
    """Over the horizon."""
    carry: str = ""
    late: list[tuple[int, Job, str]] = field(default_factory=list)
    """Jobs that will not be done in time: the bank's place, the job, and why."""
