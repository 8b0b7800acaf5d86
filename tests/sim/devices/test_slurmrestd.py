"""The simulated slurmrestd: shaped as the real one was recorded, obeyed by its partition, broken on demand."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sim.devices.slurmrestd import BACKLOG_S, JOBS_APART, SlurmFault, SlurmRestServer
from sim.devices.slurmrestd_answers import comment_of, host_list
from sim.jobs import JobMix, JobPhase, JobRun, JobSpec, job_stream
from sim.partition import HpcPartition, PartitionPlan
from sim.ports import DeviceFault
from sim.virtual import run_virtual, virtual_loop

FIXTURES = Path(__file__).parents[2] / "agent" / "drivers" / "schedulers" / "fixtures"
START_MS = 1_795_000_000_000
PATIENCE_S = 10.0
"""Far longer than anything here takes: only a broken test waits so long."""


def recorded(name: str) -> Any:
    return json.loads((FIXTURES / f"slurmrestd-22.05.8-{name}.json").read_text())


def spec(name: str, nodes: int = 1, **more: Any) -> JobSpec:
    shape: dict[str, Any] = {"work_s": 3_600.0, "requested_s": 7_200.0, "firm": False, "value_usd_per_node_h": 2.5}
    return JobSpec(name, START_MS, nodes, **(shape | more))


def partition(*specs: JobSpec, nodes: int = 4, name: str = "gpu") -> HpcPartition:
    made = HpcPartition(PartitionPlan(name, "feeder", "hall", nodes), START_MS)
    for one in specs:
        made.submit(one)
    return made


def job(behind: HpcPartition, name: str) -> JobRun:
    run = behind.job(name)
    assert run is not None
    return run


class Client:
    """Asks the server as curl would."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status, and the answer without its `meta`; text where it is no JSON."""
        url = f"{self._base}/slurm/v0.0.38/{path}"
        async with self._session.request(method, url, json=body, headers=headers) as response:
            text = await response.text()
        if not text.startswith("{"):
            return response.status, text
        answer = json.loads(text)
        answer.pop("meta")
        return response.status, answer


@asynccontextmanager
async def serving(server: SlurmRestServer) -> AsyncIterator[Client]:
    port = await server.start()
    async with aiohttp.ClientSession() as session:
        yield Client(session, f"http://127.0.0.1:{port}")
    await server.stop()


async def test_every_record_has_the_fields_and_types_of_the_real_ones() -> None:
    behind = partition(spec("1", 2), spec("2", 3))
    async with serving(SlurmRestServer(behind)) as client:
        for what, name in (("jobs", "jobs"), ("nodes", "nodes"), ("partitions", "partitions")):
            status, answer = await client.ask("GET", what)
            real = recorded(name)[what]
            assert status == 200
            kinds: dict[str, set[type]] = {}
            for record in (*real, *recorded("kinds-jobs")["jobs"]) if what == "jobs" else real:
                for key, value in record.items():
                    kinds.setdefault(key, set()).add(type(value))
            for record in answer[what]:
                assert record.keys() | {"job_resources"} == kinds.keys() | {"job_resources"}
                wrong = {key: value for key, value in record.items() if type(value) not in kinds[key]}
                assert wrong == {}, what


async def test_a_jobs_record_says_what_the_partition_does_with_it() -> None:
    deadline = {"deadline_ms": START_MS + 9_000_000, "checkpoint_every_s": 600.0, "notice_ms": 60_000}
    behind = partition(spec("1", 2, firm=True, restart_cost_usd=4.5, **deadline), spec("2", 3), spec("3", 4))
    behind.hold("3")
    async with serving(SlurmRestServer(behind)) as client:
        jobs = (await client.ask("GET", "jobs"))[1]["jobs"]
        behind.freeze("1")
        _, one = await client.ask("GET", "job/1")
        nodes = (await client.ask("GET", "nodes"))[1]["nodes"]
    assert [(one["job_id"], one["job_state"], one["state_reason"], one["priority"] == 0) for one in jobs] == [
        (1, "RUNNING", "None", False),
        (2, "PENDING", "Priority", False),
        (3, "PENDING", "JobHeldAdmin", True),
    ]
    running = jobs[0]
    assert running["comment"] == ("wattshift value=2.5 firm deadline=1795009000 checkpoint=600 restart=4.5 notice=60")
    assert (running["nodes"], running["node_count"], running["tres_alloc_str"]) == (
        "node[1-2]",
        2,
        "cpu=8,node=2,billing=8",
    )
    assert (running["time_limit"], running["end_time"] - running["start_time"]) == (120, 7_200)
    assert [host["nodename"] for host in running["job_resources"]["allocated_nodes"]] == ["node1", "node2"]
    assert one["jobs"][0]["job_state"] == "STOPPED"
    assert [node["state"] for node in nodes] == ["allocated", "allocated", "idle", "idle"]


