"""The tables and keys of a site or fleet file, and what they must satisfy. examples/hybrid-40mw.toml explains them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Curve = Annotated[list[tuple[Annotated[float, Field(ge=-60, le=70)], NotNegative]], Field(min_length=1, max_length=50)]
Four = Annotated[list[Positive], Field(min_length=4, max_length=4)]


class SitePart(_Part):
    """`[site]`."""

    id: Id
    cap_mw: Positive
    base_load_mw: NotNegative = 0.0
    timezone: str = "America/Chicago"
    hub: Annotated[str, Field(description="settlement_point to read where a price file holds several")] | None = None
    ambient_c: Annotated[float, Field(ge=-40, le=60)] = 20.0
    """Where no weather is given."""
    hashprice_usd_per_ph_day: Positive = 60.0
    """Where no hashprice is given."""
    obligation_usd_per_mwh: NotNegative = 5_000.0


class EnergyPart(_Part):
    """`[energy]`."""

    adder_usd_per_mwh: Annotated[float, Field(ge=-1_000, le=1_000)] = 0.0
    block_mw: NotNegative = 0.0
    block_usd_per_mwh: Annotated[float, Field(ge=-1_000, le=10_000)] = 0.0
    peak_charge_usd_per_mw_year: NotNegative = 0.0
    peak_months: Annotated[list[Annotated[int, Field(ge=1, le=12)]], Field(max_length=12)] = []


class FeederPart(_Part):
    """`[[feeder]]`."""

    id: Id
    parent: str | None = None
    limit_mw: Positive


class HallPart(_Part):
    """`[[hall]]`."""

    id: Id
    cooling_mw: Curve
    pue: Curve


class ModelPart(_Part):
    """`[model.NAME]`: one machine."""

    watts: Four
    ths: Four
    idle_w: NotNegative = 0.0
    boot_min: NotNegative = 5.0
    min_up_min: NotNegative = 15.0
    min_down_min: NotNegative = 15.0
    start_usd_per_mw: NotNegative = 0.0


class BankPart(_Part):
    """`[[bank]]`."""

    id: Id
    feeder: str
    hall: str
    model: str
    machines: Annotated[int, Field(ge=1, le=1_000_000)]


class PartitionPart(_Part):
    """`[[partition]]`."""

    id: Id
    feeder: str
    hall: str
    nodes: Annotated[int, Field(ge=1, le=1_000_000)]
    node_idle_w: NotNegative
    node_full_w: Positive


class FirmPart(_Part):
    """`[[firm_load]]`."""

    id: Id
    feeder: str
    hall: str
    mw: Positive
    usd_per_mwh: NotNegative
    shed_usd_per_mwh: NotNegative


class JobClass(_Part):
    """`[[jobs.class]]`: which rows of a job trace become what. The first class that fits a row takes it."""

    name: Id
    partitions: Annotated[list[str], Field(description="of the trace; empty for all")] = []
    qos: list[str] = []
    to: str
    firm: bool = False
    usd_per_node_h: NotNegative
    miss_usd_per_node_h: NotNegative
    slack: Annotated[float, Field(ge=1, le=100, description="deadline = submission + requested time x slack")]
    checkpoint_min: NotNegative = 0.0
    """Half of it is done again at every start."""
    min_up_min: NotNegative = 0.0
    power: Four = [0.4, 0.55, 0.715, 1.0]
    """Shares of a node's power above idle."""
    rate: Four = [0.62, 0.79, 0.917, 1.0]
    """Speed at each."""
    nodes_times: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Nodes of the site per node of the trace."""
    bundle_nodes: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Jobs of up to so many nodes (of the trace) that come within `bundle_h` become one array job; 0 for none."""
    bundle_width: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Nodes (of the trace) an array job spreads over at most."""


class JobsPart(_Part):
    """`[jobs]`: how a job trace is laid over the window."""

    repeat_days: Annotated[float, Field(gt=0, le=3_660)] | None = None
    """The trace comes again every so many days; None: it comes once, at its own dates."""
    keep_every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    bundle_h: Annotated[float, Field(gt=0, le=48)] = 1.0
    classes: Annotated[list[JobClass], Field(alias="class", min_length=1, max_length=100)]


class SiteTree(_Part):
    """A whole site file."""

    site: SitePart
    energy: EnergyPart = EnergyPart()
    feeder: Annotated[list[FeederPart], Field(min_length=1, max_length=1_000)]
    hall: Annotated[list[HallPart], Field(min_length=1, max_length=1_000)]
    model: dict[str, ModelPart] = {}
    bank: Annotated[list[BankPart], Field(max_length=1_000)] = []
    partition: Annotated[list[PartitionPart], Field(max_length=1_000)] = []
    firm_load: Annotated[list[FirmPart], Field(max_length=1_000)] = []
    jobs: JobsPart | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _unique("feeder", [part.id for part in self.feeder])
        _unique("hall", [part.id for part in self.hall])
        units: Sequence[tuple[str, Sequence[BankPart | PartitionPart | FirmPart]]] = (
            ("bank", self.bank),
            ("partition", self.partition),
            ("firm_load", self.firm_load),
        )
        _check_tree(self.feeder)
        feeders, halls = [f.id for f in self.feeder], [h.id for h in self.hall]
        for key, parts in units:
            _unique(key, [part.id for part in parts])
            for at, unit in enumerate(parts):
                _refers(f"{key}.{at}.feeder", unit.feeder, feeders)
                _refers(f"{key}.{at}.hall", unit.hall, halls)
        for at, bank in enumerate(self.bank):
            _refers(f"bank.{at}.model", bank.model, list(self.model), "no model with a power curve")
        for at, hall in enumerate(self.hall):
            _ascending(f"hall.{at}.cooling_mw", [t for t, _ in hall.cooling_mw])
            _ascending(f"hall.{at}.pue", [t for t, _ in hall.pue])
            if any(pue < 1 for _, pue in hall.pue):
                raise ValueError(f"hall.{at}.pue: below 1: a meter cannot see less than the hall draws")
        for name, model in self.model.items():
            _curve(f"model.{name}.watts", model.watts, f"model.{name}.ths", model.ths)
            if model.idle_w >= model.watts[0]:
                raise ValueError(f"model.{name}.idle_w: not below the lowest of watts")
        for at, nodes in enumerate(self.partition):
            if nodes.node_full_w <= nodes.node_idle_w:
                raise ValueError(f"partition.{at}.node_full_w: not above node_idle_w")
        self._check_rest()
        return self

    def _check_rest(self) -> None:
        if self.energy.peak_charge_usd_per_mw_year > 0 and not self.energy.peak_months:
            raise ValueError("energy.peak_months: a peak charge needs the months that have a peak, as [6, 7, 8, 9]")
        if len(set(self.energy.peak_months)) != len(self.energy.peak_months):
            raise ValueError("energy.peak_months: names a month twice")
        try:
            ZoneInfo(self.site.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"site.timezone: {self.site.timezone!r} is no IANA time zone") from None
        for at, kind in enumerate(self.jobs.classes if self.jobs else ()):
            _refers(f"jobs.class.{at}.to", kind.to, [p.id for p in self.partition])
            _curve(f"jobs.class.{at}.power", kind.power, f"jobs.class.{at}.rate", kind.rate)
            if kind.power[-1] != 1.0 or kind.rate[-1] != 1.0:
                raise ValueError(f"jobs.class.{at}.power: power and rate end with 1.0, full power")


class FleetPart(_Part):
    """`[fleet]`."""

    id: Id
    cap_mw: Positive | None = None


def known_keys() -> list[str]:
    """Every key there is, for a hint at a misspelt one."""
    models: list[type[BaseModel]] = [
        SiteTree, SitePart, EnergyPart, FeederPart, HallPart, ModelPart, BankPart, PartitionPart, FirmPart, JobsPart,
        JobClass, FleetPart,
    ]  # fmt: skip
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _unique(key: str, ids: Sequence[str]) -> None:
    for at, name in enumerate(ids):
        if name in ids[:at]:
            raise ValueError(f"{key}.{at}.id: {name!r} is used twice")


def _refers(key: str, name: str, known: Sequence[str], what: str = "unknown") -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
        raise ValueError(f"{key}: {name!r} is {what}; {hint}")


def _check_tree(feeders: Sequence[FeederPart]) -> None:
    ids = [f.id for f in feeders]
    mains = [f.id for f in feeders if f.parent is None]
    if len(mains) != 1:
        raise ValueError(f"feeder: exactly one has no parent, the main; here {mains or 'none'}")
    parent = {}
    for at, feeder in enumerate(feeders):
        if feeder.parent is not None:
            _refers(f"feeder.{at}.parent", feeder.parent, ids)
            parent[feeder.id] = feeder.parent
    for at, feeder in enumerate(feeders):
        name, hops = feeder.id, 0
        while name in parent and hops <= len(ids):
            name, hops = parent[name], hops + 1
        if hops > len(ids):
            raise ValueError(f"feeder.{at}.parent: {feeder.id!r} hangs in a circle and never reaches the main")


def _ascending(key: str, values: Sequence[float]) -> None:
    if any(b <= a for a, b in pairwise(values)):
        raise ValueError(f"{key}: values must ascend")


def _curve(x_key: str, xs: Sequence[float], y_key: str, ys: Sequence[float]) -> None:
    """Both ascend, and what a watt adds never grows: else running at the middle would never be right."""
    _ascending(x_key, xs)
    _ascending(y_key, ys)
    slopes = [ys[0] / xs[0]] + [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(zip(xs, ys, strict=True))]
    if any(b > a * (1 + 1e-9) for a, b in pairwise(slopes)):
        raise ValueError(f"{y_key}: not concave: each watt may add at most what the one before added")
