"""What would be decided by one who knew the truth: the snapshot for invariant 11."""

from __future__ import annotations

from contract.messages import Nameplate
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
    """Decide on the truth, from the same setpoints as the decision that was made."""
    before = made.frozen.sites[0]
    site = SiteSnapshot(
        site=plate.site,
        nameplate=plate.model_copy(update={"boot": before.nameplate.boot}),
        online=True,
        report=true_report(plant, boot=before.nameplate.boot, on_for_ms=on_for_ms),
        report_age_ms=0,
        energy=energy,
        hashprice=hashprice,
        obligations=asked[0],
        overrides=asked[1],
        previous=before.previous,
    )
    return decide(Snapshot(at_ms=now_ms, sites=(site,)), made.rules)
