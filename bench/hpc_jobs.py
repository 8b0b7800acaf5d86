"""The jobs of the HPC bench: real processes with a result that is right only if nothing of their work was lost or done
twice, fed to a partition so that it always has some waiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from sim.slurm import SlurmCluster

STEP_S: Final = 0.02
WORK: Final = f"""\
import os, signal, sys, time
path, steps = sys.argv[1], int(sys.argv[2])
if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
    path += "." + os.environ["SLURM_PROCID"]
try:
    n, i = map(int, open(path + ".saved").read().split())
except OSError:
    n, i = 0, 0
def save(*_):
    with open(path + ".new", "w") as file:
        file.write(f"{{n}} {{i}}")
    os.replace(path + ".new", path + ".saved")
    os._exit(1)
signal.signal(signal.SIGTERM, save)
with open(path + ".starts", "a") as file:
    file.write("x")
while i < steps:
    time.sleep({STEP_S})
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    n, i = n + i, i + 1
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
with open(path + ".new", "w") as file:
    file.write(str(n))
os.replace(path + ".new", path)
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a job asks for and how it may be treated."""

    name: str
    weight: int
    options: tuple[str, ...]
    comment: str
    srun: bool = False
    requeues: bool = False


KINDS: Final = (
    Kind("whole", 4, ("-N1", "-n16"), "value=0.4"),
    Kind("dear", 3, ("-N1", "-n16"), "value=2.5 checkpoint=600"),
    Kind("half", 3, ("-N1", "-n8"), "value=0.8"),
    Kind("steps", 2, ("-N1", "-n2", "--cpus-per-task=8"), "value=1.2", srun=True),
    Kind("moves", 2, ("-N1", "-n8"), "value=0.3 nofreeze", requeues=True),
)
FIRM: Final = Kind("firm", 0, ("-N1", "-n16"), "value=4 firm")


@dataclass(frozen=True, slots=True)
class Submitted:
    """One job of ours."""

    id: str
    name: str
    kind: Kind
    steps: int


class Feeder:
    """Keeps one partition supplied, and one firm job always there."""

    def __init__(
        self,
        cluster: SlurmCluster,
        partition: str,
        seed: int,
        *,
        waiting: int = 6,
        work_s: tuple[float, float] = (20.0, 60.0),
    ) -> None:
        self.jobs: list[Submitted] = []
        self._cluster = cluster
        self._partition = partition
        self._rng = Random(seed)
        self._waiting = waiting
        self._work_s = work_s
        self._bag: list[Kind] = []

    @property
    def folder(self) -> Path:
        return self._cluster.folder / "out"

    async def run(self) -> None:
        """Until cancelled, keep jobs waiting."""
        while True:
            if not await self._count("PENDING,RUNNING,STOPPED", "--name=firm"):
                await self._submit(FIRM, 2.0 * max(self._work_s))
            for _ in range(max(self._waiting - await self._count("PENDING"), 0)):
                await self._submit(self._draw(), self._rng.uniform(*self._work_s))
            await asyncio.sleep(1.0)

    async def cancel_waiting(self) -> None:
        """What has never started is taken back by its owner; it does not count."""
        for job in [job for job in self.jobs if not list(self.folder.glob(f"{job.name}*starts"))]:
            await self._cluster.command("scancel", "--state=PENDING", job.id)
            if not list(self.folder.glob(f"{job.name}*starts")):
                self.jobs.remove(job)

    async def until_done(self, timeout_s: float) -> None:
        """Wait until no job is known to wait, run or stand still."""
        async with asyncio.timeout(timeout_s):
            while await self._count("PENDING,RUNNING,SUSPENDED,STOPPED,COMPLETING"):  # noqa: ASYNC110  another process's
                await asyncio.sleep(0.5)

    def lost(self) -> list[Submitted]:
        """Jobs whose result is not there or not right."""
        return [job for job in self.jobs if not all(self._right(job, path) for path in self._results(job))]

    def restarts(self) -> Counter[str]:
        """How often jobs were started beyond once, by kind."""
        counts: Counter[str] = Counter()
        for job in self.jobs:
            for path in self.folder.glob(f"{job.name}.*starts"):
                counts[job.kind.name] += max(len(path.read_text()) - 1, 0)
        return counts

    def _results(self, job: Submitted) -> list[Path]:
        return [self.folder / f"{job.name}.{task}" for task in range(2)] if job.kind.srun else [self.folder / job.name]

    def _right(self, job: Submitted, path: Path) -> bool:
        return path.exists() and path.read_text() == str(sum(range(job.steps)))

    def _draw(self) -> Kind:
        if not self._bag:
            self._bag = [kind for kind in KINDS for _ in range(kind.weight)]
            self._rng.shuffle(self._bag)
        return self._bag.pop()

    async def _submit(self, kind: Kind, work_s: float) -> None:
        name = f"{self._partition}-{len(self.jobs)}-{kind.name}"
        steps = round(work_s / STEP_S)
        work = f"python3 {self._cluster.folder}/work.py {self.folder}/{name} {steps}"
        script = f"srun --cpus-per-task=8 -n2 {work}" if kind.srun else f"exec {work}"
        options = [*kind.options, f"--partition={self._partition}", f"--comment=wattshift {kind.comment}"]
        options.append(f"--job-name={kind.name}")
        job = await self._cluster.submit(
            script, *options, "--time=60", "--requeue" if kind.requeues else "--no-requeue"
        )
        self.jobs.append(Submitted(job, name, kind, steps))

    async def _count(self, states: str, *more: str) -> int:
        words = ("squeue", "--noheader", "--array", f"--partition={self._partition}", f"--states={states}", *more)
        return len((await self._cluster.command(*words, "--format=%i")).split())
