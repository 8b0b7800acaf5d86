"""What a controller knows, as metrics, read from its state at the moment of the scrape.

Series are per site, feeder, workload and class of bank (its model), never per bank or device: 60,000 series would stall
a scrape for a second, and what is per bank stands at `GET /v1/sites/{site}`. Base units: watts, seconds, USD. A value
that is unknown is left out.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contract.messages import Mode, Nameplate, Workload
from contract.units import MS_PER_S
from controller.app import CONFLICT_ALARM_MS, Controller
from controller.audit_watch import AuditWatch
from controller.state import SiteState

if TYPE_CHECKING:
    from controller.api.stream import Stream

VERSION: Final = version("wattshift")
SITES_MAX: Final = 5_000
"""Series of more sites than these are left out, and `wattshift_controller_sites` says how many there are."""
CLASSES_MAX: Final = 8
"""Classes of a site's banks that are told apart; what is beyond goes under `other`."""


class FleetCollector(Collector):
    """A prometheus-client collector over one controller. May be scraped from another thread: it only reads."""

    def __init__(self, controller: Controller, audit: AuditWatch | None = None, events: Stream | None = None) -> None:
        self._controller = controller
        self._audit = audit
        self._events = events

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._process()
        yield from self._queues()
        yield from self._audited()
        yield from self._feeds()
        yield from self._sites()

    def _process(self) -> Iterator[Metric]:
        c = self._controller
        bus = c.bus.stats
        build = _family("controller_build_info", "1, labelled with what is running", ["version", "python"])
        _add(build, [VERSION, platform.python_version()], 1)
        yield build
        yield _gauge("controller_epoch", "Epoch of this controller's orders", c.epoch)
        yield _gauge("controller_sites", "Sites known", len(c.fleet))
        for check in c.checks():
            yield _gauge(f"controller_{check.name}_ok", "1 while this condition of being ready holds", int(check.ok))
        yield _count("controller_ticks", "Ticks begun", c.loop.ticks)
        yield _count("controller_reports", "Reports taken in", c.ingest.reports)
        errors = CounterMetricFamily(
            "wattshift_controller_ingest_errors", "Messages refused or doubted, by code", labels=["code"]
        )
        for code, count in sorted({**c.ingest.faults.counts, **c.publisher.faults.counts}.items()):
            errors.add_metric([code], count)
        yield errors
        yield _count("controller_bus_connects", "Connections to the broker", bus.connects)
        yield _count(
            "controller_bus_publish_dropped", "Messages not sent: link down or queue full", bus.publish_dropped
        )
        yield _count("controller_bus_receive_dropped", "Messages lost because ingest fell behind", bus.receive_dropped)

    def _queues(self) -> Iterator[Metric]:
        c, health = self._controller, self._controller.journal.health
        yield _gauge("controller_journal_queue_rows", "Rows that wait for the journal", health.queued)
        yield _gauge("controller_journal_queue_max_rows", "Rows that may wait for the journal", health.queue_max)
        yield _count("controller_journal_rows", "Rows written to the journal", health.written)
        yield _count("controller_journal_dropped", "Records lost to the journal", health.dropped)
        yield _count(
            "controller_journal_failures", "Writes to the journal that failed and were tried again", health.failures
        )
        if health.commit_s is not None:
            yield _gauge("controller_journal_commit_seconds", "Until the newest batch was durable", health.commit_s)
        if health.size_bytes is not None:
            yield _gauge("controller_journal_size_bytes", "Of the journal's file and its log", health.size_bytes)
        yield _gauge("controller_undecided_sites", "Sites that wait to be decided", c.loop.waiting)
        if self._events is not None:
            yield _gauge("controller_event_clients", "Clients that follow /v1/events", self._events.clients)
            yield _count("controller_event_clients_dropped", "Clients that stopped reading", self._events.dropped)

    def _audited(self) -> Iterator[Metric]:
        """The audit log. What is written of it is its length; Prometheus remembers that, should the file be cut."""
        if self._audit is None:
            return
        log, last = self._audit.log, self._audit.last
        yield _gauge("controller_audit_entries", "Entries of the audit log's chain on disk", log.written.lines)
        yield _gauge("controller_audit_queue_entries", "Entries that wait to be written", log.queued)
        yield _count(
            "controller_audit_failures", "Writes to the audit log that failed and were tried again", log.failures
        )
        yield _count("controller_audit_dropped", "Entries that found the audit log's queue full", log.dropped)
        yield _count("controller_audit_walks", "Times the whole chain was walked", self._audit.walks)
        if last is not None:
            age_s = (self._controller.clock.mono_ms() - last.mono_ms) / MS_PER_S
            yield _gauge(
                "controller_audit_chain_ok", "1 where the chain was whole when last walked", int(not last.fault)
            )
            yield _gauge("controller_audit_verified_entries", "Entries found whole by the last walk", last.head.lines)
            yield _gauge("controller_audit_verified_age_seconds", "Since the chain was last walked", age_s)

    def _feeds(self) -> Iterator[Metric]:
        feeds, now_ms = self._controller.feeds, self._controller.clock.wall_ms()
        well = _family("feed_ok", "1 while the feed delivers", ["feed"])
        errors = CounterMetricFamily("wattshift_feed_errors", "Faults of a feed by code", labels=["feed", "code"])
        price = _family("energy_price_usd_per_mwh", "Newest energy price known", ["feed"])
        price_age = _family("energy_price_age_seconds", "Since the priced interval ended; 0 while it runs", ["feed"])
        hashprice = _family("hashprice_usd_per_ph_day", "Newest hashprice known", ["feed"])
        hashprice_age = _family("hashprice_age_seconds", "Since the hashprice was true", ["feed"])
        for name, feed in feeds.prices.items():
            energy = feed.price_at(now_ms)
            _add(price, [name], energy.usd_per_mwh)
            _add(price_age, [name], _seconds(energy.age_ms))
        for name, source in feeds.hashprices.items():
            earns = source.hashprice_at(now_ms)
            _add(hashprice, [name], earns.usd_per_ph_day)
            _add(hashprice_age, [name], _seconds(earns.age_ms))
        health = {name: feed.health for name, feed in feeds.prices.items()}
        health |= {name: source.health for name, source in feeds.hashprices.items()}
        for name, now in health.items():
            _add(well, [name], int(now.ok))
            for code, count in sorted(now.errors.items()):
                errors.add_metric([name, code], count)
        yield from (well, errors, price, price_age, hashprice, hashprice_age)

    def _sites(self) -> Iterator[Metric]:
        states = sorted(self._controller.fleet, key=lambda state: state.site)[:SITES_MAX]
        mono_ms = self._controller.clock.mono_ms()
        wall_ms = self._controller.clock.wall_ms()
        for name, text, read in _SITE_GAUGES:
            family = _family(name, text, ["site"])
            for state in states:
                _add(family, [state.site], read(state, mono_ms))
            yield family
        yield from self._obligations(states, wall_ms)
        yield from _by_workload(states)
        yield from _by_class(states)
        yield from _partitions(states)
        yield _feeder_watts(states)
        yield _receipt_states(states)
        yield _shortfalls(states)

    def _obligations(self, states: list[SiteState], wall_ms: int) -> Iterator[Metric]:
        open_now = _family("site_obligation_open", "1 while a curtailment obligation is open", ["site"])
        target = _family("site_obligation_target_watts", "What the open obligation allows at the meter", ["site"])
        baseline = _family("site_obligation_baseline_watts", "What the reduction is counted from", ["site"])
        awarded = _family("site_awarded_watts", "Reserves awarded now", ["site"])
        for state in states:
            _add(awarded, [state.site], self._controller.signals.awarded_w(state.site, wall_ms))
            obligation = self._controller.signals.open_at(state.site, wall_ms)
            _add(open_now, [state.site], int(obligation is not None))
            if obligation is not None:
                _add(target, [state.site], obligation.target_w)
                _add(baseline, [state.site], obligation.baseline_w)
        yield from (open_now, target, baseline, awarded)


