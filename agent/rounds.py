"""The rounds of reading: every device once a cycle, meters and sensors at their own pace, every partition looked at."""

from __future__ import annotations

from typing import Final

from agent.build import Machinery
from contract.clock import Clock

POLL_SLICES: Final = 50
"""A cycle of readings is spread over so many slices, so that an order never waits behind a burst of them."""
SLICE_DEVICES: Final = 20


async def poll_round(machinery: Machinery, clock: Clock, cycle_ms: int) -> None:
    """Read every device once a cycle, a slice at a time, until cancelled; the first cycle at once."""
    devices, fleet = machinery.devices, machinery.fleet
    fleet.poll(devices)
    slices = max(1, min(POLL_SLICES, len(devices) // SLICE_DEVICES))
    for bank in machinery.hpc_banks:
        bank.look()
    while True:
        for index in range(slices):
            await clock.sleep_ms(cycle_ms // slices)
            fleet.poll(devices[len(devices) * index // slices : len(devices) * (index + 1) // slices])
        for bank in machinery.hpc_banks:
            bank.look()


async def gauge_round(machinery: Machinery, clock: Clock, period_ms: int) -> None:
    """Read the meters and sensors every period, until cancelled."""
    while True:
        machinery.gauges.tick()
        await clock.sleep_ms(period_ms)
