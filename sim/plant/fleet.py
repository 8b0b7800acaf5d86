"""All ASICs of a site as arrays: one row each, stepped together.

A machine is asleep, booting, running, tripped by its firmware, or dead. From wake to full hashrate: its board comes up
(dark, little power), then power rises, then the hashrate follows. Power approaches its target exponentially.
Efficiency follows `AsicModel.efficiency_slope`, every device a little off the model's, and what it reports of itself
off the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt

from sim.plant.plan import BankPlan
from sim.ports import AsicState

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]

RUNNING, BOOTING, SLEEPING, TRIPPED, DEAD = range(5)
STATES: Final = (AsicState.RUNNING, AsicState.BOOTING, AsicState.SLEEPING, AsicState.TRIPPED, AsicState.DEAD)

RISE_TAU_S: Final = 3.0
"""A running machine follows a new power limit with this time constant."""
FALL_TAU_S: Final = 0.8
"""A stop: about 25 W within 5 s, as LuxOS publishes."""
BOOT_DARK_SHARE: Final = 0.15
"""Of the boot time the control board alone is up."""
BOOT_RISE_SHARE: Final = 0.12
"""Of the boot time is the time constant of power while booting."""
BOOT_HASH_SHARE: Final = 0.5
"""Of the boot time passes before the first hash; the hashrate then rises evenly to its full."""
CHIP_TAU_S: Final = 25.0
CHIP_COOL_C: Final = 15.0
"""A tripped machine starts again, when told to, only this far below its limit."""
REBOOT_S: Final = 20.0
"""The control board's own restart, before the boot begins."""
BIAS_RANGE: Final = (0.05, 0.20)
BIAS_LOW_SHARE: Final = 0.7
"""Of the devices report less than they draw: their estimate leaves out fans and supply losses."""
PSU_EFFICIENCY: Final = (0.955, 0.04)
"""A server-grade supply at full load, and how much it loses towards no load."""


