"""The HPC bench at a tiny size, on real Slurm: its last line has the promised keys and its figures hold together."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from sim.process_meter import ProcessMeter
from sim.slurm import missing_for_slurm

PATIENCE_S = 280.0
KEYS = {
    "targets",
    "met",
    "first_action_p99_s",
    "shed30_s",
    "shed30_hpc_only_s",
    "jobs_lost",
    "firm_touched",
    "read_core_share",
}


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.mosquitto
@pytest.mark.skipif(missing_for_slurm() is not None, reason=f"no Slurm: {missing_for_slurm()}")
async def test_the_bench_loses_no_job_and_touches_no_firm_one() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.hpc", "--quick"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        said, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()[-2_000:]
    figures = json.loads(said.splitlines()[-1])
    assert set(figures) >= KEYS
    assert figures["targets"] == 4
    assert 0 < figures["first_action_p99_s"] < 5
    assert (figures["jobs_lost"], figures["firm_touched"]) == (0, 0)
    assert figures["jobs"] > 10
    assert 0 < figures["freeze16_s"] < 30
    assert 0 < figures["requeue16_s"] < 30


def test_the_meter_sees_nothing_of_other_clusters(tmp_path: Path) -> None:
    seen = ProcessMeter(tmp_path).look()
    assert (seen.running, seen.stopped) == ((), ())
