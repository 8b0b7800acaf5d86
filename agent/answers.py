"""Receipts to the controller: one at once for every order, and another whenever a bank's part of it changes state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.bank import Survey
from agent.config import Timing, Tolerance
from agent.guard_model import Admission, BankHold, BankLimits, Verdict
from agent.measure import BankMeasure
from agent.receipts import BankTrack, Progress, advance, begin, receipt_of
from contract.messages import MAX_BANKS, BankReceipt, Order, Receipt, ReceiptState, Source, Workload
from contract.reasons import ReceiptReason


@dataclass(frozen=True, slots=True)
class Bands:
    """How near measured power must be, and within what time."""

    tolerance: Tolerance
    timing: Timing

    def tolerance_w(self, limits: BankLimits, setpoint_w: int, source: Source) -> int:
        """The tolerance around a setpoint: by the source's own, never tighter than a share of the rated power."""
        share = self.tolerance.meter_milli if source is Source.METER else self.tolerance.devices_milli
        return max(setpoint_w * share, limits.rated_w * self.tolerance.rated_milli) // 1_000

    def progress(self, limits: BankLimits, hold: BankHold, seen: BankMeasure, *, any_sent: bool) -> Progress:
        """One bank's present standing against its setpoint."""
        survey, power = seen.survey, seen.power
        obeyed_w = hold.setpoint_w or 0
        top_w = max(obeyed_w, limits.floor_w)
        slack_w = self.tolerance_w(limits, top_w, power.source)
        low_w = 0 if limits.workload is Workload.HPC else max(min(survey.planned_w, top_w) - slack_w, 0)
        measured = power.source is not Source.MODEL
        upper_w = power.upper_w
        if upper_w is not None and power.source is Source.DEVICES:
            upper_w -= survey.unread_w - seen.counted_unread_w
        return Progress(
            obeyed_w=obeyed_w,
            why=hold.why,
            low_w=low_w,
            high_w=top_w + slack_w,
            power_w=power.power_w if measured else None,
            upper_w=upper_w if measured else None,
            read_ms=power.read_ms if measured else None,
            source=power.source,
            devices_in_band=self._devices_claim(limits, survey, top_w, low_w),
            tally=survey.tally,
            any_sent=any_sent,
        )

    def within_ms(self, start_delay_ms: int, ramp_up_w_per_s: int, rise_w: int) -> int:
        """What power is given to follow a setpoint: down, the settling time; up, the start and the ramp besides."""
        if rise_w <= 0:
            return self.timing.settle_ms
        ramp_ms = rise_w * 1_000 // ramp_up_w_per_s if ramp_up_w_per_s else 0
        return self.timing.settle_ms + start_delay_ms + ramp_ms

    def _devices_claim(self, limits: BankLimits, survey: Survey, top_w: int, low_w: int) -> bool:
        if survey.power_w is None or survey.source is not Source.DEVICES:
            return False
        return low_w <= survey.power_w <= top_w + self.tolerance_w(limits, top_w, Source.DEVICES)


class ReceiptBook:
    """The order in force and how far each bank has come with it."""

    def __init__(
        self, site: str, boot: str, limits: Sequence[BankLimits], start_delays_ms: Sequence[int], bands: Bands
    ) -> None:
        self._site, self._boot = site, boot
        self._limits = limits
        self._start_delays_ms = start_delays_ms
        self.bands = bands
        self._tracks: dict[str, BankTrack] = {}
        self._unknown: tuple[BankReceipt, ...] = ()
        self._order: Order | None = None
        self._arrived_ms = 0
        self._seq = 0
        self.first_action_ms: int | None = None
        """From the order's arrival to its first command."""

    @property
    def states(self) -> Mapping[str, ReceiptState]:
        """Where each bank stands with the order in force."""
        return {name: track.state for name, track in self._tracks.items()}

    @property
    def waiting(self) -> bool:
        """Whether a bank's part of the order is not yet proven."""
        return any(track.state is not ReceiptState.CONFIRMED for track in self._tracks.values())

    def refuse(self, order: Order, admission: Admission) -> Receipt:
        """The answer to an order that does not act."""
        return self._receipt(order, accepted=False, reason=admission.reason, detail=admission.detail)

    def begin(self, order: Order, verdict: Verdict, now_ms: int) -> None:
        """Open the book on an accepted order. Every bank is answered for, those it does not name included."""
        asked = {setpoint.bank: setpoint.target_w for setpoint in order.setpoints}
        obeyed = {limits.id: hold.setpoint_w or 0 for limits, hold in zip(self._limits, verdict.banks, strict=True)}
        targets = [(limits.id, asked.get(limits.id, 0)) for limits in self._limits]
        self._tracks = begin(targets, self._tracks, obeyed, now_ms)
        self._unknown = tuple(_stranger(bank, target_w) for bank, target_w in asked.items() if bank not in obeyed)
        self._order, self._arrived_ms, self.first_action_ms = order, now_ms, None

    def close(self) -> None:
        """No order is obeyed any more."""
        self._tracks, self._order, self._unknown = {}, None, ()

    def look(
        self, verdict: Verdict, banks: Sequence[BankMeasure], first_commands_ms: Sequence[int | None], now_ms: int
    ) -> Receipt | None:
        """Compare with what is measured; a receipt where a bank's state or reason changed."""
        if self._order is None:
            return None
        sent = [first_ms for first_ms in first_commands_ms if first_ms is not None]
        news = bool(sent) and self.first_action_ms is None
        if news:
            self.first_action_ms = max(min(sent) - self._arrived_ms, 0)
        for place, limits in enumerate(self._limits):
            track, hold = self._tracks[limits.id], verdict.banks[place]
            any_sent = first_commands_ms[place] is not None
            progress = self.bands.progress(limits, hold, banks[place], any_sent=any_sent)
            rise_w = progress.obeyed_w - (banks[place].power.power_w or 0)
            after = advance(
                track,
                progress,
                now_ms,
                arrived_ms=self._arrived_ms,
                within_ms=self.bands.within_ms(self._start_delays_ms[place], limits.ramp_up_w_per_s, rise_w),
                drift_after_ms=self.bands.timing.drift_after_ms,
            )
            news = news or (after.state, after.reason) != (track.state, track.reason)
            self._tracks[limits.id] = after
        return self.now() if news else None

    def now(self) -> Receipt | None:
        """The receipt as things stand."""
        return None if self._order is None else self._receipt(self._order, accepted=True)

    def _receipt(
        self, order: Order, *, accepted: bool, reason: ReceiptReason | None = None, detail: str = ""
    ) -> Receipt:
        self._seq += 1
        banks = tuple(receipt_of(track, self._arrived_ms) for track in self._tracks.values()) + self._unknown
        return Receipt(
            site=self._site,
            boot=self._boot,
            epoch=order.epoch,
            order_seq=order.seq,
            seq=self._seq,
            accepted=accepted,
            reason=reason,
            detail=detail[:400],
            first_action_ms=self.first_action_ms if accepted else None,
            banks=banks[:MAX_BANKS] if accepted else (),
        )


def _stranger(bank: str, target_w: int) -> BankReceipt:
    """A bank that the order names and this site does not have."""
    return BankReceipt(
        bank=bank,
        state=ReceiptState.REFUSED,
        reason=ReceiptReason.BANK_UNKNOWN,
        target_w=target_w,
        obeyed_w=0,
    )
