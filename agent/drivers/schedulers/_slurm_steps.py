"""`scancel --signal`, for the processes that REST cannot reach.

slurmrestd's DELETE signals a batch job's script and what the script itself has started; the tasks of the steps that
`srun` launches, on all nodes, go on (measured on 22.05.8, where the job shows as STOPPED all the same). `scancel`
without `--full` signals those, and only those.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.schedulers._slurm_run import Ended, environment, run

JOBS_AT_ONCE: Final = 200
"""Of one call."""
TRIES: Final = 3
_TRY_S: Final = 0.5
"""Of the first, and twice as long each time."""
_TRY_JOB_S: Final = 0.01
"""A call that takes longer has met a signal still under way, and sleeps five seconds before it tries again. Else it
takes 10 ms for one job and 170 ms for a hundred."""
_COMPLAINT: Final = re.compile(r"Kill job error on job id ([0-9]+(?:_[0-9]+)?): (.*)")
_STEP: Final = re.compile(r"^\s*([0-9]+(?:_[0-9]+)?)(?:\+[0-9]+)?\.[0-9]+\s*$", re.MULTILINE)
_MAX_STEPS_BYTES: Final = 16 * 1_048_576
_GONE: Final = ("Invalid job id", "already completing or completed")


class StepSignals:
    """Runs `scancel`. As the agent's own user, or as the user whose token it is given."""

    def __init__(self, program: Path, slurm_conf: Path | None) -> None:
        self._program = str(program)
        self._squeue = str(program.with_name("squeue"))
        self._environment = environment(slurm_conf)

    async def send(
        self, signal: str, jobs: Sequence[str], token: str | None, *, how: str | None = None
    ) -> Mapping[str, Outcome]:
        """Signal the steps of these jobs; with `--full` their batch scripts and what those started instead, with
        `--batch` their batch scripts alone. An outcome for each; the caller bounds the time, and what runs is killed
        when that is up."""
        outcomes: dict[str, Outcome] = {}
        for at in range(0, len(jobs), JOBS_AT_ONCE):
            outcomes.update(await self._try(signal, jobs[at : at + JOBS_AT_ONCE], token, how=how))
        return outcomes

    async def running(self, partition: str, token: str | None) -> frozenset[str] | None:
        """The jobs of a partition that run steps; None where that cannot be told."""
        words = ["--steps", "--noheader", f"--partition={partition}", "--format=%i"]
        ended = await run(self._squeue, words, self._environment, token, most_bytes=_MAX_STEPS_BYTES)
        if isinstance(ended, Unreachable) or ended.code != 0 or ended.oversized:
            return None
        return frozenset(_STEP.findall(ended.printed.decode(errors="replace")))

    async def _try(
        self, signal: str, jobs: Sequence[str], token: str | None, *, how: str | None
    ) -> Mapping[str, Outcome]:
        """A signal to stop or go on may be sent twice: one that takes too long is given up and sent again."""
        for number in range(TRIES):
            with suppress(TimeoutError):
                async with asyncio.timeout(2**number * _TRY_S + _TRY_JOB_S * len(jobs)):
                    return await self._send(signal, jobs, token, how=how)
        return dict.fromkeys(jobs, Unreachable(Failure.TIMEOUT, "scancel did not end"))

    async def _send(
        self, signal: str, jobs: Sequence[str], token: str | None, *, how: str | None
    ) -> Mapping[str, Outcome]:
        words = [f"--signal={signal}", *((how,) if how else ()), *jobs]
        ended = await run(self._program, words, self._environment, token)
        if isinstance(ended, Unreachable):
            return dict.fromkeys(jobs, ended)
        return _outcomes(jobs, ended)


def _outcomes(jobs: Sequence[str], ended: Ended) -> Mapping[str, Outcome]:
    if ended.code == 0:
        return dict.fromkeys(jobs, Applied())
    failed = {job: why.strip() for job, why in _COMPLAINT.findall(ended.said)}
    if not failed:
        return dict.fromkeys(jobs, Unreachable(Failure.CONNECT, ended.failure("scancel")))
    return {job: _outcome(failed.get(job)) for job in jobs}


def _outcome(why: str | None) -> Outcome:
    return Applied() if why is None or why.startswith(_GONE) or _GONE[1] in why else Refused(why[:200])
