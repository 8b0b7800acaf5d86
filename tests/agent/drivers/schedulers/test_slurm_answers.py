"""What each answer of a slurmrestd means: the recorded ones, and every one that is no answer at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.drivers.base import Applied, Failure, Outcome, PartitionFacts, Refused, Unreachable
from agent.drivers.schedulers._slurm_api import MAX_ANSWER_BYTES, Endpoint, SlurmApi, open_api
from agent.drivers.schedulers._slurm_partition import SlurmPartition
from agent.drivers.schedulers.slurm_rest import rest_partition
from sim.clock import LoopClock
from sim.virtual import VirtualLoop, run_virtual
from tests.agent.drivers.schedulers.records import NOW_S, raw, recorded

SOCKET = "/slurmrestd.sock"
Answers = Callable[[str, str], bytes]
"""From a request's method and path to all the bytes that are sent back before the connection is closed."""


def http(status: int, body: bytes | str, *more_headers: str) -> bytes:
    sent = body.encode() if isinstance(body, str) else body
    head = [
        f"HTTP/1.1 {status} Whatever",
        f"Content-Length: {len(sent)}",
        "Content-Type: application/json",
        *more_headers,
    ]
    return "\r\n".join([*head, "", ""]).encode() + sent


def cluster(method: str, path: str) -> bytes:
    """A healthy slurmrestd that lists what was recorded."""
    what = {"jobs": "kinds-jobs", "nodes": "kinds-nodes", "partitions": "partitions"}.get(path.rpartition("/")[2])
    return http(200, raw(what) if what else '{"errors": []}')


@asynccontextmanager
async def answering(answers: Answers) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split("\r\n")[0].split(" ")
            writer.write(answers(method, path))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the driver has seen enough
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, SOCKET)
    yield
    server.close()


def new_driver() -> SlurmPartition:
    options = {"url": f"unix:{SOCKET}", "partition": "hpc", "node_busy_w": 900, "node_idle_w": 100}
    return rest_partition(options, deadline_s=2.0, clock=LoopClock(NOW_S * 1_000))


def read_from(answers: Answers) -> PartitionFacts | Unreachable:
    async def main() -> PartitionFacts | Unreachable:
        async with answering(answers):
            driver = new_driver()
            read = await driver.read()
            await driver.close()
            return read

    return run_virtual(main())


def outcome_of(answers: Answers, deed: Callable[[SlurmApi], Any]) -> Outcome:
    async def main() -> Outcome:
        async with answering(answers):
            api = open_api(Endpoint(f"unix:{SOCKET}", None, None), LoopClock(0))
            outcome: Outcome = await deed(api)
            await api.close()
            return outcome

    return run_virtual(main())


def only(path: str, answer: bytes) -> Answers:
    """Healthy but for the listing of `path`."""
    return lambda method, asked: answer if asked.endswith(path) else cluster(method, asked)


def test_the_recorded_listings_are_read() -> None:
    read = read_from(cluster)
    assert isinstance(read, PartitionFacts)
    assert len(read.jobs) == 9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bad token, signal", Unreachable),
        ("bad token, update", Unreachable),
        ("unknown job, signal", Applied),
        ("unknown job, update", Applied),
        ("unknown signal", Refused),
        ("pending job, signal", Refused),
        ("array, hold", Applied),
        ("unknown key", Refused),
        ("no job id", Refused),
        ("running job, hold", Applied),
        ("ended job, signal", Applied),
        ("ended job, update", Applied),
        ("controller gone, signal", Unreachable),
        ("controller gone, update", Unreachable),
        ("no token", Unreachable),
        ("unknown path", Unreachable),
        ("wrong method", Unreachable),
    ],
)
def test_each_recorded_answer_to_a_command_is_understood(name: str, expected: type) -> None:
    real = recorded("errors")[name]
    body = real["answer"] if isinstance(real["answer"], str) else json.dumps(real["answer"])
    outcome = outcome_of(lambda *_: http(real["status"], body), lambda api: api.update("1", {"hold": True}))
    assert isinstance(outcome, expected), outcome
    if "token" in name:
        assert isinstance(outcome, Unreachable)
        assert outcome.failure is Failure.AUTH


@pytest.mark.parametrize("what", ["jobs", "nodes"])
def test_each_recorded_failure_of_a_listing_is_understood(what: str) -> None:
    bad = recorded("errors")[f"bad token, {what}"]
    read = read_from(only(what, http(bad["status"], json.dumps(bad["answer"]))))
    assert isinstance(read, Unreachable)
    assert read.failure is Failure.AUTH


def test_a_signal_that_comes_at_a_bad_moment_is_sent_again() -> None:
    busy = recorded("errors")["pending job, signal"]["answer"]
    asked: list[str] = []

    def answers(method: str, path: str) -> bytes:
        asked.append(f"{method} {path.removeprefix('/slurm/v0.0.38/')}")
        return http(500, json.dumps(busy)) if len(asked) < 3 else http(200, '{"errors": []}')

    assert outcome_of(answers, lambda api: api.signal("5_2", "STOP")) == Applied()
    assert asked == ["DELETE job/5_2?signal=STOP"] * 3


