"""One site of the snapshot, digested: sorted, indexed, with staleness and overheads worked out once.

Nothing here decides anything. The result does not depend on the order of anything in the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final, TypeVar

from contract.messages import BankPlate, BankReading, Job, JobState, Mode, PartitionReading, Wire, Workload
from controller.engine import halls
from controller.engine.model import Hall, Obligation, Override, Params, SiteSnapshot
from controller.engine.value import Segment, curve

MW_PER_W: Final = 1_000
"""Milliwatts: node sums are kept in them, so that PUE in thousandths stays exact."""
SETTLE_MS: Final = 60_000
"""A bank told to be off this long and still drawing power is stuck: its power cannot be steered."""
FROZEN_KEEPS_MILLI: Final = 150
"""A job stopped in place keeps some of its power, for its memory and clocks: a tenth of a node's idle power as a rule.
More than this share of what it drew is no longer that, but a freeze that the meter has not shown yet."""
SPREAD_MAX_MILLI: Final = 250
"""Devices misstate their power by 5 to 20 %; a larger ratio is a constant load, not a bias."""


class Steering(StrEnum):
    """Whether the site follows orders."""

    AUTO = "auto"
    OFFLINE = "offline"
    """It may not hear: economics stop, but what the stronger rules demand is still ordered."""
    LOCAL = "local"
    """It refuses orders: a person on site is in charge."""


@dataclass(slots=True)
class Node:
    """One feeder, or what a hall's cooling carries. The last ancestor of every feeder is the main,
    `nodes[site.root]`."""

    id: str
    parent: int | None
    limit_w: int
    metered_w: int | None
    """Fresh metered power, None where there is none."""
    overhead_w: int = 0
    """Drawn besides the banks' readings: the nameplate's base load, or more where the meter says so."""
    present_mw: int = 0
    """What the banks below draw now, PUE included at the main, in milliwatts."""
    spread_milli: int = 0
    """By how many thousandths the meter exceeds what is known: a rise is planned to cost that much more."""
    hall: Hall | None = None
    """Whose cooling it is; None for a feeder."""


@dataclass(slots=True)
class Work:
    """The HPC side of a bank. `known` is False where the scheduler has not been heard at all."""

    jobs: tuple[Job, ...]
    free_nodes: int
    fresh: bool
    known: bool


@dataclass(slots=True)
class Bank:
    """One bank as it stands."""

    id: str
    plate: BankPlate
    path: tuple[int, ...]
    """Node indices from its own feeder to the main, its hall's cooling before that."""
    reading: BankReading | None
    fresh: bool
    """Whether its power may be raised on what is known."""
    held_w: int | None
    """What it now holds: the agent's setpoint, else the last target, else its power; None where all are unknown."""
    ceiling_w: int
    """The most it may be given while not fresh."""
    up_w: int
    """The part of its target that runs already; 0 where it is off."""
    on_for_ms: int | None
    natural_w: int
    """The most it can draw by itself: rated, or what is available of it."""
    segments: list[Segment]
    """A hash bank's hashrate over power, as far as `natural_w`."""
    stuck_w: int
    """Drawn above idle although off, or by frozen jobs: not to be steered."""
    frozen_w: dict[str, int]
    """The part of it that each frozen job keeps, by id."""
    kept_w: dict[str, int]
    """The same, and what each running job draws of it that goes on although its bank was told to be off: it goes over
    into the job's own power if that is let run. Counted twice, a firm job that no cap stops would never find room."""
    work: Work | None
    """For an HPC partition; None for a hash bank."""

    @property
    def hash(self) -> bool:
        return self.work is None


