"""`scancel` as a program: what it prints, and what it does when it does not end. The program is a script of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent.drivers.base import Applied, Failure, Refused, Unreachable
from agent.drivers.schedulers import _slurm_steps
from agent.drivers.schedulers._slurm_steps import JOBS_AT_ONCE, StepSignals
from agent.drivers.schedulers.slurm_rest import rest_partition
from sim.clock import LoopClock
from sim.devices.slurmrestd import SlurmRestServer
from sim.jobs import JobPhase, JobSpec
from sim.partition import HpcPartition, PartitionPlan

START_MS = 1_795_000_000_000
Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Makes a program that notes its words and then runs some lines of shell."""

    def make(lines: str) -> Path:
        path = tmp_path / "scancel"
        path.write_text(f'#!/bin/sh\necho "$SLURM_JWT $SLURM_CONF $*" >>{tmp_path}/said\n{lines}\n')
        path.chmod(0o755)
        return path

    return make


def command_line(pid: str) -> str:
    """What a process runs; nothing where it has ended."""
    with suppress(OSError):
        return Path("/proc", pid.strip(), "cmdline").read_text()
    return ""


def said(path: Path) -> list[str]:
    return (path.parent / "said").read_text().splitlines()


async def test_it_is_told_the_signal_the_jobs_and_the_token(program: Program) -> None:
    path = program("exit 0")
    steps = StepSignals(path, Path("/etc/slurm/slurm.conf"))
    assert await steps.send("STOP", ["7", "5_2"], "token") == {"7": Applied(), "5_2": Applied()}
    assert said(path) == ["token /etc/slurm/slurm.conf --signal=STOP 7 5_2"]
    assert await steps.send("CONT", [], None) == {}


async def test_many_jobs_go_in_batches(program: Program) -> None:
    path = program("exit 0")
    jobs = [str(number) for number in range(2 * JOBS_AT_ONCE + 1)]
    assert set((await StepSignals(path, None).send("STOP", jobs, None)).values()) == {Applied()}
    assert [len(line.split()) - 1 for line in said(path)] == [JOBS_AT_ONCE, JOBS_AT_ONCE, 1]


async def test_its_complaints_are_the_jobs_outcomes(program: Program) -> None:
    path = program(
        'echo "scancel: error: Kill job error on job id 2: Invalid job id specified" >&2\n'
        'echo "scancel: error: Kill job error on job id 3: Access/permission denied" >&2\n'
        'echo "scancel: error: Kill job error on job id 5_1: Job/step already completing or completed" >&2\n'
        "exit 1"
    )
    assert await StepSignals(path, None).send("STOP", ["1", "2", "3", "5_1"], None) == {
        "1": Applied(),
        "2": Applied(),
        "3": Refused("Access/permission denied"),
        "5_1": Applied(),
    }


@pytest.mark.parametrize(
    ("lines", "detail"),
    [
        ('echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1', "Unable to contact"),
        ("exit 3", "code 3"),
        ("kill -9 $$", "code -9"),
        ("head -c 300000 /dev/zero >&2; exit 1", ""),
    ],
)
async def test_a_failure_that_names_no_job_is_every_jobs(program: Program, lines: str, detail: str) -> None:
    outcomes = await StepSignals(program(lines), None).send("STOP", ["1", "2"], None)
    for outcome in outcomes.values():
        assert isinstance(outcome, Unreachable)
        assert detail in outcome.detail


async def test_a_program_that_cannot_be_run_is_unreachable(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        outcome = (await StepSignals(path, None).send("STOP", ["1"], None))["1"]
        assert isinstance(outcome, Unreachable)
        assert outcome.failure is Failure.CONNECT


async def test_a_call_that_sleeps_is_ended_and_tried_again(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_slurm_steps, "_TRY_S", 0.3)
    path = program(f"test $(wc -l <{program('').parent}/said) -gt 1 || exec sleep 60")
    assert await StepSignals(path, None).send("STOP", ["1"], None) == {"1": Applied()}
    assert len(said(path)) == 2


async def test_a_program_that_never_ends_is_killed_by_the_callers_deadline(program: Program, tmp_path: Path) -> None:
    path = program(f"echo $$ >{tmp_path}/pid; exec sleep 60")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await StepSignals(path, None).send("STOP", ["1"], None)
    assert "sleep" not in command_line((tmp_path / "pid").read_text())


# -- with the driver ---------------------------------------------------------------------------------------------------


async def test_the_driver_counts_a_job_as_frozen_when_script_and_steps_are_and_wakes_what_is_half_awake(
    program: Program, tmp_path: Path
) -> None:
    behind = HpcPartition(PartitionPlan("gpu", "feeder", "hall", 4), START_MS)
    for name in ("1", "2"):
        behind.submit(JobSpec(name, START_MS, 1, 3_600.0, 36_000.0, firm=False, value_usd_per_node_h=1.0))
    server = SlurmRestServer(behind)
    path = program(f"test ! -e {tmp_path}/broken || {{ echo 'no controller' >&2; exit 1; }}")
    options = {
        "url": f"http://127.0.0.1:{await server.start()}",
        "partition": "gpu",
        "node_busy_w": 9,
        "node_idle_w": 1,
    }
    driver = rest_partition(options | {"scancel": path}, deadline_s=5.0, clock=LoopClock(START_MS))
    broken = tmp_path / "broken"
    broken.touch()
    outcomes = await driver.freeze(["1"])
    assert outcomes == {"1": Unreachable(Failure.CONNECT, "no controller")}
    broken.unlink()
    assert await driver.freeze(["1", "2"]) == {"1": Applied(), "2": Applied()}
    broken.touch()
    assert isinstance((await driver.thaw(["1"]))["1"], Unreachable)
    run = behind.job("1")
    assert run is not None
    assert run.phase is JobPhase.RUNNING, "Slurm shows it running, and what srun launched stands still"
    broken.unlink()
    before = len(said(path))
    await driver.read()
    assert said(path)[before:] == ["  --signal=CONT 1"], "so it is told again"
    await driver.read()
    assert len(said(path)) == before + 1
    await driver.close()
    await server.stop()
