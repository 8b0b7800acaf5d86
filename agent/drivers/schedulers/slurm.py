"""One Slurm partition through Slurm's own programs, for a site without slurmrestd: `squeue --json`, `sinfo --json` and
`sinfo` read, `scancel` and `scontrol` write. Shapes and behaviour recorded from 22.05.8, whose JSON is that of OpenAPI
v0.0.38; an older Slurm has no `--json`, or breaks it off, and is then said to be unreadable.

The programs act as the agent's own user, by munge, or as the user whose token `token_file` holds. A reading costs the
three programs some 50 ms of processor time besides the agent's; slurmrestd costs less.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError, model_validator

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.schedulers._slurm_control import Control, complaint
from agent.drivers.schedulers._slurm_link import SlurmLink, Tables, read_token
from agent.drivers.schedulers._slurm_managed import slurm_partition
from agent.drivers.schedulers._slurm_options import SlurmOptions
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from agent.drivers.schedulers._slurm_records import (
    Answer,
    JobsAnswer,
    NodesAnswer,
    PartitionsAnswer,
    SlurmPartitionState,
)
from agent.drivers.schedulers._slurm_run import environment, run
from contract.clock import Clock

A = TypeVar("A", bound=Answer)

MAX_ANSWER_BYTES: Final = 64 * 1_048_576
DEFAULT_BIN: Final = Path("/usr/bin")
_STATES: Final = {"up": "UP", "down": "DOWN", "drain": "DRAIN", "inact": "INACTIVE", "inactive": "INACTIVE"}


class SlurmCliOptions(SlurmOptions):
    """`[banks.scheduler]` of a bank whose driver is `slurm`."""

    bin: Path = DEFAULT_BIN
    """Where `squeue` and `sinfo` are, and `scancel` and `scontrol` unless those are given."""

    @model_validator(mode="before")
    @classmethod
    def _programs(cls, options: object) -> object:
        if not isinstance(options, dict):
            return options
        folder = Path(options.get("bin", DEFAULT_BIN))
        return {"scancel": folder / "scancel", "scontrol": folder / "scontrol"} | options


@dataclass(frozen=True, slots=True)
class Programs:
    """Where they are, and as whom they act."""

    folder: Path
    scontrol: Path
    slurm_conf: Path | None
    token_file: Path | None


class SlurmPrograms(SlurmLink):
    """Partitions of one Slurm share it by `open_programs`: one listing a tick."""

    def __init__(self, programs: Programs, clock: Clock) -> None:
        super().__init__(clock)
        self._programs = programs
        self._environment = environment(programs.slurm_conf)
        self._control = Control(programs.scontrol, programs.slurm_conf)

    async def signal(self, job: str, signal: str) -> Outcome | None:  # noqa: ARG002  it cannot
        return None

    async def update(self, job: str, fields: Mapping[str, Any]) -> Outcome:
        token = self.token()
        if isinstance(token, Unreachable):
            return token
        with self.command():
            if "time_limit" in fields:
                return await self._control.set_limit(job, int(fields["time_limit"]), token)
            act = self._control.hold if fields.get("hold") else self._control.release
            return (await act([job], token))[job]

    def token(self) -> str | Unreachable | None:
        return read_token(self._programs.token_file)

    async def close(self) -> None:
        """Nothing stays open."""

    async def _tables(self) -> Tables | Unreachable:
        jobs, nodes, partitions = await asyncio.gather(
            self._json("squeue", ["--json"], JobsAnswer, "jobs"),
            self._json("sinfo", ["--json"], NodesAnswer, "nodes"),
            self._partitions(),
        )
        if isinstance(jobs, Unreachable):
            return jobs
        if isinstance(nodes, Unreachable):
            return nodes
        return partitions if isinstance(partitions, Unreachable) else (jobs, nodes, partitions)

    async def _json(self, program: str, words: list[str], kind: type[A], what: str) -> A | Unreachable:
        printed = await self._print(program, words)
        if isinstance(printed, Unreachable):
            return printed
        try:
            answer = kind.model_validate_json(printed)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return Unreachable(
                Failure.GARBAGE, f"{program} --json, not in the v0.0.38 form: {where} {first['msg']}"[:200]
            )
        if answer.errors:
            return Unreachable(Failure.GARBAGE, f"{program}: {answer.errors[0].text}")
        if what not in answer.model_fields_set:
            return Unreachable(Failure.GARBAGE, f"{program} --json lists no {what}")
        return answer

    async def _partitions(self) -> PartitionsAnswer | Unreachable:
        """By plain text, for 22.05 has no JSON of partitions."""
        printed = await self._print("sinfo", ["--noheader", "--all", "--format=%R|%a"])
        if isinstance(printed, Unreachable):
            return printed
        found: dict[str, SlurmPartitionState] = {}
        for line in printed.decode(errors="replace").splitlines():
            name, _, state = line.strip().partition("|")
            if name and state:
                found[name] = SlurmPartitionState(name=name, state=_STATES.get(state, state.upper()))
        return PartitionsAnswer(partitions=tuple(found.values()))

    async def _print(self, program: str, words: list[str]) -> bytes | Unreachable:
        token = self.token()
        if isinstance(token, Unreachable):
            return token
        path = str(self._programs.folder / program)
        ended = await run(path, words, self._environment, token, most_bytes=MAX_ANSWER_BYTES)
        if isinstance(ended, Unreachable):
            return ended
        if ended.oversized:
            return Unreachable(Failure.OVERSIZED, f"{program}: over {MAX_ANSWER_BYTES} bytes")
        if ended.code != 0:
            said = complaint(ended.failure(program))
            return said if isinstance(said, Unreachable) else Unreachable(Failure.GARBAGE, _detail(said))
        return ended.printed


_open: weakref.WeakValueDictionary[Hashable, SlurmPrograms] = weakref.WeakValueDictionary()


def open_programs(programs: Programs, clock: Clock) -> SlurmPrograms:
    """The running loop's one object for these programs."""
    key = (asyncio.get_running_loop(), clock, programs)
    link = _open.get(key)
    if link is None:
        link = _open[key] = SlurmPrograms(programs, clock)
    return link


def cli_partition(options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> SlurmPartition:
    """The registry's factory."""
    checked = SlurmCliOptions.model_validate(dict(options))
    scontrol = checked.scontrol or checked.bin / "scontrol"
    programs = Programs(checked.bin, scontrol, checked.slurm_conf, checked.token_file)
    return slurm_partition(checked, partial(open_programs, programs, clock), deadline_s=deadline_s, clock=clock)


def _detail(outcome: Applied | Refused) -> str:
    return outcome.detail
