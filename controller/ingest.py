"""From raw messages to checked state. Nothing a site sends is trusted until it has passed here.

What is refused is counted by code and logged once per change:

`oversized`, `malformed`, `invalid`, `version`   not a message of this protocol (`contract.messages.WireError`)
`topic`          a topic that no agent publishes on
`retained`       a report or receipt out of the broker's store: it is old by nature
`site_unknown`   not on the configured list; `site_limit`: one site more than may be learnt
`site_mismatch`  the payload names another site than the topic
`replayed`, `out_of_order`   a report with a sequence already seen, or below the newest
`boot_old`, `boot_conflict`  a report of an incarnation that has been replaced, or of one nobody has announced
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, Protocol

from contract.bus import Inbound
from contract.clock import Clock
from contract.lean import lean
from contract.messages import Nameplate, Receipt, Report, Status, WireError, decode
from contract.topics import parse_site_topic
from controller.faults import Faults
from controller.state import OLD_BOOTS, PLATES, Fleet, SiteState

_LOG = logging.getLogger(__name__)
_SITE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CHECKS: Final[Mapping[str, Callable[[bytes], object]]] = {
    "report": partial(decode, Report),
    "receipt": partial(decode, Receipt),
    "status": partial(decode, Status),
    "nameplate": partial(decode, Nameplate),
}
_TAKEOVER_MS: Final = 30_000
"""An incarnation silent for this long may be replaced by one that no status names: a lost status strands no site."""
_STRAYS: Final = 3
"""So many reports of a second incarnation within `_STRAY_MS` are no stragglers: two agents run."""
_STRAY_MS: Final = 60_000
READING_FRESH_MS: Final = 30_000
"""An older main reading does not count towards the baseline."""


class Sink(Protocol):
    """Who is told what has changed."""

    def on_report(self, state: SiteState, before: Report | None) -> None:
        """A new report was taken in; `before` is the one it replaced, None for the first of an incarnation."""
        ...

    def on_nameplate(self, state: SiteState) -> None: ...

    def on_receipt(self, state: SiteState, receipt: Receipt) -> None: ...

    def on_boot_conflict(self, state: SiteState, detail: str) -> None: ...


class Ingest:
    """Takes every message of the bus. `on_message` is synchronous and never raises on what it is given."""

    def __init__(
        self,
        fleet: Fleet,
        clock: Clock,
        sink: Sink,
        *,
        allowed: Collection[str] | None,
        sites_max: int,
        market: Mapping[str, Callable[[bytes], None]],
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._sink = sink
        self._allowed = None if allowed is None else frozenset(allowed)
        self._sites_max = sites_max
        self._market = dict(market)
        self._takers: dict[str, Callable[[SiteState, bytes, int], None]] = {
            "report": self._report,
            "receipt": self._receipt,
            "status": self._status,
            "nameplate": self._nameplate,
        }
        self.faults = Faults(_LOG)
        self.reports = 0
        """Reports taken in."""

    def on_message(self, inbound: Inbound) -> None:
        now_ms = self._clock.mono_ms()
        market = self._market.get(inbound.topic)
        if market is not None:
            market(inbound.payload)
            return
        topic = parse_site_topic(inbound.topic)
        if topic is None or topic.kind not in self._takers or not _SITE_NAME.fullmatch(topic.site):
            self.faults.hit("bus", "topic", f"nothing is expected on {inbound.topic[:200]!r}", now_ms)
            return
        state = self._site(topic.site, topic.kind, inbound.payload, now_ms)
        if state is None:
            return
        if inbound.retained and topic.kind in ("report", "receipt"):
            self.faults.hit(state.site, "retained", f"a retained {topic.kind} is old by nature: clear it", now_ms)
            return
        try:
            self._takers[topic.kind](state, inbound.payload, now_ms)
        except WireError as error:
            self.faults.hit(state.site, error.code, f"{topic.kind}: {error.detail[:300]}", now_ms)

    def _site(self, site: str, kind: str, payload: bytes, now_ms: int) -> SiteState | None:
        state = self._fleet.get(site)
        if state is not None:
            return state
        if self._allowed is not None and site not in self._allowed:
            self.faults.hit(
                "unknown sites", "site_unknown", f"{site} is not in [ingest] sites; more are only counted", now_ms
            )
        elif len(self._fleet) >= self._sites_max:
            self.faults.hit("unknown sites", "site_limit", f"{site}: [ingest] sites_max is {self._sites_max}", now_ms)
        else:
            try:
                _CHECKS[kind](payload)  # garbage alone does not make a site
            except WireError as error:
                self.faults.hit("unknown sites", error.code, f"{site}: {kind}: {error.detail[:300]}", now_ms)
            else:
                return self._fleet.learn(site)
        return None

    def _belongs(self, state: SiteState, site: str, now_ms: int) -> bool:
        if site == state.site:
            return True
        self.faults.hit(state.site, "site_mismatch", f"a message of {site} on the topic of {state.site}", now_ms)
        return False

    def _report(self, state: SiteState, payload: bytes, now_ms: int) -> None:
        report = decode(Report, payload)
        if not self._belongs(state, report.site, now_ms) or not self._is_current(state, report.boot, now_ms):
            return
        if report.seq <= state.report_seq:
            code = "replayed" if report.seq == state.report_seq else "out_of_order"
            self.faults.hit(state.site, code, f"report {report.seq} after {state.report_seq}", now_ms)
            return
        before = state.report
        state.report = lean(report)
        state.report_seq = report.seq
        state.report_at_ms = now_ms
        state.online = True
        self.reports += 1
        self._keep_power(state, report, now_ms)
        self.faults.fine(state.site, now_ms)
        self._sink.on_report(state, before)

    def _keep_power(self, state: SiteState, report: Report, now_ms: int) -> None:
        for reading in report.feeders:
            if reading.id == state.main:
                if reading.power_w is not None and reading.age_ms is not None and reading.age_ms <= READING_FRESH_MS:
                    state.power.add(now_ms, reading.power_w)
                return

    def _receipt(self, state: SiteState, payload: bytes, now_ms: int) -> None:
        receipt = decode(Receipt, payload)
        if not self._belongs(state, receipt.site, now_ms):
            return
        if receipt.boot != state.boot:
            self.faults.hit(state.site, "boot_old", f"a receipt of incarnation {receipt.boot}", now_ms)
            return
        self._sink.on_receipt(state, lean(receipt))

    def _nameplate(self, state: SiteState, payload: bytes, now_ms: int) -> None:
        plate = decode(Nameplate, payload)
        if not self._belongs(state, plate.site, now_ms):
            return
        state.plates.pop(plate.boot, None)
        state.plates[plate.boot] = lean(plate)
        while len(state.plates) > PLATES:
            del state.plates[next(boot for boot in state.plates if boot != state.boot)]
        if plate.boot == state.boot and plate != state.nameplate:
            self._apply_plate(state)
            self._sink.on_nameplate(state)

    def _status(self, state: SiteState, payload: bytes, now_ms: int) -> None:
        status = decode(Status, payload)
        if not self._belongs(state, status.site, now_ms):
            return
        if not status.online:
            if status.boot == state.boot:  # the late will of a replaced incarnation says nothing of the present one
                state.online = False
            return
        if status.boot != state.boot:
            if status.boot in state.old_boots:
                self._conflict(state, f"incarnation {status.boot} is back after {state.boot} had replaced it", now_ms)
            self._adopt(state, status.boot)
        state.online = True

    def _is_current(self, state: SiteState, boot: str, now_ms: int) -> bool:
        """Whether a report's incarnation is the one that counts; the retained status names it."""
        if boot == state.boot:
            return True
        silent = state.report is None or now_ms - state.report_at_ms > _TAKEOVER_MS
        if boot not in state.old_boots and (state.boot is None or not state.online or silent):
            self._adopt(state, boot)
            return True
        code = "boot_old" if boot in state.old_boots else "boot_conflict"
        self.faults.hit(state.site, code, f"a report of incarnation {boot}, {state.boot} counts", now_ms)
        if now_ms - state.stray_at_ms > _STRAY_MS:
            state.strays, state.stray_at_ms = 0, now_ms
        state.strays += 1
        if state.strays >= _STRAYS:
            self._conflict(state, f"incarnations {state.boot} and {boot} both report", now_ms)
        return False

    def _adopt(self, state: SiteState, boot: str) -> None:
        if state.boot is not None:
            state.old_boots[state.boot] = state.report_seq
            state.boot_changes += 1
            if len(state.old_boots) > OLD_BOOTS:
                del state.old_boots[next(iter(state.old_boots))]
        state.boot = boot
        state.report = None
        state.report_seq = state.old_boots.pop(boot, -1)
        state.strays = 0
        self._apply_plate(state)

    def _apply_plate(self, state: SiteState) -> None:
        state.nameplate = state.plates.get(state.boot or "")
        if state.nameplate is not None:
            state.main = next(feeder.id for feeder in state.nameplate.feeders if feeder.parent is None)

    def _conflict(self, state: SiteState, detail: str, now_ms: int) -> None:
        self.faults.hit(state.site, "two_boots", f"two agents act for one site: {detail}", now_ms)
        state.strays = 0
        state.conflict_at_ms = now_ms
        self._sink.on_boot_conflict(state, detail)
