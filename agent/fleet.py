"""All miners of a site, read and commanded by one bounded pool of workers.

Commands go before readings, stops before anything that raises power, and devices that have been answering before those
that have not: a device that hangs costs its own slot until its deadline and delays nobody. No task lives per device; a
worker takes the next piece of work until there is none and ends. A command's need is asked again when its turn comes,
so a queue that is out of date does no harm, and what did not take is given again after a later reading, with a backoff
of its own per device.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, assert_never

from agent.allocate import STOP
from agent.contain import Containment
from agent.device import BREAK_AFTER, Action, Device
from agent.drivers.base import Applied, Failure, MinerReading, Outcome, Refused, Unreachable
from contract.clock import Clock

ACT_DEADLINES: Final = 3
"""Operations that one command may take: a limit before a resume, the resume, a limit after it."""
SPAWN_AT_ONCE: Final = 16
"""Workers started together; each starts one more while there is work, so the first command is not kept waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetBounds:
    """How much at once, and how often again."""

    in_flight: int = 300
    polls_in_flight: int = 128
    poll_every_ms: int = 5_000
    reassert_ms: int = 5_000
    reassert_max_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class BankRules:
    """What the fleet must know of the bank a device belongs to."""

    deadline_s: float
    max_chip_mc: int | None = None
    cool_chip_mc: int | None = None


class Fleet:
    """See the module. `on_change` is told the bank whose devices stand otherwise than before."""

    def __init__(
        self,
        rules: Sequence[BankRules],
        bounds: FleetBounds,
        *,
        clock: Clock,
        rng: Random,
        on_change: Callable[[int], None],
        on_command: Callable[[int], None],
        contain: Containment,
    ) -> None:
        self._rules = rules
        self._contain = contain
        self._bounds = bounds
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._on_command = on_command
        self._stops: deque[Device] = deque()
        self._raises: deque[Device] = deque()
        self._doubtful: deque[Device] = deque()
        """Commands for devices that have stopped answering: last, and never in more than a quarter of the slots."""
        self._polls: deque[Device] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._polling = 0
        self._doubting = 0
        self._closed = False
        self.polls: Counter[str] = Counter()
        """Readings by outcome: `ok`, or a `Failure`."""
        self.commands: Counter[tuple[str, str]] = Counter()
        """Commands by action and outcome."""
        self.memory_changed = False
        self.crash: BaseException | None = None
        """A bug of ours in a worker; whoever owns the fleet raises it."""

    @property
    def idle(self) -> bool:
        """Whether no command is waiting or on its way."""
        return not (self._stops or self._raises or self._doubtful or len(self._workers) > self._polling)

    @property
    def in_flight(self) -> int:
        return len(self._workers)

    def poll(self, devices: Iterable[Device]) -> None:
        """Queue readings of the devices that are due and not already queued."""
        now_ms = self._clock.mono_ms()
        for device in devices:
            if not device.poll_queued and device.next_poll_ms <= now_ms:
                device.poll_queued = True
                self._polls.append(device)
        self._spawn()

    def command(self, devices: Iterable[Device]) -> None:
        """Queue the devices that need to be told something and may be told again."""
        now_ms = self._clock.mono_ms()
        for device in devices:
            self._queue(device, now_ms)
        self._spawn()

    async def close(self) -> None:
        """Stop working and drop what is in flight."""
        self._closed = True
        for queue in (self._stops, self._raises, self._doubtful, self._polls):
            queue.clear()
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    def _queue(self, device: Device, now_ms: int) -> None:
        if device.command_queued or device.busy or device.retry_ms > now_ms or device.need() is None:
            return
        device.command_queued = True
        if device.fails >= BREAK_AFTER:
            self._doubtful.append(device)
        elif device.target_w == STOP:
            self._stops.append(device)
        else:
            self._raises.append(device)

    def _spawn(self, at_once: int = SPAWN_AT_ONCE) -> None:
        """Start workers for what is queued, a few at a time."""
        waiting = len(self._stops) + len(self._raises)
        waiting += min(len(self._doubtful), self._doubtful_max - self._doubting)
        waiting += min(len(self._polls), self._bounds.polls_in_flight - self._polling)
        if self._closed:
            return
        for _ in range(min(waiting, at_once, self._bounds.in_flight - len(self._workers))):
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self.crash = error

    @property
    def _doubtful_max(self) -> int:
        return max(self._bounds.in_flight // 4, 1)

    async def _work(self) -> None:
        """Take one piece of work after another until there is none."""
        self._spawn(1)
        while True:
            if self._stops:
                await self._command(self._stops.popleft())
            elif self._raises:
                await self._command(self._raises.popleft())
            elif self._doubtful and self._doubting < self._doubtful_max:
                self._doubting += 1
                try:
                    await self._command(self._doubtful.popleft())
                finally:
                    self._doubting -= 1
            elif self._polls and self._polling < self._bounds.polls_in_flight:
                self._polling += 1
                try:
                    await self._poll(self._polls.popleft())
                finally:
                    self._polling -= 1
            else:
                return

    async def _poll(self, device: Device) -> None:
        device.poll_queued = False
        if device.busy:
            return
        device.busy = True
        rules = self._rules[device.owner]
        try:
            reading = await self._contain.run(device.driver.read(), rules.deadline_s, device.driver)
        finally:
            device.busy = False
        now_ms = self._clock.mono_ms()
        bounds = self._bounds
        if isinstance(reading, MinerReading):
            self.polls["ok"] += 1
            if device.take(reading, now_ms, rules.max_chip_mc, rules.cool_chip_mc):
                self._on_change(device.owner)  # its aim may not be its aim any more: the bank's next step tells it
                return
        else:
            self.polls[reading.failure] += 1
            device.miss(reading.failure, now_ms, bounds.poll_every_ms, bounds.reassert_max_ms, self._rng)
        self._queue(device, now_ms)

    async def _command(self, device: Device) -> None:
        device.command_queued = False
        action = device.need()
        now_ms = self._clock.mono_ms()
        if action is None or device.busy or device.retry_ms > now_ms:
            return
        device.busy = True
        self._on_command(device.owner)
        target_w = device.target_w
        outcome: Outcome = Unreachable(Failure.TIMEOUT)
        try:
            # A resume may be two exchanges: the limit first.
            deadline_s = ACT_DEADLINES * self._rules[device.owner].deadline_s
            outcome = await self._contain.run(device.act(action, now_ms), deadline_s, device.driver)
        finally:
            device.busy = False
        self._note(device, action, outcome, same_aim=target_w == device.target_w)

    def _note(self, device: Device, action: Action, outcome: Outcome, *, same_aim: bool) -> None:
        bounds, now_ms = self._bounds, self._clock.mono_ms()
        self.commands[action.name.lower(), _word(outcome)] += 1
        if same_aim:
            device.told(outcome, now_ms, bounds.reassert_ms, bounds.reassert_max_ms, self._rng)
        self.memory_changed = self.memory_changed or device.remembers
        self._on_change(device.owner)
        self._queue(device, now_ms)  # its aim may have changed meanwhile


def _word(outcome: Outcome) -> str:
    match outcome:
        case Applied():
            return "applied"
        case Refused():
            return "refused"
        case Unreachable(failure=failure):
            return str(failure)
    assert_never(outcome)
