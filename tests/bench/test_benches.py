"""Every bench at a tiny size: its last line has the promised keys, its figures are sane, no process outlives it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import pytest

PATIENCE_S = 120.0
"""A bound for the noisiest machine."""
ENDING_S = 10.0

TINY: Mapping[str, Sequence[str]] = {
    "shed": ["--miners", "6", "--latency-ms", "5"],
    "poll": ["--miners", "40", "--latency-ms", "5", "--ticks", "2"],
    "latency": ["--samples", "3", "--sites", "10", "--banks", "2", "--rate", "20", "--latency-ms", "5"],
    "ingest": ["--sites", "10", "--banks", "2", "--rate", "20", "--window", "0.5", "--warm", "0", "--minutes", "0.01"],
    "kube": ["--jobs", "8", "--nodes", "2", "--hosts", "2"],
    "ops": ["--sites", "5", "--banks", "2", "--samples", "3", "--window", "1"],
}
KEYS: Mapping[str, Sequence[str]] = {
    "shed": ("miners", "to_last_command_s", "to_confirmed_s", "rss_mb"),
    "poll": ("miners", "cycle_s", "core_fraction"),
    "latency": ("p50_ms", "p99_ms", "loaded_p50_ms", "loaded_p99_ms"),
    "ingest": ("reports_per_core_s", "rss_start_mb", "rss_end_mb"),
    "kube": ("read_core", "suspend_s", "hosts_core", "limit_s"),
    "ops": ("scrape_ms", "stall_ms", "consoles_core", "override_p50_ms", "paint_ms"),
}


@pytest.mark.slow
@pytest.mark.mosquitto
async def test_each_bench_ends_with_its_figures_and_leaves_no_process_behind() -> None:
    """All at once, for each waits more than it works."""
    found = dict(zip(TINY, await asyncio.gather(*map(_run, TINY)), strict=True))
    for name, figures in found.items():
        assert set(KEYS[name]) <= set(figures), name
        assert figures["runs"] == 1
        assert figures["cores"] >= 1
    shed, poll, latency, ingest, ops = (found[name] for name in ("shed", "poll", "latency", "ingest", "ops"))
    assert shed["miners"] == 6
    assert 0.005 < shed["to_last_command_s"] <= shed["to_confirmed_s"] < 60  # a session's exchange comes first
    assert shed["to_last_command_s_min"] <= shed["to_last_command_s"] <= shed["to_last_command_s_max"]
    assert 20 < shed["rss_mb"] < 1_000
    assert 3 < poll["cycle_s"] < 60  # two ticks: a window's edges may add or hide half of what falls within
    assert 0 < poll["core_fraction"] < 1
    for kind in ("", "loaded_"):
        assert 0 < latency[f"{kind}p50_ms"] <= latency[f"{kind}p99_ms"] < 5_000
    assert 10 < ingest["reports_per_core_s"] < 1_000_000
    assert 20 < ingest["rss_start_mb"] <= ingest["rss_max_mb"]
    assert 20 < ingest["rss_end_mb"] <= ingest["rss_max_mb"]
    assert 0 < ops["scrape_ms"] < 5_000
    assert 0 < ops["override_p50_ms"] < 5_000
    assert 0 <= ops["consoles_core"] < 1


@pytest.mark.parametrize("name", TINY)
async def test_help_says_what_is_measured(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"bench.{name}", "--help"), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert (b"Kubernetes" if name == "kube" else b"Mosquitto") in said, "against what is real, or stands in for it"
    assert b"JSON object" in said


async def _run(name: str) -> dict[str, Any]:
    """Run one bench once; its last line. Fails where a process that it started is still there afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"bench.{name}", "--repeats", "1", *TINY[name]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    seen: dict[int, psutil.Process] = {}
    watching = asyncio.create_task(_note_children(process.pid, seen))
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, complained = await process.communicate()
    finally:
        watching.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"bench.{name}: {complained.decode()[-2_000:]}"
    assert len(seen) >= 2, f"bench.{name} started {len(seen)} processes"
    left = await asyncio.to_thread(_still_there, list(seen.values()))
    assert not left, f"bench.{name} left {left}"
    figures: dict[str, Any] = json.loads(said.decode().splitlines()[-1])
    return figures


def _still_there(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end by themselves: Python's own resource tracker leaves a moment after its parent."""
    _, alive = psutil.wait_procs(processes, timeout=ENDING_S)
    return [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def _note_children(pid: int, seen: dict[int, psutil.Process]) -> None:
    bench = psutil.Process(pid)
    while True:
        try:
            seen.update({each.pid: each for each in bench.children(recursive=True)})
        except psutil.NoSuchProcess:
            return
        await asyncio.sleep(0.1)
