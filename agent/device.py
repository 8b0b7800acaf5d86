"""One miner as the agent keeps it: its last reading, what it is to do, and when to try again.

Ten thousand of these live in one process, so they have slots and no task, timer or lock of their own.
"""

from __future__ import annotations

from enum import IntEnum
from random import Random
from typing import Final

from agent.allocate import STOP, UNSET, Standing, Unit
from agent.drivers.base import (
    Applied,
    Curtailable,
    DeviceState,
    Failure,
    Miner,
    MinerReading,
    Outcome,
    PowerLimited,
    Refused,
    Remembers,
    Unreachable,
)

LIAR_SHARE: Final = 0.3
"""A device that says it is stopped and draws this share of its rated power is not."""
LIMIT_BAND_W: Final = 100
"""A power limit within this of the wanted one is left: firmware rounds to profiles."""
LIMIT_EXCESS: Final = 1.2
"""A device that draws this much above the limit it took does not keep it; its own figure is off by as much."""
UNLIMITED_MS: Final = 600_000
"""How long a device that refused a power limit while it ran is not asked for one."""
BREAK_AFTER: Final = 3
"""Failures in a row before a device is polled ever more rarely."""
STOPPED_STAYS: Final = 4
"""How many times longer than a running device a silent one that was stopped is believed to be what it was."""
EFFICIENCY_GAIN: Final = 0.1
"""Weight of a new efficiency reading in the smoothed one."""

_STANDING: Final = {
    DeviceState.RUNNING: Standing.UP,
    DeviceState.STARTING: Standing.UP,
    DeviceState.STOPPED: Standing.DOWN,
    DeviceState.TRIPPED: Standing.TRIPPED,
    DeviceState.UNKNOWN: Standing.DARK,
}

_RUNS: Final = frozenset({DeviceState.RUNNING, DeviceState.STARTING})
_STANDS: Final = frozenset({DeviceState.STOPPED, DeviceState.TRIPPED})


class Action(IntEnum):
    """What a device needs to be told."""

    STOP = 0
    RESUME = 1
    LIMIT = 2


class Answer(IntEnum):
    """How its last command ended."""

    NONE = 0
    APPLIED = 1
    REFUSED = 2
    UNREACHABLE = 3


