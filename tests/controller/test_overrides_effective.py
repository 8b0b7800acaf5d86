"""Which override stands where: told by `resolve`, done by the engine, and both must agree."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from contract.messages import BankPlate, Feeder, Nameplate, Workload
from controller.engine.facts import digest
from controller.engine.model import EnergyPrice, HashPrice, OverrideKind, Params, SiteSnapshot
from controller.engine.rules import narrow
from controller.overrides_effective import Resolution, Stands, resolve
from controller.overrides_model import Imposed

AT_MS = 1_700_000_000_000


def plate() -> Nameplate:
    """main > (hall > row, annex); two hash banks on the row, one on the annex, one partition on the hall."""
    feeders = (
        Feeder(id="main", limit_w=100_000_000),
        Feeder(id="hall", parent="main", limit_w=50_000_000),
        Feeder(id="row", parent="hall", limit_w=20_000_000),
        Feeder(id="annex", parent="main", limit_w=20_000_000),
    )
    places = (("a", "row", Workload.HASH), ("b", "row", Workload.HASH), ("c", "annex", Workload.HASH))
    banks = [_bank(*place) for place in (*places, ("gpu", "hall", Workload.HPC))]
    return Nameplate(site="alpha", boot="b1", feeders=feeders, banks=tuple(banks))


def _bank(name: str, feeder: str, workload: Any) -> BankPlate:
    return BankPlate(id=name, feeder=feeder, workload=workload, model="m", devices=10, rated_w=5_000_000)


def imposed(key: str, kind: OverrideKind, age: int = 0, **more: Any) -> Imposed:
    fields: dict[str, Any] = {
        "id": key,
        "kind": kind,
        "site": "alpha",
        "starts_at_ms": AT_MS - 1_000,
        "ends_at_ms": AT_MS + 60_000,
        "reason": "r",
        "created_at_ms": AT_MS - age,
    }
    return Imposed(**(fields | more))


def standing(found: Resolution, bank: str) -> dict[str, tuple[Stands, str | None]]:
    return {claim.override.id: (claim.stands, claim.by) for claim in found.banks[bank]}


def test_caps_combine_by_minimum_along_the_way_to_the_main() -> None:
    found = resolve(
        plate(),
        [
            imposed("site", OverrideKind.CAP, value_w=8_000_000),
            imposed("hall", OverrideKind.CAP, feeder="hall", value_w=9_000_000),
            imposed("row", OverrideKind.CAP, feeder="row", value_w=3_000_000),
            imposed("row-old", OverrideKind.CAP, 5, feeder="row", value_w=4_000_000),
        ],
    )
    assert standing(found, "a") == {
        "site": (Stands.HOLDS, None),
        "hall": (Stands.OVERRULED, "site"),
        "row": (Stands.HOLDS, None),
        "row-old": (Stands.OVERRULED, "row"),
    }
    assert set(found.superseded) == {"hall", "row-old"}
    assert "minimum" in found.superseded["hall"].why


def test_a_stand_down_overrules_all_else_on_its_banks_and_no_other_stand_down() -> None:
    found = resolve(
        plate(),
        [
            imposed("stop", OverrideKind.EMERGENCY_STOP, feeder="row"),
            imposed("lock", OverrideKind.LOCKOUT, bank="a"),
            imposed("force", OverrideKind.FORCE_HASH),
            imposed("cap", OverrideKind.CAP, bank="a", value_w=1),
        ],
    )
    assert standing(found, "a") == {
        "stop": (Stands.HOLDS, None),
        "lock": (Stands.HOLDS, None),
        "cap": (Stands.OVERRULED, "stop"),
        "force": (Stands.OVERRULED, "stop"),
    }
    assert standing(found, "c") == {"force": (Stands.HOLDS, None)}
    assert set(found.superseded) == {"cap"}, "what stands anywhere is not superseded"
    assert {claim.override.id for claim in found.conflicts("stop")} == {"cap", "force"}


def test_contradictions_resolve_by_priority_and_say_so() -> None:
    found = resolve(
        plate(),
        [
            imposed("floor", OverrideKind.FLOOR, bank="a", value_w=4_000_000),
            imposed("cap", OverrideKind.CAP, bank="a", value_w=1_000_000),
            imposed("hold", OverrideKind.HOLD, 9, feeder="row"),
            imposed("force", OverrideKind.FORCE_HASH, bank="a"),
        ],
    )
    assert standing(found, "a") == {
        "cap": (Stands.HOLDS, None),
        "floor": (Stands.CLAMPED, "cap"),
        "hold": (Stands.HOLDS, None),
        "force": (Stands.OVERRULED, "hold"),
    }
    assert [claim.override.id for claim in found.conflicts("cap")] == ["floor"]


def test_a_workload_stands_for_each_of_its_banks_and_nothing_else() -> None:
    lock = imposed("lock", OverrideKind.LOCKOUT, workload="hash")
    assert lock.covers(plate()) == ("a", "b", "c")
    assert {part.bank for part in lock.parts(plate())} == {"a", "b", "c"}
    assert {part.id for part in lock.parts(plate())} == {"lock"}
    assert standing(resolve(plate(), [lock]), "gpu") == {}


def test_the_watts_of_a_workload_are_split_among_its_banks_by_what_they_can_draw() -> None:
    site = plate()
    cap = imposed("cap", OverrideKind.CAP, workload="hash", value_w=7_000_001)
    parts = {part.bank: part.value_w for part in cap.parts(site)}
    assert set(parts) == {"a", "b", "c"}
    assert sum(watts or 0 for watts in parts.values()) == 7_000_001
    assert all(abs((watts or 0) - 2_333_333) <= 1 for watts in parts.values()), "three alike"
    tighter = imposed("tighter", OverrideKind.CAP, bank="a", value_w=1_000_000)
    found = resolve(site, [cap, tighter])
    assert standing(found, "a")["cap"] == (Stands.OVERRULED, "tighter")
    assert standing(found, "b") == {"cap": (Stands.HOLDS, None)}
    assert cap.parts(None) == ()


def test_idle_power_is_left_to_each_bank_before_the_rest_is_split() -> None:
    big, small = (_bank(name, "row", "hash") for name in ("big", "small"))
    small = small.model_copy(update={"rated_w": 1_000_000, "idle_w": 100_000})
    site = plate().model_copy(update={"banks": (big, small)})
    floor = imposed("floor", OverrideKind.FLOOR, workload="hash", value_w=100_000)
    assert [part.value_w for part in floor.parts(site)] == [0, 100_000]


@pytest.mark.parametrize("seed", range(40))
def test_it_tells_what_the_engine_does(seed: int) -> None:
    """Random overlapping overrides: on every bank the winner told is the cause in the rules' own trace."""
    chance = Random(seed)
    site = plate()
    drawn = [_draw(chance, f"o{i}") for i in range(chance.randint(1, 12))]
    parts = tuple(part for each in drawn for part in each.parts(site))
    snapshot = SiteSnapshot(
        site="alpha",
        nameplate=site,
        online=True,
        report=None,
        report_age_ms=None,
        energy=EnergyPrice(usd_per_mwh=None),
        hashprice=HashPrice(usd_per_ph_day=None),
        overrides=tuple(chance.sample(parts, len(parts))),
    )
    digested = digest(snapshot, Params(), AT_MS)
    envelope = narrow(digested, [], None)
    told = resolve(site, chance.sample(drawn, len(drawn)))
    for bank, bounds in zip(digested.banks, envelope.bounds, strict=True):
        claims = [claim for claim in told.banks[bank.id] if claim.stands is not Stands.OVERRULED]
        for kind in (OverrideKind.EMERGENCY_STOP, OverrideKind.LOCKOUT):
            causes = [n.cause for n in bounds.trace if n.rule.value == kind.value]
            first = next((c.override.id for c in claims if c.override.kind is kind), None)
            assert causes[:1] == ([first] if first else []), (bank.id, kind)
        if any(claim.override.kind in (OverrideKind.EMERGENCY_STOP, OverrideKind.LOCKOUT) for claim in claims):
            assert bounds.hi_w == 0
            continue
        if bounds.hold:
            hold = next(claim.override.id for claim in claims if claim.override.kind is OverrideKind.HOLD)
            assert bounds.forced is not None
            assert bounds.forced.cause == hold
        elif bounds.force:
            force = [c.override.id for c in claims if c.override.kind.startswith("force")]
            assert bounds.forced is not None
            assert force == [bounds.forced.cause]


def _draw(chance: Random, key: str) -> Imposed:
    kind = chance.choice(list(OverrideKind))
    has_value = kind in (OverrideKind.CAP, OverrideKind.FLOOR)
    scopes: list[dict[str, str]] = [{}, {"feeder": chance.choice(["main", "hall", "row", "annex"])}]
    if kind is OverrideKind.FORCE_HPC:
        scopes.append({"bank": "gpu"})
    else:
        scopes.append({"bank": chance.choice("abc")})
    scopes.append({"workload": "hpc" if kind is OverrideKind.FORCE_HPC else "hash"})
    value_w = chance.randrange(0, 9_000_000) if has_value else None
    return imposed(key, kind, chance.randrange(4), value_w=value_w, **chance.choice(scopes))
