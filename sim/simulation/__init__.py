"""Everything joined in virtual time: plants, devices, broker, real agents, a real controller, faults, checkers.

`simulate(Options(seed=7))` runs one history and returns its `Outcome`; `python -m sim.simulate --seed 7` prints it.
"""

from __future__ import annotations

from sim.simulation.outcome import Outcome
from sim.simulation.run import Simulation, simulate
from sim.simulation.scene import Ask, Options, Scene, SceneSite, draw, given_prices

__all__ = ["Ask", "Options", "Outcome", "Scene", "SceneSite", "Simulation", "draw", "given_prices", "simulate"]
