"""A site or a fleet from TOML, checked whole before anything runs.

A site file holds `[site]` and its parts; a fleet file holds `[fleet]` and one `[[member]]` per site, each either
`file = "other.toml"` or a whole site written under `member.`. examples/hybrid-40mw.toml explains every key.
Every error names the file, the key and what to do.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sim.backtest.model import Energy, Feeder, FirmLoad, Fleet, Hall, HashBank, Partition, Site
from sim.backtest.siteparts import BankPart, FleetPart, JobsPart, ModelPart, SiteTree, known_keys

FILE_MAX_BYTES: Final = 4 * 2**20
_W_PER_MW: Final = 1e6
_MIN_PER_H: Final = 60.0


class SiteFileError(ValueError):
    """A file that cannot be used."""

    def __init__(self, file: str, key: str, problem: str, fix: str) -> None:
        super().__init__(f"{file}: {key}: {problem}. Fix: {fix}" if key else f"{file}: {problem}. Fix: {fix}")
        self.key = key


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A site and how the world's files become its time line."""

    site: Site
    jobs: JobsPart | None
    node_full_mw: tuple[float, ...]
    """Of each partition."""
    hub: str | None
    ambient_c: float
    hashprice: float
    said: tuple[str, ...]
    """What is lawful and yet worth saying, such as a cap below firm load."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """One or more sites."""

    fleet: Fleet
    plans: tuple[SitePlan, ...]


def load(path: Path) -> FleetPlan:
    """Read a site or a fleet file. A site on its own is a fleet of one without a cap. Raises `SiteFileError`."""
    tree = _tree(path)
    if "fleet" not in tree:
        plan = _plan(str(path), tree)
        return FleetPlan(Fleet(plan.site.id, (plan.site,), None), (plan,))
    return _fleet(path, tree)


def _fleet(path: Path, tree: dict[str, Any]) -> FleetPlan:
    file = str(path)
    for key in tree:
        if key not in ("fleet", "member", "model"):
            raise SiteFileError(file, key, "is not a key of a fleet file", "put it under a [[member]]")
    try:
        part = FleetPart.model_validate(tree["fleet"])
    except ValidationError as error:
        raise _explain(file, "fleet.", error) from None
    members = tree.get("member", [])
    if not isinstance(members, list) or not members:
        raise SiteFileError(file, "member", "is missing", 'add [[member]] with file = "site.toml", or a whole site')
    plans = []
    for at, member in enumerate(members):
        if not isinstance(member, dict):
            raise SiteFileError(file, f"member.{at}", "is not a table", "write [[member]]")
        if set(member) == {"file"}:
            other = path.parent / str(member["file"])
            plans.append(_plan(str(other), _tree(other)))
        else:
            shared = {"model": {**tree.get("model", {}), **member.get("model", {})}}
            plans.append(_plan(file, member | shared, f"member.{at}."))
    ids = [plan.site.id for plan in plans]
    if len(set(ids)) != len(ids):
        raise SiteFileError(file, "member", f"two sites have the same id among {ids}", "give each site its own id")
    fleet = Fleet(part.id, tuple(plan.site for plan in plans), part.cap_mw)
    return FleetPlan(fleet, tuple(plans))


def _tree(path: Path) -> dict[str, Any]:
    file = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SiteFileError(file, "", f"cannot be read ({error.strerror})", "check the path") from None
    if len(raw) > FILE_MAX_BYTES:
        raise SiteFileError(file, "", f"is larger than {FILE_MAX_BYTES} bytes", "give the site file, not data")
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteFileError(file, "", f"is not TOML: {error}", "correct the line it names") from None


def _plan(file: str, tree: dict[str, Any], prefix: str = "") -> SitePlan:
    try:
        parts = SiteTree.model_validate(tree)
    except ValidationError as error:
        raise _explain(file, prefix, error) from None
    site = _site(parts)
    return SitePlan(
        site=site,
        jobs=parts.jobs,
        node_full_mw=tuple(p.node_full_w / _W_PER_MW for p in parts.partition),
        hub=parts.site.hub,
        ambient_c=parts.site.ambient_c,
        hashprice=parts.site.hashprice_usd_per_ph_day,
        said=tuple(_worth_saying(site)),
    )


def _site(parts: SiteTree) -> Site:
    feeder = {f.id: at for at, f in enumerate(parts.feeder)}
    hall = {h.id: at for at, h in enumerate(parts.hall)}
    energy = parts.energy
    return Site(
        id=parts.site.id,
        cap_mw=parts.site.cap_mw,
        base_load_mw=parts.site.base_load_mw,
        feeders=tuple(Feeder(f.id, feeder[f.parent] if f.parent else None, f.limit_mw) for f in parts.feeder),
        halls=tuple(Hall(h.id, tuple(h.cooling_mw), tuple(h.pue)) for h in parts.hall),
        banks=tuple(_bank(b, parts.model[b.model], feeder[b.feeder], hall[b.hall]) for b in parts.bank),
        partitions=tuple(
            Partition(p.id, feeder[p.feeder], hall[p.hall], p.nodes, p.node_idle_w / _W_PER_MW) for p in parts.partition
        ),
        firm_loads=tuple(
            FirmLoad(f.id, feeder[f.feeder], hall[f.hall], f.mw, f.usd_per_mwh, f.shed_usd_per_mwh)
            for f in parts.firm_load
        ),
        energy=Energy(
            energy.adder_usd_per_mwh,
            energy.block_mw,
            energy.block_usd_per_mwh,
            energy.peak_charge_usd_per_mw_year,
            tuple(energy.peak_months),
        ),
        obligation_usd_per_mwh=parts.site.obligation_usd_per_mwh,
        timezone=parts.site.timezone,
    )


def _bank(bank: BankPart, model: ModelPart, feeder: int, hall: int) -> HashBank:
    mw = [bank.machines * watts / _W_PER_MW for watts in model.watts]
    return HashBank(
        id=bank.id,
        feeder=feeder,
        hall=hall,
        level_mw=tuple(mw),
        level_phs=tuple(bank.machines * ths / 1_000.0 for ths in model.ths),
        idle_mw=bank.machines * model.idle_w / _W_PER_MW,
        boot_h=model.boot_min / _MIN_PER_H,
        min_up_h=model.min_up_min / _MIN_PER_H,
        min_down_h=model.min_down_min / _MIN_PER_H,
        start_usd=model.start_usd_per_mw * mw[-1],
    )


def _worth_saying(site: Site) -> Iterable[str]:
    firm = sum(f.mw for f in site.firm_loads) + sum(p.nodes * p.node_idle_mw for p in site.partitions)
    if firm + site.base_load_mw > site.cap_mw:
        yield (
            f"{site.id}: firm load, idle nodes and base load of {firm + site.base_load_mw:.2f} MW exceed the cap of "
            f"{site.cap_mw:.2f} MW: the shortfall is shed and paid for in every interval"
        )
    if not site.banks:
        yield f"{site.id}: has no bank that hashes"
    for bank in site.banks:
        if bank.level_mw[0] > site.feeders[bank.feeder].limit_mw:
            yield f"{site.id}: bank {bank.id} cannot run: its lowest level is above the limit of its feeder"


def _explain(file: str, prefix: str, error: ValidationError) -> SiteFileError:
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, first["loc"]))
    problem = str(first["msg"]).removeprefix("Value error, ")
    match first["type"]:
        case "missing":
            return SiteFileError(file, prefix + key, "is missing", f"add {key.rpartition('.')[2]} = ...")
        case "extra_forbidden":
            name = str(first["loc"][-1])
            near = difflib.get_close_matches(name, known_keys(), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            return SiteFileError(file, prefix + key, "is not a key", f"remove it, or correct its spelling{hint}")
        case "value_error" if not key:
            key, _, problem = problem.partition(": ")
            return SiteFileError(file, prefix + key, problem, f"correct {key.rpartition('.')[2]}")
        case _:
            return SiteFileError(file, prefix + key, problem, "see examples/hybrid-40mw.toml for what it takes")