def _partitions(states: list[SiteState]) -> Iterator[Metric]:
    nodes = _family("site_hpc_nodes", "Nodes of a site's partitions, in service or busy", ["site", "state"])
    jobs = _family("site_hpc_jobs", "Jobs by state, firm or flexible", ["site", "state", "kind"])
    for state in states:
        if state.report is None or not state.report.partitions:
            continue
        _add(nodes, [state.site, "up"], sum(p.nodes_up for p in state.report.partitions))
        _add(nodes, [state.site, "busy"], sum(p.nodes_busy for p in state.report.partitions))
        counts = Counter((job.state, job.firm) for p in state.report.partitions for job in p.jobs)
        for (phase, firm), count in sorted(counts.items()):
            _add(jobs, [state.site, phase, "firm" if firm else "flexible"], count)
    yield from (nodes, jobs)


def _by_workload(states: list[SiteState]) -> Iterator[Metric]:
    target = _family("site_target_watts", "Ordered power by workload", ["site", "workload"])
    measured = _family("site_measured_watts", "Reported power by workload", ["site", "workload"])
    break_even = _family(
        "site_break_even_usd_per_mwh",
        "Energy price at which the site's best (or worst) hash bank earns nothing",
        ["site", "bank"],
    )
    for state in states:
        if state.nameplate is None:
            continue
        workloads = {bank.id: bank.workload for bank in state.nameplate.banks}
        if state.report is not None:
            watts: Counter[Workload] = Counter()
            for reading in state.report.banks:
                if reading.power_w is not None and reading.id in workloads:
                    watts[workloads[reading.id]] += reading.power_w
            for workload, power_w in watts.items():
                _add(measured, [state.site, workload], power_w)
        if state.decided is not None:
            watts = Counter()
            values: list[float] = []
            for bank in state.decided.decision.banks:
                workload = workloads.get(bank.bank, bank.workload)
                watts[workload] += bank.target_w
                if workload is Workload.HASH and bank.value_usd_per_mwh is not None:
                    values.append(bank.value_usd_per_mwh)
            for workload, power_w in watts.items():
                _add(target, [state.site, workload], power_w)
            _add(break_even, [state.site, "best"], max(values, default=None))
            _add(break_even, [state.site, "worst"], min(values, default=None))
    yield from (target, measured, break_even)


