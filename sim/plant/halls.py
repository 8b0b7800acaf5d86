"""Heat of one hall: a lumped thermal mass, and fans that hold its supply temperature as long as they can."""

from __future__ import annotations

import math
from typing import Final

from sim.plant.plan import HallPlan
from sim.plant.weather import Ambient

FAN_FLOOR: Final = 0.08
"""Fans never stand quite still."""
FAN_SLEW_PER_S: Final = 0.03
"""Fan drives ramp from rest to full speed in half a minute."""
FAN_GAIN_PER_K: Final = 0.1
PUMP_IDLE_SHARE: Final = 0.2
IDLE_HEAT_SHARE: Final = 0.01
STEADY_K_PER_S: Final = 0.01


class Hall:
    """The state of one hall. Heat carried off is flow times conductance times the rise above the sink; the fan's power
    goes with the cube of the flow (affinity laws), so the last tenth of cooling costs a quarter of the fan's watts.
    """

    def __init__(self, plan: HallPlan) -> None:
        self.plan = plan
        self.supply_c = plan.setpoint_c
        self.flow = 0.5
        """Share of full flow."""
        self.fan_limit = 1.0
        """The most flow there is: below 1 after a fan failure."""
        self.power_w = 0.0
        """Fans and pumps."""
        self.drift_k_per_s = 0.0
        self._conductance_w_per_k = plan.design_heat_w / plan.design_rise_k

    def sink_c(self, ambient: Ambient) -> float:
        """What the heat goes to: outside air, wetted on hot days."""
        if ambient.dry_bulb_c <= self.plan.evaporation_above_c:
            return ambient.dry_bulb_c
        return ambient.dry_bulb_c - self.plan.evaporation * (ambient.dry_bulb_c - ambient.wet_bulb_c)

    def capacity_w(self, ambient: Ambient) -> float:
        """The heat it could carry off with its supply at the setpoint. Falls as the weather warms."""
        rise_k = max(self.plan.setpoint_c - self.sink_c(ambient), 0.0)
        return self.fan_limit * self._conductance_w_per_k * rise_k

    def settle(self, heat_w: float, ambient: Ambient) -> None:
        """As if it had run so for a day."""
        for _ in range(200):
            self.step(30.0, heat_w, ambient)

    def step(self, dt_s: float, heat_w: float, ambient: Ambient) -> None:
        """Move on by `dt_s` under a constant heat; exact for a constant flow, so stable at any step."""
        sink_c = self.sink_c(ambient)
        self._drive_fans(dt_s, heat_w, sink_c)
        conductance = self._conductance_w_per_k * self.flow
        goal_c = sink_c + heat_w / conductance
        change_k = (goal_c - self.supply_c) * -math.expm1(-conductance * dt_s / self.plan.heat_capacity_j_per_k)
        self.supply_c += change_k
        self.drift_k_per_s = change_k / dt_s
        idle = heat_w < IDLE_HEAT_SHARE * self.plan.design_heat_w
        self.power_w = self.plan.fan_w * self.flow**3 + self.plan.pump_w * (PUMP_IDLE_SHARE if idle else 1.0)

    def _drive_fans(self, dt_s: float, heat_w: float, sink_c: float) -> None:
        """Feed-forward of the flow that holds the setpoint, corrected in proportion to the error."""
        rise_k = self.plan.setpoint_c - sink_c
        needed = heat_w / (self._conductance_w_per_k * rise_k) if rise_k > 0.5 else 1.0
        wanted = needed + FAN_GAIN_PER_K * (self.supply_c - self.plan.setpoint_c)
        wanted = min(max(wanted, FAN_FLOOR), self.fan_limit)
        slew = FAN_SLEW_PER_S * dt_s
        self.flow = max(min(max(wanted, self.flow - slew), self.flow + slew, self.fan_limit), FAN_FLOOR)
