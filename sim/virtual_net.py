"""The network of virtual time: in-memory stream transports with seeded latency, and hooks to break it.

Every byte written is "in flight" for the endpoint's latency and arrives in order. An endpoint, named by the server's
host and port (or `("unix", path)`), can be told to refuse, to swallow everything in silence (`blackhole`: what was
written meanwhile arrives after `heal`, as TCP would retransmit it) or to reset its connections.

Differences from a kernel worth knowing: a write keeps its boundaries unless the peer paused reading; `abort` is seen by
the peer as a reset; there is no limit to how many connections wait for accept.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import random
from collections.abc import Callable, Iterable
from typing import Final

from sim.virtual_transport import ANY_HOST, Address, VirtualSocket, VirtualTransport

ProtocolFactory = Callable[[], asyncio.BaseProtocol]

DEFAULT_LATENCY_S: Final = (0.000_2, 0.001)
"""A site's local network, one way."""
_EPHEMERAL: Final = range(32_768, 61_000)


class VirtualNetwork:
    """All listeners and connections of one virtual loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.latency_s = DEFAULT_LATENCY_S
        self._latency_of: dict[Address, tuple[float, float]] = {}
        self._listeners: dict[Address, _Listener] = {}
        self._refused: set[Address] = set()
        self._dark: set[Address] = set()
        self._open: dict[Address, dict[VirtualTransport, None]] = {}
        self._next_port = 0

    # -- faults ------------------------------------------------------------------------------------------------------

    def set_latency(self, host: str, port: int | str, low_s: float, high_s: float) -> None:
        """One-way latency of everything to and from an endpoint, drawn evenly between the two."""
        self._latency_of[_normal((host, port))] = (low_s, high_s)

    def refuse(self, host: str, port: int | str) -> None:
        """Refuse new connections, as a host with a closed port does."""
        self._refused.add(_normal((host, port)))

    def blackhole(self, host: str, port: int | str) -> None:
        """Swallow in silence: connecting hangs, established connections stall, until `heal`."""
        self._dark.add(_normal((host, port)))

    def reset(self, host: str, port: int | str) -> None:
        """Reset every connection of an endpoint now."""
        for transport in tuple(self._open.get(_normal((host, port)), ())):
            transport.lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def heal(self, host: str, port: int | str) -> None:
        """Take back `refuse` and `blackhole`; what was held arrives."""
        address = _normal((host, port))
        self._refused.discard(address)
        self._dark.discard(address)
        for transport in tuple(self._open.get(address, ())):
            self._loop.call_soon(transport.drain)

    # -- what the loop calls -----------------------------------------------------------------------------------------

    async def dial(self, to: Address) -> None:
        """Wait as long as reaching an endpoint takes. Raises ConnectionRefusedError where nobody listens."""
        address = _normal(to)
        if address in self._dark:
            await self._loop.create_future()
        await asyncio.sleep(self.draw_latency_s(address) + self.draw_latency_s(address))
        if address in self._dark:
            await self._loop.create_future()
        if address in self._refused or self._listener(address) is None:
            missing = address[0] == "unix" and address not in self._refused
            number = errno.ENOENT if missing else errno.ECONNREFUSED
            raise OSError(number, f"Connect call failed {address}")

    async def connect(self, to: Address, factory: ProtocolFactory) -> tuple[VirtualTransport, asyncio.BaseProtocol]:
        await self.dial(to)
        return self.pair(to, factory)

    def pair(self, to: Address, factory: ProtocolFactory) -> tuple[VirtualTransport, asyncio.BaseProtocol]:
        """Join a client to the listener of a dialled endpoint; the server's side is told right after."""
        address = _normal(to)
        listener = self._listener(address)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {address}")
        near: Address = ("unix", "") if address[0] == "unix" else ("127.0.0.1", self._take_port())
        server_protocol = listener.factory()
        client_protocol = factory()
        client = VirtualTransport(self._loop, self, address, sockname=near, peername=address)
        server = VirtualTransport(self._loop, self, address, sockname=address, peername=near)
        client.join(server)
        server.join(client)
        connections = self._open.setdefault(address, {})
        connections[client] = connections[server] = None
        self._loop.call_soon(server.start, server_protocol)
        client.start(client_protocol)
        return client, client_protocol

    def listen(self, addresses: Iterable[Address], factory: ProtocolFactory, start: bool) -> VirtualServer:
        """Raises OSError (address in use) where an endpoint already has a listener."""
        bound: list[Address] = []
        for address in addresses:
            host, port = _normal(address)
            bound.append((host, port or self._take_port()))
        server = VirtualServer(self._loop, self, bound, factory)
        if start:
            server.start_now()
        return server

    def add_listener(self, listener: _Listener) -> None:
        if listener.address in self._listeners:
            raise OSError(errno.EADDRINUSE, f"address already in use: {listener.address}")
        self._listeners[listener.address] = listener

    def remove_listener(self, listener: _Listener) -> None:
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def forget(self, transport: VirtualTransport) -> None:
        connections = self._open.get(transport.endpoint)
        if connections is not None:
            connections.pop(transport, None)
            if not connections:
                del self._open[transport.endpoint]

    def is_dark(self, address: Address) -> bool:
        return address in self._dark

    def draw_latency_s(self, address: Address) -> float:
        low, high = self._latency_of.get(address, self.latency_s)
        return low + (high - low) * self._rng.random()

    @property
    def connection_count(self) -> int:
        """Open connections, each counted once."""
        return sum(len(ends) for ends in self._open.values()) // 2

    def _listener(self, address: Address) -> _Listener | None:
        exact = self._listeners.get(address)
        return exact if exact is not None or address[0] == "unix" else self._listeners.get((ANY_HOST, address[1]))

    def _take_port(self) -> int:
        taken = {address[1] for address in self._listeners} if self._next_port >= len(_EPHEMERAL) else ()
        for _ in _EPHEMERAL:
            port = _EPHEMERAL[self._next_port % len(_EPHEMERAL)]
            self._next_port += 1
            if port not in taken:
                return port
        raise OSError(errno.EADDRNOTAVAIL, "every ephemeral port has a listener")


