"""Two agents with one site id: who speaks for the site.

Each agent listens to its site's own status topic. The one that hears a later incarnation say `online` yields: it goes
to its fail-safe, obeys and reports nothing, and says so in /healthz, until that other one is offline. The later one
goes on alone. If both drive the same devices, stopped wins over running, which is safe and loud; the fix is to end one.

What the broker keeps (`retained`) may be left over from an incarnation that is long gone, so only a message of the
moment makes an agent yield; an agent that hears an earlier one speak says `online` again, so that the other hears it.
"""

from __future__ import annotations

import logging
from typing import Final

from contract.clock import Clock
from contract.messages import Status

_LOG = logging.getLogger(__name__)
SPEAK_EVERY_MS: Final = 5_000
"""How often, at most, an earlier incarnation is answered."""


class TwinWatch:
    """See the module."""

    def __init__(self, site: str, boot: str, clock: Clock) -> None:
        self._site, self._boot, self._clock = site, boot, clock
        self._spoke_ms: int | None = None
        self.master: str | None = None
        """The incarnation we yield to; None while we speak for the site."""
        self.seen = 0
        """Messages of other living incarnations."""

    def heard(self, status: Status, *, retained: bool) -> bool:
        """Take note of a status message. Whether our own `online` should be said (again)."""
        if status.site != self._site:
            return False
        if status.boot == self._boot:
            # An earlier connection's last will, come late: the retained status is now wrong.
            return not status.online and self.master is None
        if not status.online:
            if status.boot == self.master:
                _LOG.warning(
                    "%s: the other agent (%s) is offline; speaking for the site again", self._site, self.master
                )
                self.master = None
            return self.master is None
        if retained:
            return self.master is None
        self.seen += 1
        if status.boot > self._boot:
            if self.master != status.boot:
                _LOG.error("%s: a later agent (%s) speaks for this site; yielding to it", self._site, status.boot)
            self.master = max(status.boot, self.master or "")
            return False
        _LOG.error("%s: an earlier agent (%s) speaks for this site too", self._site, status.boot)
        now_ms = self._clock.mono_ms()
        if self.master is not None or (self._spoke_ms is not None and now_ms - self._spoke_ms < SPEAK_EVERY_MS):
            return False
        self._spoke_ms = now_ms
        return True
