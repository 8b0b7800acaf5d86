"""What the tests of the Slurm driver share: recorded listings, and records of jobs made up from them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from agent.drivers.schedulers._slurm_records import (
    JobsAnswer,
    Listing,
    NodesAnswer,
    PartitionsAnswer,
    SlurmJob,
    SlurmNode,
    SlurmPartitionState,
)

FIXTURES = Path(__file__).parent / "fixtures"
NOW_S = 1_795_441_400
"""Some seconds after `kinds-jobs` was recorded."""


@cache
def raw(name: str) -> bytes:
    """A recorded answer: `jobs`, `nodes`, `kinds-jobs`, `kinds-nodes`, `partitions`, `errors`."""
    return (FIXTURES / f"slurmrestd-22.05.8-{name}.json").read_bytes()


def recorded(name: str) -> Any:
    return json.loads(raw(name))


def kinds() -> Listing:
    """A cluster with jobs of every kind: nodes 1 to 5 in partition `hpc`, 5 and 6 in `aux`."""
    return Listing(
        JobsAnswer.model_validate_json(raw("kinds-jobs")).jobs,
        NodesAnswer.model_validate_json(raw("kinds-nodes")).nodes,
        PartitionsAnswer.model_validate_json(raw("partitions")).partitions,
        settled=True,
    )


def job(job_id: int, state: str = "RUNNING", **more: Any) -> SlurmJob:
    """A job of partition `hpc` that started at `NOW_S` - 600 with a limit of an hour, changed as told."""
    shape: dict[str, Any] = {
        "partition": "hpc",
        "priority": 1_000,
        "node_count": 1,
        "start_time": NOW_S - 600,
        "end_time": NOW_S + 3_000,
        "time_limit": 60,
        "eligible_time": NOW_S - 700,
    }
    return SlurmJob.model_validate({"job_id": job_id, "job_state": state} | shape | more)


def listing(*jobs: SlurmJob, **more: Any) -> Listing:
    """These jobs, and four idle nodes in an open partition unless told otherwise."""
    nodes = tuple(SlurmNode(name=f"node{number}", state="idle", partitions=("hpc",)) for number in range(1, 5))
    shape: dict[str, Any] = {
        "nodes": nodes,
        "partitions": (SlurmPartitionState(name="hpc", state="UP"),),
        "settled": True,
    }
    return Listing(jobs=jobs, **(shape | more))
