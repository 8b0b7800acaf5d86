"""The plant told in the contract's words: its nameplate, and the report that a perfect agent would send.

The oracle of invariant 11 decides on a snapshot built from these. A demo that configures its agents from the same
figures cannot drift apart from its plant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from contract.messages import (
    BankPlate,
    BankReading,
    DeviceCounts,
    Feeder,
    FeederReading,
    Job,
    JobState,
    Level,
    Mode,
    Nameplate,
    PartitionReading,
    Report,
    Source,
    Workload,
)
from sim.jobs import JobPhase, JobRun
from sim.partition import HpcPartition, PartitionPlan
from sim.plant.fleet import BOOTING, DEAD, RUNNING, SLEEPING, TRIPPED
from sim.plant.plan import BankPlan, HallPlan, SitePlan
from sim.plant.site import Plant
from sim.ports import AsicModel

LEVEL_SHARES: Final = (0.0, 1 / 3, 2 / 3, 1.0)
"""Where a bank's efficiency curve is sampled, from the model's least power to its rated power."""
_JOB_STATES: Final = {
    JobPhase.PENDING: JobState.PENDING,
    JobPhase.RUNNING: JobState.RUNNING,
    JobPhase.FROZEN: JobState.FROZEN,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a site's owner sets for its banks: not physics."""

    min_up_ms: int = 0
    min_down_ms: int = 0
    start_cost_usd_per_mw: float = 8.0
    ramp_up_w_per_s: int = 0
    fail_safe_w: dict[str, int] = field(default_factory=dict)
    """By bank; one not named falls to its idle power for hash, and keeps its jobs for HPC."""
    report_every_ms: int = 5_000
    fail_safe_after_ms: int = 0


def nameplate(plan: SitePlan, *, boot: str = "truth", rules: Rules | None = None) -> Nameplate:
    """The site as its nameplate states it."""
    rules = rules or Rules()
    halls = {hall.id: hall for hall in plan.halls}
    banks = [_hash_plate(bank, halls[bank.hall], plan, rules) for bank in plan.banks]
    banks += [_hpc_plate(part, halls[part.hall], plan, rules) for part in plan.partitions]
    return Nameplate(
        site=plan.id,
        boot=boot,
        feeders=tuple(
            Feeder(id=feeder.id, parent=feeder.parent, limit_w=int(feeder.limit_w), metered=True)
            for feeder in plan.feeders
        ),
        banks=tuple(banks),
        base_load_w=round(plan.base_load_w),
        report_every_ms=rules.report_every_ms,
        fail_safe_after_ms=rules.fail_safe_after_ms,
    )


def true_report(
    plant: Plant,
    *,
    boot: str = "truth",
    seq: int = 0,
    epoch: int = 0,
    setpoints_w: dict[str, int] | None = None,
    on_for_ms: dict[str, int] | None = None,
) -> Report:
    """Everything as it is at this moment, every age zero."""
    ambient = plant.ambient
    held = setpoints_w or {}
    spans = on_for_ms or {}
    banks = [_hash_reading(plant, bank, held.get(bank.id), spans.get(bank.id)) for bank in plant.plan.banks]
    banks += [_hpc_reading(plant, part, held.get(part), spans.get(part)) for part in plant.partitions]
    return Report(
        site=plant.plan.id,
        boot=boot,
        seq=seq,
        sent_at_ms=plant.time_ms,
        mode=Mode.AUTO,
        epoch=epoch,
        order_seq=None,
        lease_left_ms=None,
        feeders=tuple(
            FeederReading(id=feeder.id, power_w=round(plant.feeder_power_w(feeder.id)), age_ms=0)
            for feeder in plant.plan.feeders
        ),
        banks=tuple(banks),
        partitions=tuple(_partition_reading(part_id, part) for part_id, part in plant.partitions.items()),
        ambient_temp_mc=round(ambient.dry_bulb_c * 1_000),
        ambient_age_ms=0,
    )


def pue_milli(hall: HallPlan, feeder: str, plan: SitePlan) -> int:
    """Site watts per bank watt in thousandths, at the hall's design heat: fans, pumps, and line losses to the main."""
    cooling = (hall.fan_w * 0.73 + hall.pump_w) / (
        hall.design_heat_w / 1.1
    )  # the flow at rated heat is 0.9: cubed 0.73
    loss = 1.0
    by_id = {node.id: node for node in plan.feeders}
    node = by_id.get(feeder)
    while node is not None:
        loss *= 1.0 + node.loss_share
        node = by_id.get(node.parent) if node.parent is not None else None
    return round(1_000 * (1.0 + cooling) * loss)


