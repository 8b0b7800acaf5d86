"""A farm in a process of its own, with no plant behind it: fake miners for a bench, or for who wants to try a tool.

`python -m sim.devices.farm --miners 1000 --firmware luxos --base-port 20000 --control 127.0.0.1:0` prints one JSON line
when all listen, `{"ready": true, "devices": [[SERIAL, HOST, PORT], ...], "control": "HOST:PORT", ...}`, and runs until
SIGTERM, SIGINT or the end of the process that started it. The control channel (`sim.devices.control`) knows:

    {"op": "power"}                                     true power of all machines, W, and how many are in which state
    {"op": "commands_since", "seq": 0, "limit": 100}    commands newer than a number: `sim.devices.log.Command`
    {"op": "fault", "serial": "SIM00000", "fault": "hang"}  a `DeviceFault` or null; for all without "serial"
    {"op": "reset"}                                     all machines running and well, the log empty

Every answer has `now_s`, the machine's monotonic clock, on which the log's `at_s` runs too.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sim.devices.control import ControlError, Operation, serve_control
from sim.devices.farm import FIRMWARES, DeviceSpec, Farm
from sim.devices.machine import MODELS, FirstOrderAsic
from sim.ports import DeviceFault

_PARENT_CHECK_S: Final = 0.5
_BIAS_LEAST, _BIAS_MOST = 0.05, 0.20
_DEFAULT_LIMIT: Final = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 1 where a port could not be had."""
    options = _parser().parse_args(arguments)
    try:
        with asyncio.Runner(loop_factory=_loop_factory(options.loop)) as runner:
            runner.run(_serve(options, os.getppid()))
    except OSError as error:
        sys.stderr.write(f"cannot start the farm: {error}\n")
        return 1
    return 0


def machines_of(
    miners: int, firmware: str, loop: asyncio.AbstractEventLoop, *, latency_s: float, seed: int, boot_s: float | None
) -> list[FirstOrderAsic]:
    """Machines named SIM00000 and on, their power estimates off by 5 to 20 % to either side."""
    rng = random.Random(seed)
    model = MODELS[firmware] if boot_s is None else replace(MODELS[firmware], boot_s=boot_s)
    found = []
    for number in range(miners):
        bias = rng.choice((-1, 1)) * rng.uniform(_BIAS_LEAST, _BIAS_MOST)
        found.append(FirstOrderAsic(model, f"SIM{number:05d}", loop.time, bias=bias, latency_s=latency_s))
    return found


def operations_on(
    machines: Sequence[FirstOrderAsic], farm: Farm, loop: asyncio.AbstractEventLoop
) -> dict[str, Operation]:
    """What the control channel answers."""

    def power(_request: Mapping[str, Any]) -> dict[str, Any]:
        states = Counter(machine.state.value for machine in machines)
        return {"now_s": loop.time(), "power_w": sum(machine.power_w for machine in machines), "states": states}

    def commands_since(request: Mapping[str, Any]) -> dict[str, Any]:
        seq, limit = request.get("seq", 0), request.get("limit", _DEFAULT_LIMIT)
        if not isinstance(seq, int) or not isinstance(limit, int):
            raise ControlError("seq and limit are whole numbers")
        found = [command._asdict() for command in farm.log.since(seq, limit)]
        lost = max(farm.log.oldest_seq - 1 - seq, 0)
        return {"now_s": loop.time(), "commands": found, "seq": farm.log.seq, "lost": lost, "reads": farm.log.reads}

    def fault(request: Mapping[str, Any]) -> dict[str, Any]:
        chosen = [machine for machine in machines if request.get("serial", machine.serial) == machine.serial]
        try:
            wanted = None if request.get("fault") is None else DeviceFault(request["fault"])
        except ValueError:
            raise ControlError(f"fault is null or one of {', '.join(DeviceFault)}") from None
        for machine in chosen:
            machine.fault = wanted
        return {"now_s": loop.time(), "devices": len(chosen)}

    def reset(_request: Mapping[str, Any]) -> dict[str, Any]:
        for machine in machines:
            machine.reset()
        farm.log.clear()
        return {"now_s": loop.time(), "seq": farm.log.seq}

    return {"power": power, "commands_since": commands_since, "fault": fault, "reset": reset}


def host_of(number: int) -> str:
    """The address of a device where each has one of its own: 127.1.0.1 and on, all of them loopback on Linux."""
    return f"127.{1 + number // 64_516}.{number // 254 % 254}.{1 + number % 254}"


def _loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed: half the processor time for each exchange. Its `time()` counts in whole ms."""
    if kind == "asyncio" or (kind == "auto" and importlib.util.find_spec("uvloop") is None):
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim.devices.farm", description="Fake miners on real sockets.")
    parser.add_argument("--miners", type=int, required=True)
    parser.add_argument("--firmware", choices=sorted(FIRMWARES), default="luxos")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="how long a device takes to answer")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--base-port", type=int, default=0, help="the first device's port; 0 takes free ones")
    parser.add_argument("--own-hosts", action="store_true", help="all on --base-port, at 127.1.0.1, 127.1.0.2, ...")
    parser.add_argument("--control", help="unix:PATH or HOST:PORT of the control channel")
    parser.add_argument("--boot-s", type=float, help="from wake to full hashrate")
    parser.add_argument("--loop", choices=("auto", "asyncio", "uvloop"), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    return parser


async def _serve(options: argparse.Namespace, parent_pid: int) -> None:
    loop = asyncio.get_running_loop()
    machines = machines_of(
        options.miners,
        options.firmware,
        loop,
        latency_s=options.latency_ms / 1e3,
        seed=options.seed,
        boot_s=options.boot_s,
    )
    farm = Farm()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    addresses = await farm.start([_spec(options, index, machine) for index, machine in enumerate(machines)])
    control, where = None, None
    if options.control:
        control, where = await serve_control(options.control, operations_on(machines, farm, loop))
    devices = [[machine.serial, *address] for machine, address in zip(machines, addresses, strict=True)]
    ready = {"ready": True, "pid": os.getpid(), "firmware": options.firmware, "control": where, "devices": devices}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    try:
        await _until_stopped(stopped, parent_pid)
    finally:
        if control is not None:
            control.close()
        await farm.stop()
        _forget(where)


def _forget(where: str | None) -> None:
    """Remove the file of a Unix socket, which outlives its server."""
    if where is not None and where.startswith("unix:"):
        Path(where.removeprefix("unix:")).unlink(missing_ok=True)


def _spec(options: argparse.Namespace, index: int, machine: FirstOrderAsic) -> DeviceSpec:
    if options.own_hosts:
        return DeviceSpec(options.firmware, machine, host_of(index), options.base_port)
    port = options.base_port + index if options.base_port else 0
    return DeviceSpec(options.firmware, machine, options.host, port)


async def _until_stopped(stopped: asyncio.Event, parent_pid: int) -> None:
    """Until told to stop, or an orphan: one looks, as a death signal would be bound to the parent's thread."""
    while os.getppid() == parent_pid and not stopped.is_set():
        try:
            async with asyncio.timeout(_PARENT_CHECK_S):
                await stopped.wait()
        except TimeoutError:
            continue
