"""What the processes of real Slurm jobs draw: a node's share is busy while the job's worker on it is not stopped.

Nothing here asks Slurm: a worker counts when the kernel shows its process, and as stopped when the kernel says T. So a
freeze that Slurm reports and no process obeys shows as power, as it would on a meter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WORKER: Final = "work.py"
_STOPPED: Final = frozenset("tT")
_GONE: Final = frozenset("ZX")
_ABOUT_TO_BE: Final = ("sh", "bash", "env", "python", "slurmd", "slurmstepd", "slurm_script")
"""What a process is called before it becomes a worker."""
LOOKS: Final = 20
"""So often a process must have been seen to be something else before it is believed to stay that: by the way from
Slurm's step to a worker it may be anything for a moment (a version manager's shim, say)."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker of one job on one node."""

    pid: int
    job: str
    node: str
    cpus: int
    name: str
    """Where it puts its result, which tells one of our jobs from another."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All workers of a cluster at one moment."""

    running: tuple[Worker, ...]
    stopped: tuple[Worker, ...]

    def busy_cpus(self, nodes: frozenset[str]) -> int:
        """CPUs whose work goes on, on these nodes."""
        return sum(worker.cpus for worker in self.running if worker.node in nodes)


class ProcessMeter:
    """Looks at `/proc`. A worker is looked at closely once; from then on at its state alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._workers: dict[int, Worker] = {}
        self._others: dict[int, int] = {}
        """How often each other process was looked at closely."""

    def look(self) -> Seen:
        running: list[Worker] = []
        stopped: list[Worker] = []
        alive = set()
        for entry in os.listdir("/proc"):  # noqa: PTH208  many times a second
            if not entry.isdigit():
                continue
            pid = int(entry)
            alive.add(pid)
            worker = self._workers.get(pid) or self._new(pid)
            state = _state(pid) if worker is not None else None
            if worker is None or state is None or state in _GONE:
                continue
            (stopped if state in _STOPPED else running).append(worker)
        self._workers = {pid: worker for pid, worker in self._workers.items() if pid in alive}
        self._others = {pid: looks for pid, looks in self._others.items() if pid in alive}
        return Seen(tuple(running), tuple(stopped))

    def _new(self, pid: int) -> Worker | None:
        looks = self._others.get(pid, 0)
        if looks >= LOOKS:
            return None
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
            program = words[0].rpartition("/")[2]
            if len(words) > 2 and words[1].endswith(WORKER) and program.startswith("python"):
                return self._worker(pid, words[2])
            if program and not program.startswith(_ABOUT_TO_BE):
                self._others[pid] = looks + 1
        return None

    def _worker(self, pid: int, result: str) -> Worker | None:
        told = dict(_pairs(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")))
        if told.get("WATTSHIFT_SLURM") != self._folder:
            return None
        cpus = int(told.get("SLURM_CPUS_PER_TASK") or told.get("SLURM_CPUS_ON_NODE") or 1)
        name = result.rpartition("/")[2]
        found = Worker(pid, told.get("SLURM_JOB_ID", ""), told.get("SLURMD_NODENAME", ""), cpus, name)
        self._workers[pid] = found
        return found


def _pairs(words: Iterable[bytes]) -> Iterable[tuple[str, str]]:
    for word in words:
        name, _, value = word.decode(errors="replace").partition("=")
        yield name, value


def _state(pid: int) -> str | None:
    """The kernel's letter for what a process does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None
