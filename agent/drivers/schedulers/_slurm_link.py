"""What carries a Slurm driver's questions and commands: slurmrestd, or Slurm's own programs."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agent.drivers.base import Failure, Outcome, Unreachable
from agent.drivers.schedulers._slurm_records import JobsAnswer, Listing, NodesAnswer, PartitionsAnswer
from contract.clock import Clock

MAX_TOKEN_BYTES: Final = 16_384


LISTING_MS: Final = 500
"""How long a listing serves all the partitions of a link: far less than a tick."""
Tables = tuple[JobsAnswer, NodesAnswer, PartitionsAnswer]


class SlurmLink(ABC):
    """Nothing raises for what Slurm does; the caller bounds the time. Drivers of one Slurm share one link."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._one_listing = asyncio.Lock()
        self._listing: tuple[int, int, Listing] | None = None
        """The last one, with the count of changes and the time when it was begun."""
        self._changes = 0
        """Commands begun and ended."""
        self._commands = 0
        """Commands under way."""

    async def listing(self, but: Listing | None = None) -> Listing | Unreachable:
        """What slurmctld knows now, or knew within `LISTING_MS` with no command of ours since. Another than `but`."""
        async with self._one_listing:
            now_ms = self._clock.mono_ms()
            if self._listing is not None:
                changes, taken_ms, listing = self._listing
                if listing is not but and changes == self._changes and 0 <= now_ms - taken_ms <= LISTING_MS:
                    return listing
            self._listing = None
            before, quiet = self._changes, not self._commands
            tables = await self._tables()
            if isinstance(tables, Unreachable):
                return tables
            settled = quiet and before == self._changes
            jobs, nodes, partitions = tables
            listing = Listing(jobs.jobs, nodes.nodes, partitions.partitions, settled)
            if settled:
                self._listing = (before, now_ms, listing)
            return listing

    @contextmanager
    def command(self) -> Iterator[None]:
        """A command is under way: what is listed meanwhile, or was before, may not show it."""
        self._changes += 1
        self._commands += 1
        try:
            yield
        finally:
            self._commands -= 1
            self._changes += 1

    @abstractmethod
    async def signal(self, job: str, signal: str) -> Outcome | None:
        """Signal a job's batch script and what it started, or all of a job that has none. `job` is an id, or
        ARRAY_TASK. None: this link cannot; `scancel` does it for many jobs at once."""

    @abstractmethod
    async def update(self, job: str, fields: Mapping[str, Any]) -> Outcome:
        """Change `hold` or `time_limit` of a job, named by its id, ARRAY_TASK or ARRAY_[TASKS]."""

    @abstractmethod
    def token(self) -> str | Unreachable | None:
        """The user's token; None where there is none."""

    @abstractmethod
    async def close(self) -> None:
        """One user of it is done."""

    @abstractmethod
    async def _tables(self) -> Tables | Unreachable: ...


def read_token(path: Path | None) -> str | Unreachable | None:
    """A token read anew each time, so that a renewed one needs no restart."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except OSError as error:
        return Unreachable(Failure.AUTH, f"token_file {path}: {error.strerror}")
    except UnicodeDecodeError:
        token = ""
    # `scontrol token` prints SLURM_JWT=...; its output as it is serves too.
    token = token.removeprefix("SLURM_JWT=")
    if not token or not token.isprintable() or " " in token:
        return Unreachable(Failure.AUTH, f"token_file {path} holds no token")
    return token
