"""The agent's own metrics, in a registry of its own. Read from the agent when scraped; no series per device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contract.messages import Mode

if TYPE_CHECKING:
    from agent.site import SiteAgent

PREFIX = "wattshift_agent"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def registry_of(agent: SiteAgent) -> CollectorRegistry:
    """A registry that holds this agent's metrics and nothing else."""
    registry = CollectorRegistry()
    registry.register(AgentCollector(agent))
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """The text of /metrics."""
    return generate_latest(registry)


class AgentCollector(Collector):
    """Turns the agent's present state into metric families."""

    def __init__(self, agent: SiteAgent) -> None:
        self._agent = agent

    def collect(self) -> Iterable[Metric]:
        yield from self._loop()
        yield from self._site()
        yield from self._banks()
        yield from self._counters()

    def describe(self) -> Iterable[Metric]:
        return ()

    def _loop(self) -> Iterable[Metric]:
        agent = self._agent
        healthy, _ = agent.health()
        yield _gauge("healthy", "1 while the control loop ticks and speaks for its site", int(healthy))
        yield _gauge("tick_late_seconds", "How late the last control step began", agent.late_ms / 1_000)
        yield _gauge("operations_in_flight", "Device operations at once", agent.machinery.fleet.in_flight)
        first_ms = agent.book.first_action_ms
        if first_ms is not None:
            yield _gauge("first_action_seconds", "The last order's arrival to its first command", first_ms / 1_000)

    def _site(self) -> Iterable[Metric]:
        agent = self._agent
        modes = GaugeMetricFamily(f"{PREFIX}_mode", "1 for the mode the site is in", labels=["mode"])
        for mode in Mode:
            modes.add_metric([str(mode)], int(agent.mode is mode))
        yield modes
        yield _gauge("broker_connected", "1 while the link to the broker stands", int(agent.bus.connected))
        yield _gauge("yielded", "1 while another agent speaks for this site", int(agent.twin.master is not None))
        yield _gauge("epoch", "The highest controller epoch seen", agent.guard_state.epoch)
        left_ms = agent.verdict.lease_left_ms
        if left_ms is not None:
            yield _gauge("lease_left_seconds", "What is left of the lease", left_ms / 1_000)
        power = GaugeMetricFamily(f"{PREFIX}_feeder_power_watts", "Metered power of a feeder", labels=["feeder"])
        derate = GaugeMetricFamily(
            f"{PREFIX}_feeder_derate_watts", "What overloads have taken off a feeder's limit", labels=["feeder"]
        )
        for name, facts, state in zip(
            agent.plan.tree.ids, agent.measure.facts.feeders, agent.guard_state.feeders, strict=True
        ):
            if facts.power_w is not None:
                power.add_metric([name], facts.power_w)
            derate.add_metric([name], state.derate_w)
        yield power
        yield derate
        gauges = GaugeMetricFamily(f"{PREFIX}_gauge_ok", "1 where a meter or sensor answers", labels=["gauge"])
        for name, gauge in agent.machinery.gauges.by_name.items():
            gauges.add_metric([name], int(gauge.failure is None and gauge.value is not None and not gauge.frozen))
        yield gauges

    def _banks(self) -> Iterable[Metric]:
        agent = self._agent
        setpoint = GaugeMetricFamily(f"{PREFIX}_bank_setpoint_watts", "What a bank is held at", labels=["bank"])
        power = GaugeMetricFamily(f"{PREFIX}_bank_power_watts", "Power of a bank", labels=["bank", "source"])
        hashrate = GaugeMetricFamily(f"{PREFIX}_bank_hashrate_ghs", "Hashrate of a bank", labels=["bank"])
        devices = GaugeMetricFamily(f"{PREFIX}_bank_devices", "Devices of a bank by state", labels=["bank", "state"])
        interlock = GaugeMetricFamily(f"{PREFIX}_bank_interlock", "1 while a local trip holds", labels=["bank", "kind"])
        unmet = GaugeMetricFamily(f"{PREFIX}_bank_unmet_devices", "Devices not at their target", labels=["bank"])
        for limits, hold, seen in zip(agent.plan.banks, agent.verdict.banks, agent.measure.banks, strict=True):
            name = limits.id
            if hold.setpoint_w is not None:
                setpoint.add_metric([name], hold.setpoint_w)
            if seen.power.power_w is not None:
                power.add_metric([name, str(seen.power.source)], seen.power.power_w)
            if seen.survey.hashrate_ghs is not None:
                hashrate.add_metric([name], seen.survey.hashrate_ghs)
            for state, count in seen.survey.counts.model_dump().items():
                devices.add_metric([name, state], count)
            for lock in hold.interlocks:
                interlock.add_metric([name, str(lock.kind)], 1)
            unmet.add_metric([name], seen.survey.tally.unmet)
        yield from (setpoint, power, hashrate, devices, interlock, unmet)

    def _counters(self) -> Iterable[Metric]:
        agent = self._agent
        fleet, stats = agent.machinery.fleet, agent.bus.stats
        events = CounterMetricFamily(
            f"{PREFIX}_events", "Orders, messages and losses of the link", labels=["what", "outcome"]
        )
        for (what, outcome), count in sorted(agent.events.items()):
            events.add_metric([what, outcome], count)
        polls = CounterMetricFamily(f"{PREFIX}_polls", "Device readings by outcome", labels=["outcome"])
        for outcome, count in sorted(fleet.polls.items()):
            polls.add_metric([str(outcome)], count)
        commands = CounterMetricFamily(
            f"{PREFIX}_commands", "Commands by action and outcome", labels=["action", "outcome"]
        )
        counted = fleet.commands.copy()
        for bank in agent.machinery.hpc_banks:
            counted.update(bank.commands)
        for (action, outcome), count in sorted(counted.items()):
            commands.add_metric([action, outcome], count)
        saves = CounterMetricFamily(f"{PREFIX}_state_saves", "State saves by outcome", labels=["outcome"])
        for outcome, count in sorted(agent.saves.items()):
            saves.add_metric([outcome], count)
        schedulers = CounterMetricFamily(
            f"{PREFIX}_scheduler_faults", "What a partition's driver put up with, by kind", labels=["bank", "kind"]
        )
        for bank in agent.machinery.hpc_banks:
            for kind, count in sorted(bank.faults.items()):
                schedulers.add_metric([bank.name, str(kind)], count)
        yield from (events, polls, commands, saves, schedulers)
        yield _counter("driver_faults", "Drivers that raised or did not end", agent.machinery.contain.faults)
        yield _counter("state_save_failures", "Saves that the disk refused", agent.store.failures)
        yield _counter("twin_messages", "Messages of another living agent of this site", agent.twin.seen)
        yield _counter("bus_connects", "Connections made to the broker", stats.connects)
        yield _counter("bus_published", "Messages published", stats.published)
        yield _counter("bus_publish_dropped", "Messages dropped instead of published", stats.publish_dropped)
        yield _counter("bus_received", "Messages received", stats.received)
        yield _counter("bus_receive_dropped", "Messages dropped unread", stats.receive_dropped)


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text)
    family.add_metric([], value)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text)
    family.add_metric([], value)
    return family
