"""The garbage collector, kept from holding the event loop up.

It looks for reference cycles by walking every object made since it last looked, and it looks when so many more were
made than freed. Here nearly all are replacements: a report for a report, a decision for a decision. So it looks rarely,
and then finds the whole fleet to walk: a third of a second at 5,000 sites, in the middle of anything. What is replaced
makes no cycles (tests hold that) and is freed at once without it. So it is switched off, and called by the clock and by
the growth of memory, where no site waits to be decided.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
from typing import Final

from controller.loop import ControlLoop

_LOG = logging.getLogger(__name__)
EVERY_S: Final = 3_600.0
RARELY_S: Final = 86_400.0
"""After a collection that took longer than `PAUSE_S`, as it does from some 200 sites on."""
PAUSE_S: Final = 0.05
GROWTH: Final = 1.25
"""More memory than after the last collection, by so much, calls for another."""
PATIENCE_S: Final = 300.0
"""A collection that is due waits so long at most for a tick to end."""
_LOOK_S: Final = 0.5


def switch_off() -> None:
    """No collection but those of `Garbage`. What stands now stays, and is not walked again."""
    gc.collect()
    gc.freeze()
    gc.disable()


class Garbage:
    """Collects now and then. `run` until cancelled."""

    def __init__(self, loop: ControlLoop) -> None:
        self._loop = loop
        self.collections = 0

    async def run(self) -> None:
        """A collection each hour, each day where it takes long, and one when memory has grown by a quarter; right after
        a tick, where one ends."""
        clock = asyncio.get_running_loop()
        every_s = EVERY_S
        while True:
            due_s, enough = clock.time() + every_s, GROWTH * _peak()
            while clock.time() < due_s and _peak() < enough:  # noqa: ASYNC110  neither has an event
                await asyncio.sleep(_LOOK_S)
            until_s, ticks = clock.time() + PATIENCE_S, self._loop.ticks
            while clock.time() < until_s and (self._loop.ticks == ticks or self._loop.waiting):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
            began_s = clock.time()
            found = gc.collect()
            self.collections += 1
            took_s = clock.time() - began_s
            every_s = EVERY_S if took_s <= PAUSE_S else RARELY_S
            _LOG.debug("garbage: %d objects in cycles, %.0f ms", found, 1e3 * took_s)


def _peak() -> int:
    """The most memory this process has ever had, in the system's own unit."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
