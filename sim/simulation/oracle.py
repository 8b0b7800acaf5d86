"""What would be decided by one who knew the truth: the snapshot for invariant 11."""

from __future__ import annotations

from contract.messages import Nameplate, Report
from controller.engine.decide import decide
from controller.engine.model import Decision, EnergyPrice, HashPrice, Obligation, Override, SiteSnapshot, Snapshot
from sim.checkers import DecisionMade
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
) -> Decision:
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
    return decide(Snapshot(at_ms=now_ms, sites=(site,)), made.rules)


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