class Device(Unit):
    """See the module. Times are milliseconds of the agent's monotonic clock."""

    __slots__ = (
        "_least_w",
        "_unlimited_ms",
        "answer",
        "attempts",
        "busy",
        "command_queued",
        "curtail",
        "driver",
        "fails",
        "failure",
        "fell_ms",
        "label",
        "limit_w",
        "next_poll_ms",
        "owner",
        "poll_queued",
        "power",
        "read_ms",
        "reading",
        "remembers",
        "resumed_ms",
        "retry_ms",
        "up_ms",
        "young_ms",
    )

    def __init__(self, label: str, owner: int, driver: Miner, rated_w: int, idle_w: int, *, young_ms: int = 0) -> None:
        self.curtail = driver if isinstance(driver, Curtailable) else None
        self.power = driver if isinstance(driver, PowerLimited) and self.curtail is not None else None
        least_w = 0 if self.power is None else max(self.power.power_range_w[0], idle_w + 1)
        super().__init__(
            rated_w,
            idle_w,
            least_w=least_w,
            standing=Standing.FIXED if self.curtail is None else Standing.DARK,
        )
        self.label = label
        self.owner = owner
        """The place of its bank."""
        self.driver = driver
        self.remembers = isinstance(driver, Remembers)
        self.reading: MinerReading | None = None
        self.read_ms = 0
        self.failure: Failure | None = None
        self.fell_ms: int | None = None
        """When it was last seen to have stopped."""
        self.up_ms: int | None = None
        """When it was first seen to run, this time; None while it does not."""
        self.young_ms = young_ms
        """How long from then its hashrate still rises: until then its efficiency tells nothing."""
        self.resumed_ms = 0
        """When it was last told to run."""
        self.fails = 0
        self.next_poll_ms = 0
        self.poll_queued = False
        self.command_queued = False
        self.busy = False
        self.attempts = 0
        self.retry_ms = 0
        self.answer = Answer.NONE
        self._least_w = least_w
        self._unlimited_ms: int | None = None
        self.limit_w: int | None = None
        """The power limit we last set below rated; None where we set none."""

    def aim(self, target_w: int) -> None:
        """Set what it is to do. A new aim is tried at once, whatever was tried before."""
        if target_w != self.target_w:
            self.target_w = target_w
            self.ran = self.ran and target_w != STOP
            self.rises = self.rises and target_w != STOP
            self.attempts = 0
            self.retry_ms = 0
            self.answer = Answer.NONE

    def take(self, reading: MinerReading, now_ms: int, max_chip_mc: int | None, cool_chip_mc: int | None) -> bool:
        """Keep a reading. Whether the bank must be allocated anew: it stands otherwise than before."""
        before = (self.standing, self.hot)
        if self.reading is not None and self.reading.state in _RUNS and reading.state in _STANDS:
            self.fell_ms = now_ms
        if reading.state not in _RUNS:
            self.up_ms = None
        elif self.up_ms is None:
            self.up_ms = now_ms
        self.reading = reading
        self.read_ms = now_ms
        self.failure = None
        self.fails = 0
        self.next_poll_ms = 0
        if self.standing is not Standing.FIXED:
            self.standing = Standing.UP if self._lies(reading) else _STANDING[reading.state]
            self.ran = self.standing is Standing.UP
            self.rises = self.rises and self.standing is Standing.DARK
        chip_mc = reading.chip_temp_mc
        if max_chip_mc is not None and chip_mc is not None:
            self.hot = chip_mc >= max_chip_mc or (self.hot and cool_chip_mc is not None and chip_mc > cool_chip_mc)
        grown = self.up_ms is not None and now_ms - self.up_ms >= self.young_ms
        if grown and reading.state is DeviceState.RUNNING and reading.power_w and reading.hashrate_ghs:
            seen = reading.power_w * 1_000 / reading.hashrate_ghs
            self.j_per_th = seen if not self.j_per_th else self.j_per_th + EFFICIENCY_GAIN * (seen - self.j_per_th)
        if self.need() is None:
            self.attempts = 0
            self.retry_ms = 0
        return self._limited_again(now_ms) or (self.standing, self.hot) != before

    def miss(self, failure: Failure, now_ms: int, every_ms: int, at_most_ms: int, rng: Random) -> None:
        """A reading failed: after a few in a row the next is tried later and later, with jitter."""
        self.failure = failure
        self.fails += 1
        if self.fails >= BREAK_AFTER:
            wait_ms = min(every_ms << min(self.fails - BREAK_AFTER, 10), at_most_ms)
            self.next_poll_ms = now_ms + int(wait_ms * (0.5 + 0.5 * rng.random()))

    def darken(self, now_ms: int, stale_ms: int) -> bool:
        """Stop believing a reading that has grown stale, and that a device unheard of still rises, once it has had the
        time. Whether it stands otherwise than before.

        That a device was stopped is believed longer: a switch that reboots must not make a bank at part load be taken
        for one at full load.
        """
        standing = self.standing
        if self.rises and now_ms - self.resumed_ms > self.young_ms + stale_ms:
            self.rises = False
            return standing is Standing.DARK
        if standing is Standing.DARK or standing is Standing.FIXED:
            return False
        if now_ms - self.read_ms <= (stale_ms if standing is Standing.UP else STOPPED_STAYS * stale_ms):
            return False
        self.standing = Standing.DARK
        return True

    def need(self) -> Action | None:
        """What it must be told to become what it is to be; None where it is, or where too little is known to say."""
        target_w, standing = self.target_w, self.standing
        if target_w == UNSET or standing is Standing.FIXED:
            return None
        if target_w == STOP:
            return Action.STOP if standing is Standing.UP or standing is Standing.DARK else None
        if standing is Standing.DOWN:
            return Action.RESUME
        if standing is Standing.UP and self.power is not None and self._limit_differs():
            return Action.LIMIT
        return None

    def unmet(self) -> bool:
        """Whether it is not, or not known to be, what it is to be."""
        if self.target_w == UNSET:
            return False
        if self.standing is Standing.FIXED:
            return self.target_w == STOP
        return self.standing is Standing.DARK or self.need() is not None

    def runs(self) -> bool:
        """Whether it is to run, and may be taken to: one that cannot be read, only where it ran when it last could."""
        if self.target_w <= STOP or self.standing is Standing.FIXED:
            return False
        return self.standing is not Standing.DARK or self.ran

    async def act(self, action: Action, now_ms: int) -> Outcome:
        """Tell it. A device that is to run below its rated power is limited before it is resumed, or else after."""
        if self.curtail is None:
            return Refused("it cannot be steered")
        if action is Action.STOP:
            self.ran = self.rises = False  # also where it was read, and ran, between its aim and this
            return await self.curtail.stop()
        if action is Action.LIMIT:
            return await self._set_limit()
        if self.power is not None and self._limit_differs():
            outcome = await self._set_limit()
            if isinstance(outcome, Unreachable):
                return outcome
        # From here it counts as running, whatever it answers: a device may say no and do it all the same.
        self.standing = Standing.UP
        self.ran = self.rises = True
        self.resumed_ms = now_ms
        outcome = await self.curtail.resume()
        if isinstance(outcome, Applied) and self.power is not None and self._limit_differs():
            return await self._set_limit()  # some firmwares take a limit only when awake
        return outcome

    def told(self, outcome: Outcome, now_ms: int, after_ms: int, at_most_ms: int, rng: Random) -> None:
        """Note how a command ended, and when it may be given again where it did not take."""
        match outcome:
            case Applied():
                self.answer = Answer.APPLIED
            case Refused():
                self.answer = Answer.REFUSED
            case _:
                self.answer = Answer.UNREACHABLE
        wait_ms = min(after_ms << min(self.attempts, 10), at_most_ms)
        self.attempts += 1
        self.retry_ms = now_ms + int(wait_ms * (0.75 + 0.25 * rng.random()))

    def _limited_again(self, now_ms: int) -> bool:
        """Try a firmware that refused a power limit again after a while."""
        if self.power is None or self.least_w:
            return False
        if self._unlimited_ms is None:
            self._unlimited_ms = now_ms
        if now_ms - self._unlimited_ms < UNLIMITED_MS:
            return False
        self.least_w = self._least_w
        return True

    def _lies(self, reading: MinerReading) -> bool:
        """It says that it is stopped, and draws what only a running one does."""
        if reading.state is not DeviceState.STOPPED or reading.power_w is None:
            return False
        return reading.power_w > max(2 * self.idle_w, int(self.rated_w * LIAR_SHARE))

    def _limit_differs(self) -> bool:
        """Whether its power limit must be set (again).

        What a device says its limit is speaks for it where it agrees; where it does not, power decides: some firmwares
        state the limit on their nameplate, whatever was set.
        """
        reading, wanted_w = self.reading, self._settable_w()
        stated_w = None if reading is None else reading.power_limit_w
        if self.target_w >= self.rated_w:
            return self.limit_w is not None and (stated_w is None or stated_w < wanted_w - LIMIT_BAND_W)
        if stated_w is not None and abs(stated_w - wanted_w) <= LIMIT_BAND_W:
            self.limit_w = self.target_w
            return False
        if self.limit_w != self.target_w:
            return True
        power_w = None if reading is None else reading.power_w
        return power_w is not None and power_w > wanted_w * LIMIT_EXCESS + LIMIT_BAND_W

    def _settable_w(self) -> int:
        """The target within what its firmware takes."""
        least_w, most_w = self.power.power_range_w if self.power is not None else (0, self.rated_w)
        return min(max(self.target_w, least_w), most_w)

    async def _set_limit(self) -> Outcome:
        if self.power is None:
            return Refused("its power cannot be set")
        target_w, awake = self.target_w, self.standing is Standing.UP
        outcome = await self.power.set_power_w(self._settable_w())
        if isinstance(outcome, Applied):
            self.limit_w = None if target_w >= self.rated_w else target_w
        elif isinstance(outcome, Refused) and awake:
            self.least_w = 0  # for a while it is stopped or runs, nothing between
            self._unlimited_ms = None
        return outcome
