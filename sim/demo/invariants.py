"""What the demo's checkers allow beyond the simulation's: a machine's wall milliseconds, times the speed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sim.checkers import Allowances

JITTER_S: Final = 1.0
"""Wall seconds that a message, a tick or a device may lose to a busy machine."""
DEADLINE_S: Final = 2.0
"""Of a device operation in the demo, wall seconds."""


def allowances(speed: float) -> Allowances:
    """Those of the simulation, widened by what the wall costs at this speed."""
    plain = Allowances()
    jitter_ms, deadline_ms = round(JITTER_S * speed * 1_000), round(2 * DEADLINE_S * speed * 1_000)
    return replace(
        plain,
        reaction_ms=plain.reaction_ms + jitter_ms,
        poll_ms=plain.poll_ms + 2 * jitter_ms,
        command_ms=plain.command_ms + deadline_ms,
        limit_ms=plain.limit_ms + deadline_ms // 2 + jitter_ms,
        excursion_ms=plain.excursion_ms + 2 * jitter_ms + deadline_ms,
        handover_ms=plain.handover_ms + jitter_ms,
        clock_ms=plain.clock_ms + jitter_ms,
    )
