"""As much of HTTP/1.1 as a miner's web server needs: requests with a known length, keep-alive, pipelining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

MAX_HEAD_BYTES: Final = 8_192
MAX_BODY_BYTES: Final = 65_536
METHODS: Final = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"PATCH ", b"DELETE ", b"OPTIONS ")

JSON: Final = "application/json"
_REASONS: Final = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Payload Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}


class HttpRequest(NamedTuple):
    """One complete request."""

    method: str
    target: str
    """As sent, its query included: a digest is made over this."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    keep_alive: bool
    client: str

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class HttpError(Exception):
    """A request that cannot be taken; the connection ends after the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(_REASONS[status])
        self.status = status


def looks_like_http(data: bytes) -> bool:
    """Whether the first bytes of a connection begin, or may still become, a request line."""
    return any(data.startswith(method) or method.startswith(data) for method in METHODS)


def take_request(data: bytes, client: str) -> tuple[HttpRequest, int] | None:
    """The first request in `data` and its length, or None while incomplete. Raises `HttpError`."""
    end = data.find(b"\r\n\r\n")
    if end < 0 or end > MAX_HEAD_BYTES:
        if len(data) > MAX_HEAD_BYTES:
            raise HttpError(431)
        return None
    lines = data[:end].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise HttpError(400)
    headers = _headers(lines[1:])
    start = end + 4
    length = _body_bytes(headers)
    if len(data) < start + length:
        return None
    wish = headers.get("connection", "").lower()
    keep_alive = wish != "close" if words[2] == "HTTP/1.1" else wish == "keep-alive"
    request = HttpRequest(words[0], words[1], headers, data[start : start + length], keep_alive, client)
    return request, start + length


def rendered(answer: HttpAnswer, *, keep_alive: bool, with_body: bool = True) -> bytes:
    """The bytes of an answer; `with_body` is False for a HEAD request."""
    head = [f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}"]
    if answer.status != 204:
        head.append(f"Content-Type: {answer.content_type}")
        head.append(f"Content-Length: {len(answer.body)}")
    head.extend(f"{name}: {value}" for name, value in answer.headers)
    head.append("Connection: keep-alive" if keep_alive else "Connection: close")
    head.append("\r\n")
    raw = "\r\n".join(head).encode("latin-1")
    return raw + answer.body if with_body else raw


def _headers(lines: list[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise HttpError(400)
        headers[name.strip().lower()] = value.strip()
    return headers


def _body_bytes(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise HttpError(411)
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise HttpError(400)
    if int(length) > MAX_BODY_BYTES:
        raise HttpError(413)
    return int(length)