async def test_nodes_without_power_are_down() -> None:
    behind = partition(nodes=3)
    behind.power_off([0, 2])
    behind.power_on([2])
    async with serving(SlurmRestServer(behind)) as client:
        nodes = (await client.ask("GET", "nodes"))[1]["nodes"]
    assert [(node["name"], node["state"], node["state_flags"]) for node in nodes] == [
        ("node1", "down", ["NOT_RESPONDING"]),
        ("node2", "idle", []),
        ("node3", "down", ["NOT_RESPONDING"]),
    ]


async def test_signals_holds_and_limits_are_obeyed_and_logged() -> None:
    behind = partition(spec("1", 2), spec("2", 3))
    server = SlurmRestServer(behind)
    async with serving(server) as client:

        async def does(method: str, path: str, body: object = None) -> None:
            status, answer = await client.ask(method, path, body)
            assert (status, answer) == (200, {"errors": []}), path

        await does("DELETE", "job/1?signal=STOP")
        assert job(behind, "1").phase is JobPhase.FROZEN
        await does("DELETE", "job/1?signal=SIGSTOP")
        await does("DELETE", "job/1?signal=18")
        assert job(behind, "1").phase is JobPhase.RUNNING
        await does("POST", "job/2", {"hold": True})
        assert job(behind, "2").held
        await does("POST", "job/2", {"hold": False})
        assert not job(behind, "2").held
        await does("POST", "job/1", {"hold": True})
        assert not job(behind, "1").held, "a hold of a running job is taken and comes to nothing"
        await does("POST", "job/1", {"time_limit": 500})
        assert (await client.ask("GET", "job/1"))[1]["jobs"][0]["time_limit"] == 500
        await does("DELETE", "job/1?signal=USR1")
        assert job(behind, "1").warned_ms == START_MS
        await does("DELETE", "job/1")
        assert job(behind, "1").phase is JobPhase.CANCELLED
        await does("DELETE", "job/1?signal=STOP")
    commands = [command.command for command in server.log.since(0)]
    assert commands[:4] == [
        "DELETE job/1 signal=STOP",
        "DELETE job/1 signal=STOP",
        "DELETE job/1 signal=CONT",
        'POST job/2 {"hold":true}',
    ]
    assert all(command.device == "gpu" and command.obeyed for command in server.log.since(0))
    assert server.log.reads == 1


async def test_each_refusal_is_worded_as_the_real_ones() -> None:
    behind = partition(spec("1", 4), spec("11", 4))
    server = SlurmRestServer(behind, token="good")
    headers = {"X-SLURM-USER-NAME": "root", "X-SLURM-USER-TOKEN": "good"}
    skipped = {"array, hold", *(name for name in recorded("errors") if name.startswith("controller gone"))}
    async with serving(server) as client:
        for name, real in recorded("errors").items():
            if name in skipped:
                continue
            if name.startswith("ended"):
                behind.cancel("1")
            method, _, path = real["request"].partition(" ")
            sent = {} if name == "no token" else headers | ({"X-SLURM-USER-TOKEN": "bad"} if "bad" in name else {})
            status, answer = await client.ask(method, path, real["sent"], sent)
            assert (status, without_address(answer)) == (real["status"], without_address(real["answer"])), name


def without_address(answer: Any) -> Any:
    """Errors without the port that the client had."""
    if not isinstance(answer, dict):
        return answer
    errors = [
        error | {"description": error["description"].partition("[")[0]}
        if "[" in error.get("description", "")
        else error
        for error in answer["errors"]
    ]
    return answer | {"errors": errors}


