"""The little HTTP server of a miner."""

from __future__ import annotations

import pytest

from sim.devices.http import HttpAnswer, HttpError, looks_like_http, rendered, take_request
from sim.ports import DeviceFault
from sim.virtual import run_virtual
from tests.sim.devices.rig import MemoryAsic, rig

GET = b"GET /cgi-bin/summary.cgi HTTP/1.1\r\nHost: miner\r\n\r\n"


async def test_requests_sent_ahead_are_answered_in_order_on_one_connection() -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with rig("antminer", MemoryAsic(latency_s=0.01)) as device:
        answer = await device.raw(GET * 3 + b"HEAD / HTTP/1.1\r\n\r\n" + last)
        assert answer.count(b"HTTP/1.1 401 ") == 5
        assert answer.count(b"Connection: keep-alive") == 4
        assert answer.count(b"<html>") == 4


async def test_hundreds_of_requests_ahead_are_answered_and_more_than_the_bound_is_cut_off() -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with rig("antminer") as device:
        assert (await device.raw(GET * 500 + last)).count(b" 401 ") == 501
        device.asic.latency_s = 0.05
        with pytest.raises(ConnectionError):
            await device.raw(GET * 50_000)


async def test_a_request_in_pieces_is_answered() -> None:
    async with rig("antminer") as device, device.connected() as (reader, writer):
        for piece in (b"G", b"ET / HT", b"TP/1.1\r", b"\nConnection: close\r\n\r", b"\n"):
            writer.write(piece)
            await writer.drain()
        assert (await reader.read()).startswith(b"HTTP/1.1 401 Unauthorized\r\n")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9_000, 431),
    ],
)
async def test_a_request_that_cannot_be_taken_is_refused_and_the_connection_closed(raw: bytes, status: int) -> None:
    async with rig("antminer") as device:
        assert (await device.raw(raw)).startswith(f"HTTP/1.1 {status} ".encode())


async def test_a_connection_is_kept_where_the_client_wants_it() -> None:
    found = []
    for head in (b"HTTP/1.1", b"HTTP/1.1\r\nConnection: close", b"HTTP/1.0", b"HTTP/1.0\r\nConnection: keep-alive"):
        taken = take_request(b"GET / " + head + b"\r\n\r\n", "")
        assert taken is not None
        found.append(taken[0].keep_alive)
    assert found == [True, False, False, True]


def test_a_body_is_waited_for() -> None:
    raw = b"PUT /x?y=1 HTTP/1.1\r\ncontent-length: 4\r\n\r\n"
    assert take_request(raw + b"abc", "") is None
    taken = take_request(raw + b"abcdGET", "10.0.0.1")
    assert taken is not None
    request, length = taken
    assert (request.body, request.path, request.target, request.client) == (b"abcd", "/x", "/x?y=1", "10.0.0.1")
    assert length == len(raw) + 4


def test_an_answer_without_content_has_no_length() -> None:
    raw = rendered(HttpAnswer(204), keep_alive=True)
    assert raw == b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"GET / H", True), (b"P", True), (b"PUT", True), (b"{", False), (b"summary", False), (b"PING", False)],
)
def test_a_method_tells_http_from_the_socket_api(data: bytes, expected: bool) -> None:
    assert looks_like_http(data) is expected


def test_an_http_error_has_the_reason_as_its_message() -> None:
    assert str(HttpError(411)) == "Length Required"


@pytest.mark.parametrize("fault", [DeviceFault.GARBAGE, DeviceFault.CUT_SHORT, DeviceFault.SLOW])
def test_faults_reach_http(fault: DeviceFault) -> None:
    async def main() -> bytes:
        async with rig("antminer", MemoryAsic(fault=fault)) as device:
            return await device.raw(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")

    if fault is DeviceFault.SLOW:
        with pytest.raises(TimeoutError):
            run_virtual(main())
    else:
        answer = run_virtual(main())
        assert answer
        assert not answer.endswith(b"<html>401</html>")
