"""From runs to what is printed: medians with their spread, the machine, and how quiet it was meanwhile."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Final, Self

import psutil

Run = Mapping[str, float]
"""One run's figures by key."""


def say(text: str) -> None:
    """One line for a person, at once."""
    print(text, flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed; the nearest rank, so that it is one that was seen."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def summary(runs: Sequence[Run], *, digits: int = 3) -> dict[str, Any]:
    """Each key's median over the runs, with `KEY_min` and `KEY_max` beside it."""
    out: dict[str, Any] = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        out[key] = _rounded(median(values), digits)
        out[f"{key}_min"] = _rounded(min(values), digits)
        out[f"{key}_max"] = _rounded(max(values), digits)
    return out


def finish(figures: Mapping[str, Any], runs: Sequence[Run], noise: Noise) -> None:
    """The last line: one JSON object."""
    about = {"runs": len(runs), "others_cores": round(noise.others_cores, 2), **machine()}
    print(json.dumps({**figures, **about}), flush=True)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "uvloop_installed": importlib.util.find_spec("uvloop") is not None,
    }


def introduce(title: str) -> None:
    """The first lines of every bench."""
    found = machine()
    loadavg = " ".join(f"{load:.2f}" for load in os.getloadavg())
    uvloop = "uvloop installed" if found["uvloop_installed"] else "no uvloop"
    say(title)
    say(f"machine: {found['cores']} cores, {found['cpu']}, Python {found['python']}, {uvloop}; load {loadavg}")


class Noise:
    """How much of the machine everything but this bench used while it ran, in cores. Use as a context manager.

    Children count as ours once they have ended, so they must end inside the block.
    """

    def __init__(self) -> None:
        self.others_cores = 0.0
        self._began_s = self._busy_s = self._ours_s = 0.0

    def __enter__(self) -> Self:
        self._began_s, self._busy_s, self._ours_s = time.monotonic(), _busy_s(), _ours_s()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        wall_s = max(time.monotonic() - self._began_s, 1e-9)
        self.others_cores = max(_busy_s() - self._busy_s - (_ours_s() - self._ours_s), 0.0) / wall_s


def _busy_s() -> float:
    """Processor time of the whole machine since its start, all cores."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _ours_s() -> float:
    """Processor time of this process and of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


_KEEP_WHOLE: Final = 1e15


def _rounded(value: float, digits: int) -> float | int:
    whole = float(value).is_integer() and abs(value) < _KEEP_WHOLE
    return int(value) if whole else round(value, digits)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or sys.platform
