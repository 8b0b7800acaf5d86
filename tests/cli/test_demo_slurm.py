"""`wattshift demo --slurm` as its user runs it, on a real Slurm, for a minute."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sim.demo.slurm import trace_jobs
from sim.slurm import missing_for_slurm
from sim.slurm_site import CPUS

_MISSING = missing_for_slurm()


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.mosquitto
@pytest.mark.skipif(_MISSING is not None, reason=f"no Slurm: {_MISSING}")
def test_jobs_run_beside_the_miners_and_the_last_line_sums_up() -> None:
    command = [sys.executable, "-m", "cli.main", "demo", "--slurm", "--for", "60s", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr[-2_000:]
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    summary = lines[-1]["summary"]
    assert summary["jobs"] >= 8
    assert summary["decisions"] >= 1
    assert (summary["jobs_wrong"], summary["firm_touched"]) == (0, 0)
    assert summary["over_cap_s"] <= 2.0, "the grid connection carries no more"
    assert any(line["event"] == "decision" for line in lines[:-1])


def test_the_traces_jobs_are_of_the_demos_size_and_of_all_shapes() -> None:
    jobs = trace_jobs()
    assert len(jobs) == 59
    assert {job.cpus for job in jobs} == {CPUS // 2, CPUS}
    assert all(8.0 <= job.work_s <= 60.0 and job.limit_min * 60 > job.work_s for job in jobs)
    assert min(job.work_s for job in jobs) < 20.0 < 50.0 < max(job.work_s for job in jobs)