class Fleet:
    """Arrays by device; devices of one bank stand together, banks in the plan's order."""

    def __init__(self, banks: Sequence[BankPlan], hall_of: Sequence[int], chip_rise_c: Floats, chip_limit_c: Floats,
                 rng: Random) -> None:  # fmt: skip
        """`hall_of` each bank; chip rise and limit by hall."""
        counts = [bank.devices for bank in banks]
        self.count = sum(counts)
        self.starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        """Where each bank's devices begin; one more entry closes the last."""
        self.bank_of = np.repeat(np.arange(len(banks)), counts)
        self.hall_of = np.asarray(hall_of, dtype=np.int64)[self.bank_of]
        self._set_models(banks)
        self._set_individuals(banks, np.random.default_rng(rng.getrandbits(64)))
        self.chip_rise_c = chip_rise_c[self.hall_of]
        self.chip_limit_c = chip_limit_c[self.hall_of]

        self.state: Ints = np.full(self.count, RUNNING, dtype=np.int8)
        self.wanted: Flags = np.ones(self.count, dtype=np.bool_)
        """Whether the machine was last told to run; kept over a power loss, as firmware keeps its mode."""
        self.restart: Flags = np.zeros(self.count, dtype=np.bool_)
        """A tripped machine told to start again once it is cool."""
        self.limit_w = self.rated_w.copy()
        self.boot_at_s = np.zeros(self.count)
        """Seconds into the boot; negative while the control board restarts."""
        self.up_s = np.full(self.count, 86_400.0)
        self.power_w = self.limit_w * self.draw
        self.hashrate_ghs = self._hashrate_ghs()
        self.inlet_c = np.full(self.count, 25.0)
        self.chip_c = self.inlet_c + self.chip_rise_c

    # -- time --------------------------------------------------------------------------------------------------------

    def step(self, dt_s: float, hall_c: Floats) -> None:
        """Everything moves on by `dt_s`; `hall_c` is each hall's supply temperature."""
        self.up_s += dt_s
        self._boot(dt_s)
        target_w, tau_s = self._power_target_w()
        self.power_w += (target_w - self.power_w) * -np.expm1(-dt_s / tau_s)
        self.power_w[self.state == DEAD] = 0.0
        self.inlet_c = hall_c[self.hall_of] + self.place_c
        chip_target_c = self.inlet_c + self.chip_rise_c * (self.power_w / self.rated_w)
        self.chip_c += (chip_target_c - self.chip_c) * -np.expm1(-dt_s / CHIP_TAU_S)
        self._trip()
        self.hashrate_ghs = self._hashrate_ghs()

    @property
    def quiet(self) -> bool:
        """Nothing boots and every power is within a hundredth of where it goes: longer steps lose nothing."""
        if bool(np.any(self.state == BOOTING)):
            return False
        target_w, _ = self._power_target_w()
        return bool(np.max(np.abs(target_w - self.power_w) / self.rated_w, initial=0.0) < 0.01)

    # -- commands, by device index ------------------------------------------------------------------------------------

    def sleep(self, index: int) -> None:
        self.wanted[index] = False
        self.restart[index] = False
        if self.state[index] != DEAD:
            self.state[index] = SLEEPING

    def wake(self, index: int) -> None:
        """Start a sleeping machine; a tripped one starts once it is cool; a running one goes on."""
        self.wanted[index] = True
        if self.state[index] == SLEEPING:
            self._begin_boot(index, 0.0)
        elif self.state[index] == TRIPPED:
            self.restart[index] = True

    def set_power_limit(self, index: int, power_w: float) -> None:
        """Held to what the machine can be set to."""
        self.limit_w[index] = min(max(power_w, self.min_w[index]), self.rated_w[index])

    def reboot(self, index: int) -> None:
        """The control board restarts; a sleeping machine sleeps on (LuxOS keeps its curtailment over a reboot)."""
        if self.state[index] == DEAD:
            return
        self.up_s[index] = -REBOOT_S
        if self.state[index] == TRIPPED:
            self.restart[index] = True
        elif self.wanted[index]:
            self._begin_boot(index, -REBOOT_S)

    def kill(self, index: int) -> None:
        """It loses power."""
        self.state[index] = DEAD
        self.restart[index] = False
        self.up_s[index] = 0.0

    def revive(self, index: int) -> None:
        """Power is back: it does what it was last told."""
        if self.state[index] == DEAD:
            self.up_s[index] = -REBOOT_S
            self.state[index] = SLEEPING
            if self.wanted[index]:
                self._begin_boot(index, -REBOOT_S)

    # -- sums --------------------------------------------------------------------------------------------------------

    def by_bank(self, values: Floats) -> Floats:
        """Sum of a device array over each bank."""
        return np.add.reduceat(values, self.starts[:-1]) if self.count else np.zeros(len(self.starts) - 1)

    def by_hall(self, values: Floats, halls: int) -> Floats:
        return np.asarray(np.bincount(self.hall_of, weights=values, minlength=halls), dtype=np.float64)

    def psu_loss_w(self) -> Floats:
        """What the power supplies turn into heat, per device; a part of `power_w`."""
        best, worse = PSU_EFFICIENCY
        return np.asarray(self.power_w * (1.0 - best + worse * (1.0 - self.power_w / self.rated_w)))

    def commanded_w(self) -> Floats:
        """What each device was last told to draw, in nameplate watts, whatever became of it."""
        return np.where(self.wanted, self.limit_w, self.sleep_w)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _set_models(self, banks: Sequence[BankPlan]) -> None:
        counts = [bank.devices for bank in banks]

        def of_model(name: str) -> Floats:
            return np.repeat(np.array([float(getattr(bank.model, name)) for bank in banks]), counts)

        self.rated_w = of_model("rated_w")
        self.min_w = of_model("min_power_w")
        self.sleep_w = of_model("sleep_w")
        self.boot_s = of_model("boot_s")
        self.slope = of_model("efficiency_slope")
        self.j_per_th = self.rated_w / of_model("hashrate_ghs") * 1_000.0

    def _set_individuals(self, banks: Sequence[BankPlan], rng: np.random.Generator) -> None:
        counts = [bank.devices for bank in banks]
        spread = np.repeat(np.array([bank.spread for bank in banks]), counts)
        self.j_per_th *= 1.0 + spread * np.clip(rng.standard_normal(self.count), -2.5, 2.5)
        self.draw = 1.0 + 0.5 * spread * np.clip(rng.standard_normal(self.count), -2.5, 2.5)
        """True power over the power set."""
        size = rng.uniform(*BIAS_RANGE, self.count)
        self.report = 1.0 + np.where(rng.random(self.count) < BIAS_LOW_SHARE, -size, size)
        """Reported power over true power."""
        self.place_c = np.clip(rng.standard_normal(self.count) * 0.7, -1.5, 2.0)
        """How much warmer than the hall's supply a device's place in it is."""
        low = np.repeat(np.array([bank.latency_s[0] for bank in banks]), counts)
        high = np.repeat(np.array([bank.latency_s[1] for bank in banks]), counts)
        self.latency_s = low + (high - low) * rng.random(self.count)

    def _begin_boot(self, index: int, at_s: float) -> None:
        self.state[index] = BOOTING
        self.boot_at_s[index] = at_s

    def _boot(self, dt_s: float) -> None:
        booting = np.flatnonzero(self.state == BOOTING)
        if booting.size:
            self.boot_at_s[booting] += dt_s
            self.state[booting[self.boot_at_s[booting] >= self.boot_s[booting]]] = RUNNING

    def _power_target_w(self) -> tuple[Floats, Floats]:
        """Where each power goes, and how fast."""
        state = self.state
        booting = state == BOOTING
        lit = (state == RUNNING) | (booting & (self.boot_at_s >= BOOT_DARK_SHARE * self.boot_s))
        target_w = np.where(lit, self.limit_w * self.draw, self.sleep_w)
        tau_s = np.where(booting, BOOT_RISE_SHARE * self.boot_s, RISE_TAU_S)
        tau_s[~lit] = FALL_TAU_S
        target_w[state == DEAD] = 0.0
        return target_w, tau_s

    def _trip(self) -> None:
        state = self.state
        hot = (self.chip_c > self.chip_limit_c) & (state <= BOOTING)
        if hot.any():
            state[hot] = TRIPPED
        if self.restart.any():
            cool = self.restart & (state == TRIPPED) & (self.chip_c < self.chip_limit_c - CHIP_COOL_C)
            state[cool] = BOOTING
            self.boot_at_s[cool] = 0.0
            self.restart[cool] = False

    def _hashrate_ghs(self) -> Floats:
        """e(p) = e_rated * (1 - slope * (1 - p / rated)); a hash is power over that."""
        part = self.power_w / self.rated_w
        j_per_th = self.j_per_th * (1.0 - self.slope * (1.0 - part))
        share = (self.state == RUNNING).astype(np.float64)
        booting = np.flatnonzero(self.state == BOOTING)
        if booting.size:
            progress = self.boot_at_s[booting] / self.boot_s[booting]
            share[booting] = np.clip((progress - BOOT_HASH_SHARE) / (1.0 - BOOT_HASH_SHARE), 0.0, 1.0)
        return np.asarray(share * self.power_w / j_per_th * 1_000.0)