def levels(model: AsicModel, devices: int) -> tuple[Level, ...]:
    """A bank's efficiency curve: all devices at the same power, from the least to the rated."""
    rated_j_per_th = model.rated_w / model.hashrate_ghs * 1_000.0
    points: dict[int, int] = {}
    for share in LEVEL_SHARES:
        power_w = round(model.min_power_w + share * (model.rated_w - model.min_power_w))
        j_per_th = rated_j_per_th * (1.0 - model.efficiency_slope * (1.0 - power_w / model.rated_w))
        points[power_w] = round(power_w / j_per_th * 1_000.0)
    return tuple(Level(power_w=power_w * devices, hashrate_ghs=ghs * devices) for power_w, ghs in points.items())


def _hash_plate(bank: BankPlan, hall: HallPlan, plan: SitePlan, rules: Rules) -> BankPlate:
    rated_w = bank.model.rated_w * bank.devices
    idle_w = bank.model.sleep_w * bank.devices
    return BankPlate(
        id=bank.id,
        feeder=bank.feeder,
        workload=Workload.HASH,
        model=bank.model.name,
        devices=bank.devices,
        rated_w=rated_w,
        idle_w=idle_w,
        levels=levels(bank.model, bank.devices),
        steps_w=bank.model.rated_w,
        min_up_ms=rules.min_up_ms,
        min_down_ms=rules.min_down_ms,
        start_delay_ms=round(bank.model.boot_s * 1_000),
        start_cost_usd=rules.start_cost_usd_per_mw * rated_w / 1e6,
        ramp_up_w_per_s=rules.ramp_up_w_per_s,
        pue_milli=pue_milli(hall, bank.feeder, plan),
        fail_safe_w=rules.fail_safe_w.get(bank.id, idle_w),
    )


def _hpc_plate(part: PartitionPlan, hall: HallPlan, plan: SitePlan, rules: Rules) -> BankPlate:
    rated_w = round(part.rated_w)
    return BankPlate(
        id=part.id,
        feeder=part.feeder,
        workload=Workload.HPC,
        model="HPC partition",
        devices=part.nodes,
        rated_w=rated_w,
        idle_w=round(part.nodes * part.idle_w),
        steps_w=0,
        pue_milli=pue_milli(hall, part.feeder, plan),
        fail_safe_w=rules.fail_safe_w.get(part.id, rated_w),
    )


def _hash_reading(plant: Plant, bank: BankPlan, setpoint_w: int | None, on_for_ms: int | None) -> BankReading:
    fleet = plant.fleet
    rows = plant.rows(bank.id)
    state = fleet.state[rows]
    counts = np.bincount(state, minlength=5)
    alive = (state != DEAD) & (state != TRIPPED)
    return BankReading(
        id=bank.id,
        power_w=round(plant.bank_power_w(bank.id)),
        age_ms=0,
        source=Source.METER,
        hashrate_ghs=round(plant.bank_hashrate_ghs(bank.id)),
        inlet_temp_mc=round(plant.hottest_inlet_c(bank.id) * 1_000),
        chip_temp_mc=round(plant.hottest_chip_c(bank.id) * 1_000),
        devices=DeviceCounts(
            running=int(counts[RUNNING]),
            starting=int(counts[BOOTING]),
            stopped=int(counts[SLEEPING]),
            tripped=int(counts[TRIPPED]),
            unreachable=int(counts[DEAD]),
        ),
        available_w=round(float(fleet.rated_w[rows][alive].sum())),
        setpoint_w=setpoint_w,
        on=bool(fleet.wanted[rows].any()),
        on_for_ms=on_for_ms,
    )


def _hpc_reading(plant: Plant, part: str, setpoint_w: int | None, on_for_ms: int | None) -> BankReading:
    partition = plant.partitions[part]
    return BankReading(
        id=part,
        power_w=round(plant.bank_power_w(part)),
        age_ms=0,
        source=Source.METER,
        devices=DeviceCounts(running=partition.nodes_up, unreachable=partition.plan.nodes - partition.nodes_up),
        available_w=round(partition.nodes_up * partition.plan.busy_w),
        setpoint_w=setpoint_w,
        on=partition.admitting or partition.nodes_busy > 0,
        on_for_ms=on_for_ms,
    )


def _partition_reading(part: str, partition: HpcPartition) -> PartitionReading:
    return PartitionReading(
        bank=part,
        nodes_up=partition.nodes_up,
        nodes_busy=partition.nodes_busy,
        admitting=partition.admitting,
        age_ms=0,
        jobs=tuple(_job(run, partition) for run in partition.jobs),
    )


def _job(run: JobRun, partition: HpcPartition) -> Job:
    spec = run.spec
    every_s = spec.checkpoint_every_s
    return Job(
        id=spec.id,
        state=_JOB_STATES[run.phase],
        nodes=spec.nodes,
        power_w=round(partition.above_idle_w(spec.id)),
        value_usd_per_node_h=spec.value_usd_per_node_h,
        firm=spec.firm,
        remaining_ms=round(max(spec.requested_s - run.done_s, 0.0) * 1_000),
        deadline_ms=spec.deadline_ms,
        checkpoint_every_ms=None if every_s is None else round(every_s * 1_000),
        restart_cost_usd=spec.restart_cost_usd,
        notice_ms=spec.notice_ms,
    )
