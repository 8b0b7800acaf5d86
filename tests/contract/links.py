"""A bus under test with everything its handlers saw, and a way to wait for a fact without sleeping and hoping."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from contract.bus import Bus, Inbound, Will
from contract.mqtt_settings import MqttSettings

PATIENCE_S = 30.0
"""A bound for the noisiest machine; a passing test never waits for it."""


@dataclass
class Seen:
    """What one bus handed to its handlers, in order."""

    bus: Bus
    messages: list[Inbound] = field(default_factory=list)
    ups: int = 0
    downs: list[str] = field(default_factory=list)
    on_up: Callable[[], None] | None = None
    on_message: Callable[[Inbound], None] | None = None

    def up(self) -> None:
        self.ups += 1
        if self.on_up is not None:
            self.on_up()

    def message(self, inbound: Inbound) -> None:
        self.messages.append(inbound)
        if self.on_message is not None:
            self.on_message(inbound)

    def down(self, reason: str) -> None:
        self.downs.append(reason)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


async def until(fact: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until the fact holds; fails with its name."""
    try:
        async with asyncio.timeout(patience_s):
            while not fact():  # noqa: ASYNC110  a fact has no event
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None


@contextlib.asynccontextmanager
async def linked(
    bus: Bus,
    subscriptions: Sequence[str] = (),
    *,
    will: Will | None = None,
    on_up: Callable[[], None] | None = None,
    on_message: Callable[[Inbound], None] | None = None,
    wait_up: bool = True,
) -> AsyncIterator[Seen]:
    """Run the bus for the length of the block. A clean end, unless the link was lost."""
    seen = Seen(bus, on_up=on_up, on_message=on_message)
    running = asyncio.create_task(bus.run(subscriptions, seen.message, seen.up, seen.down, will=will))
    try:
        if wait_up:
            await until(lambda: seen.ups > 0 or running.done(), "the link is up")
        yield seen
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


_CLIENT = """
import asyncio, sys
from random import Random
from contract.bus import Will
from contract.bus_mqtt import MqttBus, MqttSettings
bus = MqttBus(MqttSettings.model_validate_json(sys.argv[1]), Random(1))
will = Will(sys.argv[2], sys.argv[3].encode())
asyncio.run(bus.run([], lambda _: None, lambda: print("up", flush=True), print, will=will))
"""


@contextlib.asynccontextmanager
async def killed_client(settings: MqttSettings, will: Will) -> AsyncIterator[None]:
    """A client in a process of its own, up for the length of the block and then ended by SIGKILL."""
    arguments = (settings.model_dump_json(), will.topic, will.payload.decode())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLIENT, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await process.stdout.readline() == b"up\n"
        yield
    finally:
        process.kill()
        await process.wait()
