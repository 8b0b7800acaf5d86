"""The guard: whether an order may act, and what each bank is held at. Pure: time, chance and facts are arguments.

`admit` judges an order once, on arrival. `step` is asked at every event and at every tick, and states the whole site's
setpoints as a level. Its rules stand below in their order, and a later rule only narrows what an earlier one left:

1. what is wanted: the order's targets, a bank that merely does not pay kept up for its minimum time; without a valid
   lease the fail-safe; in local control nothing
2. interlocks: too hot, breaker overload, sensor lost, locked out by a person on site: down to nothing
3. limits: planned watts within every feeder and within the order's cap, shed down the order's ladder; a bank that does
   not come down to what it is held at counts at what it draws, and what shares its feeders makes room; not by stopping
   within its minimum up time, while the meters show that there is room still
4. rises: not on silence or unknown data, not before the minimum down time, staggered, ramped, and only into room that
   the banks which are going down have been seen to give back. A fall is never delayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agent.guard_dwell import kept_up_w, spared_w
from agent.guard_model import (
    Admission,
    BankFacts,
    BankHold,
    BankLimits,
    BankState,
    Facts,
    FeederState,
    GuardPlan,
    GuardState,
    Verdict,
)
from agent.guard_trips import SHED_MARGIN_MILLI, interlocks_of, watch_banks, watch_feeders
from agent.limits import Rung, fit, room_w
from contract.messages import Mode, Order, Workload
from contract.reasons import DecisionReason, ReceiptReason

STOPPED_BY_OPS: Final = frozenset({DecisionReason.EMERGENCY_STOP, DecisionReason.LOCKOUT})
"""Nothing of a bank may run on under these, firm work included: somebody may stand in front of it."""
OCCUPIED_TOLERANCE_MILLI: Final = 1_150
"""A bank has fallen to its setpoint when it is seen within this; devices' own figures are off by as much."""


def admit(
    plan: GuardPlan, state: GuardState, order: Order, basis_sent_ms: int | None, now_ms: int
) -> tuple[GuardState, Admission]:
    """Judge an order. `basis_sent_ms` is when this agent sent the report it answers; None where it sent no such report.

    Checked in this order: site, basis, epoch, sequence, lease, local control. The highest epoch and sequence seen are
    remembered from the moment an order is known to be the newest, even where it is then refused.
    """
    if order.site != plan.site:
        return state, Admission(False, ReceiptReason.BASIS_UNKNOWN, f"for site {order.site}, this is {plan.site}")
    if basis_sent_ms is None:
        detail = f"report {order.based_on_seq} of boot {order.based_on_boot} is not one of this agent's recent ones"
        return state, Admission(False, ReceiptReason.BASIS_UNKNOWN, detail)
    if order.epoch < state.epoch:
        return state, Admission(False, ReceiptReason.EPOCH_OLD, f"epoch {order.epoch}, seen {state.epoch}")
    if order.epoch == state.epoch and state.seq is not None and order.seq <= state.seq:
        detail = f"seq {order.seq}, seen {state.seq}"
        return state, Admission(False, ReceiptReason.SEQ_OLD, detail, duplicate=order == state.order)
    state = replace(state, epoch=order.epoch, seq=order.seq)
    until_ms = basis_sent_ms + order.valid_for_ms
    if now_ms >= until_ms:
        late_ms = now_ms - until_ms
        return state, Admission(False, ReceiptReason.LEASE_EXPIRED, f"ran out {late_ms} ms before it arrived")
    if state.local:
        return state, Admission(False, ReceiptReason.LOCAL_MODE, "a person on site is in charge")
    if state.yielded:
        return state, Admission(False, ReceiptReason.LOCAL_MODE, "another agent speaks for this site")
    accepted = replace(state, order=order, arrived_ms=now_ms, lease_until_ms=until_ms, hold_until_ms=None)
    return accepted, Admission(True)


