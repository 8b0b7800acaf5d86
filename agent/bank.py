"""A bank as the site's core sees it, whatever is behind it; and the hash bank, which is a list of miners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from agent.allocate import UNSET, Standing, allocate, least_kept_w
from agent.device import Answer, Device
from agent.drivers.base import DeviceState
from agent.fleet import Fleet
from agent.guard_model import BankHold
from agent.receipts import NO_TALLY, Tally
from agent.trim import Trim
from contract.clock import Clock
from contract.messages import DeviceCounts, Order, Source

KNOWN_SHARE: Final = 0.9
"""From this share of devices with a power figure of their own, their sum speaks for the bank."""
UNREAD_BAND_MILLI: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a bank's own devices, or its scheduler, say of it. None is unknown."""

    counts: DeviceCounts
    power_w: int | None = None
    """The sum of what is known. `source` says what it is worth: only `DEVICES` is measured."""
    upper_w: int | None = None
    """The same, with whatever is unknown at its most."""
    standing_w: int | None = None
    """What the bank takes, by the figures that plans are made with, where everything stays as it is."""
    source: Source = Source.DEVICES
    read_ms: int | None = None
    """When the oldest part of it was read."""
    fell_ms: int | None = None
    """When a device was last seen to have stopped."""
    claimed_w: int | None = None
    """`power_w` where it is all known: what a meter is held against. None where parts of it are unread."""
    hashrate_ghs: int | None = None
    inlet_mc: int | None = None
    """Exceeded by less than the bank's hot share of its devices: no single wrong sensor makes it."""
    chip_mc: int | None = None
    """The same for chips."""
    hottest_chip_mc: int | None = None
    quiet: bool = False
    """Every device that answers is stopped."""
    available_w: int | None = None
    unread_w: int = 0
    """The rated power of what cannot be read."""
    planned_w: int = 0
    """What the bank draws when every target is reached."""
    tally: Tally = NO_TALLY


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether any device of a bank is to run, and when that last changed; None where nothing has been allotted, where
    it has not changed, and for what a scheduler starts."""

    runs: bool | None = None
    turned_ms: int | None = None


UNTOLD: Final = Turn()


class Bank(Protocol):
    """What the site's core asks of any bank."""

    name: str
    first_command_ms: int | None
    """When the first command since `new_order` went out."""

    def new_order(self, order: Order) -> None:
        """An order was accepted: what it says beyond setpoints; `hold` follows."""
        ...

    def hold(self, hold: BankHold, unread_w: int | None) -> None:
        """Keep the bank at its setpoint: a level, said again and again. Acts at once, never waits.

        `unread_w` is the most that a meter leaves for devices that cannot be read; None where none tells.
        """
        ...

    @property
    def turn(self) -> Turn: ...

    def keeps_w(self, unread_w: int | None) -> int | None:
        """The least setpoint that leaves something of it running, as it stands at this moment; None where nothing runs,
        or where that is not its agent's to say. `unread_w` as for `hold`."""
        ...

    def survey(self, now_ms: int) -> Survey: ...


