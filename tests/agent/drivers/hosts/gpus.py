"""NVML's own module over simulated boards: its real error objects, on a machine without a GPU."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pynvml


@dataclass
class Board:
    uuid: str
    demand_mw: int = 600_000
    limit_mw: int = 700_000
    default_mw: int = 700_000
    least_mw: int = 200_000
    most_mw: int = 700_000
    error: int | None = None
    """What every call about it fails with."""
    mute: bool = False
    """It has no power reading."""


@dataclass
class FakeNvml:
    """The functions of `pynvml` that the helper calls; everything else is the real module's."""

    boards: list[Board] = field(default_factory=list)
    init_error: int | None = None
    set_error: int | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    """Calls wait for it."""

    def __post_init__(self) -> None:
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)

    def nvmlShutdown(self) -> None:  # noqa: N802
        return

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self.gate.wait(30)
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:  # noqa: N802
        return self._checked(self.boards[index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Board:  # noqa: N802
        return self._checked(next(board for board in self.boards if board.uuid == uuid))

    def nvmlDeviceGetUUID(self, board: Board) -> str:  # noqa: N802
        return board.uuid

    def nvmlDeviceGetName(self, board: Board) -> bytes:  # noqa: N802
        return b"NVIDIA H100"

    def nvmlDeviceGetPowerUsage(self, board: Board) -> int:  # noqa: N802
        if board.mute:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return min(board.demand_mw, board.limit_mw)

    def nvmlDeviceGetPowerManagementLimit(self, board: Board) -> int:  # noqa: N802
        return board.limit_mw

    def nvmlDeviceGetPowerManagementDefaultLimit(self, board: Board) -> int:  # noqa: N802
        return board.default_mw

    def nvmlDeviceGetPowerManagementLimitConstraints(self, board: Board) -> tuple[int, int]:  # noqa: N802
        return board.least_mw, board.most_mw

    def nvmlDeviceSetPowerManagementLimit(self, board: Board, limit_mw: int) -> None:  # noqa: N802
        if self.set_error is not None:
            raise pynvml.NVMLError(self.set_error)
        board.limit_mw = limit_mw

    def _checked(self, board: Board) -> Board:
        if board.error is not None:
            raise pynvml.NVMLError(board.error)
        return board