def step(
    plan: GuardPlan, state: GuardState, facts: Facts, now_ms: int, chances: Sequence[float]
) -> tuple[GuardState, Verdict]:
    """The site's setpoints now. `chances` in [0, 1) are one per bank, for staggered starts."""
    mode = mode_of(plan, state, now_ms)
    state = watch_banks(plan, state, facts, now_ms)
    state = watch_feeders(plan, state, facts, now_ms)
    kept_up = kept_up_w(plan, state, facts, mode, now_ms)
    wanted_w = _wanted(plan, state, mode, kept_up)
    allowed_w = [0 if bank.trips else want for bank, want in zip(state.banks, wanted_w, strict=True)]
    ladder = _rungs(plan, state.order)
    limits_w = _limits(plan, state)
    floors_w, standing_w = [bank.floor_w for bank in plan.banks], [bank.standing_w for bank in state.banks]
    fitted_w, cut_for = fit(plan.tree, allowed_w, floors_w, limits_w, ladder, standing_w)
    if fitted_w != allowed_w and fit(plan.tree, allowed_w, floors_w, limits_w, ladder)[0] == allowed_w:
        fitted_w = spared_w(plan, state, facts, mode, allowed_w, fitted_w, limits_w)
    shed_first = tuple(dict.fromkeys(rung.bank for rung in ladder))
    may_raise = _may_raise(plan, state, facts, mode, now_ms)
    climb = _Climb(plan, state, facts, limits_w, now_ms, may_raise=may_raise, kept_up=kept_up)
    for bank in reversed(shed_first):
        climb.settle(bank, fitted_w[bank], chances[bank])
    reasons = _reasons(plan, state, climb, cut_for, mode, kept_up)
    feeders = _lowered(plan, state, climb.lowered_w, now_ms)
    state = replace(state, banks=tuple(climb.states), feeders=feeders)
    return state, _verdict(plan, state, mode, wanted_w, climb, cut_for, reasons, shed_first, now_ms)


def mode_of(plan: GuardPlan, state: GuardState, now_ms: int) -> Mode:
    """Who is in charge. A lease that has run out leaves the order in force for `fail_safe_after_ms` more."""
    if state.local:
        return Mode.LOCAL
    if state.yielded:
        return Mode.SAFE
    if state.lease_until_ms is not None and now_ms < state.lease_until_ms + plan.fail_safe_after_ms:
        return Mode.AUTO
    if state.hold_until_ms is not None and now_ms < state.hold_until_ms:
        return Mode.AUTO
    return Mode.SAFE


def adopt(plan: GuardPlan, state: GuardState, facts: Facts, now_ms: int) -> GuardState:
    """Take the site as it is found, where what it was held at is not known: no bank counts as held above what runs.

    A bank of which nothing is known keeps its level: it is not stopped for being slow to answer, and not raised either.
    """

    def found(index: int) -> BankState:
        limits, bank, runs_w = plan.banks[index], state.banks[index], facts.banks[index].standing_w
        level_w = bank.level_w if runs_w is None else min(bank.level_w, runs_w)
        on = level_w >= limits.least_run_w
        since_ms = bank.since_ms if on == bank.on else now_ms
        return replace(bank, level_w=level_w, on=on, since_ms=since_ms, ramp_ms=None, start_ms=None)

    return replace(state, banks=tuple(found(index) for index in range(len(plan.banks))))


def set_local(plan: GuardPlan, state: GuardState, facts: Facts, now_ms: int, *, local: bool) -> GuardState:
    """Hand the site to a person on it, or take it back: then it is held as found until an order comes."""
    if local == state.local:
        return state
    if local:
        return replace(state, local=True, lease_until_ms=None, hold_until_ms=None)
    found = adopt(plan, state, facts, now_ms)
    return replace(found, local=False, hold_until_ms=now_ms + plan.handover_ms)


def _wanted(plan: GuardPlan, state: GuardState, mode: Mode, kept_up: Sequence[int | None]) -> list[int]:
    """What each bank is to draw before any local limit. On silence nothing rises: the fail-safe only lowers."""
    held = [bank.level_w for bank in state.banks]
    if mode is Mode.LOCAL:
        return held
    if mode is Mode.SAFE:
        return [min(limits.fail_safe_w, level) for limits, level in zip(plan.banks, held, strict=True)]
    if state.order is None or state.lease_until_ms is None:
        return held
    asked = {setpoint.bank: setpoint for setpoint in state.order.setpoints}
    wanted = []
    for limits, kept_w in zip(plan.banks, kept_up, strict=True):
        setpoint = asked.get(limits.id)
        fits = setpoint is not None and setpoint.workload in {limits.workload, Workload.IDLE}
        target_w = min(setpoint.target_w, limits.rated_w) if setpoint is not None and fits else 0
        wanted.append(target_w if kept_w is None else kept_w)
    return wanted


def _limits(plan: GuardPlan, state: GuardState) -> list[int]:
    """Each feeder's limit now: its breaker's, less what overloads have taught, and at the main the order's cap."""
    limits = list(plan.tree.limits_w)
    if state.order is not None and state.order.cap_w is not None:
        limits[plan.tree.root] = min(limits[plan.tree.root], state.order.cap_w)
    return [max(limit - feeder.derate_w, 0) for limit, feeder in zip(limits, state.feeders, strict=True)]


