"""The HTTP API as an aiohttp application, made of the route table. What is done stands in `controller.app`."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web
from aiohttp.typedefs import Handler

from controller.api.changes import Changes
from controller.api.confirm import ConfirmTokens
from controller.api.gate import Gate
from controller.api.openapi import document
from controller.api.problems import problems
from controller.api.reads import Reads
from controller.api.routes import READING, ROUTES, roles
from controller.api.stream import Stream
from controller.app import Controller
from controller.audit import AuditLog
from controller.audit_watch import AuditWatch
from controller.console import Console
from controller.roles import Access
from controller.scrape import FleetCollector

STREAM: web.AppKey[Stream] = web.AppKey("stream", Stream)
WATCH: web.AppKey[AuditWatch] = web.AppKey("watch", AuditWatch)
CONFIRM: web.AppKey[ConfirmTokens] = web.AppKey("confirm", ConfirmTokens)


def create_app(controller: Controller, access: Access | str, audit: AuditLog | None = None) -> web.Application:
    """The application over one controller. `access` says who may; a string is the plain token of an admin.

    Every path but /healthz, /readyz, /openapi.json and the console's files takes a token, /metrics too unless the
    configuration opens it.
    """
    settings = controller.config.http
    if isinstance(access, str):
        access = Access(controller.clock, access)
    console = Console(controller)
    open_to_all = dict.fromkeys((("GET", path) for path in console.paths), None)
    gate = Gate(access, settings, roles(metrics_open=settings.metrics_are_open) | open_to_all, audit, READING)
    stream = Stream(controller, settings.streams_max)
    confirm = ConfirmTokens(lambda: asyncio.get_running_loop().time())
    watch = AuditWatch(audit, controller.clock) if audit is not None else None
    reads, changes = Reads(controller, gate, stream, watch, console.history), Changes(controller, gate, confirm)
    controller.metrics.read_at_scrape(FleetCollector(controller, watch, stream))
    app = web.Application(middlewares=[problems, gate.middleware()], client_max_size=settings.body_max)
    app[STREAM], app[CONFIRM] = stream, confirm
    described = _described(metrics_open=settings.metrics_are_open)
    for route in ROUTES:
        handler = described if route.handler == "openapi" else _of(route.handler, reads, changes)
        app.router.add_route(route.method, route.path, handler)
        if route.method == "GET" and route.handler != "events":  # its answer never ends, and so would not its head
            app.router.add_route("HEAD", route.path, handler)
    app.add_routes(console.routes())
    app.cleanup_ctx.append(console.lifetime)
    if watch is not None:
        app[WATCH] = watch
        app.cleanup_ctx.append(watch.lifetime)
    app.on_shutdown.append(stream.close)
    return app


def _of(name: str, reads: Reads, changes: Changes) -> Handler:
    found: Handler = getattr(reads, name, None) or getattr(changes, name)
    return found


def _described(*, metrics_open: bool) -> Handler:
    text = json.dumps(document(metrics_open=metrics_open), separators=(",", ":"))

    async def openapi(_request: web.Request) -> web.Response:
        return web.json_response(text=text)

    return openapi
