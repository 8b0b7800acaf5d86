"""The miners of a bench and the meters over them, in a process of their own.

`sim.devices.farm` with what it lacks to prove a shed: a Modbus meter over each bank that shows its true power, and one
over the site. `python -m bench.plant --miners 1000 --banks 2` prints one JSON line when all listen,
`{"devices": [[HOST, PORT], ...], "meters": [PORT, ...], "control": "HOST:PORT"}`, the site's meter last; the control
channel is that of `sim.devices.standalone`. Banks are equal runs of the devices, as far as the number divides.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import signal
import sys
from collections.abc import Callable, Sequence

from agent.drivers.meters.modbus import PROFILES
from agent.drivers.meters.profile import load_profile
from sim.devices.control import serve_control
from sim.devices.farm import FIRMWARES, DeviceSpec, Farm
from sim.devices.machine import FirstOrderAsic
from sim.devices.modbus import ModbusMeterServer, Truth
from sim.devices.standalone import machines_of, operations_on

METER_PROFILE = "schneider_pm5340"
HOST = "127.0.0.1"


def split(count: int, banks: int) -> list[range]:
    """The places of each bank's devices."""
    return [range(count * bank // banks, count * (bank + 1) // banks) for bank in range(banks)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.plant", description="Fake miners and their meters.")
    parser.add_argument("--miners", type=int, required=True)
    parser.add_argument("--banks", type=int, default=1)
    parser.add_argument("--firmware", choices=sorted(FIRMWARES), default="luxos")
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args(arguments)
    factory = importlib.import_module("uvloop").new_event_loop if options.loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(options))
    return 0


async def _serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    latency_s = options.latency_ms / 1e3
    machines = machines_of(options.miners, options.firmware, loop, latency_s=latency_s, seed=0, boot_s=None)
    farm = Farm()
    devices = await farm.start([DeviceSpec(options.firmware, machine) for machine in machines])
    groups = [[machines[place] for place in bank] for bank in split(len(machines), options.banks)]
    profile = load_profile(PROFILES, METER_PROFILE)
    meters = [ModbusMeterServer(profile, _truth(group)) for group in (*groups, machines)]
    control, where = await serve_control(f"{HOST}:0", operations_on(machines, farm, loop))
    ready = {"devices": devices, "meters": [await meter.start(HOST) for meter in meters], "control": where}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    await stopped.wait()
    control.close()
    for meter in meters:
        await meter.stop()
    await farm.stop()


def _truth(machines: Sequence[FirstOrderAsic]) -> Callable[[], Truth]:
    return lambda: {"power_w": sum(machine.power_w for machine in machines), "voltage_mv": 480e3, "frequency_mhz": 60e3}


if __name__ == "__main__":
    sys.exit(main())