class VirtualServer(asyncio.AbstractServer):
    """What create_server returns: listeners in memory."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: VirtualNetwork,
        addresses: list[Address],
        factory: ProtocolFactory,
    ) -> None:
        self._loop = loop
        self._network = network
        self._listeners = [_Listener(address, factory) for address in addresses]
        self._serving = False
        self._closed = False
        self._forever: asyncio.Future[None] | None = None

    @property
    def sockets(self) -> tuple[VirtualSocket, ...]:
        return () if self._closed else tuple(VirtualSocket(listener.address, None) for listener in self._listeners)

    def start_now(self) -> None:
        if not self._serving:
            for listener in self._listeners:
                self._network.add_listener(listener)
            self._serving = True

    async def start_serving(self) -> None:
        self.start_now()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        if self._closed or self._forever is not None:
            raise RuntimeError("the server is closed or already awaited on serve_forever()")
        self.start_now()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()

    def is_serving(self) -> bool:
        return self._serving and not self._closed

    def close(self) -> None:
        """Stop listening. Connections stay, as asyncio leaves them."""
        self._closed = True
        for listener in self._listeners:
            self._network.remove_listener(listener)
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop


class _Listener:
    def __init__(self, address: Address, factory: ProtocolFactory) -> None:
        self.address = address
        self.factory = factory


def is_literal_ip(name: str) -> bool:
    """Whether a host name is an IP address already."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _normal(address: Address) -> Address:
    host, port = address
    if host == "unix":
        return address
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104  the wildcard of a network that is all memory
        return (ANY_HOST, port)
    return ("127.0.0.1" if host in {"localhost", "::1"} else host, port)