def _rungs(plan: GuardPlan, order: Order | None) -> tuple[Rung, ...]:
    """Down the order's ladder; then whatever it does not free, least efficient first; firm HPC work last of all."""
    place = {limits.id: index for index, limits in enumerate(plan.banks)}
    steps = [step for step in (order.shed_ladder if order is not None else ()) if step.bank in place]
    own = sorted(range(len(plan.banks)), key=lambda index: -plan.banks[index].j_per_th)
    hash_rungs = tuple(Rung(index) for index in own if plan.banks[index].workload is Workload.HASH)
    hpc_rungs = tuple(Rung(index, firm=True) for index in own if plan.banks[index].workload is Workload.HPC)
    soft = tuple(Rung(place[step.bank], step.frees_w if step.job else None) for step in steps if not step.firm)
    firm = tuple(Rung(place[step.bank], step.frees_w if step.job else None, firm=True) for step in steps if step.firm)
    return soft + hash_rungs + firm + hpc_rungs


def _may_raise(plan: GuardPlan, state: GuardState, facts: Facts, mode: Mode, now_ms: int) -> list[bool]:
    """Whether a bank may rise: under a valid lease, its sensor known, and the meters of its feeders fresh."""
    leased = mode is Mode.AUTO and state.lease_until_ms is not None and now_ms < state.lease_until_ms
    blind = {
        feeder
        for feeder, metered in enumerate(plan.tree.metered)
        if metered and facts.feeders[feeder].power_w is None and plan.on_meter_lost == "hold"
    }

    def may(bank: int) -> bool:
        if not leased or state.banks[bank].trips or not blind.isdisjoint(plan.tree.above[bank]):
            return False
        limits = plan.banks[bank]
        return not (limits.inlet_sensor and limits.max_inlet_mc is not None and facts.banks[bank].inlet_mc is None)

    return [may(bank) for bank in range(len(plan.banks))]


class _Climb:
    """Settles each bank's new level in turn, and keeps count of what the feeders carry meanwhile."""

    def __init__(
        self,
        plan: GuardPlan,
        state: GuardState,
        facts: Facts,
        limits_w: list[int],
        now_ms: int,
        *,
        may_raise: list[bool],
        kept_up: Sequence[int | None],
    ) -> None:
        self._plan, self._facts, self._limits_w, self._now_ms = plan, facts, limits_w, now_ms
        self._kept_up = kept_up
        self.states = list(state.banks)
        self.may_raise = may_raise
        self.held_back: list[ReceiptReason | None] = [None] * len(self.states)
        self.lowered_w = [0] * len(self.states)
        self._occupied = [
            max(_occupied(bank, limits.floor_w, seen.upper_w), bank.standing_w)
            for bank, limits, seen in zip(state.banks, plan.banks, facts.banks, strict=True)
        ]
        self._loads_w = [plan.tree.load_w(feeder, self._occupied) for feeder in range(len(plan.tree.ids))]

    def settle(self, bank: int, target_w: int, chance: float) -> None:
        """Move one bank towards its target: down at once, up as far as it may."""
        limits = self._plan.banks[bank]
        state = self.states[bank] = _as_seen(self.states[bank], limits, self._facts.banks[bank], self._now_ms)
        if self._rests(bank):
            self.may_raise[bank] = False
            self.held_back[bank] = ReceiptReason.DWELL
        kept_w = self._kept_up[bank]
        if kept_w is not None and kept_w > limits.least_run_w:
            self.may_raise[bank] = False  # there is room only for what stands
        level_w, ramp_ms, start_ms = state.level_w, None, None
        if target_w < level_w:
            self.lowered_w[bank] = level_w - target_w
            level_w = target_w
        elif target_w > level_w and kept_w is not None:
            level_w = self._within_room(bank, target_w)
        elif target_w > level_w:
            level_w, ramp_ms, start_ms = self._rise(bank, target_w, chance)
        ran = state.level_w >= limits.least_run_w
        on = level_w >= limits.least_run_w and (state.on or not ran)
        occupied_w = max(self._occupied[bank], level_w)
        self._take(bank, occupied_w)
        self.states[bank] = replace(
            state,
            level_w=level_w,
            occupied_w=occupied_w,
            on=on,
            since_ms=state.since_ms if on == state.on else self._now_ms,
            ramp_ms=ramp_ms,
            start_ms=None if on else start_ms,
        )

    def _rests(self, bank: int) -> bool:
        """Whether it is held at a level at which it would run, and yet has to stay down a while: the last of its
        devices was stopped for want of room, and none may come back before its time."""
        state, limits = self.states[bank], self._plan.banks[bank]
        resting = not state.on and self._now_ms - state.since_ms < limits.min_down_ms
        return resting and state.level_w >= limits.least_run_w

    def _rise(self, bank: int, target_w: int, chance: float) -> tuple[int, int | None, int | None]:
        """How far a bank may rise now: its level, up to when its ramp has been granted, when its start is due."""
        state, limits, now_ms = self.states[bank], self._plan.banks[bank], self._now_ms
        if not self.may_raise[bank]:
            self.held_back[bank] = self.held_back[bank] or ReceiptReason.POWER_UNKNOWN
            return state.level_w, None, None
        start_ms = state.start_ms
        if not state.on and target_w >= limits.least_run_w:
            if now_ms - state.since_ms < limits.min_down_ms:
                self.held_back[bank] = ReceiptReason.DWELL
                return state.level_w, None, None
            start_ms = now_ms + int(chance * self._plan.stagger_ms) if start_ms is None else start_ms
            if now_ms < start_ms:
                self.held_back[bank] = ReceiptReason.RAMPING
                return state.level_w, None, start_ms
        granted_w, ramp_ms = _ramped(state, limits.floor_w, limits.ramp_up_w_per_s, target_w, now_ms)
        level_w = self._within_room(bank, granted_w)
        if level_w < target_w:
            self.held_back[bank] = ReceiptReason.RAMPING if level_w >= granted_w else ReceiptReason.FEEDER_LIMIT
        return level_w, ramp_ms, start_ms

    def _within_room(self, bank: int, target_w: int) -> int:
        """How far towards `target_w` a bank's feeders leave room."""
        room = self._occupied[bank] + max(room_w(self._plan.tree, bank, self._loads_w, self._limits_w), 0)
        return max(min(target_w, room), self.states[bank].level_w)

    def _take(self, bank: int, occupied_w: int) -> None:
        tree = self._plan.tree
        for feeder in tree.above[bank]:
            self._loads_w[feeder] += tree.seen_w(feeder, bank, occupied_w) - tree.seen_w(
                feeder, bank, self._occupied[bank]
            )
        self._occupied[bank] = occupied_w


