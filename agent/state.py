"""What the agent must not forget: fencing, dwell, trips, what it froze, and what drivers need to undo what they did.

Files are replaced atomically and synced; a broken one is set aside, said once, and the agent starts conservatively. A
disk that is full or read-only is counted, logged once per change of state, and never stops the agent.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.reasons import InterlockKind

_LOG = logging.getLogger(__name__)
FILE_MAX_BYTES: Final = 64 * 2**20
Seq = Annotated[int, Field(ge=0, le=2**53)]
Memory = dict[str, dict[str, str]]
"""What each miner's driver remembers, by the device's label."""


class _Saved(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SavedTrip(_Saved):
    """An interlock that was in force."""

    kind: InterlockKind
    detail: str = ""


class SavedBank(_Saved):
    """One bank's level and dwell."""

    level_w: Annotated[int, Field(ge=0)]
    on: bool
    since_wall_ms: int
    trips: tuple[SavedTrip, ...] = ()
    frozen: tuple[str, ...] = ()
    """HPC jobs that the agent froze, in that order."""
    admission_closed: bool = False
    """Whether it was the agent that keeps pending jobs from starting."""
    memory: dict[str, str] = {}
    """What the scheduler's driver remembers."""


class AgentState(_Saved):
    """Everything but the miners' drivers' memory."""

    version: Literal[1] = 1
    boot_ms: Seq = 0
    """The time in the last boot's name, so that the next one's is higher whatever the wall clock does."""
    epoch: Seq = 0
    seq: Seq | None = None
    saved_wall_ms: int = 0
    lease_left_ms: int = 0
    """What was left of the lease then."""
    banks: dict[str, SavedBank] = {}


class _SavedMemory(_Saved):
    version: Literal[1] = 1
    memory: Memory = {}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found. `state` is None for a first start and where `corrupt`: these two differ in what is safe."""

    state: AgentState | None
    memory: Memory
    corrupt: bool = False


class StateStore(Protocol):
    """Where the agent remembers. Saving never raises: a failure is counted, and tried again with the next change."""

    def load(self) -> Loaded: ...

    def save(self, state: AgentState) -> bool:
        """Whether it is (or will be) on disk."""
        ...

    def save_memory(self, memory: Memory) -> bool: ...

    @property
    def failures(self) -> int: ...


class MemoryStateStore:
    """Remembers for as long as the object lives; for tests and simulations, where the object outlives the agent."""

    def __init__(self) -> None:
        self.state: AgentState | None = None
        self.memory: Memory = {}
        self.failures = 0

    def load(self) -> Loaded:
        return Loaded(self.state, self.memory)

    def save(self, state: AgentState) -> bool:
        self.state = state
        return True

    def save_memory(self, memory: Memory) -> bool:
        self.memory = {label: dict(kept) for label, kept in memory.items()}
        return True


class FileStateStore:
    """Two files: `path` for the state, small and written often; beside it `.memory` for what drivers remember."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._memory_path = path.with_name(f"{path.name}.memory")
        self.failures = 0
        self._failing = False

    def load(self) -> Loaded:
        """What is on disk. A broken file is renamed to `*.corrupt` and reported in the log."""
        state, corrupt = _read(self._path, AgentState)
        memory, _ = _read(self._memory_path, _SavedMemory)
        return Loaded(state, memory.memory if memory is not None else {}, corrupt)

    def save(self, state: AgentState) -> bool:
        return self._write(self._path, state.model_dump_json().encode())

    def save_memory(self, memory: Memory) -> bool:
        return self._write(self._memory_path, _SavedMemory(memory=memory).model_dump_json().encode())

    def _write(self, path: Path, payload: bytes) -> bool:
        try:
            _replace(path, payload)
        except OSError as error:
            self.failures += 1
            if not self._failing:
                _LOG.error("state cannot be saved to %s: %s; the agent goes on without", path, error)
            self._failing = True
            return False
        if self._failing:
            _LOG.warning("state is saved again to %s", path)
        self._failing = False
        return True


_M = TypeVar("_M", bound=BaseModel)


def _read(path: Path, model: type[_M]) -> tuple[_M | None, bool]:
    """The file's content and whether it is corrupt; None and False where there is no file."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return None, False
    except OSError as error:
        _LOG.error("state cannot be read from %s: %s; starting conservatively", path, error)
        return None, True
    try:
        if len(raw) > FILE_MAX_BYTES:
            raise ValueError("too large")
        return model.model_validate_json(raw), False
    except (ValidationError, ValueError) as error:
        aside = path.with_name(f"{path.name}.corrupt")
        with contextlib.suppress(OSError):
            path.replace(aside)
        what = str(error).partition("\n")[0]
        _LOG.error("state in %s is broken (%s), kept as %s; starting conservatively", path, what, aside.name)
        return None, True


def _replace(path: Path, payload: bytes) -> None:
    """Write beside, sync, rename, sync the folder: after a power cut the file is the old or the new one."""
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