@pytest.mark.parametrize("name", ["jobs", "nodes", "signal", "update"])
def test_a_slurmctld_that_is_gone_is_answered_for_after_nine_seconds(name: str) -> None:
    async def main() -> None:
        server = SlurmRestServer(partition(spec("2")))
        server.fault = SlurmFault.CONTROLLER_DOWN
        real = recorded("errors")[f"controller gone, {name}"]
        method, _, path = real["request"].partition(" ")
        async with serving(server) as client:
            status, answer = await client.ask(method, path, real["sent"])
        assert 9.0 <= virtual_loop().time() < 9.1
        said = without_address(answer)["errors"][0]
        assert (status, said.get("error_number", said.get("errno"))) == (
            real["status"],
            real["answer"]["errors"][0].get("error_number", real["answer"]["errors"][0].get("errno")),
        )

    run_virtual(main())


async def test_two_partitions_share_a_server_their_jobs_numbered_apart() -> None:
    one, two = partition(spec("1", 2), name="gpu"), partition(spec("1", 3), name="cpu")
    async with serving(SlurmRestServer([one, two])) as client:
        jobs = (await client.ask("GET", "jobs"))[1]["jobs"]
        nodes = (await client.ask("GET", "nodes"))[1]["nodes"]
        await client.ask("DELETE", f"job/{JOBS_APART + 1}?signal=STOP")
        _, found = await client.ask("GET", "partition/cpu")
    assert [(found["job_id"], found["partition"], found["nodes"]) for found in jobs] == [
        (1, "gpu", "node[1-2]"),
        (JOBS_APART + 1, "cpu", "node[5-7]"),
    ]
    assert [node["partitions"] for node in nodes] == [["gpu"]] * 4 + [["cpu"]] * 4
    assert found["partitions"][0]["nodes"] == "node[5-8]"
    assert (job(one, "1").phase, job(two, "1").phase) == (JobPhase.RUNNING, JobPhase.FROZEN)


async def test_it_serves_at_a_unix_socket_and_removes_it(tmp_path: Path) -> None:
    server = SlurmRestServer(partition(spec("1")))
    path = tmp_path / "slurmrestd.socket"
    await server.start_unix(path)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        status, answer = await Client(session, "http://localhost").ask("GET", "jobs")
    assert (status, len(answer["jobs"])) == (200, 1)
    await server.stop()
    assert not path.exists()


def test_it_serves_in_virtual_time_over_both_and_as_slowly_as_it_is_told() -> None:
    async def main() -> list[float]:
        server = SlurmRestServer(partition(spec("1")), latency_s=0.5)
        await server.start_unix("/slurm.sock")
        took = []
        async with serving(server) as client:
            await client.ask("GET", "jobs")
            took.append(virtual_loop().time())
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector("/slurm.sock")) as session:
                await Client(session, "http://localhost").ask("GET", "nodes")
        return [*took, virtual_loop().time()]

    first, second = run_virtual(main())
    assert 0.5 <= first < 0.51
    assert 1.0 <= second < 1.02


Deed = Callable[[Client], Awaitable[object]]


async def ask_jobs(client: Client) -> object:
    async with asyncio.timeout(1.0):
        return await client.ask("GET", "jobs")


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (DeviceFault.HANG, TimeoutError),
        (DeviceFault.REFUSE_CONNECTION, aiohttp.ClientError),
        (DeviceFault.GARBAGE, aiohttp.ClientError),
        (DeviceFault.CUT_SHORT, aiohttp.ClientError),
        (DeviceFault.SLOW, TimeoutError),
        (SlurmFault.MALFORMED_JSON, ValueError),
    ],
)
def test_each_fault_breaks_an_exchange_and_heals(fault: DeviceFault | SlurmFault, raised: type[Exception]) -> None:
    async def main() -> None:
        server = SlurmRestServer(partition(spec("1")))
        async with serving(server) as client:
            assert (await client.ask("GET", "jobs"))[0] == 200
            server.fault = fault
            with pytest.raises(raised):
                await ask_jobs(client)
            server.fault = None
            assert (await client.ask("GET", "jobs"))[0] == 200

    run_virtual(main())