def _by_class(states: list[SiteState]) -> Iterator[Metric]:
    labels = ["site", "workload", "class"]
    target = _family("site_class_target_watts", "Ordered power by class of bank, its model", labels)
    measured = _family("site_class_measured_watts", "Reported power by class of bank, its model", labels)
    for state in states:
        if state.nameplate is None:
            continue
        classes = _classes(state.nameplate)
        watts: Counter[tuple[str, str]] = Counter()
        for reading in state.report.banks if state.report is not None else ():
            if reading.power_w is not None and reading.id in classes:
                watts[classes[reading.id]] += reading.power_w
        for key, power_w in sorted(watts.items()):
            _add(measured, [state.site, *key], power_w)
        watts = Counter()
        for bank in state.decided.decision.banks if state.decided is not None else ():
            if bank.bank in classes:
                watts[classes[bank.bank]] += bank.target_w
        for key, power_w in sorted(watts.items()):
            _add(target, [state.site, *key], power_w)
    yield from (target, measured)


def _classes(plate: Nameplate) -> dict[str, tuple[str, str]]:
    """Workload and class of each bank, by id; the classes of most rated power are told apart."""
    rated: Counter[str] = Counter()
    for bank in plate.banks:
        rated[bank.model] += bank.rated_w
    told = {model for model, _ in rated.most_common(CLASSES_MAX)}
    return {bank.id: (bank.workload, bank.model if bank.model in told else "other") for bank in plate.banks}


def _feeder_watts(states: list[SiteState]) -> Metric:
    family = _family("feeder_watts", "Power of a feeder", ["site", "feeder", "source"])
    for state in states:
        if state.report is not None:
            for reading in state.report.feeders:
                _add(family, [state.site, reading.id, reading.source], reading.power_w)
    return family


def _receipt_states(states: list[SiteState]) -> Metric:
    family = _family("site_receipt_banks", "Banks by the newest state of their receipt", ["site", "state"])
    for state in states:
        for name, count in sorted(Counter(bank.state for bank in list(state.orders.banks.values())).items()):
            _add(family, [state.site, name], count)
    return family


def _shortfalls(states: list[SiteState]) -> Metric:
    family = _family("site_shortfall_watts", "What cannot be met of a limit or obligation, by kind", ["site", "kind"])
    for state in states:
        if state.decided is not None:
            watts: Counter[str] = Counter()
            for short in state.decided.decision.shortfalls:
                watts[short.kind] += short.short_w
            for kind, short_w in sorted(watts.items()):
                _add(family, [state.site, kind], short_w)
    return family


def _conflict(state: SiteState, mono_ms: int) -> float:
    return int(state.conflict_at_ms is not None and mono_ms - state.conflict_at_ms < CONFLICT_ALARM_MS)


def _margin(state: SiteState, _mono_ms: int) -> float | None:
    return None if state.decided is None else state.decided.decision.margin_usd_per_h


def _report_age(state: SiteState, mono_ms: int) -> float | None:
    return None if state.report is None else (mono_ms - state.report_at_ms) / MS_PER_S


def _local(state: SiteState) -> float | None:
    return None if state.report is None else int(state.report.mode is Mode.LOCAL)


_SITE_GAUGES: Final[tuple[tuple[str, str, Callable[[SiteState, int], float | None]], ...]] = (
    ("site_online", "1 while the agent is online", lambda state, _: int(state.online)),
    ("site_local", "1 while a person on site is in charge: orders are refused", lambda state, _: _local(state)),
    ("site_report_age_seconds", "Since the newest report came", _report_age),
    ("site_metered_watts", "Power at the main meter", lambda state, _: state.main_power_w()),
    (
        "site_planned_watts",
        "Power expected at the main meter",
        lambda state, _: None if state.decided is None else state.decided.decision.planned_w,
    ),
    (
        "site_armed_watts",
        "What can be shed of the dispatch at once, at the main meter; while a reserve is awarded",
        lambda state, _: None if state.decided is None else state.decided.decision.armed_w,
    ),
    (
        "site_cap_watts",
        "Tightest cap in force at the main meter",
        lambda state, _: None if state.decided is None else state.decided.decision.cap_w,
    ),
    ("site_margin_usd_per_hour", "Revenue minus energy of the dispatch", _margin),
    ("site_boot_conflict", "1 while two agents act for one site, and ten minutes after", _conflict),
    ("site_fenced", "1 while the agent obeys another controller's higher epoch", lambda state, _: int(state.fenced)),
)


def _family(name: str, text: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"wattshift_{name}", text, labels=labels)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"wattshift_{name}", text, value=value)


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"wattshift_{name}", text, value=value)


def _add(family: GaugeMetricFamily, labels: list[str], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)


def _seconds(age_ms: int | None) -> float | None:
    return None if age_ms is None else age_ms / MS_PER_S
