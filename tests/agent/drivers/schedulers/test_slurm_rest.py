"""The driver against the simulated slurmrestd, over TCP and a Unix socket on the real loop, and in virtual time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.drivers.base import Applied, Failure, Partition, PartitionFacts, Refused, Remembers, Unreachable
from agent.drivers.schedulers import REGISTRY
from agent.drivers.schedulers._slurm_ledger import DOUBT_S
from agent.drivers.schedulers._slurm_partition import BATCH_DEADLINES, SlurmPartition
from agent.drivers.schedulers.slurm_rest import rest_partition
from contract.clock import Clock
from contract.messages import JobState
from sim.clock import LoopClock
from sim.devices.slurmrestd import BACKLOG_S, JOBS_APART, SlurmFault, SlurmRestServer
from sim.jobs import JobPhase, JobRun, JobSpec
from sim.partition import HpcPartition, PartitionPlan
from sim.ports import DeviceFault
from sim.virtual import run_virtual, virtual_loop

START_MS = 1_795_000_000_000
DEADLINE_S = 2.0
SOCKET = "/slurmrestd.sock"
RUNNING, FROZEN, PENDING = JobState.RUNNING, JobState.FROZEN, JobState.PENDING


def spec(name: str, nodes: int = 1, **more: Any) -> JobSpec:
    shape: dict[str, Any] = {"work_s": 3_600.0, "requested_s": 7_200.0, "firm": False, "value_usd_per_node_h": 2.5}
    return JobSpec(name, START_MS, nodes, **(shape | more))


class Rig:
    """A partition of four nodes, its slurmrestd, and drivers that come and go."""

    def __init__(
        self, *specs: JobSpec, url: str, server: SlurmRestServer | None = None, clock: Clock | None = None
    ) -> None:
        self.clock = clock or LoopClock(START_MS)
        self.partition = HpcPartition(PartitionPlan("gpu", "feeder", "hall", 4), START_MS)
        for one in specs:
            self.partition.submit(one)
        self.server = server or SlurmRestServer(self.partition)
        self.url = url
        self.driver = self.new_driver()

    def new_driver(self, *, deadline_s: float = DEADLINE_S, **options: Any) -> SlurmPartition:
        shape = {"url": self.url, "partition": "gpu", "node_busy_w": 900, "node_idle_w": 220}
        driver = REGISTRY["slurm_rest"](shape | options, deadline_s=deadline_s, clock=self.clock)
        assert isinstance(driver, SlurmPartition)
        return driver

    async def restart_agent(self) -> None:
        """A new driver with nothing but what the old one asked to have kept."""
        kept = json.loads(json.dumps(self.driver.memory))
        await self.driver.close()
        self.driver = self.new_driver()
        self.driver.memory = kept

    async def facts(self) -> PartitionFacts:
        read = await self.driver.read()
        assert isinstance(read, PartitionFacts), read
        return read

    async def states(self) -> dict[str, JobState]:
        return {job.id: job.state for job in (await self.facts()).jobs}

    def job(self, name: str) -> JobRun:
        run = self.partition.job(name)
        assert run is not None
        return run

    def commands(self) -> list[str]:
        return [command.command for command in self.server.log.since(0)]


@asynccontextmanager
async def virtual(*specs: JobSpec) -> AsyncIterator[Rig]:
    rig = Rig(*specs, url=f"unix:{SOCKET}")
    await rig.server.start_unix(SOCKET)
    yield rig
    await rig.driver.close()
    await rig.server.stop()


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    run_virtual(main, seed=3)


@pytest.mark.parametrize("over", ["tcp", "unix", "virtual tcp", "virtual unix"])
def test_a_partition_is_read_frozen_thawed_and_closed_over_each_transport(over: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "s.sock") if over == "unix" else SOCKET
        rig = Rig(spec("1", 2, firm=True), spec("2", 1), spec("3", 3), url=f"unix:{path}")
        if over.endswith("tcp"):
            rig.url = f"http://127.0.0.1:{await rig.server.start()}"
            rig.driver = rig.new_driver()
        else:
            await rig.server.start_unix(path)
        assert isinstance(rig.driver, Remembers)
        driver: Partition = rig.driver
        found = await rig.facts()
        assert (found.nodes_up, found.nodes_busy, found.admitting) == (4, 3, True)
        assert {job.id: (job.state, job.power_w, job.firm) for job in found.jobs} == {
            "1": (RUNNING, 1_360, True),
            "2": (RUNNING, 680, False),
            "3": (PENDING, 2_040, False),
        }
        assert await driver.freeze(["1", "2"]) == {"1": Applied(), "2": Applied()}
        assert rig.job("1").phase is JobPhase.FROZEN
        assert await rig.states() == {"1": FROZEN, "2": FROZEN, "3": PENDING}
        assert (await rig.facts()).nodes_busy == 3, "a frozen job keeps its nodes"
        assert await driver.thaw(["1", "2"]) == {"1": Applied(), "2": Applied()}
        assert await rig.states() == {"1": RUNNING, "2": RUNNING, "3": PENDING}
        assert await driver.set_admission(False) == Applied()
        assert rig.job("3").held
        assert not (await rig.facts()).admitting
        assert await driver.set_admission(True) == Applied()
        assert not rig.job("3").held
        assert (await rig.facts()).admitting
        await driver.close()
        await driver.close()
        await rig.server.stop()

    if over.startswith("virtual"):
        run_virtual(main())
    else:
        asyncio.run(main())


# -- only what is ours is undone ---------------------------------------------------------------------------------------


def test_an_operators_hold_stays_as_found_also_over_a_restart() -> None:
    async def main() -> None:
        async with virtual(spec("1", 4), spec("2"), spec("3")) as rig:
            rig.partition.hold("2")
            await rig.driver.set_admission(False)
            assert (rig.job("2").held, rig.job("3").held) == (True, True)
            assert await rig.states() == {"1": RUNNING, "3": PENDING}
            await rig.restart_agent()
            assert not (await rig.facts()).admitting
            assert await rig.driver.set_admission(True) == Applied()
            assert (rig.job("2").held, rig.job("3").held) == (True, False)

    in_virtual_time(main())


def test_a_job_that_somebody_else_stopped_is_neither_reported_nor_woken(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with virtual(spec("1"), spec("2")) as rig:
            rig.partition.freeze("1")
            assert await rig.states() == {"2": RUNNING}
            assert await rig.states() == {"2": RUNNING}
            await rig.driver.freeze(["1", "2"])
            assert rig.commands() == ["DELETE job/2 signal=STOP"]
            await rig.restart_agent()
            assert await rig.states() == {"2": FROZEN}
            outcomes = await rig.driver.thaw(["1", "2"])
            assert isinstance(outcomes["1"], Refused)
            assert outcomes["2"] == Applied()
            assert (rig.job("1").phase, rig.job("2").phase) == (JobPhase.FROZEN, JobPhase.RUNNING)

    caplog.set_level(logging.INFO, "agent")
    in_virtual_time(main())
    said = [record.message for record in caplog.records if "left as found" in record.message]
    assert len(said) == 2, "once by each incarnation, not once a tick"


def test_a_job_that_an_operator_woke_is_no_longer_ours() -> None:
    async def main() -> None:
        async with virtual(spec("1")) as rig:
            await rig.driver.freeze(["1"])
            assert await rig.states() == {"1": FROZEN}
            rig.partition.thaw("1")
            assert await rig.states() == {"1": RUNNING}
            rig.partition.freeze("1")
            assert await rig.states() == {}
            await rig.driver.thaw(["1"])
            assert rig.job("1").phase is JobPhase.FROZEN

    in_virtual_time(main())


def test_a_frozen_job_is_thawed_by_the_next_incarnation() -> None:
    async def main() -> None:
        async with virtual(spec("1", 2), spec("2", 2)) as rig:
            await rig.driver.freeze(["1", "2"])
            await rig.restart_agent()
            assert await rig.states() == {"1": FROZEN, "2": FROZEN}
            await rig.restart_agent()
            assert await rig.driver.thaw(["1", "2"]) == {"1": Applied(), "2": Applied()}
            assert await rig.states() == {"1": RUNNING, "2": RUNNING}

    in_virtual_time(main())


def test_a_freeze_whose_answer_was_lost_is_ours_to_thaw() -> None:
    async def main() -> None:
        async with virtual(spec("1")) as rig:
            await rig.facts()
            rig.server.latency_s = 2 * DEADLINE_S
            outcome = (await rig.driver.freeze(["1"]))["1"]
            assert isinstance(outcome, Unreachable)
            assert rig.job("1").phase is JobPhase.FROZEN, "it was done all the same"
            rig.server.latency_s = 0.0
            await rig.restart_agent()
            assert await rig.states() == {"1": FROZEN}
            await rig.driver.thaw(["1"])
            assert rig.job("1").phase is JobPhase.RUNNING

    in_virtual_time(main())


def test_commands_that_come_into_force_after_they_were_given_up_are_ours_to_undo() -> None:
    async def main() -> None:
        async with virtual(spec("1", 4), spec("2")) as rig:
            await rig.facts()
            rig.server.fault = SlurmFault.BACKLOG
            assert isinstance((await rig.driver.freeze(["1"]))["1"], Unreachable)
            assert isinstance(await rig.driver.set_admission(False), Unreachable)
            assert await rig.states() == {"1": RUNNING, "2": PENDING}, "nothing has come of it yet"
            await asyncio.sleep(BACKLOG_S)
            assert await rig.states() == {"1": FROZEN, "2": PENDING}
            assert rig.job("2").held
            rig.server.fault = None
            await rig.driver.thaw(["1"])
            assert await rig.driver.set_admission(True) == Applied()
            assert (rig.job("1").phase, rig.job("2").held) == (JobPhase.RUNNING, False)

    in_virtual_time(main())


def test_a_release_that_slurm_only_said_it_did_is_repeated() -> None:
    async def main() -> None:
        async with virtual(spec("1", 4), spec("2")) as rig:
            await rig.driver.set_admission(False)
            rig.server.fault = DeviceFault.OK_BUT_NOTHING
            assert await rig.driver.set_admission(True) == Applied()
            rig.server.fault = None
            assert await rig.states() == {"1": RUNNING, "2": PENDING}
            assert not rig.job("2").held

    in_virtual_time(main())


# -- the course of a day -----------------------------------------------------------------------------------------------


def test_jobs_that_come_while_admission_is_closed_are_held_at_the_next_call() -> None:
    async def main() -> None:
        async with virtual(spec("1", 4), spec("2")) as rig:
            assert await rig.driver.set_admission(False) == Applied()
            rig.partition.submit(spec("3"))
            assert (await rig.facts()).admitting, "job 3 could start now, whatever we closed before"
            assert await rig.driver.set_admission(False) == Applied()
            assert not (await rig.facts()).admitting
            assert rig.commands() == ['POST job/2 {"hold":true}', 'POST job/3 {"hold":true}'], "each once"

    in_virtual_time(main())


def test_a_job_that_ended_between_reading_and_freezing_counts_as_done() -> None:
    async def main() -> None:
        async with virtual(spec("1"), spec("2")) as rig:
            assert await rig.states() == {"1": RUNNING, "2": RUNNING}
            rig.partition.cancel("1")
            outcomes = await rig.driver.freeze(["1", "2", "777"])
            assert all(isinstance(outcome, Applied) for outcome in outcomes.values()), outcomes
            assert await rig.states() == {"2": FROZEN}
            assert json.loads(rig.driver.memory["ledger"])["frozen"].keys() == {"2"}
            rig.partition.cancel("2")
            assert isinstance((await rig.driver.thaw(["2"]))["2"], Applied)

    in_virtual_time(main())


def test_a_job_that_waits_cannot_be_frozen_and_is_not_mistaken_for_ours() -> None:
    async def main() -> None:
        async with virtual(spec("1", 4), spec("2")) as rig:
            outcome = (await rig.driver.freeze(["2"]))["2"]
            assert isinstance(outcome, Refused)
            assert "try again later" in outcome.detail
            await asyncio.sleep(DOUBT_S)
            assert await rig.states() == {"1": RUNNING, "2": PENDING}
            rig.partition.cancel("1")
            rig.partition.freeze("2")
            assert await rig.states() == {}, "an operator's"

    in_virtual_time(main())


def test_freezing_and_thawing_twice_is_as_once() -> None:
    async def main() -> None:
        async with virtual(spec("1"), spec("2")) as rig:
            for outcome in await asyncio.gather(rig.driver.freeze(["1", "1"]), rig.driver.freeze(["1"])):
                assert outcome == {"1": Applied()}
            assert await rig.states() == {"1": FROZEN, "2": RUNNING}
            assert await rig.driver.thaw(["1"]) == {"1": Applied()}
            assert isinstance((await rig.driver.thaw(["1", "2"]))["2"], Applied)
            assert await rig.states() == {"1": RUNNING, "2": RUNNING}
            assert "DELETE job/2 signal=CONT" not in rig.commands(), "a job we did not stop is not signalled"

    in_virtual_time(main())


def test_names_that_are_no_jobs_reach_no_server() -> None:
    async def main() -> None:
        async with virtual() as rig:
            names = ["", "x", "1;2", "../nodes", "1_", "-5", "٣"]
            outcomes = await rig.driver.freeze(names)
            assert set(outcomes) == set(names)
            assert all(isinstance(outcome, Refused) for outcome in outcomes.values())
            assert rig.server.requests == 0

    in_virtual_time(main())


def test_a_frozen_jobs_time_limit_waits_for_it() -> None:
    async def main() -> None:
        async with virtual(spec("1", requested_s=3_000.0)) as rig:
            await rig.driver.freeze(["1"])
            left_ms = (await rig.facts()).jobs[0].remaining_ms
            assert left_ms == 3_000_000
            assert 'POST job/1 {"time_limit":1490}' in rig.commands(), "fifty minutes, and a day more to be frozen in"
            await asyncio.sleep(1_800)
            assert (await rig.facts()).jobs[0].remaining_ms == left_ms
            await rig.driver.thaw(["1"])
            await rig.facts()
            assert rig.commands()[-1] == 'POST job/1 {"time_limit":80}', (
                "fifty minutes, and the thirty that it stood still"
            )
            before = rig.server.log.seq
            left_ms = (await rig.facts()).jobs[0].remaining_ms
            assert left_ms is not None
            assert 2_999_000 < left_ms <= 3_000_000
            assert rig.server.log.seq == before

    in_virtual_time(main())


def test_a_site_may_keep_time_limits_as_they_are() -> None:
    async def main() -> None:
        async with virtual(spec("1", requested_s=3_600.0)) as rig:
            rig.driver = rig.new_driver(extend_limits=False)
            await rig.driver.freeze(["1"])
            await rig.facts()
            await rig.driver.thaw(["1"])
            await rig.facts()
            assert rig.commands() == ["DELETE job/1 signal=STOP", "DELETE job/1 signal=CONT"]

    in_virtual_time(main())


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (DeviceFault.HANG, Failure.TIMEOUT),
        (DeviceFault.SLOW, Failure.TIMEOUT),
        (DeviceFault.REFUSE_CONNECTION, Failure.CLOSED),
        (DeviceFault.GARBAGE, Failure.GARBAGE),
        (DeviceFault.CUT_SHORT, Failure.CLOSED),
        (DeviceFault.NAN, Failure.GARBAGE),
        (SlurmFault.MALFORMED_JSON, Failure.GARBAGE),
        (SlurmFault.CONTROLLER_DOWN, Failure.TIMEOUT),
        (SlurmFault.BAD_TOKEN, Failure.AUTH),
    ],
)
def test_every_fault_is_an_outcome_within_the_deadline_and_said_once(
    fault: DeviceFault | SlurmFault, failure: Failure, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with virtual(spec("1", 2), spec("2", 2), spec("3")) as rig:
            await rig.facts()
            rig.server.fault = fault
            for _ in range(3):
                began_s = virtual_loop().time()
                read = await rig.driver.read()
                assert isinstance(read, Unreachable), fault
                assert read.failure is failure
                assert virtual_loop().time() - began_s <= DEADLINE_S + 0.01
            outcomes = [*(await rig.driver.freeze(["1", "2"])).values(), await rig.driver.set_admission(False)]
            if fault is not DeviceFault.NAN:
                assert {type(outcome) for outcome in outcomes} == {Unreachable}
            rig.server.fault = None
            assert set(await rig.states()) == {"1", "2", "3"}, "and it heals"

    caplog.set_level(logging.INFO, "agent")
    in_virtual_time(main())
    about = [record.message for record in caplog.records if "read" in record.message]
    assert len(about) == 2, "one line as it fails, one as it is well again"
    assert "cannot be read" in about[0]
    assert "read again" in about[1]


def test_nobody_listening_is_unreachable(tmp_path: Path) -> None:
    async def main() -> None:
        for url in (f"unix:{tmp_path}/none.sock", "http://127.0.0.1:9"):
            driver = Rig(url=url).driver
            read = await driver.read()
            assert isinstance(read, Unreachable)
            assert read.failure is Failure.CONNECT
            await driver.close()

    asyncio.run(main())


def test_a_slurmctld_that_slurmrestd_gives_up_on_is_not_taken_for_a_bad_token() -> None:
    async def main() -> None:
        async with virtual(spec("1")) as rig:
            rig.driver = rig.new_driver(deadline_s=12.0)
            rig.server.fault = SlurmFault.CONTROLLER_DOWN
            read = await rig.driver.read()
            frozen = (await rig.driver.freeze(["1"]))["1"]
            assert isinstance(read, Unreachable)
            assert isinstance(frozen, Unreachable)
            assert (read.failure, frozen.failure) == (Failure.CONNECT, Failure.CONNECT)

    in_virtual_time(main())


def test_a_thousand_commands_to_a_server_that_hangs_end_within_a_few_deadlines() -> None:
    async def main() -> None:
        async with virtual(spec("1")) as rig:
            rig.server.fault = DeviceFault.HANG
            names = [str(number) for number in range(1, 1_001)]
            began_s = virtual_loop().time()
            outcomes = await rig.driver.freeze(names)
            assert virtual_loop().time() - began_s <= BATCH_DEADLINES * DEADLINE_S + 0.01
            assert list(outcomes) == names
            assert {type(outcome) for outcome in outcomes.values()} == {Unreachable}

    in_virtual_time(main())


def test_a_yes_without_a_deed_and_a_no_with_one_are_seen_through_at_the_next_reading() -> None:
    async def main() -> None:
        async with virtual(spec("1"), spec("2"), spec("3", 4)) as rig:
            rig.server.fault = DeviceFault.OK_BUT_NOTHING
            assert await rig.driver.freeze(["1"]) == {"1": Applied()}
            assert await rig.driver.set_admission(False) == Applied()
            assert (await rig.facts()).admitting
            assert await rig.states() == {"1": RUNNING, "2": RUNNING, "3": PENDING}
            rig.server.fault = DeviceFault.NO_BUT_DOES
            assert isinstance((await rig.driver.freeze(["2"]))["2"], Refused)
            assert isinstance(await rig.driver.set_admission(False), Refused)
            assert not (await rig.facts()).admitting
            assert await rig.states() == {"1": RUNNING, "2": FROZEN, "3": PENDING}
            rig.server.fault = None
            await rig.driver.thaw(["2"])
            await rig.driver.set_admission(True)
            assert (rig.job("2").phase, rig.job("3").held) == (JobPhase.RUNNING, False)

    in_virtual_time(main())


def test_a_token_is_sent_is_read_anew_and_its_absence_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        token_file = tmp_path / "token"
        partition = HpcPartition(PartitionPlan("gpu", "feeder", "hall", 4), START_MS)
        server = SlurmRestServer(partition, token="right")
        rig = Rig(url=f"http://127.0.0.1:{await server.start()}", server=server)
        none, driver = rig.driver, rig.new_driver(user="slurm", token_file=token_file)

        async def failure(of: SlurmPartition) -> Failure | None:
            read = await of.read()
            return read.failure if isinstance(read, Unreachable) else None

        assert await failure(none) is Failure.AUTH
        asked = server.requests
        assert await failure(driver) is Failure.AUTH, "there is no file"
        for text in ("", "two words", "line\nline", "\N{SNOWMAN}"):
            token_file.write_text(text, encoding="utf-8")
            assert await failure(driver) is Failure.AUTH
            assert isinstance((await driver.freeze(["1"]))["1"], Unreachable)
        assert server.requests == asked, "nothing is sent without a token"
        token_file.write_text("wrong\n")
        assert await failure(driver) is Failure.AUTH
        token_file.write_text("SLURM_JWT=right\n")
        assert await failure(driver) is None
        for one in (none, driver):
            await one.close()
        await server.stop()

    asyncio.run(main())


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_partitions_of_one_slurmrestd_share_a_listing_and_a_session() -> None:
    async def main() -> None:
        plans = [PartitionPlan(name, "feeder", "hall", 4) for name in ("gpu", "cpu")]
        partitions = [HpcPartition(plan, START_MS) for plan in plans]
        for partition in partitions:
            partition.submit(spec("1", 2))
        server = SlurmRestServer(partitions)
        await server.start_unix(SOCKET)
        rig = Rig(url=f"unix:{SOCKET}", server=server)
        gpu, cpu = rig.driver, rig.new_driver(partition="cpu")
        reads = await asyncio.gather(gpu.read(), cpu.read())
        assert server.requests == 3, "jobs, nodes and partitions, once"
        names = [[job.id for job in read.jobs] for read in reads if isinstance(read, PartitionFacts)]
        assert names == [["1"], [str(JOBS_APART + 1)]]
        await gpu.read()
        assert server.requests == 6, "the same driver asks for something newer"
        await cpu.freeze([str(JOBS_APART + 1)])
        found = await cpu.read()
        assert isinstance(found, PartitionFacts)
        assert [job.state for job in found.jobs] == [FROZEN], "and never sees what is older than its own command"
        await gpu.close()
        assert isinstance(await cpu.read(), PartitionFacts), "the other goes on"
        await cpu.close()
        await server.stop()
        assert virtual_loop().network.connection_count == 0

    in_virtual_time(main())


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://host"},
        {"url": "http://"},
        {"url": "http://host:99999"},
        {"url": "http://host:0"},
        {"url": "unix:relative"},
        {"partition": ""},
        {"user": "a\nb"},
        {"node_busy_w": 0},
        {"node_idle_w": 901},
        {"values": {"by_qos": {"x": float("nan")}}},
        {"colour": "blue"},
    ],
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    right = {"url": "http://host:6820", "partition": "gpu", "node_busy_w": 900, "node_idle_w": 220}
    run_virtual(_accepts(right))
    with pytest.raises(ValidationError):
        run_virtual(_accepts(right | wrong))


async def _accepts(options: dict[str, Any]) -> None:
    rest_partition(options, deadline_s=1.0, clock=LoopClock(START_MS))
