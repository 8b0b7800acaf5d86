"""Watches the controller as an observer and tells what changes, in the decisions' own sentences."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from contract.messages import ReceiptState, Workload
from controller.state import SiteState

if TYPE_CHECKING:
    from sim.demo.run import Demo

EVERY_S: Final = 0.05
TICKER_S: Final = 10.0
"""Wall seconds between two lines of the whole picture."""


class Watch:
    """One observer of one demo."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self._shape: dict[str, tuple[Any, ...]] = {}
        self._proven: dict[str, int] = {}
        self._price: float | None = None
        self._met: set[str] = set()
        self._silent: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + TICKER_S
        while True:
            self._watch_price()
            for state in self._demo.controller.fleet:
                self._watch_decision(state)
                self._watch_receipts(state)
                self._watch_obligation(state)
                self._watch_devices(state)
            if loop.time() >= due_s:
                due_s += TICKER_S
                self._picture()
            await asyncio.sleep(EVERY_S)

    def _watch_price(self) -> None:
        energy = self._demo.controller.feeds.prices["hb-houston"].price_at(self._demo.clock.wall_ms())
        if energy.usd_per_mwh != self._price:
            self._price = energy.usd_per_mwh
            told = "unknown" if self._price is None else f"{self._price:,.2f} USD/MWh"
            self._demo.say("price", None, f"HB_HOUSTON real-time price: {told}.", {"usd_per_mwh": self._price})

    def _watch_decision(self, state: SiteState) -> None:
        """Tell a decision when it gives any bank another target or another reason, not when it repeats itself."""
        if state.decided is None:
            return
        decision = state.decided.decision
        shape = tuple((bank.bank, bank.reason, round(bank.target_w, -3)) for bank in decision.banks)
        if self._shape.get(state.site) == shape:
            return
        self._shape[state.site] = shape
        data = {
            "decision": state.decided.id,
            "trigger": state.decided.trigger,
            "planned_w": decision.planned_w,
            "margin_usd_per_h": decision.margin_usd_per_h,
        }
        self._demo.say("decision", state.site, decision.sentence, data)

    def _watch_receipts(self, state: SiteState) -> None:
        """Tell when the meter has confirmed all banks of the order that stands."""
        track = state.orders
        if track.last is None or self._proven.get(state.site) == hash(track.last.setpoints):
            return
        banks = [track.banks.get(setpoint.bank) for setpoint in track.last.setpoints]
        if not banks or not all(bank is not None and bank.state is ReceiptState.CONFIRMED for bank in banks):
            return
        if any(bank.target_w != at.target_w for bank, at in zip(banks, track.last.setpoints, strict=True) if bank):
            return
        self._proven[state.site] = hash(track.last.setpoints)
        slowest_ms = max((bank.after_ms or 0) for bank in banks if bank)
        measured_w = sum(bank.measured_w or 0 for bank in banks if bank)
        text = (
            f"Order {track.last.seq} is confirmed by measured power on all {len(banks)} banks: "
            f"{measured_w / 1e6:.3f} MW, {slowest_ms / 1_000:.0f} s after it came."
        )
        data = {"order": track.last.seq, "slowest_ms": slowest_ms, "measured_w": measured_w}
        self._demo.say("confirmed", state.site, text, data)

    def _watch_obligation(self, state: SiteState) -> None:
        now_ms = self._demo.clock.wall_ms()
        metered_w = state.main_power_w()
        for obligation in self._demo.controller.signals.of(state.site, now_ms):
            open_now = obligation.starts_at_ms <= now_ms < obligation.ends_at_ms
            if obligation.id in self._met or not open_now or metered_w is None or metered_w > obligation.target_w:
                continue
            self._met.add(obligation.id)
            late_s = (now_ms - obligation.starts_at_ms) / 1_000
            text = (
                f"Obligation {obligation.id} is met by the meter: {metered_w / 1e6:.3f} MW, "
                f"due {obligation.target_w / 1e6:.3f} MW or less, {late_s:.0f} s after its start."
            )
            self._demo.say("obligation_met", state.site, text, {"obligation": obligation.id, "metered_w": metered_w})

    def _watch_devices(self, state: SiteState) -> None:
        """Tell when an agent loses devices, or has them back."""
        plate, report = state.nameplate, state.report
        if plate is None or report is None:
            return
        counts = {bank.id: bank.devices for bank in plate.banks if bank.workload is Workload.HASH}
        for bank in report.banks:
            silent, was = bank.devices.unreachable, self._silent.get((state.site, bank.id), 0)
            if silent == was or bank.id not in counts:
                continue
            self._silent[state.site, bank.id] = silent
            text = f"The agent hears from all {counts[bank.id]} devices of {bank.id} again."
            if silent:
                text = f"The agent cannot reach {silent} of {counts[bank.id]} devices of {bank.id}. It goes on with "
                text += "the others, and counts a silent one at the most it may draw."
            self._demo.say("devices", state.site, text, {"bank": bank.id, "unreachable": silent})

    def _picture(self) -> None:
        parts = []
        for state in self._demo.controller.fleet:
            metered_w = state.main_power_w()
            plate = state.nameplate
            if metered_w is not None and plate is not None:
                parts.append(f"{state.site} {metered_w / 1e6:.3f} of {plate.main.limit_w / 1e6:.3f} MW")
        profit = sum(book.account.profit_usd for book in self._demo.books.values())
        always_on = sum(book.account.profit_usd for _, book in self._demo.always_on.values())
        text = f"So far {profit:,.2f} USD, always-on would have made {always_on:,.2f}. Meters: {', '.join(parts)}."
        self._demo.say("picture", None, text, {"profit_usd": round(profit, 2), "always_on_usd": round(always_on, 2)})
