"""An asyncio event loop in virtual time: hours of a site in seconds, the same each time for a seed.

`loop.time()` stands still while anything is ready and jumps to the next timer when nothing is. Connections are pairs of
in-memory transports on `loop.network` (see `sim.virtual_net`), so the code under test is the code in production:
streams, aiohttp and pymodbus run on it unchanged. What would make a run depend on the machine is refused with a clear
error rather than done: threads, real sockets, pipes, signals, name look-ups.

Ordering is a function of the seed and of the program. A program that iterates a set of strings is its own source of
disorder unless PYTHONHASHSEED is fixed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import selectors
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import Context
from typing import Any, Final, TypeVar

import aiohttp.connector

from sim.virtual_net import VirtualNetwork, VirtualServer, is_literal_ip
from sim.virtual_transport import VirtualTransport

T = TypeVar("T")
DAY_S: Final = 86_400.0
TIMER_GRAIN_S: Final = 1e-6
"""Timers nearer to each other than this fire together."""
_TASKS_NAMED: Final = 12


class DeadlockError(RuntimeError):
    """Nothing is ready and no timer is set: no task can ever go on."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. One per run; `network` and `rng` belong to the run."""

    def __init__(self, seed: int = 0, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self.limit_s = math.inf
        """Where time ends: going past it raises TimeoutError, once."""
        self._virtual_selector = _VirtualSelector(self)
        super().__init__(self._virtual_selector)
        self._virtual_selector.seal()
        # asyncio fires a timer that lies within one clock resolution. Its nanosecond is below a double's grain after
        # three months of virtual time, and a timer would then never come due.
        self._clock_resolution = TIMER_GRAIN_S
        self.rng = random.Random(seed)
        self.network = VirtualNetwork(self, random.Random(self.rng.getrandbits(64)))
        self._dialled: dict[int, tuple[str, int]] = {}

    def time(self) -> float:
        """Virtual seconds. Moves only between callbacks."""
        return self._now_s

    def jump(self, duration_s: float) -> None:
        """The selector's call: nothing is ready for so long."""
        self._now_s += duration_s
        if self._now_s > self.limit_s:
            limit_s, self.limit_s = self.limit_s, math.inf
            waiting = "; ".join(self.pending_tasks())
            raise TimeoutError(f"not over after {limit_s:g} virtual seconds; waiting: {waiting}")

    def pending_tasks(self) -> list[str]:
        """Names of the tasks that are waiting, for the message of a deadlock."""
        names = sorted(f"{task.get_name()} in {_where(task)}" for task in asyncio.all_tasks(self))
        more = len(names) - _TASKS_NAMED
        return names if more <= 0 else [*names[:_TASKS_NAMED], f"and {more} more"]

    # -- connections -------------------------------------------------------------------------------------------------

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: object = None,
        sock: socket.socket | None = None,
        **_options: Any,
    ) -> tuple[VirtualTransport, asyncio.BaseProtocol]:
        """Connect in memory. `sock` is taken where it came out of `sock_connect`, as aiohttp's connector does."""
        _refuse_tls(ssl)
        if sock is not None:
            address = self._dialled.pop(sock.fileno())
            sock.close()
            return self.network.pair(address, protocol_factory)
        if host is None or port is None:
            raise ValueError("host and port, or a connected sock, must be given")
        return await self.network.connect((host, port), protocol_factory)

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | list[str] | tuple[str, ...] | None = None,
        port: int | None = None,
        *,
        ssl: object = None,
        sock: socket.socket | None = None,
        start_serving: bool = True,
        **_options: Any,
    ) -> VirtualServer:
        """Listen in memory; port 0 takes a free one."""
        _refuse_tls(ssl)
        if sock is not None:
            raise NotImplementedError("virtual time has no real sockets: give host and port")
        hosts = [host] if isinstance(host, str) or host is None else list(host)
        return self.network.listen([(one or "", port or 0) for one in hosts], protocol_factory, start_serving)

    async def create_unix_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: str | None = None,
        *,
        ssl: object = None,
        **_options: Any,
    ) -> tuple[VirtualTransport, asyncio.BaseProtocol]:
        _refuse_tls(ssl)
        return await self.network.connect(("unix", str(path)), protocol_factory)

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: str | None = None,
        *,
        ssl: object = None,
        start_serving: bool = True,
        **_options: Any,
    ) -> VirtualServer:
        _refuse_tls(ssl)
        return self.network.listen([("unix", str(path))], protocol_factory, start_serving)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Dial in memory on behalf of a real, never connected socket; `create_connection(sock=...)` then takes it."""
        target = (str(address[0]), int(address[1]))
        await self.network.dial(target)
        self._dialled[sock.fileno()] = target

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,  # noqa: ARG002  the names are asyncio's
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,  # noqa: ARG002
    ) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]]:
        """Literal addresses and localhost only: a name look-up needs a thread and a world outside."""
        name = host.decode() if isinstance(host, bytes) else host or "127.0.0.1"
        name = "127.0.0.1" if name == "localhost" else name
        number = int(port or 0)
        if not is_literal_ip(name):
            raise socket.gaierror(socket.EAI_NONAME, f"virtual time looks no names up: {name}")
        kind = socket.SocketKind(type or socket.SOCK_STREAM)
        if ":" in name:
            return [(socket.AF_INET6, kind, proto, "", (name, number, 0, 0))]
        return [(socket.AF_INET, kind, proto, "", (name, number))]

    # -- what virtual time refuses -----------------------------------------------------------------------------------

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *_args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError(f"virtual time has no threads: run_in_executor({_name(func)}) would be unrepeatable")

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_running() and threading.get_ident() != self._thread_id:  # type: ignore[attr-defined]
            raise RuntimeError(f"virtual time has no threads: {_name(callback)} was called in from another one")
        return super().call_soon(callback, *args, context=context)

    def add_signal_handler(self, _sig: int, _callback: Callable[..., Any], *_args: Any) -> None:  # type: ignore[override]
        raise NotImplementedError("virtual time has no signals")


def run_virtual(main: Coroutine[Any, Any, T], *, seed: int = 0, limit_s: float = 400 * DAY_S) -> T:
    """Run a coroutine to its end in virtual time and return its result.

    Raises `DeadlockError` where no task can go on, and TimeoutError after `limit_s` virtual seconds, so that a program
    whose timers never end does not spin for ever. Tasks left over are cancelled, as asyncio.run does.
    """

    def new_loop() -> VirtualLoop:
        loop = VirtualLoop(seed)
        loop.limit_s = limit_s
        return loop

    with asyncio.Runner(loop_factory=new_loop) as runner, _idle_in_virtual_time(runner.get_loop()):
        return runner.run(main)


@contextlib.contextmanager
def _idle_in_virtual_time(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """For how long a connection has been idle, aiohttp asks the machine's monotonic clock and not its loop: a slow
    machine would drop connections that a fast one keeps, and a seed would have more than one history."""
    names = vars(aiohttp.connector)
    machines = names["monotonic"]
    names["monotonic"] = loop.time
    try:
        yield
    finally:
        names["monotonic"] = machines


def virtual_loop() -> VirtualLoop:
    """The running loop, where it is a virtual one."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError("this needs virtual time: run it under run_virtual")
    return loop


class _VirtualSelector(selectors.BaseSelector):
    """Has no real file but the loop's own wake-up pipe, and lets time jump instead of waiting."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._sealed = False

    def seal(self) -> None:
        self._sealed = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            waiting = "; ".join(self._loop.pending_tasks()) or "no task"
            raise DeadlockError(
                f"nothing is ready and no timer is set at {self._loop.time():.3f} s; waiting: {waiting}"
            )
        if timeout > 0:
            self._loop.jump(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._sealed:
            raise RuntimeError(f"virtual time has no real sockets or pipes: {fileobj!r} cannot be waited for")
        file = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[file] = selectors.SelectorKey(fileobj, file, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self._keys.clear()


def _refuse_tls(ssl: object) -> None:
    if ssl:
        raise NotImplementedError("virtual time does not simulate TLS")


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__qualname__", func))


def _where(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", coroutine))
