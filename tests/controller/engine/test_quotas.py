"""A fleet's cap divided: to whom a megawatt is worth most, and never beyond the cap while sites still obey."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.engine.decide import decide
from controller.engine.model import Method, Params, Quota, SiteSnapshot, Snapshot
from controller.engine.quotas import Draw, Shares, grant, shares, split_evenly
from tests.controller.engine.build import AT, MINUTE, MW, flat_outlook, hash_bank, hpc_bank, job, site

PARAMS = Params(economics=Method.OPTIMISER)
CAP_W = 14 * MW


def named(name: str, snapshot: SiteSnapshot) -> SiteSnapshot:
    """One site under another name."""
    plate = snapshot.nameplate.model_copy(update={"site": name})
    report = None if snapshot.report is None else snapshot.report.model_copy(update={"site": name})
    return snapshot.model_copy(update={"site": name, "nameplate": plate, "report": report})


def two_sites() -> list[tuple[SiteSnapshot, Params]]:
    """Ten megawatts of hash each: one of 20 J/TH, one of 28."""
    good = site(hash_bank("a", j_per_th=20.0), hash_bank("b", j_per_th=20.0), outlook=flat_outlook(40.0), limit_mw=12)
    poor = site(hash_bank("a", j_per_th=28.0), hash_bank("b", j_per_th=28.0), outlook=flat_outlook(40.0), limit_mw=12)
    return [(named("good", good), PARAMS), (named("poor", poor), PARAMS)]


def test_a_megawatt_goes_to_whom_it_is_worth_most() -> None:
    """Of 14 MW the better site is given all it can use, the other the rest, and the price says what more is worth."""
    found = shares(two_sites(), AT, CAP_W)
    assert sum(found.watts.values()) <= CAP_W
    assert found.watts["good"] >= 9.9 * MW
    assert found.watts["poor"] >= 3.0 * MW
    assert 10.0 < found.price[0] < 100.0
    assert found.gap is not None
    assert found.gap < 0.05


def test_shares_are_the_same_whoever_is_named_first_and_hold_the_minute_after() -> None:
    one, other = shares(two_sites(), AT, CAP_W), shares(two_sites()[::-1], AT, CAP_W)
    assert one.watts == other.watts
    again = shares(two_sites(), AT + MINUTE, CAP_W, one)
    assert sum(again.watts.values()) <= CAP_W
    assert again.watts["good"] >= 9.9 * MW


def test_a_site_that_cannot_be_planned_keeps_what_it_draws() -> None:
    """No outlook, no price, or nobody hears it: what it draws is off the cap before the others share it."""
    sites = two_sites()
    silent = named("silent", site(hash_bank("a"), outlook=None, limit_mw=12))
    found = shares([*sites, (silent, PARAMS)], AT, CAP_W)
    assert found.watts["silent"] == 5 * MW
    assert sum(found.watts.values()) <= CAP_W
    nothing = shares([(silent, PARAMS)], AT, 3 * MW)
    assert nothing.watts == {"silent": 3 * MW}
    assert nothing.gap is None


def test_firm_work_and_overheads_are_served_before_the_cap_is_shared() -> None:
    firm = site(
        hpc_bank(mw=6.0), hash_bank("a"), jobs=[job("j", mw=4.0, firm=True)], outlook=flat_outlook(40.0), base_mw=1.0
    )
    found = shares([*two_sites(), (named("firm", firm), PARAMS)], AT, CAP_W)
    assert found.watts["firm"] >= 5 * MW
    assert sum(found.watts.values()) <= CAP_W


watts = st.integers(0, 50_000_000)
draws = st.dictionaries(
    st.sampled_from("abcdef"), st.builds(Draw, st.none() | watts, st.none() | watts), min_size=1, max_size=6
)


@given(draws, st.integers(0, 100_000_000), st.data())
def test_no_grant_lets_the_fleet_pass_its_cap_while_sites_still_obey(
    known: dict[str, Draw], cap_w: int, data: st.DataObject
) -> None:
    """Quotas of those that rise, and the most that those may draw that have not yet come down, are within the cap,
    unless what is drawn already is above it; and nobody is granted more than is wanted."""
    parts = data.draw(st.lists(st.integers(0, 100), min_size=len(known), max_size=len(known)))
    wanted = {name: cap_w * part // max(1, sum(parts)) for name, part in zip(known, parts, strict=True)}
    granted = grant(cap_w, wanted, known)
    assert all(granted[name] <= wanted[name] for name in known)
    may = {
        name: granted[name]
        if draw.drawn_w is not None and draw.drawn_w <= granted[name]
        else max(granted[name], draw.granted_w if draw.granted_w is not None else 0, draw.drawn_w or 0)
        for name, draw in known.items()
    }
    least = {name: max(min(wanted[name], draw.granted_w or draw.drawn_w or 0), 0) for name, draw in known.items()}
    assert sum(may.values()) <= cap_w or all(granted[name] <= least[name] for name in known)


@given(st.lists(st.integers(0, 50_000_000), min_size=2, max_size=6))
def test_quotas_reach_what_is_wanted_once_the_sites_obey(standing: list[int]) -> None:
    """Sites that come down within a tick: two grants later everyone has what was wanted."""
    names = [f"s{i}" for i in range(len(standing))]
    cap_w = sum(standing)
    wanted = dict(zip(names, standing[::-1], strict=True))
    quotas = dict(zip(names, standing, strict=True))
    drawn = dict(quotas)
    for _ in range(2):
        quotas = grant(cap_w, wanted, {name: Draw(quotas[name], drawn[name]) for name in names})
        assert sum(max(quotas[name], drawn[name]) for name in names) <= cap_w + len(names)
        drawn = {name: min(drawn[name], quotas[name]) for name in names}
    assert all(wanted[name] - quotas[name] <= len(names) for name in names)


def test_before_anything_is_planned_the_cap_is_split_by_main_breakers() -> None:
    plates = [snapshot.nameplate for snapshot, _ in two_sites()]
    assert split_evenly(plates, 9 * MW) == {"good": 4_500_000, "poor": 4_500_000}


def test_the_sentence_names_the_fleets_cap_and_what_more_of_it_is_worth() -> None:
    snapshot = two_sites()[0][0].model_copy(
        update={"quota": Quota(cap_w=6 * MW, until_ms=AT + 10 * MINUTE, usd_per_mwh=31.4)}
    )
    made = decide(Snapshot(at_ms=AT, sites=(snapshot,)), PARAMS).sites[0]
    assert made.planned_w <= 6 * MW
    assert made.cap_w == 6 * MW
    assert "its share of the fleet's cap, where a MWh more is worth 31 USD above its price" in made.sentence


def test_shares_that_grew_old_are_begun_anew() -> None:
    old = shares(two_sites(), AT - 5 * 60 * MINUTE, CAP_W)
    assert isinstance(old, Shares)
    assert shares(two_sites(), AT, CAP_W, old).watts == shares(two_sites(), AT, CAP_W).watts
