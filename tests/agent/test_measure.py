"""What is measured, put together: the best source first, and what a meter leaves for devices that cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from agent.bank import Survey
from agent.compiled import guard_plan
from agent.config import AgentConfig
from agent.contain import Containment
from agent.drivers.base import Applied, Failure, MeterReading, Outcome, PartitionFacts, Unreachable
from agent.gauges import Gauge
from agent.job_ladder import Nodes
from agent.measure import Measure, Measurer
from agent.partition import HpcBank
from agent.site import JOBS_TOLD
from contract.messages import MAX_PAYLOAD_BYTES, DeviceCounts, Job, JobState, Source
from sim.clock import LoopClock
from sim.virtual import run_virtual

NOW = 100_000


class Still:
    """A meter behind its Protocol that is never asked here."""

    async def read(self) -> MeterReading | Unreachable:
        return Unreachable(Failure.TIMEOUT)

    async def close(self) -> None:
        return None


class Hall:
    """Banks a and b on rows of their own, both under the main; meters as asked."""

    def __init__(self, *meters: str, base_load_w: int = 0) -> None:
        bank = {"driver": "luxos", "device_rated_w": 1_000, "device_hashrate_ghs": 1}
        feeders = {"main": None, "row-a": "main", "row-b": "main"}
        tables = {
            "site": {"id": "north", "base_load_w": base_load_w},
            "mqtt": {"host": "x"},
            "feeders": {
                name: {"limit_w": 10**6}
                | ({"parent": parent} if parent else {})
                | ({"meter": name} if name in meters else {})
                for name, parent in feeders.items()
            },
            "meters": {name: {"driver": "x", "host": "x"} for name in meters},
            "banks": {
                "a": bank | {"feeder": "row-a", "devices": ["10.0.0.1-10.0.0.10"]},
                "b": bank | {"feeder": "row-b", "devices": ["10.0.1.1-10.0.1.10"]},
            },
        }
        config = AgentConfig.model_validate(tables)
        self.gauges = {f"meters.{name}": Gauge(f"meters.{name}", 1.0, meter=Still()) for name in meters}
        self.measurer = Measurer(config, guard_plan(config), self.gauges)

    def show(self, meter: str, power_w: int, read_ms: int = NOW) -> None:
        self.gauges[f"meters.{meter}"].take(power_w, read_ms)

    def measure(self, a: Survey, b: Survey, now_ms: int = NOW) -> Measure:
        return self.measurer.measure([a, b], now_ms)


def survey(power_w: int, unread: int = 0, source: Source = Source.DEVICES) -> Survey:
    """A bank whose read devices draw `power_w`, with `unread` devices of 1 kW that cannot be read."""
    return Survey(
        counts=DeviceCounts(unreachable=unread),
        power_w=power_w,
        upper_w=power_w + 1_000 * unread,
        source=source,
        claimed_w=power_w if source is Source.DEVICES else None,
        read_ms=NOW - 3_000,
        unread_w=1_000 * unread,
    )


def test_a_feeder_that_carries_one_bank_alone_is_its_meter() -> None:
    hall = Hall("row-a", "main")
    hall.show("row-a", 7_000)
    hall.show("main", 12_000)
    a, b = hall.measure(survey(6_000), survey(5_000)).banks
    assert (a.power.power_w, a.power.source) == (7_000, Source.METER)
    assert (b.power.power_w, b.power.source) == (5_000, Source.DEVICES)


def test_a_stale_meter_gives_way_to_the_devices() -> None:
    hall = Hall("row-a")
    hall.show("row-a", 7_000, NOW - 10_001)
    a, _ = hall.measure(survey(6_000), survey(5_000)).banks
    assert (a.power.power_w, a.power.source) == (6_000, Source.DEVICES)


def test_a_meter_that_feeds_back_reads_as_nothing_drawn() -> None:
    hall = Hall("row-a")
    hall.show("row-a", -40)
    assert hall.measure(survey(0), survey(0)).banks[0].power.power_w == 0


def test_without_a_meter_unread_devices_count_in_full() -> None:
    seen = Hall().measure(survey(6_000, unread=2), survey(5_000))
    assert seen.banks[0].unread_w is None
    assert seen.banks[0].counted_unread_w == 2_000
    assert seen.facts.banks[0].upper_w == 8_000


@pytest.mark.parametrize(("shown", "left"), [(6_000, 0), (7_500, 1_500), (90_000, 84_000), (5_000, 0)])
def test_a_banks_own_meter_leaves_what_the_read_devices_do_not_draw(shown: int, left: int) -> None:
    hall = Hall("row-a")
    hall.show("row-a", shown)
    a, _ = hall.measure(survey(6_000, unread=2), survey(5_000)).banks
    assert a.unread_w == left
    assert a.counted_unread_w == min(left, 2_000)


def test_the_mains_meter_leaves_what_nothing_known_behind_it_draws() -> None:
    hall = Hall("main", "row-b", base_load_w=300)
    hall.show("main", 6_000 + 5_500 + 300 + 700)
    hall.show("row-b", 5_500)
    seen = hall.measure(survey(6_000, unread=2), survey(5_000, unread=1))
    assert seen.banks[0].unread_w == 700, "b counts as metered, not as its devices say"
    assert seen.facts.banks[0].upper_w == 6_700


def test_a_bank_of_which_nothing_is_read_is_bounded_by_its_meter_too() -> None:
    hall = Hall("row-a")
    hall.show("row-a", 900)
    dark = Survey(counts=DeviceCounts(unreachable=10), unread_w=10_000)
    a, _ = hall.measure(dark, survey(0)).banks
    assert (a.unread_w, a.counted_unread_w) == (900, 900)


def test_a_meter_is_frozen_only_after_its_devices_have_moved_and_stayed() -> None:
    hall = Hall("row-a")
    gauge = hall.gauges["meters.row-a"]

    def at(second: int, devices_w: int) -> bool:
        hall.show("row-a", 6_000, NOW + 1_000 * second)
        hall.measure(survey(devices_w), survey(0), NOW + 1_000 * second)
        return gauge.frozen

    assert not any(at(second, 6_000) for second in range(60))
    assert not any(at(second, 100) for second in range(60, 75)), "devices may be ahead of it"
    assert any(at(second, 100) for second in range(75, 80))
    hall.show("row-a", 6_001, NOW + 81_000)
    assert not gauge.frozen


def test_devices_that_fall_silent_do_not_make_their_meter_look_frozen() -> None:
    """What is assumed of them may be far from what they drew: only what devices say speaks against a meter."""
    hall = Hall("row-a")
    silent = Survey(
        counts=DeviceCounts(running=1, unreachable=2), power_w=9_000, upper_w=9_000, source=Source.MODEL, unread_w=6_000
    )
    for second in range(120):
        hall.show("row-a", 2_000, NOW + 1_000 * second)
        hall.measure(survey(2_000) if second < 60 else silent, survey(0), NOW + 1_000 * second)
    assert not hall.gauges["meters.row-a"].frozen


def test_only_a_meter_or_a_scheduler_says_what_a_bank_draws_for_sure() -> None:
    hall = Hall("row-a")
    hall.show("row-a", 7_000)
    a, b = hall.measure(survey(6_000), survey(5_000)).facts.banks
    assert (a.known_w, b.known_w) == (7_000, None)


class Queue:
    """A scheduler with a queue far longer than one message."""

    async def read(self) -> PartitionFacts | Unreachable:
        waiting = [
            Job(id=str(10**9 + n), state=JobState.PENDING, nodes=1, power_w=900, value_usd_per_node_h=1.0)
            for n in range(9_990)
        ]
        running = [
            Job(id=str(n), state=JobState.RUNNING, nodes=1, power_w=900, value_usd_per_node_h=1.0) for n in range(10)
        ]
        return PartitionFacts(nodes_up=10, nodes_busy=10, admitting=True, jobs=(*waiting, *running))

    async def set_admission(self, admitting: bool) -> Outcome:
        return Applied()

    async def freeze(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        return {job: Applied() for job in jobs}

    async def thaw(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        return {job: Applied() for job in jobs}

    async def close(self) -> None:
        return None


def test_of_a_long_queue_what_draws_power_is_told_and_the_head_of_what_waits() -> None:
    async def story() -> None:
        clock = LoopClock(0)
        bank = HpcBank(
            "gpu",
            Queue(),
            Nodes(10, 1_000, 100),
            deadline_s=1.0,
            stale_ms=15_000,
            settle_ms=20_000,
            clock=clock,
            contain=Containment(),
            on_change=lambda: None,
        )
        run = asyncio.get_running_loop().create_task(bank.run())
        bank.look()
        await asyncio.sleep(1)
        told = bank.reading(clock.mono_ms(), JOBS_TOLD)
        assert told is not None
        assert len(told.jobs) == JOBS_TOLD
        assert [job.state for job in told.jobs[:11]] == [JobState.RUNNING] * 10 + [JobState.PENDING]
        assert len(told.model_dump_json()) < MAX_PAYLOAD_BYTES * 0.6
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    run_virtual(story())