def _as_seen(bank: BankState, limits: BankLimits, seen: BankFacts, now_ms: int) -> BankState:
    """A bank is on where something of it is to run, whatever its level: it may have no room for a single device, and
    get it later. It is off since its last device was seen to stop: one that came back late counts."""
    if bank.level_w >= limits.least_run_w and seen.runs is not None:
        if seen.turned_ms is not None and seen.turned_ms > bank.since_ms:
            return replace(bank, on=seen.runs, since_ms=seen.turned_ms)
        if seen.runs and not bank.on and now_ms - bank.since_ms >= limits.min_down_ms:
            return replace(bank, on=True, since_ms=now_ms)  # found running by an agent that was restarted
    if bank.on or seen.fell_ms is None or seen.fell_ms <= bank.since_ms:
        return bank
    return replace(bank, since_ms=seen.fell_ms)


def _lowered(plan: GuardPlan, state: GuardState, lowered_w: Sequence[int], now_ms: int) -> tuple[FeederState, ...]:
    """Note at which feeders so much was lowered that their meters must be given the time to show it. A few watts less,
    told again and again, must not keep an overload from being looked at."""

    def noted(feeder: int, memory: FeederState) -> FeederState:
        less_w = sum(lowered_w[bank] for bank in plan.tree.banks_under[feeder])
        shows = less_w and less_w * 1_000 >= plan.tree.limits_w[feeder] * SHED_MARGIN_MILLI
        return replace(memory, lowered_ms=now_ms) if shows else memory

    if not any(lowered_w):
        return state.feeders
    return tuple(noted(feeder, memory) for feeder, memory in enumerate(state.feeders))


def _occupied(bank: BankState, floor_w: int, upper_w: int | None) -> int:
    """What a bank still takes of its feeders: its level, or more while it is seen, or must be thought, to draw more."""
    least_w = max(bank.level_w, floor_w)
    if upper_w is None or bank.occupied_w <= least_w:
        return max(bank.occupied_w, least_w)
    if upper_w * 1_000 <= least_w * OCCUPIED_TOLERANCE_MILLI:
        return least_w
    return max(least_w, min(bank.occupied_w, upper_w))


