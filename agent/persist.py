"""Between what the agent holds in memory and what it keeps on disk: restored at the start, saved after changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.build import Machinery
from agent.drivers.base import Remembers
from agent.guard_model import BankLimits, BankState, FeederState, GuardPlan, GuardState, Trip
from agent.partition import HpcBank
from agent.state import AgentState, Loaded, Memory, SavedBank, SavedTrip


@dataclass(frozen=True, slots=True)
class Now:
    """One instant on both clocks."""

    wall_ms: int
    mono_ms: int


def restore_guard(plan: GuardPlan, loaded: Loaded, now: Now) -> GuardState:
    """The guard's state at the start of the agent.

    A first start takes the site as it is found. After a restart banks keep level, dwell and trips, and are held for
    what was left of the lease. Where the state is lost, each bank counts as just gone to its fail-safe.
    """
    saved = loaded.state
    first = saved is None and not loaded.corrupt
    elapsed_ms = 0 if saved is None else max(now.wall_ms - saved.saved_wall_ms, 0)
    left_ms = plan.handover_ms if first else 0 if saved is None else max(saved.lease_left_ms - elapsed_ms, 0)
    return GuardState(
        banks=tuple(
            _bank(limits, None if saved is None else saved.banks.get(limits.id), now, first=first)
            for limits in plan.banks
        ),
        feeders=(FeederState(),) * len(plan.tree.ids),
        epoch=0 if saved is None else saved.epoch,
        seq=None if saved is None else saved.seq,
        hold_until_ms=now.mono_ms + left_ms if left_ms else None,
    )


def restore_machinery(machinery: Machinery, loaded: Loaded) -> None:
    """Give drivers their memory back, and HPC banks what they froze."""
    memory = loaded.memory
    for device in machinery.devices:
        if isinstance(device.driver, Remembers) and device.label in memory:
            device.driver.memory = dict(memory[device.label])
        limit = memory.get(f"{device.label}#limit", {}).get("limit_w", "")
        device.limit_w = int(limit) if limit.isdigit() else None
    for bank in machinery.hpc_banks:
        saved = loaded.state.banks.get(bank.name) if loaded.state is not None else None
        if saved is not None:
            bank.claims.frozen = list(saved.frozen)
            bank.claims.admission_closed = saved.admission_closed
            if saved.memory:
                bank.memory = saved.memory


def state_to_save(
    plan: GuardPlan, state: GuardState, hpc_banks: Sequence[HpcBank], boot_ms: int, now: Now
) -> AgentState:
    """Everything that must outlive this incarnation, but for the miners' drivers' memory."""
    hpc = {bank.name: bank for bank in hpc_banks}

    def saved(limits: BankLimits, bank: BankState) -> SavedBank:
        own = hpc.get(limits.id)
        return SavedBank(
            level_w=bank.level_w,
            on=bank.on,
            since_wall_ms=now.wall_ms - (now.mono_ms - bank.since_ms),
            trips=tuple(SavedTrip(kind=trip.kind, detail=trip.detail) for trip in bank.trips),
            frozen=() if own is None else tuple(own.claims.frozen),
            admission_closed=own is not None and own.claims.admission_closed,
            memory={} if own is None else own.memory,
        )

    until_ms = state.lease_until_ms if state.lease_until_ms is not None else state.hold_until_ms
    return AgentState(
        boot_ms=boot_ms,
        epoch=state.epoch,
        seq=state.seq,
        saved_wall_ms=now.wall_ms,
        lease_left_ms=0 if until_ms is None else max(until_ms - now.mono_ms, 0),
        banks={limits.id: saved(limits, bank) for limits, bank in zip(plan.banks, state.banks, strict=True)},
    )


def memory_to_save(machinery: Machinery) -> Memory:
    """What miners' drivers remember, by device; empty memories are left out."""
    memory: Memory = {}
    for device in machinery.devices:
        if device.remembers and isinstance(device.driver, Remembers) and device.driver.memory:
            memory[device.label] = dict(device.driver.memory)
        if device.limit_w is not None:
            memory[f"{device.label}#limit"] = {"limit_w": str(device.limit_w)}
    return memory


def _bank(limits: BankLimits, saved: SavedBank | None, now: Now, *, first: bool) -> BankState:
    if saved is None:
        level_w = limits.rated_w if first else limits.fail_safe_w
        on = level_w >= limits.least_run_w
        return BankState(level_w=level_w, occupied_w=limits.rated_w, on=on, since_ms=now.mono_ms, sensor_ms=now.mono_ms)
    held_ms = max(now.wall_ms - saved.since_wall_ms, 0)
    return BankState(
        level_w=min(saved.level_w, limits.rated_w),
        occupied_w=limits.rated_w,
        on=saved.on,
        since_ms=now.mono_ms - held_ms,
        sensor_ms=now.mono_ms,
        trips=tuple(Trip(trip.kind, now.mono_ms, trip.detail) for trip in saved.trips),
    )
