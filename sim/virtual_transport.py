"""One end of a connection in memory, and the stand-in for its socket. The network it runs over is `sim.virtual_net`."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

Address = tuple[str, int | str]
"""A host and port, or `("unix", path)`."""
ANY_HOST: Final = "*"
_HIGH_WATER_BYTES: Final = 65_536


class Wire(Protocol):
    """What a transport asks of its network."""

    def is_dark(self, address: Address) -> bool: ...

    def draw_latency_s(self, address: Address) -> float: ...

    def forget(self, transport: VirtualTransport) -> None: ...


class VirtualTransport(asyncio.Transport):
    """One end of a connection in memory."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: Wire,
        endpoint: Address,
        *,
        sockname: Address,
        peername: Address,
    ) -> None:
        sock = VirtualSocket(sockname, peername)
        super().__init__({"socket": sock, "sockname": sock.getsockname(), "peername": sock.getpeername()})
        self._loop = loop
        self._network = network
        self.endpoint = endpoint
        self._peer: VirtualTransport | None = None
        self._protocol: asyncio.Protocol | None = None
        self._inbox: deque[bytes | None] = deque()
        """What the peer wrote, in order; None is its end of file."""
        self._due = 0
        """How many items of the inbox have arrived."""
        self._last_arrival_s = 0.0
        self._unread = 0
        """Bytes this end wrote that the peer's protocol has not taken: the write buffer, as far as callers see."""
        self._high, self._low = _HIGH_WATER_BYTES, _HIGH_WATER_BYTES // 4
        self._writing_paused = False
        self._reading_paused = False
        self._eof_sent = False
        self._reset_held = False
        self._closing = False
        self._lost = False

    # -- wiring ------------------------------------------------------------------------------------------------------

    def join(self, peer: VirtualTransport) -> None:
        self._peer = peer

    def start(self, protocol: asyncio.BaseProtocol) -> None:
        self.set_protocol(protocol)
        if not self._lost:
            protocol.connection_made(self)
            self.drain()

    def drain(self) -> None:
        """Hand what has arrived to the protocol, as far as it reads."""
        if self._network.is_dark(self.endpoint):
            return
        if self._reset_held:
            self._take_reset()
        while self._due and not (self._reading_paused or self._closing or self._protocol is None):
            self._due -= 1
            item = self._inbox.popleft()
            if item is None:
                self._take_eof()
            else:
                self._take(item)

    # -- asyncio.Transport -------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if isinstance(protocol, asyncio.BufferedProtocol):
            raise NotImplementedError("virtual time does not simulate BufferedProtocol")
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._protocol)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send. After `close`, `abort` or a reset it is dropped, as asyncio does; after `write_eof` it raises."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof_sent and not self._closing:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._closing:
            return
        self._send(bytes(data))
        self._unread += len(data)
        if self._unread > self._high and not self._writing_paused and self._protocol is not None:
            self._writing_paused = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if not (self._closing or self._eof_sent):
            self._eof_sent = True
            self._send(None)

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        """What was written still arrives, then the end of file; `connection_lost(None)` follows."""
        if not self._closing:
            self.write_eof()
            self._closing = True
            self._loop.call_soon(self.lose, None)

    def abort(self) -> None:
        """Gone at once: the peer sees a reset, perhaps before what is still in flight to it."""
        if not self._lost:
            self._closing = True
            self._answer_with_reset()
            self._loop.call_soon(self.lose, None)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not (self._reading_paused or self._closing)

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self._loop.call_soon(self.drain)

    def get_write_buffer_size(self) -> int:
        return self._unread

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high if high is not None else (4 * low if low is not None else _HIGH_WATER_BYTES)
        self._low = low if low is not None else self._high // 4

    # -- the wire ----------------------------------------------------------------------------------------------------

    def _send(self, item: bytes | None) -> None:
        peer = self._peer
        if peer is None:
            return
        arrival_s = self._loop.time() + self._network.draw_latency_s(self.endpoint)
        arrival_s = peer._last_arrival_s = max(arrival_s, peer._last_arrival_s)
        peer._inbox.append(item)
        self._loop.call_at(arrival_s, peer._arrive)

    def _arrive(self) -> None:
        if not self._lost:
            self._due += 1
            self.drain()
        elif self._inbox.popleft() is not None:
            self._answer_with_reset()

    def _take(self, data: bytes) -> None:
        if self._peer is not None:
            self._peer._acknowledge(len(data))
        self._call_protocol(lambda protocol: protocol.data_received(data))

    def _take_eof(self) -> None:
        keep_open: list[bool | None] = []
        self._call_protocol(lambda protocol: keep_open.append(protocol.eof_received()))
        if not any(keep_open):
            self.close()

    def _call_protocol(self, call: Callable[[asyncio.Protocol], object]) -> None:
        """A protocol that raises loses its connection; the error goes to the loop's exception handler."""
        survived = False
        try:
            call(cast(asyncio.Protocol, self._protocol))
            survived = True
        finally:
            if not survived:
                self.abort()

    def _acknowledge(self, count: int) -> None:
        self._unread -= count
        if self._writing_paused and self._unread <= self._low and self._protocol is not None:
            self._writing_paused = False
            self._protocol.resume_writing()

    def _answer_with_reset(self) -> None:
        peer = self._peer
        if peer is not None and not peer._lost:
            self._loop.call_later(self._network.draw_latency_s(self.endpoint), peer._take_reset)

    def _take_reset(self) -> None:
        if self._network.is_dark(self.endpoint):
            self._reset_held = True
        else:
            self.lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def lose(self, error: Exception | None) -> None:
        """The connection is over for this end. What it had not read is answered by a reset, as a kernel does."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._network.forget(self)
        unread = [self._inbox.popleft() for _ in range(self._due)]
        self._due = 0
        if any(item is not None for item in unread):
            self._answer_with_reset()
        protocol, self._protocol = self._protocol, None
        peer = self._peer
        if peer is not None and peer._lost:
            peer._peer = None
            self._peer = None
        if protocol is not None:
            protocol.connection_lost(error)


class VirtualSocket:
    """What `get_extra_info("socket")` and `server.sockets` give: addresses, and options that are taken and ignored."""

    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, sockname: Address, peername: Address | None) -> None:
        self._sockname = sockname
        self._peername = peername
        self.family = _family(sockname)

    def getsockname(self) -> Any:
        return _as_sockaddr(self._sockname)

    def getpeername(self) -> Any:
        if self._peername is None:
            raise OSError(errno.ENOTCONN, "a listening socket has no peer")
        return _as_sockaddr(self._peername)

    def setsockopt(self, *_options: Any) -> None: ...

    def getsockopt(self, *_options: Any) -> int:
        return 0

    def fileno(self) -> int:
        return -1


def _family(address: Address) -> socket.AddressFamily:
    if address[0] == "unix":
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _as_sockaddr(address: Address) -> Any:
    host, port = address
    if host == "unix":
        return port
    return ("0.0.0.0" if host == ANY_HOST else host, port)  # noqa: S104  as a kernel shows a wildcard
