"""How long one decision takes on the live path: `python -m bench.live`.

Sites of 20 hash banks in four halls under a main breaker that binds, and a partition with jobs of which some are due,
from the frozen snapshot to the decision: digest, rules, assembly, plan, filling, sentence. `cold` has no last plan to
carry on, `warm` carries one on from minute to minute; `merit` is merit order on the same snapshots. Milliseconds of
processor time per site, median of the minutes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from random import Random
from statistics import median

from contract.messages import (
    BankPlate,
    BankReading,
    Feeder,
    Job,
    JobState,
    Level,
    Mode,
    Nameplate,
    PartitionReading,
    Report,
    Workload,
)
from controller.daemon import tune_runtime
from controller.engine.decide import decide
from controller.engine.model import (
    Decision,
    EnergyPrice,
    HashPrice,
    Method,
    Outlook,
    Params,
    SiteDecision,
    SiteSnapshot,
    Snapshot,
)
from controller.engine.optimiser.solver import warm_up

AT_MS = 1_700_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
MW = 1_000_000


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--minutes", type=int, default=5)
    args = parser.parse_args()
    warm_up()
    chance = Random(1)
    fleet = [_site(f"site-{place:04d}", chance) for place in range(max(args.sites))]
    tune_runtime()
    result: dict[str, object] = {}
    for count in args.sites:
        result[str(count)] = row = _measure(fleet[:count], args.minutes)
        print(f"{count:5d} sites: " + ", ".join(f"{name} {value:g}" for name, value in row.items()))
    print(json.dumps(result))


def _measure(sites: list[SiteSnapshot], minutes: int) -> dict[str, float]:
    planned, merit = Params(economics=Method.OPTIMISER), Params()
    warm, gaps, carry = [], [], 0
    cold = _ms(Snapshot(at_ms=AT_MS, sites=tuple(sites)), planned)[1]
    for minute in range(minutes + 2):
        snapshot = Snapshot(at_ms=AT_MS + minute * MINUTE_MS, sites=tuple(sites))
        decision, took_ms = _ms(snapshot, planned)
        warm.append(took_ms)
        gaps += [one.plan.gap for one in decision.sites if one.plan is not None and one.plan.gap is not None]
        carry = max(carry, *(len(one.carry) for one in decision.sites), 0)
        sites = [_obeyed(one, made) for one, made in zip(sites, decision.sites, strict=True)]
    return {
        "cold_ms": round(cold, 2),
        "warm_ms": round(median(warm[2:]), 2),
        "merit_ms": round(median(_ms(Snapshot(at_ms=AT_MS, sites=tuple(sites)), merit)[1] for _ in range(3)), 2),
        "gap_median": round(median(gaps), 5),
        "gap_most": round(max(gaps), 5),
        "carry_bytes": carry,
    }


def _obeyed(site: SiteSnapshot, decision: SiteDecision) -> SiteSnapshot:
    """The site a minute later, its agent having done as it was told."""
    report = site.report
    assert report is not None  # noqa: S101  every site here has one
    told = {bank.bank: bank.target_w for bank in decision.banks}
    runs = {step.job for step in decision.shed_ladder if step.job is not None and step.frees_w > 0}
    banks = []
    for reading in report.banks:
        target_w, on = told[reading.id], told[reading.id] > 0
        for_ms = (reading.on_for_ms or 0) + MINUTE_MS if on == reading.on else MINUTE_MS
        changes = {"power_w": max(target_w, 0), "setpoint_w": target_w, "on": on, "on_for_ms": for_ms}
        banks.append(reading.model_copy(update=changes))
    jobs = []
    for job in report.partitions[0].jobs:
        left_ms = (job.remaining_ms or 0) - (MINUTE_MS if job.id in runs else 0)
        stopped = JobState.FROZEN if job.state is JobState.RUNNING else job.state
        state = JobState.RUNNING if job.id in runs else stopped
        if left_ms > 0:
            jobs.append(job.model_copy(update={"state": state, "remaining_ms": left_ms}))
    partition = report.partitions[0].model_copy(update={"jobs": tuple(jobs)})
    report = report.model_copy(update={"banks": tuple(banks), "partitions": (partition,)})
    return site.model_copy(update={"report": report, "carry": decision.carry})


def _ms(snapshot: Snapshot, params: Params) -> tuple[Decision, float]:
    began_s = time.process_time()
    decision = decide(snapshot, params)
    return decision, (time.process_time() - began_s) * 1e3 / len(snapshot.sites)


def _site(name: str, chance: Random) -> SiteSnapshot:
    feeders = [
        Feeder(id="main", limit_w=28 * MW),
        *(Feeder(id=f"hall-{k}", parent="main", limit_w=9 * MW) for k in range(4)),
    ]
    plates, readings = [], []
    for place in range(20):
        rated_w, j_per_th = round(chance.uniform(1.0, 2.2) * MW), chance.uniform(17, 36)
        levels = tuple(
            Level(
                power_w=round(rated_w * share),
                hashrate_ghs=round(rated_w * share * 1_000 / j_per_th * (1.25 - 0.25 * share)),
            )
            for share in (0.6, 0.8, 1.0)
        )
        plate = BankPlate(
            id=f"bank-{place:02d}", feeder=f"hall-{place % 4}", workload=Workload.HASH, model="asic",
            devices=rated_w // 3_500, rated_w=rated_w, idle_w=rated_w // 100, levels=levels, steps_w=3_500,
            min_up_ms=10 * MINUTE_MS, min_down_ms=5 * MINUTE_MS, start_delay_ms=3 * MINUTE_MS,
            start_cost_usd=8.0 * rated_w / MW, pue_milli=1_080,
        )  # fmt: skip
        runs = chance.random() < 0.7
        plates.append(plate)
        readings.append(
            BankReading(
                id=plate.id, power_w=rated_w if runs else plate.idle_w, age_ms=500, available_w=rated_w,
                setpoint_w=rated_w if runs else 0, on=runs, on_for_ms=HOUR_MS,
            )
        )  # fmt: skip
    plates.append(
        BankPlate(
            id="hpc", feeder="main", workload=Workload.HPC, model="nodes", devices=200, rated_w=5 * MW,
            idle_w=MW // 2, pue_milli=1_200,
        )
    )  # fmt: skip
    readings.append(BankReading(id="hpc", power_w=2 * MW, age_ms=500, available_w=5 * MW, setpoint_w=3 * MW, on=True))
    jobs = tuple(_job(place, chance) for place in range(7))
    return SiteSnapshot(
        site=name,
        nameplate=Nameplate(site=name, boot="b", feeders=tuple(feeders), banks=tuple(plates), base_load_w=MW // 5),
        online=True,
        report=Report(
            site=name, boot="b", seq=1, sent_at_ms=AT_MS, mode=Mode.AUTO, epoch=1, order_seq=1, lease_left_ms=90_000,
            feeders=(), banks=tuple(readings),
            partitions=(
                PartitionReading(bank="hpc", nodes_up=200, nodes_busy=60, admitting=True, age_ms=500, jobs=jobs),
            ),
        ),
        report_age_ms=200,
        energy=EnergyPrice(usd_per_mwh=38.0, age_ms=0, interval_start_ms=AT_MS, interval_ms=15 * MINUTE_MS),
        hashprice=HashPrice(usd_per_ph_day=52.0, age_ms=0),
        outlook=OUTLOOK,
    )  # fmt: skip


def _job(place: int, chance: Random) -> Job:
    return Job(
        id=f"job-{place}", state=JobState.RUNNING if place < 3 else JobState.PENDING, nodes=20,
        power_w=round(chance.uniform(0.2, 0.8) * MW), value_usd_per_node_h=chance.uniform(1.0, 12.0),
        remaining_ms=round(chance.uniform(0.5, 8) * HOUR_MS), restart_cost_usd=20.0,
        deadline_ms=AT_MS + round(chance.uniform(9, 22) * HOUR_MS) if place % 2 else None,
    )  # fmt: skip


def _prices() -> tuple[float, ...]:
    """A day's curve with an evening spike."""
    curve = (40 + 22 * math.sin((k / 4 - 6) / 24 * 2 * math.pi) + (260 if 40 <= k < 46 else 0) for k in range(100))
    return tuple(round(usd, 2) for usd in curve)


OUTLOOK = Outlook(start_ms=AT_MS, step_ms=15 * MINUTE_MS, usd_per_mwh=_prices(), forecast="bench")


if __name__ == "__main__":
    main()