async def test_it_says_yes_and_does_nothing_or_says_no_and_does_it() -> None:
    behind = partition(spec("1"))
    server = SlurmRestServer(behind)
    async with serving(server) as client:
        server.fault = DeviceFault.OK_BUT_NOTHING
        assert (await client.ask("DELETE", "job/1?signal=STOP"))[0] == 200
        assert job(behind, "1").phase is JobPhase.RUNNING
        server.fault = DeviceFault.NO_BUT_DOES
        assert (await client.ask("DELETE", "job/1?signal=STOP"))[0] == 500
        assert job(behind, "1").phase is JobPhase.FROZEN
        server.fault = DeviceFault.NAN
        assert str((await client.ask("GET", "jobs"))[1]["jobs"][0]["node_count"]) == "nan"
        server.fault = SlurmFault.BAD_TOKEN
        assert (await client.ask("GET", "jobs", headers={"X-SLURM-USER-NAME": "a", "X-SLURM-USER-TOKEN": "b"}))[
            0
        ] == 500
    assert [command.obeyed for command in server.log.since(0)] == [False, True]


def test_a_busy_slurmctld_does_late_what_nobody_waits_for_any_more() -> None:
    async def main() -> None:
        behind = partition(spec("1"))
        server = SlurmRestServer(behind)
        server.fault = SlurmFault.BACKLOG
        async with serving(server) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await client.ask("DELETE", "job/1?signal=STOP")
            await asyncio.sleep(BACKLOG_S - 1.1)
            assert job(behind, "1").phase is JobPhase.RUNNING
            await asyncio.sleep(0.2)
            assert job(behind, "1").phase is JobPhase.FROZEN
            assert (await client.ask("GET", "jobs"))[0] == 200

    run_virtual(main())


async def test_stop_ends_what_hangs_and_it_starts_again() -> None:
    server = SlurmRestServer(partition(spec("1")))
    port = await server.start()
    server.fault = DeviceFault.HANG
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(Client(session, f"http://127.0.0.1:{port}").ask("GET", "jobs"))
        async with asyncio.timeout(PATIENCE_S):
            while not server.requests:  # noqa: ASYNC110  another task's state
                await asyncio.sleep(0.005)
            await server.stop()
        with pytest.raises(aiohttp.ClientError):
            await asking
        server.fault = None
        await server.start(port=port)
        assert (await Client(session, f"http://127.0.0.1:{port}").ask("GET", "jobs"))[0] == 200
    await server.stop()


async def test_a_thousand_jobs_are_listed_as_they_are_while_time_goes_on() -> None:
    """The records are rendered once for each state, so the states must not be mixed up."""
    behind = HpcPartition(
        PartitionPlan("gpu", "feeder", "hall", 100),
        START_MS,
        itertools.islice(job_stream(random.Random(4), 100, START_MS, JobMix(load=3.0, max_run_s=7_200)), 1_000),
    )
    async with serving(SlurmRestServer(behind)) as client:
        for step in range(6):
            behind.advance_to(START_MS + step * 1_800_000)
            for run in behind.jobs[:5]:
                _ = behind.freeze(run.spec.id) if step % 2 else behind.thaw(run.spec.id)
            jobs = (await client.ask("GET", "jobs"))[1]["jobs"]
            states = {JobPhase.PENDING: "PENDING", JobPhase.RUNNING: "RUNNING", JobPhase.FROZEN: "STOPPED"}
            assert [(one["job_id"], one["job_state"]) for one in jobs] == [
                (int(run.spec.id), states[run.phase]) for run in behind.jobs
            ]
            placed = {one["job_id"]: one["job_resources"]["allocated_hosts"] for one in jobs if "job_resources" in one}
            assert placed == {int(run.spec.id): len(run.node_ids) for run in behind.jobs if run.node_ids}
            nodes = (await client.ask("GET", "nodes"))[1]["nodes"]
            assert sum(node["state"] == "allocated" for node in nodes) == behind.nodes_busy


def test_short_forms() -> None:
    assert host_list([], 1) == ""
    assert host_list([4], 1) == "node5"
    assert host_list([0, 1, 2, 6, 8, 9], 1) == "node[1-3,7,9-10]"
    assert comment_of(spec("1", value_usd_per_node_h=0.25)) == "wattshift value=0.25"
