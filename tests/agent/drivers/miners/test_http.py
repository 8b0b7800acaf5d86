"""The little HTTP client: how answers are framed, and what is no answer."""

from __future__ import annotations

import pytest

from agent.drivers.base import Failure, Unreachable
from agent.drivers.miners._http import Answer, request
from agent.drivers.transport import deadline
from tests.agent.drivers.miners.test_transport import Listener

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "close", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", False, b"hello"),
        (OK + b"content-length:5\r\n\r\nhello and more", False, b"hello"),
        (OK + b"Content-Length: 0\r\n\r\n", False, b""),
        (OK + b"\r\nuntil it closes", True, b"until it closes"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", False, b"hello"),
        (OK + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", False, b""),
    ],
)
async def test_every_framing_gives_its_body(answer: bytes, close: bool, body: bytes) -> None:
    async with Listener(lambda _: answer, close=close) as listener:
        got = await request("127.0.0.1", listener.port, "GET", "/x", until_s=deadline(10))
        assert isinstance(got, Answer)
        assert (got.status, got.body) == (200, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"hello",
        b"SSH-2.0-dropbear\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        OK,
        OK + b"Content-Length: 50\r\n\r\ntoo short",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhel\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhel\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
    ],
)
async def test_what_is_no_whole_answer_is_garbage(answer: bytes) -> None:
    async with Listener(lambda _: answer) as listener:
        got = await request("127.0.0.1", listener.port, "GET", "/x", until_s=deadline(10))
        assert isinstance(got, Unreachable)
        assert got.failure is Failure.GARBAGE


async def test_a_request_carries_its_headers_and_body() -> None:
    async with Listener(lambda _: OK + b"X-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n", close=False) as listener:
        got = await request(
            "127.0.0.1",
            listener.port,
            "POST",
            "/cgi-bin/set.cgi",
            until_s=deadline(10),
            headers=(("Authorization", "token"),),
            body=b'{"a":1}',
        )
        assert isinstance(got, Answer)
        assert got.all("x-a") == ["1", "2"]
        [sent] = listener.requests
        head, _, body = sent.partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[0] == b"POST /cgi-bin/set.cgi HTTP/1.1"
        assert f"Host: 127.0.0.1:{listener.port}".encode() in head
        assert b"Authorization: token" in head
        assert b"Content-Length: 7" in head
        assert body == b'{"a":1}'
