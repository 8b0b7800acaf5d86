"""The course of a day: jobs come, end, wait and reach their time limits while they are frozen and thawed."""

from __future__ import annotations

import asyncio
import json

from agent.drivers.base import Applied, Refused
from agent.drivers.schedulers._slurm_ledger import DOUBT_S
from tests.agent.drivers.schedulers.rest_world import FROZEN, PENDING, RUNNING, in_virtual_time, spec, virtual


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