def _ramped(state: BankState, floor_w: int, ramp_w_per_s: int, target_w: int, now_ms: int) -> tuple[int, int | None]:
    """The level a ramp allows now, and up to when that grants it; whole watts, nothing lost to rounding."""
    if not ramp_w_per_s:
        return target_w, None
    base_w = max(state.level_w, min(floor_w, target_w))
    if state.ramp_ms is None:
        return base_w, now_ms
    step_w = ramp_w_per_s * (now_ms - state.ramp_ms) // 1_000
    return min(base_w + step_w, target_w), state.ramp_ms + step_w * 1_000 // ramp_w_per_s


def _reasons(
    plan: GuardPlan,
    state: GuardState,
    climb: _Climb,
    cut_for: Sequence[int | None],
    mode: Mode,
    kept_up: Sequence[int | None],
) -> list[ReceiptReason | None]:
    """What keeps each bank from what is asked: the first rule that did."""

    def reason(bank: int) -> ReceiptReason | None:
        if state.banks[bank].trips:
            return ReceiptReason.INTERLOCK
        if mode is Mode.LOCAL:
            return ReceiptReason.LOCAL_MODE
        if cut_for[bank] is not None:
            return ReceiptReason.CLAMPED if _by_cap(plan, state, cut_for[bank]) else ReceiptReason.FEEDER_LIMIT
        return climb.held_back[bank] if kept_up[bank] is None else ReceiptReason.DWELL

    return [reason(bank) for bank in range(len(plan.banks))]


def _by_cap(plan: GuardPlan, state: GuardState, feeder: int | None) -> bool:
    """Whether it is the order's cap, not a breaker, that binds at a feeder."""
    cap_w = None if state.order is None else state.order.cap_w
    return feeder == plan.tree.root and cap_w is not None and cap_w < plan.tree.limits_w[plan.tree.root]


def _verdict(
    plan: GuardPlan,
    state: GuardState,
    mode: Mode,
    wanted_w: Sequence[int],
    climb: _Climb,
    cut_for: Sequence[int | None],
    reasons: Sequence[ReceiptReason | None],
    shed_first: tuple[int, ...],
    now_ms: int,
) -> Verdict:
    order = state.order if mode is Mode.AUTO and state.lease_until_ms is not None else None
    marked = _firm_marked(order)

    def by_breaker(bank: int) -> bool:
        return cut_for[bank] is not None and not _by_cap(plan, state, cut_for[bank])

    def hold(bank: int) -> BankHold:
        memory, limits = state.banks[bank], plan.banks[bank]
        hands_off = mode is Mode.LOCAL and not memory.trips
        # A setpoint too low for one device beside all others may hold one where a meter proves silent ones to draw
        # nothing; a bank that counts as off starts it no more than any other.
        off = limits.workload is Workload.HASH and not memory.on and memory.level_w < limits.least_run_w
        return BankHold(
            setpoint_w=None if hands_off else memory.level_w,
            wanted_w=wanted_w[bank],
            may_raise=climb.may_raise[bank] and not off,
            firm_too=bool(memory.trips) or by_breaker(bank) or limits.id in marked,
            on=memory.on,
            since_ms=memory.since_ms,
            why=reasons[bank],
            interlocks=interlocks_of(memory),
        )

    return Verdict(
        mode=mode,
        order=order,
        lease_left_ms=None if state.lease_until_ms is None else max(state.lease_until_ms - now_ms, 0),
        banks=tuple(hold(bank) for bank in range(len(plan.banks))),
        shed_first=shed_first,
    )


def _firm_marked(order: Order | None) -> frozenset[str]:
    """Banks whose firm jobs may be cut: those that ops have stopped or locked out, for as long as they have; and for an
    obligation or in an emergency those whose firm jobs the order puts on the ladder."""
    if order is None:
        return frozenset()
    stopped = frozenset(setpoint.bank for setpoint in order.setpoints if setpoint.reason in STOPPED_BY_OPS)
    if not (order.urgent or order.obligation is not None):
        return stopped
    return stopped | frozenset(step.bank for step in order.shed_ladder if step.firm)


def planned_w(plan: GuardPlan, verdict: Verdict, feeder: int) -> int:
    """What a feeder carries when every bank is at its setpoint; what the checkers compare with its limit."""
    draws = [max(hold.setpoint_w or 0, limits.floor_w) for hold, limits in zip(verdict.banks, plan.banks, strict=True)]
    return plan.tree.load_w(feeder, draws)


def allowed_w(plan: GuardPlan, state: GuardState) -> tuple[int, ...]:
    """Each feeder's limit as the guard now applies it."""
    return tuple(_limits(plan, state))
