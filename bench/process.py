"""The processes of a bench: started, measured and ended by process id. Linux, for what `/proc` and `prctl` tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil

import sim.child

READY_LINE_BYTES: Final = 8 * 2**20
"""The line that names 10,000 devices is half a megabyte."""
START_S: Final = 60.0
STOP_S: Final = 15.0
_PROBE_S: Final = 0.01
_B_PER_MB: Final = 1_000_000
_CLOCK_FLAG_BITS: Final = 3
_CPUCLOCK_SCHED: Final = 2
"""The kernel's name for time on a processor, as its scheduler counts it."""
T = TypeVar("T")


class BenchError(RuntimeError):
    """The bench cannot go on; the text says why."""


class Child:
    """One process. It dies with this one, however this one ends."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._info = psutil.Process(process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def cpu_s(self) -> float:
        """Processor time used so far by all its threads, user and system.

        From its own clock, to the nanosecond: `/proc/PID/stat` counts whole hundredths of a second, in which a small
        run may fit unseen. Raises BenchError where it has ended.
        """
        try:
            return time.clock_gettime(cpu_clock_of(self.pid))
        except OSError:
            raise BenchError(f"{self.name} has ended, its processor time cannot be read") from None

    def rss_mb(self) -> float:
        """Resident memory now, in 10^6 bytes."""
        return float(self._info.memory_info().rss) / _B_PER_MB

    def peak_rss_mb(self) -> float:
        """The most resident memory it ever had, in 10^6 bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1_024 / _B_PER_MB
        raise BenchError("the kernel tells no peak memory")

    def log_text(self) -> str:
        """What it has written to its standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Raise where it has ended by itself."""
        if not self.alive:
            raise BenchError(f"{self.name} ended with code {self._process.returncode}:\n{self.log_text()[-2_000:]}")

    async def ready_line(self) -> dict[str, Any]:
        """The one JSON line with which it says that it serves."""
        assert self._process.stdout is not None  # noqa: S101  it was started with a pipe
        try:
            async with asyncio.timeout(START_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchError(f"{self.name} was not ready within {START_S:.0f} s") from None
        if not line:
            await self._process.wait()
            self.check()
        ready: dict[str, Any] = json.loads(line)
        return ready

    async def logged(self, text: str) -> str:
        """The first line of its log that holds a text, once it is there."""
        return await until(lambda: self._line_with(text), f"{self.name} to log {text!r}", START_S, self)

    async def stop(self) -> None:
        """Ask it to end, and see to it that it does."""
        if not self.alive:
            return
        for number, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._process.wait()
                    return
        raise BenchError(f"{self.name} (process {self.pid}) cannot be ended")

    def _line_with(self, text: str) -> str | None:
        return next((line for line in self.log_text().splitlines() if text in line), None)


def cpu_clock_of(pid: int) -> int:
    """The clock of a process's time on the processor, for `time.clock_gettime`.

    What the C library's `clock_getcpuclockid` gives on Linux, and Python does not offer: clock_getres(2).
    """
    return (~pid << _CLOCK_FLAG_BITS) | _CPUCLOCK_SCHED


@contextlib.asynccontextmanager
async def child(name: str, folder: Path, module: str, *arguments: str) -> AsyncIterator[Child]:
    """Run `python -m MODULE ARGUMENTS` for the length of the block. Its standard error goes to a file in `folder`."""
    log = folder / f"{name}.log"
    wrapper = [sys.executable, "-I", "-S", sim.child.__file__, str(os.getpid())]
    with log.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            *wrapper,
            *(sys.executable, "-m", module, *arguments),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=log_file,
            limit=READY_LINE_BYTES,
        )
    running = Child(name, process, log)
    try:
        yield running
        running.check()
    finally:
        await running.stop()


async def until(probe: Callable[[], T | None], what: str, within_s: float, *children: Child) -> T:
    """Wait until the probe gives something, and give it. Raises `BenchError` when it never does or a child ends."""
    try:
        async with asyncio.timeout(within_s):
            while (found := probe()) is None:
                for each in children:
                    each.check()
                await asyncio.sleep(_PROBE_S)
    except TimeoutError:
        raise BenchError(f"waited {within_s:.0f} s in vain for {what}") from None
    return found
