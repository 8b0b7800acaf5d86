"""Who commanded what, and when: the shared memory of all devices of a farm, for benches and checkers."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

DEFAULT_CAPACITY: Final = 65_536
_MAX_TEXT: Final = 80


class Command(NamedTuple):
    """One command that reached a device."""

    seq: int
    """1, 2, 3, ...; never reused, not even after `clear`."""
    at_s: float
    """`loop.time()` when the request was complete; on a real loop the machine's monotonic clock, in any process."""
    device: str
    """The serial number of the ASIC."""
    client: str
    """The address the command came from."""
    command: str
    """In the firmware's own words, without secrets."""
    obeyed: bool
    """Whether the machine was made to do it, whatever the device answered."""


class CommandLog:
    """A bounded ring of commands that would change a machine, refused ones too, and a count of all else."""

    __slots__ = ("_ring", "_seq", "reads")

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._ring: deque[Command] = deque(maxlen=capacity)
        self._seq = 0
        self.reads = 0
        """Requests that only asked something, or were no request of the protocol at all."""

    def add(self, at_s: float, device: str, client: str, command: str, *, obeyed: bool) -> None:
        self._seq += 1
        self._ring.append(Command(self._seq, at_s, device, client, command[:_MAX_TEXT], obeyed))

    @property
    def seq(self) -> int:
        """The number of the newest command, 0 before the first."""
        return self._seq

    @property
    def oldest_seq(self) -> int:
        """The number of the oldest command still held; `seq + 1` where none is. Those before it are lost."""
        return self._seq - len(self._ring) + 1

    @property
    def last(self) -> Command | None:
        """The newest command, if any is held."""
        return self._ring[-1] if self._ring else None

    def since(self, seq: int, limit: int | None = None) -> list[Command]:
        """Commands held that are newer than number `seq`, oldest first, at most `limit` of them."""
        wanted = min(self._seq - seq, len(self._ring))
        if wanted <= 0:
            return []
        if limit is None and wanted == len(self._ring):
            return list(self._ring)
        first = len(self._ring) - wanted
        last = len(self._ring) if limit is None else min(len(self._ring), first + limit)
        return [self._ring[index] for index in range(first, last)]

    def clear(self) -> None:
        """Forget all; numbering goes on."""
        self._ring.clear()
        self.reads = 0
