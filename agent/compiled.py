"""The configuration compiled into what the rest works with: the nameplate to publish and the plan to guard."""

from __future__ import annotations

from agent.config import AgentConfig, HashBankSettings, HpcBankSettings
from agent.config_rules import fail_safe_w, idle_w, rated_w
from agent.guard_model import BankLimits, GuardPlan
from agent.limits import FeederTree
from contract.messages import BankPlate, Feeder, Level, Nameplate, Workload


def nameplate(config: AgentConfig, boot: str) -> Nameplate:
    """What the site is, for this incarnation of the agent."""
    return Nameplate(
        site=config.site.id,
        boot=boot,
        name=config.site.name,
        feeders=tuple(
            Feeder(id=name, parent=feeder.parent, limit_w=feeder.limit_w, metered=feeder.meter is not None)
            for name, feeder in config.feeders.items()
        ),
        banks=tuple(_plate(name, bank) for name, bank in config.banks.items()),
        base_load_w=config.site.base_load_w,
        report_every_ms=config.timing.report_every_ms,
        fail_safe_after_ms=config.fail_safe.after_ms,
    )


def guard_plan(config: AgentConfig) -> GuardPlan:
    """The local limits, banks and feeders in the order of the configuration."""
    tree = FeederTree.of(
        [(name, feeder.parent, feeder.limit_w, feeder.meter is not None) for name, feeder in config.feeders.items()],
        [(bank.feeder, bank.pue_milli) for bank in config.banks.values()],
        config.site.base_load_w,
    )
    return GuardPlan(
        site=config.site.id,
        tree=tree,
        banks=tuple(_limits(config, name, bank) for name, bank in config.banks.items()),
        fail_safe_after_ms=config.fail_safe.after_ms,
        stagger_ms=config.timing.stagger_ms,
        handover_ms=config.fail_safe.handover_ms,
        settle_ms=config.timing.settle_ms,
        overload_after_ms=config.limits.overload_after_ms,
        trip_milli=config.limits.overload_trip_milli,
        trip_after_ms=config.limits.overload_trip_after_ms,
        trip_hold_ms=config.limits.overload_hold_ms,
        recover_ms=config.limits.recover_ms,
        on_meter_lost=config.limits.on_meter_lost,
    )


def _plate(name: str, bank: HashBankSettings | HpcBankSettings) -> BankPlate:
    rated = rated_w(bank)
    hpc = isinstance(bank, HpcBankSettings)
    count = bank.nodes if isinstance(bank, HpcBankSettings) else len(bank.expand())
    limited = isinstance(bank, HashBankSettings) and bank.below_full == "limit"
    return BankPlate(
        id=name,
        feeder=bank.feeder,
        workload=Workload.HPC if hpc else Workload.HASH,
        model=bank.model,
        devices=count,
        rated_w=rated,
        idle_w=idle_w(bank),
        levels=() if isinstance(bank, HpcBankSettings) else _levels(bank, rated),
        steps_w=0 if isinstance(bank, HpcBankSettings) or limited else bank.device_rated_w,
        min_up_ms=bank.min_up_ms,
        min_down_ms=bank.min_down_ms,
        start_delay_ms=bank.start_delay_ms,
        start_cost_usd=bank.start_cost_usd,
        ramp_up_w_per_s=bank.ramp_up_w_per_s,
        pue_milli=bank.pue_milli,
        fail_safe_w=fail_safe_w(bank),
    )


def _levels(bank: HashBankSettings, rated: int) -> tuple[Level, ...]:
    """One device's curve, times the devices; devices that differ in power count by their power."""
    one_w = bank.device_rated_w
    return tuple(
        Level(power_w=level.power_w * rated // one_w, hashrate_ghs=level.hashrate_ghs * rated // one_w)
        for level in bank.levels()
    )


def _limits(config: AgentConfig, name: str, bank: HashBankSettings | HpcBankSettings) -> BankLimits:
    floor = idle_w(bank)
    rated = rated_w(bank)
    if isinstance(bank, HashBankSettings):
        top = bank.levels()[-1]
        j_per_th = top.power_w * 1_000 / top.hashrate_ghs if top.hashrate_ghs else 0.0
        step = max(bank.levels()[0].power_w - bank.device_idle_w, 1)
    else:
        j_per_th, step = 0.0, 1
    return BankLimits(
        id=name,
        workload=Workload(bank.workload),
        rated_w=rated,
        floor_w=floor,
        least_run_w=min(floor + step, rated),
        fail_safe_w=fail_safe_w(bank),
        min_up_ms=bank.min_up_ms,
        min_down_ms=bank.min_down_ms,
        ramp_up_w_per_s=bank.ramp_up_w_per_s,
        j_per_th=j_per_th,
        max_inlet_mc=bank.max_inlet_mc,
        max_chip_mc=bank.max_chip_mc,
        hysteresis_mc=bank.hysteresis_mc,
        cool_ms=bank.cool_ms,
        inlet_sensor=any(sensor.bank == name for sensor in config.sensors.values()),
        on_sensor_lost=bank.on_sensor_lost,
        sensor_lost_after_ms=bank.sensor_lost_after_ms,
    )
