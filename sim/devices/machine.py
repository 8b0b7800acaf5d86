"""An ASIC without a plant: first-order power, for a farm that runs on its own and for tests of the protocols."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from sim.devices.vitals import hashrate_at_ghs
from sim.ports import AsicModel, AsicState, DeviceFault

STOP_TAU_S: Final = 2.0
LIMIT_TAU_S: Final = 5.0
REBOOT_SILENT_S: Final = 15.0
"""How long the control board answers nothing after a reboot."""
_BOOT_TAUS: Final = 4.0
"""A boot is so many time constants long, so that 98 % is reached when it ends."""
_CHIP_RISE_C: Final = 45.0

MODELS: Final = {
    "luxos": AsicModel("Antminer S21", 3_500, 200_000, 1_900, 60, 60.0),
    "braiins": AsicModel("Antminer S19j Pro", 3_050, 104_000, 1_600, 40, 60.0),
    "whatsminer": AsicModel("M60S_VK30", 3_441, 186_000, 1_900, 15, 60.0),
    "antminer": AsicModel("Antminer S19 Pro", 3_250, 110_000, 3_250, 20, 60.0),
    "cgminer": AsicModel("Unknown", 3_000, 90_000, 3_000, 20, 60.0),
}
"""A usual machine for each firmware; rated figures from the makers' data sheets, the rest round."""


class FirstOrderAsic:
    """An `AsicPort`. Its power goes to what the state asks for with one time constant; nothing needs to advance it."""

    __slots__ = (
        "_asleep",
        "_born_s",
        "_from_w",
        "_limit_w",
        "_silent_until_s",
        "_since_s",
        "_tau_s",
        "_time_s",
        "_to_w",
        "_up_at_s",
        "ambient_c",
        "bias",
        "fault",
        "latency_s",
        "model",
        "serial",
        "tripped",
    )

    def __init__(
        self,
        model: AsicModel,
        serial: str,
        time_s: Callable[[], float],
        *,
        bias: float = 0.0,
        latency_s: float = 0.0,
        ambient_c: float = 25.0,
    ) -> None:
        """`bias` is how far the control board's own power figure is off, 0.1 for 10 % too high."""
        self.model = model
        self.serial = serial
        self.bias = bias
        self.latency_s = latency_s
        self.ambient_c = ambient_c
        self._time_s = time_s
        self.reset()

    def reset(self) -> None:
        """Running steadily at rated power, awake, well and without a fault."""
        now_s = self._time_s()
        self.fault: DeviceFault | None = None
        self.tripped = False
        self._limit_w = self.model.rated_w
        self._asleep = False
        self._born_s = self._up_at_s = self._silent_until_s = self._since_s = now_s
        self._from_w = self._to_w = float(self._limit_w)
        self._tau_s = LIMIT_TAU_S

    @property
    def power_w(self) -> float:
        """The true power."""
        now_s = self._time_s()
        self._end_silence(now_s)
        return self._power_at_w(now_s)

    # -- AsicPort ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> AsicState:
        now_s = self._time_s()
        if now_s < self._silent_until_s:
            return AsicState.DEAD
        self._end_silence(now_s)
        if self.tripped:
            return AsicState.TRIPPED
        if self._asleep:
            return AsicState.SLEEPING
        return AsicState.BOOTING if now_s < self._up_at_s else AsicState.RUNNING

    @property
    def reported_power_w(self) -> float:
        return self.power_w * (1.0 + self.bias)

    @property
    def hashrate_ghs(self) -> float:
        if self.state not in {AsicState.RUNNING, AsicState.BOOTING}:
            return 0.0
        power_w = self.power_w
        return hashrate_at_ghs(self.model, power_w) if power_w > self.model.sleep_w else 0.0

    @property
    def inlet_temp_c(self) -> float:
        return self.ambient_c

    @property
    def chip_temp_c(self) -> float:
        return self.ambient_c + _CHIP_RISE_C * self.power_w / self.model.rated_w

    @property
    def power_limit_w(self) -> int:
        return self._limit_w

    @property
    def uptime_s(self) -> float:
        return max(self._time_s() - self._born_s, 0.0)

    def sleep(self) -> None:
        self._asleep = True
        self._move(self.model.sleep_w, STOP_TAU_S)

    def wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._boot(self._time_s())

    def set_power_limit(self, power_w: int) -> None:
        self._limit_w = power_w
        if not self._asleep:
            self._move(power_w, self._tau_s if self._time_s() < self._up_at_s else LIMIT_TAU_S)

    def reboot(self) -> None:
        """Silent for `REBOOT_SILENT_S`, then asleep again if it slept, else booting."""
        self._move(self.model.sleep_w, STOP_TAU_S)
        self._silent_until_s = self._born_s = self._time_s() + REBOOT_SILENT_S
        self._up_at_s = self._silent_until_s + self.model.boot_s

    # -- the machine -------------------------------------------------------------------------------------------------

    def _end_silence(self, now_s: float) -> None:
        """Start the boot that follows a reboot, once it is over."""
        ended_s = self._silent_until_s
        if self._since_s < ended_s <= now_s and not self._asleep:
            self._boot(ended_s)

    def _boot(self, at_s: float) -> None:
        self._move(self._limit_w, self.model.boot_s / _BOOT_TAUS, at_s)
        self._up_at_s = at_s + self.model.boot_s

    def _move(self, to_w: float, tau_s: float, at_s: float | None = None) -> None:
        at_s = self._time_s() if at_s is None else at_s
        self._from_w = self._power_at_w(at_s)
        self._since_s, self._to_w, self._tau_s = at_s, float(to_w), tau_s

    def _power_at_w(self, at_s: float) -> float:
        share = math.exp(-(at_s - self._since_s) / self._tau_s) if self._tau_s > 0.0 else 0.0
        return self._to_w + (self._from_w - self._to_w) * share
