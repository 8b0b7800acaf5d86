"""`wattshift-agent`: one site's agent as a process.

Exit codes: 0 a clean end, 1 a bug, 2 a configuration that cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Final

from agent.build import DriverRegistry
from agent.config import AgentConfig
from agent.config_file import load_config
from agent.config_rules import ConfigError
from agent.http import HttpServer
from agent.site import SiteAgent
from agent.state import AgentState, FileStateStore, Loaded, Memory, MemoryStateStore
from contract.bus import BusStats
from contract.bus_mqtt import MqttBus
from contract.clock import Clock, SystemClock

_LOG = logging.getLogger("agent")
OPEN_FILES: Final = 65_536
LOCKOUT: Final = "lockout-"


def main(arguments: Sequence[str] | None = None) -> int:
    """The script's entry; returns the exit code."""
    parser = argparse.ArgumentParser(prog="wattshift-agent", description="The site daemon: report, obey, guard.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the agent's TOML file")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        config = load_config(options.config)
        if options.check:
            return _check(config, options.config)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(config))
    except ConfigError as error:
        name = error.file if error.file != "configuration" else options.config.name
        sys.stderr.write(f"{ConfigError(error.key, error.problem, error.fix, name)}\n")
        return 2


class BackgroundStore:
    """A state store whose writes happen beside the event loop, in order; of writes that wait, the newest counts."""

    def __init__(self, inner: FileStateStore) -> None:
        self._inner = inner
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        self._state: AgentState | None = None
        self._memory: Memory | None = None

    @property
    def failures(self) -> int:
        return self._inner.failures

    def load(self) -> Loaded:
        return self._inner.load()

    def save(self, state: AgentState) -> bool:
        self._state = state
        self._pool.submit(self._write_state)
        return True

    def save_memory(self, memory: Memory) -> bool:
        self._memory = memory
        self._pool.submit(self._write_memory)
        return True

    def close(self) -> None:
        """Wait until everything is written."""
        self._pool.shutdown(wait=True)

    def _write_state(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            self._inner.save(state)

    def _write_memory(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            self._inner.save_memory(memory)


async def _serve(config: AgentConfig) -> int:
    _allow_many_sockets()
    store = BackgroundStore(FileStateStore(config.state_file))
    clock = SystemClock()
    rng = Random(secrets.randbits(64))
    try:
        agent = SiteAgent(
            config,
            bus=MqttBus(config.mqtt, Random(rng.getrandbits(64))),
            clock=clock,
            rng=rng,
            state=store,
            on_tick=_Notifier().tick,
        )
        await _run_until_told(agent, config, clock)
    finally:
        store.close()
    return 0


async def _run_until_told(agent: SiteAgent, config: AgentConfig, clock: Clock) -> None:
    """Run the agent until a signal says stop; its clean end is waited for."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    server = HttpServer(agent) if config.http is not None else None
    if config.control_dir is not None:
        _read_controls(agent, config.control_dir)
    running = loop.create_task(agent.run())
    beside = [running, loop.create_task(told.wait())]
    if config.control_dir is not None:
        beside.append(loop.create_task(_watch_controls(agent, config.control_dir, clock)))
    try:
        if server is not None and config.http is not None:
            port = await _listen(server, config.http.host, config.http.port)
            _LOG.info("%s: listening on http://%s:%d", config.site.id, config.http.host, port)
        done, _ = await asyncio.wait(beside, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        notify("STOPPING=1")
        for task in beside:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        if server is not None:
            await server.stop()


async def _listen(server: HttpServer, host: str, port: int) -> int:
    try:
        return await server.start(host, port)
    except OSError as error:
        fix = "give a free port, or 0"
        raise ConfigError("http.port", f"cannot listen on {host}:{port}: {error.strerror}", fix) from None


def _check(config: AgentConfig, path: Path) -> int:
    """Make everything that the configuration names, and say what it is."""
    agent = SiteAgent(
        config,
        bus=_NoBus(),
        clock=SystemClock(),
        rng=Random(0),
        state=MemoryStateStore(),
        registry=DriverRegistry.installed(),
    )
    banks, devices = len(agent.machinery.banks), len(agent.machinery.devices)
    gauges = len(agent.machinery.gauges.by_name)
    sys.stdout.write(f"{path.name}: ok: site {config.site.id}, {banks} banks, {devices} miners, {gauges} gauges\n")
    return 0


async def _watch_controls(agent: SiteAgent, folder: Path, clock: Clock) -> None:
    while True:
        await clock.sleep_ms(1_000)
        _read_controls(agent, folder)


def _read_controls(agent: SiteAgent, folder: Path) -> None:
    """What a person on site has put there: `local`, `lockout-BANK`. A folder that cannot be read changes nothing."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError:
        return
    agent.set_lockouts(frozenset(name.removeprefix(LOCKOUT) for name in names if name.startswith(LOCKOUT)))
    agent.set_local(local="local" in names)


class _Notifier:
    """Tells systemd that the control loop ticks: ready at the first tick, alive at every one."""

    def __init__(self) -> None:
        self._ready = False

    def tick(self) -> None:
        notify("WATCHDOG=1" if self._ready else "READY=1\nWATCHDOG=1")
        self._ready = True


def notify(message: str) -> None:
    """Send one datagram to systemd's notify socket; nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    where = f"\0{address[1:]}" if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.setblocking(False)
        link.sendto(message.encode(), where)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: a large site is read and shed in two thirds of the time."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


def _allow_many_sockets() -> None:
    """Raise the soft limit of open files to what the hard one allows: a poll holds hundreds of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _NoBus:
    """For `--check`: no broker."""

    connected = False
    stats = BusStats(0, 0, 0, 0, 0)

    async def run(self, *_arguments: object, **_options: object) -> None:
        raise RuntimeError("--check runs nothing")

    def publish(self, *_arguments: object, **_options: object) -> bool:
        return False


if __name__ == "__main__":
    sys.exit(main())
