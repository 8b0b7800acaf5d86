"""The same minute decided by what is at hand elsewhere: HiGHS on the whole problem, linopy and PyPSA on top of it.

Every try is a process of its own (bench/peer.py) that is killed when its time is over and may use so much memory and
no more: a solver's own time limit counts neither modelling nor presolve, and a model of 1,000 sites can exhaust the
machine. Nothing that becomes of a peer ends the bench. linopy and PyPSA are the `bench` extra; one that is not
installed is said by name and skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import sim.child
from controller.engine.optimiser.layout import Problem

PEERS: Final = (
    ("HiGHS, relaxation", "highspy", "relaxation"),
    ("HiGHS, exact", "highspy", "exact"),
    ("linopy + HiGHS", "linopy", "linopy"),
    ("PyPSA + HiGHS", "pypsa", "pypsa"),
)
"""How each is called, what it needs to be installed, and its name in bench/peer.py."""
GIB: Final = 2**30
MEMORY_B: Final = 8 * GIB
"""Address space of one try."""
GROW: Final = 10
SHARE: Final = 0.2
"""A try on so many times the sites follows one that took at most this share of the limit."""
WANT_OF_MEMORY: Final = ("MemoryError", "bad_alloc", "allocate memory", "out of memory", "failed to map segment")
"""What Python, C++, the loader and BLAS say of it."""
TAIL: Final = 120


class Peer(NamedTuple):
    """How one of them fared."""

    name: str
    sites: int
    seconds: float | None
    """Modelling and solving; None where it came to no end."""
    note: str

    def __str__(self) -> str:
        if self.sites == 0:
            return f"{self.name}: skipped; {self.note}"
        took = f"{self.seconds:.2f} s, " if self.seconds is not None else ""
        return f"{self.name}: {took}{self.sites} site{'s' if self.sites > 1 else ''}; {self.note}"


def peers(p: Problem, limit_s: float = 60.0, memory_b: int = MEMORY_B) -> Iterator[Peer]:
    """Each one on as many of the sites as end within `limit_s`: ten times as many while a try takes a fifth of it.

    A try's time begins with its process. It has `memory_b` of address space, and at most half of the machine's memory.
    """
    memory_b = min(memory_b, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    with tempfile.TemporaryDirectory(prefix="wattshift-peers-") as name:
        folder = Path(name)
        (folder / "problem").write_bytes(pickle.dumps(p, protocol=pickle.HIGHEST_PROTOCOL))
        for peer, module, run in PEERS:
            missing = next((m for m in ("highspy", module) if importlib.util.find_spec(m) is None), None)
            if missing is not None:
                yield Peer(peer, 0, None, f"{missing} is not installed: pip install 'wattshift[bench]'")
                continue
            yield from _grow(folder, peer, run, len(p.sites.price), limit_s, memory_b)


def _grow(folder: Path, peer: str, run: str, sites: int, limit_s: float, memory_b: int) -> Iterator[Peer]:
    count = 1
    while True:
        seconds, note = _try(folder, run, count, limit_s, memory_b)
        yield Peer(peer, count, seconds, note)
        if count >= sites or seconds is None or seconds > SHARE * limit_s:
            return
        count = min(GROW * count, sites)


def _try(folder: Path, run: str, sites: int, limit_s: float, memory_b: int) -> tuple[float | None, str]:
    """Seconds and what it found; no seconds, and why, where it was stopped or failed."""
    command = [sys.executable, "-m", "bench.peer", run, str(folder / "problem"), str(sites)]
    command += [str(limit_s), str(memory_b)]
    wrapper = [sys.executable, "-I", "-S", sim.child.__file__, str(os.getpid())]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        try:
            done = subprocess.run(
                [*wrapper, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return None, f"did not end within {'a minute' if limit_s == 60.0 else f'{limit_s:g} s'}, stopped"
        except OSError as error:
            return None, f"could not be started: {error}"
    if done.returncode == 0:
        with contextlib.suppress(IndexError, KeyError, ValueError):
            found = json.loads((folder / "out").read_text(errors="replace").splitlines()[-1])
            return float(found["seconds"]), str(found["note"])
    return None, _why(done.returncode, (folder / "err").read_text(errors="replace"), memory_b)


def _why(code: int, said: str, memory_b: int) -> str:
    if any(word in said for word in WANT_OF_MEMORY):
        return f"ended for want of memory, {memory_b / GIB:.3g} GiB were not enough"
    if code == -signal.SIGKILL:
        return "killed by the system, most likely for want of memory"
    last = (said.strip().splitlines() or ["it said nothing"])[-1][:TAIL]
    return f"failed ({signal.Signals(-code).name if code < 0 else f'code {code}'}): {last}"
