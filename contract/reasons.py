"""Stable reason codes. Dashboards, alerts and tests match on these; a released code is never renamed or reused."""

from __future__ import annotations

from enum import StrEnum


class DecisionReason(StrEnum):
    """Why the controller gave a bank its setpoint."""

    INTERLOCK = "interlock"
    """The agent reports a local trip; nothing remote may undo it."""
    EMERGENCY_STOP = "emergency_stop"
    OBLIGATION = "obligation"
    """Shed to meet a curtailment that is due."""
    LOCKOUT = "lockout"
    CAP = "cap"
    """Shed to fit a site, feeder or cooling limit."""
    OVERRIDE = "override"
    PRICE_BELOW_BREAK_EVEN = "price_below_break_even"
    """Runs: it earns more than its energy costs."""
    PRICE_ABOVE_BREAK_EVEN = "price_above_break_even"
    """Stands down: its energy costs more than it earns."""
    JOBS_RUN = "jobs_run"
    """Runs HPC jobs that are worth more than their energy, or are firm."""
    NO_WORK = "no_work"
    """An HPC partition without jobs."""
    HOLD_DWELL = "hold_dwell"
    """Stays as it is until its minimum up or down time is over."""
    HOLD_HYSTERESIS = "hold_hysteresis"
    """Stays as it is: a change would not earn back its start cost."""
    PLAN_AHEAD = "plan_ahead"
    """Runs, stands down or waits against the price of now, for what is to come: a restart, a deadline, a dear hour."""
    DATA_STALE = "data_stale"
    """Held or lowered because what it would be raised on is too old or unknown."""
    PRICE_STALE = "price_stale"
    """No price fresh enough: the configured stance for unknown prices applies."""
    LOCAL_MODE = "local_mode"
    """The site is in local control; the order only states what it draws."""
    RAMP = "ramp"
    """On its way up, held back by the ramp limit."""
    RESTART_STAGGER = "restart_stagger"
    UNAVAILABLE = "unavailable"
    """Nothing of it can run: no device answers, or all are tripped."""


class ReceiptReason(StrEnum):
    """Why a bank's part of an order stands where it stands."""

    IN_BAND = "in_band"
    """Measured power is within tolerance of the setpoint."""
    RAMPING = "ramping"
    COMMANDED = "commanded"
    SUPERSEDED = "superseded"
    METER_DISAGREES = "meter_disagrees"
    """Devices claim the setpoint, the meter says otherwise."""
    POWER_ABOVE_SETPOINT = "power_above_setpoint"
    POWER_BELOW_SETPOINT = "power_below_setpoint"
    POWER_UNKNOWN = "power_unknown"
    DEVICES_REFUSED = "devices_refused"
    DEVICES_UNREACHABLE = "devices_unreachable"
    UNSUPPORTED = "unsupported"
    LEASE_EXPIRED = "lease_expired"
    EPOCH_OLD = "epoch_old"
    SEQ_OLD = "seq_old"
    BASIS_UNKNOWN = "basis_unknown"
    """The order answers a report that this agent did not send or no longer remembers."""
    BANK_UNKNOWN = "bank_unknown"
    INTERLOCK = "interlock"
    FEEDER_LIMIT = "feeder_limit"
    LOCAL_MODE = "local_mode"
    DWELL = "dwell"
    CLAMPED = "clamped"
    """The guard obeyed a lower setpoint than ordered, to keep a local limit."""


class InterlockKind(StrEnum):
    """A local trip that nothing remote may undo."""

    OVER_TEMPERATURE = "over_temperature"
    FEEDER_OVERLOAD = "feeder_overload"
    SENSOR_LOST = "sensor_lost"
    OPERATOR = "operator"
