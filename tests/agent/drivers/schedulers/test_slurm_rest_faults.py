"""What slurmrestd and slurmctld do wrong is an outcome within the deadline, is said once, and loses nothing."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from agent.drivers.base import Applied, Failure, Refused, Unreachable
from agent.drivers.schedulers._batch import BATCH_DEADLINES
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from sim.devices.slurmrestd import SlurmFault, SlurmRestServer
from sim.jobs import JobPhase
from sim.partition import HpcPartition, PartitionPlan
from sim.ports import DeviceFault
from sim.virtual import virtual_loop
from tests.agent.drivers.schedulers.rest_world import (
    DEADLINE_S,
    FROZEN,
    PENDING,
    RUNNING,
    START_MS,
    Rig,
    in_virtual_time,
    spec,
    virtual,
)


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
