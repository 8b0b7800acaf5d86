"""What a controller measures of itself as it works. What it knows of its sites is read at the scrape, see `scrape`.

One private registry per controller, so that several live in one process. No series per bank or device. Latencies carry
exemplars, which OpenMetrics shows: the decision or the order to look up (`wattshift explain`, GET /v1/decisions).
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.registry import Collector

_FAST: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_GAPS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
_SLOW: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and histograms. Durations are seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._extra: Collector | None = None
        self.decision_seconds = Histogram(
            "wattshift_controller_decision_seconds",
            "Freeze, decide and publish of one call, journalling excluded",
            registry=self.registry,
            buckets=_FAST,
        )
        self.decide_seconds = Histogram(
            "wattshift_controller_decide_seconds",
            "The engine alone, from snapshot to decision: of one call, and of one site in it",
            ["per"],
            registry=self.registry,
            buckets=_FAST,
        )
        self.batch_sites = Histogram(
            "wattshift_controller_decision_sites",
            "Sites decided in one call",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.plan_gap = Histogram(
            "wattshift_controller_plan_gap_ratio",
            "How far a site's plan may be below its proven bound, as a share of it",
            registry=self.registry,
            buckets=_GAPS,
        )
        self.fallbacks = Counter(
            "wattshift_controller_plan_fallbacks",
            "Site decisions by merit order in a plan's place, by why",
            ["reason"],
            registry=self.registry,
        )
        self.decisions = Counter(
            "wattshift_controller_decisions",
            "Site decisions by what triggered them",
            ["trigger"],
            registry=self.registry,
        )
        self.decide_crashes = Counter(
            "wattshift_controller_decide_crashes",
            "Site decisions that failed with a bug; the site runs into its fail-safe",
            registry=self.registry,
        )
        self.signal_to_order_seconds = Histogram(
            "wattshift_controller_signal_to_order_seconds",
            "A signal or override taken in by HTTP until its order was on the bus",
            registry=self.registry,
            buckets=_FAST,
        )
        self.order_confirmed_seconds = Histogram(
            "wattshift_controller_order_confirmed_seconds",
            "An order that changed a target until every bank was confirmed by measured power, site time",
            registry=self.registry,
            buckets=_SLOW,
        )
        self.orders = Counter(
            "wattshift_controller_orders",
            "Orders by what became of them at the bus",
            ["result"],
            registry=self.registry,
        )
        self.receipts = Counter(
            "wattshift_controller_receipts",
            "Changes of a bank's receipt state, by state",
            ["state"],
            registry=self.registry,
        )
        self.refusals = Counter(
            "wattshift_controller_order_refusals",
            "Orders refused as a whole, by reason",
            ["reason"],
            registry=self.registry,
        )
        self.overruns = Counter(
            "wattshift_controller_tick_overruns",
            "Ticks that were due before the one before was done",
            registry=self.registry,
        )

    def read_at_scrape(self, collector: Collector) -> None:
        """Register what is read from the controller's state; in place of what was registered so before."""
        if self._extra is not None:
            self.registry.unregister(self._extra)
        self._extra = collector
        self.registry.register(collector)
