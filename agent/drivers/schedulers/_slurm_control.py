"""`scontrol`, for what REST v0.0.38 cannot write: partitions, nodes, and jobs put back in the queue.

Measured on 22.05.8: 5 to 30 ms a call for a partition or some nodes; 10 to 20 ms a job to requeue, whether one call
names them all or several run beside one another, for slurmctld takes them one by one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.schedulers._slurm_run import Ended, environment, run

CALLS_AT_ONCE: Final = 4
JOBS_PER_CALL: Final = 200
_RESERVATION: Final = ("StartTime=now", "Duration=UNLIMITED", "Users=root", "Flags=IGNORE_JOBS,OVERLAP")
_NO_RESERVATION: Final = "Requested reservation is invalid"
_COMPLAINT: Final = re.compile(r"^(.*) for (?:job|JobId=)\s?([0-9]+(?:_[0-9]+)?)\s*$", re.MULTILINE)
_GONE: Final = ("Invalid job id", "already completing", "already finished", "Job is pending execution")
_UNREACHED: Final = ("Unable to contact", "Connection refused", "timed out", "Could not establish a configuration")
_NO_TOKEN: Final = ("Zero Bytes were", "Protocol authentication error", "authentication")
"""slurmctld closes the connection on a token that it does not take."""


class Control:
    """Runs `scontrol`. The caller bounds the time, and what runs is killed when that is up."""

    def __init__(self, program: Path, slurm_conf: Path | None) -> None:
        self._program = str(program)
        self._environment = environment(slurm_conf)

    async def requeue_held(self, jobs: Sequence[str], token: str | None) -> Mapping[str, Outcome]:
        """Stop jobs and put them back in the queue, held. Slurm continues a stopped job, sends it TERM, and KILL after
        `KillWait`. A job that is gone, or waits already, answers Applied; one that may not be requeued Refused."""
        return await self._of_jobs("requeuehold", jobs, token)

    async def release(self, jobs: Sequence[str], token: str | None) -> Mapping[str, Outcome]:
        """Let go of held jobs. When they start is slurmctld's business: one that was requeued waits until its old
        credential has expired, and must not be hurried, for forcing its start has lost a job."""
        return await self._of_jobs("release", jobs, token)

    async def set_partition(self, name: str, state: str, token: str | None) -> Outcome:
        return await self._one(["update", f"PartitionName={name}", f"State={state}"], token)

    async def set_nodes(self, nodes: Sequence[str], state: str, token: str | None) -> Outcome:
        return await self._one(["update", f"NodeName={','.join(nodes)}", f"State={state}"], token)

    async def reserve(self, name: str, nodes: Sequence[str], token: str | None) -> Outcome:
        """Keep jobs from starting on these nodes by a reservation of this name; what runs there goes on, and others may
        reserve the same nodes. An earlier one of the name is changed."""
        where = f"Nodes={','.join(nodes)}"
        for _ in range(2):  # which of the two is right may change between them
            outcome = await self._one(["update", f"ReservationName={name}", where], token)
            if not _is_unknown(outcome):
                return outcome
            words = ["create", "reservation", f"ReservationName={name}", where, *_RESERVATION]
            outcome = await self._one(words, token)
            if not (isinstance(outcome, Refused) and "Duplicate" in outcome.detail):
                return outcome
        return outcome

    async def unreserve(self, name: str, token: str | None) -> Outcome:
        """Delete a reservation; one that is not there counts as deleted."""
        outcome = await self._one(["delete", f"ReservationName={name}"], token)
        return Applied("was not there") if _is_unknown(outcome) else outcome

    async def set_limit(self, job: str, limit_min: int, token: str | None) -> Outcome:
        return await self._one(["update", f"JobId={job}", f"TimeLimit={limit_min}"], token)

    async def hold(self, jobs: Sequence[str], token: str | None) -> Mapping[str, Outcome]:
        return await self._of_jobs("hold", jobs, token)

    async def _of_jobs(self, verb: str, jobs: Sequence[str], token: str | None) -> Mapping[str, Outcome]:
        size = max(1, min(JOBS_PER_CALL, -(-len(jobs) // CALLS_AT_ONCE)))
        parts = [jobs[at : at + size] for at in range(0, len(jobs), size)]
        gate = asyncio.Semaphore(CALLS_AT_ONCE)

        async def call(part: Sequence[str]) -> Mapping[str, Outcome]:
            async with gate:
                ended = await run(self._program, [verb, ",".join(part)], self._environment, token)
            return dict.fromkeys(part, ended) if isinstance(ended, Unreachable) else _outcomes(part, ended)

        outcomes: dict[str, Outcome] = {}
        for done in await asyncio.gather(*map(call, parts)):
            outcomes.update(done)
        return outcomes

    async def _one(self, words: Sequence[str], token: str | None) -> Outcome:
        ended = await run(self._program, words, self._environment, token)
        if isinstance(ended, Unreachable):
            return ended
        return Applied() if ended.code == 0 else complaint(ended.failure("scontrol"))


def _outcomes(jobs: Sequence[str], ended: Ended) -> Mapping[str, Outcome]:
    if ended.code == 0:
        return dict.fromkeys(jobs, Applied())
    failed = {job: why.strip() for why, job in _COMPLAINT.findall(ended.said)}
    if not failed:
        return dict.fromkeys(jobs, complaint(ended.failure("scontrol")))
    return {job: complaint(failed[job]) if job in failed else Applied() for job in jobs}


def _is_unknown(outcome: Outcome) -> bool:
    return isinstance(outcome, Refused) and _NO_RESERVATION in outcome.detail


def complaint(why: str) -> Outcome:
    """What a complaint of a program means."""
    if any(text in why for text in _GONE):
        return Applied("no longer there" if "pending" not in why else "waits already")
    if any(text in why for text in _UNREACHED):
        return Unreachable(Failure.CONNECT, why[:200])
    if any(text in why for text in _NO_TOKEN):
        return Unreachable(Failure.AUTH, f"slurmctld takes no request with these rights: {why}"[:200])
    return Refused(why[:200])
