"""The guard's minimum up time: what a young bank is kept at, and against what. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent.guard_model import BankLimits, BankState, Facts, GuardPlan, GuardState
from contract.messages import Mode, Order
from contract.reasons import DecisionReason

ECONOMIC: Final = frozenset(
    {
        DecisionReason.PRICE_BELOW_BREAK_EVEN,
        DecisionReason.PRICE_ABOVE_BREAK_EVEN,
        DecisionReason.PLAN_AHEAD,
        DecisionReason.PRICE_STALE,
        DecisionReason.HOLD_DWELL,
        DecisionReason.HOLD_HYSTERESIS,
    }
)
"""Why a bank may be wanted lower and yet stay up for its minimum time: it wears, and nothing but money is at stake."""
NEAR_MILLI: Final = 980
"""A feeder that its meter shows at so many thousandths of its limit is full, whatever was planned."""


def kept_up_w(plan: GuardPlan, state: GuardState, facts: Facts, mode: Mode, now_ms: int) -> list[int | None]:
    """What each bank is kept at that the order would stop, and whose minimum up time is not over; None for any other.

    It stands above plain economics alone: an urgent order, a cap, an obligation and any other reason end it at once.
    An order stops a bank also by leaving too little for the one device that runs beside those that may: silent devices
    count at all they may draw. So the bank is kept at what its last device needs as they stand, above its present level
    if need be, and nothing more is started in it meanwhile.
    """
    order = state.order
    if mode is not Mode.AUTO or order is None or state.lease_until_ms is None:
        return [None] * len(plan.banks)
    asked_w = (
        {} if _needs_room(order) else {each.bank: each.target_w for each in order.setpoints if each.reason in ECONOMIC}
    )

    def kept_w(limits: BankLimits, bank: BankState, keeps_w: int) -> int | None:
        target_w = asked_w.get(limits.id)
        young = bank.on and now_ms - bank.since_ms < limits.min_up_ms
        if not young or target_w is None or target_w >= max(limits.least_run_w, keeps_w):
            return None
        return max(min(bank.level_w, limits.least_run_w), keeps_w)

    banks = zip(plan.banks, state.banks, facts.banks, strict=True)
    return [kept_w(limits, bank, seen.keeps_w or 0) for limits, bank, seen in banks]


def spared_w(
    plan: GuardPlan,
    state: GuardState,
    facts: Facts,
    mode: Mode,
    allowed_w: Sequence[int],
    fitted_w: Sequence[int],
    limits_w: Sequence[int],
) -> list[int]:
    """What banks are held at where all would fit, did not one of them stand above what it is held at.

    Who makes room for that one is not stopped for it within the minimum up time: the last device stays, as long as the
    meters of all feeders above show that the room is there. What is planned may never come: others are still starting,
    and the one that stands may yet fall. A cap, an obligation and an urgent order need the room at once.
    """
    order = state.order
    if mode is not Mode.AUTO or order is None or state.lease_until_ms is None or _needs_room(order):
        return list(fitted_w)

    def room(feeder: int) -> bool:
        power_w = facts.feeders[feeder].power_w
        return power_w is not None and power_w * 1_000 < limits_w[feeder] * NEAR_MILLI

    def held_w(bank: int) -> int:
        keeps_w = facts.banks[bank].keeps_w
        if keeps_w is None or not fitted_w[bank] < keeps_w <= allowed_w[bank]:
            return fitted_w[bank]
        return keeps_w if all(room(feeder) for feeder in plan.tree.above[bank]) else fitted_w[bank]

    return [held_w(bank) for bank in range(len(plan.banks))]


def _needs_room(order: Order) -> bool:
    """Whether a limit that somebody set, not money, stands behind an order: no bank is kept up under it."""
    return order.urgent or order.obligation is not None or order.cap_w is not None
