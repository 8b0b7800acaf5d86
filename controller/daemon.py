"""`wattshift-controller`: the controller as a process, with its HTTP server, for systemd or a container.

Exit status: 0 after a clean end, 2 where the configuration is of no use, 1 where anything else kept it from running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random, SystemRandom

from aiohttp import web

from contract.bus_mqtt import MqttBus
from contract.clock import SystemClock
from controller.api.app import create_app
from controller.app import Controller
from controller.audit import AuditError, AuditLog
from controller.config import ConfigError, ControllerConfig, load_config, read_token
from controller.engine.optimiser import fleet
from controller.engine.optimiser.solver import warm_up
from controller.feeds.base import Feeds
from controller.feeds.settings import build_feeds
from controller.feeds.table import TableError
from controller.garbage import Garbage, switch_off
from controller.journal.base import Journal, JournalError
from controller.journal.sql import SqlJournal
from controller.roles import Access, RolesError
from controller.sdnotify import Notifier

_LOG = logging.getLogger(__name__)
_HTTP_CLOSE_S = 3.0
_PROXY_SOCKET_MODE = 0o660
_SWITCH_S = 0.001
_COMPILE_S = 600.0
"""The optimiser's first compilation takes a minute or two; loading it afterwards a second."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    level = getattr(logging, arguments.log_level.upper())
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if arguments.warm_up:
        warm_up()
        fleet.warm_up()
        return 0
    if arguments.config is None:
        _parser().error("--config is needed")
    path = Path(arguments.config)
    try:
        config = _audited(load_config(path))
        token = read_token(config, str(path))
        if arguments.check:
            _feeds(config, str(path))
            Access(SystemClock(), token, config.http.roles_file)
            sys.stdout.write(f"{path}: fine\n")
            return 0
        return asyncio.run(_run(config, token, str(path)))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except RolesError as error:
        sys.stderr.write(f"{path}: http.roles_file: {error}\n")
        return 2
    except (JournalError, AuditError, OSError) as error:
        sys.stderr.write(f"wattshift-controller: {error}\n")
        return 1


def _audited(config: ControllerConfig) -> ControllerConfig:
    """With an audit log beside the journal's file, where none is named and the journal is a file."""
    name = config.journal.url.removeprefix("sqlite+aiosqlite:///")
    if config.http.audit_file is not None or name in (config.journal.url, "", ":memory:"):
        return config
    http = config.http.model_copy(update={"audit_file": Path(name).with_name("wattshift-audit.jsonl")})
    return config.model_copy(update={"http": http})


def make_journal(config: ControllerConfig) -> Journal:
    """The journal as configured. Needs a running event loop."""
    settings = config.journal
    return SqlJournal(
        settings.url,
        queue_records=settings.queue_records,
        retry_s=settings.retry_s,
        max_mb=settings.max_mb,
        epoch_floor=settings.epoch_floor,
    )


async def serve(controller: Controller, token: str | None) -> tuple[web.AppRunner, int]:
    """Start the HTTP server beside a controller; the runner is the caller's to clean up. Returns the port too.

    aiohttp switches Nagle's algorithm off on every connection. Raises `OSError` where the address is taken,
    `RolesError` and `AuditError` where those files are of no use.
    """
    settings = controller.config.http
    access = Access(controller.clock, token, settings.roles_file)
    audit = None
    if settings.audit_file is not None:
        audit = AuditLog(settings.audit_file, controller.clock.wall_ms)
        await audit.open()
    app = create_app(controller, access, audit)
    if audit is not None:
        app.on_cleanup.append(lambda _: audit.close())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_HTTP_CLOSE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.address.host, settings.address.port)
        await site.start()
        port = runner.addresses[0][1]
        if settings.proxy_socket is not None:
            await web.UnixSite(runner, str(settings.proxy_socket)).start()
            settings.proxy_socket.chmod(_PROXY_SOCKET_MODE)
    except OSError:
        await runner.cleanup()
        raise
    return runner, port


def tune_runtime() -> None:
    """Settings of the interpreter that keep the event loop's pauses short. For a process of our own only.

    The garbage collector is switched off, see `controller.garbage`; the shorter switch interval is what the loop waits
    at most for a thread that renders metrics.
    """
    sys.setswitchinterval(_SWITCH_S)
    switch_off()


async def _load_optimiser(notifier: Notifier, *, fleets: bool) -> None:
    """Before the first decision is due, and before we say that we are ready; HTTP answers meanwhile. Any site's params
    may ask for the optimiser, so it is always loaded."""
    notifier.starting(_COMPILE_S)
    began_s = asyncio.get_running_loop().time()
    await asyncio.to_thread(warm_up)
    if fleets:
        await asyncio.to_thread(fleet.warm_up)
    _LOG.info("optimiser: ready after %.1f s", asyncio.get_running_loop().time() - began_s)


async def _run(config: ControllerConfig, token: str | None, file: str) -> int:
    chance = Random(SystemRandom().getrandbits(64))
    notifier = Notifier()
    controller = Controller(
        config,
        bus=MqttBus(config.mqtt, chance),
        clock=SystemClock(),
        rng=chance,
        journal=make_journal(config),
        feeds=_feeds(config, file),
        heartbeat=notifier.beat,
        aside=asyncio.to_thread,
    )
    runner, port = await serve(controller, token)
    _LOG.info("http: listening on %s:%d", config.http.address.host, port)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine of asyncio.run always runs in a task
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    collecting: asyncio.Task[None] | None = None
    try:
        await _load_optimiser(notifier, fleets=config.fleet.cap_mw is not None)
        tune_runtime()
        collecting = asyncio.create_task(Garbage(controller.loop).run(), name="garbage")
        await controller.run()
    except asyncio.CancelledError:
        _LOG.info("ending")
    finally:
        notifier.stopping()
        if collecting is not None:
            collecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await runner.cleanup()
    return 0


def _feeds(config: ControllerConfig, file: str) -> Feeds:
    feeds = config.feeds
    try:
        return build_feeds(feeds.prices, feeds.hashprices, SystemClock(), Random(SystemRandom().random()), feeds.series)
    except (TableError, OSError) as error:
        raise ConfigError(file, "feeds", str(error), "correct the file, or the settings of its feed") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wattshift-controller", description="The central daemon of Wattshift.")
    parser.add_argument("--config", metavar="FILE", help="TOML; see deploy/config/controller.sample.toml")
    parser.add_argument("--check", action="store_true", help="check the configuration and its files, then exit")
    parser.add_argument(
        "--warm-up", action="store_true", help="compile the optimiser, as an installer should, and exit"
    )
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