BAD_BODIES = {
    "empty": "",
    "no JSON": "Segmentation fault (core dumped)",
    "half": raw("kinds-jobs")[:3_000].decode(),
    "no object": "[]",
    "null": "null",
    "no list": '{"errors": []}',
    "a list that is none": '{"errors": [], "jobs": {"1": {}}, "nodes": 5, "partitions": "hpc"}',
    "errors that are none": '{"errors": 5, "jobs": [], "nodes": [], "partitions": []}',
    "a later version's numbers": json.dumps(
        {"errors": [], "jobs": [{"job_id": 1, "job_state": ["RUNNING"], "priority": {"set": True, "number": 5}}]}
        | {"nodes": [{"name": "n", "state": ["IDLE"]}], "partitions": [{"name": {}, "state": []}]}
    ),
    "ids in words": '{"jobs": [{"job_id": "seven"}], "nodes": [{"name": 5}], "partitions": [{"name": null}]}',
    "not numbers": '{"jobs": [{"job_id": NaN, "job_state": "RUNNING"}], "nodes": [{"name": NaN}], "partitions": [NaN]}',
    "nested without end": "[" * 100_000,
    "an error without words": '{"errors": [{}]}',
    "bytes": "\ud800\udcff",
}


@pytest.mark.parametrize("what", ["jobs", "nodes", "partitions"])
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_listing_is_unreachable_and_nothing_raises(what: str, body: str) -> None:
    answer = http(200, body.encode("utf-8", "surrogatepass"))
    read = read_from(only(what, answer))
    assert isinstance(read, Unreachable)
    assert read.failure is Failure.GARBAGE
    assert 0 < len(read.detail) <= 300


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x00\x01\xff\xfe not HTTP at all \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 Odd\r\n\r\n",
        http(302, "", "Location: http://elsewhere.example/"),
        http(500, ""),
        http(503, "<html>busy</html>"),
    ],
)
def test_what_is_not_an_answer_is_unreachable_to_reading_and_to_commands(sent: bytes) -> None:
    assert isinstance(read_from(lambda *_: sent), Unreachable)
    for deed in (lambda api: api.signal("1", "STOP"), lambda api: api.update("1", {"hold": True})):
        assert isinstance(outcome_of(lambda *_: sent, deed), Unreachable)


def test_an_answer_without_end_is_cut_off() -> None:
    endless = http(200, b"")[:-4].replace(b"Content-Length: 0", b"Connection: close") + b"\r\n\r\n"
    read = read_from(only("jobs", endless + b" " * (MAX_ANSWER_BYTES + 1)))
    assert isinstance(read, Unreachable)
    assert read.failure is Failure.OVERSIZED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(recorded("kinds-jobs")["jobs"][0])), JSON, max_size=4),
    st.dictionaries(st.sampled_from(sorted(recorded("kinds-nodes")["nodes"][0])), JSON, max_size=3),
    st.sampled_from(range(16)),
)
def test_whatever_stands_in_a_record_reading_answers(job: dict[str, Any], node: dict[str, Any], place: int) -> None:
    jobs, nodes = recorded("kinds-jobs"), recorded("kinds-nodes")
    jobs["jobs"][place % len(jobs["jobs"])].update(job)
    nodes["nodes"][0].update(node)

    def answers(method: str, path: str) -> bytes:
        spoilt = {"jobs": jobs, "nodes": nodes}.get(path.rpartition("/")[2])
        return http(200, json.dumps(spoilt)) if spoilt else cluster(method, path)

    assert isinstance(read_from(answers), PartitionFacts | Unreachable)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([200, 204, 304, 400, 404, 500]))
def test_whatever_a_command_is_answered_it_has_an_outcome(body: bytes, status: int) -> None:
    outcome = outcome_of(lambda *_: http(status, body), lambda api: api.signal("1", "STOP"))
    assert isinstance(outcome, Applied | Refused | Unreachable)
    assert status == 200 or not isinstance(outcome, Applied)


def test_an_api_that_was_closed_asks_nobody() -> None:
    async def main() -> None:
        async with answering(cluster):
            clock = LoopClock(0)
            endpoint = Endpoint(f"unix:{SOCKET}", None, None)
            one, two = open_api(endpoint, clock), open_api(endpoint, clock)
            assert one is two
            await one.close()
            assert await two.signal("1", "STOP") == Applied()
            await two.close()
            outcome = await two.signal("1", "STOP")
            assert isinstance(outcome, Unreachable)
            assert outcome.failure is Failure.CLOSED
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            await asyncio.sleep(1.0)
            assert loop.network.connection_count == 0

    run_virtual(main())
