"""Only what is ours is undone: holds and stops of others stay, also over a restart and over answers that were lost."""

from __future__ import annotations

import asyncio
import logging

import pytest

from agent.drivers.base import Applied, Refused, Unreachable
from sim.clock import LoopClock
from sim.devices.slurmrestd import BACKLOG_S, SlurmFault
from sim.jobs import JobPhase
from sim.ports import DeviceFault
from tests.agent.drivers.schedulers.rest_world import (
    DEADLINE_S,
    FROZEN,
    PENDING,
    RUNNING,
    START_MS,
    in_virtual_time,
    spec,
    virtual,
)


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


class SteppedClock(LoopClock):
    """A wall clock that somebody sets."""

    stepped_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.stepped_ms


def test_a_job_frozen_under_a_wrong_clock_keeps_what_it_has_left_when_the_clock_is_right_again() -> None:
    async def main() -> None:
        async with virtual(spec("1"), spec("2")) as rig:
            clock = SteppedClock(START_MS)
            await rig.driver.close()
            rig.clock = clock
            rig.driver = rig.new_driver()
            await rig.driver.freeze(["1"])
            await rig.facts()
            left_ms = {job.id: job.remaining_ms for job in (await rig.facts()).jobs}
            clock.stepped_ms = 3_157_000
            await rig.driver.freeze(["2"])
            await rig.facts()
            await asyncio.sleep(300)
            clock.stepped_ms = 0
            found = {job.id: job.remaining_ms for job in (await rig.facts()).jobs}
            for job, before_ms in left_ms.items():
                after_ms = found[job]
                assert before_ms is not None
                assert after_ms is not None
                assert abs(after_ms - before_ms) <= 2_000, job

    in_virtual_time(main())
