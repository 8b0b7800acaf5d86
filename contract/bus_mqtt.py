"""The `Bus` over MQTT 3.1.1, by aiomqtt. The only module that imports the MQTT library.

Choices that are not obvious, each bought with a measured fault:

- A new `Client` for every connection. A client that is entered again delivers publishes that had been reported as
  failed, and this protocol is level, not edge: what was queued when the link went down is stale and is thrown away.
- TCP_NODELAY, here and in the broker: without it Nagle's algorithm and delayed acknowledgement add 40 to 80 ms.
- The library's message iterator costs one task per message and its bounded queue drops the newest. `Inbox` takes
  the queue's place through the public `queue_type`, drops the oldest and is emptied in slices.
- A publish that is not acknowledged in time ends the connection: a broker that does not answer is as good as gone.
- For every message it takes in, the library looks for a callback of its topic and leaves a reference cycle behind: at
  1,000 messages a second the garbage collector then stops the process for a third of a second every half minute. We
  register no such callbacks, so nothing is looked for.
- MQTT 3.1.1 gives a client no way to limit the size of what it is sent; the broker does (`message_size_limit`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal, Never, cast

import aiomqtt
import paho.mqtt.client as paho
from aiomqtt.exceptions import MqttConnectError
from aiomqtt.types import PahoSocket
from paho.mqtt.matcher import MQTTMatcher
from paho.mqtt.reasoncodes import ReasonCode

from contract.bus import BusStats, Inbound, Will
from contract.mqtt_queues import Inbox, Outbox
from contract.mqtt_settings import MqttSettings, MqttTls, Secrets, read_secrets

__all__ = ["MqttBus", "MqttSettings", "MqttTls"]

_LOG = logging.getLogger(__name__)
_LIBRARY_LOG = logging.getLogger(f"{__name__}.library")
_LIBRARY_LOG.setLevel(logging.CRITICAL)  # its faults reach us as exceptions, and are logged here once an outage

_QOS: Final = 1
_PUBLISHERS: Final = 20
"""Publishes on their way at once; also what Mosquitto and paho allow in flight by default."""
_FAILURE: Final = 0x80
"""The SUBACK return codes from here on mean refusal."""
_DRAIN_S: Final = 1.0
"""How long a clean end waits for what is already queued, such as the farewell status."""
_CLOSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _End:
    """How one connection, or the attempt at one, came to its end."""

    kind: Literal["network", "refused"]
    reason: str
    up_s: float | None = None
    """How long the link was up; None where it never was."""


class MqttBus:
    """A `Bus` over MQTT 3.1.1. One event loop, one `run` at a time; `publish` is called on that loop's thread."""

    def __init__(self, settings: MqttSettings, chance: Random) -> None:
        self._settings = settings
        self._chance = chance
        self._outbox: Outbox | None = None  # stands only while the link is up
        self._running = False
        self._short_lives = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._connects = self._published = self._publish_dropped = self._received = self._receive_dropped = 0

    @property
    def connected(self) -> bool:
        return self._outbox is not None

    @property
    def stats(self) -> BusStats:
        return BusStats(
            connects=self._connects,
            published=self._published,
            publish_dropped=self._publish_dropped,
            received=self._received,
            receive_dropped=self._receive_dropped,
        )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Queue one message; see `Bus.publish`. What the link's end leaves unacknowledged counts as dropped too."""
        if self._outbox is not None and self._outbox.offer(topic, payload, retain):
            return True
        self._publish_dropped += 1
        return False

    async def run(
        self,
        subscriptions: Sequence[str],
        on_message: Callable[[Inbound], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        *,
        will: Will | None = None,
    ) -> None:
        """Hold the link until cancelled; see `Bus.run`. The will is published retained.

        Cancelling sends what is queued (at most a second), then disconnects, so that no will is published; `on_down`
        is not called for that. A handler that raises is a bug and ends `run` with its exception.
        """
        if self._running:
            raise RuntimeError("this bus is already running")
        self._running = True
        try:
            await self._hold(_Handlers(tuple(subscriptions), on_message, on_up, on_down, will))
        finally:
            self._running = False

    async def _hold(self, handlers: _Handlers) -> None:
        attempt = 0
        logged: set[str] = set()  # what this outage has already been logged for
        while True:
            end = await self._session(handlers)
            if end.up_s is not None:
                logged.clear()
                stable = end.up_s >= 2 * self._settings.backoff_cap_s
                attempt = self._short_lives = 0 if stable else self._short_lives + 1
                end = self._name_the_rival(end)
                handlers.on_down(end.reason)
            if end.kind not in logged:
                logged.add(end.kind)
                _LOG.warning("%s:%d: %s", self._settings.host, self._settings.port, end.reason)
            await asyncio.sleep(self._backoff_s(attempt))
            attempt += 1

    def _backoff_s(self, attempt: int) -> float:
        """Full jitter, so that a fleet that lost its broker does not come back as one."""
        ceiling = self._settings.backoff_base_s * 2.0 ** min(attempt, 16)
        return self._chance.uniform(0.0, min(self._settings.backoff_cap_s, ceiling))

    def _name_the_rival(self, end: _End) -> _End:
        """A broker that drops us again and again just after connecting has most likely a second client of our name.

        MQTT 3.1.1 gives no reason with a take-over. Because a short life does not reset the backoff, the two
        throw each other out ever more rarely.
        """
        if self._short_lives < 3:
            return end
        hint = f"{self._short_lives} short connections in a row: does another client use {self._settings.identifier!r}?"
        return _End(end.kind, f"{end.reason}; {hint}", end.up_s)

    async def _session(self, handlers: _Handlers) -> _End:
        """One connection from its first packet to its last."""
        loop = asyncio.get_running_loop()
        try:
            secrets = await asyncio.to_thread(read_secrets, self._settings)
        except (OSError, ValueError) as fault:
            return _End("refused", f"cannot read the password or certificates: {fault}")
        inbox = Inbox(self._settings.inbox_messages, self._settings.inbox_bytes, self._count_inbound)
        client = _new_client(self._settings, secrets, inbox, handlers.will)
        opening = asyncio.create_task(_open(client, handlers.subscriptions))
        up_at: float | None = None
        try:
            await asyncio.shield(opening)
            up_at = loop.time()
            await self._serve(client, inbox, handlers)
        except aiomqtt.MqttError as fault:
            refused = isinstance(fault, MqttConnectError | _SubscriptionRefusedError)
            up_s = None if up_at is None else loop.time() - up_at
            lost = f"lost after {up_s:.1f} s" if up_s is not None else "refused" if refused else "no connection"
            return _End("refused" if refused else "network", f"{lost}: {_why(fault)}", up_s)
        finally:
            await self._part(client, opening)

    async def _part(self, client: _Client, opening: asyncio.Task[None]) -> None:
        """Close, without waiting long.

        The library connects in a thread that cannot be cancelled. A connect that is still on its way is seen out in
        the background: left alone it would succeed as a client of our name that nobody owns.
        """
        closing = asyncio.create_task(_close(client, opening))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.wait([closing], timeout=2 * _CLOSE_S)

    async def _serve(self, client: _Client, inbox: Inbox, handlers: _Handlers) -> Never:
        """The link is up. Returns only by raising: `MqttError` on loss, `CancelledError` on a clean end."""
        outbox = self._outbox = Outbox(self._settings.outbox_messages, self._settings.outbox_bytes)
        self._connects += 1
        _LOG.info("%s:%d: connected as %s", self._settings.host, self._settings.port, self._settings.identifier)
        tasks = [
            asyncio.create_task(_watch(client)),
            asyncio.create_task(inbox.deliver(handlers.on_message)),
            *(asyncio.create_task(self._send(client, outbox)) for _ in range(_PUBLISHERS)),
        ]
        try:
            handlers.on_up()  # before the first message: the tasks have not had their turn yet
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            raise AssertionError("these tasks end only by raising")
        except asyncio.CancelledError:
            emptied = asyncio.create_task(outbox.emptied())
            await asyncio.wait([emptied, *tasks], timeout=_DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
            tasks.append(emptied)
            raise
        finally:
            self._outbox = None
            await _end(tasks)
            self._publish_dropped += outbox.unacknowledged

    async def _send(self, client: _Client, outbox: Outbox) -> None:
        """One of a few publishers. Order is kept: a message is handed to the socket in the step that takes it."""
        while True:
            topic, payload, retain = await outbox.take()
            await client.publish(topic, payload, qos=_QOS, retain=retain)
            outbox.done(payload)
            self._published += 1

    def _count_inbound(self, dropped: int) -> None:
        self._received += 1
        self._receive_dropped += dropped


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What `run` was given."""

    subscriptions: tuple[str, ...]
    on_message: Callable[[Inbound], None]
    on_up: Callable[[], None]
    on_down: Callable[[str], None]
    will: Will | None


class _Client(aiomqtt.Client):
    """aiomqtt 2.5 with its handling of a lost connection mended, above all how it asks the loop to write.

    It asks by file number and one round late, by when a lost connection has closed its socket and the number may be
    another's: in an agent that dials thousands of devices, the writer then lands on a device's socket and spins. Here
    the socket is asked for again at the moment itself, and at once where that is the loop's own thread, which also
    spares two system calls for every packet.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._thread_id = threading.get_ident()
        self._client._on_message_filtered = _NoCallbacks()  # type: ignore[no-untyped-call]  # see the module

    @property
    def is_open(self) -> bool:
        """False where the connection was lost, also in the moment in which `__aenter__` fails to see it."""
        return self._client.socket() is not None

    def _on_disconnect(self, *arguments: Any, **options: Any) -> None:
        super()._on_disconnect(*arguments, **options)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # taken note of, else the loop complains where nobody waits for it any more

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: PahoSocket) -> None:  # noqa: ARG002
        if threading.get_ident() == self._thread_id:
            self._await_room(client, sock)
        else:  # the library's connecting thread
            self._loop.call_soon_threadsafe(self._await_room, client, sock)

    def _await_room(self, client: paho.Client, sock: PahoSocket) -> None:
        is_still_open = client.socket() is sock
        if sock is None or not is_still_open:
            return
        try:
            self._loop.add_writer(sock.fileno(), self._write, client)
        except (OSError, RuntimeError, ValueError) as fault:  # the loop knows before us that this socket is broken
            self._lose(fault)

    def _write(self, client: paho.Client) -> None:
        try:
            client.loop_write()
        except OSError as fault:
            self._lose(fault)

    def _lose(self, fault: Exception) -> None:
        if not self._disconnected.done():
            self._disconnected.set_exception(fault)


class _NoCallbacks(MQTTMatcher):
    """No callback is registered for any topic."""

    def iter_match(self, topic: str) -> Iterator[Never]:  # noqa: ARG002  whatever it is
        return iter(())


class _SubscriptionRefusedError(aiomqtt.MqttError):
    """The broker answered a subscription with a failure code, as an ACL makes it."""


def _new_client(settings: MqttSettings, secrets: Secrets, inbox: Inbox, will: Will | None) -> _Client:
    def the_inbox(maxsize: int) -> Inbox:  # noqa: ARG001  the inbox has bounds of its own
        return inbox

    client = _Client(
        settings.host,
        settings.port,
        identifier=settings.identifier,
        username=settings.username,
        password=secrets.password,
        tls_context=secrets.tls,
        protocol=aiomqtt.ProtocolVersion.V311,
        clean_session=True,
        keepalive=settings.keepalive_s,
        timeout=settings.timeout_s,
        will=aiomqtt.Will(will.topic, will.payload, qos=_QOS, retain=True) if will else None,
        queue_type=cast("type[asyncio.Queue[aiomqtt.Message]]", the_inbox),
        max_inflight_messages=_PUBLISHERS,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        logger=_LIBRARY_LOG,
    )
    client.pending_calls_threshold = _PUBLISHERS
    return client


async def _open(client: _Client, subscriptions: tuple[str, ...]) -> None:
    """Connect and subscribe. Raises `MqttError`."""
    await client.__aenter__()
    if not client.is_open:
        raise aiomqtt.MqttError("closed right after the greeting")
    await _subscribe(client, subscriptions)


async def _subscribe(client: _Client, subscriptions: tuple[str, ...]) -> None:
    """Subscribe to all in one packet. A refusal, which is silent in the library, ends the connection."""
    if not subscriptions:
        return
    granted = await client.subscribe([(topic, _QOS) for topic in subscriptions])
    codes = [code.value if isinstance(code, ReasonCode) else code for code in granted]
    for topic, code in zip(subscriptions, codes, strict=True):
        if code >= _FAILURE:
            raise _SubscriptionRefusedError(f"the broker refused the subscription to {topic}")


async def _watch(client: _Client) -> None:
    """Raises `MqttError` when the link is lost."""
    async for _ in client.messages:
        raise AssertionError("the inbox gives nothing to the iterator")


def _why(fault: aiomqtt.MqttError) -> str:
    """The cause in plain words, where the library gives a code of MQTT 5 for what 3.1.1 has no words for."""
    cause = fault.__cause__ or fault
    if isinstance(cause, aiomqtt.MqttCodeError) and "Unspecified" in str(cause):
        return "the connection was closed by the broker or on the way"
    return str(cause) or type(cause).__name__


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel all and see them end. One `cancel` is not enough: before Python 3.12 `wait_for` may swallow it."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.05)
    await asyncio.gather(*tasks, return_exceptions=True)  # so that no fault is left unread


async def _close(client: _Client, opening: asyncio.Task[None]) -> None:
    """Say goodbye where there is still someone to say it to, and in any case soon."""
    with contextlib.suppress(aiomqtt.MqttError):
        await opening
    client.timeout = _CLOSE_S
    with contextlib.suppress(aiomqtt.MqttError):
        await client.__aexit__(None, None, None)