@dataclass(slots=True)
class Site:
    """One site as it stands. Banks, nodes, obligations and overrides are sorted by id."""

    snapshot: SiteSnapshot
    params: Params
    at_ms: int
    steering: Steering
    banks: list[Bank]
    nodes: list[Node]
    root: int
    obligations: list[Obligation]
    """Curtailments alone."""
    awards: list[Obligation]
    """Reserves awarded, now or for later."""
    overrides: list[Override]
    price: float | None
    """USD per MWh, None where none is fresh."""
    hashprice: float | None
    """USD per PH and day, None where none is fresh."""
    ambient_c: float | None
    """None where none is fresh."""

    def factor(self, node: int, bank: Bank) -> int:
        """Milliwatts at the node per bank watt: feeders carry bank watts, the main carries cooling and losses too."""
        return bank.plate.pue_milli if node == self.root else MW_PER_W

    def bank_room_w(self, bank: Bank, rooms_mw: Iterable[int]) -> int:
        """The bank watts that fit into the rooms given for the nodes of its path."""
        return min(room // self.factor(node, bank) for node, room in zip(bank.path, rooms_mw, strict=True))


W = TypeVar("W", bound=Wire)


def canonical(items: Iterable[W], key: Callable[[W], str]) -> list[W]:
    """Sorted by key; items of one key (which no honest sender makes) by their content, so that order never matters."""
    out = sorted(items, key=key)
    if any(key(one) == key(two) for one, two in pairwise(out)):
        out.sort(key=lambda item: (key(item), item.model_dump_json()))
    return out


def digest(snapshot: SiteSnapshot, params: Params, at_ms: int) -> Site:
    """Everything the rules and the economics need of one site."""
    plate, report = snapshot.nameplate, snapshot.report
    ambient_c = None if snapshot.ambient is None else snapshot.ambient.dry_bulb_c
    if snapshot.ambient is None or snapshot.ambient.age_ms > params.stale_ambient_ms:
        ambient_c = None
    feeders = canonical(plate.feeders, lambda f: f.id)
    index = {feeder.id: i for i, feeder in enumerate(feeders)}
    parents = [None if f.parent is None else index[f.parent] for f in feeders]
    root = parents.index(None)
    age = snapshot.report_age_ms if report is not None else None
    heard = snapshot.online and age is not None and age <= params.stale_report_ms

    def fresh(age_ms: int | None) -> bool:
        return heard and age is not None and age_ms is not None and age_ms + age <= params.stale_report_ms

    metered = (
        {r.id: r.power_w if fresh(r.age_ms) else None for r in canonical(report.feeders, lambda f: f.id)}
        if report
        else {}
    )
    paths = {f.id: _path(index[f.id], parents) for f in feeders}
    nodes = [Node(f.id, parents[i], f.limit_w, metered.get(f.id)) for i, f in enumerate(feeders)]
    cooled = canonical(snapshot.halls, lambda h: h.id)
    served: dict[str, list[int]] = {}
    for hall in cooled:
        if hall.cooling_w:
            for bank in hall.banks:
                served.setdefault(bank, []).append(len(nodes))
            limit_w = int(halls.at(hall.cooling_w, ambient_c))
            nodes.append(Node(f"{halls.PREFIX}{hall.id}", None, limit_w, None, hall=hall))
    due = [
        o
        for o in canonical(snapshot.obligations, lambda o: o.id)
        if o.site == snapshot.site and o.ends_at_ms > max(at_ms, o.starts_at_ms)
    ]
    site = Site(
        snapshot=snapshot,
        params=params,
        at_ms=at_ms,
        steering=_steering(snapshot),
        banks=_banks(snapshot, paths, served, halls.shares(cooled, ambient_c), fresh, age),
        nodes=nodes,
        root=root,
        obligations=[o for o in due if o.award_w is None],
        awards=[o for o in due if o.award_w is not None],
        overrides=[o for o in canonical(snapshot.overrides, lambda o: o.id) if o.site == snapshot.site],
        price=_known(snapshot.energy.usd_per_mwh, snapshot.energy.age_ms, params.stale_price_ms),
        hashprice=_known(snapshot.hashprice.usd_per_ph_day, snapshot.hashprice.age_ms, params.stale_hashprice_ms),
        ambient_c=ambient_c,
    )
    _measure_overheads(site)
    return site


def _steering(snapshot: SiteSnapshot) -> Steering:
    if snapshot.report is not None and snapshot.report.mode is Mode.LOCAL:
        return Steering.LOCAL
    return Steering.AUTO if snapshot.online else Steering.OFFLINE


def _known(value: float | None, age_ms: int | None, limit_ms: int) -> float | None:
    return value if value is not None and age_ms is not None and age_ms <= limit_ms else None


def _path(node: int, parents: list[int | None]) -> tuple[int, ...]:
    path = [node]
    while (parent := parents[path[-1]]) is not None:
        path.append(parent)
    return tuple(path)


def _banks(
    snapshot: SiteSnapshot,
    paths: dict[str, tuple[int, ...]],
    served: dict[str, list[int]],
    shares: dict[str, int],
    fresh: Callable[[int | None], bool],
    age_ms: int | None,
) -> list[Bank]:
    """`served`: the cooling nodes of a bank; `shares`: its PUE in thousandths, where the weather makes it more."""
    report = snapshot.report
    readings = {r.id: r for r in canonical(report.banks, lambda r: r.id)} if report else {}
    partitions = {p.bank: p for p in canonical(report.partitions, lambda p: p.bank)} if report else {}
    previous = {p.bank: p.target_w for p in canonical(snapshot.previous, lambda p: p.bank)}
    banks: list[Bank] = []
    for given in canonical(snapshot.nameplate.banks, lambda b: b.id):
        plate = given
        if shares.get(given.id, 0) > given.pue_milli:
            plate = given.model_copy(update={"pue_milli": shares[given.id]})
        *feeders, main = paths[plate.feeder]
        reading = readings.get(plate.id)
        partition = partitions.get(plate.id)
        work = _work(partition, fresh) if plate.workload is Workload.HPC else None
        plate = _as_learned(plate, partition, fresh)
        power_w = reading.power_w if reading else None
        setpoint_w = reading.setpoint_w if reading else None
        target_w = previous.get(plate.id)
        held_w = next((w for w in (setpoint_w, target_w, power_w) if w is not None), None)
        stated = [w for w in (setpoint_w, target_w) if w is not None]
        on_for = reading.on_for_ms if reading else None
        natural_w = _natural_w(plate, reading, work)
        frozen_w = _frozen_w(plate, reading, work)
        stuck_w = _stuck_w(plate, reading)
        banks.append(
            Bank(
                id=plate.id,
                plate=plate,
                path=(*feeders, *served.get(plate.id, ()), main),
                reading=reading,
                fresh=reading is not None and power_w is not None and fresh(reading.age_ms),
                held_w=held_w,
                ceiling_w=min(stated) if stated else power_w or 0,
                up_w=min(_up_w(reading, held_w), natural_w),
                on_for_ms=None if on_for is None else on_for + (age_ms or 0),
                natural_w=natural_w,
                segments=[] if work is not None else curve(plate, natural_w),
                stuck_w=max(stuck_w, sum(frozen_w.values())),
                frozen_w=frozen_w,
                kept_w=frozen_w | _running_on_w(stuck_w, work),
                work=work,
            )
        )
    return banks


def _as_learned(plate: BankPlate, partition: PartitionReading | None, fresh: Callable[[int | None], bool]) -> BankPlate:
    """With what its idle nodes were found to draw, where that is less than the nameplate says."""
    idle_w = partition.idle_w if partition is not None and fresh(partition.age_ms) else None
    if idle_w is None or idle_w >= plate.idle_w:
        return plate
    return plate.model_copy(update={"idle_w": idle_w})


def _work(partition: PartitionReading | None, fresh: Callable[[int | None], bool]) -> Work:
    if partition is None:
        return Work((), 0, fresh=False, known=False)
    jobs = {job.id: job for job in canonical(partition.jobs, lambda j: j.id)}
    holding = sum(job.nodes for job in jobs.values() if job.state is not JobState.PENDING)
    free = max(0, partition.nodes_up - max(holding, partition.nodes_busy))
    return Work(tuple(jobs.values()), free, fresh(partition.age_ms), known=True)


def _natural_w(plate: BankPlate, reading: BankReading | None, work: Work | None) -> int:
    available_w = reading.available_w if reading else None
    if available_w is None:
        return plate.rated_w
    if work is not None:
        running_w = sum(job.power_w for job in work.jobs if job.state is JobState.RUNNING)
        available_w = max(available_w, plate.idle_w + running_w)
    return min(plate.rated_w, available_w)


def _up_w(reading: BankReading | None, held_w: int | None) -> int:
    if reading is not None and reading.on is False:
        return 0
    return held_w or 0


def _stuck_w(plate: BankPlate, reading: BankReading | None) -> int:
    if reading is None or reading.on is not False or reading.power_w is None:
        return 0
    settled = reading.on_for_ms is not None and reading.on_for_ms >= SETTLE_MS
    return max(0, reading.power_w - plate.idle_w) if settled else 0


def _running_on_w(stuck_w: int, work: Work | None) -> dict[str, int]:
    """What running jobs draw of what a bank draws although off, shared among them by their power."""
    jobs = () if work is None or not stuck_w else work.jobs
    running = {job.id: job.power_w for job in jobs if job.state is JobState.RUNNING and job.power_w > 0}
    all_w = sum(running.values())
    return {job: min(stuck_w, all_w) * power_w // all_w for job, power_w in running.items()}


def _frozen_w(plate: BankPlate, reading: BankReading | None, work: Work | None) -> dict[str, int]:
    """What the partition draws beyond idle nodes and running jobs, shared among its frozen jobs by their power."""
    if work is None or reading is None or reading.power_w is None:
        return {}
    frozen = {job.id: job.power_w for job in work.jobs if job.state is JobState.FROZEN and job.power_w > 0}
    running_w = sum(job.power_w for job in work.jobs if job.state is JobState.RUNNING)
    all_w = sum(frozen.values())
    keep_w = min(reading.power_w - plate.idle_w - running_w, all_w * FROZEN_KEEPS_MILLI // 1_000)
    return {job: keep_w * power_w // all_w for job, power_w in frozen.items()} if keep_w > 0 else {}


def _measure_overheads(site: Site) -> None:
    """Set each node's overhead to what its meter shows above its banks, never below what the nameplate says.

    A bank on its way counts with the larger of its power and its setpoint, so that a ramp is not taken for a load.
    """
    nodes = site.nodes
    nodes[site.root].overhead_w = site.snapshot.nameplate.base_load_w
    for bank in site.banks:
        power_w = bank.reading.power_w if bank.reading else None
        setpoint_w = bank.reading.setpoint_w if bank.reading else None
        if power_w is None:
            present_w = bank.held_w if bank.held_w is not None else bank.plate.rated_w
        else:
            present_w = max(power_w, min(setpoint_w or 0, bank.natural_w))
        for i in bank.path:
            nodes[i].present_mw += present_w * site.factor(i, bank)
    for node in nodes:
        if node.metered_w is None:
            continue
        base_w = node.overhead_w
        excess_mw = (node.metered_w - base_w) * MW_PER_W - node.present_mw
        if excess_mw > 0:
            node.overhead_w = base_w + -(-excess_mw // MW_PER_W)
            if node.present_mw > 0:
                node.spread_milli = min(SPREAD_MAX_MILLI, excess_mw * 1_000 // node.present_mw)
