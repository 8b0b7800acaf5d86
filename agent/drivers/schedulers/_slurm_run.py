"""One of Slurm's own programs, run to its end. The caller bounds the time: a program that runs over is killed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.drivers.base import Failure, Unreachable

MAX_COMPLAINTS: Final = 65_536
"""Bytes kept of what a program says on stderr."""
_CHUNK: Final = 65_536


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int
    said: str
    """On stderr."""
    printed: bytes = b""
    """On stdout, where that was asked for."""
    oversized: bool = False

    def failure(self, program: str) -> str:
        """Its first complaint."""
        line = next((line for line in self.said.splitlines() if line.strip()), f"{program} ended with code {self.code}")
        return line[:200]


def environment(slurm_conf: Path | None) -> dict[str, str]:
    """What the programs are given of the agent's own."""
    plain = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
    return plain if slurm_conf is None else plain | {"SLURM_CONF": str(slurm_conf)}


async def run(
    program: str, words: Sequence[str], env: Mapping[str, str], token: str | None, *, most_bytes: int = 0
) -> Ended | Unreachable:
    """Run it as the agent's own user, or as the user whose token it is given. Keeps `most_bytes` of its stdout."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *words,
            env={**env, **({"SLURM_JWT": token} if token else {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if most_bytes else asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return Unreachable(Failure.CONNECT, f"{program}: {error.strerror}")
    try:
        said, printed = await asyncio.gather(
            _kept(process.stderr, MAX_COMPLAINTS), _kept(process.stdout, most_bytes + 1)
        )
        code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    return Ended(code, said.decode(errors="replace"), printed, oversized=len(printed) > most_bytes > 0)


async def _kept(stream: asyncio.StreamReader | None, most: int) -> bytes:
    """Read a stream to its end; the first part of it is kept."""
    parts: list[bytes] = []
    size = 0
    if stream is not None:
        while chunk := await stream.read(_CHUNK):
            if size < most:
                parts.append(chunk[: most - size])
                size += len(parts[-1])
    return b"".join(parts)
