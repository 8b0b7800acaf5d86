"""What would be decided by one who knew the truth, and what a decision is worth by it: for invariant 11."""

from __future__ import annotations

from contract.messages import Nameplate, Report
from controller.engine.decide import decide, envelope_of
from controller.engine.economics import Dispatch, Outcome
from controller.engine.facts import digest
from controller.engine.model import (
    EnergyPrice,
    HashPrice,
    Obligation,
    Override,
    Params,
    SiteDecision,
    SiteSnapshot,
    Snapshot,
)
from controller.engine.outlook import PricePaths
from controller.engine.pose import GRID, pose
from controller.engine.second import worth_of
from sim.checkers import DecisionMade, OracleDecided
from sim.plant import Plant, true_report


def oracle(
    made: DecisionMade,
    plate: Nameplate,
    plant: Plant,
    *,
    now_ms: int,
    energy: EnergyPrice,
    hashprice: HashPrice,
    asked: tuple[tuple[Obligation, ...], tuple[Override, ...]],
    on_for_ms: dict[str, int],
) -> OracleDecided:
    """Decide on the truth, from the same setpoints, outlook and last plan as the decision that was made: what is to be
    expected of prices is no fact that one could know better."""
    before = made.frozen.sites[0]
    site = SiteSnapshot(
        site=plate.site,
        nameplate=plate.model_copy(update={"boot": before.nameplate.boot}),
        online=True,
        report=_metered(true_report(plant, boot=before.nameplate.boot, on_for_ms=on_for_ms), plate, plant),
        report_age_ms=0,
        energy=energy,
        hashprice=hashprice,
        obligations=asked[0],
        overrides=asked[1],
        previous=before.previous,
        outlook=before.outlook,
        quota=before.quota,
        carry=before.carry,
    )
    told = decide(Snapshot(at_ms=now_ms, sites=(site,)), made.rules)
    ours, theirs = made.decided.sites[0], told.sites[0]
    if _targets(ours) == _targets(theirs):
        return OracleDecided(now_ms, told)
    return OracleDecided(
        now_ms, told, _worth_usd(ours, site, made.rules, now_ms), _worth_usd(theirs, site, made.rules, now_ms)
    )


def _targets(decided: SiteDecision) -> dict[str, int]:
    return {bank.bank: bank.target_w for bank in decided.banks}


def _worth_usd(decided: SiteDecision, truth: SiteSnapshot, rules: Params, now_ms: int) -> float | None:
    """USD of the best plan found over the horizon that begins with a decision, by the truth; None where there is
    nothing to plan with."""
    site = digest(truth, rules, now_ms)
    price = PricePaths(GRID).of(site)
    if price is None or site.price is None or site.hashprice is None:
        return None
    posed = pose(site, envelope_of(site), price)
    if not posed.units:
        return None
    targets = _targets(decided)
    outcomes = []
    for bank in site.banks:
        jobs = bank.work.jobs if bank.work is not None else ()
        runs = {step.job for step in decided.shed_ladder if step.bank == bank.id and step.frees_w > 0}
        known = {job.id: job for job in jobs if job.id in runs}
        outcomes.append(Outcome(target_w=targets.get(bank.id, 0), jobs=known))
    return worth_of(posed, Dispatch(outcomes, [], []))


def _metered(report: Report, plate: Nameplate, plant: Plant) -> Report:
    """The same with every bank at the head of the feeder that it has to itself: where a site's meters are, lines and
    all. At its terminals it draws a little less, and all lines would count as load of the main."""
    feeders = {bank.id: bank.feeder for bank in plate.banks}
    alone = {bank for bank, feeder in feeders.items() if list(feeders.values()).count(feeder) == 1}
    banks = tuple(
        bank.model_copy(update={"power_w": round(plant.feeder_power_w(feeders[bank.id]))}) if bank.id in alone else bank
        for bank in report.banks
    )
    return report.model_copy(update={"banks": banks})
