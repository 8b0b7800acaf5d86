"""What slurmrestd lists (OpenAPI v0.0.38), as typed records of the fields the driver looks at; the other hundred fields
of a job are never made into Python objects. Pure.

An array's tasks that still wait stand in one record, whose id is the array's own; the running ones have records of
their own, and so has a task that was touched. The last task's own id is that of the array, and a request to that id
means all of it: so tasks are always named `ARRAY_TASK`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from agent.node_names import node_names

MAX_TASKS: Final = 1_000
"""Of one record of an array that are told apart."""
UNLIMITED_MIN: Final = 525_600
"""Slurm shows a job without a time limit as one of a year."""
_SKEW_S: Final = 60
"""How far slurmctld's clock may be ahead of the agent's."""
_COUNT: Final = re.compile(r"(?:^|,)(cpu|gres/gpu)=([0-9]{1,9})(?=,|$)")
_BETWEEN: Final = re.compile(r",(?![^\[]*\])")
"""Commas that stand in no brackets."""
_RANGE: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SlurmError(_Record):
    """One of an answer's errors. The older listings say `errno` for `error_number`."""

    description: str | None = None
    error: str | None = None
    number: Annotated[int | None, Field(validation_alias=AliasChoices("error_number", "errno"))] = None

    @property
    def text(self) -> str:
        return (self.description or self.error or f"error {self.number}")[:200]


class SlurmJob(_Record):
    """A job, a task of an array, the waiting rest of an array, or a component of a heterogeneous job."""

    job_id: int
    job_state: str
    partition: str | None = None
    """Several, with commas, for a pending job that may start in any of them."""
    state_reason: str | None = None
    priority: int | None = None
    node_count: int | None = None
    nodes: str | None = None
    """Where it runs, as `node[1-3],gpu7`; "" while it waits."""
    comment: str | None = None
    qos: str | None = None
    account: str | None = None
    dependency: str | None = None
    submit_time: int | None = None
    eligible_time: int | None = None
    start_time: int | None = None
    end_time: int | None = None
    deadline: int | None = None
    time_limit: int | None = None
    tres_alloc_str: str | None = None
    array_job_id: int | None = None
    array_task_id: int | None = None
    array_task_string: str | None = None
    het_job_id: int | None = None
    het_job_offset: int | None = None
    requeue: bool | None = None
    """Whether it may be requeued."""
    batch_flag: bool | None = None

    @property
    def key(self) -> str:
        """How a request names this record and no other."""
        if self.array_job_id and self.array_task_id is not None:
            return f"{self.array_job_id}_{self.array_task_id}"
        return str(self.job_id)

    @property
    def array(self) -> str | None:
        """The array it belongs to."""
        return str(self.array_job_id) if self.array_job_id else None

    @property
    def names(self) -> set[str]:
        """All by which it may have been named in a request: itself, its array, and the tasks that it stands for."""
        if self.array is None:
            return {self.key}
        return {self.key, self.array} | {f"{self.array}_{task}" for task in tasks(self.array_task_string, MAX_TASKS)}

    @property
    def pending(self) -> bool:
        return self.job_state == "PENDING"

    @property
    def held(self) -> bool:
        """Slurm takes a hold of a running job too, and keeps it until a requeue."""
        return self.priority == 0 or (self.state_reason or "").startswith("JobHeld")

    def is_over(self, now_s: int) -> bool:
        """Whether it has ended though Slurm calls it STOPPED: one that ends at the moment when it is to be stopped is
        listed so for `MinJobAge` (300 s by default) more. Its end is then when it was, not when its limit will be."""
        if self.job_state != "STOPPED" or not self.end_time or self.end_time > now_s + _SKEW_S:
            return False
        limit_s = 60 * self.time_limit if self.time_limit else None
        return limit_s is None or not self.start_time or self.end_time < self.start_time + limit_s

    @property
    def limit_min(self) -> int | None:
        """Its time limit, None where it has none."""
        return self.time_limit if self.time_limit is not None and 0 < self.time_limit < UNLIMITED_MIN else None

    @property
    def is_component(self) -> bool:
        """Whether it is a part of a heterogeneous job other than its leader, whom requests name."""
        return bool(self.het_job_id and self.het_job_offset)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The nodes it holds; none where Slurm names them in a way that is not known."""
        return host_names(self.nodes or "")

    def is_in(self, partition: str) -> bool:
        return self.partition == partition or partition in (self.partition or "").split(",")


class SlurmNode(_Record):
    """A node; `state` is the base state, lower case, and the flags say what else is with it."""

    name: str
    state: str
    state_flags: frozenset[str] = frozenset()
    partitions: tuple[str, ...] = ()
    tres: str | None = None


class SlurmPartitionState(_Record):
    name: str
    state: str


class Answer(_Record):
    """Any answer. An answer with errors has no list, or an empty one."""

    errors: Annotated[tuple[SlurmError, ...], Field(fail_fast=True)] = ()


class JobsAnswer(Answer):
    jobs: Annotated[tuple[SlurmJob, ...], Field(fail_fast=True)] = ()


class NodesAnswer(Answer):
    nodes: Annotated[tuple[SlurmNode, ...], Field(fail_fast=True)] = ()


class PartitionsAnswer(Answer):
    partitions: Annotated[tuple[SlurmPartitionState, ...], Field(fail_fast=True)] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything slurmctld knew, at one moment or nearly so."""

    jobs: tuple[SlurmJob, ...]
    nodes: tuple[SlurmNode, ...]
    partitions: tuple[SlurmPartitionState, ...]
    settled: bool
    """No command of ours was under way while it was taken, so that it shows what they all have done."""


def amounts(tres: str | None) -> dict[str, int]:
    """CPUs and GPUs in a text such as `cpu=8,mem=2000M,node=2,gres/gpu=4`."""
    return {name: int(count) for name, count in _COUNT.findall(tres or "")}


def tasks(text: str | None, most: int) -> list[int]:
    """The first tasks of an array's waiting rest, such as `4-6,9%2`; Slurm cuts a long text short with dots."""
    found: list[int] = []
    for part in (text or "").partition("%")[0].split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            break
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        found.extend(range(first, last + 1, max(step, 1))[: most - len(found)])
    return found


@lru_cache(maxsize=4_096)
def host_names(text: str) -> tuple[str, ...]:
    """The names in a list of Slurm's, such as `node[1-3,9],gpu7`; none where it does not parse."""
    try:
        return tuple(node_names(part for part in _BETWEEN.split(text) if part))
    except ValueError:
        return ()


def at_once(text: str | None) -> int | None:
    """How many tasks of an array may run at once, where it is limited: 2 for `4-6%2`."""
    limit = (text or "").partition("%")[2]
    return int(limit) if limit.isascii() and limit.isdigit() else None


def per_node(nodes: Iterable[SlurmNode]) -> dict[str, float]:
    """CPUs and GPUs of a node, on average."""
    totals: dict[str, int] = {}
    count = 0
    for node in nodes:
        count += 1
        for name, amount in amounts(node.tres).items():
            totals[name] = totals.get(name, 0) + amount
    return {name: total / count for name, total in totals.items() if total}


def node_share(job: SlurmJob, of_node: dict[str, float]) -> float:
    """How many nodes' worth of power a job draws: by its CPUs or GPUs, whichever is more, and at most its nodes.

    A job that waits counts with whole nodes, for Slurm cannot say yet what it will be given.
    """
    nodes = float(max(1, job.node_count or 1))
    given = amounts(job.tres_alloc_str)
    shares = [amount / of_node[name] for name, amount in given.items() if of_node.get(name)]
    return min(nodes, max(shares)) if shares else nodes
