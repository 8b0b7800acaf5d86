"""GPUs by the helper on their node: without a GPU it says so and ends; with boards behind NVML's own errors it reads,
limits and puts back over an authenticated loopback connection."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pynvml
import pytest

from agent.drivers.base import Applied, Failure, Refused, Unreachable
from agent.drivers.hosts import nvml_helper
from agent.drivers.hosts._gpu_share import Bounds, shared_mw
from agent.drivers.hosts._nvml import NoGpuError, Nvml
from agent.drivers.hosts.gpu_helper import LimitedGpuHost, gpu_host
from agent.drivers.hosts.host import HostReading, HostState, LimitsPower
from agent.drivers.hosts.nvml_helper import NodePowerServer
from contract.clock import SystemClock
from tests.agent.drivers.hosts.gpus import Board, FakeNvml

TOKEN = "a-token-of-the-test"


def a_gpu_is_here() -> bool:
    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False


def driver(port: int, folder: Path, *, deadline_s: float = 3.0, **options: Any) -> LimitedGpuHost:
    (folder / "token").write_text(f"{TOKEN}\n")
    given = {"token_file": str(folder / "token")} | options
    host = gpu_host(f"http://127.0.0.1:{port}", given, deadline_s=deadline_s, clock=SystemClock())
    assert isinstance(host, LimitedGpuHost)
    return host


@asynccontextmanager
async def node(folder: Path, *boards: Board, deadline_s: float = 3.0) -> AsyncIterator[tuple[FakeNvml, LimitedGpuHost]]:
    nvml = FakeNvml(list(boards) or [Board("GPU-a"), Board("GPU-b")])
    server = NodePowerServer(Nvml(nvml), TOKEN)
    host = driver(await server.start("127.0.0.1", 0), folder, deadline_s=deadline_s)
    try:
        yield nvml, host
    finally:
        nvml.gate.set()
        await host.close()
        await server.stop()


async def reading(host: LimitedGpuHost) -> HostReading:
    found = await host.read()
    assert isinstance(found, HostReading), found
    return found


def url_of(host: LimitedGpuHost) -> str:
    return host._link.access.url


@pytest.mark.skipif(a_gpu_is_here(), reason="there is a GPU on this machine")
def test_without_a_gpu_it_says_so_and_ends_with_3() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "agent.drivers.hosts.nvml_helper"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith(
        "wattshift-node-power: there is no NVIDIA driver on this machine (NVML Shared Library"
    )
    assert "run this only on nodes with GPUs" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "there is no NVIDIA driver on this machine"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "there is no NVIDIA driver on this machine"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "may not be used by this user"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "NVML cannot be used: "),
    ],
)
def test_every_reason_why_nvml_cannot_be_used_is_told(error: int, said: str) -> None:
    with pytest.raises(NoGpuError, match=said):
        Nvml(FakeNvml([Board("GPU-a")], init_error=error))


def test_a_driver_without_a_gpu_is_no_gpu() -> None:
    with pytest.raises(NoGpuError, match="finds no GPU"):
        Nvml(FakeNvml([]))


@pytest.mark.parametrize(("content", "said"), [("short", "16 characters or more"), (None, "No such file")])
def test_a_token_that_cannot_be_used_ends_it_with_2(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    options = nvml_helper._parser().parse_args(["--token-file", str(tmp_path / "token")])
    assert nvml_helper._run(FakeNvml([Board("GPU-a")]), options) == 2
    assert said in capsys.readouterr().err


def test_check_tells_what_gpus_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    lost = Board("GPU-b", error=pynvml.NVML_ERROR_GPU_IS_LOST)
    assert nvml_helper._run(FakeNvml([Board("GPU-a"), lost]), nvml_helper._parser().parse_args(["--check"])) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert '"uuid": "GPU-a"' in first
    assert "GPU is lost" in second


async def test_a_node_is_read_limited_and_put_back(tmp_path: Path) -> None:
    async with node(tmp_path) as (nvml, host):
        assert await reading(host) == HostReading(
            state=HostState.ON,
            power_w=1_200,
            limited=False,
            limit_w=1_400,
            limit_range_w=(400, 1_400),
            covers="gpus",
        )
        assert isinstance(await host.set_limit_w(800), Applied)
        assert [board.limit_mw for board in nvml.boards] == [400_000, 400_000]
        limited = await reading(host)
        assert (limited.limited, limited.limit_w, limited.power_w) == (True, 800, 800)
        assert await host.set_limit_w(800) == Applied("already in force")
        assert isinstance(await host.set_limit_w(100), Applied)
        assert (await reading(host)).limit_w == 400, "the least that its GPUs take"
        assert isinstance(await host.clear_limit(), Applied)
        assert [board.limit_mw for board in nvml.boards] == [700_000, 700_000]
        assert host.memory == {}


async def test_what_was_found_is_put_back_after_a_restart_and_never_exceeded(tmp_path: Path) -> None:
    async with node(tmp_path, Board("GPU-a", limit_mw=300_000), Board("GPU-b")) as (nvml, host):
        assert await host.set_limit_w(1_200) == Applied("a lower one stands")
        assert not host.limit_is_ours
        assert isinstance(await host.set_limit_w(900), Applied)
        assert [board.limit_mw for board in nvml.boards] == [300_000, 600_000], "an operator's own limit stays"
        after = driver(int(url_of(host).rpartition(":")[2]), tmp_path)
        after.memory = host.memory
        assert isinstance(await after.clear_limit(), Applied)
        assert [board.limit_mw for board in nvml.boards] == [300_000, 700_000]
        await after.close()


async def test_what_somebody_else_set_meanwhile_is_left_as_found(tmp_path: Path) -> None:
    async with node(tmp_path) as (nvml, host):
        await host.set_limit_w(800)
        nvml.boards[0].limit_mw = 250_000
        assert await host.clear_limit() == Applied("changed by somebody else, left as found")
        assert nvml.boards[0].limit_mw == 250_000
        assert not host.limit_is_ours


async def test_a_driver_restart_that_forgot_the_limit_is_seen_and_made_up_for(tmp_path: Path) -> None:
    async with node(tmp_path) as (nvml, host):
        await host.set_limit_w(800)
        for board in nvml.boards:
            board.limit_mw = board.default_mw
        assert (await reading(host)).limited is False
        assert isinstance(await host.set_limit_w(800), Applied)
        assert (await reading(host)).limit_w == 800


async def test_a_gpu_that_fell_off_the_bus_makes_the_power_unknown_and_the_rest_is_limited(tmp_path: Path) -> None:
    async with node(tmp_path) as (nvml, host):
        nvml.boards[1].error = pynvml.NVML_ERROR_GPU_IS_LOST
        found = await reading(host)
        assert (found.power_w, found.limit_w) == (None, 700)
        assert isinstance(await host.set_limit_w(300), Applied)
        assert nvml.boards[0].limit_mw == 300_000


async def test_a_board_without_a_power_reading_is_unknown_not_zero(tmp_path: Path) -> None:
    async with node(tmp_path, Board("GPU-a", mute=True)) as (_, host):
        assert (await reading(host)).power_w is None


async def test_without_the_right_to_set_limits_it_is_said(tmp_path: Path) -> None:
    async with node(tmp_path, Board("GPU-a")) as (nvml, host):
        nvml.set_error = pynvml.NVML_ERROR_NO_PERMISSION
        refused = await host.set_limit_w(300)
        assert refused == Refused("GPU-a: may not set limits: run wattshift-node-power as root")
        assert not host.limit_is_ours


async def test_limits_set_in_part_count_as_ours_until_they_are_put_back(tmp_path: Path) -> None:
    async with node(tmp_path) as (nvml, host):
        nvml.set_error = pynvml.NVML_ERROR_UNKNOWN
        assert isinstance(await host.set_limit_w(800), Unreachable)
        assert host.limit_is_ours
        nvml.set_error = None
        assert isinstance(await host.clear_limit(), Applied)
        assert not host.limit_is_ours


async def test_an_nvml_that_hangs_is_said_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_helper, "NVML_S", 0.2)
    async with node(tmp_path) as (nvml, host):
        await reading(host)
        nvml.gate.clear()
        assert await host.read() == Unreachable(Failure.GARBAGE, "NVML does not answer")
        assert await host.set_limit_w(800) == Unreachable(Failure.GARBAGE, "NVML hangs")
        nvml.gate.set()
        async with asyncio.timeout(10):
            while not isinstance(await host.read(), HostReading):  # noqa: ASYNC110  another thread's state
                await asyncio.sleep(0.02)


async def test_a_wrong_token_gets_nowhere(tmp_path: Path) -> None:
    async with node(tmp_path) as (nvml, host):
        (tmp_path / "token").write_text("another-token-of-the-test")
        for outcome in (await host.read(), await host.set_limit_w(300)):
            assert isinstance(outcome, Unreachable)
            assert outcome.failure is Failure.AUTH
        assert [board.limit_mw for board in nvml.boards] == [700_000, 700_000]
        (tmp_path / "token").unlink()
        gone = await host.read()
        assert isinstance(gone, Unreachable)
        assert gone.failure is Failure.AUTH


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{}", 400),
        (b"[]", 400),
        (b'{"limits_mw": {"GPU-a": true}}', 400),
        (b'{"limits_mw": {"GPU-x": 300000}}', 422),
        (b'{"limits_mw": {"GPU-a": 300000, "GPU-b": 100}}', 422),
        (b"x" * 100_000, 413),
    ],
)
async def test_a_limit_outside_its_gpus_bounds_sets_none(tmp_path: Path, body: bytes, status: int) -> None:
    async with node(tmp_path) as (nvml, host), aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with session.put(f"{url_of(host)}/v1/limits", data=body, headers=headers) as response:
            assert response.status == status
        assert [board.limit_mw for board in nvml.boards] == [700_000, 700_000]


async def test_no_helper_is_a_connection_failure_and_another_service_is_garbage(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    host = driver(port, tmp_path)
    closed = await host.read()
    server.close()
    await server.wait_closed()
    refused = await host.read()
    assert isinstance(closed, Unreachable)
    assert closed.failure is Failure.CLOSED
    assert isinstance(refused, Unreachable)
    assert refused.failure is Failure.CONNECT
    await host.close()


def test_rights_are_capabilities(tmp_path: Path) -> None:
    read = gpu_host("http://n", {"token_file": "t", "rights": "read"}, deadline_s=1.0, clock=SystemClock())
    assert not isinstance(read, LimitsPower)
    assert isinstance(driver(1, tmp_path), LimitsPower)


@pytest.mark.parametrize(
    ("total_mw", "bounds", "shares"),
    [
        (800, [(200, 700), (200, 700)], [400, 400]),
        (900, [(200, 300), (200, 700)], [300, 600]),
        (100, [(200, 700), (200, 700)], [200, 200]),
        (9_000, [(200, 700), (100, 300)], [700, 300]),
        (1_001, [(0, 700), (0, 700)], [500, 500]),
        (950, [(500, 700), (100, 700), (100, 700)], [500, 225, 225]),
    ],
)
def test_a_total_is_shared_evenly_within_bounds(
    total_mw: int, bounds: list[tuple[int, int]], shares: list[int]
) -> None:
    gpus = {f"g{place}": Bounds(*each) for place, each in enumerate(bounds)}
    assert list(shared_mw(total_mw, gpus).values()) == shares