class HashBank:
    """ASICs of one model on one feeder."""

    def __init__(
        self,
        name: str,
        devices: Sequence[Device],
        fleet: Fleet,
        *,
        clock: Clock,
        stale_ms: int,
        settle_ms: int,
        hot_share_milli: int,
        spread: bool,
    ) -> None:
        self.name = name
        self.devices = devices
        self._clock = clock
        self.first_command_ms: int | None = None
        self.dirty = True
        """A device stands otherwise than when targets were last set."""
        self._fleet = fleet
        self._stale_ms = stale_ms
        self._trim = Trim(settle_ms)
        self._hot_share_milli = hot_share_milli
        self._spread = spread
        rated_w = [device.rated_w for device in devices]
        self._deadband_w = max(2 * max(rated_w, default=0), sum(rated_w) * UNREAD_BAND_MILLI // 1_000)
        self._hold: tuple[int | None, bool, int | None] | None = None
        self._planned_w = 0
        self._turn = UNTOLD

    def new_order(self, order: Order) -> None:  # noqa: ARG002  a ladder's jobs are an HPC bank's matter
        self.first_command_ms = None

    def hold(self, hold: BankHold, unread_w: int | None) -> None:
        unread_w = self._steadied(unread_w)
        wanted = (hold.setpoint_w, hold.may_raise, unread_w)
        if wanted == self._hold and not self.dirty:
            return
        if self._hold is None or self._moves(hold.setpoint_w, self._hold[0]):
            self._trim.reset()
        was_dirty, self.dirty = self.dirty, False
        self._hold = wanted
        if hold.setpoint_w is None:
            for device in self.devices:
                device.aim(UNSET)
            self._turn = UNTOLD
            return
        self._allocate(hold.setpoint_w, unread_w, may_raise=hold.may_raise)
        if was_dirty:
            self._fleet.command(self.devices)  # those whose aim stays and who have left it

    @property
    def turn(self) -> Turn:
        return self._turn

    def keeps_w(self, unread_w: int | None) -> int | None:
        least_w = least_kept_w(self.devices, dark_w=self._steadied(unread_w), spread=self._spread)
        return None if least_w is None else least_w + self._trim.power_w

    def correct(self, metered_w: int, read_ms: int, tolerance_w: int) -> None:
        """Close the loop over the bank's own meter: where it stays above the setpoint, less is allotted."""
        if self._hold is not None and self._hold[0] and self._trim.look(metered_w, read_ms, self._hold[0], tolerance_w):
            self.dirty = True

    def survey(self, now_ms: int) -> Survey:
        return _Sum(self.devices, now_ms, self._stale_ms, self._hot_share_milli).survey(self, self._planned_w)

    def _moves(self, setpoint_w: int | None, before_w: int | None) -> bool:
        """Whether a setpoint is another one. One told every few seconds, a few watts off the last, must not keep what
        the meter shows from ever being looked at."""
        if setpoint_w is None or before_w is None or 0 in (setpoint_w, before_w):
            return setpoint_w != before_w
        return abs(setpoint_w - before_w) > self._deadband_w // 4

    def _steadied(self, unread_w: int | None) -> int | None:
        """A meter wanders: what it leaves for unreadable devices changes only by more than a device or two."""
        before = None if self._hold is None else self._hold[2]
        if unread_w is None or before is None:
            return unread_w
        return before if abs(unread_w - before) <= self._deadband_w else unread_w

    def _allocate(self, setpoint_w: int, unread_w: int | None, *, may_raise: bool) -> None:
        allocation = allocate(
            self.devices,
            max(setpoint_w - self._trim.power_w, 0),
            dark_w=unread_w,
            may_raise=may_raise,
            spread=self._spread,
        )
        self._planned_w = allocation.planned_w
        changed = []
        for device, target_w in zip(self.devices, allocation.targets, strict=True):
            if device.target_w != target_w:
                device.aim(target_w)
                changed.append(device)
        self._note_turn()
        self._fleet.command(changed)

    def _note_turn(self) -> None:
        """Note when the last device was told to stop, or the first to run: that is when a bank truly goes off or on,
        whatever its setpoint."""
        runs = any(device.runs() for device in self.devices)
        if runs != self._turn.runs:
            self._turn = Turn(runs, None if self._turn.runs is None else self._clock.mono_ms())


class _Sum:
    """One pass over a bank's devices. A loop over thousands, so it is plain and keeps its counters in locals."""

    def __init__(self, devices: Sequence[Device], now_ms: int, stale_ms: int, hot_share_milli: int) -> None:
        self._devices = devices
        self._now_ms = now_ms
        self._stale_ms = stale_ms
        self._hot_share_milli = hot_share_milli

    def survey(self, bank: HashBank, planned_w: int) -> Survey:
        states = dict.fromkeys(DeviceState, 0)
        unreachable = never = 0
        power_w = unread_w = hashrate = available_w = standing_w = figures = hashing = 0
        oldest_ms: int | None = None
        fell_ms: int | None = None
        inlets: list[int] = []
        chips: list[int] = []
        unknown_w = 0
        for device in self._devices:
            if device.darken(self._now_ms, self._stale_ms):
                bank.dirty = True
            down = device.standing is Standing.DOWN or device.standing is Standing.TRIPPED
            standing_w += device.idle_w if down else device.rated_w
            if device.fell_ms is not None and (fell_ms is None or device.fell_ms > fell_ms):
                fell_ms = device.fell_ms
            reading = device.reading
            if reading is None or self._now_ms - device.read_ms > self._stale_ms:
                if device.fails or reading is not None:
                    unreachable += 1
                else:
                    never += 1
                unread_w += device.rated_w
                continue
            states[reading.state] += 1
            if oldest_ms is None or device.read_ms < oldest_ms:
                oldest_ms = device.read_ms
            if reading.power_w is not None:
                power_w += reading.power_w
                figures += 1
            else:
                unknown_w += device.idle_w if device.standing is Standing.DOWN else device.rated_w
            if device.standing is Standing.DARK:
                unread_w += device.rated_w - min(reading.power_w or 0, device.rated_w)
            if reading.hashrate_ghs is not None:
                hashrate += reading.hashrate_ghs
                hashing += 1
            if reading.inlet_temp_mc is not None:
                inlets.append(reading.inlet_temp_mc)
            if reading.chip_temp_mc is not None:
                chips.append(reading.chip_temp_mc)
            runs = device.standing in {Standing.UP, Standing.DOWN, Standing.FIXED} and not device.hot
            available_w += device.rated_w if runs else device.idle_w
        answered = len(self._devices) - unreachable - never
        known = figures >= KNOWN_SHARE * len(self._devices)
        return Survey(
            counts=DeviceCounts(
                running=states[DeviceState.RUNNING],
                starting=states[DeviceState.STARTING],
                stopped=states[DeviceState.STOPPED],
                tripped=states[DeviceState.TRIPPED],
                unreachable=unreachable,
                unknown=states[DeviceState.UNKNOWN] + never,
            ),
            power_w=None if not answered else power_w if known else power_w + unknown_w + unread_w,
            upper_w=power_w + unknown_w + unread_w if answered else None,
            standing_w=standing_w,
            source=Source.DEVICES if known else Source.MODEL,
            claimed_w=power_w if answered and known else None,
            read_ms=oldest_ms,
            fell_ms=fell_ms,
            hashrate_ghs=hashrate if hashing else None,
            inlet_mc=self._hot(inlets),
            chip_mc=self._hot(chips),
            hottest_chip_mc=max(chips, default=None),
            quiet=bool(answered) and states[DeviceState.STOPPED] + states[DeviceState.TRIPPED] == answered,
            available_w=available_w,
            unread_w=unread_w,
            planned_w=planned_w,
            tally=_tally(self._devices),
        )

    def _hot(self, temps_mc: list[int]) -> int | None:
        """The temperature that the bank's hot share of its devices reaches."""
        if not temps_mc:
            return None
        many = max(len(temps_mc) * self._hot_share_milli // 1_000, 1)
        return sorted(temps_mc, reverse=True)[many - 1]


def _tally(devices: Sequence[Device]) -> Tally:
    """What stands between the devices and their targets."""
    unmet = refused = unreachable = unsupported = 0
    for device in devices:
        if not device.unmet():
            continue
        unmet += 1
        if device.standing is Standing.FIXED:
            unsupported += 1
        elif device.fails or device.answer is Answer.UNREACHABLE:
            unreachable += 1
        elif device.answer is Answer.REFUSED:
            refused += 1
    return Tally(unmet=unmet, refused=refused, unreachable=unreachable, unsupported=unsupported)
