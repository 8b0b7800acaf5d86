"""What a run of the demo came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from contract.messages import ReceiptState

if TYPE_CHECKING:
    from sim.demo.run import Demo


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums over all sites, from the plants' true state and the controller's counts."""

    decisions: int
    orders: int
    receipts: dict[str, int]
    invariant_violations: int
    violations: list[str]
    hash_mwh: float
    hpc_mwh: float
    curtailed_mwh: float
    """Site energy that the same site without price response would have used beyond."""
    profit_usd: float
    always_on_usd: float
    """What that site would have made."""
    site_minutes: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, money and energy rounded to what the simulation can tell."""
        plain = asdict(self)
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in plain.items()}


def summarise(demo: Demo) -> Summary:
    """Take stock; the plants stand where they were last advanced to."""
    accounts = [book.account for book in demo.books.values()]
    shadows = [book.account for _, book in demo.always_on.values()]
    counts = demo.controller.receipt_counts
    states = (ReceiptState.CONFIRMED, ReceiptState.PARTIAL, ReceiptState.REFUSED, ReceiptState.UNREACHABLE)
    violations = demo.violations()
    return Summary(
        decisions=demo.recorder.counts.get("DecisionMade", 0),
        orders=demo.recorder.counts.get("OrderPublished", 0),
        receipts={state.value: counts.get(state, 0) for state in states},
        invariant_violations=len(violations),
        violations=violations[:20],
        hash_mwh=sum(account.hash_mwh for account in accounts),
        hpc_mwh=sum(account.hpc_mwh for account in accounts),
        curtailed_mwh=sum(account.site_mwh for account in shadows) - sum(account.site_mwh for account in accounts),
        profit_usd=sum(account.profit_usd for account in accounts),
        always_on_usd=sum(account.profit_usd for account in shadows),
        site_minutes=(demo.clock.wall_ms() - demo.start_ms) / 60_000.0,
    )
