"""The audit log: every change and every refusal, one JSON line each, chained by hash.

Each line holds the hash of the line before it and its own, so that a line that was altered, taken out, put in or moved
breaks the chain there. What was cut off the end does not; for that, keep the head that `verify` prints somewhere else.

Lines wait in a bounded queue and are written and synced by a thread: the event loop never waits for the disk. What is
written is walked again from time to time, see `controller.audit_watch`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_LOG = logging.getLogger(__name__)
GENESIS: Final = "0" * 64
QUEUE_MAX: Final = 10_000
LINE_MAX: Final = 16_384
_BATCH: Final = 500
_RETRY_S: Final = 2.0
_CLOSE_S: Final = 3.0
_TAIL: Final = 2 * LINE_MAX


class AuditError(Exception):
    """The log cannot be opened, or what is in it is not a chain; the text says where, why and what to do."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a log: how many there are, and its hash."""

    lines: int
    hash: str


class AuditLog:
    """One file, appended to. `open` it before the first entry, `run` it beside the server, `close` it at the end."""

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self._path = path
        self._now_ms = now_ms
        self._head = Head(0, GENESIS)
        self._written = Head(0, GENESIS)
        self._queue: deque[tuple[bytes, Head]] = deque()
        self._fd: int | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._in = self._done = 0
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self._untold = 0
        self.dropped = 0
        """Entries that found the queue full; the chain goes on without them, and a later entry says how many."""
        self.failures = 0
        """Writes that failed; each is tried again."""
        self.fault: str | None = None

    async def open(self) -> None:
        """Go on from the file's last line. Raises `AuditError`: a log that is broken at its end is not appended to."""
        self._fd, self._head = await asyncio.to_thread(_open, self._path)
        self._written = self._head
        self._task = asyncio.create_task(self._run(), name="audit")

    def add(self, actor: str, action: str, **detail: Any) -> bool:
        """Queue one entry without waiting; False where it was dropped."""
        if len(self._queue) >= QUEUE_MAX:
            self.dropped += 1
            self._untold += 1
            return False
        if self._untold:
            detail["lost_before"], self._untold = self._untold, 0
        own = {"n": self._head.lines + 1, "at_ms": self._now_ms(), "actor": actor, "action": action}
        body = own | {name: value for name, value in detail.items() if name not in own}
        line, self._head = _chain(body, self._head)
        self._queue.append((line, self._head))
        self._in += 1
        self._wake.set()
        return True

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that was added before is on the disk."""
        target = self._in
        try:
            async with asyncio.timeout(timeout_s):
                while self._done < target and self.fault is None:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return False
        return self._done >= target

    async def close(self) -> None:
        if self._task is None or self._fd is None:
            return
        await self.flush(_CLOSE_S)
        self._ending = True
        self._wake.set()
        done, _ = await asyncio.wait([self._task], timeout=_CLOSE_S)
        if done:  # else a thread still hangs on the disk, with the file's number in its hand
            os.close(self._fd)
        else:
            self._task.cancel()
        self._task = self._fd = None

    @property
    def head(self) -> Head:
        """Of all that was added, written or not."""
        return self._head

    @property
    def written(self) -> Head:
        """Of all that is on the disk."""
        return self._written

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def path(self) -> Path:
        return self._path

    async def _run(self) -> None:
        assert self._fd is not None  # noqa: S101  open() has just made it
        while True:
            await self._wake.wait()
            if self._ending and (not self._queue or self.fault is not None):
                return
            batch = [self._queue[place] for place in range(min(len(self._queue), _BATCH))]
            try:
                await asyncio.to_thread(_append, self._fd, b"".join(line for line, _ in batch))
            except OSError as error:
                if self.fault is None:
                    _LOG.error("audit log %s: %s; entries wait in a bounded queue", self._path, error.strerror)
                self.failures += 1
                self.fault = str(error.strerror)
                self._settled.set()
                await asyncio.sleep(_RETRY_S)
                continue
            if self.fault is not None:
                _LOG.info("audit log %s: well again", self._path)
                self.fault = None
            self._written = batch[-1][1]
            for _ in batch:
                self._queue.popleft()
            self._done += len(batch)
            self._settled.set()
            if not self._queue and not self._ending:
                self._wake.clear()


def verify(lines: Iterable[bytes]) -> Head:
    """Walk a whole log. Raises `AuditError` naming the first line that is not as it was written."""
    head = Head(0, GENESIS)
    for raw in lines:
        head = follow(raw, head)
    return head


def follow(raw: bytes, before: Head) -> Head:
    """The head after one more line. Raises `AuditError` where it is not as it was written after `before`."""
    place = before.lines + 1
    where = f"line {place}"
    if not raw.endswith(b"\n"):
        raise AuditError(f"{where} is cut off: the end of the log was lost or is being written")
    text, sep, tail = raw[:-1].rpartition(b',"hash":"')
    if not sep or len(tail) != 66 or not tail.endswith(b'"}'):
        raise AuditError(f"{where} is not an entry of an audit log")
    key = hashlib.sha256(text + b"}").hexdigest()
    if key != tail[:64].decode("ascii", "replace"):
        raise AuditError(f"{where} was altered: its hash is not its own")
    try:
        body = json.loads(text + b"}")
    except ValueError:
        raise AuditError(f"{where} is not JSON") from None
    if not isinstance(body, dict) or body.get("prev") != before.hash or body.get("n") != place:
        raise AuditError(f"{where} does not follow the one before it: lines were taken out, put in or moved")
    return Head(place, key)


def _chain(body: dict[str, Any], before: Head) -> tuple[bytes, Head]:
    text = json.dumps(body | {"prev": before.hash}, separators=(",", ":"), ensure_ascii=True, default=str)
    if len(text) > LINE_MAX - 100:
        kept = {key: body[key] for key in ("n", "at_ms", "actor", "action")} | {"cut": True, "prev": before.hash}
        text = json.dumps(kept, separators=(",", ":"), ensure_ascii=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"hash":"{key}"}}\n'.encode(), Head(before.lines + 1, key)


def _open(path: Path) -> tuple[int, Head]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise AuditError(f"{path} cannot be opened ({error.strerror}). Fix: check the path and its owner") from None
    try:
        return fd, _last(fd, path)
    except BaseException:
        os.close(fd)
        raise


def _last(fd: int, path: Path) -> Head:
    """The head as the last line tells it; the chain before it is for `verify` to walk."""
    size = os.fstat(fd).st_size
    if size == 0:
        return Head(0, GENESIS)
    tail = os.pread(fd, min(size, _TAIL), max(0, size - _TAIL))
    whole = tail.rfind(b"\n") + 1
    if whole and whole < len(tail):  # a crash cut the last entry short: it was never acknowledged, and goes
        os.ftruncate(fd, size - (len(tail) - whole))
        _LOG.warning("audit log %s: a last entry that was never finished is taken off", path)
        tail = tail[:whole]
    line = tail[:-1].rpartition(b"\n")[2] + b"\n"
    fix = "Fix: move it away, and keep it; `wattshift audit verify` tells more"
    try:
        body = json.loads(line)
        before = Head(int(body["n"]) - 1, str(body["prev"]))
        return follow(line, before)
    except (ValueError, KeyError, TypeError, AuditError) as error:
        raise AuditError(f"{path} does not end with an entry: {error}. {fix}") from None


def _append(fd: int, data: bytes) -> None:
    left = memoryview(data)
    start = os.fstat(fd).st_size
    try:
        while left:
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, start)  # all of the batch is written again, so none of it may stay
        raise
