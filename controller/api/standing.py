"""How overrides stand: their state, what became of them on the banks, and which gives way to which. Pure reading."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from contract.messages import Mode, ReceiptState
from contract.reasons import ReceiptReason
from controller.api.override_schemas import (
    ClaimOut,
    ConflictOut,
    EffectiveBankOut,
    EffectiveOut,
    EffectOut,
    OverrideOut,
    TargetOut,
)
from controller.app import Controller
from controller.engine.model import OverrideKind
from controller.overrides import OverrideAsk
from controller.overrides_effective import Resolution, Stands, resolve
from controller.overrides_model import Imposed, OverrideState
from controller.state import SiteState

_FAILED: Final = frozenset({ReceiptState.PARTIAL, ReceiptState.DRIFTED, ReceiptState.REFUSED, ReceiptState.UNREACHABLE})
_MILLI: Final = 1_000


class Standing:
    """The overrides of one site at one moment."""

    def __init__(self, controller: Controller, site: str, *, drafted: Imposed | None = None) -> None:
        """`drafted` is looked at as if it stood and were in force."""
        self._controller = controller
        self._site = site
        self._now_ms = controller.clock.wall_ms()
        self._state = controller.fleet.get(site)
        found = controller.overrides.standing(site, self._now_ms)
        if drafted is not None:
            found.append(drafted)
        plate = self._state.nameplate if self._state is not None else None
        self.resolution = resolve(plate, found) if plate is not None else Resolution({}, {})

    def out(self, override: Imposed) -> OverrideOut:
        state, superseded_by = self.state(override)
        return OverrideOut(
            id=override.id,
            version=override.version,
            kind=override.kind,
            target=target_out(override),
            value_w=override.value_w,
            starts_at=_moment(override.starts_at_ms),
            ends_at=_maybe(override.ends_at_ms),
            reason=override.reason,
            ticket=override.ticket,
            created_by=override.created_by,
            created_at=_moment(override.created_at_ms),
            state=state,
            superseded_by=superseded_by,
            effect=self._effect(override, state),
            note="" if state in (OverrideState.EXPIRED, OverrideState.REVOKED) else note(self._site, self._state),
            changed_at=_maybe(override.changed_at_ms),
            changed_by=override.changed_by,
            change_reason=override.change_reason,
            revoked_at=_maybe(override.revoked_at_ms),
            revoked_by=override.revoked_by,
            revoke_reason=override.revoke_reason,
        )

    def state(self, override: Imposed) -> tuple[OverrideState, str | None]:
        """Where it stands, and where it is superseded, by which."""
        if override.revoked_at_ms is not None:
            return OverrideState.REVOKED, None
        if override.is_over(self._now_ms):
            return OverrideState.EXPIRED, None
        if override.starts_at_ms > self._now_ms:
            return OverrideState.SCHEDULED, None
        lost = self.resolution.superseded.get(override.id)
        return (OverrideState.ACTIVE, None) if lost is None else (OverrideState.SUPERSEDED, lost.by)

    def conflicts(self, key: str) -> list[ConflictOut]:
        found: list[ConflictOut] = []
        for claim in self.resolution.conflicts(key):
            other = claim.override
            if other.id == key and claim.by is not None:
                other = self._controller.overrides.get(claim.by) or other
            found.append(
                ConflictOut(
                    override=other.id, kind=other.kind, stands=claim.stands, gives_way=claim.override.id, why=claim.why
                )
            )
        return found

    def effective(self) -> EffectiveOut | None:
        """None where there is no such site."""
        state = self._state
        if state is None:
            return None
        plate = state.nameplate
        decided = {each.bank: each for each in state.decided.decision.banks} if state.decided else {}
        readings = {each.id: each for each in state.report.banks} if state.report else {}
        banks: list[EffectiveBankOut] = []
        for bank in plate.banks if plate is not None else ():
            given, reading = decided.get(bank.id), readings.get(bank.id)
            banks.append(
                EffectiveBankOut(
                    bank=bank.id,
                    feeder=bank.feeder,
                    workload=bank.workload,
                    target_w=given.target_w if given else None,
                    reason=given.reason if given else None,
                    cause=given.cause if given else "",
                    interlocks=[trip.kind for trip in reading.interlocks] if reading else [],
                    claims=[
                        ClaimOut(
                            override=claim.override.id,
                            kind=claim.override.kind,
                            stands=claim.stands,
                            by=claim.by,
                            why=claim.why,
                            reason=claim.override.reason,
                            created_by=claim.override.created_by,
                        )
                        for claim in self.resolution.banks.get(bank.id, ())
                    ],
                )
            )
        return EffectiveOut(
            site=self._site,
            at_ms=self._now_ms,
            local=is_local(state),
            note=note(self._site, state),
            obligations=[each.id for each in self._controller.signals.of(self._site, self._now_ms)],
            sentence=state.decided.decision.sentence if state.decided else "",
            banks=banks,
            superseded=sorted(self.resolution.superseded),
        )

    def _effect(self, override: Imposed, standing: OverrideState) -> EffectOut:
        """A bank counts as confirmed where its newest receipt says that measured power meets the target it has now."""
        state = self._state
        if state is None or state.nameplate is None:
            return EffectOut(targets=0, confirmed=0, failed=0, failing={})
        covered = override.covers(state.nameplate)
        confirmed, failing = 0, dict[str, str]()
        if standing is OverrideState.ACTIVE:
            wanted = {each.bank: each.target_w for each in state.decided.decision.banks} if state.decided else {}
            refused = _refusal(state)
            for bank in covered:
                claims = self.resolution.banks.get(bank, ())
                if all(c.override.id != override.id or c.stands is Stands.OVERRULED for c in claims):
                    continue
                receipt = state.orders.banks.get(bank)
                answers = receipt is not None and receipt.target_w == wanted.get(bank)
                if refused:
                    failing[bank] = refused
                elif receipt is None or not answers:
                    continue
                elif receipt.state in _FAILED:
                    failing[bank] = _answer(receipt.state, receipt.reason)
                elif receipt.state is ReceiptState.CONFIRMED:
                    confirmed += 1
        return EffectOut(targets=len(covered), confirmed=confirmed, failed=len(failing), failing=failing)


def all_out(controller: Controller, site: str, overrides: Iterable[Imposed]) -> list[OverrideOut]:
    """Overrides of one site, which is resolved once."""
    standing = Standing(controller, site)
    return [standing.out(each) for each in overrides]


def target_out(what: Imposed | OverrideAsk) -> TargetOut:
    return TargetOut(site=what.site, feeder=what.feeder, bank=what.bank, workload=what.workload)


def is_local(state: SiteState) -> bool:
    return state.report is not None and state.report.mode is Mode.LOCAL


def _refusal(state: SiteState) -> str | None:
    """Why the site carries out no order at all, if so."""
    if is_local(state):
        return "refused: local control"
    refused = state.orders.refused
    return None if refused is None else _answer(ReceiptState.REFUSED, refused.reason)


def _answer(state: ReceiptState, reason: ReceiptReason | None) -> str:
    return state.value if reason is None else f"{state.value}: {reason.value}".replace("_", " ")


def note(site: str, state: SiteState | None) -> str:
    """What keeps anything ordered of a site from being done."""
    if state is None or state.nameplate is None:
        return f"{site} has sent no nameplate: nothing can be ordered yet"
    if is_local(state):
        return f"{site} is in local control: a person on site is in charge, and orders are refused"
    if not state.online:
        return f"{site} is offline: it acts by its last order, then by its fail-safe"
    if state.fenced:
        return f"{site} obeys another controller"
    if state.orders.refused is not None:
        refused = state.orders.refused
        return f"{site} refused the order: {refused.reason or 'unstated'}: {refused.detail}"
    return ""


def least_w(state: SiteState, ask: OverrideAsk) -> int:
    """What the target of a cap draws whatever is ordered: base load and idle power, which no setpoint reaches."""
    plate = state.nameplate
    if plate is None or ask.kind is not OverrideKind.CAP:
        return 0
    probe = Imposed(
        id="probe",
        kind=ask.kind,
        site=ask.site,
        feeder=ask.feeder,
        bank=ask.bank,
        workload=ask.workload,
        starts_at_ms=0,
        ends_at_ms=None,
        reason="",
        created_at_ms=0,
    )
    covered = set(probe.covers(plate))
    at_main = ask.bank is None and ask.workload is None and ask.feeder in (None, plate.main.id)
    idle_mw = sum(bank.idle_w * (bank.pue_milli if at_main else _MILLI) for bank in plate.banks if bank.id in covered)
    return -(-idle_mw // _MILLI) + (plate.base_load_w if at_main else 0)


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / _MILLI, UTC)


def _maybe(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else _moment(at_ms)
