"""The formulas against figures worked by hand, and the bytes against themselves."""

from __future__ import annotations

import json

import pytest

from contract.messages import Level
from contract.units import break_even_usd_per_mwh
from controller.engine import value
from controller.engine.codec import CodecError, decode, encode_decision, encode_params, encode_snapshot
from controller.engine.decide import decide
from controller.engine.model import Decision, Params, Snapshot
from tests.controller.engine.build import AT, HOUR, MINUTE, MW, hash_bank, job, site


@pytest.mark.parametrize(("hashprice", "j_per_th"), [(50.0, 25.0), (45.3, 17.5), (0.0, 30.0)])
def test_the_value_of_hashing_is_the_break_even_everyone_quotes(hashprice: float, j_per_th: float) -> None:
    ours = value.hash_value_usd_per_mwh(hashprice, 1_000.0 / j_per_th, 1_000)
    assert ours == pytest.approx(break_even_usd_per_mwh(hashprice, j_per_th))


def test_the_curve_is_made_of_increments_from_idle_up() -> None:
    levels = (Level(power_w=3_000, hashrate_ghs=150_000), Level(power_w=5_000, hashrate_ghs=210_000))
    plate = hash_bank("a").model_copy(update={"rated_w": 5_000, "idle_w": 500, "levels": levels})
    pieces = [(s.from_w, s.to_w, s.ghs_per_w) for s in value.curve(plate, 5_000)]
    assert pieces == [(500, 3_000, 60.0), (3_000, 5_000, 30.0)]
    half = value.curve(plate, 2_500)
    assert [(s.from_w, s.to_w) for s in half] == [(500, 1_500), (1_500, 2_500)]
    assert value.hashrate_ghs(half, 2_500) == pytest.approx(105_000)
    assert value.curve(plate, 500) == []


def test_a_level_that_is_worth_less_than_mixing_its_neighbours_is_passed_over() -> None:
    levels = (
        Level(power_w=2_000, hashrate_ghs=60_000),
        Level(power_w=3_000, hashrate_ghs=80_000),
        Level(power_w=4_000, hashrate_ghs=160_000),
    )
    plate = hash_bank("a").model_copy(update={"rated_w": 4_000, "levels": levels})
    pieces = value.curve(plate, 4_000)
    assert [(s.from_w, s.to_w, s.ghs_per_w) for s in pieces] == [(0, 4_000, 40.0)]
    slopes = [s.ghs_per_w for s in pieces]
    assert slopes == sorted(slopes, reverse=True)
    assert value.hashrate_ghs(pieces, 4_000) == 160_000


def test_a_job_is_worth_its_node_hours_over_its_power_at_the_main_meter() -> None:
    """10 nodes at 3 USD an hour on half a MW at a PUE of 1.2: 50 USD/MWh."""
    work = job("j", mw=0.5, nodes=10).model_copy(update={"value_usd_per_node_h": 3.0})
    assert value.job_value_usd_per_mwh(work, 1_200) == pytest.approx(50.0)
    assert value.job_revenue_usd_per_h(work) == 30.0
    free = work.model_copy(update={"power_w": 0})
    assert value.job_value_usd_per_mwh(free, 1_000) == pytest.approx(30.0 * MW)


def test_a_cost_is_spread_over_the_energy_of_the_payback_time() -> None:
    assert value.amortised_usd_per_mwh(20.0, 5 * MW, 1_000, 30 * MINUTE) == pytest.approx(8.0)
    assert value.amortised_usd_per_mwh(20.0, 5 * MW, 1_250, HOUR) == pytest.approx(3.2)
    assert value.amortised_usd_per_mwh(0.0, 0, 1_000, 0) == 0.0


def test_bytes_are_canonical_and_come_back_as_they_went() -> None:
    snapshot = Snapshot(at_ms=AT, sites=(site(hash_bank("a"), price=-0.1 + 0.3),))
    decision = decide(snapshot, Params())
    for kind, data in (
        (Snapshot, encode_snapshot(snapshot)),
        (Decision, encode_decision(decision)),
        (Params, encode_params(Params(hysteresis_usd_per_mwh=1 / 3))),
    ):
        back = decode(kind, data)  # type: ignore[type-var]
        assert back.model_dump_json().encode() == data
        assert json.loads(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "payload"),
        (b'{"at_ms": -1, "sites": []}', "at_ms"),
        (b'{"model_version": 9, "at_ms": 1, "sites": []}', "model_version"),
    ],
)
def test_bytes_that_are_not_a_snapshot_are_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        decode(Snapshot, data)
