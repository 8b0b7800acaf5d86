"""`scontrol` as a program: what it prints and what that means. The program is a script of ours; texts are 22.05.8's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.drivers.base import Applied, Failure, Outcome, Refused, Unreachable
from agent.drivers.schedulers import REGISTRY
from agent.drivers.schedulers._slurm_control import CALLS_AT_ONCE, Control
from agent.drivers.schedulers._slurm_ledger import Ledger
from agent.drivers.schedulers._slurm_managed import ManagedSlurm, PoweredSlurm
from agent.drivers.schedulers._slurm_options import SlurmOptions
from agent.drivers.schedulers._slurm_steps import StepSignals
from contract.clock import SystemClock
from tests.agent.drivers.schedulers.records import NOW_S, job


def program(folder: Path, lines: str, name: str = "scontrol") -> Path:
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$SLURM_JWT $*" >>{folder}/said\n{lines}\n')
    path.chmod(0o755)
    return path


async def test_each_job_has_its_own_outcome(tmp_path: Path) -> None:
    lines = (
        "echo 'Requested operation is presently disabled for job 1' >&2\n"
        "echo 'Job is pending execution for job 3_2' >&2\n"
        "echo 'Invalid job id specified for job 9' >&2\nexit 1"
    )
    control = Control(program(tmp_path, f'case "$*" in *1*) {lines};; *) {lines};; esac'), None)
    assert await control.requeue_held(["1", "2", "3_2", "9"], "t") == {
        "1": Refused("Requested operation is presently disabled"),
        "2": Applied(),
        "3_2": Applied("waits already"),
        "9": Applied("no longer there"),
    }
    assert "t requeuehold 1" in (tmp_path / "said").read_text().splitlines()


async def test_many_jobs_go_in_a_few_calls(tmp_path: Path) -> None:
    control = Control(program(tmp_path, "exit 0"), None)
    jobs = [str(number) for number in range(1, 258)]
    assert set((await control.release(jobs, None)).values()) == {Applied()}
    assert len((tmp_path / "said").read_text().splitlines()) == CALLS_AT_ONCE


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("slurm_update error: Invalid partition name specified", Refused),
        ("slurm_update error: Access/permission denied", Refused),
        ("slurm_update error: Unable to contact slurm controller (connect failure)", Failure.CONNECT),
        ("slurm_update error: Zero Bytes were transmitted or received", Failure.AUTH),
    ],
)
async def test_a_complaint_is_a_refusal_a_slurmctld_that_is_gone_or_a_token(
    tmp_path: Path, said: str, means: type[Outcome] | Failure
) -> None:
    control = Control(program(tmp_path, f"echo '{said}' >&2; exit 1"), None)
    outcome = await control.set_partition("hpc", "DOWN", None)
    if isinstance(means, Failure):
        assert isinstance(outcome, Unreachable)
        assert outcome.failure is means
    else:
        assert isinstance(outcome, means)


async def test_a_program_that_is_not_there_is_unreachable_and_one_that_hangs_is_killed(tmp_path: Path) -> None:
    assert isinstance(await Control(tmp_path / "none", None).set_nodes(["a"], "POWER_UP", None), Unreachable)
    control = Control(program(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 100"), None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await control.set_partition("hpc", "UP", None)
    pid = (tmp_path / "pid").read_text().strip()
    assert not Path("/proc", pid).exists()  # noqa: ASYNC240  no disk


async def test_jobs_with_steps_are_told_from_those_with_a_batch_script_alone(tmp_path: Path) -> None:
    program(tmp_path, "printf '12.0\\n12.batch\\n13.batch\\n14_3.2\\n15+1.0\\n'", "squeue")
    steps = StepSignals(tmp_path / "scancel", None)
    assert await steps.running("hpc", None) == frozenset({"12", "14_3", "15"})
    assert await StepSignals(tmp_path / "elsewhere" / "scancel", None).running("hpc", None) is None


def test_a_freeze_is_not_done_before_every_part_has_said_yes_also_over_a_restart() -> None:
    ledger = Ledger()
    before = ledger.freezing(["7", "8"], NOW_S)
    ledger.done(["8"], before)
    ledger.stopping.discard("8")
    again = Ledger.load(ledger.save())
    assert (again.stopping, set(again.frozen)) == ({"7"}, {"7", "8"})
    again.doubt_until_s.clear()
    again.observe([job(8, "STOPPED")], NOW_S + 1)
    assert (again.stopping, set(again.frozen)) == (set(), {"8"}), "what has ended is forgotten"


def test_a_driver_can_do_what_its_options_allow_and_no_more(tmp_path: Path) -> None:
    plain = {"url": "http://h:1", "partition": "hpc", "node_busy_w": 9, "node_idle_w": 2}
    tools = plain | {"scancel": tmp_path, "scontrol": tmp_path}

    def made(**options: object) -> object:
        return REGISTRY["slurm_rest"](options, deadline_s=1.0, clock=SystemClock())

    assert not isinstance(made(**plain), ManagedSlurm)
    assert isinstance(made(**tools), ManagedSlurm)
    assert not isinstance(made(**tools), PoweredSlurm)
    assert isinstance(made(**tools, node_off_w=1), PoweredSlurm)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"node_off_w": 1}, "node_off_w needs scontrol"),
        ({"scontrol": "/x"}, "scontrol needs scancel"),
        ({"scancel": "/x", "scontrol": "/x", "node_off_w": 3}, "above node_idle_w"),
        ({"checkpoint_signal": "KILL"}, "pattern"),
        ({"partition": "a;b"}, "pattern"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SlurmOptions.model_validate({"partition": "hpc", "node_busy_w": 9, "node_idle_w": 2} | options)
