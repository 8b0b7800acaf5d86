"""What a message sets in motion: which of them cannot wait for the tick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contract.clock import Clock
from contract.messages import Receipt, Report
from controller.journal.base import EventRecord, Journal
from controller.publish import Publisher
from controller.signals import Signals
from controller.state import SiteState

_AT_RISK_LEAD_MS: Final = 5_000
"""An obligation is looked after from this long before it begins."""
_AT_RISK_GAP_MS: Final = 5_000
"""And not more often than this: power takes time to follow."""
_MARGIN: Final = 100
"""One part in so many above the target is metering noise."""


class Reactions:
    """The `Sink` of ingest: keeps the records, and asks for a decision where one is called for."""

    def __init__(
        self,
        publisher: Publisher,
        signals: Signals,
        journal: Journal,
        clock: Clock,
        request: Callable[[str, str], None],
    ) -> None:
        self._publisher = publisher
        self._signals = signals
        self._journal = journal
        self._clock = clock
        self._request = request

    def on_report(self, state: SiteState, before: Report | None) -> None:
        report = state.report
        if report is None:
            return
        self._publisher.on_report(state)
        if before is None:
            self._request(state.site, "joined")
        elif before.mode is not report.mode:
            self._request(state.site, "mode")
        elif _interlocks(before) != _interlocks(report):
            self._request(state.site, "interlock")
        elif self._at_risk(state):
            self._request(state.site, "obligation_at_risk")

    def on_nameplate(self, state: SiteState) -> None:
        if state.report is not None:
            self._request(state.site, "nameplate")

    def on_receipt(self, state: SiteState, receipt: Receipt) -> None:
        self._publisher.on_receipt(state, receipt)

    def on_boot_conflict(self, state: SiteState, detail: str) -> None:
        self._journal.write(EventRecord(self._clock.wall_ms(), "two_boots", state.site, detail))

    def _at_risk(self, state: SiteState) -> bool:
        """Whether an obligation is open or about to be, and the main meter stands above its target."""
        obligation = self._signals.open_at(state.site, self._clock.wall_ms() + _AT_RISK_LEAD_MS)
        if obligation is None:
            return False
        power_w = state.main_power_w()
        if power_w is None or power_w <= obligation.target_w + obligation.target_w // _MARGIN:
            return False
        now_ms = self._clock.mono_ms()
        ordered_ms = state.orders.last_at_ms if state.orders.last is not None else None
        for since_ms in (ordered_ms, state.event_decided_at_ms):
            if since_ms is not None and now_ms - since_ms < _AT_RISK_GAP_MS:
                return False
        state.event_decided_at_ms = now_ms
        return True


def _interlocks(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    return [(bank.id, tuple(trip.kind for trip in bank.interlocks)) for bank in report.banks if bank.interlocks]
